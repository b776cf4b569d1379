# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Do saved looped Thinkers load, think, generate and save again where the package is not installed?"""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from hf_thoughtbubbles import LoopedThinkerConfig
from hf_thoughtbubbles.hub.remote_code import collect_auto_classes
from tests.families import make_thinker_config
from tests.hub.test_remote_code import load_as_a_stranger


ANSWERING_STRANGER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_thoughtbubbles":
            raise ImportError("hf_thoughtbubbles is not installed")

sys.meta_path.insert(0, Blocker())
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM

source, target, results = sys.argv[1:]
inputs = {"input_ids": torch.arange(1, 14)[None]}
reading = {"decoder_input_ids": torch.arange(5, 11)[None]}
model = AutoModelForSeq2SeqLM.from_pretrained(source, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
if model.config.readout == "parallel":
    reading = {"answer_length": 6}
base = AutoModel.from_pretrained(source, trust_remote_code=True)
torch.save(
    {
        "logits": model(**inputs, **reading, num_steps=5).logits,
        "state": base(**inputs, **reading).last_hidden_state,
        "generated": model.generate(**inputs, do_sample=False, num_steps=5, num_latents=7),
    },
    results,
)
model.save_pretrained(target)
"""


@pytest.mark.parametrize("readout", ["autoregressive", "parallel"])
def test_what_answers_problems_travels(readout, tmp_path):
    model = AutoModelForSeq2SeqLM.from_config(make_thinker_config(readout=readout)).eval()
    model.save_pretrained(tmp_path / "saved")
    inputs = {"input_ids": torch.arange(1, 14)[None]}
    reading = {"answer_length": 6} if readout == "parallel" else {"decoder_input_ids": torch.arange(5, 11)[None]}
    expected = {
        "logits": model(**inputs, **reading, num_steps=5).logits,
        "state": model.model(**inputs, **reading).last_hidden_state,
        "generated": model.generate(**inputs, do_sample=False, num_steps=5, num_latents=7),
    }
    for source, target in (("saved", "again"), ("again", "third")):
        paths = [str(tmp_path / name) for name in (source, target, f"{target}.pt")]
        environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / f"cache-{source}")}
        command = [sys.executable, "-c", ANSWERING_STRANGER, *paths]
        result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-3000:]
        results = torch.load(paths[-1], weights_only=True)
        assert results.keys() == expected.keys()
        assert all(torch.equal(results[name], expected[name]) for name in expected)
    auto_maps = [json.loads((tmp_path / name / "config.json").read_text())["auto_map"] for name in ("saved", "third")]
    assert auto_maps[0] == auto_maps[1]
    assert set(auto_maps[0]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"}


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForCausalLM], ids=lambda auto_class: auto_class.__name__)
def test_what_continues_text_travels(auto_class, tmp_path):
    model = auto_class.from_config(make_thinker_config(is_encoder_decoder=False, exit_threshold=0.3)).eval()
    model.save_pretrained(tmp_path / "saved")
    expected = [part for part in model(torch.arange(1, 14)[None]).to_tuple() if isinstance(part, torch.Tensor)]
    outputs = load_as_a_stranger(auto_class, tmp_path / "saved", tmp_path / "again", tmp_path / "cache")
    assert len(outputs) == len(expected) >= 2, "logits or states, and the steps used"
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(expected, outputs, strict=True))
    reloaded = auto_class.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(reloaded(torch.arange(1, 14)[None])[0], expected[0])


def test_every_class_travels():
    assert set(collect_auto_classes(LoopedThinkerConfig)) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoModelForSeq2SeqLM",
    }
