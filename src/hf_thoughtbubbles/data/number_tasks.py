# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Which problems about numbers are there to train on, and what solves them?

A task asks a question, answers any question of its kind and grades a reply; all three are lists of the words of
[`NUMBER_TOKENS`]. Numbers are exact and written least significant digit first, `!` before a negative one. The tasks
are those of the original ToyThinker.
"""

import math
import operator
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from hashlib import blake2b
from itertools import accumulate
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from datasets.iterable_dataset import ExamplesIterable

from ..tokenization.number_tokenizer import (
    BLANK_TOKEN,
    DIGIT_TOKENS,
    EVALUATE_TOKEN,
    FACTORISE_TOKEN,
    IN_BASE_TOKEN,
    NEGATIVE_TOKEN,
    NUMBER_TOKENS,
    OUT_BASE_TOKEN,
    POWER_TOKEN,
)


TOKEN_IDS = {token: token_id for token_id, token in enumerate(NUMBER_TOKENS)}
DIGIT_VALUES = {token: value for value, token in enumerate(DIGIT_TOKENS)}
BASES = range(2, 17)
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
SPLITS = ("train", "test")
CACHED_NUMBERS = 1 << 15
MASK_GROUP = 32  # rows whose masks are drawn together in progressive copying
HASH_BYTES = 8
PATIENCE = 100  # draws expected to hit a split of many problems this often give up on one they never hit
REPEATS_PER_PROBLEM = 10


def _check_base(base: int):
    if base not in BASES:
        raise ValueError(f"`base` is {base!r}; it must be an integer from {BASES[0]} to {BASES[-1]}.")


@lru_cache(maxsize=CACHED_NUMBERS)
def _encode(number: int, base: int) -> tuple[str, ...]:
    _check_base(base)
    digits, rest = [], abs(number)
    while rest or not digits:
        rest, digit = divmod(rest, base)
        digits.append(DIGIT_TOKENS[digit])
    return (NEGATIVE_TOKEN, *digits) if number < 0 else tuple(digits)


@lru_cache(maxsize=CACHED_NUMBERS)
def _decode(tokens: tuple[str, ...], base: int) -> int:
    _check_base(base)
    is_negative = tokens[:1] == (NEGATIVE_TOKEN,)
    digits = [DIGIT_VALUES.get(token, base) for token in tokens[is_negative:]]
    if not digits or max(digits) >= base:
        raise ValueError(
            f"`tokens` {list(tokens)} are no number in base {base}; give digits from 0 to {base - 1}, least "
            f"significant first, after one {NEGATIVE_TOKEN!r} if negative."
        )
    number = 0
    for digit in reversed(digits):
        number = number * base + digit
    return -number if is_negative else number


def to_base(number: int, base: int) -> list[str]:
    """
    The digits of an integer, least significant first, `"!"` before those of a negative one.

    Raises:
        `ValueError`: for a base outside 2 to 16.

    >>> to_base(-312, 16)
    ['!', '8', '3', '1']
    """
    return list(_encode(operator.index(number), base))


def from_base(tokens: Sequence[str], base: int) -> int:
    """
    The integer that [`to_base`] wrote; zeros after the last digit change nothing.

    Raises:
        `ValueError`: for a base outside 2 to 16 or tokens that are no number in it.

    >>> from_base(["!", "8", "3", "1"], 16)
    -312
    """
    return _decode(tuple(tokens), base)


def evaluate_chain(numbers: Sequence[int], operators: Sequence[str]) -> int:
    """
    The value of `numbers[0] operators[0] numbers[1] ...`, strictly from left to right, no operator before another.
    `/` rounds down.

    Raises:
        `ValueError`: for an unknown operator, a division by zero, or operators that are not one fewer than numbers.

    >>> evaluate_chain([2, 9, 4, 3], ["-", "*", "/"])
    -10
    """
    if len(numbers) != len(operators) + 1:
        raise ValueError(f"{len(numbers)} `numbers` need one operator fewer between them; got {len(operators)}.")
    value, *others = map(operator.index, numbers)
    for symbol, number in zip(operators, others, strict=True):
        if symbol not in OPERATIONS:
            raise ValueError(f"`operators` holds {symbol!r}; the operators are {list(OPERATIONS)}.")
        if symbol == "/" and number == 0:
            raise ValueError(f"`numbers` {list(numbers)} with `operators` {list(operators)} divide by zero.")
        value = OPERATIONS[symbol](value, number)
    return value


def factorise(number: int) -> list[tuple[int, int]]:
    """
    The primes of an integer and how often each divides it, smallest first, by trial division.

    Raises:
        `ValueError`: for a number below 2.

    >>> factorise(1500)
    [(2, 2), (3, 1), (5, 3)]
    """
    if number < 2:
        raise ValueError(f"`number` is {number}; only integers from 2 on have prime factors.")
    factors, divisor = [], 2
    while divisor * divisor <= number:
        exponent = 0
        while number % divisor == 0:
            number, exponent = number // divisor, exponent + 1
        if exponent:
            factors.append((divisor, exponent))
        divisor += 1 + divisor % 2  # 2, 3, 5, 7, 9 ...
    if number > 1:
        factors.append((number, 1))
    return factors


def format_factors(factors: Sequence[tuple[int, int]], base: int) -> list[str]:
    """
    The tokens of a product of prime powers; exponents of 1 are left out.

    >>> format_factors([(2, 2), (13, 1)], base=10)
    ['2', '^', '2', '*', '3', '1']
    """
    tokens = []
    for prime, exponent in factors:
        tokens += ["*"] if tokens else []
        tokens += to_base(prime, base)
        tokens += [POWER_TOKEN, *to_base(exponent, base)] if exponent > 1 else []
    return tokens


def mask_progressively(rows: np.ndarray, noise: np.ndarray, target_length: float) -> np.ndarray:
    """
    Hide the beginnings of rows, that of the row with the most noise most: the curriculum of progressive copying.

    Args:
        rows (`np.ndarray` of shape `(num_rows, length)`): what is to be copied.
        noise (`np.ndarray` of shape `(num_rows,)`): drawn from a normal distribution.
        target_length (`float`): digits that stay in a middling row. At the full length nothing is hidden.

    Returns:
        The rows with their first digits set to 0; the last digit always stays. Rows of equal noise, hence a single
        row, stay whole (the original divides by zero there).

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


