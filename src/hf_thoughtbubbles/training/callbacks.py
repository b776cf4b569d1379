# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Callbacks that log and draw the forks of a model in training."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from matplotlib.figure import Figure
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from ..modeling.thoughtbubbles.fork_thresholds import TrackedThreshold
from ..modeling.thoughtbubbles.forking import ThoughtbubblesForkOutput
from ..modeling.thoughtbubbles.modeling_thoughtbubbles import ThoughtbubblesModel
from ..plots.forks import average_scores, plot_forks


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
    scores, num_streams = [], []
    for fork in forks:
        token_index, log_scores, counts = (part[row].cpu() for part in fork.to_tuple())
        scores.append(average_scores(token_index.numpy(), log_scores.float().numpy(), len(pieces)))
        num_streams.append(counts.numpy())
    return plot_forks(pieces, np.stack(num_streams), np.stack(scores), fork_layers, title)


@torch.no_grad()
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
    if not getattr(model.config, "fork_layers", None):
        raise ValueError("`model` has no fork layers, so there is nothing to draw.")
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    if not encoding["input_ids"]:
        raise ValueError("`text` has no tokens; give at least one character.")
    was_training = model.training
    input_ids = torch.tensor([encoding["input_ids"]], device=model.device)
    try:
        forks = model.eval()(input_ids=input_ids, output_forks=True, fork_budget=fork_budget).forks
    finally:
        model.train(was_training)
    starts = [start for start, _ in encoding["offset_mapping"]]
    # A character of several byte tokens is written once, over its first byte.
    pieces = [
        text[start:end] if i == 0 or start != starts[i - 1] else ""
        for i, (start, end) in enumerate(encoding["offset_mapping"])
    ]
    return draw_read_forks(pieces, forks, model.config.fork_layers, title=title)


class ForkPlotCallback(TrainerCallback):
    """
    Writes a picture of the forks over a text at every evaluation, `forks-step-000100.png`, and at the end.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the model's tokenizer.
        text (`str`): what to read.
        folder (`str` or `Path`): where the pictures go; made when missing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str, folder: str | Path):
        self.tokenizer, self.text, self.folder = tokenizer, text, Path(folder)

    def _write(self, state, model: PreTrainedModel):
        # Every process reads the text: of a model that FSDP shards, the first would wait for the others forever.
        figure = draw_forks(model, self.tokenizer, self.text, title=f"step {state.global_step}")
        if state.is_world_process_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(self.folder / f"forks-step-{state.global_step:06d}.png", dpi=120)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Refuse a text that cannot be drawn now, not hours later."""
        num_tokens = len(self.tokenizer(self.text, add_special_tokens=False)["input_ids"])
        most = model.config.max_position_embeddings
        if num_tokens == 0 or (num_tokens > most and model.config.has_position_table):
            raise ValueError(
                f"`text` has {num_tokens} tokens; it must have between 1 and `max_position_embeddings` {most}."
            )

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        """Draw after an evaluation."""
        self._write(state, model)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Draw the finished model."""
        self._write(state, model)


class ForkLogCallback(TrainerCallback):
    """
    Adds to every training log entry, for each fork layer i, `streams_layer_<i>`, the streams per token after it, and
    `fork_threshold_layer_<i>`, the log score that a stream needs to stay.

    The entries appear in `trainer.state.log_history`, in `trainer_state.json` and in the Trainer's printed log. The
    trackers of `report_to` are called before the callbacks passed to a Trainer; to log the entries there as well, add
    the callback with `trainer.callback_handler.callbacks.insert(0, ForkLogCallback())`.
    """

    def on_log(self, args, state, control, model=None, logs=None, **kwargs):
        """Add the entries to a log of training, which has a loss."""
        if logs is None or "loss" not in logs:
            return
        entries = {}
        for base in (module for module in model.modules() if isinstance(module, ThoughtbubblesModel)):
            for layer_idx, fork in base.forks.items():
                entries[f"streams_layer_{layer_idx}"] = cast(torch.Tensor, fork.streams_per_token).item()
                if base.config.has_fork_scores:
                    cast(TrackedThreshold, fork).settle()  # the step that is logged was made
                    entries[f"fork_threshold_layer_{layer_idx}"] = cast(torch.Tensor, fork.threshold).item()
        logs.update(entries)
        state.log_history[-1].update(entries)


__all__ = ["ForkLogCallback", "ForkPlotCallback", "draw_forks", "draw_read_forks"]
