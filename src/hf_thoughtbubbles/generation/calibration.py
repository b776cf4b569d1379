# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Calibration of fork thresholds: streams per token, measured on text, for several budgets."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from ..modeling.common.position_ids import count_positions
from ..modeling.thoughtbubbles.checks_thoughtbubbles import check_inputs, is_budget, warn_of_forks_before_attention
from ..modeling.thoughtbubbles.fork_thresholds import KEEP_ALL, KEEP_NONE
from ..modeling.thoughtbubbles.modeling_thoughtbubbles import ThoughtbubblesModel
from ..modeling.thoughtbubbles.streams import find_own_candidates


TABLE_STEP = 0.25  # streams per token between neighbours in the table, so that thresholds in between are good
# Equal scores differ by rounding, from one batch shape or processor to another: by less than this, relative to the
# larger of the score and 1. A threshold must lie farther than that from every score.
SCORE_ROUNDING = 1e-5


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


def _read_batches(batches: Iterable[Mapping[str, torch.Tensor]], model: ThoughtbubblesModel) -> list[dict]:
    """The batches that hold tokens, in memory, because each is used several times."""
    read, device = [], model.embed_tokens.weight.device
    for batch in batches:
        if not isinstance(batch, Mapping) or "input_ids" not in batch:
            raise ValueError(
                f"`batches` holds a {type(batch).__name__} without `input_ids`; pass dicts with `input_ids` (B, T) "
                "and optionally `attention_mask`, as a DataLoader over a tokenized dataset does."
            )
        input_ids, mask = torch.as_tensor(batch["input_ids"]).to(device), batch.get("attention_mask")
        mask = None if mask is None else torch.as_tensor(mask).to(device)
        if input_ids.ndim != 2 or (mask is not None and mask.shape != input_ids.shape):
            shapes = f"{tuple(input_ids.shape)}" + (
                "" if mask is None else f" and `attention_mask` {tuple(mask.shape)}"
            )
            raise ValueError(f"`batches` holds `input_ids` of shape {shapes}; both must be (B, T).")
        if input_ids.numel() > 0 and (mask is None or bool(mask.any())):
            check_inputs(model.config, False, input_ids, mask)
            read.append({"input_ids": input_ids, "attention_mask": mask})
    if not read:
        raise ValueError("`batches` holds no tokens to calibrate on; pass a few thousand tokens of similar text.")
    return read


def _pool_scores(
    model: ThoughtbubblesModel, batches: list[dict], thresholds: Sequence[float]
) -> tuple[torch.Tensor, int]:
    """
    Scores of all candidates beyond the tokens' own at the fork layer after those that have `thresholds`, best first,
    and the number of tokens.
    """
    num_later = len(model.forks) - len(thresholds) - 1
    thresholds, scores, num_tokens = [*thresholds, KEEP_ALL, *[KEEP_NONE] * num_later], [], 0
    for batch in batches:
        mask, length = batch["attention_mask"], batch["input_ids"].shape[1]
        position_ids = None if mask is None else count_positions(mask)
        embeds = model.embed(batch["input_ids"], position_ids=position_ids)
        _, forks = model.decode(embeds, mask, position_ids, thresholds=thresholds)
        fork = forks[len(forks) - num_later - 1]
        is_own = find_own_candidates(fork.token_index, length)
        scores.append(fork.log_scores[~is_own & (fork.token_index < length)].double().cpu())
        num_tokens += int(is_own.sum())
    return torch.cat(scores).sort(descending=True).values, num_tokens


def _read_budgets(budgets: Iterable[float], fork_budget: float) -> list[float]:
    """The budgets to calibrate, ascending, with the one of the configuration."""
    if not isinstance(budgets, Iterable):
        raise ValueError(f"`budgets` is {budgets!r}; pass a list of numbers of streams per token.")
    budgets = list(budgets)
    for budget in budgets:
        if not is_budget(budget):
            raise ValueError(
                f"`budgets` holds {budget!r}; each must be a finite Python or numpy number of at least 1."
            )
    if not budgets:
        raise ValueError("`budgets` is empty; pass at least one number of streams per token.")
    return sorted({float(budget) for budget in (*budgets, fork_budget)})


