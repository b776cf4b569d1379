# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Keys and values of a loop: the parts of a memory, and the slots of a cache over steps.

Step r of L shared layers has L pairs of keys and values for cross-attention (of the input for step 0, else of the
latents that step r - 1 left) and L pairs for self-attention. They are slots of one transformers cache, after those of
the P layers around the loop and step by step, so that a cache of more steps only has more slots:

    layer p before or after the loop      slot p
    step r, cross-attention of layer l    slot P + r * stride + l
    step r, self-attention of layer l     slot P + r * stride + L + l      stride = 2 L

Layers without cross-attention have stride = L, and so have those without self-attention.

A token that is done repeats its last keys and values in later steps; nothing of it is computed again. Whether it is
done depends on the token and earlier ones alone, so a cache contains exactly what a pass without a cache computes.

Shapes: B batch, A rows that are computed (all with tokens that still think), T new tokens, S entries of a part, M of a
memory, K heads of keys and values, H head size.
"""

import torch
from transformers.cache_utils import Cache

from ...configuration.configuration_looped_thinker_text import LoopedThinkerTextConfig
from .step_cache import StepCache


KeyValue = tuple[torch.Tensor, torch.Tensor]  # each (B, K, S, H)
COPY_COST = 3  # in queries: a copy reads, writes and reads again what a query reads once


class MemoryParts:
    """
    Keys and values of the parts of a memory for each layer, in the order in which they were appended.

    Without gradients they are stored side by side in one buffer, so that reading neighbours copies nothing. Tensors
    that a gradient needs must not be written to again, so with gradients parts are joined when they are read.

    Args:
        num_entries (`int`): M, the number of entries that all parts together will have.
    """

    def __init__(self, num_entries: int):
        self.num_entries = num_entries
        self.is_joined = not torch.is_grad_enabled()
        self.buffers: list[KeyValue] = []  # (B, K, M, H) for each layer
        self.parts: list[list[KeyValue]] = []
        self.ends = [0]

    def append(self, part: list[KeyValue]):
        """Add a part: keys and values `(B, K, S, H)` for each layer."""
        start, end = self.ends[-1], self.ends[-1] + part[0][0].shape[2]
        self.ends.append(end)
        if not self.is_joined:
            self.parts.append(part)
            return
        if not self.buffers:
            shape = (*part[0][0].shape[:2], self.num_entries, part[0][0].shape[3])
            self.buffers = [(key.new_empty(shape), value.new_empty(shape)) for key, value in part]
        for buffers, states in zip(self.buffers, part, strict=True):
            for buffer, state in zip(buffers, states, strict=True):
                buffer[:, :, start:end] = state

    def read(self, indices: list[int]) -> list[KeyValue]:
        """The parts of these ascending `indices`, one after the other, for each layer."""
        if self.is_joined and indices[-1] - indices[0] + 1 == len(indices):
            start, end = self.ends[indices[0]], self.ends[indices[-1] + 1]
            return [(key[:, :, start:end], value[:, :, start:end]) for key, value in self.buffers]
        parts = [self.read([i]) if self.is_joined else self.parts[i] for i in indices]
        if len(parts) == 1:
            return parts[0]
        return [
            tuple(torch.cat(states, dim=2) for states in zip(*layer, strict=True))
            for layer in zip(*parts, strict=True)
        ]


def prefetch(past_key_values: Cache | None, slot: int):
    """
    Move a slot of an offloaded cache back to its device. Every update of a slot does this for the next one, so it is
    needed where slots are not updated in order.
    """
    if past_key_values is not None and past_key_values.offloading and slot < len(past_key_values.layers):
        past_key_values.prefetch(slot, past_key_values.only_non_sliding)


def choose_rows(indices: torch.Tensor, batch_size: int, num_new: int) -> slice | torch.Tensor | None:
    """
    The rows to compute when those of ascending `indices` `(A,)` still think about `num_new` tokens each.

    The rows from the first to the last of them are a view of keys and values, so skipping the others is free. Fewer
    rows need a copy of their keys and values at each step, which takes about as long as `COPY_COST` queries that read
    them. So rows are picked one by one only if that is less work, `A (T + COPY_COST) <= span T`.

    Returns:
        `None` for all rows, the span of rows, or `indices`.

    >>> choose_rows(torch.tensor([1, 3]), batch_size=8, num_new=1)
    slice(1, 4, None)
    >>> choose_rows(torch.tensor([0, 7]), batch_size=8, num_new=1)
    tensor([0, 7])
    """
    first, last = int(indices[0]), int(indices[-1])
    num_rows, span = indices.shape[0], last + 1 - first
    if num_rows < span and num_rows * (num_new + COPY_COST) <= span * num_new:
        return indices
    return None if span == batch_size else slice(first, last + 1)


class StepStates:
    """
    Keys and values over the steps of one call, cached ones first.

    Args:
        config ([`LoopedThinkerTextConfig`]): tells the slots of a step.
        past_key_values (`Cache`, *optional*): keys and values of earlier tokens; new ones are appended.
        is_exiting (`bool`): whether tokens may be done before the last step.
        keeps_rows (`bool`): whether rows without other tokens are computed, for masks of which none are selected.
    """

    def __init__(
        self,
        config: LoopedThinkerTextConfig,
        past_key_values: Cache | None = None,
        is_exiting: bool = False,
        keeps_rows: bool = False,
    ):
        self.num_layers = config.num_hidden_layers
        self.num_memory_slots = 0 if config.skip_cross_attention else self.num_layers
        self.first_slot, self.stride = config.num_plain_layers, config.num_step_slots
        self.past_key_values = past_key_values
        self.is_exiting, self.keeps_rows = is_exiting, keeps_rows
        self.is_thinking: torch.Tensor | None = None  # (B, T), True for tokens that still think; None: all
        self.rows: slice | torch.Tensor | None = None  # the A rows to compute, (A,) if a tensor; None: all
        self.is_finished = False  # whether no token thinks any more
        self.latest: dict[int, KeyValue] = {}  # by slot within a step
        self.num_new = 0  # T

    def select_rows(self, states: torch.Tensor | None, dim: int = 0) -> torch.Tensor | None:
        """The rows of `(B or 1, ...)`, or along another dimension, that still think."""
        if states is None or self.rows is None or states.shape[dim] == 1:
            return states
        if isinstance(self.rows, slice):
            return states.narrow(dim, self.rows.start, self.rows.stop - self.rows.start)
        return states.index_select(dim, self.rows)

    def merge(self, new: torch.Tensor, old: torch.Tensor, is_thinking: torch.Tensor) -> torch.Tensor:
        """`old` `(B, ...)`, replaced by `new` `(A, ...)` of the rows that still think where `is_thinking` is True."""
        if self.rows is None:
            return torch.where(is_thinking, new, old)
        merged = torch.where(self.select_rows(is_thinking), new, self.select_rows(old))
        if isinstance(self.rows, slice):
            return old.slice_scatter(merged, 0, self.rows.start, self.rows.stop)
        return old.index_copy(0, self.rows, merged)

    def complete(self, new: torch.Tensor, old: torch.Tensor | None) -> torch.Tensor:
        """Latents `(B, T, D)` after a step that computed `new` `(A, T, D)`; tokens that are done stay `old`."""
        return new if self.is_thinking is None else self.merge(new, old, self.is_thinking[..., None])

    def update(self, key: torch.Tensor, value: torch.Tensor, step: int, slot: int) -> KeyValue:
        """
        Store keys and values `(A, K, T, H)` of the tokens that still think, and repeat those of the others.

        Returns:
            Keys and values `(B, K, cached and new tokens, H)` of all rows.
        """
        self.num_new = key.shape[2]
        if self.is_exiting:
            if self.is_thinking is not None:
                mask, (old_key, old_value) = self.is_thinking[:, None, :, None], self.latest[slot]
                key, value = self.merge(key, old_key, mask), self.merge(value, old_value, mask)
            self.latest[slot] = key, value
        if self.past_key_values is not None:
            key, value = self.past_key_values.update(key, value, self.first_slot + step * self.stride + slot)
        return key, value

    def update_memory(self, projected: list[KeyValue], step: int) -> list[KeyValue]:
        """Store keys and values for cross-attention from step `step` on, one pair for each layer."""
        return [self.update(key, value, step, layer_idx) for layer_idx, (key, value) in enumerate(projected)]

    def read_memory(self, steps: list[int], parts: list[list[KeyValue]]) -> list[tuple[torch.Tensor, ...]]:
        """
        For each layer the keys, then the values of the `parts` of ascending `steps`; for a single new token of all
        rows as one pair `(P, B, K, S, H)` where a cache has them so.
        """
        first, end, cache = steps[0], steps[-1] + 1, self.past_key_values
        is_stacked = self.num_new == 1 and self.rows is None and 1 < len(steps) == end - first
        if is_stacked and isinstance(cache, StepCache) and not torch.compiler.is_compiling():
            stacks = [cache.read_steps(first, end, layer_idx) for layer_idx in range(self.num_layers)]
            if None not in stacks:
                return stacks
        return [tuple(states for step in steps for states in parts[step][i]) for i in range(self.num_layers)]

    def update_self(self, key: torch.Tensor, value: torch.Tensor, step: int, layer_idx: int) -> KeyValue:
        """Store keys and values for self-attention at a step; returns the rows that still think, `(A, K, ., H)`."""
        key, value = self.update(key, value, step, self.num_memory_slots + layer_idx)
        return self.select_rows(key), self.select_rows(value)

    def exit(self, is_done: torch.Tensor):
        """Skip the tokens `(B, T)` that are done from now on, and rows without other tokens ([`choose_rows`])."""
        if self.keeps_rows or torch.compiler.is_compiling():  # a compiled graph has one shape for all inputs
            self.is_thinking = ~is_done if self.is_thinking is None else self.is_thinking & ~is_done
        elif is_done.any():
            self.is_thinking = ~is_done if self.is_thinking is None else self.is_thinking & ~is_done
            indices = self.is_thinking.any(-1).nonzero()[:, 0]
            self.is_finished = indices.shape[0] == 0
            if not self.is_finished:
                self.rows = choose_rows(indices, *is_done.shape)

    def repeat_rest(self, first_step: int, num_steps: int):
        """Fill the cache for the steps from `first_step` on, of which the memory of the first is already stored."""
        if self.past_key_values is None:
            return
        for step in range(first_step, num_steps):
            for slot in range(self.num_memory_slots if step == first_step else 0, self.stride):
                self.past_key_values.update(*self.latest[slot], self.first_slot + step * self.stride + slot)


__all__ = ["KeyValue", "MemoryParts", "StepStates", "prefetch"]
