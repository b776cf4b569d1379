# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What callbacks add to the training log is read back from the files of trackio, MLflow and W&B, without a network."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import Trainer, TrainingArguments

from hf_thoughtbubbles import build_byte_tokenizer
from hf_thoughtbubbles.evaluation.scoring import bits_per_byte_metrics
from hf_thoughtbubbles.training.callbacks import ForkLogCallback
from hf_thoughtbubbles.training.thinking_schedule import ThinkingSchedule
from tests.training.lessons import FAMILY_BY_NAME


pytestmark = pytest.mark.filterwarnings("ignore")  # those of the trackers' own packages
ENTRIES = [
    "fork_budget",
    *(f"{name}_layer_{i}" for i in (1, 3) for name in ("streams_per_token", "fork_threshold_prob")),
]


def train(tracker: str, folder) -> list[dict]:
    """Train for 4 steps with callbacks that are just passed, and return the history of the Trainer."""
    rows = [{"input_ids": list(text), "labels": list(text)} for text in (b"some text here", b"and other text") * 4]
    args = TrainingArguments(
        str(folder / "output"),
        max_steps=4,
        learning_rate=1e-2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="no",
        report_to=tracker,
        run_name="a-run",
        project="a-project",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        include_num_input_tokens_seen="all",
    )
    trainer = Trainer(
        FAMILY_BY_NAME["threshold"].build(vocab_size=259),
        args,
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[ThinkingSchedule([1.0, 1.5], share=0.5), ForkLogCallback()],
        **bits_per_byte_metrics(build_byte_tokenizer()),
    )
    trainer.train()
    return trainer.state.log_history


def check(read: dict[str, list[float]], history: list[dict], prefixes: tuple[str, str] = ("train/", "eval/")):
    """The values of a tracker, by name and in order, are those of the history."""
    train_prefix, eval_prefix = prefixes
    for name in ENTRIES:
        expected = [entry[name] for entry in history if name in entry]
        assert len(expected) >= 2 and read[train_prefix + name] == pytest.approx(expected), name
    assert len(read[train_prefix + "train_tokens_per_second"]) == 4
    expected = [entry["eval_bits_per_byte"] for entry in history if "eval_bits_per_byte" in entry]
    assert len(expected) == 1 and read[eval_prefix + "bits_per_byte"] == pytest.approx(expected)


def test_trackio_has_the_entries(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    from trackio.sqlite_storage import SQLiteStorage

    history = train("trackio", tmp_path)
    logs = SQLiteStorage.get_logs("a-project", SQLiteStorage.get_runs("a-project")[0])
    check({name: [log[name] for log in logs if name in log] for log in logs for name in log}, history)


def test_mlflow_has_the_entries(tmp_path, monkeypatch):
    store = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    import mlflow

    history = train("mlflow", tmp_path)
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    metrics = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    read = {name: [entry.value for entry in entries] for name, entries in metrics.items()}
    check(read, history, prefixes=("", "eval_"))


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a file of W&B: after 7 bytes, the log format of LevelDB with blocks of 32 kB."""
    data, position, parts = path.read_bytes(), 7, []
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts.append(data[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def test_wandb_offline_has_the_entries(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    history, read = train("wandb", tmp_path), {}
    wandb.finish()
    wandb.teardown()  # waits for the process that writes the file
    for data in read_records(next(tmp_path.rglob("*.wandb"))):
        for item in Record.FromString(data).history.item:
            read.setdefault(item.key or ".".join(item.nested_key), []).append(json.loads(item.value_json))
    check(read, history)