@cache
def list_primes(limit: int) -> tuple[int, ...]:
    """
    All primes up to a limit, itself included.

    >>> list_primes(11)
    (2, 3, 5, 7, 11)
    """
    is_prime = np.ones(max(limit + 1, 2), dtype=bool)
    is_prime[:2] = False
    for divisor in range(2, math.isqrt(max(limit, 0)) + 1):
        if is_prime[divisor]:
            is_prime[divisor * divisor :: divisor] = False
    return tuple(np.flatnonzero(is_prime).tolist())


def _check_integer(name: str, value: int, low: int, high: int | None = None):
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        allowed = f"from {low} on" if high is None else f"from {low} to {high}"
        raise ValueError(f"`{name}` is {value!r}; it must be an integer {allowed}.")


def _read_range(name: str, value: int | Sequence[int], low: int) -> tuple[int, int]:
    """A number, or the lowest and the highest of a range, as the latter."""
    bounds = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(bounds) != 2:
        raise ValueError(f"`{name}` is {value!r}; give an integer, or a pair of the lowest and the highest.")
    for bound in bounds:
        _check_integer(name, bound, low)
    if bounds[0] > bounds[1]:
        raise ValueError(f"`{name}` is {value!r}; the lowest comes first. Swap them.")
    return bounds


def _read_bases(name: str, value: int | Sequence[int]) -> tuple[int, ...]:
    """A base or several, as the latter."""
    bases = tuple(value) if isinstance(value, (tuple, list, range)) else (value,)
    if not bases:
        raise ValueError(f"`{name}` is {value!r}; give at least one base.")
    for base in bases:
        _check_integer(name, base, BASES[0], BASES[-1])
    return bases


def _draw_from(rng: random.Random, bounds: tuple[int, int]) -> int:
    return bounds[0] if bounds[0] == bounds[1] else rng.randint(*bounds)


