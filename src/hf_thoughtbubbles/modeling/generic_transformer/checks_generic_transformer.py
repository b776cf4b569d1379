# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for generic transformers."""

import torch
from transformers.cache_utils import Cache

from ...configuration.configuration_generic_transformer import GenericTransformerConfig
from ..common.checks_tokens import check_ids, check_tokens


def check_inputs(
    config: GenericTransformerConfig,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: torch.Tensor | None = None,
    use_cache: bool | None = None,
):
    """Raise for input that the model cannot read."""
    check_tokens(config, input_ids, attention_mask, position_ids, past_key_values, inputs_embeds)
    if not config.is_causal and (use_cache or past_key_values is not None):
        raise ValueError(
            "`use_cache=True` or `past_key_values` was passed, but with `is_causal=False` earlier tokens attend to "
            "later ones, so no cache can be exact. Pass all tokens in one call with `use_cache=False`."
        )
    if position_ids is not None:
        check_ids(position_ids, "position_ids", config.max_position_embeddings, "max_position_embeddings")


__all__ = ["check_inputs"]
