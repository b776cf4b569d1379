# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""LoRA adapters of PEFT train, save, load and merge on every family, configured as in docs/training.md."""

import copy
import re
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model

from hf_thoughtbubbles.modeling.looped_thinker.layers_looped_thinker import LowRankLinear
from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS, draw_ids


DOCUMENTATION = Path(__file__).parents[2] / "docs" / "training.md"
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


def make_config(name: str, task: str | None = None) -> LoraConfig:
    """One of the configurations that the documentation shows, by its name there; its task or another."""
    (code,) = re.findall(r"```python\n(from peft .*?)```", DOCUMENTATION.read_text(), re.S)
    shown = {}
    exec(code, shown)
    if task is not None:
        shown[name].task_type = task
    return shown[name]


def read_text(model) -> dict:
    return {"input_ids": draw_ids(2, 11)}


def read_bytes(variant, model) -> dict:
    ids = draw_ids(2, 11)
    return {"input_ids": ids, **variant.measure(ids.tolist())}


def read_pair(model) -> dict:
    return {"input_ids": draw_ids(2, 11), "decoder_input_ids": draw_ids(2, 5)}


MODELS = {
    **{family.name: (family.build, read_text, "CAUSAL_LM") for family in FAMILIES},
    **{
        f"bytes-{variant.name}": (variant.build, lambda model, v=variant: read_bytes(v, model), "CAUSAL_LM")
        for variant in BYTE_VARIANTS[:5:2]
    },
    **{f"answers-{answerer.name}": (answerer.build, read_pair, "SEQ_2_SEQ_LM") for answerer in ANSWERERS[:4:2]},
    "thought": (THOUGHT_VARIANTS[0].build, read_pair, "SEQ_2_SEQ_LM"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", MODELS)
def test_adapters_of_all_linear_layers_train_save_load_and_merge(name, tmp_path):
    build, read, task = MODELS[name]
    torch.manual_seed(0)
    model = build()
    inputs = read(model)
    labels = inputs.get("decoder_input_ids", inputs["input_ids"])
    plain = model(**inputs).logits
    adapted = get_peft_model(copy.deepcopy(model), make_config("everything", task))
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.02)
    adapted.train()
    for _ in range(3):
        adapted(**inputs, labels=labels).loss.backward()
        optimizer.step()
        used = [p.grad is not None for p in trained]
        optimizer.zero_grad()
    assert sum(used) > 0.9 * len(used)  # a head that only serves generation may go without
    adapted.eval()
    expected = adapted(**inputs).logits
    assert (expected - plain).abs().max() > 1e-3
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path).eval()
    torch.testing.assert_close(loaded(**inputs).logits, expected)
    merged = loaded.merge_and_unload()
    assert type(merged) is type(model)
    torch.testing.assert_close(merged(**inputs).logits, expected, atol=1e-3, rtol=1e-3)
    shared = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in merged.named_parameters()] == shared


@pytest.mark.parametrize("name", MODELS)
def test_the_documented_names_are_those_of_all_linear_layers_of_attention(name):
    build, read, task = MODELS[name]
    torch.manual_seed(0)
    model = build()
    inputs = read(model)
    plain = model(**inputs).logits
    layers = [
        layer
        for path, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and ATTENTION & set(path.split("."))
    ]
    is_low_rank = any(isinstance(layer, LowRankLinear) for layer in model.modules())
    config = make_config("low_rank_attention" if is_low_rank else "attention", task)
    adapted = get_peft_model(model, config)
    torch.testing.assert_close(adapted(**inputs).logits, plain)  # adapters start with zeros
    num_trained, _ = adapted.get_nb_trainable_parameters()
    assert num_trained == sum(config.r * (layer.in_features + layer.out_features) for layer in layers) > 0


def test_an_adapter_is_loaded_with_its_base_model(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    family = next(family for family in FAMILIES if family.name == "threshold")
    family.build().save_pretrained(base)
    adapted = get_peft_model(family.model_class.from_pretrained(base), make_config("attention")).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(adapter)
    inputs = read_text(adapted)
    with torch.no_grad():
        loaded = AutoPeftModelForCausalLM.from_pretrained(adapter).eval()
        expected = adapted(**inputs).logits
        assert torch.equal(loaded(**inputs).logits, expected)
        with adapted.disable_adapter():
            assert (adapted(**inputs).logits - expected).abs().max() > 1e-3
