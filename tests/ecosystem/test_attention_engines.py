# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Attention implementations equal `sdpa`, or a family refuses them by name: flex, flash, and functions of a user.

Kernels of flash attention do not run here. transformers' code around them does, with kernels in plain operations.
"""

import copy

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from tests.attention_functions import load_flash
from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS, draw_ids


pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
EVERY = [*FAMILIES, *ANSWERERS, *BYTE_VARIANTS, *THOUGHT_VARIANTS]
# One of each way to make masks, keys or steps.
NAMES = (
    "thoughtbubbles", "gpt-rope", "native-qk-norm", "thinker", "thinker-loop-exit",
    "generic", "generic-relative", "plain-autoregressive", "space", "plain",
)  # fmt: skip
CHOSEN = [family for family in EVERY if family.name in NAMES]
KINDS = {
    "own": "dense",
    "own-unmasked": "none",
    "flex_attention": "block",
    "flex-plain": "block",
    "flash-plain": "padding",
}
GREEDY = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": -1}
PACKED = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 0, 1, 2], [0, 1, *range(14)]])


def by(families):
    return pytest.mark.parametrize("family", families, ids=lambda family: family.name)


def takes(family, implementation: str) -> bool:
    """Whether the models of a family take an implementation."""
    return KINDS[implementation] not in family.build().find_mask_obstacles(family.config)


@pytest.fixture(autouse=True)
def run_eagerly(monkeypatch):
    """Without compiling flex attention, and with kernels for flash attention."""
    load_flash(monkeypatch)
    with torch.compiler.set_stance("force_eager"):
        yield


def read(model, family, inputs: dict) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits[family.mask_text(inputs)]


def write(model, family, inputs: dict, **options) -> torch.Tensor:
    """Greedy text."""
    return model.generate(**inputs, **GREEDY, **options)


@by(CHOSEN)
@pytest.mark.parametrize(
    "implementation", ["own", pytest.param("flex_attention", marks=pytest.mark.slow), "flash-plain"]
)
def test_an_implementation_gives_the_logits_and_the_text_of_sdpa_or_is_refused(family, implementation):
    model = family.build()
    if not takes(family, implementation):
        with pytest.raises(ValueError, match=f'`attn_implementation="{implementation}"` was passed, but it reads'):
            model.set_attn_implementation(implementation)
        return
    lessons = [family.draw_lesson(padding=padding) for padding in (None, "left", "right")]
    batches = [family.pad(family.draw_rows(), "left")]
    expected = [read(model, family, lesson) for lesson in lessons], [write(model, family, batch) for batch in batches]
    model.set_attn_implementation(implementation)
    assert model.config._attn_implementation == implementation
    for lesson, logits in zip(lessons, expected[0], strict=True):
        torch.testing.assert_close(read(model, family, lesson), logits, atol=1e-5, rtol=1e-4)
    for batch, text in zip(batches, expected[1], strict=True):
        assert torch.equal(write(model, family, batch), text)


@by(
    [
        family
        for family in CHOSEN
        if family.name in ("gpt-rope", "thinker-loop-exit", "generic", "plain-autoregressive")
    ]
)
def test_an_own_function_without_a_mask_function_works_until_a_mask_is_needed(family):
    model, lesson, prompt = family.build(), family.draw_lesson(), family.draw_prompt()
    expected = read(model, family, lesson), write(model, family, prompt)
    model.set_attn_implementation("own-unmasked")
    torch.testing.assert_close(read(model, family, lesson), expected[0], atol=1e-5, rtol=1e-4)
    assert torch.equal(write(model, family, prompt), expected[1])
    padded, refused = (
        family.pad(family.draw_rows(), "left"),
        r"no mask function, but this call needs a mask.*sdpa_mask",
    )
    with pytest.raises(ValueError, match=refused):
        model(**family.complete(padded))
    with pytest.raises(ValueError, match=refused):
        write(model, family, padded)
    if family in FAMILIES:
        for options in ({"cache_implementation": "static"}, {"prefill_chunk_size": 4}):
            with pytest.raises(ValueError, match=refused):
                write(model, family, prompt, **options)
        with pytest.raises(ValueError, match=refused):
            model(draw_ids(2, 16), position_ids=PACKED)
        pairs = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()
        with pytest.raises(ValueError, match="reads no masks of query and key pairs"):
            model(draw_ids(1, 9), attention_mask=pairs)


@by([family for family in EVERY if family.name in ("threshold", "copy", "thinker", "generic-relative", "space")])
def test_an_own_function_without_a_mask_function_is_refused_where_every_call_needs_masks(family):
    for build in (
        lambda: family.model_class._from_config(copy.deepcopy(family.config), attn_implementation="own-unmasked"),
        lambda: family.build().set_attn_implementation("own-unmasked"),
    ):
        with pytest.raises(ValueError, match=r'reads no masks and .* needs more.*register\("own-unmasked", sdpa_mask'):
            build()
    model = family.build()
    flags = model._supports_attention_backend, model._supports_flash_attn, model._supports_flex_attn
    assert flags == (False, False, takes(family, "flex-plain"))


def test_an_unknown_name_is_transformers_own_error_and_the_model_keeps_its_attention():
    model = CHOSEN[0].build()
    for name, message in (("none-such", "is not supported. The only possible"), ("own-unmasked", "needs more")):
        with pytest.raises(ValueError, match=message):
            model.set_attn_implementation(name)
        assert model.config._attn_implementation == "sdpa"


@by(
    [
        family
        for family in CHOSEN
        if family.name in ("gpt-rope", "native-qk-norm", "thinker-loop-exit", "generic", "space")
    ]
)
@pytest.mark.parametrize("implementation", ["flex-plain", "flash-plain"])
def test_packed_documents_stay_apart_with_the_gradients_of_sdpa(family, implementation):
    """Two rows, of which the second begins with a document of two tokens."""
    if not takes(family, implementation):
        pytest.skip("refused, as another test says")
    seen, input_ids = [], family.draw(2, 16)
    for attention in ("sdpa", implementation):
        model = family.build().train()
        model.set_attn_implementation(attention)
        logits = model(input_ids, position_ids=PACKED, use_cache=False).logits
        logits.square().mean().backward()
        seen.append((logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (expected, expected_gradients), (logits, gradients) = seen
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-3)


@by([family for family in CHOSEN if family.name in ("gpt-rope", "generic")])
@pytest.mark.parametrize("side", [None, "left"])
def test_flash_attention_with_a_static_cache_or_chunked_prefill_writes_the_text_of_sdpa(family, side):
    model, batch = family.build(), family.pad(family.draw_rows()[:2], side) if side else family.draw_prompt()
    expected = write(model, family, batch)
    model.set_attn_implementation("flash-plain")
    for options in ({"cache_implementation": "static"}, {"prefill_chunk_size": 4}):
        assert torch.equal(write(model, family, batch, **options), expected)


def test_flex_attention_refuses_a_static_cache():
    family = FAMILIES[2]
    model = family.build()
    model.set_attn_implementation("flex_attention")
    with pytest.raises(ValueError, match=r'"flex_attention"` needs one that grows. Remove `cache_implementation'):
        write(model, family, family.draw_prompt(), cache_implementation="static")


def test_continuous_batching_by_flash_attention_writes_what_generate_writes():
    model, prompts = FAMILIES[2].build(), [draw_ids(length).tolist() for length in (9, 4, 12, 1)]
    settings = GenerationConfig(**GREEDY, pad_token_id=0)
    expected = [model.generate(torch.tensor([ids]), settings)[0, len(ids) :].tolist() for ids in prompts]
    model.set_attn_implementation("flash-plain")
    pool = ContinuousBatchingConfig(num_blocks=32, max_batch_tokens=64)
    results = model.generate_batch(prompts, settings, continuous_batching_config=pool)
    assert [result.generated_tokens for result in results.values()] == expected


@pytest.mark.parametrize("implementation", ["flex-plain", "flash-plain"])
def test_tokens_that_exit_are_the_same_where_rows_without_others_are_not_left_out(implementation):
    (family,) = (family for family in CHOSEN if family.name == "thinker-loop-exit")
    model, padded = family.build(), family.pad(family.draw_rows(), "left")
    packed = {"input_ids": draw_ids(2, 16), "position_ids": PACKED, "use_cache": False}
    packed["input_ids"][0] = packed["input_ids"][0, 0]  # the tokens of this row exit first
    for inputs in (padded, packed):
        seen = []
        for attention in ("sdpa", implementation):
            model.set_attn_implementation(attention)
            with torch.no_grad():
                seen.append(model(**inputs, exit_threshold=0.6, num_steps=6))
        assert torch.equal(seen[1].num_steps_used, seen[0].num_steps_used)
        is_real = family.mask_text(inputs)
        torch.testing.assert_close(seen[1].logits[is_real], seen[0].logits[is_real], atol=1e-5, rtol=1e-4)
