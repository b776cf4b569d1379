# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Trained BPE tokenizers: round trips of any text, reproducible training, saving and errors."""

import random

import pytest
from datasets import Dataset, DatasetDict
from transformers import AutoTokenizer

from hf_thoughtbubbles.data.text import read_standard_library
from hf_thoughtbubbles.tokenization.bpe_tokenizer import train_bpe_tokenizer


VOCAB_SIZE = 509
TEXTS = [
    "",
    " ",
    "low slow",
    " leading and trailing ",
    "Größe, année, Ελλάδα, Россия, שלום, مرحبا, नमस्ते, 你好 世界, こんにちは, 한국어",
    "👩‍🚀🏳️‍🌈 ☃ e\u0301",
    "a\r\nb\rc\n\n\td  \u00a0 e",
    "a\x00b\x7f\ufeff",
    "a<|eos|>b<|pad|> <|bos|>",
    "[MASK] </s> Ġ Ċ , . 's don 't !",
]


def draw_text(generator: random.Random) -> str:
    """Any characters of Unicode but surrogates, which no text file holds."""
    ranges = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    return "".join(chr(generator.randint(*generator.choice(ranges))) for _ in range(generator.randint(0, 40)))


@pytest.fixture(scope="module")
def library():
    return read_standard_library().select(range(31))


@pytest.fixture(scope="module")
def tokenizers(library, tmp_path_factory):
    trained, folder = train_bpe_tokenizer(library, VOCAB_SIZE), tmp_path_factory.mktemp("tokenizer")
    trained.save_pretrained(folder)
    return trained, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def texts():
    generator = random.Random(0)
    return TEXTS + [draw_text(generator) for _ in range(300)]


def test_any_text_comes_back(tokenizers, texts):
    for tokenizer in tokenizers:
        for text in texts:
            assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_loaded_one_is_the_same(tokenizers, texts):
    trained, loaded = tokenizers
    assert loaded.get_vocab() == trained.get_vocab()
    assert loaded(texts).input_ids == trained(texts).input_ids
    assert loaded.special_tokens_map == trained.special_tokens_map


def test_training_again_gives_the_same_recipe_from_rows_streams_or_texts(tokenizers, library):
    recipe = tokenizers[0].backend_tokenizer.to_str()
    for rows in (library, library.to_iterable_dataset(), list(library), library["text"], iter(library["text"])):
        assert train_bpe_tokenizer(rows, VOCAB_SIZE).backend_tokenizer.to_str() == recipe


def test_enough_text_fills_the_vocabulary_and_little_text_leaves_it_short(tokenizers):
    assert len(tokenizers[0]) == len(tokenizers[1]) == VOCAB_SIZE
    assert len(train_bpe_tokenizer(["ab", "ab"], VOCAB_SIZE)) == 256 + 1 + 3
    assert len(train_bpe_tokenizer(["ab"], VOCAB_SIZE)) == 256 + 3, "one sight is below `min_frequency`"
    assert len(train_bpe_tokenizer(["ab"], VOCAB_SIZE, min_frequency=1)) == 256 + 1 + 3
    assert len(train_bpe_tokenizer(["ab", "ab"], 259)) == 256 + 3, "no room to learn"


def test_the_most_frequent_neighbours_merge_first_and_never_across_words():
    tokenizer = train_bpe_tokenizer([{"line": "low lower lowest"}, {"line": "low"}], 262, text_column="line")
    assert tokenizer.convert_ids_to_tokens(range(256, 259)) == ["lo", "low", "Ġlow"]
    assert tokenizer.tokenize("low lows") == ["low", "Ġlow", "s"]


def test_special_tokens_stand_last(tokenizers):
    for tokenizer in tokenizers:
        ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        assert ids == (VOCAB_SIZE - 3, VOCAB_SIZE - 2, VOCAB_SIZE - 1)
    other = train_bpe_tokenizer(["ab"], 258, special_tokens=("<|pad|>", "<|sep|>"), model_max_length=17)
    assert (other.pad_token_id, other.eos_token_id, other.model_max_length) == (256, None, 17)
    assert len(train_bpe_tokenizer(["ab"], 256, special_tokens=())) == 256


def test_text_that_looks_special_stays_text_unless_asked(tokenizers):
    text = "a<|eos|>b"
    for tokenizer in tokenizers:
        assert tokenizer.eos_token_id not in tokenizer(text).input_ids
        special = tokenizer(text, split_special_tokens=False).input_ids
        assert special == tokenizer.convert_tokens_to_ids(["a", "<|eos|>", "b"])
        assert tokenizer.decode(special, skip_special_tokens=True) == "ab"


def test_offsets_cover_the_text_without_a_gap(tokenizers, texts):
    for text in texts:
        end = 0
        for start, stop in tokenizers[1](text, return_offsets_mapping=True).offset_mapping:
            assert end - 1 <= start <= end <= stop, "a token begins where the last one left off, or in its character"
            end = stop
        assert end == len(text)


@pytest.mark.parametrize(("vocab_size", "special_tokens", "least"), [(258, None, 259), (256, ("<|pad|>",), 257)])
def test_a_vocabulary_without_room_for_bytes_is_refused(vocab_size, special_tokens, least):
    options = {} if special_tokens is None else {"special_tokens": special_tokens}
    with pytest.raises(ValueError, match=f"`vocab_size` is {vocab_size}; it must be at least {least}"):
        train_bpe_tokenizer(["ab"], vocab_size, **options)


def test_a_missing_column_is_named_with_those_there():
    rows = Dataset.from_dict({"path": ["a"], "content": ["b"]})
    for dataset in (rows, rows.to_iterable_dataset(), list(rows)):
        with pytest.raises(ValueError, match=r"no column `text`; its columns are \['path', 'content'\]"):
            train_bpe_tokenizer(dataset, VOCAB_SIZE)


@pytest.mark.parametrize("dataset", [[], iter([]), ["", ""], Dataset.from_dict({"text": []}), [{"text": ""}]])
def test_a_dataset_without_text_is_refused(dataset):
    with pytest.raises(ValueError, match="`dataset` holds no text"):
        train_bpe_tokenizer(dataset, VOCAB_SIZE)


def test_rows_that_are_not_text_and_several_splits_are_refused():
    for rows in (["a", None], [{"text": "a"}, {"text": None}]):
        with pytest.raises(ValueError, match="`dataset` holds None, which is not text"):
            train_bpe_tokenizer(rows, VOCAB_SIZE)
    splits = DatasetDict({"train": Dataset.from_dict({"text": ["a"]})})
    for dataset, kind in (("text", "str"), (splits, "DatasetDict")):
        with pytest.raises(ValueError, match=f"`dataset` is of type {kind}; pass one split"):
            train_bpe_tokenizer(dataset, VOCAB_SIZE)


def test_special_tokens_must_be_apart_from_each_other_the_bytes_and_the_words():
    for bad in (("<|pad|>", "<|pad|>"), "<|pad|>"):
        with pytest.raises(ValueError, match="repeat or are one string"):
            train_bpe_tokenizer(["ab"], VOCAB_SIZE, special_tokens=bad)
    for bad in (("a",), ("",), ("Ġ",)):
        with pytest.raises(ValueError, match="empty token or one that stands for a byte"):
            train_bpe_tokenizer(["ab"], VOCAB_SIZE, special_tokens=bad)
    with pytest.raises(ValueError, match=r"`special_tokens` \['low'\] were also learned from the text"):
        train_bpe_tokenizer(["low low"] * 5, VOCAB_SIZE, special_tokens=("<|pad|>", "low"))
