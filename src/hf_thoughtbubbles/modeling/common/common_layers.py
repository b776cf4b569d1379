# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Layers that several families share: rotary and sinusoidal positions, eager attention, caches of layers.

Shapes: B batch, S positions, M keys, N heads, H head size.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update


SINUSOID_BASE = 10000.0
LENGTH_DEPENDENT = ("dynamic", "longrope")  # rotary scalings whose frequencies depend on the length of the input


def embed_sinusoids(position_ids: torch.Tensor, hidden_size: int, frequencies: str = "standard") -> torch.Tensor:
    """
    Sinusoidal positions: sines in even channels, cosines in odd ones.

    Args:
        position_ids (`torch.LongTensor` of shape `(B or 1, T)`): positions, from 0.
        hidden_size (`int`): D.
        frequencies (`str`): `"standard"`, a frequency for each channel pair, or `"single"`, frequency 1 for all pairs,
            as in the original Thinker (docs/reference_behaviour.md, "Looped Thinker").

    Returns:
        `torch.FloatTensor` of shape `(B or 1, T, D)`.

    >>> embed_sinusoids(torch.tensor([[0]]), 4, "standard")
    tensor([[[0., 1., 0., 1.]]])
    """
    pairs = torch.arange(0, hidden_size, 2, device=position_ids.device, dtype=torch.float)
    frequency = torch.ones_like(pairs) if frequencies == "single" else SINUSOID_BASE ** (-pairs / hidden_size)
    angles = position_ids[..., None].float() * frequency
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :hidden_size]


class RotaryEmbedding(nn.Module):
    """
    Cosines and sines of rotary embeddings at real-valued positions, for every channel of a head.

    Args:
        config (`PreTrainedConfig`): its `rope_parameters` have any scaling of transformers.
        first_position (`int`, defaults to 0): the position of the first token, from which lengths are counted.
    """

    def __init__(self, config: PreTrainedConfig, first_position: int = 0):
        super().__init__()
        self.config = config
        self.first_position = first_position
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings  # transformers' names
        self.rope_type = config.rope_parameters["rope_type"]
        rope_init_fn: Callable = self.compute_default_rope_parameters
        if self.rope_type != "default":
            rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]
        inv_freq, self.attention_scaling = rope_init_fn(config)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)
        self.original_inv_freq = nn.Buffer(inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: PreTrainedConfig, **kwargs) -> tuple[torch.Tensor, float]:
        """
        Inverse frequencies `1 / theta ** (2m / H)` for channel pair m, rounded as in native decoders, and 1.0, the
        scaling of cosines and sines.
        """
        channels = torch.arange(0, config.head_dim, 2, dtype=torch.float)
        return 1.0 / config.rope_parameters["rope_theta"] ** (channels / config.head_dim), 1.0

    @dynamic_rope_update
    def choose_frequencies(self, x: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """
        The inverse frequencies `(H/2,)` for an input that ends at the last of the positions. transformers' decorator
        replaces them. For "dynamic" it reads the positions: an accelerator waits, and a compiled graph breaks here.
        """
        return self.inv_freq

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines `(B, S, 1, H/2)` of the angles at `position_ids` `(B, S)`, in the dtype of `x`."""
        if self.rope_type in LENGTH_DEPENDENT:
            # Streams of a token have fractional positions, but the last one of each stands at a whole number.
            self.choose_frequencies(x, position_ids.round() - self.first_position)
        angles = position_ids[..., None, None].float() * self.inv_freq.float()
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def rotate_channels(
    states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, last_channel: torch.Tensor
) -> torch.Tensor:
    """
    Rotary embedding in the half-split form, where channels m and m + H/2 are a pair, with another last channel.

    Args:
        states (`torch.Tensor` of shape `(B, S, N, H)`): queries or keys.
        cos, sin (`torch.Tensor` of shape `(B, S, 1, H/2)`): from [`RotaryEmbedding`].
        last_channel (`torch.Tensor` of shape `(B, S, N, 1)`): values that replace the last channel.

    Returns:
        `torch.Tensor` of shape `(B, S, N, H)`.
    """
    first, second = states.chunk(2, dim=-1)
    turned_second = second[..., :-1] * cos[..., :-1] + first[..., :-1] * sin[..., :-1]
    return torch.cat((first * cos - second * sin, turned_second, last_channel), dim=-1)


def double_rotary(cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines `(B, S, 1, H)` of all channels, from those `(B, S, 1, H/2)` of channel pairs."""
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate_natively(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """
    Rotary embedding in the half-split form, with the rounding of native decoders: states `(B, S, N, H)`, `cos` and
    `sin` of [`double_rotary`].
    """
    return states * cos + states.roll(states.shape[-1] // 2, dims=-1) * sin


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention by plain operations, `(B, N, S, H)` to `(B, S, N, H)`, and its weights `(B, N, S, M)`."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    # In float64 the mask has numbers beyond float32, where rows of padding would become NaN.
    weights = F.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def get_layer_cache(layer: nn.Module, past_key_values: Cache | None) -> Cache | None:
    """
    The cache that a layer writes, or `None` under gradient checkpointing, where it would write tokens twice. Pipeline
    parallelism puts another module where another process has the layer.
    """
    is_computed_again = isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing
    return None if is_computed_again and layer.training else past_key_values


__all__ = [
    "RotaryEmbedding",
    "double_rotary",
    "eager_attention_forward",
    "embed_sinusoids",
    "get_layer_cache",
    "rotate_channels",
    "rotate_natively",
]
