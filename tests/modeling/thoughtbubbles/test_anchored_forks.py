# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Anchored forks: own streams count as 1 and stand where the token stands, copies alone are scored."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.profiler import ProfilerActivity, profile

from hf_thoughtbubbles import ThoughtbubblesForCausalLM
from hf_thoughtbubbles.modeling.thoughtbubbles.forking import ThoughtbubblesFork
from hf_thoughtbubbles.modeling.thoughtbubbles.streams import ThoughtbubblesStreams, get_stream_positions
from tests.families import NATIVE_LAYERS, calibrate, draw_ids, make_config, sharpen_forks


ANCHORED = {**NATIVE_LAYERS, "fork_anchored": True, "fork_score_channel": "beside"}


def build(**changes) -> ThoughtbubblesForCausalLM:
    """A model with anchored forks that prune for real."""
    torch.manual_seed(0)
    config = make_config(tie_word_embeddings=False, **{**ANCHORED, **changes})
    return calibrate(sharpen_forks(ThoughtbubblesForCausalLM(config)).eval(), num_rows=16)


def test_own_streams_stand_at_the_position_of_their_token():
    token_index = torch.tensor([[0, 1, 1, 2, 2, 2, 2]])
    positions = get_stream_positions(token_index, 3, torch.tensor([[5, 6, 9]]), is_anchored=True)
    assert positions.tolist() == [[5.0, 5.5, 6.0, 8.25, 8.5, 8.75, 9.0]]
    for num_streams in range(1, 130):  # exactly, whatever 1 / n is rounded to
        positions = get_stream_positions(torch.zeros(1, num_streams, dtype=torch.long), 1, torch.tensor([[31]]), True)
        assert positions[0, -1] == 31


def test_own_streams_score_one_and_copies_the_product_of_their_scores():
    fork = ThoughtbubblesFork(make_config(**ANCHORED, fork_budget=4.0), num_forks=2).eval()
    torch.nn.init.constant_(fork.keep_proj.weight, 0.0)  # so that every copy has the score 1/2
    torch.nn.init.zeros_(fork.embedding)
    streams = ThoughtbubblesStreams(torch.randn(1, 3, 24))
    once = fork(streams, 3, threshold=-9.0)
    twice = fork(once, 3, threshold=-9.0)
    assert once.log_scores.exp().tolist() == [[0.5, 1.0] * 3]
    torch.testing.assert_close(twice.log_scores.exp(), torch.tensor([[0.25, 0.5, 0.5, 1.0] * 3]))
    assert twice.token_index.tolist() == [[0] * 4 + [1] * 4 + [2] * 4]
    pruned = fork(once, 3, threshold=math.log(0.4))
    torch.testing.assert_close(pruned.log_scores.exp(), torch.tensor([[0.5, 0.5, 1.0] * 3]))


@pytest.mark.parametrize("channel", ["beside", "last", "none"])
def test_own_streams_score_one_after_every_fork(channel):
    model = build(fork_layers=[0, 2, 3], fork_score_channel=channel)
    for fork in model(draw_ids(4, 23), output_forks=True, fork_budget=2.0).forks:
        following = torch.nn.functional.pad(fork.token_index[:, 1:], (0, 1), value=-1)
        is_own = (fork.token_index != following) & (fork.token_index < 23)
        is_copy = ~is_own & (fork.token_index < 23)
        assert is_own.sum() == 4 * 23
        assert (fork.log_scores[is_own] == 0).all()
        assert (fork.log_scores[is_copy] < 0).all()
        assert is_copy.any()


