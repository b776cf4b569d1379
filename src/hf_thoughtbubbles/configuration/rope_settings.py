# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for the settings of rotary positions."""

import math
from collections.abc import Mapping
from typing import Any

from transformers.configuration_utils import PreTrainedConfig


ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")  # as in transformers 5.23
LOWEST = {"rope_theta": 1, "original_max_position_embeddings": 1, "mscale": 0, "mscale_all_dim": 0}
FACTOR_LISTS = ("short_factor", "long_factor")  # of "longrope": one number for each pair of channels
TEXTS_AND_FLAGS = ("rope_type", "type", "truncate")


def check_rope_parameters(config: PreTrainedConfig, unrotated: str | None = None):
    """
    Raise for rotary settings without effect, and for those with which angles are no numbers; transformers' own checks
    follow.

    Args:
        config (`PreTrainedConfig`): its `head_dim` is the number of channels of a rotated head.
        unrotated (`str`, *optional*): the setting by which nothing is rotated.
    """
    rope_parameters = config.rope_parameters or {}
    rope_type = rope_parameters.get("rope_type", "default")
    default = {"rope_type": "default", "rope_theta": config.default_theta}  # which transformers fills in
    if unrotated is not None and {**default, **rope_parameters} != default:
        raise ValueError(
            f"`rope_parameters={rope_parameters}` was passed, but with `{unrotated}` nothing is rotated. Remove one."
        )
    if rope_type not in ROPE_TYPES:
        raise ValueError(f'`rope_parameters` have the `rope_type` "{rope_type}"; it must be one of {ROPE_TYPES}.')
    check_rope_numbers(rope_parameters)
    check_rotated_channels(rope_parameters, rope_type, config.head_dim)
    if rope_type == "longrope":
        check_longrope(rope_parameters, config.head_dim)
    if unrotated is None:
        PreTrainedConfig.validate_rope(config)


def is_positive_number(value: Any) -> bool:
    """Whether a setting is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def check_rope_numbers(rope_parameters: Mapping[str, Any]):
    """Raise for numbers that are not finite, or too small."""
    required = {"rope_theta"} if rope_parameters.get("rope_type") == "longrope" else {"rope_theta", "factor"}
    for name, value in rope_parameters.items():
        if name in TEXTS_AND_FLAGS or name in FACTOR_LISTS or (value is None and name not in required):
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


def check_rotated_channels(rope_parameters: Mapping[str, Any], rope_type: str, head_dim: int):
    """Raise where channels would not be rotated, or too few are for the frequencies."""
    share = rope_parameters.get("partial_rotary_factor")
    share = 1.0 if share is None else share
    if rope_type == "proportional" and not 2 / head_dim <= share <= 1:
        raise ValueError(
            f"`rope_parameters` have the `partial_rotary_factor` {share}; it must be the share of channels that are "
            f"rotated, from {2 / head_dim:.3g} (one pair of the {head_dim} channels of a head) to 1."
        )
    if rope_type != "proportional" and share != 1:
        raise ValueError(
            f"`rope_parameters` have the `partial_rotary_factor` {share}; all channels are rotated here. Remove it, "
            'or use the `rope_type` "proportional", in which some frequencies are 0.'
        )
    if rope_type == "dynamic" and head_dim < 4:
        raise ValueError(
            f'`rope_parameters` have the `rope_type` "dynamic", which needs heads of 4 channels or more; heads have '
            f"{head_dim}. Use wider heads or another `rope_type`."
        )


def check_longrope(rope_parameters: Mapping[str, Any], head_dim: int):
    """Raise for factors that do not fit the heads, and for an original length of 1, whose logarithm is a divisor."""
    for name in FACTOR_LISTS:
        factors = rope_parameters.get(name)
        if not isinstance(factors, list) or len(factors) != head_dim // 2 or not all(map(is_positive_number, factors)):
            raise ValueError(
                f"`rope_parameters` have the `{name}` {factors}; it must be a list of {head_dim // 2} numbers above "
                f"0, one for each pair of the {head_dim} channels of a head."
            )
    if rope_parameters.get("original_max_position_embeddings") == 1:
        raise ValueError(
            '`rope_parameters` have the `original_max_position_embeddings` 1; with the `rope_type` "longrope" it must '
            "be 2 or more, the length up to which `short_factor` is used."
        )


__all__ = ["ROPE_TYPES", "check_rope_parameters"]
