# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for the settings of rotary positions."""

import math
from collections.abc import Mapping
from typing import Any

from transformers.configuration_utils import PreTrainedConfig


ROPE_TYPES = ("default", "linear", "yarn", "llama3")
LOWEST = {"rope_theta": 1, "original_max_position_embeddings": 1, "mscale": 0, "mscale_all_dim": 0}
TEXTS_AND_FLAGS = ("rope_type", "type", "truncate")


def check_rope_parameters(config: PreTrainedConfig, unrotated: str | None = None):
    """
    Raise for rotary settings without effect, and for those with which angles are no numbers.

    Inputs are never longer than `max_position_embeddings`. `unrotated` names the setting by which nothing is rotated.
    """
    rope_parameters = config.rope_parameters or {}
    rope_type = rope_parameters.get("rope_type", "default")
    default = {"rope_type": "default", "rope_theta": config.default_theta}  # which transformers fills in
    if unrotated is not None and {**default, **rope_parameters} != default:
        raise ValueError(
            f"`rope_parameters={rope_parameters}` was passed, but with `{unrotated}` nothing is rotated. Remove one."
        )
    if rope_type not in ROPE_TYPES:
        raise ValueError(
            f'`rope_parameters` have the `rope_type` "{rope_type}"; it must be one of {ROPE_TYPES}. Other types '
            "change only inputs longer than `max_position_embeddings`, which are refused."
        )
    if rope_parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(
            f"`rope_parameters` have a `partial_rotary_factor` of {rope_parameters['partial_rotary_factor']}; all "
            "channels are rotated here. Remove it."
        )
    check_rope_numbers(rope_parameters)


def check_rope_numbers(rope_parameters: Mapping[str, Any]):
    """Raise for numbers that are not finite, or too small."""
    for name, value in rope_parameters.items():
        if name in TEXTS_AND_FLAGS or (value is None and name not in ("rope_theta", "factor")):
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        lowest = LOWEST.get(name)
        if not is_number or value <= 0 if lowest is None else not is_number or value < lowest:
            raise ValueError(
                f"`rope_parameters` have the `{name}` {value!r}; it must be a finite number, "
                f"{'above 0' if lowest is None else f'{lowest} or more'}."
            )
    low, high = (rope_parameters.get(f"{side}_freq_factor") for side in ("low", "high"))
    if low is not None and high is not None and low >= high:
        raise ValueError(
            f"`rope_parameters` have the `high_freq_factor` {high}; it must be above the `low_freq_factor` {low}."
        )


__all__ = ["ROPE_TYPES", "check_rope_parameters"]
