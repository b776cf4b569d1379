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

    Args:
        config ([`LoopedThinkerTextConfig`]): `num_read_steps` and `num_memory_steps` bound the parts in the memory.
        block ([`LoopedThinkerBlock`]): projects each part to keys and values.
        states ([`StepStates`]): stores them in the cache, and selects rows that still think.
        num_steps (`int`): number of steps of the call.
        mask (`torch.Tensor`, *optional*): attention mask of one part.
        memory_mask (`torch.Tensor`, *optional*): attention mask of the largest memory; smaller ones use its beginning.
    """

    def __init__(
        self,
        config: LoopedThinkerTextConfig,
        block: LoopedThinkerBlock,
        states: StepStates,
        num_steps: int,
        mask: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
    ):
        self.block, self.states, self.num_steps = block, states, num_steps
        self.limits = config.num_read_steps, config.num_memory_steps
        self.mask, self.memory_mask = mask, memory_mask
        self.parts: MemoryParts | None = None

    def append(self, latents: torch.Tensor, position_embeddings: KeyValue, step: int):
        """Add the part `(A, T, D)` that the memory has from step `step` on: the input, or the latents before it."""
        part = self.states.update_memory(self.block.project(latents, position_embeddings), step)
        if self.parts is None:
            self.parts = MemoryParts(self.num_steps * part[0][0].shape[2])
        self.parts.append(part)

    def read(self, step: int) -> Memory:
        """Keys, values and mask of the memory of a step, for the rows that still think."""
        reads_input, first_step = choose_visible(step, *self.limits)
        visible = [*([0] if reads_input else []), *range(1 + first_step, 1 + step)]
        select = self.states.select_rows
        layers = [(select(key), select(value)) for key, value in self.parts.read(visible)]
        if len(visible) == 1:
            return Memory(layers, select(self.mask))
        mask = select(self.memory_mask)
        return Memory(layers, None if mask is None else mask[..., : layers[0][0].shape[2]])


__all__ = ["TextMemory"]
