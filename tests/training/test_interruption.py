# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""An interrupted training leaves a checkpoint, from which it goes on to the weights of an uninterrupted one."""

import os
import signal

import pytest
import torch
from transformers import TrainerCallback

from hf_thoughtbubbles.training import InterruptCallback, get_last_complete_checkpoint
from tests.training.lessons import LESSONS


class Interrupter(TrainerCallback):
    """Sends a signal to the process at a step."""

    def __init__(self, number: int, step: int, times: int = 1):
        self.number, self.step, self.times = number, step, times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.fixture
def default_interruption():
    """Python's own handler of SIGINT, which processes of a test runner may have replaced."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def make_trainer(folder, *callbacks):
    lesson = LESSONS["gpt-rope"]
    return lesson.make_trainer(folder, lesson.build(), 4, max_steps=4, callbacks=list(callbacks), save_strategy="no")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_goes_on_to_the_weights_of_an_uninterrupted_one(number, tmp_path):
    before = signal.getsignal(number)
    callback = InterruptCallback()
    interrupted = make_trainer(tmp_path / "stopped", Interrupter(number, step=1), callback)
    interrupted.train()
    assert callback.is_interrupted and interrupted.state.global_step == 2
    assert signal.getsignal(number) is before
    checkpoint = get_last_complete_checkpoint(tmp_path / "stopped")
    assert checkpoint is not None and checkpoint.endswith("checkpoint-2")
    resumed, whole = make_trainer(tmp_path / "stopped", callback), make_trainer(tmp_path / "whole")
    resumed.train(resume_from_checkpoint=checkpoint)
    whole.train()
    assert not callback.is_interrupted and resumed.state.global_step == 4
    for mine, expected in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, expected)
    assert signal.getsignal(number) is before


def test_a_second_signal_stops_at_once(tmp_path, default_interruption):
    trainer = make_trainer(tmp_path, Interrupter(signal.SIGINT, step=1, times=2), InterruptCallback())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 1
