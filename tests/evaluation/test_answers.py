# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Answers are graded as by hand, and batches do not change replies."""

import pytest
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel

from hf_thoughtbubbles import LoopedThinkerConfig, LoopedThinkerForConditionalGeneration, build_number_tokenizer
from hf_thoughtbubbles.data.numbers import load_number_dataset
from hf_thoughtbubbles.evaluation.answers import answer_questions, score_answers


END = 20


def make_thinker(**changes) -> LoopedThinkerForConditionalGeneration:
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "num_steps": 2, "num_latents": 3, "max_answer_length": 7}
    config = LoopedThinkerConfig(**{**sizes, "pad_token_id": END, "eos_token_id": END, **changes})
    return LoopedThinkerForConditionalGeneration(config).eval()


def make_gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=31, n_embd=24, n_layer=2, n_head=3, n_positions=32, bos_token_id=None, eos_token_id=END
    )
    return GPT2LMHeadModel(config).eval()


def test_shares_by_hand(monkeypatch):
    """Right, one token wrong, too short, too long: 1 of 4 answers; 3 + 2 + 1 + 2 of 10 tokens."""
    rows = {"input_ids": [[1], [2], [3], [4]], "labels": [[5, 6, 7, END], [5, 6, 7, END], [8, 9, END], [3, 4, END]]}
    replies = [[5, 6, 7], [5, 0, 7], [8], [3, 4, 1]]
    monkeypatch.setattr("hf_thoughtbubbles.evaluation.answers.answer_questions", lambda *args, **kwargs: replies)
    scores = score_answers(make_thinker(), Dataset.from_dict(rows), build_number_tokenizer())
    assert scores == {"exact_match": 0.25, "token_accuracy": 0.8}


@pytest.mark.parametrize("build", [make_thinker, make_gpt2, lambda: make_thinker(readout="parallel")])
def test_batches_of_questions_are_answered_as_each_alone(build):
    torch.manual_seed(0)
    model, tokenizer = build(), build_number_tokenizer()
    problems = load_number_dataset("arithmetic", 9, max_number=100)
    together = answer_questions(model, problems, tokenizer, batch_size=4)
    assert len(together) == 9 and len({tuple(reply) for reply in together}) > 1
    longest = max(map(len, problems["labels"]))
    for question, reply in zip(problems["input_ids"], together, strict=True):
        ids = torch.tensor([question])
        options = {"do_sample": False, "max_new_tokens": longest, "pad_token_id": END}
        alone = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        alone = alone[0, 1 if model.config.is_encoder_decoder else ids.shape[1] :].tolist()
        assert reply == (alone[: alone.index(END)] if END in alone else alone)


def test_arguments_of_generate_reach_the_model_and_training_mode_is_restored():
    torch.manual_seed(0)
    model, problems = make_thinker().train(), load_number_dataset("arithmetic", 20, max_number=100)
    replies = [answer_questions(model, problems, build_number_tokenizer(), num_steps=steps) for steps in (1, 9)]
    assert replies[0] != replies[1]
    assert model.training


def test_an_empty_dataset_is_an_error():
    with pytest.raises(ValueError, match="`dataset` is empty"):
        score_answers(make_thinker(), Dataset.from_dict({"input_ids": [], "labels": []}), build_number_tokenizer())
