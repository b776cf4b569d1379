# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How does Thoughtbubbles (arXiv 2510.00219) turn tokens into logits?

    embed    token ids to one residual stream per token
    decode   layers over streams; before some layers every stream offers a copy of itself and the best-scored stay
    unembed  the streams of a token are folded into one vector, then logits

A stream carries a cumulative log score. The score weighs what the stream adds to itself, what others read from it, and
its share in the token's output. Without fork layers every token has one stream of score 0: a plain GPT.

Shapes: B batch, T tokens, S streams (T before the first fork), N heads, H head size, D hidden, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin, GenerationMode
from transformers.masking_utils import create_causal_mask, find_packed_sequence_indices
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from ..configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from .streams import count_streams, fold_streams, mix_stream_distributions, place_streams, select_top_streams


MIN_LOG_SCORE = -20.0  # floor of one fork's log score; below it the score gets no gradient (SPEC section 1, FORK 2)


@dataclass
class ThoughtbubblesForkOutput(ModelOutput):
    """
    What one fork layer left.

    Args:
        token_index (`torch.LongTensor` of shape `(B, S)`):
            Position of the token that each stream belongs to; never decreases along a row.
        log_scores (`torch.FloatTensor` of shape `(B, S)`):
            Cumulative natural-log score of each stream, at most 0. `-inf` marks a dead slot, which only a padded batch
            has: it takes part in nothing and is kept for the published rule's positions.
        num_streams (`torch.LongTensor` of shape `(B, T)`):
            How many live streams each token has.
    """

    token_index: torch.LongTensor | None = None
    log_scores: torch.FloatTensor | None = None
    num_streams: torch.LongTensor | None = None


@dataclass
class ThoughtbubblesStreams(ModelOutput):
    """
    The residual streams between layers.

    Args:
        hidden_states (`torch.FloatTensor` of shape `(B, S, D)`): the residual streams, in token order.
        token_index (`torch.LongTensor` of shape `(B, S)`): the token of each stream; `None` before a fork.
        log_scores (`torch.FloatTensor` of shape `(B, S)`): cumulative log scores; `None` (all 0) before a fork.
    """

    hidden_states: torch.FloatTensor | None = None
    token_index: torch.LongTensor | None = None
    log_scores: torch.FloatTensor | None = None


@dataclass
class ThoughtbubblesModelOutput(BaseModelOutputWithPast):
    """
    The base model's output.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, T, D)`): folded, normalised state of each token.
        past_key_values (`Cache`, *optional*): keys and values; only without fork layers.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): the streams entering each layer, `(B, S, D)` with S
            growing at fork layers, then `last_hidden_state`.
        attentions (`tuple(torch.FloatTensor)`, *optional*): attention weights of each layer, `(B, N, S, S)`.
        forks (`tuple(ThoughtbubblesForkOutput)`, *optional*): one entry per fork layer, with `output_forks=True`.
        streams (`ThoughtbubblesStreams`, *optional*): the last streams, when `config.fold` is `"probability"`.
    """

    forks: tuple[ThoughtbubblesForkOutput, ...] | None = None
    streams: ThoughtbubblesStreams | None = None


@dataclass
class ThoughtbubblesCausalLMOutput(CausalLMOutputWithPast):
    """
    The language model's output.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): next-token cross entropy in nats, with `labels`.
        logits (`torch.FloatTensor` of shape `(B, T, V)`): with `fold="probability"` natural-log probabilities.
        past_key_values (`Cache`, *optional*): keys and values; only without fork layers.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): see [`ThoughtbubblesModelOutput`].
        attentions (`tuple(torch.FloatTensor)`, *optional*): see [`ThoughtbubblesModelOutput`].
        forks (`tuple(ThoughtbubblesForkOutput)`, *optional*): one entry per fork layer, with `output_forks=True`.
    """

    forks: tuple[ThoughtbubblesForkOutput, ...] | None = None


