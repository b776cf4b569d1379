# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Generation with looped Thinkers: numbers of steps and latents, caches sized by them, and parallel answers."""

import copy

from transformers.cache_utils import DynamicCache, StaticCache
from transformers.generation import GenerationMode

from ..common.cache_names import CACHE_NAME, accept_cache_names, create_causal_mask
from ..common.checks_tokens import check_generation_length
from .checks_looped_thinker import check_count


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


class TextThinkingMixin(LoopedThinkerGenerationMixin):
    """Generation of text: the cache has as many slots as the steps need."""

    generation_config_fields = ("num_steps", "exit_threshold")

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        check_generation_length(self.config, max_cache_length)
        is_given = model_kwargs.get(CACHE_NAME) is not None
        super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )
        num_steps, cache = model_kwargs.get("num_steps"), model_kwargs.get(CACHE_NAME)
        if num_steps is None or cache is None or is_given or num_steps == self.config.num_steps:
            return
        check_count("num_steps", num_steps)
        config = copy.deepcopy(self.config)
        config.num_steps = int(num_steps)
        if type(cache) is StaticCache:
            model_kwargs[CACHE_NAME] = StaticCache(config=config, max_cache_len=max_cache_length)
        elif type(cache) is DynamicCache:
            model_kwargs[CACHE_NAME] = DynamicCache(config=config, offloading=cache.offloading)
            if generation_config.is_assistant:
                model_kwargs[CACHE_NAME].activate_past_recording()


class AnswerThinkingMixin(LoopedThinkerGenerationMixin):
    """Generation of answers: a parallel answer is read out once, then searched as any other."""

    generation_config_fields = ("num_steps", "num_latents", "num_read_steps")

    @accept_cache_names
    def prepare_inputs_for_generation(self, input_ids, next_sequence_length=None, past_key_values=None, **kwargs):
        # transformers skips tokens in a given cache only if a `decoder_attention_mask` tells how many there are.
        if next_sequence_length is None and past_key_values is not None:
            num_past, mask = int(past_key_values.get_seq_length()), kwargs.get("decoder_attention_mask")
            if mask is None and 0 < num_past < input_ids.shape[1]:
                next_sequence_length = input_ids.shape[1] - num_past
        cache = {CACHE_NAME: past_key_values}
        return super().prepare_inputs_for_generation(input_ids, next_sequence_length, **cache, **kwargs)

    def _prepare_generation_config(self, generation_config=None, *args, **kwargs):
        asked = generation_config
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, *args, **kwargs)
        # The model's default is a number of new tokens; a limit from the caller, of either kind, overrides it.
        is_total = kwargs.get("max_length") is not None or (asked is not None and asked.max_length is not None)
        is_new = kwargs.get("max_new_tokens") is not None or (asked is not None and asked.max_new_tokens is not None)
        if is_total and not is_new:
            generation_config.max_new_tokens = None
        elif not is_total:
            generation_config.max_length = None
        return generation_config, model_kwargs

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        if max_cache_length > self.config.max_answer_length:
            raise ValueError(
                f"The answer may become {max_cache_length} tokens long, but `max_answer_length` is "
                f"{self.config.max_answer_length}. Use fewer `max_new_tokens`."
            )
        if self.config.readout == "parallel":
            is_assistant = getattr(generation_config, "is_assistant", False)
            if is_assistant or generation_mode == GenerationMode.ASSISTED_GENERATION:
                raise ValueError(
                    'Assisted or prompt-lookup generation was requested, but `readout="parallel"` reads an answer out '
                    "in one pass, so there is nothing to speed up. Remove the argument that requests it."
                )
            asked = [name for name in ("cache_implementation",) if getattr(generation_config, name)]
            asked += [CACHE_NAME] if model_kwargs.get(CACHE_NAME) is not None else []
            if asked:
                raise ValueError(f'`{asked[0]}` was passed, but `readout="parallel"` needs no cache. Remove it.')
            generation_config.use_cache = False
            encoder_outputs = model_kwargs["encoder_outputs"]
            encoder_outputs["answer_logits"] = self(
                encoder_outputs=encoder_outputs, answer_length=max_cache_length
            ).logits
        super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )


__all__ = ["AnswerThinkingMixin", "TextThinkingMixin"]
