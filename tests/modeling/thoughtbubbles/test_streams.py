# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Do streams stay, stand and fold as a person would compute with a pencil?"""

import math

import pytest
import torch

from hf_thoughtbubbles.modeling.thoughtbubbles.streams import (
    count_scores,
    count_streams,
    cut_scores,
    find_own_offers,
    find_threshold,
    fold_streams,
    mix_stream_distributions,
    place_streams,
    select_streams_above,
    select_top_streams,
)


def test_a_budget_of_all_offers_keeps_all():
    candidates = torch.tensor([[-3.0, -1.0, -2.0, -4.0]])
    kept, scores = select_top_streams(candidates, torch.tensor([[0, 0, 1, 1]]), num_tokens=2, fork_budget=2.0)
    assert kept is None
    assert torch.equal(scores, candidates)


def test_the_last_offer_of_every_token_stays_whatever_its_score():
    # Offers 1, 3 and 5 are the tokens' own; one place is left, and the fork of token 2 scores best.
    candidates = torch.tensor([[-2.0, -9.0, -3.0, -9.0, -1.0, -9.0]])
    kept, _ = select_top_streams(candidates, torch.tensor([[0, 0, 1, 1, 2, 2]]), num_tokens=3, fork_budget=4 / 3)
    assert kept.tolist() == [[1, 3, 4, 5]]


def test_ties_of_the_selection_go_to_the_earlier_offer():
    candidates = torch.tensor([[-1.0, -5.0, -1.0, -5.0]])
    kept, _ = select_top_streams(candidates, torch.tensor([[0, 0, 1, 1]]), num_tokens=2, fork_budget=1.5)
    assert kept.tolist() == [[0, 1, 3]]


def test_ties_of_the_budget_go_to_the_later_offer():
    # Two real tokens and a budget of floor(1.5 * 2) = 3: the forks tie, and the later one lives.
    candidates = torch.tensor([[-1.0, -5.0, -1.0, -5.0]])
    mask = torch.tensor([[True, True]])
    kept, scores = select_top_streams(candidates, torch.tensor([[0, 0, 1, 1]]), 2, 1.5, mask)
    assert kept.tolist() == [[1, 2, 3]]
    assert scores.tolist() == [[-math.inf, -5.0, -1.0, -5.0]]


def test_padding_dies_and_fills_what_is_left():
    candidates = torch.tensor([[-1.0, -5.0, -1.0, -5.0, -1.0, -5.0]])
    mask = torch.tensor([[True, False, False]])
    kept, scores = select_top_streams(candidates, torch.tensor([[0, 0, 1, 1, 2, 2]]), 3, 1.0, mask)
    assert scores[0, 1] == -5.0, "the only real token has a budget of one stream, its own"
    assert scores[0, [0, 2, 3, 4, 5]].isneginf().all()
    assert kept.tolist() == [[0, 1, 2]], "dead offers fill the row, earliest first"


def test_a_row_of_one_token_forces_nothing():
    # SPEC quirk T6: the comparison wraps around, so the better-scored fork replaces the token's own stream.
    kept, _ = select_top_streams(torch.tensor([[-1.0, -5.0]]), torch.tensor([[0, 0]]), num_tokens=1, fork_budget=1.0)
    assert kept.tolist() == [[0]]


@pytest.mark.parametrize(("num_tokens", "fork_budget", "num_kept"), [(11, 25 / 11, 26), (7, 1.5, 11), (5, 1.0, 5)])
def test_the_number_kept_is_the_ceiling_of_a_double_product(num_tokens, fork_budget, num_kept):
    # 11 * (25 / 11) is a little more than 25 in double precision (SPEC quirk T8).
    candidates, token_index = torch.zeros(1, 4 * num_tokens), torch.arange(num_tokens).repeat_interleave(4)[None]
    kept, _ = select_top_streams(candidates, token_index, num_tokens, fork_budget)
    assert kept.shape == (1, num_kept)


