# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Options of layers that several configurations have, and their validation."""

from typing import Literal

from transformers.configuration_utils import PreTrainedConfig

from .size_settings import check_counts, check_heads, check_scales


Normalization = Literal["rms_norm", "layer_norm", "none"]
AttentionBias = bool | Literal["qkv"]  # "qkv": queries, keys and values have biases, the output has none
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


def fill_heads(config: PreTrainedConfig):
    """
    Set `num_key_value_heads` and `head_dim` where they are not given: one head of keys for each query head, and heads
    that divide the width evenly.
    """
    check_counts(config, ("hidden_size", "num_attention_heads"))
    if config.num_key_value_heads is None:
        config.num_key_value_heads = config.num_attention_heads
    if config.head_dim is None:
        check_heads(config)
        config.head_dim = config.hidden_size // config.num_attention_heads
    check_counts(config, ("num_key_value_heads", "head_dim"))
    check_key_value_heads(config)


def check_layers(config: PreTrainedConfig, *dropouts: str):
    """Raise for an unknown activation, for epsilons and deviations that are not positive, and for wrong dropouts."""
    if config.hidden_act not in HIDDEN_ACTS:
        raise ValueError(f'`hidden_act` is "{config.hidden_act}"; it must be one of {HIDDEN_ACTS}.')
    check_scales(config, ("rms_norm_eps", "layer_norm_eps", "initializer_range"), dropouts)


__all__ = ["HIDDEN_ACTS", "AttentionBias", "Normalization", "check_key_value_heads", "check_layers", "fill_heads"]
