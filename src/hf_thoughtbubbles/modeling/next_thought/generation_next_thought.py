# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Generation with next-thought models: `num_thoughts` as an option, and latent tokens in the cache."""

from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from ..common.cache_names import CACHE_NAME, accept_cache_names
from ..common.checks_settings import check_generation_config
from ..common.checks_tokens import check_generation_length
from ..common.generation_passes import GenerationPassesMixin
from .checks_next_thought import check_num_thoughts


class NextThoughtGenerationMixin(GenerationPassesMixin):
    """A mixin to list before transformers' `GenerationMixin`. `num_thoughts` is also a field of `GenerationConfig`."""

    generation_config_fields = ("num_thoughts",)
    engine_obstacle = "a next-thought model reads a thought, and writes the next in a text of its own"

    @staticmethod
    @accept_cache_names
    def create_masks_for_generate(config, inputs_embeds, attention_mask, past_key_values, position_ids=None, **kwargs):
        """Return the mask unchanged, because the decoder adds its latent tokens to it."""
        return attention_mask

    def _maybe_initialize_input_ids_for_generation(self, inputs, bos_token_id, model_kwargs):
        # From `encoder_outputs` alone, transformers builds ids of the shape of `last_hidden_state` without its width:
        # here `(B,)`.
        ids = super()._maybe_initialize_input_ids_for_generation(inputs, bos_token_id, model_kwargs)
        return ids[:, None] if inputs is None and ids.ndim == 1 else ids

    @accept_cache_names
    def prepare_inputs_for_generation(self, input_ids, next_sequence_length=None, past_key_values=None, **kwargs):
        """The inputs of `forward`: only the tokens that a passed cache does not hold yet."""
        if next_sequence_length is None and past_key_values is not None:
            num_past, mask = int(past_key_values.get_seq_length()), kwargs.get("decoder_attention_mask")
            if mask is None and 0 < num_past < input_ids.shape[1]:
                next_sequence_length = input_ids.shape[1] - num_past
        return super().prepare_inputs_for_generation(input_ids, next_sequence_length, past_key_values, **kwargs)

    def _prepare_generation_config(self, generation_config=None, *args, **kwargs):
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, *args, **kwargs)
        check_num_thoughts(model_kwargs.get("num_thoughts"))
        return generation_config, model_kwargs

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        check_generation_config(generation_config, ("num_thoughts",))
        check_generation_length(self.config, max_cache_length)
        is_given = model_kwargs.get(CACHE_NAME) is not None
        super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )
        cache = model_kwargs.get(CACHE_NAME)
        if isinstance(cache, EncoderDecoderCache) and cache.is_compileable and not is_given:
            # transformers sizes the static cross-attention half by the encoder's output; latent tokens need another.
            model_kwargs[CACHE_NAME] = EncoderDecoderCache(cache.self_attention_cache, DynamicCache())


__all__ = ["NextThoughtGenerationMixin"]
