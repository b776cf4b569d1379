# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Rows of the table of bad inputs: what they are made of, and how one is judged."""

import functools
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from huggingface_hub.errors import StrictDataclassError

import hf_thoughtbubbles as package


VOCAB_SIZE, LENGTH, POSITIONS = 31, 6, 20
NAN, INF = math.nan, math.inf
SIZES = {"vocab_size": VOCAB_SIZE, "hidden_size": 8, "max_position_embeddings": POSITIONS, "pad_token_id": 0}
FORKS = {**SIZES, "num_hidden_layers": 2, "num_attention_heads": 2}
LOOP = {**SIZES, "num_attention_heads": 2, "num_steps": 2}
BYTES = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "core_hidden_size": 8,
    "core_num_attention_heads": 2,
    "core_num_hidden_layers": 1,
    "max_position_embeddings": POSITIONS,
    "max_patch_bytes": 5,
    "pad_token_id": 258,
}
THOUGHTS = {
    **SIZES,
    "pooling_sizes": [6],
    "removed_shares": [0.5],
    "num_pooling_heads": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_decoder_layers": 1,
    "num_latent_tokens": 2,
}
TABLE = {"budgets": [1.0, 2.0], "thresholds": [[0.0], [-1.0]]}
THRESHOLD = {**FORKS, "fork_layers": [1], "fork_rule": "threshold", "fork_budget": 2.0}
BASES = {  # name -> configuration class, class, settings
    "threshold": ("ThoughtbubblesConfig", "ThoughtbubblesForCausalLM", {**THRESHOLD, "fork_calibration": TABLE}),
    "topk": ("ThoughtbubblesConfig", "ThoughtbubblesForCausalLM", {**FORKS, "fork_layers": [1]}),
    "copy": ("ThoughtbubblesConfig", "ThoughtbubblesForCausalLM", {**FORKS, "fork_layers": [1], "fork_rule": "copy"}),
    "plain": ("ThoughtbubblesConfig", "ThoughtbubblesForCausalLM", {**FORKS, "fork_layers": []}),
    "learned": (
        "ThoughtbubblesConfig",
        "ThoughtbubblesForCausalLM",
        {**THRESHOLD, "position_embedding": "learned"},
    ),
    "generic": ("GenericTransformerConfig", "GenericTransformerForCausalLM", FORKS),
    "bidirectional": ("GenericTransformerConfig", "GenericTransformerForCausalLM", {**FORKS, "is_causal": False}),
    "thinker_text": ("LoopedThinkerTextConfig", "LoopedThinkerForCausalLM", LOOP),
    "thinker": (
        "LoopedThinkerConfig",
        "LoopedThinkerForConditionalGeneration",
        {**LOOP, "num_latents": 2, "max_latents": 3, "max_answer_length": 9, "num_probes": 2, "static_memory_size": 3},
    ),
    "parallel": (
        "LoopedThinkerConfig",
        "LoopedThinkerForConditionalGeneration",
        {**LOOP, "max_answer_length": 9, "readout": "parallel"},
    ),
    "byte_patch": ("BytePatchConfig", "BytePatchForCausalLM", BYTES),
    "token_patch": ("BytePatchConfig", "BytePatchForCausalLM", {**BYTES, "patching": "token"}),
    "block_patch": ("BytePatchConfig", "BytePatchForCausalLM", {**BYTES, "decoder": "parallel"}),
    "next_thought": ("NextThoughtConfig", "NextThoughtForConditionalGeneration", THOUGHTS),
}
SPANS = ("Thoughtbubbles", "GenericTransformer")  # families with a head that answers by a span
for _owner, _config, _settings in (
    ("Thoughtbubbles", "Thoughtbubbles", THRESHOLD),
    ("GenericTransformer", "GenericTransformer", FORKS),
    ("LoopedThinker", "LoopedThinkerText", LOOP),
    ("BytePatch", "BytePatch", BYTES),
):
    for _task in ("SequenceClassification", "TokenClassification", "QuestionAnswering")[: 3 if _owner in SPANS else 2]:
        BASES[f"{_owner}For{_task}"] = (
            f"{_config}Config",
            f"{_owner}For{_task}",
            {**_settings, **({} if _task == "QuestionAnswering" else {"num_labels": 3})},
        )
WRITERS = ("thinker", "next_thought")
SMALL = ("threshold", "plain", "generic", "thinker_text", "byte_patch", "thinker", "next_thought")  # one of each kind


@dataclass(frozen=True)
class BadInput:
    """One row: what is passed wrongly to what, and the name that the error must have."""

    family: str
    call: str
    argument: str
    kind: str
    run: Callable
    is_fine: Callable = lambda result: False  # a result that is an answer instead of an error
    is_warning_enough: bool = False

    def __str__(self) -> str:
        return f"{self.family}-{self.call}-{self.argument}-{self.kind}"


@functools.cache
def build(family: str):
    torch.manual_seed(0)
    config_name, class_name, settings = BASES[family]
    return getattr(package, class_name)(getattr(package, config_name)(**settings)).eval()


def make_ids(num_rows: int = 2, length: int = LENGTH) -> torch.Tensor:
    return torch.arange(num_rows * length).view(num_rows, length) % 23 + 1


def make_inputs(family: str, num_rows: int = 2) -> dict:
    """A right input of a family."""
    inputs = {"input_ids": make_ids(num_rows)}
    if family in WRITERS:
        inputs["decoder_input_ids"] = make_ids(num_rows, 3)
    if family == "parallel":
        inputs["answer_length"] = 3
    if family == "token_patch":
        inputs["patch_lengths"] = torch.tensor([[4, 2]] * num_rows)
    return inputs


ABSENT = object()


def call_forward(family: str, **changes):
    """A right call but for the changes; `ABSENT` removes an argument."""
    inputs = {**make_inputs(family), **changes}
    return build(family)(**{name: value for name, value in inputs.items() if value is not ABSENT})


def call_generate(family: str, **changes):
    inputs = {**make_inputs(family), "max_new_tokens": 2, "do_sample": False, **changes}
    for name in ("decoder_input_ids", "answer_length"):
        if name not in changes:
            inputs.pop(name, None)
    return build(family).generate(**{name: value for name, value in inputs.items() if value is not ABSENT})


def make_config(family: str, **changes):
    config_name, _, settings = BASES[family]
    return getattr(package, config_name)(**{**settings, **changes})


def make_row(family: str, argument: str, kind: str, value, call=call_forward, **others) -> BadInput:
    """A row with one wrong argument; a function as value is called for it."""

    def run():
        return call(family, **{argument: value() if callable(value) else value}, **others)

    return BadInput(family, call.__name__.partition("_")[2], argument, kind, run)


class Listener(logging.Handler):
    """Collects what is logged."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@torch.no_grad()
def find_fault(row: BadInput) -> str | None:
    """What is wrong with the treatment of a row; `None` for an error that names the argument."""
    listener, roots = Listener(), [logging.getLogger(name) for name in ("transformers", "hf_thoughtbubbles", "")]
    for root in roots:
        root.addHandler(listener)
    try:
        result = row.run()
    except (ValueError, TypeError, StrictDataclassError) as error:
        if re.search(rf"(?<![a-z_]){row.argument}(?![a-z_])", str(error)):
            return None
        return f"refused without its name: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    except Exception as error:
        return f"raised {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    finally:
        for root in roots:
            root.removeHandler(listener)
    is_warned = any(row.argument in message for message in listener.messages)
    if row.is_fine(result) or (row.is_warning_enough and is_warned):
        return None
    return "accepted"
