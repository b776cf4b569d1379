# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Untrusted `.npz` files: hostile ones raise one clear error before memory is allocated, good ones load exactly."""

import ast
import io
import re
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from hf_thoughtbubbles.conversion.arrays import load_arrays


SOURCES = Path(__file__).parents[2] / "src" / "hf_thoughtbubbles"
ALLOWED_BYTES = 2**20  # of memory until the error: the files are small, but they claim large arrays
CLAIMED = 10**12
LIMIT = 2**22  # bytes to which small files may expand in these tests


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def write_header(shape: tuple[int, ...], descr: str = "<f4", version: tuple[int, int] = (1, 0)) -> bytes:
    """The header of an array of that shape in a file."""
    buffer = io.BytesIO()
    write = npy.write_array_header_1_0 if version == (1, 0) else npy.write_array_header_2_0
    write(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def write_array(array: np.ndarray) -> bytes:
    """The bytes of an array in a file; objects are pickled."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_archive(
    path: Path, entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED, claimed: int | None = None
) -> Path:
    """An archive of named entries; `claimed` is the size of the first in the list at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about a name that occurs twice
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in entries:
                archive.writestr(name, content)
            if claimed is not None:
                archive.infolist()[0].file_size = claimed
    return path


def build_hostile(name: str, path: Path) -> Path:
    """A hostile archive."""
    good = write_array(np.arange(3.0))
    if name == "not an archive":
        path.write_bytes(good)
        return path
    if name == "cut off":
        whole = write_archive(path, [("a.npy", good)]).read_bytes()
        path.write_bytes(whole[:-30])
        return path
    if name == "encrypted":
        whole = bytearray(write_archive(path, [("a.npy", good)]).read_bytes())
        whole[6] |= 1  # the flag, before the entry
        whole[whole.rindex(b"PK\x01\x02") + 8] |= 1  # and in the list
        path.write_bytes(whole)
        return path
    deflated, lzma = zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA
    entries, method, claimed = {
        "pickled objects": ([("a.npy", write_array(np.array([Trap(path.with_name("sprung"))])))], deflated, None),
        "text": ([("a.npy", write_array(np.array(["a", "b"])))], deflated, None),
        "records": ([("a.npy", write_array(np.zeros(2, dtype=[("x", "f4"), ("y", "i4")])))], deflated, None),
        "huge shape": ([("a.npy", write_header((CLAIMED // 4,)) + bytes(64))], deflated, None),
        "shape that overflows": ([("a.npy", write_header((2**32, 2**32, 2**2)))], deflated, None),
        "negative shape": ([("a.npy", write_header((-2, -3)) + bytes(24))], deflated, None),
        "more than its shape": ([("a.npy", good + bytes(8))], deflated, None),
        "stored size that is a lie": ([("a.npy", write_header((CLAIMED // 4,)))], zipfile.ZIP_STORED, CLAIMED),
        "deflated size that is a lie": ([("a.npy", write_header((CLAIMED // 4,)))], deflated, CLAIMED),
        "deflate bomb": ([("a.npy", write_header((LIMIT,), "|u1") + bytes(LIMIT))], deflated, None),
        "bomb in a header": ([("a.npy", b"\x93NUMPY\x02\x00\x00\x00\x20\x00" + bytes(2**21))], deflated, None),
        "many that fit alone": ([(f"{i}.npy", good + bytes(LIMIT // 8)) for i in range(9)], deflated, None),
        "not in numpy's format": ([("a.npy", b"\x80\x04N." * 40)], deflated, None),
        "header that is code": ([("a.npy", write_header((3,)).replace(b"(3,)", b"f(3)") + bytes(12))], deflated, None),
        "header with an open bracket": ([("a.npy", write_header((3,)).replace(b"(3,)", b"((3,"))], deflated, None),
        "header of a list": ([("a.npy", write_header((3,)).replace(b"'descr'", b"['des']"))], deflated, None),
        "shape of a truth": ([("a.npy", write_header((1234,)).replace(b"1234", b"True") + bytes(4))], deflated, None),
        "no type": ([("a.npy", write_header((3,)).replace(b"'<f4'", b"()   ") + bytes(12))], deflated, None),
        "later version": ([("a.npy", b"\x93NUMPY\x03\x00" + good[8:])], deflated, None),
        "above its folder": ([("../a.npy", good)], deflated, None),
        "absolute": ([("/a.npy", good)], deflated, None),
        "a drive": ([("C:\\a.npy", good)], deflated, None),
        "another kind of file": ([("a.npy", good), ("run.py", b"print()")], deflated, None),
        "twice": ([("a.npy", good), ("a.npy", good)], deflated, None),
        "rare compression": ([("a.npy", good)], lzma, None),
    }[name]
    return write_archive(path, entries, method, claimed)


HOSTILE = {
    "not an archive": "File is not a zip file",
    "cut off": "File is not a zip file",
    "encrypted": "encrypted",
    "pickled objects": "'a.npy' has elements of type object; they must be numbers",
    "text": "'a.npy' has elements of type <U1",
    "records": "'a.npy' has elements of type",
    "huge shape": rf"claims shape \({CLAIMED // 4},\), {CLAIMED} bytes, but has 64",
    "shape that overflows": f"{2**68} bytes, but has 0",
    "negative shape": r"claims shape \(-2, -3\)",
    "more than its shape": r"claims shape \(3,\), 24 bytes, but has 32",
    "stored size that is a lie": f"claims {CLAIMED} bytes, but its stored bytes give at most 128",
    "deflated size that is a lie": f"claims {CLAIMED} bytes, but its stored bytes",
    "deflate bomb": f"take {LIMIT + 128} bytes, more than `max_bytes` {LIMIT}",
    "bomb in a header": "EOF: reading array header",
    "many that fit alone": f"more than `max_bytes` {LIMIT}",
    "not in numpy's format": "magic string is not correct",
    "header that is code": "malformed node",
    "header with an open bracket": "",
    "header of a list": "",
    "shape of a truth": "",
    "no type": "",
    "later version": r"'a.npy' is of version \(3, 0\)",
    "above its folder": "'../a.npy' is not a name of an array",
    "absolute": "'/a.npy' is not a name of an array",
    "a drive": "is not a name of an array",
    "another kind of file": "'run.py' is not a name of an array",
    "twice": "'a.npy' is in the archive twice",
    "rare compression": "'a.npy' is neither stored nor deflated",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_before_memory_is_allocated(name, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_thoughtbubbles.conversion.arrays.SMALL_BYTES", LIMIT)
    path = build_hostile(name, tmp_path / "hostile.npz")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"hostile\.npz' is not an \.npz file of .*: .*{HOSTILE[name]}"):
            load_arrays(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < ALLOWED_BYTES
    assert [found.name for found in tmp_path.iterdir()] == ["hostile.npz"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_files_of_numpy_load_exactly(save, tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        "blocks_0/attn/c_attn/kernel": random.normal(size=(3, 5)).astype(np.float32),
        "half": random.normal(size=7).astype(np.float16),
        "turned": np.asfortranarray(random.normal(size=(2, 3, 4))),
        "counts": np.arange(-3, 3),
        "bytes": np.arange(256, dtype=np.uint8),
        "mask": np.array([True, False]),
        "number": np.array(1.5, dtype=">f8"),
        "empty": np.zeros((0, 4)),
        "zeros": np.zeros((400, 500)),  # a small file: it may unpack to far more than it holds
    }
    save(tmp_path / "good.npz", **arrays)
    loaded = load_arrays(tmp_path / "good.npz")
    assert [*loaded] == [*arrays]
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_max_bytes_limits_the_memory_of_all_arrays(tmp_path):
    np.savez_compressed(tmp_path / "some.npz", a=np.zeros(1000), b=np.zeros(500))
    size = 1500 * 8 + 2 * 128
    assert sorted(load_arrays(tmp_path / "some.npz", max_bytes=size)) == ["a", "b"]
    with pytest.raises(ValueError, match=f"its arrays take {size} bytes, more than `max_bytes` {size - 1}"):
        load_arrays(tmp_path / "some.npz", max_bytes=size - 1)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        load_arrays(tmp_path / "absent.npz")


@pytest.mark.parametrize(("save", "change"), [(np.savez, 0xFF), (np.savez_compressed, 0x01)])
def test_whatever_byte_is_damaged_the_arrays_are_right_or_refused(save, change, tmp_path):
    """Some bytes have no effect, such as the time of writing. A change of any other byte raises a `ValueError`."""
    path, array = tmp_path / "damaged.npz", np.arange(6, dtype=np.int16).reshape(2, 3)
    save(path, weights=array)
    whole, num_refused = path.read_bytes(), 0
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ change]) + whole[i + 1 :])
        try:
            loaded = load_arrays(path)
        except ValueError as error:
            num_refused += "damaged.npz" in str(error)
            continue
        assert [*loaded] == ["weights"]
        np.testing.assert_array_equal(loaded["weights"], array)
    assert num_refused > len(whole) / 2


def find_calls(path: Path) -> set[str]:
    """The functions that a source file calls, by name."""
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return {ast.unparse(call.func) for call in calls}


def test_no_source_file_runs_or_unpickles_what_it_reads():
    """Weights are read by safetensors and arrays by `load_arrays`; text of files is never run as code."""
    runs = re.compile(
        r"(eval|exec|compile|__import__|(\w+\.)*(torch|np|numpy|joblib)\.load|(\w+\.)*pickle\.\w+|os\.(system|popen)"
        r"|subprocess\.\w+|(shutil|tarfile|zipfile)\.unpack_archive|(\w+\.)*extractall)"
    )
    files = [*SOURCES.rglob("*.py")]
    assert len(files) > 50
    found = {path.name: calls for path in files if (calls := {c for c in find_calls(path) if runs.fullmatch(c)})}
    assert found == {}
