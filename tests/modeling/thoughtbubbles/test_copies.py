# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""`fork_rule="copy"` is the baseline of the paper: equal streams for every token, their outputs averaged.

The promises of docs/architecture.md are in tests/contract.
"""

import pytest
import torch

from hf_thoughtbubbles import ThoughtbubblesForCausalLM, calibrate_forks
from tests.families import draw_ids, make_config
from tests.training.test_trainer import get_losses, make_trainer


def build(**changes) -> ThoughtbubblesForCausalLM:
    torch.manual_seed(0)
    copies = {"fork_rule": "copy", "fork_layers": [0], "fork_budget": 3}
    return ThoughtbubblesForCausalLM(make_config(**{**copies, **changes})).eval()


def test_copies_are_a_plain_gpt_over_repeated_tokens():
    """Between whole positions, and averaged before the last norm."""
    model, plain, ids = build(), build(fork_layers=[], fork_rule="topk"), draw_ids(2, 11)
    plain.load_state_dict(model.state_dict())  # copying has no parameters of its own
    embeds = plain.model.embed_tokens(ids).repeat_interleave(3, dim=1)
    places = torch.arange(11.0).repeat_interleave(3) + torch.tensor([1.0, 2, 3]).repeat(11) / 3
    mask = torch.ones(2, 33, dtype=torch.long)
    streams, _ = plain.model.decode(embeds, attention_mask=mask, position_ids=places.expand(2, -1))
    average = streams.hidden_states.unflatten(1, (11, 3)).mean(2)
    expected = plain.lm_head(plain.model.norm(average))
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-4)
    assert (plain(ids).logits - expected).abs().max() > 1e-2


def test_distributions_can_be_averaged_instead():
    mixed, ids = build(fold="probability"), draw_ids(2, 11)
    streams, _ = mixed.model.decode(mixed.model.embed(ids))
    probs = mixed.lm_head(mixed.model.norm(streams.hidden_states)).softmax(-1).unflatten(1, (11, 3)).mean(2)
    torch.testing.assert_close(mixed(ids).logits.exp(), probs, atol=1e-6, rtol=1e-4)


def test_every_token_has_as_many_streams_and_they_can_be_seen():
    forks = build()(draw_ids(2, 7), output_forks=True).forks
    assert torch.equal(forks[0].num_streams, torch.full((2, 7), 3))
    torch.testing.assert_close(forks[0].log_scores.exp(), torch.full((2, 21), 1 / 3))


def test_one_copy_is_the_plain_model_with_later_positions():
    model, ids = build(fork_budget=1), draw_ids(2, 11)
    plain = build(fork_layers=[], fork_rule="topk")
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(ids).logits, plain(ids).logits, atol=1e-5, rtol=1e-4)  # rotation is relative


def test_the_trainer_trains_copies_and_logs_their_streams(tmp_path):
    from hf_thoughtbubbles.training.callbacks import ForkLogCallback

    trainer = make_trainer(tmp_path, build(fork_budget=2).train(), max_steps=20)
    trainer.add_callback(ForkLogCallback())
    trainer.train()
    losses, history = get_losses(trainer), trainer.state.log_history
    assert losses[-1] < losses[0]
    logged = [entry["streams_per_token_layer_0"] for entry in history if "streams_per_token_layer_0" in entry]
    assert logged and set(logged) == {2.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, ids: model(ids, fork_budget=2.0), "every token has as many streams as in training"),
        (lambda model, ids: model.generate(ids, fork_budget=2.0, max_new_tokens=2), "every token has as many streams"),
        (lambda model, ids: calibrate_forks(model, [{"input_ids": ids}]), "no scores to calibrate"),
    ],
)
def test_a_budget_of_copies_cannot_be_changed(call, message):
    with pytest.raises(ValueError, match=message):
        call(build(), draw_ids(1, 7))
