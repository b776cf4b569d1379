# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Conversion of next-thought models: configuration, parameters and errors. Parity is in tests/modeling."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_thoughtbubbles.conversion.next_thought import next_thought_config_from_stlm, next_thought_from_stlm
from hf_thoughtbubbles.modeling.next_thought.pooling_layers import BlockLinearCore


FOLDER = Path(__file__).parents[1] / "parity" / "stlm_next_thought"


def load(name: str):
    arrays, case = np.load(FOLDER / f"{name}.npz"), json.loads((FOLDER / f"{name}.json").read_text())
    prefix = "pipe/params/"
    state = {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}
    return state, case["upstream_cfg"]


@pytest.fixture
def checkpoint():
    return load("d1")


def test_the_configuration_is_translated(checkpoint):
    config = next_thought_config_from_stlm(checkpoint[1])
    assert (config.vocab_size, config.hidden_size, config.pooling_sizes, config.latent_size) == (60, 24, [36, 48], 48)
    assert (config.removed_shares, config.num_pooling_heads, config.max_position_embeddings) == ([0.3, 0.5], 12, 16)
    assert (config.encoder_attention_heads, config.encoder_key_value_heads, config.encoder_ffn_dim) == (4, 2, 32)
    assert (config.num_encoder_layers, config.num_decoder_layers, config.num_latent_tokens) == (1, 2, 4)
    assert (config.position_embedding, config.feed_forward, config.core) == ("learned", "swiglu", "mlp")
    assert config.dropout == 0


def test_shares_are_read_under_either_name(checkpoint):
    state, model_cfg = checkpoint
    renamed = copy.deepcopy(model_cfg)
    renamed["embedder"]["pooling_pct_per_layer"] = renamed["embedder"].pop("pct_pool_per_layer")
    both = copy.deepcopy(model_cfg)
    both["embedder"]["pooling_pct_per_layer"] = [0.3, 0.5]
    for cfg in (renamed, both):
        assert next_thought_from_stlm(state, cfg).config.removed_shares == [0.3, 0.5]
    both["embedder"]["pooling_pct_per_layer"] = [0.3, 0.4]
    with pytest.raises(ValueError, match="two names of one setting"):
        next_thought_config_from_stlm(both)
    del both["embedder"]["pooling_pct_per_layer"], both["embedder"]["pct_pool_per_layer"]
    with pytest.raises(ValueError, match="'pct_pool_per_layer' or 'pooling_pct_per_layer'"):
        next_thought_config_from_stlm(both)


@pytest.mark.parametrize("name", ["d1", "d2", "d3"])
def test_every_parameter_comes_from_the_checkpoint(name):
    state, model_cfg = load(name)
    model = next_thought_from_stlm(state, model_cfg)
    shared = ("dec.token_embedder.", "dec.positional_encodings.")
    own = sum(value.size for key, value in state.items() if not key.startswith(shared) and not key.endswith(".pe"))
    assert model.num_parameters() == own
    assert not model.training


def test_the_other_core_is_found_in_the_state(checkpoint):
    state, model_cfg = checkpoint
    state = {name: value for name, value in state.items() if not name.startswith("core.")}
    for i, size in enumerate((6, 16, 3)):
        state[f"core.conv{i + 1}.weight"] = np.random.default_rng(i).normal(size=(size, size)).astype(np.float32)
        state[f"core.conv{i + 1}.bias"] = np.zeros(size, dtype=np.float32)
    model = next_thought_from_stlm(state, model_cfg)
    assert isinstance(model.model.core, BlockLinearCore)
    assert model.config.core_block_sizes == [6, 16, 3]
    assert np.array_equal(model.model.core.layers[1].weight.detach().numpy(), state["core.conv2.weight"])


def test_a_converted_model_writes_and_learns(checkpoint):
    """The caller sets the special tokens."""
    model = next_thought_from_stlm(*checkpoint)
    model.config.decoder_start_token_id = model.config.pad_token_id = 0
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    written = model.generate(ids, max_new_tokens=7, decoder_start_token_id=0, num_thoughts=2)
    assert written.shape == (1, 8)
    loss = model(ids, labels=ids).loss
    loss.backward()
    assert loss.isfinite() and model.model.embed_tokens.weight.grad.abs().max() > 0


def test_errors_name_what_does_not_fit(checkpoint):
    state, model_cfg = checkpoint
    lacking = {name: value for name, value in state.items() if name != "dec.lm_head.weight"}
    with pytest.raises(ValueError, match=r"lacks \['dec.lm_head.weight'\]"):
        next_thought_from_stlm(lacking, model_cfg)
    with pytest.raises(ValueError, match=r"unexpected \['stray'\]"):
        next_thought_from_stlm({**state, "stray": np.zeros(1)}, model_cfg)
    with pytest.raises(ValueError, match="other values in dec"):
        next_thought_from_stlm({**state, "dec.token_embedder.weight": np.zeros((60, 24), np.float32)}, model_cfg)
    for change, message in (
        (lambda cfg: cfg["embedder"]["standard_ffn_block"].update(ffn_dim=33), "of shape"),
        (lambda cfg: cfg.pop("hidden_dim"), r"`model_cfg` lacks \['hidden_dim'\]"),
        (lambda cfg: cfg.update(hidden_dim=36), "`pooling_dims`"),
        (lambda cfg: cfg.update(latent_dim=36), "`latent_dim` 36"),
        (lambda cfg: cfg.update(positional_encoding_type="alibi"), "`positional_encoding_type` 'alibi'"),
        (lambda cfg: cfg["lm_head"]["standard_attn_block"].update(is_causal=False), "`is_causal` False"),
        (lambda cfg: cfg["lm_head"]["standard_attn_block"].update(bias=True), "blocks of two kinds"),
    ):
        changed = copy.deepcopy(model_cfg)
        change(changed)
        with pytest.raises(ValueError, match=message):
            next_thought_from_stlm(state, changed)
