# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The memories of a problem and of a text, which grow by the latents of each step.

Shapes: B batch, A rows with tokens that still think, T input tokens, S entries of a part, M memory entries, D hidden.
"""

import torch
import torch.nn.functional as F

from ...configuration.configuration_looped_thinker import LoopedThinkerConfig
from ...configuration.configuration_looped_thinker_text import LoopedThinkerTextConfig
from .cache_steps import KeyValue, MemoryParts, StepStates
from .layers_looped_thinker import LoopedThinkerBlock, Memory, choose_visible, create_memory_mask


class ProblemMemory:
    """
    The memory of a problem: its input, static memories and the latents of each step, un-normalised.

    Args:
        config ([`LoopedThinkerConfig`]): `num_memory_steps` bounds the steps in the memory.
        block ([`LoopedThinkerBlock`]): projects each part to keys and values.
        fixed (`list` of `torch.Tensor` of shape `(B, S, D)`): the input, then static memories if there are any.
        num_latents (`int`): number of latents that all steps together will add.
        attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 0 for padding of the input.
        num_read_steps (`int`, *optional*): number of steps after which the input is no longer in the memory.
    """

    def __init__(
        self,
        config: LoopedThinkerConfig,
        block: LoopedThinkerBlock,
        fixed: list[torch.Tensor],
        num_latents: int,
        attention_mask: torch.Tensor | None = None,
        num_read_steps: int | None = None,
    ):
        self.block, self.num_fixed = block, len(fixed)
        self.limits = num_read_steps, config.num_memory_steps
        num_others = sum(part.shape[1] for part in fixed[1:]) + num_latents
        self.states: list[torch.Tensor] = []
        self.parts = MemoryParts(fixed[0].shape[1] + num_others)
        for part in fixed:
            self.append(part)
        self.mask = self.attention_mask = None
        if attention_mask is not None:  # only the input has padding
            self.mask = F.pad(attention_mask.long(), (0, num_others), value=1)  # (B, M)
            self.attention_mask = create_memory_mask(config, fixed[0], self.mask)

    def append(self, states: torch.Tensor):
        """Add a part `(B, S, D)`."""
        self.states.append(states)
        self.parts.append(self.block.project(states))

    def list_visible(self, num_finished: int) -> list[int]:
        """Indices of the parts that are in the memory after `num_finished` steps; static memories join after one."""
        reads_input, first_step = choose_visible(num_finished, *self.limits)
        indices = [
            *range(self.num_fixed if num_finished else 1),
            *range(self.num_fixed + first_step, len(self.states)),
        ]
        return indices if reads_input else indices[1:]

    def read(self, num_finished: int) -> Memory:
        """Keys, values and mask of the memory after `num_finished` steps."""
        indices = self.list_visible(num_finished)
        layers = self.parts.read(indices)
        has_padding = self.attention_mask is not None and indices[0] == 0
        return Memory(layers, self.attention_mask[..., : layers[0][0].shape[2]] if has_padding else None)

    def join(self, num_finished: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States `(B, M, D)` of the memory after `num_finished` steps, and their mask if some are padding."""
        indices = self.list_visible(num_finished)
        states = torch.cat([self.states[i] for i in indices], dim=1)
        has_padding = self.mask is not None and indices[0] == 0
        return states, self.mask[:, : states.shape[1]] if has_padding else None

    def stack_latents(self) -> torch.Tensor:
        """The latents after each step so far, `(B, R, L, D)` for R steps of L latents."""
        return torch.stack(self.states[self.num_fixed :], dim=1)


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


__all__ = ["ProblemMemory", "TextMemory"]
