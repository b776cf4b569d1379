# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Streamed text equals the decoded text, and each character is shown after its last byte."""

import queue
import random
from threading import Thread

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, TextIteratorStreamer, TextStreamer

from hf_thoughtbubbles import BytePatchConfig, BytePatchForCausalLM, build_byte_tokenizer, train_bpe_tokenizer
from hf_thoughtbubbles.generation.streaming import ByteTextIteratorStreamer, ByteTextStreamer


BOS, EOS, UNKNOWN = 256, 257, 300
LANGUAGES = "Hello, naïve café. Привет, мир! שלום עולם. مرحبا. नमस्ते दुनिया। 你好,世界。こんにちは 안녕 👩🏽‍🚀🇺🇦\n\t\0"


class RecordingStreamer(ByteTextStreamer):
    """Keeps what it is given to show, as applications do that override this method."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shown = []

    def on_finalized_text(self, text: str, stream_end: bool = False):
        self.shown.append((text, stream_end))

    def read(self) -> str:
        """All text shown since the last call."""
        shown, self.shown = self.shown, []
        return "".join(text for text, _ in shown)


@pytest.fixture(scope="module")
def tokenizer():
    return build_byte_tokenizer()


@pytest.fixture(scope="module", params=["gpt2", "byte_patch"])
def model(request):
    """A tiny model over bytes with random weights."""
    torch.manual_seed(0)
    if request.param == "gpt2":
        sizes = {"n_positions": 131, "n_embd": 12, "n_layer": 2, "n_head": 3}
        return GPT2LMHeadModel(GPT2Config(vocab_size=259, **sizes, bos_token_id=256, eos_token_id=257)).eval()
    sizes = {"core_hidden_size": 16, "core_num_hidden_layers": 1, "core_num_attention_heads": 2, "hidden_size": 16}
    return BytePatchForCausalLM(BytePatchConfig(**sizes, eos_token_id=257, pad_token_id=258)).eval()


@pytest.fixture(scope="module")
def sample(model):
    """Samples ids from the model, each time the same, random enough to hold invalid UTF-8."""

    def generate(**kwargs) -> list[int]:
        torch.manual_seed(1)
        prompt = torch.tensor([list("é😀".encode())])
        arguments = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 113, "do_sample": True, "top_k": 0}
        return model.generate(prompt, **arguments, eos_token_id=None, pad_token_id=258, **kwargs)[0].tolist()

    return generate


def replace_all(ids: list[int]) -> str:
    return bytes(ids).decode(errors="replace")


def put_in_pieces(streamer: ByteTextStreamer, ids: list[int], generator: random.Random):
    """The ids in pieces of 0 to 5, as tensors and arrays of either shape; then the end."""
    start = 0
    while start < len(ids):
        size = generator.randint(0, 5)
        piece = np.array(ids[start : start + size], dtype=np.int64)
        piece = piece[None] if generator.random() < 0.5 else piece
        streamer.put(torch.from_numpy(piece) if generator.random() < 0.5 else piece)
        start += size
    streamer.end()


def test_a_generation_is_streamed_as_it_would_be_decoded(tokenizer, sample):
    streamer = RecordingStreamer(tokenizer, skip_special_tokens=True)
    ids = [token_id for token_id in sample(streamer=streamer) if token_id < 256]
    text = replace_all(ids)
    assert len(ids) > 100 and "\ufffd" in text and text.startswith("é😀")
    assert [end for _, end in streamer.shown[:-1]] == [False] * (len(streamer.shown) - 1)
    assert streamer.shown[-1][1]
    assert len(streamer.shown) > 50
    assert streamer.read() == text


def test_a_generation_in_a_thread_is_iterated_over(tokenizer, sample):
    for skip_prompt in (False, True):
        streamer = ByteTextIteratorStreamer(tokenizer, skip_prompt, timeout=60.0)
        generated = []
        thread = Thread(target=lambda streamer, ids: ids.extend(sample(streamer=streamer)), args=(streamer, generated))
        thread.start()
        text = "".join(streamer)
        thread.join()
        assert text == tokenizer.decode(generated[6:] if skip_prompt else generated)
        assert text.startswith("é😀") != skip_prompt


def test_the_text_is_printed_and_a_line_ended(tokenizer, capsys):
    streamer = ByteTextStreamer(tokenizer)
    for byte in "né".encode():
        streamer.put(torch.tensor([byte]))
    assert capsys.readouterr().out == "né"
    streamer.end()
    assert capsys.readouterr().out == "\n"


def test_both_are_the_streamers_they_stand_for(tokenizer):
    assert isinstance(ByteTextStreamer(tokenizer), TextStreamer)
    assert isinstance(ByteTextIteratorStreamer(tokenizer), TextIteratorStreamer)


def test_an_emoji_is_shown_with_its_fourth_byte(tokenizer):
    streamer = RecordingStreamer(tokenizer)
    for byte in "😀".encode():
        assert streamer.shown == []
        streamer.put(torch.tensor([byte]))
    assert streamer.shown == [("😀", False)]


def test_every_character_of_every_language_is_shown_with_its_last_byte(tokenizer):
    streamer = RecordingStreamer(tokenizer)
    for character in LANGUAGES:
        for byte in character.encode():
            assert streamer.shown == []
            streamer.put(np.array([[byte]]))
        assert streamer.read() == character
    streamer.put(torch.tensor([list(LANGUAGES.encode())]))
    assert streamer.shown == [(LANGUAGES, False)]


def test_random_bytes_in_random_pieces_are_replaced_as_in_the_whole(tokenizer):
    generator, streamer = random.Random(0), RecordingStreamer(tokenizer)
    starts = [0x41, 0x80, 0xBF, 0xC0, 0xC3, 0xE0, 0xE2, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF, 0x9F, 0xA0, 0x90, 0x8F]
    for trial in range(1000):
        alphabet = starts if trial % 2 else range(256)
        ids = [generator.choice(alphabet) for _ in range(generator.randint(0, 29))]
        put_in_pieces(streamer, ids, generator)
        assert streamer.read() == replace_all(ids)


def test_random_ids_are_shown_as_the_tokenizer_decodes_them(tokenizer):
    generator, streamer = random.Random(0), RecordingStreamer(tokenizer)
    for _ in range(200):
        ids = [generator.choice([65, 0xC3, 0xA9, 0xF0, BOS, EOS]) for _ in range(17)]
        put_in_pieces(streamer, ids, generator)
        assert streamer.read() == tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("ids", "shown", "skipped"),
    [
        ([65, EOS, 66], "A<|eos|>B", "AB"),
        ([BOS, EOS], "<|bos|><|eos|>", ""),
        ([0xF0, 0x9F, EOS], "\ufffd<|eos|>", "\ufffd"),
        ([0xC3, EOS, 0xA9], "\ufffd<|eos|>\ufffd", "\ufffd\ufffd"),
        ([65, UNKNOWN, 66], "AB", "AB"),
    ],
)
def test_specials_are_shown_unless_skipped_and_end_a_character(tokenizer, ids, shown, skipped):
    for skip_special_tokens, expected in ((False, shown), (True, skipped)):
        streamer = RecordingStreamer(tokenizer, skip_special_tokens=skip_special_tokens)
        streamer.put(torch.tensor(ids))
        streamer.end()
        assert streamer.read() == expected


def test_specials_are_shown_by_default(tokenizer):
    streamer = RecordingStreamer(tokenizer)
    streamer.put(torch.tensor([EOS]))
    assert streamer.shown == [("<|eos|>", False)]


def test_a_skipped_prompt_is_the_first_to_come_of_each_text(tokenizer):
    streamer = RecordingStreamer(tokenizer, skip_prompt=True)
    for _ in range(2):
        streamer.put(torch.tensor([[65, 0xC3]]))
        streamer.put(torch.tensor([0xA9]))
        streamer.put(torch.tensor([66]))
        streamer.end()
        assert streamer.read() == "\ufffdB"


def test_a_streamer_starts_afresh_after_the_end(tokenizer):
    streamer = RecordingStreamer(tokenizer)
    streamer.put(torch.tensor([65, 0xE2, 0x82]))
    streamer.end()
    assert streamer.shown == [("A", False), ("\ufffd", True)]
    streamer.read()
    streamer.put(torch.tensor([0xAC, 66]))
    streamer.end()
    assert streamer.shown == [("\ufffdB", False), ("", True)]
    iterator = ByteTextIteratorStreamer(tokenizer, timeout=1.0)
    for text in ("é", "b"):
        iterator.put(torch.tensor(list(text.encode())))
        iterator.end()
        assert "".join(iterator) == text


def test_the_iterator_waits_no_longer_than_its_timeout(tokenizer):
    streamer = ByteTextIteratorStreamer(tokenizer, timeout=0.01)
    streamer.put(torch.tensor([0xC3]))
    with pytest.raises(queue.Empty):
        next(streamer)


def test_several_texts_at_once_are_refused(tokenizer):
    streamer = RecordingStreamer(tokenizer)
    for shape in ((2, 3), (0, 3), (1, 1, 3), ()):
        with pytest.raises(ValueError, match=r"`value` has shape .*; it must be \(n,\) or \(1, n\)"):
            streamer.put(torch.zeros(shape, dtype=torch.long))
    with pytest.raises(ValueError, match=r"`value` holds -100; ids are 0 to 255"):
        streamer.put(torch.tensor([65, -100]))
    streamer.put(torch.tensor([65]))
    assert streamer.read() == "A"


def test_keywords_that_change_nothing_are_refused(tokenizer):
    with pytest.raises(TypeError, match=r"`decode_kwargs` has \['skip_specials'\]; only `skip_special_tokens`"):
        ByteTextStreamer(tokenizer, skip_specials=True)
    with pytest.raises(TypeError, match=r"\['timeout'\]"):
        ByteTextStreamer(tokenizer, timeout=1.0)
    with pytest.raises(TypeError, match=r"\['clean_up_tokenization_spaces', 'errors'\]"):
        ByteTextIteratorStreamer(tokenizer, timeout=1.0, errors="strict", clean_up_tokenization_spaces=False)


def test_a_saved_tokenizer_streams_as_the_built_one(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    streamer = RecordingStreamer(AutoTokenizer.from_pretrained(tmp_path))
    streamer.put(torch.tensor([0xC3, 0xA9, EOS]))
    assert streamer.read() == "é<|eos|>"


@pytest.mark.parametrize("vocab_size", [259, 262])
def test_tokenizers_whose_ids_are_not_the_bytes_are_refused(vocab_size):
    tokenizer = train_bpe_tokenizer(["low lower lowest", "low"], vocab_size=vocab_size)  # its id 0 is "!"
    with pytest.raises(ValueError, match=rf"of {vocab_size} tokens; its ids 0 to 255 must be the bytes"):
        ByteTextStreamer(tokenizer)
