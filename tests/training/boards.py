# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Files of TensorBoard, read back."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read_board(folder: Path) -> dict[str, dict[int, float]]:
    """Values by step of each name that TensorBoard's files in a folder have."""
    events = EventAccumulator(str(next(folder.rglob("events.out.tfevents.*")).parent), {"scalars": 0}).Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}
