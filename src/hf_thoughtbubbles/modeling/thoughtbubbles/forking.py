# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Forks of Thoughtbubbles (arXiv 2510.00219): a fork layer scores candidates, a rule chooses which stay.

Before a fork layer every stream j proposes two candidates, a copy and itself:

    r            = W norm(x_j)                                two numbers, for the copy and for the stream
    log scores   = max(log sigmoid(r), MIN_LOG_SCORE) + s_j   s_j is the cumulative log score of the stream
    copy         = x_j + e                                    e is the fork embedding of the layer

With `fork_anchored=True` r is one number, for the copy, and the stream itself keeps its score. So the own stream of a
token, which never was a copy, has the score 1 at every layer, as if there were no forks. With `fork_adapter_rank` a
copy is `x_j + e + B A norm(x_j)`; B starts at zero.

A rule chooses candidates by their scores. They keep the order of the row; copies are left of their original.
The choice has no gradient, the scores do. A rule of your own is a class with one method:

>>> from hf_thoughtbubbles import ForkRule, ThoughtbubblesConfig, register_fork_rule
>>> @register_fork_rule("confident")
... class Confident(ForkRule):
...     is_causal = True  # the streams of a token depend on its past alone, so generation has a KV cache
...
...     def choose(self, candidates, *, capacity, **kwargs):
...         is_confident = candidates.log_scores > -1.0
...         return candidates.keep(is_confident, capacity)
>>> config = ThoughtbubblesConfig(fork_rule="confident")

Shapes: B batch, T tokens, S streams, C candidates, K candidates that stay, D hidden.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput

from ...configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from ...configuration.fork_rules import CopyRule, ThresholdRule, TopKRule, get_fork_rule, register_fork_rule
from ..common.decoder_parts import build_norm
from ..common.unused_parameters import add_zero_gradients
from .fork_thresholds import TrackedThreshold, is_learning
from .streams import ThoughtbubblesStreams, find_own_candidates, list_single_streams, log_sigmoid


# Floor of one fork's log score, without a gradient below (docs/reference_behaviour.md, "Thoughtbubbles", Fork 2).
MIN_LOG_SCORE = -20.0


