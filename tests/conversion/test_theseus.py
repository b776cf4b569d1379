# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Conversion of theseus checkpoints: complete, or one error that names what is wrong. Values are in tests/modeling."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_thoughtbubbles.conversion.theseus import config_from_architecture, list_parameters, thoughtbubbles_from_theseus
from tests.examples.scripts import run_script


SIZES = {"n_layers": 3, "n_embd": 12, "n_head": 2, "vocab_size": 31, "block_size": 8}
ARCHITECTURE = {**SIZES, "max_block_size": 20, "fork": [1]}
SCRIPT = Path(__file__).parents[2] / "examples" / "convert_theseus_checkpoint.py"


@pytest.fixture
def params():
    random = np.random.default_rng(0)
    expected = list_parameters(config_from_architecture(ARCHITECTURE))
    return {name: random.normal(size=shape).astype(np.float32) for name, (_, shape) in expected.items()}


def test_absent_keys_take_the_references_defaults():
    config = config_from_architecture({"fork": [3, 6, 9]})
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (32, 2048, 16)
    assert (config.vocab_size, config.max_position_embeddings, config.fork_budget) == (100288, 512, 2.0)
    assert config.intermediate_size == 8192
    assert config.position_embedding == "rope"


def test_an_architecture_without_forks_is_the_plain_gpt():
    config = config_from_architecture({"n_layers": 2, "rope": False})
    assert config.fork_layers == []
    assert config.position_embedding == "learned"


def test_a_fractional_budget_is_the_double_quotient():
    assert (
        config_from_architecture({**ARCHITECTURE, "block_size": 448, "max_block_size": 450}).fork_budget == 450 / 448
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 2}, r"unknown keys \['n_layer'\]"),
        ({"max_block_size": 7}, "`max_block_size` 7 is below `block_size` 8"),
    ],
)
def test_an_architecture_the_reference_could_not_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config_from_architecture({**ARCHITECTURE, **change})


def test_all_wrong_parameters_are_listed_at_once(params):
    del params["blocks_0/ln_1/bias"]
    params["blocks_2/forking_score/kernel"] = np.zeros((12, 2))
    params["wte"] = np.zeros((30, 12))
    with pytest.raises(ValueError) as error:
        thoughtbubbles_from_theseus(params, ARCHITECTURE)
    for part in (
        "missing blocks_0/ln_1/bias (12,)",
        "unknown blocks_2/forking_score/kernel",
        "wte has shape (30, 12) instead of (31, 12)",
    ):
        assert part in str(error.value)


def nest(params: dict) -> dict:
    """`/`-joined names to the nested dictionaries that flax saves."""
    tree = {}
    for name, value in params.items():
        *folders, leaf = name.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[leaf] = value
    return {"params": tree}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "msgpack", "orbax"])
def test_the_script_turns_a_checkpoint_into_a_folder_that_loads(kind, params, tmp_path):
    source = tmp_path / f"checkpoint.{kind}"
    if kind == "npz":
        np.savez(source, **{f"params/{name}": value for name, value in params.items()})
    else:
        # jax starts threads; it stays out of this process, which forks for data loading elsewhere.
        np.savez(tmp_path / "flat.npz", **params)
        writer = {
            "msgpack": "import flax.serialization as f; open(target, 'wb').write(f.msgpack_serialize(tree))",
            "orbax": "import orbax.checkpoint as o; o.PyTreeCheckpointer().save(target, tree)",
        }[kind]
        code = (
            "import sys, numpy as np; sys.path.insert(0, '.'); from tests.conversion.test_theseus import nest; "
            f"tree = nest(dict(np.load(sys.argv[1]))); target = sys.argv[2]; {writer}"
        )
        subprocess.run([sys.executable, "-c", code, tmp_path / "flat.npz", source], check=True, cwd=SCRIPT.parents[1])
    result = run_script(SCRIPT, source, json.dumps(ARCHITECTURE), tmp_path / "ours")
    assert result.returncode == 0, result.stderr[-3000:]
    expected = thoughtbubbles_from_theseus(params, ARCHITECTURE)
    input_ids = torch.randint(0, 31, (2, 7))
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(reloaded(input_ids).logits, expected(input_ids).logits)
