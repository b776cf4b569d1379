# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Models that two processes share, by heads or by layers, beside the same models in one; for test_processes.py."""

import filecmp
from pathlib import Path

import torch
import torch.distributed as dist
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.distributed import DistributedConfig

from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS, Family


FAMILY_BY_NAME = {
    **{family.name: family for family in (*FAMILIES, *ANSWERERS)},
    **{f"bytes-{family.name}": family for family in BYTE_VARIANTS},
    **{f"thought-{family.name}": family for family in THOUGHT_VARIANTS},
}
FIELDS_OF_HEADS = {"bytes": ("core_",), "thought": ("encoder_", "decoder_")}
# A model of each kind: all fork rules share their layers, and sizes are small where DTensors cost most of the time.
CHANGES = {
    "thoughtbubbles": {"num_hidden_layers": 3, "fork_layers": [1]},
    "native": {
        "num_hidden_layers": 3,
        "fork_layers": [1],
        "fork_budget": 1.45,
        "attention_bias": "qkv",
        "use_qk_norm": True,
    },
    "thinker-window": {"use_qk_norm": True},
    "thinker-loop": {"num_hidden_layers": 1, "num_steps": 2},
    "generic": {"num_hidden_layers": 2, "position_embedding": "relative"},
    "generic-shared": {"num_hidden_layers": 2},
    "bytes-fixed": {"num_hidden_layers": 2, "core_num_hidden_layers": 1},
    "bytes-published": {"num_hidden_layers": 1, "core_num_hidden_layers": 1},
    "low-rank-parallel": {},
    "thought-sinusoidal-biased": {"num_decoder_layers": 1},
}
CURVE = "generic_transformer"  # the fastest model of parallel_training.py
LEAST = 0.1  # some gradients are 0 but for rounding, as those of the biases of keys


def build(name: str) -> tuple[Family, PreTrainedModel]:
    """A family, and its model whose heads two processes divide: 4 for queries, and 2 for keys and values."""
    prefixes = FIELDS_OF_HEADS.get(name.split("-")[0], ("",))
    heads = {f"{prefix}num_attention_heads": 4 for prefix in prefixes}
    heads |= {f"{prefix}num_key_value_heads": 2 for prefix in prefixes}
    if name.startswith("thought-"):
        heads = {field.replace("num_", ""): count for field, count in heads.items()}
    family = FAMILY_BY_NAME[name]
    return family, family.build(**{**heads, **CHANGES.get(name, {})})


def load_split(folder: Path, model: PreTrainedModel, **sizes) -> PreTrainedModel:
    """The saved model, of whose heads every process holds a part by default."""
    if dist.get_rank() == 0:
        model.save_pretrained(folder)
    dist.barrier()
    config = DistributedConfig(**sizes) if sizes else DistributedConfig(tp_plan="auto")
    return type(model).from_pretrained(folder, distributed_config=config)


def measure_gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, as a part of the largest number and a little more."""
    whole = found.full_tensor() if isinstance(found, DTensor) else found
    return float((whole - expected).abs().max() / (expected.abs().max() + LEAST))


def read_lessons(family: Family, model: PreTrainedModel) -> list[torch.Tensor]:
    """The logits of two passes, whose gradients add up to one step of descent."""
    torch.manual_seed(0)
    logits = []
    for lesson in [family.draw_lesson(2) for _ in range(2)]:
        outputs = model.train()(**lesson)
        outputs.loss.backward()
        logits.append(outputs.logits.detach())
    torch.optim.SGD(model.parameters(), lr=1e-2).step()
    return logits


def read_thresholds(model: PreTrainedModel) -> dict[str, float]:
    """The thresholds that forks have tracked until now."""
    model.eval()
    return {name: float(buffer) for name, buffer in model.named_buffers() if name.endswith(".threshold")}


def compare(folder: Path, name: str) -> dict:
    """Differences of logits, gradients, generated text and files between a split model and the whole one."""
    family, whole = build(name)
    split = load_split(folder / name, whole)
    split.save_pretrained(folder / name / "again")
    logits = {model: read_lessons(family, model) for model in (whole, split)}
    pairs = {key: (split.get_parameter(key).grad, weight.grad) for key, weight in whole.named_parameters()}
    thresholds, prompt = read_thresholds(split), family.ask(2, 7)
    texts = [model.eval().generate(**prompt, max_new_tokens=5, do_sample=False) for model in (whole, split)]
    saved = [folder / name / part / "model.safetensors" for part in (".", "again")]
    configs = [path.with_name("config.json") for path in saved]
    return {
        "logits": max(map(measure_gap, logits[split], logits[whole])),
        "gradients": {key: measure_gap(*pair) for key, pair in pairs.items() if pair[1] is not None},
        "missing": [key for key, pair in pairs.items() if (pair[0] is None) != (pair[1] is None)],
        "thresholds": thresholds,
        "is_same_text": torch.equal(*texts),
        "is_same_file": all(filecmp.cmp(*pair, shallow=False) for pair in (saved, configs)),
        "sizes": {
            key: [weight.to_local().numel(), weight.numel()]
            for key, weight in split.named_parameters()
            if isinstance(weight, DTensor)
        },
    }


def run_stages(folder: Path) -> dict:
    """The same for a plain GPT of which each process has half of the layers; transformers does not train these."""
    family, whole = build("gpt-rope")
    split, prompt = load_split(folder / "stages", whole, pp_size=2), family.ask(2, 7)
    with torch.no_grad():
        logits = [model(**prompt).logits for model in (whole, split)]
    texts = [model.generate(**prompt, max_new_tokens=5, do_sample=False) for model in (whole, split)]
    return {"is_same_logits": torch.equal(*logits), "is_same_text": torch.equal(*texts)}


def refuse(folder: Path) -> dict[str, str]:
    """What is said where processes cannot share a model, or not train it."""
    odd, refusals = FAMILY_BY_NAME["native"].build(), {}
    for name, sizes in {"heads": {"tp_size": 2}, "stages": {"pp_size": 2}}.items():
        try:
            load_split(folder / "odd", odd, **sizes)
        except StrictDataclassClassValidationError as error:
            refusals[name] = str(error)
    model = load_split(folder / "trainer", build("gpt-rope")[1])
    try:
        Trainer(model, TrainingArguments(str(folder), use_cpu=True, report_to="none"))
    except ValueError as error:
        refusals["trainer"] = str(error)
    return refusals