@dataclass
class ThoughtbubblesForkOutput(ModelOutput):
    """
    The streams after one fork layer.

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


class ForkChoice(NamedTuple):
    """
    The candidates that stay at a fork.

    Args:
        kept (`torch.LongTensor` of shape `(B, K)`, *optional*): their indices, ascending; `None` when all stay.
        token_index (`torch.LongTensor` of shape `(B, K)`): the token of each; T for fillers.
        log_scores (`torch.FloatTensor` of shape `(B, C)`): log scores of all candidates, `-inf` for dead ones.
    """

    kept: torch.LongTensor | None
    token_index: torch.LongTensor
    log_scores: torch.FloatTensor


class ForkCandidates:
    """
    The candidates of a batch, in token order. The last candidate of a token is its own stream.

    Args:
        log_scores (`torch.FloatTensor` of shape `(B, C)`): cumulative log scores, at most 0.
        slot_index (`torch.LongTensor` of shape `(B, C)`): the token of each candidate; T for fillers.
        num_tokens (`int`): T.
        token_mask (`torch.BoolTensor` of shape `(B, T)`, *optional*): True for tokens that are not padding.

    `token_index` `(B, C)` is `slot_index` with T for padding.
    """

    def __init__(
        self,
        log_scores: torch.Tensor,
        slot_index: torch.Tensor,
        num_tokens: int,
        token_mask: torch.Tensor | None = None,
    ):
        self.log_scores, self.slot_index = log_scores, slot_index
        self.num_tokens, self.token_mask = num_tokens, token_mask
        self.token_index = slot_index
        if token_mask is not None:
            is_real = F.pad(token_mask, (0, 1)).gather(1, slot_index)
            self.token_index = slot_index.masked_fill(~is_real, num_tokens)

    def keep(self, mask: torch.Tensor, capacity: int | None = None) -> ForkChoice:
        """
        Keep the tokens' own streams and the candidates that `mask` marks, at the left of their row and in order.

        The row is filled up with fillers, which belong to no token.

        Args:
            mask (`torch.BoolTensor` of shape `(B, C)`): True for candidates to keep, beside the tokens' own streams;
                padding is dropped.
            capacity (`int`, *optional*): K, at least T. Candidates that do not fit are dropped from the end of the
                row, never an own stream. By default K is that of the fullest row, which waits for the device.
        """
        num_candidates = self.token_index.shape[1]
        is_own = find_own_candidates(self.token_index, self.num_tokens)
        is_extra = ~is_own & (self.token_index < self.num_tokens) & mask
        if capacity is not None and capacity < num_candidates:
            room = capacity - is_own.sum(-1, keepdim=True)
            is_extra &= is_extra.cumsum(-1) <= room
        is_kept = is_own | is_extra
        num_kept = is_kept.sum(-1, keepdim=True)
        capacity = max(1, int(num_kept.max())) if capacity is None else min(capacity, num_candidates)
        slots = torch.where(is_kept, is_kept.cumsum(-1) - 1, capacity)  # the slot after the last is thrown away
        indices = torch.arange(num_candidates, device=slots.device).expand_as(slots)
        kept = slots.new_zeros(slots.shape[0], capacity + 1).scatter(1, slots, indices)[:, :capacity]  # (B, K)
        is_filler = torch.arange(capacity, device=slots.device) >= num_kept
        token_index = self.token_index.gather(1, kept).masked_fill(is_filler, self.num_tokens)
        return ForkChoice(kept, token_index, self.log_scores)


@register_fork_rule("topk")
class TopK(TopKRule):
    """
    The published rule: of all candidates of a row the best `ceil(T * fork_budget)` stay.

    The last candidate of every token is forced in. With a mask each row has a budget of
    `floor(fork_budget * real tokens)`, and candidates beyond it, or of padding, die in place. Ties: the budget prefers
    the later candidate, the selection the earlier one. The comparison that finds a token's last candidate wraps around
    the row, so a row of a single token forces nothing (docs/reference_behaviour.md, "Thoughtbubbles", Fork 3 and T6).
    """

    def choose(self, candidates, *, fork_budget, **kwargs):
        """Compare all candidates of a row; see [`ForkRule.choose`]."""
        log_scores, token_index = candidates.log_scores, candidates.slot_index
        num_candidates = token_index.shape[1]
        num_kept = min(math.ceil(candidates.num_tokens * fork_budget), num_candidates)
        if candidates.token_mask is None and num_kept == num_candidates:
            return ForkChoice(None, token_index, log_scores)
        is_forced = token_index != token_index.roll(-1, dims=-1)
        keys = log_scores.detach().masked_fill(is_forced, torch.inf)
        if candidates.token_mask is not None:
            is_dead = self.find_dead(keys, token_index, candidates.token_mask, fork_budget)
            keys, log_scores = keys.masked_fill(is_dead, -torch.inf), log_scores.masked_fill(is_dead, -torch.inf)
        if num_kept == num_candidates:
            return ForkChoice(None, token_index, log_scores)
        best = keys.sort(dim=-1, descending=True, stable=True).indices[:, :num_kept]
        kept = best.sort(dim=-1).values
        return ForkChoice(kept, token_index.gather(1, kept), log_scores)

    @staticmethod
    def find_dead(keys, token_index, token_mask, fork_budget: float) -> torch.Tensor:
        """Which candidates `(B, C)` are of padding, or beyond the budget of the row's real tokens."""
        is_padding = ~token_mask.gather(1, token_index)
        keys = keys.masked_fill(is_padding, -torch.inf)
        order = keys.argsort(dim=-1, stable=True).flip(-1)  # best first, later candidates first among equals
        steps = torch.arange(order.shape[1], device=order.device).expand_as(order)
        ranks = torch.empty_like(order).scatter_(1, order, steps)
        budgets = (token_mask.sum(-1, keepdim=True).float() * fork_budget).floor()
        return is_padding | (ranks >= budgets)


@register_fork_rule("threshold")
class Threshold(ThresholdRule):
    """The causal rule: own streams stay, and every other candidate whose score reaches the layer's threshold."""

    def choose(self, candidates, *, threshold, capacity, **kwargs):
        """Compare each candidate with `threshold`; see [`ForkRule.choose`]."""
        return candidates.keep(candidates.log_scores.detach() >= threshold, capacity)


@register_fork_rule("copy")
class Copy(CopyRule):
    """The baseline of the paper: all copies of a token stay, those of padding go."""

    def choose(self, candidates, *, capacity, **kwargs):
        """Keep everything; see [`ForkRule.choose`]."""
        if candidates.token_mask is None:
            return ForkChoice(None, candidates.token_index, candidates.log_scores)
        return candidates.keep(torch.ones_like(candidates.token_index, dtype=torch.bool), capacity)


