# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Saving of models that were loaded with `trust_remote_code=True`. The only file of `hub/` that travels with them."""

import filecmp
import hashlib
import inspect
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging


COPYRIGHT = b"The hf-thoughtbubbles team"  # in the first line of every file that travels
DIGEST = re.compile(rb"# Digest ([0-9a-f]{16}) of all other lines")  # begins the second line
WEIGHT_FORMS = {SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME}  # one file, or the index of shards
KEPT = ".before"  # ends the name of a copy of what may have been edited
SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.safetensors$)")
STAGING = "_unfinished_save"  # the folder in which a model is written; Trainers push no name that begins with "_"


def read_remote_code(public: type) -> dict[str, bytes]:
    """The files that were loaded with a class from a checkpoint, by name; none for another class."""
    if public.__module__.split(".")[0] != "transformers_modules":
        return {}
    folder = Path(inspect.getfile(public)).parent
    files = {path.name: path.read_bytes() for path in folder.glob("*.py")}
    return {name: source for name, source in files.items() if COPYRIGHT in source.split(b"\n")[0]}


def split_digest(source: bytes) -> tuple[str | None, str]:
    """The digest that a file names in its second line, and that of its other lines, whatever ends a line."""
    lines = source.splitlines()
    named = DIGEST.match(lines[1]) if len(lines) > 1 else None
    digest = hashlib.sha256(b"\n".join(lines[:1] + lines[2:] if named else lines)).hexdigest()[:16]
    return named[1].decode() if named else None, digest


def add_digest(source: bytes) -> bytes:
    """Write a file's digest into its second line, so that an edit of the file shows."""
    first, rest = source.split(b"\n", 1)
    line = (
        f"# Digest {split_digest(source)[1]} of all other lines. Once they are edited, saving over them is an error."
    )
    return b"\n".join([first, line.encode(), rest])


def check_folder(folder: Path, code: dict[str, bytes]):
    """Refuse to save into a file, or to write code over files that were edited, before anything is written."""
    if folder.is_file():
        raise NotADirectoryError(f"`save_directory={os.fspath(folder)!r}` was passed, but it must be a folder.")
    for path in (folder / name for name in code):
        there = path.read_bytes() if path.is_file() else b""  # another process may be about to write an empty file
        (named, digest), is_ours = split_digest(there), COPYRIGHT in there.split(b"\n")[0]
        if not there or named == digest or digest == split_digest(code[path.name])[1]:
            continue
        if not is_ours or named:
            reason = "which was edited since it was saved" if is_ours else "which was not saved with a model"
            raise FileExistsError(
                f"The code of the model would be written over {os.fspath(path)!r}, {reason}. "
                "Save into another folder, or rename that file."
            )
        kept = shutil.copy2(path, f"{path}{KEPT}")
        logging.get_logger(__name__).warning(f"{path} names no digest. It is replaced, and kept as {kept}.")


