# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Do saved byte-patch models load, generate and save again where the package is not installed?"""

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from tests.hub.test_remote_code import load_as_a_stranger
from tests.test_contract_bytes import VARIANTS


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForCausalLM])
@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[3]], ids=lambda variant: variant.name)
def test_a_saved_model_travels_and_is_saved_again(variant, auto_class, tmp_path):
    model = variant.build()
    model = model.model if auto_class is AutoModel else model
    model.save_pretrained(tmp_path / "saved")
    outputs = model(torch.arange(1, 14)[None]).to_tuple()
    expected = [part for part in outputs if isinstance(part, torch.Tensor)]
    source = tmp_path / "saved"
    for name in ("again", "twice"):
        seen = load_as_a_stranger(auto_class, source, tmp_path / name, tmp_path / f"modules_{name}")
        assert len(seen) == len(expected) >= 1
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(seen, expected, strict=True))
        source = tmp_path / name
