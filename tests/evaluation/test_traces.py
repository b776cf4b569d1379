# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Traces of forks and steps are what the model computes, for each family that forks or loops."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from hf_thoughtbubbles import fork_native, loop_native
from hf_thoughtbubbles.evaluation.traces import StepTrace, summarize_forks, trace_forks, trace_steps
from hf_thoughtbubbles.modeling.thoughtbubbles.forking import ThoughtbubblesForkOutput
from tests.families import ANSWERERS, FAMILIES, draw_ids, make_config


FAMILY_BY_NAME = {family.name: family for family in (*FAMILIES, *ANSWERERS)}
# Each rule, layers as those of native decoders, and a row without the own stream of a token.
FORKING = ["thoughtbubbles", "threshold", "copy", "native"]
# Latents alone, layers after the loop, early exit; an answer token by token, and at once.
LOOPING = ["thinker", "thinker-loop", "thinker-exit"]
ANSWERING = ["kept-autoregressive", "window-parallel"]


def make_llama() -> LlamaForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 23, "num_hidden_layers": 3, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=61, max_position_embeddings=37, **sizes)).eval()


def test_streams_and_mean_scores_are_counted_by_hand():
    fork = ThoughtbubblesForkOutput(
        token_index=torch.tensor([[0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 3, 3]]),
        log_scores=torch.tensor([[0.5, 1.0, 0.25, 0.0, 0.2, 0.6], [1.0, 0.5, 0.1, 0.9, 0.0, 0.0]]).log(),
        num_streams=torch.tensor([[2, 1, 2], [1, 2, 1]]),
    )
    num_streams, scores = summarize_forks([fork], num_tokens=3)
    assert num_streams.tolist() == [[[2, 1, 2]], [[1, 2, 1]]]
    torch.testing.assert_close(scores, torch.tensor([[[0.75, 0.25, 0.4]], [[1.0, 0.3, 0.9]]]))


@pytest.mark.parametrize("name", FORKING)
def test_the_trace_of_forks_is_that_of_the_model_and_of_a_row_alone(name):
    family = FAMILY_BY_NAME[name]
    model = family.build()
    batch = family.pad([draw_ids(11), draw_ids(7)], "right")
    model.train()
    trace = trace_forks(model, **batch)
    assert model.training and not trace.scores.requires_grad and not trace.entropies.requires_grad
    outputs = model.eval()(**batch, output_forks=True)
    assert trace.fork_layers == list(model.config.fork_layers)
    assert torch.equal(trace.num_streams, torch.stack([fork.num_streams for fork in outputs.forks], dim=1))
    assert torch.equal(trace.token_mask, batch["attention_mask"].bool())
    is_padding = ~trace.token_mask[:, None].expand_as(trace.scores)
    assert not trace.num_streams[is_padding].any() and not trace.scores[is_padding].any()
    assert ((trace.scores >= 0) & (trace.scores <= 1)).all()
    expected = torch.distributions.Categorical(logits=outputs.logits.detach()).entropy()
    torch.testing.assert_close(trace.entropies, expected, atol=1e-5, rtol=1e-4)
    if family.is_causal:
        alone = trace_forks(model, batch["input_ids"][1:, :7])
        assert torch.equal(alone.num_streams[0], trace.num_streams[1, :, :7])
        torch.testing.assert_close(alone.scores[0], trace.scores[1, :, :7], atol=1e-5, rtol=1e-4)


def test_depths_count_the_layers_after_which_a_token_has_more_streams():
    model = FAMILY_BY_NAME["threshold"].build()
    trace = trace_forks(model, draw_ids(2, 9), fork_budget=4.0)
    assert torch.equal(trace.num_streams, torch.tensor([2, 4])[None, :, None].expand(2, 2, 9))
    assert torch.equal(trace.depths, torch.full((2, 9), 2))
    assert not trace_forks(model, draw_ids(2, 9), fork_budget=1.0).depths.any()


@pytest.mark.parametrize("name", LOOPING)
def test_each_step_of_a_text_predicts_what_the_model_with_fewer_steps_predicts(name):
    family = FAMILY_BY_NAME[name]
    model = family.build(exit_threshold=None)
    batch = family.pad([draw_ids(11), draw_ids(7)], "left")
    model.train()
    trace = trace_steps(model, **batch, num_steps=4)
    assert model.training and not trace.logits.requires_grad
    model.eval()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[1, 4] = -100  # padding predicts no first token
    for step in range(4):
        outputs = model(**batch, labels=labels, num_steps=step + 1)
        torch.testing.assert_close(trace.logits[:, step], outputs.logits, atol=1e-5, rtol=1e-4)
        assert trace.step_losses[step].item() == pytest.approx(outputs.loss.item(), rel=1e-5)
    assert torch.equal(trace.targets[:, :-1], labels[:, 1:]) and (trace.targets[:, -1] == -100).all()
    assert trace.latents.shape == (2, 4, 11, 24)


