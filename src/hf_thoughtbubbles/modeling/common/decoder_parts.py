# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Parts of decoder layers that several families share: norms, the feed-forward layer, projections to and from heads.

Their options have the names of a [`GenericTransformerConfig`]. With the options of a native decoder (Llama, GPT-2 and
so on) each part computes the same numbers as that decoder, also in half precision.

Shapes: B batch, S positions, N heads, K heads of keys and values, H head size, D hidden.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import nn
from transformers.configuration_utils import PreTrainedConfig

from .split_heads import find_head_mesh, share_with_heads


if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class RMSNorm(nn.RMSNorm):
    """
    The RMS norm of native decoders, which round the normalised state to its dtype before they multiply it by the
    weight. `nn.RMSNorm` rounds once, after the product, which is another number in half precision.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.weight * F.rms_norm(hidden_states, self.normalized_shape, None, self.eps)


class HeadRMSNorm(RMSNorm):
    """An RMS norm over each head, with one weight for all heads, which `mesh` may split over processes."""

    def forward(self, states: torch.Tensor, mesh: "DeviceMesh | None" = None) -> torch.Tensor:
        weight = share_with_heads(self.weight, mesh)
        return weight * F.rms_norm(states, self.normalized_shape, None, self.eps)


def build_norm(config: PreTrainedConfig, kind: str, bias: bool) -> nn.Module:
    """Build the norm `kind` over `hidden_size` channels; `"none"` gives the identity."""
    if kind == "rms_norm":
        return RMSNorm(config.hidden_size, config.rms_norm_eps)
    if kind == "layer_norm":
        return nn.LayerNorm(config.hidden_size, config.layer_norm_eps, bias=bias)
    return nn.Identity()


class FeedForward(nn.Module):
    """
    Feed-forward layer, plain or with a SiLU gate. The activation of the plain one is an argument, because all layers
    of a generic transformer share a learned one.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        width, wide = config.hidden_size, config.intermediate_size
        self.gate_proj = None
        if config.feed_forward == "swiglu":
            self.gate_proj = nn.Linear(width, wide, bias=config.mlp_bias)
        self.up_proj = nn.Linear(width, wide, bias=config.mlp_bias)
        self.down_proj = nn.Linear(wide, width, bias=config.mlp_bias)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor, activation: nn.Module) -> torch.Tensor:
        raised = self.up_proj(hidden_states)
        raised = activation(raised) if self.gate_proj is None else F.silu(self.gate_proj(hidden_states)) * raised
        return self.hidden_dropout(self.down_proj(raised))


class HeadProjections(nn.Module):
    """
    Base of attention: projections to queries, keys and values of heads, and back.

    Args:
        hidden_size (`int`): D.
        num_heads (`int`): N.
        num_key_value_heads (`int`): K, a divisor of N.
        head_dim (`int`): H; `N * H` may differ from D.
        bias (`bool` or `"qkv"`): whether the projections have biases; `"qkv"` for all but the output's.
        qk_norm_eps (`float`, *optional*): epsilon of an RMS norm over each head of queries and keys; no norm without
            it.
        build_linear (`Callable`): builds a projection from its widths and `bias=`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        bias: bool | Literal["qkv"],
        qk_norm_eps: float | None = None,
        build_linear: Callable[..., nn.Module] = nn.Linear,
    ):
        super().__init__()
        self.head_dim = head_dim
        self.scaling = head_dim**-0.5
        self.num_key_value_groups = num_heads // num_key_value_heads
        wide, narrow = num_heads * head_dim, num_key_value_heads * head_dim
        self.q_proj = build_linear(hidden_size, wide, bias=bool(bias))
        self.k_proj = build_linear(hidden_size, narrow, bias=bool(bias))
        self.v_proj = build_linear(hidden_size, narrow, bias=bool(bias))
        self.o_proj = build_linear(wide, hidden_size, bias=bias is True)
        self.q_norm = self.k_norm = None
        if qk_norm_eps is not None:
            self.q_norm, self.k_norm = HeadRMSNorm(head_dim, qk_norm_eps), HeadRMSNorm(head_dim, qk_norm_eps)

    def project_query(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Queries `(B, S, N, H)` of states `(B, S, D)`, not rotated."""
        query = self.q_proj(hidden_states).unflatten(-1, (-1, self.head_dim))
        return query if self.q_norm is None else self.q_norm(query, find_head_mesh(self.q_proj))

    def project_key(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Keys `(B, S, K, H)` of states `(B, S, D)`, not rotated."""
        key = self.k_proj(hidden_states).unflatten(-1, (-1, self.head_dim))
        return key if self.k_norm is None else self.k_norm(key, find_head_mesh(self.k_proj))

    def project_value(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Values `(B, S, K, H)` of states `(B, S, D)`."""
        return self.v_proj(hidden_states).unflatten(-1, (-1, self.head_dim))

    def repeat_groups(self, states: torch.Tensor, implementation: str) -> torch.Tensor:
        """Keys or values `(B, K, S, H)` as `(B, N, S, H)` for eager attention; other kernels read the K heads."""
        if self.num_key_value_groups == 1 or implementation != "eager":
            return states
        # In the memory layout of native decoders, in which matrix products round alike.
        return states[:, :, None].expand(-1, -1, self.num_key_value_groups, -1, -1).flatten(1, 2)


__all__ = ["FeedForward", "HeadProjections", "RMSNorm", "build_norm"]
