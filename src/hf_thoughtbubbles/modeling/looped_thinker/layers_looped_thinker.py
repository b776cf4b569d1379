# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The layers of looped Thinkers: the shared block, plain decoder layers, and the selection of what a step attends to.

The memory of a step is the input and the latents of earlier steps, un-normalised. Latents attend to each other and
then to the memory. Keys and values of a memory never change, so they are projected once.

Shapes: B batch, S states, M memory entries, N heads, K heads of keys and values, H head size, D hidden.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import OutputRecorder

from ...configuration.looped_settings import LoopedThinkerSettings
from ...hub.hub_models import HubModelMixin
from ..common.attention_masks import AttentionChoiceMixin, create_bidirectional_mask
from ..common.cache_names import CACHE_NAMES
from ..common.common_layers import eager_attention_forward, get_layer_cache, rotate_natively
from ..common.decoder_parts import FeedForward, HeadProjections, build_norm
from .cache_steps import KeyValue
from .checks_loop import check_layers, find_mask_obstacles
from .part_attention import attend_parts


class Memory(NamedTuple):
    """
    What a step attends to: for each layer of the block the keys, then the values of each part, and a mask. Several
    parts are [`attend_parts`]'.
    """

    layers: list[tuple[torch.Tensor, ...]]
    mask: torch.Tensor | None = None


def rotate_heads(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """As [`rotate_natively`] with one operation less, which rounds once less."""
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, dims=-1), sin)


