# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""States of byte-patch models: one for each byte, from which the head alone computes the logits."""

import pytest
import torch

from hf_thoughtbubbles import BytePatchConfig, BytePatchForCausalLM
from tests.families import BYTE_PATCH_SIZES


TEXTS = (b"To be, or not to be", "naïve 漢字".encode(), b"x")
PAD = 258


def build(decoder: str, **changes) -> BytePatchForCausalLM:
    """A model with reproducible weights, of tiny and distinct sizes."""
    torch.manual_seed(0)
    config = BytePatchConfig(**{**BYTE_PATCH_SIZES, "decoder": decoder, "initializer_range": 0.3, **changes})
    return BytePatchForCausalLM(config).eval()


def pad(side: str) -> dict[str, torch.Tensor]:
    """The texts as one batch."""
    longest = max(map(len, TEXTS))
    gaps = [[PAD] * (longest - len(text)) for text in TEXTS]
    rows = [[*gap, *text] if side == "left" else [*text, *gap] for gap, text in zip(gaps, TEXTS, strict=True)]
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("decoder", ["autoregressive", "parallel"])
@torch.no_grad()
def test_the_head_alone_computes_the_logits_of_every_byte(decoder, side):
    """In one pass, and byte by byte or in chunks from a cache."""
    model, batch = build(decoder), pad(side)
    assert model.has_linear_head
    num_bytes = batch["input_ids"].shape[1]
    for sizes in ([num_bytes], [5, 1, 1, 7, 1, num_bytes - 15]):
        seen, cache, base_cache, start = [], None, None, 0
        for size in sizes:
            part = batch["input_ids"][:, start : start + size]
            given = {"input_ids": part, "attention_mask": batch["attention_mask"][:, : start + size]}
            outputs = model(**given, past_key_values=cache, use_cache=True)
            states = model.model(**given, past_key_values=base_cache, use_cache=True)
            assert states.last_hidden_state.shape == (len(TEXTS), size, model.config.hidden_size)
            assert torch.equal(model.lm_head(states.last_hidden_state), outputs.logits)
            cache, base_cache, start = outputs.past_key_values, states.past_key_values, start + size
            seen.append(outputs.logits)
        real = batch["attention_mask"].bool()
        whole = model(**batch, use_cache=False).logits
        torch.testing.assert_close(torch.cat(seen, dim=1)[real], whole[real], atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_head_alone_computes_the_logits_of_blocks():
    model = build("parallel", byte_layers="published")
    blocks = torch.randint(0, 259, (2, 3, model.config.max_patch_bytes))
    states = model.model(patch_input_ids=blocks)
    assert states.last_hidden_state.shape == (*blocks.shape, model.config.hidden_size)
    assert torch.equal(model.lm_head(states.last_hidden_state), model(patch_input_ids=blocks).logits)


def test_sizes_without_a_prefix_are_those_of_bytes():
    model = build("autoregressive", num_hidden_layers=3)
    ids = torch.tensor([list(TEXTS[0])])
    outputs = model(ids, output_hidden_states=True, output_core_hidden_states=True)
    config, num_patches = model.config, model(ids, output_patches=True).patches.lengths.shape[1]
    assert model.get_input_embeddings().embedding_dim == config.hidden_size == 16
    assert [state.shape for state in outputs.hidden_states] == [(1, 19, 16)] * (config.num_hidden_layers + 1)
    assert torch.equal(model.lm_head(outputs.hidden_states[-1]), outputs.logits)
    patches = [state.shape for state in outputs.core_hidden_states]
    assert patches == [(1, num_patches, 24)] * config.core_num_hidden_layers


def test_patch_states_are_those_of_the_core():
    model, ids = build("autoregressive"), torch.tensor([list(TEXTS[0])])
    outputs = model.model(ids)
    assert outputs.patch_hidden_states.shape == outputs.patch_embeds.shape == (*outputs.patches.lengths.shape, 24)
    later = model.model(torch.tensor([[32, 97]]), past_key_values=outputs.past_key_values)
    assert later.patch_hidden_states is None and later.patches is None


def test_no_cache_is_written_under_gradient_checkpointing():
    model, ids = build("autoregressive").train(), torch.tensor([list(TEXTS[0])])
    # Renamed within the versions of transformers that we support; the old name warns in the new ones.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    assert model(ids, use_cache=True).past_key_values.get_seq_length() == 0
    filled = build("autoregressive")(ids).past_key_values
    with pytest.raises(ValueError, match="trains with gradient checkpointing"):
        model(ids, past_key_values=filled)
