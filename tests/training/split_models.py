# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Models whose heads two processes share, beside the same models in one; for test_tensor_parallel.py."""

import filecmp
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.distributed import DistributedConfig

from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS, Family


EVEN_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
EVEN_BYTE_HEADS = {"core_num_attention_heads": 4, "core_num_key_value_heads": 2}
EVEN_THOUGHT_HEADS = {
    f"{side}_{name}": count
    for side in ("encoder", "decoder")
    for name, count in (("attention_heads", 4), ("key_value_heads", 2))
}
LEAST = 0.1  # some gradients are 0 but for rounding, as those of the biases of keys
SPLIT: dict[str, tuple[Family, dict]] = {
    **{family.name: (family, EVEN_HEADS) for family in (*FAMILIES, *ANSWERERS)},
    **{f"bytes-{family.name}": (family, EVEN_BYTE_HEADS) for family in BYTE_VARIANTS},
    **{f"thought-{family.name}": (family, EVEN_THOUGHT_HEADS) for family in THOUGHT_VARIANTS},
}


def load_split(folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    """The saved model, of whose heads every process holds a part."""
    if dist.get_rank() == 0:
        model.save_pretrained(folder)
    dist.barrier()
    return type(model).from_pretrained(folder, distributed_config=DistributedConfig(tp_plan="auto"))


def measure_gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, as a part of the largest number and a little more."""
    whole = found.full_tensor() if isinstance(found, DTensor) else found
    return float((whole - expected).abs().max() / (expected.abs().max() + LEAST))


def read_lesson(model: PreTrainedModel, lesson: dict) -> torch.Tensor:
    """The logits of a training step, whose gradients are added to those of the model."""
    outputs = model(**lesson)
    outputs.loss.backward()
    return outputs.logits.detach()


def compare(folder: Path, name: str) -> dict:
    """Differences of logits, gradients, generated text and files between a split model and the whole one."""
    family, changes = SPLIT[name]
    whole = family.build(**changes)
    split = load_split(folder / name, whole)
    split.save_pretrained(folder / name / "again")
    torch.manual_seed(0)
    lessons = [family.draw_lesson(2) for _ in range(2)]
    prompt = family.ask(2, 7)
    models = {"whole": whole.train(), "split": split.train()}
    logits = {key: [read_lesson(model, lesson) for lesson in lessons] for key, model in models.items()}
    pairs = {key: (split.get_parameter(key).grad, weight.grad) for key, weight in whole.named_parameters()}
    grads = {key: measure_gap(*pair) for key, pair in pairs.items() if pair[1] is not None}
    texts = {key: model.eval().generate(**prompt, max_new_tokens=7, do_sample=False) for key, model in models.items()}
    saved = [folder / name / part / "model.safetensors" for part in (".", "again")]
    parts = [key for key, weight in split.named_parameters() if isinstance(weight, DTensor)]
    return {
        "logits": max(measure_gap(*pair) for pair in zip(logits["split"], logits["whole"], strict=True)),
        "gradients": grads,
        "unequal": [key for key, pair in pairs.items() if (pair[0] is None) != (pair[1] is None)],
        "is_same_text": torch.equal(texts["whole"], texts["split"]),
        "is_same_file": filecmp.cmp(*saved, shallow=False),
        "is_same_config": filecmp.cmp(*(path.with_name("config.json") for path in saved), shallow=False),
        "parts": parts,
    }
