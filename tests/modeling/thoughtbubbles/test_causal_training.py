# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Tracking of fork thresholds in training: once a step, whatever a step is made of."""

import copy
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from hf_thoughtbubbles import ThoughtbubblesForCausalLM
from hf_thoughtbubbles.modeling.thoughtbubbles.fork_thresholds import (
    KEEP_ALL,
    KEEP_NONE,
    THRESHOLD_DECAY,
    count_scores,
    find_threshold,
)
from tests.families import draw_ids, make_config, sharpen_forks
from tests.modeling.thoughtbubbles.test_modeling_thoughtbubbles import ShapeRecorder


def build(**changes) -> ThoughtbubblesForCausalLM:
    """A model in training whose forks decide by more than rounding."""
    torch.manual_seed(0)
    config = make_config(**{"fork_rule": "threshold", **changes})
    return sharpen_forks(ThoughtbubblesForCausalLM(config)).train()


def get_thresholds(model) -> list[float]:
    """Those that the model is saved with."""
    return [float(value) for name, value in model.state_dict().items() if name.endswith(".threshold")]


def take_step(model, size: float = 1e-3):
    """What an optimizer does."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(size * parameter.grad)
    model.zero_grad()


@pytest.mark.parametrize("fork_rule", ["threshold", "topk"])
def test_the_threshold_moves_by_its_share_towards_what_the_batch_would_have_needed(fork_rule):
    model = build(fork_rule=fork_rule, fork_layers=[2])
    fork, candidates = model.model.forks["2"], []
    fork.keep_proj.register_forward_hook(
        lambda _, args, out: candidates.append(torch.nn.functional.logsigmoid(out.detach()).flatten(1))
    )
    token_index, found, expected = torch.arange(37).repeat_interleave(2).expand(4, -1), [], 0.0
    for step in range(3):
        input_ids = draw_ids(4, 37)
        model(input_ids, labels=input_ids).loss.backward()
        take_step(model)
        counts = count_scores(candidates[-1], token_index, 37)
        found.append(float(find_threshold(counts, torch.tensor(round(0.5 * 4 * 37)))))
        expected = found[0] if step == 0 else THRESHOLD_DECAY * expected + (1 - THRESHOLD_DECAY) * found[-1]
        assert get_thresholds(model) == [pytest.approx(expected, rel=1e-5)]
    assert float(fork.threshold_budget) == 1.5


def test_until_the_first_step_all_streams_that_fit_stay():
    model = build(fork_budget=1.5, fork_layers=[2])
    forks = model(draw_ids(3, 20), output_forks=True).forks
    assert forks[0].num_streams.tolist() == [[2] * 10 + [1] * 10] * 3, "the room of 30 is given from the left"


def test_passes_between_two_steps_decide_alike_and_count_once():
    batches = [draw_ids(2, 29) for _ in range(4)]
    whole, parts = build(), build()
    for model in (whole, parts):  # a first step, so that thresholds are set
        model(batches[0]).logits.square().sum().backward()
        take_step(model)
    before = get_thresholds(whole)
    assert get_thresholds(parts) == before
    whole(torch.cat(batches)).logits.square().sum().backward()
    for batch in batches:
        parts(batch).logits.square().sum().backward()
        assert get_thresholds(parts) == before
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-2, rtol=1e-3)
    for model in (whole, parts):
        take_step(model)
    assert get_thresholds(parts) == get_thresholds(whole) != before
    start, after = torch.tensor(before), get_thresholds(parts)
    assert all((torch.tensor(after) - start).abs() < 0.5)
    assert get_thresholds(parts) == after, "a window moves thresholds once, however often they are read"


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_tracks_the_same_thresholds(use_reentrant):
    plain, checkpointed = build(), build()
    enable = (
        getattr(checkpointed, "activation_checkpointing_enable", None) or checkpointed.gradient_checkpointing_enable
    )
    enable({"use_reentrant": use_reentrant})
    for _ in range(3):
        input_ids = draw_ids(4, 29)
        for model in (plain, checkpointed):
            model(input_ids, labels=input_ids).loss.backward()
            take_step(model)
        assert get_thresholds(checkpointed) == pytest.approx(get_thresholds(plain), rel=1e-5)


def test_frozen_scores_keep_their_threshold():
    """An adapter saves no thresholds, so base and adapter must together be the model that was trained."""
    model = build()
    model(draw_ids(4, 29)).logits.square().sum().backward()
    take_step(model)
    before = get_thresholds(model)
    for fork in model.model.forks.values():
        fork.keep_proj.weight.requires_grad_(False)
    forks = model(draw_ids(4, 29), output_forks=True).forks
    assert get_thresholds(model) == before
    assert forks[-1].num_streams.float().mean() <= 1.5


def test_scores_that_cannot_be_seen_count_every_pass_as_a_step():
    """As where another process holds the weights while a fork decides."""
    model = build()
    for fork in model.model.forks.values():
        fork.window_weight = torch.nn.Buffer(torch.zeros(0), persistent=False)
    for _ in range(3):
        model(draw_ids(4, 29)).logits.square().mean().backward()
        assert all(int(fork.window_counts[-1]) == 4 * 29 for fork in model.model.forks.values()), "of one pass each"


def test_a_new_budget_starts_anew():
    model = build(fork_budget=1.1)
    for _ in range(2):
        model(draw_ids(16, 37)).logits.square().mean().backward()
        take_step(model)
    model.config.fork_budget = 1.9
    for _ in range(2):
        model(draw_ids(16, 37)).logits.square().mean().backward()
        take_step(model)
    num_streams = model.eval()(draw_ids(16, 37), output_forks=True).forks[-1].num_streams.float()
    assert num_streams.mean().item() == pytest.approx(1.9, rel=0.1)


def test_evaluation_moves_nothing():
    model = build()
    model(draw_ids(4, 29)).logits.square().mean().backward()
    take_step(model)
    before = copy.deepcopy(model.state_dict())
    model.eval()(draw_ids(4, 29))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("budget, threshold", [(1.0, KEEP_NONE), (2.0, KEEP_ALL)])
def test_where_a_budget_binds_nothing_there_is_nothing_to_track(budget, threshold):
    model = build(fork_budget=budget, fork_layers=[2])
    model(draw_ids(4, 29)).logits.square().mean().backward()
    take_step(model)
    assert get_thresholds(model) == [threshold]
    num_streams = model.eval()(draw_ids(4, 29), output_forks=True).forks[0].num_streams
    assert (num_streams == budget).all()


def test_training_has_one_shape_and_evaluation_no_limit():
    model = build(fork_budget=1.5)
    for _ in range(4):
        forks = model(draw_ids(3, 29), output_forks=True).forks
        assert all(fork.token_index.shape == (3, math.ceil(1.5 * 29)) for fork in forks)
        assert all((fork.num_streams >= 1).all() for fork in forks), "never an own stream"
    model.eval()
    for fork in model.model.forks.values():
        fork.threshold.fill_(KEEP_ALL)
    forks = model(draw_ids(3, 29), output_forks=True).forks
    assert [fork.token_index.shape[1] for fork in forks] == [58, 116]


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("padding", [None, "left", "right"])
def test_after_the_first_fork_nothing_needs_a_mask(padding, is_training):
    model = build(fork_layers=[0, 2], fork_budget=1.5).train(is_training)
    input_ids, mask = draw_ids(2, 29), torch.ones(2, 29, dtype=torch.long)
    if padding:
        mask[1, slice(0, 9) if padding == "left" else slice(20, 29)] = 0
    attention, shapes = model.model.layers[1].self_attn, set()
    attention.register_forward_pre_hook(lambda _, args, kwargs: shapes.add(kwargs["attention_mask"]), with_kwargs=True)
    with ShapeRecorder() as recorder:
        logits = model(input_ids, attention_mask=mask if padding else None, use_cache=False).logits
        if is_training:
            logits.sum().backward()
    assert shapes == {None}
    assert any("flash_attention" in name for name in recorder.operations), "the fused kernel must have run"
    if is_training and not padding:
        assert not [shape for shape in recorder.shapes if shape[-2:] in {(29, 29), (44, 44)}]


class ValueReader(TorchDispatchMode):
    """Counts the operations for which an accelerator would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += any(name in str(function) for name in ("local_scalar", "nonzero", "is_nonzero"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("fork_rule", ["threshold", "topk"])
def test_a_training_step_looks_at_no_value_for_its_forks(fork_rule, is_padded):
    """Beyond what transformers looks at for a plain model: whether a mask is all ones, once for each that it makes."""
    mask, counts = torch.ones(2, 29, dtype=torch.long), []
    mask[1, 20:] = 0
    for fork_layers in ([], [1, 3]):
        model = build(fork_rule=fork_rule, fork_budget=1.5, fork_layers=fork_layers)
        embeds = model.get_input_embeddings()(draw_ids(2, 29))  # ids are looked at on a CPU
        with ValueReader() as reader:
            model(inputs_embeds=embeds, attention_mask=mask if is_padded else None).logits.sum().backward()
        counts.append(reader.count)
    own = 2 if is_padded else 0  # the least and greatest number of the mask, which is read on a CPU
    is_masked_again = is_padded and fork_rule == "topk"
    assert counts[1] - own == (counts[0] - own) * (3 if is_masked_again else 1)
    assert is_padded or counts[0] == 0


def test_thresholds_stay_in_float32(tmp_path):
    model = build()
    model(draw_ids(4, 29)).logits.square().mean().backward()
    take_step(model)
    before = get_thresholds(model)
    assert KEEP_ALL not in before
    model.save_pretrained(tmp_path)
    for half in (model.to(torch.bfloat16), AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)):
        assert half.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
        assert half.model.forks["1"].threshold.dtype == torch.float32
        assert get_thresholds(half) == before


def test_where_all_streams_stay_both_rules_are_one_model():
    published, causal = build(fork_rule="topk", fork_budget=4.0), build(fork_budget=4.0)
    input_ids, gradients = draw_ids(2, 29), []
    for model in (published, causal):
        model(input_ids, labels=input_ids).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(causal(input_ids).logits, published(input_ids).logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


def test_a_checkpoint_of_either_rule_is_read_by_the_other(tmp_path):
    model = build(fork_rule="topk")
    for _ in range(3):
        input_ids = draw_ids(8, 37)
        model(input_ids, labels=input_ids).loss.backward()
        take_step(model)
    model.save_pretrained(tmp_path)
    causal = AutoModelForCausalLM.from_pretrained(tmp_path, fork_rule="threshold")
    assert get_thresholds(causal) == get_thresholds(model)
    num_streams = causal(draw_ids(16, 37), output_forks=True).forks[-1].num_streams.float()
    assert num_streams.mean().item() == pytest.approx(1.5, rel=0.15), "what top-k training tracked"


def test_scores_start_where_they_are_told():
    fields = {"fork_rule": "threshold", "fork_layers": [2], "initializer_range": 1e-4}
    model = ThoughtbubblesForCausalLM(make_config(fork_score_init=(-2, 4), **fields))
    assert model.model.forks["2"].keep_proj.bias.tolist() == [-2.0, 4.0]
    forks = model.eval()(draw_ids(2, 17), output_forks=True).forks
    scores = forks[0].log_scores.exp().view(2, 17, 2)
    assert scores.mean((0, 1)).tolist() == pytest.approx([1 / (1 + math.exp(2)), 1 / (1 + math.exp(-4))], rel=0.01)
    assert ThoughtbubblesForCausalLM(make_config(fork_layers=[2])).model.forks["2"].keep_proj.bias is None


def read_and_step(model, input_ids, size: float = 1e-3):
    model(input_ids, labels=input_ids).loss.backward()
    take_step(model, size)


@pytest.mark.parametrize("fork_rule", ["threshold", "topk"])
@pytest.mark.parametrize("num_read", [0, 1, 2])
def test_a_model_saved_between_the_passes_of_a_step_continues_as_if_never_interrupted(num_read, fork_rule):
    """A saved step is made again from its first pass; before it are a step without effect and one with."""
    first, *batches = (draw_ids(2, 29) for _ in range(5))
    models = [build(fork_rule=fork_rule) for _ in range(2)]
    for model in models:
        read_and_step(model, first)
    read_and_step(models[0], batches[0], size=0.0)
    read_and_step(models[1], batches[0], size=0.0)
    for batch in batches[1 : 1 + num_read]:
        models[0](batch, labels=batch).loss.backward()
    resumed = build(fork_rule=fork_rule)
    resumed.load_state_dict(models[0].state_dict())
    for model in (models[1], resumed):
        for batch in batches[1:3]:
            model(batch, labels=batch).loss.backward()
        take_step(model)
        read_and_step(model, batches[3])
    expected, found = models[1].state_dict(), resumed.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert KEEP_ALL not in get_thresholds(resumed)


def test_saving_changes_nothing():
    saved, other = build(), build()
    for step, batch in enumerate(draw_ids(2, 29) for _ in range(6)):
        for model in (saved, other):
            model(batch, labels=batch).loss.backward()
        saved.state_dict()
        for model in (saved, other):
            if step % 2:
                take_step(model, 0.0 if step == 1 else 1e-3)
        saved.eval().train().state_dict()
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in other.state_dict().items())
    assert KEEP_ALL not in get_thresholds(saved)


@pytest.mark.parametrize("place", ["between the forks", "after the model", "in the backward pass"])
def test_a_pass_that_raises_counts_in_no_window(place):
    failing, other = build(), build()
    batches = [draw_ids(2, 29) for _ in range(3)]
    for model in (failing, other):
        read_and_step(model, batches[0])

    def fail(*args):
        raise MemoryError("as if there was no room")

    parts = {"between the forks": failing.model.layers[2], "after the model": failing.lm_head}
    with pytest.raises(MemoryError):
        if place in parts:
            handle = parts[place].register_forward_hook(fail)
        else:  # gradients reach the second fork, not the first
            handle = failing.model.layers[2].register_full_backward_hook(fail)
        failing(batches[1], labels=batches[1]).loss.backward()
    handle.remove()
    failing.zero_grad()
    for model in (failing, other):
        read_and_step(model, batches[2])
    assert get_thresholds(failing) == get_thresholds(other)


def test_the_saved_threshold_is_the_one_that_evaluation_reads(tmp_path):
    model, prompt = build(), draw_ids(3, 17)
    for _ in range(2):
        read_and_step(model, draw_ids(4, 29), 0.1)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    read_and_step(model, draw_ids(4, 29), 0.1)
    options = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    in_training = model.generate(prompt, **options)
    for other in (model.eval(), loaded):
        if other is loaded:
            other.load_state_dict(model.state_dict())
        again = other.generate(prompt, **options)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(again.logits, in_training.logits, strict=True))


