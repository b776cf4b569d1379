# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Figures of growth: what is drawn, and what is refused."""

import numpy as np
import pytest

from hf_thoughtbubbles.plots.growth import plot_growth


CURVE = {"size": [1, 2], "cost": [3.0, 5.0], "low": [2.0, 4.0], "high": [3.5, 7.0], "predicted": [1.0, 2.0]}


def test_points_quartiles_and_prediction_are_drawn():
    figure = plot_growth({"gpt2": CURVE}, "rows", "milliseconds per token", "growth")
    (axis,) = figure.axes
    points, predicted = axis.containers[0], axis.lines[-2]
    np.testing.assert_array_equal(points.lines[0].get_ydata(), [3.0, 5.0])
    np.testing.assert_array_equal([segment[:, 1] for segment in points.lines[2][0].get_segments()], [[2, 3.5], [4, 7]])
    np.testing.assert_array_equal(predicted.get_ydata(), [1.0, 2.0])
    assert axis.get_xlabel() == "rows" and axis.get_ylabel() == "milliseconds per token"
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == ["gpt2", "predicted"]


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "`curves` is empty"),
        ({"gpt2": {**CURVE, "low": [1.0]}}, "unequal shapes"),
        ({"gpt2": {**CURVE, "predicted": [0.0, 1.0]}}, "not positive"),
    ],
)
def test_bad_curves_are_refused(curves, message):
    with pytest.raises(ValueError, match=message):
        plot_growth(curves, "rows", "milliseconds")
