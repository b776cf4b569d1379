# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The example that makes a native model think runs as its docstring says, on a tiny Llama."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hf_thoughtbubbles import build_byte_tokenizer, to_native
from tests.examples.scripts import run_script


pytestmark = pytest.mark.slow


SCRIPT = Path(__file__).parents[2] / "examples" / "think_with_native.py"
TINY = ["--block_size", "32", "--max_steps", "6", "--eval_steps", "3", "--logging_steps", "1", "--scored_blocks", "5"]
TINY += ["--per_device_train_batch_size", "4", "--use_cpu"]
FORKS = ["--fork_layers", "1", "3", "--values", "1", "1.5", "--fork_adapter_rank", "2"]
LOOP = ["--loop_layers", "1", "2", "--values", "1", "2"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A native model with its tokenizer, a text, and prompts with completions."""
    folder, tokenizer = tmp_path_factory.mktemp("native"), build_byte_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads)).save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    text, prompts = folder / "text.jsonl", folder / "prompts"
    text.write_text("".join(json.dumps({"text": f"line number {i} of a text\n" * 4}) + "\n" for i in range(100)))
    prompts.mkdir()
    rows = [{"prompt": f"{i} + {i} =", "completion": f" {2 * i}."} for i in range(60)]
    (prompts / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "llama", text, prompts


def run(sources, folder: Path, *arguments) -> str:
    native, text, _ = sources
    result = run_script(SCRIPT, "--model", native, "--source", text, "--output_dir", folder, *TINY, *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def read_bits(printed: str) -> dict[str, float]:
    return {
        name: float(bits) for name, bits in re.findall(r"^(.+?) +(\d\.\d{4}) bits per byte$", printed, re.MULTILINE)
    }


@pytest.mark.parametrize(("form", "setting"), [(FORKS, "fork_budget"), (LOOP, "num_steps")], ids=["forks", "loop"])
@pytest.mark.parametrize("train", ["new", "lora", "all"])
def test_a_native_model_is_converted_trained_and_saved(form, setting, train, sources, tmp_path):
    printed = run(sources, tmp_path, *form, "--train", train)
    bits = read_bits(printed)
    values = form[form.index("--values") + 1 :][:2]
    assert bits["native"] == bits["before training"]
    assert (bits[f"{setting} {values[0]}"] == bits["native"]) == (train == "new")
    assert bits[f"{setting} {values[1]}"] != bits[f"{setting} {values[0]}"]
    logged = re.findall(rf"'{setting}': '?([\d.]+)'?", printed)
    assert logged == [values[0]] * 3 + [values[1]] * 3
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert isinstance(to_native(model), LlamaForCausalLM)


@pytest.mark.parametrize("form", [FORKS, LOOP], ids=["forks", "loop"])
def test_prompts_and_completions_are_trained_by_trl(form, sources, tmp_path):
    printed = run(sources, tmp_path, *form, "--train", "lora", "--sft", sources[2])
    assert "'mean_token_accuracy'" in printed
    assert len(read_bits(printed)) == 4


def test_a_resumed_training_continues_where_it_stopped(sources, tmp_path):
    saving = ["--save_strategy", "steps", "--save_steps", "2"]
    run(sources, tmp_path, *LOOP, *saving)
    printed = run(sources, tmp_path, *LOOP, *saving, "--max_steps", "8", "--resume_from_checkpoint", "true")
    assert len(re.findall(r"'num_steps'", printed)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pass one of --fork_layers and --loop_layers"),
        ([*FORKS, *LOOP], "pass one of --fork_layers and --loop_layers"),
        ([*LOOP[:3], "--values", "1.5"], "numbers of steps are whole"),
    ],
)
def test_flags_that_do_not_fit_are_refused(arguments, message, sources, tmp_path):
    result = run_script(SCRIPT, "--model", sources[0], "--output_dir", tmp_path, *arguments)
    assert result.returncode != 0
    assert message in result.stderr
