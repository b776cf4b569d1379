# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Loading of documents, and packing of documents into blocks of tokens."""

import hashlib
import itertools
import json
import os
import re
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value, load_dataset
from datasets.exceptions import DatasetGenerationError
from pyarrow import ArrowInvalid
from transformers import PreTrainedTokenizerBase


STANDARD_LIBRARY = "stdlib"
LOADERS = {".txt": "text", ".md": "text", ".py": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
SPLIT_SEED = 0
TEXT_FEATURES = Features({"text": Value("string")})
DOCUMENTS_PER_WRITE = 16
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PIECE_CHARACTERS = 1 << 16  # of a long document, tokenized at a time
GROUP_CHARACTERS = 1 << 18  # of several documents or pieces
CUT_CONTEXT = 256  # characters before and after a cut that are tokenized to check it
CUTS_TRIED = 64
WORD_BOUNDARY = re.compile(r"\b")


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
        `DatasetDict` (or `IterableDatasetDict`) with splits `train` and `validation`, and column `text`.

    Raises:
        `ValueError`: for a missing, empty or unreadable file, an unknown kind of file, or a missing column. Of JSON
            lines it names the file and the line; in a stream it is raised when that line is read.
    """
    if not 0 < validation_share < 1:
        raise ValueError(f"`validation_share` is {validation_share}; it must be between 0 and 1.")
    splits = _load_splits(source, name, text_column, streaming)
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


def get_columns(rows: Dataset | IterableDataset) -> list[str]:
    """Names of the columns, from the first row when a stream does not list them."""
    return rows.column_names or list(next(iter(rows), {}))


def _load_splits(source, name: str | None, text_column: str, streaming: bool) -> dict:
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
        return {"train": _load_documents(paths, streaming)}
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


def _load_documents(paths: list[Path], streaming: bool) -> Dataset | IterableDataset:
    if streaming:
        names = {"files": [(str(path),) for path in paths]}
        return IterableDataset.from_generator(read_documents, TEXT_FEATURES, names)
    # The cache of datasets is found by these arguments: a file that changed is read again.
    files = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
    options = {"features": TEXT_FEATURES, "writer_batch_size": DOCUMENTS_PER_WRITE}
    return Dataset.from_generator(read_documents, gen_kwargs={"files": files}, **options)


def read_documents(files: list[tuple]) -> Iterator[dict[str, str]]:
    """Read each file, named by the first entry of a tuple, as one document, with its line ends as they are."""
    for name, *_ in files:
        yield {"text": Path(name).read_bytes().decode()}


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
    if LOADERS[path.suffix.lower()] == "text":
        try:
            path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"`source` names {path}, which is not UTF-8 text: {error}. Convert it first.") from error


def check_texts(texts: list):
    """Raise for documents that are not text, because skipping them silently would hide a mistake."""
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"Column `text` holds {text!r}, which is not text. Remove such rows first.")


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


def pack_blocks(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    num_proc: int | None = None,
    documents_per_batch: int = 1000,
) -> Dataset | IterableDataset:
    """
    Join documents, an end-of-sequence token after each, and cut them into blocks of equal length.

    Blocks have no padding and no attention mask, so models use their fastest path. In each batch of
    `documents_per_batch` documents, the tokens after the last full block are dropped.

    A long document is tokenized in pieces, cut where the tokenizer gives the same tokens as for the whole. Tokenizers
    that do not divide text into words first get it whole, which takes 200 to 450 bytes of memory a token.

    Args:
        dataset (`Dataset` or `IterableDataset`): documents in a column `text`; other columns are dropped.
        tokenizer (`PreTrainedTokenizerBase`): any tokenizer; without an end-of-sequence token nothing separates
            documents.
        block_size (`int`): tokens per block, at least 2.
        num_proc (`int`, *optional*): number of processes that tokenize; not for streams.
        documents_per_batch (`int`): number of documents joined at a time.

    Returns:
        A dataset of the same kind with columns `input_ids` and `labels`, both `(block_size,)`.

    Raises:
        `ValueError`: when a block is shorter than 2 tokens, the documents do not fill a block, or one is not text.
    """
    if block_size < 2:
        raise ValueError(f"`block_size` is {block_size}; a block needs at least 2 tokens to predict one from another.")
    is_stream = isinstance(dataset, IterableDataset)
    if is_stream and num_proc is not None:
        raise ValueError(f"`num_proc` is {num_proc}, but one process reads a stream. Remove it.")
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def pack(batch):
        check_texts(batch["text"])
        joined = np.concatenate(list(_tokenize(batch["text"], tokenizer, end)), dtype=np.int64)
        full = joined[: len(joined) // block_size * block_size].reshape(-1, block_size)
        blocks = full.tolist() if is_stream else full
        return {"input_ids": blocks, "labels": blocks}

    options = {} if is_stream else {"num_proc": num_proc, "desc": "Packing"}
    columns = get_columns(dataset)
    blocks = dataset.map(pack, batched=True, batch_size=documents_per_batch, remove_columns=columns, **options)
    if not (next(iter(blocks), None) if is_stream else len(blocks)):
        raise ValueError(
            f"No {documents_per_batch} documents together have the `block_size` {block_size} tokens of one block. Use "
            "more text, shorter blocks or more `documents_per_batch`."
        )
    return blocks


def _tokenize(texts: list[str], tokenizer: PreTrainedTokenizerBase, end: list[int]) -> Iterator[np.ndarray]:
    """Token ids of documents, each with `end` after it, in arrays small enough for the tokenizer's memory."""
    options = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    for group in _group_pieces(texts, tokenizer):
        ids = tokenizer([piece for piece, _ in group], verbose=False, **options)["input_ids"]
        for piece_ids, (_, is_last) in zip(ids, group, strict=True):
            yield np.array(piece_ids + (end if is_last else []), dtype=np.int32)


def _group_pieces(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[tuple[str, bool]]]:
    """Documents and pieces of long ones, as many as are tokenized together, and whether a piece ends its document."""
    cuts_anywhere = max(map(len, tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys()), default=0) == 1
    group: list[tuple[str, bool]] = []
    size = 0
    for text in texts:
        bounds = [0, *_find_cuts(text, tokenizer, cuts_anywhere), len(text)]
        for start, stop in itertools.pairwise(bounds):
            if group and size + stop - start > GROUP_CHARACTERS:
                yield group
                group, size = [], 0
            group.append((text[start:stop], stop == len(text)))
            size += stop - start
    yield group


def _find_cuts(text: str, tokenizer: PreTrainedTokenizerBase, cuts_anywhere: bool) -> Iterator[int]:
    """Where a long document can be cut: the tokens of the pieces are those of the whole."""
    if not cuts_anywhere and (not tokenizer.is_fast or tokenizer.backend_tokenizer.pre_tokenizer is None):
        return
    position = PIECE_CHARACTERS
    while position < len(text):
        words = (found.start() for found in WORD_BOUNDARY.finditer(text, position, position + PIECE_CHARACTERS))
        places = itertools.chain([position] if cuts_anywhere else [], itertools.islice(words, CUTS_TRIED))
        cut = next((place for place in places if _is_exact_cut(text, place, tokenizer, cuts_anywhere)), None)
        if cut is not None:
            yield cut
        position = (cut or position) + PIECE_CHARACTERS


def _is_exact_cut(text: str, cut: int, tokenizer: PreTrainedTokenizerBase, cuts_anywhere: bool) -> bool:
    """Whether the text around a cut has the same tokens in two parts, and the tokenizer divides it there itself."""
    left, right = text[max(0, cut - CUT_CONTEXT) : cut], text[cut : cut + CUT_CONTEXT]
    whole, *parts = tokenizer([left + right, left, right], add_special_tokens=False, verbose=False)["input_ids"]
    if not right or whole != parts[0] + parts[1]:
        return False
    if cuts_anywhere:  # every token is one symbol
        return True
    backend = tokenizer.backend_tokenizer  # of a fast tokenizer
    normalize = backend.normalizer.normalize_str if backend.normalizer else str
    words = backend.pre_tokenizer.pre_tokenize_str(normalize(left + right))
    return len(normalize(left)) in {start for _, (start, _) in words}


__all__ = ["check_texts", "get_columns", "load_text", "pack_blocks", "read_standard_library"]
