# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The model computes the arrays of the reference, in the way that its documentation says.

The arrays in `tests/parity` are input and output of the reference implementation; `PARITY_FOLDER` names a folder with
more of them.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hf_thoughtbubbles import ThoughtbubblesConfig, ThoughtbubblesForCausalLM, ThoughtbubblesModel
from hf_thoughtbubbles.conversion.theseus import ARCHITECTURE_DEFAULTS, list_parameters, thoughtbubbles_from_theseus
from hf_thoughtbubbles.modeling.common.common_layers import double_rotary
from tests.families import make_config


PARITY_FOLDER = Path(os.environ.get("PARITY_FOLDER", Path(__file__).parents[2] / "parity"))
OTHER_FAMILIES = {"sampling", "stlm_byte", "stlm_generic", "stlm_next_thought", "thinker"}
CASES = sorted(path for path in PARITY_FOLDER.rglob("*.npz") if path.parent.name not in OTHER_FAMILIES)
# The reference misaligns the output (docs/reference_behaviour.md, "Thoughtbubbles", T7); everything before it holds.
FIXED = "a14_ratio1_padded_quirk"


def load_case(path: Path):
    """The arrays of a case, its description, and our model with its parameters."""
    arrays, case = np.load(path), json.loads(path.with_suffix(".json").read_text())
    architecture = {key: value for key, value in case["config"].items() if key in ARCHITECTURE_DEFAULTS}
    if case["set"] == "gpt":
        architecture["fork"] = []
    params = {name.removeprefix("params/"): arrays[name] for name in arrays.files if name.startswith("params/")}
    return arrays, case, thoughtbubbles_from_theseus(params, architecture)


def record(model: ThoughtbubblesForCausalLM) -> dict:
    """Hooks that fill in everything the reference recorded, under its names."""
    seen, places = {}, []
    for i, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda _, args, out, i=i: seen.__setitem__(f"layer{i}/x_out", out))
    for i, fork in model.model.forks.items():
        fork.register_forward_hook(lambda _, args, out, i=i: seen.__setitem__(f"fork{i}/x", out.hidden_states))
        fork.keep_proj.register_forward_hook(lambda _, args, out, i=i: seen.__setitem__(f"fork{i}/raw_score", out))
    model.model.norm.register_forward_pre_hook(lambda _, args: seen.__setitem__("final/averaged", args[0]))
    if model.config.position_embedding == "rope":
        model.model.rotary_emb.register_forward_pre_hook(lambda _, args: places.append(args[1]))
    seen["places"] = places
    return seen


