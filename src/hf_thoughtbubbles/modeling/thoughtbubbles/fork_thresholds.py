# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Thresholds of the causal fork rule: tracked while a model trains, measured on scores, looked up for a budget.

Training counts scores in a histogram, because counts of parts of a batch add up exactly; calibration sorts the scores
themselves.

Shapes: B batch, T tokens, C candidates.
"""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import initialization as init
from transformers.utils import logging

from ...configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from .streams import find_own_candidates


logger = logging.get_logger(__name__)

KEEP_ALL, KEEP_NONE = -1e4, 1.0  # thresholds below and above every score, finite so that they fit into JSON
THRESHOLD_DECAY = 0.95  # how much of a tracked threshold stays at each optimizer step

# Bins in which scores are counted while training.
NUM_SCORE_BINS, LOWEST_SCORE, SCORE_UNIT = 8192, -320.0, 0.01  # nats
SCORE_STEP = math.asinh(-LOWEST_SCORE / SCORE_UNIT) / NUM_SCORE_BINS


def is_learning(module: nn.Module) -> bool:
    """Whether forks read by the rule of training rather than that of evaluation, with or without gradients."""
    return module.training and module.config.fork_tracking


def count_scores(log_scores: torch.Tensor, token_index: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """
    Histogram of the scores of all candidates beyond the tokens' own, best first.

    Args:
        log_scores (`torch.Tensor` of shape `(B, C)`): log scores of the candidates.
        token_index (`torch.Tensor` of shape `(B, C)`): the token of each; `num_tokens` for padding and fillers.
        num_tokens (`int`): T.

    Returns:
        `torch.LongTensor` of shape `(NUM_SCORE_BINS,)`. Bin j reaches from `-SCORE_UNIT * sinh(j * SCORE_STEP)` down
        to where bin j + 1 begins: fine near 0, half a percent of the score far below.
    """
    is_real = token_index < num_tokens
    is_counted = ~find_own_candidates(token_index, num_tokens) & is_real & (log_scores > -torch.inf)
    depths = log_scores.detach().float().clamp(min=LOWEST_SCORE) / -SCORE_UNIT
    bins = (depths.asinh() / SCORE_STEP).long().clamp(0, NUM_SCORE_BINS - 1)
    return token_index.new_zeros(NUM_SCORE_BINS).scatter_add(0, bins.flatten(), is_counted.flatten().long())


def find_threshold(counts: torch.Tensor, num_wanted: torch.Tensor) -> torch.Tensor:
    """
    The threshold that about the best `num_wanted` of the counted candidates reach.

    It lies where no candidate was counted, or on the edge of a bin: scores in one bin may be equal up to rounding, so
    they are kept together or dropped together, whichever keeps nearer to `num_wanted`.

    Args:
        counts (`torch.LongTensor` of shape `(NUM_SCORE_BINS,)`): from [`count_scores`].
        num_wanted (0-dimensional `torch.LongTensor`): candidates to keep; all of them when there are fewer.

    Returns:
        0-dimensional `torch.FloatTensor`.

    >>> log_scores, token_index = torch.tensor([[-1.0, -9.0, -2.0, -9.0]]), torch.tensor([[0, 0, 1, 1]])
    >>> bool(-2 < find_threshold(count_scores(log_scores, token_index, 2), torch.tensor(1)) < -1)
    True
    """
    num_kept = F.pad(counts.cumsum(0), (1, 0))  # by a cut at each edge of a bin
    distances = (num_kept - torch.minimum(num_wanted, num_kept[-1])).abs()
    is_cut = (distances == distances.min()).int()
    is_cut = is_cut * (num_kept == num_kept.gather(0, is_cut.argmax(0, keepdim=True)))  # of two counts the smaller
    first = is_cut.argmax(0)
    last = first + is_cut.sum() - 1
    # The middle of the empty bins; beside the best or the worst candidate where nothing is on the other side.
    edge = (first + last) / 2
    edge = torch.where(last == len(counts), torch.minimum(edge, first + 1), edge)
    edge = torch.where(first == 0, torch.maximum(edge, last - 1), edge)
    return -SCORE_UNIT * torch.sinh(edge * SCORE_STEP)


class CountedPass(torch.autograd.Function):
    """Returns two tensors as they are, and adds counts to those of the window when gradients reach either tensor."""

    @staticmethod
    def forward(hidden_states, log_scores, counts, window_counts):
        return hidden_states.view_as(hidden_states), log_scores.view_as(log_scores)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.counts, ctx.window_counts = inputs[2:]

    @staticmethod
    def backward(ctx, hidden_states_grad, log_scores_grad):
        ctx.window_counts.add_(ctx.counts)
        return hidden_states_grad, log_scores_grad, None, None


class TrackedThreshold(nn.Module):
    """
    Base of a fork layer: tracks the threshold that leaves `fork_budget` streams per token while the layer trains.

    Forward passes between two optimizer steps are one window. They share one threshold and count as one update, so
    accumulating gradients decides as one large batch does, and reading a batch twice, as gradient checkpointing may,
    changes nothing. An optimizer step is detected by a change in the weights of the scores. Frozen scores keep their
    threshold, as an adapter does not save it.

    The counts of a window are treated as its gradients are: a pass counts when it gets its gradients, and the counts
    are dropped when the gradients of the scores are (`None` at the start of a pass). So neither a pass that raises
    nor a step without effect, as at the start of a warmup, moves a threshold. The threshold moves once, after the
    step, so a checkpoint needs no counts: one between the passes of a step and the step itself contains the threshold
    that these passes used, and a resumed training makes them again.

    Args:
        config ([`ThoughtbubblesConfig`]): the model's.
        num_forks (`int`): fork layers up to and with this one.
    """

    keep_proj: nn.Module  # of a subclass: its `weight` scores candidates

    def __init__(self, config: ThoughtbubblesConfig, num_forks: int):
        super().__init__()
        self.config = config
        self.num_forks = num_forks
        self.is_sharded = False  # FSDP2 gives forward passes a whole weight, and the gradient to its parts
        # The threshold in use, and the streams per token that it is for; 0 while there is none.
        self.threshold = nn.Buffer(torch.tensor(KEEP_ALL, dtype=torch.float32))
        self.threshold_budget = nn.Buffer(torch.zeros((), dtype=torch.float32))
        # Of this window: its budget; the histogram of scores, then streams and tokens.
        self.window_threshold_budget = nn.Buffer(torch.zeros((), dtype=torch.float32), persistent=False)
        self.window_counts = nn.Buffer(torch.zeros(NUM_SCORE_BINS + 2, dtype=torch.long), persistent=False)
        # The weights of the scores at its start; at first infinite, and so different from any.
        weight = torch.full((config.num_fork_scores, config.hidden_size), torch.inf)
        self.window_weight = nn.Buffer(weight, persistent=False)

    def follow(self, config: ThoughtbubblesConfig):
        """Read the budget and the rule of training from this configuration from now on."""
        self.config = config

    def init_thresholds(self):
        """Set all buffers to those of an untrained layer, as part of `_init_weights`."""
        init.constant_(self.threshold, KEEP_ALL)
        init.zeros_(self.threshold_budget)
        init.zeros_(self.window_threshold_budget)
        init.zeros_(self.window_counts)
        init.constant_(self.window_weight, torch.inf)

    def _apply(self, fn, recurse=True):
        tracked = {name: getattr(self, name) for name in ("threshold", "threshold_budget", "window_threshold_budget")}
        super()._apply(fn, recurse)
        for name, before in tracked.items():  # a threshold in half precision would drift away from its budget
            after = getattr(self, name)
            if after.dtype != before.dtype:
                setattr(self, name, before.to(after.device))
        return self

    def train(self, mode: bool = True):
        """Set the mode; evaluation begins with the threshold of the last step."""
        if self.training and not mode:
            self.settle()
        self.is_sharded = self.is_sharded or is_traceable_wrapper_subclass(self.keep_proj.weight)
        return super().train(mode)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        self.settle()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self.window_counts.zero_()  # those of other weights

    @property
    def streams_per_token(self) -> torch.Tensor:
        """Streams per token that the forward passes of this window left; 1 if they skip fork layers."""
        if self.config.can_skip_forks(self.config.fork_budget):
            return torch.ones_like(self.threshold)
        return self.window_counts[-2] / self.window_counts[-1].clamp(min=1)

    def get_fixed_threshold(self, fork_budget: float) -> float | None:
        """The threshold for a budget that leaves no choice: 1, or as many streams as the forks so far can make."""
        if fork_budget == 1:
            return KEEP_NONE
        return KEEP_ALL if fork_budget >= 2**self.num_forks else None

    def set_threshold(self, threshold: float, fork_budget: float):
        """Replace what was tracked."""
        self.threshold.fill_(threshold)
        self.threshold_budget.fill_(fork_budget)
        self.window_counts.zero_()

    def settle(self):
        """Move the threshold now if an optimizer step was made, instead of at the next forward pass in training."""
        weight = self.keep_proj.weight
        # A sharded weight cannot be compared here: every call counts as one after a step.
        is_here = weight.device == self.window_weight.device and not is_traceable_wrapper_subclass(weight)
        self.close_window(weight if is_here else None)

    @torch.no_grad()
    def close_window(self, weight: torch.Tensor | None):
        """Move the threshold by the counts of the window if a step has changed `weight`, that of the scores."""
        if weight is not None and weight.shape == self.window_weight.shape:
            is_stepped = (weight != self.window_weight).any()
            self.window_weight.copy_(weight)
        else:  # sharded away: every pass counts as a step
            is_stepped = torch.ones((), dtype=torch.bool, device=self.threshold.device)
        is_moved = (
            is_stepped & (self.window_counts[-1] > 0) & (self.window_threshold_budget == self.config.fork_budget)
        )
        self.threshold.copy_(torch.where(is_moved, self.find_next_threshold(), self.threshold))
        self.threshold_budget.copy_(torch.where(is_moved, self.config.fork_budget, self.threshold_budget))
        self.window_counts.mul_(~is_stepped)

    def find_next_threshold(self) -> torch.Tensor:
        """The threshold in use, moved towards where the counts of the window would meet the budget."""
        budget, start = self.config.fork_budget, self.get_training_threshold()
        fixed = self.get_fixed_threshold(budget)
        if fixed is not None:
            return torch.full_like(start, fixed)
        num_wanted = ((budget - 1) * self.window_counts[-1]).round().long()
        found = find_threshold(self.window_counts[:-2], num_wanted)
        is_first = (start <= KEEP_ALL) | (start >= KEEP_NONE)
        moved = torch.where(is_first, found, torch.lerp(found, start, THRESHOLD_DECAY))
        return torch.where(self.window_counts[:-2].sum() > 0, moved, start)

    def get_training_threshold(self) -> torch.Tensor:
        """The threshold of forward passes in training: none yet for a new budget."""
        return torch.where(self.threshold_budget == self.config.fork_budget, self.threshold, KEEP_ALL)

    @torch.no_grad()
    def open_window(self, weight: torch.Tensor) -> torch.Tensor:
        """The threshold that all forward passes until the next optimizer step use; `weight` is that of the scores."""
        self.close_window(weight)
        if not weight.requires_grad:
            return self.threshold
        if weight.grad is None and not self.is_sharded:
            self.window_counts.zero_()
        self.window_threshold_budget.fill_(self.config.fork_budget)
        return self.get_training_threshold()

    def count_pass(
        self,
        hidden_states: torch.Tensor,
        log_scores: torch.Tensor,
        candidate_scores: torch.Tensor,
        token_index: torch.Tensor,
        num_tokens: int,
        token_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Count the candidates of a training batch once its gradients come.

        Args:
            hidden_states (`torch.Tensor` of shape `(B, S, D)`): streams after the fork.
            log_scores (`torch.Tensor` of shape `(B, S)`): their log scores, `-inf` for fillers.
            candidate_scores, token_index, num_tokens: see [`count_scores`].
            token_mask (`torch.BoolTensor` of shape `(B, T)`, *optional*): True for tokens that are not padding.

        Returns:
            `hidden_states` and `log_scores`, whose gradients let the batch count.
        """
        num_kept = (log_scores > -torch.inf).sum()
        num_real = token_index.new_tensor(len(token_index) * num_tokens) if token_mask is None else token_mask.sum()
        histogram = count_scores(candidate_scores, token_index, num_tokens)
        counts = torch.cat((histogram, torch.stack((num_kept, num_real))))
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(counts)
            counts //= self.config.num_head_processes  # which count the same tokens
        return CountedPass.apply(hidden_states, log_scores, counts, self.window_counts)


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
    if calibration is None:
        return None
    budgets, thresholds = calibration["budgets"], calibration["thresholds"]
    if fork_budget in budgets:
        return list(thresholds[budgets.index(fork_budget)])
    for i, (low, high) in enumerate(itertools.pairwise(budgets)):
        if low < fork_budget < high:
            share = (fork_budget - low) / (high - low)
            shares = [round(share) if is_step else share for is_step in is_stepped] or [share] * len(thresholds[i])
            pairs = zip(shares, thresholds[i], thresholds[i + 1], strict=True)
            return [(1 - s) * first + s * second for s, first, second in pairs]
    return None


