# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Several CPU processes for the common tests, each forked from a server that has done the imports."""

import sys

import torch


def _get_distributed_device_type() -> str:
    return "cpu"


def _get_distributed_backend() -> str:
    return "gloo"


def _get_rank_device(rank: int) -> torch.device:
    return torch.device("cpu")


def _set_rank_device(rank: int):
    """Called first in every process; prepares it."""
    torch.set_num_threads(1)
    sys.modules["transformers_common_tests.test_fsdp_mixin"].NUM_STEPS = 6  # of 20: a checkpoint is resumed after half


def _start_rank_processes(function, args: tuple, nprocs: int):
    """Run `function(rank, *args)` in `nprocs` processes; raises what a process raised."""
    torch.multiprocessing.start_processes(function, args=args, nprocs=nprocs, start_method="forkserver")
