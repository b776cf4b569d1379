# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What do the models of this package add when they are saved and pushed?"""

import os
from pathlib import Path

from .model_card import CARD_NAME, update_model_card
from .remote_code import check_folder


class HubModelMixin:
    """
    Makes every push of a model carry its description, and saving into a file an error.

    Put it before `PreTrainedModel` in the bases.
    """

    _own_card: bytes | None = None  # of the folder that is being saved to and pushed

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs):
        check_folder(save_directory)  # transformers logs this, and goes on as if the model had been saved
        card = Path(save_directory) / CARD_NAME
        self._own_card = card.read_bytes() if card.is_file() else None
        try:
            return super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self._own_card = None

    def _upload_modified_files(self, working_dir, repo_id, *args, **kwargs):
        # All ways to push a model end here, with all files written: transformers' own card over that of the folder.
        card = Path(working_dir) / CARD_NAME
        if self._own_card is not None:
            card.write_bytes(self._own_card)
        if not getattr(self, "_hf_peft_config_loaded", False):  # an adapter comes without the model and its code
            update_model_card(card, self, repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)


__all__ = ["HubModelMixin"]
