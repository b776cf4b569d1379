# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Pictures of forks: streams and scores of each token of a text, drawn over its characters."""

from collections.abc import Sequence

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure


LINE_LENGTH = 64  # tokens drawn side by side before the picture wraps
SHOWN_CHARACTERS = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "←"}


def average_scores(token_index: np.ndarray, log_scores: np.ndarray, num_tokens: int) -> np.ndarray:
    """
    Mean score of each token's streams, dead ones left out.

    Args:
        token_index (`np.ndarray` of shape `(S,)`): the token of each stream.
        log_scores (`np.ndarray` of shape `(S,)`): natural-log scores; `-inf` for dead slots.
        num_tokens (`int`): T.

    Returns:
        `np.ndarray` of shape `(T,)`, in [0, 1]; 0 for a token without streams.

    >>> average_scores(np.array([0, 0, 1]), np.log([0.5, 1.0, 0.25]), 2)
    array([0.75, 0.25])
    """
    is_live = np.isfinite(log_scores)
    counts = np.bincount(token_index[is_live], minlength=num_tokens)
    totals = np.bincount(token_index[is_live], weights=np.exp(log_scores[is_live]), minlength=num_tokens)
    return totals / np.maximum(counts, 1)


def show_characters(token: str) -> str:
    """The token with a visible sign for each character that does not print."""
    return "".join(SHOWN_CHARACTERS.get(c, c if c.isprintable() else "□") for c in token)


def plot_forks(
    tokens: Sequence[str],
    num_streams: np.ndarray,
    scores: np.ndarray,
    fork_layers: Sequence[int],
    title: str | None = None,
) -> Figure:
    """
    Draw how many streams each token has after each fork layer, and how high they score.

    Args:
        tokens (`Sequence[str]` of length T): the text of each token; characters that do not print get a sign.
        num_streams (`np.ndarray` of shape `(F, T)`): streams of each token after each of F fork layers.
        scores (`np.ndarray` of shape `(F, T)`): mean score of the token's streams, in [0, 1].
        fork_layers (`Sequence[int]` of length F): the layers that fork.
        title (`str`, *optional*): drawn on top.

    Returns:
        `matplotlib.figure.Figure`, not shown.

    Raises:
        `ValueError`: when the shapes do not fit each other.
    """
    num_streams, scores = np.asarray(num_streams), np.asarray(scores)
    shape = (len(fork_layers), len(tokens))
    if num_streams.shape != shape or scores.shape != shape or 0 in shape:
        raise ValueError(
            f"`num_streams` has shape {num_streams.shape} and `scores` {scores.shape}; with {len(fork_layers)} fork "
            f"layers and {len(tokens)} tokens both must be {shape}, and neither number 0."
        )
    width = min(LINE_LENGTH, len(tokens))
    starts = range(0, len(tokens), width)
    figure = Figure(figsize=(2.5 + 0.17 * width, 0.8 + len(starts) * (1.1 + 0.44 * len(fork_layers))))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(2 * len(starts), 1, squeeze=False)[:, 0]
    panels = (
        ("streams", num_streams, {"vmin": 1, "vmax": max(2, num_streams.max()), "cmap": "viridis"}),
        ("score", scores, {"vmin": 0, "vmax": 1, "cmap": "magma"}),
    )
    for line, start in enumerate(starts):
        for row, (name, values, colours) in enumerate(panels):
            axis, part = axes[2 * line + row], values[:, start : start + width]
            padded = np.full((len(fork_layers), width), np.nan)  # the last line may be shorter
            padded[:, : part.shape[1]] = part
            image = axis.imshow(padded, aspect="auto", interpolation="nearest", **colours)
            labels = [show_characters(token) if row == 0 else "" for token in tokens[start : start + width]]
            axis.set_xticks(range(len(labels)), labels, fontsize=7, parse_math=False)
            axis.set_yticks(range(len(fork_layers)), [f"layer {layer}" for layer in fork_layers], fontsize=7)
            axis.tick_params(length=0)
            if line == 0:
                ticks = matplotlib.ticker.MaxNLocator(integer=True, nbins=6) if name == "streams" else None
                figure.colorbar(image, ax=axes.tolist(), label=name, pad=0.01, shrink=0.9, ticks=ticks)
    if title:
        figure.suptitle(title, fontsize=9, parse_math=False)
    return figure


__all__ = ["average_scores", "plot_forks"]