class NumberTask(ABC):
    """
    A kind of problem. Two properties size a model for it: `longest_question` and `longest_answer` are upper bounds in
    tokens, the latter with the `blank` that closes an answer.
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
        """The tokens that answer any question of this kind; a `ValueError` if it is none."""

    def grade(self, question: Sequence[str], reply: Sequence[str]) -> bool:
        """True if the reply, up to its first `blank`, is the answer."""
        if isinstance(reply, str):
            raise ValueError(f"`reply` is the text {reply!r}; give its tokens: `reply.split()`.")
        reply = list(reply)
        end = reply.index(BLANK_TOKEN) if BLANK_TOKEN in reply else len(reply)
        return reply[:end] == self.answer(question)

    def ask_forever(self, rng: random.Random, curriculum: Any | None = None) -> Iterator[list[str]]:
        """Endless random questions, as hard as the curriculum says at that moment where the task follows one."""
        while True:
            yield self.ask(rng)


@dataclass(frozen=True)
class SequenceTask(NumberTask):
    """
    Read a row of digits, write another: what all tasks on rows share.

    Args:
        length (`int` or pair of `int`): digits in a row, or the fewest and the most.
        num_symbols (`int`): the digits are 0 to `num_symbols - 1`, at most 16; also the modulus of sums.
    """

    length: int | tuple[int, int] = 10
    num_symbols: int = 10

    def __post_init__(self):
        object.__setattr__(self, "length", _read_range("length", self.length, low=1))
        _check_integer("num_symbols", self.num_symbols, 2, len(DIGIT_TOKENS))

    @property
    def longest_question(self) -> int:
        return self.length[1]

    @property
    def longest_answer(self) -> int:
        return self.length[1] + 1

    def ask(self, rng: random.Random, longest_length: int | None = None) -> list[str]:
        """The tokens of a random row, of at most `longest_length` digits as far as `length` allows."""
        low, high = self.length
        if longest_length is not None:
            high = max(low, min(high, longest_length))
        return rng.choices(DIGIT_TOKENS[: self.num_symbols], k=_draw_from(rng, (low, high)))

    def ask_forever(self, rng: random.Random, curriculum: Any | None = None) -> Iterator[list[str]]:
        """Endless random rows, the longest as long as the curriculum's difficulty."""
        while True:
            yield self.ask(rng, None if curriculum is None else int(curriculum.difficulty))

    def answer(self, question: Sequence[str]) -> list[str]:
        """The tokens that answer any row of digits; a `ValueError` if the question is none."""
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
    Repeat the row, most of it zeros at first: with a curriculum, rows are drawn in groups of one length and
    [`mask_progressively`] hides their beginnings. A hidden digit looks like the digit 0, as in the original.
    """

    def ask_forever(self, rng: random.Random, curriculum: Any | None = None) -> Iterator[list[str]]:
        """Endless random rows, whose middling number of digits is the curriculum's difficulty."""
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
    """Move the row to the right by its first digit; what leaves on the right enters on the left."""

    def transform(self, row: list[int]) -> list[int]:
        shift = row[0] % len(row)
        return row[-shift:] + row[:-shift] if shift else row


