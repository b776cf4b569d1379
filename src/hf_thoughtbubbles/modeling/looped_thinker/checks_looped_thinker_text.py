# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for looped Thinkers that are language models."""

import math
import numbers

import torch
from transformers.cache_utils import Cache, DynamicCache, QuantizedCache, StaticCache

from ...configuration.configuration_looped_thinker_text import LoopedThinkerTextConfig
from ..common.checks_caches import check_rows, is_filled
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
) -> torch.Tensor | None:
    """
    Refuse a text, a number of steps, an exit threshold or a cache that does not fit; returns the mask, or `None` if it
    hides nothing.
    """
    attention_mask = check_tokens(config, input_ids, attention_mask, position_ids, past_key_values, inputs_embeds)
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
        batch_size = (input_ids if inputs_embeds is None else inputs_embeds).shape[0]
        check_cache(config, past_key_values, config.num_steps if num_steps is None else num_steps, batch_size)
    return attention_mask


def check_cache(config: LoopedThinkerTextConfig, past_key_values: Cache, num_steps: int, batch_size: int):
    """Refuse a cache of another kind, that another number of steps filled, with too few slots, or of other rows."""
    if not isinstance(past_key_values, (DynamicCache, StaticCache, QuantizedCache)):
        raise ValueError(
            f"`past_key_values` is a `{type(past_key_values).__name__}`, which stores what another family needs. "
            "Use the cache that this model returned for the same batch, or remove it."
        )
    needed = config.count_cache_slots(num_steps)
    layers = past_key_values.layers
    if past_key_values.layer_class_to_replicate is None and len(layers) < needed:
        raise ValueError(
            f"`past_key_values` has {len(layers)} slots, but {num_steps} steps need {needed}. Remove it and use "
            "the cache that the model returns, or pass a `DynamicCache()` without a config, which grows."
        )
    num_filled = sum(map(is_filled, layers))
    is_allocated = past_key_values.is_compileable and num_filled == len(layers)  # static slots, perhaps still empty
    if num_filled not in (0, needed) and not is_allocated:
        raise ValueError(
            f"`past_key_values` holds {num_filled} filled slots, but {num_steps} steps fill {needed}: earlier tokens "
            "took another number of steps. Use the same `num_steps` for a text from its first token on."
        )
    heads = config.num_key_value_heads // config.num_head_processes, config.head_dim
    check_rows((layers[0], layers[-1]) if layers else (), batch_size, *heads)


def check_step_outputs(config: LoopedThinkerTextConfig, output_steps: bool, past_key_values: Cache | None):
    """Refuse to return what each step would give where earlier tokens have keys and values of the last step alone."""
    if not output_steps or config.num_coda_layers == 0 or past_key_values is None:
        return
    if past_key_values.is_compileable or past_key_values.get_seq_length() > 0:
        raise ValueError(
            "`output_steps=True` was passed with a `past_key_values` that is static or already holds tokens, but the "
            "layers after the loop store keys and values of the last step alone. Pass the whole text in one call."
        )


__all__ = ["check_step_outputs", "check_text"]
