# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The last complete checkpoint: half-written ones are skipped, and copies are found."""

import os
import shutil

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments, default_data_collator
from transformers.trainer_utils import get_last_checkpoint

from hf_thoughtbubbles.training.checkpoints import get_last_complete_checkpoint
from tests.families import FAMILIES


WRITTEN = ("config.json", "model.safetensors", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def test_the_last_complete_checkpoint_is_found_by_its_number(tmp_path):
    assert get_last_complete_checkpoint(tmp_path / "missing") is None
    for name in ("checkpoint-7", "checkpoint-20", "checkpoint-100", "checkpoint-best", "other-300"):
        (tmp_path / name).mkdir()
    assert get_last_complete_checkpoint(tmp_path) is None
    for name in ("checkpoint-7", "checkpoint-20", "checkpoint-best", "other-300"):
        (tmp_path / name / "trainer_state.json").write_text("{}")
    for name, state in (
        ("checkpoint-old-900", "{}"),
        ("checkpoint-²", "{}"),
        ("checkpoint-50", ""),
        ("checkpoint-51", '{"a'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(state)
    assert get_last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-20")
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100"), "transformers' chooses the broken one"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the checkpoints of two steps."""
    folder, model = tmp_path_factory.mktemp("trained"), FAMILIES[0].build()
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3, 4]] * 8}).map(lambda row: {"labels": row["input_ids"]})
    options = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_steps": 1, "max_steps": 2}
    arguments = TrainingArguments(str(folder), dataloader_pin_memory=False, **options)
    Trainer(model, arguments, train_dataset=rows, data_collator=default_data_collator).train()
    return folder


@pytest.fixture
def found(trained, tmp_path, caplog):
    """Change a copy of the last checkpoint, and return the number of the one that is found and what is said."""

    def find(change) -> tuple[str, str]:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(trained, tmp_path / "run")
        change(tmp_path / "run" / "checkpoint-2")
        caplog.clear()
        name = get_last_complete_checkpoint(tmp_path / "run")
        assert len(caplog.messages) == (0 if name.endswith("2") else 1)
        return name[-1], "".join(caplog.messages)

    return find


def cut(name):
    def change(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "checkpoint-is-incomplete.txt").touch(), "says that writing it did not end"),
        (lambda folder: (folder / "_unfinished_save").mkdir(), "left of a save that did not end"),
        (
            lambda folder: (folder / "trainer_state.json").unlink(),
            "trainer_state.json, which is written last, is",
        ),
        (cut("optimizer.pt"), "optimizer.pt is torn"),
        (cut("scheduler.pt"), "scheduler.pt is torn"),
        (cut("model.safetensors"), "model.safetensors is torn"),
        (lambda folder: (folder / "optimizer.pt").write_bytes(b""), "optimizer.pt is torn"),
        (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda folder: (folder / "scheduler.pt").unlink(), "scheduler.pt is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "the weights are missing"),
        (lambda folder: (folder / "rng_state.pth").unlink(), "0 of the random states of 1 processes"),
        (
            lambda folder: (folder / "a.index.json").write_text('{"weight_map": {"a": "b"}}'),
            "b, which a.index.json names",
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_passed_over_with_the_reason(found, change, reason):
    number, said = found(change)
    assert number == "1" and reason in said and "is passed over" in said


def test_random_states_are_counted_against_the_processes_of_the_training(found, monkeypatch):
    def save_as_two(folder, names=("rng_state_0.pth",)):
        for name in names:
            shutil.copy2(folder / "rng_state.pth", folder / name)
        (folder / "rng_state.pth").unlink()
        arguments = torch.load(folder / "training_args.bin", weights_only=False)
        # Three processes, whichever process reads this.
        monkeypatch.setitem(arguments.distributed_state.__dict__, "num_processes", 3)
        written = (folder / "training_args.bin").stat()
        torch.save(arguments, folder / "training_args.bin")
        os.utime(folder / "training_args.bin", ns=(written.st_atime_ns, written.st_mtime_ns))
        monkeypatch.undo()

    assert "1 of the random states of 3 processes" in found(save_as_two)[1]
    assert "2 of the random states of 3" in found(lambda f: save_as_two(f, ("rng_state_0.pth", "rng_state_1.pth")))[1]
    assert found(lambda f: save_as_two(f, [f"rng_state_{rank}.pth" for rank in range(3)]))[0] == "2"

    def without_arguments(folder):
        (folder / "training_args.bin").unlink()
        (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")

    assert "1 of the random states of 2 processes" in found(without_arguments)[1]


@pytest.mark.parametrize("count", range(2, 1 + len(WRITTEN)))
def test_a_state_older_than_the_weights_is_of_another_training(found, count):
    """The Trainer was killed after it had written so many of the files anew."""

    def write_over(folder):
        later = (folder / "trainer_state.json").stat().st_mtime + 9
        for name in WRITTEN[:count]:
            os.utime(folder / name, (later, later))

    number, said = found(write_over)
    assert number == "1" and "trainer_state.json is older than the weights" in said


@pytest.mark.parametrize("order", ["sorted", "reversed", "at once", "state first, at once", "small ones first"])
def test_a_copy_that_keeps_no_times_is_found(found, order):
    def copy(folder):
        paths = sorted(path for path in folder.iterdir() if path.is_file())
        paths = paths[::-1] if order == "reversed" else paths
        if order == "state first, at once":
            paths.sort(key=lambda path: path.name != "trainer_state.json")
        if order == "small ones first":  # as parallel downloads end
            paths.sort(key=lambda path: path.name in ("model.safetensors", "optimizer.pt"))
        for number, path in enumerate(paths):
            time = 1e9 + number * (1e-3 if "at once" in order else 1.0)
            os.utime(path, (time, time))

    assert found(copy) == ("2", "")
