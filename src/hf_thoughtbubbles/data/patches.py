# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Lengths of byte patches: measured with another tokenizer, and collated with rows of bytes."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorForTokenClassification, DataCollatorWithFlattening, PreTrainedTokenizerBase

from ..configuration.configuration_byte_patch import BytePatchConfig
from ..modeling.byte_patch.patch_ends import find_patch_ends, number_patches
from ..modeling.common.packed_documents import find_document_starts
from ..tokenization.byte_tokenizer import NUM_BYTES


MAX_CHARACTER_BYTES = 4  # of UTF-8
SHOWN_CHARACTERS = 40
ESCAPE = "surrogateescape"  # decodes each byte that is not UTF-8 to a character U+DC80 to U+DCFF, which no text holds
RUNS = re.compile(r"(?P<invalid>[\udc80-\udcff]+)|[^\udc80-\udcff]+")


def measure_patch_lengths(
    input_ids: Sequence[int], patch_tokenizer: PreTrainedTokenizerBase, max_patch_bytes: int | None = None
) -> list[int]:
    """
    Measure the bytes of each token of another tokenizer in a sequence of byte ids.

    Tokens that share a character, as those of byte-level BPE do inside an emoji, are one patch: no character is split.
    Each special id is a patch of its own, and so is each run of bytes that are not UTF-8, such as the rest of a
    character at the beginning of a block. The text on either side is tokenized apart. Text that looks like a special
    token of `patch_tokenizer` is tokenized as text.

    Args:
        input_ids (`Sequence[int]`): T ids, 0 to 255 for bytes and higher for special tokens.
        patch_tokenizer (`PreTrainedTokenizerBase`): any fast tokenizer whose tokens cover all text.
        max_patch_bytes (`int`, *optional*): longer patches are cut into pieces of at most this many bytes, at least 4,
            between characters where the bytes are text. By default none is cut.

    Returns:
        `list[int]`: P positive lengths that sum to T.

    Raises:
        `ValueError`: for a slow tokenizer, one whose tokens leave text out, a negative id or a `max_patch_bytes` that
            is too small for one character.

    >>> from hf_thoughtbubbles.tokenization.bpe_tokenizer import train_bpe_tokenizer
    >>> patch_tokenizer = train_bpe_tokenizer(["low lower lowest", "low"], vocab_size=262)
    >>> measure_patch_lengths("low slow ☃".encode(), patch_tokenizer)  # low, space, s, low, space, snowman
    [3, 1, 1, 3, 1, 3]
    """
    _check_measure(patch_tokenizer, max_patch_bytes)
    ids = [int(token_id) for token_id in input_ids]
    if ids and min(ids) < 0:
        raise ValueError(f"`input_ids` holds {min(ids)}; ids are 0 to 255 for bytes and higher for special tokens.")
    lengths = []
    for is_special, group in groupby(ids, key=lambda token_id: token_id >= NUM_BYTES):
        if is_special:
            lengths += [1 for _ in group]
            continue
        for patch in _split_bytes(bytes(group), patch_tokenizer):
            lengths += _cut_patch(patch, max_patch_bytes)
    return lengths


def _check_measure(patch_tokenizer: PreTrainedTokenizerBase, max_patch_bytes: int | None):
    if not patch_tokenizer.is_fast:
        raise ValueError(
            f"`patch_tokenizer` is a slow {type(patch_tokenizer).__name__}, which gives no offsets of its "
            "tokens. Use a fast tokenizer."
        )
    if max_patch_bytes is not None and max_patch_bytes < MAX_CHARACTER_BYTES:
        raise ValueError(
            f"`max_patch_bytes` is {max_patch_bytes}; it must be at least {MAX_CHARACTER_BYTES}, the bytes of the "
            "longest character, or None."
        )


