# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""With anchored forks and a budget of 1 a model computes what the native one computes, and goes on with any budget."""

import copy

import pytest
import torch
from transformers import DynamicCache, StaticCache

from hf_thoughtbubbles import StreamCache, ThoughtbubblesForCausalLM
from hf_thoughtbubbles.modeling.thoughtbubbles.forking import Threshold
from hf_thoughtbubbles.modeling.thoughtbubbles.modeling_thoughtbubbles import ThoughtbubblesModel
from tests.contract.contract_helpers import enable_checkpointing
from tests.families import calibrate, draw_ids, make_config, sharpen_forks
from tests.modeling.thoughtbubbles.native_layers import NATIVES, build_native, build_same
from tests.modeling.thoughtbubbles.test_anchored_forks import ANCHORED, build
from tests.modeling.thoughtbubbles.test_causal_forking import make_ragged


FORKS = {
    "fork_layers": [1, 3],
    "fork_rule": "threshold",
    "fork_anchored": True,
    "fork_score_channel": "beside",
    "fork_adapter_rank": 5,
}
STRATEGIES = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True},
    "beams": {"num_beams": 3, "do_sample": False},
}
SCALINGS = {
    "default": {},
    "linear": {"factor": 2.0},
    "yarn": {"factor": 2.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "dynamic": {"factor": 2.0},
    "longrope": {
        "short_factor": [1.0] * 16,
        "long_factor": [1.5] * 16,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
EQUAL = {"atol": 1e-5, "rtol": 1e-5}


def build_pair(name: str = "llama", fold: str = "residual", **changes):
    """A native model, and the same one with forks at a budget of 1."""
    native = build_native(name, **changes)
    lengths = {key: value for key, value in changes.items() if key == "max_position_embeddings"}
    return native, sharpen_forks(build_same(native, fold=fold, **FORKS, **lengths))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NATIVES)
@torch.no_grad()
def test_logits_are_the_native_ones(name, dtype, attention):
    native, model = (each.to(dtype) for each in build_pair(name))
    input_ids, more = draw_ids(3, 19), draw_ids(3, 1)
    for each in (native, model):
        each.set_attn_implementation(attention)
    expected, found = native(input_ids), model(input_ids)
    assert isinstance(found.past_key_values, StreamCache)
    steps = native(more, past_key_values=expected.past_key_values), model(more, past_key_values=found.past_key_values)
    for theirs, ours in ((expected.logits, found.logits), (step.logits for step in steps)):
        if name == "gpt2":
            tolerance = EQUAL if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02}
            torch.testing.assert_close(ours, theirs, **tolerance)
        else:
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("rope_type", SCALINGS)
@torch.no_grad()
def test_every_rotary_scaling_is_the_native_one(rope_type):
    rope_parameters = {"rope_theta": 5e5, "rope_type": rope_type, **SCALINGS[rope_type]}
    native, model = build_pair(head_dim=32, rope_parameters=rope_parameters, max_position_embeddings=64)
    input_ids = draw_ids(2, 83 if rope_type in ("dynamic", "longrope") else 61)
    assert torch.equal(model(input_ids).logits, native(input_ids).logits)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_generated_text_is_the_native_one(name, strategy):
    native, model = build_pair(name)
    input_ids, mask = make_ragged((9, 5, 1), 9)
    texts = []
    for each in (native, model):
        torch.manual_seed(3)
        options = {**STRATEGIES[strategy], "max_new_tokens": 13, "min_new_tokens": 13}
        texts.append(each.generate(input_ids, attention_mask=mask, **options))
    assert torch.equal(*texts)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padded_and_packed_rows_are_the_native_ones(side):
    native, model = build_pair()
    input_ids, mask = make_ragged((19, 7, 1), 19)
    if side == "right":
        input_ids, mask = input_ids.flip(1), mask.flip(1)
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = native(input_ids, attention_mask=mask, position_ids=position_ids).logits
    real = mask.bool()
    assert torch.equal(model(input_ids, attention_mask=mask).logits[real], expected[real])
    packed, places = draw_ids(1, 19), torch.cat((torch.arange(12), torch.arange(7)))[None]
    expected = native(packed, position_ids=places, use_cache=False).logits
    assert torch.equal(model(packed, position_ids=places).logits, expected)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_gradients_of_shared_weights_are_the_native_ones_and_those_of_forks_are_zero(is_checkpointed):
    native, model = build_pair()
    input_ids = draw_ids(3, 19)
    if is_checkpointed:
        enable_checkpointing(model, use_reentrant=False)
    for each in (native, model):
        each.train()
        each(input_ids, labels=input_ids).loss.backward()
    shared = dict(native.named_parameters())
    for name, weight in model.named_parameters():
        if name in shared:
            assert torch.equal(weight.grad, shared[name].grad), name
        else:
            assert "forks" in name and weight.grad is not None and not weight.grad.any(), name


def test_frozen_forks_and_a_frozen_base_train_at_a_budget_of_one():
    for is_fork_trained in (True, False):
        _, model = build_pair()
        for name, weight in model.named_parameters():
            weight.requires_grad_(("forks" in name) == is_fork_trained)
        model.train()(draw_ids(2, 7), labels=draw_ids(2, 7)).loss.backward()
        assert all((weight.grad is not None) == weight.requires_grad for weight in model.parameters())


def test_a_budget_that_rises_is_tracked_from_then_on():
    _, model = build_pair()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    fork = model.model.forks["1"]

    def step():
        optimizer.zero_grad()
        model.train()(input_ids, labels=input_ids).loss.backward()
        optimizer.step()

    input_ids = draw_ids(16, 23)
    for _ in range(2):
        step()
    assert fork.threshold_budget == 0 and fork.streams_per_token == 1
    model.config.fork_budget = 1.5
    for _ in range(3):
        step()
    assert fork.threshold_budget == 1.5
    streams = model.eval()(input_ids, output_forks=True).forks[0].num_streams.float().mean()
    assert 1.2 < streams < 1.8
    model.config.fork_budget = 1.0
    assert (model(input_ids, output_forks=True).forks[0].num_streams == 1).all()


@torch.no_grad()
def test_fork_layers_are_not_run_at_a_budget_of_one():
    model, calls = build(fork_budget=1.5), []
    for fork in model.model.forks.values():
        fork.register_forward_hook(lambda *_: calls.append(1))
    cache = model(draw_ids(2, 7), fork_budget=1.0).past_key_values
    model(draw_ids(2, 1), fork_budget=1.0, past_key_values=cache)
    model.generate(draw_ids(1, 3), fork_budget=1.0, max_new_tokens=3)
    assert not calls
    assert {layer.keys.shape[-1] for layer in cache.layers} == {model.config.head_dim}
    assert cache.count_streams().tolist() == [[[1] * 8] * 2] * 2
    model(draw_ids(2, 1), past_key_values=cache)
    assert calls


@torch.no_grad()
def test_forks_that_are_not_run_are_described_as_those_that_keep_no_copy(monkeypatch):
    model = build()
    input_ids, mask = make_ragged((13, 5, 1), 13)
    for changes in ({}, {"attention_mask": mask}, {"attention_mask": mask.flip(1)}):
        skipped = model(input_ids, **changes, fork_budget=1.0, output_forks=True)
        with monkeypatch.context() as context:
            context.setattr(ThoughtbubblesModel, "skips_forks", lambda *_: False)
            run = model(input_ids, **changes, fork_budget=1.0, output_forks=True)
        real = changes.get("attention_mask", torch.ones(3, 13)).bool()
        torch.testing.assert_close(skipped.logits[real], run.logits[real], atol=1e-4, rtol=0)
        for ours, theirs in zip(skipped.forks, run.forks, strict=True):
            assert all(torch.equal(*parts) for parts in zip(ours.to_tuple(), theirs.to_tuple(), strict=True))
    assert len(skipped.forks) == 2


@torch.no_grad()
def test_a_mixture_of_one_distribution_is_the_native_one():
    native, model = build_pair(fold="probability")
    input_ids = draw_ids(2, 11)
    expected = native(input_ids).logits.log_softmax(-1)
    torch.testing.assert_close(model(input_ids).logits, expected, **EQUAL)
    torch.testing.assert_close(model(input_ids, logits_to_keep=2).logits, expected[:, -2:], **EQUAL)


class PerToken:
    """A rule with a threshold for each token, so that one call reads with the budgets of several."""

    def __init__(self, budgets: list[float]):
        self.budgets = budgets

    def choose(self, rule, candidates, *, threshold, capacity, **kwargs):
        by_token = torch.tensor([*(threshold[budget] for budget in self.budgets), 9.0])
        return candidates.keep(candidates.log_scores >= by_token[candidates.token_index], capacity)


def read_whole(model, monkeypatch, budgets: list[float], input_ids, **inputs):
    """One uncached call in which every token is read with a budget of its own."""
    tables = {budget: model.model.read_thresholds(budget) for budget in set(budgets)}
    by_layer = [{budget: tables[budget][i] for budget in tables} for i in range(len(model.model.forks))]
    rule = PerToken(budgets)
    with monkeypatch.context() as context:
        context.setattr(Threshold, "choose", lambda self, *args, **kwargs: rule.choose(self, *args, **kwargs))
        context.setattr(ThoughtbubblesModel, "skips_forks", lambda *_: False)
        context.setattr(ThoughtbubblesModel, "read_thresholds", lambda *_: by_layer)
        return model(input_ids, use_cache=False, **inputs)


MIXED = [
    ((0, 7, 1.0), (7, 8, 1.0), (8, 9, 1.5), (9, 13, 1.0), (13, 14, 2.0), (14, 19, 1.5), (19, 20, 1.0), (20, 23, 2.0)),
    ((0, 5, 2.0), (5, 6, 1.0), (6, 12, 1.0), (12, 13, 1.5), (13, 23, 1.0)),
    ((0, 1, 1.0), (1, 22, 1.0), (22, 23, 1.5)),
]


@pytest.mark.parametrize("parts", MIXED, ids=["rising", "falling", "late"])
@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("fork_layers", [[1, 3], [0, 2]], ids=str)
@pytest.mark.parametrize("channel", ["beside", "last", "none"])
@torch.no_grad()
def test_a_text_read_with_several_budgets_is_read_exactly(parts, padding, fork_layers, channel, monkeypatch):
    model = build(fork_layers=fork_layers, fork_score_channel=channel, fork_adapter_rank=3)
    input_ids, mask, positions = draw_ids(3, 23), None, {}
    if padding:
        input_ids, mask = make_ragged((23, 9, 16), 23)
        input_ids, mask = (input_ids, mask) if padding == "left" else (input_ids.flip(1), mask.flip(1))
        positions = {"attention_mask": mask}
    budgets = [budget for start, end, budget in parts for _ in range(start, end)]
    expected = read_whole(model, monkeypatch, budgets, input_ids, **positions).logits
    for make in (
        lambda: None,
        lambda: DynamicCache(config=model.config),
        lambda: StaticCache(config=model.config, max_cache_len=29),
    ):
        cache = make()
        for start, end, budget in parts:
            given = {} if mask is None else {"attention_mask": mask[:, :end]}
            outputs = model(
                input_ids[:, start:end], past_key_values=cache, use_cache=True, fork_budget=budget, **given
            )
            cache, real = outputs.past_key_values, slice(None) if mask is None else mask[:, start:end].bool()
            torch.testing.assert_close(outputs.logits[real], expected[:, start:end][real], atol=2e-4, rtol=0)
    assert cache.get_seq_length() == 23


@pytest.mark.parametrize("num_rows", [1, 3])
@torch.no_grad()
def test_caches_of_tokens_are_cropped_reordered_repeated_and_selected(num_rows):
    model = build()
    input_ids = draw_ids(num_rows, 17)
    expected = model(input_ids, fork_budget=2.0, use_cache=False).logits
    cache = model(input_ids[:, :11], fork_budget=1.0).past_key_values
    cache.crop(-4)
    assert cache.get_seq_length() == 7 and not cache.layers[-1].has_streams
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.arange(2 * num_rows).flip(0))
    cache.batch_select_indices(torch.arange(0, 2 * num_rows, 2))
    assert cache.layers[-1].batch_size == num_rows
    rows = input_ids.flip(0)
    steps = [(7, 12, 1.0), (12, 13, 2.0), (13, 17, 1.0)]
    found = []
    for start, end, budget in steps:
        found.append(model(rows[:, start:end], past_key_values=cache, fork_budget=budget).logits)
    again, fresh = None, []
    for start, end, budget in [(0, 7, 1.0), *steps]:
        outputs = model(rows[:, start:end], past_key_values=again, fork_budget=budget, use_cache=True)
        again = outputs.past_key_values
        fresh.append(outputs.logits)
    torch.testing.assert_close(torch.cat(found, 1), torch.cat(fresh[1:], 1), atol=1e-4, rtol=0)
    cache.crop(-17)
    assert cache.get_seq_length() == 0 and not cache.layers[-1].has_streams
    found = model(rows, past_key_values=cache, fork_budget=2.0).logits
    torch.testing.assert_close(found.flip(0), expected, atol=1e-4, rtol=0)


