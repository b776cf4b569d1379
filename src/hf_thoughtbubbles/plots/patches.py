# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Plot of byte patches: a text coloured by patch, or by the bits per byte of each patch."""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Rectangle

from ..tokenization.byte_tokenizer import NUM_BYTES


FONTS = {"DejaVu Sans Mono": 9.5, "DejaVu Sans": 7.0}  # fonts of matplotlib; size in points, the wider font smaller
SMALL_FONT = 4.6  # size in points of the digits for characters that no font can show
CELL_WIDTH, LINE_HEIGHT = 6.6, 18.0  # points
BAR_HEIGHT = 15.0  # points of a line that its rectangles fill
MARGIN = 10.0  # points around everything
LEAST_WIDTH = 180.0  # points of the text area, so that the title and the colour bar fit
SHOWN_CHARACTERS = {" ": "", "\n": "⏎", "\t": "⇥"}
ALTERNATING_COLOURS = ("#cfe3f5", "#fbdcb4")
UNKNOWN_COLOUR = "#e6e6e6"  # of a patch without a loss
COLOUR_MAP = "YlOrRd"


def average_bits(nats: np.ndarray, patch_lengths: np.ndarray) -> np.ndarray:
    """
    Compute the mean bits per byte of each patch; bytes without a loss do not count.

    Args:
        nats (`np.ndarray` of shape `(N,)`): loss of each byte in nats; NaN for a byte without one.
        patch_lengths (`np.ndarray` of shape `(P,)`): bytes of each patch, at least 1, N in sum.

    Returns:
        `np.ndarray` of shape `(P,)`; NaN for a patch without a loss.

    >>> average_bits(np.log([np.nan, 2.0, 8.0, np.nan]), np.array([1, 3]))
    array([nan,  2.])
    """
    is_known = np.isfinite(nats)
    starts = np.cumsum(patch_lengths) - patch_lengths  # (P,)
    counts = np.add.reduceat(is_known.astype(np.int64), starts)
    totals = np.add.reduceat(np.where(is_known, nats, 0.0), starts)
    return np.where(counts > 0, totals / np.maximum(counts, 1) / np.log(2), np.nan)


def split_characters(ids: Sequence[int]) -> Iterator[tuple[int, str]]:
    """
    Yield the cells that show ids: how many ids each stands for, and its label.

    Args:
        ids (`Sequence[int]`): of one patch. A character that the patch holds in part is shown as bytes.

    Returns:
        iterator over `(int, str)`. A label of one character is shown as it is. Hexadecimal digits, two a row, stand
        for a byte (one row) or for a character that the fonts lack (its code point, two or three rows), and `⟨id⟩`
        for a special token.

    >>> list(split_characters([*"é\\n中".encode(), 0x00, 0xFF, 257]))
    [(2, 'é'), (1, '⏎'), (3, '4E\\n2D'), (1, '00'), (1, 'FF'), (1, '⟨257⟩')]
    """
    start = 0
    while start < len(ids):
        size, label = _read_character(ids[start : start + 4])
        yield size, label
        start += size


