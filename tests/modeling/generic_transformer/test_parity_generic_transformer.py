# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Parity of generic transformers with the reference (docs/reference_behaviour.md, "Generic transformer").

The arrays in `tests/parity/stlm_generic` are input and output of the reference; `GENERIC_PARITY_FOLDER` names a folder
with more of them.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_thoughtbubbles.conversion.stlm import generic_transformer_from_stlm, list_generic_parameters
from hf_thoughtbubbles.modeling.generic_transformer.generic_layers import LearnedActivation, build_activation


FOLDER = Path(os.environ.get("GENERIC_PARITY_FOLDER", Path(__file__).parents[2] / "parity" / "stlm_generic"))
FILES = sorted(FOLDER.glob("*.npz"))
CURVES = [path for path in FILES if "activations" in path.stem]
CASES = [path for path in FILES if path not in CURVES]
GIVEN = {"token_ids", "targets"}


def run_case(path: Path, attention: str):
    """The original's arrays, and ours under their names."""
    arrays, case = np.load(path), json.loads(path.with_suffix(".json").read_text())
    state = {name.removeprefix("params/"): arrays[name] for name in arrays.files if name.startswith("params/")}
    model = generic_transformer_from_stlm(state, case["upstream_cfg"])
    model.set_attn_implementation(attention)
    seen = {}
    model.model.core.layers[0].register_forward_pre_hook(lambda module, inputs: seen.update(emb_out=inputs[0]))
    for i, layer in enumerate(model.model.core.layers):
        layer.register_forward_hook(lambda module, inputs, output, i=i: seen.update({f"block{i}": output}))
    token_ids, targets = (torch.from_numpy(arrays[name]).long() for name in ("token_ids", "targets"))
    seen["logits"] = model(token_ids, use_cache=False).logits
    seen["inference"] = seen["logits"][:, -1]
    seen["loss"] = F.cross_entropy(seen["logits"].flatten(0, 1), targets.flatten(), ignore_index=-1)
    seen["loss"].backward()
    parameters = dict(model.named_parameters())
    names = list_generic_parameters(model.config)
    names |= {"model_head.linear.weight": "model.embed_tokens.weight"} if model.config.tie_word_embeddings else {}
    for theirs, ours in names.items():
        seen[f"grad/{theirs}"] = torch.cat(
            [parameters[name].grad for name in (ours if isinstance(ours, tuple) else (ours,))]
        )
    return arrays, case, seen


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_array_of_the_original_is_reproduced(path, attention):
    arrays, case, seen = run_case(path, attention)
    tolerance = case["suggested_tolerance"]
    expected = [name for name in arrays.files if not name.startswith("params/") and name not in GIVEN]
    assert len(expected) >= 8
    for name in expected:
        reference = arrays[name]
        difference = np.abs(seen[name].detach().numpy() - reference).max()
        if name.startswith("grad/"):
            assert difference <= tolerance["grads"] * np.abs(reference).max(), name
        else:
            assert difference <= tolerance["forward"] * max(1, np.abs(reference).max()), name


@pytest.mark.parametrize("path", CURVES, ids=lambda path: path.stem)
def test_every_activation_of_the_original_is_reproduced(path):
    arrays = np.load(path)
    x = torch.from_numpy(arrays["x"])
    learned = LearnedActivation()
    with torch.no_grad():
        for ours, theirs in (("up", "fc1"), ("down", "fc2")):
            for kind in ("weight", "bias"):
                getattr(learned, f"{ours}_{kind}").copy_(torch.from_numpy(arrays[f"learned/{theirs}.{kind}"]))
    names = [name.removeprefix("act/") for name in arrays.files if name.startswith("act/")]
    assert len(names) == 8
    for name in names:
        activation = learned if name == "learned" else build_activation({"leakyrelu": "leaky_relu"}.get(name, name))
        np.testing.assert_allclose(activation(x).detach().numpy(), arrays[f"act/{name}"], atol=1e-5, rtol=1e-5)


def test_cases_exist():
    assert len(CASES) >= 8
    assert len(CURVES) >= 1
