# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Fields of the generation configuration in all passes of one `generate`, and refusals before the first pass."""

import pytest
import torch
import torch.nn.functional as F
from transformers import GenerationConfig, UnbatchedClassifierFreeGuidanceLogitsProcessor

from hf_thoughtbubbles import build_byte_tokenizer
from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS, take_row


FAMILY = {family.name: family for family in (*FAMILIES, *BYTE_VARIANTS, *ANSWERERS, *THOUGHT_VARIANTS)}
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}
SCALE = 1.7
# A family, and arguments that change what its passes compute.
GUIDED = (
    ("thoughtbubbles", {}),
    ("gpt-rope", {}),
    ("threshold", {"fork_budget": 4.0}),
    ("threshold-probability", {"fork_budget": 4.0}),
    ("thinker-exit", {"exit_threshold": 0.6, "num_steps": 7}),
    ("generic-relative", {}),
    ("generic-bidirectional", {}),
    ("space", {}),
    ("fixed-parallel", {}),
)
ANSWERING = ("plain-autoregressive", "plain-parallel", "plain")


def guide(model, first: torch.Tensor, second: torch.Tensor, **fields) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts (B, T) and scores (B, n, V) by the formula: two passes without a cache for each token."""
    all_scores = []
    for _ in range(GREEDY["max_new_tokens"]):
        passes = [model(text, use_cache=False, **fields).logits[:, -1].float() for text in (first, second)]
        positive, negative = (F.log_softmax(logits, dim=-1) for logits in passes)
        scores = SCALE * (positive - negative) + negative
        first, second = (torch.cat((text, scores.argmax(-1, keepdim=True)), dim=1) for text in (first, second))
        all_scores.append(scores)
    return first, torch.stack(all_scores, dim=1)


def place_fields(model, fields: dict, where: str) -> dict:
    """Arguments of a greedy `generate` with these fields: its own, those of a configuration, or those of the model."""
    if where == "argument":
        return {**GREEDY, **fields}
    if where == "given":
        return {"generation_config": GenerationConfig(**GREEDY, **fields)}
    model.generation_config.update(**fields, allow_custom_entries=True)
    return GREEDY


@pytest.mark.thorough
@pytest.mark.parametrize("name, fields", GUIDED, ids=lambda value: value if isinstance(value, str) else "")
@torch.no_grad()
def test_guided_scores_are_those_of_two_passes_with_the_same_arguments(name, fields):
    family = FAMILY[name]
    model, prompt, negative = family.build(), family.draw(2, 9), family.draw(2, 5)
    usual = guide(model, prompt, negative)[1]
    for ids, second in ((None, prompt[:, -1:]), (negative, negative)):
        texts, scores = guide(model, prompt, second, **fields)
        written = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            guidance_scale=SCALE,
            negative_prompt_ids=ids,
            return_dict_in_generate=True,
            output_scores=True,
            **GREEDY,
            **fields,
        )
        assert torch.equal(written.sequences, texts)
        torch.testing.assert_close(torch.stack(written.scores, dim=1), scores, atol=1e-4, rtol=0)
    assert not fields or (scores - usual).abs().max() > 0.1, "so that a pass without them would show"


@pytest.mark.parametrize("name", ["threshold", "thinker", "generic-relative", "space"])
def test_a_guided_row_of_a_padded_batch_equals_the_row_alone(name):
    family = FAMILY[name]
    model, rows = family.build(), family.draw_rows()[:3]
    batch, negative = family.pad(rows, "left"), family.pad([family.draw(length) for length in (7, 3, 5)], "left")
    for num_copies in (1, 2):
        options = {**GREEDY, "guidance_scale": SCALE}
        options |= {"do_sample": True, "top_k": 1, "num_return_sequences": 2} if num_copies == 2 else {}
        second = {f"negative_prompt_{key.removeprefix('input_')}": negative[key] for key in negative}
        together = model.generate(**batch, **options, **second)[:, -GREEDY["max_new_tokens"] :]
        for row in range(3):
            alone = take_row(negative, row)["input_ids"]
            expected = model.generate(**take_row(batch, row), **options, negative_prompt_ids=alone)
            expected = expected[:, -GREEDY["max_new_tokens"] :]
            assert torch.equal(together[row * num_copies : (row + 1) * num_copies], expected)


def test_a_guidance_processor_of_the_caller_reads_the_arguments_of_the_call():
    model, prompt = FAMILY["threshold"].build(), FAMILY["threshold"].draw(2, 9)
    options = {"attention_mask": torch.ones_like(prompt), "fork_budget": 4.0, **GREEDY}
    own = UnbatchedClassifierFreeGuidanceLogitsProcessor(SCALE, model)
    written = model.generate(prompt, logits_processor=[own], **options)
    assert torch.equal(written, model.generate(prompt, guidance_scale=SCALE, **options))


def search_on(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
    """A decoding loop of the caller, with passes of its own."""
    for _ in range(2):
        inputs = model.prepare_inputs_for_generation(input_ids, **model_kwargs)
        inputs["input_ids"], inputs["use_cache"] = input_ids, False
        inputs |= {"past_key_values": None, "position_ids": None}
        input_ids = torch.cat((input_ids, model(**inputs).logits[:, -1:].argmax(-1)), dim=1)
    return input_ids


WAYS = {
    "greedy": {},
    "sampled": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 3},
    "chunked": {"prefill_chunk_size": 4},
    "static": {"cache_implementation": "static"},
    "uncached": {"use_cache": False},
    "lookup": {"prompt_lookup_num_tokens": 2},
    "guided": {"guidance_scale": 2.0},
    "early": {"assistant_early_exit": 1},
    "custom": {"custom_generate": search_on},
}


@pytest.mark.parametrize("name, fields", [GUIDED[2], GUIDED[4]], ids=lambda value: str(value))
@pytest.mark.parametrize("where", ["argument", "given", "model"])
def test_every_pass_of_the_model_is_given_the_fields(name, fields, where):
    family = FAMILY[name]
    model, prompt, passes = family.build(), family.draw(1, 9), []
    model.register_forward_pre_hook(lambda module, args, kwargs: passes.append(kwargs), with_kwargs=True)
    placed = place_fields(model, fields, where)
    for way, options in WAYS.items():
        if way == "early" and not model.has_early_exit:
            continue
        passes.clear()
        model.generate(prompt, attention_mask=torch.ones_like(prompt), **{**placed, **options})
        assert passes, way
        for given in passes:
            assert {key: given.get(key) for key in fields} == fields, way


@pytest.mark.parametrize("name", ["threshold", "thinker", "plain-autoregressive", "plain"])
def test_an_assistant_reads_its_own_fields_in_every_pass(name):
    """The encoder's too, which transformers runs before the assistant's first `generate`."""
    family = FAMILY[name]
    own = {"fork_budget": 1.0} if name == "threshold" else {"num_thoughts": 3} if name == "plain" else {"num_steps": 2}
    model, assistant, passes = family.build(), family.build(seed=1), []
    place_fields(assistant, own, "model")
    for module in [assistant, *([assistant.get_encoder()] if family.is_encoder_decoder else [])]:
        module.register_forward_pre_hook(lambda module, args, kwargs: passes.append(kwargs), with_kwargs=True)
    options = {**family.ask(1, 9), **GREEDY, **family.compute_options}
    assert torch.equal(model.generate(assistant_model=assistant, **options), model.generate(**options))
    assert passes
    for given in passes:
        assert {key: given.get(key) for key in own} == own


REFUSED = (
    ("threshold", {"guidance_scale": 2.0, "num_beams": 2}, "`num_beams` is 2"),
    ("generic", {"guidance_scale": 2.0, "prompt_lookup_num_tokens": 2}, "with assisted or prompt-lookup"),
    ("thinker", {"guidance_scale": 2.0, "assistant_model": FAMILY["thinker"]}, "with assisted or prompt-lookup"),
    ("generic", {"negative_prompt_ids": torch.ones(1, 3).long()}, "`negative_prompt_ids` was passed without"),
    ("generic", {"guidance_scale": 2.0, "negative_prompt_ids": torch.ones(2, 3).long()}, "for 1 texts"),
    ("generic", {"guidance_scale": 2.0, "negative_prompt_ids": torch.full((1, 3), 61)}, "holds 61"),
    ("generic-gpt2", {"guidance_scale": 2.0, "negative_prompt_ids": torch.ones(1, 35).long()}, "may read 40 tokens"),
    ("token", {"guidance_scale": 2.0}, 'with `patching="token"`, but the second text has no `patch_lengths`'),
    ("space", {"guidance_scale": 2.0, "patch_lengths": torch.tensor([[5, 4]])}, "`patch_lengths` was passed with"),
    *((name, {"guidance_scale": 2.0}, "answers its input in a text of its own") for name in ANSWERING),
    *((name, {"token_healing": True}, "to a model that answers") for name in ANSWERING),
    ("threshold", {"token_healing": True, "fork_budget": 4.0}, "with `fork_budget`, which its passes do not read"),
    ("threshold", {"assistant_early_exit": 6}, "takes 1 to 5 layers"),
    *((name, {"assistant_early_exit": 1}, "needs all of its layers") for name in ("thinker", "generic", "space")),
    *((name, {"assistant_early_exit": 1}, "needs all of its layers") for name in ("plain-autoregressive", "plain")),
    ("generic", {"penalty_alpha": 0.6, "top_k": 4}, "Contrastive Search requires `trust_remote_code=True`"),
    ("thinker", {"dola_layers": "low"}, "Dola Generation requires `trust_remote_code=True`"),
)


@pytest.mark.parametrize("name, options, message", REFUSED)
def test_what_cannot_reach_every_pass_is_refused_before_the_first(name, options, message):
    family, passes = FAMILY[name], []
    model, prompt = family.build(), family.ask(1, 9)
    if "assistant_model" in options:
        options = {**options, "assistant_model": options["assistant_model"].build(seed=1)}
    model.register_forward_pre_hook(lambda *args: passes.append(args))
    layers = model.config.num_hidden_layers
    with pytest.raises(ValueError, match=message):
        model.generate(**{**prompt, **GREEDY, **options})
    assert not passes
    assert model.config.num_hidden_layers == layers


def test_healing_without_fields_runs():
    model, ids = FAMILY["space"].build(), torch.tensor([list(b"to be, or")])
    written = model.generate(ids, token_healing=True, tokenizer=build_byte_tokenizer(), **GREEDY)
    assert torch.equal(written, model.generate(ids, **GREEDY))
