# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Text, numbers and thoughts as data sets: packing, number tasks, collators, character noise."""

from ..exports import export_on_use


__getattr__, __dir__, __all__ = export_on_use(
    __name__,
    {
        "collation": ("ThinkingCollator", "collate_blocks"),
        "curriculum": ("Curriculum",),
        "noise": ("add_character_noise",),
        "number_tasks": ("NumberTask", "make_task"),
        "number_text": ("describe_task", "read_question", "write_answer"),
        "numbers": ("load_number_dataset", "stream_number_dataset"),
        "packing": ("pack_blocks",),
        "patches": ("PatchCollator", "TokenPatchCollator", "measure_patch_lengths"),
        "text": ("load_text",),
        "thoughts": ("pair_thoughts", "split_lines", "split_sentences"),
    },
)
