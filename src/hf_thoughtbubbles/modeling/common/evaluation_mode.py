# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Where a model in training has to read as evaluation does: to generate, and to compare likelihoods."""

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """
    Set a model to evaluation mode; afterwards every module has its own mode again.

    >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluation_mode(model):
    ...     print(model.training, model[0].training)
    False False
    >>> model.training, model[0].training, model[1].training
    (True, True, False)
    """
    was_training = [module for module in model.modules() if module.training] if model.training else []
    if was_training:
        model.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True


def compares_likelihoods(tags: list[str] | str) -> bool:
    """
    Whether these tags are those of a trainer of TRL that compares likelihoods of one text: all but SFT.

    >>> compares_likelihoods(["trl", "dpo"]), compares_likelihoods(["trl", "sft"]), compares_likelihoods("text")
    (True, False, False)
    """
    return "trl" in tags and "sft" not in tags


__all__ = ["compares_likelihoods", "evaluation_mode"]
