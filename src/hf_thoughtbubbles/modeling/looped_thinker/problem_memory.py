# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The memory of a problem, which grows by the latents of each step.

Shapes: B batch, T input tokens, S entries of a part, M memory entries, D hidden.
"""

import torch
import torch.nn.functional as F

from ...configuration.configuration_looped_thinker import LoopedThinkerConfig
from .cache_steps import MemoryParts
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


__all__ = ["ProblemMemory"]
