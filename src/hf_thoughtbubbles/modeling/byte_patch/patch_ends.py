# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Ends of byte patches, and the patch of each byte.

Whether a byte ends its patch depends on that byte and earlier ones alone. So a model can use it to predict the next
byte.

Shapes: B batch, T bytes, P patches, W bytes in a patch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers.utils import ModelOutput, is_torchdynamo_exporting

from ...configuration.configuration_byte_patch import LONGEST_CHARACTER


NUM_BYTES = 256
SPECIAL = NUM_BYTES  # replaces every id that is no byte
MOST_DOUBLINGS = 20  # enough for rows of a million bytes


@dataclass
class BytePatches(ModelOutput):
    """
    The patches of a batch.

    Args:
        is_end (`torch.BoolTensor` of shape `(B, T)`): whether a byte ends its patch.
        patch_index (`torch.LongTensor` of shape `(B, T)`): the patch of each byte, -1 for padding.
        lengths (`torch.LongTensor` of shape `(B, P)`): bytes in each patch, 0 after a row's last one. The last may be
            unfinished.
        is_start (`torch.BoolTensor` of shape `(B, T)`, *optional*): whether a byte begins a document, where several
            are packed into a row. The last patch of each may be unfinished.
    """

    is_end: torch.BoolTensor | None = None
    patch_index: torch.LongTensor | None = None
    lengths: torch.LongTensor | None = None
    is_start: torch.BoolTensor | None = None


def shift_right(values: torch.Tensor, num_steps: int, fill) -> torch.Tensor:
    """Shift `values` `(B, T)` to later positions."""
    return F.pad(values, (num_steps, 0), value=fill)[:, : values.shape[1]]


def find_last(is_mark: torch.Tensor) -> torch.Tensor:
    """The index of the last mark at or before each position `(B, T)`; -1 where there is none."""
    indices = torch.arange(is_mark.shape[1], device=is_mark.device)
    marked = torch.where(is_mark, indices, -1)
    if not is_torchdynamo_exporting():
        return marked.cummax(dim=1).values
    count = is_mark.long().cumsum(1)  # ONNX has no running maximum; the index of the nth mark is the same
    found = torch.full_like(F.pad(marked, (1, 0)), -1).scatter(1, torch.where(is_mark, count, 0), marked)
    return found.gather(1, count)


def find_last_byte(is_end: torch.Tensor, is_start: torch.Tensor | None) -> torch.Tensor:
    """The index of the last byte before the patch that is open after each byte `(B, T)`."""
    last = find_last(is_end)
    return last if is_start is None else torch.maximum(last, find_last(is_start) - 1)


def is_word(ids: torch.Tensor) -> torch.Tensor:
    """Whether ids are bytes of letters or digits; every byte of a longer character counts as a letter."""
    is_digit, is_capital, is_small = (
        (ids >= ord(first)) & (ids <= ord(last)) for first, last in (("0", "9"), ("A", "Z"), ("a", "z"))
    )
    return is_digit | is_capital | is_small | ((ids >= 0x80) & (ids < NUM_BYTES))


def is_character_open(ids: torch.Tensor, is_start: torch.Tensor | None = None) -> torch.Tensor:
    """Whether the character of each byte `(B, T)` continues after it, according to its first byte."""
    num_following = sum(((ids >= first) & (ids < 0xF8)).long() for first in (0xC0, 0xE0, 0xF0))  # 0: no first byte
    continues = (ids >= 0x80) & (ids < 0xC0)  # bytes of a character after its first
    if is_start is not None:
        continues = continues & ~is_start
    is_open, is_run = num_following > 0, torch.ones_like(continues)
    for distance in range(1, LONGEST_CHARACTER - 1):
        is_run = is_run & shift_right(continues, distance - 1, False)
        is_open = is_open | (is_run & (shift_right(num_following, distance, 0) > distance))
    return is_open


