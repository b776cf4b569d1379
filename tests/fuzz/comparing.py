# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Comparisons and inputs that several checks of the fuzzer use."""

import torch
from hypothesis import strategies as st

from tests.fuzz.subjects import (
    Inputs,
    Subject,
    pad,
    stack_patches,
)


SEEDS = st.integers(0, 2**16)
EXACT, FLOAT32 = 2e-6, 2e-5  # fork scores and rotary angles are rounded to float32 on the way


def compare(name: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float = EXACT):
    """Fail when values differ by more than rounding, relative to the largest of them and 1."""
    assert found.shape == expected.shape, f"{name}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    assert bool(torch.isfinite(found).all()), f"{name}: not finite"
    if expected.numel() > 0:
        scale = max(1.0, float(expected.abs().max()))
        distance = float((found - expected).abs().max())
        assert distance <= tolerance * scale, f"{name}: {distance:.3g} apart, of values up to {scale:.3g}"


def must_refuse(argument: str, function, *arguments, **options):
    """Fail when a call is accepted, or refused without the name of the argument."""
    try:
        function(*arguments, **options)
    except (TypeError, ValueError) as error:
        assert argument in str(error), f"refused without naming {argument}: {error}"
        return
    raise AssertionError(f"accepted, but {argument} should be refused")


def draw_cuts(draw, length: int) -> list[int]:
    """Where a text is cut into parts; every token alone with one of the draws."""
    if length < 2:
        return [0, length]
    inner = draw(st.sets(st.integers(1, length - 1))) if draw(st.booleans()) else set(range(1, length))
    return [0, *sorted(inner), length]


def take_prompt(subject: Subject, inputs: Inputs, draw, num_rows: int, side: str | None = None) -> dict:
    """A prompt to continue, with everything that `generate` needs."""
    if not subject.is_text:
        return inputs.draw_context(num_rows, side)
    lengths = [draw(st.integers(1, 9)) for _ in range(num_rows)] if side else [draw(st.integers(1, 9))] * num_rows
    prompt = pad([inputs.draw_row(length) for length in lengths], subject.settings["pad_token_id"], "left")
    return {**prompt, **inputs.measure(lengths)}


def read_by_ends(model, ids: torch.Tensor, mask: torch.Tensor | None, is_end: torch.Tensor) -> torch.Tensor:
    """
    Logits of bytes whose patches end where marked. One more byte is read, because lengths end the last patch, too.
    """
    mask = torch.ones_like(ids) if mask is None else mask
    lengths = []
    for ends, real in zip(is_end.tolist(), mask.tolist(), strict=True):
        row, count = [], 0
        for end in (end for end, is_real in zip(ends, real, strict=True) if is_real):
            count += 1
            if end:
                row.append(count)
                count = 0
        lengths.append([*row, count + 1])
    more = torch.full((len(ids), 1), ord("a"))
    text = {"input_ids": torch.cat((ids, more), dim=1), "attention_mask": torch.cat((mask, more * 0 + 1), dim=1)}
    return model(**text, **stack_patches(lengths), use_cache=False).logits[:, :-1]
