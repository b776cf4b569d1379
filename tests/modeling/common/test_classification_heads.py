# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Targets of classification heads."""

import pytest
import torch

from hf_thoughtbubbles import (
    GenericTransformerForQuestionAnswering,
    GenericTransformerForSequenceClassification,
    GenericTransformerForTokenClassification,
    ThoughtbubblesForQuestionAnswering,
    ThoughtbubblesForSequenceClassification,
    ThoughtbubblesForTokenClassification,
)
from tests.families import draw_ids, make_config, make_generic


FAMILIES = ("threshold", "topk", "generic")


def build(family: str, head: str, **changes) -> torch.nn.Module:
    torch.manual_seed(0)
    classes = {
        "sequence": (ThoughtbubblesForSequenceClassification, GenericTransformerForSequenceClassification),
        "token": (ThoughtbubblesForTokenClassification, GenericTransformerForTokenClassification),
        "answer": (ThoughtbubblesForQuestionAnswering, GenericTransformerForQuestionAnswering),
    }[head]
    if family == "generic":
        config = make_generic("generic").config
        return classes[1](type(config)(**{**config.to_dict(), **changes}))
    return classes[0](make_config(fork_rule=family, **changes))


def check(model: torch.nn.Module, rights: tuple, wrongs: tuple, message: str = "`labels`"):
    """Take each of the right targets, then refuse each of the wrong ones, without a change of the configuration."""
    ids = draw_ids(3, 7)
    for labels in rights:
        assert model(ids, labels=labels).loss.isfinite()
    kind = model.config.problem_type
    for labels in wrongs:
        with pytest.raises(ValueError, match=message):
            model(ids, labels=labels)
    assert model.config.problem_type == kind


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_has_one_class_id(family):
    right = torch.tensor([0, 4, -100])
    wrongs = (
        right[:2],
        right[:, None],
        right[None],
        right.float(),
        right > 0,
        right.int(),
        right.tolist(),
        torch.tensor([0, 5, 1]),
        torch.tensor([0, -1, 1]),
    )
    model = build(family, "sequence", num_labels=5)
    check(model, (), wrongs)
    assert model.config.problem_type is None
    check(model, (right,), wrongs)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_have_numbers_or_several_labels_at_once_where_the_problem_says_so(family):
    several, numbers = torch.tensor([[0.0, 1.0, 0.5]] * 3), torch.tensor([0.3, -7.0, 2.0])
    wrongs = (several.T[:2], several.flatten(), several.long(), several > 0, several + 1, numbers)
    check(build(family, "sequence", num_labels=3), (several,), wrongs)
    wrongs = (numbers[:2], numbers.long(), numbers[None], numbers > 0, numbers.tolist())
    check(build(family, "sequence", num_labels=1), (numbers, numbers[:, None]), wrongs)
    wide = torch.rand(3, 2)
    model = build(family, "sequence", num_labels=2, problem_type="regression")
    check(model, (wide,), (wide.T, wide[:, 0], wide.long()))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_has_one_class_id(family):
    right = torch.randint(0, 5, (3, 7))
    wrongs = (right.T, right.flatten(), right[:1], right[:, :6], right.float(), right + 5, right - 9, right > 0)
    check(build(family, "token", num_labels=5), (right, right.masked_fill(right == 2, -100)), wrongs)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ends_of_an_answer_lie_in_the_row(family):
    model, ids, right = build(family, "answer"), draw_ids(3, 7), torch.tensor([0, 6, 7])
    for given in (right, right[:, None]):
        assert model(ids, start_positions=given, end_positions=given).loss.isfinite()
    for name, other in (("start_positions", "end_positions"), ("end_positions", "start_positions")):
        for wrong in (right[:2], right[None], right.float(), right + 1, right - 1, right.tolist(), right.repeat(7)):
            with pytest.raises(ValueError, match=f"`{name}` is"):
                model(ids, **{name: wrong, other: right})
        with pytest.raises(ValueError, match=f"`{name}` was passed without `{other}`"):
            model(ids, **{name: right})
