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
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    create_causal_mask,
    find_packed_sequence_indices,
)
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple, logging
from transformers.utils.output_capturing import capture_outputs

from ...configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from ...hub.hub_models import HubModelMixin
from ..common.cache_names import CACHE_NAME, CACHE_NAMES, accept_cache_names
from ..common.checks_tokens import check_cache_in_replay
from ..common.common_layers import RotaryEmbedding, eager_attention_forward, rotate_channels
from ..common.position_ids import get_position_ids, take_last
from .cache_streams import StreamCache, StreamSlots
from .checks_thoughtbubbles import check_inputs, warn_of_forks_before_attention
from .generation_thoughtbubbles import ThoughtbubblesGenerationMixin
from .streams import (
    KEEP_ALL,
    KEEP_NONE,
    NUM_SCORE_BINS,
    count_scores,
    count_streams,
    find_threshold,
    fold_streams,
    interpolate_thresholds,
    log_sigmoid,
    mix_stream_distributions,
    place_streams,
    select_streams_above,
    select_top_streams,
)


logger = logging.get_logger(__name__)

MIN_LOG_SCORE = -20.0  # floor of one fork's log score; below it the score gets no gradient (SPEC section 1, FORK 2)
THRESHOLD_DECAY = 0.95  # how much of a tracked threshold stays at each optimizer step


@dataclass
class ThoughtbubblesForkOutput(ModelOutput):
    """
    What one fork layer left.

    Args:
        token_index (`torch.LongTensor` of shape `(B, S)`):
            Position of the token that each stream belongs to; never decreases along a row. Under the causal rule
            rows are filled up with fillers at their end, whose token is T.
        log_scores (`torch.FloatTensor` of shape `(B, S)`):
            Cumulative natural-log score of each stream, at most 0. `-inf` marks a filler, or a dead slot, which only a
            padded batch has: it takes part in nothing and is kept for the published rule's positions.
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
        past_key_values (`Cache`, *optional*): keys and values; not with `fork_rule="topk"`.
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
        past_key_values (`Cache`, *optional*): keys and values; not with `fork_rule="topk"`.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): see [`ThoughtbubblesModelOutput`].
        attentions (`tuple(torch.FloatTensor)`, *optional*): see [`ThoughtbubblesModelOutput`].
        forks (`tuple(ThoughtbubblesForkOutput)`, *optional*): one entry per fork layer, with `output_forks=True`.
    """

    forks: tuple[ThoughtbubblesForkOutput, ...] | None = None


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
        self.has_score_channel = config.fork_score_channel and config.has_fork_scores
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
        slots: StreamSlots | None = None,
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
            key, value = past_key_values.update(key, value, self.layer_idx, slots=slots)

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

    @accept_cache_names
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


def is_learning(module: nn.Module) -> bool:
    """Whether forks follow the rules of training; generating or scoring in between follows those of evaluation."""
    return module.training and torch.is_grad_enabled()


