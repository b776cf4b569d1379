# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The start and the end of several training processes, whose results a test reads from disk."""

import os
import socket
import sys
from collections.abc import Callable

import torch
from transformers import Trainer


NUM_PROCESSES = 2


def start_forked(function: Callable, *args):
    """Run `function(rank, *args)` in two processes that need no imports; raises what a process raised."""
    torch.multiprocessing.start_processes(function, args, NUM_PROCESSES, start_method="forkserver")


def find_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def become_rank(rank: int, port: int):
    """Set what `torchrun` sets in the environment of each process."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": NUM_PROCESSES, "LOCAL_WORLD_SIZE": NUM_PROCESSES}
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in {**ranks, **where}.items()}
    torch.set_num_threads(1)


def leave_together(trainer: Trainer):
    """
    End this process with success, after all others have come here too: one that leaves early takes the others down.

    Nothing is torn down: torch can abort while it ends its threads (seen once, not again in 32 processes:
    "terminate called without an active exception"), which says nothing about the training that was done.
    """
    trainer.accelerator.wait_for_everyone()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