def plot_patches(
    ids_or_bytes: bytes | Sequence[int] | np.ndarray,
    patch_lengths: Sequence[int] | np.ndarray,
    nats: Sequence[float] | np.ndarray | None = None,
    title: str | None = None,
    bytes_per_line: int = 80,
) -> Figure:
    """
    Draw text with a rectangle behind each patch, coloured by its mean bits per byte.

    Each character has one cell, however many bytes it has; `split_characters` says what it shows. The numbers on the
    left count the bytes before the line.

    Args:
        ids_or_bytes (`bytes`, or integers of shape `(N,)`): the text, as bytes or as ids, from 256 on special tokens.
        patch_lengths (integers of shape `(P,)`): bytes of each patch, at least 1, N in sum.
        nats (floats of shape `(N,)`, *optional*): loss of each byte in nats; NaN for a byte without one, such as the
            first. Without them, two colours alternate.
        title (`str`, *optional*): drawn on top.
        bytes_per_line (`int`): most bytes on a line. A patch that continues on the next line has a rectangle on both.

    Returns:
        `matplotlib.figure.Figure`, not shown.

    Raises:
        `TypeError`: for text that is not encoded.
        `ValueError`: for no bytes, or lengths and losses that do not fit them.

    Example:

    >>> figure = plot_patches(b"the cat", [4, 3])
    >>> len(figure.axes[0].patches)
    2
    """
    ids = _check_ids(ids_or_bytes)
    lengths = _check_lengths(patch_lengths, len(ids))
    if bytes_per_line < 1:
        raise ValueError(f"`bytes_per_line` is {bytes_per_line}; it must be at least 1.")
    bits = None if nats is None else average_bits(_check_nats(nats, len(ids)), lengths)
    lines, line_starts = _break_lines(ids, lengths, bytes_per_line)
    num_cells = max(len(line) for line in lines)
    figure, axis, bar_axis = _build_axes(num_cells, line_starts, title, has_bar=bits is not None)
    if bits is None:
        colours = [to_rgb(ALTERNATING_COLOURS[patch % 2]) for patch in range(len(lengths))]
    else:
        highest = np.nanmax(bits, initial=0.0)
        scale = ScalarMappable(Normalize(0.0, highest if highest > 0 else 1.0), colormaps[COLOUR_MAP])
        colours = [scale.to_rgba(value)[:3] if np.isfinite(value) else to_rgb(UNKNOWN_COLOUR) for value in bits]
        colour_bar = figure.colorbar(scale, cax=bar_axis, orientation="horizontal")
        colour_bar.set_label("bits per byte", fontsize=7)
        colour_bar.ax.tick_params(labelsize=6)
        colour_bar.outline.set_visible(False)
    for row, line in enumerate(lines):
        _draw_line(axis, row, line, colours)
    return figure


def _check_ids(ids_or_bytes: bytes | Sequence[int] | np.ndarray) -> list[int]:
    """The ids as a list."""
    if isinstance(ids_or_bytes, str):
        raise TypeError("`ids_or_bytes` is text; it must be bytes (`text.encode()`) or token ids.")
    is_raw = isinstance(ids_or_bytes, (bytes, bytearray, memoryview))
    ids = np.asarray(list(bytes(ids_or_bytes)) if is_raw else ids_or_bytes)
    if ids.size == 0:
        raise ValueError("`ids_or_bytes` is empty; it must have at least one byte.")
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.min() < 0:
        raise ValueError(
            f"`ids_or_bytes` has shape {ids.shape}, type {ids.dtype} and least value {ids.min()}; it must be bytes, "
            "or integers of shape (N,), 0 to 255 for bytes and higher for special tokens."
        )
    return ids.tolist()


def _check_lengths(patch_lengths: Sequence[int] | np.ndarray, num_bytes: int) -> np.ndarray:
    """The lengths as an array."""
    lengths = np.asarray(patch_lengths)
    if lengths.ndim != 1 or lengths.size == 0 or lengths.dtype.kind not in "iu":
        raise ValueError(
            f"`patch_lengths` has shape {lengths.shape} and type {lengths.dtype}; it must be integers of shape (P,), "
            "and not empty."
        )
    if lengths.min() < 1:
        raise ValueError(f"`patch_lengths` holds {lengths.min()}; it must be at least 1. Remove empty patches.")
    if lengths.sum() != num_bytes:
        raise ValueError(f"`patch_lengths` sum to {lengths.sum()}; `ids_or_bytes` has {num_bytes}. Both must agree.")
    return lengths.astype(np.int64)


def _check_nats(nats: Sequence[float] | np.ndarray, num_bytes: int) -> np.ndarray:
    """The losses as an array."""
    nats = np.asarray(nats, dtype=np.float64)
    if nats.shape != (num_bytes,):
        raise ValueError(f"`nats` has shape {nats.shape}; it must be ({num_bytes},), NaN for a byte without a loss.")
    if np.isinf(nats).any() or np.nanmin(nats, initial=0.0) < 0:
        raise ValueError(
            f"`nats` is between {np.nanmin(nats)} and {np.nanmax(nats)}; losses must be finite and at least 0. "
            "Negate log-probabilities."
        )
    return nats


@cache
def _find_font(character: str) -> str | None:
    """The first font that can show a character."""
    for name in FONTS:
        if get_font(findfont(name)).get_char_index(ord(character)):
            return name
    return None


def _read_character(ids: Sequence[int]) -> tuple[int, str]:
    """How many ids the first cell stands for, and its label."""
    if ids[0] >= NUM_BYTES:
        return 1, f"⟨{ids[0]}⟩"
    for size in range(1, len(ids) + 1):
        try:
            character = bytes(ids[:size]).decode()
        except ValueError:  # not UTF-8, or a special token
            continue
        return size, _show_character(character)
    return 1, f"{ids[0]:02X}"


