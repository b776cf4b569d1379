# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Pretrained models of transformers and reference checkpoints to ours, and back."""

from ..exports import export_on_use


__getattr__, __dir__, __all__ = export_on_use(
    __name__,
    {
        "arrays": ("load_arrays",),
        "native": ("fork_native", "loop_native", "to_native"),
        "native_files": ("save_converted",),
        "next_thought": ("next_thought_from_stlm",),
        "stlm": ("byte_patch_from_stlm", "generic_transformer_from_stlm"),
        "theseus": ("thoughtbubbles_from_theseus",),
        "toythinker": ("looped_thinker_from_toythinker",),
    },
)
