# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The base of callbacks that add entries to the training log, for all trackers of `report_to`."""

import inspect

from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback
from transformers.utils import logging


logger = logging.get_logger(__name__)


def find_callback_handler() -> CallbackHandler | None:
    """The handler that calls a callback. No argument of an event holds it, so it is read from the call stack."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackHandler):
            return caller
        frame = frame.f_back
    return None


class LogEntriesCallback(TrainerCallback):
    """
    Adds entries to every log of training, the logs with a `loss`. A subclass has the method `collect_entries`.

    The Trainer lists the trackers of `report_to` before the callbacks that are passed to it, and each callback reads
    the log in this order. So the callback moves in front of the trackers in the list of its own Trainer, when that
    Trainer is built and again when training begins. The entries appear in every tracker, in the printed log, in
    `trainer.state.log_history` and in `trainer_state.json`, and in logs of TRL's trainers.

    A log of several processes is written by the first one. `collect_entries` runs in all of them, and its values
    must be those of the whole training.
    """

    def collect_entries(self, args, state, model) -> dict[str, float]:
        """Return the entries of this log: names and numbers."""
        raise NotImplementedError

    def _move_to_front(self):
        handler = find_callback_handler()
        if handler is None or self not in handler.callbacks:
            logger.warning_once(
                f"`{type(self).__name__}` was called without a `CallbackHandler` of transformers, so trackers may "
                "read a log before its entries are added. Call it before your trackers."
            )
            return
        callbacks, own = handler.callbacks, handler.callbacks.index(self)
        stays = (DefaultFlowCallback, LogEntriesCallback)
        first = next(i for i, callback in enumerate(callbacks) if i == own or not isinstance(callback, stays))
        callbacks.insert(first, callbacks.pop(own))  # what comes after this callback keeps its place in the loop

    def on_init_end(self, args, state, control, **kwargs):
        """Move in front of the trackers of the Trainer that was built."""
        self._move_to_front()

    def on_train_begin(self, args, state, control, **kwargs):
        """Move in front of the trackers, if the callback was added after the Trainer was built."""
        self._move_to_front()

    def on_log(self, args, state, control, model=None, logs=None, **kwargs):
        """Add the entries to a log of training, which has a loss."""
        if logs is None or "loss" not in logs:
            return
        entries = self.collect_entries(args, state, model)
        logs.update(entries)
        state.log_history[-1].update(entries)


__all__ = ["LogEntriesCallback", "find_callback_handler"]