def write_aside(path: Path, content: bytes):
    """Write a file and then rename it, so that no process reads half of it."""
    unfinished = path.with_name(f"_{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def replace_model(staged: Path, folder: Path):
    """
    Move a saved model over an older one and remove its stale weights.

    A process killed between two steps leaves the old model, the new one, or a folder without `config.json`.
    """
    names = {path.name for path in staged.iterdir()}
    stems = {SHARD.sub("", name) for name in names if name.endswith(".safetensors")}
    parts = [stem.removesuffix(".safetensors").partition(".") for stem in stems]
    indexes = {f"{base}.safetensors.index{dot}{variant}.json" for base, dot, variant in parts}
    heads = [name for name in [*sorted(indexes), "adapter_config.json", "config.json"] if name in names]
    there = [path for path in folder.iterdir() if path.is_file() and path.name not in names]
    stale = [path for path in there if path.name in indexes or SHARD.sub("", path.name) in stems]
    changed = [name for name in names if name.endswith(".safetensors") or not _is_same(staged / name, folder / name)]
    if len(changed) + len(stale) > 1:  # no single rename replaces the model
        for name in reversed(heads):
            (folder / name).unlink(missing_ok=True)
    for name in sorted(names.difference(heads)) + heads[:-1]:
        (staged / name).replace(folder / name)
    for path in stale:
        path.unlink()
    for name in heads[-1:]:
        (staged / name).replace(folder / name)


def _is_same(first: Path, second: Path) -> bool:
    return second.is_file() and filecmp.cmp(first, second, shallow=False)


def is_writer(is_main_process: bool) -> bool:
    """Whether this process writes: the only one, or the main one of those that train together."""
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return is_main_process and (not is_distributed or torch.distributed.get_rank() == 0)


class RemoteCodeConfigMixin:
    """Save the code of the models beside a configuration. Put it before `PreTrainedConfig` in the bases."""

    def export_code(self) -> tuple[dict[str, bytes], dict[str, str]]:
        """The files to save, by name, and what is certain of their `auto_map`."""
        return read_remote_code(type(self)), {}

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        folder, (code, auto_map) = Path(save_directory), self.export_code()
        check_folder(folder, code)
        if push_to_hub:  # transformers would upload only what it writes itself
            self.save_pretrained(save_directory)
            return self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)  # type: ignore[attr-defined]  # of PreTrainedConfig
        for name, target in (getattr(self, "auto_map", None) or {}).items() if code else ():
            local = target.split("--")[-1]  # without the Hub repository that it was loaded from
            file_name = f"{local.split('.')[0]}.py"
            if file_name not in code and (folder / file_name).is_file():  # transformers has copied it
                auto_map[name] = local
            elif file_name in code or local != target:
                auto_map.setdefault(name, local if file_name in code else target)
        if code:
            self.auto_map = auto_map
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]  # of the class behind this mixin
        for name, source in code.items():
            write_aside(folder / name, source)


class HubModelMixin:
    """Save a model beside an older one, then replace that. Put it before `PreTrainedModel` in the bases."""

    config: Any

    @property
    def saves_full_model(self) -> bool:
        """Whether saving writes the whole model, not only an adapter."""
        return not getattr(self, "_hf_peft_config_loaded", False)

    def save_pretrained(
        self, save_directory, is_main_process=True, state_dict=None, push_to_hub=False, *args, **kwargs
    ):
        folder, writes = Path(save_directory), is_writer(is_main_process)
        has_code = writes and (self.saves_full_model or self._auto_class is not None)  # type: ignore[attr-defined]  # of the model
        check_folder(folder, {**self.config.export_code()[0], **read_remote_code(type(self))} if has_code else {})
        is_staged = writes and not kwargs.get("distributed_checkpoint")  # into which every process writes
        target = folder / STAGING if is_staged else folder
        if push_to_hub:
            kwargs.setdefault("repo_id", folder.name)
        try:
            if is_staged:  # what a killed process left
                shutil.rmtree(target, ignore_errors=True)
            super().save_pretrained(target, is_main_process, state_dict, push_to_hub, *args, **kwargs)  # type: ignore[misc]  # of the model
            if is_staged:
                replace_model(target, folder)
        finally:
            if is_staged:
                shutil.rmtree(target, ignore_errors=True)
        self.barrier_after_gathered_checkpoint_save(getattr(self.config, "distributed_config", None))  # type: ignore[attr-defined]  # of the model

    def gather_sharded_state_dict_for_save(self, model_to_save, state_dict, distributed_config, **kwargs):
        """As transformers' method, which gathers tied weights of tensor parallelism as if they were several."""
        gathered = super().gather_sharded_state_dict_for_save(model_to_save, state_dict, distributed_config, **kwargs)  # type: ignore[misc]  # of the model
        if distributed_config is not None and distributed_config.tp_size > 1:
            tied = model_to_save.all_tied_weights_keys
            gathered = {name: weight for name, weight in gathered.items() if tied.get(name) not in gathered}
        return gathered
