# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The layers of the generic transformer (docs/reference_behaviour.md, "Generic transformer").

Generic transformers use them over tokens, byte-patch models over patches, next-thought models over both thoughts.
Their `config` has the fields of a [`GenericTransformerConfig`]: it is one, or a view of another configuration.

Shapes: B batch, S positions, M keys, N heads, K heads of keys and values, H head size, D hidden, R relative distances.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ..common.batching_engines import update_paged_cache
from ..common.cache_names import CACHE_NAMES
from ..common.common_layers import RotaryEmbedding, eager_attention_forward, embed_sinusoids, get_layer_cache
from ..common.decoder_parts import FeedForward, HeadProjections, build_norm
from ..common.split_heads import find_head_mesh, share_with_heads


NUM_CURVE_POINTS = 10  # hidden units of the learned activation
# Arguments that accelerate must not move to a layer's device: caches choose their device, and moving a shared module
# moves its weights, which are absent while they are offloaded to disk.
SKIP_DEVICE_PLACEMENT = [*CACHE_NAMES, "activation", "shared_mlp"]


class LearnedActivation(nn.Module):
    """
    A trainable curve, the same for all channels: a network of one input, ten ReLU units and one output.

    Its weights are plain parameters, so that adapters for linear layers do not change them. The units are added one by
    one, so that the sum has the same bits wherever the weights are in memory.
    """

    def __init__(self):
        super().__init__()
        self.up_weight = nn.Parameter(torch.empty(NUM_CURVE_POINTS, 1))
        self.up_bias = nn.Parameter(torch.empty(NUM_CURVE_POINTS))
        self.down_weight = nn.Parameter(torch.empty(1, NUM_CURVE_POINTS))
        self.down_bias = nn.Parameter(torch.empty(1))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        units = zip(self.up_weight[:, 0], self.up_bias, self.down_weight[0], strict=True)
        return sum((F.relu(hidden_states * slope + bias) * weight for slope, bias, weight in units), self.down_bias)


def build_activation(name: str) -> nn.Module:
    """Build the activation that `hidden_act` names."""
    return LearnedActivation() if name == "learned" else ACT2FN["linear" if name == "none" else name]


class PositionVectors(nn.Module):
    """A vector for each position, to be added: learned, or sines in even and cosines in odd channels."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.hidden_size = config.hidden_size
        self.table = None
        if config.position_embedding == "learned":
            self.table = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Vectors `(B or 1, S, D)` of `position_ids` `(B or 1, S)`, in the dtype of `hidden_states`."""
        if self.table is not None:
            return self.table(position_ids)
        return embed_sinusoids(position_ids, self.hidden_size).to(hidden_states.dtype)


