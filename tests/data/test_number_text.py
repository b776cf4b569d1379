# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Questions and answers of the number tasks as text."""

import json
import random

import pytest

from hf_thoughtbubbles.data.number_tasks import TASKS, make_task
from hf_thoughtbubbles.data.number_text import choose_base, describe_task, list_surprises, read_question, write_answer


HEXADECIMAL = make_task("arithmetic", operators="+-", input_bases=16, output_bases=16)


@pytest.mark.parametrize(
    ("text", "tokens", "answer"),
    [
        ("123 + 456", "16 @ 11 7 + 8 12 1 :addmul @= 16", "579"),
        ("123+456 = ?", "16 @ 11 7 + 8 12 1 :addmul @= 16", "579"),
        ("1-5", "16 @ 1 - 5 :addmul @= 16", "-4"),
        ("-3 - -4", "16 @ ! 3 - ! 4 :addmul @= 16", "1"),
        ("2 \u00d7 3 \u00f7 4", "16 @ 2 * 3 / 4 :addmul @= 16", "1"),
        ("17", "16 @ 1 1 :addmul @= 16", "17"),
    ],
)
def test_chains_are_read_and_answers_are_decimal(text, tokens, answer):
    question = read_question(text, HEXADECIMAL)
    assert question == tokens.split()
    assert write_answer(HEXADECIMAL.answer(question), HEXADECIMAL) == answer


def test_products_and_rows_are_read():
    factors, rows = make_task("factorisation"), make_task("sort")
    for text in ("60", "factorise 60", "Factors of 60?"):
        question = read_question(text, factors)
        assert write_answer(factors.answer(question), factors) == "2^2 * 3 * 5"
    assert write_answer(rows.answer(read_question("3 1 2", rows)), rows) == "1 2 3"


@pytest.mark.parametrize(
    ("text", "name", "error"),
    [
        ("what is 3", "arithmetic", r"knows whole numbers and the operators \+ - \* /"),
        ("1 +", "arithmetic", "is no question"),
        ("1.5 + 2", "arithmetic", "is no question"),
        ("", "arithmetic", "is no question"),
        ("1", "factorisation", "of at least 2"),
        ("3 11", "sort", "digits from 0 to 9"),
    ],
)
def test_other_texts_are_refused_with_what_the_task_knows(text, name, error):
    with pytest.raises(ValueError, match=error):
        read_question(text, make_task(name))


@pytest.mark.parametrize("tokens", [[], ["+"], ["3", "!"], ["16"]])
def test_a_reply_that_is_no_number_has_no_text(tokens):
    assert write_answer(tokens, HEXADECIMAL) is None


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_built_again_from_its_description_in_json(name):
    task = make_task(name)
    again = make_task(**json.loads(json.dumps(describe_task(task))))
    assert [again.ask(random.Random(seed)) for seed in range(5)] == [
        task.ask(random.Random(seed)) for seed in range(5)
    ]
    assert describe_task(again) == describe_task(task)


def test_base_10_is_chosen_where_a_task_has_it():
    assert (choose_base(16), choose_base([2, 10]), choose_base([3, 7])) == (16, 10, 3)


def test_what_training_did_not_have_is_listed():
    assert list_surprises(read_question("1 + 2", HEXADECIMAL), HEXADECIMAL) == []
    (long,) = list_surprises(read_question("123456789 + 1234567", HEXADECIMAL), HEXADECIMAL)
    assert long == "19 tokens, where training had at most 12"
    (operators,) = list_surprises(read_question("1 * 2", HEXADECIMAL), HEXADECIMAL)
    assert operators == "the operators ['*'], where training had ['+', '-']"
