# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A training task for each family, alone or in several processes; for test_processes.py and the scripts it starts."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS, draw_ids


NUM_ROWS = 24
EVEN_VOCAB_SIZE = 62  # two processes hold the same number of its rows each
LENGTHS = {"text": (19, 19), "answers": (9, 7), "thoughts": (13, 8), "labels": (19, 19)}  # of inputs and of labels
NUM_LABELS = 3
FAMILY_BY_NAME = {entry.name: entry for entry in (*FAMILIES, *ANSWERERS)}
BYTES_BY_NAME = {variant.name: variant for variant in BYTE_VARIANTS}


@dataclass(frozen=True)
class Lesson:
    """How to build a model, and what its rows look like."""

    name: str
    build: Callable[[], PreTrainedModel]
    kind: str = "text"
    add_columns: Callable[[torch.Tensor], dict] = lambda input_ids: {}

    def make_dataset(self) -> Dataset:
        """Rows with unequal numbers of targets, so that a mean of means would show."""
        torch.manual_seed(0)
        input_length, label_length = LENGTHS[self.kind]
        input_ids = draw_ids(NUM_ROWS, input_length)
        is_text = self.kind in ("text", "labels")
        labels = input_ids.clone() if is_text else draw_ids(NUM_ROWS, label_length)
        for row in range(NUM_ROWS):
            labels[row, label_length - row % 7 :] = -100
        if self.kind == "labels":
            labels = labels.where(labels == -100, labels % NUM_LABELS)
        columns = {"input_ids": input_ids, "labels": labels, **self.add_columns(input_ids)}
        return Dataset.from_dict({name: column.tolist() for name, column in columns.items()})

    def make_trainer(
        self, folder: Path, model: PreTrainedModel, batch_size: int, data_collator=default_data_collator, **changes
    ) -> Trainer:
        """A Trainer over the rows, or over another `train_dataset`; plain descent forgets nothing between steps."""
        dataset, eval_dataset = changes.pop("train_dataset", None), changes.pop("eval_dataset", None)
        callbacks = changes.pop("callbacks", [])
        arguments = {
            "output_dir": str(folder),
            "max_steps": 3,
            "per_device_train_batch_size": batch_size,
            "learning_rate": 1e-1,
            "lr_scheduler_type": "constant",
            "optim": "sgd",
            "train_sampling_strategy": "sequential",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
        }
        return Trainer(
            model=model.train(),
            args=TrainingArguments(**{**arguments, **changes}),
            train_dataset=self.make_dataset() if dataset is None else dataset,
            eval_dataset=eval_dataset,
            data_collator=data_collator,
            callbacks=list(callbacks),
        )


def make_lesson(name: str, **changes) -> Lesson:
    """The lesson of a family or an answerer of tests/families.py, with other settings."""
    entry = FAMILY_BY_NAME[name]
    return Lesson(name, partial(entry.build, **changes), "answers" if entry in ANSWERERS else "text")


def make_byte_lesson(name: str) -> Lesson:
    """The lesson of a byte-patch model, which is told the patches when it cannot find them."""
    variant = BYTES_BY_NAME[name]
    return Lesson(f"bytes-{name}", variant.build, add_columns=lambda input_ids: variant.measure(input_ids.tolist()))


def make_label_lesson(name: str, config: PreTrainedConfig, auto_class: type, **columns) -> Lesson:
    """The lesson of a classification head, with a label for each token, or with other columns."""
    labelled = type(config)(**{**config.to_dict(), "num_labels": NUM_LABELS})

    def build() -> PreTrainedModel:
        torch.manual_seed(0)
        return auto_class.from_config(copy.deepcopy(labelled))

    return Lesson(name, build, "labels", **columns)


def label_rows(input_ids: torch.Tensor) -> dict:
    """A label for each row, by its first token; the first rows of a step have none."""
    labels = input_ids[:, 0] % NUM_LABELS
    return {"labels": labels.masked_fill(torch.arange(len(labels)) % 8 < 3, -100)}


ALL_LESSONS = [
    make_lesson("thoughtbubbles", vocab_size=259),  # so that a byte tokenizer's text can be drawn while it trains
    make_lesson("threshold", vocab_size=EVEN_VOCAB_SIZE),
    replace(make_lesson("threshold"), name="threshold-odd"),
    make_lesson("native", vocab_size=EVEN_VOCAB_SIZE),
    replace(make_lesson("native", vocab_size=EVEN_VOCAB_SIZE, fork_budget=1.0), name="native-unforked"),
    make_lesson("gpt-rope"),
    make_lesson("copy"),
    make_lesson("thinker-window"),
    make_lesson("thinker-loop"),
    make_lesson("kept-autoregressive", vocab_size=EVEN_VOCAB_SIZE),
    make_lesson("generic-shared"),
    make_byte_lesson("space"),
    make_byte_lesson("space-parallel"),
    make_byte_lesson("token-parallel"),
    Lesson("next-thought", THOUGHT_VARIANTS[0].build, "thoughts"),
    make_label_lesson(
        "thinker-rows",
        FAMILY_BY_NAME["thinker-loop"].config,
        AutoModelForSequenceClassification,
        add_columns=label_rows,
    ),
    make_label_lesson("bytes-labels", BYTES_BY_NAME["space"].config, AutoModelForTokenClassification),
]
LESSONS = {lesson.name: lesson for lesson in ALL_LESSONS}
COPIED_LESSONS = [
    "thoughtbubbles",
    "threshold",
    "native",
    "native-unforked",
    "copy",
    "thinker-window",
    "thinker-loop",
    "generic-shared",
    "bytes-space",
    "bytes-space-parallel",
    "bytes-token-parallel",
    "next-thought",
    "thinker-rows",
    "bytes-labels",
]
SHARDED_LESSONS = [
    "thoughtbubbles",
    "threshold",
    "threshold-odd",
    "native",
    "native-unforked",
    "thinker-window",
    "thinker-loop",
    "kept-autoregressive",
    "generic-shared",
    "bytes-space-parallel",
    "bytes-token-parallel",
    "next-thought",
    "thinker-rows",
    "bytes-labels",
]


def get_losses(trainer: Trainer) -> list[float]:
    """The loss of every step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def make_optimizer(model: PreTrainedModel) -> torch.optim.Optimizer:
    """AdamW that does not make full steps of the rounding of gradients that are 0, as those of keys' biases are."""
    return torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3)
