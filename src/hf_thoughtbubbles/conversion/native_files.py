# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Saving of a converted model as a complete folder: weights, code, tokenizer, chat template, settings and card."""

import os
import shutil
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from transformers import AutoTokenizer
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import cached_file, logging

from ..hub.model_card import CARD_NAME, build_model_card
from .native_source import HUB_ARGUMENTS, LICENSE_FIELDS, read_source


TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json")


def save_converted(
    model: PreTrainedModel, source: str | os.PathLike, target: str | os.PathLike, **kwargs
) -> tuple[str, ...]:
    """
    Save a model with the tokenizer and the chat template of its source, all or nothing.

    The files are written beside the target, which gets its name when they are complete. A killed process may leave the
    folder beside it, whose name ends in `_unfinished` and a number.

    Args:
        model (`PreTrainedModel`): what [`fork_native`] or [`loop_native`] made, or `to_native`.
        source (`str` or `os.PathLike`): name on the Hub or folder whose tokenizer is saved; without one, none is.
        target (`str` or `os.PathLike`): a folder that does not exist, or is empty.
        **kwargs: where the files of the source lie: `revision`, `token`, `cache_dir`, ...

    Returns:
        `tuple[str, ...]`: names of the files.

    Raises:
        `FileExistsError`: for a target with files; nothing is written.
    """
    folder = check_target(target)
    hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    tokenizer = None
    if has_tokenizer(source, **hub_arguments):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub_arguments)
    else:
        logging.get_logger(__name__).warning(f"{os.fspath(source)!r} has no tokenizer, so none is saved.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = folder.with_name(f"{folder.name}_unfinished{os.getpid()}")
    try:
        model.save_pretrained(staged)
        if tokenizer is not None:
            tokenizer.save_pretrained(staged)
        if (staged / CARD_NAME).exists():  # it names the folder beside the target
            card = build_model_card(model, os.fspath(target))
        else:  # transformers writes none
            card = build_native_card(source, folder.name, **hub_arguments)
        card.save(staged / CARD_NAME)
        staged.replace(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return tuple(sorted(path.name for path in folder.iterdir()))


def build_native_card(source: str | os.PathLike, title: str, **kwargs) -> ModelCard:
    """A card for a model of a native class, with the licence in the card of its source."""
    known = read_source(os.fspath(source), **kwargs)
    fields = {name: value for name, value in known.items() if name in LICENSE_FIELDS}
    data = ModelCardData(**{"license": "unknown", **fields}, library_name="transformers")
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {title}\n")


def check_target(target: str | os.PathLike) -> Path:
    """The absolute path of a folder to write; raise where there are files."""
    folder = Path(target).absolute()
    if folder.is_dir() and not any(folder.iterdir()):
        return folder
    if os.path.lexists(folder):
        raise FileExistsError(
            f"{os.fspath(target)!r} exists and is not an empty folder. Pass the name of a new folder, or remove it."
        )
    return folder


def has_tokenizer(source: str | os.PathLike, **kwargs) -> bool:
    """Whether a source has files of a tokenizer; some classes build an empty one without."""
    kwargs["_raise_exceptions_for_missing_entries"] = False
    return any(cached_file(source, name, **kwargs) is not None for name in TOKENIZER_FILES)


__all__ = ["check_target", "save_converted"]
