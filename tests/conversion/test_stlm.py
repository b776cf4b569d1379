# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Conversion of byte-level and generic models: parameters, sharing and errors. Parity is in tests/modeling."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_thoughtbubbles.conversion.stlm import (
    byte_patch_config_from_stlm,
    byte_patch_from_stlm,
    generic_config_from_stlm,
    generic_transformer_from_stlm,
)


PARITY = Path(__file__).parents[1] / "parity"


def read_checkpoint(name: str) -> tuple[dict, dict]:
    """State and configuration of an original."""
    path = PARITY / name
    arrays, case = np.load(path.with_suffix(".npz")), json.loads(path.with_suffix(".json").read_text())
    state = {name.removeprefix("params/"): arrays[name] for name in arrays.files if name.startswith("params/")}
    return state, case["upstream_cfg"]


@pytest.fixture(scope="module")
def checkpoint():
    return read_checkpoint("stlm_byte/d1_E16_W6_v258")


def test_the_configuration_is_translated(checkpoint):
    config = byte_patch_config_from_stlm(checkpoint[1])
    assert (config.vocab_size, config.max_patch_bytes, config.hidden_size) == (258, 6, 16)
    assert (config.core_hidden_size, config.core_num_attention_heads, config.core_num_key_value_heads) == (24, 4, 2)
    assert (config.decoder, config.byte_layers, config.position_embedding) == ("parallel", "published", "rope")
    assert config.reconstruction_ignore_id == 257


def test_every_parameter_comes_from_the_checkpoint(checkpoint):
    state, model_cfg = checkpoint
    model = byte_patch_from_stlm(state, model_cfg)
    num_own = model.model.initial_state.numel()
    assert model.num_parameters() - num_own == sum(value.size for value in state.values())
    assert not model.training and torch.count_nonzero(model.model.initial_state) == 0


def test_a_converted_model_reads_and_writes_plain_bytes(checkpoint):
    """The original reads blocks only. They are the patches here, and the state before the first patch is zeros."""
    model = byte_patch_from_stlm(*checkpoint)
    prompt, lengths = torch.tensor([list(b"to be")]), torch.tensor([[2, 3]])
    written = model.generate(
        prompt, patch_lengths=lengths, attention_mask=torch.ones_like(prompt), max_new_tokens=9, pad_token_id=256
    )
    assert written.shape == (1, 14)


def test_errors_name_what_does_not_fit(checkpoint):
    state, model_cfg = checkpoint
    lacking = {name: value for name, value in state.items() if name != "model_head.lm_head.weight"}
    with pytest.raises(ValueError, match=r"lacks \['model_head.lm_head.weight'\]"):
        byte_patch_from_stlm(lacking, model_cfg)
    with pytest.raises(ValueError, match=r"unexpected \['stray'\]"):
        byte_patch_from_stlm({**state, "stray": np.zeros(1)}, model_cfg)
    wider = copy.deepcopy(model_cfg)
    wider["core_model"]["ffn"]["ffn_dim"] = 33
    with pytest.raises(ValueError, match="of shape"):
        byte_patch_from_stlm(state, wider)
    with pytest.raises(ValueError, match=r"`model_cfg` lacks \['hidden_dim'\]"):
        byte_patch_from_stlm(state, {name: value for name, value in model_cfg.items() if name != "hidden_dim"})


def test_shared_weights_of_the_generic_original_are_detected():
    state, model_cfg = read_checkpoint("stlm_generic/d4_ffnshared_swiglu_rope_gqa2")
    model = generic_transformer_from_stlm(state, model_cfg)
    assert model.config.share_feed_forward and not model.config.tie_word_embeddings
    first = {name: value for name, value in state.items() if ".ffn." not in name or ".h.0." in name}
    ids = torch.arange(1, 9)[None]
    assert torch.equal(generic_transformer_from_stlm(first, model_cfg)(ids).logits, model(ids).logits)
    unshared = {name: value + ("h.1.ffn.linear_1.weight" in name) for name, value in state.items()}
    assert not generic_transformer_from_stlm(unshared, model_cfg).config.share_feed_forward

    state, model_cfg = read_checkpoint("stlm_generic/d2_rms_swiglu_rope_gqa2_tied")
    model = generic_transformer_from_stlm(state, model_cfg)
    assert model.config.tie_word_embeddings and not model.config.share_feed_forward
    assert model.lm_head.weight is model.model.embed_tokens.weight
    one = {name: value for name, value in state.items() if name != "model_head.linear.weight"}
    assert torch.equal(generic_transformer_from_stlm(one, model_cfg)(ids).logits, model(ids).logits)


def test_tables_of_positions_in_a_generic_state_are_no_parameters():
    state, model_cfg = read_checkpoint("stlm_generic/d3_none_silu_sincos_noncausal")
    with_table = {**state, "embedding_model.positional_encodings.pe": np.zeros((1, 3, 3))}
    config = generic_transformer_from_stlm(with_table, model_cfg).config
    assert (config.position_embedding, config.is_causal) == ("sinusoidal", False)


def test_what_does_not_fit_a_generic_model_is_named():
    state, model_cfg = read_checkpoint("stlm_generic/d6_learnedact_learnedpos")
    curves = {name: value + ("h.1.ffn.activation" in name) for name, value in state.items()}
    with pytest.raises(ValueError, match="learned activations that differ"):
        generic_transformer_from_stlm(curves, model_cfg)
    with pytest.raises(ValueError, match="`positional_encoding_type` 'alibi'"):
        generic_config_from_stlm({**model_cfg, "positional_encoding_type": "alibi"})
    with pytest.raises(ValueError, match=r"`model_cfg` lacks \['lm_head'\]"):
        generic_transformer_from_stlm(state, {name: value for name, value in model_cfg.items() if name != "lm_head"})
    with pytest.raises(ValueError, match=r"lacks \['core_model.transformer.h.1.attn.c_proj.bias'\]"):
        lacking = {
            name: value for name, value in state.items() if name != "core_model.transformer.h.1.attn.c_proj.bias"
        }
        generic_transformer_from_stlm(lacking, model_cfg)
