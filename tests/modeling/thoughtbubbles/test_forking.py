# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Fork rules: the built-in ones against choices made by hand, and rules that a user registers."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_thoughtbubbles import (
    ForkRule,
    StreamCache,
    ThoughtbubblesConfig,
    ThoughtbubblesForCausalLM,
    calibrate_forks,
    register_fork_rule,
)
from hf_thoughtbubbles.configuration.fork_rules import FORK_RULES
from hf_thoughtbubbles.modeling.thoughtbubbles.forking import ForkCandidates, Threshold, TopK
from tests.families import draw_ids, make_config


# Two tokens of one and two streams, and a filler: candidates 0 1 | 2 3 4 5 | 6 7. Own streams are candidates 1 and 5.
CAUSAL_INDEX = torch.tensor([[0, 0, 1, 1, 1, 1, 2, 2]])
CAUSAL_SCORES = torch.tensor([[-1.0, -9.0, -2.0, -3.0, -1.5, -9.0, 0.0, 0.0]])


def choose_top(log_scores, token_index, num_tokens, fork_budget, token_mask=None):
    """The candidates that stay under the published rule, and the scores of all."""
    choice = TopK().choose(
        ForkCandidates(log_scores, token_index, num_tokens, token_mask),
        fork_budget=fork_budget,
        threshold=None,
        capacity=None,
    )
    return choice.kept, choice.log_scores


def choose_above(log_scores, token_index, num_tokens, threshold, capacity=None):
    """The candidates that stay under the causal rule, and the token of each."""
    candidates = ForkCandidates(log_scores, token_index, num_tokens)
    choice = Threshold().choose(candidates, fork_budget=2.0, threshold=threshold, capacity=capacity)
    return choice.kept, choice.token_index


def test_a_budget_of_all_candidates_keeps_all():
    scores = torch.tensor([[-3.0, -1.0, -2.0, -4.0]])
    kept, left = choose_top(scores, torch.tensor([[0, 0, 1, 1]]), num_tokens=2, fork_budget=2.0)
    assert kept is None
    assert torch.equal(left, scores)


def test_the_last_candidate_of_every_token_stays_whatever_its_score():
    # Candidates 1, 3 and 5 are the tokens' own; one place is left, and the fork of token 2 scores best.
    scores = torch.tensor([[-2.0, -9.0, -3.0, -9.0, -1.0, -9.0]])
    kept, _ = choose_top(scores, torch.tensor([[0, 0, 1, 1, 2, 2]]), num_tokens=3, fork_budget=4 / 3)
    assert kept.tolist() == [[1, 3, 4, 5]]


def test_ties_of_the_selection_go_to_the_earlier_candidate():
    scores = torch.tensor([[-1.0, -5.0, -1.0, -5.0]])
    kept, _ = choose_top(scores, torch.tensor([[0, 0, 1, 1]]), num_tokens=2, fork_budget=1.5)
    assert kept.tolist() == [[0, 1, 3]]


def test_ties_of_the_budget_go_to_the_later_candidate():
    # Two real tokens and a budget of floor(1.5 * 2) = 3: the forks tie, and the later one lives.
    scores = torch.tensor([[-1.0, -5.0, -1.0, -5.0]])
    mask = torch.tensor([[True, True]])
    kept, left = choose_top(scores, torch.tensor([[0, 0, 1, 1]]), 2, 1.5, mask)
    assert kept.tolist() == [[1, 2, 3]]
    assert left.tolist() == [[-math.inf, -5.0, -1.0, -5.0]]


def test_padding_dies_and_fills_what_is_left():
    scores = torch.tensor([[-1.0, -5.0, -1.0, -5.0, -1.0, -5.0]])
    mask = torch.tensor([[True, False, False]])
    kept, left = choose_top(scores, torch.tensor([[0, 0, 1, 1, 2, 2]]), 3, 1.0, mask)
    assert left[0, 1] == -5.0, "the only real token has a budget of one stream, its own"
    assert left[0, [0, 2, 3, 4, 5]].isneginf().all()
    assert kept.tolist() == [[0, 1, 2]], "dead candidates fill the row, earliest first"


