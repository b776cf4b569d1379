# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The curriculum rises exactly when the model is accurate; the time limit stops training, also over resumes."""

import copy
import json
import logging

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import ModelOutput

from hf_thoughtbubbles.training import curriculum as curriculum_module
from hf_thoughtbubbles.training.curriculum import Curriculum, CurriculumCallback, TimeBudgetCallback
from tests.training.processes import start_forked


NUM_TARGETS = 50


class Answerer(nn.Module):
    """A model of which the batch says how many of its 50 answers are right."""

    def __init__(self, is_encoder_decoder: bool = True):
        super().__init__()
        self.config = T5Config(is_encoder_decoder=is_encoder_decoder)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, num_right, labels):
        answers = (torch.arange(labels.shape[1]) >= num_right[:, None]).long()  # right: 0
        logits = self.weight * nn.functional.one_hot(answers, 2)
        if not self.config.is_encoder_decoder:
            logits = logits.roll(-1, dims=1)
        return ModelOutput(loss=self.weight.sum(), logits=logits)


def make_row(accuracy: float, num_targets: int = NUM_TARGETS) -> dict[str, torch.Tensor]:
    return {
        "num_right": torch.tensor(round(accuracy * num_targets)),
        "labels": torch.tensor([0] * num_targets + [-100] * (NUM_TARGETS - num_targets)),
    }


def make_trainer(folder, model, rows, callbacks=(), **changes) -> Trainer:
    arguments = {
        "output_dir": str(folder),
        "max_steps": len(rows),
        "per_device_train_batch_size": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential",
    }
    return Trainer(
        model=model,
        args=TrainingArguments(**{**arguments, **changes}),
        train_dataset=rows,
        eval_dataset=rows[:1],
        callbacks=list(callbacks),
    )


def get_entries(trainer: Trainer, name: str) -> list:
    return [entry.get(name) for entry in trainer.state.log_history if "loss" in entry]