def test_streams_share_the_place_of_their_token():
    token_index = torch.tensor([[0, 1, 1, 2, 2, 2, 2]])
    places = place_streams(token_index, 3, None)
    assert places.tolist() == [[1.0, 1.5, 2.0, 2.25, 2.5, 2.75, 3.0]]
    assert torch.equal(places, place_streams(token_index, 3, torch.tensor([[0, 1, 2]])))


def test_a_token_without_streams_takes_no_place_unless_placed():
    token_index = torch.tensor([[0, 2, 2]])
    assert place_streams(token_index, 3, None).tolist() == [[1.0, 1.5, 2.0]]
    assert place_streams(token_index, 3, torch.tensor([[0, 1, 2]])).tolist() == [[1.0, 2.5, 3.0]]


def test_only_marked_streams_are_counted():
    token_index = torch.tensor([[0, 0, 2], [1, 1, 1]])
    assert count_streams(token_index, 3).tolist() == [[2, 0, 1], [0, 3, 0]]
    is_live = torch.tensor([[True, False, True], [False, False, True]])
    assert count_streams(token_index, 3, is_live).tolist() == [[1, 0, 1], [0, 1, 0]]


def test_folding_sums_streams_weighted_by_their_scores():
    streams = torch.tensor([[[2.0, 4.0], [1.0, 1.0], [8.0, 0.0]]])
    log_scores = torch.tensor([[math.log(0.5), 0.0, -math.inf]])
    folded = fold_streams(streams, log_scores, torch.tensor([[0, 0, 1]]), num_tokens=2)
    assert folded.tolist() == [[[2.0, 3.0], [0.0, 0.0]]]


def test_mixing_averages_distributions_and_is_uniform_without_streams():
    # Scores 1/2 and 1/4 give shares 2/3 and 1/3 of a certain "0" and an even "0 or 1".
    logits = torch.tensor([[[0.0, -100.0], [0.0, 0.0], [5.0, 1.0]]])
    log_scores = torch.tensor([[0.5, 0.25, 0.0]]).log()
    probs = mix_stream_distributions(logits, log_scores, torch.tensor([[0, 0, 1]]), num_tokens=2).exp()
    torch.testing.assert_close(probs, torch.tensor([[[5 / 6, 1 / 6], [0.5, 0.5]]]))


def test_mixing_keeps_shares_of_scores_too_small_for_float32():
    logits = torch.tensor([[[0.0, -100.0], [-100.0, 0.0]]])
    log_scores = torch.tensor([[-200.0, -200.0 + math.log(3)]])
    probs = mix_stream_distributions(logits, log_scores, torch.tensor([[0, 0]]), num_tokens=1).exp()
    torch.testing.assert_close(probs, torch.tensor([[[0.25, 0.75]]]))


# Two tokens of one and two streams, and a filler: offers 0 1 | 2 3 4 5 | 6 7. Own streams are offers 1 and 5.
CAUSAL_INDEX = torch.tensor([[0, 0, 1, 1, 1, 1, 2, 2]])
CAUSAL_SCORES = torch.tensor([[-1.0, -9.0, -2.0, -3.0, -1.5, -9.0, 0.0, 0.0]])


def test_own_offers_are_the_last_of_each_token_and_no_fillers():
    assert find_own_offers(CAUSAL_INDEX, 2).nonzero()[:, 1].tolist() == [1, 5]
    left_padded = torch.tensor([[2, 2, 0, 0, 1, 1]])
    assert find_own_offers(left_padded, 2).nonzero()[:, 1].tolist() == [3, 5]


@pytest.mark.parametrize(
    "threshold, kept",
    [(1.0, [1, 5]), (-1.0, [0, 1, 5]), (-1.6, [0, 1, 4, 5]), (-2.0, [0, 1, 2, 4, 5]), (-1e4, [0, 1, 2, 3, 4, 5])],
)
def test_above_the_threshold_offers_stay_and_own_streams_always(threshold, kept):
    offers, token_index = select_streams_above(CAUSAL_SCORES, CAUSAL_INDEX, 2, threshold)
    assert offers.tolist() == [kept], "the fillers are gone, whatever they score"
    assert token_index.tolist() == [CAUSAL_INDEX[0, kept].tolist()]


