# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Converted models: with a budget of 1, or one step, they compute what the native model computes."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from hf_thoughtbubbles import to_native
from hf_thoughtbubbles.conversion.native import choose_names
from hf_thoughtbubbles.conversion.native_weights import join_parts, list_targets
from tiny_natives import KINDS, MAX_LENGTH, NATIVES, build_native, draw_ids


QUICK = {"gpt2", "llama-tied-biases-llama3", "qwen2", "qwen3-biases-yarn"}  # together they have every option
MARKS = {name: () if name in QUICK else pytest.mark.thorough for name in NATIVES}
ALL = pytest.mark.parametrize(
    ("kind", "name"), [pytest.param(kind, name, marks=MARKS[name]) for kind in KINDS for name in NATIVES]
)
FLOAT32 = {"atol": 1e-5, "rtol": 1e-5}
BFLOAT16_STEP = 2**-7  # between neighbouring numbers, as a part of the number


def convert(kind: str, name: str, attn_implementation: str = "sdpa"):
    """A native model and its conversion."""
    native = build_native(name, attn_implementation)
    return native, KINDS[kind](native, attn_implementation=attn_implementation)


def pad_left(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch of rows of several lengths, with the positions that `generate` counts along the mask."""
    longest = max(map(len, rows))
    input_ids = torch.stack([torch.cat([row.new_zeros(longest - len(row)), row]) for row in rows])
    attention_mask = (input_ids != 0).long()
    return {"input_ids": input_ids, "attention_mask": attention_mask}


@ALL
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_logits_are_the_native_ones(kind, name, attn_implementation):
    native, model = convert(kind, name, attn_implementation)
    assert model.config._attn_implementation == attn_implementation and not model.training
    input_ids = draw_ids(3, 31)
    torch.testing.assert_close(model(input_ids).logits, native(input_ids).logits, **FLOAT32)


@ALL
@torch.no_grad()
def test_logits_in_bfloat16_are_the_native_ones_within_rounding(kind, name):
    native = build_native(name, dtype=torch.bfloat16)
    model = KINDS[kind](native)
    assert model.dtype == torch.bfloat16
    input_ids = draw_ids(3, 31)
    expected, given = native(input_ids).logits.float(), model(input_ids).logits.float()
    one_rounding = 2.0 ** expected.abs().amax(-1, keepdim=True).log2().floor() * BFLOAT16_STEP
    num_roundings = 4 if name.startswith("gpt2") else 1  # its transposed matrices are summed in another order
    assert ((given - expected).abs() <= num_roundings * one_rounding).all()


@ALL
@torch.no_grad()
def test_texts_longer_than_training_give_the_native_logits(kind, name):
    if name.startswith("gpt2"):
        pytest.skip("GPT-2 has a table of learned positions, which longer texts exceed")
    native, model = convert(kind, name)
    input_ids = draw_ids(2, MAX_LENGTH + 17)
    torch.testing.assert_close(model(input_ids).logits, native(input_ids).logits, **FLOAT32)
    torch.testing.assert_close(model(input_ids[:, :9]).logits, native(input_ids[:, :9]).logits, **FLOAT32)


@ALL
@torch.no_grad()
def test_padded_rows_have_the_native_logits(kind, name):
    native, model = convert(kind, name)
    batch = pad_left([draw_ids(13), draw_ids(7, seed=2), draw_ids(1, seed=3)])
    is_token = batch["attention_mask"].bool()
    batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    torch.testing.assert_close(model(**batch).logits[is_token], native(**batch).logits[is_token], **FLOAT32)
    right = {key: value.flip(-1) for key, value in batch.items() if key != "position_ids"}
    is_token = is_token.flip(-1)
    torch.testing.assert_close(model(**right).logits[is_token], native(**right).logits[is_token], **FLOAT32)


@ALL
@torch.no_grad()
def test_packed_documents_have_the_native_logits(kind, name):
    native, model = convert(kind, name)
    batch = {"input_ids": draw_ids(2, 23), "position_ids": torch.cat([torch.arange(9), torch.arange(14)])[None]}
    batch["position_ids"] = batch["position_ids"].expand(2, -1)
    packed = model(**batch).logits
    torch.testing.assert_close(packed, native(**batch, use_cache=False).logits, **FLOAT32)
    torch.testing.assert_close(packed[:, 9:], native(batch["input_ids"][:, 9:]).logits, **FLOAT32)


@ALL
@pytest.mark.parametrize(
    "settings",
    [{"do_sample": False}, {"do_sample": True, "temperature": 0.8, "top_k": 20}, {"num_beams": 3, "do_sample": False}],
    ids=["greedy", "sampled", "beams"],
)
def test_generated_tokens_are_the_native_ones(kind, name, settings):
    native, model = convert(kind, name)
    for batch in ({"input_ids": draw_ids(2, 7)}, pad_left([draw_ids(8), draw_ids(3, seed=2)])):
        texts = []
        for each in (native, model):
            torch.default_generator.manual_seed(3)
            texts.append(each.generate(**batch, **settings, max_new_tokens=19, pad_token_id=0))
        assert texts[0].tolist() == texts[1].tolist()


@ALL
@torch.no_grad()
def test_cached_logits_equal_uncached_ones(kind, name):
    _, model = convert(kind, name)
    input_ids = draw_ids(2, 17)
    whole, cache, pieces = model(input_ids, use_cache=False).logits, None, []
    for begin, end in ((0, 6), (6, 7), (7, 11), (11, 12), (12, 17)):
        outputs = model(input_ids[:, begin:end], past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        pieces.append(outputs.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-4, rtol=1e-4)


@ALL
def test_gradients_of_shared_weights_are_the_native_ones(kind, name):
    native, model = convert(kind, name)
    name_layer, input_ids = choose_names(model.config), draw_ids(3, 19)
    for each in (native, model):
        each.train()
        for module in each.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # of GPT-2
        each(input_ids, labels=input_ids).loss.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    for native_name, parameter in native.named_parameters():
        gradient = join_parts(native_name, name_layer, gradients)
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=1e-4)
    shared = {
        target for native_name, _ in native.named_parameters() for target in list_targets(native_name, name_layer)
    }
    new = gradients.keys() - shared
    assert new and all(".forks." in key or ".adapter." in key for key in new)


@ALL
@torch.no_grad()
def test_a_saved_conversion_loads_with_equal_logits(kind, name, tmp_path):
    _, model = convert(kind, name)
    model.save_pretrained(tmp_path)
    loaded, input_ids = AutoModelForCausalLM.from_pretrained(tmp_path), draw_ids(2, 11)
    assert type(loaded) is type(model) and loaded.config.native_config == model.config.native_config
    assert torch.equal(loaded(input_ids).logits, model(input_ids).logits)


@ALL
@torch.no_grad()
def test_a_conversion_returns_to_the_native_model(kind, name, tmp_path):
    native, model = convert(kind, name)
    returned = to_native(model)
    assert_same_model(returned, native)
    returned.save_pretrained(tmp_path)
    assert_same_model(AutoModelForCausalLM.from_pretrained(tmp_path), native)
    again = KINDS[kind](returned)
    input_ids = draw_ids(2, 11)
    assert torch.equal(again(input_ids).logits, model(input_ids).logits)
    assert_same_model(to_native(again), native)


def assert_same_model(model, native):
    """Equal class, settings, weights to the bit, and logits."""
    assert type(model) is type(native)
    ignored = {"transformers_version", "_name_or_path", "architectures", "dtype"}
    settings, expected = (each.config.to_dict() for each in (model, native))
    assert {key: settings[key] for key in settings.keys() - ignored} == {
        key: expected[key] for key in expected.keys() - ignored
    }
    state, weights = native.state_dict(), model.state_dict()
    assert state.keys() == weights.keys() and all(torch.equal(state[key], weights[key]) for key in state)
    input_ids = draw_ids(2, 13)
    assert torch.equal(model(input_ids).logits, native(input_ids).logits)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_trained_weights_return_and_conversions_share_no_memory(kind):
    native, model = convert(kind, "llama")
    before = copy.deepcopy(native.state_dict())
    for parameter in model.parameters():
        parameter.add_(0.5)
    assert all(torch.equal(before[key], value) for key, value in native.state_dict().items())
    returned = to_native(model)
    for key, value in returned.state_dict().items():
        torch.testing.assert_close(value, before[key] + 0.5)
        value.zero_()
    assert all(parameter.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_resized_vocabulary_and_changed_tokens_return(kind):
    native, model = convert(kind, "qwen2-tied-dynamic")
    model.resize_token_embeddings(67)
    model.config.eos_token_id = model.generation_config.eos_token_id = 65
    returned = to_native(model)
    assert returned.config.vocab_size == 67 and returned.lm_head.weight.shape[0] == 67
    assert returned.config.eos_token_id == returned.generation_config.eos_token_id == 65
    assert torch.equal(returned.lm_head.weight[:61], native.lm_head.weight)


OLD_FILES = {  # as older versions of transformers wrote them, with fields that do nothing
    "llama": {
        "rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float32",
        "pretraining_tp": 2, "pad_token_id": -1,
    },
    "qwen2": {"use_sliding_window": False, "sliding_window": 32, "max_window_layers": 2, "rope_theta": 1000.0},
    "gpt2": {"n_ctx": 64, "task_specific_params": {"text-generation": {"do_sample": True}}},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OLD_FILES)
@torch.no_grad()
def test_files_of_older_versions_are_converted(kind, name, tmp_path):
    native = build_native(name)
    native.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("rope_parameters", "layer_types", "dtype"):
        config.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps({**config, **OLD_FILES[name]}))
    if name == "gpt2":  # whose checkpoint on the Hub has no prefix, and has masks
        state = {key.removeprefix("transformer."): value for key, value in native.state_dict().items()}
        del state["lm_head.weight"]
        masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64) for i in range(4)}
        save_file({**state, **masks}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, model, input_ids = AutoModelForCausalLM.from_pretrained(tmp_path), KINDS[kind](tmp_path), draw_ids(2, 23)
    torch.testing.assert_close(model(input_ids).logits, loaded(input_ids).logits, **FLOAT32)
    assert name != "llama" or (loaded.config.pad_token_id == -1 and model.config.pad_token_id is None)
    assert type(to_native(model)) is type(native)
