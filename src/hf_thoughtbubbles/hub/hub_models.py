# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What do the models of this package add when they are saved and pushed?"""

import os
from pathlib import Path

import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .model_card import CARD_NAME, restore_own_card, update_model_card
from .remote_code import check_code, check_folder


def is_alone() -> bool:
    """Whether no other process shares the work, and might still be writing."""
    return not (torch.distributed.is_available() and torch.distributed.is_initialized())


def is_first() -> bool:
    """Whether this process is alone, or the first of those that share the work."""
    return is_alone() or torch.distributed.get_rank() == 0


def list_times(folder: Path) -> dict[str, float]:
    """When each file in a folder was written last, by name."""
    return {path.name: path.stat().st_mtime for path in folder.iterdir() if path.is_file()}


def list_written(folder: Path, earlier: dict[str, float]) -> set[str]:
    """Names of the files in a folder that were written since [`list_times`] was asked."""
    return {name for name, time in list_times(folder).items() if time != earlier.get(name)}


def find_stale_weights(folder: Path, earlier: dict[str, float]) -> str | None:
    """Name the form of the weights, one file or the index of shards, that does not hold now that the other is new."""
    stale = {SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME} - list_written(folder, earlier)
    return stale.pop() if len(stale) == 1 else None


def is_in_repository(name: str, repo_id: str, revision: str | None, token: str | bool | None) -> bool:
    """Whether a file is in a branch, or will be once it is made from the main one."""
    api = HfApi(token=token)
    is_branch = revision is not None and api.revision_exists(repo_id, revision)
    return api.file_exists(repo_id, name, revision=revision if is_branch else None)


class HubModelMixin:
    """
    Makes every push of a model carry its description, weights replace older ones of the other form (one file, shards),
    and saving into a file, or over code of other origin, an error.

    Put it before `PreTrainedModel` in the bases.
    """

    _own_card: bytes | None = None  # of the folder that is being saved to and pushed

    @property
    def is_whole(self) -> bool:
        """Whether saving writes the model itself: an adapter comes without the model and its code."""
        return not getattr(self, "_hf_peft_config_loaded", False)

    def save_pretrained(self, save_directory: str | os.PathLike, is_main_process: bool = True, *args, **kwargs):
        check_folder(save_directory)  # transformers logs this, and goes on as if the model had been saved
        folder = Path(save_directory)
        # Other processes must not look while the first one writes. Code that a user had registered is copied beside an
        # adapter, too.
        if is_main_process and is_first() and (self.is_whole or self._auto_class is not None):
            check_code(folder, type(self.config), type(self))
        card = folder / CARD_NAME
        earlier = list_times(folder) if is_alone() and folder.is_dir() else {}
        self._own_card = card.read_bytes() if card.is_file() else None
        try:
            super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        finally:
            self._own_card = None
        stale = find_stale_weights(folder, earlier) if is_main_process and is_alone() else None
        if stale is not None and (folder / stale).is_file() and not (folder / stale).is_symlink():
            (folder / stale).unlink()

    def _upload_modified_files(self, working_dir, repo_id, files_timestamps, **kwargs):
        # All ways to push a model end here, with all files written: transformers' own card over that of the folder.
        card = Path(working_dir) / CARD_NAME
        try:
            if self._own_card is not None:
                restore_own_card(card, self._own_card)
            if self.is_whole:
                # What only waits in a pull request still has to win over the Hub's card by the next push.
                update_model_card(card, self, repo_id, is_push=not kwargs.get("create_pr"))
            stale = find_stale_weights(Path(working_dir), files_timestamps) if is_alone() else None
            place = repo_id, kwargs.get("revision"), kwargs.get("token")
            if stale is not None and is_in_repository(stale, *place):
                return self._replace_weights(stale, working_dir, repo_id, files_timestamps, **kwargs)
            return super()._upload_modified_files(working_dir, repo_id, files_timestamps, **kwargs)
        except BaseException:
            if self._own_card is not None:  # not on the Hub yet
                card.write_bytes(self._own_card)
            raise

    def _replace_weights(self, stale, working_dir, repo_id, files_timestamps, commit_message=None, **kwargs):
        """Upload as transformers does, which cannot delete, and delete the stale weights in the same commit."""
        api, revision = HfApi(token=kwargs.get("token")), kwargs.get("revision")
        if revision is not None and not api.revision_exists(repo_id, revision):
            api.create_branch(repo_id, branch=revision)
        names = sorted(list_written(Path(working_dir), files_timestamps))
        uploads = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=Path(working_dir) / name) for name in names]
        return api.create_commit(
            repo_id,
            [CommitOperationDelete(stale), *uploads],
            commit_message=commit_message or f"Upload {type(self).__name__}",
            **kwargs,
        )


__all__ = ["HubModelMixin"]
