# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Models that are saved and loaded elsewhere in the tests, and what they must compute there."""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from tests.families import (
    BYTE_VARIANTS,
    FAMILIES,
    LOOP,
    NATIVE_PARTS,
    THOUGHT_VARIANTS,
    make_config,
    make_thinker_config,
    make_thinker_text_config,
)


HEADS = [
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
]
WITHOUT_ANSWERS = [head for head in HEADS if head is not AutoModelForQuestionAnswering]


def compute(model, inputs: dict, generation: dict | None) -> list:
    """Every tensor that a model returns for its inputs, then what it generates. Runs here and wherever it arrived."""
    outputs = [part for part in model(**inputs).to_tuple() if isinstance(part, torch.Tensor)]
    if generation is not None:
        outputs.append(model.generate(**generation, do_sample=False))
    return outputs


COMPUTE = "import torch, transformers\n" + textwrap.dedent(inspect.getsource(compute))
# Names assigned by the caller: `source`, and what `Traveller.order` says.
LOAD = f"""
{COMPUTE}
model = getattr(transformers, auto_class).from_pretrained(source, **options).eval()
assert type(model).__module__.split(".")[0] == package, type(model)
result = compute(model, inputs, generation)
if base_inputs is not None:
    base = transformers.AutoModel.from_pretrained(source, **options).eval()
    result += compute(base, base_inputs, None)
"""


@dataclass(frozen=True)
class Traveller:
    """A model of one family with one head, and what it is asked."""

    name: str
    auto_class: type
    build: Callable[[], PreTrainedModel]
    inputs: dict = field(default_factory=lambda: {"input_ids": torch.arange(1, 14)[None]})
    generation: dict | None = None
    base_inputs: dict | None = None  # what the base model in the same checkpoint is asked

    def order(self, package: str = "transformers_modules", **options) -> dict:
        """What `LOAD` has to know; `package` is where the code has to come from, which decides whether to trust it."""
        return {
            "auto_class": self.auto_class.__name__,
            "inputs": self.inputs,
            "generation": self.generation,
            "base_inputs": self.base_inputs,
            "package": package,
            "options": {"trust_remote_code": package == "transformers_modules", **options},
        }

    def expect(self, model: PreTrainedModel) -> list[torch.Tensor]:
        """What the model computes here."""
        expected = compute(model, self.inputs, self.generation)
        if self.base_inputs is not None:
            expected += compute(model.model, self.base_inputs, None)
        return expected


TEXT = {"input_ids": torch.arange(1, 9)[None], "attention_mask": torch.ones(1, 8, dtype=torch.long)}
CONTINUATION = {**TEXT, "max_new_tokens": 5}
PROBLEM = {"input_ids": torch.arange(1, 14)[None]}
ANSWER = {"decoder_input_ids": torch.arange(5, 11)[None]}


def build_head(auto_class: type, config) -> PreTrainedModel:
    """A model of one head, with the weights that the test's seed gives."""
    torch.manual_seed(0)
    return auto_class.from_config(config).eval()


def travel_as_text(name: str, auto_class: type, config) -> Traveller:
    """A model that reads text; with a head for it, it also writes."""
    generation = CONTINUATION if auto_class is AutoModelForCausalLM and getattr(config, "is_causal", True) else None
    return Traveller(name, auto_class, lambda: build_head(auto_class, config), generation=generation)


def travel_as_answers(readout: str) -> Traveller:
    """A looped Thinker that answers problems."""
    reading = {"answer_length": 6} if readout == "parallel" else ANSWER
    return Traveller(
        f"thinker-{readout}",
        AutoModelForSeq2SeqLM,
        lambda: build_head(AutoModelForSeq2SeqLM, make_thinker_config(readout=readout)),
        inputs={**PROBLEM, **reading, "num_steps": 5},
        generation={**PROBLEM, "num_steps": 5, "num_latents": 7},
        base_inputs={**PROBLEM, **reading},
    )


def travel_as_thoughts(variant) -> Traveller:
    """A next-thought model."""
    return Traveller(
        f"next-thought-{variant.name}",
        AutoModelForSeq2SeqLM,
        variant.build,
        inputs={**PROBLEM, **ANSWER, "num_thoughts": 3},
        generation={**PROBLEM, "num_thoughts": 3, "max_new_tokens": 9},
        base_inputs={**PROBLEM, **ANSWER},
    )


def travel_as_bytes(variant, auto_class: type) -> Traveller:
    """A byte-patch model."""
    name = f"bytes-{variant.name}-{auto_class.__name__}"
    if auto_class is AutoModelForCausalLM:
        return Traveller(name, auto_class, variant.build, generation=CONTINUATION)
    return Traveller(name, auto_class, lambda: build_head(auto_class, variant.config))


GENERIC = {family.name: family.config for family in FAMILIES if family.name.startswith("generic")}
# Their thresholds are saved with them.
THRESHOLD, NATIVE = (family for family in FAMILIES if family.name in ("threshold", "native"))
THINKER = make_thinker_text_config(exit_threshold=0.3)
LOOPING = make_thinker_text_config(**LOOP, **NATIVE_PARTS)
BYTES, THOUGHTS = BYTE_VARIANTS, THOUGHT_VARIANTS

TRAVELLERS = [
    *(travel_as_text(f"thoughtbubbles-{head.__name__}", head, make_config()) for head in HEADS),
    Traveller("thoughtbubbles-threshold", AutoModelForCausalLM, THRESHOLD.build, generation=CONTINUATION),
    Traveller("thoughtbubbles-native", AutoModelForCausalLM, NATIVE.build, generation=CONTINUATION),
    *(travel_as_text(f"generic-{head.__name__}", head, GENERIC["generic"]) for head in HEADS),
    travel_as_text("generic-shared", AutoModelForCausalLM, GENERIC["generic-shared"]),
    travel_as_text("generic-bidirectional", AutoModelForSequenceClassification, GENERIC["generic-bidirectional"]),
    *(travel_as_text(f"thinker-{head.__name__}", head, THINKER) for head in WITHOUT_ANSWERS),
    travel_as_text("loop-AutoModelForCausalLM", AutoModelForCausalLM, LOOPING),
    travel_as_answers("autoregressive"),
    travel_as_answers("parallel"),
    *(travel_as_bytes(BYTES[0], head) for head in WITHOUT_ANSWERS),
    *(travel_as_bytes(BYTES[3], head) for head in HEADS[:2]),
    *(travel_as_thoughts(variant) for variant in (THOUGHTS[0], THOUGHTS[2])),
]
BY_NAME = {traveller.name: traveller for traveller in TRAVELLERS}
# One of each family, with the head that does most.
FAMILY_TRAVELLERS = [
    BY_NAME[name]
    for name in (
        "thoughtbubbles-AutoModelForCausalLM",
        "generic-AutoModelForCausalLM",
        "thinker-autoregressive",
        "bytes-space-AutoModelForCausalLM",
        "next-thought-plain",
    )
]


def are_equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Whether two computations gave the same tensors, bit for bit, and any at all."""
    return len(first) == len(second) >= 1 and all(map(torch.equal, first, second))


def read_files(folder: Path, *endings: str) -> dict[str, bytes]:
    """The bytes of the files with these endings."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name.endswith(endings)}
