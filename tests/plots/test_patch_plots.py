# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Plots of byte patches: each is drawn behind its bytes, in the colour of its losses, for any text."""

import io
import sys

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from hf_thoughtbubbles.plots.patches import (
    ALTERNATING_COLOURS,
    COLOUR_MAP,
    UNKNOWN_COLOUR,
    average_bits,
    plot_patches,
    split_characters,
)


def read_rectangles(figure) -> list[tuple[int, int, int]]:
    """Line, first cell and number of cells of each rectangle."""
    corners = [(patch.get_x(), patch.get_y(), patch.get_width()) for patch in figure.axes[0].patches]
    return [(round(y + 0.4), round(x), round(width)) for x, y, width in corners]


def read_colours(figure) -> list[tuple[float, ...]]:
    return [patch.get_facecolor()[:3] for patch in figure.axes[0].patches]


def read_labels(figure) -> list[tuple[float, float, str]]:
    return [(*text.get_position(), text.get_text()) for text in figure.axes[0].texts]


def save(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def test_each_patch_has_one_rectangle_behind_its_characters():
    figure = plot_patches(b"ab cde", [2, 1, 3])
    assert read_rectangles(figure) == [(0, 0, 2), (0, 2, 1), (0, 3, 3)]
    assert read_labels(figure) == [(0.5, 0, "a"), (1.5, 0, "b"), (3.5, 0, "c"), (4.5, 0, "d"), (5.5, 0, "e")]
    assert len(figure.axes) == 1


def test_a_patch_that_wraps_has_a_rectangle_on_each_line():
    figure = plot_patches(b"abcdefghijklm", [3, 9, 1], bytes_per_line=5)
    assert read_rectangles(figure) == [(0, 0, 3), (0, 3, 2), (1, 0, 5), (2, 0, 2), (2, 2, 1)]
    first, second = (to_rgb(colour) for colour in ALTERNATING_COLOURS)
    assert read_colours(figure) == [first, second, second, second, first]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0", "5", "10"]


def test_a_line_ends_before_a_character_that_would_not_fit():
    figure = plot_patches("aéé中😀b".encode(), [1, 4, 3, 4, 1], bytes_per_line=3)
    assert read_rectangles(figure) == [(0, 0, 1), (0, 1, 1), (1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 0, 1)]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0", "3", "5", "8", "12"]


def test_colours_are_the_mean_bits_per_byte_of_the_patches():
    nats = np.log([np.nan, np.nan, 2.0, 8.0, np.nan, 1.0, 16.0, 16.0])
    assert average_bits(nats, np.array([1, 3, 1, 1, 2]))[[1, 3, 4]].tolist() == pytest.approx([2.0, 0.0, 4.0])
    figure = plot_patches(b"abcdefgh", [1, 3, 1, 1, 2], nats)
    colour_map, unknown = colormaps[COLOUR_MAP], to_rgb(UNKNOWN_COLOUR)
    expected = [unknown, colour_map(0.5)[:3], unknown, colour_map(0.0)[:3], colour_map(1.0)[:3]]
    np.testing.assert_allclose(read_colours(figure), expected, atol=0.01)
    bar = figure.axes[1]
    assert bar.get_xlabel() == "bits per byte"
    assert bar.get_xlim() == pytest.approx((0.0, 4.0))


@pytest.mark.parametrize("nats", [[np.nan] * 3, [0.0] * 3])
def test_texts_without_a_loss_or_without_a_surprise_are_drawn(nats):
    figure = plot_patches(b"abc", [1, 2], nats)
    expected = to_rgb(UNKNOWN_COLOUR) if np.isnan(nats[0]) else colormaps[COLOUR_MAP](0.0)[:3]
    assert read_colours(figure) == [expected] * 2
    assert figure.axes[1].get_xlim() == (0.0, 1.0)
    save(figure)


def test_letters_are_white_on_dark_patches_only():
    texts = plot_patches(b"ab", [1, 1], [0.0, 9.0]).axes[0].texts
    assert [text.get_color() for text in texts] == ["black", "white"]


@pytest.mark.parametrize(
    ("ids", "labels"),
    [
        (b"a \n\t", ["a", "", "⏎", "⇥"]),
        (b"\x00\r\x1b\x7f", ["00", "0D", "1B", "7F"]),
        ("é€ж".encode(), ["é", "€", "ж"]),
        ("中\u200d\U000e0001".encode(), ["4E\n2D", "20\n0D", "0E\n00\n01"]),
        (b"\xff\xc3(\xe2\x82", ["FF", "C3", "(", "E2", "82"]),
        (b"\xc0\xaf\xed\xa0\x80", ["C0", "AF", "ED", "A0", "80"]),
        ([0xE2, 256, 0x82, 12345], ["E2", "⟨256⟩", "82", "⟨12345⟩"]),
    ],
)
def test_every_character_and_every_broken_byte_has_one_cell(ids, labels):
    cells = list(split_characters(list(ids)))
    assert [label for _, label in cells] == labels
    assert sum(size for size, _ in cells) == len(ids)


def test_a_character_torn_between_patches_is_shown_as_its_bytes():
    figure = plot_patches("aé".encode(), [2, 1])
    assert [label for *_, label in read_labels(figure)] == ["a", "C3", "A9"]
    assert read_rectangles(figure) == [(0, 0, 2), (0, 2, 1)]


def test_any_text_is_drawn_silently():
    rng = np.random.default_rng(0)
    every = [chr(point) for point in range(0x3000) if chr(point).isprintable()]
    characters = [
        *every[::29],
        *(chr(point) for point in range(0x3000, 0xD800, 1997)),
        *map(chr, range(0x1F5F0, 0x1F650)),
    ]
    text = "".join(characters) + "$\\frac{1}$ $x^ _" + chr(sys.maxunicode)
    assert save(plot_patches(text.encode(), [1] * len(text.encode()), title="$ \\frac"))
    figure = plot_patches(text.encode(), [len(text.encode())])
    assert sum(len(label) == 1 for *_, label in read_labels(figure)) > 200
    assert save(figure)
    ids = rng.integers(0, 259, 499)
    assert save(plot_patches(ids, [499], rng.random(499)))


def test_nothing_is_clipped():
    for text, title in ((b"a", "t"), (b"abc" * 101, None), (b"\xff" * 100, "two lines of bytes")):
        for nats in (None, np.ones(len(text))):
            figure = plot_patches(text, [len(text)], nats, title=title)
            figure.draw_without_rendering()
            box = figure.get_tightbbox()
            assert min(box.x0, box.y0) > 0
            assert box.x1 < figure.get_figwidth() and box.y1 < figure.get_figheight()


def test_bytes_lists_arrays_and_tensors_give_the_same_picture():
    expected = save(plot_patches(b"a\xc3\xa9", [1, 2], [0.5, 1.0, 2.0]))
    for kind in (bytearray, memoryview, list, tuple, lambda data: np.frombuffer(data, dtype=np.uint8)):
        assert save(plot_patches(kind(b"a\xc3\xa9"), np.array([1, 2]), np.array([0.5, 1.0, 2.0]))) == expected
    ids, losses = torch.tensor([97, 195, 169]), torch.tensor([0.5, 1.0, 2.0])
    assert save(plot_patches(ids, torch.tensor([1, 2]), losses)) == expected


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="`patch_lengths` sum to 4; `ids_or_bytes` has 3"):
        plot_patches(b"abc", [2, 2])
    with pytest.raises(ValueError, match="`patch_lengths` holds 0; it must be at least 1"):
        plot_patches(b"abc", [3, 0])
    with pytest.raises(ValueError, match="`patch_lengths` holds -1"):
        plot_patches(b"abc", [4, -1])
    with pytest.raises(ValueError, match="type float64; it must be integers"):
        plot_patches(b"abc", [1.5, 1.5])
    with pytest.raises(ValueError, match=r"`patch_lengths` has shape \(1, 1\)"):
        plot_patches(b"abc", [[3]])
    with pytest.raises(ValueError, match=r"`nats` has shape \(2,\); it must be \(3,\)"):
        plot_patches(b"abc", [3], [0.0, 1.0])


@pytest.mark.parametrize("ids", [b"", [], np.zeros(0, dtype=np.int64)])
def test_an_empty_text_is_refused(ids):
    with pytest.raises(ValueError, match="`ids_or_bytes` is empty; it must have at least one byte"):
        plot_patches(ids, [])


def test_what_is_no_text_and_no_loss_is_refused():
    with pytest.raises(TypeError, match=r"`ids_or_bytes` is text; it must be bytes"):
        plot_patches("abc", [3])
    for ids in ([[97]], [97.0], [-1]):
        with pytest.raises(ValueError, match=r"it must be bytes, or integers of shape \(N,\)"):
            plot_patches(ids, [1])
    for loss in (np.inf, -0.5):
        with pytest.raises(ValueError, match="Negate log-probabilities"):
            plot_patches(b"ab", [2], [np.nan, loss])
    with pytest.raises(ValueError, match="`bytes_per_line` is 0; it must be at least 1"):
        plot_patches(b"ab", [2], bytes_per_line=0)