@dataclass(frozen=True)
class RollByNumberTask(SequenceTask):
    """Add the first digit to every digit, modulo `num_symbols` (the original's `roll_num`, which fails there)."""

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
    """The expression of a question, the base it is written in, and that of the answer."""
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
    Evaluate a chain of numbers strictly from left to right, read in one base and written in another. A question is
    `base @ 1 2 * 5 - 3 :addmul @= base`; with one term it is a change of base.

    Args:
        operators (`str` or sequence of `str`): drawn from these, any of `+-*/`; `/` rounds down.
        num_terms (`int` or pair of `int`): numbers in a chain, or the fewest and the most.
        min_number (`int`): smallest number of a chain.
        max_number (`int`): one more than the largest number of a chain.
        input_bases (`int` or sequence of `int`): base of the question, from 2 to 16, drawn from these.
        output_bases (`int` or sequence of `int`): base of the answer, drawn for itself.
        even_lengths (`bool`): draw how many digits a number has before its value, so that short numbers, which are
            rare among all, are as frequent as long ones. For training; needs `min_number` of at least 0.
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
        object.__setattr__(self, "num_terms", _read_range("num_terms", self.num_terms, low=1))
        object.__setattr__(self, "input_bases", _read_bases("input_bases", self.input_bases))
        object.__setattr__(self, "output_bases", _read_bases("output_bases", self.output_bases))
        if not isinstance(self.min_number, int):
            raise ValueError(f"`min_number` is {self.min_number!r}; it must be an integer.")
        _check_integer("max_number", self.max_number, self.min_number + 1)
        if "/" in self.operators and self.min_number <= 0 < self.max_number:
            raise ValueError(
                f"`operators` holds '/' and numbers from `min_number` {self.min_number} to below `max_number` "
                f"{self.max_number} include 0, so a question could divide by zero. Set `min_number=1`."
            )
        if self.even_lengths and self.min_number < 0:
            raise ValueError(
                f"`even_lengths` draws lengths of numbers of at least 0, but `min_number` is {self.min_number}. Raise "
                "it, or leave `even_lengths` out."
            )

    @property
    def longest_question(self) -> int:
        base, most_terms = min(self.input_bases), self.num_terms[1]
        longest_number = max(len(_encode(number, base)) for number in (self.min_number, self.max_number - 1))
        return len(_frame([], EVALUATE_TOKEN, base, base)) + most_terms * (longest_number + 1) - 1

    @property
    def longest_answer(self) -> int:
        # Each operator is monotone in either argument, so extremes come from extremes.
        extremes = (self.min_number, self.max_number - 1)
        values = low, high = extremes
        for _ in range(self.num_terms[1] - 1):
            values = [
                OPERATIONS[op](value, number) for op in self.operators for value in values for number in extremes
            ]
            values = min(values), max(values)
            low, high = min(low, values[0]), max(high, values[1])
        return max(len(_encode(number, min(self.output_bases))) for number in (low, high)) + 1

    def ask(self, rng: random.Random) -> list[str]:
        """The tokens of a random chain."""
        base = rng.choice(self.input_bases)
        expression = list(_encode(self._draw_number(rng, base), base))
        for _ in range(_draw_from(rng, self.num_terms) - 1):
            expression.append(rng.choice(self.operators))
            expression += _encode(self._draw_number(rng, base), base)
        return _frame(expression, EVALUATE_TOKEN, base, rng.choice(self.output_bases))

    def _draw_number(self, rng: random.Random, base: int) -> int:
        low, high = self.min_number, self.max_number
        if self.even_lengths:
            num_digits = rng.randint(len(_encode(low, base)), len(_encode(high - 1, base)))
            low = max(low, base ** (num_digits - 1) if num_digits > 1 else 0)
            high = min(high, base**num_digits)
        return rng.randrange(low, high)

    def answer(self, question: Sequence[str]) -> list[str]:
        """The tokens of the value of any chain; a `ValueError` if the question is none or divides by zero."""
        expression, input_base, output_base = _unframe(question, EVALUATE_TOKEN)
        numbers, operators, start = [], [], 0
        for place, token in enumerate(expression):
            if token in OPERATIONS:
                numbers.append(_decode(tuple(expression[start:place]), input_base))
                operators.append(token)
                start = place + 1
        numbers.append(_decode(tuple(expression[start:]), input_base))
        return to_base(evaluate_chain(numbers, operators), output_base)


@dataclass(frozen=True)
class FactorisationTask(NumberTask):
    """
    Take a product of primes apart. A question is `base @ 0 0 1 :fact @= base`, its answer `2 ^ 2 * 5 ^ 2`.

    Args:
        max_prime (`int`): factors are drawn from all primes up to this one.
        num_factors (`int` or pair of `int`): factors of a product, or the fewest and the most.
        input_bases (`int` or sequence of `int`): base of the question, from 2 to 16, drawn from these.
        output_bases (`int` or sequence of `int`): base of the answer, drawn for itself.
    """

    max_prime: int = 50
    num_factors: int | tuple[int, int] = (2, 3)
    input_bases: int | Sequence[int] = 10
    output_bases: int | Sequence[int] = 10

    def __post_init__(self):
        _check_integer("max_prime", self.max_prime, 2)
        object.__setattr__(self, "num_factors", _read_range("num_factors", self.num_factors, low=1))
        object.__setattr__(self, "input_bases", _read_bases("input_bases", self.input_bases))
        object.__setattr__(self, "output_bases", _read_bases("output_bases", self.output_bases))

    @property
    def longest_question(self) -> int:
        base, product = min(self.input_bases), list_primes(self.max_prime)[-1] ** self.num_factors[1]
        return len(_frame([], FACTORISE_TOKEN, base, base)) + len(_encode(product, base))

    @property
    def longest_answer(self) -> int:
        # A power is never longer than its factors written out.
        longest_prime = len(_encode(list_primes(self.max_prime)[-1], min(self.output_bases)))
        return self.num_factors[1] * (longest_prime + 1)

    def ask(self, rng: random.Random) -> list[str]:
        """The tokens of a random product."""
        product = math.prod(rng.choices(list_primes(self.max_prime), k=_draw_from(rng, self.num_factors)))
        base = rng.choice(self.input_bases)
        return _frame(list(_encode(product, base)), FACTORISE_TOKEN, base, rng.choice(self.output_bases))

    def answer(self, question: Sequence[str]) -> list[str]:
        """The tokens of the factors of any product; a `ValueError` if the question is none."""
        expression, input_base, output_base = _unframe(question, FACTORISE_TOKEN)
        return format_factors(factorise(from_base(expression, input_base)), output_base)


