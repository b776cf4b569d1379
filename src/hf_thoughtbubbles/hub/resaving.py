# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Saving of models that were loaded with `trust_remote_code=True`. The only file of `hub/` that travels with them."""

import inspect
import os
from pathlib import Path
from typing import Any

import torch
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME


COPYRIGHT = b"The hf-thoughtbubbles team"  # in the first line of every file that travels
WEIGHT_FORMS = {SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME}  # one file, or the index of shards


def read_remote_code(public: type) -> dict[str, bytes]:
    """The files that were loaded with a class from a checkpoint, by name; none for another class."""
    if public.__module__.split(".")[0] != "transformers_modules":
        return {}
    folder = Path(inspect.getfile(public)).parent
    files = {path.name: path.read_bytes() for path in folder.glob("*.py")}
    return {name: source for name, source in files.items() if COPYRIGHT in source.split(b"\n")[0]}


def check_folder(folder: Path, code: dict[str, bytes]):
    """Refuse to save into a file, or to write code over files of other origin, before anything is written."""
    if folder.is_file():
        raise NotADirectoryError(f"`save_directory={os.fspath(folder)!r}` was passed, but it must be a folder.")
    for path in (folder / name for name in code):
        # An empty file may be one that another process is about to write.
        if path.is_file() and (source := path.read_bytes()) and COPYRIGHT not in source.split(b"\n")[0]:
            raise FileExistsError(
                f"The code of the model would be written over {os.fspath(path)!r}, which was not saved with a model. "
                "Save into another folder, or rename that file."
            )


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
            return self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)  # type: ignore[attr-defined]
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
            (folder / name).write_bytes(source)


class HubModelMixin:
    """Check a folder before saving a model, and remove stale weights. Put it before `PreTrainedModel` in the bases."""

    config: Any

    @property
    def saves_full_model(self) -> bool:
        """Whether saving writes the whole model, not only an adapter."""
        return not getattr(self, "_hf_peft_config_loaded", False)

    def save_pretrained(self, save_directory: str | os.PathLike, is_main_process: bool = True, *args, **kwargs):
        folder, writes = Path(save_directory), is_writer(is_main_process)
        has_code = writes and (self.saves_full_model or self._auto_class is not None)  # type: ignore[attr-defined]
        check_folder(folder, {**self.config.export_code()[0], **read_remote_code(type(self))} if has_code else {})
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)  # type: ignore[misc]  # of the model
        forms = [folder / name for name in WEIGHT_FORMS if (folder / name).is_file()]
        if writes and self.saves_full_model and len(forms) == 2:  # of which from_pretrained would read only one
            min(forms, key=lambda path: path.lstat().st_mtime_ns).unlink()
