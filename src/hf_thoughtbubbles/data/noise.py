# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Character noise: text with typing errors."""

import random
import string
from collections.abc import Callable, Sequence


def _replace(character: str, source: random.Random) -> str:
    return source.choice(string.ascii_letters)


def _repeat(character: str, source: random.Random) -> str:
    return 2 * character


def _drop(character: str, source: random.Random) -> str:
    return ""


def _swap_case(character: str, source: random.Random) -> str:
    return character.swapcase()


NOISE_KINDS: dict[str, Callable[[str, random.Random], str]] = {
    "replace": _replace,
    "repeat": _repeat,
    "drop": _drop,
    "case": _swap_case,
}


def add_character_noise(text: str, share: float, seed: int, kinds: Sequence[str] = tuple(NOISE_KINDS)) -> str:
    """
    Change some characters of a text, as typing errors do.

    Args:
        text (`str`): any text.
        share (`float`): probability that a character is changed, 0 to 1.
        seed (`int`): the same seed gives the same errors.
        kinds (`Sequence[str]`): the kinds of errors, all equally likely: `"replace"` by a random ASCII letter,
            `"repeat"`, `"drop"` and swapped `"case"` (default: all).

    Returns:
        `str`: the noisy text.

    Raises:
        `ValueError`: for a share outside 0 to 1, and for missing or unknown kinds.

    >>> add_character_noise("to be, or not to be", 0.3, seed=2)
    'toxbe, or Not to be'
    """
    if not 0 <= share <= 1:
        raise ValueError(f"`share` is {share}; it must be from 0 to 1.")
    if not kinds or not set(kinds) <= set(NOISE_KINDS):
        raise ValueError(f"`kinds` is {list(kinds)}; it must hold some of {sorted(NOISE_KINDS)}.")
    source, kinds = random.Random(seed), list(kinds)
    return "".join(
        NOISE_KINDS[source.choice(kinds)](character, source) if source.random() < share else character
        for character in text
    )


__all__ = ["NOISE_KINDS", "add_character_noise"]
