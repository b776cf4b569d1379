# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Parity of byte-patch models with the reference (docs/reference_behaviour.md, "Byte-level models").

The arrays in `tests/parity/stlm_byte` are input and output of the reference; `BYTE_PATCH_PARITY_FOLDER` names a folder
with more of them.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_thoughtbubbles.conversion.stlm import byte_patch_from_stlm, list_byte_patch_parameters


FOLDER = Path(os.environ.get("BYTE_PATCH_PARITY_FOLDER", Path(__file__).parents[2] / "parity" / "stlm_byte"))
CASES = sorted(FOLDER.glob("*.npz"))
UNKEPT_TARGET = 257


def run_case(path: Path, attention: str):
    """The original's arrays, and ours under their names."""
    arrays, case = np.load(path), json.loads(path.with_suffix(".json").read_text())
    state = {name.removeprefix("params/"): arrays[name] for name in arrays.files if name.startswith("params/")}
    model = byte_patch_from_stlm(state, case["upstream_cfg"])
    model.set_attn_implementation(attention)
    seen, blocks = {}, torch.from_numpy(arrays["token_ids"]).long()

    def keep(name):
        def hook(module, inputs, output=None):
            seen[name] = inputs[0] if output is None else output

        return hook

    for i, layer in enumerate(model.model.byte_encoder.layers):
        layer.register_forward_hook(keep(f"emb_block{i}"))
    base = model.model(patch_input_ids=blocks)
    seen["emb_out"], seen["core_out"] = base.patch_embeds, base.patch_hidden_states
    decoder = model.model.byte_decoder
    seen["recon_logits"] = model.lm_head(decoder.decode_patches(base.patch_embeds))
    handle = decoder.layers[0].register_forward_pre_hook(keep("dec_block0_in"))
    decoder.decode_patches(base.patch_hidden_states)
    handle.remove()
    outputs = model(patch_input_ids=blocks)
    seen["logits"], seen["aux_loss"] = outputs.logits, outputs.reconstruction_loss
    seen["inference"] = outputs.logits[:, -1]
    targets = torch.from_numpy(arrays["targets"]).long().flatten()
    flat = outputs.logits.flatten(0, 2)
    seen["main_loss_ignore_minus1"] = F.cross_entropy(flat, targets, ignore_index=-1)
    seen["main_loss_ignore257"] = F.cross_entropy(flat, targets, ignore_index=UNKEPT_TARGET)
    (seen["main_loss_ignore_minus1"] + outputs.reconstruction_loss).backward()
    parameters = dict(model.named_parameters())
    for theirs, ours in list_byte_patch_parameters(model.config).items():
        names = ours if isinstance(ours, tuple) else (ours,)
        seen[f"grad/{theirs}"] = torch.cat([parameters[name].grad for name in names])
    return arrays, case, seen


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_array_of_the_original_is_reproduced(path, attention):
    arrays, case, seen = run_case(path, attention)
    tolerance, given = case["suggested_tolerance"], {"token_ids", "targets"}
    expected = [name for name in arrays.files if not name.startswith("params/") and name not in given]
    assert len(expected) >= 10
    for name in expected:
        reference = arrays[name]
        difference = np.abs(seen[name].detach().numpy() - reference).max()
        if name.startswith("grad/"):
            assert difference <= tolerance["grads"] * np.abs(reference).max(), name
        else:
            assert difference <= tolerance["forward"] * max(1, np.abs(reference).max()), name


def test_cases_are_there():
    assert len(CASES) >= 3
