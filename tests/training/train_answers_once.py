# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Train three steps on answers and save, alone or in two processes; for test_contract_looped_thinker.py."""

from pathlib import Path

import torch
from datasets import Dataset
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, default_data_collator

from tests.families import Answerer, draw_ids
from tests.training.processes import become_rank, leave_together


def make_answer_dataset(answerer: Answerer, num_rows: int = 24) -> Dataset:
    """Problems, and answers of unequal length, so that a mean of means would show."""
    torch.manual_seed(0)
    columns = {**answerer.ask(num_rows, 5), "labels": draw_ids(num_rows, 7)}
    for row in range(num_rows):
        columns["labels"][row, 7 - row % 7 :] = -100
    if answerer.config.num_probes > 0:
        columns["probe_targets"] = torch.rand(num_rows, 7, answerer.config.num_probes)
    return Dataset.from_dict({name: column.tolist() for name, column in columns.items()})


def make_answer_trainer(
    folder: Path, answerer: Answerer, batch: int, compute_metrics=None, **changes
) -> Seq2SeqTrainer:
    """A Trainer whose batches have all terms of the loss that the model has."""
    arguments = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": batch,
        "learning_rate": 1e-1,
        "optim": "sgd",
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    extra = {} if answerer.is_parallel else {"loop_decoder": True}
    dataset = make_answer_dataset(answerer)
    return Seq2SeqTrainer(
        model=answerer.build(),
        args=Seq2SeqTrainingArguments(**{**arguments, **changes}),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(8)),
        data_collator=lambda rows: {**default_data_collator(rows), **extra},
        compute_metrics=compute_metrics,
    )


def train_as_rank(rank: int, port: int, folder: str, answerer: Answerer):
    """Train and save in one of several processes, with four rows in each."""
    become_rank(rank, port)
    trainer = make_answer_trainer(folder, answerer, 4)
    trainer.train()
    trainer.save_model()
    leave_together(trainer)
