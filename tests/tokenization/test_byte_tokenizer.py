# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Byte-level tokenizers: ids, special tokens, offsets, bytes that are not text, and loading without the package."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from hf_thoughtbubbles import build_byte_tokenizer, decode_bytes, encode_bytes


def draw_text(generator: random.Random) -> str:
    """Any characters of Unicode but surrogates, which no text file holds."""
    ranges = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    return "".join(chr(generator.randint(*generator.choice(ranges))) for _ in range(generator.randint(0, 40)))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    built, folder = build_byte_tokenizer(), tmp_path_factory.mktemp("tokenizer")
    built.save_pretrained(folder)
    return built, AutoTokenizer.from_pretrained(folder)


def test_ids_are_the_bytes_of_any_text(tokenizers):
    generator = random.Random(0)
    for tokenizer in tokenizers:
        for _ in range(500):
            text = draw_text(generator)
            assert tokenizer(text).input_ids == list(text.encode())
            assert tokenizer.decode(list(text.encode())) == text


def test_text_that_looks_special_stays_bytes_unless_asked(tokenizers):
    text = "a<|eos|>b"
    for tokenizer in tokenizers:
        assert tokenizer(text).input_ids == list(text.encode())
        assert tokenizer(text, split_special_tokens=False).input_ids == [97, 257, 98]
        assert tokenizer.decode([97, 257, 98], skip_special_tokens=True) == "ab"


def test_special_tokens_stand_from_256_on(tokenizers):
    for tokenizer in tokenizers:
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (256, 257, 258)
        assert len(tokenizer) == 259
    assert build_byte_tokenizer(special_tokens=("<|pad|>", "<|sep|>")).pad_token_id == 256
    with pytest.raises(ValueError, match="repeat"):
        build_byte_tokenizer(special_tokens=("<|pad|>", "<|pad|>"))
    for bad in (("a",), ("",), ("Ġ",)):
        with pytest.raises(ValueError, match="empty token or one that stands for a byte"):
            build_byte_tokenizer(special_tokens=bad)


def test_padding_fills_on_the_asked_side(tokenizers):
    batch = tokenizers[1](["ab", "c"], padding=True, padding_side="left", return_tensors="pt")
    assert batch.input_ids.tolist() == [[97, 98], [258, 99]]
    assert batch.attention_mask.tolist() == [[1, 1], [0, 1]]


def test_offsets_point_into_the_text_inside_characters_of_several_bytes(tokenizers):
    offsets = tokenizers[1]("aé☃", return_offsets_mapping=True).offset_mapping
    assert offsets == [(0, 1), (1, 2), (1, 2), (2, 3), (2, 3), (2, 3)]


def test_any_bytes_survive(tokenizers):
    data = random.Random(0).randbytes(1000)
    assert decode_bytes(encode_bytes(data)) == data
    assert decode_bytes(torch.tensor([256, 255, 0, 258])) == b"\xff\x00"
    assert decode_bytes(np.array([195])) == b"\xc3"
    assert tokenizers[0].decode([195]) == "\ufffd", "text cannot hold half a character; `decode_bytes` can"


def test_bytes_and_text_are_not_confused():
    with pytest.raises(TypeError, match="`data` is text"):
        encode_bytes("text")
    with pytest.raises(TypeError, match="`data` is of type int"):
        encode_bytes(5)
    with pytest.raises(TypeError, match="`ids` is of type str"):
        decode_bytes("97")
    for ids in ([[97], [98]], torch.tensor([[97]]), np.array(97), [97.5], torch.tensor([97.0]), ["a"]):
        with pytest.raises(TypeError, match=r"`ids` is not a flat list of whole numbers .*; pass the ids of one text"):
            decode_bytes(ids)
    with pytest.raises(ValueError, match="`ids` holds -1"):
        decode_bytes([-1])


def test_it_loads_where_the_package_is_not_imported(tokenizers, tmp_path):
    tokenizers[0].save_pretrained(tmp_path)
    code = (
        "import sys; from transformers import AutoTokenizer; tokenizer = AutoTokenizer.from_pretrained(sys.argv[1]); "
        "assert 'hf_thoughtbubbles' not in sys.modules; "
        "assert tokenizer('é<|eos|>').input_ids == list('é<|eos|>'.encode())"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