TASKS = {
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
    The task of a name in `TASKS`, with the options of its class.

    Raises:
        `ValueError`: for an unknown task, an unknown option, or a value that an option does not allow.

    >>> make_task("roll", length=5).answer("3 1 4 1 5".split())
    ['4', '1', '5', '3', '1']
    """
    if name not in TASKS:
        raise ValueError(f"Task {name!r} is unknown; the tasks are {list(TASKS)}.")
    known = [field.name for field in fields(TASKS[name])]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"Task {name!r} has no options {unknown}; its options are {known}.")
    return TASKS[name](**options)


def _read_task(task: str | NumberTask, options: dict[str, Any]) -> NumberTask:
    if isinstance(task, NumberTask):
        if options:
            raise ValueError(f"`task` is {task} already; give the options {sorted(options)} when making it.")
        return task
    return make_task(task, **options)


def _check_split(split: str, test_share: float):
    if split not in SPLITS:
        raise ValueError(f"`split` is {split!r}; it must be one of {SPLITS}.")
    if not 0 < test_share < 1:
        raise ValueError(f"`test_share` is {test_share}; it must be between 0 and 1.")


def _keep_split(questions: Iterator[list[str]], split: str, test_share: float) -> Iterator[tuple[str, list[str]]]:
    """The texts and tokens of those questions that a hash of the text, hence no seed, sends to the split."""
    border = int(test_share * (1 << 8 * HASH_BYTES)).to_bytes(HASH_BYTES, "big")
    is_test = split == "test"
    patience = PATIENCE / (test_share if is_test else 1 - test_share)
    misses = 0
    for question in questions:
        text = " ".join(question)
        if (blake2b(text.encode(), digest_size=HASH_BYTES).digest() < border) == is_test:
            misses = 0
            yield text, question
        elif (misses := misses + 1) > patience:
            raise ValueError(
                f"Drew {misses} problems in a row, and none belongs to the split {split!r}: there are too few "
                "different ones. Make them longer or larger, or change `test_share`."
            )


def _to_example(question: list[str], answer: list[str]) -> dict[str, list[int]]:
    return {
        "input_ids": [TOKEN_IDS[token] for token in question],
        "labels": [*[TOKEN_IDS[token] for token in answer], TOKEN_IDS[BLANK_TOKEN]],
    }


def load_number_dataset(
    task: str | NumberTask,
    num_examples: int,
    split: str = "train",
    seed: int = 0,
    test_share: float = 0.1,
    **options: Any,
) -> Dataset:
    """
    Draw different problems of a task.

    Args:
        task (`str` or `NumberTask`): a name in `TASKS`, its class's options then in `options`, or a task.
        num_examples (`int`): how many.
        split (`str`): `"train"` or `"test"`. A hash of its question decides where a problem belongs, so a problem of
            one split is never in the other, whatever seeds and sizes.
        seed (`int`): the same seed draws the same problems.
        test_share (`float`): share of all problems that belong to the test split, between 0 and 1. Give both splits
            the same.

    Returns:
        `Dataset` with columns `question` and `answer` (tokens joined by spaces), `input_ids` (those of the question)
        and `labels` (those of the answer and a closing `blank`).

    Raises:
        `ValueError`: for an unknown task, option or split, or when the task has too few problems.

    Example:

    >>> row = load_number_dataset("arithmetic", num_examples=1, operators="*", max_number=50)[0]
    >>> row["question"], row["answer"]
    ('10 @ 8 4 * 2 :addmul @= 10', '6 9')
    >>> row["labels"]
    [6, 9, 20]
    """
    task = _read_task(task, options)
    _check_split(split, test_share)
    _check_integer("num_examples", num_examples, 1)
    columns = {name: [] for name in ("question", "answer", "input_ids", "labels")}
    seen, repeats = set(), 0
    for text, question in _keep_split(task.ask_forever(random.Random(seed)), split, test_share):
        if text in seen:
            repeats += 1
            if repeats > PATIENCE + REPEATS_PER_PROBLEM * len(seen):
                raise ValueError(
                    f"`num_examples` is {num_examples}, but only {len(seen)} different problems were found in the "
                    f"split {split!r} of {task}. Ask for fewer, or make the problems longer or larger."
                )
            continue
        repeats = 0
        seen.add(text)
        answer = task.answer(question)
        row = {"question": text, "answer": " ".join(answer), **_to_example(question, answer)}
        for name, value in row.items():
            columns[name].append(value)
        if len(seen) == num_examples:
            break
    return Dataset.from_dict(columns)


@dataclass(frozen=True, eq=False)
class _ProblemStream:
    """A generator function that can be sent to worker processes and whose copies share the curriculum."""

    task: NumberTask
    split: str
    seed: int
    test_share: float
    curriculum: Any | None

    def __deepcopy__(self, memo: dict) -> "_ProblemStream":
        return self

    def __call__(self, shards: list[int]) -> Iterator[tuple[int, dict[str, list[int]]]]:
        rng = random.Random(f"{self.seed} {shards}")  # datasets hands over one shard at a time
        questions = self.task.ask_forever(rng, self.curriculum)
        for key, (_, question) in enumerate(_keep_split(questions, self.split, self.test_share)):
            yield key, _to_example(question, self.task.answer(question))


def stream_number_dataset(
    task: str | NumberTask,
    split: str = "train",
    seed: int = 0,
    test_share: float = 0.1,
    curriculum: Any | None = None,
    num_shards: int = 64,
    **options: Any,
) -> IterableDataset:
    """
    Draw problems of a task for as long as one reads, those of [`load_number_dataset`]'s split; some come repeatedly.

    Args:
        task (`str` or `NumberTask`): a name in `TASKS`, its class's options then in `options`, or a task.
        split (`str`): `"train"` or `"test"`.
        seed (`int`): the same seed draws the same problems in each shard.
        test_share (`float`): share of all problems that belong to the test split, between 0 and 1.
        curriculum (*optional*): any object with a number `difficulty`, read anew at each draw: the digits of the
            longest row, as far as the task's `length` allows; in progressive copying, those that stay in a middling
            row. Only for tasks on rows. For worker processes of a data loader to see it change, keep the number in
            shared memory.
        num_shards (`int`): streams that differ; data loader workers take one each, a single process the first.

    Returns:
        `IterableDataset` without end, with columns `input_ids` and `labels`.

    Raises:
        `ValueError`: for an unknown task, option or split, or a curriculum that the task cannot follow. While reading:
            when no problem belongs to the split.

    Example:

    >>> stream = stream_number_dataset("sort", length=5)
    >>> next(iter(stream))
    {'input_ids': [7, 4, 4, 4, 1], 'labels': [1, 4, 4, 4, 7, 20]}
    """
    task = _read_task(task, options)
    _check_split(split, test_share)
    _check_integer("num_shards", num_shards, 1)
    if curriculum is not None and not isinstance(task, SequenceTask):
        names = [name for name, kind in TASKS.items() if issubclass(kind, SequenceTask)]
        raise ValueError(f"{task} follows no `curriculum`; the tasks that do are {names}. Leave it out.")
    # Not `from_generator`: it pickles the generator for a name, which a curriculum in shared memory refuses.
    generate = _ProblemStream(task, split, seed, test_share, curriculum)
    return IterableDataset(ExamplesIterable(generate, {"shards": list(range(num_shards))}))


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
    "evaluate_chain",
    "factorise",
    "format_factors",
    "from_base",
    "list_primes",
    "load_number_dataset",
    "make_task",
    "mask_progressively",
    "stream_number_dataset",
    "to_base",
]