def test_a_row_of_one_token_forces_nothing():
    # The comparison wraps around, so the better-scored copy replaces the token's own stream
    # (docs/reference_behaviour.md, "Thoughtbubbles", T6).
    kept, _ = choose_top(torch.tensor([[-1.0, -5.0]]), torch.tensor([[0, 0]]), num_tokens=1, fork_budget=1.0)
    assert kept.tolist() == [[0]]


@pytest.mark.parametrize(("num_tokens", "fork_budget", "num_kept"), [(11, 25 / 11, 26), (7, 1.5, 11), (5, 1.0, 5)])
def test_the_number_kept_is_the_ceiling_of_a_double_product(num_tokens, fork_budget, num_kept):
    # 11 * (25 / 11) is a little more than 25 in double precision
    # (docs/reference_behaviour.md, "Thoughtbubbles", T8).
    scores, token_index = torch.zeros(1, 4 * num_tokens), torch.arange(num_tokens).repeat_interleave(4)[None]
    kept, _ = choose_top(scores, token_index, num_tokens, fork_budget)
    assert kept.shape == (1, num_kept)


@pytest.mark.parametrize(
    "threshold, kept",
    [(1.0, [1, 5]), (-1.0, [0, 1, 5]), (-1.6, [0, 1, 4, 5]), (-2.0, [0, 1, 2, 4, 5]), (-1e4, [0, 1, 2, 3, 4, 5])],
)
def test_above_the_threshold_candidates_stay_and_own_streams_always(threshold, kept):
    indices, token_index = choose_above(CAUSAL_SCORES, CAUSAL_INDEX, 2, threshold)
    assert indices.tolist() == [kept], "the fillers are gone, whatever they score"
    assert token_index.tolist() == [CAUSAL_INDEX[0, kept].tolist()]


def test_what_exceeds_the_capacity_is_dropped_from_the_end_but_no_own_stream():
    indices, token_index = choose_above(CAUSAL_SCORES, CAUSAL_INDEX, 2, -1e4, capacity=4)
    assert indices.tolist() == [[0, 1, 2, 5]]
    indices, _ = choose_above(CAUSAL_SCORES, CAUSAL_INDEX, 2, -1e4, capacity=2)
    assert indices.tolist() == [[1, 5]]
    indices, token_index = choose_above(CAUSAL_SCORES, CAUSAL_INDEX, 2, -1.0, capacity=6)
    assert token_index.tolist() == [[0, 0, 1, 2, 2, 2]], "fillers complete the row"
    assert indices[0, :3].tolist() == [0, 1, 5]


def test_rows_of_different_lengths_are_filled_up_on_the_right():
    scores = torch.tensor([[-1.0, -9.0, -1.0, -9.0], [-5.0, -9.0, -5.0, -9.0]])
    token_index = torch.tensor([[0, 0, 1, 1], [2, 2, 1, 1]])  # the second row begins with padding
    indices, kept_index = choose_above(scores, token_index, 2, -2.0)
    assert kept_index.tolist() == [[0, 0, 1, 1], [1, 2, 2, 2]]
    assert indices[1, 0] == 3


# Rules of users


class Confident(ForkRule):
    """A causal rule: candidates with a score above 0.37 stay."""

    def choose(self, candidates, *, capacity, **kwargs):
        return candidates.keep(candidates.log_scores > -1.0, capacity)


class BestOfBatch(ForkRule):
    """A rule that is not causal: candidates that score above the mean of the batch stay."""

    is_causal = False

    def choose(self, candidates, *, capacity, **kwargs):
        is_real = candidates.token_index < candidates.num_tokens
        mean = candidates.log_scores[is_real].detach().mean()
        return candidates.keep(candidates.log_scores >= mean, capacity)


@pytest.fixture
def user_rules(monkeypatch):
    """Two rules of a user, registered for one test."""
    for name, rule_class in (("confident", Confident), ("best_of_batch", BestOfBatch)):
        monkeypatch.setitem(FORK_RULES, name, None)  # removed after the test
        assert register_fork_rule(name)(rule_class) is rule_class


def build(fork_rule: str, **changes) -> ThoughtbubblesForCausalLM:
    torch.manual_seed(0)
    model = ThoughtbubblesForCausalLM(make_config(fork_rule=fork_rule, tie_word_embeddings=False, **changes))
    with torch.no_grad():
        for fork in model.model.forks.values():
            fork.keep_proj.weight.mul_(3)  # so that scores differ by more than rounding
    return model.eval()


