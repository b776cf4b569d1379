# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What does generation with a next-thought model do that generation with other models does not?

It chooses how many thoughts to think ahead, and keeps latent tokens where other models keep what an encoder read.
"""

from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from ..common.cache_names import CACHE_NAME, accept_cache_names
from .checks_next_thought import check_num_thoughts


class NextThoughtGenerationMixin:
    """To stand before transformers' `GenerationMixin`; `num_thoughts` is also a field of `GenerationConfig`."""

    @staticmethod
    @accept_cache_names
    def create_masks_for_generate(config, inputs_embeds, attention_mask, past_key_values, position_ids=None, **kwargs):
        """With a static cache: the mask as it is, because the model adds its latent tokens to it."""
        return attention_mask

    def _maybe_initialize_input_ids_for_generation(self, inputs, bos_token_id, model_kwargs):
        # Where thoughts come alone, transformers makes up a token for each that was read, of which a thought has none.
        made_up = super()._maybe_initialize_input_ids_for_generation(inputs, bos_token_id, model_kwargs)
        return made_up[:, None] if inputs is None and made_up.ndim == 1 else made_up

    @accept_cache_names
    def prepare_inputs_for_generation(self, input_ids, next_sequence_length=None, past_key_values=None, **kwargs):
        """What `generate` hands to `forward`: of a given cache's tokens, those that it does not hold yet."""
        if next_sequence_length is None and past_key_values is not None:
            num_past, mask = int(past_key_values.get_seq_length()), kwargs.get("decoder_attention_mask")
            if mask is None and 0 < num_past < input_ids.shape[1]:
                next_sequence_length = input_ids.shape[1] - num_past
        return super().prepare_inputs_for_generation(input_ids, next_sequence_length, past_key_values, **kwargs)

    def _prepare_generation_config(self, generation_config=None, *args, **kwargs):
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, *args, **kwargs)
        # An assistant is given the configuration of the model that it assists; it keeps to its own thinking.
        is_assistant = getattr(generation_config, "is_assistant", False)
        chosen = getattr(self.generation_config if is_assistant else generation_config, "num_thoughts", None)
        if chosen is not None and model_kwargs.get("num_thoughts") is None:
            model_kwargs["num_thoughts"] = chosen
        check_num_thoughts(model_kwargs.get("num_thoughts"))
        return generation_config, model_kwargs

    def _get_candidate_generator(self, *args, model_kwargs, **kwargs):
        own = {key: value for key, value in model_kwargs.items() if key != "num_thoughts"}
        return super()._get_candidate_generator(*args, model_kwargs=own, **kwargs)

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        if max_cache_length > self.config.max_position_embeddings:
            raise ValueError(
                f"The next thought may become {max_cache_length} tokens long before its last, but "
                f"`max_position_embeddings` is {self.config.max_position_embeddings}. Ask for fewer new tokens."
            )
        is_given = model_kwargs.get(CACHE_NAME) is not None
        super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )
        cache = model_kwargs.get(CACHE_NAME)
        if isinstance(cache, EncoderDecoderCache) and cache.is_compileable and not is_given:
            # Made as long as the encoder's output is wide; what the latent tokens need, they bring.
            model_kwargs[CACHE_NAME] = EncoderDecoderCache(cache.self_attention_cache, DynamicCache())


__all__ = ["NextThoughtGenerationMixin"]
