# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Copying parameters from another implementation's `state_dict` into our models."""

from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import nn


def copy_parameters(
    model: nn.Module,
    names: Mapping[str, str | tuple[str, ...]],
    state_dict: Mapping[str, Any],
    arguments: str,
    ignored: Set[str] = frozenset(),
):
    """
    Copy every named parameter, or none when something does not fit.

    Args:
        model (`nn.Module`): the model that gets the parameters.
        names (`Mapping`): maps each name in the state to the name of our parameter, or to the names of several that it
            holds one after the other along the first axis.
        state_dict (`Mapping[str, Tensor or array]`): the state of the other implementation.
        arguments (`str`): the name of the arguments that set the sizes, for error messages.
        ignored (`Set[str]`): names in the state that are not copied.

    Raises:
        `ValueError`: when names or shapes do not fit; lists them.
    """
    given = set(state_dict) - ignored
    missing, unexpected = sorted(set(names) - given), sorted(given - set(names))
    if missing or unexpected:
        raise ValueError(
            f"`state_dict` lacks {missing} and has unexpected {unexpected} for {arguments}. Pass those that the "
            "checkpoint was made with."
        )
    parameters, copies = dict(model.named_parameters()), []
    for theirs, ours in names.items():
        value = torch.as_tensor(state_dict[theirs])
        targets = [parameters[name] for name in (ours if isinstance(ours, tuple) else (ours,))]
        sizes = [len(target) for target in targets]
        shape = (sum(sizes), *targets[0].shape[1:])
        if value.shape != shape:
            raise ValueError(
                f"`state_dict` has {theirs} of shape {tuple(value.shape)}; by {arguments} it must be {tuple(shape)}."
            )
        copies += zip(targets, value.split(sizes), strict=True)
    with torch.no_grad():
        for target, part in copies:
            target.copy_(part)


__all__ = ["copy_parameters"]
