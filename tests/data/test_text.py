# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Loading of documents, their splits, errors of sources, and packing into blocks."""

import json

import pytest
from datasets import Dataset, DatasetDict, IterableDatasetDict

from hf_thoughtbubbles import build_byte_tokenizer
from hf_thoughtbubbles.data.text import load_text, pack_blocks


@pytest.fixture
def tokenizer():
    return build_byte_tokenizer()


def test_the_standard_library_is_megabytes_of_text_split_by_file():
    documents = load_text()
    assert isinstance(documents, DatasetDict)
    paths = {split: set(documents[split]["path"]) for split in documents}
    assert paths["train"].isdisjoint(paths["validation"])
    assert "json/decoder.py" in paths["train"] | paths["validation"]
    assert sum(len(text) for text in documents["train"]["text"]) > 10_000_000
    assert load_text()["validation"]["path"] == documents["validation"]["path"], "the same split every time"


def test_streams_hold_the_same_documents_apart():
    documents = load_text(streaming=True, validation_share=0.2)
    assert isinstance(documents, IterableDatasetDict)
    train, validation = ({row["path"] for row in documents[split]} for split in ("train", "validation"))
    assert train.isdisjoint(validation)
    assert 0.1 < len(validation) / (len(train) + len(validation)) < 0.3
    assert len(train) + len(validation) == sum(len(rows) for rows in load_text().values())


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
@pytest.mark.parametrize("streaming", [False, True])
def test_local_files_are_read(kind, streaming, tmp_path):
    texts = [f"document {i}\n\nwith é and ☃\n" for i in range(20)]
    if kind == "txt":
        sources = [tmp_path / f"{i}.txt" for i in range(20)]
        for path, text in zip(sources, texts, strict=True):
            path.write_text(text, encoding="utf-8")
    else:
        sources, rows = tmp_path / f"rows.{kind}", [{"body": text} for text in texts]
        if kind == "jsonl":
            sources.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        else:
            Dataset.from_list(rows).to_parquet(sources)
    column = "text" if kind == "txt" else "body"
    documents = load_text(sources, text_column=column, validation_share=0.3, streaming=streaming)
    read = [row["text"] for split in documents.values() for row in split]
    assert sorted(text.strip() for text in read) == sorted(text.strip() for text in texts)
    assert all(any(True for _ in split) for split in documents.values())


@pytest.mark.parametrize("streaming", [False, True])
def test_a_single_document_gives_its_end_to_validation(streaming, tmp_path):
    path, text = tmp_path / "book.txt", "".join(f"line {i}\n" for i in range(100))
    path.write_text(text)
    documents = load_text(path, validation_share=0.1, streaming=streaming)
    train, validation = (next(iter(documents[split]))["text"] for split in ("train", "validation"))
    assert (train + validation).strip() == text.strip()
    assert train.endswith("\n")
    assert 0.05 < len(validation) / len(text) < 0.15


def test_unusable_sources_are_one_clear_error(tmp_path):
    names = ("empty.txt", "latin.txt", "rows.jsonl", "a.csv", "broken.jsonl", "broken.parquet")
    empty, latin, table, other, broken, parquet = (tmp_path / name for name in names)
    empty.write_text("")
    latin.write_bytes("é".encode("latin-1"))
    table.write_text('{"body": "a"}\n{"body": "b"}\n')
    other.write_text("a")
    broken.write_text('{"text": "a"}\n{"text": \n')
    parquet.write_bytes(b"no parquet at all")
    for source, message in (
        (tmp_path / "missing.txt", "missing.txt, which is not a file"),
        (tmp_path, "which is a folder"),
        (empty, "empty.txt, which is empty"),
        (latin, "latin.txt, which is not UTF-8 text"),
        (table, r"no column `text`; its columns are \['body'\]"),
        (other, "files must end in one of"),
        ([empty.with_name("rows.jsonl"), broken.with_suffix(".TXT")], "which is not a file"),
        (broken, "could not be read as json"),
        (parquet, "could not be read as parquet"),
        ([], r"`source` is \[\]"),
        ("", "`source` is ''"),
    ):
        with pytest.raises(ValueError, match=message):
            load_text(source)
    with pytest.raises(ValueError, match="have no configurations"):
        load_text(table, name="english")
    with pytest.raises(ValueError, match=r"`validation_share` is 1\.5"):
        load_text(validation_share=1.5)


