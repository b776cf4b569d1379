# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Lengths of byte patches: the bytes of a tokenizer's tokens, no character split, for any ids."""

import logging
import random
from itertools import accumulate

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import (
    ByT5Tokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorWithFlattening,
    PreTrainedTokenizerFast,
)

from hf_thoughtbubbles import BytePatchConfig, BytePatchForCausalLM, build_byte_tokenizer
from hf_thoughtbubbles.data.patches import PatchCollator, TokenPatchCollator, measure_patch_lengths
from hf_thoughtbubbles.tokenization.bpe_tokenizer import train_bpe_tokenizer


BOS, EOS, PAD = 256, 257, 258
SNOWMAN, ASTRONAUT = "☃", "👩‍🚀"  # 3 bytes; 4, 3 and 4 bytes
ROWS = [{"input_ids": list(b"low low")}, {"input_ids": list(b"slow")}]


@pytest.fixture(scope="module")
def patch_tokenizer() -> PreTrainedTokenizerFast:
    """Learns `lo`, `low` and ` low`, and nothing of other characters."""
    return train_bpe_tokenizer(["low lower lowest", "low"], vocab_size=262)


def make_tokenizer(padding_side: str = "right") -> PreTrainedTokenizerFast:
    tokenizer = build_byte_tokenizer()
    tokenizer.padding_side = padding_side
    return tokenizer


def make_word_tokenizer(model, pre_tokenizer=None, normalizer=None) -> PreTrainedTokenizerFast:
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer or pre_tokenizers.Whitespace()
    if normalizer is not None:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def draw_ids(generator: random.Random) -> list[int]:
    """Text of any language, bytes that may be none, halves of characters, and special ids, mixed."""
    ids = []
    for _ in range(generator.randint(1, 13)):
        text = "".join(generator.choice(f"low é你{SNOWMAN}{ASTRONAUT}\n\x00") for _ in range(generator.randint(0, 19)))
        data = list(text.encode())
        parts = [data, data[1:], data[:-1], list(generator.randbytes(5)), [generator.randint(BOS, PAD)]]
        ids += generator.choice(parts)
    return ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("low", [3]),
        ("low low", [3, 4]),
        ("slow slow\n", [1, 3, 1, 1, 3, 1]),
        ("é" + SNOWMAN + "low", [2, 3, 3]),
        (ASTRONAUT + " low", [4, 3, 4, 4]),
        ("l\x00ow\r\n", [1, 1, 1, 1, 1, 1]),
        ("<|eos|>low", [1, 1, 1, 1, 1, 1, 1, 3]),
    ],
)
def test_patches_are_the_bytes_of_tokens(patch_tokenizer, text, expected):
    assert measure_patch_lengths(list(text.encode()), patch_tokenizer) == expected


def test_a_token_between_two_characters_joins_them():
    # The second byte of é, ũ and ǩ and the first of à, è and ì make the one token learned, 0xA9 0xC3.
    patch_tokenizer = train_bpe_tokenizer(["éà ũè ǩì"], vocab_size=257, special_tokens=())
    offsets = patch_tokenizer("aéàb", return_offsets_mapping=True).offset_mapping
    assert offsets == [(0, 1), (1, 2), (1, 3), (2, 3), (3, 4)]
    assert measure_patch_lengths(list("aéàb".encode()), patch_tokenizer) == [1, 4, 1]


def test_special_ids_are_patches_of_their_own_between_texts(patch_tokenizer):
    ids = [BOS, *b"low", EOS, EOS, *b" low"]
    assert measure_patch_lengths(ids, patch_tokenizer) == [1, 3, 1, 1, 4]
    assert measure_patch_lengths([*b"lo", PAD, *b"w"], patch_tokenizer) == [2, 1, 1]
    assert measure_patch_lengths([EOS], patch_tokenizer) == [1]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (SNOWMAN.encode()[1:] + b"low", [2, 3]),
        (b"low" + SNOWMAN.encode()[:2], [3, 2]),
        (b"low\xff\xfe\xfdlow\x80", [3, 3, 3, 1]),
        (b"\xed\xa0\x80", [3]),
        (b"\xe2\xc3\xa9", [1, 2]),
    ],
)
def test_a_run_of_bytes_that_are_not_text_is_a_patch(patch_tokenizer, data, expected):
    assert measure_patch_lengths(list(data), patch_tokenizer) == expected