def _fill_gaps(budgets: list[float], highest: float) -> list[float]:
    """
    Ascending budgets with more in between, evenly, where two are far apart; above `highest` all streams stay.

    >>> _fill_gaps([1.0, 1.5, 9.0], highest=2.0)
    [1.0, 1.25, 1.5, 1.75, 2.0, 9.0]
    """
    if budgets[0] < highest < budgets[-1]:
        budgets = sorted({*budgets, float(highest)})
    filled = []
    for low, high in itertools.pairwise(budgets):
        num_steps = math.ceil((high - low) / TABLE_STEP) if low < highest else 1
        filled += [low + (high - low) * step / num_steps for step in range(num_steps)]
    return [*filled, budgets[-1]]


@torch.no_grad()
def calibrate_forks(
    model: nn.Module,
    batches: Iterable[Mapping[str, torch.Tensor]],
    budgets: Iterable[float] = (1.0, 1.5, 2.0, 3.0, 4.0),
) -> dict[float, list[float]]:
    """
    Set the thresholds of the causal fork rule from data, for several budgets, on any forking model.

    For each budget, layer by layer: the threshold at which the text, forked so far by that budget's earlier
    thresholds, keeps `budget` streams per token. A threshold never lies between scores that are equal up to rounding:
    where many are, as before layer 0, it keeps the number nearest to the budget that keeps equal scores together.
    A model whose rule has no thresholds, as the published top-k rule, becomes a `fork_rule="threshold"` model. The
    table is saved with the configuration, and `generate(fork_budget=...)` or `model(fork_budget=...)` choose from it,
    between its budgets by interpolation. The configuration's own `fork_budget` is always calibrated. Calibrate again
    after further training.

    Args:
        model (`nn.Module`): a Thoughtbubbles model with fork layers, with any head or wrapper.
        batches (`Iterable[Mapping]`): dicts with `input_ids` `(B, T)` and optionally `attention_mask`, of text like
            that which the model will read; kept in memory and read about `4 * (fork layers - 1)` times per unit
            between the lowest and the highest budget.
        budgets (`Iterable[float]`): streams per token, each at least 1.

    Returns:
        `dict[float, list[float]]`: for each budget, the streams per token that the text got after each fork layer. The
        first of F layers can reach 2, the second 4, and so on.

    Raises:
        `ValueError`: for budgets below 1, batches without tokens, or a model without fork layers. The model is then as
            it was.
    """
    bases = [module for module in model.modules() if isinstance(module, ThoughtbubblesModel)]
    if not bases or not bases[0].config.fork_layers:
        raise ValueError("`model` has no fork layers, so there is nothing to calibrate. Set `fork_layers`.")
    base = bases[0]
    config = base.config
    if not config.has_fork_scores:
        raise ValueError(
            f'`model` has `fork_rule="{config.fork_rule}"`, whose streams have no scores to calibrate. Pass a '
            "model with a rule that scores streams."
        )
    asked = _read_budgets(budgets, config.fork_budget)
    budgets = _fill_gaps(asked, highest=2 ** len(config.fork_layers))
    batches = _read_batches(batches, base)

    fork_rule, was_training, table, streams = config.fork_rule, model.training, [], {}
    if not config.has_fork_thresholds:
        config.fork_rule = "threshold"
    warn_of_forks_before_attention(config, config.fork_rule)
    model.eval()
    try:
        first_pool = _pool_scores(base, batches, [])
        for budget in budgets:
            thresholds, streams[budget] = [], []
            for _ in base.forks:
                scores, num_tokens = _pool_scores(base, batches, thresholds) if thresholds else first_pool
                thresholds.append(cut_scores(scores, round((budget - 1) * num_tokens)))
                streams[budget].append(1 + float((scores >= thresholds[-1]).sum()) / num_tokens)
            table.append(thresholds)
    except BaseException:
        config.fork_rule = fork_rule
        raise
    finally:
        model.train(was_training)

    config.fork_calibration = {"budgets": budgets, "thresholds": table}
    chosen = table[budgets.index(float(config.fork_budget))]
    for fork, threshold in zip(base.forks.values(), chosen, strict=True):
        fixed = fork.get_fixed_threshold(config.fork_budget)
        fork.set_threshold(threshold if fixed is None else fixed, config.fork_budget)
    return {budget: streams[budget] for budget in asked}


__all__ = ["calibrate_forks", "cut_scores"]
