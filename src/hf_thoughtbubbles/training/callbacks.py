# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Callbacks that log and draw the forks of a model in training."""

import math
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from ..evaluation.drawings import draw_forks
from ..modeling.thoughtbubbles.fork_thresholds import TrackedThreshold
from ..modeling.thoughtbubbles.modeling_thoughtbubbles import ThoughtbubblesModel
from .log_entries import LogEntriesCallback


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


class ForkLogCallback(LogEntriesCallback):
    """
    Adds to every training log, for each fork layer i:

    - `streams_per_token_layer_<i>`: streams per token after the layer, a mean over the passes since the last optimizer
      step, at least 1.
    - `fork_threshold_prob_layer_<i>`: the score, a probability in [0, 1], that a candidate needs to stay under the
      causal rule; tracked under the other rules with scores as well. The entry is missing until a threshold is tracked
      for the budget in use.
    """

    def collect_entries(self, args, state, model) -> dict[str, float]:
        """Return the streams and the threshold of each fork layer."""
        entries = {}
        for base in (module for module in model.modules() if isinstance(module, ThoughtbubblesModel)):
            for layer_idx, fork in base.forks.items():
                entries[f"streams_per_token_layer_{layer_idx}"] = cast(torch.Tensor, fork.streams_per_token).item()
                if base.config.has_fork_scores:
                    tracked = cast(TrackedThreshold, fork)
                    tracked.settle()  # the step that is logged was made
                    if bool(tracked.threshold_budget == base.config.fork_budget):
                        prob = min(1.0, math.exp(tracked.threshold.item()))
                        entries[f"fork_threshold_prob_layer_{layer_idx}"] = prob
        return entries


__all__ = ["ForkLogCallback", "ForkPlotCallback"]