def test_a_character_halved_by_a_special_id_is_not_text(patch_tokenizer):
    first, *rest = SNOWMAN.encode()
    assert measure_patch_lengths([first, EOS, *rest], patch_tokenizer) == [1, 1, 2]


@pytest.mark.parametrize(
    ("data", "max_patch_bytes", "expected"),
    [
        (b"low" * 3, 9, [9]),
        (b"low" * 3, 8, [8, 1]),
        (b"low" * 3, 4, [4, 4, 1]),
        ((SNOWMAN * 3).encode(), 4, [3, 3, 3]),
        ((SNOWMAN * 3).encode(), 7, [6, 3]),
        (ASTRONAUT.encode(), 7, [7, 4]),
        (b"\x80" * 9, 4, [4, 4, 1]),
    ],
)
def test_long_patches_are_cut_between_characters(data, max_patch_bytes, expected):
    whole = make_word_tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"), pre_tokenizers.WhitespaceSplit())
    assert measure_patch_lengths(data, whole) == [len(data)]
    assert measure_patch_lengths(data, whole, max_patch_bytes=max_patch_bytes) == expected


@pytest.mark.parametrize("max_patch_bytes", [None, 4, 5, 7])
def test_lengths_sum_to_the_ids_and_split_no_character(patch_tokenizer, max_patch_bytes):
    generator = random.Random(0)
    for _ in range(200):
        ids = draw_ids(generator)
        lengths = measure_patch_lengths(ids, patch_tokenizer, max_patch_bytes)
        assert sum(lengths) == len(ids)
        assert all(0 < length <= (max_patch_bytes or len(ids)) for length in lengths)
        data = bytes(0xFF if token_id > 255 else token_id for token_id in ids)  # 0xFF is never text
        for bound in accumulate(lengths):
            halves = data[:bound].decode(errors="ignore") + data[bound:].decode(errors="ignore")
            assert halves == data.decode(errors="ignore"), f"a character is split at byte {bound}"


def test_ids_may_be_a_list_bytes_or_a_tensor(patch_tokenizer):
    for ids in (b"low low", list(b"low low"), torch.tensor(list(b"low low"))):
        lengths = measure_patch_lengths(ids, patch_tokenizer)
        assert lengths == [3, 4]
        assert all(type(length) is int for length in lengths)


def test_a_long_text_is_measured_without_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # else caplog hears nothing
    short = train_bpe_tokenizer(["low"], vocab_size=259, model_max_length=5)
    assert measure_patch_lengths(b"slower" * 3, short) == [1] * 18
    assert not caplog.records


def test_characters_that_a_tokenizer_normalizes_count_with_their_own_bytes():
    model = models.WordLevel({"[UNK]": 0, "e": 1}, unk_token="[UNK]")
    lower = make_word_tokenizer(model, pre_tokenizers.Split(" ", "isolated"), normalizers.Lowercase())
    assert measure_patch_lengths("E İİ e\u0301".encode(), lower) == [1, 1, 4, 1, 3]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("low low", "characters 3 to 4, ' ', near 'low low'"),
        ("  low", "characters 0 to 2, '  ', near '  low'"),
        (SNOWMAN + "low\n", r"characters 4 to 5, '\\n', near '☃low\\n'"),
        (" ", "characters 0 to 1, ' ', near ' '"),
    ],
)
def test_text_that_no_token_holds_is_refused(text, found):
    vocab = {"[UNK]": 0, "low": 1}
    for model in (models.WordPiece(vocab, unk_token="[UNK]"), models.WordLevel(vocab, unk_token="[UNK]")):
        message = f"`patch_tokenizer` .* do not cover the text: no token holds {found}. Use a byte-level tokenizer"
        with pytest.raises(ValueError, match=message):
            measure_patch_lengths(text.encode(), make_word_tokenizer(model))


def test_what_cannot_be_measured_is_refused(patch_tokenizer):
    with pytest.raises(ValueError, match="`patch_tokenizer` is a slow ByT5Tokenizer"):
        measure_patch_lengths(b"low", ByT5Tokenizer())
    with pytest.raises(ValueError, match="`max_patch_bytes` is 3; it must be at least 4"):
        measure_patch_lengths(b"low", patch_tokenizer, max_patch_bytes=3)
    with pytest.raises(ValueError, match="`input_ids` holds -100"):
        measure_patch_lengths([97, -100], patch_tokenizer)


