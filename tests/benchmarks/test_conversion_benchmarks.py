# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The benchmarks of conversions run as their docstrings say, and show what docs/conversion.md says."""

import re

import pytest

from tests.benchmarks.test_benchmark_scripts import run


pytestmark = pytest.mark.slow


def read_rows(printed: str) -> list[list[str]]:
    """The cells of a table without its head."""
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_errors_of_every_kind_are_in_the_table_of_exactness():
    rows = read_rows(run("native_exactness.py", "--natives", "mistral-head"))
    assert [row[:2] for row in rows] == [["mistral-head-dim-tied", "forks"], ["mistral-head-dim-tied", "loops"]]
    for _, _, logits, padded, packed, bf16, gradients, *texts in rows:
        assert max(map(float, (logits, padded, packed, gradients))) <= 1e-5 and float(bf16) <= 1
        assert texts == ["0 / 320"] * 3


def test_a_conversion_needs_the_memory_of_one_checkpoint():
    rows = read_rows(run("conversion_memory.py", "--megabytes", "100"))
    assert [row[:2] for row in rows] == [[name, kind] for name in ("gpt2", "llama") for kind in ("forks", "loops")]
    assert max(float(row[3]) for row in rows) <= 1.2


def test_costs_of_forks_and_loops_are_compared_with_the_native_model():
    rows = read_rows(run("native_cost.py", "--quick"))
    assert [row[0] for row in rows][-1] == "training step" and len(rows) == 5
    assert all(re.fullmatch(r"[\d.]+ \[[\d.-]+, [\d.]+\]", cell) for row in rows for cell in row[1:])
