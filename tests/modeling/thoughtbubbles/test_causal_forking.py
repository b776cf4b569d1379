# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The causal fork rule is exact: over random models, 1 to 3 fork layers, budgets 1 to 4, ragged batches."""

import copy
import itertools

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig, GPT2Config, GPT2LMHeadModel, StaticCache
from transformers.utils import logging

from hf_thoughtbubbles import StreamCache, ThoughtbubblesForCausalLM, calibrate_forks
from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME
from hf_thoughtbubbles.modeling.thoughtbubbles import fork_thresholds
from hf_thoughtbubbles.modeling.thoughtbubbles.cache_streams import StaticStreamLayer, StreamLayer
from tests.families import build_once, calibrate, draw_ids, make_config, sharpen_forks


FORK_LAYERS, BUDGETS = ([2], [1, 3], [0, 1, 3]), (1.0, 1.3, 2.0, 4.0)
MODELS = pytest.mark.parametrize(
    "fork_layers, budget, seed",
    [
        pytest.param(layers, budget, i, marks=() if budget == 1.3 else pytest.mark.thorough)
        for i, (layers, budget) in enumerate(itertools.product(FORK_LAYERS, BUDGETS))
    ],
)


def build(fork_layers=(1, 3), budget: float = 1.6, seed: int = 0, **changes) -> ThoughtbubblesForCausalLM:
    """A random model with sharpened scores and thresholds that prune for real."""
    fields = {"fork_rule": "threshold", "fork_layers": fork_layers, "fork_budget": budget, **changes}
    # A random model with tied embeddings repeats its input; this one writes text that varies.
    config = make_config(tie_word_embeddings=False, **fields)
    key = "sixteen rows", seed, config.to_json_string(use_diff=False)
    return build_once(
        key, lambda: calibrate(sharpen_forks(ThoughtbubblesForCausalLM(config)).eval(), num_rows=16), seed
    )


