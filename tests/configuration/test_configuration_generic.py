# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Validation of the configurations of generic transformers and next-thought models."""

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError

from hf_thoughtbubbles import GenericTransformerConfig, NextThoughtConfig


SIZES = {"vocab_size": 61, "hidden_size": 24, "num_attention_heads": 6}


@pytest.mark.parametrize(
    "changes",
    [
        *({f"{part}_normalization": "batch_norm"} for part in ("attention", "mlp", "final")),
        {"feed_forward": "moe"},
        {"position_embedding": "alibi"},
        {"share_feed_forward": "yes"},
        {"is_causal": 2},
        {"num_hidden_layers": 2.5},
    ],
    ids=str,
)
def test_unknown_values_of_generic_options_are_refused_by_field(changes):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(changes))):
        GenericTransformerConfig(**SIZES, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 4}, "`num_attention_heads` 6 is not a multiple of `num_key_value_heads` 4"),
        ({"num_attention_heads": 7}, "`hidden_size` 24 is not a multiple of `num_attention_heads` 7"),
        ({"num_attention_heads": 8}, "head size .* = 3 is odd"),
        ({"hidden_act": "swish"}, '`hidden_act` is "swish"; it must be one of'),
        ({"hidden_dropout": 1.0}, r"`hidden_dropout` is 1.0; it must be in \[0, 1\)"),
        ({"attention_dropout": -0.1}, "`attention_dropout` is -0.1"),
        ({"rms_norm_eps": 0.0}, "`rms_norm_eps` is 0.0; it must be positive"),
        ({"initializer_range": -1}, "`initializer_range` is -1; it must be positive"),
        ({"max_relative_position": 0}, "`max_relative_position` is 0; it must be at least 1"),
    ],
    ids=str,
)
def test_generic_numbers_that_contradict_each_other_are_one_clear_error(changes, message):
    with pytest.raises((StrictDataclassClassValidationError, ValueError), match=message):
        GenericTransformerConfig(**{**SIZES, **changes})


@pytest.mark.parametrize(
    "changes", [{"core": "conv"}, {"feed_forward": "moe"}, {"position_embedding": "rope"}], ids=str
)
def test_unknown_values_of_next_thought_options_are_refused_by_field(changes):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(changes))):
        NextThoughtConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_pooling_heads": 7}, "`num_pooling_heads` 7 does not divide 384"),
        ({"encoder_attention_heads": 12, "encoder_key_value_heads": 5}, "is not a multiple of"),
        ({"removed_shares": [0.5]}, "need one entry for each pooling layer"),
        ({"removed_shares": [0.5, 1.0]}, "`removed_shares` holds 1.0"),
        ({"max_position_embeddings": 2, "removed_shares": [0.5, 0.5]}, "leave no token of a thought"),
        ({"core": "block_linear", "core_block_sizes": [7]}, "does not divide the `latent_size` 1200"),
        ({"dropout": 1}, r"`dropout` is 1; it must be in \[0, 1\)"),
    ],
    ids=str,
)
def test_next_thought_numbers_that_contradict_each_other_are_one_clear_error(changes, message):
    with pytest.raises((StrictDataclassClassValidationError, ValueError), match=message):
        NextThoughtConfig(**changes)
