# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The picture of forks shows the numbers that were passed."""

import numpy as np
import pytest

from hf_thoughtbubbles.plots.forks import LINE_LENGTH, plot_forks, plot_streams_by_entropy


def test_every_token_is_one_cell_of_its_layer():
    num_streams, scores = np.array([[1, 2, 4], [3, 1, 2]]), np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    figure = plot_forks(["a", " ", "\n"], num_streams, scores, [1, 3], title="t")
    streams, score = figure.axes[:2]
    assert streams.images[0].get_array().tolist() == num_streams.tolist()
    assert score.images[0].get_array().tolist() == scores.tolist()
    assert [label.get_text() for label in streams.get_xticklabels()] == ["a", "·", "↵"]
    assert [label.get_text() for label in streams.get_yticklabels()] == ["layer 1", "layer 3"]


def test_long_texts_wrap(tmp_path):
    length = LINE_LENGTH + 5
    figure = plot_forks(["x"] * length, np.ones((1, length)), np.ones((1, length)), [0])
    panels = [axis for axis in figure.axes if axis.images and len(axis.get_yticklabels()) == 1]
    assert len(panels) == 4
    figure.savefig(tmp_path / "forks.png")
    assert (tmp_path / "forks.png").stat().st_size > 1000


def test_text_is_never_read_as_a_formula(tmp_path):
    figure = plot_forks(["$\\frac$", "$", "\x07"], np.ones((1, 3)), np.ones((1, 3)), [0], title="$ and $")
    figure.savefig(tmp_path / "forks.png")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["$\\frac$", "$", "□"]


def test_shapes_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"both must be \(1, 2\)"):
        plot_forks(["a", "b"], np.ones((1, 3)), np.ones((1, 2)), [0])
    with pytest.raises(ValueError, match="neither number 0"):
        plot_forks([], np.ones((1, 0)), np.ones((1, 0)), [0])


def test_groups_of_tokens_of_equal_entropy_have_their_mean_and_error():
    figure = plot_streams_by_entropy(np.array([3.0, 0.1, 2.0, 0.3]), np.array([2, 1, 4, 2]), num_groups=2)
    (bars,) = figure.axes[0].containers
    line, _, (errors,) = bars
    np.testing.assert_allclose(line.get_xydata(), [[0.2, 1.5], [2.5, 3.0]])
    ends = [[end[1] for end in segment] for segment in errors.get_segments()]
    np.testing.assert_allclose(ends, [[1.0, 2.0], [2.0, 4.0]])


def test_groups_that_cannot_be_made_are_refused():
    with pytest.raises(ValueError, match=r"both must be \(N,\)"):
        plot_streams_by_entropy(np.ones(3), np.ones((1, 3)))
    with pytest.raises(ValueError, match="of 4 tokens make 1 to 2"):
        plot_streams_by_entropy(np.ones(4), np.ones(4), num_groups=3)
