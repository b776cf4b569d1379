# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Character noise: strength, kinds and errors."""

import pytest

from hf_thoughtbubbles.data.noise import add_character_noise


TEXT = "The quick brown fox jumps over the lazy dog, ünder 漢字. " * 200


def test_noise_is_reproducible_and_as_strong_as_asked_for():
    assert add_character_noise(TEXT, 0.0, seed=0) == TEXT
    assert add_character_noise(TEXT, 0.1, seed=0) == add_character_noise(TEXT, 0.1, seed=0)
    assert add_character_noise(TEXT, 0.1, seed=0) != add_character_noise(TEXT, 0.1, seed=1)
    dropped = add_character_noise(TEXT, 0.1, seed=0, kinds=["drop"])
    assert abs(1 - len(dropped) / len(TEXT) - 0.1) < 0.01
    repeated = add_character_noise(TEXT, 0.1, seed=0, kinds=["repeat"])
    assert abs(len(repeated) / len(TEXT) - 1 - 0.1) < 0.01


def test_each_kind_changes_characters_in_its_way():
    assert add_character_noise("aB c", 1.0, seed=0, kinds=["case"]) == "Ab C"
    assert add_character_noise("aB", 1.0, seed=0, kinds=["repeat"]) == "aaBB"
    assert add_character_noise("aB", 1.0, seed=0, kinds=["drop"]) == ""
    replaced = add_character_noise(TEXT, 1.0, seed=0, kinds=["replace"])
    assert len(replaced) == len(TEXT)
    assert replaced.isascii()
    assert replaced.isalpha()
    assert len(set(replaced)) == 52


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": -0.1}, "`share` is -0.1"),
        ({"share": 1.5}, "`share` is 1.5"),
        ({"share": 0.1, "kinds": []}, "`kinds` is \\[\\]"),
        ({"share": 0.1, "kinds": ["typo"]}, "`kinds` is \\['typo'\\]"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        add_character_noise("text", seed=0, **arguments)
