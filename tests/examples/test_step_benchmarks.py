# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The benchmarks of training steps and of static caches run, and count what they say."""

import re
from pathlib import Path

import pytest

from tests.examples.scripts import run_script


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run_quick(name: str, *arguments) -> str:
    """What a benchmark prints in its tiny size."""
    result = run_script(BENCHMARKS / name, "--quick", "--threads", 1, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_benchmark_of_training_steps_counts_memory_and_graphs():
    parts = ("--parts", "memory", "time", "recompile", "--steps", 2)
    printed = run_quick("training_step.py", "--families", "bytes", *parts)
    for name in ("bytes", "gpt2"):
        memory, seconds, graphs = re.findall(rf"^\| {name} \| (.+) \|$", printed, re.MULTILINE)
        assert float(memory.split(" | ")[-1]) < 0.8, "checkpointing keeps less"
        assert float(seconds.split(" | ")[1]) > 0
        assert re.fullmatch(r"[12] \| 0", graphs), "later steps compile nothing"


@pytest.mark.slow
def test_the_benchmark_of_static_caches_runs():
    printed = run_quick("static_cache.py", "--families", "generic", "--repeats", 2)
    assert re.findall(r"^\| generic \| (\w+, \w+)", printed, re.MULTILINE) == [
        "growing, eager",
        "static, eager",
        "static, compiled",
    ]
