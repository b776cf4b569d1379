# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Questions and answers of the number tasks as people write them: `123 + 456`, `factorise 60`, `3 1 2`."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from ..tokenization.number_tokenizer import (
    DIGIT_TOKENS,
    EVALUATE_TOKEN,
    FACTORISE_TOKEN,
    IN_BASE_TOKEN,
    OUT_BASE_TOKEN,
    POWER_TOKEN,
)
from .number_digits import DIGIT_VALUES, OPERATIONS, from_base, to_base
from .number_tasks import TASKS, ArithmeticTask, FactorisationTask, NumberTask, SequenceTask


# The signs of multiplication, division and subtraction in print.
SIGNS = str.maketrans({"\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-", ",": " "})
END = re.compile(r"\s*(=\s*)?\??\s*$")
CHAIN = re.compile(r"\s*-?\d+(\s*[-+*/]\s*-?\d+)*")
TERM = re.compile(r"\s*([-+*/]?)\s*(-?\d+)")
ORDER = re.compile(r"\s*(?:factori[sz]e|factors of|factor)?\s*(\d+)", re.IGNORECASE)


def describe_task(task: NumberTask) -> dict[str, Any]:
    """
    The name and the options of a task, from which `make_task(**description)` builds it again. They fit into JSON.

    >>> from hf_thoughtbubbles.data.number_tasks import make_task
    >>> describe_task(make_task("sort", length=5))
    {'name': 'sort', 'length': [5, 5], 'num_symbols': 10}
    """
    name = next(name for name, task_class in TASKS.items() if type(task) is task_class)
    options = {
        key: list(value) if isinstance(value, tuple) else value for key, value in asdict(cast(Any, task)).items()
    }
    return {"name": name, **options}


def choose_base(bases: int | Sequence[int]) -> int:
    """Base 10 if the task has it, else its first."""
    several = (bases,) if isinstance(bases, int) else tuple(bases)
    return 10 if 10 in several else several[0]


def read_question(text: str, task: NumberTask) -> list[str]:
    """
    Translate a question as a person writes it into the tokens of a task.

    Args:
        text (`str`): a chain as `123 + 456` for arithmetic, with `+`, `-`, `*` and `/`, or the signs of print; `60` or
            `factorise 60` for factorisation; digits as `3 1 2` for tasks on rows. A last `=` or `?` is ignored.
        task (`NumberTask`): its bases are used, base 10 if it is among them.

    Returns:
        `list[str]`: words of [`NUMBER_TOKENS`], as `task.ask` returns them.

    Raises:
        `ValueError`: for a text that is no question of the task; it says what the task knows.

    >>> from hf_thoughtbubbles.data.number_tasks import make_task
    >>> read_question("123 + 456 =", make_task("arithmetic", input_bases=16, output_bases=16))
    ['16', '@', '11', '7', '+', '8', '12', '1', ':addmul', '@=', '16']
    """
    plain = END.sub("", text.translate(SIGNS))
    if isinstance(task, SequenceTask):
        words = plain.split()
        if not words or any(word not in DIGIT_TOKENS[: task.num_symbols] for word in words):
            known = f"digits from 0 to {task.num_symbols - 1} with spaces between them, as `3 1 2`"
            raise ValueError(f"{text!r} is no question of this task, which knows {known}.")
        return words
    if isinstance(task, FactorisationTask):
        match, known = ORDER.fullmatch(plain), "one whole number of at least 2, as `60` or `factorise 60`"
        if match is None or int(match[1]) < 2:
            raise ValueError(f"{text!r} is no question of this task, which knows {known}.")
        expression, kind = to_base(int(match[1]), choose_base(task.input_bases)), FACTORISE_TOKEN
    elif isinstance(task, ArithmeticTask):
        if CHAIN.fullmatch(plain) is None:
            known = f"whole numbers and the operators {' '.join(OPERATIONS)}, as `123 + 456`"
            raise ValueError(f"{text!r} is no question of this task, which knows {known}.")
        expression, kind = [], EVALUATE_TOKEN
        for symbol, number in _split_chain(plain):
            expression += [*symbol, *to_base(number, choose_base(task.input_bases))]
    else:
        raise ValueError(f"`task` is a {type(task).__name__}, whose questions have no form in text. Use one of TASKS.")
    bases = [DIGIT_TOKENS[choose_base(one)] for one in (task.input_bases, task.output_bases)]
    return [bases[0], IN_BASE_TOKEN, *expression, kind, OUT_BASE_TOKEN, bases[1]]


def _split_chain(plain: str) -> list[tuple[str, int]]:
    """The terms of a chain, each with the operator before it; the first has none."""
    first = re.match(r"\s*(-?\d+)", plain)
    assert first is not None  # the chain was matched
    rest = TERM.findall(plain[first.end() :])
    return [("", int(first[1])), *((symbol, int(number)) for symbol, number in rest)]


def write_answer(tokens: Sequence[str], task: NumberTask) -> str | None:
    """
    Translate an answer of a task into text: a decimal number, a product as `2^2 * 3 * 5`, or digits.

    Args:
        tokens (`Sequence[str]`): words of [`NUMBER_TOKENS`], without the end.
        task (`NumberTask`): the task of the question.

    Returns:
        `str`, or `None` for tokens that are no number of the task's base.

    >>> from hf_thoughtbubbles.data.number_tasks import make_task
    >>> write_answer(["3", "4", "2"], make_task("arithmetic", output_bases=16))
    '579'
    """
    if isinstance(task, SequenceTask):
        return " ".join(tokens) if tokens and all(token in DIGIT_VALUES for token in tokens) else None
    assert isinstance(task, (ArithmeticTask, FactorisationTask))
    base = choose_base(task.output_bases)
    try:
        if isinstance(task, ArithmeticTask):
            return str(from_base(tokens, base))
        powers = [_split(power, POWER_TOKEN) for power in _split(tokens, "*")]
        return " * ".join("^".join(str(from_base(number, base)) for number in power) for power in powers)
    except ValueError:
        return None


def _split(tokens: Sequence[str], mark: str) -> list[list[str]]:
    """The parts of tokens between the marks."""
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token == mark:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def list_surprises(question: Sequence[str], task: NumberTask) -> list[str]:
    """What a question of a task has that no question of its training has, each as a clause; empty for nothing."""
    found = []
    if len(question) > task.longest_question:
        found.append(f"{len(question)} tokens, where training had at most {task.longest_question}")
    if isinstance(task, ArithmeticTask):
        unknown = sorted({token for token in question[2:-3] if token in OPERATIONS} - set(task.operators))
        if unknown:
            found.append(f"the operators {unknown}, where training had {list(task.operators)}")
    return found


__all__ = ["choose_base", "describe_task", "list_surprises", "read_question", "write_answer"]
