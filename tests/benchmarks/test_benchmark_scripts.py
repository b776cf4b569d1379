# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The benchmarks of growth and of loading run as their docstrings say, at a size of seconds."""

import json
import re
from pathlib import Path

import pytest

from tests.examples.scripts import run_script


pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *arguments) -> str:
    result = run_script(BENCHMARKS / script, *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_growth_is_measured_predicted_and_drawn(tmp_path):
    rows, figures = tmp_path / "growth.json", tmp_path / "figures"
    flags = ["--quick", "--threads", 1, "--repeats", 2, "--output", rows]
    run("growth.py", *flags, "--axes", "context", "patches")
    measured = json.loads(rows.read_text())
    assert {(row["axis"], row["size"]) for row in measured["rows"]} == {
        ("context", 8), ("context", 16), ("patches", 1), ("patches", 2),
    }  # fmt: skip
    assert all(0 < row["low"] <= row["cost"] <= row["high"] and row["predicted"] > 0 for row in measured["rows"])
    assert min(measured["roofline"].values()) > 0
    run("growth.py", "--draw", "--output", rows, "--figures", figures)
    assert sorted(path.name for path in figures.iterdir()) == ["growth_context.png", "growth_patches.png"]


def test_loading_is_compared_with_gpt2_of_equal_size():
    printed = run("loading.py", "--quick", "--threads", 1, "--repeats", 2, "--models", "looped_thinker")
    row = next(line for line in printed.splitlines() if line.startswith("| looped_thinker"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 6 and all(re.fullmatch(r"\d+ / \d+: [\d.]+ \([\d.]+ to [\d.]+\)", cell) for cell in cells[3:])
