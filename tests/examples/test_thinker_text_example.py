# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The example that trains a looped Thinker on text runs as its docstring says, at a size that takes seconds."""

import json
import re
from pathlib import Path

import pytest

from tests.examples.scripts import run_script


pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "train_thinker_text.py"
TINY = ["--hidden_size", "16", "--num_attention_heads", "2", "--block_size", "32", "--random_steps", "2", "3"]
TINY += ["--max_steps", "4", "--eval_steps", "2", "--scored_blocks", "5", "--use_cpu"]


def run_successfully(script: Path, *arguments) -> str:
    result = run_script(script, *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A text file, the output of training on it, and the folder of the models."""
    folder = tmp_path_factory.mktemp("thinker")
    source = folder / "text.jsonl"
    source.write_text("".join(json.dumps({"text": f"line number {i} of a text\n" * 4}) + "\n" for i in range(100)))
    arguments = ["--source", source, "--output_dir", folder / "out", "--baseline", "gpt2", "unlooped", *TINY]
    return source, run_successfully(SCRIPT, *arguments), folder / "out"


def read_bits(printed: str, pattern: str) -> float:
    return float(re.search(rf"^{pattern}", printed, re.MULTILINE).group(1))


def test_training_compares_with_the_baselines_and_reloads(trained):
    _, printed, folder = trained
    for name in ("looped", "gpt2", "unlooped"):
        assert re.search(rf"^{name} +\d\.\d{{4}} bits per byte, whole blocks", printed, re.MULTILINE)
        assert re.search(rf"^{name} +reloaded .* logits identical$", printed, re.MULTILINE)
        assert (folder / name / "model.safetensors").is_file()
        assert (folder / name / "tokenizer.json").is_file()


def test_the_baselines_have_equal_parameters_or_equal_depth(trained):
    _, printed, folder = trained
    counts = dict(re.findall(r"^== (\w+): ([\d,]+) parameters ==$", printed, re.MULTILINE))
    looped, gpt2, unlooped = (int(counts[name].replace(",", "")) for name in ("looped", "gpt2", "unlooped"))
    assert abs(looped - gpt2) <= 17  # half a channel of the feed-forward layer
    assert unlooped > 2 * looped
    config = json.loads((folder / "unlooped" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["num_steps"]) == (3, 1)
    assert json.loads((folder / "looped" / "config.json").read_text())["num_steps"] == 3


def test_more_steps_are_scored_and_drawn(trained):
    _, printed, folder = trained
    assert re.findall(r"bits per byte after (\d+) steps", printed) == ["3", "6", "12"]
    own = read_bits(printed, r"looped +(\d\.\d{4}) bits per byte, whole")
    assert read_bits(printed, r"looped +(\d\.\d{4}) bits per byte after 3 steps") == own
    assert read_bits(printed, r"looped +(\d\.\d{4}) bits per byte after 12 steps") != own
    for name in ("step_losses", "convergence"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_training_streams_and_continues_a_checkpoint_with_other_steps(trained, tmp_path):
    source, _, folder = trained
    arguments = ["--source", source, "--streaming", "--model", folder / "looped", "--output_dir", tmp_path, *TINY]
    printed = run_successfully(SCRIPT, *arguments, "--random_steps", "2", "--test_steps", "1")
    assert re.findall(r"bits per byte after (\d+) steps", printed) == ["1"]
    assert "logits identical" in printed


def test_bad_numbers_of_steps_are_refused_before_training(trained, tmp_path):
    arguments = ["--source", trained[0], "--output_dir", tmp_path, *TINY]
    result = run_script(SCRIPT, *arguments, "--random_steps", "3", "2")
    assert result.returncode == 2 and "--random_steps is [3, 2]" in result.stderr


def test_the_thinking_benchmark_runs():
    printed = run_successfully(ROOT / "benchmarks" / "thinking.py", "--quick", "--threads", 1, "--repeats", 2)
    for title in ("One more step", "1 layer, 8 steps", "8 latents, 8 steps", "Generation with an exit"):
        assert f"### {title}" in printed
    assert "logits of cached generation equal" in printed


def test_the_generation_benchmark_runs():
    printed = run_successfully(ROOT / "benchmarks" / "generation.py", "--quick", "--threads", 1, "--repeats", 2)
    assert "re-reading / cached" in printed
    for shape in ("1 | 16 | even", "4 | 16 | even", "4 | 16 | ragged"):
        for model in ("forks 1.5", "forks 2", "thinker", "thinker, exit", "bytes", "GPT-2"):
            assert f"| {shape} | {model} |" in printed
