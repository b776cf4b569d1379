# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Figures of accuracy, loss, change and predictions of a looped model over its steps."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .forks import show_characters


def measure_change(latents: np.ndarray) -> np.ndarray:
    """
    Relative change of the latents in each step: the mean of |h_r - h_(r-1)| / |h_r|.

    Args:
        latents (`np.ndarray` of shape `(R, ..., D)`): the latents after each of R steps, at least 2.

    Returns:
        `np.ndarray` of shape `(R - 1,)`, for the steps from the second on.

    Raises:
        `ValueError`: for fewer than 2 axes or steps.

    >>> measure_change(np.array([[3.0, 4.0], [0.0, 4.0], [0.0, 4.0]]))
    array([0.75, 0.  ])
    """
    latents = np.asarray(latents, dtype=np.float64)
    if latents.ndim < 2 or len(latents) < 2 or 0 in latents.shape:
        raise ValueError(f"`latents` has shape {latents.shape}; it must be (R, ..., D) with at least 2 steps R.")
    distances = np.linalg.norm(np.diff(latents, axis=0), axis=-1)  # (R - 1, ...)
    sizes = np.linalg.norm(latents[1:], axis=-1)  # (R - 1, ...)
    ratios = distances / np.maximum(sizes, np.finfo(np.float64).tiny)
    return ratios.reshape(len(ratios), -1).mean(axis=1)


def plot_accuracy_grid(
    accuracy: np.ndarray,
    num_steps: Sequence[int],
    num_latents: Sequence[int],
    trained_steps: tuple[int, int] | None = None,
    trained_latents: tuple[int, int] | None = None,
    title: str | None = None,
) -> Figure:
    """
    Draw the accuracy of a model for each number of steps and of latents.

    Args:
        accuracy (`np.ndarray` of shape `(L, R)`): in [0, 1], one row for each number of latents; NaN where unknown.
        num_steps (`Sequence[int]` of length R): of the columns, increasing.
        num_latents (`Sequence[int]` of length L): of the rows, increasing; the first is drawn at the bottom.
        trained_steps (`tuple[int, int]`, *optional*): fewest and most steps in training. Cells in the trained range of
            both numbers are framed; if one of the two is not given, over the whole figure.
        trained_latents (`tuple[int, int]`, *optional*): fewest and most latents in training.
        title (`str`, *optional*): drawn on top.

    Returns:
        `matplotlib.figure.Figure`, not shown.

    Raises:
        `ValueError`: when the shapes do not match, numbers do not increase, or accuracies are percentages.
    """
    accuracy = np.asarray(accuracy, dtype=np.float64)
    shape = (len(num_latents), len(num_steps))
    if accuracy.shape != shape or 0 in shape:
        raise ValueError(
            f"`accuracy` has shape {accuracy.shape}; with {shape[0]} `num_latents` and {shape[1]} `num_steps` it must "
            f"be {shape}, without a 0. Pass one accuracy for each pair."
        )
    for name, numbers in (("num_steps", num_steps), ("num_latents", num_latents)):
        if any(a >= b for a, b in itertools.pairwise(numbers)):
            raise ValueError(
                f"`{name}` is {list(numbers)}; the numbers must increase. Sort them and remove duplicates."
            )
    if np.nanmin(accuracy, initial=0) < 0 or np.nanmax(accuracy, initial=0) > 1:
        raise ValueError("`accuracy` must be between 0 and 1; divide percentages by 100.")
    figure = Figure(figsize=(1.8 + 0.52 * shape[1], 1.3 + 0.42 * shape[0]))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    image = axis.imshow(accuracy, origin="lower", aspect="auto", vmin=0, vmax=1, cmap="viridis")
    for row, column in zip(*np.nonzero(np.isfinite(accuracy)), strict=True):
        value = accuracy[row, column]
        colour = "black" if value > 0.5 else "white"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    axis.set_xticks(range(shape[1]), [str(number) for number in num_steps], fontsize=8)
    axis.set_yticks(range(shape[0]), [str(number) for number in num_latents], fontsize=8)
    axis.tick_params(length=0)
    axis.set(xlabel="steps", ylabel="latents")
    if trained_steps is not None or trained_latents is not None:
        x, width = _find_cells("trained_steps", num_steps, trained_steps)
        y, height = _find_cells("trained_latents", num_latents, trained_latents)
        frame = Rectangle((x, y), width, height, fill=False, edgecolor="crimson", linewidth=2, clip_on=False, zorder=3)
        axis.add_patch(frame)
        axis.set_xlabel("steps (framed: trained)")
    figure.colorbar(image, ax=axis, label="accuracy", pad=0.03)
    _set_title(figure, title)
    return figure


