# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The checkpoint from which an interrupted training continues."""

import os
import re
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def get_last_complete_checkpoint(folder: str | os.PathLike) -> str | None:
    """
    Find the last checkpoint that a Trainer wrote completely.

    A process that is killed while it writes a checkpoint leaves a folder without `trainer_state.json`, the last file.
    `transformers.trainer_utils.get_last_checkpoint` and `resume_from_checkpoint=True` choose such a folder and fail.

    Args:
        folder (`str` or `os.PathLike`): the Trainer's `output_dir`; it may be missing.

    Returns:
        `str` or `None`: the folder to pass as `resume_from_checkpoint`; `None` without a complete checkpoint.
    """
    steps = {}
    for state in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}"):
        number = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-([0-9]+)", state.parent.name)
        if number and state.read_text(encoding="utf-8").rstrip().endswith("}"):  # complete
            steps[int(number[1])] = state.parent
    return str(steps[max(steps)]) if steps else None


__all__ = ["get_last_complete_checkpoint"]
