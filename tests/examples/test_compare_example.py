# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The comparison trains, matches, scores, resumes and refuses as its docstring says, at a size of seconds."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
import torch
from datasets import load_from_disk
from transformers import GPT2Config, GPT2LMHeadModel

from hf_thoughtbubbles import BytePatchConfig, BytePatchForCausalLM, build_byte_tokenizer, train_bpe_tokenizer
from hf_thoughtbubbles.evaluation.flops import estimate_flops
from hf_thoughtbubbles.modeling.byte_patch.patch_ends import find_patch_ends, number_patches
from tests.examples.scripts import run_script


pytestmark = pytest.mark.slow


SCRIPT = Path(__file__).parents[2] / "examples" / "compare.py"
TINY = ["--hidden_size", "16", "--num_attention_heads", "2", "--num_hidden_layers", "4", "--block_size", "32"]
TINY += ["--max_steps", "4", "--scored_blocks", "4", "--prefix_blocks", "1", "--use_cpu", "--disable_tqdm", "true"]


def run(*arguments) -> subprocess.CompletedProcess:
    return run_script(SCRIPT, *arguments)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare") / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"line number {i} of a text\n" * 9}) + "\n" for i in range(99)))
    return path


@pytest.fixture(scope="module")
def compared(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    result = run("--source", source, "--output_dir", folder, "--models", "thoughtbubbles", "gpt2", "--seeds", 2, *TINY)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result


def test_models_are_matched_and_tabled_and_drawn(compared):
    folder, result = compared
    table = (folder / "table.md").read_text()
    assert table in result.stdout
    assert [line.split("|")[1:3] for line in table.splitlines()[2:]] == [
        [" thoughtbubbles ", " 2 "],
        [" gpt2 ", " 2 "],
    ]
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["seed"]) for row in rows] == [
        ("thoughtbubbles", "42"),
        ("thoughtbubbles", "43"),
        ("gpt2", "42"),
        ("gpt2", "43"),
    ]
    ours, theirs = float(rows[0]["training_flops"]), float(rows[2]["training_flops"])
    assert theirs == pytest.approx(ours, rel=0.02)
    assert rows[0]["look_ahead_bits_per_byte"] and not rows[2]["look_ahead_bits_per_byte"]
    for row in rows:
        assert 3 < float(row["bits_per_byte"]) < 9
        assert float(row["tokens_per_second"]) > 0 and float(row["peak_memory_mb"]) > 0
    assert rows[0]["bits_per_byte"] != rows[1]["bits_per_byte"]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_started_again_it_does_what_is_missing(compared, source):
    folder, _ = compared
    kept, lost = (folder / "runs" / f"{name}-43.json" for name in ("thoughtbubbles", "gpt2"))
    before, scored = kept.stat().st_mtime_ns, json.loads(lost.read_text())["bits_per_byte"]
    lost.unlink()
    again = ["--source", source, "--output_dir", folder, "--models", "thoughtbubbles", "gpt2", "--seeds", 2, *TINY]
    result = run(*again)
    assert result.returncode == 0, result.stderr[-3000:]
    assert kept.stat().st_mtime_ns == before
    assert json.loads(lost.read_text())["bits_per_byte"] == pytest.approx(scored, abs=1e-6)
    assert result.stdout.count("== ") == 1 and "== gpt2, seed 43 ==" in result.stdout
    refused = run(*again, "--learning_rate", "0.5", "--weight_decay", "0.9")
    assert refused.returncode == 2 and "learning_rate 0.002 there, 0.5 now" in refused.stderr
    assert "weight_decay 0.1 there, 0.9 now" in refused.stderr


def test_a_trained_model_is_scored_as_it_is_and_again_when_it_changed(compared, source, tmp_path):
    tokenizer = train_bpe_tokenizer(["line number of a text"] * 3, vocab_size=270)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": len(tokenizer)}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=0)).save_pretrained(tmp_path / "native")
    tokenizer.save_pretrained(tmp_path / "native")
    sizes = {"core_hidden_size": 16, "core_num_hidden_layers": 1, "core_num_attention_heads": 2, "hidden_size": 16}
    BytePatchForCausalLM(BytePatchConfig(patching="token", **sizes)).save_pretrained(tmp_path / "patches")
    build_byte_tokenizer().save_pretrained(tmp_path / "patches")
    tokenizer.save_pretrained(tmp_path / "patches" / "patch_tokenizer")
    arguments = ["--source", source, "--output_dir", tmp_path / "out", "--match", "parameters", "--seeds", 1]
    result = run(*arguments, "--models", tmp_path / "native", tmp_path / "patches", *TINY)
    assert result.returncode == 0, result.stderr[-3000:]
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert len(lines) == 4 and str(tmp_path / "native") in lines[2] and str(tmp_path / "patches") in lines[3]
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "native")
    torch.nn.init.normal_(model.transformer.h[0].mlp.c_fc.weight)
    model.save_pretrained(tmp_path / "native")
    again = run(*arguments, "--models", tmp_path / "native", tmp_path / "patches", *TINY)
    assert again.stdout.count("== ") == 1 and f"== {tmp_path / 'native'} ==" in again.stdout, "its weights changed"
    changed = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert changed[2] != lines[2] and changed[3] == lines[3]


def test_operations_are_the_mean_over_batches(source, tmp_path):
    """Rows of a batch have as many patches as the row with most."""
    result = run("--source", source, "--output_dir", tmp_path, "--models", "byte_patch", "--seeds", 1, *TINY)
    assert result.returncode == 0, result.stderr[-3000:]
    measured = json.loads((tmp_path / "runs" / "byte_patch-42.json").read_text())
    ids = torch.tensor(load_from_disk(tmp_path / "data")["train"][:256]["input_ids"])
    config = BytePatchConfig(
        vocab_size=259, core_hidden_size=16, core_num_hidden_layers=4, core_num_attention_heads=2, hidden_size=8,
        encoder_num_hidden_layers=1, num_hidden_layers=2, max_position_embeddings=32, num_attention_heads=2,
    )  # fmt: skip
    counts = [
        number_patches(find_patch_ends(rows, "space", 4, 16), None, None).lengths.shape[1] for rows in ids.split(16)
    ]
    flops = [estimate_flops(config, 32, num_patches=count).forward for count in counts]
    assert len(set(counts)) > 1
    assert measured["training_flops"] == pytest.approx(4 * 16 * 3 * sum(flops) / len(flops))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "gpt3"], "--models names gpt3"),
        (["--tokenizer", "gpt2"], "models are compared on bytes"),
    ],
)
def test_flags_that_make_no_sense_are_refused(arguments, message, tmp_path):
    result = run("--output_dir", tmp_path, *arguments)
    assert result.returncode == 2 and message in result.stderr
