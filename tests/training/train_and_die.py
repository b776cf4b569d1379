# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Train in two processes of which one is killed, in the middle of a step or of a checkpoint. For test_processes.py.

Arguments: folder, what to die in.
"""

import io
import os
import signal
import sys
from pathlib import Path

import torch
from transformers import Trainer, default_data_collator
from transformers.trainer_utils import get_last_checkpoint

from tests.training.lessons import LESSONS, make_lesson


def make_long_trainer(folder: Path) -> Trainer:
    """Nine steps with all that a checkpoint must bring back: moments, schedule, order of rows, dropout, thresholds."""
    lesson = LESSONS["threshold"]
    return lesson.make_trainer(
        folder,
        make_lesson("threshold", hidden_dropout=0.2).build(),
        4,
        default_data_collator,
        max_steps=9,
        optim="adamw_torch",
        learning_rate=1e-2,
        lr_scheduler_type="linear",
        train_sampling_strategy="random",
        save_strategy="steps",
        save_steps=3,
        save_total_limit=1,
    )


def die():
    """As when the machine is lost: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_step(trainer: Trainer, step: int):
    """Die in a forward pass of that step."""
    trainer.model.register_forward_pre_hook(
        lambda module, inputs: die() if trainer.state.global_step == step - 1 else None
    )


def die_in_checkpoint(folder: str):
    """Die when half of the optimizer is written to that folder."""
    save = torch.save

    def save_half(content, path, *args, **kwargs):
        if Path(path).parent.name == folder and Path(path).name == "optimizer.pt":
            buffer = io.BytesIO()
            save(content, buffer)
            Path(path).write_bytes(buffer.getvalue()[: buffer.tell() // 2])
            die()
        save(content, path, *args, **kwargs)

    torch.save = save_half


if __name__ == "__main__":
    target, moment, rank = Path(sys.argv[1]), sys.argv[2], int(os.environ["RANK"])
    target.mkdir(parents=True, exist_ok=True)
    started, checkpoint = make_long_trainer(target), get_last_checkpoint(target)
    if moment == "step" and rank == 1:
        die_in_step(started, 5)
    if moment == "checkpoint" and rank == 0:
        die_in_checkpoint("checkpoint-6")
    (target.parent / f"start-{moment}-{rank}.txt").write_text(Path(checkpoint or "nothing").name)
    started.train(resume_from_checkpoint=checkpoint)
