# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Which bytes does a byte see? Those of its patch, which are never far away.

Each kind of surroundings splits queries, gathers keys and values, and joins what was read; a mask says who sees whom.

Shapes: B batch, T bytes, K bytes read before, W bytes in a chunk, C chunks, N heads, H head size.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers.utils import is_torchdynamo_exporting


class Neighbourhood(NamedTuple):
    """Chunks of bytes, each with its neighbours; a mask `(B * C, 1, W, 2W or 3W)`."""

    chunk_size: int
    num_before: int
    num_after: int
    mask: torch.Tensor

    def split(self, states: torch.Tensor) -> torch.Tensor:
        """Queries `(B, T, N, H)` to `(B * C, N, W, H)`."""
        num_missing = count_chunks(states.shape[1], self.chunk_size) * self.chunk_size - states.shape[1]
        padded = F.pad(states, (0, 0, 0, 0, 0, num_missing))
        return padded.view(-1, self.chunk_size, *states.shape[2:]).transpose(1, 2)

    def gather(self, states: torch.Tensor) -> torch.Tensor:
        """Keys or values `(B, T, N, H)` to `(B * C, N, 2W or 3W, H)`: those of a chunk and of its neighbours."""
        return gather_chunks(states, self.chunk_size, self.num_before, self.num_after).transpose(1, 2)

    def join(self, states: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """What was read `(B * C, W, N, H)` to `shape` `(B, T, N * H)`."""
        return states.reshape(shape[0], -1, shape[2])[:, : shape[1]]


class Window(NamedTuple):
    """The last bytes of a row, of which the newest ask; a mask `(B, 1, T, K + T)`. Without one, whole rows."""

    mask: torch.Tensor | None = None

    def split(self, states: torch.Tensor) -> torch.Tensor:
        """Queries `(B, T, N, H)` to `(B, N, T, H)`."""
        return states.transpose(1, 2)

    def gather(self, states: torch.Tensor) -> torch.Tensor:
        """Keys or values of all bytes so far to those of the window, `(B, N, K + T, H)`."""
        kept = states if self.mask is None else states[:, -self.mask.shape[-1] :]
        return kept.transpose(1, 2)

    def join(self, states: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """What was read `(B, T, N, H)` to `shape` `(B, T, N * H)`."""
        return states.reshape(shape)


WHOLE_ROWS = Window()


def build_mask(is_seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores: 0 where `is_seen`, the least finite number elsewhere."""
    mask = torch.zeros(is_seen.shape, dtype=dtype, device=is_seen.device)
    return mask.masked_fill(~is_seen, torch.finfo(dtype).min)


def count_chunks(num_bytes: int, size: int) -> int:
    """Chunks of `size` that hold so many bytes; while exporting, the last is never full, so that sizes stay open."""
    return num_bytes // size + 1 if is_torchdynamo_exporting() else (num_bytes + size - 1) // size


def gather_chunks(values: torch.Tensor, size: int, num_before: int, num_after: int, fill: int = 0) -> torch.Tensor:
    """
    Values `(B, T, ...)` to `(B * C, (1 + before + after) * W, ...)`: each chunk with its neighbours.

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


def build_neighbourhood(group: torch.Tensor, size: int, is_causal: bool, dtype: torch.dtype) -> Neighbourhood:
    """Bytes see bytes of their `group` `(B, T)`, none longer than `size`; earlier ones only when `is_causal`."""
    num_before, num_after = 1, 0 if is_causal else 1
    keys = gather_chunks(group, size, num_before, num_after, fill=-2)
    queries = keys[:, num_before * size : (num_before + 1) * size]
    is_seen = queries[:, :, None] == keys[:, None]  # (B * C, W, 2W or 3W)
    if is_causal:
        is_seen = is_seen.tril(size)
    return Neighbourhood(size, num_before, num_after, build_mask(is_seen, dtype)[:, None])


def is_same_group(key_groups: torch.Tensor, num_new: int) -> torch.Tensor:
    """Whether the last `num_new` bytes `(B, T, K + T)` see each byte: earlier ones of their group `(B, K + T)`."""
    num_past = key_groups.shape[1] - num_new
    return (key_groups[:, num_past:, None] == key_groups[:, None]).tril(num_past)


__all__ = [
    "WHOLE_ROWS",
    "Neighbourhood",
    "Window",
    "build_mask",
    "build_neighbourhood",
    "count_chunks",
    "gather_chunks",
    "is_same_group",
]
