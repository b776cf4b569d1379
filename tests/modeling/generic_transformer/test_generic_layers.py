# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The layers of the generic transformer in byte-patch models: every option acts, trains and is cached."""

import pytest
import torch

from hf_thoughtbubbles.configuration.layer_settings import HIDDEN_ACTS
from tests.families import BYTE_VARIANTS, draw_bytes


OPTIONS = [
    *({"hidden_act": name} for name in HIDDEN_ACTS),
    *({"position_embedding": name} for name in ("learned", "sinusoidal", "rope", "relative", "none")),
    *({f"{part}_normalization": kind} for part in ("attention", "mlp", "final") for kind in ("layer_norm", "none")),
    {"feed_forward": "swiglu", "mlp_bias": True},
    {"share_feed_forward": True, "attention_bias": True},
    {"core_num_key_value_heads": 1},
]


@pytest.mark.thorough
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_of_the_core_acts_trains_and_is_cached(options):
    plain, model, ids = BYTE_VARIANTS[0].build(), BYTE_VARIANTS[0].build(**options), draw_bytes(2, 29)
    logits = model(ids, use_cache=False).logits
    defaults = {"hidden_act": "gelu", "position_embedding": "rope"}
    if options.items() - defaults.items():
        assert (logits - plain(ids).logits).abs().max() > 1e-4
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(ids, use_cache=False).logits, logits, atol=1e-4, rtol=1e-4)
    cache = model(ids[:, :11], use_cache=True).past_key_values
    seen = [model(ids[:, start : start + 1], past_key_values=cache).logits for start in range(11, 29)]
    torch.testing.assert_close(torch.cat(seen, dim=1), logits[:, 11:], atol=1e-4, rtol=1e-4)
    model.train()(ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_shared_feed_forward_is_one_and_so_is_the_learned_curve():
    model = BYTE_VARIANTS[0].build(share_feed_forward=True, hidden_act="learned", core_num_hidden_layers=5)
    core = model.model.core
    assert all(layer.mlp is None for layer in core.layers)
    assert sum(p.numel() for p in core.shared_mlp.parameters()) == 2 * 24 * 47
    assert sum(p.numel() for p in core.act_fn.parameters()) == 31


def test_relative_positions_add_the_vector_of_the_distance():
    model = BYTE_VARIANTS[0].build(position_embedding="relative", max_relative_position=2)
    attention = model.model.core.layers[0].self_attn
    with torch.no_grad():
        attention.distances.weight.copy_(torch.tensor([-2.0, -1, 0, 1, 2])[:, None] / 8)  # a head has 8 channels
    query = torch.ones(1, 3, 4, 8)
    added = attention.relative_position_bias(query, torch.arange(4)[None], torch.arange(4)[None]) / attention.scaling
    expected = torch.tensor([[0.0, 1, 2, 2], [-1, 0, 1, 2], [-2, -1, 0, 1], [-2, -2, -1, 0]])
    torch.testing.assert_close(added, expected.expand(1, 3, 4, 4))


def test_dropout_acts_in_training_alone():
    model, ids = (
        BYTE_VARIANTS[0].build(attention_dropout=0.5, hidden_dropout=0.5, embedding_dropout=0.5),
        draw_bytes(1, 29),
    )
    assert torch.equal(model(ids).logits, model(ids).logits)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)
