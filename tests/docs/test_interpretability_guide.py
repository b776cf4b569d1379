# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The code of the guide on interpretability runs from top to bottom, and reads what the models compute."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning:captum", "ignore::FutureWarning"),
]
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "interpretability.md"
FIGURES = ["convergence.png", "forks.png", "step_losses.png", "step_predictions.png", "streams_by_entropy.png"]


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> dict:
    """Everything that the blocks of the guide define, and the folder that they wrote to."""
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    defined, folder, sources = {"__name__": "guide"}, *map(tmp_path_factory.mktemp, ("guide", "sources"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for i, block in enumerate(blocks):
            file = sources / f"block_{i}.py"  # nnsight reads the lines of a trace again from their file
            file.write_text(block, encoding="utf-8")
            exec(compile(block, str(file), "exec"), defined)
    return {**defined, "folder": folder}


def test_every_figure_of_the_guide_is_drawn(names):
    assert sorted(path.name for path in names["folder"].iterdir()) == FIGURES


def test_the_model_of_the_guide_forks_within_its_budget(names):
    trace = names["trace"]
    assert 1.1 < trace.num_streams[:, -1].float().mean() < 1.9
    assert trace.entropies.mean() < np.log(259) - 1, "it was trained"


def test_nnsight_reads_the_forks_of_the_model_and_changes_them(names):
    model, row = names["model"], names["row"]
    fork = model(row, output_forks=True).forks[0]
    assert torch.equal(names["read_tokens"], fork.token_index)
    torch.testing.assert_close(names["read_scores"], fork.log_scores.exp())
    torch.testing.assert_close(names["before"], model(row).logits, atol=1e-5, rtol=1e-4)
    every_copy = torch.arange(row.shape[1]).repeat_interleave(2)[None]
    assert torch.equal(names["forked_tokens"], every_copy)
    assert (names["after"] - names["before"]).abs().max() > 0.01


def test_an_ablated_stream_changes_the_loss_and_a_kept_one_does_not(names):
    model, row, effects = names["model"], names["row"], names["effects"]
    assert names["whole"] == pytest.approx(model(row, labels=row).loss.item(), rel=1e-5)
    assert max(effects) > 1e-3 and len(effects) == names["read_tokens"].shape[1]
    assert 0 < int(names["is_copy"].sum()) < len(effects) / 2


def test_captum_takes_gradients_through_forks(names):
    by_gradient, by_ablation = names["by_gradient"], names["by_ablation"]
    length = len("def wrap(text")
    assert by_gradient.seq_attr.shape == by_ablation.seq_attr.shape == (length,)
    assert by_gradient.token_attr.shape == (3, length)
    assert torch.isfinite(by_gradient.token_attr).all() and by_gradient.seq_attr.abs().max() > 1e-3
    with pytest.raises(ValueError, match="`attention_mask` has shape"):
        names["ablation"].attribute(names["prompt"], target=", w")


def test_steps_are_decoded_as_those_of_a_model_with_fewer(names):
    thinker, rows, steps = names["thinker"], names["test_rows"], names["steps"]
    assert steps.logits.shape == (16, 6, 64, 259)
    loss = thinker(rows, labels=rows, num_steps=2).loss.item()
    assert steps.step_losses[1].item() == pytest.approx(loss, rel=1e-5)
    assert steps.step_losses[2] < steps.step_losses[0], "the trained number of steps is better than one"
    assert names["answers"].predictions.shape[:2] == (1, 4)
