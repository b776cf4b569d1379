# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Generation that both kinds of looped Thinkers share."""

from ..common.attention_masks import create_generation_mask
from ..common.cache_names import accept_cache_names
from ..common.evaluation_mode import evaluation_mode
from ..common.generation_passes import GenerationPassesMixin


class LoopedThinkerGenerationMixin(GenerationPassesMixin):
    """Put it before transformers' `GenerationMixin` in the bases of a language model."""

    generation_config_fields: tuple[str, ...] = ("num_steps",)
    engine_obstacle = "a looped Thinker has keys and values for each step, of which calls may take any number"

    def generate(self, *args, **kwargs):
        """
        As [`~transformers.GenerationMixin.generate`]. A model in training generates in evaluation mode: with
        `exit_threshold`, with a cache, without dropout.
        """
        with evaluation_mode(self):
            return super().generate(*args, **kwargs)

    @staticmethod
    @accept_cache_names
    def create_masks_for_generate(config, inputs_embeds, attention_mask, past_key_values, position_ids=None, **kwargs):
        """The causal mask of a static cache, the same for all steps."""
        tokens = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}
        return create_generation_mask(config, attention_mask, past_key_values, **tokens)


__all__ = ["LoopedThinkerGenerationMixin"]
