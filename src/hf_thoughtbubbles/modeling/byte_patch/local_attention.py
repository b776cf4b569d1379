# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Block-local attention over bytes: a byte attends to bytes of its own patch, which are never far away.

A layout prepares queries, keys and values for the attention function, and holds the mask of their pairs.

Shapes: B batch, T bytes, K earlier bytes, W bytes in a chunk, C chunks, N heads, H head size, E byte width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers.utils import is_torchdynamo_exporting


class ChunkLayout(NamedTuple):
    """Chunks of bytes; each attends to itself and to adjacent chunks, under a mask `(B * C, 1, W, 2W or 3W)`."""

    chunk_size: int
    num_before: int
    num_after: int
    mask: torch.Tensor

    def split_queries(self, states: torch.Tensor) -> torch.Tensor:
        """Queries `(B, T, N, H)` to `(B * C, N, W, H)`."""
        num_missing = count_chunks(states.shape[1], self.chunk_size) * self.chunk_size - states.shape[1]
        padded = F.pad(states, (0, 0, 0, 0, 0, num_missing))
        return padded.view(-1, self.chunk_size, *states.shape[2:]).transpose(1, 2)

    def gather_keys(self, states: torch.Tensor) -> torch.Tensor:
        """Keys or values `(B, T, N, H)` to `(B * C, N, 2W or 3W, H)`: those of a chunk and of adjacent chunks."""
        return gather_chunks(states, self.chunk_size, self.num_before, self.num_after).transpose(1, 2)

    def join(self, attn_output: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Attention output `(B * C, W, N, H)` to `(B, T, N * H)`, of which `shape` is `(B, T)`."""
        return attn_output.flatten(2).reshape(shape[0], -1, attn_output.shape[2:].numel())[:, : shape[1]]


class WindowLayout(NamedTuple):
    """The newest T bytes attend to the last K + T of a row, under a mask `(B, 1, T, K + T)`; `None` is full rows."""

    mask: torch.Tensor | None = None

    def split_queries(self, states: torch.Tensor) -> torch.Tensor:
        """Queries `(B, T, N, H)` to `(B, N, T, H)`."""
        return states.transpose(1, 2)

    def gather_keys(self, states: torch.Tensor) -> torch.Tensor:
        """Keys or values of all bytes so far to those of the window, `(B, N, K + T, H)`."""
        kept = states if self.mask is None else states[:, -self.mask.shape[-1] :]
        return kept.transpose(1, 2)

    def join(self, attn_output: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Attention output `(B, T, N, H)` to `(B, T, N * H)`, of which `shape` is `(B, T)`."""
        return attn_output.flatten(2)


FULL_ROWS = WindowLayout()


def build_additive_mask(is_allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask to add to scores: 0 where `is_allowed`, the least finite number elsewhere."""
    mask = torch.zeros(is_allowed.shape, dtype=dtype, device=is_allowed.device)
    return mask.masked_fill(~is_allowed, torch.finfo(dtype).min)


def count_chunks(num_bytes: int, size: int) -> int:
    """Chunks of `size` that hold `num_bytes`; in an exported graph the last is never full, so that sizes stay free."""
    return num_bytes // size + 1 if is_torchdynamo_exporting() else (num_bytes + size - 1) // size


def gather_chunks(values: torch.Tensor, size: int, num_before: int, num_after: int, fill: int = 0) -> torch.Tensor:
    """
    Values `(B, T, ...)` to `(B * C, (1 + before + after) * W, ...)`: each chunk with adjacent chunks.

    >>> gather_chunks(torch.tensor([[1, 2, 3]]), size=2, num_before=1, num_after=0)
    tensor([[0, 0, 1, 2],
            [1, 2, 3, 0]])
    """
    num_chunks = count_chunks(values.shape[1], size)
    sides = (num_before * size, num_chunks * size - values.shape[1] + num_after * size)
    padded = F.pad(values, (0, 0) * (values.ndim - 2) + sides, value=fill)
    chunks = padded.view(values.shape[0], num_before + num_chunks + num_after, size, *values.shape[2:])
    wide = torch.cat([chunks[:, i : i + num_chunks] for i in range(1 + num_before + num_after)], dim=2)
    return wide.flatten(0, 1)


def build_chunk_layout(groups: torch.Tensor, size: int, is_causal: bool, dtype: torch.dtype) -> ChunkLayout:
    """
    Bytes attend to bytes of their group, only to earlier ones when `is_causal`.

    Args:
        groups (`torch.LongTensor` of shape `(B, T)`): the group of each byte; none is longer than `size`.
        size (`int`): W, bytes in a chunk.
        is_causal (`bool`): whether later bytes are hidden.
        dtype (`torch.dtype`): of the mask.
    """
    num_before, num_after = 1, 0 if is_causal else 1
    keys = gather_chunks(groups, size, num_before, num_after, fill=-2)
    queries = keys[:, num_before * size : (num_before + 1) * size]
    is_allowed = queries[:, :, None] == keys[:, None]  # (B * C, W, 2W or 3W)
    if is_causal:
        is_allowed = is_allowed.tril(size)
    return ChunkLayout(size, num_before, num_after, build_additive_mask(is_allowed, dtype)[:, None])


def build_window_layout(groups: torch.Tensor, num_new: int, dtype: torch.dtype) -> WindowLayout:
    """The last `num_new` bytes attend to earlier bytes of their group; groups are `(B, K + T)`."""
    num_past = groups.shape[1] - num_new
    is_allowed = (groups[:, num_past:, None] == groups[:, None]).tril(num_past)  # (B, T, K + T)
    return WindowLayout(build_additive_mask(is_allowed, dtype)[:, None])


__all__ = [
    "FULL_ROWS",
    "ChunkLayout",
    "WindowLayout",
    "build_additive_mask",
    "build_chunk_layout",
    "build_window_layout",
    "count_chunks",
    "gather_chunks",
]