class Clock:
    """A clock on which a second passes with every step of training."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(curriculum_module.time, "monotonic", lambda: self.now)

    def make_callback(self) -> TrainerCallback:
        clock = self

        class Ticker(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                clock.now += 1

        return Ticker()


# From a recording of the original: (length limit, accuracies in turn, batches, [(batch, difficulty from it on)]).
PROGRESS = [
    (4, [0.9], 850, [(1, 1), (100, 1.5), (200, 2), (300, 2.5), (400, 3), (500, 3.5), (600, 4)]),
    (6, [0.9, 0.8, 0.84], 320, [(1, 1)]),
    (5, [0.86], 205, [(1, 1), (100, 1.5), (200, 2)]),
]


@pytest.mark.parametrize(("limit", "accuracies", "num_batches", "expected"), PROGRESS)
def test_the_difficulty_rises_when_the_originals_does(limit, accuracies, num_batches, expected, tmp_path):
    curriculum, model = Curriculum(start=1, limit=limit), Answerer()
    callback, control, state = CurriculumCallback(curriculum), TrainerControl(), TrainerState()
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    callback.on_train_begin(args, state, control, model=model)
    changes = []
    for batch in range(num_batches):
        row = make_row(accuracies[batch % len(accuracies)])
        model(num_right=row["num_right"][None], labels=row["labels"][None])
        callback.on_step_end(args, state, control)
        if not changes or changes[-1][1] != curriculum.difficulty:
            changes.append((batch + 1, curriculum.difficulty))
    assert changes == expected


def test_only_more_than_the_threshold_rises_and_never_above_the_limit():
    curriculum = Curriculum(start=1, limit=1.75, threshold=0.5)
    assert [curriculum.observe(accuracy) for accuracy in (0.5, 0.51, 0.9, 0.9)] == [False, True, True, False]
    assert curriculum.difficulty == 1.75


def test_a_saved_curriculum_continues():
    curriculum, other = Curriculum(1, 3), Curriculum(1, 3)
    curriculum.observe(0.9)
    other.load_state_dict(json.loads(json.dumps(curriculum.state_dict())))
    assert other.difficulty == 1.5
    with pytest.raises(ValueError, match=r"`difficulty` is 1.5; it must be between `start` 2.0 and `limit` 3.0"):
        Curriculum(2, 3).load_state_dict(curriculum.state_dict())


class Difficulties(IterableDataset):
    """A stream of the difficulty that its process reads."""

    def __init__(self, curriculum: Curriculum):
        self.curriculum = curriculum

    def __iter__(self):
        for _ in range(19):
            yield self.curriculum.difficulty


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "forkserver"])  # the second pickles the dataset, as "spawn" does
def test_a_worker_reads_the_raised_difficulty(context):
    curriculum = Curriculum(start=1, limit=9)
    dataset = copy.deepcopy(Difficulties(curriculum))
    loader = DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=1, multiprocessing_context=context)
    seen = iter(loader)
    assert next(seen) == 1
    curriculum.observe(0.9)
    assert 1.5 in [next(seen) for _ in range(5)]
    curriculum.observe(0.9)
    assert list(seen)[-1] == 2


@pytest.mark.parametrize("is_encoder_decoder", [True, False])
def test_accuracy_is_of_aligned_or_shifted_targets(is_encoder_decoder, tmp_path):
    rows = [make_row(0.6, 10), make_row(0.5, 20)]
    model, curriculum = Answerer(is_encoder_decoder), Curriculum(1, 2, window=2)
    trainer = make_trainer(tmp_path, model, rows, [CurriculumCallback(curriculum)])
    trainer.train()
    # The first label, whose answer is right, is no target if targets are the next labels.
    expected = [6 / 10, 10 / 20] if is_encoder_decoder else [5 / 9, 9 / 19]
    assert get_entries(trainer, "train_accuracy") == pytest.approx(expected)


def test_the_log_has_the_mean_since_the_last_entry_and_the_difficulty(tmp_path):
    rows = [make_row(accuracy) for accuracy in (0.9, 0.8, 1.0, 0.7)]
    callback = CurriculumCallback(Curriculum(1, 3, window=3))
    trainer = make_trainer(
        tmp_path, Answerer(), rows, [callback], logging_steps=2, eval_strategy="steps", eval_steps=1
    )
    trainer.train()
    assert get_entries(trainer, "train_accuracy") == pytest.approx([0.85, 0.85])
    assert get_entries(trainer, "difficulty") == [1.0, 1.5]
    assert not any("difficulty" in entry for entry in trainer.state.log_history if "eval_loss" in entry)


def test_accumulated_batches_count_one_by_one(tmp_path):
    callback = CurriculumCallback(Curriculum(1, 9, window=2))
    rows = [make_row(0.9)] * 6
    trainer = make_trainer(tmp_path, Answerer(), rows, [callback], gradient_accumulation_steps=3, max_steps=2)
    trainer.train()
    assert callback.curriculum.difficulty == 2.5


def test_a_window_that_is_not_accurate_starts_again(tmp_path):
    accuracies = [1.0, 0.5, 1.0, 0.8, 0.9, 0.9]
    callback = CurriculumCallback(Curriculum(1, 9, window=2))
    trainer = make_trainer(tmp_path, Answerer(), [make_row(accuracy) for accuracy in accuracies], [callback])
    trainer.train()
    assert get_entries(trainer, "difficulty") == [1.0, 1.0, 1.0, 1.5, 1.5, 2.0]


def make_t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(vocab_size=23, d_model=16, d_kv=5, d_ff=7, num_layers=1, num_heads=3, decoder_start_token_id=20)
    )


@pytest.mark.parametrize("save_step", [2, 3, 5])
def test_a_resumed_curriculum_is_as_if_never_interrupted(save_step, tmp_path):
    rows = [{"input_ids": [2, 3, i % 5], "labels": [7, 7, 7, i % 2]} for i in range(12)]
    runs = []
    for folder, checkpoint in (("whole", None), ("resumed", str(tmp_path / "whole" / f"checkpoint-{save_step}"))):
        curriculum = Curriculum(1, 9, window=3, threshold=0.6)
        options = {"save_strategy": "steps", "save_steps": save_step, "learning_rate": 0.1, "logging_steps": 1}
        trainer = make_trainer(tmp_path / folder, make_t5(), rows, [CurriculumCallback(curriculum)], **options)
        trainer.train(resume_from_checkpoint=checkpoint)
        runs.append((trainer, curriculum.difficulty))
    (whole, difficulty), (resumed, resumed_difficulty) = runs
    assert resumed_difficulty == difficulty > 1
    for name in ("difficulty", "train_accuracy"):
        assert get_entries(resumed, name) == get_entries(whole, name)
    states = [trainer.state.stateful_callbacks["CurriculumCallback"] for trainer in (whole, resumed)]
    assert states[0] == states[1]


def test_a_fresh_training_starts_a_new_window_and_keeps_the_difficulty(tmp_path):
    callback = CurriculumCallback(Curriculum(1, 9, window=2))
    trainer = make_trainer(tmp_path, Answerer(), [make_row(0.9)] * 3, [callback])
    trainer.train()
    assert callback.curriculum.difficulty == 1.5
    trainer.train()
    assert callback.curriculum.difficulty == 2.0, "2 windows in 2 times 3 batches: one was not finished"
    assert not trainer.model._forward_hooks


def test_callbacks_may_be_added_when_resuming(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path / "a", Answerer(), [make_row(0.9)] * 2, **options).train()
    callbacks = [CurriculumCallback(Curriculum(1, 9, window=1)), TimeBudgetCallback(5)]
    trainer = make_trainer(tmp_path / "b", Answerer(), [make_row(0.9)] * 2, callbacks, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-1"))
    assert callbacks[0].curriculum.difficulty == 1.5
    assert (
        "TimeBudgetCallback"
        in json.loads((tmp_path / "b/checkpoint-2/trainer_state.json").read_text())["stateful_callbacks"]
    )


def test_a_callback_without_its_curriculum_is_refused(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "restore_callback_states_from_checkpoint": True}
    for checkpoint in (None, str(tmp_path / "checkpoint-1")):
        callback = CurriculumCallback(Curriculum(1, 9, window=1))
        trainer = make_trainer(tmp_path, Answerer(), [make_row(0.9)] * 2, [callback], **options)
        if checkpoint is None:
            trainer.train()
    with pytest.raises(ValueError, match="set `restore_callback_states_from_checkpoint=False`"):
        trainer.train(resume_from_checkpoint=checkpoint)


def test_a_window_without_targets_is_an_error(tmp_path):
    callback = CurriculumCallback(Curriculum(1, 9, window=2))
    trainer = make_trainer(tmp_path, Answerer(), [make_row(0, 0)] * 2, [callback])
    with pytest.raises(ValueError, match="The last 2 batches had no targets to measure accuracy on"):
        trainer.train()


def test_a_batch_without_targets_does_not_count_in_the_mean(tmp_path):
    callback = CurriculumCallback(Curriculum(1, 9, window=2))
    trainer = make_trainer(tmp_path, Answerer(), [make_row(0, 0), make_row(0.9)], [callback])
    trainer.train()
    assert callback.curriculum.difficulty == 1.5
    assert get_entries(trainer, "train_accuracy") == [None, pytest.approx(0.9)]


def test_bad_settings_of_a_curriculum_are_refused():
    for changes, message in (
        ({"limit": 0.5}, "`limit` is 0.5; it must be at least `start` 1"),
        ({"increment": 0}, "`increment` is 0; it must be greater than 0"),
        ({"window": 0}, "`window` is 0; it must be an integer of at least 1"),
        ({"window": 1.5}, "`window` is 1.5; it must be an integer of at least 1"),
        ({"threshold": 1}, "`threshold` is 1; it must be at least 0 and below 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Curriculum(**{"start": 1, "limit": 3, **changes})
    with pytest.raises(ValueError, match="`curriculum` is 3; pass the `Curriculum`"):
        CurriculumCallback(3)


@pytest.mark.parametrize("strategy", ["no", "steps", "epoch"])
def test_training_stops_evaluates_and_saves_when_the_time_is_over(strategy, tmp_path, monkeypatch, caplog):
    clock, callback = Clock(monkeypatch), TimeBudgetCallback(max_minutes=3.5 / 60)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    options = {"save_strategy": strategy, "eval_strategy": strategy, "save_steps": 100, "eval_steps": 100}
    callbacks = [clock.make_callback(), callback]
    trainer = make_trainer(tmp_path, Answerer(), [make_row(0.9)] * 9, callbacks, **options)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 4
    evaluated = [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert evaluated == ([] if strategy == "no" else [4])
    assert (tmp_path / "checkpoint-4").exists() == (strategy != "no")
    assert sum("Training stops at step 4" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("is_restored_by_trainer", [False, True])
def test_time_is_counted_over_resumes(is_restored_by_trainer, tmp_path, monkeypatch):
    clock, rows = Clock(monkeypatch), [make_row(0.9)] * 9
    options = {
        "save_strategy": "steps",
        "save_steps": 2,
        "restore_callback_states_from_checkpoint": is_restored_by_trainer,
    }
    first = make_trainer(
        tmp_path / "a",
        Answerer(),
        rows,
        [clock.make_callback(), TimeBudgetCallback(5 / 60)],
        **{**options, "max_steps": 2},
    )
    first.train()
    clock.now += 500  # not trained meanwhile
    resumed = make_trainer(
        tmp_path / "b", Answerer(), rows, [clock.make_callback(), TimeBudgetCallback(5 / 60)], **options
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert resumed.state.global_step == 5
    resumed.train()
    assert resumed.state.global_step == 5, "a fresh training has all its time"


@pytest.mark.parametrize("max_minutes", [0, -1, float("nan")])
def test_a_budget_must_be_positive(max_minutes):
    with pytest.raises(ValueError, match=r"`max_minutes` is .*; it must be greater than 0"):
        TimeBudgetCallback(max_minutes)


def run_process(rank: int, folder: str):
    """One of two processes: 1.0 and 0.8 accurate; only the first one's time is up, at its third step."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    args = TrainingArguments(output_dir=folder, use_cpu=True)
    model, control, state = Answerer(), TrainerControl(), TrainerState()
    curriculum, budget = CurriculumCallback(Curriculum(1, 9, window=2)), TimeBudgetCallback(1)
    curriculum.on_train_begin(args, state, control, model=model)
    budget.on_train_begin(args, state, control)
    seen = []
    for step in range(3):
        row = make_row(1.0 if rank == 0 else 0.8)
        model(num_right=row["num_right"][None], labels=row["labels"][None])
        budget.past_seconds = 100 if rank == 0 and step == 2 else 0
        control.should_save = step == 2
        budget.on_step_end(args, state, control)
        curriculum.on_step_end(args, state, control)
        seen.append([curriculum.curriculum.difficulty, control.should_training_stop])
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump([seen, curriculum.state()["attributes"]], file)
    dist.destroy_process_group()


@pytest.mark.slow
def test_all_processes_agree(tmp_path):
    start_forked(run_process, str(tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first[0] == [[1.0, False], [1.5, False], [1.5, True]]
    assert first[1]["totals"][0] == pytest.approx([0.9, 1.0])
