# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The last complete checkpoint: half-written ones are skipped."""

from transformers.trainer_utils import get_last_checkpoint

from hf_thoughtbubbles.training.checkpoints import get_last_complete_checkpoint


def test_the_last_complete_checkpoint_is_found_by_its_number(tmp_path):
    assert get_last_complete_checkpoint(tmp_path / "missing") is None
    for name in ("checkpoint-7", "checkpoint-20", "checkpoint-100", "checkpoint-best", "other-300"):
        (tmp_path / name).mkdir()
    assert get_last_complete_checkpoint(tmp_path) is None
    for name in ("checkpoint-7", "checkpoint-20", "checkpoint-best", "other-300"):
        (tmp_path / name / "trainer_state.json").write_text("{}")
    for name, state in (
        ("checkpoint-old-900", "{}"),
        ("checkpoint-²", "{}"),
        ("checkpoint-50", ""),
        ("checkpoint-51", '{"a'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(state)
    assert get_last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-20")
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100"), "transformers' chooses the broken one"
