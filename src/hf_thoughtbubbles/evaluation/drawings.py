# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Pictures of the forks of a model over a text."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..modeling.thoughtbubbles.forking import ThoughtbubblesForkOutput
from ..plots.forks import plot_forks
from .traces import summarize_forks, trace_forks


def draw_read_forks(
    pieces: Sequence[str],
    forks: Sequence[ThoughtbubblesForkOutput],
    fork_layers: Sequence[int],
    row: int = 0,
    title: str | None = None,
) -> Figure:
    """
    Draw the forks that a model or `generate` returned with `output_forks=True`.

    Args:
        pieces (`Sequence[str]` of length T): the text of each token.
        forks (`Sequence[ThoughtbubblesForkOutput]`): one for each fork layer.
        fork_layers (`Sequence[int]`): the layers that fork.
        row (`int`): which row of the batch.
        title (`str`, *optional*): drawn on top.

    Returns:
        `matplotlib.figure.Figure`
    """
    num_streams, scores = summarize_forks(forks, len(pieces))
    return plot_forks(pieces, num_streams[row].numpy(), scores[row].numpy(), fork_layers, title)


def draw_forks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    title: str | None = None,
    fork_budget: float | None = None,
) -> Figure:
    """
    Read a text with a forking model and draw where it forked.

    Args:
        model (`PreTrainedModel`): a Thoughtbubbles language model with fork layers.
        tokenizer (`PreTrainedTokenizerBase`): the model's tokenizer.
        text (`str`): at most `max_position_embeddings` tokens, if positions are learned.
        title (`str`, *optional*): drawn on top.
        fork_budget (`float`, *optional*): streams per token; the configuration's by default.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        `ValueError`: when the model has no fork layers, or the text no tokens or too many.
    """
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    if not encoding["input_ids"]:
        raise ValueError("`text` has no tokens; give at least one character.")
    trace = trace_forks(model, torch.tensor([encoding["input_ids"]]), fork_budget=fork_budget)
    starts = [start for start, _ in encoding["offset_mapping"]]
    # A character of several byte tokens is written once, over its first byte.
    pieces = [
        text[start:end] if i == 0 or start != starts[i - 1] else ""
        for i, (start, end) in enumerate(encoding["offset_mapping"])
    ]
    return plot_forks(pieces, trace.num_streams[0].numpy(), trace.scores[0].numpy(), trace.fork_layers, title)


__all__ = ["draw_forks", "draw_read_forks"]
