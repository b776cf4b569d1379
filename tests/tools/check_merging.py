# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Checkpoints merged by mergekit, which knows no architecture of ours and takes the names of weights as they are."""

import subprocess
import sys

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tests.families import BYTE_VARIANTS, FAMILIES


# One of each family; a loop with an adapter has weights of its own.
NAMES = ("threshold", "thinker-loop", "generic", "space")
MODELS = [family for family in [*FAMILIES, *BYTE_VARIANTS] if family.name in NAMES]


@pytest.mark.parametrize("family", MODELS, ids=lambda family: family.name)
def test_a_linear_merge_of_two_checkpoints_holds_their_weighted_mean(family, tmp_path):
    models = [family.build(seed=seed) for seed in (0, 1)]
    for i, model in enumerate(models):
        model.save_pretrained(tmp_path / str(i))
    sources = [
        {"model": str(tmp_path / str(i)), "parameters": {"weight": weight}} for i, weight in enumerate((0.25, 0.75))
    ]
    recipe = {"merge_method": "linear", "models": sources, "dtype": "float32"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = "from mergekit.scripts.run_yaml import main; main()"
    options = ["--trust-remote-code", "--no-copy-tokenizer"]
    arguments = [str(tmp_path / "recipe.yaml"), str(tmp_path / "merged"), *options]
    done = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    first, second = (model.state_dict() for model in models)
    floats = {name for name, value in first.items() if value.is_floating_point()}
    assert merged.keys() == first.keys() and floats
    for name in floats:
        torch.testing.assert_close(merged[name], 0.25 * first[name] + 0.75 * second[name], atol=1e-6, rtol=1e-6)