def _split_bytes(data: bytes, patch_tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Split bytes without special tokens into patches, not yet cut; a byte that is not UTF-8 is one character."""
    for run in RUNS.finditer(data.decode(errors=ESCAPE)):
        if run["invalid"]:
            yield run.group()
        else:
            yield from _split_text(run.group(), patch_tokenizer)


def _split_text(text: str, patch_tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Split text into the characters of each token; tokens that share a character are one piece."""
    encoding = patch_tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    bounds = [0]  # patch i lies between bounds i and i + 1
    for start, stop in encoding["offset_mapping"]:
        if start == stop:
            continue
        if start > bounds[-1]:
            _refuse_gap(text, bounds[-1], start, patch_tokenizer)
        while start < bounds[-1]:  # they share a character
            stop = max(stop, bounds.pop())
        bounds.append(stop)
    if bounds[-1] < len(text):
        _refuse_gap(text, bounds[-1], len(text), patch_tokenizer)
    return [text[start:stop] for start, stop in pairwise(bounds)]


def _refuse_gap(text: str, start: int, stop: int, patch_tokenizer: PreTrainedTokenizerBase):
    context = text[max(0, start - SHOWN_CHARACTERS) : start + SHOWN_CHARACTERS]
    raise ValueError(
        f"The offsets of `patch_tokenizer` ({type(patch_tokenizer).__name__}) do not cover the text: no token holds "
        f"characters {start} to {stop}, {text[start:stop][:SHOWN_CHARACTERS]!r}, near {context!r}. Use a byte-level "
        "tokenizer, such as GPT-2's."
    )


def _cut_patch(patch: str, max_patch_bytes: int | None) -> list[int]:
    """The bytes of a patch's pieces, cut between characters."""
    num_bytes = len(patch.encode(errors=ESCAPE))
    if max_patch_bytes is None or num_bytes <= max_patch_bytes:
        return [num_bytes]
    lengths = [0]
    for character in patch:
        num_bytes = len(character.encode(errors=ESCAPE))
        if lengths[-1] + num_bytes > max_patch_bytes:
            lengths.append(0)
        lengths[-1] += num_bytes
    return lengths


@dataclass
class TokenPatchCollator:
    """
    Collator of rows of byte ids, with the patches of another tokenizer's tokens.

    For patches at spaces or of fixed length, which a model finds by itself, use transformers' own collators:
    `DataCollatorWithFlattening` packs as this one does. [`PatchCollator`] adds lengths to their batches.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): pads the bytes on its `padding_side`.
        patch_tokenizer (`PreTrainedTokenizerBase`): any fast tokenizer whose tokens cover all text.
        max_patch_bytes (`int`, *optional*): longer patches are cut, see [`measure_patch_lengths`].
        packing (`bool`): join all rows to one, without padding.
        pad_to_multiple_of (`int`, *optional*): makes the length in bytes a multiple of this; not with `packing`.

    Returns:
        When called with unpadded rows that have `input_ids`, perhaps `labels` (the `input_ids` are by default) and
        perhaps `patch_lengths` (they are not cut): a `dict` with `input_ids`, `attention_mask` and
        `labels` `(B, T)`, the last filled with -100 at padding, and `patch_lengths` `(B, P)`, filled on the right with
        0. Padding is in no patch. Other columns are removed. With `packing`: `input_ids`, `labels` and
        `position_ids` `(1, T)`, whose positions begin again at each row and whose labels have -100 there, and
        `patch_lengths` `(1, P)`.

    Raises:
        `ValueError`: when a row is empty, has labels of another length or `patch_lengths` that are not positive, do
            not sum to its bytes or put a special token before the end of a patch; when padding is needed and
            `tokenizer` has none; and for all input that [`measure_patch_lengths`] refuses.

    >>> from hf_thoughtbubbles import build_byte_tokenizer
    >>> from hf_thoughtbubbles.tokenization.bpe_tokenizer import train_bpe_tokenizer
    >>> tokenizer, patch_tokenizer = build_byte_tokenizer(), train_bpe_tokenizer(["low lower", "low"], vocab_size=261)
    >>> rows = [{"input_ids": list(b"low low")}, {"input_ids": list(b"slow")}]
    >>> TokenPatchCollator(tokenizer, patch_tokenizer)(rows)["patch_lengths"].tolist()
    [[3, 1, 3], [1, 3, 0]]
    >>> TokenPatchCollator(tokenizer, patch_tokenizer, packing=True)(rows)["patch_lengths"].tolist()
    [[3, 1, 3, 1, 3]]
    """

    tokenizer: PreTrainedTokenizerBase
    patch_tokenizer: PreTrainedTokenizerBase
    max_patch_bytes: int | None = 16
    packing: bool = False
    pad_to_multiple_of: int | None = None

    def __post_init__(self):
        _check_measure(self.patch_tokenizer, self.max_patch_bytes)
        if self.packing and self.pad_to_multiple_of is not None:
            raise ValueError(
                f"`pad_to_multiple_of={self.pad_to_multiple_of}` was passed, but `packing` pads nothing. Remove one."
            )
        self._pack = DataCollatorWithFlattening()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        read = [self._read_row(row, row_idx) for row_idx, row in enumerate(rows)]
        patch_lengths = [torch.tensor(row.pop("patch_lengths")) for row in read]
        if self.packing:
            return {**self._pack(read), "patch_lengths": torch.cat(patch_lengths)[None]}  # (1, P)
        return {**self._pad(read), "patch_lengths": pad_sequence(patch_lengths, batch_first=True)}  # (B, P)

    def _read_row(self, row: Mapping[str, Any], row_idx: int) -> dict[str, list[int]]:
        """Check the row's columns and return them as lists, with the missing ones."""
        read = {
            name: torch.as_tensor(row[name]).tolist()
            for name in ("input_ids", "labels", "patch_lengths")
            if name in row
        }
        input_ids = read["input_ids"]
        if not input_ids:
            raise ValueError(f"Row {row_idx} has no `input_ids`: an empty text has no bytes. Filter out such rows.")
        labels = read.setdefault("labels", input_ids)
        if len(labels) != len(input_ids):
            raise ValueError(
                f"Row {row_idx} has {len(labels)} `labels` for {len(input_ids)} `input_ids`; give one each."
            )
        if "patch_lengths" not in read:
            read["patch_lengths"] = measure_patch_lengths(input_ids, self.patch_tokenizer, self.max_patch_bytes)
        lengths = read["patch_lengths"]
        if sum(lengths) != len(input_ids) or min(lengths) < 1:
            raise ValueError(
                f"Row {row_idx} has `patch_lengths` that sum to {sum(lengths)}, the least {min(lengths, default=0)}; "
                f"they must be positive and sum to its {len(input_ids)} bytes. Measure them on the same `input_ids`."
            )
        start = 0
        for length in lengths:
            inner = [token_id for token_id in input_ids[start : start + length - 1] if token_id >= NUM_BYTES]
            if inner:
                raise ValueError(
                    f"Row {row_idx} has `patch_lengths` that put the special token {inner[0]} before the end of a "
                    "patch, but a special token ends its patch. Measure them with `measure_patch_lengths`."
                )
            start += length
        return read

    def _pad(self, rows: list[dict[str, list[int]]]) -> Mapping[str, torch.Tensor]:
        lengths = {len(row["input_ids"]) for row in rows}
        is_needed = len(lengths) > 1 or max(lengths) % (self.pad_to_multiple_of or 1) > 0
        if is_needed and self.tokenizer.pad_token_id is None:
            raise ValueError(
                f"`tokenizer` has no padding token, but rows of {min(lengths)} to {max(lengths)} bytes need padding. "
                "Set `tokenizer.pad_token`, give rows of one length, or set `packing=True`."
            )
        # This collator pads labels on the tokenizer's side.
        collate = DataCollatorForTokenClassification(
            self.tokenizer, padding=is_needed, pad_to_multiple_of=self.pad_to_multiple_of
        )
        return collate(rows)


@dataclass
class PatchCollator:
    """
    Collator that adds the lengths of patches at spaces or of fixed length to the batches of another collator.

    A model finds such patches by itself. With their lengths it does not wait for its device to count them, and a
    compiled model runs the core over as many patches as there are, instead of over as many as the row has bytes.

    Args:
        config ([`BytePatchConfig`]): the model's.
        collator (`Callable`): makes batches of `input_ids` `(B, T)`, perhaps with `attention_mask` or with
            `position_ids` that begin again where a document does.
        pad_to_multiple_of (`int`, *optional*): makes P, the number of lengths, a multiple of this, so that models are
            compiled for few different shapes.

    Returns:
        When called with rows: what `collator` returns, and `patch_lengths` `(B, P)`, filled on the right with 0. The
        last patch of a text counts as finished.

    Raises:
        `ValueError`: for token patching, whose lengths [`TokenPatchCollator`] measures, and for a multiple below 1.

    >>> from transformers import default_data_collator
    >>> rows = [{"input_ids": list(b"to be, or")}, {"input_ids": list(b"not to be")}]
    >>> PatchCollator(BytePatchConfig(), default_data_collator)(rows)["patch_lengths"].tolist()
    [[3, 3, 3], [4, 3, 2]]
    """

    config: BytePatchConfig
    collator: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, torch.Tensor]]
    pad_to_multiple_of: int | None = None

    def __post_init__(self):
        if self.config.patching == "token":
            raise ValueError(
                '`config` has `patching="token"`, whose patches this collator cannot find. Use `TokenPatchCollator`.'
            )
        if self.pad_to_multiple_of is not None and self.pad_to_multiple_of < 1:
            raise ValueError(f"`pad_to_multiple_of` is {self.pad_to_multiple_of}; it must be at least 1, or None.")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch, config = self.collator(rows), self.config
        mask, positions = batch.get("attention_mask"), batch.get("position_ids")
        mask = None if mask is None else mask.bool()
        is_start = None if positions is None else find_document_starts(positions)
        is_end = find_patch_ends(
            batch["input_ids"], config.patching, config.patch_size, config.max_patch_bytes, mask, is_start=is_start
        )
        lengths = number_patches(is_end, mask, None, is_start).lengths
        assert lengths is not None  # only patches of a compiled graph are not counted
        missing = -lengths.shape[1] % (self.pad_to_multiple_of or 1)
        return {**batch, "patch_lengths": F.pad(lengths, (0, missing))}


__all__ = ["PatchCollator", "TokenPatchCollator", "measure_patch_lengths"]
