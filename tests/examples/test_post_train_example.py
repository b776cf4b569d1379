# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The example of post-training runs as its docstring says: all stages, one with LoRA, a native model, a refusal."""

import itertools
import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hf_thoughtbubbles import build_byte_tokenizer
from tests.examples.scripts import run_script


pytestmark = pytest.mark.slow


SCRIPT = Path(__file__).parents[2] / "examples" / "post_train.py"
TINY = ["--hidden_size", "16", "--batch_size", "4", "--num_generations", "2", "--num_tests", "6", "--use_cpu"]
TINY += ["--sft_steps", "3", "--dpo_steps", "2", "--grpo_steps", "2", "--longest", "4"]


def run(folder: Path, *arguments) -> list[dict]:
    """The lines that the example adds to its results."""
    result = run_script(SCRIPT, "--output_dir", folder, *TINY, *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("family", "options", "setting", "thinking", "values"),
    [
        ("thinker", ["--train_values", "2", "6", "--test_values", "1", "2"], "num_steps", "steps_to_settle", [1, 2]),
        ("thoughtbubbles", ["--packing", "bfd"], "fork_budget", "streams_per_token", [1.0, 1.25, 1.5, 2.0]),
    ],
)
def test_all_stages_are_trained_measured_and_saved(family, options, setting, thinking, values, tmp_path):
    rows = run(tmp_path, "--family", family, *options)
    assert [row["stage"] for row in rows] == ["start", "sft", "dpo", "grpo"]
    for row in rows:
        assert 0 <= row["accuracy"] <= 1 and 0 <= row["reward"] <= 1 and row[thinking] >= 1
        assert list(row[f"accuracy_at_{setting}"]) == [str(value) for value in values]
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / row["stage"]) for row in rows]
    assert {getattr(model.config, setting) for model in models} == {rows[0][setting]}, "drawn numbers are not saved"
    for old, new in itertools.pairwise(models[:3]):
        assert any((now != before).any() for now, before in zip(new.parameters(), old.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(tmp_path / "grpo").chat_template is not None


def test_a_native_checkpoint_is_trained_with_lora(tmp_path):
    tokenizer, sizes = build_byte_tokenizer(), {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=2, eos_token_id=257, pad_token_id=258, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    options = ["--stages", "sft", "dpo", "--lora", "--loss_on", "completion", "--packing", "wrapped"]
    rows = run(tmp_path / "run", "--model", tmp_path / "llama", *options)
    assert [row["stage"] for row in rows] == ["start", "sft", "dpo"]
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "dpo"), LlamaForCausalLM)
    result = run_script(SCRIPT, "--output_dir", tmp_path, "--model", tmp_path / "llama", "--train_values", "2")
    assert result.returncode != 0 and "need a model with forks or steps, not `llama`" in result.stderr
