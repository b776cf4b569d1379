# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Ends of byte patches, for any bytes."""

import random

import pytest
import torch

from hf_thoughtbubbles.modeling.byte_patch.patch_ends import (
    count_open_bytes,
    find_patch_ends,
    number_patches,
    spread_patch_lengths,
)


def split(data: bytes, patching: str = "space", patch_size: int = 4, longest: int = 16) -> list[bytes]:
    """The patches of some bytes."""
    is_end = find_patch_ends(torch.tensor([list(data)]), patching, patch_size, longest)[0].tolist()
    patches, start = [], 0
    for index, ends in enumerate(is_end, start=1):
        if ends or index == len(data):
            patches.append(data[start:index])
            start = index
    return patches


def walk(ids: list[int], longest: int) -> list[bool]:
    """The rule again, byte by byte."""

    def is_word(byte: int) -> bool:
        return 0x80 <= byte < 256 or (byte < 0x80 and chr(byte).isalnum())

    def is_open(index: int) -> bool:
        for distance in range(3):
            if index < distance:
                return False
            byte = ids[index - distance]
            size = 1 + (0xC0 <= byte < 0xF8) + (0xE0 <= byte < 0xF8) + (0xF0 <= byte < 0xF8)
            if size > distance + 1:
                return True
            if not 0x80 <= byte < 0xC0:
                return False
        return False

    ends, length = [], 0
    for index, byte in enumerate(ids):
        length += 1
        is_end = byte >= 256 or (not is_word(byte) and index > 0 and is_word(ids[index - 1]))
        is_end = is_end or (length >= longest - 3 and not is_open(index)) or length == longest
        ends.append(is_end)
        length = 0 if is_end else length
    return ends


def draw(kind: str, generator: random.Random) -> list[int]:
    """Random ids of a kind."""
    if kind == "bytes":
        return [generator.randrange(258) for _ in range(generator.randrange(1, 60))]
    if kind == "characters":
        text = "".join(generator.choice("ab é漢😀") for _ in range(generator.randrange(1, 30)))
        return list(text.encode())
    return [97] * generator.randrange(1, 70)


def test_words_end_with_the_separator_after_them():
    assert split(b"to be,  or not") == [b"to ", b"be,", b"  or ", b"not"]


def test_characters_of_several_bytes_are_letters_and_stay_whole():
    text = "naïve 漢字漢字漢字 😀!"
    patches = split(text.encode(), longest=8)
    assert b"".join(patches) == text.encode()
    assert [patch.decode() for patch in patches] == ["naïv", "e ", "漢字", "漢字", "漢字", " ", "😀!"]


def test_fixed_patches_count_bytes_and_start_again_after_a_special_token():
    ids = torch.tensor([[1, 2, 3, 4, 257, 5, 6, 7, 8]])
    assert find_patch_ends(ids, "fixed", 3, 16)[0].nonzero().flatten().tolist() == [2, 4, 7]


@pytest.mark.parametrize("longest", [4, 5, 7, 16])
@pytest.mark.parametrize("kind", ["bytes", "characters", "run"])
def test_the_vectorised_rule_is_the_rule_byte_by_byte(kind, longest):
    generator = random.Random(longest)
    for _ in range(200):
        ids = draw(kind, generator)
        assert find_patch_ends(torch.tensor([ids]), "space", 4, longest)[0].tolist() == walk(ids, longest), ids


@pytest.mark.parametrize("patching", ["space", "fixed"])
@pytest.mark.parametrize("kind", ["bytes", "characters", "run"])
def test_no_end_depends_on_later_bytes(kind, patching):
    generator = random.Random(1)
    for _ in range(30):
        ids = draw(kind, generator)
        whole = find_patch_ends(torch.tensor([ids]), patching, 5, 7)[0].tolist()
        for length in range(1, len(ids)):
            assert find_patch_ends(torch.tensor([ids[:length]]), patching, 5, 7)[0].tolist() == whole[:length]


@pytest.mark.parametrize("patching", ["space", "fixed"])
@pytest.mark.parametrize("kind", ["bytes", "characters", "run"])
def test_reading_on_finds_what_reading_at_once_finds(kind, patching):
    generator, longest = random.Random(2), 7
    for _ in range(100):
        ids = draw(kind, generator)
        whole = find_patch_ends(torch.tensor([ids]), patching, 5, longest)
        middle = generator.randrange(len(ids))
        start = max(0, middle - longest - 2)
        found = find_patch_ends(torch.tensor([ids[start:]]), patching, 5, longest, known=whole[:, start:middle])
        assert found[0, middle - start :].tolist() == whole[0, middle:].tolist(), ids


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_in_no_patch(side):
    real = torch.tensor([[1, 1, 1, 1, 1, 0, 0]]).bool()
    ids = torch.tensor([[*b"a bcd", 7, 7]])
    if side == "left":
        real, ids = real.flip(1), ids.roll(2, dims=1)
    patches = number_patches(find_patch_ends(ids, "space", 4, 16, real), real, None)
    assert patches.lengths.tolist() == [[2, 3]]
    assert patches.patch_index[real].tolist() == [0, 0, 1, 1, 1]
    assert (patches.patch_index[~real] == -1).all()
    assert count_open_bytes(patches.is_end, real)[real].tolist() == [1, 0, 1, 2, 3]


def test_given_lengths_lie_over_the_real_bytes():
    real = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]).bool()
    is_end = spread_patch_lengths(torch.tensor([[2, 3, 0], [1, 2, 4]]), real)
    assert is_end.tolist() == [[False] * 3 + [True, False, False, True], [True, False, True] + [False] * 3 + [True]]


@pytest.mark.parametrize("patching", ["space", "fixed"])
@pytest.mark.parametrize("longest", [4, 5, 7])
def test_packed_documents_are_split_as_if_each_were_alone(patching, longest):
    """Documents begin and end anywhere, in the middle of characters too."""
    generator = random.Random(longest)
    for _ in range(60):
        documents = [
            [generator.choice(b"ab .\xe6\xbc\xa2\xc3\xa9\xf0\x9f") for _ in range(generator.randint(1, 11))]
            for _ in range(generator.randint(2, 5))
        ]
        starts = torch.tensor([[index == 0 for row in documents for index in range(len(row))]])
        packed = torch.tensor([[byte for row in documents for byte in row]])
        alone = [find_patch_ends(torch.tensor([row]), patching, 3, longest) for row in documents]
        found = find_patch_ends(packed, patching, 3, longest, is_start=starts)
        assert torch.equal(found, torch.cat(alone, dim=1)), documents
