# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Packing of documents into blocks of tokens."""

import functools
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, List, Value, concatenate_datasets
from datasets.fingerprint import Hasher
from datasets.table import InMemoryTable
from transformers import PreTrainedTokenizerBase

from ..tokenization.byte_tokenizer import build_byte_tokenizer
from ..version import __version__


TEXT_FEATURES = Features({name: Value("string") for name in ("text", "text_before", "text_after")})
ROWS_PER_READ = 64
DOCUMENTS_PER_BATCH = 16  # of a stream, tokenized together
PART_BYTES = 1 << 26  # of text, packed into one file
BATCH_BYTES = 1 << 20  # of text, packed at a time
PIECE_CHARACTERS = 1 << 16  # of a long document, tokenized at a time
GROUP_CHARACTERS = 1 << 18  # of several documents or pieces
CUT_CONTEXT = 256  # characters before and after a cut that are tokenized to check it
CUT_WINDOW = 1 << 12  # characters after a place in which a cut is searched
CUTS_TRIED = 64
TOKENIZING = {
    "add_special_tokens": False,
    "return_attention_mask": False,
    "return_token_type_ids": False,
    "verbose": False,
}
WORD_BOUNDARY = re.compile(r"\b")


def get_columns(rows: Dataset | IterableDataset) -> list[str]:
    """Names of the columns, from the first row when a stream does not list them."""
    return rows.column_names or list(next(iter(rows), {}))


def check_texts(texts: list):
    """Raise for documents that are not text, because skipping them silently would hide a mistake."""
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"Column `text` holds {text!r}, which is not text. Remove such rows first.")


def pack_blocks(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    position_ids: bool = False,
) -> Dataset | IterableDataset:
    """
    Join documents, an end-of-sequence token after each, and cut them into blocks of equal length.

    Only the tokens after the last full block of all documents are dropped. Blocks have no padding, no attention mask
    and no labels; [`collate_blocks`] adds labels to a batch. A long document is tokenized in pieces, cut where the
    tokenizer gives the same tokens as for the whole. Tokenizers that do not divide text into words first get it whole,
    which takes 200 to 450 bytes of memory a token.

    A `Dataset` is packed before this returns, in parts of 64 MB of text. Each part is a file in the cache folder of
    `datasets`, named by a hash of its documents, the tokenizer, the arguments and the tokens left by the part before.
    Equal data is not packed again, and a packing that was interrupted continues after the last complete part.

    An `IterableDataset` is packed while it is read. Its shards are those of `dataset`, for `shuffle`, for
    `split_by_node` and for workers of a `DataLoader`. Tokens left by one shard begin the next one; each process that
    reads drops its own last tokens. `state_dict` and `load_state_dict` continue with the same blocks.

    Args:
        dataset (`Dataset` or `IterableDataset`): documents in a column `text`, as from [`load_text`]; other columns
            are dropped.
        tokenizer (`PreTrainedTokenizerBase`): any tokenizer; without an end-of-sequence token nothing separates
            documents. The ids of [`build_byte_tokenizer`] are copied from the text's bytes.
        block_size (`int`): tokens per block, at least 2.
        position_ids (`bool`): add positions that begin at 0 with every document and every block, so that models keep
            documents apart.

    Returns:
        A dataset of the same kind with columns `input_ids` and, if asked for, `position_ids`, both `(block_size,)`.

    Raises:
        `ValueError`: when a block is shorter than 2 tokens, the documents do not fill a block, one is not text, or a
            text file above 2 MB has no place where this tokenizer can cut it.
    """
    if block_size < 2:
        raise ValueError(f"`block_size` is {block_size}; a block needs at least 2 tokens to predict one from another.")
    packer = _Packer(tokenizer, block_size, position_ids)
    blocks = _pack_stream(dataset, packer) if isinstance(dataset, IterableDataset) else _pack_rows(dataset, packer)
    if next(iter(blocks), None) is None:
        raise ValueError(
            f"All documents together do not have the `block_size` {block_size} tokens of one block. Use more text or "
            "shorter blocks."
        )
    return blocks


