# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The checkpoint from which an interrupted training continues."""

import itertools
import json
import os
import pickletools
import re
import zipfile
from pathlib import Path

from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME, WEIGHTS_NAME, logging

from ..hub.resaving import STAGING


MARK_NAME = "checkpoint-is-incomplete.txt"  # of transformers, while it saves a preempted job
ZIP_SUFFIXES = {".pt", ".pth", ".bin"}  # what torch.save writes
LONGEST_COPY_NS = 50_000_000  # from one file of a copied checkpoint to the next


def get_last_complete_checkpoint(folder: str | os.PathLike) -> str | None:
    """
    Find the last checkpoint that a Trainer wrote completely.

    A process that is killed while it writes leaves a checkpoint that lacks files, has torn ones, or mixes files of two
    trainings. Such a checkpoint is passed over, with one warning that says why.
    `transformers.trainer_utils.get_last_checkpoint` and `resume_from_checkpoint=True` choose it.

    Args:
        folder (`str` or `os.PathLike`): the Trainer's `output_dir`; it may be missing.

    Returns:
        `str` or `None`: the folder to pass as `resume_from_checkpoint`; `None` without a complete checkpoint.
    """
    steps = {}
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if path.is_dir() and (number := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-([0-9]+)", path.name)):
            steps[int(number[1])] = path
    for _, path in sorted(steps.items(), reverse=True):
        fault = _find_mark(path) or _find_torn_file(path) or _find_missing_file(path) or _find_old_state(path)
        if fault is None:
            return str(path)
        logging.get_logger(__name__).warning(f"{path} is not complete and is passed over: {fault}.")
    return None


def _find_mark(folder: Path) -> str | None:
    """A sign that the process that wrote the checkpoint did not end."""
    if (folder / MARK_NAME).exists():
        return f"{MARK_NAME} says that writing it did not end"
    if (folder / STAGING).exists():
        return f"{STAGING} is left of a save that did not end"
    return (
        None if (folder / TRAINER_STATE_NAME).is_file() else f"{TRAINER_STATE_NAME}, which is written last, is missing"
    )


def _find_torn_file(folder: Path) -> str | None:
    """The first file that ends early. Headers and ends are read, not the values in between."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                _check_safetensors(path)
            elif path.suffix in ZIP_SUFFIXES:
                _check_zip(path)
        except (ValueError, zipfile.BadZipFile) as error:
            return f"{path.name} is torn ({error})"
    return None


def _check_safetensors(path: Path):
    """Raise where a file is not as long as its header says."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length + 8 > path.stat().st_size:
            raise ValueError("it ends in its header")
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected, size = 8 + length + max(ends, default=0), path.stat().st_size
    if size != expected:
        raise ValueError(f"it has {size} bytes and should have {expected}")


def _check_zip(path: Path):
    """Raise where the directory at the end of a zip file is missing. Other formats are taken as they are."""
    with path.open("rb") as file:
        begin = file.read(2)
    if begin == b"PK":
        zipfile.ZipFile(path).close()
    elif len(begin) < 2 or begin == b"\0\0":
        raise ValueError("it is empty")


def _find_missing_file(folder: Path) -> str | None:
    """The first file that the others need and that is not there."""
    names = {path.name for path in folder.iterdir()}
    for index in sorted(folder.glob("*.index*.json")):
        shards = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()
        if missing := sorted(set(shards) - names):
            return f"{missing[0]}, which {index.name} names, is missing"
    num_states = sum(re.fullmatch(r"rng_state(_[0-9]+)?\.pth", name) is not None for name in names)
    optimizers = [
        name for name in names if name.startswith(("optimizer", "global_step")) or name.endswith(OPTIMIZER_NAME)
    ]
    if not (optimizers or num_states or SCHEDULER_NAME in names):
        return None  # only the model was saved
    if not optimizers:
        return f"{OPTIMIZER_NAME} is missing"
    if OPTIMIZER_NAME in names and SCHEDULER_NAME not in names:
        return f"{SCHEDULER_NAME} is missing"
    if not any(any(folder.rglob(name)) for name in ("*.safetensors", "pytorch_model*", "global_step*")):
        return "the weights are missing"
    num_processes = _count_processes(folder, names)
    if num_states < num_processes:
        return f"{num_states} of the random states of {num_processes} processes are there"
    return None


def _count_processes(folder: Path, names: set[str]) -> int:
    """How many processes wrote random states: from the arguments of the training, or from the names of the states."""
    numbers = [int(number[1]) for name in names if (number := re.fullmatch(r"rng_state_([0-9]+)\.pth", name))]
    counted = max(2, *(number + 1 for number in numbers)) if numbers else 1
    if TRAINING_ARGS_NAME not in names or not zipfile.is_zipfile(folder / TRAINING_ARGS_NAME):
        return counted
    values: dict[object, object] = {}
    with zipfile.ZipFile(folder / TRAINING_ARGS_NAME) as file:
        pickled = file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))
    steps = [(op.name, arg) for op, arg, _ in pickletools.genops(pickled) if "PUT" not in op.name]  # nothing is run
    for (kind, name), (value_kind, value) in itertools.pairwise(steps):
        if kind == "BINUNICODE":
            values.setdefault(name, value_kind == "NEWTRUE" if value is None else value)
    if values.get("save_on_each_node") is True:  # every folder has the states of its own node
        return 1
    saved = values.get("num_processes")
    return saved if isinstance(saved, int) else counted


def _find_old_state(folder: Path) -> str | None:
    """
    Say whether `trainer_state.json` is older than the weights, left of an earlier training.

    A Trainer writes configuration, weights, arguments, optimizer, scheduler, random state and `trainer_state.json`, in
    this order. If it was killed while it wrote over a checkpoint, the files up to one of them are newer. Files of a
    copy that does not keep times are in another order, or follow each other at once.
    """
    written = (folder / TRAINER_STATE_NAME).stat().st_mtime_ns
    weights = {path.name for path in folder.iterdir() if path.suffix == ".safetensors"} | {WEIGHTS_NAME}
    groups = (weights, {TRAINING_ARGS_NAME}, {OPTIMIZER_NAME}, {SCHEDULER_NAME}, {"rng_state.pth", "rng_state_0.pth"})
    paths = [[folder / name for name in group if (folder / name).is_file()] for group in ({CONFIG_NAME}, *groups)]
    config, *ages = [[path.stat().st_mtime_ns - written for path in group] for group in paths]  # in nanoseconds
    is_newer = [max(group) > 0 for group in ages if group]
    is_overwritten = bool(ages[0]) and is_newer[0] and is_newer == sorted(is_newer, reverse=True)
    if any(is_newer[1:]) and config and config[0] <= 0:
        is_overwritten = False
    if not is_overwritten or min(age for group in ages for age in group if age > 0) < LONGEST_COPY_NS:
        return None
    return f"{TRAINER_STATE_NAME} is older than the weights, as if left of an earlier training"


__all__ = ["get_last_complete_checkpoint"]
