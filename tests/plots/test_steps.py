# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Figures over steps show the numbers that were passed."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from hf_thoughtbubbles.plots.steps import (
    measure_change,
    plot_accuracy_grid,
    plot_convergence,
    plot_step_losses,
    plot_step_predictions,
)


def test_every_cell_shows_its_accuracy():
    accuracy = np.array([[0.0, 0.25, 1.0], [0.5, np.nan, 0.875]])
    axis = plot_accuracy_grid(accuracy, [1, 2, 4], [3, 7], title="t").axes[0]
    np.testing.assert_array_equal(axis.images[0].get_array().filled(np.nan), accuracy)
    assert [(*text.get_position(), text.get_text()) for text in axis.texts] == [
        (0, 0, "0.00"),
        (1, 0, "0.25"),
        (2, 0, "1.00"),
        (0, 1, "0.50"),
        (2, 1, "0.88"),
    ]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2", "4"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["3", "7"]
    assert not [patch for patch in axis.patches if isinstance(patch, Rectangle)]


@pytest.mark.parametrize(
    ("trained_steps", "trained_latents", "corners"),
    [((2, 5), (7, 11), (0.5, 0.5, 2, 2)), ((1, 1), None, (-0.5, -0.5, 1, 3)), (None, (3, 6), (-0.5, -0.5, 3, 1))],
)
def test_a_frame_is_drawn_around_the_trained_range(trained_steps, trained_latents, corners):
    axis = plot_accuracy_grid(np.ones((3, 3)), [1, 2, 4], [3, 7, 11], trained_steps, trained_latents).axes[0]
    (frame,) = axis.patches
    assert (*frame.get_xy(), frame.get_width(), frame.get_height()) == corners


def test_the_mean_over_seeds_is_drawn_and_their_spread_shaded():
    losses = {"a": np.array([[4.0, 2.0, 1.0], [2.0, 2.0, 0.0]]), "b": [3.0, 2.0, 1.0, 0.5, 0.25]}
    axis = plot_step_losses(losses, trained_steps=(2, 3), title="t").axes[0]
    a, b = axis.lines
    assert a.get_xdata().tolist() == [1, 2, 3]
    assert a.get_ydata().tolist() == [3.0, 2.0, 0.5]
    assert b.get_xdata().tolist() == [1, 2, 3, 4, 5]
    (spread,) = axis.collections
    assert {tuple(point) for point in spread.get_paths()[0].vertices} >= {(1, 2.0), (1, 4.0), (3, 0.0), (3, 1.0)}
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["a (2 seeds)", "b", "trained"]


def test_changes_are_drawn_from_the_second_step_on_a_logarithmic_axis():
    axis = plot_convergence({"a": [0.5, 0.0, 0.125]}).axes[0]
    assert axis.get_yscale() == "log"
    assert axis.lines[0].get_xdata().tolist() == [2, 3, 4]
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), [0.5, np.nan, 0.125])


def test_the_change_is_the_mean_of_distances_relative_to_the_new_latents():
    latents = np.array([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 4.0], [2.0, 0.0]], [[0.0, 4.0], [2.0, 2.0]]])
    expected = [(3 / 4 + 1 / 2) / 2, (0 + 2 / np.sqrt(8)) / 2]
    np.testing.assert_allclose(measure_change(latents), expected)
    np.testing.assert_allclose(measure_change(latents[:, None]), expected)


def test_latents_at_rest_at_zero_do_not_change():
    assert measure_change(np.zeros((3, 2))).tolist() == [0.0, 0.0]


def test_figures_are_saved_and_text_is_never_parsed_as_a_formula(tmp_path):
    name = "$\\frac$"
    figures = [
        plot_accuracy_grid(np.full((1, 1), np.nan), [1], [1], (1, 1), (1, 1), title=name),
        plot_step_losses({name: np.ones(1)}, title=name),
        plot_convergence({name: np.ones(3)}, trained_steps=(1, 2), title=name),
    ]
    for number, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 1000


def test_grids_whose_shapes_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"`accuracy` has shape \(2, 3\); .* it must be \(3, 2\)"):
        plot_accuracy_grid(np.ones((2, 3)), [1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="without a 0"):
        plot_accuracy_grid(np.ones((0, 1)), [1], [])
    with pytest.raises(ValueError, match=r"`num_steps` is \[2, 1\]; the numbers must increase"):
        plot_accuracy_grid(np.ones((1, 2)), [2, 1], [1])
    with pytest.raises(ValueError, match="divide percentages by 100"):
        plot_accuracy_grid(np.full((1, 1), 97.0), [1], [1])
    with pytest.raises(ValueError, match=r"`trained_latents` is \(5, 7\); none of the numbers \[1\]"):
        plot_accuracy_grid(np.ones((1, 1)), [1], [1], (1, 1), (5, 7))


def test_curves_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="`losses` is empty"):
        plot_step_losses({})
    with pytest.raises(ValueError, match=r"`losses\['a'\]` has shape \(1, 2, 3\); it must be \(R,\) or \(seeds, R\)"):
        plot_step_losses({"a": np.ones((1, 2, 3))})
    with pytest.raises(ValueError, match=r"`changes\['a'\]` has shape \(2, 3\); it must be \(R,\), and not empty"):
        plot_convergence({"a": np.ones((2, 3))})
    with pytest.raises(ValueError, match=r"`changes\['a'\]` has the negative -1.0"):
        plot_convergence({"a": [1.0, -1.0]})
    with pytest.raises(ValueError, match=r"`latents` has shape \(1, 5\); it must be \(R, ..., D\)"):
        measure_change(np.ones((1, 5)))


def test_the_likeliest_token_of_each_step_is_written_over_its_probability():
    probs = np.array([[0.2, 0.4, 0.6], [0.1, 0.3, 0.9]])
    figure = plot_step_predictions(["a", " ", "$"], [["x", "y", "z"], ["u", "v", "\n"]], probs)
    axis = figure.axes[0]
    assert axis.images[0].get_array().tolist() == probs.tolist()
    assert [text.get_text() for text in axis.texts] == ["x", "y", "z", "u", "v", "↵"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a", "·", "$"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["1", "2"]


def test_predictions_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"with 1 steps and 2 tokens they must be \(1, 2\)"):
        plot_step_predictions(["a", "b"], [["x"]], np.ones((1, 2)))