@pytest.mark.parametrize("name", ANSWERING)
def test_each_step_of_a_problem_answers_as_the_model_with_fewer_steps(name):
    model, problem = FAMILY_BY_NAME[name].build(), {"input_ids": draw_ids(2, 9)}
    trace = trace_steps(model, **problem, num_steps=3, num_latents=6)
    answers = model.generate(**problem, do_sample=False, num_steps=3, num_latents=6)[:, 1:]
    is_answer = trace.targets != -100
    assert torch.equal(trace.targets[is_answer], answers[is_answer]), "by default the model's own answer"
    assert torch.equal(trace.predictions[:, -1][is_answer], answers[is_answer])
    labels = draw_ids(2, 5)
    trace = trace_steps(model, **problem, labels=labels, num_steps=3)
    model.config.num_kept_outputs = 1
    losses = [model(**problem, labels=labels, num_steps=step).loss.item() for step in (1, 2, 3)]
    assert trace.step_losses.tolist() == pytest.approx(losses, rel=1e-5)


def test_an_answer_is_scored_up_to_its_end():
    model = FAMILY_BY_NAME["kept-autoregressive"].build()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[60] = 1.0  # the end token, or the first id at equal logits
    targets = trace_steps(model, draw_ids(3, 9)).targets
    ends = (targets == 60).int().argmax(-1)
    for row, end in zip(targets.tolist(), ends.tolist(), strict=True):
        assert 60 not in row or (-100 not in row[: end + 1] and set(row[end + 1 :]) <= {-100})


def test_losses_probabilities_and_predictions_are_those_of_the_logits():
    logits = torch.tensor([[[[0.25, 0.75], [0.5, 0.5]], [[0.9, 0.1], [0.2, 0.8]]]]).log()
    trace = StepTrace(logits, torch.tensor([[1, -100]]), torch.zeros(1, 2, 1, 1))
    assert trace.predictions[0].tolist() == [[1, 0], [0, 1]]
    torch.testing.assert_close(trace.probs[0], torch.tensor([[0.75, 0.5], [0.9, 0.8]]))
    torch.testing.assert_close(trace.losses[0], torch.tensor([[-math.log(0.75), 0.0], [-math.log(0.1), 0.0]]))
    torch.testing.assert_close(trace.step_losses, torch.tensor([-math.log(0.75), -math.log(0.1)]))


def test_converted_models_and_adapters_are_traced():
    native, ids = make_llama(), draw_ids(2, 9)
    forked = fork_native(native, fork_layers=[1], fork_budget=2.0)
    assert (trace_forks(forked, ids).num_streams == 2).all()
    adapted = get_peft_model(forked, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert torch.equal(trace_forks(adapted, ids).num_streams, trace_forks(forked, ids).num_streams)
    trace = trace_steps(loop_native(native, loop_layers=(1, 1)), ids, num_steps=3)
    torch.testing.assert_close(trace.logits[:, 0], native(ids).logits.detach(), atol=1e-5, rtol=1e-4)


def test_models_without_forks_and_without_steps_are_refused_by_name():
    ids = draw_ids(1, 5)
    for name in ("generic", "thinker", "gpt-rope"):
        with pytest.raises(ValueError, match="without fork layers, so there are no forks to read"):
            trace_forks(FAMILY_BY_NAME[name].build(), ids)
    for model in (FAMILY_BY_NAME["threshold"].build(), make_llama()):
        with pytest.raises(ValueError, match=f"`{type(model).__name__}`, which does not loop"):
            trace_steps(model, ids)
    classifier = AutoModelForSequenceClassification.from_config(make_config())
    with pytest.raises(ValueError, match="`output_forks=True` was passed, but the output of this head"):
        trace_forks(classifier, ids)
    assert classifier.training
    with pytest.raises(ValueError, match="returns no forks and logits"):
        trace_forks(FAMILY_BY_NAME["threshold"].build().model, ids)
    with pytest.raises(ValueError, match="returns no logits of steps"):
        trace_steps(FAMILY_BY_NAME["thinker"].build().model, ids)
