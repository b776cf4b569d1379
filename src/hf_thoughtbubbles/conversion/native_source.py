# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Name and licence of the model that another one was made from."""

import os
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import cached_file


# Arguments of `from_pretrained` that say where files lie; configurations and tokenizers take them as well.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
LICENSE_FIELDS = ("license", "license_name", "license_link")


def read_source(name: str, **kwargs) -> dict[str, str]:
    """
    What a converted model's `native_config` says of its source: `_name_or_path` and the fields of its licence.

    A folder is named `./` and its own name, because its path is of no use elsewhere. Without a card there is no
    licence.
    """
    if not name:
        return {}
    is_folder = os.path.isdir(name)
    try:
        validate_repo_id(name)
    except HFValidationError:  # a model in memory may name a folder that is gone
        if not is_folder:
            return {"_name_or_path": f"./{Path(name).name}"}
    shown = f"./{Path(name).resolve().name}" if is_folder else name
    path = cached_file(
        name,
        "README.md",
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **{key: value for key, value in kwargs.items() if key != "subfolder"},
    )
    return {"_name_or_path": shown, **(_read_license(Path(path)) if path else {})}


def _read_license(path: Path) -> dict[str, str]:
    """The fields of the licence in a card; none of a card that cannot be read."""
    try:
        fields = ModelCard(path.read_text(encoding="utf-8", errors="replace")).data.to_dict()
    except (yaml.YAMLError, ValueError):
        return {}
    return {name: str(fields[name]) for name in LICENSE_FIELDS if fields.get(name)}


__all__ = ["HUB_ARGUMENTS", "LICENSE_FIELDS", "read_source"]
