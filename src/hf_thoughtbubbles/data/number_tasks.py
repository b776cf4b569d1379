# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The number tasks of ToyThinker: each asks questions, answers any question of its kind and grades replies.

Questions, answers and replies are lists of the words of [`NUMBER_TOKENS`].
"""

import inspect
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from ..tokenization.number_tokenizer import (
    BLANK_TOKEN,
    DIGIT_TOKENS,
    EVALUATE_TOKEN,
    FACTORISE_TOKEN,
    IN_BASE_TOKEN,
    OUT_BASE_TOKEN,
)
from .number_digits import (
    BASES,
    DIGIT_VALUES,
    OPERATIONS,
    decode_number,
    encode_number,
    evaluate_chain,
    factorise,
    format_factors,
    from_base,
    list_primes,
    to_base,
)


MASK_GROUP = 32  # rows whose masks are drawn together in progressive copying


def mask_progressively(rows: np.ndarray, noise: np.ndarray, target_length: float) -> np.ndarray:
    """
    Hide the first digits of rows, more of them where the noise is larger: the curriculum of progressive copying.

    Args:
        rows (`np.ndarray` of shape `(num_rows, length)`): the rows to copy.
        noise (`np.ndarray` of shape `(num_rows,)`): drawn from a normal distribution.
        target_length (`float`): digits that stay visible in a row of medium noise. At the full length all do.

    Returns:
        The rows with their first digits set to 0; the last digit always stays. Rows of equal noise stay unchanged, and
        so does a single row (the original divides by zero there).

    Raises:
        `ValueError`: when the shapes do not match.

    >>> mask_progressively(np.array([[5, 6, 1], [1, 2, 3]]), np.array([-1.0, 0.5]), target_length=2)
    array([[5, 6, 1],
           [0, 0, 3]])
    """
    rows, noise = np.asarray(rows), np.asarray(noise, dtype=float)
    if rows.ndim != 2 or noise.shape != rows.shape[:1]:
        raise ValueError(
            f"`rows` of shape {rows.shape} and `noise` of shape {noise.shape} do not match; give (num_rows, length) "
            "and (num_rows,)."
        )
    if np.ptp(noise) == 0:
        return rows.copy()
    length = rows.shape[1]
    hidden = (noise - noise.min()) / np.ptp(noise) * 2 * (length - target_length)
    num_hidden = np.clip(hidden, 0, length - 1).astype(int)
    return np.where(np.arange(length) < num_hidden[:, None], 0, rows)


def check_integer(name: str, value: int, low: int, high: int | None = None):
    """Raise for a value that is not an integer of at least `low` and at most `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        allowed = f"from {low} on" if high is None else f"from {low} to {high}"
        raise ValueError(f"`{name}` is {value!r}; it must be an integer {allowed}.")


def _as_range(value: int | tuple[int, int]) -> tuple[int, int]:
    """The lowest and the highest number of an option that is one number or a pair."""
    return (value, value) if isinstance(value, int) else value


def _as_bases(value: int | Sequence[int]) -> Sequence[int]:
    """The bases of an option that is one base or several."""
    return (value,) if isinstance(value, int) else value


def _check_range(name: str, value: int | Sequence[int], low: int) -> tuple[int, int]:
    """Return the lowest and the highest of a range, after checking both."""
    bounds = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(bounds) != 2:
        raise ValueError(f"`{name}` is {value!r}; give an integer, or a pair of the lowest and the highest.")
    for bound in bounds:
        check_integer(name, bound, low)
    if bounds[0] > bounds[1]:
        raise ValueError(f"`{name}` is {value!r}; the lowest comes first. Swap them.")
    return bounds


def _check_bases(name: str, value: int | Sequence[int]) -> tuple[int, ...]:
    """Return the bases of an option, after checking each."""
    bases = tuple(value) if isinstance(value, (tuple, list, range)) else (value,)
    if not bases:
        raise ValueError(f"`{name}` is {value!r}; give at least one base.")
    for base in bases:
        check_integer(name, base, BASES[0], BASES[-1])
    return bases


def _draw_from(rng: random.Random, value: int | tuple[int, int]) -> int:
    low, high = _as_range(value)
    return low if low == high else rng.randint(low, high)


class NumberTask(ABC):
    """
    A kind of problem. `longest_question` and `longest_answer` are upper bounds in tokens, from which a model gets its
    size; an answer counts with the `blank` that closes it.
    """

    @property
    @abstractmethod
    def longest_question(self) -> int: ...

    @property
    @abstractmethod
    def longest_answer(self) -> int: ...

    @abstractmethod
    def ask(self, rng: random.Random) -> list[str]:
        """The tokens of a random question."""

    @abstractmethod
    def answer(self, question: Sequence[str]) -> list[str]:
        """The tokens that answer any question of this kind; raises a `ValueError` for other questions."""

    def grade(self, question: Sequence[str], reply: Sequence[str]) -> bool:
        """True if the reply, up to its first `blank`, is the answer."""
        if isinstance(reply, str):
            raise ValueError(f"`reply` is the text {reply!r}; give its tokens: `reply.split()`.")
        reply = list(reply)
        end = reply.index(BLANK_TOKEN) if BLANK_TOKEN in reply else len(reply)
        return reply[:end] == self.answer(question)

    def ask_forever(self, rng: random.Random, curriculum: Any | None = None) -> Iterator[list[str]]:
        """Endless random questions; tasks that follow a curriculum read its difficulty before each one."""
        while True:
            yield self.ask(rng)


@dataclass(frozen=True)
class SequenceTask(NumberTask):
    """
    Base class of the tasks on rows: a row of digits is the question, another row the answer.

    Args:
        length (`int` or pair of `int`): digits in a row, or the fewest and the most.
        num_symbols (`int`): the digits are 0 to `num_symbols - 1`, at most 16; also the modulus of sums.
    """

    length: int | tuple[int, int] = 10
    num_symbols: int = 10

    def __post_init__(self):
        object.__setattr__(self, "length", _check_range("length", self.length, low=1))
        check_integer("num_symbols", self.num_symbols, 2, len(DIGIT_TOKENS))

    @property
    def longest_question(self) -> int:
        return _as_range(self.length)[1]

    @property
    def longest_answer(self) -> int:
        return _as_range(self.length)[1] + 1

    def ask(self, rng: random.Random, longest_length: int | None = None) -> list[str]:
        """The tokens of a random row of at most `longest_length` digits, but never fewer than `length` allows."""
        low, high = _as_range(self.length)
        if longest_length is not None:
            high = max(low, min(high, longest_length))
        return rng.choices(DIGIT_TOKENS[: self.num_symbols], k=_draw_from(rng, (low, high)))

    def ask_forever(self, rng: random.Random, curriculum: Any | None = None) -> Iterator[list[str]]:
        """Endless random rows, the longest as long as the curriculum's difficulty."""
        while True:
            yield self.ask(rng, None if curriculum is None else int(curriculum.difficulty))

    def answer(self, question: Sequence[str]) -> list[str]:
        """The tokens that answer any row of digits; raises a `ValueError` for other questions."""
        row = [DIGIT_VALUES.get(token, self.num_symbols) for token in question]
        if not row or max(row) >= self.num_symbols:
            raise ValueError(f"`question` is {question!r}; give tokens from '0' to '{self.num_symbols - 1}'.")
        return [DIGIT_TOKENS[value] for value in self.transform(row)]

    @abstractmethod
    def transform(self, row: list[int]) -> list[int]:
        """The row that answers a row."""


@dataclass(frozen=True)
class CopyTask(SequenceTask):
    """Repeat the row."""

    def transform(self, row: list[int]) -> list[int]:
        return row


@dataclass(frozen=True)
class ProgressiveCopyTask(CopyTask):
    """
    Repeat the row. With a curriculum, rows are drawn in groups of one length, and [`mask_progressively`] hides their
    first digits, at first most of them. A hidden digit is written as 0, as in the original.
    """

    def ask_forever(self, rng: random.Random, curriculum: Any | None = None) -> Iterator[list[str]]:
        """Endless random rows; the curriculum's difficulty is the number of visible digits of a medium row."""
        while True:
            length = _draw_from(rng, self.length)
            rows = np.array([rng.choices(range(self.num_symbols), k=length) for _ in range(MASK_GROUP)])
            noise = np.array([rng.gauss(0, 1) for _ in range(MASK_GROUP)])
            target_length = length if curriculum is None else float(curriculum.difficulty)
            for row in mask_progressively(rows, noise, target_length).tolist():
                yield [DIGIT_TOKENS[value] for value in row]


@dataclass(frozen=True)
class SortTask(SequenceTask):
    """Sort the row, smallest digit first."""

    def transform(self, row: list[int]) -> list[int]:
        return sorted(row)


@dataclass(frozen=True)
class FlipTask(SequenceTask):
    """Write the row backwards."""

    def transform(self, row: list[int]) -> list[int]:
        return row[::-1]


@dataclass(frozen=True)
class RollTask(SequenceTask):
    """Rotate the row to the right by its first digit."""

    def transform(self, row: list[int]) -> list[int]:
        shift = row[0] % len(row)
        return row[-shift:] + row[:-shift] if shift else row


@dataclass(frozen=True)
class RollByNumberTask(SequenceTask):
    """Add the first digit to every digit, modulo `num_symbols` (the original's `roll_num`, which raises an error)."""

    def transform(self, row: list[int]) -> list[int]:
        return [(value + row[0]) % self.num_symbols for value in row]


@dataclass(frozen=True)
class CumulativeSumTask(SequenceTask):
    """Write the sums of the digits so far, modulo `num_symbols`."""

    def transform(self, row: list[int]) -> list[int]:
        return [total % self.num_symbols for total in accumulate(row)]


def _frame(expression: list[str], kind: str, input_base: int, output_base: int) -> list[str]:
    return [DIGIT_TOKENS[input_base], IN_BASE_TOKEN, *expression, kind, OUT_BASE_TOKEN, DIGIT_TOKENS[output_base]]


def _unframe(question: Sequence[str], kind: str) -> tuple[list[str], int, int]:
    """The expression of a question, its base, and the base of the answer."""
    question = list(question)
    marks = [IN_BASE_TOKEN, kind, OUT_BASE_TOKEN]
    if len(question) < 6 or question[1:2] + question[-3:-1] != marks:
        frame = f"base {IN_BASE_TOKEN} ... {kind} {OUT_BASE_TOKEN} base"
        raise ValueError(f"`question` is {question}; a question of this task reads `{frame}`.")
    bases = DIGIT_VALUES.get(question[0], 0), DIGIT_VALUES.get(question[-1], 0)
    if bases[0] not in BASES or bases[1] not in BASES:
        raise ValueError(f"`question` is {question}; it must begin and end with a base, {BASES[0]} to {BASES[-1]}.")
    return question[2:-3], *bases


@dataclass(frozen=True)
class ArithmeticTask(NumberTask):
    """
    Evaluate a chain of numbers strictly from left to right. Question and answer each have a base. A question is
    `base @ 1 2 * 5 - 3 :addmul @= base`; with one term it is a change of base.

    Args:
        operators (`str` or sequence of `str`): drawn from these, any of `+-*/`; `/` rounds down.
        num_terms (`int` or pair of `int`): numbers in a chain, or the fewest and the most.
        min_number (`int`): smallest number of a chain.
        max_number (`int`): one more than the largest number of a chain.
        input_bases (`int` or sequence of `int`): base of the question, from 2 to 16, drawn from these.
        output_bases (`int` or sequence of `int`): base of the answer, drawn independently.
        even_lengths (`bool`): draw the number of digits first and the value second, so that short numbers are as
            frequent as long ones. For training; needs `min_number` of at least 0.
    """

    operators: str | Sequence[str] = "+"
    num_terms: int | tuple[int, int] = 2
    min_number: int = 0
    max_number: int = 1000
    input_bases: int | Sequence[int] = 10
    output_bases: int | Sequence[int] = 10
    even_lengths: bool = False

    def __post_init__(self):
        operators = tuple(self.operators) if isinstance(self.operators, Sequence) else ()
        if not operators or any(symbol not in OPERATIONS for symbol in operators):
            raise ValueError(f"`operators` is {self.operators!r}; give at least one, each of {list(OPERATIONS)}.")
        object.__setattr__(self, "operators", operators)
        object.__setattr__(self, "num_terms", _check_range("num_terms", self.num_terms, low=1))
        object.__setattr__(self, "input_bases", _check_bases("input_bases", self.input_bases))
        object.__setattr__(self, "output_bases", _check_bases("output_bases", self.output_bases))
        if not isinstance(self.min_number, int):
            raise ValueError(f"`min_number` is {self.min_number!r}; it must be an integer.")
        check_integer("max_number", self.max_number, self.min_number + 1)
        if "/" in self.operators and self.min_number <= 0 < self.max_number:
            raise ValueError(
                f"`operators` holds '/' and numbers from `min_number` {self.min_number} to below `max_number` "
                f"{self.max_number} include 0, so a question could divide by zero. Set `min_number=1`."
            )
        if self.even_lengths and self.min_number < 0:
            raise ValueError(
                f"`even_lengths` draws lengths of numbers of at least 0, but `min_number` is {self.min_number}. Raise "
                "it, or remove `even_lengths`."
            )

    @property
    def longest_question(self) -> int:
        base, most_terms = min(_as_bases(self.input_bases)), _as_range(self.num_terms)[1]
        longest_number = max(len(encode_number(number, base)) for number in (self.min_number, self.max_number - 1))
        return len(_frame([], EVALUATE_TOKEN, base, base)) + most_terms * (longest_number + 1) - 1

    @property
    def longest_answer(self) -> int:
        # Each operator is monotone in either argument, so extremes come from extremes.
        extremes = (self.min_number, self.max_number - 1)
        values, (low, high) = extremes, extremes
        for _ in range(_as_range(self.num_terms)[1] - 1):
            found = [OPERATIONS[op](value, number) for op in self.operators for value in values for number in extremes]
            values = min(found), max(found)
            low, high = min(low, values[0]), max(high, values[1])
        return max(len(encode_number(number, min(_as_bases(self.output_bases)))) for number in (low, high)) + 1

    def ask(self, rng: random.Random) -> list[str]:
        """The tokens of a random chain."""
        base = rng.choice(_as_bases(self.input_bases))
        expression = list(encode_number(self._draw_number(rng, base), base))
        for _ in range(_draw_from(rng, self.num_terms) - 1):
            expression.append(rng.choice(self.operators))
            expression += encode_number(self._draw_number(rng, base), base)
        return _frame(expression, EVALUATE_TOKEN, base, rng.choice(_as_bases(self.output_bases)))

    def _draw_number(self, rng: random.Random, base: int) -> int:
        low, high = self.min_number, self.max_number
        if self.even_lengths:
            num_digits = rng.randint(len(encode_number(low, base)), len(encode_number(high - 1, base)))
            low = max(low, base ** (num_digits - 1) if num_digits > 1 else 0)
            high = min(high, base**num_digits)
        return rng.randrange(low, high)

    def answer(self, question: Sequence[str]) -> list[str]:
        """The tokens of the value of any chain; raises a `ValueError` for other questions and division by zero."""
        expression, input_base, output_base = _unframe(question, EVALUATE_TOKEN)
        numbers, operators, start = [], [], 0
        for index, token in enumerate(expression):
            if token in OPERATIONS:
                numbers.append(decode_number(tuple(expression[start:index]), input_base))
                operators.append(token)
                start = index + 1
        numbers.append(decode_number(tuple(expression[start:]), input_base))
        return to_base(evaluate_chain(numbers, operators), output_base)


@dataclass(frozen=True)
class FactorisationTask(NumberTask):
    """
    Factorise a product of primes. A question is `base @ 0 0 1 :fact @= base`, its answer `2 ^ 2 * 5 ^ 2`.

    Args:
        max_prime (`int`): factors are drawn from all primes up to this one.
        num_factors (`int` or pair of `int`): factors of a product, or the fewest and the most.
        input_bases (`int` or sequence of `int`): base of the question, from 2 to 16, drawn from these.
        output_bases (`int` or sequence of `int`): base of the answer, drawn independently.
    """

    max_prime: int = 50
    num_factors: int | tuple[int, int] = (2, 3)
    input_bases: int | Sequence[int] = 10
    output_bases: int | Sequence[int] = 10

    def __post_init__(self):
        check_integer("max_prime", self.max_prime, 2)
        object.__setattr__(self, "num_factors", _check_range("num_factors", self.num_factors, low=1))
        object.__setattr__(self, "input_bases", _check_bases("input_bases", self.input_bases))
        object.__setattr__(self, "output_bases", _check_bases("output_bases", self.output_bases))

    @property
    def longest_question(self) -> int:
        base, most_factors = min(_as_bases(self.input_bases)), _as_range(self.num_factors)[1]
        product = list_primes(self.max_prime)[-1] ** most_factors
        return len(_frame([], FACTORISE_TOKEN, base, base)) + len(encode_number(product, base))

    @property
    def longest_answer(self) -> int:
        # A power is never longer than its factors written out.
        longest_prime = len(encode_number(list_primes(self.max_prime)[-1], min(_as_bases(self.output_bases))))
        return _as_range(self.num_factors)[1] * (longest_prime + 1)

    def ask(self, rng: random.Random) -> list[str]:
        """The tokens of a random product."""
        primes: tuple[int, ...] = list_primes(self.max_prime)
        factors = rng.choices(primes, k=_draw_from(rng, self.num_factors))
        base = rng.choice(_as_bases(self.input_bases))
        expression = list(encode_number(math.prod(factors), base))
        return _frame(expression, FACTORISE_TOKEN, base, rng.choice(_as_bases(self.output_bases)))

    def answer(self, question: Sequence[str]) -> list[str]:
        """The tokens of the factors of any product; raises a `ValueError` for other questions."""
        expression, input_base, output_base = _unframe(question, FACTORISE_TOKEN)
        return format_factors(factorise(from_base(expression, input_base)), output_base)


TASKS: dict[str, type[NumberTask]] = {
    "copy": CopyTask,
    "progressive_copy": ProgressiveCopyTask,
    "sort": SortTask,
    "flip": FlipTask,
    "roll": RollTask,
    "roll_by_number": RollByNumberTask,
    "cumulative_sum": CumulativeSumTask,
    "arithmetic": ArithmeticTask,
    "factorisation": FactorisationTask,
}


def make_task(name: str, **options: Any) -> NumberTask:
    """
    Build the task of a name in `TASKS`, with the options of its class.

    Raises:
        `ValueError`: for an unknown task, an unknown option, or a value that an option does not allow.

    >>> make_task("roll", length=5).answer("3 1 4 1 5".split())
    ['4', '1', '5', '3', '1']
    """
    if name not in TASKS:
        raise ValueError(f"Task {name!r} is unknown; the tasks are {list(TASKS)}.")
    known = list(inspect.signature(TASKS[name]).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"Task {name!r} has no options {unknown}; its options are {known}.")
    return TASKS[name](**options)


__all__ = [
    "TASKS",
    "ArithmeticTask",
    "CopyTask",
    "CumulativeSumTask",
    "FactorisationTask",
    "FlipTask",
    "NumberTask",
    "ProgressiveCopyTask",
    "RollByNumberTask",
    "RollTask",
    "SequenceTask",
    "SortTask",
    "check_integer",
    "make_task",
    "mask_progressively",
]
