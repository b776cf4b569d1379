# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Every example runs as its docstring says, at a size of seconds."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.scripts import run_script


pytestmark = pytest.mark.slow


EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = ["--hidden_size", "16", "--num_hidden_layers", "3", "--num_attention_heads", "2", "--block_size", "32"]
TINY += ["--max_steps", "4", "--eval_steps", "2", "--scored_blocks", "4", "--prefix_blocks", "2", "--use_cpu"]


def run(script: str, *arguments) -> str:
    result = run_script(EXAMPLES / script, *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A text file, what training on it printed, and where the models are."""
    folder = tmp_path_factory.mktemp("run")
    source = folder / "text.jsonl"
    source.write_text("".join(json.dumps({"text": f"line number {i} of a text\n" * 4}) + "\n" for i in range(100)))
    arguments = ["--source", source, "--output_dir", folder / "out", "--baseline", "gpt2", "plain", *TINY]
    command = [sys.executable, EXAMPLES / "train_thoughtbubbles_text.py", *arguments]  # as a person starts it
    return source, subprocess.run(command, capture_output=True, text=True, check=True).stdout, folder / "out"


def test_training_compares_with_the_baseline_and_reloads(trained):
    _, printed, folder = trained
    for name in ("thoughtbubbles", "gpt2", "plain"):
        assert re.search(rf"^{name} +\d\.\d{{4}} bits per byte, whole blocks", printed, re.MULTILINE)
        assert re.search(rf"^{name} +reloaded .* logits identical$", printed, re.MULTILINE)
        assert (folder / name / "model.safetensors").is_file()
        assert (folder / name / "tokenizer.json").is_file()
    assert re.search(r"bits per byte, prefix only", printed)
    assert len(list((folder / "forks").glob("*.png"))) == 2
    for name in ("thoughtbubbles", "plain"):
        card = (folder / name / "README.md").read_text()
        whole = re.search(rf"^{name} +(\d\.\d{{3}})\d+ bits per byte, whole", printed, re.MULTILINE)[1]
        assert f"| bits per byte, whole blocks | {whole}"[:-1] in card and str(trained[0]) in card
        assert ("bits per byte, prefix only" in card) is (name == "thoughtbubbles")


def test_training_streams_continues_and_takes_any_flag(trained, tmp_path):
    source, _, folder = trained
    arguments = ["--source", source, "--streaming", "--model", folder / "thoughtbubbles", *TINY]
    flags = ["--fold", "probability", "--label_smoothing_factor", "0.1", "--optim", "adafactor", "--seed", "7"]
    printed = run("train_thoughtbubbles_text.py", "--output_dir", tmp_path, *arguments, *flags)
    assert "logits identical" in printed


def test_a_causal_model_trains_and_draws_what_it_generates(trained, tmp_path):
    flags = ["--fork_rule", "threshold", "--fork_score_init", "-2", "4", "--fork_budget", "1.5", *TINY]
    flags += ["--logging_steps", "2"]
    printed = run("train_thoughtbubbles_text.py", "--source", trained[0], "--output_dir", tmp_path, *flags)
    assert "forks look at the past alone" in printed and "logits identical" in printed and "prefix only" not in printed
    assert "streams_per_token_layer_1" in printed and "fork_threshold_prob_layer_2" in printed
    assert "eval_bits_per_byte" in printed
    picture, model = tmp_path / "new" / "forks.png", tmp_path / "thoughtbubbles"
    options = ["--prompt", "line ", "--max_new_tokens", 8, "--fork_budget", 1.0, "--forks", picture]
    assert "picture in" in run("generate_text.py", model, *options)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_each_model_resumes_from_its_own_checkpoint(trained, tmp_path):
    flags = ["--source", trained[0], "--output_dir", tmp_path, "--baseline", "gpt2", *TINY, "--prefix_blocks", "0"]
    flags += ["--save_strategy", "steps", "--save_steps", "2"]
    run("train_thoughtbubbles_text.py", *flags, "--max_steps", "2")
    printed = run("train_thoughtbubbles_text.py", *flags, "--resume_from_checkpoint", "true")
    assert "prefix only" not in printed
    for name in ("thoughtbubbles", "gpt2"):
        state = json.loads((tmp_path / name / "checkpoint-4" / "trainer_state.json").read_text())
        assert [entry["step"] for entry in state["log_history"] if "eval_loss" in entry] == [2, 4], "one history"


@pytest.mark.parametrize("name", ["thoughtbubbles", "gpt2"])
def test_text_is_generated_by_ours_and_native_models(trained, name):
    greedy = run("generate_text.py", trained[2] / name, "--prompt", "line ", "--max_new_tokens", 8)
    assert greedy.startswith("line ")
    sampling = ["--prompt", "line ", "--max_new_tokens", 8, "--temperature", 1.0, "--seed", 3]
    first, second = (run("generate_text.py", trained[2] / name, *sampling) for _ in range(2))
    assert first == second


def test_forks_are_drawn(trained, tmp_path):
    picture = tmp_path / "new" / "forks.png"
    assert "picture in" in run("plot_forks.py", trained[2] / "thoughtbubbles", "--text", "line 1", "--output", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_python_of_the_readme_runs(trained, tmp_path):
    readme = (EXAMPLES.parent / "README.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", readme, re.DOTALL))
    assert code.count("import") >= 3
    code = code.replace("runs/demo/thoughtbubbles", str(trained[2] / "thoughtbubbles"))
    code = code.replace("runs/demo/causal", str(tmp_path / "causal"))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=EXAMPLES.parent)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.startswith("def get_")
    assert json.loads((tmp_path / "causal" / "config.json").read_text())["fork_rule"] == "threshold"


def test_every_script_is_listed():
    listed = (EXAMPLES / "README.md").read_text()
    for script in EXAMPLES.glob("*.py"):
        assert f"`{script.name}`" in listed
