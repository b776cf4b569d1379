# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Which rotary settings do our models take?"""

ROPE_TYPES = ("default", "linear", "yarn", "llama3")


def check_rope_parameters(rope_parameters: dict | None):
    """Refuse rotary settings that would not act: inputs are never longer than `max_position_embeddings`."""
    rope_parameters = rope_parameters or {}
    rope_type = rope_parameters.get("rope_type", "default")
    if rope_type not in ROPE_TYPES:
        raise ValueError(
            f'`rope_parameters` have the `rope_type` "{rope_type}"; it must be one of {ROPE_TYPES}. Types that '
            "act only on inputs longer than `max_position_embeddings` are left out: such inputs are refused."
        )
    if rope_parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(
            f"`rope_parameters` have a `partial_rotary_factor` of {rope_parameters['partial_rotary_factor']}; all "
            "channels are rotated here. Leave it out."
        )


__all__ = ["ROPE_TYPES", "check_rope_parameters"]