class ThoughtbubblesRotaryEmbedding(nn.Module):
    """Rotation angles at real-valued positions: streams of one token sit at fractions of its place."""

    def __init__(self, config: ThoughtbubblesConfig):
        super().__init__()
        self.config = config
        self.rope_type = config.rope_parameters["rope_type"]
        rope_init_fn: Callable = self.compute_default_rope_parameters
        if self.rope_type != "default":
            rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]
        inv_freq, self.attention_scaling = rope_init_fn(config)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)
        self.original_inv_freq = nn.Buffer(inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: ThoughtbubblesConfig, **kwargs) -> tuple[torch.Tensor, float]:
        """Inverse frequencies `theta ** (-2m / H)` for channel pair m, and the (unused) scaling of cos and sin."""
        channels = torch.arange(0, config.head_dim, 2, dtype=torch.float)
        return config.rope_parameters["rope_theta"] ** (-channels / config.head_dim), 1.0

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines `(B, S, 1, H/2)` of the angles at `position_ids` `(B, S)`, in the dtype of `x`."""
        angles = position_ids[..., None, None].float() * self.inv_freq.float()
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def rotate_channels(
    states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, last_channel: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Rotary embedding in the half-split form, with the last channel replaced when one is given.

    Args:
        states (`torch.Tensor` of shape `(B, S, N, H)`): queries or keys.
        cos, sin (`torch.Tensor` of shape `(B, S, 1, H/2)`): from [`ThoughtbubblesRotaryEmbedding`].
        last_channel (`torch.Tensor` of shape `(B, S, N, 1)`, *optional*): what the last channel becomes.

    Returns:
        `torch.Tensor` of shape `(B, S, N, H)`.
    """
    first, second = states.chunk(2, dim=-1)
    turned_first, kept = first * cos - second * sin, slice(None, None if last_channel is None else -1)
    turned_second = second[..., kept] * cos[..., kept] + first[..., kept] * sin[..., kept]
    parts = (turned_first, turned_second) if last_channel is None else (turned_first, turned_second, last_channel)
    return torch.cat(parts, dim=-1)


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
    """Attention written out, `(B, N, S, H)` to `(B, S, N, H)`, with its weights `(B, N, S, S)`."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class ResidualProjection(nn.Linear):
    """
    A projection whose output is added to the residual stream; it starts smaller (SPEC section 1, init).

    A class of its own, because transformers gives `_init_weights` no module without own parameters when the code is
    not its own, so an attention layer could not look after its projection.
    """


class ThoughtbubblesAttention(nn.Module):
    """
    Causal self-attention over streams (SPEC section 1, BLOCK 2-7).

    The score of a stream rides in the last channel: queries hold 1 there and keys the log score, so a fused causal
    kernel weighs keys by `score ** (1 / sqrt(H))` with no bias tensor. Values are multiplied by the score itself.
    """

    def __init__(self, config: ThoughtbubblesConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        self.has_score_channel = config.fork_score_channel and len(config.fork_layers) > 0
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.o_proj = ResidualProjection(config.hidden_size, config.hidden_size, bias=config.bias)
        self.attention_dropout = nn.Dropout(config.attention_dropout)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout)

    def place(self, states: torch.Tensor, position_embeddings, last_channel: torch.Tensor | None) -> torch.Tensor:
        """Put position and score into queries or keys `(B, S, N, H)`; gives `(B, N, S, H)`."""
        if last_channel is not None:
            last_channel = last_channel.to(states.dtype).expand(*states.shape[:-1], 1)
        if position_embeddings is not None:
            states = rotate_channels(states, *position_embeddings, last_channel)
        elif last_channel is not None:
            states = torch.cat((states[..., :-1], last_channel), dim=-1)
        return states.transpose(1, 2)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, S, D)
        log_scores: torch.Tensor | None,  # (B, S), finite
        gates: torch.Tensor | None,  # (B, S, 1)
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
        attention_mask: torch.Tensor | None,
        query_mask: torch.Tensor | None,  # (B, S, 1)
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        shape = (*hidden_states.shape[:2], -1, self.head_dim)
        query, key, value = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        if gates is not None:
            value = value * gates

        query_channel = key_channel = None
        if self.has_score_channel:
            query_channel = query.new_ones(1)
            key_channel = query.new_zeros(1) if log_scores is None else log_scores[..., None, None]
        query = self.place(query.view(shape), position_embeddings, query_channel)  # (B, N, S, H)
        key = self.place(key.view(shape), position_embeddings, key_channel)
        value = value.view(shape).transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        read, weights = attention_interface(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        read = self.attention_dropout(read.reshape(hidden_states.shape))  # (B, S, D)
        if query_mask is not None:
            read = read * query_mask
        return self.hidden_dropout(self.o_proj(read)), weights


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
    """Pre-norm attention and feed-forward; what they add to a stream is scaled by the stream's score."""

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), log_scores, gates, **kwargs)
        hidden_states = hidden_states + (attended if gates is None else attended * gates)
        widened = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + (widened if gates is None else widened * gates)


