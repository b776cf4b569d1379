# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Batches of questions and answers: padding, and draws of steps in workers and resumed runs."""

import pytest
import torch
from accelerate.utils.operations import concatenate
from datasets import IterableDataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments
from transformers.utils import ModelOutput

from hf_thoughtbubbles import build_byte_tokenizer
from hf_thoughtbubbles.data.collation import ThinkingCollator


ROWS = [{"input_ids": [2, 3, 5], "labels": [7]}, {"input_ids": [2], "labels": [7, 11]}]


def make_tokenizer(padding_side: str = "right") -> PreTrainedTokenizerFast:
    tokenizer = build_byte_tokenizer()
    tokenizer.padding_side = padding_side
    return tokenizer


def make_rows(num_rows: int) -> list[dict[str, list[int]]]:
    return [{"input_ids": [2, i], "labels": [7]} for i in range(num_rows)]


def make_stream() -> IterableDataset:
    return IterableDataset.from_generator(lambda: iter(make_rows(18)))


def draw(collator: ThinkingCollator, num_batches: int) -> list[tuple[int, int]]:
    rows = make_rows(2 * num_batches)
    batches = [collator(rows[i : i + 2]) for i in range(0, 2 * num_batches, 2)]
    return [(batch["num_steps"], batch["num_latents"]) for batch in batches]


