# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How does a looped Thinker answer a problem, or continue a text?

    embed    token ids to one vector per token
    decode   one shared block, applied again and again to latents that read the input and their own past
             a problem: a few latents think, then answer positions read what they thought
             a text:    every token has a latent, which sees the input and the latents of tokens up to its own
    unembed  logits

The memory of a step is the input and the latents that earlier steps left, un-normalised; the block's layers attend to
the latents of the step, then to the memory. Keys and values of a memory never change, so they are made once.

Shapes: B batch, T input tokens, L latents, R steps, S kept steps, A answer positions, M memory entries, N heads,
H head size, D hidden, V vocabulary.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask, find_packed_sequence_indices
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithPast,
    Seq2SeqLMOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ...configuration.configuration_looped_thinker import LoopedThinkerConfig
from ...hub.hub_models import HubModelMixin
from ..common.cache_names import CACHE_NAME, CACHE_NAMES, accept_cache_names
from ..common.common_layers import RotaryEmbedding, eager_attention_forward, embed_sinusoids, rotate_channels
from .cache_steps import KeyValue, MemoryParts, StepStates
from .checks_looped_thinker import (
    check_answer,
    check_labels,
    check_layers,
    check_mode,
    check_problem,
    check_replay,
    check_text,
)
from .generation_looped_thinker import AnswerThinkingMixin, TextThinkingMixin


class Memory(NamedTuple):
    """What a step reads: keys and values for each layer of the block, and a mask where some entries are padding."""

    layers: list[KeyValue]
    mask: torch.Tensor | None = None


@dataclass
class LoopedThinkerEncoderOutput(BaseModelOutput):
    """
    What thinking about a problem left.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, M, D)`): the memory that the answer is read from: the
            input (if it is still read), the latents of the steps in the memory, static memories.
        memory_mask (`torch.LongTensor` of shape `(B, M)`, *optional*): 0 for entries that are padding of the input.
        latents (`torch.FloatTensor` of shape `(B, R, L, D)`): the latents after each step.
        answer_logits (`torch.FloatTensor` of shape `(B, A, V)`, *optional*): a parallel answer that was already read.
    """

    memory_mask: torch.LongTensor | None = None
    latents: torch.FloatTensor | None = None
    answer_logits: torch.FloatTensor | None = None


@dataclass
class LoopedThinkerModelOutput(BaseModelOutputWithPastAndCrossAttentions):
    """
    The base model's output.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, A, D)` or `(B, T, D)`): state of each answer position
            after the last step, or of each token of a text.
        past_key_values (`Cache`, *optional*): keys and values.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): what entered the first layer, then what every
            application of a layer left, in order; thinking before reading out.
        attentions (`tuple(torch.FloatTensor)`, *optional*): self-attention weights in the same order.
        cross_attentions (`tuple(torch.FloatTensor)`, *optional*): weights over the memory in the same order.
        encoder_last_hidden_state (`torch.FloatTensor` of shape `(B, M, D)`, *optional*): the memory.
        latents (`torch.FloatTensor` of shape `(B, R, L, D)`, *optional*): the latents after each step, with
            `output_steps=True`; of a text `(B, R, T, D)`.
        step_hidden_states (`torch.FloatTensor` of shape `(B, S, A, D)`, *optional*): answer states of the kept steps.
        loop_hidden_states (`torch.FloatTensor` of shape `(B, R, A, D)`, *optional*): states of the answer stream that
            thinks along, with `loop_decoder=True`.
        num_steps_used (`torch.LongTensor` of shape `(B, T)`, *optional*): steps that each token of a text took.
    """

    encoder_last_hidden_state: torch.FloatTensor | None = None
    latents: torch.FloatTensor | None = None
    step_hidden_states: torch.FloatTensor | None = None
    loop_hidden_states: torch.FloatTensor | None = None
    num_steps_used: torch.LongTensor | None = None


@dataclass
class LoopedThinkerSeq2SeqLMOutput(Seq2SeqLMOutput):
    """
    The output of a model that answers problems.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): cross entropy of the answer in nats, mean over the kept
            steps (and the steps of the stream that thinks along), plus the probes' squared error; with `labels`.
        logits (`torch.FloatTensor` of shape `(B, A, V)`): of the last step.
        past_key_values (`Cache`, *optional*): keys and values of the answer and of the memory.
        decoder_hidden_states, decoder_attentions, cross_attentions (`tuple(torch.FloatTensor)`, *optional*): see
            `hidden_states`, `attentions`, `cross_attentions` of [`LoopedThinkerModelOutput`].
        encoder_last_hidden_state (`torch.FloatTensor` of shape `(B, M, D)`, *optional*): the memory.
        latents (`torch.FloatTensor` of shape `(B, R, L, D)`, *optional*): with `output_steps=True`.
        probes (`torch.FloatTensor` of shape `(B, A, num_probes)`, *optional*): what the probes read, last step.
        step_hidden_states (`torch.FloatTensor` of shape `(B, S, A, D)`, *optional*): with `output_steps=True`.
        step_logits (`torch.FloatTensor` of shape `(B, S, A, V)`, *optional*): with `output_steps=True`.
        step_probes (`torch.FloatTensor` of shape `(B, S, A, num_probes)`, *optional*): with `output_steps=True`.
        loop_hidden_states, loop_logits, loop_probes (`torch.FloatTensor` of shape `(B, R, A, .)`, *optional*): of the
            answer stream that thinks along, with `loop_decoder=True`.
    """

    latents: torch.FloatTensor | None = None
    probes: torch.FloatTensor | None = None
    step_hidden_states: torch.FloatTensor | None = None
    step_logits: torch.FloatTensor | None = None
    step_probes: torch.FloatTensor | None = None
    loop_hidden_states: torch.FloatTensor | None = None
    loop_logits: torch.FloatTensor | None = None
    loop_probes: torch.FloatTensor | None = None


