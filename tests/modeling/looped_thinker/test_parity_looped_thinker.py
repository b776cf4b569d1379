# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Parity of the looped Thinker with the reference (docs/reference_behaviour.md, "Looped Thinker").

The arrays in `tests/parity/thinker` are input and output of the reference; `THINKER_PARITY_FOLDER` names a folder with
more of them. The reference's causal mask hides every key (Q2). Cases with a mask are compared with `causal/*`, which
the reference computed with a proper mask; the others with `up/*`.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_thoughtbubbles.conversion.toythinker import list_parameters, looped_thinker_from_toythinker
from hf_thoughtbubbles.modeling.common.common_layers import embed_sinusoids


FOLDER = Path(os.environ.get("THINKER_PARITY_FOLDER", Path(__file__).parents[2] / "parity" / "thinker"))
CASES = sorted(FOLDER.glob("*.npz"))


def load_case(path: Path):
    """The arrays of a case, its description, and our model with its parameters."""
    arrays, case = np.load(path), json.loads(path.with_suffix(".json").read_text())
    call = case["forward_kwargs"]
    is_masked = call.get("is_full_ar", False) or call.get("is_output_ar", False)
    state = {name.removeprefix("params/"): arrays[name] for name in arrays.files if name.startswith("params/")}
    readout = "autoregressive" if is_masked else "parallel"
    model = looped_thinker_from_toythinker(state, case["model_kwargs"], readout)
    model.config.num_kept_outputs = call.get("n_keep_output", 1)
    model.config.num_output_steps = call.get("output_step", 1)
    model.config.num_memory_steps = call.get("n_memory")
    return arrays, case, model


def compute_losses(outputs, arrays, case) -> dict[str, torch.Tensor]:
    """The reference's loss terms, `(B, S, T')` each (docs/reference_behaviour.md, "Looped Thinker", losses)."""
    config, targets = case["config"], torch.from_numpy(arrays["loss_target"]).long()
    targets = targets[:, : config.get("seq_len")]

    def cut(states):
        if states is None:
            return None
        states = states[:, -1:] if config["last_step_only"] else states
        return states[:, :, : config.get("seq_len")]

    terms = {}
    for suffix, prefix in (("", "step"), ("_ar", "loop")):
        logits, states, probes = (
            cut(getattr(outputs, f"{prefix}_{kind}")) for kind in ("logits", "hidden_states", "probes")
        )
        if logits is None:
            continue
        aligned = targets[:, None].expand(logits.shape[:3])
        terms[f"token_pred{suffix}"] = F.cross_entropy(logits.permute(0, 3, 1, 2), aligned, reduction="none")
        if "target_emb" in arrays.files:
            wanted = torch.from_numpy(arrays["target_emb"])
            terms[f"embd{suffix}"] = (states - wanted).square().mean(-1)
        if probes is not None:
            terms[f"probe{suffix}"] = (probes - aligned[..., None] / 4).square().mean(-1)
    return terms


def run_case(model, arrays, case) -> dict[str, torch.Tensor]:
    """Outputs, losses and gradients of our model, under the original's names."""
    call, config = case["forward_kwargs"], case["config"]
    answer = {}
    if config["target"] == "long":
        answer["decoder_input_ids"] = torch.from_numpy(arrays["target_long"]).long()
    elif config["target"] == "float":
        answer["decoder_inputs_embeds"] = torch.from_numpy(arrays["target_float"])
    else:
        answer["answer_length"] = config.get("n_target") or config["T"]
    if "knowledge_trigger" in arrays.files:
        answer["memory_ids"] = torch.from_numpy(arrays["knowledge_trigger"]).long()
    outputs = model(
        torch.from_numpy(arrays["x"]).long(),
        num_steps=call.get("n_step", 1),
        num_latents=call["n_latent"],
        num_read_steps=call.get("read_step"),
        loop_decoder=call.get("is_full_ar", False),
        output_steps=True,
        **answer,
    )
    seen = {}
    for ours, theirs in (("hidden_states", "outputs"), ("logits", "logits"), ("probes", "probes")):
        seen[theirs], seen[f"{theirs}_ar"] = getattr(outputs, f"step_{ours}"), getattr(outputs, f"loop_{ours}")
    if "loss_target" in arrays.files:
        terms = compute_losses(outputs, arrays, case)
        seen |= {f"losses/{name}": term for name, term in terms.items()}
        seen |= {f"loss/{name}": term.mean() for name, term in terms.items()}
        seen["loss"] = sum(term.mean() for term in terms.values())
        seen["loss"].backward()
        parameters = dict(model.named_parameters())
        for theirs, ours in list_parameters(model.config).items():
            if parameters[ours].grad is not None:
                seen[f"grad/{theirs}"] = parameters[ours].grad
    return seen


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_array_of_the_original_is_reproduced(path, attention):
    arrays, case, model = load_case(path)
    model.set_attn_implementation(attention)
    seen, tolerance = run_case(model, arrays, case), case["suggested_tolerance"]
    has_causal = any(name.startswith("causal/") for name in arrays.files)
    prefix = "causal/" if has_causal else "up/"
    expected = {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}
    assert len(expected) >= 3
    for name, reference in expected.items():
        difference = np.abs(seen[name].detach().numpy() - reference).max()
        if name.startswith("grad/"):
            assert difference <= tolerance["grads"] * np.abs(reference).max(), name
        else:
            assert difference <= tolerance["forward"] * max(1, np.abs(reference).max()), name


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_sinusoidal_positions_are_those_of_the_original(path):
    arrays, case, _ = load_case(path)
    reference = arrays["pe_head"]
    positions = embed_sinusoids(torch.arange(len(reference))[None], case["config"]["d_model"], "single")[0]
    np.testing.assert_allclose(positions, reference, atol=1e-5)


def test_the_folder_has_cases():
    assert len(CASES) >= 4
