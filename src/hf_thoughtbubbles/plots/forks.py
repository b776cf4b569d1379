# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Pictures of forks: streams and scores of each token of a text, drawn over its characters or over entropy."""

from collections.abc import Sequence

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure


LINE_LENGTH = 64  # tokens drawn side by side before the picture wraps
SHOWN_CHARACTERS = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "←"}


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


def plot_streams_by_entropy(
    entropies: np.ndarray, num_streams: np.ndarray, num_groups: int = 8, title: str | None = None
) -> Figure:
    """
    Draw the mean streams of tokens against the entropy of what follows them (arXiv 2510.00219).

    Tokens are sorted by entropy into groups of equal size. A point is the mean of a group, a bar its standard error.

    Args:
        entropies (`np.ndarray` of shape `(N,)`): of the distribution of the next token, in nats.
        num_streams (`np.ndarray` of shape `(N,)`): streams of each token.
        num_groups (`int`, defaults to 8): groups, at least 1 and at most N / 2.
        title (`str`, *optional*): drawn on top.

    Returns:
        `matplotlib.figure.Figure`, not shown.

    Raises:
        `ValueError`: when the shapes do not match, or a group would have fewer than two tokens.
    """
    entropies, num_streams = np.asarray(entropies, dtype=np.float64), np.asarray(num_streams, dtype=np.float64)
    if entropies.ndim != 1 or entropies.shape != num_streams.shape:
        raise ValueError(
            f"`entropies` has shape {entropies.shape} and `num_streams` {num_streams.shape}; both must be (N,), one "
            "number for each token. Leave out padding."
        )
    if not 1 <= num_groups <= len(entropies) // 2:
        raise ValueError(f"`num_groups` is {num_groups}; of {len(entropies)} tokens make 1 to {len(entropies) // 2}.")
    groups = np.array_split(np.argsort(entropies, kind="stable"), num_groups)
    means = [num_streams[group].mean() for group in groups]
    errors = [num_streams[group].std(ddof=1) / len(group) ** 0.5 for group in groups]
    figure = Figure(figsize=(5.2, 3.4))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    axis.errorbar([entropies[group].mean() for group in groups], means, errors, marker="o", markersize=3, capsize=2)
    axis.set(xlabel="entropy of the next token (nats)", ylabel="streams per token")
    axis.grid(alpha=0.3)
    if title:
        figure.suptitle(title, fontsize=9, parse_math=False)
    return figure


__all__ = ["plot_forks", "plot_streams_by_entropy", "show_characters"]
