# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for the sizes and scales of a configuration."""

import math
from collections.abc import Iterable

from transformers.configuration_utils import PreTrainedConfig


def check_counts(config: PreTrainedConfig, names: Iterable[str]):
    """Raise for fields below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"`{name}` is {getattr(config, name)}; it must be at least 1.")


def check_heads(config: PreTrainedConfig, width: str = "hidden_size", heads: str = "num_attention_heads"):
    """Raise for heads that do not divide the width evenly."""
    if getattr(config, width) % getattr(config, heads) != 0:
        raise ValueError(
            f"`{width}` {getattr(config, width)} is not a multiple of `{heads}` {getattr(config, heads)}. Change one "
            "so that every head gets the same number of channels."
        )


def check_rotary_heads(config: PreTrainedConfig):
    """Raise for an odd head size; for rotary positions only."""
    if config.head_dim % 2 != 0:
        raise ValueError(
            f"The head size `hidden_size / num_attention_heads` = {config.head_dim} is odd, but rotary positions "
            "rotate channels in pairs. Use sizes whose quotient is even."
        )


def check_scales(config: PreTrainedConfig, positive: Iterable[str], dropouts: Iterable[str] = ()):
    """Raise for epsilons and deviations that are not positive and finite, and dropouts outside [0, 1)."""
    for name in positive:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"`{name}` is {getattr(config, name)}; it must be positive and finite.")
    for name in dropouts:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"`{name}` is {getattr(config, name)}; it must be in [0, 1).")


__all__ = ["check_counts", "check_heads", "check_rotary_heads", "check_scales"]
