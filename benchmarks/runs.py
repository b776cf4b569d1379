# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Finished runs of benchmarks that train: kept, resumed after an interruption, summed up over seeds."""

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

from transformers import TrainingArguments


def read_runs(output: Path) -> list[dict]:
    """The finished runs, one a line of the output file."""
    return [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []


def do_missing(output: Path, wanted: Iterable[dict], run: Callable[..., dict]):
    """Call `run` with what names each run that the output file does not hold yet, and add a line for each."""
    output.parent.mkdir(parents=True, exist_ok=True)
    for names in wanted:
        if any(names.items() <= found.items() for found in read_runs(output)):
            continue
        line = json.dumps({**names, **run(**names)})
        print(line, flush=True)
        with output.open("a") as file:
            file.write(line + "\n")


def describe_seeds(values: list[float], num_digits: int = 3) -> str:
    """
    Mean and standard deviation.

    >>> describe_seeds([1.0, 2.0]), describe_seeds([1.0], 1)
    ('1.500 ± 0.707', '1.0')
    """
    deviation = f" ± {statistics.stdev(values):.{num_digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{num_digits}f}{deviation}"


def make_arguments(output: Path, **changes) -> TrainingArguments:
    """Arguments of the Trainer for a run that is measured and thrown away."""
    usual = {
        "output_dir": str(output.parent / "trainer"),
        "lr_scheduler_type": "cosine",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "logging_steps": 200,
    }
    return TrainingArguments(**{**usual, **changes})