def make_ragged(lengths: tuple[int, ...], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded ids and mask."""
    input_ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width).long()
    for row, length in enumerate(lengths):
        input_ids[row, width - length :], mask[row, width - length :] = draw_ids(length), 1
    return input_ids, mask


@MODELS
def test_a_token_has_as_many_streams_as_the_budget_says(fork_layers, budget, seed):
    model = build(fork_layers, budget, seed)
    forks = model(draw_ids(32, 37), output_forks=True).forks
    for i, fork in enumerate(forks):
        mean = float(fork.num_streams.float().mean())
        assert mean == pytest.approx(min(budget, 2 ** (i + 1)), rel=0.1)
        assert fork.num_streams.min() >= 1 and fork.num_streams.max() <= 2 ** (i + 1)
        assert budget == 1 or budget >= 2 ** (i + 1) or fork.num_streams.unique().numel() > 1, "a real choice"


@MODELS
@torch.no_grad()
def test_cached_logits_are_the_uncached_ones_for_ragged_rows(fork_layers, budget, seed):
    model = build(fork_layers, budget, seed)
    input_ids, mask = make_ragged((23, 9, 1, 16), 23)
    expected = model(input_ids, attention_mask=mask, use_cache=False, output_forks=True)
    cache, counts = None, []
    for start, end in ((0, 11), (11, 12), (12, 13), (13, 20), (20, 21), (21, 23)):  # the first has rows of padding
        part = model(
            input_ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True,
            output_forks=True,
        )  # fmt: skip
        cache, real = part.past_key_values, mask[:, start:end].bool()
        torch.testing.assert_close(part.logits[real], expected.logits[:, start:end][real], atol=1e-4, rtol=0)
        counts.append(torch.stack([fork.num_streams for fork in part.forks]))
    all_counts = torch.stack([fork.num_streams for fork in expected.forks])
    assert torch.equal(torch.cat(counts, dim=2), all_counts)
    assert isinstance(cache, StreamCache) and cache.get_seq_length() == 23
    assert torch.equal(cache.count_streams(), all_counts), "the cache knows what every token forked"


@torch.no_grad()
def test_layers_of_a_cached_pass_compute_no_fillers():
    model, sizes = build([1, 3], 1.6), []
    input_ids, mask = make_ragged((13, 7, 3, 11), 13)
    model.model.layers[-1].mlp.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[:2].numel()))
    cache = model(input_ids[:, :12], attention_mask=mask[:, :12], use_cache=True).past_key_values
    model(input_ids[:, 12:], attention_mask=mask, past_key_values=cache)
    counts = cache.count_streams()[-1]
    assert sizes == [int(counts[:, :12].sum()), int(counts[:, 12].sum())]
    assert counts[:, 12].unique().numel() > 1, "rows of different numbers of streams"


@pytest.mark.parametrize("lengths", [(3,), (3, 1), (0, 3)])
@pytest.mark.parametrize("fork_layers", FORK_LAYERS, ids=str)
@torch.no_grad()
def test_chunks_of_padding_alone_leave_nothing_in_the_cache(fork_layers, lengths):
    model = build(fork_layers, 2.0)
    input_ids, mask = make_ragged(lengths, 13)
    expected = model(input_ids, attention_mask=mask, use_cache=False, output_forks=True)
    for make in (lambda: None, lambda: StaticCache(config=model.config, max_cache_len=13)):
        cache = make()
        for start, end in ((0, 4), (4, 5), (5, 11), (11, 13)):
            part = {"attention_mask": mask[:, :end], "past_key_values": cache, "use_cache": True}
            outputs = model(input_ids[:, start:end], **part)
            cache, real = outputs.past_key_values, mask[:, start:end].bool()
            torch.testing.assert_close(outputs.logits[real], expected.logits[:, start:end][real], atol=1e-4, rtol=0)
            if isinstance(cache, StreamCache):
                counts = torch.stack([fork.num_streams[:, :end] for fork in expected.forks])
                assert torch.equal(cache.count_streams(), counts)


@MODELS
@torch.no_grad()
def test_editing_the_future_changes_no_earlier_logit_and_no_earlier_fork(fork_layers, budget, seed):
    model, input_ids = build(fork_layers, budget, seed), draw_ids(4, 29)
    outputs = model(input_ids, use_cache=False, output_forks=True)
    for split in (1, 13, 28):
        edited = torch.cat((input_ids[:, :split], draw_ids(4, 29 - split)), dim=1)
        others = model(edited, use_cache=False, output_forks=True)
        torch.testing.assert_close(others.logits[:, :split], outputs.logits[:, :split], atol=1e-5, rtol=0)
        for fork, other in zip(outputs.forks, others.forks, strict=True):
            assert torch.equal(other.num_streams[:, :split], fork.num_streams[:, :split])


@MODELS
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(fork_layers, budget, seed):
    model, lengths = build(fork_layers, budget, seed), (19, 7, 1)
    left, left_mask = make_ragged(lengths, 19)
    right, right_mask = torch.zeros_like(left), torch.zeros_like(left_mask)
    for row, length in enumerate(lengths):
        right[row, :length], right_mask[row, :length] = left[row, 19 - length :], 1
    for input_ids, mask in ((left, left_mask), (right, right_mask)):
        outputs = model(input_ids, attention_mask=mask, use_cache=False, output_forks=True)
        for row in range(3):
            real = mask[row].bool()
            alone = model(input_ids[row, real][None], use_cache=False, output_forks=True)
            torch.testing.assert_close(outputs.logits[row, real], alone.logits[0], atol=1e-5, rtol=1e-5)
            for fork, single in zip(outputs.forks, alone.forks, strict=True):
                assert torch.equal(fork.num_streams[row, real], single.num_streams[0])
                assert not fork.num_streams[row, ~real].any()


STRATEGIES = {
    "greedy": {},
    "beam": {"num_beams": 3},
    "beams returned": {"num_beams": 4, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "chunked": {"prefill_chunk_size": 4},
    "static": {"cache_implementation": "static", "disable_compile": True},
    "static beam": {"cache_implementation": "static", "num_beams": 3, "disable_compile": True},
}


@pytest.mark.thorough
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize("fork_layers", FORK_LAYERS, ids=str)
def test_cached_text_is_the_uncached_text(fork_layers, strategy):
    model = build(fork_layers)
    prompt, mask = make_ragged((9, 5, 2), 9)
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "eos_token_id": -1}
    changes = {k: v for k, v in strategy.items() if k in ("num_beams", "num_return_sequences", "do_sample")}
    torch.manual_seed(1)
    expected = model.generate(prompt, use_cache=False, **{**options, **changes})
    torch.manual_seed(1)
    assert torch.equal(model.generate(prompt, **{**options, **strategy}), expected)
    assert len(expected[:, 9:].unique()) > 5, "text that varies, so that a lost context would show"


@pytest.mark.thorough
@pytest.mark.parametrize("fork_layers", FORK_LAYERS, ids=str)
def test_assisted_text_is_the_uncached_text(fork_layers):
    model, prompt = build(fork_layers), draw_ids(1, 9)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 20, "do_sample": False}
    expected = model.generate(prompt, use_cache=False, **options)
    near = copy.deepcopy(model)
    with torch.no_grad():
        near.lm_head.weight.add_(0.05 * torch.randn_like(near.lm_head.weight))  # sometimes right, sometimes wrong
    foreign = GPT2LMHeadModel(
        GPT2Config(vocab_size=61, n_embd=24, n_layer=1, n_head=2, n_positions=40, bos_token_id=1)
    )
    for assistant in (near, foreign, build([1], seed=3)):
        assert torch.equal(model.generate(prompt, assistant_model=assistant, **options), expected)
    assert torch.equal(model.generate(prompt, prompt_lookup_num_tokens=3, **options), expected)
    cheap = copy.deepcopy(model)
    cheap.generation_config.fork_budget = 1.0  # the same model without forks proposes, the forking one decides
    with_budget = model.generate(prompt, assistant_model=cheap, fork_budget=2.0, **options)
    expected = model.generate(prompt, fork_budget=2.0, use_cache=False, **options)
    assert torch.equal(with_budget, expected)
    near.config.fork_calibration = None  # it knows its own budget alone, and keeps to it
    model.generation_config.fork_budget = 2.0
    assert torch.equal(model.generate(prompt, assistant_model=near, **options), expected)


@torch.no_grad()
def test_generation_returns_scores_states_and_attentions_of_every_step():
    model, prompt = build([1, 3], 2.0), draw_ids(2, 9)
    model.set_attn_implementation("eager")
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False, eos_token_id=-1,
        output_logits=True, output_hidden_states=True, output_attentions=True, return_dict_in_generate=True,
    )  # fmt: skip
    counts = out.past_key_values.count_streams()
    expected = model(out.sequences, use_cache=False).logits
    assert len(out.logits) == len(out.hidden_states) == len(out.attentions) == 6
    for step, (states, attentions) in enumerate(zip(out.hidden_states, out.attentions, strict=True)):
        torch.testing.assert_close(out.logits[step], expected[:, 8 + step], atol=1e-4, rtol=1e-4)
        read = slice(0, 9) if step == 0 else slice(8 + step, 9 + step)
        width = int(counts[-1, :, read].sum(-1).max())
        assert states[-1].shape == (2, read.stop - read.start, 24) and states[3].shape[1] >= read.stop - read.start
        assert attentions[-1].shape == (2, 3, width, int(counts[-1, :, : read.stop].sum(-1).max()))


@torch.no_grad()
def test_generation_continues_from_a_returned_cache():
    model, text = build(), draw_ids(2, 9)
    options = {"do_sample": False, "eos_token_id": -1, "return_dict_in_generate": True}
    expected = model.generate(text, attention_mask=torch.ones_like(text), max_new_tokens=16, **options).sequences
    first = model.generate(text, attention_mask=torch.ones_like(text), max_new_tokens=6, **options)
    assert isinstance(first.past_key_values, StreamCache) and first.past_key_values.get_seq_length() == 14
    second = model.generate(
        first.sequences, attention_mask=torch.ones_like(first.sequences), **{CACHE_NAME: first[CACHE_NAME]},
        max_new_tokens=10, **options,
    )  # fmt: skip
    assert torch.equal(second.sequences, expected)


@torch.no_grad()
def test_a_cache_of_transformers_own_class_serves_as_well():
    model, text = build(), draw_ids(2, 13)
    expected = model(text, use_cache=False).logits
    for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=17)):
        model(text[:, :6], past_key_values=cache)
        logits = model(text[:, 6:], past_key_values=cache).logits
        torch.testing.assert_close(logits, expected[:, 6:], atol=1e-5, rtol=1e-5)
    assert isinstance(cache.layers[1], StaticStreamLayer) and cache.layers[1].keys.shape[2] == 34
    assert cache.layers[3].keys.shape[2] == 68, "at most 2 ** forks streams a token"
    for used in (cache, model(text).past_key_values):
        used.reset()
        assert used.get_seq_length() == 0
        torch.testing.assert_close(model(text, past_key_values=used).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_padded", [False, True])
@torch.no_grad()
def test_cropping_forgets_tokens_with_all_their_streams(is_padded):
    model, text = build([0, 1, 3], 2.0), draw_ids(3, 21)
    mask = torch.ones_like(text)
    mask[1, : 9 if is_padded else 0] = 0
    cache = model(text[:, :17], attention_mask=mask[:, :17]).past_key_values
    counts = cache.count_streams()
    cache.crop(-6)
    assert cache.get_seq_length() == 11 and torch.equal(cache.count_streams(), counts[:, :, :11])
    cache.crop(0)
    expected = model(text, attention_mask=mask, use_cache=False).logits
    for start, end in ((11, 12), (12, 21)):
        logits = model(text[:, start:end], attention_mask=mask[:, :end], past_key_values=cache).logits
        real = mask[:, start:end].bool()
        torch.testing.assert_close(logits[real], expected[:, start:end][real], atol=1e-5, rtol=1e-5)
    cache.crop(-21)
    assert cache.get_seq_length() == 0
    logits = model(text, attention_mask=mask, past_key_values=cache).logits
    torch.testing.assert_close(logits[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fork_layers", FORK_LAYERS, ids=str)
@torch.no_grad()
def test_cropping_below_zero_is_refused_before_any_layer_changes(fork_layers):
    model, text = build(fork_layers), draw_ids(2, 21)
    cache = model(text).past_key_values
    with pytest.raises(ValueError, match=r"`crop\(-22\)` would remove more tokens than the 21"):
        cache.crop(-22)
    assert [layer.get_seq_length() for layer in cache.layers] == [21] * 5


@torch.no_grad()
def test_rows_can_be_reordered_repeated_and_selected():
    model = build([1, 2, 3], 2.5)
    text, mask = make_ragged((17, 4, 11), 17)
    cache = model(text, attention_mask=mask).past_key_values
    order = torch.tensor([2, 0, 0, 1, 1, 2])
    cache.batch_repeat_interleave(2)  # 0 0 1 1 2 2
    cache.reorder_cache(torch.tensor([4, 0, 1, 2, 3, 5]))
    more = draw_ids(6, 5)
    whole, whole_mask = torch.cat((text[order], more), dim=1), torch.cat((mask[order], torch.ones_like(more)), dim=1)
    expected = model(whole, attention_mask=whole_mask, use_cache=False).logits[:, 17:]
    for start, end in ((0, 1), (1, 3)):
        logits = model(more[:, start:end], attention_mask=whole_mask[:, : 17 + end], past_key_values=cache).logits
        torch.testing.assert_close(logits, expected[:, start:end], atol=1e-5, rtol=1e-5)
    cache.batch_select_indices(torch.tensor([3]))  # a short row alone, after longer ones
    logits = model(more[3:4, 3:], attention_mask=whole_mask[3:4], past_key_values=cache).logits
    torch.testing.assert_close(logits, expected[3:4, 3:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("row", [0, 1])
@torch.no_grad()
def test_one_row_alone_sees_no_slots_of_the_others(row):
    model = build([1, 3], 2.0)
    text, mask = make_ragged((20, 6), 20)
    expected = model(text, attention_mask=mask, use_cache=False).logits[row : row + 1, 15:]
    for choose in ("reorder_cache", "batch_select_indices"):
        cache = model(text[:, :15], attention_mask=mask[:, :15]).past_key_values
        getattr(cache, choose)(torch.tensor([row]))
        part = {"attention_mask": mask[row : row + 1], "past_key_values": cache}
        logits = model(text[row : row + 1, 15:], **part).logits
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_a_cache_filled_without_gradients_can_be_continued_with_them_and_back():
    model, text = build(), draw_ids(2, 13)
    expected = model(text, use_cache=False).logits
    with torch.inference_mode():
        cache = model(text[:, :6]).past_key_values
    with torch.no_grad():
        logits = model(text[:, 6:8], past_key_values=cache).logits
        torch.testing.assert_close(logits, expected[:, 6:8], atol=1e-5, rtol=1e-5)
    model(text[:, 8:9], past_key_values=cache)
    loss = model(text[:, 9:10], past_key_values=cache).logits.sum()
    with torch.no_grad():
        logits = model(text[:, 10:], past_key_values=cache).logits
        torch.testing.assert_close(logits, expected[:, 10:], atol=1e-5, rtol=1e-5)
    loss.backward()


@torch.no_grad()
def test_a_layer_survives_being_offloaded():
    model, text = build(), draw_ids(2, 13)
    expected = model(text, use_cache=False).logits
    cache = model(text[:, :6]).past_key_values
    for layer in cache.layers:
        layer.offload()
        layer.prefetch()
    torch.testing.assert_close(model(text[:, 6:], past_key_values=cache).logits, expected[:, 6:], atol=1e-5, rtol=1e-5)


def test_gradients_flow_through_a_cache():
    model, text = build(), draw_ids(2, 13)
    model(text, use_cache=False).logits[:, 6:].sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    cache = model(text[:, :6]).past_key_values
    logits = [model(text[:, i : i + 1], past_key_values=cache).logits for i in range(6, 13)]
    torch.cat(logits, dim=1).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_step_with_a_static_cache_has_no_graph_break_and_one_graph():
    model = build([1, 3], 2.0)
    text, mask = make_ragged((9, 5), 14)
    expected = model(text, attention_mask=mask, use_cache=False).logits
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = StaticCache(config=model.config, max_cache_len=20)
    model(text[:, :9], attention_mask=mask[:, :9], past_key_values=cache)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    step = torch.compile(model, fullgraph=True, backend="aot_eager")
    for i in range(9, 14):
        inputs = model.prepare_inputs_for_generation(
            text[:, : i + 1], next_sequence_length=1, **{CACHE_NAME: cache}, attention_mask=mask[:, : i + 1],
            position_ids=position_ids[:, : i + 1], use_cache=True,
        )  # fmt: skip
        assert inputs["attention_mask"].shape == (2, 20), "one shape for all steps"
        logits = step(**inputs).logits
        real = mask[:, i].bool()
        torch.testing.assert_close(logits[real, 0], expected[real, i], atol=1e-5, rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@torch.no_grad()
def test_packed_documents_stay_apart():
    model, lengths = build([0, 2, 3], 2.0), (5, 1, 11)
    documents = [draw_ids(1, length) for length in lengths]
    position_ids = torch.cat([torch.arange(length) for length in lengths])[None]
    packed = torch.cat(documents, dim=1)
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        outputs = model(packed, position_ids=position_ids, output_forks=True)
        assert outputs.past_key_values is None, "no cache can keep documents apart"
        start = 0
        for document in documents:
            end = start + document.shape[1]
            alone = model(document, use_cache=False, output_forks=True)
            torch.testing.assert_close(outputs.logits[:, start:end], alone.logits, atol=1e-5, rtol=1e-5)
            for fork, single in zip(outputs.forks, alone.forks, strict=True):
                assert torch.equal(fork.num_streams[:, start:end], single.num_streams)
            start = end
    with pytest.raises(ValueError, match="pack several documents into a row were passed with a cache"):
        model(packed, position_ids=position_ids, use_cache=True)
    with pytest.raises(ValueError, match="pack several documents into a row were passed with a cache"):
        model(packed, position_ids=position_ids, past_key_values=StreamCache(model.config))


def test_training_on_packed_documents_is_training_on_them_apart():
    model = build([1, 2], 4.0).train()  # a budget that drops nothing, because a row's capacity is shared
    first, second = draw_ids(1, 8), draw_ids(1, 8)
    packed, position_ids = torch.cat((first, second), dim=1), torch.arange(8).repeat(2)[None]
    model(packed, position_ids=position_ids).logits.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(torch.cat((first, second))).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-3, rtol=1e-3)


# The budget


@torch.no_grad()
def test_a_budget_of_one_is_the_model_without_forks():
    model, text = build([0, 1, 3], 2.0), draw_ids(2, 17)
    forks = model(text, fork_budget=1.0, output_forks=True).forks
    assert all(torch.equal(fork.num_streams, torch.ones(2, 17).long()) for fork in forks)


def test_budgets_between_calibrated_ones_come_in_between():
    model, text = build([1, 2, 3], 1.5), draw_ids(64, 37)
    measured = [
        float(model(text, fork_budget=budget, output_forks=True).forks[-1].num_streams.float().mean())
        for budget in (1.1, 1.4, 1.9, 2.6, 3.7)
    ]
    assert measured == pytest.approx([1.1, 1.4, 1.9, 2.6, 3.7], rel=0.1)
    first, second, _ = model(text, fork_budget=4.0, output_forks=True).forks
    assert (first.num_streams == 2).all() and (second.num_streams == 4).all(), (
        "all stay, scores unseen before included"
    )


@pytest.mark.thorough
@torch.no_grad()
def test_generation_obeys_the_budget_of_the_call_and_of_its_configuration(tmp_path):
    model, prompt = build(), draw_ids(2, 9)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 20, "do_sample": False, "eos_token_id": -1}
    texts = {b: model.generate(prompt, fork_budget=b, **options) for b in (1.0, 1.6, 3.0)}
    assert not torch.equal(texts[1.0], texts[3.0]), "the budget changes the text of a random model"
    assert torch.equal(model.generate(prompt, **options), texts[1.6])
    for budget, text in texts.items():
        assert torch.equal(model.generate(prompt, fork_budget=budget, use_cache=False, **options), text)
        config = GenerationConfig(fork_budget=budget, max_new_tokens=20, do_sample=False, eos_token_id=-1)
        assert torch.equal(
            model.generate(prompt, generation_config=config, attention_mask=options["attention_mask"]), text
        )
    model.generation_config.fork_budget = 3.0
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(reloaded.generate(prompt, **options), texts[3.0])
    assert torch.equal(reloaded.generate(prompt, fork_budget=1.0, **options), texts[1.0])


@pytest.mark.parametrize("strategy", ["greedy", "beams returned", "sampling", "static"])
@torch.no_grad()
def test_generation_tells_the_streams_of_every_token_it_read(strategy):
    model = build([1, 3], 1.6)
    prompt, mask = make_ragged((9, 4), 9)
    options = {"attention_mask": mask, "max_new_tokens": 12, "eos_token_id": -1, **STRATEGIES[strategy]}
    out = model.generate(prompt, output_forks=True, return_dict_in_generate=True, fork_budget=2.0, **options)
    rows = len(out.sequences) // 2
    assert out.sequences.shape == (2 * rows, 21) and len(out.forks) == 2
    seen = torch.cat((mask.repeat_interleave(rows, dim=0), torch.ones(2 * rows, 11)), dim=1).bool()
    for fork in out.forks:
        assert fork.num_streams.shape == (2 * rows, 20)
        assert torch.equal(fork.num_streams > 0, seen)
    assert out.forks[-1].num_streams[:, 9:].unique().numel() > 1
    if strategy == "greedy":
        counts = torch.stack([fork.num_streams for fork in out.forks])
        assert torch.equal(out.past_key_values.count_streams(), counts), "what was cached while generating"


@torch.no_grad()
def test_generation_from_vectors_tells_its_streams_too():
    model, prompt = build([1, 3], 1.6), draw_ids(2, 9)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 8, "eos_token_id": -1, "do_sample": False}
    options |= {"output_forks": True, "return_dict_in_generate": True}
    expected = model.generate(prompt, **options).forks
    embeds = model.get_input_embeddings()(prompt)
    for inputs in ({"inputs_embeds": embeds}, {"inputs_embeds": embeds, "input_ids": prompt}):
        for fork, other in zip(model.generate(**inputs, **options).forks, expected, strict=True):
            assert torch.equal(fork.num_streams, other.num_streams)


def test_a_model_trained_with_top_k_becomes_causal(tmp_path):
    model = build(fork_rule="topk")
    assert model.config.fork_rule == "threshold", "calibration switched it"
    text = draw_ids(2, 17)
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for budget in (None, 1.0, 1.7, 4.0):
        assert torch.equal(reloaded(text, fork_budget=budget).logits, model(text, fork_budget=budget).logits)


def test_high_budgets_cost_no_more_than_all_streams():
    model = build([1, 3], 1000)
    assert len(model.config.fork_calibration["budgets"]) == 14, "1 to 4 in quarters, and 1000"
    forks = model(draw_ids(4, 37), fork_budget=np.float32(700.0), output_forks=True).forks
    assert (forks[1].num_streams == 4).all()


@pytest.mark.slow
def test_a_model_without_thresholds_says_so(caplog, monkeypatch):
    torch.manual_seed(0)
    model, text = ThoughtbubblesForCausalLM(make_config(fork_rule="threshold")).eval(), draw_ids(2, 9)
    logging.set_verbosity_warning()
    fork_thresholds.logger.warning_once.cache_clear()
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)  # else caplog hears nothing
    forks = model(text, output_forks=True).forks
    assert "has no fork thresholds yet, so every stream stays" in caplog.text
    assert (forks[-1].num_streams == 4).all()
    with pytest.raises(ValueError, match="tracked for none and calibrated for none"):
        model(text, fork_budget=1.5)
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(Exception, match="tracked for none and calibrated for none"), torch.no_grad():
        compiled(text, fork_budget=1.7, use_cache=False)


def test_generation_while_training_is_generation():
    model, prompt = build(), draw_ids(2, 9)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 9, "do_sample": False, "eos_token_id": -1}
    expected, before = model.generate(prompt, **options), copy.deepcopy(model.state_dict())
    assert torch.equal(model.train().generate(prompt, **options), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "and tracks nothing"


def test_a_model_proposes_for_itself_by_leaving_early():
    model, prompt = build([1, 3]), draw_ids(1, 9)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 9, "do_sample": False, "eos_token_id": -1}
    expected = model.generate(prompt, **options)
    for num_layers in (1, 2):
        assert torch.equal(model.generate(prompt, assistant_early_exit=num_layers, **options), expected)
    assert torch.equal(model.generate(prompt, **options), expected)


def test_calibration_reads_masks_loaders_and_iterators():
    torch.manual_seed(0)
    text, mask = make_ragged((37, 20, 11, 30), 37)
    rows = [{"input_ids": text[i : i + 1, 37 - int(mask[i].sum()) :]} for i in range(4)]
    batches = (
        [{"input_ids": text, "attention_mask": mask}],
        iter(rows),
        torch.utils.data.DataLoader(rows, batch_size=None),
    )
    tables = []
    for given in batches:
        model = build(seed=7)
        measured = calibrate_forks(model, given, budgets=(1.0, 2.5))
        assert measured[2.5] == pytest.approx([2.0, 2.5], rel=0.02) and measured[1.0] == [1.0, 1.0]
        tables.append(torch.tensor(model.config.fork_calibration["thresholds"]))
    torch.testing.assert_close(tables[1], tables[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tables[2], tables[0], atol=1e-4, rtol=1e-4)


def test_calibration_refuses_what_it_cannot_measure():
    model, text = build(), draw_ids(2, 17)
    before, batch = copy.deepcopy(model.config.to_dict()), {"input_ids": text}
    for batches, budgets, message in (
        ([], (1.0, 2.0), "holds no tokens"),
        ([{**batch, "attention_mask": torch.zeros_like(text)}], (1.0, 2.0), "holds no tokens"),
        ([text], (1.0, 2.0), "holds a Tensor without `input_ids`"),
        ([batch], (0.5, 2.0), "`budgets` holds 0.5"),
        ([batch], (float("nan"),), "`budgets` holds nan"),
        ([batch], ("2",), "`budgets` holds '2'"),
        ([batch], (), "`budgets` is empty"),
        ([batch], 2.0, "`budgets` is 2.0; pass a list"),
        ([{"input_ids": text + 61}], (1.0,), "`input_ids` holds"),
        ([{"input_ids": text[:, :, None]}], (1.0,), r"\(B, T\)"),
    ):
        with pytest.raises(ValueError, match=message):
            calibrate_forks(model, batches, budgets)
    assert model.config.to_dict() == before
    with pytest.raises(ValueError, match="no fork layers"):
        calibrate_forks(ThoughtbubblesForCausalLM(make_config(fork_layers=[])), [batch])


def test_budgets_that_were_never_measured_are_refused():
    model, text = build(), draw_ids(2, 9)
    options = {"attention_mask": torch.ones_like(text), "max_new_tokens": 3}
    for budget, message in (
        (5.0, "calibrated for .* Measure others .*`hf_thoughtbubbles.calibrate_forks"),
        (0.5, "`fork_budget` is 0.5; it must be a finite Python or numpy number of at least 1"),
        (float("inf"), "must be a finite Python or numpy number"),
        ("2", "`fork_budget` is '2'"),
        (True, "`fork_budget` is True"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(text, fork_budget=budget, **options)
        with pytest.raises(ValueError, match=message):
            model(text, fork_budget=budget)
    model.config.fork_calibration = None
    model.config.fork_budget = 2.5
    with pytest.raises(ValueError, match=r"tracked for a budget of 1\.6 and calibrated for none"):
        model(text)
    with pytest.raises(ValueError, match="was passed to a model in training"):
        model.train()(text, fork_budget=1.0)
    plain = ThoughtbubblesForCausalLM(make_config(fork_layers=[])).eval()
    with pytest.raises(ValueError, match="no fork layers"):
        plain.generate(text, fork_budget=2.0, **options)
    with pytest.raises(ValueError, match="needs `return_dict_in_generate=True`"):
        build().generate(text, output_forks=True, **options)


@torch.no_grad()
def test_foreign_caches_are_refused():
    model, text = build(), draw_ids(2, 9)
    cache = model(text).past_key_values
    for given, ids, message in (
        (cache, text[:1], "holds 2 rows, 3 heads of size 8, but the input has 1 rows"),
        (DynamicCache(), text, "layers of the kinds"),
        (StreamCache(make_config(fork_rule="threshold", fork_layers=[2])), text, "layers of the kinds"),
        (build(num_attention_heads=2, hidden_size=16)(text).past_key_values, text, "the model 3 heads of size 8"),
    ):
        with pytest.raises(ValueError, match=message):
            model(ids, past_key_values=given)
    with pytest.raises(ValueError, match="chooses streams over the whole sequence"):
        StreamCache(make_config())
    with torch.enable_grad(), pytest.raises(ValueError, match="forking model in training"):
        model.train()(text, past_key_values=StreamCache(model.config))
    with pytest.raises(ValueError, match="The cache is empty"):
        StreamCache(model.config).count_streams()
    with pytest.raises(ValueError, match="`input_ids` holds 61"):
        model.eval()(text + 61 - text.max(), past_key_values=cache)
    assert isinstance(cache.layers[1], StreamLayer) and cache.get_seq_length() == 9, "nothing was written"
    static = StaticCache(config=model.config, max_cache_len=12)
    model(text, past_key_values=static)
    with pytest.raises(ValueError, match="static cache has room for 12"):
        model(text[:, :4], past_key_values=static)
    with pytest.raises(ValueError, match=r"`attention_mask` has shape \(2, 7\)"):
        model(text[:, :2], past_key_values=static, attention_mask=torch.ones(2, 7))
    with pytest.raises(ValueError, match="cannot be quantized"):
        model.generate(text, attention_mask=torch.ones_like(text), max_new_tokens=2, cache_implementation="quantized")
