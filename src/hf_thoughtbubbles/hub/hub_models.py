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

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs):
        check_folder(save_directory)  # transformers logs this, and goes on as if the model had been saved
        return super().save_pretrained(save_directory, *args, **kwargs)

    def _upload_modified_files(self, working_dir, repo_id, *args, **kwargs):
        # All ways to push a model end here, with all files written, and transformers' own card among them.
        update_model_card(Path(working_dir) / CARD_NAME, self, repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)


__all__ = ["HubModelMixin"]
