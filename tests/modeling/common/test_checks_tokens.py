# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Masks over pairs of tokens, and masks and positions whose values are not read."""

import pytest
import torch

from hf_thoughtbubbles import GenericTransformerConfig, GenericTransformerForCausalLM
from hf_thoughtbubbles.modeling.common import checks_tokens, packed_documents
from hf_thoughtbubbles.modeling.common.checks_tokens import read_mask
from hf_thoughtbubbles.modeling.thoughtbubbles import checks_thoughtbubbles
from tests.contract.contract_inputs import join_patch_lengths
from tests.families import BYTE_VARIANTS, FAMILIES, draw_ids, take_row


NAMED = {family.name: family for family in [*FAMILIES, *BYTE_VARIANTS]}
PACKED = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])


def build_generic(attention: str) -> GenericTransformerForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    model = GenericTransformerForCausalLM(GenericTransformerConfig(**sizes, initializer_range=0.3)).eval()
    model.set_attn_implementation(attention)
    return model


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_mask_of_pairs_is_boolean_or_additive(attention):
    """Documents of 3 and 5 tokens, kept apart by either kind of mask."""
    model, ids = build_generic(attention), draw_ids(1, 8)
    expected = model(ids, position_ids=PACKED).logits
    documents = (PACKED == 0).cumsum(-1)
    pairs = ((documents[:, :, None] == documents[:, None]) & torch.ones(8, 8).tril().bool())[:, None]
    additive = torch.zeros(pairs.shape).masked_fill(~pairs, torch.finfo(torch.float).min)
    for mask in (pairs, additive):
        outputs = model(ids, attention_mask=mask, position_ids=PACKED, use_cache=False)
        torch.testing.assert_close(outputs.logits, expected, atol=1e-5, rtol=1e-4)
    for wrong, message in (
        (pairs.long(), "over pairs is a tensor of torch.int64"),
        (pairs.float(), "over pairs holds 1.0"),
        (pairs[..., :7], r"`attention_mask` has shape \(1, 1, 8, 7\)"),
        (pairs[:, :, :7], r"`attention_mask` has shape \(1, 1, 7, 8\)"),
        (pairs.expand(2, -1, -1, -1), r"`attention_mask` has shape \(2, 1, 8, 8\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model(ids, attention_mask=wrong)


def test_a_mask_is_none_only_where_every_token_of_every_row_is_real():
    assert read_mask(None) is None
    for kind in (torch.bool, torch.long, torch.float, torch.bfloat16):
        assert read_mask(torch.ones(2, 3, dtype=kind)) is None
        mask = torch.tensor([[1, 1, 1], [0, 1, 1]], dtype=kind)
        assert read_mask(mask) is mask
        zeros = torch.zeros(2, 3, dtype=kind)
        assert read_mask(zeros) is zeros
    meta = torch.ones(2, 3, device="meta")
    assert read_mask(meta) is meta, "values of other devices are not read"


@pytest.fixture
def unreadable(monkeypatch):
    """Values cannot be read, as on an accelerator."""
    for module in (checks_tokens, packed_documents, checks_thoughtbubbles):
        monkeypatch.setattr(module, "can_read", lambda values: False)


@pytest.mark.parametrize(
    "name", ["gpt-learned", "threshold", "copy", "thinker", "generic-relative", "space", "fixed-parallel", "token"]
)
def test_rows_are_read_alike_where_values_cannot_be_read(name, unreadable):
    """Packed rows with a mask of ones, and padded ones with positions that skip padding."""
    family = NAMED[name]
    model, documents = family.build(), [family.draw(3), family.draw(5)]
    packed = {"input_ids": torch.cat(documents)[None], "position_ids": PACKED, **join_patch_lengths(family, documents)}
    packed["attention_mask"] = torch.ones_like(packed["input_ids"])
    alone = [{"input_ids": row[None], **join_patch_lengths(family, [row])} for row in documents]
    expected = torch.cat([model(**row).logits for row in alone], dim=1)
    torch.testing.assert_close(model(**packed).logits, expected, atol=1e-5, rtol=1e-4)
    for side in ("left", "right"):
        padded = family.pad([family.draw(8), family.draw(5)], side)
        mask = padded["attention_mask"]
        logits = model(**padded, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
        for row in range(2):
            torch.testing.assert_close(
                logits[row][mask[row].bool()], model(**take_row(padded, row)).logits[0], atol=1e-5, rtol=1e-4
            )


def test_the_published_rule_refuses_packed_rows_where_values_cannot_be_read(unreadable):
    model, ids = NAMED["thoughtbubbles"].build(), draw_ids(2, 8)
    with pytest.raises(ValueError, match="pack several documents"):
        model(ids, position_ids=PACKED)
    generated = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    assert generated.shape == (2, 11), "whose positions are those of the row and are left out"


@pytest.mark.slow
def test_a_compiled_graph_keeps_packed_documents_apart():
    model, ids = build_generic("sdpa"), draw_ids(2, 8)
    packed = {"position_ids": PACKED.expand(2, -1), "use_cache": False}
    expected = model(ids, **packed).logits
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    logits = compiled(ids, attention_mask=torch.ones_like(ids), **packed).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
