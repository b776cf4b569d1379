# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Validation, saving and derived numbers of the configuration of Thoughtbubbles."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig

from hf_thoughtbubbles import ThoughtbubblesConfig
from tests.families import make_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 25}, "`hidden_size` 25 is not a multiple of `num_attention_heads` 3"),
        ({"hidden_size": 27, "num_attention_heads": 3}, "head size .* = 9 is odd"),
        ({"fork_layers": [1, 5]}, "names layer 5, but with `num_hidden_layers=5` layers are 0 to 4"),
        ({"fork_layers": [-1]}, "names layer -1"),
        ({"fork_layers": [1, 1]}, "repeats a layer"),
        ({"fork_budget": 0.5}, "`fork_budget` is 0.5; it must be finite and at least 1"),
        ({"fork_budget": float("inf")}, "`fork_budget` is inf"),
        ({"fork_budget": float("nan")}, "`fork_budget` is nan"),
        ({"fork_score_init": (1.0,)}, r"`fork_score_init` is \(1.0,\); it must be two finite logits"),
        ({"fork_score_init": (0, float("nan"))}, "two finite logits"),
        ({"fork_calibration": {"budgets": [2.0, 1.0], "thresholds": [[0, 0], [0, 0]]}}, "must have ascending budgets"),
        ({"fork_calibration": {"budgets": [1.0, 2.0], "thresholds": [[0, 0]]}}, "a row for each"),
        ({"fork_calibration": {}}, "`calibrate_forks"),
        ({"fork_calibration": {"budgets": [1.0], "thresholds": [[0.0]]}}, r"for \[1\] fork layers, but .* names 2"),
        (
            {"fork_rule": "best"},
            r"`fork_rule='best'` was passed, but the registered rules are \['copy', ",
        ),
        ({"vocab_size": 0}, "`vocab_size` is 0; it must be at least 1"),
        ({"rope_parameters": {"rope_type": "axial", "rope_theta": 1e4}}, "it must be one of"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "all channels",
        ),
        ({"hidden_act": "nope"}, "`hidden_act` is 'nope'"),
        ({"layer_norm_eps": -1.0}, "`layer_norm_eps` is -1.0; it must be positive"),
        ({"initializer_range": 0.0}, "`initializer_range` is 0.0; it must be positive"),
        ({"num_attention_heads": 0}, "`num_attention_heads` is 0; it must be at least 1"),
        ({"hidden_dropout": 1.0}, r"`hidden_dropout` is 1.0; it must be in \[0, 1\)"),
    ],
)
def test_numbers_that_contradict_each_other_are_one_clear_error(changes, message):
    with pytest.raises((StrictDataclassClassValidationError, ValueError), match=message):
        make_config(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"fork_rule": 3},
        {"fold": "mean"},
        {"position_embedding": "no"},
        {"hidden_size": 24.0},
        {"mlp_bias": "yes"},
    ],
)
def test_values_of_another_kind_are_refused_by_field(changes):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(changes))):
        make_config(**changes)


def test_it_comes_back_from_disk_as_it_was(tmp_path):
    rope_parameters = {"rope_type": "default", "rope_theta": 500.0}
    native_config = {"model_type": "llama", "rope_theta": 5e5, "eos_token_id": [1, 2], "head_dim": None}
    fields = {"rope_parameters": rope_parameters, "native_config": native_config}
    config = make_config(fork_budget=1024 / 448, fork_layers=[3, 0], **fields)
    config.save_pretrained(tmp_path)
    reloaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(reloaded, ThoughtbubblesConfig)
    assert reloaded.fork_budget == 1024 / 448
    assert reloaded.fork_layers == [0, 3]
    assert reloaded.rope_parameters["rope_theta"] == 500.0
    assert reloaded.native_config == native_config
    assert {**reloaded.to_dict(), "_name_or_path": ""} == config.to_dict()


def test_derived_numbers_follow_the_fields():
    assert make_config().head_dim == 8
    assert make_config(intermediate_size=None).intermediate_size == 96
    assert make_config().num_key_value_heads == 3
    assert make_config(head_dim=10).head_dim == 10


def test_what_a_cache_keeps_follows_the_forks():
    kinds = ["full_attention"] + ["stream_attention"] * 4
    assert make_config(fork_rule="threshold").layer_types == kinds
    assert make_config().layer_types == make_config(fork_layers=[]).layer_types == ["full_attention"] * 5
    assert make_config(fork_rule="threshold", fork_layers=[4, 0]).layer_types == ["stream_attention"] * 5
    assert "layer_types" not in json.loads(make_config().to_json_string(use_diff=False))
