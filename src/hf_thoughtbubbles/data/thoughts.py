# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Pairs of thoughts, lines or sentences that follow one another in documents."""

import itertools
import re

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from .text import check_texts, get_columns


# The end of a sentence with the quotes and brackets that close it: before a space, or after full-width punctuation.
# The lookbehind keeps the search linear in long runs of points.
SENTENCE_END = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]+[\"'\u201d\u2019\u00bb)\]]*(?=\s)"
    r"|[\u3002\uff01\uff1f]+[\u201d\u2019\u300d\u300f\uff09]*"
)
PARAGRAPH_END = re.compile(r"\n\s*\n")


def split_lines(text: str) -> list[str]:
    r"""
    The lines of a text that are not empty, with their indentation but without trailing spaces.

    >>> split_lines("def f():\n    pass  \n\n")
    ['def f():', '    pass']
    """
    return [line.rstrip() for line in text.split("\n") if line.strip()]


def split_sentences(text: str) -> list[str]:
    r"""
    The sentences of a text, by their punctuation. Blank lines also end a sentence; single line breaks become spaces.

    >>> split_sentences('He said: "Is it 3.5?" It\nwas. Really!\n\nA title\n\nEnd')
    ['He said: "Is it 3.5?"', 'It was.', 'Really!', 'A title', 'End']
    """
    sentences = []
    for paragraph in PARAGRAPH_END.split(text):
        ends = [match.end() for match in SENTENCE_END.finditer(paragraph)]
        for start, end in itertools.pairwise([0, *ends, len(paragraph)]):
            sentences.append(" ".join(paragraph[start:end].split()))
    return [sentence for sentence in sentences if sentence]


UNITS = {"line": split_lines, "sentence": split_sentences}


def pair_thoughts(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    unit: str = "line",
    max_length: int = 512,
    min_length: int = 1,
    num_proc: int | None = None,
    documents_per_batch: int = 1000,
) -> Dataset | IterableDataset:
    """
    Split documents into thoughts and pair each with the one after it in the same document.

    A thought of more than `max_length` tokens is truncated. Truncated labels have no end-of-sequence token.

    Args:
        dataset (`Dataset` or `IterableDataset`): documents in a column `text`; other columns are dropped.
        tokenizer (`PreTrainedTokenizerBase`): any tokenizer with an end-of-sequence token.
        unit (`str`): `"line"` or `"sentence"`, the unit of a thought. Empty ones are skipped.
        max_length (`int`): largest length of a thought in tokens, the end-of-sequence token included; from 2 to the
            model's `max_position_embeddings`.
        min_length (`int`): smallest length of the first thought of a pair, in tokens; shorter ones are skipped. At
            least the model's `config.min_tokens`.
        num_proc (`int`, *optional*): number of processes that tokenize; not for streams.
        documents_per_batch (`int`): number of documents tokenized at a time.

    Returns:
        A dataset of the same kind with columns `input_ids`, a thought, and `labels`, the next thought and an
        end-of-sequence token. `DataCollatorForSeq2Seq(tokenizer, model=model)` makes batches of them.

    Raises:
        `ValueError`: for an unknown unit, lengths that contradict each other, a tokenizer without an end-of-sequence
            token, a document that is not text, or documents without a pair of thoughts.
    """
    if unit not in UNITS:
        raise ValueError(f"`unit` is {unit!r}; it must be one of {sorted(UNITS)}.")
    if max_length < 2:
        raise ValueError(f"`max_length` is {max_length}; it must be at least 2, for a token and the end of sequence.")
    if not 1 <= min_length <= max_length:
        raise ValueError(f"`min_length` is {min_length}; it must be from 1 to `max_length` {max_length}.")
    is_stream = isinstance(dataset, IterableDataset)
    if is_stream and num_proc is not None:
        raise ValueError(f"`num_proc` is {num_proc}, but one process reads a stream. Remove it.")
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("`tokenizer` has no end-of-sequence token, which ends a thought. Set `eos_token`.")

    def pair(batch):
        check_texts(batch["text"])
        rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
        for text in batch["text"]:
            thoughts = UNITS[unit](text)
            ids = tokenizer(thoughts, add_special_tokens=False, verbose=False)["input_ids"] if thoughts else []
            for thought, following in itertools.pairwise(ids):
                if len(thought) >= min_length:
                    rows["input_ids"].append(thought[:max_length])
                    rows["labels"].append([*following, end][:max_length])
        return rows

    options = {} if is_stream else {"num_proc": num_proc, "desc": "Pairing thoughts"}
    columns = get_columns(dataset)
    pairs = dataset.map(pair, batched=True, batch_size=documents_per_batch, remove_columns=columns, **options)
    if not (next(iter(pairs), None) if is_stream else len(pairs)):
        raise ValueError(
            f"No document has two thoughts (`unit={unit!r}`) in a row, the first of at least `min_length` "
            f"{min_length} tokens. Use other text, another unit or a smaller `min_length`."
        )
    return pairs


__all__ = ["pair_thoughts", "split_lines", "split_sentences"]