@pytest.mark.parametrize("side", ["right", "left"])
def test_bytes_are_padded_on_the_tokenizers_side_and_patches_on_the_right(patch_tokenizer, side):
    batch = TokenPatchCollator(make_tokenizer(side), patch_tokenizer)(ROWS)
    low, slow, rest = list(b"low low"), list(b"slow"), 3
    is_right = side == "right"
    assert batch["input_ids"].tolist() == [low, slow + [PAD] * rest if is_right else [PAD] * rest + slow]
    assert batch["attention_mask"].tolist() == [[1] * 7, [1, 1, 1, 1, 0, 0, 0] if is_right else [0, 0, 0, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [low, slow + [-100] * rest if is_right else [-100] * rest + slow]
    assert batch["patch_lengths"].tolist() == [[3, 4], [1, 3]]
    assert batch.keys() == {"input_ids", "attention_mask", "labels", "patch_lengths"}
    assert all(tensor.dtype == torch.long for tensor in batch.values())


def test_padding_is_in_no_patch(patch_tokenizer):
    rows = [{"input_ids": list(b"low")}, {"input_ids": [*b"a b", EOS]}]
    batch = TokenPatchCollator(make_tokenizer(), patch_tokenizer, pad_to_multiple_of=7)(rows)
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 7)
    assert batch["patch_lengths"].tolist() == [[3, 0, 0, 0], [1, 1, 1, 1]]
    assert batch["patch_lengths"].sum(dim=1).tolist() == batch["attention_mask"].sum(dim=1).tolist()


@pytest.mark.parametrize("packing", [False, True])
def test_labels_and_lengths_that_rows_bring_are_kept(patch_tokenizer, packing):
    rows = [
        {"input_ids": list(b"low"), "labels": [2, 3, 5], "patch_lengths": [1, 2], "text": "low"},
        {"input_ids": list(b"lows"), "labels": [-100, 7, 11, 13], "text": "lows"},
    ]
    tensors = [{key: torch.tensor(value) for key, value in row.items() if key != "text"} for row in rows]
    for given in (rows, tensors):
        batch = TokenPatchCollator(make_tokenizer(), patch_tokenizer, packing=packing)(given)
        if packing:
            assert batch["labels"].tolist() == [[-100, 3, 5, -100, 7, 11, 13]]
            assert batch["patch_lengths"].tolist() == [[1, 2, 3, 1]]
        else:
            assert batch["labels"].tolist() == [[2, 3, 5, -100], [-100, 7, 11, 13]]
            assert batch["patch_lengths"].tolist() == [[1, 2], [3, 1]]
    assert rows[0].keys() == {"input_ids", "labels", "patch_lengths", "text"}, "the rows stay as they were"


def test_measured_lengths_are_not_cut_but_those_measured_here_are(patch_tokenizer):
    rows = [{"input_ids": [0x80] * 7}, {"input_ids": [0x80] * 7, "patch_lengths": [7]}]
    batch = TokenPatchCollator(make_tokenizer(), patch_tokenizer, max_patch_bytes=5)(rows)
    assert batch["patch_lengths"].tolist() == [[5, 2], [7, 0]]
    assert TokenPatchCollator(make_tokenizer(), patch_tokenizer).max_patch_bytes == 16


def test_packing_makes_one_row_whose_documents_do_not_predict_each_other(patch_tokenizer):
    batch = TokenPatchCollator(make_tokenizer(), patch_tokenizer, packing=True)(ROWS)
    assert batch["input_ids"].tolist() == [list(b"low lowslow")]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[-100, *b"ow low", -100, *b"low"]]
    assert batch["patch_lengths"].tolist() == [[3, 4, 1, 3]], "no patch lies in two documents"
    assert batch.keys() == {"input_ids", "labels", "position_ids", "patch_lengths"}
    assert all(tensor.dtype == torch.long for tensor in batch.values())


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataloader_serves_the_batches(patch_tokenizer, packing, num_workers):
    collator = TokenPatchCollator(make_tokenizer(), patch_tokenizer, packing=packing)
    batches = list(DataLoader(ROWS * 3, batch_size=2, num_workers=num_workers, collate_fn=collator))
    assert len(batches) == 3
    for batch in batches:
        assert batch["patch_lengths"].tolist() == ([[3, 4, 1, 3]] if packing else [[3, 4], [1, 3]])


