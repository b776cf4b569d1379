# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Generation that both kinds of looped Thinkers share: numbers of steps and latents as fields of its configuration."""

from ..common.cache_names import accept_cache_names, create_causal_mask


class LoopedThinkerGenerationMixin:
    """
    Passes fields of the generation configuration to `forward`. Put it before transformers' `GenerationMixin`.

    `generation_config_fields` are arguments of `forward` that a `GenerationConfig` may set.
    """

    generation_config_fields: tuple[str, ...] = ("num_steps",)

    @staticmethod
    @accept_cache_names
    def create_masks_for_generate(config, inputs_embeds, attention_mask, past_key_values, position_ids=None, **kwargs):
        """The causal mask of a static cache, the same for all steps."""
        return create_causal_mask(
            config=config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )

    def _prepare_generation_config(self, generation_config=None, *args, **kwargs):
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, *args, **kwargs)
        # An assistant is given the configuration of the model that it assists, but uses its own number of steps.
        is_assistant = getattr(generation_config, "is_assistant", False)
        chosen = self.generation_config if is_assistant else generation_config
        for name in self.generation_config_fields:
            value = getattr(chosen, name, None)
            if value is not None and model_kwargs.get(name) is None:
                model_kwargs[name] = value
        return generation_config, model_kwargs

    def _get_candidate_generator(self, *args, model_kwargs, **kwargs):
        own = {key: value for key, value in model_kwargs.items() if key not in self.generation_config_fields}
        return super()._get_candidate_generator(*args, model_kwargs=own, **kwargs)


__all__ = ["LoopedThinkerGenerationMixin"]
