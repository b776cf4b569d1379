# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The example that trains a byte-patch model runs as its docstring says, at a size that takes seconds."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from hf_thoughtbubbles.data.patches import measure_patch_lengths
from tests.examples.scripts import run_script


pytestmark = pytest.mark.slow


SCRIPT = Path(__file__).parents[2] / "examples" / "train_byte_text.py"
TINY = ["--core_hidden_size", "16", "--core_num_attention_heads", "2", "--core_num_hidden_layers", "1"]
TINY += ["--hidden_size", "16", "--block_size", "32", "--max_steps", "4", "--eval_steps", "2", "--scored_blocks", "5"]
TINY += ["--bpe_vocab_size", "270", "--use_cpu"]
RULE = "-" * 40  # a token of its own, longer than any patch


def run(*arguments) -> subprocess.CompletedProcess:
    return run_script(SCRIPT, *arguments)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes") / "text.jsonl"
    texts = (f"líne number {i} of a text\n{RULE}\n" * 4 for i in range(100))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_training_compares_with_bytes_and_tokens_and_writes_on(source, tmp_path):
    result = run("--source", source, "--output_dir", tmp_path, "--baseline", "gpt2", "bpe", *TINY)
    assert result.returncode == 0, result.stderr[-3000:]
    for name in ("byte_patch", "gpt2", "bpe"):
        assert re.search(rf"^{name} +\d\.\d{{4}} bits per byte, whole blocks", result.stdout, re.MULTILINE)
        assert re.search(rf"^{name} +reloaded .* logits identical$", result.stdout, re.MULTILINE)
        assert (tmp_path / name / "tokenizer.json").is_file()
    assert "\ndef " in result.stdout.split("saved in")[-1]
    counts = dict(re.findall(r"^== (\w+): ([\d,]+) parameters ==$", result.stdout, re.MULTILINE))
    byte_patch, gpt2 = (int(counts[name].replace(",", "")) for name in ("byte_patch", "gpt2"))
    assert abs(byte_patch - gpt2) <= 17  # half a channel of the feed-forward layer


def test_patches_of_a_tokenizer_are_trained_scored_and_written_on(source, tmp_path):
    token = ["--source", source, "--output_dir", tmp_path, "--patching", "token", "--prompt", f"# {RULE}", *TINY]
    token += ["--bpe_vocab_size", "300"]
    result = run(*token)
    assert result.returncode == 0, result.stderr[-3000:]
    assert re.search(r"^byte_patch +\d\.\d{4} bits per byte, whole blocks", result.stdout, re.MULTILINE)
    assert re.search(r"^byte_patch +reloaded .* logits identical$", result.stdout, re.MULTILINE)
    assert f"\n# {RULE}" in result.stdout.split("saved in")[-1]
    drawing = AutoTokenizer.from_pretrained(tmp_path / "byte_patch" / "patch_tokenizer")
    assert measure_patch_lengths(RULE.encode(), drawing) == [40], "longer than any patch, so it is cut"
    again = run(*token, "--output_dir", tmp_path / "b", "--model", tmp_path / "byte_patch", "--bpe_vocab_size", "258")
    assert again.returncode == 0, again.stderr[-3000:]
    kept = tmp_path / "b" / "byte_patch" / "patch_tokenizer" / "tokenizer.json"
    assert kept.read_text() == (tmp_path / "byte_patch" / "patch_tokenizer" / "tokenizer.json").read_text()


def test_the_published_decoder_trains_on_and_a_tokenizer_is_refused(source, tmp_path):
    first = run(
        *("--source", source, "--output_dir", tmp_path / "a", "--decoder", "parallel", "--patching", "fixed"),
        *("--reconstruction_loss_weight", "1"),
        *TINY,
    )
    assert first.returncode == 0, first.stderr[-3000:]
    again = run("--source", source, "--output_dir", tmp_path / "b", "--model", tmp_path / "a" / "byte_patch", *TINY)
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads((tmp_path / "b" / "byte_patch" / "config.json").read_text())["decoder"] == "parallel"
    refused = run("--source", source, "--output_dir", tmp_path / "c", "--tokenizer", "gpt2", *TINY)
    assert refused.returncode == 2 and "a byte-patch model reads bytes" in refused.stderr


def test_the_benchmark_of_drafts_runs():
    result = run_script(SCRIPT.parents[1] / "benchmarks" / "bytes.py", "--quick", "--threads", 1, "--parts", "drafts")
    assert result.returncode == 0, result.stderr[-3000:]
    for arm in ("drafts", "no drafts", "prompt lookup", "GPT-2, FLOPs"):
        assert result.stdout.count(f"| {arm} |") == 2
    assert "Greedy texts with and without drafts are equal: True" in result.stdout