class ThoughtbubblesFork(nn.Module):
    """
    Every stream offers itself and a copy, both scored; the fork rule decides which offers stay (SPEC 1, FORK).

    In training it tracks the threshold that leaves `fork_budget` streams per token. Forward passes between two
    optimizer steps share one threshold and count as one update, so accumulating gradients decides as one large batch
    does, and reading a batch twice, as gradient checkpointing may, changes nothing. That a step was made shows in the
    weights of the scores; frozen scores keep their threshold, as an adapter does not save it.
    """

    def __init__(self, config: ThoughtbubblesConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.num_forks = list(config.fork_layers).index(layer_idx) + 1  # up to and with this one
        self.max_streams_per_token = 2**self.num_forks
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps, bias=config.bias)
        # Channel 0 scores the copy, 1 the stream itself.
        self.score = nn.Linear(config.hidden_size, 2, bias=config.fork_score_init is not None)
        self.embedding = nn.Parameter(torch.empty(config.hidden_size))  # tells a copy from its original

        # The threshold, and the streams per token that it is for; 0 while there is none.
        self.threshold = nn.Buffer(torch.tensor(KEEP_ALL, dtype=torch.float32))
        self.threshold_budget = nn.Buffer(torch.zeros((), dtype=torch.float32))
        # Since the last optimizer step: the threshold in use; how many offers scored what, then streams and tokens.
        self.window_threshold = nn.Buffer(torch.tensor(KEEP_ALL, dtype=torch.float32), persistent=False)
        self.window_counts = nn.Buffer(torch.zeros(NUM_SCORE_BINS + 2, dtype=torch.long), persistent=False)
        # The scores' weights then; infinite, and so different from any, at first.
        self.window_weight = nn.Buffer(torch.full((2, config.hidden_size), torch.inf), persistent=False)

    def _apply(self, fn, recurse=True):
        tracked = {name: getattr(self, name) for name in ("threshold", "threshold_budget", "window_threshold")}
        super()._apply(fn, recurse)
        for name, before in tracked.items():  # a threshold in half precision would drift away from its budget
            after = getattr(self, name)
            if after.dtype != before.dtype:
                setattr(self, name, before.to(after.device))
        return self

    def forward(
        self,
        streams: ThoughtbubblesStreams,
        num_tokens: int,
        token_mask: torch.Tensor | None = None,
        fork_budget: float | None = None,
        threshold: float | torch.Tensor | None = None,
        is_static: bool = False,
    ) -> ThoughtbubblesStreams:
        """
        Fork `streams` `(B, S, D)` of `num_tokens` tokens; `token_mask` `(B, T)` is True for real tokens.

        Evaluation under the causal rule reads `threshold`, and with `is_static` fills rows up to the most streams that
        there can be; training reads what it tracked, and the published rule `fork_budget`.
        """
        is_training = is_learning(self)
        is_tracking = is_training and self.score.weight.requires_grad
        hidden_states, token_index, log_scores = streams.hidden_states, streams.token_index, streams.log_scores
        batch_size, num_streams, hidden_size = hidden_states.shape
        if token_index is None:
            token_index = torch.arange(num_tokens, device=hidden_states.device).expand(batch_size, -1)
        scores = log_sigmoid(self.score(self.norm(hidden_states)).float()).clamp(min=MIN_LOG_SCORE)  # (B, S, 2)
        candidates = (scores if log_scores is None else scores + log_scores[..., None]).flatten(1)  # (B, 2S)
        token_index = token_index.repeat_interleave(2, dim=1)
        real_index = token_index  # with padding and fillers under a number of their own
        if token_mask is not None:
            is_real = F.pad(token_mask, (0, 1)).gather(1, token_index)
            real_index = token_index.masked_fill(~is_real, num_tokens)

        if self.config.fork_rule == "topk":
            kept, candidates = select_top_streams(
                candidates, token_index, num_tokens, fork_budget or self.config.fork_budget, token_mask
            )
            kept_index = token_index if kept is None else token_index.gather(1, kept)
            if is_tracking:
                self.open_window()
        else:
            capacity = num_streams * 2 if is_static else None
            if is_training:
                threshold, capacity = self.open_window(is_tracking), math.ceil(num_tokens * self.config.fork_budget)
            kept, kept_index = select_streams_above(candidates, real_index, num_tokens, threshold, capacity)
        log_scores = candidates if kept is None else candidates.gather(1, kept)
        if self.config.fork_rule == "threshold":
            log_scores = log_scores.masked_fill(kept_index == num_tokens, -torch.inf)
        if is_tracking:
            self.observe(candidates, real_index, num_tokens, log_scores, token_mask)

        embedding = self.embedding.to(hidden_states.dtype)
        if kept is None:
            hidden_states = torch.stack((hidden_states + embedding, hidden_states), dim=2).flatten(1, 2)  # (B, 2S, D)
            return ThoughtbubblesStreams(hidden_states, kept_index, log_scores)
        rows = torch.arange(batch_size, device=kept.device)[:, None] * num_streams
        hidden_states = hidden_states.flatten(0, 1).index_select(0, (rows + kept // 2).flatten())
        hidden_states = hidden_states.view(batch_size, -1, hidden_size)  # (B, K, D)
        is_copy = (kept % 2 == 0)[..., None]
        return ThoughtbubblesStreams(hidden_states + is_copy * embedding, kept_index, log_scores)

    def get_fixed_threshold(self, fork_budget: float) -> float | None:
        """The threshold for a budget that leaves no choice: 1, or as many streams as the forks so far can make."""
        if fork_budget == 1:
            return KEEP_NONE
        return KEEP_ALL if fork_budget >= 2**self.num_forks else None

    @torch.no_grad()
    def open_window(self, is_tracking: bool = True) -> torch.Tensor:
        """The threshold that all forward passes until the next optimizer step use."""
        weight, budget = self.score.weight, self.config.fork_budget
        if not is_tracking:
            return self.threshold
        if weight.shape == self.window_weight.shape:
            is_stepped = (weight != self.window_weight).any()
            self.window_weight.copy_(weight)
        else:  # sharded away: every pass counts as a step
            is_stepped = torch.ones((), dtype=torch.bool, device=self.threshold.device)
        opened = torch.where(self.threshold_budget == budget, self.threshold, KEEP_ALL)  # none yet for a new budget
        self.window_threshold.copy_(torch.where(is_stepped, opened, self.window_threshold))
        self.window_counts.mul_(~is_stepped)
        return self.window_threshold

    @torch.no_grad()
    def observe(self, candidates, token_index, num_tokens: int, log_scores, token_mask):
        """Count the offers of a training batch, and move the threshold towards where they would meet the budget."""
        num_real = token_index.new_tensor(len(token_index) * num_tokens) if token_mask is None else token_mask.sum()
        num_kept = (log_scores > -torch.inf).sum()
        counts = torch.cat((count_scores(candidates, token_index, num_tokens), torch.stack((num_kept, num_real))))
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(counts)
        self.window_counts.add_(counts)

        budget, start = self.config.fork_budget, self.window_threshold
        self.threshold_budget.fill_(budget)
        fixed = self.get_fixed_threshold(budget)
        if fixed is not None:
            self.threshold.fill_(fixed)
            return
        num_wanted = ((budget - 1) * self.window_counts[-1]).round().long()
        found = find_threshold(self.window_counts[:-2], num_wanted)
        is_first = (start <= KEEP_ALL) | (start >= KEEP_NONE)
        moved = torch.where(is_first, found, torch.lerp(found, start, THRESHOLD_DECAY))
        self.threshold.copy_(torch.where(self.window_counts[:-2].sum() > 0, moved, start))

    @property
    def streams_per_token(self) -> torch.Tensor:
        """Streams per token that the training batches since the last optimizer step were left with."""
        return self.window_counts[-2] / self.window_counts[-1].clamp(min=1)


class ThoughtbubblesCopy(nn.Module):
    """
    Every token becomes as many equal streams: the baseline of the paper, which scores nothing. Scores are the streams'
    equal shares in the output of their token.
    """

    def __init__(self, config: ThoughtbubblesConfig):
        super().__init__()
        self.config = config

    @property
    def max_streams_per_token(self) -> int:
        return self.config.max_streams_per_token

    @property
    def streams_per_token(self) -> torch.Tensor:
        """Streams per token, which never change."""
        return torch.tensor(float(self.max_streams_per_token))

    def forward(
        self,
        streams: ThoughtbubblesStreams,
        num_tokens: int,
        token_mask: torch.Tensor | None = None,
        fork_budget: float | None = None,
        threshold: float | torch.Tensor | None = None,
        is_static: bool = False,
    ) -> ThoughtbubblesStreams:
        """Copy `streams` `(B, T, D)`; those of padding leave, as under the causal rule."""
        hidden_states, num_copies = streams.hidden_states, self.max_streams_per_token
        batch_size, _, hidden_size = hidden_states.shape
        token_index = torch.arange(num_tokens, device=hidden_states.device).expand(batch_size, -1)
        if token_mask is not None:
            token_index = token_index.masked_fill(~token_mask, num_tokens)
        token_index = token_index.repeat_interleave(num_copies, dim=1)  # (B, S)
        hidden_states = hidden_states.repeat_interleave(num_copies, dim=1)
        log_scores = torch.full(token_index.shape, -math.log(num_copies), device=hidden_states.device)
        if token_mask is None:
            return ThoughtbubblesStreams(hidden_states, token_index, log_scores)
        capacity = token_index.shape[1] if is_static or is_learning(self) else None
        kept, kept_index = select_streams_above(log_scores, token_index, num_tokens, KEEP_ALL, capacity)
        hidden_states = hidden_states.gather(1, kept[..., None].expand(-1, -1, hidden_size))
        log_scores = log_scores.gather(1, kept).masked_fill(kept_index == num_tokens, -torch.inf)
        return ThoughtbubblesStreams(hidden_states, kept_index, log_scores)


class ThoughtbubblesPreTrainedModel(HubModelMixin, PreTrainedModel):
    """What all Thoughtbubbles models share: initial weights and what transformers may do with them."""

    config: ThoughtbubblesConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ThoughtbubblesDecoderLayer", "ThoughtbubblesFork"]
    _skip_keys_device_placement = [*CACHE_NAMES]
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": ThoughtbubblesDecoderLayer, "attentions": ThoughtbubblesAttention}

    def __init__(self, config: ThoughtbubblesConfig, *args, **kwargs):
        config.validate()  # fields set after construction, as `from_pretrained(..., fork_layers=...)` does
        super().__init__(config, *args, **kwargs)
        if not config.has_fork_scores:  # accelerate's FSDP refuses names that the model has no layer of
            self._no_split_modules = ["ThoughtbubblesDecoderLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, ResidualProjection):
            init.normal_(module.weight, std=std / math.sqrt(2 * self.config.num_hidden_layers))
        elif isinstance(module, ThoughtbubblesFork):
            init.normal_(module.embedding, std=self.config.hidden_size**-0.5)
            if module.score.bias is not None:
                init.copy_(module.score.bias, torch.tensor(self.config.fork_score_init, dtype=torch.float32))
            init.constant_(module.threshold, KEEP_ALL)
            init.zeros_(module.threshold_budget)
            init.constant_(module.window_threshold, KEEP_ALL)
            init.zeros_(module.window_counts)
            init.constant_(module.window_weight, torch.inf)


class ThoughtbubblesModel(ThoughtbubblesPreTrainedModel):
    """
    The bare Thoughtbubbles model: token ids to one normalised vector per token.

    The published fork rule (`fork_rule="topk"`) compares all offers of a row: what a token's streams become depends
    on later tokens and on the length, so it takes part in no cache, and rows padded into one batch differ slightly
    from the same rows alone. With other fork rules, or without fork layers, the model is causal and caches.
    """

    def __init__(self, config: ThoughtbubblesConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        if config.position_embedding == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        else:
            self.rotary_emb = RotaryEmbedding(config)
        self.layers = nn.ModuleList([ThoughtbubblesDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.forks = nn.ModuleDict(
            {
                str(i): ThoughtbubblesFork(config, i) if config.has_fork_scores else ThoughtbubblesCopy(config)
                for i in config.fork_layers
            }
        )
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps, bias=config.bias)
        self.gradient_checkpointing = False
        warn_of_forks_before_attention(config, config.fork_rule)
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
        fork_budget: float | None = None,
        thresholds: list[float | torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[ThoughtbubblesStreams, tuple[ThoughtbubblesForkOutput, ...]]:
        """
        Run the layers over `(B, T, D)`, forking on the way; gives the streams and what each fork layer left.

        Under the causal rule `thresholds`, one per fork layer, are read in evaluation in place of the budget's.
        """
        (batch_size, num_tokens), is_causal = inputs_embeds.shape[:2], self.config.fork_rule != "topk"
        token_mask = documents = None
        if attention_mask is not None and attention_mask.ndim == 2:
            token_mask = take_last(attention_mask, num_tokens, past_key_values).bool()
        if thresholds is None:
            thresholds = self.read_thresholds(fork_budget)
        # A compiled graph and a static cache want one shape for all inputs; a growing cache wants the streams alone.
        is_growing = past_key_values is not None and not past_key_values.is_compileable
        is_static = torch.compiler.is_compiling() and not is_growing
        if is_causal and position_ids is not None and attention_mask is None and past_key_values is None:
            documents = find_packed_sequence_indices(position_ids.expand(batch_size, -1))

        streams, forks, log_scores, gates = ThoughtbubblesStreams(inputs_embeds), [], None, None
        places = self.get_position_ids(inputs_embeds, attention_mask, position_ids, past_key_values)
        shared = {
            "position_embeddings": self.embed_places(places + 1 if self.config.fork_layers else places, inputs_embeds),
            "attention_mask": create_causal_mask(
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                **{CACHE_NAME: past_key_values},
                position_ids=position_ids,
            ),
            "query_mask": None if token_mask is None else token_mask[..., None],
        }
        for layer_idx, layer in enumerate(self.layers[: self.config.num_hidden_layers]):
            if layer_idx in self.config.fork_layers:
                fork, threshold = self.forks[str(layer_idx)], thresholds[len(forks)]
                streams = fork(streams, num_tokens, token_mask, fork_budget, threshold, is_static)
                forks.append(ThoughtbubblesForkOutput(streams.token_index, streams.log_scores))
                is_live = None
                if self.config.has_fork_scores:
                    log_scores = streams.log_scores
                    gates = log_scores.exp()[..., None].to(inputs_embeds.dtype)
                    if is_causal or token_mask is not None:  # fillers and dead slots score -inf: NaN in a key
                        is_live = log_scores > -torch.inf
                        log_scores = log_scores.masked_fill(~is_live, 0.0)
                if is_causal:
                    slots = None
                    if past_key_values is not None:
                        cache_layer = past_key_values.layers[layer_idx]
                        slots = cache_layer.place(streams.token_index, num_tokens, fork.max_streams_per_token)
                    shared = self.prepare_causal_streams(streams, places, documents, slots)
                else:
                    shared = self.prepare_streams(streams, num_tokens, token_mask, is_live, position_ids)
            streams.hidden_states = layer(
                streams.hidden_states, log_scores, gates, **{CACHE_NAME: past_key_values}, **shared, **kwargs
            )
        return streams, tuple(forks)

    def read_thresholds(self, fork_budget: float | None = None) -> list[float | torch.Tensor]:
        """
        The thresholds, one per fork layer, that leave `fork_budget` (default: the configuration's) streams per token.

        Raises:
            `ValueError`: when neither training nor calibration has found any for that budget.
        """
        forks = list(self.forks.values())
        budget = self.config.fork_budget if fork_budget is None else fork_budget
        if self.config.fork_rule != "threshold" or is_learning(self) or not forks:
            return [None] * len(forks)
        if budget == 1:
            return [KEEP_NONE] * len(forks)
        is_stepped = [layer_idx == 0 for layer_idx in self.config.fork_layers]
        calibrated = interpolate_thresholds(self.config.fork_calibration, budget, is_stepped)
        if calibrated is not None:
            pairs = [(fork.get_fixed_threshold(budget), other) for fork, other in zip(forks, calibrated, strict=True)]
            calibrated = [other if fixed is None else fixed for fixed, other in pairs]
        tracked, is_compiling = [fork.threshold for fork in forks], torch.compiler.is_compiling()
        if is_compiling and calibrated is not None:  # no value can be looked at
            pairs = zip(forks, calibrated, strict=True)
            return [torch.where(fork.threshold_budget == budget, fork.threshold, other) for fork, other in pairs]
        if budget == self.config.fork_budget if is_compiling else bool(forks[0].threshold_budget == budget):
            return tracked
        if calibrated is not None:
            return calibrated
        found = 0.0 if is_compiling else float(forks[0].threshold_budget)
        if found == 0 and fork_budget is None:
            if budget < 2 ** len(forks):
                logger.warning_once(
                    "This model has no fork thresholds yet, so every stream stays, whatever `fork_budget` says. Train "
                    "it, or measure thresholds on some text with `hf_thoughtbubbles.calibrate_forks(model, batches)`."
                )
            return tracked
        known = "none" if self.config.fork_calibration is None else self.config.fork_calibration["budgets"]
        tracked_for = f"a budget of {found:g}" if found else "none"
        raise ValueError(
            f"`fork_budget` is {budget}, but thresholds were tracked for {tracked_for} and calibrated for {known}. "
            "Measure others on some text with "
            f"`hf_thoughtbubbles.calibrate_forks(model, batches, budgets=(1.0, {float(budget)}))`."
        )

    def get_position_ids(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None,
        past_key_values: Cache | None,
    ) -> torch.Tensor:
        """Positions `(B or 1, T)` of tokens, from 0."""
        mask = attention_mask if self.config.is_cacheable else None  # the published rule ignores it (SPEC section 1)
        return get_position_ids(inputs_embeds, mask, position_ids, past_key_values)

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
                config=self.config, inputs_embeds=streams.hidden_states, attention_mask=key_mask, **{CACHE_NAME: None}
            ),
            "query_mask": query_mask,
        }

    def prepare_causal_streams(
        self,
        streams: ThoughtbubblesStreams,
        places: torch.Tensor,
        documents: torch.Tensor | None,
        slots: StreamSlots | None,
    ) -> dict:
        """
        The same under the causal rule, where rows have no gaps: fillers stand last, so causal attention never sees
        them, and neither padding nor an uncached pass needs a mask. `places` and `documents` `(B, T)` are the tokens'.
        """
        hidden_states, token_index = streams.hidden_states, streams.token_index
        (batch_size, num_streams), num_tokens = token_index.shape, places.shape[1]
        stream_places = place_streams(token_index, num_tokens + 1, F.pad(places, (0, 1)))
        if documents is not None:
            documents = F.pad(documents, (0, 1), value=-1).gather(1, token_index)  # (B, S)

        def is_seen(batch_idx, head_idx, query_idx, key_idx):
            is_before = key_idx <= (query_idx if slots is None else slots.slots[batch_idx, query_idx])
            if documents is None:
                return is_before
            return is_before & (documents[batch_idx, query_idx] == documents[batch_idx, key_idx])

        if documents is None and (slots is None or slots.first_slot == 0):
            mask = create_causal_mask(
                config=self.config, inputs_embeds=hidden_states, attention_mask=None, **{CACHE_NAME: None}
            )
        elif slots is not None and not slots.needs_mask:
            mask = None  # a single stream, whose row ends with it
        else:
            mask = ALL_MASK_ATTENTION_FUNCTIONS[self.config._attn_implementation](
                batch_size=batch_size,
                q_length=num_streams,
                kv_length=num_streams if slots is None else slots.num_slots,
                mask_function=is_seen,
                allow_is_causal_skip=False,
                dtype=hidden_states.dtype,
                device=hidden_states.device,
                config=self.config,
            )
        return {
            "position_embeddings": self.embed_places(stream_places, hidden_states),
            "attention_mask": mask,
            "query_mask": None,
            "slots": slots,
        }

    @accept_cache_names
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
        fork_budget: float | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ThoughtbubblesModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): token ids; or give `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(B, T)`): 1 for real tokens, 0 for padding on either side.
            position_ids (`torch.LongTensor` of shape `(B, T)`): places of the tokens, from 0. Rotary positions follow
                the mask by themselves; learned ones count from the left of the row unless given.
            past_key_values (`Cache`): keys and values of earlier tokens; not with `fork_rule="topk"`.
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, D)`): vectors in place of token ids.
            use_cache (`bool`): return keys and values; not with `fork_rule="topk"`.
            output_forks (`bool`): return what each fork layer left.
            fork_budget (`float`): streams per token in this call, in evaluation; the configuration's by default. Under
                the causal rule a mean over the calibration text, and 1 means no forks.

        Returns:
            [`ThoughtbubblesModelOutput`]

        Raises:
            `ValueError`: for input the model cannot read; names the argument, what came and what is allowed.
        """
        check_cache_in_replay(self, past_key_values)
        use_cache, past_key_values = self.choose_cache(position_ids, attention_mask, past_key_values, use_cache)
        check_inputs(
            self.config,
            is_learning(self),
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            fork_budget,
        )

        num_past_tokens = 0 if past_key_values is None else past_key_values.get_seq_length()
        inputs_embeds = self.embed(input_ids, inputs_embeds, position_ids, num_past_tokens)
        streams, forks = self.decode(
            inputs_embeds, attention_mask, position_ids, past_key_values, fork_budget, **kwargs
        )
        num_tokens = inputs_embeds.shape[1]
        if output_forks:
            for fork in forks:
                fork.num_streams = count_streams(fork.token_index, num_tokens, fork.log_scores > -torch.inf)
        return ThoughtbubblesModelOutput(
            last_hidden_state=self.norm(self.fold(streams, num_tokens, attention_mask is not None)),
            **{CACHE_NAME: past_key_values},
            forks=forks if output_forks else None,
            streams=streams if self.config.fold == "probability" and forks else None,
        )

    def choose_cache(
        self, position_ids, attention_mask, past_key_values, use_cache
    ) -> tuple[bool | None, Cache | None]:
        """`use_cache` and the cache of this call: by default none where forks learn or a row packs documents."""
        is_packed = self.find_packing(position_ids, attention_mask, past_key_values)
        if use_cache is None and past_key_values is None:
            is_forked = len(self.config.fork_layers) > 0
            is_uncached = is_packed or (is_learning(self) and is_forked)
            is_uncached = is_uncached or (self.training and self.gradient_checkpointing)
            use_cache = self.config.use_cache and self.config.is_cacheable and not is_uncached
        is_cached = (use_cache or past_key_values is not None) and self.config.is_cacheable
        if is_cached and is_packed and not torch.compiler.is_compiling():
            raise ValueError(
                "`use_cache=True` or `past_key_values` came with `position_ids` that pack several documents "
                "into a row, and a cache cannot keep documents apart. Leave it out, or give one document per row."
            )
        if is_cached and past_key_values is None:
            past_key_values = StreamCache(self.config)
        return use_cache, past_key_values

    def find_packing(self, position_ids, attention_mask, past_key_values) -> bool:
        """
        Whether positions restart within a row: several documents, which only an uncached pass can keep apart. A
        compiled model cannot look, and reads without a cache whenever positions come without one.
        """
        if position_ids is None or attention_mask is not None or position_ids.ndim != 2:
            return False
        if past_key_values is not None and (
            torch.compiler.is_compiling() or position_ids.shape[1] == 1 or not self.config.fork_layers
        ):
            return False
        return torch.compiler.is_compiling() or find_packed_sequence_indices(position_ids) is not None

    def fold(self, streams: ThoughtbubblesStreams, num_tokens: int, is_masked: bool) -> torch.Tensor:
        """
        One vector per token. As in the reference, as many streams as tokens are taken as they are under the published
        rule (SPEC quirk T7), except with a mask, where the survivors need not be one per token.
        """
        if streams.token_index is None:
            return streams.hidden_states
        is_original = self.config.fork_rule == "topk" and not is_masked
        if is_original and streams.token_index.shape[1] == num_tokens:
            return streams.hidden_states
        return fold_streams(streams.hidden_states, streams.log_scores, streams.token_index, num_tokens)


class ThoughtbubblesForCausalLM(ThoughtbubblesGenerationMixin, ThoughtbubblesPreTrainedModel, GenerationMixin):
    """
    Thoughtbubbles with a language-modelling head, usually tied to the embeddings.

    Under the published rule `generate` re-reads the whole prefix for every token, with a budget that grows with it
    (the paper's dynamic forking, section 5.1), and scoring a whole text in one call lets later tokens influence the
    forks of earlier ones; `evaluation.scoring.score_dataset` can read honestly, from prefixes. With
    `fork_rule="threshold"` generation is cached and a text's score is a likelihood. `calibrate_forks` turns a model
    of the first kind into one of the second.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: ThoughtbubblesConfig):
        super().__init__(config)
        self.model = ThoughtbubblesModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        # transformers drops fields that it does not know, as `fork_budget`, from what it derived from a configuration.
        self.generation_config._from_model_config = False
        self.post_init()

    def unembed(self, outputs: ThoughtbubblesModelOutput, logits_to_keep: int | torch.Tensor = 0) -> torch.Tensor:
        """Logits `(B, T, V)` of the base model's outputs, or of the last or the listed tokens only."""
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        if outputs.streams is None:
            return self.lm_head(outputs.last_hidden_state[:, kept])
        streams, num_tokens = outputs.streams, outputs.last_hidden_state.shape[1]
        if isinstance(logits_to_keep, int) and logits_to_keep > 0:
            streams = self.take_last_streams(streams, num_tokens, logits_to_keep)
        logits = self.lm_head(self.model.norm(streams.hidden_states))
        return mix_stream_distributions(logits, streams.log_scores, streams.token_index, num_tokens)[:, kept]

    def take_last_streams(self, streams: ThoughtbubblesStreams, num_tokens: int, num_kept: int):
        """The streams of the last `num_kept` tokens, in rows of as many as these can have."""
        num_tail = min(num_kept * self.config.max_streams_per_token, streams.token_index.shape[1])
        if self.config.fork_rule == "topk":  # the last tokens' streams are the last streams
            return ThoughtbubblesStreams(*(part[:, -num_tail:] for part in streams.to_tuple()))
        num_live = (streams.token_index < num_tokens).sum(-1, keepdim=True)
        tail = torch.arange(num_tail, device=num_live.device) + (num_live - num_tail).clamp(min=0)  # (B, tail)
        hidden_states = streams.hidden_states.take_along_dim(tail[..., None], dim=1)
        return ThoughtbubblesStreams(
            hidden_states, streams.token_index.gather(1, tail), streams.log_scores.gather(1, tail)
        )

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
        output_forks: bool = False,
        fork_budget: float | None = None,
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
            use_cache (`bool`): return keys and values; not with `fork_rule="topk"`.
            output_forks (`bool`): return what each fork layer left.
            fork_budget (`float`): see [`ThoughtbubblesModel`].
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
            fork_budget=fork_budget,
            **kwargs,
        )
        logits = self.unembed(outputs, logits_to_keep)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return ThoughtbubblesCausalLMOutput(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            forks=outputs.forks,
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