def read_thresholds(
    config: ThoughtbubblesConfig, forks: Sequence[TrackedThreshold], fork_budget: float | None = None
) -> list[float | torch.Tensor]:
    """
    The thresholds, one per fork layer, that leave `fork_budget` (default: the configuration's) streams per token.

    Thresholds tracked for exactly this budget win over calibrated ones. A compiled graph reads no value, so it takes
    the tracked ones only for the configuration's budget.

    Raises:
        `ValueError`: when neither training nor calibration has found any for that budget.
    """
    budget = config.fork_budget if fork_budget is None else fork_budget
    if budget == 1:
        return [KEEP_NONE] * len(forks)
    for fork in forks:
        if fork.training:  # an optimizer step may have been made since the last pass by the rule of training
            fork.settle()
    tracked, is_compiling = [fork.threshold for fork in forks], torch.compiler.is_compiling()
    calibrated = _read_calibrated(config, forks, budget)
    if is_compiling and calibrated is not None:
        pairs = zip(forks, calibrated, strict=True)
        return [torch.where(fork.threshold_budget == budget, fork.threshold, other) for fork, other in pairs]
    if budget == config.fork_budget if is_compiling else bool(forks[0].threshold_budget == budget):
        return tracked
    if calibrated is not None:
        return calibrated
    tracked_budget = 0.0 if is_compiling else float(forks[0].threshold_budget)
    if tracked_budget > 0 or fork_budget is not None:
        _refuse_budget(config, budget, tracked_budget)
    if budget < 2 ** len(forks):
        logger.warning_once(
            "This model has no fork thresholds yet, so every stream stays, whatever `fork_budget` says. Train it, or "
            "measure thresholds on some text with `hf_thoughtbubbles.calibrate_forks(model, batches)`."
        )
    return tracked