def plot_step_losses(
    losses: Mapping[str, np.ndarray],
    trained_steps: tuple[int, int] | None = None,
    title: str | None = None,
) -> Figure:
    """
    Draw the loss after each step of one or more models; over seeds the mean, with the range shaded.

    Args:
        losses (mapping of `str` to `np.ndarray` of shape `(R,)` or `(seeds, R)`): after the steps 1 to R, in nats.
        trained_steps (`tuple[int, int]`, *optional*): fewest and most steps in training, shaded.
        title (`str`, *optional*): drawn on top.

    Returns:
        `matplotlib.figure.Figure`, not shown.

    Raises:
        `ValueError`: for no arrays, or arrays of another shape.
    """
    figure, axis = _start_lines(title)
    for name, values in _check_curves("losses", losses, (1, 2)).items():
        runs = np.atleast_2d(values)  # (seeds, R)
        steps = np.arange(1, runs.shape[1] + 1)
        (line,) = axis.plot(steps, runs.mean(axis=0), marker="o", markersize=3, label=_label(name, len(runs)))
        if len(runs) > 1:
            axis.fill_between(steps, runs.min(axis=0), runs.max(axis=0), color=line.get_color(), alpha=0.2, lw=0)
    axis.set_ylabel("loss (nats)")
    _finish_lines(axis, trained_steps)
    return figure


def plot_step_predictions(
    tokens: Sequence[str],
    predictions: Sequence[Sequence[str]],
    probs: np.ndarray,
    title: str | None = None,
) -> Figure:
    """
    Draw the likeliest token of each position after each step, over the colour of its probability (a logit lens).

    Args:
        tokens (`Sequence[str]` of length A): the text of each position.
        predictions (`Sequence[Sequence[str]]`, R of length A): the likeliest token after each step.
        probs (`np.ndarray` of shape `(R, A)`): its probability, in [0, 1].
        title (`str`, *optional*): drawn on top.

    Returns:
        `matplotlib.figure.Figure`, not shown.

    Raises:
        `ValueError`: when the shapes do not match.
    """
    probs, shape = np.asarray(probs, dtype=np.float64), (len(predictions), len(tokens))
    if probs.shape != shape or 0 in shape or any(len(row) != len(tokens) for row in predictions):
        raise ValueError(
            f"`probs` has shape {probs.shape} and `predictions` rows of {sorted({len(row) for row in predictions})}; "
            f"with {shape[0]} steps and {shape[1]} tokens they must be {shape}, without a 0."
        )
    figure = Figure(figsize=(1.8 + 0.34 * shape[1], 1.1 + 0.3 * shape[0]))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    image = axis.imshow(probs, origin="lower", aspect="auto", vmin=0, vmax=1, cmap="viridis")
    for (step, position), prob in np.ndenumerate(probs):
        shown, colour = show_characters(predictions[step][position]), "black" if prob > 0.5 else "white"
        axis.text(position, step, shown, ha="center", va="center", fontsize=7, color=colour, parse_math=False)
    axis.set_xticks(range(shape[1]), [show_characters(token) for token in tokens], fontsize=8, parse_math=False)
    axis.set_yticks(range(shape[0]), [str(step + 1) for step in range(shape[0])], fontsize=8)
    axis.tick_params(length=0)
    axis.set(xlabel="token read", ylabel="step")
    figure.colorbar(image, ax=axis, label="probability", pad=0.03)
    _set_title(figure, title)
    return figure


