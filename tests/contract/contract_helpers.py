# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What the promises share: marks of tests, and gradients of models."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from tests.families import Family


def holds_for(condition: Callable[[Family], bool]) -> Callable:
    """Mark a promise that only some entries keep."""

    def mark(test):
        test.condition = condition
        return test

    return mark


def by(ways: dict[str, dict]) -> Callable:
    """Mark a promise for each way to generate that an entry supports: the test gets its name as `way`."""

    def mark(test):
        test.ways = ways
        return test

    return mark


def has_cache(family: Family) -> bool:
    return family.has_cache


def is_decoder_only(family: Family) -> bool:
    """Whether each input id has a row of logits."""
    return not family.is_encoder_decoder


def compute_gradients(model: PreTrainedModel, inputs: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss and the gradients of a forward pass, which are then cleared."""
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), take_gradients(model)


def take_gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The gradients that a model has, which are then cleared."""
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return gradients


def enable_checkpointing(model: PreTrainedModel, **options) -> None:
    """Compute layers again in the backward pass."""
    # Renamed within the versions of transformers that we support; the old name warns in the new ones.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(options or None)
