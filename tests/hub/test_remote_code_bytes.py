# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Do saved byte-patch models load, generate and save again where the package is not installed?"""

import subprocess
import sys

import pytest
import torch

from tests.test_contract_bytes import VARIANTS


STRANGER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_thoughtbubbles":
            raise ImportError("hf_thoughtbubbles is not installed")

sys.meta_path.insert(0, Blocker())
import torch
from transformers import AutoModel, AutoModelForCausalLM

source, target, results = sys.argv[1:]
ids = torch.tensor([list(b"to be, or not")])
model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
base = AutoModel.from_pretrained(source, trust_remote_code=True)
seen = {
    "logits": model(ids).logits,
    "state": base(ids).last_hidden_state,
    "generated": model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20),
}
torch.save(seen, results)
model.save_pretrained(target)
"""


@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[3]], ids=lambda variant: variant.name)
def test_a_saved_model_travels_and_is_saved_again(variant, tmp_path):
    model, ids = variant.build(), torch.tensor([list(b"to be, or not")])
    model.save_pretrained(tmp_path / "saved")
    expected = {
        "logits": model(ids).logits,
        "state": model.model(ids).last_hidden_state,
        "generated": model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20),
    }
    source = tmp_path / "saved"
    for target in (tmp_path / "again", tmp_path / "twice"):
        subprocess.run([sys.executable, "-c", STRANGER, source, target, tmp_path / "seen.pt"], check=True)
        seen = torch.load(tmp_path / "seen.pt", weights_only=True)
        for name, value in expected.items():
            assert torch.equal(seen[name], value), name
        source = target