def _read_calibrated(config: ThoughtbubblesConfig, forks, budget: float) -> list[float] | None:
    """Calibrated thresholds for a budget; fixed ones where the budget leaves a layer no choice."""
    is_stepped = [layer_idx == 0 for layer_idx in config.fork_layers]
    calibrated = interpolate_thresholds(config.fork_calibration, budget, is_stepped)
    if calibrated is None:
        return None
    pairs = [(fork.get_fixed_threshold(budget), other) for fork, other in zip(forks, calibrated, strict=True)]
    return [other if fixed is None else fixed for fixed, other in pairs]


def _refuse_budget(config: ThoughtbubblesConfig, budget: float, tracked_budget: float):
    """Raise the error of a budget without thresholds."""
    known = "none" if config.fork_calibration is None else config.fork_calibration["budgets"]
    tracked_for = f"a budget of {tracked_budget:g}" if tracked_budget else "none"
    raise ValueError(
        f"`fork_budget` is {budget}, but thresholds were tracked for {tracked_for} and calibrated for {known}. "
        "Measure others on some text with "
        f"`hf_thoughtbubbles.calibrate_forks(model, batches, budgets=(1.0, {float(budget)}))`."
    )


__all__ = [
    "KEEP_ALL",
    "KEEP_NONE",
    "TrackedThreshold",
    "count_scores",
    "find_threshold",
    "interpolate_thresholds",
    "is_learning",
    "read_thresholds",
]
