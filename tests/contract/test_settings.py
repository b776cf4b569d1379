# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Settings that would do nothing are refused by name, by the models of every family."""

import copy

import pytest
import torch
from transformers import GenerationConfig

from hf_thoughtbubbles.modeling.common.checks_settings import FAMILY_ARGUMENTS
from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS, Family


OF_EACH_CLASS = {entry.model_class: entry for entry in (*FAMILIES, *ANSWERERS, *BYTE_VARIANTS, *THOUGHT_VARIANTS)}
# Arguments of `forward`, and fields of `GenerationConfig`, that each family reads.
THINKING = {"num_steps", "output_steps"}
DECODER = {"decoder_attention_mask", "decoder_input_ids", "decoder_inputs_embeds", "encoder_outputs"}
ANSWERING = {*DECODER, *THINKING, "num_latents", "num_read_steps", "memory_ids", "answer_length", "loop_decoder"}
ARGUMENTS = {
    "thoughtbubbles": {"fork_budget", "output_forks"},
    "looped_thinker_text": {*THINKING, "exit_threshold"},
    "looped_thinker": {*ANSWERING, "probe_targets"},
    "generic_transformer": set(),
    "byte_patch": {"patch_lengths", "patch_input_ids", "output_patches"},
    "next_thought": {*DECODER, "num_thoughts", "output_pooling"},
}
GENERATION_FIELDS = {
    "thoughtbubbles": {"fork_budget"},
    "looped_thinker_text": {"num_steps", "exit_threshold"},
    "looped_thinker": {"num_steps", "num_latents", "num_read_steps"},
    "generic_transformer": set(),
    "byte_patch": {"num_draft_bytes"},  # which `forward` does not read
    "next_thought": {"num_thoughts"},
}


@pytest.fixture(params=OF_EACH_CLASS.values(), ids=[model_class.__name__ for model_class in OF_EACH_CLASS])
def family(request) -> Family:
    return request.param


def read(family: Family) -> dict:
    """Inputs of one forward pass."""
    return {**family.ask(), **family.read()}


def test_every_argument_of_ours_is_in_the_table():
    assert set().union(*ARGUMENTS.values(), *GENERATION_FIELDS.values()) == set(FAMILY_ARGUMENTS)


def test_arguments_of_other_families_are_refused_by_name(family):
    model, inputs = family.build(), read(family)
    for name in {*FAMILY_ARGUMENTS} - ARGUMENTS[family.config.model_type]:
        with pytest.raises(ValueError, match=f"`{name}` was passed, but .* does not read it. Remove it"):
            model(**inputs, **{name: 3})
        model(**inputs, **{name: None})  # the default of the families that have it


def test_misspelt_arguments_are_refused_with_the_right_name(family):
    model, inputs, known = family.build(), read(family), ARGUMENTS[family.config.model_type]
    with pytest.raises(ValueError, match="`num_step` was passed"):
        model(**inputs, num_step=3)
    for name in known - {*inputs, "probe_targets"}:  # of the base model
        with pytest.raises(ValueError, match=f"`{name}s` was passed, but .*(Did you mean `{name}`|Remove it)"):
            model(**inputs, **{f"{name}s": 3})


def test_arguments_of_tools_are_passed_on(family):
    """Those that the Trainer, collators of packed rows and `generate` pass to any model."""
    model, inputs = family.build(), read(family)
    cumulative = torch.tensor([0, 17], dtype=torch.int32)
    packing = {"cu_seq_lens_q": cumulative, "cu_seq_lens_k": cumulative, "max_length_q": 17, "max_length_k": 17}
    outputs = model(**inputs, **packing, num_items_in_batch=torch.tensor(34), token_type_ids=None, seq_idx=None)
    assert torch.equal(outputs.logits, model(**inputs).logits)


def test_fields_of_other_families_in_a_generation_configuration_are_refused(family):
    model, prompt = family.build(), family.ask()
    known = GENERATION_FIELDS[family.config.model_type]
    for name in {"num_step", "output_forks", "output_patches", *set().union(*GENERATION_FIELDS.values())} - known:
        with pytest.raises(ValueError, match=f"`{name}` was passed, but `generate` of this model does not read it"):
            model.generate(**prompt, generation_config=GenerationConfig(max_new_tokens=2, **{name: 2}))


def test_attentions_are_refused_where_they_are_not_computed(family):
    model, inputs = family.build(), read(family)
    model.set_attn_implementation("sdpa")
    for call in (model, model.model):
        with pytest.raises(ValueError, match='`output_attentions=True` was passed, but `attn_implementation="sdpa"`'):
            call(**inputs, output_attentions=True)
    with pytest.raises(ValueError, match="`output_attentions=True` was passed"):
        model.generate(**family.ask(), max_new_tokens=2, output_attentions=True, return_dict_in_generate=True)
    model.set_attn_implementation("eager")
    attentions = model.model(**inputs, output_attentions=True).attentions
    assert len(attentions) > 0
    for weights in attentions:
        totals = weights.sum(-1)
        torch.testing.assert_close(totals[totals > 1e-3], torch.ones_like(totals[totals > 1e-3]))


def test_settings_for_a_cache_are_refused_where_there_is_none():
    entry = next(entry for entry in FAMILIES if entry.name == "generic-bidirectional")
    model, prompt = entry.build(), entry.ask()
    for name, options in (
        ("cache_implementation", {"cache_implementation": "static"}),
        ("prefill_chunk_size", {"prefill_chunk_size": 3}),
        ("prompt_lookup_num_tokens", {"prompt_lookup_num_tokens": 2}),
    ):
        with pytest.raises(ValueError, match=f"`{name}`.*"):
            model.generate(**entry.ask(1), **options, max_new_tokens=2)
    assert model.generate(**prompt, max_new_tokens=2).shape[0] == 2


@pytest.mark.parametrize("name", ["thinker", "plain-autoregressive"])
def test_hidden_states_of_loops_are_selected_from_the_first(name):
    entry = next(entry for entry in (*FAMILIES, *ANSWERERS) if entry.name == name)
    model, inputs = entry.build().model, read(entry)
    with pytest.raises(ValueError, match=r"`output_hidden_states=\[0, -1\]` was passed"):
        model(**inputs, output_hidden_states=[0, -1])
    last = len(model(**inputs, output_hidden_states=True).hidden_states) - 1
    assert last > model.config.num_hidden_layers


def test_parallel_answers_refuse_outputs_of_steps_that_read_nothing():
    entry = next(entry for entry in ANSWERERS if entry.name == "plain-parallel")
    for name in ("output_hidden_states", "output_attentions"):
        with pytest.raises(ValueError, match=f"`{name}=True` was passed"):
            entry.build().generate(**entry.ask(), max_new_tokens=2, return_dict_in_generate=True, **{name: True})


def test_pooling_that_was_not_kept_is_not_returned_as_none():
    entry = THOUGHT_VARIANTS[0]
    model, inputs = entry.build(), read(entry)
    thought = {name: inputs.pop(name) for name in ("input_ids", "attention_mask") if name in inputs}
    kept = model.get_encoder()(**thought, output_pooling=True)
    assert model(**inputs, encoder_outputs=kept, output_pooling=True).pooling is kept.pooling is not None
    lost = copy.copy(kept)
    lost.pooling = None
    with pytest.raises(ValueError, match="`output_pooling=True` was passed, but `encoder_outputs` has no `pooling`"):
        model(**inputs, encoder_outputs=lost, output_pooling=True)