@dataclass
class LoopedThinkerCausalLMOutput(CausalLMOutputWithPast):
    """
    The language model's output.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): next-token cross entropy in nats, with `labels`.
        logits (`torch.FloatTensor` of shape `(B, T, V)`): of the last step.
        past_key_values (`Cache`, *optional*): keys and values of tokens and steps.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*): see [`LoopedThinkerModelOutput`].
        cross_attentions (`tuple(torch.FloatTensor)`, *optional*): see [`LoopedThinkerModelOutput`].
        latents (`torch.FloatTensor` of shape `(B, R, T, D)`, *optional*): after each step, with `output_steps=True`.
        step_logits (`torch.FloatTensor` of shape `(B, R, T, V)`, *optional*): with `output_steps=True`.
        num_steps_used (`torch.LongTensor` of shape `(B, T)`): steps that each token took.
    """

    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    latents: torch.FloatTensor | None = None
    step_logits: torch.FloatTensor | None = None
    num_steps_used: torch.LongTensor | None = None


class LowRankLinear(nn.Module):
    """A projection through a narrower space, without biases."""

    def __init__(self, in_features: int, out_features: int, rank: int):
        super().__init__()
        self.down_proj = nn.Linear(in_features, rank, bias=False)
        self.up_proj = nn.Linear(rank, out_features, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.up_proj(self.down_proj(hidden_states))


def build_projection(config: LoopedThinkerConfig) -> nn.Module:
    """A projection `(., D)` to `(., D)`: full, or through `low_rank` channels when these are fewer."""
    if config.low_rank is None or config.low_rank >= config.hidden_size:
        return nn.Linear(config.hidden_size, config.hidden_size, bias=False)
    return LowRankLinear(config.hidden_size, config.hidden_size, config.low_rank)


class LoopedThinkerAttention(nn.Module):
    """Attention whose keys and values are made apart, by [`project`], because a memory's are read at many steps."""

    def __init__(self, config: LoopedThinkerConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.is_causal = False  # each call says what it needs
        self.q_proj = build_projection(config)
        self.k_proj = build_projection(config)
        self.v_proj = build_projection(config)
        self.o_proj = build_projection(config)

    def project(self, source: torch.Tensor, position_embeddings: KeyValue | None = None) -> KeyValue:
        """Keys and values `(B, N, S, H)` of a source `(B, S, D)`; rotated when positions are given."""
        shape = (*source.shape[:2], -1, self.head_dim)
        key, value = self.k_proj(source).view(shape), self.v_proj(source).view(shape)
        if position_embeddings is not None:
            key = rotate_channels(key, *position_embeddings)
        return key.transpose(1, 2), value.transpose(1, 2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        position_embeddings: KeyValue | None = None,
        attention_mask: torch.Tensor | None = None,
        is_causal: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self.q_proj(hidden_states).view(*hidden_states.shape[:2], -1, self.head_dim)
        if position_embeddings is not None:
            query = rotate_channels(query, *position_embeddings)
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        read, weights = attention_interface(
            self,
            query.transpose(1, 2),
            key,
            value,
            attention_mask,
            dropout=0.0,
            scaling=self.scaling,
            is_causal=is_causal,
            **kwargs,
        )
        return self.o_proj(read.reshape(hidden_states.shape)), weights


class LoopedThinkerSelfAttention(LoopedThinkerAttention):
    """Latents look at each other."""


class LoopedThinkerCrossAttention(LoopedThinkerAttention):
    """Latents read the memory."""


class LoopedThinkerMLP(nn.Module):
    """Gated feed-forward layer."""

    def __init__(self, config: LoopedThinkerConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class LoopedThinkerLayer(GradientCheckpointingLayer):
    """Self-attention, attention to the memory (un-normalised, as it is) and feed-forward, each pre-norm and added."""

    def __init__(self, config: LoopedThinkerConfig):
        super().__init__()
        self.has_self_attention = not config.skip_self_attention
        self.has_self_attention_mlp = self.has_self_attention and config.self_attention_mlp
        if self.has_self_attention:
            self.self_attn_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.self_attn = LoopedThinkerSelfAttention(config)
        if self.has_self_attention_mlp:
            self.self_attn_mlp_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.self_attn_mlp = LoopedThinkerMLP(config)
        self.cross_attn_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.cross_attn = LoopedThinkerCrossAttention(config)
        self.mlp_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = LoopedThinkerMLP(config)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, S, D)
        memory_key: torch.Tensor,  # (B, N, M, H)
        memory_value: torch.Tensor,
        position_embeddings: KeyValue,
        attention_mask: torch.Tensor | None = None,
        is_causal: bool = False,
        memory_position_embeddings: KeyValue | None = None,
        memory_mask: torch.Tensor | None = None,
        is_memory_causal: bool = False,
        extend: Callable[[torch.Tensor, torch.Tensor], KeyValue] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        if self.has_self_attention:
            normed = self.self_attn_layernorm(hidden_states)
            key, value = self.self_attn.project(normed, position_embeddings)
            if extend is not None:
                key, value = extend(key, value)
            attended, _ = self.self_attn(
                normed, key, value, position_embeddings, attention_mask, is_causal=is_causal, **kwargs
            )
            hidden_states = hidden_states + attended
        if self.has_self_attention_mlp:
            hidden_states = hidden_states + self.self_attn_mlp(self.self_attn_mlp_layernorm(hidden_states))
        read, _ = self.cross_attn(
            self.cross_attn_layernorm(hidden_states),
            memory_key,
            memory_value,
            memory_position_embeddings,
            memory_mask,
            is_causal=is_memory_causal,
            **kwargs,
        )
        hidden_states = hidden_states + read
        return hidden_states + self.mlp(self.mlp_layernorm(hidden_states))


class LoopedThinkerBlock(nn.Module):
    """The layers that all steps share; a norm follows the last of several, and any of text (SPEC quirk Q9)."""

    def __init__(self, config: LoopedThinkerConfig):
        super().__init__()
        self.layers = nn.ModuleList([LoopedThinkerLayer(config) for _ in range(config.num_hidden_layers)])
        self.has_norm = config.num_hidden_layers > 1 or not config.is_encoder_decoder
        if self.has_norm:
            self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def project(self, source: torch.Tensor, position_embeddings: KeyValue | None = None) -> list[KeyValue]:
        """Keys and values of a part of the memory `(B, S, D)` for each layer."""
        check_layers(self.layers)
        return [layer.cross_attn.project(source, position_embeddings) for layer in self.layers]

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: Memory,
        extend: Callable[[torch.Tensor, torch.Tensor, int], KeyValue] | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """One step of `(B, S, D)`; `extend(key, value, layer_idx)` adds what self-attention reads besides."""
        for layer_idx, (layer, (key, value)) in enumerate(zip(self.layers, memory.layers, strict=True)):
            hidden_states = layer(
                hidden_states,
                key,
                value,
                memory_mask=memory.mask,
                extend=None if extend is None else partial(extend, layer_idx=layer_idx),
                **kwargs,
            )
        return self.norm(hidden_states) if self.has_norm else hidden_states


def choose_visible(num_finished: int, num_read_steps: int | None, num_memory_steps: int | None) -> tuple[bool, int]:
    """
    What is in the memory once so many steps are finished (SPEC section 6): whether the input, and from which step's
    latents on. The first step always reads the input.

    >>> choose_visible(3, num_read_steps=2, num_memory_steps=2)
    (False, 1)
    """
    reads_input = num_finished == 0 or num_read_steps is None or num_finished - 1 < num_read_steps
    first_step = 0 if num_memory_steps is None else max(0, num_finished - num_memory_steps)
    return reads_input, first_step


def measure_change(hidden_states: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Relative change `(B, T)` of states `(B, T, D)` from one step to the next: `|h - h_before| / |h|`."""
    hidden_states, before = hidden_states.float(), before.float()
    return (hidden_states - before).norm(dim=-1) / hidden_states.norm(dim=-1).clamp(min=torch.finfo(torch.float).tiny)


class LoopedThinkerPreTrainedModel(HubModelMixin, PreTrainedModel):
    """What all looped Thinkers share: initial weights and what transformers may do with them."""

    config: LoopedThinkerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LoopedThinkerLayer"]
    _skip_keys_device_placement = [*CACHE_NAMES]
    _supports_sdpa = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": LoopedThinkerLayer,
        "attentions": OutputRecorder(LoopedThinkerSelfAttention, index=1),
        "cross_attentions": OutputRecorder(LoopedThinkerCrossAttention, index=1),
    }

    def __init__(self, config: LoopedThinkerConfig, *args, **kwargs):
        config.validate()  # fields set after construction, as `from_pretrained(..., num_steps=...)` does
        super().__init__(config, *args, **kwargs)


def set_mode(config: LoopedThinkerConfig, is_encoder_decoder: bool) -> LoopedThinkerConfig:
    """The configuration of a model that answers problems, or that continues text."""
    if config.is_encoder_decoder == is_encoder_decoder:
        return config
    config = copy.deepcopy(config)
    config.is_encoder_decoder = is_encoder_decoder
    return config


class LoopedThinkerEncoder(nn.Module):
    """The thinking half of a model that answers problems, as transformers' generation asks for it."""

    main_input_name = "input_ids"

    def __init__(self, model: "LoopedThinkerModel"):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        num_steps: int | None = None,
        num_latents: int | None = None,
        num_read_steps: int | None = None,
        memory_ids: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool = True,
    ) -> LoopedThinkerEncoderOutput:
        """See [`LoopedThinkerModel.think`]; hidden states of steps are in `latents`."""
        thinking = {"num_steps": num_steps, "num_latents": num_latents, "num_read_steps": num_read_steps}
        thinking["memory_ids"] = memory_ids
        tokens = {"attention_mask": attention_mask, "position_ids": position_ids}
        check_problem(self.model.config, input_ids, inputs_embeds, **tokens, **thinking)
        embedded = self.model.embed(input_ids, inputs_embeds, **tokens)
        thoughts, _, _ = self.model.think(embedded, attention_mask, **thinking)
        return thoughts


class LoopedThinkerModel(LoopedThinkerPreTrainedModel):
    """
    The bare looped Thinker: one block of layers, applied again and again.

    With `config.is_encoder_decoder` it answers problems: latents cross-attend to the problem and to the latents of all
    earlier steps, and answer positions are read out through the same block. Without, it reads text: every token's
    latent is fed its token again at every step, and sees no later token.
    """

    def __init__(self, config: LoopedThinkerConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.block = LoopedThinkerBlock(config)
        self.rotary_emb = RotaryEmbedding(config)
        if config.is_encoder_decoder:
            self.latents = nn.Embedding(config.max_latents, config.hidden_size)
            self.answer_positions = nn.Embedding(config.max_answer_length, config.hidden_size)
            if config.static_memory_size > 0:
                self.static_memory = nn.Embedding(config.static_memory_size, config.hidden_size)
        self.gradient_checkpointing = False
        self.post_init()

    def get_encoder(self, modality: str | None = None):
        """What thinks about a problem; the model itself where there is no such half."""
        return LoopedThinkerEncoder(self) if self.config.is_encoder_decoder else self

    def embed(
        self,
        input_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
    ) -> torch.Tensor:
        """One vector per token, `(B, T, D)`, scaled by `sqrt(D)`; a problem's with sinusoidal positions added."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        inputs_embeds = inputs_embeds * math.sqrt(self.config.hidden_size)
        if not self.config.is_encoder_decoder:
            return inputs_embeds
        if position_ids is None:
            entries = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
            position_ids = self.place_tokens(entries, attention_mask)
        return inputs_embeds + self.embed_sinusoids(position_ids, inputs_embeds)

    def embed_sinusoids(self, position_ids: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Sinusoidal positions in the dtype of `like`."""
        return embed_sinusoids(position_ids, self.config.hidden_size, self.config.position_frequencies).to(like.dtype)

    @staticmethod
    def place_tokens(entries: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Positions `(B or 1, T)`, from 0, of tokens that are the mask's `entries` `(T,)`; padding takes no place."""
        if attention_mask is None or attention_mask.ndim != 2:
            return entries[None]
        return (attention_mask.bool().cumsum(-1) - 1).clamp(min=0)[:, entries]

    def think(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_steps: int | None = None,
        num_latents: int | None = None,
        num_read_steps: int | None = None,
        memory_ids: torch.LongTensor | None = None,
        loop_embeds: torch.Tensor | None = None,
        num_kept: int = 1,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[LoopedThinkerEncoderOutput, list[Memory], torch.Tensor | None]:
        """
        Think about an embedded problem `(B, T, D)` (SPEC section 6, forward).

        `loop_embeds` `(B, A, D)` is an answer stream that thinks along. Gives the thoughts, the memory after each of
        the last `num_kept` steps, and what the stream was after each step, `(B, R, A, D)`.
        """
        config = self.config
        batch_size = inputs_embeds.shape[0]
        num_steps, num_latents = num_steps or config.num_steps, num_latents or config.num_latents
        num_read_steps = config.num_read_steps if num_read_steps is None else num_read_steps
        raw = [inputs_embeds, *([] if memory_ids is None else [self.static_memory(memory_ids)])]
        num_fixed = len(raw)  # parts before the first latents
        num_others = sum(part.shape[1] for part in raw[1:]) + num_steps * num_latents
        parts = MemoryParts(inputs_embeds.shape[1] + num_others)
        for part in raw:
            parts.append(self.block.project(part))
        memory_mask = input_mask = None
        if attention_mask is not None:  # entries that are not the input always count
            memory_mask = F.pad(attention_mask.long(), (0, num_others), value=1)  # (B, T + others)
            input_mask = create_bidirectional_mask(
                config=config,
                inputs_embeds=inputs_embeds[:, :1],
                attention_mask=memory_mask,
                encoder_hidden_states=inputs_embeds.new_empty(*memory_mask.shape, 0),
            )

        def gather(num_finished: int) -> tuple[list[int], Memory, torch.Tensor | None]:
            reads_input, first = choose_visible(num_finished, num_read_steps, config.num_memory_steps)
            indices = [*range(num_fixed if num_finished else 1), *range(num_fixed + first, len(raw))]
            indices = indices if reads_input else indices[1:]
            layers = parts.read(indices)
            size, is_masked = layers[0][0].shape[2], reads_input and input_mask is not None
            mask = memory_mask[:, :size] if is_masked else None
            return indices, Memory(layers, input_mask[..., :size] if is_masked else None), mask

        latents = self.latents(torch.arange(num_latents, device=inputs_embeds.device))
        latents = latents.repeat(batch_size, 1, 1)  # (B, L, D)
        places = self.embed_places(num_latents, inputs_embeds)
        loop_mask = loop_places = None
        if loop_embeds is not None:
            loop_places = self.embed_places(loop_embeds.shape[1], inputs_embeds)
            loop_mask = create_causal_mask(
                config=config, inputs_embeds=loop_embeds, attention_mask=None, **{CACHE_NAME: None}
            )
        kept, loops = [], []
        _, memory, _ = gather(0)
        for step in range(num_steps):
            latents = self.block(latents, memory, position_embeddings=places, **kwargs)
            if loop_embeds is not None:
                loop_embeds = self.block(
                    loop_embeds,
                    memory,
                    position_embeddings=loop_places,
                    attention_mask=loop_mask,
                    is_causal=True,
                    **kwargs,
                )
                loops.append(loop_embeds)
            raw.append(latents)
            parts.append(self.block.project(latents))
            indices, memory, mask = gather(step + 1)
            if step >= num_steps - num_kept:
                kept.append(memory)
        thoughts = LoopedThinkerEncoderOutput(
            last_hidden_state=torch.cat([raw[i] for i in indices], dim=1),
            memory_mask=mask,
            latents=torch.stack(raw[num_fixed:], dim=1),
        )
        return thoughts, kept, torch.stack(loops, dim=1) if loops else None

    def embed_places(self, num_places: int, like: torch.Tensor, start: int | torch.Tensor = 0) -> KeyValue:
        """Cosines and sines of `num_places` rotary positions from `start`."""
        return self.rotary_emb(like, torch.arange(num_places, device=like.device)[None] + start)

    def answer(
        self,
        memories: list[Memory],
        batch_size: int,
        answer_length: int,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Read an answer out of each memory: states `(B, S, A, D)` (SPEC section 6, forward)."""
        config, is_causal = self.config, self.config.readout == "autoregressive"
        self_cache = None if past_key_values is None else past_key_values.self_attention_cache
        num_past = 0 if self_cache is None else self_cache.get_seq_length()
        places = torch.arange(answer_length, device=memories[0].layers[0][0].device) + num_past
        queries = self.answer_positions(places).expand(batch_size, -1, -1)  # (B, A, D)
        if decoder_inputs_embeds is not None:
            queries = queries + decoder_inputs_embeds
        elif decoder_input_ids is not None:
            queries = queries + self.embed_tokens(decoder_input_ids)
        create_mask = partial(create_causal_mask, **{CACHE_NAME: self_cache})
        mask = (create_mask if is_causal else create_bidirectional_mask)(
            config=config, inputs_embeds=queries, attention_mask=decoder_attention_mask
        )
        if self_cache is not None and config.skip_self_attention:  # nothing to keep, but tokens are counted here
            self_cache.update(*(queries.new_ones(batch_size, 1, answer_length, 1) for _ in range(2)), 0)

        def extend(key, value, layer_idx, output_step):
            return self_cache.update(key, value, output_step * config.num_hidden_layers + layer_idx)

        outputs, rope = [], self.rotary_emb(queries, places[None])
        for i, memory in enumerate(memories):
            states, is_cached = queries, self_cache is not None and i == len(memories) - 1
            for output_step in range(config.num_output_steps):
                states = self.block(
                    states,
                    memory,
                    extend=partial(extend, output_step=output_step) if is_cached else None,
                    position_embeddings=rope,
                    attention_mask=mask,
                    is_causal=is_causal,
                    **kwargs,
                )
            outputs.append(states)
        return torch.stack(outputs, dim=1)

    def recall(self, encoder_outputs: ModelOutput, past_key_values: EncoderDecoderCache | None) -> Memory:
        """The memory of thoughts that are given: projected once, then kept in the cache."""
        states, mask = encoder_outputs["last_hidden_state"], getattr(encoder_outputs, "memory_mask", None)
        if mask is not None:
            mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=states[:, :1], attention_mask=mask, encoder_hidden_states=states
            )
        if past_key_values is None:
            return Memory(self.block.project(states), mask)
        cache, is_updated = past_key_values.cross_attention_cache, past_key_values.is_updated
        if is_updated.get(0):
            layers = cache.layers[: self.config.num_hidden_layers]
            return Memory([(layer.keys, layer.values) for layer in layers], mask)
        return self.remember(Memory(self.block.project(states), mask), past_key_values)

    @staticmethod
    def remember(memory: Memory, past_key_values: EncoderDecoderCache) -> Memory:
        """Keep a memory's keys and values with an answer's."""
        for layer_idx, (key, value) in enumerate(memory.layers):
            past_key_values.cross_attention_cache.update(key, value, layer_idx)
            past_key_values.is_updated[layer_idx] = True
        return memory

    def decode_text(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        num_steps: int | None = None,
        exit_threshold: float | None = None,
        output_steps: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LoopedThinkerModelOutput:
        """Think about every token of an embedded text `(B, T, D)`, each seeing itself and earlier ones alone."""
        config, num_steps = self.config, num_steps or self.config.num_steps
        batch_size, num_tokens = inputs_embeds.shape[:2]
        num_past = 0 if past_key_values is None else past_key_values.get_seq_length()
        entries = torch.arange(num_tokens, device=inputs_embeds.device) + num_past  # of the mask, which may go on
        places = self.place_tokens(entries, attention_mask) if position_ids is None else position_ids
        rope = self.rotary_emb(inputs_embeds, places)
        num_sources = 1 + min(num_steps - 1, config.num_memory_steps or num_steps)
        mask, memory_mask = self.mask_text(inputs_embeds, attention_mask, position_ids, past_key_values, num_sources)
        is_exiting = exit_threshold is not None
        states = StepStates(config.num_hidden_layers, not config.skip_self_attention, past_key_values, is_exiting)

        source = states.add_source(self.block.project(inputs_embeds, rope), 0)
        parts = MemoryParts(num_steps * source[0][0].shape[2])  # what steps read: the input, then what each left
        parts.append(source)
        hidden_states, history = None, []
        num_steps_used = torch.full((batch_size, num_tokens), 0 if is_exiting else num_steps, device=rope[0].device)
        for step in range(num_steps):
            reads_input, first = choose_visible(step, config.num_read_steps, config.num_memory_steps)
            visible = [*([0] if reads_input else []), *range(1 + first, 1 + step)]
            memory = [(states.take(key), states.take(value)) for key, value in parts.read(visible)]
            seen = None if memory_mask is None else states.take(memory_mask)[..., : memory[0][0].shape[2]]
            before, places = hidden_states, tuple(states.take(part) for part in rope)
            new = self.block(
                states.take(inputs_embeds if before is None else inputs_embeds + before),  # (A, T, D)
                Memory(memory, seen if len(visible) > 1 else states.take(mask)),
                extend=partial(states.add_self, step=step),
                position_embeddings=places,
                attention_mask=states.take(mask),
                is_causal=True,
                memory_position_embeddings=places,
                is_memory_causal=True,
                **kwargs,
            )
            hidden_states, is_thinking = new, states.is_thinking
            if is_thinking is not None:
                hidden_states = states.merge(new, before, is_thinking[..., None])
            if is_exiting:
                num_steps_used = num_steps_used + (1 if is_thinking is None else is_thinking.long())
            if output_steps:
                history.append(hidden_states)
            if step + 1 == num_steps:
                break
            parts.append(states.add_source(self.block.project(new, places), step + 1))
            if is_exiting and before is not None:
                is_done = measure_change(hidden_states, before) < exit_threshold
                if attention_mask is not None and attention_mask.ndim == 2:  # padding has nothing to think about
                    is_done = is_done | ~attention_mask.bool()[:, entries]
                states.exit(is_done)
            if states.is_finished:
                states.repeat_rest(step + 1, num_steps)
                history += [hidden_states] * (num_steps - step - 1 if output_steps else 0)
                break
        return LoopedThinkerModelOutput(
            last_hidden_state=hidden_states,
            **{CACHE_NAME: past_key_values},
            latents=torch.stack(history, dim=1) if output_steps else None,
            num_steps_used=num_steps_used,
        )

    def mask_text(
        self, inputs_embeds, attention_mask, position_ids, past_key_values, num_sources: int
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """
        The masks of self-attention and of a memory of `num_sources` parts, each as long as the text; a memory of fewer
        parts takes its beginning. `None` where a fused causal path, or a single new token, needs none.
        """
        arguments = {
            "config": self.config,
            "inputs_embeds": inputs_embeds[:1] if attention_mask is None and position_ids is None else inputs_embeds,
            "attention_mask": attention_mask,
            CACHE_NAME: past_key_values,
            "position_ids": position_ids,
        }
        mask = full = create_causal_mask(**arguments)
        if num_sources > 1 and mask is None and inputs_embeds.shape[1] > 1:
            full = create_causal_mask(**arguments, allow_is_causal_skip=False)
        return mask, None if full is None else full.repeat(1, 1, 1, num_sources)

    def choose_text_cache(self, position_ids, attention_mask, past_key_values, use_cache) -> Cache | None:
        """The cache of a call: by default one in evaluation, unless a row packs several documents."""
        is_packed = (
            position_ids is not None
            and attention_mask is None
            and (past_key_values is None or past_key_values.get_seq_length() == 0)
            and not torch.compiler.is_compiling()
            and find_packed_sequence_indices(position_ids) is not None
        )
        if is_packed and (use_cache or past_key_values is not None):
            raise ValueError(
                "`use_cache=True` or `past_key_values` came with `position_ids` that pack several documents "
                "into a row, and a cache cannot keep documents apart. Leave it out, or give one document per row."
            )
        is_default = self.config.use_cache and not self.training and not is_packed
        if past_key_values is None and (is_default if use_cache is None else use_cache):
            return DynamicCache()  # grows with the steps that it is asked for
        return past_key_values

    def choose_answer_cache(self, past_key_values, use_cache) -> EncoderDecoderCache | None:
        """The cache of a call: by default one in evaluation, where an answer is read out token by token."""
        is_default = self.config.use_cache and not self.training
        is_cached = is_default if use_cache is None else use_cache
        if past_key_values is None and is_cached and self.config.readout == "autoregressive":
            return EncoderDecoderCache(DynamicCache(), DynamicCache())
        return past_key_values

    def embed_answer_loop(self, decoder_input_ids, inputs_embeds, attention_mask) -> torch.Tensor:
        """The answer stream that thinks along, `(B, A, D)`: tokens placed after the problem's."""
        places = torch.arange(decoder_input_ids.shape[1], device=decoder_input_ids.device)[None]
        num_tokens = inputs_embeds.shape[1] if attention_mask is None else attention_mask.bool().sum(-1, keepdim=True)
        return self.embed(decoder_input_ids, position_ids=places + num_tokens)

    def decode_problem(
        self,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        encoder_outputs: ModelOutput | None,
        past_key_values: EncoderDecoderCache | None,
        thinking: dict,
        reading: dict,
        loop_embeds: torch.Tensor | None = None,
        output_steps: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LoopedThinkerModelOutput:
        """Think about an embedded problem `(B, T, D)`, unless that is done, and read the answer out."""
        loop_hidden_states = None
        if encoder_outputs is None:
            is_remembered = past_key_values is not None and past_key_values.is_updated.get(0, False)
            num_kept = 1 if is_remembered else self.config.num_kept_outputs
            encoder_outputs, memories, loop_hidden_states = self.think(
                inputs_embeds, attention_mask, **thinking, loop_embeds=loop_embeds, num_kept=num_kept, **kwargs
            )
            if past_key_values is not None and not is_remembered:
                self.remember(memories[-1], past_key_values)
        else:
            memories = [self.recall(encoder_outputs, past_key_values)]
        step_hidden_states = self.answer(memories, past_key_values=past_key_values, **reading, **kwargs)
        return LoopedThinkerModelOutput(
            last_hidden_state=step_hidden_states[:, -1],
            **{CACHE_NAME: past_key_values},
            encoder_last_hidden_state=encoder_outputs["last_hidden_state"],
            latents=encoder_outputs.get("latents") if output_steps else None,
            step_hidden_states=step_hidden_states,
            loop_hidden_states=loop_hidden_states,
        )

    @accept_cache_names
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        num_steps: int | None = None,
        num_latents: int | None = None,
        num_read_steps: int | None = None,
        memory_ids: torch.LongTensor | None = None,
        answer_length: int | None = None,
        loop_decoder: bool = False,
        exit_threshold: float | None = None,
        output_steps: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LoopedThinkerModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): the problem, or the text; or give `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(B, T)`): 1 for real tokens, 0 for padding on either side. Without
                it every token is read, also a `blank` on the left, as the original did.
            position_ids (`torch.LongTensor` of shape `(B, T)`): places of the tokens, from 0; follow the mask.
            decoder_input_ids (`torch.LongTensor` of shape `(B, A)`): tokens added to the answer positions. Position a
                sees entry a, so for training they are the answer shifted by one, as the heads do.
            decoder_attention_mask (`torch.Tensor` of shape `(B, A)`): 0 for answer positions that are padding.
            decoder_inputs_embeds (`torch.FloatTensor` of shape `(B, A, D)`): continuous queries in their place.
            encoder_outputs ([`LoopedThinkerEncoderOutput`]): thoughts to read from; the problem is then not needed,
                and what says how to think about it, `loop_decoder` included, has no effect, as in `generate`.
            past_key_values (`Cache`): keys and values of earlier tokens; `EncoderDecoderCache` for an answer.
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, D)`): vectors in place of token ids.
            use_cache (`bool`): return keys and values.
            num_steps (`int`): steps of thinking in this call; the configuration's by default.
            num_latents (`int`): latents that think about a problem, at most `max_latents`.
            num_read_steps (`int`): see [`LoopedThinkerConfig`].
            memory_ids (`torch.LongTensor` of shape `(B, K)`): static memories of each problem.
            answer_length (`int`): positions to read out in parallel; `max_answer_length` by default.
            loop_decoder (`bool`): let a stream of answer tokens think along (the original's full autoregression).
            exit_threshold (`float`): relative change of its latent below which a token of a text is done; evaluation.
            output_steps (`bool`): return states of steps.

        Returns:
            [`LoopedThinkerModelOutput`]

        Raises:
            `ValueError`: for input the model cannot read; names the argument, what came and what is allowed.
        """
        config, is_learning = self.config, self.training and torch.is_grad_enabled()
        thinking = {"num_steps": num_steps, "num_latents": num_latents, "num_read_steps": num_read_steps}
        thinking["memory_ids"] = memory_ids
        reading = {
            "decoder_input_ids": decoder_input_ids,
            "decoder_inputs_embeds": decoder_inputs_embeds,
            "decoder_attention_mask": decoder_attention_mask,
            "answer_length": answer_length,
        }
        tokens = {"attention_mask": attention_mask, "position_ids": position_ids}
        check_replay(is_learning and self.gradient_checkpointing, use_cache, past_key_values)
        if not config.is_encoder_decoder:
            foreign = {**thinking, **reading, "encoder_outputs": encoder_outputs, "loop_decoder": loop_decoder or None}
            del foreign["num_steps"]
            check_mode(False, **foreign)
            past_key_values = self.choose_text_cache(position_ids, attention_mask, past_key_values, use_cache)
            cached = {"past_key_values": past_key_values, "num_steps": num_steps, "exit_threshold": exit_threshold}
            check_text(config, is_learning, input_ids, inputs_embeds=inputs_embeds, **tokens, **cached)
            if exit_threshold is None and not is_learning:
                cached["exit_threshold"] = config.exit_threshold
            inputs_embeds = self.embed(input_ids, inputs_embeds)
            return self.decode_text(inputs_embeds, **tokens, **cached, output_steps=output_steps, **kwargs)

        check_mode(True, exit_threshold=exit_threshold)
        past_key_values = self.choose_answer_cache(past_key_values, use_cache)
        batch_size = check_problem(config, input_ids, inputs_embeds, **tokens, **thinking, thoughts=encoder_outputs)
        reading["batch_size"] = batch_size
        reading["answer_length"] = check_answer(config, past_key_values, loop_decoder=loop_decoder, **reading)
        loop_embeds = None
        if encoder_outputs is None:
            inputs_embeds = self.embed(input_ids, inputs_embeds, **tokens)
            if loop_decoder:
                loop_embeds = self.embed_answer_loop(decoder_input_ids, inputs_embeds, attention_mask)
        return self.decode_problem(
            inputs_embeds,
            attention_mask,
            encoder_outputs,
            past_key_values,
            thinking,
            reading,
            loop_embeds,
            output_steps,
            **kwargs,
        )


class LoopedThinkerForConditionalGeneration(AnswerThinkingMixin, LoopedThinkerPreTrainedModel, GenerationMixin):
    """
    A looped Thinker that answers problems: "3 + 4 =" in, "7" out.

    `generate` takes `num_steps`, `num_latents` and `num_read_steps`, which are also fields of `GenerationConfig`, and
    answers of up to `max_answer_length` tokens by default. With `readout="parallel"` a whole answer is read out once
    and then decoded by transformers' own search, position by position.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: LoopedThinkerConfig):
        super().__init__(set_mode(config, is_encoder_decoder=True))
        config = self.config
        self.model = LoopedThinkerModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.num_probes > 0:
            self.probe = nn.Linear(config.hidden_size, config.num_probes)
        # transformers drops fields that it does not know, as `num_steps`, from what it derived from a configuration.
        self.generation_config._from_model_config = False
        self.generation_config.max_new_tokens = config.max_answer_length
        self.post_init()

    def get_encoder(self, modality: str | None = None):
        """What thinks about a problem."""
        return self.model.get_encoder()

    def unembed(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Logits `(..., V)` of answer states `(..., D)`."""
        return self.lm_head(hidden_states)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.LongTensor) -> torch.LongTensor:
        """Answers `(B, A)` shifted right: position a is given token a - 1, the first `decoder_start_token_id`."""
        if self.config.readout == "parallel":
            raise ValueError(
                'Decoder inputs were asked for, but `readout="parallel"` reads answers out without any. Give the '
                "collator no `model`."
            )
        start = self.config.decoder_start_token_id
        if start is None:
            raise ValueError("`labels` came, but the config has no `decoder_start_token_id` to put before an answer.")
        filler = start if self.config.pad_token_id is None else self.config.pad_token_id
        return F.pad(labels[:, :-1], (1, 0), value=start).masked_fill(F.pad(labels[:, :-1], (1, 0)) == -100, filler)

    def prepare_answer(self, labels, decoder_input_ids, decoder_inputs_embeds, answer_length):
        """What is read out, given what is to be learned."""
        if labels is None:
            return decoder_input_ids, answer_length
        if self.config.readout == "autoregressive":
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
            return decoder_input_ids, answer_length
        if decoder_input_ids is not None:
            raise ValueError(
                '`decoder_input_ids` came with `labels`, but with `readout="parallel"` every position sees them all, '
                "the answer included. Leave them out (and give the collator no `model`)."
            )
        if answer_length is None and decoder_inputs_embeds is None:
            answer_length = labels.shape[1]
        return decoder_input_ids, answer_length

    def score_answers(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Mean over steps of the cross entropy of `(B, S, A, V)` logits; the sum over targets over their number."""
        num_kept = logits.shape[1]
        loss = self.loss_function(
            logits=logits.flatten(0, 1),
            labels=None,
            shift_labels=labels.repeat_interleave(num_kept, dim=0),  # aligned already
            vocab_size=self.config.vocab_size,
            num_items_in_batch=num_items_in_batch,
        )
        return loss if num_items_in_batch is None else loss / num_kept

    def score_probes(
        self, probes: torch.Tensor, probe_labels: torch.Tensor, labels: torch.Tensor, num_items_in_batch=None
    ) -> torch.Tensor:
        """Squared error of `(B, S, A, P)` probes, meaned over probes and steps; as a sum over scored positions."""
        is_scored = (labels != -100)[:, None]
        errors = (probes.float() - probe_labels[:, None].float()).square().mean(-1)  # (B, S, A)
        count = is_scored.sum() if num_items_in_batch is None else num_items_in_batch
        return (errors * is_scored).mean(1).sum() / count

    @accept_cache_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        probe_labels: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        num_steps: int | None = None,
        num_latents: int | None = None,
        num_read_steps: int | None = None,
        memory_ids: torch.LongTensor | None = None,
        answer_length: int | None = None,
        loop_decoder: bool = False,
        output_steps: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LoopedThinkerSeq2SeqLMOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): the problem; or give `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(B, T)`): 1 for real tokens, 0 for padding on either side.
            position_ids (`torch.LongTensor` of shape `(B, T)`): see [`LoopedThinkerModel`].
            decoder_input_ids (`torch.LongTensor` of shape `(B, A)`): see [`LoopedThinkerModel`]; made of `labels`.
            decoder_attention_mask (`torch.Tensor` of shape `(B, A)`): see [`LoopedThinkerModel`].
            decoder_inputs_embeds (`torch.FloatTensor` of shape `(B, A, D)`): see [`LoopedThinkerModel`].
            encoder_outputs ([`LoopedThinkerEncoderOutput`]): thoughts to read from.
            past_key_values (`Cache`): an `EncoderDecoderCache`.
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, D)`): vectors in place of token ids.
            labels (`torch.LongTensor` of shape `(B, A)`): the answers, not shifted; -100 is not scored.
            probe_labels (`torch.FloatTensor` of shape `(B, A, num_probes)`): what the probes should read where
                `labels` are scored.
            use_cache (`bool`): return keys and values.
            num_steps (`int`): steps of thinking in this call, also more than in training.
            num_latents (`int`): latents that think, at most `max_latents`.
            num_read_steps (`int`): see [`LoopedThinkerConfig`].
            memory_ids (`torch.LongTensor` of shape `(B, K)`): static memories of each problem.
            answer_length (`int`): positions of a parallel answer; the labels' length, or `max_answer_length`.
            loop_decoder (`bool`): let a stream of answer tokens think along, and score it too.
            output_steps (`bool`): return logits, hidden states and latents of steps.

        Returns:
            [`LoopedThinkerSeq2SeqLMOutput`]

        Example:

        >>> import torch
        >>> from hf_thoughtbubbles import LoopedThinkerConfig, LoopedThinkerForConditionalGeneration
        >>> config = LoopedThinkerConfig(hidden_size=8, num_attention_heads=2, num_steps=3, pad_token_id=20)
        >>> model = LoopedThinkerForConditionalGeneration(config)
        >>> outputs = model(torch.tensor([[3, 21, 4]]), labels=torch.tensor([[7]]), num_steps=5, output_steps=True)
        >>> outputs.logits.shape, outputs.latents.shape
        (torch.Size([1, 1, 31]), torch.Size([1, 5, 8, 8]))
        """
        answered = None if encoder_outputs is None else encoder_outputs.get("answer_logits")
        if answered is not None and decoder_input_ids is not None:  # a parallel answer in generation
            return LoopedThinkerSeq2SeqLMOutput(logits=answered[:, : decoder_input_ids.shape[1]])
        given = decoder_input_ids if decoder_inputs_embeds is None else decoder_inputs_embeds
        problem = input_ids if inputs_embeds is None else inputs_embeds
        check_labels(self.config, labels, probe_labels, problem, given, answer_length)
        decoder_input_ids, answer_length = self.prepare_answer(
            labels, decoder_input_ids, decoder_inputs_embeds, answer_length
        )
        outputs: LoopedThinkerModelOutput = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            decoder_inputs_embeds=decoder_inputs_embeds,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            num_steps=num_steps,
            num_latents=num_latents,
            num_read_steps=num_read_steps,
            memory_ids=memory_ids,
            answer_length=answer_length,
            loop_decoder=loop_decoder,
            output_steps=output_steps,
            **kwargs,
        )
        num_items, loss = kwargs.get("num_items_in_batch"), None
        states, loop_states = outputs.step_hidden_states, outputs.loop_hidden_states
        if labels is None and not output_steps:
            states = states[:, -1:]
        step_logits = self.unembed(states)  # (B, S, A, V)
        loop_logits = None if loop_states is None else self.unembed(loop_states)
        step_probes = self.probe(states) if self.config.num_probes > 0 else None
        loop_probes = self.probe(loop_states) if self.config.num_probes > 0 and loop_states is not None else None
        if labels is not None:
            loss = self.score_answers(step_logits, labels, num_items)
            if loop_logits is not None:
                loss = loss + self.score_answers(loop_logits, labels, num_items)
            if probe_labels is not None:
                loss = loss + self.score_probes(step_probes, probe_labels, labels, num_items)
        return LoopedThinkerSeq2SeqLMOutput(
            loss=loss,
            logits=step_logits[:, -1],
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            latents=outputs.latents,
            probes=None if step_probes is None else step_probes[:, -1],
            step_hidden_states=states if output_steps else None,
            step_logits=step_logits if output_steps else None,
            step_probes=step_probes if output_steps else None,
            loop_hidden_states=loop_states,
            loop_logits=loop_logits,
            loop_probes=loop_probes,
        )


class LoopedThinkerForCausalLM(TextThinkingMixin, LoopedThinkerPreTrainedModel, GenerationMixin):
    """
    A looped Thinker as a language model: every token has a latent, and the shared block is applied `num_steps` times.

    `generate` takes `num_steps` (more than trained included) and `exit_threshold`, which are also fields of
    `GenerationConfig`. A token whose latent changes by less than the threshold from one step to the next is done: its
    keys and values are repeated to later steps, and a row whose tokens are all done is computed no further.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: LoopedThinkerConfig):
        super().__init__(set_mode(config, is_encoder_decoder=False))
        self.model = LoopedThinkerModel(self.config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        # transformers drops fields that it does not know, as `num_steps`, from what it derived from a configuration.
        self.generation_config._from_model_config = False
        self.post_init()

    def unembed(self, hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor = 0) -> torch.Tensor:
        """Logits `(B, T, V)` of states `(B, T, D)`, or of the last or the listed tokens only."""
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return self.lm_head(hidden_states[:, kept])

    @accept_cache_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        num_steps: int | None = None,
        exit_threshold: float | None = None,
        output_steps: bool = False,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LoopedThinkerCausalLMOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): token ids; or give `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(B, T)`): 1 for real tokens, 0 for padding on either side.
            position_ids (`torch.LongTensor` of shape `(B, T)`): places of the tokens, from 0; follow the mask. Where
                they restart, several documents are packed into a row, and each is read alone.
            past_key_values (`Cache`): keys and values of earlier tokens, which took as many steps.
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, D)`): vectors in place of token ids.
            labels (`torch.LongTensor` of shape `(B, T)`): ids to predict, shifted inside; -100 is not scored.
            use_cache (`bool`): return keys and values; by default in evaluation.
            num_steps (`int`): steps in this call, also more than in training.
            exit_threshold (`float`): relative change of its latent below which a token is done; in evaluation.
            output_steps (`bool`): return latents and logits after every step.
            logits_to_keep (`int` or `torch.LongTensor`): compute logits of the last so many tokens (0: all), or of
                the listed positions.

        Returns:
            [`LoopedThinkerCausalLMOutput`]

        Example:

        >>> import torch
        >>> from hf_thoughtbubbles import LoopedThinkerConfig, LoopedThinkerForCausalLM
        >>> config = LoopedThinkerConfig(vocab_size=11, hidden_size=8, num_attention_heads=2, num_steps=3)
        >>> LoopedThinkerForCausalLM(config)(torch.tensor([[1, 2, 3]]), num_steps=5).num_steps_used
        tensor([[5, 5, 5]])
        """
        outputs: LoopedThinkerModelOutput = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            num_steps=num_steps,
            exit_threshold=exit_threshold,
            output_steps=output_steps,
            **kwargs,
        )
        logits = self.unembed(outputs.last_hidden_state, logits_to_keep)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return LoopedThinkerCausalLMOutput(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            latents=outputs.latents,
            step_logits=self.lm_head(outputs.latents) if output_steps else None,
            num_steps_used=outputs.num_steps_used,
        )


__all__ = [
    "LoopedThinkerForCausalLM",
    "LoopedThinkerForConditionalGeneration",
    "LoopedThinkerModel",
    "LoopedThinkerPreTrainedModel",
]
