# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Do saved next-thought models load, write and save again where the package is not installed?"""

import json
import os
import subprocess
import sys

import pytest
import torch

from hf_thoughtbubbles import NextThoughtConfig
from hf_thoughtbubbles.hub.remote_code import collect_auto_classes
from tests.test_contract_next_thought import VARIANTS


STRANGER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_thoughtbubbles":
            raise ImportError("hf_thoughtbubbles is not installed")

sys.meta_path.insert(0, Blocker())
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM

source, target, results = sys.argv[1:]
inputs, text = {"input_ids": torch.arange(1, 14)[None]}, torch.arange(5, 11)[None]
model = AutoModelForSeq2SeqLM.from_pretrained(source, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
base = AutoModel.from_pretrained(source, trust_remote_code=True)
torch.save(
    {
        "logits": model(**inputs, decoder_input_ids=text, num_thoughts=3).logits,
        "state": base(**inputs, decoder_input_ids=text).last_hidden_state,
        "generated": model.generate(**inputs, do_sample=False, num_thoughts=3, max_new_tokens=9),
    },
    results,
)
model.save_pretrained(target)
"""


@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[2]], ids=lambda variant: variant.name)
def test_a_saved_model_travels_and_is_saved_again(variant, tmp_path):
    model, inputs, text = variant.build(), {"input_ids": torch.arange(1, 14)[None]}, torch.arange(5, 11)[None]
    model.save_pretrained(tmp_path / "saved")
    expected = {
        "logits": model(**inputs, decoder_input_ids=text, num_thoughts=3).logits,
        "state": model.model(**inputs, decoder_input_ids=text).last_hidden_state,
        "generated": model.generate(**inputs, do_sample=False, num_thoughts=3, max_new_tokens=9),
    }
    for source, target in (("saved", "again"), ("again", "third")):
        paths = [str(tmp_path / name) for name in (source, target, f"{target}.pt")]
        environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / f"cache-{source}")}
        # Away from the repository, whose folder would otherwise be importable.
        result = subprocess.run(
            [sys.executable, "-c", STRANGER, *paths], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr[-3000:]
        results = torch.load(paths[-1], weights_only=True)
        assert results.keys() == expected.keys()
        assert all(torch.equal(results[name], expected[name]) for name in expected)
    auto_maps = [json.loads((tmp_path / name / "config.json").read_text())["auto_map"] for name in ("saved", "third")]
    assert auto_maps[0] == auto_maps[1]


def test_every_class_travels():
    assert set(collect_auto_classes(NextThoughtConfig)) == {"AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM"}