def test_a_stream_too_short_for_a_validation_split_is_refused(tmp_path):
    (tmp_path / "book.jsonl").write_text('{"text": "one document"}')
    with pytest.raises(ValueError, match=r"No document of the stream belongs to (train|validation)"):
        load_text(tmp_path / "book.jsonl", streaming=True)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_asked_column_wins_over_others_of_that_name(streaming, tmp_path):
    rows = [{"text": "title", "body": f"body {i}"} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    documents = load_text(tmp_path / "rows.jsonl", text_column="body", validation_share=0.3, streaming=streaming)
    assert {row["text"][:4] for split in documents.values() for row in split} == {"body"}


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_that_are_not_text_are_refused(streaming, tokenizer, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ["a" * 9, None, "b" * 9] * 9))
    with pytest.raises(ValueError, match="Column `text` holds None"):
        for split in load_text(tmp_path / "rows.jsonl", validation_share=0.3, streaming=streaming).values():
            list(pack_blocks(split, tokenizer, 4))


def test_streams_of_unknown_columns_are_packed(tokenizer):
    rows = Dataset.from_dict({"text": ["abc", "def"], "other": [1, 2]}).to_iterable_dataset().map(lambda row: row)
    assert [set(block) for block in pack_blocks(rows, tokenizer, 4)] == [{"input_ids"}] * 2


@pytest.mark.parametrize("streaming", [False, True])
def test_blocks_are_the_documents_joined_by_end_of_sequence(tokenizer, streaming):
    rows = Dataset.from_dict({"text": ["abc", "de", "fghij"]})
    blocks = list(pack_blocks(rows.to_iterable_dataset() if streaming else rows, tokenizer, block_size=4))
    end = tokenizer.eos_token_id
    assert [block["input_ids"] for block in blocks] == [[97, 98, 99, end], [100, 101, end, 102], [103, 104, 105, 106]]
    assert set(blocks[0]) == {"input_ids"}, "no attention mask: nothing is padding"


def test_too_little_text_or_too_short_blocks_are_refused(tokenizer):
    rows = Dataset.from_dict({"text": ["abc"]})
    with pytest.raises(ValueError, match="the `block_size` 9 tokens of one block"):
        pack_blocks(rows, tokenizer, block_size=9)
    with pytest.raises(ValueError, match="`block_size` is 1"):
        pack_blocks(rows, tokenizer, block_size=1)
    with pytest.raises(ValueError, match="the `block_size` 9 tokens of one block"):
        pack_blocks(rows.to_iterable_dataset(), tokenizer, block_size=9)
    with pytest.raises(ValueError, match="the `block_size` 2 tokens of one block"):
        pack_blocks(rows.select([]), tokenizer, block_size=2)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_line_ends_and_byte_order_marks_stay(streaming, end, tmp_path):
    texts = [f"\ufeffdocument {i}{end}{end}its end{end}" for i in range(20)]
    for suffix in ("txt", "md", "py"):
        paths = [tmp_path / f"{i}.{suffix}" for i in range(20)]
        for path, text in zip(paths, texts, strict=True):
            path.write_bytes(text.encode())
        documents = load_text(paths, validation_share=0.3, streaming=streaming)
        assert sorted(row["text"] for split in documents.values() for row in split) == sorted(texts)


def test_a_text_file_that_changed_is_read_again(tmp_path):
    for text in ("one\ntwo\n", "one\r\ntwo\r\nthree\r\n"):
        (tmp_path / "book.txt").write_bytes(text.encode())
        documents = load_text(tmp_path / "book.txt", validation_share=0.3)
        assert documents["train"][0]["text"] + documents["validation"][0]["text"] == text


def test_the_position_of_invalid_text_is_that_in_the_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a" * 3_000_000 + b"\xff")
    with pytest.raises(ValueError, match=r"a\.txt, which is not UTF-8 text: .* 0xff in position 3000000"):
        load_text(tmp_path / "a.txt")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("line", [b'{"text": "torn', b'{"text": "\xff"}', b"7"])
def test_a_torn_line_names_its_file_and_number(streaming, suffix, line, tmp_path):
    rows = [json.dumps({"text": f"row {i}"}).encode() for i in range(30)]
    (tmp_path / f"a.{suffix}").write_bytes(b"\n".join(rows))
    (tmp_path / f"b.{suffix}").write_bytes(b"\n".join([*rows[:20], b"", line, *rows[20:]]))
    with pytest.raises(ValueError, match=rf"b\.{suffix}, whose line 22 "):
        sources = [tmp_path / f"{name}.{suffix}" for name in "ab"]
        list(load_text(sources, validation_share=0.3, streaming=streaming)["train"])
