# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Digits, chains of operators and prime factors: parity with the original, inverses and errors."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from hf_thoughtbubbles.data.number_digits import (
    evaluate_chain,
    factorise,
    format_factors,
    from_base,
    list_primes,
    to_base,
)


THINKER_DATA = Path(__file__).parents[1] / "parity" / "thinker_data"
OPS_KEY = "ops (first one is drawn but unused)"


def read_examples(case: str) -> list[dict]:
    return json.loads((THINKER_DATA / f"{case}.json").read_text())["examples"]


def as_text(tokens) -> list[str]:
    return [str(token) for token in tokens]


def test_the_originals_digits_are_reproduced():
    for example in read_examples("to_base"):
        number, base = example["input"]["n"], example["input"]["base"]
        if isinstance(number, list):
            written = [t for n in number for t in ([n] if isinstance(n, str) else to_base(n, base))]
            assert written == as_text(example["output"])
        elif "ValueError" in example.get("exception", ""):
            with pytest.raises(ValueError, match="`base` is 1; it must be an integer from 2 to 16"):
                to_base(number, base)
        elif "exception" in example:  # fixed: NumPy's integers are integers too
            assert to_base(np.int64(number), base) == to_base(number, base)
        else:
            assert to_base(number, base) == as_text(example["output"])


def test_the_originals_chains_are_reproduced_but_for_division_by_zero():
    refused = 0
    for example in read_examples("add_mult"):
        numbers, operators = example["input"]["numbers"], example["input"][OPS_KEY][1:]
        if "warnings" in example:
            with pytest.raises(ValueError, match="divide by zero"):
                evaluate_chain(numbers, operators)
            refused += 1
        else:
            assert [evaluate_chain(numbers, operators)] == example["output"]["y"]
    assert refused == 1


def test_the_originals_factors_are_reproduced_but_for_overflow():
    overflowed = 0
    for example in read_examples("factorize"):
        factors = example["input"]["sampled_factors (unsorted)"]
        product = int(np.prod(np.array(factors, dtype=object)))
        tokens = [t for n in example["output"]["y"] for t in ([n] if isinstance(n, str) else to_base(n, 10))]
        assert format_factors(factorise(product), base=10) == tokens
        if "warnings" in example:
            assert example["output"]["x"] != [product] == [541**10]
            overflowed += 1
        else:
            assert example["output"]["x"] == [product]
    assert overflowed == 1
    assert list(list_primes(71)) == json.loads((THINKER_DATA / "factorize.json").read_text())["first_20_primes"]


def test_digits_are_read_back_in_every_base():
    generator = random.Random(0)
    for base in range(2, 17):
        for number in (0, 1, -1, base, -base, *(generator.randint(-(10**30), 10**30) for _ in range(50))):
            tokens = to_base(number, base)
            assert from_base(tokens, base) == number
            assert (tokens[0] == "!") == (number < 0)
    assert from_base(["1", "0"], 10) == 1


def test_what_is_no_number_is_refused():
    for tokens, base in (([], 10), (["!"], 10), (["2"], 2), (["1", "!"], 10), (["!", "!", "1"], 10), (["x"], 16)):
        with pytest.raises(ValueError, match=f"are no number in base {base}"):
            from_base(tokens, base)
    for base in (1, 17, 0, -2):
        for convert, value in ((to_base, 3), (from_base, ["1"])):
            with pytest.raises(ValueError, match=f"`base` is {base}; it must be an integer from 2 to 16"):
                convert(value, base)


def test_wrong_chains_and_products_are_refused():
    with pytest.raises(ValueError, match=r"`operators` holds '\^'; the operators are"):
        evaluate_chain([1, 2], ["^"])
    with pytest.raises(ValueError, match="3 `numbers` need one operator fewer; 1 were passed"):
        evaluate_chain([1, 2, 3], ["+"])
    for number in (1, 0, -6):
        with pytest.raises(ValueError, match=f"`number` is {number}; only integers from 2 on"):
            factorise(number)