class Listener(nn.Module):
    """A stand-in for a model that records the numbers of each call."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.heard = []

    def forward(self, input_ids, attention_mask, labels, num_steps=None, num_latents=None):
        self.heard.append((num_steps, num_latents))
        return ModelOutput(loss=self.weight.sum(), logits=self.weight.expand(len(labels), 1))


def make_trainer(folder, dataset, collator, **changes) -> Trainer:
    arguments = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return Trainer(
        model=Listener(),
        args=TrainingArguments(**{**arguments, **changes}),
        train_dataset=dataset,
        data_collator=collator,
    )


def test_text_has_its_input_as_labels_and_draws_what_rows_with_labels_draw():
    rows = [{"input_ids": [2, 3, 5]}, {"input_ids": [7, 11, 13]}]
    batch = ThinkingCollator(make_tokenizer(), num_steps=(1, 99), copy_labels=True)(rows)
    assert batch["labels"].tolist() == [[2, 3, 5], [7, 11, 13]]
    labelled = [{**row, "labels": row["input_ids"]} for row in rows]
    assert batch["num_steps"] == ThinkingCollator(make_tokenizer(), num_steps=(1, 99))(labelled)["num_steps"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_questions_are_padded_on_the_tokenizers_side_and_answers_on_the_right(side):
    tokenizer = make_tokenizer(side)
    pad = tokenizer.pad_token_id
    batch = ThinkingCollator(tokenizer)(ROWS)
    assert batch["input_ids"].tolist() == [[2, 3, 5], [2, pad, pad] if side == "right" else [pad, pad, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0] if side == "right" else [0, 0, 1]]
    assert batch["labels"].tolist() == [[7, -100], [7, 11]]
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}


def test_lengths_can_be_multiples():
    batch = ThinkingCollator(make_tokenizer(), pad_to_multiple_of=5)(ROWS)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 5)
    assert batch["labels"].tolist() == [[7, -100, -100, -100, -100], [7, 11, -100, -100, -100]]


def test_rows_may_be_tensors_or_have_no_answers():
    collator = ThinkingCollator(make_tokenizer())
    tensors = [{key: torch.tensor(value) for key, value in row.items()} for row in ROWS]
    assert collator(tensors)["labels"].tolist() == collator(ROWS)["labels"].tolist()
    assert collator([{"input_ids": [2]}]).keys() == {"input_ids", "attention_mask"}


def test_draws_cover_the_range_with_both_ends_and_are_plain_integers():
    draws = draw(ThinkingCollator(make_tokenizer(), num_steps=(2, 4), num_latents=7), 60)
    assert {steps for steps, _ in draws} == {2, 3, 4}
    assert {latents for _, latents in draws} == {7}
    assert all(type(number) is int for pair in draws for number in pair)


def test_the_seed_decides_the_draws_whatever_else_is_random():
    ranges = {"num_steps": (1, 97), "num_latents": (1, 89)}
    first = draw(ThinkingCollator(make_tokenizer(), seed=3, **ranges), 5)
    torch.manual_seed(1)
    assert draw(ThinkingCollator(make_tokenizer(), seed=3, **ranges), 5) == first
    assert draw(ThinkingCollator(make_tokenizer(), seed=4, **ranges), 5) != first


def test_numbers_follow_from_the_seed_and_the_rows_whoever_draws():
    collator = ThinkingCollator(make_tokenizer(), num_steps=(1, 997))
    alone = [collator(make_rows(8)[i : i + 2])["num_steps"] for i in range(0, 8, 2)]
    loader = DataLoader(make_rows(8), batch_size=2, num_workers=2, collate_fn=collator)
    assert [[batch["num_steps"] for batch in loader] for _ in range(2)] == [alone, alone]
    assert len(set(alone)) == 4


def test_processes_of_a_distributed_run_draw_the_same_numbers_for_other_rows(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    collators = [ThinkingCollator(make_tokenizer(), num_steps=(1, 997)) for _ in range(2)]
    first = [collators[0](ROWS)["num_steps"] for _ in range(3)]
    second = [collators[1](ROWS[:1])["num_steps"] for _ in range(3)]
    assert first == second
    assert len(set(first)) == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_training_resumed_on_a_dataset_draws_what_an_uninterrupted_one_draws(num_workers, tmp_path):
    """In the second epoch, whose batches are drawn in another order."""
    runs, evaluated = [], make_rows(3)
    for folder, checkpoint in (("whole", None), ("resumed", str(tmp_path / "whole" / "checkpoint-6"))):
        collator = ThinkingCollator(make_tokenizer(), num_steps=(1, 97), num_latents=(1, 89))
        options = {"save_strategy": "steps", "save_steps": 6, "dataloader_num_workers": num_workers, "max_steps": 12}
        trainer = make_trainer(tmp_path / folder, make_rows(9), collator, gradient_accumulation_steps=2, **options)
        trainer.eval_dataset = evaluated
        if checkpoint is None:
            trainer.evaluate()
            trainer.model.heard.clear()
        trainer.train(resume_from_checkpoint=checkpoint)
        runs.append(trainer.model.heard)
    assert len(set(runs[0])) > 12
    assert len(runs[1]) == 10
    assert runs[1] == runs[0][-10:]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_training_resumed_on_a_stream_continues_the_sequence(num_workers, tmp_path):
    options = {
        "save_strategy": "steps",
        "save_steps": 2,
        "dataloader_num_workers": num_workers,
        "accelerator_config": {"dispatch_batches": False},
    }
    runs = []
    for folder, checkpoint in (("whole", None), ("resumed", str(tmp_path / "whole" / "checkpoint-2"))):
        collator = ThinkingCollator(make_tokenizer(), num_steps=(1, 97), num_latents=(1, 89))
        trainer = make_trainer(tmp_path / folder, make_stream(), collator, **options)
        trainer.train(resume_from_checkpoint=checkpoint)
        runs.append(trainer.model.heard)
    assert len(runs[0]) == 4
    assert len(set(runs[0])) == 4
    assert runs[1] == runs[0][2:]


def test_a_stream_is_read_by_each_process_itself(tmp_path):
    collator = ThinkingCollator(make_tokenizer(), num_steps=(1, 97), num_latents=13)
    trainer = make_trainer(tmp_path, make_stream(), collator, accelerator_config={"dispatch_batches": False})
    trainer.train()
    expected = draw(ThinkingCollator(make_tokenizer(), num_steps=(1, 97), num_latents=13), 4)
    assert trainer.model.heard == expected


def test_accelerates_dispatcher_refuses_the_integers():
    batch = ThinkingCollator(make_tokenizer(), num_steps=3)(ROWS)
    with pytest.raises(TypeError, match="Can only concatenate tensors"):
        concatenate([batch, batch])


@pytest.mark.parametrize("value", [0, -3, True, 2.0, (0, 3), (5, 3), (3,), (1, 2, 3), (1, 2.5), "3"])
def test_values_that_are_not_a_range_are_refused(value):
    with pytest.raises(ValueError, match=r"`num_latents` is .*; it must be a positive integer, or a pair"):
        ThinkingCollator(make_tokenizer(), num_latents=value)