def rotate_pairs(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """
    Rotary embedding in the interleaved form: channels 2m and 2m + 1 are a pair.

    Args:
        states (`torch.Tensor` of shape `(B, S, N, H)`): queries or keys.
        cos, sin (`torch.Tensor` of shape `(B or 1, S, 1, H/2)`): from [`RotaryEmbedding`].

    Returns:
        `torch.Tensor` of shape `(B, S, N, H)`.

    >>> quarter = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    >>> rotate_pairs(torch.tensor([[[[1.0, 2.0]]]]), *quarter)
    tensor([[[[-2.,  1.]]]])
    """
    even, odd = states[..., 0::2], states[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def add_mask(bias: torch.Tensor, attention_mask: torch.Tensor | None, is_causal: bool) -> torch.Tensor:
    """
    The bias `(B, N, S, M)` with a mask added, which is boolean (True: attend) or additive (0: attend).

    Without a mask, causal attention masks later keys. transformers passes no mask for a single query, which attends to
    all keys, and for the first tokens of a row, whatever the length of the cache.
    """
    lowest = torch.finfo(bias.dtype).min
    if attention_mask is None and is_causal and bias.shape[-2] > 1:
        attention_mask = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).tril()
    if attention_mask is None:
        return bias
    if attention_mask.dtype == torch.bool:
        return bias.masked_fill(~attention_mask, lowest)
    return (bias + attention_mask).clamp(min=lowest)


class GenericAttention(HeadProjections):
    """Self-attention with grouped heads; causal or not, with rotary, relative or no positions of its own."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int):
        heads = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        super().__init__(config.hidden_size, *heads, config.attention_bias)
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = config.is_causal
        self.distances = None
        if config.position_embedding == "relative":
            self.distances = nn.Embedding(2 * config.max_relative_position + 1, config.head_dim)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout)

    def relative_position_bias(
        self, query: torch.Tensor, query_positions: torch.Tensor, key_positions: torch.Tensor
    ) -> torch.Tensor:
        """The bias `(B, N, S, M)` of relative positions: queries `(B, N, S, H)` times the vector of each distance."""
        farthest = self.config.max_relative_position
        vectors = self.distances(torch.arange(2 * farthest + 1, device=query.device))
        vectors = share_with_heads(vectors, find_head_mesh(self.q_proj))
        products = query @ vectors.T * self.scaling  # (B, N, S, R)
        distance = (key_positions[:, None] - query_positions[..., None]).clamp(-farthest, farthest) + farthest
        distance = distance[:, None].expand(*products.shape[:3], -1)  # (B, N, S, M)
        return products.gather(-1, distance)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, S, D)
        position_ids: torch.Tensor,  # (B or 1, S)
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        key_positions: torch.Tensor | None = None,  # (B or 1, M), where they are not those of the queries
        cache_kwargs: dict | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key = self.project_query(hidden_states), self.project_key(hidden_states)
        value = self.project_value(hidden_states).transpose(1, 2)
        if position_embeddings is not None:
            query, key = rotate_pairs(query, *position_embeddings), rotate_pairs(key, *position_embeddings)
        query, key = query.transpose(1, 2), key.transpose(1, 2)  # (B, N, S, H), (B, K, S, H)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx, **(cache_kwargs or {}))
        key, value = update_paged_cache(key, value, self.layer_idx, kwargs)
        if self.distances is not None:
            bias = self.relative_position_bias(
                query, position_ids, position_ids if key_positions is None else key_positions
            )
            attention_mask = add_mask(bias, attention_mask, self.is_causal)

        implementation = self.config._attn_implementation
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        attn_output, attn_weights = attention_interface(
            self,
            query,
            self.repeat_groups(key, implementation),
            self.repeat_groups(value, implementation),
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        attn_output = attn_output.reshape(*hidden_states.shape[:-1], -1)  # (B, S, N * H); engines return (S, N * H)
        return self.hidden_dropout(self.o_proj(attn_output)), attn_weights


class GenericDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward layer, each added to the residual stream."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int):
        super().__init__()
        self.self_attn = GenericAttention(config, layer_idx)
        self.mlp = None if config.share_feed_forward else FeedForward(config)
        self.input_layernorm = build_norm(config, config.attention_normalization, config.attention_bias)
        self.post_attention_layernorm = build_norm(config, config.mlp_normalization, config.mlp_bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        activation: nn.Module,
        shared_mlp: nn.Module | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        mlp = shared_mlp if self.mlp is None else self.mlp
        return hidden_states + mlp(self.post_attention_layernorm(hidden_states), activation=activation)


class GenericStack(nn.Module):
    """All layers, with the modules that they share: positions, activation and, as an option, a feed-forward layer."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        self.positions = PositionVectors(config) if config.position_embedding in ("learned", "sinusoidal") else None
        self.rotary_emb = RotaryEmbedding(config) if config.position_embedding == "rope" else None
        self.act_fn = build_activation(config.hidden_act if config.feed_forward == "mlp" else "none")
        self.shared_mlp = FeedForward(config) if config.share_feed_forward else None
        self.layers = nn.ModuleList(GenericDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_ids: torch.Tensor,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """States `(B, S, D)` after the last layer, before a final norm; `position_ids` `(B or 1, S)`."""
        if self.positions is not None:
            hidden_states = hidden_states + self.positions(hidden_states, position_ids)
        hidden_states = self.embedding_dropout(hidden_states)
        position_embeddings = None if self.rotary_emb is None else self.rotary_emb(hidden_states, position_ids)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                activation=self.act_fn,
                shared_mlp=self.shared_mlp,
                position_ids=position_ids,
                position_embeddings=position_embeddings,
                past_key_values=get_layer_cache(layer, past_key_values),
                **kwargs,
            )
        return hidden_states


def init_generic_weights(module: nn.Module):
    """Initialise the parameters of these layers that transformers' own `_init_weights` does not cover."""
    if isinstance(module, LearnedActivation):  # starts as torch's own random network
        for kind, fan_in in (("up", 1), ("down", NUM_CURVE_POINTS)):
            for name in (f"{kind}_weight", f"{kind}_bias"):
                init.uniform_(getattr(module, name), -(fan_in**-0.5), fan_in**-0.5)


__all__ = [
    "SKIP_DEVICE_PLACEMENT",
    "GenericAttention",
    "GenericDecoderLayer",
    "GenericStack",
    "LearnedActivation",
    "PositionVectors",
    "build_activation",
    "init_generic_weights",
    "rotate_pairs",
]
