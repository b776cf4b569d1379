# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A chat template for any tokenizer with an end-of-sequence token."""

from transformers import PreTrainedTokenizerBase


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role + ': ' }}"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ message.content + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def set_chat_template(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """
    Give a tokenizer a chat template: a line `role: content` for each message, and the end-of-sequence token instead of
    a line's end after those of the assistant.

    The answers with their end of sequence are marked (`{% generation %}`), so `assistant_only_loss=True` of TRL trains
    on them alone. What was written so far begins every longer conversation, token by token.

    From now on text that spells a special token becomes that token (`split_special_tokens=False`), as the template and
    the trainers of TRL need to write the end of sequence. Byte and BPE tokenizers of this package are built the other
    way. For untrusted text call `apply_chat_template(..., sanitize_control_tokens=True)`, or the tokenizer with
    `split_special_tokens=True`.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): any with an `eos_token`; changed in place.

    Returns:
        `PreTrainedTokenizerBase`: the same tokenizer.

    Raises:
        `ValueError`: when the tokenizer has no `eos_token`.

    >>> from hf_thoughtbubbles import build_byte_tokenizer
    >>> tokenizer = set_chat_template(build_byte_tokenizer())
    >>> question = {"role": "user", "content": "1+1"}
    >>> tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
    'user: 1+1\\nassistant: '
    >>> tokenizer.apply_chat_template([question, {"role": "assistant", "content": "2"}]).input_ids[-2:]
    [50, 257]
    """
    if tokenizer.eos_token is None:
        raise ValueError(
            "`tokenizer` has no `eos_token`, so an answer would have no end. Set one that the model knows: "
            '`tokenizer.eos_token = "..."`.'
        )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.split_special_tokens = False
    return tokenizer


__all__ = ["set_chat_template"]
