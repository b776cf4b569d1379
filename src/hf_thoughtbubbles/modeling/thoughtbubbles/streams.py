# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Which streams stay at a fork, where do they stand, and how do they become tokens again?

Functions on tensors, for Thoughtbubbles. A filler, which only completes a row, belongs to the token after the last and
scores `-inf`; sums over tokens leave it out.

Shapes: B batch, T tokens, S streams, K kept streams, D hidden, V vocabulary.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers.utils import is_torchdynamo_exporting


KEEP_ALL, KEEP_NONE = -1e4, 1.0  # thresholds below and above every score, finite so that they fit into JSON

# Bins in which scores are counted while training.
NUM_SCORE_BINS, LOWEST_SCORE, SCORE_UNIT = 8192, -320.0, 0.01  # nats
SCORE_STEP = math.asinh(-LOWEST_SCORE / SCORE_UNIT) / NUM_SCORE_BINS
# Equal scores differ by rounding, from one batch shape or processor to another: by less than this, relative to the
# larger of the score and 1. A threshold must lie farther than that from every score.
SCORE_ROUNDING = 1e-5


def log_sigmoid(values: torch.Tensor) -> torch.Tensor:
    """`F.logsigmoid`; written out in a graph, as ONNX runtimes take the log of a sigmoid that they only estimate."""
    if not is_torchdynamo_exporting():
        return F.logsigmoid(values)
    return values.clamp(max=0) - values.abs().neg().exp().log1p()


