# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Does every causal family keep the promises of docs/architecture.md? Each promise once, over all families.

Promise 1 (parity) is in tests/modeling, 2 (loading without the package) in tests/hub, 6 (accumulation) and the Trainer
in tests/training.
"""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME
from tests.families import FAMILIES, VOCAB_SIZE, draw_ids


ALL = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
CAUSAL = pytest.mark.parametrize("family", [f for f in FAMILIES if f.is_causal], ids=lambda family: family.name)
# The published rule, which chooses streams over the whole text.
FORKING = pytest.mark.parametrize("family", [f for f in FAMILIES if f.is_forking], ids=lambda family: family.name)
CACHED = pytest.mark.parametrize("family", [f for f in FAMILIES if f.has_cache], ids=lambda family: family.name)


@ALL
def test_promise_2_saving_and_loading_keeps_every_bit(family, tmp_path):
    model, input_ids = family.build(), draw_ids(2, 17)
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(reloaded) is type(model)
    assert {**reloaded.config.to_dict(), "_name_or_path": ""} == model.config.to_dict()
    assert torch.equal(reloaded(input_ids).logits, model(input_ids).logits)


@CAUSAL
def test_promise_3_later_tokens_change_no_earlier_logit(family):
    model, input_ids = family.build(), draw_ids(2, 23)
    edited = torch.cat((input_ids[:, :11], draw_ids(2, 12)), dim=1)
    torch.testing.assert_close(model(edited).logits[:, :11], model(input_ids).logits[:, :11], atol=1e-5, rtol=0)


@FORKING
def test_promise_3_the_published_rule_is_the_stated_exception(family):
    """Documented, so measured: later tokens do change earlier logits under `fork_rule="topk"`."""
    model, input_ids = family.build(), draw_ids(8, 23)
    edited = torch.cat((input_ids[:, :11], draw_ids(8, 12)), dim=1)
    assert (model(edited).logits[:, :11] - model(input_ids).logits[:, :11]).abs().max() > 1e-3


@FORKING
def test_a_budget_that_keeps_every_offer_is_causal(family):
    model, input_ids = family.build(fork_budget=4.0), draw_ids(2, 23)
    edited = torch.cat((input_ids[:, :11], draw_ids(2, 12)), dim=1)
    torch.testing.assert_close(model(edited).logits[:, :11], model(input_ids).logits[:, :11], atol=1e-5, rtol=1e-5)


@CACHED
@pytest.mark.parametrize(
    "strategy",
    [
        {"do_sample": False},
        {"do_sample": True, "temperature": 0.8},
        {"num_beams": 3, "do_sample": False},
        {"do_sample": False, "prefill_chunk_size": 3},
        {"do_sample": False, "cache_implementation": "static", "disable_compile": True},
        {"do_sample": False, "prompt_lookup_num_tokens": 3},
    ],
    ids=["greedy", "sampling", "beam", "chunked", "static", "lookup"],
)
def test_promise_4_cached_generation_equals_uncached(family, strategy):
    is_lookup = "prompt_lookup_num_tokens" in strategy
    model, prompt = family.build(), draw_ids(1 if is_lookup else 3, 9)
    options = {"max_new_tokens": 11, "attention_mask": torch.ones_like(prompt)}
    plain = {key: strategy[key] for key in ("do_sample", "temperature", "num_beams") if key in strategy}
    torch.manual_seed(1)
    expected = model.generate(prompt, use_cache=False, **options, **plain)
    assert is_lookup or len(expected[:, 9:].unique()) > 3, "text that varies, so that a lost context would show"
    torch.manual_seed(1)
    assert torch.equal(model.generate(prompt, **options, **strategy), expected)


@CACHED
def test_promise_4_a_returned_cache_can_be_continued(family):
    model, input_ids = family.build(), draw_ids(2, 19)
    cache = DynamicCache(config=model.config)
    for start, end in ((0, 7), (7, 8), (8, 19)):
        outputs = model(input_ids[:, start:end], past_key_values=cache, use_cache=True)
        torch.testing.assert_close(outputs.logits, model(input_ids).logits[:, start:end], atol=1e-5, rtol=1e-4)
    assert outputs.past_key_values.get_seq_length() == 19


@CACHED
def test_promise_4_a_cache_over_left_padding_needs_no_positions(family):
    """Rotary positions follow the mask; learned ones are given, as `generate` does."""
    model, input_ids, mask = family.build(), draw_ids(2, 19), torch.ones(2, 19, dtype=torch.long)
    mask[1, :6] = 0
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    placed = {"position_ids": position_ids} if family.needs_positions else {}
    expected = model(input_ids, attention_mask=mask, use_cache=False, **placed).logits
    for start, end in ((0, 11), (11, 12), (12, 19)):
        placed = {"position_ids": position_ids[:, start:end]} if family.needs_positions else {}
        part = {"attention_mask": mask[:, :end], "past_key_values": cache, "use_cache": True, **placed}
        logits, real = model(input_ids[:, start:end], **part).logits, mask[:, start:end].bool()
        torch.testing.assert_close(logits[real], expected[:, start:end][real], atol=1e-5, rtol=1e-4)


@CACHED
def test_promise_4_assisted_generation_equals_greedy(family):
    assistant = family.build(seed=1, **family.assistant_changes)
    model, prompt = family.build(), draw_ids(1, 9)
    options = {"max_new_tokens": 11, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
    expected = model.generate(prompt, **options)
    assert torch.equal(model.generate(prompt, assistant_model=assistant, **options), expected)


@FORKING
@pytest.mark.parametrize("use_cache", [None, True, False])
def test_promise_4_forking_models_re_read_the_prefix_for_every_token(family, use_cache):
    """No cache can be exact for the published rule, and asking for one must not give other text."""
    model, text = family.build(), draw_ids(2, 9)
    options = {} if use_cache is None else {"use_cache": use_cache}
    generated = model.generate(
        text, attention_mask=torch.ones_like(text), max_new_tokens=11, do_sample=False, eos_token_id=-1, **options
    )
    for _ in range(11):
        logits = model(text).logits[:, -1]
        text = torch.cat((text, logits.argmax(-1, keepdim=True)), dim=1)
    assert len(text[:, 9:].unique()) > 3, "text that varies, so that a lost context would show"
    assert torch.equal(generated, text)


@ALL
def test_promise_4_a_prompt_of_vectors_generates_what_its_tokens_do(family):
    model, prompt = family.build(), draw_ids(2, 9)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 11, "do_sample": False}
    embeds = model.get_input_embeddings()(prompt)
    expected = model.generate(prompt, **options)[:, 9:]
    assert torch.equal(model.generate(inputs_embeds=embeds, **options), expected)
    assert torch.equal(model.generate(prompt, inputs_embeds=embeds, **options)[:, 9:], expected)


@FORKING
def test_promise_4_beams_are_searched_over_re_read_prefixes(family):
    """The likeliest of two-token continuations, found by hand over all first tokens and by beams as many."""
    model, prompt = family.build(), draw_ids(1, 6)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 2, "do_sample": False}
    found = model.generate(prompt, num_beams=VOCAB_SIZE, eos_token_id=-1, **options)
    first = model(prompt).logits[0, -1].log_softmax(-1)
    texts = torch.cat((prompt.expand(VOCAB_SIZE, -1), torch.arange(VOCAB_SIZE)[:, None]), dim=1)
    second = model(texts).logits[:, -1].log_softmax(-1)
    best = int((first[:, None] + second).argmax())
    assert found[0, 6:].tolist() == [best // VOCAB_SIZE, best % VOCAB_SIZE]


@CAUSAL
@pytest.mark.parametrize("side", ["left", "right"])
def test_promise_5_a_padded_row_equals_the_row_alone(family, side):
    model, lengths = family.build(), (17, 9, 1)
    input_ids, mask = torch.zeros(3, 17, dtype=torch.long), torch.zeros(3, 17, dtype=torch.long)
    spans = [slice(17 - n, 17) if side == "left" else slice(0, n) for n in lengths]
    for row, span in enumerate(spans):
        input_ids[row, span], mask[row, span] = draw_ids(lengths[row]), 1
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)  # what `generate` passes; only learned positions need it
    placed = {"position_ids": position_ids} if family.needs_positions else {}
    logits = model(input_ids, attention_mask=mask, **placed).logits
    assert logits.isfinite().all()
    for row, span in enumerate(spans):
        alone = model(input_ids[row : row + 1, span]).logits[0]
        torch.testing.assert_close(logits[row, span], alone, atol=1e-5, rtol=1e-4)


@ALL
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_promise_5_a_row_of_padding_alone_harms_nothing(family, attention):
    model, input_ids, mask = family.build(), draw_ids(3, 11), torch.ones(3, 11, dtype=torch.long)
    mask[1] = 0
    model.set_attn_implementation(attention)
    outputs = model(input_ids, attention_mask=mask, labels=input_ids.masked_fill(mask == 0, -100), use_cache=False)
    assert outputs.logits.isfinite().all()
    outputs.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    others = model(input_ids[[0, 2]], attention_mask=mask[[0, 2]], use_cache=False).logits
    torch.testing.assert_close(outputs.logits[[0, 2]], others, atol=1e-5, rtol=1e-4)


def check_left_padding(model, **strategy):
    """A short prompt beside a long one is continued as alone."""
    short, long = draw_ids(1, 5), draw_ids(1, 9)
    padded = torch.cat((torch.cat((torch.zeros(1, 4, dtype=torch.long), short), dim=1), long))
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": -1}
    together = model.generate(padded, attention_mask=(padded != 0).long(), **options, **strategy)
    for row, prompt in enumerate((short, long)):
        alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        assert torch.equal(together[row, -8:], alone[0, -8:])


@ALL
def test_promise_5_left_padding_changes_no_generated_text(family):
    """For the published rule too, at a budget that prunes nothing: what padding changes there is what gets pruned."""
    check_left_padding(family.build() if family.is_causal else family.build(fork_budget=4.0))


@CACHED
def test_promise_5_left_padding_changes_no_text_with_a_static_cache(family):
    check_left_padding(family.build(), cache_implementation="static", disable_compile=True)


@ALL
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_promise_7_attention_implementations_agree(family, padding):
    model, input_ids, mask = family.build(), draw_ids(2, 17), torch.ones(2, 17, dtype=torch.long)
    if padding != "none":
        mask[1, slice(0, 6) if padding == "left" else slice(11, 17)] = 0
    inputs = {"input_ids": input_ids, **({} if padding == "none" else {"attention_mask": mask})}
    model.set_attn_implementation("eager")
    expected = model(**inputs).logits[mask.bool()]
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model(**inputs).logits[mask.bool()], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("padding", ["none", "right"])
def test_promise_7_flex_attention_agrees_in_inference(padding):
    """On a CPU flex attention has no backward pass and wants power-of-two head sizes, so: one family, no gradients."""
    model = FAMILIES[0].build(hidden_size=48, num_attention_heads=3)
    input_ids, mask = draw_ids(2, 17), torch.ones(2, 17, dtype=torch.long)
    mask[1, 11:] = 1 if padding == "none" else 0
    inputs = {"input_ids": input_ids, **({} if padding == "none" else {"attention_mask": mask})}
    expected = model(**inputs).logits[mask.bool()]
    model.set_attn_implementation("flex_attention")
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits[mask.bool()], expected, atol=1e-5, rtol=1e-4)


@ALL
def test_promise_7_bf16_trains(family):
    model, input_ids = family.build().to(torch.bfloat16).train(), draw_ids(4, 17)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for _ in range(12):
        loss = model(input_ids, labels=input_ids).loss
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@ALL
def test_promise_7_bf16_is_near_float32_where_nothing_is_decided(family):
    """Where every offer is kept and no token exits; rounding may decide otherwise where scores nearly tie."""
    model, input_ids = family.build(**family.undecided_changes), draw_ids(2, 17)
    expected = model(input_ids).logits.softmax(-1)
    rounded = copy.deepcopy(model).to(torch.bfloat16)(input_ids).logits.float().softmax(-1)
    assert (rounded - expected).abs().max() < 0.02


@ALL
@pytest.mark.parametrize("padding", [False, True])
def test_promise_7_a_compiled_training_step_has_no_graph_break(family, padding):
    model, input_ids = family.build().train(), draw_ids(2, 17)
    inputs = {"input_ids": input_ids, "labels": input_ids, "use_cache": False}
    if padding:
        inputs["attention_mask"] = torch.ones_like(input_ids)
        inputs["attention_mask"][1, 11:] = 0
    expected = model(**inputs).loss
    expected.backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    torch._dynamo.reset()
    loss = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs).loss
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-3)


@ALL
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("padding", [False, True])
def test_promise_7_gradient_checkpointing_gives_the_same_gradients(family, use_reentrant, padding):
    model, input_ids = family.build().train(), draw_ids(2, 17)
    inputs = {"input_ids": input_ids, "labels": input_ids}
    if padding:
        inputs["attention_mask"] = torch.ones_like(input_ids)
        inputs["attention_mask"][1, 11:] = 0

    def compute_gradients():
        model.zero_grad()
        model(**inputs).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = compute_gradients()
    # Renamed within the versions of transformers that we support; the old name warns in the new ones.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})
    gradients = compute_gradients()
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)


@FORKING
def test_promise_8_the_budget_of_a_living_model_can_be_changed(family):
    model, input_ids = family.build(), draw_ids(2, 20)
    model.config.fork_budget = 2.0
    assert model(input_ids, output_forks=True).forks[-1].num_streams.sum() == 80


@FORKING
def test_promise_8_the_compute_of_every_token_is_visible_and_the_budget_changes_it(family):
    input_ids = draw_ids(2, 20)
    for budget in (1.0, 1.5, 2.0, 4.0):
        forks = family.build(fork_budget=budget)(input_ids, output_forks=True).forks
        assert [int(fork.num_streams.sum()) for fork in forks] == [
            2 * min(round(20 * budget), 40),
            2 * min(round(20 * budget), 80),
        ]


@ALL
def test_promise_9_bad_input_is_one_clear_error(family):
    model, input_ids = family.build(), draw_ids(2, 7)
    embeds = model.get_input_embeddings()(input_ids)
    for inputs, message in (
        ({"input_ids": draw_ids(1, 38)}, "38 tokens long, but `max_position_embeddings` is 37"),
        ({"input_ids": input_ids, "inputs_embeds": embeds}, "exactly one of `input_ids` and `inputs_embeds`; both"),
        ({}, "exactly one of `input_ids` and `inputs_embeds`; neither"),
        ({"input_ids": input_ids + VOCAB_SIZE}, "`input_ids` holds .* ids are 0 to 60"),
        ({"input_ids": input_ids - VOCAB_SIZE}, "`input_ids` holds -.* ids are 0 to 60"),
        ({"input_ids": input_ids, "attention_mask": torch.ones(2, 6)}, r"`attention_mask` has shape \(2, 6\)"),
        ({"input_ids": input_ids, "attention_mask": torch.ones(1, 7)}, r"needs \(2, 7\)"),
        ({"input_ids": input_ids, "attention_mask": torch.ones(2, 7, 7)}, "`attention_mask` has 3 dimensions"),
        ({"input_ids": input_ids[0]}, r"shape \(7,\); it must be \(B, T\)"),
        ({"input_ids": input_ids[:, :0]}, r"shape \(2, 0\); it must be \(B, T\)"),
        ({"inputs_embeds": embeds[..., :5]}, r"shape \(2, 7, 5\); it must be \(B, T, hidden_size\)"),
        ({"input_ids": input_ids, "position_ids": torch.arange(6)[None]}, r"`position_ids` has shape \(1, 6\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**inputs)
    options = {"attention_mask": torch.ones_like(input_ids), "do_sample": False}
    with pytest.raises(ValueError, match=r"may read 38 tokens .* `max_position_embeddings` is 37"):
        model.generate(input_ids, max_new_tokens=32, **options)
    with pytest.raises(ValueError, match=r"may read 38 tokens"):
        model.generate(inputs_embeds=embeds, max_new_tokens=32, **options)
    full = model.generate(input_ids, max_new_tokens=31, min_new_tokens=31, **options)
    assert full.shape == (2, 38), "the last new token is never read, so one more fits"


@ALL
def test_promise_9_fields_changed_while_loading_are_checked(family, tmp_path):
    family.build().save_pretrained(tmp_path)
    for changes, message in family.bad_changes:
        with pytest.raises(Exception, match=message):
            AutoModelForCausalLM.from_pretrained(tmp_path, **changes)


@FORKING
def test_promise_9_generation_that_needs_a_cache_is_refused(family):
    model, prompt = family.build(), draw_ids(1, 8)
    assistant, options = family.build(seed=1), {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 3}
    for strategy, message in (
        ({"assistant_model": assistant}, "Assisted and prompt-lookup generation need a cache"),
        ({"prompt_lookup_num_tokens": 2}, "Assisted and prompt-lookup generation need a cache"),
        ({"prefill_chunk_size": 2}, "`prefill_chunk_size` was passed"),
        ({"cache_implementation": "static"}, "`cache_implementation` was passed"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(prompt, **options, **strategy)
    with pytest.raises(ValueError, match="nor as its assistant"):
        FAMILIES[2].build().generate(prompt, assistant_model=assistant, **options)


@FORKING
def test_a_compiled_model_generates_the_same_text(family):
    model, prompt = family.build(), draw_ids(1, 5)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 3, "do_sample": False}
    expected = model.generate(prompt, **options)
    torch._dynamo.reset()
    model.forward = torch.compile(model.forward, backend="eager")
    assert torch.equal(model.generate(prompt, **options), expected)


@FORKING
def test_promise_9_what_the_published_rule_cannot_do_is_refused(family):
    model, input_ids = family.build(), draw_ids(1, 8)
    packed = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    mask_4d = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    for inputs, message in (
        ({"use_cache": True}, "no cache can be exact"),
        ({"past_key_values": DynamicCache()}, "no cache can be exact"),
        ({"position_ids": packed}, "`position_ids` pack several documents"),
        ({"attention_mask": mask_4d}, "cannot follow tokens that fork"),
    ):
        with pytest.raises(ValueError, match=message):
            model(input_ids, **inputs)
    with pytest.raises(ValueError, match=f"`{CACHE_NAME}` was passed"):
        model.generate(input_ids, **{CACHE_NAME: DynamicCache()}, max_new_tokens=2)


@ALL
def test_masks_are_true_or_false_whatever_their_numbers(family):
    model, input_ids, mask = family.build(), draw_ids(2, 11), torch.ones(2, 11, dtype=torch.long)
    mask[1, 7:] = 0
    expected = model(input_ids, attention_mask=mask, use_cache=False).logits
    for same in (2 * mask, mask.bool(), mask.float()):
        assert torch.equal(model(input_ids, attention_mask=same, use_cache=False).logits, expected)


@CAUSAL
def test_packed_documents_stay_apart(family):
    model, first, second = family.build(), draw_ids(1, 5), draw_ids(1, 8)
    packed = torch.cat((first, second), dim=1)
    position_ids = torch.cat((torch.arange(5), torch.arange(8)))[None]
    logits = model(packed, position_ids=position_ids, use_cache=False).logits
    torch.testing.assert_close(logits[:, :5], model(first).logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits[:, 5:], model(second).logits, atol=1e-5, rtol=1e-4)
