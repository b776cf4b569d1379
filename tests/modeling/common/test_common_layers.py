# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Rotary embeddings have the angles of native decoders, for every scaling and length."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from hf_thoughtbubbles import (
    BytePatchConfig,
    GenericTransformerConfig,
    LoopedThinkerTextConfig,
    LoopedThinkerTextModel,
    ThoughtbubblesConfig,
    ThoughtbubblesModel,
)
from hf_thoughtbubbles.modeling.common.common_layers import RotaryEmbedding


POSITIONS, HEAD_DIM = 37, 10
LENGTHS = (7, POSITIONS, POSITIONS + 1, 61, 50, 111, 23, 7)  # longer and longer than the limit, and short ones again
SCALINGS = {
    "default": {},
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 3.0},
    "yarn": {"factor": 3.0, "original_max_position_embeddings": 13, "mscale": 0.7, "mscale_all_dim": 0.5},
    "longrope": {
        "factor": 3.0,
        "original_max_position_embeddings": 23,
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4],
        "long_factor": [1.5, 2.0, 2.5, 3.0, 3.5],
    },
    "llama3": {
        "factor": 3.0,
        "original_max_position_embeddings": 13,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    "proportional": {"partial_rotary_factor": 0.6},
}
SIZES = {"hidden_size": 3 * HEAD_DIM, "num_attention_heads": 3, "max_position_embeddings": POSITIONS}


def make_rope(kind: str) -> dict:
    return {"rope_type": kind, "rope_theta": 5e5, **SCALINGS[kind]}


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("family", ["generic", "byte core"])
def test_angles_are_those_of_a_native_decoder_at_every_length(family, kind):
    """Bit for bit, one input after another, because scalings that depend on the length keep what they computed."""
    if family == "generic":
        config = GenericTransformerConfig(**SIZES, rope_parameters=make_rope(kind))
    else:
        sizes = {f"core_{name}" if "heads" in name or "hidden" in name else name: SIZES[name] for name in SIZES}
        config = BytePatchConfig(**sizes, rope_parameters=make_rope(kind)).core_config
    own, native = RotaryEmbedding(config), LlamaRotaryEmbedding(LlamaConfig(**SIZES, rope_parameters=make_rope(kind)))
    for length in LENGTHS:
        positions, x = torch.arange(length)[None].repeat(2, 1), torch.zeros(1)
        for ours, theirs in zip(own(x, positions), native(x, positions), strict=True):
            assert torch.equal(ours[:, :, 0], theirs[..., : HEAD_DIM // 2]), length


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@pytest.mark.parametrize("fork_rule", ["topk", "threshold"])
def test_the_length_of_streams_is_counted_in_tokens(fork_rule, kind):
    """Positions of streams begin at 1 and have fractions, but frequencies change where those of tokens do."""
    config = ThoughtbubblesConfig(
        vocab_size=61,
        num_hidden_layers=3,
        fork_layers=[1],
        fork_rule=fork_rule,
        rope_parameters=make_rope(kind),
        **SIZES,
    )
    model, native = (
        ThoughtbubblesModel(config).eval(),
        LlamaRotaryEmbedding(LlamaConfig(**SIZES, rope_parameters=make_rope(kind))),
    )
    for length in (7, 23, 24, POSITIONS, POSITIONS + 1, 61, 50, 7):
        model(torch.randint(1, 61, (1, length)), use_cache=False)
        native(torch.zeros(1), torch.arange(length)[None])
        assert torch.equal(model.rotary_emb.inv_freq, native.inv_freq), length


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_cached_keys_keep_the_frequencies_that_they_were_written_with(kind):
    """As in transformers: up to the length at which frequencies change, a cache is exact; then it is not."""
    config = LoopedThinkerTextConfig(
        vocab_size=61, num_steps=2, initializer_range=0.3, rope_parameters=make_rope(kind), **SIZES
    )
    model, input_ids = LoopedThinkerTextModel(config).eval(), torch.randint(1, 61, (1, 60))
    most = 23 if kind == "longrope" else POSITIONS
    for length, is_exact in ((most, True), (most + 1, False), (60, False)):
        expected = model(input_ids[:, :length], use_cache=False).last_hidden_state[:, -1]
        model(input_ids[:, :3], use_cache=False)  # a short input brings the short frequencies back
        cache = model(input_ids[:, : most - 2], use_cache=True).past_key_values
        states = model(input_ids[:, most - 2 : length], past_key_values=cache).last_hidden_state[:, -1]
        assert ((states - expected).abs().max() < 1e-5) == is_exact, length


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_loaded_model_has_the_frequencies_of_short_texts(kind, tmp_path):
    config = ThoughtbubblesConfig(
        vocab_size=61, num_hidden_layers=2, fork_layers=[], rope_parameters=make_rope(kind), **SIZES
    )
    model, input_ids = ThoughtbubblesModel(config).eval(), torch.randint(1, 61, (1, 60))
    expected, long = (model(input_ids[:, :length]).last_hidden_state for length in (11, 60))
    model.save_pretrained(tmp_path)
    loaded = ThoughtbubblesModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(input_ids[:, :11]).last_hidden_state, expected)
    assert torch.equal(loaded(input_ids).last_hidden_state, long)