@pytest.mark.parametrize("fork_rule", ["threshold", "topk", "copy"])
def test_gradients_change_no_number(fork_rule):
    fields = {"fork_layers": [1], "fork_budget": 2} if fork_rule == "copy" else {"fork_budget": 1.25}
    model, input_ids = build(fork_rule=fork_rule, **fields), draw_ids(4, 37)
    for _ in range(3):  # before the first window, then before each next one opens
        with torch.no_grad():
            before = {name: value.clone() for name, value in model.state_dict().items()}
            without = model(input_ids, output_forks=True)
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
            counts = [value for name, value in model.named_buffers() if name.endswith("window_counts")]
            assert not any(count.any() for count in counts), "counts nothing"
        with_gradients = model(input_ids, labels=input_ids, output_forks=True)
        assert torch.equal(with_gradients.logits, without.logits)
        assert torch.equal(with_gradients.forks[-1].token_index, without.forks[-1].token_index)
        with torch.inference_mode():
            assert torch.equal(model(input_ids).logits, without.logits), "in the same window"
        with_gradients.loss.backward()
        take_step(model, 0.05)
    model.eval()
    with torch.no_grad():
        evaluated = model(input_ids, use_cache=False).logits
    assert torch.equal(model(input_ids, use_cache=False).logits, evaluated)


