# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Check an installed wheel in an environment with its dependencies alone, for `make dist`; run outside of the clone."""

import importlib
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import hf_thoughtbubbles


NEEDS_EXTRAS = ("matplotlib", "trl", "peft", "evaluate")  # packages of extras, which some modules need


def import_everything() -> int:
    """Import all modules of the package; returns their number."""
    names = [module.name for module in pkgutil.walk_packages(hf_thoughtbubbles.__path__, "hf_thoughtbubbles.")]
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in NEEDS_EXTRAS:
                raise
    return len(names)


def reload_a_model():
    """Save a small model, load it again and compare logits."""
    config = hf_thoughtbubbles.ThoughtbubblesConfig(
        vocab_size=31, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, fork_layers=[1]
    )
    model, input_ids = hf_thoughtbubbles.ThoughtbubblesForCausalLM(config).eval(), torch.arange(12)[None]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)
        reloaded = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert torch.equal(model(input_ids).logits, reloaded(input_ids).logits), "logits differ after reloading"


def main():
    """Raise for anything that is missing."""
    installed = Path(hf_thoughtbubbles.__file__).parent
    assert "site-packages" in installed.parts, f"{installed} is not an installed wheel"
    assert (installed / "py.typed").exists(), "py.typed is missing"
    num_modules = import_everything()
    reload_a_model()
    command = Path(sys.executable).with_name("hf-thoughtbubbles")
    subprocess.run([command, "convert", "--help"], check=True, stdout=subprocess.DEVNULL)
    print(f"hf-thoughtbubbles {hf_thoughtbubbles.__version__}: {num_modules} modules, a model and the command work")


if __name__ == "__main__":
    main()
