# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Calibration of forks, streaming of bytes, plain sampling loops."""

from ..exports import export_on_use


__getattr__, __dir__, __all__ = export_on_use(
    __name__,
    {
        "calibration": ("calibrate_forks",),
        "sampling": ("generate_tokens", "greedy_sampling", "temperature_sampling"),
        "streaming": ("ByteTextIteratorStreamer", "ByteTextStreamer"),
    },
)
