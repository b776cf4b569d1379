# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Gradients of what all heads read, where tensor parallelism splits the heads over processes.

A process computes the gradient that its own heads give. For the input of a split projection transformers sums it over
processes; for anything else that meets the states of heads, [`share_with_heads`] does. It is part of the graph, so
gradients that accumulate over several passes are right, which transformers' own style for such weights
(`"replicated_with_grad_allreduce"`) sums once more in each pass.
"""

import torch
import torch.distributed as dist
from torch import nn


if dist.is_available():
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Partial, Replicate


def find_head_mesh(projection: nn.Module) -> "DeviceMesh | None":
    """The processes among which the heads of a projection are split; `None` where this one has all."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    return next((weight.device_mesh for weight in projection.parameters() if isinstance(weight, DTensor)), None)


def share_with_heads(states: torch.Tensor | None, mesh: "DeviceMesh | None") -> torch.Tensor | None:
    """The same states, whose gradient is the sum of those that the heads of each process give."""
    if states is None or mesh is None or not (torch.is_grad_enabled() and states.requires_grad):
        return states
    return DTensor.from_local(states, mesh, [Replicate()], run_check=False).to_local(grad_placements=[Partial()])


__all__ = ["find_head_mesh", "share_with_heads"]