@pytest.mark.parametrize("num_key_value_heads", [1, 3])
def test_the_channel_beside_multiplies_attention_weights_by_the_score(num_key_value_heads):
    sizes = {"fork_layers": [0], "num_hidden_layers": 1, "fork_budget": 2.0}
    model, captured = build(**sizes, num_key_value_heads=num_key_value_heads).model, {}
    attention = model.layers[0].self_attn
    attention.register_forward_hook(
        lambda _, args, kwargs, out: captured.update(args=args, kwargs=kwargs, out=out[0]), with_kwargs=True
    )
    model(torch.arange(1, 12)[None], use_cache=False)
    hidden_states, log_scores, gates = captured["args"]
    assert (log_scores < -0.1).any()
    places = captured["kwargs"]["position_embeddings"]
    query = attention.apply_rotary(attention.project_query(hidden_states), places, None)
    key = attention.apply_rotary(attention.project_key(hidden_states), places, None)
    value = (attention.project_value(hidden_states) * gates[..., None]).transpose(1, 2)
    key, value = (attention.repeat_groups(states, "eager") for states in (key, value))
    num_streams = hidden_states.shape[1]
    weights = (query @ key.transpose(2, 3) / math.sqrt(8)).exp() * log_scores.exp()[:, None, None, :]
    weights = weights.masked_fill(torch.ones(num_streams, num_streams).triu(1).bool(), 0.0)
    weights = weights / weights.sum(-1, keepdim=True)
    expected = attention.o_proj((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(captured["out"], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head_dim", [6, 8, 16])
def test_wide_heads_run_the_fused_causal_kernel(head_dim):
    model, input_ids = build(fork_layers=[0], head_dim=head_dim), draw_ids(2, 23)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as record, torch.no_grad():
        model(input_ids, use_cache=False, fork_budget=2.0)
    fused = [event for event in record.events() if "flash_attention_for_cpu" in event.name]
    assert len({event.name for event in fused}) >= 1
    calls = [event for event in fused if event.name == "aten::_scaled_dot_product_flash_attention_for_cpu"]
    assert len(calls) == model.config.num_hidden_layers
    widths = {event.input_shapes[i][-1] for event in calls for i in range(3)}
    assert widths == {model.config.wide_head_dim} and model.config.wide_head_dim % 8 == 0


def test_an_adapter_starts_without_effect_and_changes_copies_alone():
    torch.manual_seed(0)
    model = ThoughtbubblesForCausalLM(make_config(**ANCHORED, fork_adapter_rank=5, fork_budget=4.0)).eval()
    plain = ThoughtbubblesForCausalLM(make_config(**ANCHORED, fork_budget=4.0)).eval()
    missing, unexpected = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing and len(unexpected) == 4
    input_ids = draw_ids(2, 13)
    assert torch.equal(model(input_ids).logits, plain(input_ids).logits)
    fork, states = model.model.forks["1"], torch.randn(1, 3, 24)
    torch.nn.init.normal_(fork.adapter_up.weight)
    built = fork(ThoughtbubblesStreams(states), 3, threshold=-9.0).hidden_states
    assert torch.equal(built[:, 1::2], states)
    expected = states + fork.embedding + fork.adapter_up(fork.adapter_down(fork.norm(states)))
    torch.testing.assert_close(built[:, 0::2], expected)
    kept_all = fork.build_streams(states, fork.norm(states), None)
    torch.testing.assert_close(built, kept_all)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fork_rule": "topk"}, '`fork_anchored=True` was passed with `fork_rule="topk"`'),
        ({"fork_rule": "copy", "fork_layers": [1], "fork_budget": 2}, "`fork_anchored=True` was passed with"),
        ({"fork_score_init": (1.0, 2.0)}, r"it must be one finite logit, `\(fork_logit,\)`"),
        ({"fork_anchored": False, "fork_score_init": (1.0,)}, "it must be two finite logits"),
        ({"fork_adapter_rank": 0}, "`fork_adapter_rank` is 0; it must be at least 1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises((StrictDataclassClassValidationError, ValueError), match=message):
        make_config(**{**ANCHORED, **changes})


def test_truth_values_are_other_names_of_channels(tmp_path):
    assert make_config(fork_score_channel=True).fork_score_channel == "last"
    assert make_config(fork_score_channel=False).fork_score_channel == "none"
    ThoughtbubblesForCausalLM(make_config()).save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassClassValidationError, match="`fork_score_channel` was set to False"):
        ThoughtbubblesForCausalLM.from_pretrained(tmp_path, fork_score_channel=False)


def test_scores_start_at_their_logit():
    model = ThoughtbubblesForCausalLM(make_config(**ANCHORED, fork_score_init=(-2.0,)))
    assert model.model.forks["1"].keep_proj.bias.tolist() == [-2.0]
    assert model.model.forks["1"].keep_proj.weight.shape == model.model.forks["1"].window_weight.shape == (1, 24)
