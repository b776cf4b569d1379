# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for looped Thinkers that are language models."""

import math
import numbers

from transformers.cache_utils import Cache, EncoderDecoderCache

from ...configuration.configuration_looped_thinker_text import LoopedThinkerTextConfig
from ..common.checks_tokens import check_tokens
from .checks_loop import check_count


def check_text(
    config: LoopedThinkerTextConfig,
    is_training: bool,
    input_ids=None,
    attention_mask=None,
    position_ids=None,
    past_key_values: Cache | None = None,
    inputs_embeds=None,
    num_steps: int | None = None,
    exit_threshold: float | None = None,
):
    """Refuse a text, a number of steps, an exit threshold or a cache that does not fit."""
    check_tokens(config, input_ids, attention_mask, position_ids, past_key_values, inputs_embeds)
    if num_steps is not None:
        check_count("num_steps", num_steps)
    if exit_threshold is not None:
        is_number = isinstance(exit_threshold, numbers.Real) and not isinstance(exit_threshold, bool)
        if not is_number or not 0 <= exit_threshold < math.inf:
            raise ValueError(
                f"`exit_threshold` is {exit_threshold!r}; it must be a finite number of at least 0, the relative "
                "change below which a token is done."
            )
        if is_training:
            raise ValueError(
                f"`exit_threshold={exit_threshold}` was passed to a model in training, where every token takes all "
                "steps. Remove it or call `model.eval()`."
            )
    if past_key_values is not None:
        check_cache(config, past_key_values, config.num_steps if num_steps is None else num_steps)


def check_cache(config: LoopedThinkerTextConfig, past_key_values: Cache, num_steps: int):
    """Refuse a cache that another number of steps filled, or that has too few slots."""
    if isinstance(past_key_values, EncoderDecoderCache):
        raise ValueError(
            "`past_key_values` is an `EncoderDecoderCache`, but a text has one cache. Use the cache that the model "
            "returns."
        )
    needed = config.num_hidden_layers * num_steps * (1 if config.skip_self_attention else 2)
    layers = past_key_values.layers
    if past_key_values.layer_class_to_replicate is None and len(layers) < needed:
        raise ValueError(
            f"`past_key_values` has {len(layers)} slots, but {num_steps} steps need {needed}. Remove it and use "
            "the cache that the model returns, or pass a `DynamicCache()` without a config, which grows."
        )
    num_filled = sum(layer.is_initialized and int(layer.keys.numel() > 0) for layer in layers)
    is_allocated = past_key_values.is_compileable and num_filled == len(layers)  # static slots, perhaps still empty
    if num_filled not in (0, needed) and not is_allocated:
        raise ValueError(
            f"`past_key_values` holds {num_filled} filled slots, but {num_steps} steps fill {needed}: earlier tokens "
            "took another number of steps. Use the same `num_steps` for a text from its first token on."
        )


__all__ = ["check_text"]
