# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Positions of bytes in patches, and of patches in documents; they follow from the ends of patches.

Shapes: B batch, T bytes, K earlier bytes, P patches.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from .patch_ends import BytePatches, count_open_bytes, find_last


class ByteWindow(NamedTuple):
    """The bytes of a call after the last ones of the cache, as many as the next end of a patch depends on."""

    input_ids: torch.LongTensor  # (B, K + T)
    token_mask: torch.BoolTensor | None  # (B, K + T)
    patches: BytePatches  # of these bytes, numbered from the beginning of the row; `lengths` only without a cache
    num_past: int  # K


class BytePositions(NamedTuple):
    """Positions of bytes for a byte decoder."""

    num_finished: torch.LongTensor  # (B, T) patches of the document that are finished with each byte; -1 for padding
    num_open_bytes: torch.LongTensor  # (B, T) bytes of the open patch, with each byte
    groups: torch.LongTensor  # (B, K + T) equal for bytes of the same open patch


def get_byte_offsets(patches: BytePatches, token_mask: torch.Tensor | None) -> torch.Tensor:
    """The position `(B, T)` of each byte in its patch, from 0; undefined for padding."""
    num_open = count_open_bytes(patches.is_end, token_mask, patches.is_start)
    offsets = torch.where(patches.is_end, F.pad(num_open, (1, 0))[:, :-1], num_open - 1).clamp(min=0)
    return offsets if patches.is_start is None else offsets.masked_fill(patches.is_start, 0)


def get_byte_positions(window: ByteWindow, max_patch_bytes: int) -> BytePositions:
    """Positions of the last T bytes of a window, and groups of as many earlier ones as their patches may have."""
    patches, num_past = window.patches, window.num_past
    num_finished = patches.patch_index + patches.is_end.long()  # padding ends no patch and stays -1
    num_open = count_open_bytes(patches.is_end, window.token_mask, patches.is_start)
    if patches.is_start is None:
        groups = num_finished[:, max(0, num_past - max_patch_bytes + 1) :]
        return BytePositions(num_finished[:, num_past:], num_open[:, num_past:], groups)
    document = patches.is_start.long().cumsum(1)
    first = patches.patch_index.gather(1, find_last(patches.is_start).clamp(min=0))  # of the document
    groups = num_finished + document  # the last byte of a document is never in a group with the next one's first
    return BytePositions(torch.where(num_finished > first, num_finished, 0), num_open, groups)


def get_patch_positions(patches: BytePatches) -> torch.Tensor:
    """The position `(B or 1, P)` of each patch in its document."""
    num_patches = patches.lengths.shape[1]
    positions = torch.arange(num_patches, device=patches.lengths.device)[None]
    if patches.is_start is None:
        return positions
    is_first = torch.zeros_like(patches.lengths).scatter_reduce(
        1, patches.patch_index.clamp(min=0), patches.is_start.long(), reduce="amax"
    )
    return positions - find_last(is_first.bool()).clamp(min=0)


def select_rows(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The entries `index` `(B, T)` of states `(B, P, ...)`, `(B, T, ...)`; indices beyond give the first or last."""
    index = index.clamp(0, states.shape[1] - 1)
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


__all__ = [
    "BytePositions",
    "ByteWindow",
    "get_byte_offsets",
    "get_byte_positions",
    "get_patch_positions",
    "select_rows",
]