@pytest.mark.parametrize("fork_rule", ["confident", "best_of_batch"])
def test_a_rule_of_a_user_trains(user_rules, fork_rule):
    model, input_ids = build(fork_rule).train(), draw_ids(4, 29)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(30):
        loss = model(input_ids, labels=input_ids).loss
        loss.backward()
        assert all(fork.keep_proj.weight.grad.abs().sum() > 0 for fork in model.model.forks.values())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@torch.no_grad()
def test_a_causal_rule_of_a_user_is_cached_exactly(user_rules):
    model, text = build("confident"), draw_ids(2, 23)
    num_streams = model(text, output_forks=True).forks[-1].num_streams
    assert num_streams.min() == 1 and num_streams.max() == 4, "the rule chooses"
    expected, cache = model(text, use_cache=False).logits, StreamCache(model.config)
    for start, end in ((0, 7), (7, 8), (8, 23)):
        logits = model(text[:, start:end], past_key_values=cache).logits
        torch.testing.assert_close(logits, expected[:, start:end], atol=1e-5, rtol=1e-4)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    options = {"attention_mask": mask, "max_new_tokens": 11, "do_sample": False, "eos_token_id": -1}
    generated = model.generate(text[:, :9], use_cache=False, **options)
    assert len(generated[:, 9:].unique()) > 3, "text that varies, so that a lost context would show"
    for strategy in ({}, {"cache_implementation": "static", "disable_compile": True}):
        assert torch.equal(model.generate(text[:, :9], **options, **strategy), generated)


@torch.no_grad()
def test_a_rule_that_is_not_causal_has_no_cache(user_rules):
    model, text = build("best_of_batch"), draw_ids(2, 9)
    assert model(text).past_key_values is None
    with pytest.raises(ValueError, match='`fork_rule="best_of_batch"` chooses streams over the whole sequence'):
        model(text, use_cache=True)
    with pytest.raises(ValueError, match='`fork_rule="best_of_batch"` lets all tokens of a row compete'):
        model(text, position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]))
    generated = model.generate(text, attention_mask=torch.ones_like(text), max_new_tokens=3, do_sample=False)
    for length in (9, 10, 11):
        assert torch.equal(model(generated[:, :length]).logits[:, -1].argmax(-1), generated[:, length])


def test_a_model_with_a_rule_of_a_user_is_saved_and_loaded(user_rules, monkeypatch, tmp_path):
    model, text = build("confident"), draw_ids(2, 9)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.fork_rule == "confident"
    assert torch.equal(loaded(text).logits, model(text).logits)
    monkeypatch.delitem(FORK_RULES, "confident")
    message = r"`fork_rule='confident'` was passed, but the registered rules are \[.*'copy'.*'threshold', 'topk'\]"
    with pytest.raises(Exception, match=f"{message}.*register_fork_rule"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_calibration_gives_a_model_the_causal_rule(user_rules):
    model = build("confident")
    calibrate_forks(model, [{"input_ids": draw_ids(8, 37)}], budgets=(1.0, 2.0))
    assert model.config.fork_rule == "threshold"


def test_rules_that_cannot_be_registered_are_refused():
    with pytest.raises(ValueError, match="that rule is built in"):
        register_fork_rule("topk")(Confident)
    with pytest.raises(ValueError, match="applied to ForkRule; it must be a subclass"):
        register_fork_rule("nothing")(ForkRule)
    with pytest.raises(ValueError, match="applied to dict; it must be a subclass"):
        register_fork_rule("nothing")(dict)
    assert "nothing" not in FORK_RULES


def test_declarations_say_what_a_rule_needs():
    with pytest.raises(Exception, match=r'`fork_score_init=\(0, 0\)` was passed, but under `fork_rule="copy"`'):
        ThoughtbubblesConfig(fork_rule="copy", fork_layers=[0], fork_score_init=(0, 0))
    assert [rule.is_causal for rule in (FORK_RULES[name] for name in ("topk", "threshold", "copy"))] == [
        False,
        True,
        True,
    ]