def select_top_streams(
    candidates: torch.Tensor, token_index: torch.Tensor, num_tokens: int, fork_budget: float, token_mask=None
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """
    The published fork rule (SPEC section 1, FORK 3-5): the best `ceil(T * fork_budget)` offers of a row stay.

    Of every token's offers the last is forced in. With a mask each row has a budget of
    `floor(fork_budget * real tokens)`, and offers beyond it, or of padding, die in place. Ties: the budget prefers the
    later offer, the selection the earlier one. The comparison that finds a token's last offer wraps around the row, so
    a row of a single token forces nothing (SPEC quirk T6).

    Args:
        candidates (`torch.Tensor` of shape `(B, 2S)`): log scores of the offers; 2j is the fork of stream j, 2j+1 its
            own.
        token_index (`torch.Tensor` of shape `(B, 2S)`): the token of each offer.
        num_tokens (`int`): T, the tokens of the input.
        fork_budget (`float`): streams to keep, in multiples of the tokens.
        token_mask (`torch.Tensor` of shape `(B, T)`, *optional*): True for real tokens.

    Returns:
        The offers that stay as sorted positions `(B, K)`, or `None` when all stay, and the candidates with those
        that died at `-inf`.
    """
    num_kept = min(math.ceil(num_tokens * fork_budget), candidates.shape[-1])
    if token_mask is None and num_kept == candidates.shape[-1]:
        return None, candidates

    is_last_offer = token_index != token_index.roll(-1, dims=-1)
    keys = candidates.detach().masked_fill(is_last_offer, torch.inf)
    if token_mask is not None:
        budgets = (token_mask.sum(-1, keepdim=True).float() * fork_budget).floor()
        is_dead = ~token_mask.gather(1, token_index)
        keys = keys.masked_fill(is_dead, -torch.inf)
        order = keys.argsort(dim=-1, stable=True).flip(-1)  # best first, later offers first among equals
        ranks = torch.empty_like(order).scatter_(
            1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
        )
        is_dead = is_dead | (ranks >= budgets)
        keys = keys.masked_fill(is_dead, -torch.inf)
        candidates = candidates.masked_fill(is_dead, -torch.inf)
    if num_kept == candidates.shape[-1]:
        return None, candidates
    best = keys.sort(dim=-1, descending=True, stable=True).indices[:, :num_kept]
    return best.sort(dim=-1).values, candidates


def find_own_offers(token_index: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """
    Which offers are a token's own stream: the last of its group.

    Args:
        token_index (`torch.Tensor` of shape `(B, 2S)`): the token of each offer; `num_tokens` for padding and fillers.
        num_tokens (`int`): T.

    Returns:
        `torch.BoolTensor` of shape `(B, 2S)`.

    >>> find_own_offers(torch.tensor([[0, 0, 1, 1, 1, 1, 2, 2]]), 2).int()
    tensor([[0, 1, 0, 0, 0, 1, 0, 0]], dtype=torch.int32)
    """
    following = F.pad(token_index[:, 1:], (0, 1), value=-1)
    return (token_index < num_tokens) & (token_index != following)


def select_streams_above(
    candidates: torch.Tensor,
    token_index: torch.Tensor,
    num_tokens: int,
    threshold: float | torch.Tensor,
    capacity: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The causal fork rule: a token's own stream stays, every other offer stays when its score reaches the threshold.

    What stays moves to the left of its row, in order. The row is filled up with fillers, which belong to no token.

    Args:
        candidates (`torch.Tensor` of shape `(B, 2S)`): log scores of the offers; 2j is the fork of stream j, 2j+1 its
            own.
        token_index (`torch.Tensor` of shape `(B, 2S)`): the token of each offer; `num_tokens` for padding and fillers.
        num_tokens (`int`): T.
        threshold (`float` or 0-dimensional `torch.Tensor`): the lowest log score that stays.
        capacity (`int`, *optional*): K, at least T. What does not fit is dropped from the end of the row, never an own
            stream. Not given, K is what the fullest row needs, which waits for the device.

    Returns:
        The offers that stay `(B, K)`, and the token of each, `num_tokens` for fillers `(B, K)`.
    """
    num_offers = candidates.shape[1]
    is_own = find_own_offers(token_index, num_tokens)
    is_extra = ~is_own & (token_index < num_tokens) & (candidates.detach() >= threshold)
    if capacity is not None and capacity < num_offers:
        room = capacity - is_own.sum(-1, keepdim=True)
        is_extra &= is_extra.cumsum(-1) <= room
    is_kept = is_own | is_extra
    num_kept = is_kept.sum(-1, keepdim=True)
    capacity = max(1, int(num_kept.max())) if capacity is None else min(capacity, num_offers)
    slots = torch.where(is_kept, is_kept.cumsum(-1) - 1, capacity)  # the slot after the last is thrown away
    offers = torch.arange(num_offers, device=slots.device).expand_as(slots)
    kept = slots.new_zeros(slots.shape[0], capacity + 1).scatter(1, slots, offers)[:, :capacity]
    is_filler = torch.arange(capacity, device=slots.device) >= num_kept
    return kept, token_index.gather(1, kept).masked_fill(is_filler, num_tokens)


def count_scores(candidates: torch.Tensor, token_index: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """
    Histogram of the scores of all offers beyond the tokens' own, best first; histograms of parts of a batch add up.

    Args:
        candidates (`torch.Tensor` of shape `(B, 2S)`), token_index (`(B, 2S)`), num_tokens (`int`): as above.

    Returns:
        `torch.LongTensor` of shape `(NUM_SCORE_BINS,)`. Bin j reaches from `-SCORE_UNIT * sinh(j * SCORE_STEP)` down
        to where bin j + 1 begins: fine near 0, half a percent of the score far below.
    """
    is_open = ~find_own_offers(token_index, num_tokens) & (token_index < num_tokens) & (candidates > -torch.inf)
    depths = candidates.detach().float().clamp(min=LOWEST_SCORE) / -SCORE_UNIT
    bins = (depths.asinh() / SCORE_STEP).long().clamp(0, NUM_SCORE_BINS - 1)
    return token_index.new_zeros(NUM_SCORE_BINS).scatter_add(0, bins.flatten(), is_open.flatten().long())


def find_threshold(counts: torch.Tensor, num_wanted: torch.Tensor) -> torch.Tensor:
    """
    The threshold that about the best `num_wanted` of the counted offers reach.

    It lies where no offer was counted, or on the edge of a bin: scores in one bin may be equal up to rounding, so they
    are kept together or dropped together, whichever keeps nearer to `num_wanted`.

    Args:
        counts (`torch.LongTensor` of shape `(NUM_SCORE_BINS,)`): from [`count_scores`].
        num_wanted (0-dimensional `torch.LongTensor`): offers to keep; all of them when there are fewer.

    Returns:
        0-dimensional `torch.FloatTensor`.

    >>> scores, token_index = torch.tensor([[-1.0, -9.0, -2.0, -9.0]]), torch.tensor([[0, 0, 1, 1]])
    >>> bool(-2 < find_threshold(count_scores(scores, token_index, 2), torch.tensor(1)) < -1)
    True
    """
    num_kept = F.pad(counts.cumsum(0), (1, 0))  # by a cut at each edge of a bin
    distances = (num_kept - torch.minimum(num_wanted, num_kept[-1])).abs()
    is_cut = (distances == distances.min()).int()
    is_cut = is_cut * (num_kept == num_kept.gather(0, is_cut.argmax(0, keepdim=True)))  # of two counts the smaller
    first = is_cut.argmax(0)
    last = first + is_cut.sum() - 1
    # The middle of the empty bins; beside the best or the worst offer where nothing is on the other side.
    edge = (first + last) / 2
    edge = torch.where(last == len(counts), torch.minimum(edge, first + 1), edge)
    edge = torch.where(first == 0, torch.maximum(edge, last - 1), edge)
    return -SCORE_UNIT * torch.sinh(edge * SCORE_STEP)


def cut_scores(scores: torch.Tensor, num_wanted: int) -> float:
    """
    The threshold that about the best `num_wanted` of `scores` reach, farther from every score than rounding.

    Equal scores, as those of one token id before the first layer, are kept together or dropped together. A cut costs
    the number of scores that it keeps too many or too few, plus the number that lie within rounding of it and could
    fall on either side. The cheapest cut is taken; of equally cheap ones, that in the widest gap.

    Args:
        scores (`torch.DoubleTensor` of shape `(N,)`): log scores, best first; at least one.
        num_wanted (`int`): how many to keep; all when there are fewer.

    Returns:
        `float`: halfway between two scores, or beside the best or the worst of them.

    >>> cut_scores(torch.tensor([-1.0, -2.0, -2.0, -2.0, -5.0]), 2)  # not between equal scores
    -1.5
    """
    scores = scores.double()
    margin = 10 * SCORE_ROUNDING
    ends = scores[:1] + margin * scores[:1].abs().clamp(min=1), scores[-1:] - margin * scores[-1:].abs().clamp(min=1)
    bounds = torch.cat((ends[0], scores, ends[1]))
    cuts = torch.cat((ends[0], (scores[:-1] + scores[1:]) / 2, ends[1]))  # cut i keeps i scores
    reach = SCORE_ROUNDING * cuts.abs().clamp(min=1)
    ascending = scores.flip(0).contiguous()
    num_near = torch.searchsorted(ascending, cuts + reach, right=True) - torch.searchsorted(ascending, cuts - reach)
    num_kept = torch.arange(len(cuts), device=scores.device)
    cost = (num_kept - min(num_wanted, len(scores))).abs() + num_near
    gaps = bounds[:-1] - bounds[1:]
    return float(cuts[gaps.where(cost == cost.min(), -1.0).argmax()])


def interpolate_thresholds(
    calibration: dict | None, fork_budget: float, is_stepped: Sequence[bool] = ()
) -> list[float] | None:
    """
    Thresholds, one per fork layer, between those of the two nearest calibrated budgets; `None` beyond them.

    `is_stepped` marks fork layers whose scores take few values, as before layer 0, where a score depends on the token
    id alone. A threshold between two calibrated ones could meet such a value there, so these layers take that of the
    nearer budget.

    >>> interpolate_thresholds({"budgets": [1.0, 2.0], "thresholds": [[0.0, 0.0], [-3.0, -4.0]]}, 1.75, [True, False])
    [-3.0, -3.0]
    """
    budgets = [] if calibration is None else calibration["budgets"]
    for i in range(len(budgets)):
        if budgets[i] == fork_budget:
            return list(calibration["thresholds"][i])
        if i > 0 and budgets[i - 1] < fork_budget < budgets[i]:
            share = (fork_budget - budgets[i - 1]) / (budgets[i] - budgets[i - 1])
            low, high = calibration["thresholds"][i - 1 : i + 1]
            shares = [round(share) if is_step else share for is_step in is_stepped] or [share] * len(low)
            return [(1 - s) * first + s * second for s, first, second in zip(shares, low, high, strict=True)]
    return None


def count_streams(token_index: torch.Tensor, num_tokens: int, is_counted: torch.Tensor | None = None) -> torch.Tensor:
    """Streams of each token, `(B, S)` to `(B, T)`; of those that `is_counted` `(B, S)` marks, when given."""
    counted = torch.ones_like(token_index) if is_counted is None else is_counted.to(token_index.dtype)
    counts = token_index.new_zeros(token_index.shape[0], num_tokens)
    return counts.scatter_add(1, token_index.clamp(max=num_tokens - 1), counted)


def place_streams(token_index: torch.Tensor, num_tokens: int, position_ids: torch.Tensor | None) -> torch.Tensor:
    """
    Positions of streams: the n streams of token t stand at t + 1/n, ..., t + n/n (SPEC section 1, BLOCK 1).

    Args:
        token_index (`torch.Tensor` of shape `(B, S)`): the token of each stream.
        num_tokens (`int`): T.
        position_ids (`torch.Tensor` of shape `(B, T)`, *optional*): the tokens' own positions; without them tokens
            stand one after the other, and a token that lost all its streams takes no place.

    Returns:
        `torch.FloatTensor` of shape `(B, S)`.
    """
    counts = count_streams(token_index, num_tokens)
    share = counts.gather(1, token_index).float().reciprocal()
    if position_ids is None:
        return share.cumsum(-1)
    num_earlier = (counts.cumsum(-1) - counts).gather(1, token_index)
    rank = torch.arange(1, token_index.shape[1] + 1, device=token_index.device) - num_earlier
    return position_ids.expand(token_index.shape[0], -1).gather(1, token_index) + rank * share


def fold_streams(
    hidden_states: torch.Tensor, log_scores: torch.Tensor, token_index: torch.Tensor, num_tokens: int
) -> torch.Tensor:
    """Sum of each token's streams weighted by their scores, `(B, S, D)` to `(B, T, D)` (SPEC section 1, OUTPUT)."""
    batch_size, _, hidden_size = hidden_states.shape
    weighted = hidden_states * log_scores.exp()[..., None].to(hidden_states.dtype)
    rows = torch.arange(batch_size, device=weighted.device)[:, None] * num_tokens
    folded = weighted.new_zeros(batch_size * num_tokens, hidden_size)
    targets = rows + token_index.clamp(max=num_tokens - 1)  # a filler adds nothing to the last token
    folded = folded.index_add(0, targets.flatten(), weighted.flatten(0, 1))
    return folded.view(batch_size, num_tokens, hidden_size)


def mix_stream_distributions(
    logits: torch.Tensor, log_scores: torch.Tensor, token_index: torch.Tensor, num_tokens: int
) -> torch.Tensor:
    """
    Mixture of the streams' distributions (paper, eq. 11), weighted by the token's normalised scores.

    Args:
        logits (`torch.Tensor` of shape `(B, S, V)`), log_scores and token_index (`(B, S)`): of the streams.
        num_tokens (`int`): T.

    Returns:
        Natural-log probabilities `(B, T, V)`, float32; uniform for a token without a live stream.
    """
    batch_size, _, vocab_size = logits.shape
    token_index = token_index.clamp(max=num_tokens - 1)  # a filler adds nothing to the last token
    # Relative to the token's best stream, so that small scores do not vanish in float32.
    best = log_scores.new_full((batch_size, num_tokens), -torch.inf)
    best = best.scatter_reduce(1, token_index, log_scores.detach(), "amax")
    is_empty = best == -torch.inf
    scores = (log_scores - best.masked_fill(is_empty, 0.0).gather(1, token_index)).exp()
    totals = scores.new_zeros(batch_size, num_tokens).scatter_add(1, token_index, scores)
    shares = scores / totals.masked_fill(is_empty, 1.0).gather(1, token_index)
    rows = torch.arange(batch_size, device=logits.device)[:, None] * num_tokens
    probs = logits.new_zeros(batch_size * num_tokens, vocab_size, dtype=torch.float32).index_add(
        0, (rows + token_index).flatten(), (F.softmax(logits.float(), dim=-1) * shares[..., None]).flatten(0, 1)
    )
    probs = probs.view(batch_size, num_tokens, vocab_size).masked_fill(is_empty[..., None], 1 / vocab_size)
    return probs.clamp(min=torch.finfo(torch.float32).tiny).log()


__all__ = [
    "count_scores",
    "count_streams",
    "cut_scores",
    "find_own_offers",
    "find_threshold",
    "fold_streams",
    "interpolate_thresholds",
    "log_sigmoid",
    "mix_stream_distributions",
    "place_streams",
    "select_streams_above",
    "select_top_streams",
]
