# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Parity of next-thought models with the reference (docs/reference_behaviour.md, "Next-thought models").

The arrays in `tests/parity/stlm_next_thought` are input and output of the reference; `NEXT_THOUGHT_PARITY_FOLDER`
names a folder with more of them.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hf_thoughtbubbles.conversion.next_thought import (
    list_next_thought_parameters,
    list_pooling_layer,
    list_written_out_attention,
    next_thought_from_stlm,
)
from hf_thoughtbubbles.conversion.state_dicts import copy_parameters
from hf_thoughtbubbles.modeling.next_thought.latent_space_query import LatentSpaceQuery
from hf_thoughtbubbles.modeling.next_thought.pooling_layers import (
    AttentionPooling,
    BlockLinearCore,
    LatentSpaceDecoder,
)


FOLDER = Path(os.environ.get("NEXT_THOUGHT_PARITY_FOLDER", Path(__file__).parents[2] / "parity" / "stlm_next_thought"))
CASES = sorted(FOLDER.glob("*.npz"))
GIVEN = {"pool/x", "lsd/x", "lsq/x", "lsq/latent", "pipe/token_ids", "pipe/x_raw", "x"}


def load_part(module: nn.Module, arrays, prefix: str, names: dict[str, str]) -> nn.Module:
    """A module with the original's parameters of one part."""
    state = {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}
    copy_parameters(module, names, state, "this case")
    return module.eval()


def get_tensor(arrays, name: str) -> torch.Tensor:
    return torch.from_numpy(arrays[name])


def run_parts(arrays, sizes: dict) -> dict:
    """The layers alone."""
    pooling = AttentionPooling(sizes["p_in"], sizes["p_out"], sizes["p_heads"], sizes["p_pct"])
    names = {name.removeprefix("."): ours.removeprefix(".") for name, ours in list_pooling_layer("", "").items()}
    load_part(pooling, arrays, "pool/params/", names)
    kept, mask, index, scores = pooling(get_tensor(arrays, "pool/x"))
    assert mask is None
    seen = {"pool/out": kept, "pool/top_k_indices": index, "pool/attn_score": scores}
    spread = LatentSpaceDecoder(sizes["d_lat"], sizes["d_h"], sizes["d_len"])
    names = {f"decoding_layer.{kind}": f"projection.{kind}" for kind in ("weight", "bias")}
    seen["lsd/out"] = load_part(spread, arrays, "lsd/params/", names)(get_tensor(arrays, "lsd/x"))
    query = load_part(
        LatentSpaceQuery(sizes["q_h"]), arrays, "lsq/params/", list_written_out_attention("attention", "attention")
    )
    seen["lsq/out"] = query(get_tensor(arrays, "lsq/x"), get_tensor(arrays, "lsq/latent"))
    return seen


def run_pipeline(arrays, case: dict, attention: str) -> dict:
    """The whole model."""
    prefix = "pipe/params/"
    state = {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}
    model = next_thought_from_stlm(state, case["upstream_cfg"])
    model.set_attn_implementation(attention)
    outputs = model(
        get_tensor(arrays, "pipe/token_ids").long(),
        decoder_input_ids=get_tensor(arrays, "pipe/x_raw").long(),
        output_pooling=True,
    )
    seen = {
        "pipe/enc_out": outputs.encoder_last_hidden_state,
        "pipe/core_out": outputs.thought,
        "pipe/logits": outputs.logits,
    }
    for i, (index, scores) in enumerate(zip(outputs.pooling.index, outputs.pooling.scores, strict=True)):
        seen[f"pipe/pool{i}/top_k_indices"], seen[f"pipe/pool{i}/attn_score"] = index, scores
    return seen


def run_case(path: Path, attention: str):
    """The original's arrays, and ours under their names."""
    arrays, case = np.load(path), json.loads(path.with_suffix(".json").read_text())
    if case["config"].get("kind") == "Conv1dCoreModel":
        names = {f"conv{i + 1}.{kind}": f"layers.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}
        sizes = [arrays[f"params/conv{i + 1}.weight"].shape[0] for i in range(3)]
        return (
            arrays,
            case,
            {"out": load_part(BlockLinearCore(sizes), arrays, "params/", names)(get_tensor(arrays, "x"))},
        )
    return arrays, case, {**run_parts(arrays, case["config"]), **run_pipeline(arrays, case, attention)}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_array_of_the_original_is_reproduced(path, attention):
    arrays, case, seen = run_case(path, attention)
    tolerance = case["suggested_tolerance"]["forward"]
    expected = {name for name in arrays.files if "params/" not in name} - GIVEN
    assert expected == set(seen)
    for name in expected:
        reference, found = arrays[name], seen[name].detach().numpy()
        assert found.shape == reference.shape, name
        if np.issubdtype(reference.dtype, np.integer):
            assert np.array_equal(found, reference), name
        else:
            difference = np.abs(found - reference).max()
            assert difference <= tolerance * max(1, np.abs(reference).max()), (name, difference)


def test_cases_exist_and_every_parameter_of_the_original_is_used():
    assert len(CASES) >= 4
    for path in CASES[:3]:
        arrays, case = np.load(path), json.loads(path.with_suffix(".json").read_text())
        state = {name.removeprefix("pipe/params/") for name in arrays.files if name.startswith("pipe/params/")}
        values = {name: arrays[f"pipe/params/{name}"] for name in state}
        names = set(list_next_thought_parameters(next_thought_from_stlm(values, case["upstream_cfg"]).config))
        shared = {"dec.token_embedder.weight", "dec.positional_encodings.pe.weight"}
        tables = {"enc.positional_encodings.pe", "dec.positional_encodings.pe"}
        assert state - names <= shared | tables
