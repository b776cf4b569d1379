# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Do saved generic transformers load, generate and save again where the package is not installed?"""

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from tests.families import FAMILIES
from tests.hub.test_remote_code import load_as_a_stranger


# All heads travel by the same code (test_remote_code.py); here the family's own modules do.
CASES = [(AutoModel, "generic"), (AutoModelForCausalLM, "generic-shared")]
CASES += [(AutoModelForSequenceClassification, "generic-bidirectional")]


@pytest.mark.parametrize(("auto_class", "name"), CASES)
def test_a_saved_model_travels_and_is_saved_again(auto_class, name, tmp_path):
    torch.manual_seed(0)
    family = next(family for family in FAMILIES if family.name == name)
    model = auto_class.from_config(family.config).eval()
    model.save_pretrained(tmp_path / "saved")
    expected = [part for part in model(torch.arange(1, 14)[None]).to_tuple() if isinstance(part, torch.Tensor)]
    source = tmp_path / "saved"
    for folder in ("again", "twice")[: 1 + (auto_class is AutoModelForCausalLM)]:
        seen = load_as_a_stranger(auto_class, source, tmp_path / folder, tmp_path / f"modules_{folder}")
        assert len(seen) == len(expected) >= 1
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(seen, expected, strict=True))
        source = tmp_path / folder
