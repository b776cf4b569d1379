# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Checkpoints of the original Thinker are converted, or refused by name.

tests/modeling/looped_thinker/test_parity_looped_thinker.py compares the outputs of converted models.
"""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from hf_thoughtbubbles import LoopedThinkerForConditionalGeneration
from hf_thoughtbubbles.conversion.toythinker import (
    config_from_toythinker,
    list_parameters,
    looped_thinker_from_toythinker,
)


PLAIN = {
    "vocab_size": 31,
    "max_latent": 7,
    "max_input_len": 17,
    "max_output_len": 11,
    "d_model": 12,
    "nhead": 2,
    "d_hid": 19,
    "nlayers": 1,
}
KINDS = {
    "plain": PLAIN,
    "two layers": {**PLAIN, "nlayers": 2, "n_probe": 3, "static_mem_len": 5, "dropout": 0.1},
    "low rank": {**PLAIN, "rank": 5, "ff_in_self_attn": True},
    "rank of full width": {**PLAIN, "rank": 12},
    "skip": {**PLAIN, "nlayers": 2, "skip_self_attn": True, "ff_in_self_attn": True},
}
ALL = pytest.mark.parametrize("kwargs", KINDS.values(), ids=KINDS)


def make_state(kwargs) -> dict[str, torch.Tensor]:
    """A random `state_dict()` of the original."""
    config = config_from_toythinker(kwargs)
    parameters = dict(LoopedThinkerForConditionalGeneration(config).named_parameters())
    return {theirs: torch.randn_like(parameters[ours]) for theirs, ours in list_parameters(config).items()}


@ALL
@pytest.mark.parametrize("readout", ["autoregressive", "parallel"])
def test_a_converted_model_saves_and_reloads(kwargs, readout, tmp_path):
    state = make_state(kwargs)
    model = looped_thinker_from_toythinker(state, kwargs, readout)
    assert not model.training
    assert model.config.readout == readout
    assert model.config.position_frequencies == "single"
    inputs = {"input_ids": torch.randint(0, 31, (2, 9))}
    inputs |= {"answer_length": 5} if readout == "parallel" else {"decoder_input_ids": torch.randint(0, 31, (2, 5))}
    expected = model(**inputs, num_steps=3).logits
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert torch.equal(reloaded(**inputs, num_steps=3).logits, expected)
    assert reloaded.config.position_frequencies == "single"


@ALL
def test_every_parameter_is_set_by_one_of_the_original(kwargs):
    state = make_state(kwargs)
    parameters = dict(looped_thinker_from_toythinker(state, kwargs).named_parameters())
    names = list_parameters(config_from_toythinker(kwargs))
    assert sorted(names.values()) == sorted(parameters)
    for theirs, ours in names.items():
        assert torch.equal(parameters[ours], state[theirs]), theirs


def test_arrays_are_converted_like_tensors():
    state = make_state(PLAIN)
    arrays = {name: value.numpy().astype(np.float64) for name, value in state.items()}
    models = [looped_thinker_from_toythinker(given, PLAIN) for given in (state, arrays)]
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.dtype == torch.float32


def test_entries_that_the_original_never_uses_are_ignored():
    """Its position buffer, its unused table of positions, and an empty table of static memories."""
    unread = {
        "pos_encoder.pe": torch.zeros(1, 17, 12),
        "embd_in_pos.weight": torch.zeros(17, 12),
        "emb_static_mem.weight": torch.zeros(0, 12),
    }
    looped_thinker_from_toythinker({**make_state(PLAIN), **unread}, PLAIN)


def test_static_memories_without_their_argument_are_refused():
    state = {**make_state(PLAIN), "emb_static_mem.weight": torch.zeros(5, 12)}
    with pytest.raises(ValueError, match=r"emb_static_mem.weight"):
        looped_thinker_from_toythinker(state, PLAIN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_head": 2}, r"unknown keys \['n_head'\]"),
        ({"nhead": None}, r"lacks \['nhead'\]"),
        ({"d_model": 13}, "`hidden_size` 13 is not a multiple"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    kwargs = {key: value for key, value in {**PLAIN, **changes}.items() if value is not None}
    with pytest.raises(Exception, match=message):
        config_from_toythinker(kwargs)


def test_a_state_that_does_not_fit_is_refused():
    state, name = make_state(PLAIN), "attn_compute.ff.w1.weight"
    without = {key: value for key, value in state.items() if key != name}
    for given, kwargs, message in (
        (without, PLAIN, r"lacks \['attn_compute.ff.w1.weight'\] and has unexpected \[\]"),
        ({**state, "more": torch.zeros(1)}, PLAIN, r"lacks \[\] and has unexpected \['more'\]"),
        ({**state, name: torch.zeros(12, 19)}, PLAIN, r"attn_compute.ff.w1.weight of shape \(12, 19\).* \(19, 12\)"),
        (state, {**PLAIN, "n_probe": 3}, r"lacks \['probe_proj.bias', 'probe_proj.weight'\]"),
        (state, {**PLAIN, "nlayers": 2}, r"lacks \['attn_compute.layers.0"),
        (make_state(KINDS["low rank"]), PLAIN, "unexpected"),
        (make_state(KINDS["two layers"]), {**KINDS["two layers"], "static_mem_len": 4}, r"\(5, 12\).* \(4, 12\)"),
    ):
        with pytest.raises(ValueError, match=message):
            looped_thinker_from_toythinker(given, kwargs)


def test_a_converted_model_ties_its_head_to_its_embeddings():
    """The original uses one matrix for both."""
    model = looped_thinker_from_toythinker(make_state(PLAIN), PLAIN)
    assert model.lm_head.weight is model.model.embed_tokens.weight
