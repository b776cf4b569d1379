# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""When do the problems get harder, and when is training over?"""

import time

import torch
import torch.distributed as dist
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging


logger = logging.get_logger(__name__)

SECONDS_PER_MINUTE = 60


class Curriculum:
    """
    A difficulty that rises when the model is accurate. The defaults are those of the original thinker's training.

    The number lies in shared memory: the workers of a `DataLoader`, forked or spawned, see it change. A worker has
    made some batches ahead, so a new difficulty is met a few batches later.

    Args:
        start (`float`): difficulty at first.
        limit (`float`): highest difficulty.
        increment (`float`): how much it rises at once.
        window (`int`): training batches whose accuracy is averaged before it may rise.
        threshold (`float`): the mean accuracy, in [0, 1), that must be exceeded.

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
        """What changes during training."""
        return {"difficulty": self.difficulty}

    def load_state_dict(self, state: dict[str, float]):
        """Go on from what `state_dict` returned; a `ValueError` if it is out of these bounds."""
        self.difficulty = state["difficulty"]


def _restore_attributes(callback: ExportableState, state) -> dict | None:
    """
    What a checkpoint holds of a callback; None in a fresh training, or when the checkpoint was made without it.

    The Trainer itself gives callbacks their state only if told to by `restore_callback_states_from_checkpoint`, but
    what it read from the checkpoint is in its `state` at any rate.
    """
    name = type(callback).__name__
    is_resumed = state.global_step > 0 and name in state.stateful_callbacks
    # The Trainer saves only callbacks that it finds here, and fails on others: those added after the checkpoint.
    stored = state.stateful_callbacks.setdefault(name, callback.state())
    return stored["attributes"] if is_resumed else None


class CurriculumCallback(TrainerCallback, ExportableState):
    """
    Watches how accurate a model is on its training batches, and lets a curriculum rise.

    Every `curriculum.window` batches (not optimiser steps) the curriculum observes the mean accuracy of these batches.
    A batch's accuracy is the share of its targets, labels other than -100, that have the highest logit; labels are
    those of the same position for encoder-decoder models, of the next position for others. Counts stay on the model's
    device, which is waited for once in a window, and are averaged over the processes of a distributed run.

    Training log entries get `difficulty` and `train_accuracy`, the mean over the batches since the last entry.

    A checkpoint holds the difficulty and the unfinished window, and a training resumed from it goes on with both,
    whatever `restore_callback_states_from_checkpoint` is for other callbacks. That option must be off: it would put a
    new callback in this one's place, cut off from the curriculum that the data reads.

    Args:
        curriculum (`Curriculum`): the one that the training data reads.

    Raises:
        `ValueError`: when `curriculum` is no `Curriculum`, and during training when a window has no targets.
    """

    def __init__(self, curriculum: Curriculum):
        if not isinstance(curriculum, Curriculum):
            raise ValueError(
                f"`curriculum` is {curriculum!r}; give the `Curriculum` that the training data reads. When resuming, "
                "leave `restore_callback_states_from_checkpoint` off: `CurriculumCallback` goes on without it."
            )
        self.curriculum = curriculum
        self._hook = None
        self._reset()

    def _reset(self):
        self._num_batches = 0
        # Rows: the present window, the batches since the last log. Columns: sum of accuracies, batches with targets.
        self._totals = torch.zeros(2, 2)

    def state(self) -> dict:
        """What a checkpoint holds; see `ExportableState`."""
        return {
            "args": {"curriculum": None},
            "attributes": {
                **self.curriculum.state_dict(),
                "num_batches": self._num_batches,
                "totals": self._totals.tolist(),
            },
        }

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Start to watch, where the checkpoint stopped if there is one."""
        self._reset()
        restored = _restore_attributes(self, state)
        if restored is not None:
            self.curriculum.load_state_dict(restored)
            self._num_batches = restored["num_batches"]
            self._totals = torch.tensor(restored["totals"])
        self._totals = self._totals.to(args.device)
        self._is_aligned = model.config.is_encoder_decoder
        self._stop_watching()  # a training that failed did not
        self._hook = model.register_forward_hook(self._count, with_kwargs=True)

    def on_train_end(self, args, state, control, **kwargs):
        """Stop to watch."""
        self._stop_watching()

    def _stop_watching(self):
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    @torch.no_grad()
    def _count(self, module, inputs, kwargs, outputs):
        """A forward hook: add a training batch's accuracy to the totals, where the tensors are."""
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
                f"The last {self._num_batches} batches had no targets to be accurate on. Give the model `labels` that "
                "are not all -100; `label_smoothing_factor` and `compute_loss_func` keep them from it."
            )
        self.curriculum.observe(accuracy_sum / num_counted)
        self._num_batches = 0
        self._totals[0] = 0

    def on_step_end(self, args, state, control, **kwargs):
        """Count a batch after which the optimiser stepped."""
        self.on_substep_end(args, state, control, **kwargs)
        self._prepare_save(control)

    def on_epoch_end(self, args, state, control, **kwargs):
        """Get ready for a checkpoint at the end of an epoch."""
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
    Stops training after so many minutes, counted over resumed trainings too, evaluations and checkpoints included.

    The step at which it stops is evaluated and saved where `eval_strategy` and `save_strategy` are `"steps"` or
    `"epoch"`. A training resumed with no time left makes one step. All processes stop at the same step, when the first
    one's time is up. Give it before a `CurriculumCallback`, which gets ready for the checkpoint.

    Args:
        max_minutes (`float`): greater than 0.

    Raises:
        `ValueError`: for a number that is not greater than 0.
    """

    def __init__(self, max_minutes: float):
        if not max_minutes > 0:
            raise ValueError(f"`max_minutes` is {max_minutes}; it must be greater than 0.")
        self.max_minutes = max_minutes
        self.past_seconds = 0.0  # of the trainings that this one resumes
        self._start_time = None

    @property
    def elapsed_seconds(self) -> float:
        """Seconds of training until now."""
        return self.past_seconds + (0.0 if self._start_time is None else time.monotonic() - self._start_time)

    def state(self) -> dict:
        """What a checkpoint holds; see `ExportableState`."""
        return {"args": {"max_minutes": self.max_minutes}, "attributes": {"past_seconds": self.elapsed_seconds}}

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock, where the checkpoint stopped it if there is one."""
        restored = _restore_attributes(self, state)
        self.past_seconds = 0.0 if restored is None else restored["past_seconds"]
        self._start_time = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        """Stop when the time is up."""
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
            # At the end of an epoch, which stopping is, the strategy "epoch" does this by itself.
            control.should_evaluate |= args.eval_strategy == IntervalStrategy.STEPS
            control.should_save |= args.save_strategy == SaveStrategy.STEPS
        control.should_training_stop |= is_over

    def on_train_end(self, args, state, control, **kwargs):
        """Stop the clock."""
        self.past_seconds, self._start_time = self.elapsed_seconds, None


__all__ = ["Curriculum", "CurriculumCallback", "TimeBudgetCallback"]
