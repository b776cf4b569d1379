# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A callback that saves a checkpoint and stops when a training is interrupted."""

import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback
from transformers.utils import logging


logger = logging.get_logger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptCallback(TrainerCallback):
    """
    Saves a checkpoint and stops after the current step when the process gets SIGINT (Ctrl-C) or SIGTERM.

    `trainer.train(resume_from_checkpoint=...)` continues from the checkpoint. A second signal stops at once, without
    a checkpoint. In a distributed run all processes stop at the same step, whichever of them got the signal. Signals
    are received in the main thread alone; a Trainer in another thread is not changed. A training that ends with an
    error gives the signals back at the next one.

    `is_interrupted` is true after such a stop.
    """

    def __init__(self):
        self.is_interrupted = False
        self._former: dict[signal.Signals, Any] = {}

    def _receive(self, number: int, frame: FrameType | None):
        self.is_interrupted = True
        self._restore()  # so that a second signal stops at once
        logger.warning("Interrupted: the current step is finished and saved. Interrupt again to stop at once.")

    def _restore(self):
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def on_train_begin(self, args, state, control, **kwargs):
        """Start to receive signals."""
        self.is_interrupted = False
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_step_end(self, args, state, control, **kwargs):
        """Save and stop after a signal."""
        if dist.is_available() and dist.is_initialized():
            decision = torch.tensor(self.is_interrupted, dtype=torch.uint8, device=args.device)
            dist.all_reduce(decision, dist.ReduceOp.MAX)
            self.is_interrupted = bool(decision)
        if self.is_interrupted:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        """Give the signals back."""
        self._restore()


__all__ = ["InterruptCallback"]