def _show_character(character: str) -> str:
    """The character, or digits where no font can show it."""
    if character in SHOWN_CHARACTERS:
        return SHOWN_CHARACTERS[character]
    if character.isprintable() and _find_font(character):
        return character
    digits = f"{ord(character):X}"
    num_digits = 2 if ord(character) < 0x80 else max(4, len(digits) + len(digits) % 2)
    digits = digits.zfill(num_digits)
    return "\n".join(digits[start : start + 2] for start in range(0, num_digits, 2))


def _break_lines(
    ids: list[int], lengths: np.ndarray, bytes_per_line: int
) -> tuple[list[list[tuple[int, str]]], list[int]]:
    """The cells of each line, as patch and label, and the number of bytes before it."""
    lines, line_starts, position, start = [[]], [0], 0, 0
    for patch, length in enumerate(lengths.tolist()):
        for size, label in split_characters(ids[start : start + length]):
            if lines[-1] and position + size - line_starts[-1] > bytes_per_line:
                lines.append([])
                line_starts.append(position)
            lines[-1].append((patch, label))
            position += size
        start += length
    return lines, line_starts


def _build_axes(
    num_cells: int, line_starts: list[int], title: str | None, has_bar: bool
) -> tuple[Figure, Axes, Axes | None]:
    """A figure whose text area has exactly the size of its cells, with room for a title and a colour bar."""
    num_lines = len(line_starts)
    text_width, text_height = max(num_cells * CELL_WIDTH, LEAST_WIDTH), num_lines * LINE_HEIGHT
    left = MARGIN + 6 + 4 * len(str(line_starts[-1]))
    bottom, top = MARGIN + (36 if has_bar else 0), MARGIN + (14 if title else 0)
    width, height = left + text_width + MARGIN, bottom + text_height + top
    figure = Figure(figsize=(width / 72, height / 72))
    axis = figure.add_axes((left / width, bottom / height, text_width / width, text_height / height))
    axis.set(xlim=(0, text_width / CELL_WIDTH), ylim=(num_lines - 0.5, -0.5), xticks=[])
    axis.set_yticks(range(num_lines), [str(start) for start in line_starts], fontsize=6, color="grey")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if title:
        figure.suptitle(title, x=left / width, y=1 - MARGIN / height, ha="left", fontsize=9, parse_math=False)
    if not has_bar:
        return figure, axis, None
    bar_position = (left / width, (MARGIN + 22) / height, min(text_width, LEAST_WIDTH) / width, 6 / height)
    return figure, axis, figure.add_axes(bar_position)


def _draw_line(axis: Axes, row: int, line: list[tuple[int, str]], colours: list[tuple[float, float, float]]):
    """A rectangle behind each patch of the line, and its characters."""
    height, gap, first = BAR_HEIGHT / LINE_HEIGHT, 0.06, 0
    for column, (patch, label) in enumerate(line):
        if column + 1 == len(line) or line[column + 1][0] != patch:
            corner = (first + gap, row - height / 2)
            axis.add_patch(Rectangle(corner, column + 1 - first - 2 * gap, height, color=colours[patch], lw=0))
            first = column + 1
        if label:
            _draw_label(axis, column + 0.5, row, label, colours[patch])


def _draw_label(axis: Axes, x: float, y: float, label: str, background: tuple[float, float, float]):
    """The label, black or white, whichever is easier to read."""
    style = {"fontfamily": next(iter(FONTS)), "fontsize": SMALL_FONT, "linespacing": 0.9}
    if len(label) == 1:
        name = _find_font(label)
        style = {"fontfamily": name, "fontsize": FONTS[name]}
    elif label.startswith("⟨"):  # along the cell's height
        style |= {"rotation": "vertical", "fontsize": min(SMALL_FONT, BAR_HEIGHT / (0.62 * len(label)))}
    is_dark = np.dot(background, (0.299, 0.587, 0.114)) < 0.4  # luma of ITU-R BT.601
    style |= {"va": "center" if len(label) > 1 else "center_baseline", "color": "white" if is_dark else "black"}
    axis.text(x, y, label, ha="center", parse_math=False, clip_on=False, **style)


__all__ = ["average_bits", "plot_patches", "split_characters"]