def test_what_exceeds_the_capacity_is_dropped_from_the_end_but_no_own_stream():
    offers, token_index = select_streams_above(CAUSAL_SCORES, CAUSAL_INDEX, 2, -1e4, capacity=4)
    assert offers.tolist() == [[0, 1, 2, 5]]
    offers, _ = select_streams_above(CAUSAL_SCORES, CAUSAL_INDEX, 2, -1e4, capacity=2)
    assert offers.tolist() == [[1, 5]]
    offers, token_index = select_streams_above(CAUSAL_SCORES, CAUSAL_INDEX, 2, -1.0, capacity=6)
    assert token_index.tolist() == [[0, 0, 1, 2, 2, 2]], "fillers complete the row"
    assert offers[0, :3].tolist() == [0, 1, 5]


def test_rows_of_different_lengths_are_filled_up_on_the_right():
    scores = torch.tensor([[-1.0, -9.0, -1.0, -9.0], [-5.0, -9.0, -5.0, -9.0]])
    token_index = torch.tensor([[0, 0, 1, 1], [2, 2, 1, 1]])  # the second row begins with padding
    offers, kept_index = select_streams_above(scores, token_index, 2, -2.0)
    assert kept_index.tolist() == [[0, 0, 1, 1], [1, 2, 2, 2]]
    assert offers[1, 0] == 3


@pytest.mark.parametrize("num_wanted, kept", [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (9, 4)])
def test_the_found_threshold_keeps_as_many_offers_as_wanted(num_wanted, kept):
    # Four offers beyond the tokens' own: -1, -1.5, -2, -3.
    counts = count_scores(CAUSAL_SCORES, CAUSAL_INDEX, 2)
    assert counts.sum() == 4
    threshold = find_threshold(counts, torch.tensor(num_wanted))
    offers, _ = select_streams_above(CAUSAL_SCORES, CAUSAL_INDEX, 2, threshold)
    assert offers.shape[1] - 2 == kept


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
    # Ten offers of -1 and ten of -2, equal up to rounding: 12 wanted is nearer to 10 than to 20.
    scores = torch.tensor([-1.0] * 10 + [-2.0] * 10) + 2e-7 * torch.arange(20)
    offers = torch.stack((scores, torch.full_like(scores, -9.0)), dim=1).flatten()[None]
    counts = count_scores(offers, torch.arange(20).repeat_interleave(2)[None], 20)
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
    """A million offers lie within rounding of each other everywhere; moving the cut would only miss the budget."""
    scores = -torch.rand(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    scores = scores.sort(descending=True).values
    assert abs(int((scores >= cut_scores(scores, 300_000)).sum()) - 300_000) < 30


def test_nothing_counted_keeps_nothing_from_working():
    counts = count_scores(CAUSAL_SCORES, torch.full_like(CAUSAL_INDEX, 2), 2)
    assert counts.sum() == 0 and find_threshold(counts, torch.tensor(3)).isfinite()


def test_fillers_count_stand_and_add_nowhere():
    token_index, log_scores = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0.0, 0.0, math.log(0.5), -math.inf]])
    assert count_streams(token_index, 2, log_scores > -math.inf).tolist() == [[1, 2]]
    states = torch.tensor([[[1.0], [2.0], [4.0], [99.0]]])
    assert fold_streams(states, log_scores, token_index, 2).tolist() == [[[1.0], [4.0]]]
    logits = torch.log(torch.tensor([[[0.5, 0.5], [0.2, 0.8], [0.8, 0.2], [1.0, 1e-9]]]))
    probs = mix_stream_distributions(logits, log_scores, token_index, 2).exp()
    torch.testing.assert_close(probs, torch.tensor([[[0.5, 0.5], [0.4, 0.6]]]))
    places = place_streams(token_index, 3, torch.tensor([[7, 8, 0]]))
    assert places[0, :3].tolist() == [8.0, 8.5, 9.0]