class LowRankLinear(nn.Module):
    """A projection through a narrower space."""

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = False):
        super().__init__()
        self.down_proj = nn.Linear(in_features, rank, bias=False)
        self.up_proj = nn.Linear(rank, out_features, bias=bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.up_proj(self.down_proj(hidden_states))


def build_projection(in_features: int, out_features: int, bias: bool, rank: int | None) -> nn.Module:
    """A projection `(., D)` to `(., D)`: full, or through `rank` channels when these are fewer than those of both."""
    if rank is None or rank >= min(in_features, out_features):
        return nn.Linear(in_features, out_features, bias=bias)
    return LowRankLinear(in_features, out_features, rank, bias)


class LoopedThinkerAttention(HeadProjections):
    """Attention with a separate [`project`] for keys and values, because many steps attend to one memory."""

    rotate = staticmethod(rotate_heads)

    def __init__(self, config: LoopedThinkerSettings):
        super().__init__(
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.attention_bias,
            config.rms_norm_eps if config.use_qk_norm else None,
            partial(build_projection, rank=config.low_rank),
        )
        self.config = config
        self.is_causal = False  # overridden by the argument of each call

    def project(self, source: torch.Tensor, position_embeddings: KeyValue | None = None) -> KeyValue:
        """Keys and values `(B, K, S, H)` of a source `(B, S, D)`; keys are rotated when positions are passed."""
        key, value = self.project_key(source), self.project_value(source)
        if position_embeddings is not None:
            key = self.rotate(key, *position_embeddings)
        return key.transpose(1, 2), value.transpose(1, 2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        *key_values: torch.Tensor,
        position_embeddings: KeyValue | None = None,
        attention_mask: torch.Tensor | None = None,
        is_causal: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self.project_query(hidden_states)
        if position_embeddings is not None:
            query = self.rotate(query, *position_embeddings)
        if len(key_values) > 2 or key_values[0].ndim == 5:
            attn_output = attend_parts(query.transpose(1, 2), key_values, attention_mask, self.scaling)
            return self.o_proj(attn_output.transpose(1, 2).flatten(2)), None
        implementation = self.config._attn_implementation
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        attn_output, attn_weights = attention_interface(
            self,
            query.transpose(1, 2),
            *(self.repeat_groups(states, implementation) for states in key_values),
            attention_mask,
            dropout=0.0,
            scaling=self.scaling,
            is_causal=is_causal,
            **kwargs,
        )
        return self.o_proj(attn_output.flatten(2)), attn_weights


class LoopedThinkerSelfAttention(LoopedThinkerAttention):
    """Attention of latents to each other; a class of its own, so that its weights are recorded by name."""


class LoopedThinkerPlainAttention(LoopedThinkerSelfAttention):
    """Self-attention of a native decoder."""

    rotate = staticmethod(rotate_natively)


class LoopedThinkerCrossAttention(LoopedThinkerAttention):
    """Attention of latents to the memory; a class of its own, so that its weights are recorded by name."""


class LoopedThinkerLayer(GradientCheckpointingLayer):
    """Self-attention, attention to the un-normalised memory and feed-forward, each pre-norm and residual."""

    def __init__(self, config: LoopedThinkerSettings):
        super().__init__()
        self.has_self_attention = not config.skip_self_attention
        self.has_self_attention_mlp = self.has_self_attention and config.self_attention_mlp
        attention_norm = config, config.attention_normalization, bool(config.attention_bias)
        mlp_norm = config, config.mlp_normalization, config.mlp_bias
        if self.has_self_attention:
            self.self_attn_layernorm = build_norm(*attention_norm)
            self.self_attn = LoopedThinkerSelfAttention(config)
        if self.has_self_attention_mlp:
            self.self_attn_mlp_layernorm = build_norm(*mlp_norm)
            self.self_attn_mlp = FeedForward(config)
        self.cross_attn_layernorm = build_norm(*attention_norm)
        self.cross_attn = LoopedThinkerCrossAttention(config)
        self.mlp_layernorm = build_norm(*mlp_norm)
        self.mlp = FeedForward(config)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, S, D)
        *memory_parts: torch.Tensor,  # (B, K, M, H): keys, values of each part
        position_embeddings: KeyValue | None,
        attention_mask: torch.Tensor | None = None,
        is_causal: bool = False,
        memory_position_embeddings: KeyValue | None = None,
        memory_mask: torch.Tensor | None = None,
        is_memory_causal: bool = False,
        update_cache: Callable[[torch.Tensor, torch.Tensor], KeyValue] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        if self.has_self_attention:
            normed = self.self_attn_layernorm(hidden_states)
            key, value = self.self_attn.project(normed, position_embeddings)
            if update_cache is not None:
                key, value = update_cache(key, value)
            attn_output, _ = self.self_attn(
                normed,
                key,
                value,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                is_causal=is_causal,
                **kwargs,
            )
            hidden_states = hidden_states + attn_output
        if self.has_self_attention_mlp:
            normed = self.self_attn_mlp_layernorm(hidden_states)
            hidden_states = hidden_states + self.self_attn_mlp(normed, self.act_fn)
        attn_output, _ = self.cross_attn(
            self.cross_attn_layernorm(hidden_states),
            *memory_parts,
            position_embeddings=memory_position_embeddings,
            attention_mask=memory_mask,
            is_causal=is_memory_causal,
            **kwargs,
        )
        hidden_states = hidden_states + attn_output
        return hidden_states + self.mlp(self.mlp_layernorm(hidden_states), self.act_fn)


class LoopedThinkerPlainLayer(GradientCheckpointingLayer):
    """A layer of a native decoder: self-attention and feed-forward, each pre-norm and residual."""

    def __init__(self, config: LoopedThinkerSettings):
        super().__init__()
        self.self_attn = LoopedThinkerPlainAttention(config)
        self.mlp = FeedForward(config)
        self.act_fn = ACT2FN[config.hidden_act]
        self.input_layernorm = build_norm(config, config.attention_normalization, bool(config.attention_bias))
        self.post_attention_layernorm = build_norm(config, config.mlp_normalization, config.mlp_bias)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, S, D)
        position_embeddings: KeyValue | None,
        update_cache: Callable[[torch.Tensor, torch.Tensor], KeyValue] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        normed = self.input_layernorm(hidden_states)
        key, value = self.self_attn.project(normed, position_embeddings)
        if update_cache is not None:
            key, value = update_cache(key, value)
        attn_output, _ = self.self_attn(normed, key, value, position_embeddings=position_embeddings, **kwargs)
        hidden_states = hidden_states + attn_output
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states), self.act_fn)


class LoopedThinkerPlainLayers(nn.ModuleList):
    """Plain decoder layers with weights of their own, before or after a loop."""

    def __init__(self, config: LoopedThinkerSettings, num_layers: int):
        super().__init__(LoopedThinkerPlainLayer(config) for _ in range(num_layers))

    def forward(self, hidden_states: torch.Tensor, cache: Cache | None, first_slot: int, **kwargs) -> torch.Tensor:
        """States `(B, S, D)` after all layers; their keys and values are slots of the cache from `first_slot` on."""
        for slot, layer in enumerate(self, first_slot):
            update_cache = None if cache is None else partial(cache.update, layer_idx=slot)
            hidden_states = layer(hidden_states, update_cache=update_cache, **kwargs)
        return hidden_states


def build_input_adapter(hidden_size: int) -> nn.Linear:
    """
    Build the projection of a latent and the loop's input, side by side, to what a step reads; it starts as the latent.

    `_init_weights` reads the mark. The projection is no class of its own, because bitsandbytes replaces `nn.Linear`
    and no subclass.
    """
    adapter = nn.Linear(2 * hidden_size, hidden_size, bias=False)
    adapter.starts_as_latent = True
    return adapter