def _pack_stream(dataset: IterableDataset, packer: "_Packer") -> IterableDataset:
    """`datasets` joins rows of one token each to blocks, across shards, and keeps their number in its states."""
    rows = dataset.with_format("arrow")
    options = {"batched": True, "batch_size": DOCUMENTS_PER_BATCH, "remove_columns": get_columns(dataset)}
    tokens = rows.map(packer.read_tokens, features=packer.token_features, **options)
    options = {"batched": True, "batch_size": packer.block_size, "drop_last_batch": True}
    return tokens.map(packer.read_block, features=packer.features, **options).with_format(None)


def _pack_rows(dataset: Dataset, packer: "_Packer") -> Dataset:
    """The blocks of all parts, each packed or found in the cache. The last row of a part begins the next one."""
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "packed_blocks"
    folder.mkdir(parents=True, exist_ok=True)
    rest, start, parts = packer.token_schema.empty_table(), 0, []
    while start < len(dataset):
        table, contents = _read_part(dataset, start)
        key = Hasher.hash([packer.key, contents, rest.to_pydict()])
        part = Dataset(InMemoryTable(table), fingerprint=key).with_format("arrow")
        part = part.map(
            functools.partial(packer.pack_batch, state={"rest": rest, "num_rows": len(table)}),
            with_indices=True,
            batched=True,
            batch_size=max(1, len(table) * BATCH_BYTES // max(1, table.nbytes)),
            features=packer.features,
            cache_file_name=str(folder / f"{key}.arrow"),
            new_fingerprint=key,
            desc="Packing",
        )
        rest, start = packer.read_rest(part[-1]), start + len(table)
        del table  # with the pages that it maps
        parts.append(part.with_format(None).select(range(len(part) - 1)))
    return concatenate_datasets(parts) if parts else dataset


def _read_part(dataset: Dataset, start: int) -> tuple[pa.Table, list[str]]:
    """Documents from row `start` on, and hashes of them."""
    tables, size, contents = [], 0, []
    for table in dataset.select(range(start, len(dataset))).with_format("arrow").iter(ROWS_PER_READ):
        table = table.select([name for name in TEXT_FEATURES if name in table.column_names])
        columns = [_read_bytes(table, name) for name in table.column_names]
        ends = columns[0][1][1:]
        num_rows = min(int(np.searchsorted(ends, PART_BYTES - size)) + 1, len(table))
        for data, bounds in columns:
            contents.append(Hasher.hash_bytes([data[: bounds[num_rows]], bounds[: num_rows + 1]]))
        tables.append(table.slice(0, num_rows))
        size += int(ends[num_rows - 1])
        if size >= PART_BYTES:
            break
    return pa.concat_tables(tables), contents


def _read_bytes(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 bytes of a column of text, and the bounds of its rows `(num_rows + 1,)`."""
    column = table[name].combine_chunks()
    if column.null_count or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        check_texts(column.to_pylist())
    column = column.cast(pa.large_string())
    _, bounds, data = column.buffers()
    bounds = np.frombuffer(bounds, np.int64)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]], bounds - bounds[0]


def _has_byte_ids(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether all ids of a text are its bytes, as with `build_byte_tokenizer`."""
    if not tokenizer.is_fast or not tokenizer.split_special_tokens:
        return False
    ours, theirs = (json.loads(each.backend_tokenizer.to_str()) for each in (build_byte_tokenizer(), tokenizer))
    return all(ours[name] == theirs[name] for name in ("normalizer", "pre_tokenizer", "model"))


class _Packer:
    """Tokenizes tables of documents, and cuts the tokens into blocks. Shapes: T tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, block_size: int, position_ids: bool):
        tokenizer([""], **TOKENIZING)  # removes what other calls have set in its backend
        self.tokenizer, self.block_size = tokenizer, block_size
        self.end = tokenizer.eos_token_id
        self.has_byte_ids = _has_byte_ids(tokenizer)
        words = tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys()
        self.cuts_anywhere = max(map(len, words), default=0) == 1
        self.id_type = np.min_scalar_type(max(tokenizer.get_vocab().values()))
        self.position_type = np.min_scalar_type(block_size)
        types, token_types = {"input_ids": self.id_type.name}, {"input_ids": self.id_type.name}
        if position_ids:
            types["position_ids"], token_types["is_first"] = self.position_type.name, "bool"
        self.features = Features({name: List(Value(dtype)) for name, dtype in types.items()})
        self.token_features = Features({name: Value(dtype) for name, dtype in token_types.items()})
        self.schema, self.token_schema = self.features.arrow_schema, self.token_features.arrow_schema  # slow to build
        state = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else tokenizer
        self.key = Hasher.hash([__version__, state, tokenizer.split_special_tokens, self.end, block_size, types])

    def read_tokens(self, table: pa.Table) -> pa.Table:
        """A row for each token of the documents, and whether it begins a document."""
        names = table.column_names
        has_before, has_after = (
            np.diff(_read_bytes(table, name)[1]) > 0 if name in names else np.zeros(len(table), bool)
            for name in ("text_before", "text_after")
        )
        ids, bounds = _read_bytes(table, "text") if self.has_byte_ids else self._tokenize(table)  # (T,)
        if self.end is not None:
            ends = bounds[1:][~has_after]
            ends += np.arange(len(ends))
            is_text = np.ones(len(ids) + len(ends), bool)
            is_text[ends] = False
            text_ids, ids = ids, np.full(len(is_text), self.end, self.id_type)
            ids[is_text] = text_ids
            bounds = bounds + np.append(0, np.cumsum(~has_after))
        columns = {"input_ids": ids}
        if "is_first" in self.token_features:
            columns["is_first"] = np.zeros(len(ids) + 1, bool)  # one more for a last document without tokens
            columns["is_first"][bounds[:-1][~has_before]] = True
            columns["is_first"] = columns["is_first"][:-1]
        return pa.table(columns, schema=self.token_schema)

    def pack_batch(self, table: pa.Table, indices: list[int], state: dict) -> pa.Table:
        """Blocks of the tokens left before and of the documents; the last row of a part has the tokens then left."""
        blocks = self._cut(pa.concat_tables([state["rest"], self.read_tokens(table)]))
        if indices[-1] + 1 == state["num_rows"]:
            return blocks
        state["rest"] = self.read_rest(blocks.slice(len(blocks) - 1))
        return blocks.slice(0, len(blocks) - 1)

    def read_block(self, tokens: pa.Table) -> pa.Table:
        """A block of as many tokens."""
        return self._cut(tokens).slice(0, 1)

    def read_rest(self, block: pa.Table) -> pa.Table:
        """The tokens of a row."""
        columns = {"input_ids": block["input_ids"].combine_chunks().flatten()}
        if "is_first" in self.token_features:
            columns["is_first"] = pc.equal(block["position_ids"].combine_chunks().flatten(), 0)
        return pa.table(columns, schema=self.token_schema)

    def _cut(self, tokens: pa.Table) -> pa.Table:
        """Blocks, and a last row of the tokens that are left."""
        bounds = pa.array(np.append(np.arange(0, len(tokens) + 1, self.block_size), len(tokens)).astype(np.int32))
        columns = [tokens["input_ids"].combine_chunks()]
        if "is_first" in self.token_features:
            is_first = tokens["is_first"].to_numpy()
            is_first[:: self.block_size] = True
            starts = np.append(np.flatnonzero(is_first), len(tokens)).astype(np.int32)
            positions = np.arange(len(tokens), dtype=np.int32) - np.repeat(starts[:-1], np.diff(starts))
            columns.append(pa.array(positions.astype(self.position_type)))
        lists = [pa.ListArray.from_arrays(bounds, column) for column in columns]
        return pa.Table.from_arrays(lists, schema=self.schema)

    def _tokenize(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of the rows `(T,)`, and their bounds, with as little text at a time as the memory needs."""
        ids, bounds, size = [np.empty(0, self.id_type)], [0], 0
        _read_bytes(table, "text")  # checks it
        rows = table.select([name for name in TEXT_FEATURES if name in table.column_names]).to_pylist()
        for group in self._group_pieces(rows):
            read = self._encode([piece for piece, _ in group])
            for piece_ids, (_, is_last) in zip(read, group, strict=True):
                ids.append(np.array(piece_ids, self.id_type))
                size += len(piece_ids)
                if is_last:
                    bounds.append(size)
        return np.concatenate(ids), np.array(bounds)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts. transformers' call would also compute the offsets of all characters."""
        if not self.tokenizer.is_fast:
            return self.tokenizer(texts, **TOKENIZING)["input_ids"]
        backend = self.tokenizer.backend_tokenizer
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _group_pieces(self, rows: list[dict[str, str]]) -> Iterator[list[tuple[str, bool]]]:
        """Rows and pieces of long ones, as many as are tokenized together, and whether a piece ends its row."""
        group: list[tuple[str, bool]] = []
        size = 0
        for row in rows:
            text, start, stop = self._join_context(**row)
            bounds = [start, *self._find_cuts(text, start, stop), stop]
            for first, last in itertools.pairwise(bounds):
                if group and size + last - first > GROUP_CHARACTERS:
                    yield group
                    group, size = [], 0
                group.append((text[first:last], last == stop))
                size += last - first
        yield group

    def _join_context(self, text: str, text_before: str = "", text_after: str = "") -> tuple[str, int, int]:
        """A row's text with the text around it, and from where to where it is tokenized with this row."""
        joined = text_before + text + text_after
        bounds = (len(text_before), len(text_before) + len(text))
        start, stop = (
            self._find_cut(joined, bound) if context else bound
            for bound, context in zip(bounds, (text_before, text_after), strict=True)
        )
        if start is None or stop is None:
            raise ValueError(
                f"A document takes several rows, as a text file above 2 MB does. No place near {text[:20]!r} or "
                f"{text[-20:]!r} was found where this tokenizer gives the tokens of the whole in two parts. Divide it."
            )
        return joined, start, stop

    def _find_cuts(self, text: str, start: int, stop: int) -> Iterator[int]:
        """Where a long text can be cut between `start` and `stop`: the tokens of the pieces are those of the whole."""
        position = start + PIECE_CHARACTERS
        while position < stop:
            cut = self._find_cut(text, position)
            if cut is not None and cut < stop:
                yield cut
            position = (cut or position) + PIECE_CHARACTERS

    def _find_cut(self, text: str, position: int) -> int | None:
        """The first place from `position` on where the text can be cut, if there is one near."""
        tokenizer, stop = self.tokenizer, position + CUT_WINDOW - CUT_CONTEXT
        if not self.cuts_anywhere and (not tokenizer.is_fast or tokenizer.backend_tokenizer.pre_tokenizer is None):
            return None
        words = (found.start() for found in WORD_BOUNDARY.finditer(text, position, stop))
        places = itertools.chain([position] if self.cuts_anywhere else [], itertools.islice(words, CUTS_TRIED))
        return next((place for place in places if self._is_exact_cut(text, place)), None)

    def _is_exact_cut(self, text: str, cut: int) -> bool:
        """Whether the text around a cut has the same tokens in two parts, and the tokenizer divides it there."""
        left, right = text[max(0, cut - CUT_CONTEXT) : cut], text[cut : cut + CUT_CONTEXT]
        whole, *parts = self._encode([left + right, left, right])
        if not right or whole != parts[0] + parts[1]:
            return False
        if self.cuts_anywhere:  # every token is one symbol
            return True
        backend = self.tokenizer.backend_tokenizer  # of a fast tokenizer
        normalize = backend.normalizer.normalize_str if backend.normalizer else str
        words = backend.pre_tokenizer.pre_tokenize_str(normalize(left + right))
        return len(normalize(left)) in {start for _, (start, _) in words}


__all__ = ["check_texts", "get_columns", "pack_blocks"]