def test_without_tracking_training_reads_by_the_rule_of_evaluation():
    model, input_ids = build(fork_budget=1.25), draw_ids(4, 37)
    for _ in range(3):
        model(input_ids, labels=input_ids).loss.backward()
        take_step(model)
    trained = model(input_ids).logits
    model.config.fork_tracking = False
    before = {name: value.clone() for name, value in model.named_buffers()}
    outputs = model(input_ids, labels=input_ids, output_forks=True)
    outputs.loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers()), "and moves no threshold"
    assert outputs.past_key_values is None
    torch.testing.assert_close(model.eval()(input_ids, use_cache=False).logits, outputs.logits)
    assert (trained - outputs.logits).abs().max() > 1e-3, "rows had room for fewer streams"
    for fields in ({"fork_layers": []}, {"fork_rule": "topk"}, {"fork_rule": "copy", "fork_layers": [1]}):
        with pytest.raises(StrictDataclassClassValidationError, match="training and evaluation read by one rule"):
            make_config(**{"fork_tracking": False, "fork_budget": 2, **fields})


def test_rollouts_in_training_are_cached_and_change_no_mode():
    model, prompt = build(hidden_dropout=0.5), draw_ids(2, 9)
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    model(prompt, labels=prompt).loss.backward()
    lengths = []
    model.model.embed_tokens.register_forward_hook(lambda _, args, out: lengths.append(args[0].shape[1]))
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 5, "do_sample": False, "eos_token_id": -1}
    first, second = model.generate(prompt, **options), model.generate(prompt, **options)
    assert lengths == [9, 1, 1, 1, 1] * 2
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(first, second), "without dropout"
    assert torch.equal(model.generate(prompt, use_cache=False, **options), first)
    with pytest.raises(ValueError, match="forking model in training"), torch.no_grad():
        model(prompt, use_cache=True)
