# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The example that trains a looped Thinker on numbers runs as its docstring says, at a size that takes seconds."""

import json
import re

import pytest

from tests.examples.test_examples import run


pytestmark = pytest.mark.slow


TINY = ["--hidden_size", 16, "--num_attention_heads", 2, "--num_latents", 3, "--num_steps", 2, "--max_latents", 5]
TINY += ["--per_device_train_batch_size", 8, "--logging_steps", 2, "--use_cpu", "--test_steps", 1, 3]
SCRIPT = "train_thinker_numbers.py"


def test_it_trains_answers_tests_more_steps_and_draws(tmp_path):
    flags = ["--output_dir", tmp_path, *TINY, "--max_steps", 4, "--eval_steps", 2, "--save_steps", 2]
    printed = run(SCRIPT, *flags, "--test_problems", 20, "--random_steps", 1, 3, "--random_latents", 2, 4)
    assert "eval_exact_match" in printed
    assert len(re.findall(r"^16 @ .* :addmul @= 16  ->  ", printed, re.MULTILINE)) == 5
    for steps in (1, 2, 3):
        assert re.search(rf"^ +{steps} steps, +3 latents: \d\.\d{{4}} exact answers$", printed, re.MULTILINE)
    for name in ("accuracy.png", "losses.png", "convergence.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "model.safetensors").is_file() and (tmp_path / "tokenizer.json").is_file()


def test_a_curriculum_and_the_clock_resume_with_the_checkpoint(tmp_path):
    flags = ["--output_dir", tmp_path, *TINY, "--task", "cumulative_sum", "--length", 1, 7, "--curriculum", 3]
    flags += ["--readout", "parallel", "--window", 1, "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    flags += ["--save_steps", 3, "--test_problems", 20]
    run(SCRIPT, *flags, "--max_steps", 3)
    first = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    run(SCRIPT, *flags, "--max_steps", 6, "--resume_from_checkpoint", "true")
    second = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in second["log_history"] if "difficulty" in entry] == [2, 4, 6], "one history"
    seconds = [
        state["stateful_callbacks"]["TimeBudgetCallback"]["attributes"]["past_seconds"] for state in (first, second)
    ]
    assert seconds[1] > seconds[0] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "jump"], "invalid choice: 'jump'"),
        (["--operators", "^"], "`operators` is '\\^'"),
        (["--bases", 17], "`input_bases`"),
        (["--operators", "/"], "Set `min_number=1`"),
        (["--test_problems", 10**6, "--max_number", 9], "`num_examples` is 1000000, but only"),
        (["--random_steps", 0, 3], "`num_steps` is \\(0, 3\\)"),
        (["--max_minutes", 0], "`max_minutes` is 0.0"),
    ],
)
def test_bad_flags_are_one_clear_error(flags, message, tmp_path):
    with pytest.raises(AssertionError, match=message):
        run(SCRIPT, "--output_dir", tmp_path, *TINY, *flags)
