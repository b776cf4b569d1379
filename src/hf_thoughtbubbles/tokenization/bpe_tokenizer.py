# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Training of byte-level BPE tokenizers.

The tokenizer is a plain `tokenizer.json` recipe (no class of ours), so a saved one loads through `AutoTokenizer` with
no code.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from datasets import Dataset, IterableDataset
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .byte_tokenizer import BOS_TOKEN, EOS_TOKEN, NUM_BYTES, PAD_TOKEN, byte_alphabet


def train_bpe_tokenizer(
    dataset: Dataset | IterableDataset | Iterable[Mapping | str],
    vocab_size: int,
    text_column: str = "text",
    special_tokens: tuple[str, ...] = (BOS_TOKEN, EOS_TOKEN, PAD_TOKEN),
    min_frequency: int = 2,
    model_max_length: int | None = None,
) -> PreTrainedTokenizerFast:
    """
    Train a byte-level BPE tokenizer (Radford et al., 2019, "Language Models are Unsupervised Multitask Learners",
    section 2.2). The same text always gives the same vocabulary.

    Args:
        dataset (`Dataset`, `IterableDataset` or iterable): rows with a column of text, or the texts themselves. It is
            read once.
        vocab_size (`int`): largest number of tokens, the 256 bytes and the special tokens included. Short text gives
            fewer.
        text_column (`str`): name of the column with the text.
        special_tokens (`tuple[str]`): tokens after the learned ones, in this order. Those called `<|bos|>`, `<|eos|>`
            and `<|pad|>` take that role.
        min_frequency (`int`): smallest number of occurrences of a pair that is merged.
        model_max_length (`int`, *optional*): longest input, in tokens, that the tokenizer accepts without a warning.

    Returns:
        `PreTrainedTokenizerFast` that splits text as GPT-2's does and adds no space before it. Every byte is a token,
        so no text is unknown. Text that spells a special token stays text; with `split_special_tokens=False` in a call
        it becomes the special id.

    Raises:
        `ValueError`: when `vocab_size` is less than bytes and special tokens, a row lacks the column or its text,
            there is no text, or special tokens repeat, are empty, stand for a byte or are also learned.

    Example:

    >>> tokenizer = train_bpe_tokenizer(["low lower lowest", "low"], vocab_size=262)
    >>> tokenizer.tokenize("low slow")
    ['low', 'Ġ', 's', 'low']
    >>> tokenizer.convert_ids_to_tokens(range(256, 262))
    ['lo', 'low', 'Ġlow', '<|bos|>', '<|eos|>', '<|pad|>']
    """
    _check_special_tokens(special_tokens)
    if vocab_size < NUM_BYTES + len(special_tokens):
        raise ValueError(
            f"`vocab_size` is {vocab_size}; it must be at least {NUM_BYTES + len(special_tokens)}, for {NUM_BYTES} "
            f"bytes and {len(special_tokens)} special tokens."
        )
    texts = _read_texts(dataset, text_column)
    first = next(texts, None)
    if first is None:
        raise ValueError("`dataset` holds no text; pass at least one row that is not empty.")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special_tokens),
        min_frequency=min_frequency,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(chain([first], texts), trainer)
    learned = [token for token in special_tokens if backend.token_to_id(token) is not None]
    if learned:
        raise ValueError(f"`special_tokens` {learned!r} were also learned from the text; use other names.")
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    roles = {"bos_token": BOS_TOKEN, "eos_token": EOS_TOKEN, "pad_token": PAD_TOKEN}
    limits = {} if model_max_length is None else {"model_max_length": model_max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        **{role: token for role, token in roles.items() if token in special_tokens},
        **limits,
    )


def _check_special_tokens(special_tokens: tuple[str, ...]):
    if isinstance(special_tokens, str) or len(set(special_tokens)) != len(special_tokens):
        raise ValueError(
            f"`special_tokens` {special_tokens!r} repeat or are one string; pass a tuple with each token once."
        )
    if not all(special_tokens) or not byte_alphabet().keys().isdisjoint(special_tokens):
        raise ValueError(
            f"`special_tokens` {special_tokens!r} hold an empty token or one that stands for a byte; use longer names."
        )


def _read_texts(dataset: Iterable[Mapping | str], text_column: str) -> Iterator[str]:
    """The texts that are not empty, in order."""
    if isinstance(dataset, (str, Mapping)):
        raise ValueError(
            f"`dataset` is of type {type(dataset).__name__}; pass one split of a dataset, or an iterable of rows or "
            "texts."
        )
    for row in dataset:
        if isinstance(row, Mapping) and text_column not in row:
            raise ValueError(
                f"`dataset` has no column `{text_column}`; its columns are {list(row)}. Set `text_column`."
            )
        text = row[text_column] if isinstance(row, Mapping) else row
        if not isinstance(text, str):
            raise ValueError(f"`dataset` holds {text!r}, which is not text. Remove such rows first.")
        if text:
            yield text


__all__ = ["train_bpe_tokenizer"]
