# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Options of the generic layers that several configurations have, and their validation."""

from typing import Literal

from transformers.configuration_utils import PreTrainedConfig

from .size_settings import check_scales


Normalization = Literal["rms_norm", "layer_norm", "none"]
HIDDEN_ACTS = ("gelu", "relu", "leaky_relu", "tanh", "sigmoid", "silu", "learned", "none")


def check_key_value_heads(
    config: PreTrainedConfig, heads: str = "num_attention_heads", kv_heads: str = "num_key_value_heads"
):
    """Raise for key and value heads that do not divide the query heads evenly."""
    if getattr(config, heads) % getattr(config, kv_heads) != 0:
        raise ValueError(
            f"`{heads}` {getattr(config, heads)} is not a multiple of `{kv_heads}` {getattr(config, kv_heads)}. "
            "Change one so that every head of keys serves as many queries."
        )


def check_layers(config: PreTrainedConfig, *dropouts: str):
    """Raise for an unknown activation, for epsilons and deviations that are not positive, and for wrong dropouts."""
    if config.hidden_act not in HIDDEN_ACTS:
        raise ValueError(f'`hidden_act` is "{config.hidden_act}"; it must be one of {HIDDEN_ACTS}.')
    check_scales(config, ("rms_norm_eps", "layer_norm_eps", "initializer_range"), dropouts)


__all__ = ["HIDDEN_ACTS", "Normalization", "check_key_value_heads", "check_layers"]
