# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A difficulty that rises with accuracy during training, and a limit on the time of training."""

import time

import torch
import torch.distributed as dist
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging


logger = logging.get_logger(__name__)

SECONDS_PER_MINUTE = 60


class Curriculum:
    """
    A difficulty that rises when the model is accurate. The defaults are those of the original Thinker's training.

    The number is in shared memory, so the workers of a `DataLoader`, forked or spawned, read its present value. A
    worker prepares some batches in advance, so a new difficulty has an effect a few batches later.

    Args:
        start (`float`): first difficulty.
        limit (`float`): highest difficulty.
        increment (`float`): amount of one rise.
        window (`int`): number of training batches whose accuracy is averaged before the difficulty may rise.
        threshold (`float`): mean accuracy, in [0, 1), that must be exceeded.

    Raises:
        `ValueError`: for a limit below the start, or an increment, window or threshold out of bounds.

    >>> curriculum = Curriculum(start=1, limit=4)
    >>> curriculum.observe(0.85), curriculum.observe(0.9), curriculum.difficulty
    (False, True, 1.5)
    """

    def __init__(self, start: float, limit: float, increment: float = 0.5, window: int = 100, threshold: float = 0.85):
        if not start <= limit:
            raise ValueError(f"`limit` is {limit}; it must be at least `start` {start}.")
        if not increment > 0:
            raise ValueError(f"`increment` is {increment}; it must be greater than 0.")
        if not isinstance(window, int) or window < 1:
            raise ValueError(f"`window` is {window!r}; it must be an integer of at least 1.")
        if not 0 <= threshold < 1:
            raise ValueError(f"`threshold` is {threshold}; it must be at least 0 and below 1, the best accuracy.")
        self.start, self.limit, self.increment = float(start), float(limit), float(increment)
        self.window, self.threshold = window, float(threshold)
        self._difficulty = torch.tensor(self.start, dtype=torch.float64).share_memory_()

    def __repr__(self) -> str:
        return f"Curriculum(difficulty={self.difficulty}, limit={self.limit})"

    def __deepcopy__(self, memo) -> "Curriculum":
        return self  # libraries copy datasets; a copied difficulty would never rise

    @property
    def difficulty(self) -> float:
        """The present difficulty, between `start` and `limit`."""
        return self._difficulty.item()

    @difficulty.setter
    def difficulty(self, value: float):
        if not self.start <= value <= self.limit:
            raise ValueError(
                f"`difficulty` is {value}; it must be between `start` {self.start} and `limit` {self.limit}."
            )
        self._difficulty.fill_(value)

    def observe(self, mean_accuracy: float) -> bool:
        """Raise the difficulty if this accuracy exceeds the threshold; `True` if it rose."""
        if mean_accuracy <= self.threshold or self.difficulty >= self.limit:
            return False
        self.difficulty = min(self.difficulty + self.increment, self.limit)
        return True

    def state_dict(self) -> dict[str, float]:
        """Return the state that changes during training."""
        return {"difficulty": self.difficulty}

    def load_state_dict(self, state: dict[str, float]):
        """Restore the state that `state_dict` returned; `ValueError` if it is out of these bounds."""
        self.difficulty = state["difficulty"]


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


class CurriculumCallback(TrainerCallback, ExportableState):
    """
    Measures the accuracy of a model on its training batches and raises a curriculum by it.

    Every `curriculum.window` batches (not optimizer steps) the curriculum observes the mean accuracy of these batches.
    The accuracy of a batch is the share of its targets, labels other than -100, that have the highest logit. Targets
    are labels of the same position for encoder-decoder models, of the next position for others. Counts stay on the
    model's device, are copied to the CPU once in a window, and are averaged over the processes of a distributed run.

    Training log entries get `difficulty` and `train_accuracy`, the mean over the batches since the last entry.

    A checkpoint contains the difficulty and the unfinished window, and a training resumed from it continues with both.
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
        self._num_batches = 0
        # Rows: the present window, the batches since the last log. Columns: sum of accuracies, batches with targets.
        self._totals = torch.zeros(2, 2)

    def state(self) -> dict:
        """Return the state for a checkpoint; see `ExportableState`."""
        return {
            "args": {"curriculum": None},
            "attributes": {
                **self.curriculum.state_dict(),
                "num_batches": self._num_batches,
                "totals": self._totals.tolist(),
            },
        }

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Start to measure, from the state in the checkpoint if there is one."""
        self._reset()
        restored = _restore_attributes(self, state)
        if restored is not None:
            self.curriculum.load_state_dict(restored)
            self._num_batches = restored["num_batches"]
            self._totals = torch.tensor(restored["totals"])
        self._totals = self._totals.to(args.device)
        self._is_aligned = model.config.is_encoder_decoder
        self._remove_hook()  # after a training that failed
        self._hook = model.register_forward_hook(self._count, with_kwargs=True)

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
        self._totals += torch.stack([num_right / num_targets.clamp(min=1), num_targets > 0])  # (2,): both rows

    def _average_totals(self):
        """Give every process the same totals, their mean."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self._totals)
            self._totals /= dist.get_world_size()

    def on_substep_end(self, args, state, control, **kwargs):
        """Count a batch whose gradients are accumulated."""
        self._num_batches += 1
        if self._num_batches < self.curriculum.window:
            return
        self._average_totals()
        accuracy_sum, num_counted = self._totals[0].tolist()
        if num_counted == 0:
            raise ValueError(
                f"The last {self._num_batches} batches had no targets to measure accuracy on. Pass `labels` that are "
                "not all -100 to the model; `label_smoothing_factor` and `compute_loss_func` remove them."
            )
        self.curriculum.observe(accuracy_sum / num_counted)
        self._num_batches = 0
        self._totals[0] = 0

    def on_step_end(self, args, state, control, **kwargs):
        """Count a batch after which the optimizer stepped."""
        self.on_substep_end(args, state, control, **kwargs)
        self._prepare_save(control)

    def on_epoch_end(self, args, state, control, **kwargs):
        """Prepare for a checkpoint at the end of an epoch."""
        self._prepare_save(control)

    def _prepare_save(self, control):
        # Only the first process writes its state, so before that all must have the same.
        if control.should_save:
            self._average_totals()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Add the entries to a log of training, which has a loss."""
        if logs is None or "loss" not in logs:
            return
        self._average_totals()
        accuracy_sum, num_counted = self._totals[1].tolist()
        self._totals[1] = 0
        entries = {"difficulty": self.curriculum.difficulty}
        if num_counted:
            entries["train_accuracy"] = accuracy_sum / num_counted
        logs.update(entries)
        state.log_history[-1].update(entries)


class TimeBudgetCallback(TrainerCallback, ExportableState):
    """
    Stops training after a number of minutes, summed over resumed trainings, with evaluations and checkpoints.

    The last step is evaluated and saved if `eval_strategy` and `save_strategy` are `"steps"` or `"epoch"`. A training
    resumed with no time left takes one step. All processes stop at the same step, when the time of the first is over.
    Pass it before a `CurriculumCallback`, which prepares for the checkpoint.

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
