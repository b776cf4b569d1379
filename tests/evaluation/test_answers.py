# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Answers are graded as by hand, and batches do not change replies."""

import pytest
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel

from hf_thoughtbubbles import LoopedThinkerConfig, LoopedThinkerForConditionalGeneration, build_number_tokenizer
from hf_thoughtbubbles.cli import ask
from hf_thoughtbubbles.data.collation import ThinkingCollator
from hf_thoughtbubbles.data.number_tasks import make_task
from hf_thoughtbubbles.data.number_text import describe_task
from hf_thoughtbubbles.data.numbers import load_number_dataset
from hf_thoughtbubbles.evaluation.answers import NumberReply, answer_questions, ask_numbers, score_answers


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


# In decimal numbers

TASK = make_task("arithmetic", max_number=100, input_bases=16, output_bases=16)


@pytest.fixture(scope="module")
def calculator():
    """A Thinker that learnt four sums in base 16 by heart."""
    torch.manual_seed(0)
    model, tokenizer = make_thinker(number_task=describe_task(TASK), num_steps=2).train(), build_number_tokenizer()
    problems = load_number_dataset(TASK, 4)
    batch = ThinkingCollator(tokenizer)([{key: row[key] for key in ("input_ids", "labels")} for row in problems])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert score_answers(model, problems, tokenizer)["exact_match"] == 1.0
    return model.eval(), [
        tuple(sum(int(digit) * 16**i for i, digit in enumerate(term.split())) for term in text[5:-13].split(" + "))
        for text in problems["question"]
    ]


def test_a_model_is_asked_in_decimal_numbers(calculator):
    model, pairs = calculator
    replies = ask_numbers(model, [f"{a} + {b} =" for a, b in pairs])
    assert [reply.reply for reply in replies] == [str(a + b) for a, b in pairs]
    assert all(reply.is_right for reply in replies)
    assert str(replies[0]) == "{} + {} = -> {} (right)".format(*pairs[0], sum(pairs[0]))


def test_a_wrong_reply_stands_beside_the_answer(calculator):
    (reply,) = ask_numbers(calculator[0], "54321 + 54321")
    assert not reply.is_right and reply.answer == "108642" and str(reply).endswith("(wrong, it is 108642)")
    assert str(NumberReply("1 + 1", None, "2")) == "1 + 1 -> no number (wrong, it is 2)"


def test_what_is_unlike_training_is_a_warning(calculator, caplog):
    ask_numbers(calculator[0], ["1 * 2", "12345678 + 1"], num_steps=5)
    assert "'1 * 2' has the operators ['*'], where training had ['+']" in caplog.text
    assert "tokens, where training had at most" in caplog.text
    assert "`num_steps=5` was passed, but the model has `num_steps=2`" in caplog.text
    caplog.clear()
    ask_numbers(calculator[0], "1 + 2", num_steps=4)
    assert not caplog.text


def test_questions_that_cannot_be_asked_are_errors(calculator):
    with pytest.raises(ValueError, match="is no question of this task, which knows whole numbers"):
        ask_numbers(calculator[0], ["1 + 2", "how much is it"])
    with pytest.raises(ValueError, match="divide by zero"):
        ask_numbers(calculator[0], "1 / 0")
    with pytest.raises(ValueError, match="`questions` is empty"):
        ask_numbers(calculator[0], [])
    with pytest.raises(ValueError, match=r"`model\.config\.number_task` is None"):
        ask_numbers(make_thinker(), "1 + 2")
    assert len(ask_numbers(make_thinker(), "1 + 2", task=TASK)) == 1


def test_the_command_asks_a_saved_model(calculator, tmp_path, capsys):
    model, pairs = calculator
    model.save_pretrained(tmp_path)
    ask.main([str(tmp_path), "{} + {}".format(*pairs[0]), "54321 + 54321", "--num-steps", "2"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("(right)") and "wrong, it is 108642" in second
    with pytest.raises(SystemExit, match="2"):
        ask.main([str(tmp_path), "how much is it"])
    assert "is no question of this task" in capsys.readouterr().err
