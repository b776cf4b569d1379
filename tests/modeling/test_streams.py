# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Do streams stay, stand and fold as a person would compute with a pencil?"""

import math

import pytest
import torch

from hf_thoughtbubbles.modeling.streams import (
    count_streams,
    fold_streams,
    mix_stream_distributions,
    place_streams,
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
