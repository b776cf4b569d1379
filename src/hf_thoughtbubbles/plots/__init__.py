# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Pictures of forks, patches, steps and growth: arrays in, matplotlib figures out."""

from ..exports import export_on_use


__getattr__, __dir__, __all__ = export_on_use(
    __name__,
    {
        "forks": ("plot_forks", "plot_streams_by_entropy"),
        "growth": ("plot_growth",),
        "losses": ("plot_losses",),
        "patches": ("plot_patches",),
        "steps": ("plot_accuracy_grid", "plot_convergence", "plot_step_losses", "plot_step_predictions"),
    },
)
