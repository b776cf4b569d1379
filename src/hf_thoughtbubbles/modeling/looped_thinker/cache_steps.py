# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Keys and values of a loop: the parts of a memory, and the slots of a cache over steps.

Step r of L shared layers has L pairs of keys and values for cross-attention (of the input for step 0, else of the
latents that step r - 1 left) and L pairs for self-attention. They are slots of one transformers cache, step by step,
so that a cache of more steps only has more slots:

    step r, cross-attention of layer l    slot r * stride + l
    step r, self-attention of layer l     slot r * stride + L + l          stride = 2 L

A token that is done repeats its last keys and values in later steps; nothing of it is computed again. Whether it is
done depends on the token and earlier ones alone, so a cache contains exactly what a pass without a cache computes.

Shapes: B batch, A rows with tokens that still think, T new tokens, S entries of a part, M of a memory, N heads, H head
size.
"""

import torch
from transformers.cache_utils import Cache


KeyValue = tuple[torch.Tensor, torch.Tensor]  # each (B, N, S, H)


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
        self.buffers: list[KeyValue] = []  # (B, N, M, H) for each layer
        self.parts: list[list[KeyValue]] = []
        self.ends = [0]

    def append(self, part: list[KeyValue]):
        """Add a part: keys and values `(B, N, S, H)` for each layer."""
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


class StepStates:
    """
    Keys and values over the steps of one call, cached ones first.

    Args:
        num_layers (`int`): layers inside the shared block.
        has_self_attention (`bool`): whether its layers have self-attention.
        past_key_values (`Cache`, *optional*): keys and values of earlier tokens; new ones are appended.
        is_exiting (`bool`): whether tokens may be done before the last step.
    """

    def __init__(
        self, num_layers: int, has_self_attention: bool, past_key_values: Cache | None = None, is_exiting: bool = False
    ):
        self.num_layers = num_layers
        self.stride = num_layers * (2 if has_self_attention else 1)
        self.past_key_values = past_key_values
        self.is_exiting = is_exiting
        self.is_thinking: torch.Tensor | None = None  # (B, T), True for tokens that still think; None: all
        self.rows: torch.Tensor | None = None  # (A,), rows with such tokens; None: all
        self.latest: dict[int, KeyValue] = {}  # by slot within a step

    def select_rows(self, states: torch.Tensor | None) -> torch.Tensor | None:
        """The rows of `(B or 1, ...)` that still think."""
        if states is None or self.rows is None or states.shape[0] == 1:
            return states
        return states.index_select(0, self.rows)

    def merge(self, new: torch.Tensor, old: torch.Tensor, is_thinking: torch.Tensor) -> torch.Tensor:
        """`old` `(B, ...)`, replaced by `new` `(A, ...)` of the rows that still think where `is_thinking` is True."""
        if self.rows is None:
            return torch.where(is_thinking, new, old)
        merged = torch.where(self.select_rows(is_thinking), new, old.index_select(0, self.rows))
        return old.index_copy(0, self.rows, merged)

    def complete(self, new: torch.Tensor, old: torch.Tensor | None) -> torch.Tensor:
        """Latents `(B, T, D)` after a step that computed `new` `(A, T, D)`; tokens that are done stay `old`."""
        return new if self.is_thinking is None else self.merge(new, old, self.is_thinking[..., None])

    def update(self, key: torch.Tensor, value: torch.Tensor, step: int, slot: int) -> KeyValue:
        """
        Store keys and values `(A, N, T, H)` of the tokens that still think, and repeat those of the others.

        Returns:
            Keys and values `(B, N, cached and new tokens, H)` of all rows.
        """
        if self.is_exiting:
            if self.is_thinking is not None:
                mask, (old_key, old_value) = self.is_thinking[:, None, :, None], self.latest[slot]
                key, value = self.merge(key, old_key, mask), self.merge(value, old_value, mask)
            self.latest[slot] = key, value
        if self.past_key_values is not None:
            key, value = self.past_key_values.update(key, value, step * self.stride + slot)
        return key, value

    def update_memory(self, projected: list[KeyValue], step: int) -> list[KeyValue]:
        """Store keys and values for cross-attention from step `step` on, one pair for each layer."""
        return [self.update(key, value, step, layer_idx) for layer_idx, (key, value) in enumerate(projected)]

    def update_self(self, key: torch.Tensor, value: torch.Tensor, step: int, layer_idx: int) -> KeyValue:
        """Store keys and values for self-attention at a step; returns the rows that still think, `(A, N, ., H)`."""
        key, value = self.update(key, value, step, self.num_layers + layer_idx)
        return self.select_rows(key), self.select_rows(value)

    def exit(self, is_done: torch.Tensor):
        """Skip the tokens `(B, T)` that are done from now on, and rows without other tokens."""
        is_thinking = ~is_done if self.is_thinking is None else self.is_thinking & ~is_done
        self.is_thinking = is_thinking
        if not torch.compiler.is_compiling():  # a compiled graph has one shape for all inputs
            rows = is_thinking.any(-1).nonzero()[:, 0]
            self.rows = None if len(rows) == len(is_thinking) else rows  # selecting all rows would copy them

    @property
    def is_finished(self) -> bool:
        """Whether no token thinks any more."""
        return self.rows is not None and len(self.rows) == 0

    def repeat_rest(self, first_step: int, num_steps: int):
        """Fill the cache for the steps from `first_step` on, of which the memory of the first is already stored."""
        if self.past_key_values is None:
            return
        for step in range(first_step, num_steps):
            for slot in range(self.num_layers if step == first_step else 0, self.stride):
                self.past_key_values.update(*self.latest[slot], step * self.stride + slot)


__all__ = ["KeyValue", "MemoryParts", "StepStates"]
