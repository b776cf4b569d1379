# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Is text shown character by character, and none of it lost?"""

import random
from threading import Thread

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from hf_thoughtbubbles import BytePatchConfig, BytePatchForCausalLM, build_byte_tokenizer, train_bpe_tokenizer
from hf_thoughtbubbles.generation.streaming import ByteTextIteratorStreamer, ByteTextStreamer


class Recorder(ByteTextStreamer):
    """Keeps what it is given to show."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.pieces, self.num_ends = [], 0

    def on_finalized_text(self, text: str, stream_end: bool = False):
        self.pieces.append(text)
        self.num_ends += stream_end


@pytest.fixture(scope="module")
def tokenizer():
    return build_byte_tokenizer()


def build_model(kind: str):
    """A tiny model over bytes whose random text is no valid UTF-8."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=259, n_embd=16, n_layer=1, n_head=2, bos_token_id=256, eos_token_id=257)
        return GPT2LMHeadModel(config).eval()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "byte_hidden_size": 16}
    return BytePatchForCausalLM(BytePatchConfig(**sizes, eos_token_id=257, pad_token_id=258)).eval()


def test_a_character_shows_with_its_last_byte(tokenizer):
    streamer, shown = Recorder(tokenizer), []
    for byte in "a😀é漢".encode():
        streamer.put(torch.tensor([byte]))
        shown.append("".join(streamer.pieces))
    assert shown == ["a"] * 4 + ["a😀"] * 2 + ["a😀é"] * 3 + ["a😀é漢"]


@pytest.mark.parametrize("text", ["Приве́т\r\n\0", "漢字", "👩‍👩‍👧", "नमस्ते שלום"])
def test_any_text_comes_out_whole(tokenizer, text):
    streamer = Recorder(tokenizer)
    streamer.put(torch.tensor([tokenizer(text).input_ids]))
    streamer.end()
    assert "".join(streamer.pieces) == text


def test_bytes_that_are_no_text_come_out_as_python_decodes_them(tokenizer):
    generator = random.Random(0)
    for _ in range(300):
        data = bytes(generator.choice((0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x41, 0xFF)) for _ in range(12))
        streamer, start = Recorder(tokenizer), 0
        while start < len(data):
            size = generator.randrange(1, 5)
            streamer.put(torch.tensor(list(data[start : start + size])))
            start += size
        streamer.end()
        assert "".join(streamer.pieces) == data.decode(errors="replace")


def test_special_tokens_show_or_not_and_end_a_character(tokenizer):
    ids = torch.tensor([0xE6, 257, 0x41])
    shown, hidden = Recorder(tokenizer), Recorder(tokenizer, skip_special_tokens=True)
    shown.put(ids)
    hidden.put(ids)
    assert shown.pieces == ["\ufffd<|eos|>A"] and hidden.pieces == ["\ufffdA"]


def test_a_streamer_can_be_used_again_and_leaves_the_prompt_out_each_time(tokenizer):
    streamer = Recorder(tokenizer, skip_prompt=True)
    for _ in range(2):
        streamer.put(torch.tensor([[65, 0xE6]]))
        streamer.put(torch.tensor([66]))
        streamer.end()
    assert "".join(streamer.pieces) == "BB" and streamer.num_ends == 2


@pytest.mark.parametrize("kind", ["gpt2", "byte_patch"])
def test_what_generate_writes_is_what_shows(tokenizer, kind, capsys):
    model, prompt = build_model(kind), torch.tensor([list("né".encode())])
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 40, "do_sample": True, "pad_token_id": 258}
    torch.manual_seed(1)
    expected = tokenizer.decode(model.generate(prompt, **options)[0])
    torch.manual_seed(1)
    model.generate(prompt, streamer=ByteTextStreamer(tokenizer), **options)
    assert capsys.readouterr().out == expected + "\n"
    torch.manual_seed(1)
    streamer = ByteTextIteratorStreamer(tokenizer, timeout=60)
    thread = Thread(target=model.generate, args=(prompt,), kwargs={**options, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == expected
    thread.join()


def test_what_cannot_be_shown_is_refused(tokenizer):
    with pytest.raises(ValueError, match="holds 2 texts"):
        ByteTextStreamer(tokenizer).put(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(TypeError, match="unknown \\['skip_specials'\\]"):
        ByteTextStreamer(tokenizer, skip_specials=True)
    rows = [{"text": "what is to be learned, to be learned"}]
    with pytest.raises(ValueError, match="other ids than 0 to 255"):
        ByteTextStreamer(train_bpe_tokenizer(rows, vocab_size=262))
