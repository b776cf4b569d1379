# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Layers over streams: attention that scores weigh, the feed-forward layer, and attention masks between forks.

Shapes: B batch, S streams, C slots of the cache, N heads, H head size, D hidden.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ...configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from ..common.batching_engines import update_paged_cache
from ..common.cache_names import create_causal_mask
from ..common.common_layers import eager_attention_forward, rotate_channels
from .cache_streams import StreamSlots


def create_stream_mask(
    config: ThoughtbubblesConfig,
    hidden_states: torch.Tensor,
    documents: torch.Tensor | None = None,
    slots: StreamSlots | None = None,
) -> torch.Tensor | None:
    """
    The attention mask of streams in rows without gaps; `None` where the fused causal path needs none.

    Args:
        config ([`ThoughtbubblesConfig`]): the model's.
        hidden_states (`torch.Tensor` of shape `(B, S, D)`): the new streams.
        documents (`torch.LongTensor` of shape `(B, S)`, *optional*): the document of each, which stay apart.
        slots ([`StreamSlots`], *optional*): the slots of the cache that they get.
    """
    if documents is None and (slots is None or slots.first_slot == 0):
        return create_causal_mask(config=config, inputs_embeds=hidden_states, attention_mask=None)
    if slots is not None and not slots.needs_mask:
        return None  # a single stream, whose row ends with it

    def is_attended(batch_idx, head_idx, query_idx, key_idx):
        is_before = key_idx <= (query_idx if slots is None else slots.slots[batch_idx, query_idx])
        if documents is None:
            return is_before
        return is_before & (documents[batch_idx, query_idx] == documents[batch_idx, key_idx])

    return ALL_MASK_ATTENTION_FUNCTIONS[config._attn_implementation](
        batch_size=hidden_states.shape[0],
        q_length=hidden_states.shape[1],
        kv_length=hidden_states.shape[1] if slots is None else slots.num_slots,
        mask_function=is_attended,
        allow_is_causal_skip=False,
        dtype=hidden_states.dtype,
        device=hidden_states.device,
        config=config,
    )


class ResidualProjection(nn.Linear):
    """
    A projection whose output is added to the residual stream; its initial weights are smaller
    (docs/reference_behaviour.md, "GPT", initial values).

    A class of its own, because transformers gives `_init_weights` no module without own parameters when the code is
    not its own, so an attention layer could not initialise its projection.
    """


class ThoughtbubblesAttention(nn.Module):
    """
    Causal self-attention over streams (docs/reference_behaviour.md, "Thoughtbubbles", Block 2 to 7).

    The score of a stream is the last channel: queries hold 1 there and keys the log score, so a fused causal kernel
    weighs keys by `score ** (1 / sqrt(H))` with no bias tensor. Values are multiplied by the score itself.
    """

    def __init__(self, config: ThoughtbubblesConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        self.has_score_channel = config.fork_score_channel and config.has_fork_scores
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.o_proj = ResidualProjection(config.hidden_size, config.hidden_size, bias=config.bias)
        self.attention_dropout = nn.Dropout(config.attention_dropout)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout)

    def apply_rotary(self, states: torch.Tensor, position_embeddings, last_channel: torch.Tensor | None):
        """Rotate queries or keys `(B, S, N, H)` and replace their last channel; returns `(B, N, S, H)`."""
        if last_channel is not None:
            last_channel = last_channel.to(states.dtype).expand(*states.shape[:-1], 1)
        if position_embeddings is not None:
            states = rotate_channels(states, *position_embeddings, last_channel)
        elif last_channel is not None:
            states = torch.cat((states[..., :-1], last_channel), dim=-1)
        return states.transpose(1, 2)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, S, D); with packed slots (1, n, D), and all arguments of streams likewise
        log_scores: torch.Tensor | None,  # (B, S), finite
        gates: torch.Tensor | None,  # (B, S, 1)
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
        attention_mask: torch.Tensor | None,
        query_mask: torch.Tensor | None,  # (B, S, 1)
        slots: StreamSlots | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attention output `(B, S, D)`, to be added to the streams, and attention weights `(B, N, S, C)`."""
        shape = (*hidden_states.shape[:2], -1, self.head_dim)
        query, key, value = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        if gates is not None:
            value = value * gates

        query_channel = key_channel = None
        if self.has_score_channel:
            query_channel = query.new_ones(1)
            key_channel = query.new_zeros(1) if log_scores is None else log_scores[..., None, None]
        query = self.apply_rotary(query.view(shape), position_embeddings, query_channel)  # (B, N, S, H)
        key = self.apply_rotary(key.view(shape), position_embeddings, key_channel)
        value = value.view(shape).transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx, slots=slots)
        key, value = update_paged_cache(key, value, self.layer_idx, kwargs)
        if slots is not None:
            query = slots.unpack(query.transpose(1, 2)).transpose(1, 2)

        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        if slots is not None:
            attn_output = slots.pack(attn_output)
        attn_output = self.attention_dropout(attn_output.reshape(hidden_states.shape))  # (B, S, D)
        if query_mask is not None:
            attn_output = attn_output * query_mask
        return self.hidden_dropout(self.o_proj(attn_output)), attn_weights


class ThoughtbubblesMLP(nn.Module):
    """Feed-forward layer: widen, activate, narrow."""

    def __init__(self, config: ThoughtbubblesConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)
        self.down_proj = ResidualProjection(config.intermediate_size, config.hidden_size, bias=config.bias)
        self.act_fn = ACT2FN[config.hidden_act]
        self.hidden_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.hidden_dropout(self.down_proj(self.act_fn(self.up_proj(hidden_states))))


class ThoughtbubblesDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward; their outputs are scaled by the score of a stream."""

    def __init__(self, config: ThoughtbubblesConfig, layer_idx: int):
        super().__init__()
        self.self_attn = ThoughtbubblesAttention(config, layer_idx)
        self.mlp = ThoughtbubblesMLP(config)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps, bias=config.bias)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps, bias=config.bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        log_scores: torch.Tensor | None,
        gates: torch.Tensor | None,
        slots: StreamSlots | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Streams `(B, S, D)` after the layer; arguments as of [`ThoughtbubblesAttention`]."""
        if slots is not None:
            hidden_states = slots.pack(hidden_states)
        attn_output, _ = self.self_attn(self.input_layernorm(hidden_states), log_scores, gates, slots=slots, **kwargs)
        hidden_states = hidden_states + (attn_output if gates is None else attn_output * gates)
        mlp_output = self.mlp(self.post_attention_layernorm(hidden_states))
        hidden_states = hidden_states + (mlp_output if gates is None else mlp_output * gates)
        return hidden_states if slots is None else slots.unpack(hidden_states)


__all__ = ["ResidualProjection", "ThoughtbubblesAttention", "ThoughtbubblesDecoderLayer", "create_stream_mask"]
