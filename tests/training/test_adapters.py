# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Do LoRA adapters of PEFT train, save, load and merge on every family?"""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from tests.families import ANSWERERS, FAMILIES, draw_ids
from tests.test_contract_bytes import VARIANTS as BYTE_VARIANTS
from tests.test_contract_next_thought import VARIANTS as THOUGHT_VARIANTS


def read_text(model) -> dict:
    return {"input_ids": draw_ids(2, 11)}


def read_bytes(variant, model) -> dict:
    ids = draw_ids(2, 11)
    return {"input_ids": ids, **variant.measure(ids.tolist())}


def read_pair(model) -> dict:
    return {"input_ids": draw_ids(2, 11), "decoder_input_ids": draw_ids(2, 5)}


# Of every family one or two configurations that put their layers together differently.
MODELS = {
    **{
        family.name: (family.build, read_text, "CAUSAL_LM")
        for family in FAMILIES
        if family.name in {"thoughtbubbles", "threshold", "copy", "thinker", "thinker-window", "generic"}
    },
    **{
        f"bytes-{variant.name}": (variant.build, lambda model, v=variant: read_bytes(v, model), "CAUSAL_LM")
        for variant in BYTE_VARIANTS[:5:2]
    },
    f"answers-{ANSWERERS[0].name}": (ANSWERERS[0].build, read_pair, "SEQ_2_SEQ_LM"),
    "thought": (THOUGHT_VARIANTS[0].build, read_pair, "SEQ_2_SEQ_LM"),
}


@pytest.mark.parametrize("name", MODELS)
def test_adapters_of_all_linear_layers_train_save_load_and_merge(name, tmp_path):
    build, read, task = MODELS[name]
    torch.manual_seed(0)
    model = build()
    inputs = read(model)
    labels = inputs.get("decoder_input_ids", inputs["input_ids"])
    plain = model(**inputs).logits
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules="all-linear", task_type=task))
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
