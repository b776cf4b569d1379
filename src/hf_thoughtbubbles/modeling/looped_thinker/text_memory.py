# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The memory of a text, which grows by the latents of each step.

Shapes: A rows with tokens that still think, T input tokens, D hidden.
"""

import torch

from ...configuration.configuration_looped_thinker_text import LoopedThinkerTextConfig
from .cache_steps import KeyValue, MemoryParts, StepStates
from .layers_looped_thinker import LoopedThinkerBlock, Memory, choose_visible


class TextMemory:
    """
    The memory of a text: its input and the latents of each step, un-normalised, with those of cached tokens.

    On a CPU ([`has_part_attention`]) its parts stay as they are; else they are joined, and need a mask of all.

    Args:
        config ([`LoopedThinkerTextConfig`]): `num_read_steps` and `num_memory_steps` bound the parts in the memory.
        block ([`LoopedThinkerBlock`]): projects each part to keys and values.
        states ([`StepStates`]): stores them in the cache, and selects rows that still think.
        num_steps (`int`): number of steps of the call.
        masks (`tuple` of `torch.Tensor`, *optional* each): attention mask of one part; and of each of several parts,
            added to scores, or of the largest joined memory, of which smaller ones use the beginning.
        is_joined (`bool`): whether several parts are joined.
    """

    def __init__(
        self,
        config: LoopedThinkerTextConfig,
        block: LoopedThinkerBlock,
        states: StepStates,
        num_steps: int,
        masks: tuple[torch.Tensor | None, torch.Tensor | None],
        is_joined: bool,
    ):
        self.block, self.states, self.num_steps = block, states, num_steps
        self.limits = config.num_read_steps, config.num_memory_steps
        self.masks, self.is_joined = masks, is_joined
        self.joined: MemoryParts | None = None
        self.parts: list[list[KeyValue]] = []

    def append(self, latents: torch.Tensor, position_embeddings: KeyValue | None, step: int):
        """Add the part `(A, T, D)` that the memory has from step `step` on: the input, or the latents before it."""
        part = self.states.update_memory(self.block.project(latents, position_embeddings), step)
        if not self.is_joined:
            self.parts.append(part)
            return
        if self.joined is None:
            self.joined = MemoryParts(self.num_steps * part[0][0].shape[2])
        self.joined.append(part)

    def read(self, step: int, position_embeddings: KeyValue | None) -> dict:
        """Arguments of the block at a step, for the rows that still think, whose queries have these positions."""
        reads_input, first_step = choose_visible(step, *self.limits)
        visible = [*([0] if reads_input else []), *range(1 + first_step, 1 + step)]
        select, (mask, memory_mask) = self.states.select_rows, self.masks
        if self.is_joined:
            layers = self.joined.read(visible)
            memory_mask = None if memory_mask is None else memory_mask[..., : layers[0][0].shape[2]]
        else:
            layers = self.states.read_memory(visible, self.parts)
        layers = [tuple(select(states, -4) for states in layer) for layer in layers]
        memory = Memory(layers, select(mask if len(visible) == 1 else memory_mask))
        return {"memory": memory, "memory_position_embeddings": position_embeddings, "is_memory_causal": True}


__all__ = ["TextMemory"]
