# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Layers over streams: attention that scores weigh, the feed-forward layer, and attention masks between forks.

Shapes: B batch, S streams, C slots of the cache, N heads, H head size, D hidden.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ...configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from ..common.attention_masks import create_causal_mask
from ..common.batching_engines import update_paged_cache
from ..common.common_layers import eager_attention_forward, rotate_channels, rotate_natively
from ..common.decoder_parts import FeedForward, HeadProjections, build_norm
from ..common.split_heads import find_head_mesh, share_with_heads
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


def mark_residual(projection: nn.Linear):
    """
    Mark a projection whose output is added to the residual stream: its initial weights are smaller
    (docs/reference_behaviour.md, "GPT", initial values).

    The mark is on the projection, because transformers gives `_init_weights` no module without own parameters when the
    code is not its own. It is no class of its own, because quantisation replaces `nn.Linear` and no subclass.
    """
    projection.writes_residual = True


class ThoughtbubblesAttention(HeadProjections):
    """
    Causal self-attention over streams, with grouped heads (docs/reference_behaviour.md, "Thoughtbubbles", Block 2 to
    7).

    The score of a stream is a channel, so a fused causal kernel weighs keys by it with no bias tensor. In the last
    channel queries hold 1 and keys the log score, which weighs keys by `score ** (1 / sqrt(H))`. In a channel beside
    the head's own, queries hold `sqrt(H)`, which weighs keys by the score. Values are multiplied by the score itself.
    """

    def __init__(self, config: ThoughtbubblesConfig, layer_idx: int):
        heads = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        qk_norm_eps = config.rms_norm_eps if config.use_qk_norm else None
        super().__init__(config.hidden_size, *heads, config.attention_bias, qk_norm_eps)
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.score_channel = config.fork_score_channel if config.has_fork_scores else "none"
        self.num_added_channels = config.wide_head_dim - config.head_dim
        mark_residual(self.o_proj)
        self.attention_dropout = nn.Dropout(config.attention_dropout)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout)

    def apply_rotary(self, states: torch.Tensor, position_embeddings, last_channel: torch.Tensor | None):
        """Rotate queries or keys `(B, S, N, H)` and replace their last channel; returns `(B, N, S, H)`."""
        if last_channel is None:
            states = states if position_embeddings is None else rotate_natively(states, *position_embeddings)
            return states.transpose(1, 2)
        last_channel = last_channel.to(states.dtype).expand(*states.shape[:-1], 1)
        if position_embeddings is not None:
            states = rotate_channels(states, *position_embeddings, last_channel)
        else:
            states = torch.cat((states[..., :-1], last_channel), dim=-1)
        return states.transpose(1, 2)

    def add_score_channel(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, log_scores: torch.Tensor):
        """
        Add a channel beside those of the heads: `sqrt(H)` in queries `(B, N, S, H)`, the log score in keys
        `(B, K, S, H)`. More channels of zeros give the width that kernels want, and values the same width.
        """
        channels = query.new_zeros(self.num_added_channels)
        channels[0] = self.head_dim**0.5
        query = torch.cat((query, channels.expand(*query.shape[:3], -1)), dim=-1)
        channels = F.pad(log_scores.to(key.dtype)[:, None, :, None], (0, self.num_added_channels - 1))
        key = torch.cat((key, channels.expand(-1, key.shape[1], -1, -1)), dim=-1)
        return query, key, F.pad(value, (0, self.num_added_channels))

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
        query, key = self.project_query(hidden_states), self.project_key(hidden_states)
        value = self.project_value(hidden_states)  # (B, S, K, H)
        mesh = find_head_mesh(self.v_proj)
        log_scores, gates = share_with_heads(log_scores, mesh), share_with_heads(gates, mesh)
        if gates is not None:
            value = value * gates[..., None]

        query_channel = key_channel = None
        if self.score_channel == "last":
            query_channel = query.new_ones(1)
            key_channel = query.new_zeros(1) if log_scores is None else log_scores[..., None, None]
        query = self.apply_rotary(query, position_embeddings, query_channel)  # (B, N, S, H)
        key = self.apply_rotary(key, position_embeddings, key_channel)  # (B, K, S, H)
        value = value.transpose(1, 2)
        has_added_channels = self.score_channel == "beside" and log_scores is not None
        if has_added_channels:
            query, key, value = self.add_score_channel(query, key, value, log_scores)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx, slots=slots)
        key, value = update_paged_cache(key, value, self.layer_idx, kwargs)
        if slots is not None:
            query = slots.unpack(query.transpose(1, 2)).transpose(1, 2)

        implementation = self.config._attn_implementation
        key, value = self.repeat_groups(key, implementation), self.repeat_groups(value, implementation)
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        attn_output, attn_weights = attention_interface(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        if slots is not None:
            attn_output = slots.pack(attn_output)
        if has_added_channels:
            attn_output = attn_output[..., : self.head_dim]
        attn_output = attn_output.reshape(*hidden_states.shape[:-1], -1)  # (B, S, N * H); engines return (S, N * H)
        attn_output = self.attention_dropout(attn_output)
        if query_mask is not None:
            attn_output = attn_output * query_mask
        return self.hidden_dropout(self.o_proj(attn_output)), attn_weights


class ThoughtbubblesDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward; their outputs are scaled by the score of a stream."""

    def __init__(self, config: ThoughtbubblesConfig, layer_idx: int):
        super().__init__()
        self.self_attn = ThoughtbubblesAttention(config, layer_idx)
        self.mlp = FeedForward(config)
        self.act_fn = ACT2FN[config.hidden_act]
        self.input_layernorm = build_norm(config, config.attention_normalization, bool(config.attention_bias))
        self.post_attention_layernorm = build_norm(config, config.mlp_normalization, config.mlp_bias)
        mark_residual(self.mlp.down_proj)

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
        mlp_output = self.mlp(self.post_attention_layernorm(hidden_states), self.act_fn)
        hidden_states = hidden_states + (mlp_output if gates is None else mlp_output * gates)
        return hidden_states if slots is None else slots.unpack(hidden_states)


__all__ = ["ThoughtbubblesAttention", "ThoughtbubblesDecoderLayer", "create_stream_mask"]
