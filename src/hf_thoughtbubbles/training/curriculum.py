# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Callbacks: a difficulty that rises with accuracy during training, and a limit on the time of training."""

import math
import time

import torch
import torch.distributed as dist
from accelerate.data_loader import DataLoaderDispatcher  # type: ignore[import-untyped]  # has no types
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from ..data.curriculum import Curriculum
from .log_entries import LogEntriesCallback


logger = logging.get_logger(__name__)

SECONDS_PER_MINUTE = 60


def _restore_attributes(callback: ExportableState, state) -> dict | None:
    """
    Return the attributes of a callback in a checkpoint; `None` in a fresh training, or for a callback added later.

    The Trainer itself restores callbacks only with `restore_callback_states_from_checkpoint`, but its `state` always
    contains their states from the checkpoint.
    """
    name = type(callback).__name__
    is_resumed = state.global_step > 0 and name in state.stateful_callbacks
    # The Trainer saves only callbacks that are in here, and fails on those that were added after the checkpoint.
    stored = state.stateful_callbacks.setdefault(name, callback.state())
    return stored["attributes"] if is_resumed else None


class CurriculumCallback(LogEntriesCallback, ExportableState):
    """
    Measures the accuracy of a model on its training batches and raises a curriculum by it.

    Every `curriculum.window` batches (not optimizer steps) the curriculum observes the mean accuracy of these batches.
    The accuracy of a batch is the share of its targets, labels other than -100, that have the highest logit. Targets
    are labels of the same position for encoder-decoder models, of the next position for others. Counts stay on the
    model's device, are copied to the CPU once in a window, and are averaged over the processes of a distributed run
    after every step.

    Training log entries get `difficulty` and `train_accuracy`, the mean over the batches since the last entry.

    A checkpoint contains all difficulties so far and the unfinished window, as they were after the last whole step. A
    training resumed from it continues with both, and a stream that is read again draws what it drew before.
    `restore_callback_states_from_checkpoint` must be off: it replaces this callback by a new one without the
    curriculum that the data reads.

    Args:
        curriculum (`Curriculum`): the one that the training data reads.

    Raises:
        `ValueError`: when `curriculum` is not a `Curriculum`, and during training when a window has no targets.
    """

    def __init__(self, curriculum: Curriculum):
        if not isinstance(curriculum, Curriculum):
            raise ValueError(
                f"`curriculum` is {curriculum!r}; pass the `Curriculum` that the training data reads. To resume, set "
                "`restore_callback_states_from_checkpoint=False`: `CurriculumCallback` restores itself."
            )
        self.curriculum = curriculum
        self._hook: RemovableHandle | None = None
        self._reset()

    def _reset(self):
        self._num_batches = self._total_batches = 0  # of the window, of the training
        # Rows: the present window, the batches since the last log. Columns: sum of accuracies, batches with targets.
        self._totals = torch.zeros(2, 2)
        self._recent = torch.zeros(2)  # of batches that are not in the totals yet
        self._keep_state()

    def _keep_state(self):
        """Keep the state after a whole step, because a training that is resumed makes all passes of a step again."""
        self._kept_state = {
            **self.curriculum.state_dict(),
            "num_batches": self._num_batches,
            "total_batches": self._total_batches,
            "totals": self._totals.clone(),
        }

    def state(self) -> dict:
        """Return the state for a checkpoint; see `ExportableState`."""
        attributes = {**self._kept_state, "totals": self._kept_state["totals"].tolist()}
        return {"args": {"curriculum": None}, "attributes": attributes}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Start to measure, from the state in the checkpoint if there is one."""
        super().on_train_begin(args, state, control, **kwargs)
        self.curriculum.restart()
        self._reset()
        restored = _restore_attributes(self, state)
        if restored is not None:
            self.curriculum.load_state_dict(restored)
            self._num_batches, self._total_batches = restored["num_batches"], restored["total_batches"]
            self._totals = torch.tensor(restored["totals"])
        self._totals, self._recent = self._totals.to(args.device), self._recent.to(args.device)
        self._keep_state()
        self._is_reading_again = restored is not None and not args.ignore_data_skip
        self._is_aligned = model.config.is_encoder_decoder
        self._remove_hook()  # after a training that failed
        self._hook = model.register_forward_hook(self._count, with_kwargs=True)

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Tell the curriculum which rows of a stream are of which batch."""
        first_batch = 0 if self._is_reading_again else self._total_batches
        self._is_reading_again = False
        if train_dataloader is None or not train_dataloader.batch_size:
            return
        # The main process of a dispatcher reads one batch for each process, other loaders the rows of all processes.
        num_parts = args.world_size if isinstance(train_dataloader, DataLoaderDispatcher) else 1
        num_ahead = train_dataloader.num_workers * (train_dataloader.prefetch_factor or 0)
        self.curriculum.set_reading(
            rows_per_read=train_dataloader.batch_size * args.world_size // num_parts,
            reads_per_batch=num_parts,
            first_batch=first_batch,
            lag=math.ceil(num_ahead / num_parts) + args.gradient_accumulation_steps,
        )

    def on_train_end(self, args, state, control, **kwargs):
        """Stop to measure."""
        self._remove_hook()

    def _remove_hook(self):
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    @torch.no_grad()
    def _count(self, module, inputs, kwargs, outputs):
        """A forward hook: add the accuracy of a training batch to the totals, on its device."""
        labels = kwargs.get("labels")
        if not module.training or labels is None:
            return
        logits = outputs.logits
        if not self._is_aligned:
            logits, labels = logits[:, :-1], labels[:, 1:]
        is_target = labels != -100
        num_targets = is_target.sum()
        num_right = ((logits.argmax(-1) == labels) & is_target).sum()
        self._recent += torch.stack([num_right / num_targets.clamp(min=1), num_targets > 0])

    def _add_recent(self):
        """Add the batches of all processes to the totals: their mean, so that all processes have the same."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self._recent)
            self._recent /= dist.get_world_size()
        self._totals += self._recent  # to both rows
        self._recent.zero_()

    def on_substep_end(self, args, state, control, **kwargs):
        """Count a batch whose gradients are accumulated."""
        self._num_batches += 1
        self._total_batches += 1
        if self._num_batches < self.curriculum.window:
            return
        self._add_recent()
        accuracy_sum, num_counted = self._totals[0].tolist()
        if num_counted == 0:
            raise ValueError(
                f"The last {self._num_batches} batches had no targets to measure accuracy on. Pass `labels` that are "
                "not all -100 to the model; `label_smoothing_factor` and `compute_loss_func` remove them."
            )
        self.curriculum.observe(accuracy_sum / num_counted, self._total_batches)
        self._num_batches = 0
        self._totals[0] = 0

    def on_step_end(self, args, state, control, **kwargs):
        """Count a batch after which the optimizer stepped."""
        self.on_substep_end(args, state, control, **kwargs)
        self._add_recent()
        self._keep_state()

    def collect_entries(self, args, state, model) -> dict[str, float]:
        """Return the difficulty, and the accuracy since the last log if there were targets."""
        accuracy_sum, num_counted = self._totals[1].tolist()
        self._totals[1] = 0
        self._keep_state()
        entries = {"difficulty": self.curriculum.difficulty}
        if num_counted:
            entries["train_accuracy"] = accuracy_sum / num_counted
        return entries


class TimeBudgetCallback(TrainerCallback, ExportableState):
    """
    Stops training after a number of minutes, summed over resumed trainings, with evaluations and checkpoints.

    The last step is evaluated and saved if `eval_strategy` and `save_strategy` are `"steps"` or `"epoch"`. A training
    resumed with no time left takes one step. All processes stop at the same step, when the time of the first is over.

    Args:
        max_minutes (`float`): limit in minutes, greater than 0.

    Raises:
        `ValueError`: for a number that is not greater than 0.
    """

    def __init__(self, max_minutes: float):
        if not max_minutes > 0:
            raise ValueError(f"`max_minutes` is {max_minutes}; it must be greater than 0.")
        self.max_minutes = max_minutes
        self.past_seconds = 0.0  # of trainings that this one resumes
        self._start_time: float | None = None

    @property
    def elapsed_seconds(self) -> float:
        """Seconds of training so far."""
        return self.past_seconds + (0.0 if self._start_time is None else time.monotonic() - self._start_time)

    def state(self) -> dict:
        """Return the state for a checkpoint; see `ExportableState`."""
        return {"args": {"max_minutes": self.max_minutes}, "attributes": {"past_seconds": self.elapsed_seconds}}

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock, from the time in the checkpoint if there is one."""
        restored = _restore_attributes(self, state)
        self.past_seconds = 0.0 if restored is None else restored["past_seconds"]
        self._start_time = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        """Stop when the time is over."""
        is_over = self.elapsed_seconds >= self.max_minutes * SECONDS_PER_MINUTE
        if dist.is_available() and dist.is_initialized():
            decision = torch.tensor(is_over, dtype=torch.uint8, device=args.device)
            dist.broadcast(decision, src=0)
            is_over = bool(decision)
        if is_over and not control.should_training_stop:
            if state.is_world_process_zero:
                logger.warning(
                    f"Training stops at step {state.global_step}: `max_minutes` {self.max_minutes} have passed."
                )
            # A stop ends the epoch, where the strategy "epoch" evaluates and saves by itself.
            control.should_evaluate |= args.eval_strategy == IntervalStrategy.STEPS
            control.should_save |= args.save_strategy == SaveStrategy.STEPS
        control.should_training_stop |= is_over

    def on_train_end(self, args, state, control, **kwargs):
        """Stop the clock."""
        self.past_seconds, self._start_time = self.elapsed_seconds, None


__all__ = ["Curriculum", "CurriculumCallback", "TimeBudgetCallback"]
