# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The tokenizer of the number tasks: parity with the original, padding, unknown words and saving."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from hf_thoughtbubbles.tokenization.number_tokenizer import BLANK_TOKEN, NUMBER_TOKENS, build_number_tokenizer


THINKER_DATA = Path(__file__).parents[1] / "parity" / "thinker_data"


def join(tokens) -> str:
    return " ".join(map(str, tokens))


@pytest.fixture(scope="module")
def vocabulary():
    return json.loads((THINKER_DATA / "vocab.json").read_text())


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    built, folder = build_number_tokenizer(), tmp_path_factory.mktemp("tokenizer")
    built.save_pretrained(folder)
    return built, AutoTokenizer.from_pretrained(folder)


def test_the_tokens_are_the_originals_in_order(tokenizers, vocabulary):
    assert list(NUMBER_TOKENS) == [str(token) for token in vocabulary["vocabulary"]]
    for tokenizer in tokenizers:
        assert len(tokenizer) == tokenizer.vocab_size == vocabulary["vocabulary_size"] == 31
        for name, token_id in vocabulary["dict"].items():
            assert tokenizer.convert_tokens_to_ids(name.partition(":")[2]) == token_id


def test_every_original_encoding_and_decoding_is_reproduced(tokenizers, vocabulary):
    decoded, encoded, refused = 0, 0, 0
    for tokenizer in tokenizers:
        for example in vocabulary["examples"]:
            tokens = example["input"] if isinstance(example["input"], list) else [example["input"]]
            if "exception" in example:
                with pytest.raises(Exception, match=r"Missing \[UNK\] token"):
                    tokenizer(join(tokens))
                refused += 1
            elif example["fn"] == "token_decoder":
                assert tokenizer.decode(tokens) == join(example["output"])
                decoded += 1
            else:
                ids = example["output"] if isinstance(example["output"], list) else [example["output"]]
                assert tokenizer(join(tokens)).input_ids == ids
                encoded += 1
    assert (decoded, encoded, refused) == (2, 4, 2)


def test_unknown_words_are_refused(tokenizers):
    for tokenizer in tokenizers:
        for text in ("17", "12 + 3a", "blank3", "3blank", "1+2", "<unk>"):
            with pytest.raises(Exception, match=r"Missing \[UNK\] token"):
                tokenizer(text)
        assert tokenizer.unk_token is None


def test_questions_are_padded_on_the_left_with_blank(tokenizers):
    for tokenizer in tokenizers:
        batch = tokenizer(["1 2 3", "4"], padding=True, return_tensors="pt")
        assert set(batch) == {"input_ids", "attention_mask"}
        assert batch.input_ids.tolist() == [[1, 2, 3], [20, 20, 4]]
        assert batch.attention_mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_blank_pads_and_ends(tokenizers):
    for tokenizer in tokenizers:
        assert tokenizer.pad_token == tokenizer.eos_token == BLANK_TOKEN
        assert tokenizer.pad_token_id == tokenizer.eos_token_id == 20
        assert tokenizer("1 blank").input_ids == [1, 20], "nothing is added, `blank` is a word like others"
        assert tokenizer.decode([19, 1, 18, 20], skip_special_tokens=True) == "! 1 ."


def test_a_longest_input_is_kept_when_saved(tmp_path):
    build_number_tokenizer(model_max_length=13).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == 13
