# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Saving and pushing of the models of this package, with a model card."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

from . import resaving
from .model_card import CARD_NAME, update_model_card, write_model_card


class HubModelMixin(resaving.HubModelMixin):
    """Write a model card whenever a model is saved or pushed. Put it before `PreTrainedModel` in the bases."""

    def save_pretrained(
        self, save_directory, is_main_process=True, state_dict=None, push_to_hub=False, *args, **kwargs
    ) -> CommitInfo | None:
        """Save the model, its code and its card. `push_to_hub=True` uploads what was written, in one commit."""
        folder, names = Path(save_directory), ("commit_description", "commit_message", "create_pr", "revision", "tags")
        if not self.saves_full_model or kwargs.get("distributed_checkpoint"):
            return super().save_pretrained(folder, is_main_process, state_dict, push_to_hub, *args, **kwargs)
        options = {name: kwargs.pop(name) for name in names if name in kwargs}
        repo_id, private = kwargs.pop("repo_id", folder.name), kwargs.pop("private", None)
        api, writes = HfApi(token=kwargs.pop("token", None)), resaving.is_writer(is_main_process)
        if push_to_hub and writes:  # what is not allowed is an error before anything is saved
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        earlier = {path: path.lstat().st_mtime_ns for path in folder.glob("*")}
        super().save_pretrained(folder, is_main_process, state_dict, False, *args, **kwargs)
        if writes:
            write_model_card(folder / CARD_NAME, self, repo_id if push_to_hub else os.fspath(save_directory))
        return self._upload(api, folder, earlier, repo_id, **options) if push_to_hub and writes else None

    def push_to_hub(self, repo_id: str, **kwargs) -> CommitInfo | None:
        """Upload the model, its code and its card in one commit, with the arguments of transformers' method."""
        if not self.saves_full_model:
            return super().push_to_hub(repo_id, **kwargs)  # type: ignore[misc]  # of the class behind this mixin
        with TemporaryDirectory() as folder:
            return self.save_pretrained(folder, push_to_hub=True, repo_id=repo_id, **kwargs)

    def _upload(self, api, folder, earlier, repo_id, revision=None, create_pr=False, tags=None, **kwargs):
        """Commit what was written. Everything around our part of the card on the Hub stays."""
        if revision is not None and not revision.startswith("refs/") and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        known = api.list_repo_files(repo_id, revision=revision)
        hub_card = api.hf_hub_download(repo_id, CARD_NAME, revision=revision) if CARD_NAME in known else None
        card = update_model_card(Path(hub_card or folder / CARD_NAME), self, repo_id, tags)
        changed = [path for path in folder.glob("*") if earlier.get(path) != path.lstat().st_mtime_ns]
        names = {path.name for path in changed if path.is_file() and path.suffix != resaving.KEPT} - {CARD_NAME}
        added = [CommitOperationAdd(name, folder / name) for name in sorted(names)]
        stale = (resaving.WEIGHT_FORMS - names) & set(known) if resaving.WEIGHT_FORMS & names else []
        operations = [CommitOperationAdd(CARD_NAME, card.encode()), *added, *map(CommitOperationDelete, stale)]
        kwargs["commit_message"] = kwargs.get("commit_message") or f"Upload {type(self).__name__}"
        return api.create_commit(repo_id, operations, revision=revision, create_pr=create_pr, **kwargs)
