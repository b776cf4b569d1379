# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Where are the keys and values of a loop's steps kept while text is read, and which tokens still think?

Step r of L shared layers has L pairs of keys and values that others cross-attend to (of the input for step 0, of the
latents that step r - 1 left for the others) and L that its self-attention reads. They are slots of one transformers
cache, step by step, so that a cache of more steps only has more slots:

    step r, cross-attention of layer l    slot r * stride + l
    step r, self-attention of layer l     slot r * stride + L + l          stride = 2 L

A token that is done thinking shows later steps the keys and values of its last one. Nothing of it is computed again,
and as that depends on the token alone, a cache holds just what an uncached pass would see.

Shapes: B batch, A rows that still think, T new tokens, S entries of a part, M of a memory, N heads, H head size.
"""

import torch
from transformers.cache_utils import Cache


KeyValue = tuple[torch.Tensor, torch.Tensor]  # each (B, N, S, H)


class MemoryParts:
    """
    Keys and values of the parts of a memory, for each layer that reads them, in the order in which they came.

    Without gradients they stand side by side, so that reading neighbours copies nothing. What a gradient needs must
    not be written to again, so with gradients parts are joined where they are read.

    Args:
        num_entries (`int`): M, the entries that all parts together will have.
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
        past_key_values (`Cache`, *optional*): what earlier tokens left; new tokens are added to it.
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

    def take(self, states: torch.Tensor | None) -> torch.Tensor | None:
        """Of `(B or 1, ...)` the rows that still think."""
        if states is None or self.rows is None or states.shape[0] == 1:
            return states
        return states.index_select(0, self.rows)

    def merge(self, new: torch.Tensor, old: torch.Tensor, is_thinking: torch.Tensor) -> torch.Tensor:
        """`old` `(B, ...)`, but what the rows that still think made, `new` `(A, ...)`, where `is_thinking` says so."""
        if self.rows is None:
            return torch.where(is_thinking, new, old)
        merged = torch.where(self.take(is_thinking), new, old.index_select(0, self.rows))
        return old.index_copy(0, self.rows, merged)

    def add(self, key: torch.Tensor, value: torch.Tensor, step: int, slot: int) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Keep keys and values `(A, N, T, H)` of the tokens that still think, and repeat those of the others.

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

    def add_source(self, projected: list[KeyValue], step: int) -> list[KeyValue]:
        """Keep what the layers cross-attend to from step `step` on, one pair of keys and values a layer."""
        return [self.add(key, value, step, layer_idx) for layer_idx, (key, value) in enumerate(projected)]

    def add_self(self, key: torch.Tensor, value: torch.Tensor, step: int, layer_idx: int) -> KeyValue:
        """Keep what self-attention reads at a step; gives the rows that still think, `(A, N, ., H)`."""
        key, value = self.add(key, value, step, self.num_layers + layer_idx)
        return self.take(key), self.take(value)

    def exit(self, is_done: torch.Tensor):
        """Let the tokens `(B, T)` that are done rest from now on, and the rows that have no others."""
        is_thinking = ~is_done if self.is_thinking is None else self.is_thinking & ~is_done
        self.is_thinking = is_thinking
        if not torch.compiler.is_compiling():  # a compiled graph has one shape for all inputs
            rows = is_thinking.any(-1).nonzero()[:, 0]
            self.rows = None if len(rows) == len(is_thinking) else rows  # taking all would copy all

    @property
    def is_finished(self) -> bool:
        """Whether no token thinks any more."""
        return self.rows is not None and len(self.rows) == 0

    def repeat_rest(self, first_step: int, num_steps: int):
        """Complete a cache when all tokens were done before the last step: step `first_step`'s source is there."""
        if self.past_key_values is None:
            return
        for step in range(first_step, num_steps):
            for slot in range(self.num_layers if step == first_step else 0, self.stride):
                self.past_key_values.update(*self.latest[slot], step * self.stride + slot)


__all__ = ["KeyValue", "MemoryParts", "StepStates"]
