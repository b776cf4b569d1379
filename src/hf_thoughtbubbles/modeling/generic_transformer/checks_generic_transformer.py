# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for generic transformers."""

import torch
from transformers.cache_utils import Cache

from ...configuration.configuration_generic_transformer import GenericTransformerConfig
from ..common.checks_caches import FULL, check_cache_layers
from ..common.checks_tokens import check_tokens


def check_inputs(
    config: GenericTransformerConfig,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: torch.Tensor | None = None,
    use_cache: bool | None = None,
) -> torch.Tensor | None:
    """Raise for input that the model cannot read; returns the mask, or `None` if it hides nothing."""
    attention_mask = check_tokens(config, input_ids, attention_mask, position_ids, past_key_values, inputs_embeds)
    if not config.is_causal and (use_cache or past_key_values is not None):
        raise ValueError(
            "`use_cache=True` or `past_key_values` was passed, but with `is_causal=False` earlier tokens attend to "
            "later ones, so no cache can be exact. Pass all tokens in one call with `use_cache=False`."
        )
    if past_key_values is not None:
        batch_size, layer_types = (input_ids if inputs_embeds is None else inputs_embeds).shape[0], [FULL]
        heads = config.num_key_value_heads // config.num_head_processes, config.head_dim
        check_cache_layers(past_key_values, layer_types * config.num_hidden_layers, batch_size, *heads)
    return attention_mask


def find_mask_obstacles(config: GenericTransformerConfig) -> dict[str, str]:
    """The kinds of masks that relative positions, whose bias is added to a mask of pairs, do not fit."""
    if config.position_embedding != "relative":
        return {}
    reason = '`position_embedding="relative"` adds a bias to the scores of all pairs'
    return dict.fromkeys(("block", "padding", "none"), reason)


__all__ = ["check_inputs", "find_mask_obstacles"]