def test_a_compiled_step_at_a_budget_of_one_has_no_graph_break():
    model = build(fork_budget=1.0)
    input_ids = draw_ids(2, 9)
    cache = StaticCache(config=model.config, max_cache_len=11)
    with torch.no_grad():
        expected = model(input_ids, use_cache=False).logits
        model(input_ids[:, :7], past_key_values=cache)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        for i in (7, 8):
            step = compiled(input_ids[:, i : i + 1], past_key_values=cache).logits
            torch.testing.assert_close(step[:, 0], expected[:, i], atol=1e-4, rtol=0)
    assert cache.layers[-1].keys.shape[2:] == (11, model.config.head_dim), "the memory of a native cache"
    torch._dynamo.reset()
    trained = copy.deepcopy(model).train()
    compiled = torch.compile(trained, fullgraph=True, backend="eager")
    compiled(input_ids, labels=input_ids, use_cache=False).loss.backward()
    assert all(weight.grad is not None for weight in trained.parameters())


@pytest.mark.parametrize("is_padded", [False, True])
@torch.no_grad()
def test_a_compiled_step_moves_tokens_into_slots(is_padded):
    model, growing = build(fork_budget=1.0), None
    static = StaticCache(config=model.config, max_cache_len=11)
    input_ids, mask = draw_ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    if is_padded:
        mask[1, :3] = 0
    torch._dynamo.reset()
    step = model
    for start, end, budget in ((0, 6, 1.0), (6, 7, 1.0), (7, 8, 2.0), (8, 9, 2.0)):
        part, given = input_ids[:, start:end], {"fork_budget": budget, "use_cache": True}
        expected = model(part, attention_mask=mask[:, :end], past_key_values=growing, **given)
        growing = expected.past_key_values
        row = torch.nn.functional.pad(mask[:, :end], (0, 11 - end))
        found = step(part, attention_mask=row, past_key_values=static, **given).logits
        real = mask[:, start:end].bool()
        torch.testing.assert_close(found[real], expected.logits[real], atol=1e-4, rtol=0)
        step = torch.compile(model, fullgraph=True, backend="eager")


def test_calibration_of_an_anchored_model_measures_copies():
    model = sharpen_forks(ThoughtbubblesForCausalLM(make_config(**{**ANCHORED, "fork_budget": 1.0})).eval())
    calibrate(model, num_rows=32)
    budgets, thresholds = model.config.fork_calibration["budgets"], model.config.fork_calibration["thresholds"]
    assert budgets[0] == 1.0 and all(threshold < 0 for threshold in thresholds[budgets.index(1.5)])
    input_ids = draw_ids(32, 37)
    for budget in (1.0, 1.5, 2.0):
        forks = model(input_ids, fork_budget=budget, output_forks=True).forks
        assert float(forks[-1].num_streams.float().mean()) == pytest.approx(budget, rel=0.1)
