# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Caches by both of their names, in every class that generates, and caches under gradient checkpointing."""

import copy
import inspect
import logging

import pytest
import torch
from transformers import PreTrainedModel, StaticCache
from transformers.utils.logging import warning_once

from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME, CACHE_NAMES
from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS, draw_ids


NUM_PAST = 4


def build_models() -> dict[str, PreTrainedModel]:
    """One model with a cache of every class that generates."""
    wanted = ("gpt-rope", "threshold", "thinker", "generic")
    models = {family.name: family.build() for family in FAMILIES if family.name in wanted}
    models["answers"] = next(each for each in ANSWERERS if not each.is_parallel).build()
    models["bytes"] = BYTE_VARIANTS[0].build()
    models["next-thought"] = THOUGHT_VARIANTS[0].build()
    return models


MODELS = build_models()


@pytest.fixture(params=MODELS)
def model(request) -> PreTrainedModel:
    """Each model in turn; nothing here changes one."""
    return MODELS[request.param]


def split_reading(model) -> tuple[dict, dict, dict]:
    """Inputs of a model in one call, and the same inputs in two calls."""
    torch.manual_seed(0)
    tokens, problem, name = draw_ids(2, 7), {}, "input_ids"
    if model.config.is_encoder_decoder:
        problem, name = {"input_ids": draw_ids(2, 5)}, "decoder_input_ids"
    rows = (tokens, tokens[:, :NUM_PAST], tokens[:, NUM_PAST:])
    return tuple({**problem, name: part} for part in rows)


@torch.no_grad()
def test_a_cache_is_read_by_either_name(model):
    whole, first, rest = split_reading(model)
    expected = model(**whole, use_cache=False).logits[:, NUM_PAST:]
    for name in CACHE_NAMES:
        cache = getattr(model(**first, use_cache=True), CACHE_NAME)
        outputs = model(**rest, **{name: cache})
        torch.testing.assert_close(outputs.logits, expected)
        assert getattr(outputs, CACHE_NAME) is cache
        assert getattr(model.model(**rest, **{name: cache}), CACHE_NAME) is cache


@torch.no_grad()
def test_both_names_at_once_are_refused(model):
    _, first, rest = split_reading(model)
    cache = getattr(model(**first, use_cache=True), CACHE_NAME)
    for reader in (model, model.model):
        with pytest.raises(ValueError, match="Both `cache` and `past_key_values` were passed"):
            reader(**rest, **dict.fromkeys(CACHE_NAMES, cache))
    assert getattr(model(**rest, past_key_values=cache, cache=None), CACHE_NAME) is cache


@torch.no_grad()
def test_signatures_and_outputs_have_only_the_name_of_this_version(model):
    for reader in (model, model.model):
        parameters = inspect.signature(reader.forward).parameters
        assert [name for name in parameters if name in CACHE_NAMES] == [CACHE_NAME]
        assert {"use_cache", "kwargs"} <= set(parameters)
        outputs = reader(**split_reading(model)[0])
        assert [name for name in outputs if name in CACHE_NAMES] == [CACHE_NAME]
    assert set(CACHE_NAMES) <= set(model.config.keys_to_ignore_at_inference)
    assert set(CACHE_NAMES) <= set(model._skip_keys_device_placement)


def test_generation_goes_on_from_a_given_cache_and_nothing_is_logged(model, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    warning_once.cache_clear()  # a warning of an earlier test would hide this one
    whole, first, _ = split_reading(model)
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    expected = model.generate(**whole, **settings, use_cache=False).sequences
    with torch.no_grad():
        cache = getattr(model(**first, use_cache=True), CACHE_NAME)
    generated = model.generate(**whole, **settings, **{CACHE_NAME: cache})
    assert generated.sequences.equal(expected)
    assert getattr(generated, CACHE_NAME) is cache
    assert not [record.getMessage() for record in caplog.records if "deprecated" in record.getMessage()]


@pytest.mark.parametrize("name", ("gpt-rope", "generic", "bytes"))
def test_layers_get_no_cache_under_gradient_checkpointing(name):
    model = copy.deepcopy(MODELS[name]).train()
    whole, first, rest = split_reading(model)
    kept = getattr(model(**first, use_cache=True), CACHE_NAME)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    outputs = model(**first, use_cache=True)
    outputs.logits.sum().backward()
    empty = getattr(outputs, CACHE_NAME)
    assert all(layer.is_initialized for layer in kept.layers)
    assert not any(layer.is_initialized for layer in empty.layers) and empty.get_seq_length() == 0
    for reader in (model, model.model):
        with pytest.raises(ValueError, match=r"`past_key_values` with 4 tokens was passed .* Call `model.eval\(\)`"):
            reader(**rest, **{CACHE_NAME: kept})
    model.eval()
    with torch.no_grad():
        continued = model(**rest, **{CACHE_NAME: kept}).logits
        torch.testing.assert_close(continued, model(**whole, use_cache=False).logits[:, NUM_PAST:])


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_graph_is_not_broken_by_the_renaming():
    family = next(family for family in FAMILIES if family.name == "generic")
    model = family.build(num_hidden_layers=1)
    cache = StaticCache(model.config, max_cache_len=11)
    tokens = draw_ids(2, 7)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, cache=cache).logits, model(tokens).logits)
    assert cache.get_seq_length() == tokens.shape[1]