def choose_candidates(
    fork: nn.Module,
    candidates: ForkCandidates,
    fork_budget: float | None,
    threshold: float | torch.Tensor | None,
    is_static: bool,
) -> tuple[ForkChoice, torch.Tensor]:
    """
    The choice of the configuration's rule, and the log scores `(B, K)` of what stays, `-inf` for fillers.

    The slots of a row are fixed in training. In evaluation there is room for all candidates if `is_static`; otherwise
    for as many as stay.
    """
    rule, num_candidates = get_fork_rule(fork.config.fork_rule), candidates.log_scores.shape[1]
    capacity = num_candidates if is_static else None
    if is_learning(fork):
        capacity = math.ceil(candidates.num_tokens * fork.config.fork_budget)
    budget = fork_budget or fork.config.fork_budget
    choice = rule.choose(candidates, fork_budget=budget, threshold=threshold, capacity=capacity)
    log_scores = choice.log_scores if choice.kept is None else choice.log_scores.gather(1, choice.kept)
    if not rule.has_dead_slots:
        log_scores = log_scores.masked_fill(choice.token_index == candidates.num_tokens, -torch.inf)
    return choice, log_scores


def gather_parents(hidden_states: torch.Tensor, kept: torch.Tensor | None, num_candidates: int) -> torch.Tensor:
    """The streams `(B, K, D)`, out of `(B, S, D)`, whose candidates stay; each has `num_candidates`."""
    if kept is None:
        return hidden_states.repeat_interleave(num_candidates, dim=1)
    batch_size, num_streams, hidden_size = hidden_states.shape
    rows = torch.arange(batch_size, device=kept.device)[:, None] * num_streams
    parents = hidden_states.flatten(0, 1).index_select(0, (rows + kept // num_candidates).flatten())
    return parents.view(batch_size, -1, hidden_size)


def keep_tokens(hidden_states: torch.Tensor, token_mask: torch.Tensor | None) -> ThoughtbubblesForkOutput:
    """What a fork layer that leaves every token of `(B, T, D)` its own stream alone would return."""
    streams, num_tokens = list_single_streams(hidden_states), hidden_states.shape[1]
    candidates = ForkCandidates(streams.log_scores, streams.token_index, num_tokens, token_mask)
    token_index = candidates.keep(streams.log_scores > 0, num_tokens).token_index  # own streams alone
    log_scores = streams.log_scores.masked_fill(token_index == num_tokens, -torch.inf)
    return ThoughtbubblesForkOutput(token_index, log_scores)


class ThoughtbubblesFork(TrackedThreshold):
    """
    A fork layer: every stream proposes a copy and itself, both are scored (anchored: the copy alone), the rule
    chooses.
    """

    def __init__(self, config: ThoughtbubblesConfig, num_forks: int):
        super().__init__(config, num_forks)
        self.max_streams_per_token = 2**num_forks
        self.norm = build_norm(config, config.mlp_normalization, config.mlp_bias)
        # Logits that the copy (0) and the stream itself (1) stay. Tools take a name with "score" for a head.
        self.keep_proj = nn.Linear(config.hidden_size, config.num_fork_scores, bias=config.fork_score_init is not None)
        self.embedding = nn.Parameter(torch.empty(config.hidden_size))  # marks a copy
        self.adapter_down = self.adapter_up = None
        if config.fork_adapter_rank is not None:
            self.adapter_down = nn.Linear(config.hidden_size, config.fork_adapter_rank, bias=False)
            self.adapter_up = nn.Linear(config.fork_adapter_rank, config.hidden_size, bias=False)

    def score_candidates(
        self,
        normed: torch.Tensor,
        streams: ThoughtbubblesStreams,
        num_tokens: int,
        token_mask: torch.Tensor | None,
    ):
        """
        The candidates of `streams`, whose normalised states are `normed` `(B, S, D)`: 2j is the copy of stream j,
        2j + 1 the stream itself.
        """
        token_index = streams.token_index
        if token_index is None:
            token_index = torch.arange(num_tokens, device=normed.device).expand(normed.shape[0], -1)
        dtype = torch.promote_types(normed.dtype, self.keep_proj.weight.dtype)  # float32 weights in a float16 model
        raw_scores = self.keep_proj(normed.to(dtype)).float()  # (B, S, 2), anchored (B, S, 1)
        log_scores = log_sigmoid(raw_scores).clamp(min=MIN_LOG_SCORE)
        if self.config.fork_anchored:
            log_scores = F.pad(log_scores, (0, 1))  # log 1 for the stream itself
        if streams.log_scores is not None:
            log_scores = log_scores + streams.log_scores[..., None]
        return ForkCandidates(log_scores.flatten(1), token_index.repeat_interleave(2, dim=1), num_tokens, token_mask)

    def forward(
        self,
        streams: ThoughtbubblesStreams,
        num_tokens: int,
        token_mask: torch.Tensor | None = None,
        fork_budget: float | None = None,
        threshold: float | torch.Tensor | None = None,
        is_static: bool = False,
        is_skipped: bool = False,
    ) -> ThoughtbubblesStreams:
        """
        Fork the streams of a batch.

        Args:
            streams ([`ThoughtbubblesStreams`]): streams `(B, S, D)`.
            num_tokens (`int`): T.
            token_mask (`torch.BoolTensor` of shape `(B, T)`, *optional*): True for tokens that are not padding.
            fork_budget (`float`, *optional*): streams per token; the configuration's by default.
            threshold (`float` or 0-dimensional `torch.Tensor`, *optional*): of this layer, in evaluation; training
                uses the tracked one.
            is_static (`bool`): fill rows up to the most streams that there can be.
            is_skipped (`bool`): return the streams as they are, for training without forks. The parameters get
                gradients of zero, because DDP waits for a gradient of every parameter.
        """
        if is_skipped:
            return ThoughtbubblesStreams(add_zero_gradients(streams.hidden_states, self))
        if is_learning(self):
            threshold = self.open_window(self.keep_proj.weight)
        normed = self.norm(streams.hidden_states)
        candidates = self.score_candidates(normed, streams, num_tokens, token_mask)
        choice, log_scores = choose_candidates(self, candidates, fork_budget, threshold, is_static)
        hidden_states = self.build_streams(streams.hidden_states, normed, choice.kept)
        if is_learning(self) and self.keep_proj.weight.requires_grad and torch.is_grad_enabled():
            counted = (choice.log_scores, candidates.token_index, num_tokens, token_mask)
            hidden_states, log_scores = self.count_pass(hidden_states, log_scores, *counted)
        return ThoughtbubblesStreams(hidden_states, choice.token_index, log_scores)

    def build_streams(
        self, hidden_states: torch.Tensor, normed: torch.Tensor, kept: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Streams `(B, K, D)` of the kept candidates of `(B, S, D)`; copies get the fork embedding and what the adapter
        makes of their normalised original.
        """
        embedding = self.embedding.to(hidden_states.dtype)
        reduced = None if self.adapter_down is None else self.adapter_down(normed)  # (B, S, rank)
        if kept is None:
            copies = hidden_states + embedding
            if reduced is not None:
                copies = copies + self.adapter_up(reduced)
            return torch.stack((copies, hidden_states), dim=2).flatten(1, 2)
        is_copy = (kept % 2 == 0)[..., None]
        built = gather_parents(hidden_states, kept, 2) + is_copy * embedding
        if reduced is None:
            return built
        return built + self.adapter_up(is_copy * gather_parents(reduced, kept, 2))


class ThoughtbubblesUnscoredFork(nn.Module):
    """
    A fork layer without scores and parameters: every stream becomes as many equal streams. Their log scores are equal
    shares in the output of their token.
    """

    def __init__(self, config: ThoughtbubblesConfig, num_forks: int):
        super().__init__()
        self.config = config
        self.num_candidates = get_fork_rule(config.fork_rule).count_candidates(config)
        self.max_streams_per_token = self.num_candidates**num_forks

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
        """Fork the streams of a batch; see [`ThoughtbubblesFork`]."""
        hidden_states, token_index = streams.hidden_states, streams.token_index
        if token_index is None:
            token_index = torch.arange(num_tokens, device=hidden_states.device).expand(hidden_states.shape[0], -1)
        token_index = token_index.repeat_interleave(self.num_candidates, dim=1)  # (B, C)
        log_scores = torch.full(token_index.shape, -math.log(self.num_candidates), device=hidden_states.device)
        if streams.log_scores is not None:
            log_scores = log_scores + streams.log_scores.repeat_interleave(self.num_candidates, dim=1)
        candidates = ForkCandidates(log_scores, token_index, num_tokens, token_mask)
        choice, log_scores = choose_candidates(self, candidates, None, None, is_static)
        hidden_states = gather_parents(hidden_states, choice.kept, self.num_candidates)
        return ThoughtbubblesStreams(hidden_states, choice.token_index, log_scores)


__all__ = [
    "Copy",
    "ForkCandidates",
    "ForkChoice",
    "ThoughtbubblesFork",
    "ThoughtbubblesForkOutput",
    "ThoughtbubblesUnscoredFork",
    "Threshold",
    "TopK",
    "keep_tokens",
]
