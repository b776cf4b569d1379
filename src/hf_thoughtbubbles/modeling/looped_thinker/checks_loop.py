# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation that both kinds of looped Thinkers share."""

import numbers

import torch.distributed as dist
from torch import nn

from ...configuration.looped_settings import LoopedThinkerSettings


def check_count(name: str, count, highest: int | None = None, highest_name: str | None = None, lowest: int = 1):
    """Refuse a count that is no whole number, or not between `lowest` and `highest`, the value of `highest_name`."""
    if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < lowest:
        raise ValueError(f"`{name}` is {count!r}; it must be a whole number of at least {lowest}.")
    if highest is not None and count > highest:
        raise ValueError(
            f"`{name}` is {count}, but `{highest_name}` is {highest}. Use fewer, or build a model with a larger "
            f"`{highest_name}`."
        )


def check_selection(selection):
    """Refuse to count hidden states from the last: transformers counts layers, and each is applied in each step."""
    if isinstance(selection, bool) or selection is None:
        return
    if any(index < 0 for index in ([selection] if isinstance(selection, int) else selection)):
        raise ValueError(
            f"`output_hidden_states={selection}` was passed, but this model counts hidden states from the first one. "
            "Pass indices from 0, or True for all."
        )


def check_layers(layers: nn.ModuleList):
    """
    Refuse layers that FSDP gathers one by one when they are called: the memory is projected before that. The wrapper
    classes are compared by name, because not every torch has them.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    wrappers = {"FSDPModule", "FullyShardedDataParallel"}
    if any(parent.__name__ in wrappers for layer in layers for parent in type(layer).__mro__):
        raise ValueError(
            "FSDP wraps every `LoopedThinkerLayer` of this model, but the layers must be gathered together. Shard the "
            "model as a whole: `accelerate launch --fsdp_auto_wrap_policy NO_WRAP`, or "
            '`fsdp_config={"auto_wrap_policy": "NO_WRAP"}` in TrainingArguments.'
        )


def find_mask_obstacles(config: LoopedThinkerSettings) -> dict[str, str]:
    """The kinds of masks that a memory does not fit: queries attend to keys of many steps, or of another text."""
    if config.model_type == "looped_thinker":
        reason = "a problem, whose padding it hides, is read by latents of another number"
        return dict.fromkeys(("block", "padding"), reason)
    if config.skip_cross_attention:
        return {}
    reason = "every token attends to the latents of all earlier tokens after each step"
    return dict.fromkeys(("block", "padding", "none"), reason)


__all__ = ["check_count", "check_layers", "check_selection", "find_mask_obstacles"]
