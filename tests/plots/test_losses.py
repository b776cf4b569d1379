# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Curves of losses."""

import numpy as np
import pytest

from hf_thoughtbubbles.plots.losses import plot_losses


def test_each_model_has_a_panel_with_a_curve_for_each_run():
    figure = plot_losses({"gpt2": {"one": [5.0, 3.0], "two": [5.0, 2.0]}, "llama": {"one": [7.0]}}, "losses")
    first, second = figure.axes
    np.testing.assert_array_equal([line.get_ydata() for line in first.lines], [[5.0, 3.0], [5.0, 2.0]])
    np.testing.assert_array_equal(first.lines[0].get_xdata(), [1, 2])
    assert [axis.get_title() for axis in (first, second)] == ["gpt2", "llama"] and len(second.lines) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]


def test_no_curves_are_refused():
    with pytest.raises(ValueError, match="`curves` is empty"):
        plot_losses({})
