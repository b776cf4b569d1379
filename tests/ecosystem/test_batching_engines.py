# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Continuous batching: the text of `generate` where a token has one key in every layer, an error everywhere else."""

import logging

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS, draw_ids


LENGTHS = (9, 4, 17, 1, 12)
GREEDY = {"do_sample": False, "max_new_tokens": 9, "eos_token_id": 60, "pad_token_id": 0}
BATCHED = [family for family in FAMILIES if family.name.startswith(("gpt", "generic")) and family.has_cache]
REFUSED = [*(family for family in FAMILIES if family not in BATCHED), *ANSWERERS, *BYTE_VARIANTS, *THOUGHT_VARIANTS]


def make_pool(num_blocks: int = 32, max_batch_tokens: int = 64, page_size: int = 4) -> ContinuousBatchingConfig:
    """A pool of blocks, which without sizes takes all memory."""
    return ContinuousBatchingConfig(num_blocks=num_blocks, max_batch_tokens=max_batch_tokens, page_size=page_size)


def draw_prompts() -> list[list[int]]:
    return [draw_ids(length).tolist() for length in LENGTHS]


def write_each(model, prompts: list[list[int]], **settings) -> list[list[int]]:
    """What `generate` writes to each prompt alone, up to the end of sequence."""
    return [model.generate(torch.tensor([ids]), **settings)[0, len(ids) :].tolist() for ids in prompts]


def write_batched(model, prompts: list[list[int]], pool=None, **settings) -> list[list[int]]:
    """What the engine writes."""
    config = GenerationConfig(**settings)
    results = model.generate_batch(prompts, config, continuous_batching_config=pool or make_pool())
    return [result.generated_tokens for result in results.values()]


def by(families):
    return pytest.mark.parametrize("family", families, ids=lambda family: family.name)


@pytest.mark.thorough
@by(BATCHED)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_generate_batch_writes_what_generate_writes(family, attention):
    model, prompts = family.build(), draw_prompts()
    model.set_attn_implementation(attention)
    expected = write_each(model, prompts, **GREEDY)
    assert len({token for text in expected for token in text}) > 4, "so that a lost context would show"
    assert write_batched(model, prompts, **GREEDY) == expected
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize("name", ["generic-relative", "gpt-learned"])
def test_a_pool_that_is_too_small_for_all_requests_gives_the_same_text(name, caplog):
    """Requests are put off, and read again from their beginning."""
    (family,) = (family for family in BATCHED if family.name == name)
    model, prompts = family.build(), draw_prompts()
    logger = logging.getLogger("ContinuousBatchingLogger")
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO, logger.name):
            written = write_batched(model, prompts, make_pool(7, 16), **GREEDY)
    finally:
        logger.removeHandler(caplog.handler)
    assert "1 soft reset" in caplog.text
    assert written == write_each(model, prompts, **GREEDY)


def test_text_ends_at_the_end_of_sequence_and_settings_are_completed_as_by_generate():
    model, prompts = BATCHED[0].build(), draw_prompts()
    common = {"do_sample": False, "max_new_tokens": 9}
    unended = write_each(model, prompts, eos_token_id=-1, **common)
    model.generation_config.eos_token_id = end = unended[0][3]
    expected = write_each(model, prompts, **common)
    assert expected[0][-1] == end and len(expected[0]) <= 4
    assert write_batched(model, prompts, **common) == expected, "the end of the model's own configuration"
    model.generation_config.update(**common)
    results = model.generate_batch(prompts, continuous_batching_config=make_pool())
    assert [result.generated_tokens for result in results.values()] == expected


def test_sampling_draws_what_generate_draws():
    model, prompt = BATCHED[2].build(), draw_ids(9).tolist()
    settings = {**GREEDY, "do_sample": True, "temperature": 1.3, "top_k": 20, "top_p": 0.9}
    settings |= {"suppress_tokens": [3, 5], "eos_token_id": -1}
    torch.manual_seed(1)
    expected = write_each(model, [prompt], **settings)
    pool = make_pool()
    pool.seed = 1
    assert write_batched(model, [prompt], pool, **settings) == expected