def run_case(model, arrays) -> dict[str, torch.Tensor]:
    """Outputs, states and gradients of our model, under the reference's names."""
    seen = record(model)
    mask = torch.from_numpy(arrays["padding_mask"]).long() if "padding_mask" in arrays.files else None
    input_ids, targets = (torch.from_numpy(arrays[name]).long() for name in ("idx", "targets"))
    outputs = model(input_ids, attention_mask=mask, output_forks=True, use_cache=False)
    loss = F.cross_entropy(outputs.logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    loss.backward()

    places, num_forks = seen.pop("places"), 0
    for i in range(model.config.num_hidden_layers):
        if i in model.config.fork_layers:
            fork = outputs.forks[num_forks]
            seen[f"fork{i}/token_index"], seen[f"fork{i}/cumulative_scores"] = fork.token_index, fork.log_scores
            num_forks += 1
        if places:
            place = places[num_forks].expand(len(input_ids), -1)
            seen[f"layer{i}/partial_rotations"] = seen[f"layer{i}/positions"] = place
    gradients = {name: parameter.grad for name, parameter in model.model.named_parameters()}
    for name, (target, _) in list_parameters(model.config).items():
        pieces = [gradients[target.format(part)] for part in "qkv"] if "{}" in target else [gradients[target]]
        if pieces[0] is not None:
            gradient = torch.cat(pieces)
            seen[f"grad/{name}"] = gradient.T if name.endswith("kernel") else gradient
    return {**seen, "logits": outputs.logits, "loss": loss}


def assert_matches(name: str, ours: torch.Tensor, reference: np.ndarray, tolerance: dict):
    """Within the tolerance of the case; infinities and integers exactly."""
    ours = ours.detach().numpy()
    if name.endswith("/positions"):
        ours = ours.reshape(-1, ours.shape[-1])[: reference.size // ours.shape[-1]].reshape(reference.shape)
    assert ours.shape == reference.shape, name
    if reference.dtype.kind in "iub":
        np.testing.assert_array_equal(ours, reference, err_msg=name)
        return
    is_finite = np.isfinite(reference)
    np.testing.assert_array_equal(ours[~is_finite], reference[~is_finite], err_msg=name)
    largest = np.abs(reference[is_finite]).max(initial=0.0)
    is_gradient = name.startswith("grad/")
    allowed = tolerance["grads"] * largest if is_gradient else tolerance["forward"] * max(1.0, largest)
    assert np.abs(ours[is_finite] - reference[is_finite]).max(initial=0.0) <= allowed, name


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_array_of_the_reference_is_reproduced(path, attention):
    arrays, case, model = load_case(path)
    model.set_attn_implementation(attention)
    ours = run_case(model, arrays)
    inputs = {"idx", "targets", "padding_mask"}
    names = [name for name in arrays.files if name not in inputs and not name.startswith("params/")]
    if path.stem == FIXED:
        names = [name for name in names if name.startswith(("fork", "layer"))]
    assert len(names) >= 8
    for name in names:
        if name.startswith("grad/") and name not in ours:  # a parameter no loss reached
            assert not arrays[name].any(), name
            continue
        assert_matches(name, ours[name], arrays[name], case["suggested_tolerance"])


def test_a_masked_batch_of_budget_1_folds_by_token():
    """
    With a mask, streams are folded by token even when they are as many as the tokens; the reference does not
    (docs/reference_behaviour.md, "Thoughtbubbles", T7).
    """
    arrays, _, model = load_case(next(path for path in CASES if path.stem == FIXED))
    seen = record(model)
    mask = torch.from_numpy(arrays["padding_mask"]).long()
    model(torch.from_numpy(arrays["idx"]).long(), attention_mask=mask, use_cache=False)
    last = max(model.config.fork_layers)
    token_index = torch.from_numpy(arrays[f"fork{last}/token_index"]).long()
    scores = torch.from_numpy(arrays[f"fork{last}/cumulative_scores"]).exp()
    streams = seen[f"layer{model.config.num_hidden_layers - 1}/x_out"]
    expected = torch.zeros_like(seen["final/averaged"])
    for row in range(token_index.shape[0]):
        for stream in range(token_index.shape[1]):
            token = token_index[row, stream]
            expected[row, token] += scores[row, stream] * streams[row, stream]
    torch.testing.assert_close(seen["final/averaged"], expected)


class ShapeRecorder(TorchDispatchMode):
    """Notes the shape of everything that any operation makes."""

    def __init__(self):
        super().__init__()
        self.shapes, self.operations = set(), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.operations.add(str(function))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor):
                self.shapes.add(tuple(value.shape))
        return out


@pytest.mark.parametrize("fork_budget", [1.5, 2.0, 4.0])
def test_without_padding_no_mask_or_bias_over_pairs_is_ever_made(fork_budget):
    model = ThoughtbubblesForCausalLM(make_config(fork_budget=fork_budget)).train()
    input_ids = torch.randint(1, 61, (2, 29))
    with ShapeRecorder() as recorder:
        model(input_ids=input_ids, labels=input_ids).loss.backward()
    lengths = {29, min(58, math.ceil(29 * fork_budget)), min(116, math.ceil(29 * fork_budget))}
    assert not [shape for shape in recorder.shapes if shape[-2:] in {(n, n) for n in lengths}]
    assert any("flash_attention" in name for name in recorder.operations), "the fused kernel must have run"


def test_the_score_channel_is_an_additive_bias_of_log_score_over_sqrt_head_dim():
    """The last channel, written out as the bias tensor that the model never makes."""
    model = ThoughtbubblesModel(make_config(fork_layers=[0], num_hidden_layers=1)).eval()
    attention, captured = model.layers[0].self_attn, {}
    attention.register_forward_hook(
        lambda _, args, kwargs, out: captured.update(args=args, kwargs=kwargs, out=out[0]), with_kwargs=True
    )
    model(torch.arange(1, 12)[None])
    hidden_states, log_scores, gates = captured["args"]
    shape = (1, hidden_states.shape[1], 3, 8)
    places = double_rotary(*captured["kwargs"]["position_embeddings"])
    query = attention.apply_rotary(attention.q_proj(hidden_states).view(shape), places, None)[..., :-1]
    key = attention.apply_rotary(attention.k_proj(hidden_states).view(shape), places, None)[..., :-1]
    value = (attention.v_proj(hidden_states) * gates).view(shape).transpose(1, 2)
    bias = (log_scores / math.sqrt(8))[:, None, None, :]
    weights = query @ key.transpose(2, 3) / math.sqrt(8) + bias
    weights = weights.masked_fill(torch.ones(shape[1], shape[1]).triu(1).bool(), -torch.inf).softmax(-1)
    expected = attention.o_proj((weights @ value).transpose(1, 2).reshape(hidden_states.shape))
    torch.testing.assert_close(captured["out"], expected)


def test_probability_fold_is_the_mixture_of_the_streams_own_predictions():
    model = ThoughtbubblesForCausalLM(make_config(fold="probability")).eval()
    input_ids = torch.randint(1, 61, (2, 13))
    outputs = model(input_ids)
    streams = model.model(input_ids, output_streams=True).streams
    probs = model.lm_head(model.model.norm(streams.hidden_states)).softmax(-1)
    for row in range(2):
        for token in range(13):
            mine = streams.token_index[row] == token
            shares = streams.log_scores[row, mine].softmax(-1)
            torch.testing.assert_close(outputs.logits[row, token].exp(), shares @ probs[row, mine])
    torch.testing.assert_close(outputs.logits.exp().sum(-1), torch.ones(2, 13))


@pytest.mark.parametrize("fold", ["residual", "probability"])
@pytest.mark.parametrize("kept", [1, 3, torch.tensor([0, 5, 12])])
def test_logits_to_keep_gives_the_same_logits(fold, kept):
    model = ThoughtbubblesForCausalLM(make_config(fold=fold, fork_budget=2.5)).eval()
    input_ids = torch.randint(1, 61, (2, 13))
    expected = model(input_ids).logits
    expected = expected[:, -kept:] if isinstance(kept, int) else expected[:, kept]
    torch.testing.assert_close(model(input_ids, logits_to_keep=kept).logits, expected)


def test_inputs_embeds_give_the_logits_of_their_tokens():
    for changes in ({}, {"position_embedding": "learned"}):
        model = ThoughtbubblesForCausalLM(make_config(**changes)).eval()
        input_ids = torch.randint(1, 61, (2, 13))
        embeds = model.get_input_embeddings()(input_ids)
        assert torch.equal(model(inputs_embeds=embeds).logits, model(input_ids).logits)


def test_hidden_states_grow_with_the_streams_and_end_folded():
    model = ThoughtbubblesForCausalLM(make_config()).eval()
    outputs = model(torch.randint(1, 61, (2, 13)), output_hidden_states=True)
    assert [state.shape[1] for state in outputs.hidden_states] == [13, 13, 20, 20, 20, 13]


def test_forks_are_reported_only_when_asked():
    model = ThoughtbubblesForCausalLM(make_config()).eval()
    input_ids = torch.randint(1, 61, (2, 13))
    assert model(input_ids).forks is None
    forks = model(input_ids, output_forks=True).forks
    assert len(forks) == 2
    for fork in forks:
        assert fork.token_index.shape == fork.log_scores.shape == (2, 20)
        assert fork.num_streams.sum(-1).tolist() == [20, 20]
        assert (fork.num_streams >= 1).all()
        assert (fork.log_scores <= 0).all()


def test_dead_streams_of_a_padded_batch_are_not_counted():
    model = ThoughtbubblesForCausalLM(make_config()).eval()
    mask = torch.ones(2, 13, dtype=torch.long)
    mask[1, 8:] = 0
    for fork in model(torch.randint(1, 61, (2, 13)), attention_mask=mask, output_forks=True).forks:
        assert fork.num_streams[0].sum() == 19, "floor(1.5 * 13)"
        assert fork.num_streams[1].sum() == 12, "floor(1.5 * 8)"
        assert fork.num_streams[1, 8:].sum() == 0


def test_initial_weights_are_the_references():
    torch.manual_seed(0)
    config = ThoughtbubblesConfig(
        vocab_size=997, hidden_size=128, num_hidden_layers=8, num_attention_heads=4, fork_layers=[2]
    )
    model = ThoughtbubblesForCausalLM(config)
    layer, small = model.model.layers[3], 0.02 / math.sqrt(16)
    for weight, std in (
        (model.model.embed_tokens.weight, 0.02),
        (layer.self_attn.q_proj.weight, 0.02),
        (layer.mlp.up_proj.weight, 0.02),
        (layer.self_attn.o_proj.weight, small),
        (layer.mlp.down_proj.weight, small),
        (model.model.forks["2"].embedding, 128**-0.5),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.2 if weight.ndim == 1 else 0.05)
    assert not layer.mlp.down_proj.bias.any()
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_rotary_scaling_stretches_the_places_of_streams():
    """Linear scaling by 2 halves every place; yarn changes the angles too."""
    input_ids = torch.randint(1, 61, (2, 13))
    model = ThoughtbubblesModel(make_config()).eval()
    expected = model(input_ids).last_hidden_state
    for kind in ("linear", "yarn"):
        rope_parameters = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0}
        scaled = ThoughtbubblesModel(make_config(rope_parameters=rope_parameters)).eval()
        scaled.load_state_dict(model.state_dict())
        assert (scaled(input_ids).last_hidden_state - expected).abs().max() > 1e-3
        if kind == "linear":
            scaled.rotary_emb.inv_freq.mul_(2.0)
            torch.testing.assert_close(scaled(input_ids).last_hidden_state, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fork_rule", ["topk", "threshold", "copy"])
@pytest.mark.parametrize("fold", ["residual", "probability"])
def test_the_head_of_the_last_hidden_state_is_the_logits_unless_distributions_are_mixed(fold, fork_rule):
    fields = {"fork_rule": fork_rule, "fork_layers": [1], "fork_budget": 2, "fold": fold}
    model, input_ids = ThoughtbubblesForCausalLM(make_config(**fields)).eval(), torch.arange(1, 23).view(2, 11)
    states = model.model(input_ids, output_streams=True).last_hidden_state
    outputs = model(input_ids, output_hidden_states=True)
    assert states.shape == (2, 11, 24)
    assert model.has_linear_head == (fold == "residual")
    assert torch.equal(model.lm_head(states), outputs.logits) == model.has_linear_head
    if fold == "residual":
        assert torch.equal(model.model(input_ids).last_hidden_state, states)
        assert torch.equal(outputs.hidden_states[-1], states)
        return
    for go_around in (model.model, model.base_model, model.get_decoder()):
        with pytest.raises(ValueError, match='called without its head, but with `fold="probability"`'):
            go_around(input_ids)
    assert outputs.hidden_states[-1].shape == (2, 22, 24), "the streams, so that no lens takes them for tokens"


def test_without_forks_every_head_is_linear():
    model = ThoughtbubblesForCausalLM(make_config(fork_layers=[], fold="probability")).eval()
    input_ids = torch.arange(1, 12)[None]
    assert model.has_linear_head
    assert torch.equal(model.lm_head(model.model(input_ids).last_hidden_state), model(input_ids).logits)
