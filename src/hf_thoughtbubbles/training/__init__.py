# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Callbacks for the Trainer: logs and pictures of forks, schedules, a curriculum, a budget of time."""

from ..exports import export_on_use


__getattr__, __dir__, __all__ = export_on_use(
    __name__,
    {
        "callbacks": ("ForkLogCallback", "ForkPlotCallback"),
        "checkpoints": ("get_last_complete_checkpoint",),
        "curriculum": ("CurriculumCallback", "TimeBudgetCallback"),
        "interruption": ("InterruptCallback",),
        "log_entries": ("LogEntriesCallback",),
        "thinking_schedule": ("ThinkingSchedule",),
    },
)
