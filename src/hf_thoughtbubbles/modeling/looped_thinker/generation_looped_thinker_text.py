# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Generation of text with looped Thinkers: caches sized by the number of steps."""

import copy

from transformers.cache_utils import DynamicCache, StaticCache

from ..common.cache_names import CACHE_NAME
from ..common.checks_settings import check_generation_config
from ..common.checks_tokens import check_generation_length
from ..common.packed_documents import check_prompt_positions
from .checks_loop import check_count
from .generation_loop import LoopedThinkerGenerationMixin
from .step_cache import StepCache


class TextThinkingMixin(LoopedThinkerGenerationMixin):
    """Generation of text: the cache has as many slots as the steps need."""

    generation_config_fields = ("num_steps", "exit_threshold")

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        check_generation_config(generation_config, self.generation_config_fields)
        check_generation_length(self.config, max_cache_length)
        check_prompt_positions(model_kwargs)
        is_given = model_kwargs.get(CACHE_NAME) is not None
        super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )
        num_steps, cache = model_kwargs.get("num_steps"), model_kwargs.get(CACHE_NAME)
        if cache is None or is_given:
            return
        config = self.config
        if num_steps is not None and num_steps != self.config.num_steps:
            check_count("num_steps", num_steps)
            config = copy.deepcopy(self.config)
            config.num_steps = int(num_steps)
        if type(cache) is StaticCache and config is not self.config:
            model_kwargs[CACHE_NAME] = StaticCache(config=config, max_cache_len=max_cache_length)
        elif type(cache) is DynamicCache:
            model_kwargs[CACHE_NAME] = (
                DynamicCache(config=config, offloading=True)
                if cache.offloading
                else StepCache(config, config.num_steps)
            )


__all__ = ["TextThinkingMixin"]
