# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Exact integers as tokens: digits in any base, chains of operators and prime factors.

Numbers are written least significant digit first, with `!` before a negative one.
"""

import math
import operator
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np

from ..tokenization.number_tokenizer import DIGIT_TOKENS, NEGATIVE_TOKEN, POWER_TOKEN


DIGIT_VALUES = {token: value for value, token in enumerate(DIGIT_TOKENS)}
BASES = range(2, 17)
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
CACHED_NUMBERS = 1 << 15


def _check_base(base: int):
    if base not in BASES:
        raise ValueError(f"`base` is {base!r}; it must be an integer from {BASES[0]} to {BASES[-1]}.")


@lru_cache(maxsize=CACHED_NUMBERS)
def encode_number(number: int, base: int) -> tuple[str, ...]:
    """The digits of an integer, as [`to_base`] lists them; the results are cached."""
    _check_base(base)
    rest, digits = abs(number), list[str]()
    while rest or not digits:
        rest, digit = divmod(rest, base)
        digits.append(DIGIT_TOKENS[digit])
    return (NEGATIVE_TOKEN, *digits) if number < 0 else tuple(digits)


@lru_cache(maxsize=CACHED_NUMBERS)
def decode_number(tokens: tuple[str, ...], base: int) -> int:
    """The integer that [`encode_number`] wrote; the results are cached."""
    _check_base(base)
    is_negative = tokens[:1] == (NEGATIVE_TOKEN,)
    digits = [DIGIT_VALUES.get(token, base) for token in tokens[is_negative:]]
    if not digits or max(digits) >= base:
        raise ValueError(
            f"`tokens` {list(tokens)} are no number in base {base}; pass digits from 0 to {base - 1}, least "
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
    return list(encode_number(operator.index(number), base))


def from_base(tokens: Sequence[str], base: int) -> int:
    """
    The integer that [`to_base`] wrote; zeros after its last digit are ignored.

    Raises:
        `ValueError`: for a base outside 2 to 16 or tokens that are no number in it.

    >>> from_base(["!", "8", "3", "1"], 16)
    -312
    """
    return decode_number(tuple(tokens), base)


def evaluate_chain(numbers: Sequence[int], operators: Sequence[str]) -> int:
    """
    The value of `numbers[0] operators[0] numbers[1] ...`, strictly from left to right, without operator precedence.
    `/` rounds down.

    Raises:
        `ValueError`: for an unknown operator, a division by zero, or operators that are not one fewer than numbers.

    >>> evaluate_chain([2, 9, 4, 3], ["-", "*", "/"])
    -10
    """
    if len(numbers) != len(operators) + 1:
        raise ValueError(f"{len(numbers)} `numbers` need one operator fewer; {len(operators)} were passed.")
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
    The tokens of a product of prime powers; exponents of 1 are not written.

    >>> format_factors([(2, 2), (13, 1)], base=10)
    ['2', '^', '2', '*', '3', '1']
    """
    tokens: list[str] = []
    for prime, exponent in factors:
        tokens += ["*"] if tokens else []
        tokens += to_base(prime, base)
        tokens += [POWER_TOKEN, *to_base(exponent, base)] if exponent > 1 else []
    return tokens


@cache
def list_primes(limit: int) -> tuple[int, ...]:
    """
    All primes up to a limit, the limit included.

    >>> list_primes(11)
    (2, 3, 5, 7, 11)
    """
    is_prime = np.ones(max(limit + 1, 2), dtype=bool)
    is_prime[:2] = False
    for divisor in range(2, math.isqrt(max(limit, 0)) + 1):
        if is_prime[divisor]:
            is_prime[divisor * divisor :: divisor] = False
    return tuple(np.flatnonzero(is_prime).tolist())


__all__ = [
    "BASES",
    "DIGIT_VALUES",
    "OPERATIONS",
    "decode_number",
    "encode_number",
    "evaluate_chain",
    "factorise",
    "format_factors",
    "from_base",
    "list_primes",
    "to_base",
]
