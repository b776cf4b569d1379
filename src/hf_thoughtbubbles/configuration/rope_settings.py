# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for the settings of rotary positions."""

from collections.abc import Mapping


ROPE_TYPES = ("default", "linear", "yarn", "llama3")


def check_rope_parameters(rope_parameters: Mapping[str, object] | None):
    """Raise for rotary settings without effect. Inputs are never longer than `max_position_embeddings`."""
    rope_parameters = rope_parameters or {}
    rope_type = rope_parameters.get("rope_type", "default")
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


__all__ = ["ROPE_TYPES", "check_rope_parameters"]
