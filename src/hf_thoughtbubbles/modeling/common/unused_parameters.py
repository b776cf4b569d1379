# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Gradients of zero for parameters that a pass does not use, because DDP waits for a gradient of every parameter."""

import torch
from torch import nn


class UnusedParameters(torch.autograd.Function):
    """Returns a tensor as it is, and gives parameters that it does not depend on gradients of zero."""

    @staticmethod
    def forward(hidden_states, *parameters):
        return hidden_states.view_as(hidden_states)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, hidden_states_grad):
        return hidden_states_grad, *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)


def add_zero_gradients(hidden_states: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """The same states, from which the trained parameters of a module that is not used get gradients of zero."""
    return UnusedParameters.apply(hidden_states, *(part for part in module.parameters() if part.requires_grad))


__all__ = ["add_zero_gradients"]
