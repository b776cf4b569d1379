# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Generic transformers: every option acts, trains, is cached and compiles; shared layers exist once.

The promises of docs/architecture.md are in tests/contract, parity in test_parity_generic_transformer.py.
"""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_thoughtbubbles import GenericTransformerForCausalLM
from hf_thoughtbubbles.configuration.layer_settings import HIDDEN_ACTS
from tests.families import draw_ids, make_generic


OPTIONS = [
    *({"hidden_act": name} for name in HIDDEN_ACTS if name != "gelu"),
    *({"position_embedding": name} for name in ("learned", "sinusoidal", "relative", "none")),
    *({f"{part}_normalization": kind} for part in ("attention", "mlp", "final") for kind in ("layer_norm", "none")),
    {"feed_forward": "swiglu"},
    {"share_feed_forward": True},
    {"num_key_value_heads": 2},
    {"num_key_value_heads": 1, "position_embedding": "relative"},
    {"attention_bias": True, "mlp_bias": True, "head_bias": True, "attention_normalization": "layer_norm"},
]
BY_OPTION = pytest.mark.parametrize("options", OPTIONS, ids=str)


def build(is_causal: bool = True, **changes) -> GenericTransformerForCausalLM:
    """A tiny model; equal seeds give equal weights where shapes are equal."""
    return make_generic("generic", is_causal, **{"initializer_range": 0.2, **changes}).build()


@BY_OPTION
def test_every_option_acts_and_is_cached_with_eager_and_sdpa(options):
    model, ids = build(**options), draw_ids(2, 29)
    with torch.no_grad():  # biases start at 0
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    logits = model(ids, use_cache=False).logits
    assert (logits - build()(ids).logits).abs().max() > 1e-3
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        torch.testing.assert_close(model(ids, use_cache=False).logits, logits, atol=1e-4, rtol=1e-4)
        cache = model(ids[:, :11], use_cache=True).past_key_values
        seen = [model(ids[:, start : start + 3], past_key_values=cache).logits for start in range(11, 29, 3)]
        torch.testing.assert_close(torch.cat(seen, dim=1), logits[:, 11:], atol=1e-4, rtol=1e-4)


# Every value of every option, several in one model, because compiling takes seconds.
COMPILED = [
    {"hidden_act": "relu", "position_embedding": "learned", "attention_normalization": "layer_norm"},
    {"hidden_act": "leaky_relu", "position_embedding": "sinusoidal", "mlp_normalization": "layer_norm"},
    {"hidden_act": "tanh", "position_embedding": "relative", "num_key_value_heads": 1, "attention_bias": True},
    {"hidden_act": "sigmoid", "position_embedding": "none", "attention_normalization": "none", "mlp_bias": True},
    {"hidden_act": "silu", "mlp_normalization": "none", "final_normalization": "layer_norm", "head_bias": True},
    {"hidden_act": "learned", "final_normalization": "none", "share_feed_forward": True},
    {"hidden_act": "none", "num_key_value_heads": 2},
    {"feed_forward": "swiglu", "share_feed_forward": True, "is_causal": False},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", COMPILED, ids=str)
def test_every_option_trains_and_compiles_without_a_graph_break(options):
    model, ids = build(num_hidden_layers=2, **options).train(), draw_ids(2, 17)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    for run in (model, compiled):
        run(ids, labels=ids, num_items_in_batch=32).loss.backward()
    for (name, parameter), other in zip(model.named_parameters(), compiled.parameters(), strict=True):
        assert parameter.grad is not None, name
        torch.testing.assert_close(other.grad, parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["embedding_dropout", "attention_dropout", "hidden_dropout"])
def test_each_dropout_acts_in_training_alone(kind, attention):
    model, ids = build(**{kind: 0.5}), draw_ids(1, 29)
    model.set_attn_implementation(attention)
    assert torch.equal(model(ids).logits, model(ids).logits)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    "options", [{}, {"position_embedding": "relative"}, {"position_embedding": "learned"}], ids=str
)
@pytest.mark.parametrize("is_causal", [True, False])
def test_packed_documents_are_read_as_if_each_were_alone(is_causal, options):
    model = make_generic("generic", is_causal=is_causal, **options).build()
    rows = [draw_ids(1, length) for length in (5, 1, 9)]
    position_ids = torch.cat([torch.arange(row.shape[1]) for row in rows])[None]
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        packed = model(torch.cat(rows, dim=1), position_ids=position_ids)
        assert packed.past_key_values is None
        alone = torch.cat([model(row, use_cache=False).logits for row in rows], dim=1)
        torch.testing.assert_close(packed.logits, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"position_embedding": "relative"}], ids=str)
def test_a_mask_of_pairs_keeps_documents_apart(options):
    """Positions begin again with the second document, and the mask hides the first."""
    model, ids = build(**options), draw_ids(2, 9)
    position_ids = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    document = torch.tensor([0] * 4 + [1] * 5)
    is_open = ((document[:, None] == document) & torch.ones(9, 9).bool().tril()).expand(2, 1, 9, 9)
    mask = torch.zeros(2, 1, 9, 9).masked_fill(~is_open, torch.finfo(torch.float32).min)
    logits = model(ids, attention_mask=mask, position_ids=position_ids, use_cache=False).logits
    alone = torch.cat([model(part, use_cache=False).logits for part in (ids[:, :4], ids[:, 4:])], dim=1)
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-5)


def test_a_bidirectional_model_sees_all_and_padding_changes_nothing():
    model, ids = make_generic("generic", is_causal=False).build(), draw_ids(2, 9)
    edited = ids.clone()
    edited[:, -1] = ids[:, -1] % 59 + 1
    assert (model(edited).logits[:, 0] - model(ids).logits[:, 0]).abs().max() > 1e-3
    mask = torch.tensor([[1] * 9, [0] * 4 + [1] * 5])
    padded = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(padded[:1], model(ids[:1]).logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded[1:, 4:], model(ids[1:, 4:]).logits, atol=1e-5, rtol=1e-4)


def count_feed_forward(model: torch.nn.Module) -> int:
    """Parameters of feed-forward layers, each counted once."""
    return sum(p.numel() for name, p in model.named_parameters() if "mlp." in name and "lora_" not in name)


def test_a_sharing_model_has_one_feed_forward_layer_before_and_after_saving_and_adapting(tmp_path):
    model, ids = build(share_feed_forward=True, num_hidden_layers=5), draw_ids(2, 11)
    one_layer = 2 * 24 * 47
    assert count_feed_forward(model) == one_layer
    assert count_feed_forward(build(num_hidden_layers=5)) == 5 * one_layer
    model.save_pretrained(tmp_path / "saved")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert count_feed_forward(reloaded) == one_layer
    assert torch.equal(reloaded(ids).logits, model(ids).logits)

    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # the first step only moves the matrices that start at 0
        adapted(input_ids=ids, labels=ids).loss.backward()
        assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
    assert count_feed_forward(adapted) == one_layer
    adapted.eval().save_pretrained(tmp_path / "adapter")
    expected = adapted(input_ids=ids).logits
    assert (expected - model(ids).logits).abs().max() > 1e-2
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected)
    merged = adapted.merge_and_unload()
    assert count_feed_forward(merged) == one_layer
    torch.testing.assert_close(merged(ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_adapters_for_linear_layers_do_not_change_the_learned_curve():
    model = build(hidden_act="learned")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert not any("act_fn" in name for name, p in adapted.named_parameters() if p.requires_grad)
    assert any("mlp.up_proj" in name for name, p in adapted.named_parameters() if p.requires_grad)


def test_classification_reads_with_an_encoder(tmp_path):
    config = make_generic("generic", is_causal=False).config
    config.num_labels = 3
    model = AutoModelForSequenceClassification.from_config(config).eval()
    ids = draw_ids(2, 9)
    loss = model(ids, labels=torch.tensor([0, 2])).loss
    loss.backward()
    assert model.model.embed_tokens.weight.grad.abs().max() > 0
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForSequenceClassification.from_pretrained(tmp_path)(ids).logits, model(ids).logits)
    assert torch.equal(AutoModel.from_pretrained(tmp_path)(ids).last_hidden_state, model.model(ids).last_hidden_state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, ids: model(ids, position_ids=torch.arange(30, 39)[None]), "`position_ids` holds 38"),
        (lambda model, ids: model(ids, position_ids=torch.arange(9)[None] - 1), "`position_ids` holds -1"),
        (
            lambda model, ids: model(ids, position_ids=torch.arange(9)[None] % 4, use_cache=True),
            "pack several documents into a row were passed with a cache",
        ),
        (
            lambda model, ids: model(
                ids, position_ids=torch.arange(9)[None] % 4, attention_mask=torch.eye(9)[:2] == 0, use_cache=False
            ),
            "pack several documents into a row were passed with an `attention_mask`",
        ),
        (lambda model, ids: model(ids, attention_mask=torch.ones(2, 9, 9)), "`attention_mask` has 3 dimensions"),
        (lambda model, ids: model.generate(ids, max_new_tokens=40), "Generation may read 48 tokens"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(build(position_embedding="learned"), draw_ids(2, 9))


@pytest.mark.parametrize("options", [{"use_cache": True}], ids=str)
def test_a_bidirectional_model_refuses_caches(options):
    with pytest.raises(ValueError, match="no cache can be exact"):
        make_generic("generic", is_causal=False).build()(draw_ids(1, 5), **options)
