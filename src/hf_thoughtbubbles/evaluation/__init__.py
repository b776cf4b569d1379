# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Bits per byte, continuations, graded answers, baselines of equal size or compute, operations and memory."""

from ..exports import export_on_use


__getattr__, __dir__, __all__ = export_on_use(
    __name__,
    {
        "answers": ("NumberReply", "answer_questions", "ask_numbers", "score_answers"),
        "baselines": ("BaselineMatch", "describe_match", "matched_baseline"),
        "drawings": ("draw_forks", "draw_read_forks"),
        "flops": ("Flops", "Memory", "count_parameters", "estimate_flops", "estimate_memory", "measure_flops"),
        "metrics": ("BitsPerByte", "ExactMatch"),
        "plan": ("Device", "TrainingPlan", "plan_training"),
        "scoring": ("ContinuationScore", "bits_per_byte_metrics", "score_continuations", "score_dataset"),
        "traces": ("ForkTrace", "StepTrace", "summarize_forks", "trace_forks", "trace_steps"),
    },
)
