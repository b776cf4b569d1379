# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Functions on streams, against numbers computed by hand."""

import math

import torch

from hf_thoughtbubbles.modeling.thoughtbubbles.streams import (
    count_streams,
    find_own_candidates,
    fold_streams,
    get_stream_positions,
    mix_stream_distributions,
)


def test_streams_share_the_position_of_their_token():
    token_index = torch.tensor([[0, 1, 1, 2, 2, 2, 2]])
    positions = get_stream_positions(token_index, 3, None)
    assert positions.tolist() == [[1.0, 1.5, 2.0, 2.25, 2.5, 2.75, 3.0]]
    assert torch.equal(positions, get_stream_positions(token_index, 3, torch.tensor([[0, 1, 2]])))


def test_a_token_without_streams_has_no_position_unless_positions_are_passed():
    token_index = torch.tensor([[0, 2, 2]])
    assert get_stream_positions(token_index, 3, None).tolist() == [[1.0, 1.5, 2.0]]
    assert get_stream_positions(token_index, 3, torch.tensor([[0, 1, 2]])).tolist() == [[1.0, 2.5, 3.0]]


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


def test_fillers_count_for_no_token():
    token_index, log_scores = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0.0, 0.0, math.log(0.5), -math.inf]])
    assert count_streams(token_index, 2, log_scores > -math.inf).tolist() == [[1, 2]]
    states = torch.tensor([[[1.0], [2.0], [4.0], [99.0]]])
    assert fold_streams(states, log_scores, token_index, 2).tolist() == [[[1.0], [4.0]]]
    logits = torch.log(torch.tensor([[[0.5, 0.5], [0.2, 0.8], [0.8, 0.2], [1.0, 1e-9]]]))
    probs = mix_stream_distributions(logits, log_scores, token_index, 2).exp()
    torch.testing.assert_close(probs, torch.tensor([[[0.5, 0.5], [0.4, 0.6]]]))
    positions = get_stream_positions(token_index, 3, torch.tensor([[7, 8, 0]]))
    assert positions[0, :3].tolist() == [8.0, 8.5, 9.0]


def test_own_candidates_are_the_last_of_each_token_and_no_fillers():
    assert find_own_candidates(torch.tensor([[0, 0, 1, 1, 1, 1, 2, 2]]), 2).nonzero()[:, 1].tolist() == [1, 5]
    left_padded = torch.tensor([[2, 2, 0, 0, 1, 1]])
    assert find_own_candidates(left_padded, 2).nonzero()[:, 1].tolist() == [3, 5]
