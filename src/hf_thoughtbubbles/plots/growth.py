# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Figures of cost against size: measured points with their quartiles, and predicted lines."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator


PARTS = ("size", "cost", "low", "high", "predicted")


def plot_growth(
    curves: Mapping[str, Mapping[str, np.ndarray]],
    size_label: str,
    cost_label: str,
    title: str | None = None,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """
    Draw cost against size on logarithmic axes.

    Args:
        curves (mapping of `str` to mappings of `str` to `np.ndarray` of shape `(n,)`): for each model `size`, `cost`,
            its quartiles `low` and `high`, and `predicted`, the cost that a formula gives; all positive.
        size_label (`str`): what grows, with its unit.
        cost_label (`str`): what is measured, with its unit.
        title (`str`, *optional*): drawn on top.
        colors (mapping of `str` to `str`, *optional*): the color of each model, by default in their order.

    Returns:
        `matplotlib.figure.Figure`, not shown. Points with bars are measured, dashed lines are predicted.

    Raises:
        `ValueError`: for no curves, arrays of unequal shapes, or a number that is not positive.
    """
    if not curves:
        raise ValueError("`curves` is empty. Pass at least one curve.")
    figure = Figure(figsize=(6.4, 4.2))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    sizes = set()
    for name, curve in curves.items():
        size, cost, low, high, predicted = (np.asarray(curve[part], dtype=np.float64) for part in PARTS)
        if {values.shape for values in (size, cost, low, high, predicted)} != {(len(size),)}:
            raise ValueError(f"`curves[{name!r}]` has arrays of unequal shapes; each of {PARTS} must be (n,).")
        if min(values.min() for values in (size, cost, low, high, predicted)) <= 0:
            raise ValueError(f"`curves[{name!r}]` has a number that is not positive; the axes are logarithmic.")
        bars = np.clip([cost - low, high - cost], 0, None)
        style = {"color": colors[name]} if colors else {}
        points = axis.errorbar(
            size, cost, yerr=bars, fmt="o-", markersize=4, linewidth=1.2, capsize=2, label=name, **style
        )
        axis.plot(size, predicted, "--", linewidth=1.2, color=points.lines[0].get_color())
        sizes |= set(size.tolist())
    axis.plot([], [], "--", color="grey", linewidth=1.2, label="predicted")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(sorted(sizes), [f"{size:g}" for size in sorted(sizes)])
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.minorticks_off()
    axis.set(xlabel=size_label, ylabel=cost_label)
    axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), fontsize=8, ncols=2, loc="outside lower center")
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


__all__ = ["plot_growth"]