@pytest.mark.parametrize("packing", [False, True])
def test_a_row_that_does_not_fit_is_named(patch_tokenizer, packing):
    collator = TokenPatchCollator(make_tokenizer(), patch_tokenizer, packing=packing)
    for lengths, total, least in (([3, 2], 5, 2), ([], 0, 0), ([3, 0], 3, 0), ([4, -1], 3, -1)):
        message = f"Row 2 has `patch_lengths` that sum to {total}, the least {least}; they must be .* its 3 bytes"
        with pytest.raises(ValueError, match=message):
            collator([*ROWS, {"input_ids": list(b"low"), "patch_lengths": lengths}])
    with pytest.raises(ValueError, match="Row 2 has no `input_ids`: an empty text has no bytes"):
        collator([*ROWS, {"input_ids": []}])
    with pytest.raises(ValueError, match="Row 2 has 2 `labels` for 3 `input_ids`"):
        collator([*ROWS, {"input_ids": list(b"low"), "labels": [2, 3]}])


def test_a_padding_token_is_needed_only_to_pad(patch_tokenizer):
    bare = build_byte_tokenizer(special_tokens=("<|eos|>",))
    with pytest.raises(ValueError, match="`tokenizer` has no padding token, but rows of 4 to 7 bytes need padding"):
        TokenPatchCollator(bare, patch_tokenizer)(ROWS)
    with pytest.raises(ValueError, match="`tokenizer` has no padding token, but rows of 7 to 7 bytes need padding"):
        TokenPatchCollator(bare, patch_tokenizer, pad_to_multiple_of=5)(ROWS[:1])
    batch = TokenPatchCollator(bare, patch_tokenizer, pad_to_multiple_of=7)(ROWS[:1] * 2)
    assert batch["attention_mask"].tolist() == [[1] * 7] * 2
    assert TokenPatchCollator(bare, patch_tokenizer, packing=True)(ROWS)["input_ids"].shape == (1, 11)


def test_settings_are_checked_before_the_first_batch(patch_tokenizer):
    with pytest.raises(ValueError, match="`patch_tokenizer` is a slow ByT5Tokenizer"):
        TokenPatchCollator(make_tokenizer(), ByT5Tokenizer())
    with pytest.raises(ValueError, match="`max_patch_bytes` is 3; it must be at least 4"):
        TokenPatchCollator(make_tokenizer(), patch_tokenizer, max_patch_bytes=3)
    with pytest.raises(ValueError, match="`pad_to_multiple_of=8` was passed, but `packing` pads nothing"):
        TokenPatchCollator(make_tokenizer(), patch_tokenizer, packing=True, pad_to_multiple_of=8)


@pytest.mark.parametrize("patching", ["space", "fixed"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_lengths_of_words_and_of_fixed_patches_are_those_that_the_model_finds(patching, padding_side):
    config = BytePatchConfig(
        core_hidden_size=16, core_num_hidden_layers=1, core_num_attention_heads=2, hidden_size=16, patching=patching
    )
    model = BytePatchForCausalLM(config).eval()
    rows = [{"input_ids": list("to be, or not to bé".encode())}, {"input_ids": [*b"that is", EOS, *b"th"]}]
    for collator in (
        DataCollatorForLanguageModeling(make_tokenizer(padding_side), mlm=False),
        DataCollatorWithFlattening(),
    ):
        batch = PatchCollator(config, collator, pad_to_multiple_of=4)(rows)
        lengths = batch.pop("patch_lengths")
        found = model(**batch, use_cache=False, output_patches=True)
        assert lengths.shape[1] % 4 == 0
        num_patches = found.patches.lengths.shape[1]
        assert torch.equal(lengths[:, :num_patches], found.patches.lengths)
        assert not lengths[:, num_patches:].any()
        told = model(**batch, use_cache=False, patch_lengths=lengths)
        torch.testing.assert_close(told.loss, found.loss)


def test_collator_of_found_patches_refuses_what_it_cannot_measure():
    with pytest.raises(ValueError, match="Use `TokenPatchCollator`"):
        PatchCollator(BytePatchConfig(patching="token"), DataCollatorWithFlattening())
    with pytest.raises(ValueError, match="`pad_to_multiple_of` is 0"):
        PatchCollator(BytePatchConfig(), DataCollatorWithFlattening(), pad_to_multiple_of=0)