class ThoughtbubblesFork(nn.Module):
    """Every stream offers itself and a copy, both scored; the fork rule decides which offers stay (SPEC 1, FORK)."""

    def __init__(self, config: ThoughtbubblesConfig):
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps, bias=config.bias)
        self.score = nn.Linear(config.hidden_size, 2, bias=False)  # channel 0 scores the copy, 1 the stream itself
        self.embedding = nn.Parameter(torch.empty(config.hidden_size))  # tells a copy from its original

    def forward(
        self, streams: ThoughtbubblesStreams, num_tokens: int, token_mask: torch.Tensor | None = None
    ) -> ThoughtbubblesStreams:
        """Fork `streams` `(B, S, D)` of `num_tokens` tokens; `token_mask` `(B, T)` is True for real tokens."""
        hidden_states, token_index, log_scores = streams.hidden_states, streams.token_index, streams.log_scores
        batch_size, num_streams, hidden_size = hidden_states.shape
        if token_index is None:
            token_index = torch.arange(num_tokens, device=hidden_states.device).expand(batch_size, -1)
        scores = F.logsigmoid(self.score(self.norm(hidden_states)).float()).clamp(min=MIN_LOG_SCORE)  # (B, S, 2)
        candidates = (scores if log_scores is None else scores + log_scores[..., None]).flatten(1)  # (B, 2S)
        token_index = token_index.repeat_interleave(2, dim=1)

        kept, candidates = select_top_streams(candidates, token_index, num_tokens, self.config.fork_budget, token_mask)
        embedding = self.embedding.to(hidden_states.dtype)
        if kept is None:
            offers = torch.stack((hidden_states + embedding, hidden_states), dim=2).flatten(1, 2)  # (B, 2S, D)
            return ThoughtbubblesStreams(offers, token_index, candidates)
        rows = torch.arange(batch_size, device=kept.device)[:, None] * num_streams
        hidden_states = hidden_states.flatten(0, 1).index_select(0, (rows + kept // 2).flatten())
        hidden_states = hidden_states.view(batch_size, -1, hidden_size)  # (B, K, D)
        is_copy = (kept % 2 == 0)[..., None]
        return ThoughtbubblesStreams(
            hidden_states + is_copy * embedding, token_index.gather(1, kept), candidates.gather(1, kept)
        )


class ThoughtbubblesPreTrainedModel(PreTrainedModel):
    """What all Thoughtbubbles models share: initial weights and what transformers may do with them."""

    config: ThoughtbubblesConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ThoughtbubblesDecoderLayer", "ThoughtbubblesFork"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": ThoughtbubblesDecoderLayer, "attentions": ThoughtbubblesAttention}

    def __init__(self, config: ThoughtbubblesConfig, *args, **kwargs):
        config.validate()  # fields set after construction, as `from_pretrained(..., fork_layers=...)` does
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, ResidualProjection):
            init.normal_(module.weight, std=std / math.sqrt(2 * self.config.num_hidden_layers))
        elif isinstance(module, ThoughtbubblesFork):
            init.normal_(module.embedding, std=self.config.hidden_size**-0.5)


