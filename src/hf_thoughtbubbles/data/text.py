# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Loading of documents from files, the Hub and the standard library."""

import codecs
import hashlib
import itertools
import json
import mmap
import os
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError
from pyarrow import ArrowInvalid

from .packing import CUT_CONTEXT, CUT_WINDOW, TEXT_FEATURES, check_texts, get_columns, pack_blocks


STANDARD_LIBRARY = "stdlib"
LOADERS = {".txt": "text", ".md": "text", ".py": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
SPLIT_SEED = 0
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ROW_BYTES = 1 << 20  # of a text file in one row
ROWS_PER_WRITE = 4


def read_standard_library() -> Dataset:
    """
    Load the source files of the running Python's standard library, without its tests: text that every Python brings.

    Every line end is read as `\\n`, so that all systems have the same text.

    Returns:
        `Dataset` with columns `path` and `text`, one row per file, sorted by path.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    rows: dict[str, list[str]] = {"path": [], "text": []}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if SKIPPED_FOLDERS.isdisjoint(name.parts):
            with tokenize.open(path) as file:  # honours the file's own encoding line
                text = file.read()
            if text:
                rows["path"].append(name.as_posix())
                rows["text"].append(text)
    return Dataset.from_dict(rows)


def load_text(
    source: str | os.PathLike | Sequence[str | os.PathLike] = STANDARD_LIBRARY,
    name: str | None = None,
    text_column: str = "text",
    validation_share: float = 0.05,
    streaming: bool = False,
) -> DatasetDict | IterableDatasetDict:
    """
    Load documents for training and for validation.

    Args:
        source (`str`, path, or list of paths): `"stdlib"` for the running Python's standard library, local files
            (`.txt .md .py .json .jsonl .parquet`, all of one kind; a text file is one document, with its line ends and
            byte-order mark as they are), or the name of a dataset on the Hub.
        name (`str`, *optional*): configuration of a Hub dataset.
        text_column (`str`): name of the column with the documents.
        validation_share (`float`): share of the documents for validation, between 0 and 1, when the source has no
            `validation` split. Documents are not divided, except a single one: its end is then validation.
        streaming (`bool`): read during training instead of before.

    Returns:
        `DatasetDict` (or `IterableDatasetDict`) with splits `train` and `validation`, and column `text`. A text file
        above 2 MB takes several rows in turn, which [`pack_blocks`] joins by the columns `text_before` and
        `text_after`, a little of the text around each.

    Raises:
        `ValueError`: for a missing, empty or unreadable file, an unknown kind of file, or a missing column. Of JSON
            lines it names the file and the line; in a stream it is raised when that line is read.
    """
    if not 0 < validation_share < 1:
        raise ValueError(f"`validation_share` is {validation_share}; it must be between 0 and 1.")
    splits = _load_splits(source, name, text_column, validation_share, streaming)
    if "train" not in splits:
        raise ValueError(f"{source!r} has the splits {sorted(splits)}; a `train` split is needed.")
    splits = {split: splits[split] for split in ("train", "validation") if split in splits}
    for split, rows in splits.items():
        columns = get_columns(rows)
        if text_column not in columns:
            raise ValueError(
                f"{source!r} has no column `{text_column}`; its columns are {columns}. Set `text_column`."
            )
        if text_column != "text":
            splits[split] = rows.select_columns([text_column]).rename_column(text_column, "text")
    if "validation" not in splits:
        divide = _divide_stream if streaming else _divide_rows
        splits = divide(splits["train"], validation_share)
    kind = IterableDatasetDict if streaming else DatasetDict
    return kind(splits)


def _load_splits(source, name: str | None, text_column: str, share: float, streaming: bool) -> dict:
    sources = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    if [str(given) for given in sources] == [STANDARD_LIBRARY]:
        rows = read_standard_library()
        return {"train": rows.to_iterable_dataset() if streaming else rows}
    paths = [Path(given).expanduser() for given in sources if str(given)]
    if not paths or len(paths) != len(sources):
        raise ValueError(f"`source` is {source!r}; pass the name of a dataset or at least one file.")
    if len(paths) == 1 and not paths[0].exists() and paths[0].suffix.lower() not in LOADERS:
        return dict(load_dataset(str(sources[0]), name, streaming=streaming))
    if name is not None:
        raise ValueError(
            f"`name` is {name!r}, but `source` names local files, which have no configurations. Remove it."
        )
    for path in paths:
        _check_file(path)
    kinds = {LOADERS[path.suffix.lower()] for path in paths}
    if len(kinds) != 1:
        raise ValueError(f"`source` names files of the kinds {sorted(kinds)}; pass files of one kind.")
    kind, names = kinds.pop(), [str(path) for path in paths]
    if kind == "text":
        return _load_files(paths, share, streaming)
    is_lines = kind == "json" and all(_has_json_lines(path) for path in paths)
    if is_lines and streaming:
        options = {"paths": names, "text_column": text_column}
        return {"train": IterableDataset.from_generator(read_json_lines, gen_kwargs=options)}
    try:
        for path in paths if is_lines else ():
            with path.open("rb") as file:
                for line in file:
                    line.decode()  # datasets would load what is not UTF-8, and fail where a row is read
        return dict(load_dataset(kind, data_files=names, streaming=streaming))
    except (DatasetGenerationError, ArrowInvalid, ValueError) as error:
        if is_lines:
            for _ in read_json_lines(names):  # raises an error that names the line
                pass
        reason = error.__cause__ or error
        raise ValueError(f"`source` names {paths}, which could not be read as {kind}: {reason}") from error


def _load_files(paths: list[Path], share: float, streaming: bool) -> dict:
    """Splits of text files: some of the files, or the end of the only one. The hash is for the cache of `datasets`."""
    files = [(str(path), 0, path.stat().st_size, _hash_text(path)) for path in paths]
    if len(files) == 1:
        (name, _, size, digest), middle = files[0], _find_middle(paths[0], share)
        parts = {"train": [(name, 0, middle, digest)], "validation": [(name, middle, size, digest)]}
    else:
        numbers = _divide_rows(Dataset.from_dict({"file": range(len(files))}), share)
        parts = {split: [files[number] for number in rows["file"]] for split, rows in numbers.items()}
    if streaming:
        return {
            split: IterableDataset.from_generator(read_documents, TEXT_FEATURES, {"files": part})
            for split, part in parts.items()
        }
    options = {"features": TEXT_FEATURES, "writer_batch_size": ROWS_PER_WRITE}
    return {
        split: Dataset.from_generator(read_documents, gen_kwargs={"files": part}, **options)
        for split, part in parts.items()
    }


def _hash_text(path: Path) -> str:
    """A hash of a file's content; raises where it is not UTF-8."""
    decoder, content = codecs.getincrementaldecoder("utf-8")(), hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        data = b"any"
        while data:
            data = file.read(ROW_BYTES)
            content.update(data)
            try:
                decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                position, byte = file.tell() - len(error.object) + error.start, error.object[error.start]
                raise ValueError(
                    f"`source` names {path}, which is not UTF-8 text: byte {byte:#04x} in position {position}, "
                    f"{error.reason}. Convert it first."
                ) from error
    return content.hexdigest()


def _find_middle(path: Path, share: float) -> int:
    """Where the only document is divided: at the end of a line if possible."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        limit = int(len(data) * (1 - share))
        middle = data.rfind(b"\n", 0, limit) + 1 or limit
        while middle and data[middle] & 0xC0 == 0x80:  # inside a character
            middle -= 1
        if not middle:
            raise ValueError(f"The only document has {len(data)} bytes, too few for a validation split. Add text.")
        return middle


def read_documents(files: list[tuple]) -> Iterator[dict[str, str]]:
    """
    Read each file, named by path, first and last byte, as one document, with its line ends as they are.

    A file above 2 MB takes several rows, with the end of the row before and the beginning of the row after.
    """
    for name, start, stop, *_ in files:
        decoder, num_rows = codecs.getincrementaldecoder("utf-8")(), max(1, (stop - start) // ROW_BYTES)
        sizes = [ROW_BYTES] * (num_rows - 1) + [stop - start - (num_rows - 1) * ROW_BYTES]
        with open(name, "rb") as file:
            file.seek(start)
            before, texts = "", (decoder.decode(file.read(size)) for size in sizes)
            for text, following in itertools.pairwise(itertools.chain(texts, [""])):
                yield {"text": text, "text_before": before, "text_after": following[:CUT_WINDOW]}
                before = text[-CUT_CONTEXT:]


def _has_json_lines(path: Path) -> bool:
    """Whether a JSON file has an object in each line, not one list or object over all lines."""
    with path.open("rb") as file:
        first = file.readline().removeprefix(BYTE_ORDER_MARK).strip()
    return first.startswith(b"{") and first != b"{"


def read_json_lines(paths: list[str], text_column: str | None = None) -> Iterator[dict]:
    """Read the object in each line. An error names the file and the line, counted from 1."""
    for path in paths:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                content = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                if not content.strip():
                    continue
                where = f"`source` names {path}, whose line {number}"
                try:
                    row = json.loads(content)
                except ValueError as error:
                    raise ValueError(f"{where} could not be read as json: {error}. Correct or remove it.") from error
                if not isinstance(row, dict):
                    raise ValueError(f"{where} could not be read as json: it is {row!r}, not an object. Correct it.")
                if text_column is not None and text_column not in row:
                    raise ValueError(
                        f"{where} has no column `{text_column}`; its columns are {list(row)}. Set `text_column`."
                    )
                yield row


def _check_file(path: Path):
    """Raise for a file that cannot be loaded; the loaders' own errors do not name the cause."""
    if not path.is_file():
        found = "a folder; pass the files in it" if path.is_dir() else "not a file. Check the path"
        raise ValueError(f"`source` names {path}, which is {found}.")
    if path.suffix.lower() not in LOADERS:
        raise ValueError(f"`source` names {path}; files must end in one of {sorted(LOADERS)}.")
    if path.stat().st_size == 0:
        raise ValueError(f"`source` names {path}, which is empty. Remove it or fill it.")


def _divide_rows(rows: Dataset, share: float) -> dict[str, Dataset]:
    if len(rows) == 1:
        text = rows[0]["text"]
        check_texts([text])
        middle = text.rfind("\n", 0, int(len(text) * (1 - share))) + 1 or int(len(text) * (1 - share))
        if not 0 < middle < len(text):
            raise ValueError(
                f"The only document has {len(text)} characters, too few for a validation split. Add text."
            )
        parts = {"train": text[:middle], "validation": text[middle:]}
        return {split: Dataset.from_dict({"text": [part]}) for split, part in parts.items()}
    num_validation = min(max(1, round(len(rows) * share)), len(rows) - 1)
    parts = rows.train_test_split(test_size=num_validation, seed=SPLIT_SEED)
    return {"train": parts["train"], "validation": parts["test"]}


def _divide_stream(rows: IterableDataset, share: float) -> dict[str, IterableDataset]:
    """Divide a stream by a hash of each document, so that both passes over the stream agree."""

    def is_validation(row):
        check_texts([row["text"]])
        digest = hashlib.blake2b(row["text"].encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < share * (1 << 64)

    parts = {"train": rows.filter(lambda row: not is_validation(row)), "validation": rows.filter(is_validation)}
    for split, part in parts.items():
        if next(iter(part), None) is None:
            raise ValueError(
                f"No document of the stream belongs to {split} at `validation_share` {share}. Use more documents, a "
                "source with a `validation` split, or `streaming=False`."
            )
    return parts


__all__ = ["check_texts", "get_columns", "load_text", "pack_blocks", "read_standard_library"]
