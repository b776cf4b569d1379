# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Code that is saved with a checkpoint, model cards, the callback for a Trainer's pushes."""

from ..exports import export_on_use


__getattr__, __dir__, __all__ = export_on_use(
    __name__,
    {
        "hub_callback": ("HubCallback",),
        "model_card": ("build_model_card", "update_model_card"),
    },
)
