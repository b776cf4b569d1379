# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The tokenizer of the number tasks, with one id for each digit, operator or mark.

The tokenizer is a plain `tokenizer.json` recipe (no class of ours), so a saved one loads through `AutoTokenizer` with
no code.
"""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


DIGIT_TOKENS = tuple(str(value) for value in range(17))  # a digit's value is its id
IN_BASE_TOKEN, NEGATIVE_TOKEN, BLANK_TOKEN, POWER_TOKEN, OUT_BASE_TOKEN = "@", "!", "blank", "^", "@="
FACTORISE_TOKEN, EVALUATE_TOKEN = ":fact", ":addmul"

# The order is that of the original ToyThinker's tokens.
NUMBER_TOKENS = (
    *DIGIT_TOKENS,
    IN_BASE_TOKEN,
    ".",
    NEGATIVE_TOKEN,
    BLANK_TOKEN,
    *"+-*/%=",
    POWER_TOKEN,
    OUT_BASE_TOKEN,
    FACTORISE_TOKEN,
    EVALUATE_TOKEN,
)


def build_number_tokenizer(model_max_length: int | None = None) -> PreTrainedTokenizerFast:
    """
    Build the tokenizer of the number tasks: words between spaces, each one of the 31 [`NUMBER_TOKENS`].

    Args:
        model_max_length (`int`, *optional*): longest input, in tokens, that the tokenizer accepts without a warning.

    Returns:
        `PreTrainedTokenizerFast` that pads on the left. `blank` is both padding and end of sequence. Other words
        have no id: the tokenizer raises the exception `Missing [UNK] token` of the `tokenizers` library for them.

    Example:

    >>> tokenizer = build_number_tokenizer()
    >>> tokenizer("10 @ 2 1 + 5 :addmul @= 16").input_ids
    [10, 17, 2, 1, 21, 5, 30, 28, 16]
    >>> tokenizer.decode([19, 1, 20])
    '! 1 blank'
    """
    backend = Tokenizer(models.WordLevel({token: token_id for token_id, token in enumerate(NUMBER_TOKENS)}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    limits = {} if model_max_length is None else {"model_max_length": model_max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=BLANK_TOKEN,
        eos_token=BLANK_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # otherwise `blank` is also found inside unknown words
        **limits,
    )


__all__ = ["NUMBER_TOKENS", "build_number_tokenizer"]