def plot_convergence(
    changes: Mapping[str, np.ndarray],
    trained_steps: tuple[int, int] | None = None,
    title: str | None = None,
) -> Figure:
    """
    Draw the relative change of the latents on a logarithmic axis; a straight fall is convergence to a fixed point.

    Args:
        changes (mapping of `str` to `np.ndarray` of shape `(R,)`): relative changes from step 2 on, as
            `measure_change` returns them.
        trained_steps (`tuple[int, int]`, *optional*): fewest and most steps in training, shaded.
        title (`str`, *optional*): drawn on top.

    Returns:
        `matplotlib.figure.Figure`, not shown. A change of 0 is omitted, because the axis is logarithmic.

    Raises:
        `ValueError`: for no arrays, arrays of another shape, or a negative change.
    """
    figure, axis = _start_lines(title)
    for name, values in _check_curves("changes", changes, (1,)).items():
        if values.min() < 0:
            raise ValueError(f"`changes[{name!r}]` has the negative {values.min()}; a relative change is at least 0.")
        shown = np.where(values > 0, values, np.nan)
        axis.plot(np.arange(2, len(values) + 2), shown, marker="o", markersize=3, label=name)
    axis.set_yscale("log")
    axis.set_ylabel("relative change of the latents")
    _finish_lines(axis, trained_steps)
    return figure


def _find_cells(name: str, numbers: Sequence[int], trained: tuple[int, int] | None) -> tuple[float, float]:
    """Return the edge of the first cell with a trained number, and the number of such cells."""
    least, most = (numbers[0], numbers[-1]) if trained is None else trained
    cells = [cell for cell, number in enumerate(numbers) if least <= number <= most]
    if not cells:
        raise ValueError(f"`{name}` is {trained}; none of the numbers {list(numbers)} is in this range. Widen it.")
    return cells[0] - 0.5, len(cells)


def _check_curves(name: str, curves: Mapping[str, np.ndarray], num_axes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the curves as arrays of the allowed numbers of axes."""
    arrays = {key: np.asarray(values, dtype=np.float64) for key, values in curves.items()}
    if not arrays:
        raise ValueError(f"`{name}` is empty. Pass at least one array.")
    shapes = " or ".join({1: "(R,)", 2: "(seeds, R)"}[number] for number in num_axes)
    for key, values in arrays.items():
        if values.ndim not in num_axes or values.size == 0:
            raise ValueError(f"`{name}[{key!r}]` has shape {values.shape}; it must be {shapes}, and not empty.")
    return arrays


def _label(name: str, num_seeds: int) -> str:
    return name if num_seeds == 1 else f"{name} ({num_seeds} seeds)"


def _set_title(figure: Figure, title: str | None):
    if title:
        figure.suptitle(title, fontsize=9, parse_math=False)


def _start_lines(title: str | None):
    figure = Figure(figsize=(5.2, 3.4))
    figure.set_layout_engine("constrained")
    _set_title(figure, title)
    return figure, figure.subplots()


def _finish_lines(axis, trained_steps: tuple[int, int] | None):
    if trained_steps is not None:
        axis.axvspan(trained_steps[0] - 0.5, trained_steps[1] + 0.5, color="grey", alpha=0.15, lw=0, label="trained")
    axis.set_xlabel("step")
    axis.set_xlim(left=0.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    for text in axis.legend(fontsize=8).get_texts():
        text.set_parse_math(False)


__all__ = ["measure_change", "plot_accuracy_grid", "plot_convergence", "plot_step_losses", "plot_step_predictions"]
