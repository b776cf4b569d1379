# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How do the parameters of another implementation's `state_dict` come into a model of ours?"""

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
    Copy every parameter that is named; all or, where something does not fit, none.

    Args:
        model (`nn.Module`): what they go into.
        names (`Mapping`): each name that the state must have, to that of our parameter, or of several that lie in it
            one after the other along the first axis.
        state_dict (`Mapping[str, Tensor or array]`): the other implementation's.
        arguments (`str`): what its sizes come from, for the errors.
        ignored (`Set[str]`): names in the state that are left out.

    Raises:
        `ValueError`: when names or shapes do not fit; lists them.
    """
    given = set(state_dict) - ignored
    missing, unexpected = sorted(set(names) - given), sorted(given - set(names))
    if missing or unexpected:
        raise ValueError(
            f"`state_dict` lacks {missing} and has unexpected {unexpected} for {arguments}. Give those that the "
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
                f"`state_dict` has {theirs} of shape {tuple(value.shape)}, but {arguments} make it {tuple(shape)}."
            )
        copies += zip(targets, value.split(sizes), strict=True)
    with torch.no_grad():
        for target, part in copies:
            target.copy_(part)


__all__ = ["copy_parameters"]