def cut_long_patches(
    is_end: torch.Tensor, is_cuttable: torch.Tensor, longest: int, is_start: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Add ends `(B, T)` where patches are too long: at the first cuttable byte that leaves no room for another character
    of four bytes, and at `longest` bytes where invalid UTF-8 has no such byte. Where `is_start`, a document begins,
    and with it a patch.

    Each cut depends on the one before. So first the end of a patch is found for every byte that it might begin at;
    then these jumps are doubled until all have been followed.
    """
    batch_size, num_bytes = is_end.shape
    indices = torch.arange(num_bytes, device=is_end.device)
    never = num_bytes  # no byte; a patch after it would begin at the next index, which is no byte either

    def find_next(is_mark: torch.Tensor) -> torch.Tensor:
        found = num_bytes - 1 - find_last(is_mark.flip(1)).flip(1)
        return F.pad(found - never, (0, 1)) + never

    earliest = (indices + longest - LONGEST_CHARACTER).clamp(max=never).expand(batch_size, -1)
    stop = torch.minimum(find_next(is_cuttable).gather(1, earliest), find_next(is_end)[:, :-1])  # of a patch from here
    stop = torch.minimum(stop, (indices + longest - 1).clamp(max=never))
    begins = shift_right(is_end, 1, True)  # of patches, before cutting
    if is_start is not None:
        stop = torch.where(find_next(is_start)[:, 1:] <= stop, never, stop)  # it lies in another document
        begins = begins | is_start
    after = jump = F.pad(stop - never, (0, 2)) + never + 1  # where the next patch begins
    begins = F.pad(begins.long(), (0, 2))
    # The length of an exported graph is a symbol, and more doublings than needed change nothing.
    for _ in range(num_bytes.bit_length() if isinstance(num_bytes, int) else MOST_DOUBLINGS):
        begins = begins.scatter_reduce(1, jump, begins, reduce="amax")
        jump = jump.gather(1, jump)
    is_after = torch.zeros_like(begins).scatter_reduce(1, after, begins, reduce="amax")
    return is_end | is_after[:, 1:-1].bool()


def find_patch_ends(
    input_ids: torch.Tensor,
    patching: str,
    patch_size: int,
    max_patch_bytes: int,
    token_mask: torch.Tensor | None = None,
    known: torch.Tensor | None = None,
    is_start: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Find the bytes that end a patch.

    Args:
        input_ids (`torch.LongTensor` of shape `(B, T)`): bytes, and special tokens from 256 on.
        patching (`str`): `"space"` or `"fixed"`, see [`BytePatchConfig`].
        patch_size (`int`): bytes in a fixed patch.
        max_patch_bytes (`int`): most bytes in a patch.
        token_mask (`torch.BoolTensor` of shape `(B, T)`, *optional*): False for padding, on either side.
        known (`torch.BoolTensor` of shape `(B, K)`, *optional*): the ends among the first bytes of each row, which
            are kept, also where a special token ends no patch. The bytes after them are split as in the whole text
            when K is 0, all, or at least `max_patch_bytes + 2`.
        is_start (`torch.BoolTensor` of shape `(B, T)`, *optional*): the bytes that begin a document, which is split
            like a text of its own.

    Returns:
        `torch.BoolTensor` of shape `(B, T)`; padding is in no patch, and its values are undefined.

    >>> text = torch.tensor([list(b"to be, or")])
    >>> find_patch_ends(text, "space", 4, 16)[0].nonzero().flatten().tolist()
    [2, 5]
    """
    ids = input_ids if token_mask is None else input_ids.masked_fill(~token_mask, SPECIAL)
    is_special, num_known = ids >= NUM_BYTES, 0 if known is None else known.shape[1]

    def keep_known(is_end: torch.Tensor) -> torch.Tensor:
        if known is None:
            return is_end
        first = known if token_mask is None else known | ~token_mask[:, :num_known]  # padding ends a patch
        return torch.cat((first, is_end[:, num_known:]), dim=1)

    if patching == "fixed":
        is_end = keep_known(is_special)
        indices = torch.arange(ids.shape[1], device=ids.device)
        return keep_known(is_end | ((indices - find_last_byte(is_end, is_start)) % patch_size == 0))
    was_word = shift_right(is_word(ids), 1, False)
    if is_start is not None:
        was_word = was_word & ~is_start
    is_end = keep_known(is_special | (~is_word(ids) & was_word))
    return keep_known(cut_long_patches(is_end, ~is_character_open(ids, is_start), max_patch_bytes, is_start))


def spread_patch_lengths(patch_lengths: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
    """Find the bytes `(B, T)` that end a patch, when patches of `patch_lengths` `(B, P)` cover the real bytes."""
    last = patch_lengths.cumsum(1) - 1  # byte of a patch among the real ones of its row
    index = token_mask.long().cumsum(1) - 1
    found = torch.searchsorted(last, index).clamp(max=last.shape[1] - 1)
    return (last.gather(1, found) == index) & token_mask


def index_patches(
    is_end: torch.Tensor, token_mask: torch.Tensor | None, is_start: torch.Tensor | None = None
) -> torch.Tensor:
    """The patch of each byte `(B, T)`, from 0; -1 for padding."""
    begins = shift_right(is_end, 1, False)
    if is_start is not None:
        begins = begins | F.pad(is_start[:, 1:], (1, 0))
    patch_index = begins.long().cumsum(1)
    return patch_index if token_mask is None else patch_index.masked_fill(~token_mask, -1)


def measure_lengths(patch_index: torch.Tensor, num_patches: int) -> torch.Tensor:
    """The bytes `(B, P)` of each patch, by the patch of each byte `(B, T)`; -1 is none."""
    counts = torch.zeros(patch_index.shape[0], num_patches + 1, dtype=torch.long, device=patch_index.device)
    index = torch.where(patch_index < 0, num_patches, patch_index)
    return counts.scatter_add(1, index, torch.ones_like(index))[:, :-1]


def number_patches(
    is_end: torch.Tensor,
    token_mask: torch.Tensor | None,
    num_patches: int | None,
    is_start: torch.Tensor | None = None,
) -> BytePatches:
    """
    Number the patches of each row from 0; padding is in none.

    Args:
        is_end (`torch.BoolTensor` of shape `(B, T)`): whether a byte ends its patch.
        token_mask (`torch.BoolTensor` of shape `(B, T)`, *optional*): False for padding.
        num_patches (`int`, *optional*): P, if it is known; otherwise it is counted.
        is_start (`torch.BoolTensor` of shape `(B, T)`, *optional*): the bytes that begin a document, and so a patch.

    Returns:
        [`BytePatches`].
    """
    if token_mask is not None:
        is_end = is_end & token_mask
    patch_index = index_patches(is_end, token_mask, is_start)
    num_patches = int(patch_index.max()) + 1 if num_patches is None else num_patches
    lengths = measure_lengths(patch_index, max(num_patches, 1))
    return BytePatches(is_end=is_end, patch_index=patch_index, lengths=lengths, is_start=is_start)


def take_patches(
    patches: BytePatches, rows: torch.Tensor, first: torch.Tensor, num_patches: int
) -> tuple[BytePatches, int]:
    """
    The patches `first` `(b,)` to `first + num_patches - 1` of `rows` `(b,)`, numbered from 0.

    Returns:
        [`BytePatches`] of the bytes from the first byte of these patches on, and the index of that byte. Bytes of
        other patches have the patch -1.

    >>> patches = number_patches(torch.tensor([[False, True, False, True, True]]), None, None)
    >>> taken, start = take_patches(patches, torch.tensor([0]), torch.tensor([1]), 2)
    >>> taken.lengths, taken.patch_index, start
    (tensor([[2, 1]]), tensor([[0, 0, 1]]), 2)
    """
    index = patches.patch_index[rows] - first[:, None]
    index = index.masked_fill((index < 0) | (index >= num_patches), -1)
    start = int((index >= 0).any(0).long().argmax())
    index = index[:, start:]
    return BytePatches(patches.is_end[rows, start:], index, measure_lengths(index, num_patches)), start


def count_open_bytes(
    is_end: torch.Tensor, token_mask: torch.Tensor | None = None, is_start: torch.Tensor | None = None
) -> torch.Tensor:
    """Count the bytes of the open patch, with each byte `(B, T)`: 0 where the byte ends its patch."""
    indices = torch.arange(is_end.shape[1], device=is_end.device)
    is_before = is_end if token_mask is None else is_end | ~token_mask
    return indices - find_last_byte(is_before, is_start)


__all__ = [
    "NUM_BYTES",
    "BytePatches",
    "count_open_bytes",
    "cut_long_patches",
    "find_last",
    "find_last_byte",
    "find_patch_ends",
    "index_patches",
    "is_character_open",
    "is_word",
    "measure_lengths",
    "number_patches",
    "shift_right",
    "spread_patch_lengths",
    "take_patches",
]
