# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Loads untrusted `.npz` files safely: nothing is unpickled, and sizes are checked before memory is allocated."""

import io
import math
import os
import tokenize
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy


HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
MAX_HEADER_BYTES = 4096  # of one array: its type and shape take about 100
NUMBER_KINDS = "biuf"  # booleans, integers and floats; objects would be pickles
COMPRESSIONS = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}  # largest expansion of one byte
# Weights hardly compress, so a file that expands more is not a checkpoint, unless it is small.
SIZE_RATIO, SMALL_BYTES = 16, 2**26
# Exceptions of the standard library and numpy for broken archives.
BROKEN = (
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError, EOFError, IndexError, OSError, OverflowError, RuntimeError),
    *(SyntaxError, TypeError, ValueError),
)


def _check_entries(entries: list[zipfile.ZipInfo], num_bytes: int, max_bytes: int):
    """Raise for names that lead out of the archive or repeat, and for sizes that are impossible or too large."""
    seen = set()
    for entry in entries:
        path, name = PurePosixPath(entry.filename), entry.filename
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or path.suffix != ".npy":
            raise ValueError(f"{name!r} is not a name of an array; it must end in .npy and stay in the archive")
        if name in seen:
            raise ValueError(f"{name!r} is in the archive twice")
        seen.add(name)
        if entry.compress_type not in COMPRESSIONS:
            raise ValueError(f"{name!r} is neither stored nor deflated; save it with `numpy.savez`")
        most = COMPRESSIONS[entry.compress_type] * min(entry.compress_size, num_bytes)
        if entry.file_size > most:
            raise ValueError(f"{name!r} claims {entry.file_size} bytes, but its stored bytes give at most {most}")
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise ValueError(
            f"its arrays take {total} bytes, more than `max_bytes` {max_bytes}; raise it if you trust the file"
        )


def _check_header(member: BinaryIO, entry: zipfile.ZipInfo):
    """Raise for an array that does not hold numbers, or whose shape does not fit the size of its data."""
    start = io.BytesIO(member.read(MAX_HEADER_BYTES))
    version = npy.read_magic(start)
    if version not in HEADER_READERS:
        raise ValueError(f"{entry.filename!r} is of version {version}; known are {[*HEADER_READERS]}")
    shape, _, dtype = HEADER_READERS[version](start)
    if dtype.kind not in NUMBER_KINDS:
        raise ValueError(f"{entry.filename!r} has elements of type {dtype}; they must be numbers")
    claimed, held = math.prod(shape) * dtype.itemsize, entry.file_size - start.tell()
    if claimed != held or min(shape, default=0) < 0:
        raise ValueError(f"{entry.filename!r} claims shape {shape}, {claimed} bytes, but has {held}")


def load_arrays(path: str | os.PathLike, max_bytes: int | None = None) -> dict[str, np.ndarray]:
    """
    Load the arrays of an `.npz` file by name, all or none.

    Nothing is unpickled or written. Names, types and sizes are checked against the content of the file before memory
    is allocated for any array.

    Args:
        path (`str` or `os.PathLike`): a file that `numpy.savez` or `numpy.savez_compressed` wrote.
        max_bytes (`int`, *optional*): largest memory of all arrays together, in bytes (default: 16 times the size of
            the file, but at least 64 MiB).

    Returns:
        `dict[str, np.ndarray]`: arrays of booleans, integers or floats.

    Raises:
        `ValueError`: for a file that fails a check; names the file and the error.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/two.npz", **{"wte": np.ones((2, 3)), "ln_f/weight": np.arange(3)})
    ...     {name: array.shape for name, array in load_arrays(f"{folder}/two.npz").items()}
    {'wte': (2, 3), 'ln_f/weight': (3,)}
    """
    num_bytes = os.path.getsize(path)
    if max_bytes is None:
        max_bytes = max(SIZE_RATIO * num_bytes, SMALL_BYTES)
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                _check_entries(entries, num_bytes, max_bytes)
                for entry in entries:
                    with archive.open(entry) as member:
                        _check_header(member, entry)
                arrays = {}
                for entry in entries:
                    with archive.open(entry) as member:
                        arrays[entry.filename.removesuffix(".npy")] = npy.read_array(member, allow_pickle=False)
        except BROKEN as error:
            raise ValueError(f"{os.fspath(path)!r} is not an .npz file of arrays of numbers: {error}.") from error
    return arrays


__all__ = ["load_arrays"]
