# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Histograms of scores, and thresholds found in them or cut between scores, against numbers computed by hand."""

import pytest
import torch

from hf_thoughtbubbles.generation.calibration import cut_scores
from hf_thoughtbubbles.modeling.thoughtbubbles.fork_thresholds import count_scores, find_threshold
from hf_thoughtbubbles.modeling.thoughtbubbles.forking import ForkCandidates, Threshold


# Two tokens of one and two streams, and a filler: candidates 0 1 | 2 3 4 5 | 6 7. Own streams are candidates 1 and 5.
CAUSAL_INDEX = torch.tensor([[0, 0, 1, 1, 1, 1, 2, 2]])
CAUSAL_SCORES = torch.tensor([[-1.0, -9.0, -2.0, -3.0, -1.5, -9.0, 0.0, 0.0]])


@pytest.mark.parametrize("num_wanted, kept", [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (9, 4)])
def test_the_found_threshold_keeps_as_many_candidates_as_wanted(num_wanted, kept):
    # Four candidates beyond the tokens' own: -1, -1.5, -2, -3.
    counts = count_scores(CAUSAL_SCORES, CAUSAL_INDEX, 2)
    assert counts.sum() == 4
    threshold = find_threshold(counts, torch.tensor(num_wanted))
    candidates = ForkCandidates(CAUSAL_SCORES, CAUSAL_INDEX, 2)
    choice = Threshold().choose(candidates, fork_budget=2.0, threshold=threshold, capacity=None)
    assert choice.kept.shape[1] - 2 == kept


def test_thresholds_of_parts_add_up_and_are_fine():
    generator = torch.Generator().manual_seed(0)
    scores = -torch.rand(6, 2000, generator=generator).mul(6).exp().sub(1)  # 0 to -402, most near 0
    token_index = torch.arange(1000).repeat_interleave(2).expand(6, -1)
    whole = count_scores(scores, token_index, 1000)
    parts = sum(count_scores(scores[i : i + 2], token_index[i : i + 2], 1000) for i in (0, 2, 4))
    assert torch.equal(parts, whole)
    for num_wanted in (60, 600, 3000, 5400):
        num_kept = (scores[:, ::2] >= find_threshold(whole, torch.tensor(num_wanted))).sum().item()
        assert num_kept == pytest.approx(num_wanted, rel=0.002, abs=1)


def test_equal_scores_are_counted_to_the_same_side():
    # Ten candidates of -1 and ten of -2, equal up to rounding: 12 wanted is nearer to 10 than to 20.
    scores = torch.tensor([-1.0] * 10 + [-2.0] * 10) + 2e-7 * torch.arange(20)
    candidates = torch.stack((scores, torch.full_like(scores, -9.0)), dim=1).flatten()[None]
    counts = count_scores(candidates, torch.arange(20).repeat_interleave(2)[None], 20)
    for num_wanted, num_kept in ((4, 0), (6, 10), (12, 10), (14, 10), (16, 20)):
        threshold = find_threshold(counts, torch.tensor(num_wanted))
        assert (scores >= threshold).sum() == num_kept
        assert (scores - threshold).abs().min() > 1e-3


@pytest.mark.parametrize("num_wanted, kept", [(0, 0), (1, 1), (2, 1), (3, 4), (4, 4), (5, 5), (6, 6), (9, 6)])
def test_scores_are_cut_where_the_gap_is_wider_than_rounding(num_wanted, kept):
    scores = torch.tensor([-0.5, -2.0, -2.0 - 1e-7, -2.0 - 2e-7, -3.0, -70.0], dtype=torch.double)
    threshold = cut_scores(scores, num_wanted)
    assert (scores >= threshold).sum() == kept
    assert (scores - threshold).abs().min() > 5e-5


def test_dense_scores_are_cut_at_the_wanted_count():
    """A million candidates lie within rounding of each other everywhere; moving the cut would only miss the budget."""
    scores = -torch.rand(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    scores = scores.sort(descending=True).values
    assert abs(int((scores >= cut_scores(scores, 300_000)).sum()) - 300_000) < 30


def test_nothing_counted_keeps_nothing_from_working():
    counts = count_scores(CAUSAL_SCORES, torch.full_like(CAUSAL_INDEX, 2), 2)
    assert counts.sum() == 0 and find_threshold(counts, torch.tensor(3)).isfinite()
