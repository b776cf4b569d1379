# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The guard against growth: it passes on the same code, and fails on an added copy or graph break."""

import json
import sys

import pytest
import torch

import step_counts
from hf_thoughtbubbles.modeling.thoughtbubbles.layers_thoughtbubbles import ThoughtbubblesDecoderLayer


NAME = "thoughtbubbles-plain"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run the script for one model and a file of its own: the exit status, and what it prints."""

    def run_script(*flags: str) -> tuple[int, str]:
        command = ["step_counts.py", "--models", NAME, "--file", str(tmp_path / "counts.json"), *flags]
        monkeypatch.setattr(sys, "argv", command)
        try:
            step_counts.main()
        except SystemExit as end:
            return (end.code, capsys.readouterr().out) if isinstance(end.code, int) else (1, end.code)
        return 0, capsys.readouterr().out

    return run_script


def change_layers(monkeypatch, change):
    """Apply a function to the output of every layer."""
    forward = ThoughtbubblesDecoderLayer.forward

    def forward_changed(self, *args, **kwargs):
        return change(forward(self, *args, **kwargs))

    monkeypatch.setattr(ThoughtbubblesDecoderLayer, "forward", forward_changed)


@pytest.mark.slow
def test_the_guard_passes_and_finds_a_copy_in_each_layer(run, monkeypatch):
    monkeypatch.setattr(step_counts, "count_graph_breaks", lambda model, inputs: 0)
    assert run("--update")[0] == 0
    status, printed = run()
    assert status == 0 and "0 counts grew and 0 shrank" in printed
    change_layers(monkeypatch, torch.Tensor.clone)
    status, printed = run()
    assert status == 1 and f"{NAME}, forward: kernels was" in printed and f"{NAME}, forward: bytes was" in printed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo reads it after a break
def test_the_guard_finds_a_graph_break(monkeypatch):
    model = step_counts.build_model(step_counts.build_config(NAME, 32, 2, 61, positions=32))
    inputs = step_counts.draw_lesson(model.config, 1, 8)
    assert step_counts.count_graph_breaks(model, inputs) == 0

    def break_graph(output):
        torch._dynamo.graph_break()
        return output

    change_layers(monkeypatch, break_graph)
    assert step_counts.count_graph_breaks(model, inputs) >= 2


def test_only_growth_beyond_the_allowance_fails_and_other_versions_are_refused(run, monkeypatch, tmp_path):
    counted = {"forward": {"kernels": 103}}
    monkeypatch.setattr(step_counts, "count_model", lambda name: counted)
    for known, status, line in (
        (100, 1, "kernels was 100, is 103 (+3.0 %), allowed 102. Find what was added, or accept it with --update."),
        (101, 0, "0 counts grew and 0 shrank"),
        (106, 0, "kernels was 106, is 103 (-2.8 %). Keep this with --update."),
    ):
        file = {"versions": step_counts.get_versions(), "counts": {NAME: {"forward": {"kernels": known}}}}
        (tmp_path / "counts.json").write_text(json.dumps(file))
        found, printed = run()
        assert found == status and line in printed
    (tmp_path / "counts.json").write_text(json.dumps({**file, "versions": {"torch": "1.0"}}))
    status, printed = run()
    assert status == 1 and "{'torch': '1.0'}" in printed and "Install the versions of constraints.txt" in printed