class LoopedThinkerBlock(nn.Module):
    """The layers that all steps share, and a norm after the last of them if `has_norm`."""

    def __init__(
        self, config: LoopedThinkerSettings, has_norm: bool, layer_class: type[nn.Module] = LoopedThinkerLayer
    ):
        super().__init__()
        self.layers = nn.ModuleList([layer_class(config) for _ in range(config.num_hidden_layers)])
        self.has_norm = has_norm
        if has_norm:
            self.norm = build_norm(config, config.final_normalization, config.mlp_bias)

    def project(self, source: torch.Tensor, position_embeddings: KeyValue | None = None) -> list[KeyValue]:
        """Keys and values of a part of the memory `(B, S, D)` for each layer."""
        check_layers(self.layers)
        return [layer.cross_attn.project(source, position_embeddings) for layer in self.layers]

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: Memory | None = None,
        update_cache: Callable[[torch.Tensor, torch.Tensor, int], KeyValue] | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """
        One step of `(B, S, D)`; plain layers take no memory. `update_cache(key, value, layer_idx)` stores keys and
        values of self-attention, and returns them with those that the cache already has.
        """
        if memory is not None:
            kwargs["memory_mask"] = memory.mask
        for layer_idx, layer in enumerate(self.layers):
            hidden_states = layer(
                hidden_states,
                *(() if memory is None else memory.layers[layer_idx]),
                update_cache=None if update_cache is None else partial(update_cache, layer_idx=layer_idx),
                **kwargs,
            )
        return self.norm(hidden_states) if self.has_norm else hidden_states

    def get_cache(self, past_key_values: Cache | None) -> Cache | None:
        """The cache that a call writes: none if the layers are computed again for gradients."""
        return get_layer_cache(self.layers[0], past_key_values)


def choose_visible(num_finished: int, num_read_steps: int | None, num_memory_steps: int | None) -> tuple[bool, int]:
    """
    The memory after `num_finished` steps: whether it contains the input, and the first step whose latents it contains.
    The first step always attends to the input (docs/reference_behaviour.md, "Looped Thinker").

    >>> choose_visible(3, num_read_steps=2, num_memory_steps=2)
    (False, 1)
    """
    reads_input = num_finished == 0 or num_read_steps is None or num_finished - 1 < num_read_steps
    first_step = 0 if num_memory_steps is None else max(0, num_finished - num_memory_steps)
    return reads_input, first_step


def create_memory_mask(config: LoopedThinkerSettings, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
    """The attention mask over memory entries of which `mask` `(B, M)` is 0 for padding; `states` are `(B, S, D)`."""
    return create_bidirectional_mask(
        config=config,
        inputs_embeds=states[:, :1],
        attention_mask=mask,
        encoder_hidden_states=states.new_empty(*mask.shape, 0),  # its shape alone is read
    )


class LoopedPreTrainedModel(AttentionChoiceMixin, HubModelMixin, PreTrainedModel):
    """Base of the pretrained classes of both model types: what transformers may do with them."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LoopedThinkerLayer"]
    _skip_keys_device_placement = [*CACHE_NAMES]
    find_mask_obstacles = staticmethod(find_mask_obstacles)
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": [LoopedThinkerLayer, LoopedThinkerPlainLayer],
        "attentions": OutputRecorder(LoopedThinkerSelfAttention, index=1),
        "cross_attentions": OutputRecorder(LoopedThinkerCrossAttention, index=1),
    }

    def __init__(self, config: LoopedThinkerSettings, *args, **kwargs):
        if config.model_type != self.config_class.model_type:
            raise ValueError(
                f"`config` is a `{type(config).__name__}`, but `{type(self).__name__}` needs a "
                f"`{self.config_class.__name__}`. Pass one, or use the model class of your configuration."
            )
        config.validate()  # fields set after construction, as `from_pretrained(..., num_steps=...)` does
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if getattr(module, "starts_as_latent", False):
            init.eye_(module.weight)  # the identity of the latent, and zeros for the input


__all__ = [
    "LoopedPreTrainedModel",
    "LoopedThinkerBlock",
    "LoopedThinkerCrossAttention",
    "LoopedThinkerLayer",
    "LoopedThinkerPlainLayer",
    "LoopedThinkerPlainLayers",
    "LoopedThinkerSelfAttention",
    "LowRankLinear",
    "Memory",
    "build_input_adapter",
    "choose_visible",
    "create_memory_mask",
]
