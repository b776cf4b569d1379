# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Figures of training losses by step, of several runs of the same models."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


WIDTHS = (6.0, 4.6, 3.4, 2.2, 1.0)  # later curves are thinner, so that equal ones do not hide each other


def plot_losses(curves: Mapping[str, Mapping[str, Sequence[float]]], title: str | None = None) -> Figure:
    """
    Draw the loss of each step, one panel for a model and one curve for a run.

    Args:
        curves (mapping of `str` to mappings of `str` to `Sequence[float]`): for each model the runs, and for each run
            the loss of every step, in nats.
        title (`str`, *optional*): drawn on top.

    Returns:
        `matplotlib.figure.Figure`, not shown.

    Raises:
        `ValueError`: for no curves.
    """
    if not curves:
        raise ValueError("`curves` is empty. Pass at least one model with its runs.")
    figure = Figure(figsize=(1.2 + 2.6 * len(curves), 3.4))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (name, runs) in zip(axes, curves.items(), strict=True):
        for i, (run, losses) in enumerate(runs.items()):
            steps = np.arange(1, len(losses) + 1)
            axis.plot(steps, losses, linewidth=WIDTHS[min(i, len(WIDTHS) - 1)], color=f"C{i}", label=run)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axis.set_title(name, fontsize=9, parse_math=False)
        axis.set(xlabel="step")
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="loss, nats per token")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, ncols=5, loc="outside lower center")
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


__all__ = ["plot_losses"]
