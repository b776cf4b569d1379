# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What callbacks add to the training log is read back from TensorBoard's files, for callbacks that are just passed."""

import math
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import DefaultFlowCallback
from trl import SFTConfig, SFTTrainer

from hf_thoughtbubbles import ThoughtbubblesForCausalLM, build_byte_tokenizer
from hf_thoughtbubbles.data.curriculum import Curriculum
from hf_thoughtbubbles.evaluation.scoring import bits_per_byte_metrics, score_dataset
from hf_thoughtbubbles.training.callbacks import ForkLogCallback
from hf_thoughtbubbles.training.curriculum import CurriculumCallback
from hf_thoughtbubbles.training.log_entries import LogEntriesCallback
from hf_thoughtbubbles.training.thinking_schedule import ThinkingSchedule
from tests.families import make_config
from tests.training.boards import read_board
from tests.training.lessons import FAMILY_BY_NAME, make_lesson


FORK_ENTRIES = [f"{name}_layer_{i}" for i in (1, 3) for name in ("streams_per_token", "fork_threshold_prob")]


def train_lesson(name: str, folder: Path, callbacks: list, **changes):
    lesson = make_lesson(name)
    options = {"max_steps": 4, "learning_rate": 1e-2, "report_to": "tensorboard", **changes}
    trainer = lesson.make_trainer(folder, lesson.build(), 4, callbacks=callbacks, **options)
    trainer.train()
    return trainer


def test_forks_and_the_schedule_reach_tensorboard_with_the_values_of_the_history(tmp_path):
    trainer = train_lesson("threshold", tmp_path, [ThinkingSchedule([1.0, 1.5], share=0.5), ForkLogCallback()])
    board, history = read_board(tmp_path), [entry for entry in trainer.state.log_history if "loss" in entry]
    for name in ["fork_budget", *FORK_ENTRIES]:
        expected = {entry["step"]: entry[name] for entry in history if name in entry}
        assert len(expected) > 1 and board[f"train/{name}"] == pytest.approx(expected)
    assert list(board["train/fork_budget"].values()) == [1.0, 1.0, 1.5, 1.5]
    for layer_idx, fork in trainer.model.model.forks.items():
        logged = board[f"train/fork_threshold_prob_layer_{layer_idx}"]
        assert logged[4] == pytest.approx(math.exp(fork.threshold)) and all(
            0 <= value <= 1 for value in logged.values()
        )


def test_a_threshold_is_missing_until_one_is_tracked_for_the_budget(tmp_path):
    model = ThoughtbubblesForCausalLM(make_config(fork_rule="threshold"))
    logs, state = {"loss": 1.0}, TrainerState(log_history=[{}])
    ForkLogCallback().on_log(None, state, TrainerControl(), model=model, logs=logs)
    assert set(logs) == {"loss", *(name for name in FORK_ENTRIES if "streams" in name)}
    for fork in model.model.forks.values():
        fork.set_threshold(math.log(0.25), model.config.fork_budget)
    ForkLogCallback().on_log(None, state, TrainerControl(), model=model, logs=logs)
    assert (
        logs["fork_threshold_prob_layer_3"]
        == pytest.approx(0.25)
        == state.log_history[-1]["fork_threshold_prob_layer_1"]
    )


@pytest.mark.slow
def test_a_curriculum_and_steps_reach_tensorboard(tmp_path):
    callbacks = [CurriculumCallback(Curriculum(1, 9, window=2)), ThinkingSchedule([1, 2], share=0.5)]
    train_lesson("plain-autoregressive", tmp_path, callbacks)
    board = read_board(tmp_path)
    assert list(board["train/difficulty"].values()) == [1] * 4 and len(board["train/train_accuracy"]) == 4
    assert list(board["train/num_steps"].values()) == [1, 1, 2, 2]


@pytest.mark.slow
def test_entries_reach_tensorboard_from_a_trainer_of_trl(tmp_path):
    model, tokenizer = FAMILY_BY_NAME["threshold"].build(vocab_size=259), build_byte_tokenizer()
    options = {"max_length": 16, "max_steps": 2, "use_cpu": True, "bf16": False, "activation_checkpointing": False}
    options["dataloader_pin_memory"] = False
    args = SFTConfig(str(tmp_path), report_to="tensorboard", logging_steps=1, save_strategy="no", **options)
    rows = Dataset.from_dict({"text": ["some words", "other words"] * 8})
    SFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer, callbacks=[ForkLogCallback()]).train()
    board = read_board(tmp_path)
    assert all(len(board[f"train/{name}"]) == 2 for name in FORK_ENTRIES if "streams" in name)
    assert "train/mean_token_accuracy" in board, "what TRL adds is there"


@pytest.mark.slow
def test_the_trainer_logs_bits_per_byte_and_tokens_per_second(tmp_path):
    model, tokenizer = FAMILY_BY_NAME["threshold"].build(vocab_size=259), build_byte_tokenizer()
    rows = [{"input_ids": list(text), "labels": list(text)} for text in (b"some text here", b"another", b"and more")]
    options = {"max_steps": 1, "logging_steps": 1, "save_strategy": "no", "dataloader_pin_memory": False}
    args = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        include_num_input_tokens_seen="all",
        report_to="tensorboard",
        use_cpu=True,
        **options,
    )
    trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows, **bits_per_byte_metrics(tokenizer))
    trainer.train()
    trainer.evaluate()
    board = read_board(tmp_path)
    expected = score_dataset(model, rows, tokenizer)["bits_per_byte"]
    assert list(board["eval/bits_per_byte"].values()) == [pytest.approx(expected, rel=1e-5)]
    assert board["train/num_input_tokens_seen"][1] > 0 and board["train/train_tokens_per_second"][1] > 0


class Counter(TrainerCallback):
    """Counts the events of a training."""

    def __init__(self):
        self.events = []

    def on_init_end(self, *args, **kwargs):
        self.events.append("init_end")

    def on_train_begin(self, *args, **kwargs):
        self.events.append("train_begin")


class Constant(LogEntriesCallback):
    """Adds one number."""

    def collect_entries(self, args, state, model):
        return {"constant": 5.0}


@pytest.mark.parametrize("is_added_later", [False, True])
def test_callbacks_move_in_front_of_trackers_and_no_event_is_lost(is_added_later, tmp_path):
    lesson = make_lesson("threshold")
    before, after, first, second = Counter(), Counter(), Constant(), ForkLogCallback()
    own = [] if is_added_later else [first, second]
    trainer = lesson.make_trainer(
        tmp_path, lesson.build(), 4, callbacks=[before, *own, after], max_steps=1, report_to="tensorboard"
    )
    if is_added_later:
        trainer.add_callback(first)
        trainer.add_callback(second)
    trainer.train()
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert kinds[:4] == [DefaultFlowCallback, Constant, ForkLogCallback, TensorBoardCallback]
    assert before.events == after.events == ["init_end", "train_begin"]
    assert read_board(tmp_path)["train/constant"] == {1: 5.0}


def test_a_loop_without_a_handler_is_warned_that_trackers_may_miss_the_entries(caplog):
    with caplog.at_level("WARNING"):
        Constant().on_train_begin(None, TrainerState(), TrainerControl())
    assert "`Constant` was called without a `CallbackHandler`" in caplog.text