def test_generate_with_a_paged_cache_writes_the_same():
    model, prompt = BATCHED[0].build(), draw_ids(3, 9)
    settings, mask = {**GREEDY, "eos_token_id": -1}, torch.ones_like(prompt)
    expected = model.generate(prompt, attention_mask=mask, **settings)
    paged = {"cache_implementation": "paged", "continuous_batching_config": make_pool()}
    assert torch.equal(model.generate(prompt, attention_mask=mask, **settings, **paged)[0], expected)
    mask[1, :4] = 0
    with pytest.raises(ValueError, match="`attention_mask` was passed, but continuous batching does not read it"):
        model.generate(prompt, attention_mask=mask, **settings, **paged)
    with pytest.raises(ValueError, match="is set in the generation configuration"):
        model.generate(prompt, generation_config=GenerationConfig(cache_implementation="paged", max_new_tokens=2))


@by(REFUSED)
def test_a_family_without_one_key_a_token_is_refused_before_anything_runs(family):
    model, passes = family.build(), []
    attention = model.config._attn_implementation
    for module in model.modules():
        module.register_forward_pre_hook(lambda *args: passes.append(args))
    prompt, settings = family.ask(1, 9)["input_ids"], GenerationConfig(**GREEDY)
    for ask in (
        lambda: model.generate_batch(prompt.tolist(), settings, continuous_batching_config=make_pool()),
        lambda: model.init_continuous_batching(settings, make_pool()),
        lambda: model.continuous_batching_context_manager(settings).__enter__(),
        lambda: model.generate(prompt, cache_implementation="paged", **GREEDY),
    ):
        with pytest.raises(ValueError, match=r"Continuous batching was requested.*Use `generate` with a batch"):
            ask()
    assert not passes
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_beams": 2}, "requests beam_search"),
        ({"prompt_lookup_num_tokens": 2}, "requests assisted_generation"),
        ({"guidance_scale": 2.0}, "requests `guidance_scale`"),
        ({"repetition_penalty": 1.2}, "requests RepetitionPenaltyLogitsProcessor"),
        ({"no_repeat_ngram_size": 2}, "requests NoRepeatNGramLogitsProcessor"),
        ({"min_new_tokens": 3}, "requests `min_new_tokens`"),
        ({"fork_budget": 2.0}, "requests `fork_budget`"),
        ({"max_new_tokens": None}, "`max_new_tokens` was not passed"),
        ({"max_new_tokens": 30}, "may read 38 tokens"),
    ],
)
def test_settings_that_the_engine_would_not_read_are_refused(settings, message):
    (model,) = (family.build() for family in BATCHED if family.name == "gpt-learned")
    with pytest.raises(ValueError, match=message):
        write_batched(model, [draw_ids(9).tolist()], **{**GREEDY, **settings})


@pytest.mark.parametrize(
    "prompt, message",
    [([], "one or more token ids"), ([1, 61], "`input_ids` holds 61"), ([1] * 17, "need the keys of 25 tokens")],
)
def test_one_request_that_cannot_be_finished_is_refused_and_others_go_on(prompt, message):
    model, good = BATCHED[2].build(), draw_ids(9).tolist()
    with pytest.raises(ValueError, match=message):
        write_batched(model, [good, prompt], make_pool(6), **GREEDY)
    with model.continuous_batching_context_manager(GenerationConfig(**GREEDY), True, 5.0, make_pool(6)) as manager:
        manager.add_request(good, request_id="good")
        with pytest.raises(ValueError, match=message):
            manager.add_request(prompt)
        assert manager.get_result("good", timeout=30).generated_tokens == write_each(model, [good], **GREEDY)[0]


def test_a_request_that_fails_is_an_error(monkeypatch):
    model = BATCHED[2].build()

    def fail(*args, **kwargs):
        raise ArithmeticError("no numbers today")

    monkeypatch.setattr(model.model, "decode", fail)
    with pytest.raises(RuntimeError, match=r"answered 0 of 2 requests\. .*no numbers today"):
        write_batched(model, [[1, 2], [3]], **GREEDY)
