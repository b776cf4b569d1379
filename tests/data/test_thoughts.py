# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Splitting documents into lines and sentences, and pairing thoughts."""

import pytest
from datasets import Dataset, IterableDataset
from transformers import DataCollatorForSeq2Seq

from hf_thoughtbubbles import build_byte_tokenizer
from hf_thoughtbubbles.data.thoughts import pair_thoughts, split_lines, split_sentences


@pytest.fixture
def tokenizer():
    return build_byte_tokenizer()


def make_rows(texts: list, streaming: bool = False) -> Dataset | IterableDataset:
    rows = Dataset.from_dict({"text": texts, "other": list(range(len(texts)))})
    return rows.to_iterable_dataset() if streaming else rows


def read_pairs(pairs, end: int) -> list[tuple[str, str]]:
    """The pairs as text, `|` for the end of a thought."""
    return [tuple(bytes(124 if i == end else i for i in row[name]).decode() for name in row) for row in pairs]


@pytest.mark.parametrize("streaming", [False, True])
def test_each_line_is_followed_by_the_next_of_its_document(streaming, tokenizer):
    rows = make_rows(["one\n\n  two\r\n \nthree", "alone", "", "é\nlast"], streaming)
    pairs = pair_thoughts(rows, tokenizer)
    assert isinstance(pairs, IterableDataset if streaming else Dataset)
    assert [set(row) for row in pairs] == [{"input_ids", "labels"}] * 3
    assert read_pairs(pairs, tokenizer.eos_token_id) == [("one", "  two|"), ("  two", "three|"), ("é", "last|")]


@pytest.mark.parametrize("streaming", [False, True])
def test_each_sentence_is_followed_by_the_next_of_its_document(streaming, tokenizer):
    rows = make_rows(["It is 3.5 m long. Is\nit?! Yes", "Alone."], streaming)
    pairs = read_pairs(pair_thoughts(rows, tokenizer, unit="sentence"), tokenizer.eos_token_id)
    assert pairs == [("It is 3.5 m long.", "Is it?!|"), ("Is it?!", "Yes|")]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" \n\n ", []),
        ("No end", ["No end"]),
        ("One. Two.", ["One.", "Two."]),
        ("Wait... what? (Really!) Yes.", ["Wait...", "what?", "(Really!)", "Yes."]),
        ("“Go.” He went.", ["“Go.”", "He went."]),
        ("A title\n\nA text\nof two lines.", ["A title", "A text of two lines."]),
        ("我来了。你呢\uff1f好\uff01", ["我来了。", "你呢\uff1f", "好\uff01"]),
        ("see example.com. Then", ["see example.com.", "Then"]),
    ],
)
def test_sentences_end_where_their_punctuation_says(text, sentences):
    assert split_sentences(text) == sentences


def test_lines_keep_their_indentation():
    assert split_lines("a\n\tb \n\n") == ["a", "\tb"]


def test_long_runs_of_punctuation_are_split_at_once():
    text = "." * 200_000 + "x" + "!" * 200_000 + " end"
    assert split_sentences(text) == [text[:-4], "end"]


def test_long_thoughts_are_cut_and_short_ones_are_not_read(tokenizer):
    rows, end = make_rows(["abcdef\nab\nabc\nabcd\nabcde"]), tokenizer.eos_token_id
    pairs = read_pairs(pair_thoughts(rows, tokenizer, max_length=4), end)
    assert pairs == [("abcd", "ab|"), ("ab", "abc|"), ("abc", "abcd"), ("abcd", "abcd")]
    pairs = read_pairs(pair_thoughts(rows, tokenizer, max_length=4, min_length=3), end)
    assert pairs == [("abcd", "ab|"), ("abc", "abcd"), ("abcd", "abcd")]


def test_pairs_become_batches(tokenizer):
    pairs = pair_thoughts(make_rows(["abc\nde\nf"]), tokenizer)
    batch = DataCollatorForSeq2Seq(tokenizer)(list(pairs))
    end = tokenizer.eos_token_id
    assert batch["labels"].tolist() == [[100, 101, end], [102, end, -100]] or batch["labels"].tolist() == [
        [100, 101, end],
        [-100, 102, end],
    ]
    assert batch["attention_mask"].sum(1).tolist() == [3, 2]


@pytest.mark.parametrize("streaming", [False, True])
def test_documents_without_pairs_are_refused(streaming, tokenizer):
    rows = make_rows(["alone", ""], streaming)
    with pytest.raises(ValueError, match="No document has two thoughts"):
        pair_thoughts(rows, tokenizer)
    with pytest.raises(ValueError, match="at least `min_length` 9 tokens"):
        pair_thoughts(make_rows(["a\nb"], streaming), tokenizer, min_length=9)
    with pytest.raises(ValueError, match="`unit` is 'word'"):
        pair_thoughts(rows, tokenizer, unit="word")
    with pytest.raises(ValueError, match="`max_length` is 1"):
        pair_thoughts(rows, tokenizer, max_length=1)
    with pytest.raises(ValueError, match="`min_length` is 5; it must be from 1 to `max_length` 4"):
        pair_thoughts(rows, tokenizer, max_length=4, min_length=5)
    with pytest.raises(ValueError, match="Column `text` holds None"):
        list(pair_thoughts(make_rows(["a\nb", None], streaming), tokenizer, documents_per_batch=1))
    if streaming:
        with pytest.raises(ValueError, match="`num_proc` is 2, but one process"):
            pair_thoughts(rows, tokenizer, num_proc=2)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        pair_thoughts(make_rows(["a\nb"], streaming), tokenizer)