class ThoughtbubblesModel(ThoughtbubblesPreTrainedModel):
    """
    The bare Thoughtbubbles model: token ids to one normalised vector per token.

    The published fork rule (`fork_policy="topk"`) compares all offers of a row: what a token's streams become depends
    on later tokens and on the length, so it takes part in no cache, and rows padded into one batch differ slightly
    from the same rows alone. Without fork layers the model is causal and caches as any other.
    """

    def __init__(self, config: ThoughtbubblesConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        if config.position_embedding == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        else:
            self.rotary_emb = ThoughtbubblesRotaryEmbedding(config)
        self.layers = nn.ModuleList([ThoughtbubblesDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.forks = nn.ModuleDict({str(i): ThoughtbubblesFork(config) for i in config.fork_layers})
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps, bias=config.bias)
        self.gradient_checkpointing = False
        self.post_init()

    def embed(
        self,
        input_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        num_past_tokens: int = 0,
    ) -> torch.Tensor:
        """One vector per token, `(B, T, D)`; learned positions, when the model has them, are added."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if self.config.position_embedding == "learned":
            if position_ids is None:
                num_tokens = inputs_embeds.shape[1]
                position_ids = torch.arange(num_tokens, device=inputs_embeds.device)[None] + num_past_tokens
            inputs_embeds = inputs_embeds + self.embed_positions(position_ids)
        return self.embedding_dropout(inputs_embeds)

    def decode(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[ThoughtbubblesStreams, tuple[ThoughtbubblesForkOutput, ...]]:
        """Run the layers over `(B, T, D)`, forking on the way; gives the streams and what each fork layer left."""
        num_tokens = inputs_embeds.shape[1]
        token_mask = None
        if attention_mask is not None and attention_mask.ndim == 2:
            token_mask = attention_mask[:, -num_tokens:].bool()
        streams, forks, log_scores, gates = ThoughtbubblesStreams(inputs_embeds), [], None, None
        shared = {
            "position_embeddings": self.embed_places(
                self.place_tokens(inputs_embeds, attention_mask, position_ids, past_key_values), inputs_embeds
            ),
            "attention_mask": create_causal_mask(
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
            ),
            "query_mask": None if token_mask is None else token_mask[..., None],
        }
        for layer_idx, layer in enumerate(self.layers):
            if layer_idx in self.config.fork_layers:
                streams = self.forks[str(layer_idx)](streams, num_tokens, token_mask)
                log_scores, is_live = streams.log_scores, None
                gates = log_scores.exp()[..., None].to(inputs_embeds.dtype)
                if token_mask is not None:  # only a padded batch has dead slots, and -inf in a key would make NaN
                    is_live = log_scores > -torch.inf
                    log_scores = log_scores.masked_fill(~is_live, 0.0)
                shared = self.prepare_streams(streams, num_tokens, token_mask, is_live, position_ids)
                forks.append(ThoughtbubblesForkOutput(streams.token_index, streams.log_scores))
            streams.hidden_states = layer(
                streams.hidden_states, log_scores, gates, past_key_values=past_key_values, **shared, **kwargs
            )
        return streams, tuple(forks)

    def place_tokens(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None,
        past_key_values: Cache | None,
    ) -> torch.Tensor:
        """Positions `(B or 1, T)` of unforked tokens: from 1 in a forking model, from 0 in the plain GPT."""
        num_tokens, first = inputs_embeds.shape[1], 1 if self.config.fork_layers else 0
        if position_ids is not None:
            return position_ids + first
        if attention_mask is not None and attention_mask.ndim == 2 and not self.config.fork_layers:
            places = (attention_mask.bool().cumsum(-1) - 1).clamp(min=0)  # padding takes no place (SPEC section 2)
            return places[:, -num_tokens:]
        num_past_tokens = 0 if past_key_values is None else past_key_values.get_seq_length()
        return torch.arange(num_tokens, device=inputs_embeds.device)[None] + num_past_tokens + first

    def embed_places(self, positions: torch.Tensor, hidden_states: torch.Tensor):
        """Cosines and sines at `positions`; `None` for learned positions, which are part of the embedding."""
        return self.rotary_emb(hidden_states, positions) if self.config.position_embedding == "rope" else None

    def prepare_streams(
        self,
        streams: ThoughtbubblesStreams,
        num_tokens: int,
        token_mask: torch.Tensor | None,
        is_live: torch.Tensor | None,
        position_ids: torch.LongTensor | None,
    ) -> dict:
        """What the layers until the next fork share: places, the attention mask, and which streams may read."""
        query_mask = key_mask = None
        if token_mask is not None:
            query_mask = token_mask.gather(1, streams.token_index)  # (B, S)
            # Without the score channel dead slots stay keys of value 0 and dilute attention (SPEC quirk T3).
            key_mask = query_mask & is_live if self.config.fork_score_channel else query_mask
            query_mask = query_mask[..., None]
        places = place_streams(streams.token_index, num_tokens, position_ids)
        return {
            "position_embeddings": self.embed_places(places, streams.hidden_states),
            "attention_mask": create_causal_mask(
                config=self.config, inputs_embeds=streams.hidden_states, attention_mask=key_mask, past_key_values=None
            ),
            "query_mask": query_mask,
        }

    def check_inputs(self, input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache):
        """Refuse what the model cannot read. Looks at shapes; at values only where no device has to be waited for."""
        if (input_ids is None) == (inputs_embeds is None):
            came = "neither" if input_ids is None else "both"
            raise ValueError(f"Give exactly one of `input_ids` and `inputs_embeds`; {came} came.")
        given, shape = (input_ids, "(B, T)") if inputs_embeds is None else (inputs_embeds, "(B, T, hidden_size)")
        is_wide = inputs_embeds is None or given.shape[-1] == self.config.hidden_size
        if given.ndim != shape.count(",") + 1 or 0 in given.shape or not is_wide:
            raise ValueError(f"The input has shape {tuple(given.shape)}; it must be {shape}, with no size 0.")
        batch_size, num_tokens = given.shape[:2]
        num_past_tokens = 0 if past_key_values is None else past_key_values.get_seq_length()
        num_seen_tokens = num_past_tokens + num_tokens
        is_counted = isinstance(num_seen_tokens, int)  # a static cache counts on its device
        if is_counted and num_seen_tokens > self.config.max_position_embeddings:
            raise ValueError(
                f"The input is {num_seen_tokens} tokens long, but `max_position_embeddings` is "
                f"{self.config.max_position_embeddings}. Shorten the input or split it into blocks."
            )
        if (
            attention_mask is not None
            and attention_mask.ndim != 2
            and (self.config.fork_layers or attention_mask.ndim != 4)
        ):
            raise ValueError(
                f"`attention_mask` has {attention_mask.ndim} dimensions; give one of shape {(batch_size, num_tokens)} "
                "with 1 for real tokens. A mask over query and key pairs cannot follow tokens that fork."
            )
        is_flat = attention_mask is not None and attention_mask.ndim == 2
        if is_flat and is_counted and tuple(attention_mask.shape) != (batch_size, num_seen_tokens):
            raise ValueError(
                f"`attention_mask` has shape {tuple(attention_mask.shape)}, but the input needs "
                f"{(batch_size, num_seen_tokens)}: one entry per row and token."
            )
        if position_ids is not None and tuple(position_ids.shape) not in {(1, num_tokens), (batch_size, num_tokens)}:
            raise ValueError(
                f"`position_ids` has shape {tuple(position_ids.shape)}, but the input needs "
                f"{(batch_size, num_tokens)}: one entry per row and token."
            )
        if input_ids is not None and input_ids.device.type == "cpu" and not torch.compiler.is_compiling():
            lowest, highest = input_ids.min(), input_ids.max()
            if lowest < 0 or highest >= self.config.vocab_size:
                raise ValueError(
                    f"`input_ids` holds {int(lowest if lowest < 0 else highest)}, but ids are 0 to "
                    f"{self.config.vocab_size - 1} (`vocab_size` {self.config.vocab_size}). Was the text tokenized "
                    "with this model's tokenizer?"
                )
        if self.config.fork_layers:
            self.check_uncached(attention_mask, position_ids, past_key_values, use_cache)

    def check_uncached(self, attention_mask, position_ids, past_key_values, use_cache):
        """Refuse what the published fork rule cannot do: caches and packed documents."""
        if use_cache or past_key_values is not None:
            raise ValueError(
                '`use_cache=True` or `past_key_values` came, but `fork_policy="topk"` chooses streams over the whole '
                "sequence, so no cache can be exact. Call the model on the whole prefix with `use_cache=False`; "
                "`generate` does so by itself."
            )
        # A compiled model cannot look at positions: generation places every prompt in order, training must not guess.
        is_placed = position_ids is not None and attention_mask is None
        is_readable = self.training or not torch.compiler.is_compiling()
        if is_placed and is_readable and find_packed_sequence_indices(position_ids) is not None:
            raise ValueError(
                '`position_ids` pack several documents into a row, but `fork_policy="topk"` lets all tokens of a row '
                "compete for streams. Give one document per row, or an `attention_mask` if the positions only skip "
                "padding."
            )

    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        output_forks: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ThoughtbubblesModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): token ids; or give `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(B, T)`): 1 for real tokens, 0 for padding on either side.
            position_ids (`torch.LongTensor` of shape `(B, T)`): places of the tokens. Rotary positions are relative
                and follow the mask by themselves; learned ones count from the left of the row unless given.
            past_key_values (`Cache`): keys and values of earlier tokens; only without fork layers.
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, D)`): vectors in place of token ids.
            use_cache (`bool`): return keys and values; only without fork layers.
            output_forks (`bool`): return what each fork layer left.

        Returns:
            [`ThoughtbubblesModelOutput`]

        Raises:
            `ValueError`: for input the model cannot read; names the argument, what came and what is allowed.
        """
        self.check_inputs(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache)
        if use_cache is None:
            use_cache = self.config.use_cache and not (self.gradient_checkpointing and self.training)
        if use_cache and past_key_values is None and not self.config.fork_layers:
            past_key_values = DynamicCache(config=self.config)

        num_past_tokens = 0 if past_key_values is None else past_key_values.get_seq_length()
        inputs_embeds = self.embed(input_ids, inputs_embeds, position_ids, num_past_tokens)
        streams, forks = self.decode(inputs_embeds, attention_mask, position_ids, past_key_values, **kwargs)
        num_tokens = inputs_embeds.shape[1]
        if output_forks:
            for fork in forks:
                fork.num_streams = count_streams(fork.token_index, num_tokens, fork.log_scores > -torch.inf)
        return ThoughtbubblesModelOutput(
            last_hidden_state=self.norm(self.fold(streams, num_tokens, attention_mask is not None)),
            past_key_values=past_key_values,
            forks=forks if output_forks else None,
            streams=streams if self.config.fold == "probability" and forks else None,
        )

    def fold(self, streams: ThoughtbubblesStreams, num_tokens: int, is_masked: bool) -> torch.Tensor:
        """
        One vector per token. As in the reference, as many streams as tokens are taken as they are (SPEC quirk T7),
        except with a mask, where the survivors need not be one per token.
        """
        if streams.token_index is None or (streams.token_index.shape[1] == num_tokens and not is_masked):
            return streams.hidden_states
        return fold_streams(streams.hidden_states, streams.log_scores, streams.token_index, num_tokens)


class ThoughtbubblesForCausalLM(ThoughtbubblesPreTrainedModel, GenerationMixin):
    """
    Thoughtbubbles with a language-modelling head, usually tied to the embeddings.

    With fork layers `generate` re-reads the whole prefix for every token, with a budget that grows with it (the
    paper's dynamic forking, section 5.1): the published rule cannot be cached. Scoring a whole text in one call lets
    later tokens influence the forks of earlier ones; `evaluation.scoring.score_dataset` reads honestly, from prefixes.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: ThoughtbubblesConfig):
        super().__init__(config)
        self.model = ThoughtbubblesModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def unembed(self, outputs: ThoughtbubblesModelOutput, logits_to_keep: int | torch.Tensor = 0) -> torch.Tensor:
        """Logits `(B, T, V)` of the base model's outputs, or of the last or the listed tokens only."""
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        if outputs.streams is None:
            return self.lm_head(outputs.last_hidden_state[:, kept])
        streams, num_tokens = outputs.streams, outputs.last_hidden_state.shape[1]
        if isinstance(logits_to_keep, int) and logits_to_keep > 0:  # the last tokens' streams are the last streams
            num_tail = logits_to_keep * 2 ** len(self.config.fork_layers)
            streams = ThoughtbubblesStreams(*(part[:, -num_tail:] for part in streams.to_tuple()))
        logits = self.lm_head(self.model.norm(streams.hidden_states))
        return mix_stream_distributions(logits, streams.log_scores, streams.token_index, num_tokens)[:, kept]

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
        output_forks: bool = False,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ThoughtbubblesCausalLMOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): token ids; or give `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(B, T)`): 1 for real tokens, 0 for padding on either side.
            position_ids (`torch.LongTensor` of shape `(B, T)`): see [`ThoughtbubblesModel`].
            past_key_values (`Cache`): see [`ThoughtbubblesModel`].
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, D)`): vectors in place of token ids.
            labels (`torch.LongTensor` of shape `(B, T)`): ids to predict, shifted inside; -100 is not scored.
            use_cache (`bool`): return keys and values; only without fork layers.
            output_forks (`bool`): return what each fork layer left.
            logits_to_keep (`int` or `torch.LongTensor`): compute logits of the last so many tokens (0: all), or of
                the listed positions.

        Returns:
            [`ThoughtbubblesCausalLMOutput`]

        Example:

        >>> import torch
        >>> from hf_thoughtbubbles import ThoughtbubblesConfig, ThoughtbubblesForCausalLM
        >>> config = ThoughtbubblesConfig(
        ...     vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, fork_layers=[1]
        ... )
        >>> outputs = ThoughtbubblesForCausalLM(config)(torch.tensor([[1, 2, 3]]), output_forks=True)
        >>> outputs.forks[0].num_streams
        tensor([[2, 2, 2]])
        """
        outputs: ThoughtbubblesModelOutput = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_forks=output_forks,
            **kwargs,
        )
        logits = self.unembed(outputs, logits_to_keep)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return ThoughtbubblesCausalLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            forks=outputs.forks,
        )

    def prepare_inputs_for_generation(
        self, input_ids, inputs_embeds=None, attention_mask=None, is_first_iteration=False, **kwargs
    ):
        """Inputs of the next step; a prompt given as vectors is read again with what was generated after it."""
        if self.config.fork_layers and inputs_embeds is not None:
            seen = kwargs["position_ids"] if attention_mask is None else attention_mask  # (B, prompt and generated)
            num_generated = seen.shape[1] - inputs_embeds.shape[1]
            generated = self.get_input_embeddings()(input_ids[:, input_ids.shape[1] - num_generated :])
            inputs_embeds, is_first_iteration = torch.cat((inputs_embeds, generated), dim=1), True
        return super().prepare_inputs_for_generation(
            input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        if max_cache_length > self.config.max_position_embeddings:  # the last new token is never read
            raise ValueError(
                f"Generation may read {max_cache_length} tokens (prompt and `max_new_tokens` but the last), and "
                f"`max_position_embeddings` is {self.config.max_position_embeddings}. Ask for fewer new tokens or "
                "shorten the prompt."
            )
        if self.config.fork_layers:
            self.check_uncached_generation(generation_config, model_kwargs, generation_mode)
            generation_config.use_cache = False  # every step reads the whole prefix
            mask = model_kwargs.get("attention_mask")
            if mask is not None and bool((mask == 1).all()):  # nothing is padding, and a mask rounds the budget down
                model_kwargs["attention_mask"] = None
        return super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )

    def check_uncached_generation(self, generation_config, model_kwargs, generation_mode):
        """Refuse what asks for a cache by name; `use_cache` is a default, so it only has no effect."""
        asked = [name for name in ("prefill_chunk_size", "cache_implementation") if getattr(generation_config, name)]
        if model_kwargs.get("past_key_values") is not None:
            asked.append("past_key_values")
        if asked:
            raise ValueError(f'`{asked[0]}` came, but `fork_policy="topk"` cannot use a cache. Leave it out.')
        is_assistant = getattr(generation_config, "is_assistant", False)
        if is_assistant or generation_mode == GenerationMode.ASSISTED_GENERATION:
            raise ValueError(
                'Assisted and prompt-lookup generation need a cache, which `fork_policy="topk"` cannot use, neither '
                "as the model nor as its assistant. Generate without."
            )


class ThoughtbubblesForSequenceClassification(GenericForSequenceClassification, ThoughtbubblesPreTrainedModel):
    """Thoughtbubbles that classifies a sequence from its last token."""

    # The generic heads build their base model through AutoModel, which does not know code that came with a checkpoint.
    def __init__(self, config: ThoughtbubblesConfig):
        ThoughtbubblesPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = ThoughtbubblesModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()


class ThoughtbubblesForTokenClassification(GenericForTokenClassification, ThoughtbubblesPreTrainedModel):
    """Thoughtbubbles that classifies every token."""

    def __init__(self, config: ThoughtbubblesConfig):
        ThoughtbubblesPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = ThoughtbubblesModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


class ThoughtbubblesForQuestionAnswering(GenericForQuestionAnswering, ThoughtbubblesPreTrainedModel):
    """Thoughtbubbles that finds the span of an answer."""

    def __init__(self, config: ThoughtbubblesConfig):
        ThoughtbubblesPreTrainedModel.__init__(self, config)
        self.model = ThoughtbubblesModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()


__all__ = [
    "ThoughtbubblesForCausalLM",
    "ThoughtbubblesForQuestionAnswering",
    "ThoughtbubblesForSequenceClassification",
    "ThoughtbubblesForTokenClassification",
    "ThoughtbubblesModel",
    "ThoughtbubblesPreTrainedModel",
]
