# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Functions on streams: which candidate is a token's own, positions, and streams back to tokens.

A filler, which only completes a row, belongs to the token after the last and scores `-inf`; sums over tokens leave it
out.

Shapes: B batch, T tokens, S streams, C candidates, D hidden, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers.utils import ModelOutput, is_torchdynamo_exporting


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


def list_single_streams(hidden_states: torch.Tensor) -> ThoughtbubblesStreams:
    """States `(B, T, D)` of tokens as streams: each token's own, with the score 1."""
    batch_size, num_tokens, _ = hidden_states.shape
    token_index = torch.arange(num_tokens, device=hidden_states.device).expand(batch_size, -1)
    log_scores = torch.zeros(batch_size, num_tokens, device=hidden_states.device)
    return ThoughtbubblesStreams(hidden_states, token_index, log_scores)


def log_sigmoid(values: torch.Tensor) -> torch.Tensor:
    """`F.logsigmoid`; written out in a graph, as ONNX runtimes take the log of a sigmoid that they only estimate."""
    if not is_torchdynamo_exporting():
        return F.logsigmoid(values)
    return values.clamp(max=0) - values.abs().neg().exp().log1p()


def find_own_candidates(token_index: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """
    Which candidates are a token's own stream: the last of its group.

    Args:
        token_index (`torch.Tensor` of shape `(B, C)`): the token of each candidate; `num_tokens` for padding and
            fillers.
        num_tokens (`int`): T.

    Returns:
        `torch.BoolTensor` of shape `(B, C)`.

    >>> find_own_candidates(torch.tensor([[0, 0, 1, 1, 1, 1, 2, 2]]), 2).int()
    tensor([[0, 1, 0, 0, 0, 1, 0, 0]], dtype=torch.int32)
    """
    following = F.pad(token_index[:, 1:], (0, 1), value=-1)
    return (token_index < num_tokens) & (token_index != following)


def count_streams(token_index: torch.Tensor, num_tokens: int, is_counted: torch.Tensor | None = None) -> torch.Tensor:
    """Streams of each token, `(B, S)` to `(B, T)`; of those that `is_counted` `(B, S)` marks, when given."""
    counted = torch.ones_like(token_index) if is_counted is None else is_counted.to(token_index.dtype)
    counts = token_index.new_zeros(token_index.shape[0], num_tokens)
    return counts.scatter_add(1, token_index.clamp(max=num_tokens - 1), counted)


def get_stream_positions(
    token_index: torch.Tensor, num_tokens: int, position_ids: torch.Tensor | None, is_anchored: bool = False
) -> torch.Tensor:
    """
    Positions of streams: the n streams of token t have the positions t + 1/n, ..., t + n/n
    (docs/reference_behaviour.md, "Thoughtbubbles", Block 1). Anchored, they have t - (n-1)/n, ..., t.

    Args:
        token_index (`torch.Tensor` of shape `(B, S)`): the token of each stream.
        num_tokens (`int`): T.
        position_ids (`torch.Tensor` of shape `(B, T)`, *optional*): the tokens' own positions. By default they are
            counted along the row, and a token that lost all its streams has none.
        is_anchored (`bool`): whether the last stream of a token stands exactly at the token's own position, which
            must then be given.

    Returns:
        `torch.FloatTensor` of shape `(B, S)`.
    """
    counts = count_streams(token_index, num_tokens)
    share = counts.gather(1, token_index).float().reciprocal()
    if position_ids is None:
        return share.cumsum(-1)
    num_earlier = (counts.cumsum(-1) - counts).gather(1, token_index)
    rank = torch.arange(1, token_index.shape[1] + 1, device=token_index.device) - num_earlier
    positions = position_ids.expand(token_index.shape[0], -1).gather(1, token_index)
    if is_anchored:
        return positions - (counts.gather(1, token_index) - rank) * share
    return positions + rank * share


def fold_streams(
    hidden_states: torch.Tensor, log_scores: torch.Tensor, token_index: torch.Tensor, num_tokens: int
) -> torch.Tensor:
    """
    Sum of each token's streams weighted by their scores, `(B, S, D)` to `(B, T, D)`, not normalised
    (docs/reference_behaviour.md, "Thoughtbubbles", Output).
    """
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
    "ThoughtbubblesStreams",
    "count_streams",
    "find_own_candidates",
    "fold_streams",
    "get_stream_positions",
    "list_single_streams",
    "log_sigmoid",
    "mix_stream_distributions",
]
