# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Do byte-patch models keep the promises of docs/architecture.md? Each promise once, over patchings and decoders."""

import copy
import itertools
import logging
from dataclasses import dataclass

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DataCollatorWithFlattening,
    DynamicCache,
    Trainer,
    TrainingArguments,
)

from hf_thoughtbubbles import (
    BytePatchConfig,
    BytePatchForCausalLM,
    PatchCache,
    build_byte_tokenizer,
    decode_bytes,
    encode_bytes,
)
from hf_thoughtbubbles.modeling.byte_patch import modeling_byte_patch
from hf_thoughtbubbles.modeling.byte_patch.patch_ends import find_patch_ends, number_patches
from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME
from tests.families import BYTE_PATCH_SIZES


TEXTS = (
    "To be, or not to be: that is the question.",
    "naïve café, Приве́т мир, 漢字かな交じり文, नमस्ते, שלום",
    "👩‍👩‍👧 family\r\nand\tNUL \0 here",
    "x" * 41,
)
RANDOM_BYTES = bytes(torch.randint(0, 256, (53,), generator=torch.Generator().manual_seed(3)).tolist())
PAD = 258


@dataclass(frozen=True)
class Variant:
    """One configuration, and whether boundaries come with the bytes."""

    name: str
    changes: dict

    def build(self, seed: int = 0, **changes) -> BytePatchForCausalLM:
        """A model with reproducible weights, of tiny and distinct sizes."""
        torch.manual_seed(seed)
        sizes = {
            **BYTE_PATCH_SIZES,
            "num_hidden_layers": 3,
            "max_position_embeddings": 151,
            "pad_token_id": PAD,
            "initializer_range": 0.3,
        }
        return BytePatchForCausalLM(BytePatchConfig(**{**sizes, **self.changes, **changes})).eval()

    def measure(self, rows: list[list[int]]) -> dict:
        """Patch lengths of the rows, for a model that needs them: three bytes, then one, and so on."""
        if self.changes.get("patching") != "token":
            return {}
        lengths = [([3, 1] * len(row))[: 2 * len(row)] for row in rows]
        measured = []
        for row, wanted in zip(rows, lengths, strict=True):
            patches, left = [], len(row)
            for length in wanted:
                if left == 0:
                    break
                patches.append(min(length, left))
                left -= patches[-1]
            measured.append(patches)
        longest = max(map(len, measured))
        return {"patch_lengths": torch.tensor([patches + [0] * (longest - len(patches)) for patches in measured])}


VARIANTS = [
    Variant("space", {}),
    Variant("space-parallel", {"decoder": "parallel", "reconstruction_loss_weight": 0.5}),
    Variant("fixed", {"patching": "fixed", "position_embedding": "relative", "core_num_key_value_heads": 1}),
    Variant("fixed-parallel", {"patching": "fixed", "decoder": "parallel", "position_embedding": "learned"}),
    Variant("token", {"patching": "token", "feed_forward": "swiglu", "position_embedding": "sinusoidal"}),
    Variant("token-parallel", {"patching": "token", "decoder": "parallel", "share_feed_forward": True}),
    Variant("published", {"decoder": "parallel", "byte_layers": "published", "hidden_act": "learned"}),
    Variant("layer-norm", {"attention_normalization": "layer_norm", "attention_bias": True, "mlp_bias": True}),
]
ALL = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
WITH_UNCACHED = pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if v.changes.get("patching") != "token"], ids=lambda variant: variant.name
)


def draw(*shape: int) -> torch.Tensor:
    """Random letters and spaces."""
    return torch.tensor(list(b"abc de")).index_select(0, torch.randint(0, 6, shape).flatten()).view(shape)


def measure_ends(is_end: torch.Tensor, lengths: dict) -> dict:
    """The patch lengths of one row whose ends are known, for a model that needs `lengths`."""
    stops = sorted({*is_end[0].nonzero().flatten().tolist(), is_end.shape[1] - 1})
    return {"patch_lengths": torch.tensor([stops]).diff(prepend=torch.tensor([[-1]]))} if lengths else {}


def pad(rows: list[list[int]], side: str) -> dict:
    """Rows as one batch."""
    longest = max(map(len, rows))
    gaps = [longest - len(row) for row in rows]
    is_left = side == "left"
    ids = [[PAD] * gap * is_left + row + [PAD] * gap * (not is_left) for row, gap in zip(rows, gaps, strict=True)]
    mask = [
        [0] * gap * is_left + [1] * len(row) + [0] * gap * (not is_left) for row, gap in zip(rows, gaps, strict=True)
    ]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@ALL
def test_promise_2_saving_and_loading_keeps_every_bit(variant, tmp_path):
    model, ids = variant.build(), draw(2, 17)
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(reloaded) is type(model)
    assert {**reloaded.config.to_dict(), "_name_or_path": ""} == model.config.to_dict()
    lengths = variant.measure(ids.tolist())
    assert torch.equal(reloaded(ids, **lengths).logits, model(ids, **lengths).logits)


@ALL
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_promise_3_later_bytes_change_no_earlier_logit(variant, attention):
    """Given lengths stay as they are: they come from outside."""
    model, ids = variant.build(), torch.tensor([list(TEXTS[1].encode())])
    model.set_attn_implementation(attention)
    lengths = variant.measure(ids.tolist())
    expected = model(ids, **lengths).logits
    for place in range(1, ids.shape[1], 3):
        edited = torch.cat((ids[:, :place], torch.randint(0, 259, (1, ids.shape[1] - place))), dim=1)
        logits = model(edited, **lengths).logits[:, :place]
        torch.testing.assert_close(logits, expected[:, :place], atol=1e-5, rtol=1e-5)


@ALL
@pytest.mark.parametrize("data", [*(text.encode() for text in TEXTS), RANDOM_BYTES], ids=range(len(TEXTS) + 1))
def test_promise_4_cached_logits_equal_uncached(variant, data):
    """Byte by byte, and in chunks of every size, after a prompt of any length."""
    model, ids = variant.build(), torch.tensor([list(data)])
    for sizes in ([1] * len(data), [5, 1, 1, 9, 2, 23] * 9, [len(data) - 2, 1, 1]):
        cache, start, seen, lengths = None, 0, [], variant.measure(ids[:, : sizes[0]].tolist())
        for size in sizes:
            if start < len(data):
                part = ids[:, start : start + size]
                outputs = model(part, past_key_values=cache, use_cache=True, **(lengths if start == 0 else {}))
                cache, start = outputs.past_key_values, start + size
                seen.append(outputs.logits)
        assert cache.get_seq_length() == len(data)
        outputs = model(ids, use_cache=False, **measure_ends(cache.is_end, lengths))
        assert outputs.past_key_values is None
        # The end of given lengths ends the last patch, which is open after what was read in parts.
        kept = slice(None, -1 if lengths else None)
        torch.testing.assert_close(torch.cat(seen, dim=1)[:, kept], outputs.logits[:, kept], atol=1e-4, rtol=0)


@pytest.mark.parametrize("byte_layers", ["published", "residual"])
def test_bytes_in_full_patches_are_read_and_written_as_blocks_are(byte_layers):
    """The published computation, which the reference arrays check, and ours over plain bytes are one."""
    changes = {"decoder": "parallel", "byte_layers": byte_layers, "patching": "fixed", "patch_size": 7}
    model, ids = Variant("blocks", changes).build(reconstruction_loss_weight=0.5), draw(2, 28)
    blocks = ids.view(2, 4, 7)
    expected, seen = model(patch_input_ids=blocks, labels=blocks), model(ids, labels=ids)
    base, plain = model.model(patch_input_ids=blocks), model.model(ids)
    torch.testing.assert_close(plain.patch_embeds, base.patch_embeds, atol=1e-5, rtol=1e-5)
    # The block after block s is written where block s ends: its byte j is the one after byte 7 (s + 1) + j - 1.
    written = expected.logits[:, :-1].flatten(1, 2)  # (B, 21, V)
    torch.testing.assert_close(seen.logits[:, 6:-1], written, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.reconstruction_loss, expected.reconstruction_loss)
    model.config.reconstruction_loss_weight = 0.0
    for labels, outputs, inputs in ((ids, seen, {"input_ids": ids}), (blocks, expected, {"patch_input_ids": blocks})):
        without = model(**inputs, labels=labels).loss
        torch.testing.assert_close(outputs.loss, without + 0.5 * expected.reconstruction_loss)


@WITH_UNCACHED
@pytest.mark.parametrize(
    "strategy",
    [
        {"do_sample": False},
        {"do_sample": True, "temperature": 0.8},
        {"num_beams": 3, "do_sample": False},
        {"do_sample": False, "prefill_chunk_size": 3},
        {"do_sample": False, "prompt_lookup_num_tokens": 3},
    ],
    ids=["greedy", "sampling", "beam", "chunked", "lookup"],
)
def test_promise_4_cached_generation_equals_uncached(variant, strategy):
    """Rows are at different places in their patches, and of different lengths."""
    prompts = [list(b"to be, or"), list(b"a b c de"), list("é漢".encode())]
    model, batch = variant.build(), pad(prompts[:1] if "prompt_lookup_num_tokens" in strategy else prompts, "left")
    plain = {key: strategy[key] for key in ("do_sample", "temperature", "num_beams") if key in strategy}
    torch.manual_seed(1)
    expected = model.generate(**batch, use_cache=False, max_new_tokens=29, **plain)
    torch.manual_seed(1)
    assert torch.equal(model.generate(**batch, max_new_tokens=29, **strategy), expected)


@ALL
@pytest.mark.parametrize("strategy", ["assistant", "lookup", "chunked"])
def test_promise_4_assisted_and_chunked_generation_equals_greedy(variant, strategy):
    model, prompt = variant.build(), draw(1, 19)
    options = {"max_new_tokens": 19, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
    options |= variant.measure(prompt.tolist())
    chosen = {
        "assistant": {"assistant_model": variant.build(seed=1, core_num_hidden_layers=1)},
        "lookup": {"prompt_lookup_num_tokens": 3},
        "chunked": {"prefill_chunk_size": 5},
    }[strategy]
    expected = model.generate(prompt, **options)
    assert torch.equal(model.generate(prompt, **options, **chosen), expected)


@ALL
def test_promise_4_beams_are_as_likely_as_the_uncached_model_finds_their_bytes(variant):
    """Token patching has no uncached generation to compare with, but given where patches ended it can be read."""
    model, rows = variant.build(), [list(b"to be, or"), list(b"a b c")]
    batch, lengths = pad(rows, "left"), variant.measure(rows)
    outputs = model.generate(
        **batch,
        **lengths,
        num_beams=3,
        do_sample=False,
        max_new_tokens=11,
        eos_token_id=-1,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
        output_patches=True,
    )
    mask = torch.cat((batch["attention_mask"], torch.ones(2, 11, dtype=torch.long)), dim=1)
    given = {"patch_lengths": outputs.patches.lengths} if lengths else {}
    logits = model(outputs.sequences, attention_mask=mask, use_cache=False, **given).logits[:, -12:-1]
    scores = logits.log_softmax(-1).gather(2, outputs.sequences[:, -11:, None]).sum((1, 2))
    torch.testing.assert_close(outputs.sequences_scores, scores, atol=1e-4, rtol=1e-4)


@ALL
def test_promise_4_the_core_runs_once_a_patch(variant):
    """Counted, for a single row: patches of the prompt at once, then one run for each patch that ends."""
    model, prompt = variant.build(), torch.tensor([list(b"abc de")])
    runs = []
    model.model.core.register_forward_hook(lambda module, inputs, output: runs.append(output.shape[1]))
    outputs = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=41,
        eos_token_id=-1,
        do_sample=False,
        return_dict_in_generate=True,
        output_patches=True,
        **variant.measure(prompt.tolist()),
    )
    ended = outputs.patches.is_end[0, prompt.shape[1] : -1].sum()  # the last byte is never read
    assert 0 < ended < 40
    assert len(runs) == 1 + ended and runs[1:] == [1] * int(ended)


@ALL
def test_promise_4_rows_of_a_batch_run_the_core_for_their_own_patches_alone(variant):
    """Counted: as many rows run as patches end; the parallel decoder writes patches for the same rows."""
    model, texts = variant.build(), ("abc defgh ijk", "a b c d e f g", "abcdefghijklmno")
    ids, runs, written = torch.tensor([list(text.encode())[:12] for text in texts]), [], []
    cache = model(ids[:, :2], use_cache=True, **variant.measure(ids[:, :2].tolist())).past_key_values
    model(ids[:, 2:3], past_key_values=cache)  # the parallel decoder writes the open patches of all rows
    model.model.core.register_forward_hook(lambda module, inputs, output: runs.append(output.shape[:2]))
    is_parallel = model.config.decoder == "parallel"
    if is_parallel:
        projection = model.model.byte_decoder.projection
        projection.register_forward_hook(lambda module, inputs, output: written.append(output.shape[:2]))
    for place in range(3, 12):
        model(ids[:, place : place + 1], past_key_values=cache)
    ended = cache.is_end[:, 3:].sum(0)
    assert 0 < ended.sum() < 27
    assert runs == [(int(count), 1) for count in ended if count > 0]
    assert written == (runs if is_parallel else [])


@ALL
def test_promise_4_rejected_bytes_leave_no_trace(variant):
    """After a crop, what follows is as if the bytes had never come, be their patches finished or not."""
    model, ids = variant.build(), torch.tensor([list(TEXTS[0].encode())])
    first = variant.measure(ids[:, :9].tolist())
    kept = model(ids[:, :9], use_cache=True, **first).past_key_values
    expected = [model(ids[:, place : place + 1], past_key_values=kept).logits for place in range(9, 25)]
    cache = model(ids[:, :9], use_cache=True, **first).past_key_values
    for rejected in (b"x y z zzz", b"  ", b"."):
        model(torch.tensor([list(rejected)]), past_key_values=cache)
        cache.crop(-len(rejected))
    for place, logits in zip(range(9, 25), expected, strict=True):
        seen = model(ids[:, place : place + 1], past_key_values=cache).logits
        torch.testing.assert_close(seen, logits, atol=1e-5, rtol=1e-5)


@ALL
def test_promise_4_reading_on_changes_nothing_that_was_returned(variant):
    model, ids = variant.build(), torch.tensor([list(b"to be, or")])
    with torch.no_grad():
        outputs = model.model(ids, use_cache=True, **variant.measure(ids.tolist()))
        before = outputs.patch_hidden_states.clone()
        for byte in b" not to be":
            model.model(torch.tensor([[byte]]), past_key_values=outputs.past_key_values)
    assert torch.equal(outputs.patch_hidden_states, before)


@ALL
def test_promise_5_padding_in_reach_of_a_short_prompt_is_not_read(variant):
    """Byte by byte, while the first patch is still open: whatever ids the padding has."""
    model, text, start = variant.build(), list(b"xyz to be"), 6 + 2
    mask = torch.tensor([[0] * 6 + [1] * len(text)])
    first = {"patch_lengths": torch.tensor([[2]])} if variant.measure([text]) else {}
    logits = []
    for padding in (b"??????", b"\0\1\2\3\4\5"):
        ids = torch.tensor([list(padding) + text])
        cache = model(ids[:, :start], attention_mask=mask[:, :start], use_cache=True, **first).past_key_values
        for place in range(start, ids.shape[1]):
            outputs = model(ids[:, place : place + 1], attention_mask=mask[:, : place + 1], past_key_values=cache)
            logits.append(outputs.logits)
    half = len(logits) // 2
    torch.testing.assert_close(torch.cat(logits[:half]), torch.cat(logits[half:]))


@ALL
def test_promise_5_a_row_of_padding_alone_harms_nothing(variant):
    model, rows = variant.build(), [list(b"to be, or not"), list(b"a b")]
    lengths = variant.measure(rows)
    batch = pad(rows, "right")
    expected = model(**batch, **lengths).logits[0]
    batch["attention_mask"][1] = 0
    if lengths:
        lengths["patch_lengths"][1] = 0
    logits = model(**batch, **lengths).logits
    torch.testing.assert_close(logits[0], expected, atol=1e-5, rtol=1e-5)
    assert logits.isfinite().all()


@ALL
@pytest.mark.parametrize("side", ["left", "right"])
def test_promise_5_a_padded_row_equals_the_row_alone(variant, side):
    model, rows = variant.build(), [list(text.encode()) for text in TEXTS]
    batch = pad(rows, side)
    logits = model(**batch, **variant.measure(rows)).logits
    for row, seen, mask in zip(rows, logits, batch["attention_mask"].bool(), strict=True):
        alone = model(torch.tensor([row]), **variant.measure([row])).logits[0]
        torch.testing.assert_close(seen[mask], alone, atol=1e-5, rtol=1e-4)


@ALL
def test_promise_6_accumulated_batches_give_the_gradients_of_a_large_one(variant):
    rows = [list(text.encode()) for text in TEXTS]
    batch, lengths = pad(rows, "right"), variant.measure(rows)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    num_items = int((labels[:, 1:] != -100).sum())
    whole, parts = variant.build(), variant.build()
    whole(**batch, **lengths, labels=labels, num_items_in_batch=num_items).loss.backward()
    for i in range(len(rows)):
        part = {key: value[i : i + 1] for key, value in {**batch, **lengths}.items()}
        parts(**part, labels=labels[i : i + 1], num_items_in_batch=num_items).loss.backward()
    for expected, seen in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(seen.grad, expected.grad, atol=1e-5, rtol=1e-3)


@ALL
@pytest.mark.parametrize("padding", ["left", "right"])
def test_promise_7_attention_implementations_agree(variant, padding):
    model, rows = variant.build(), [list(text.encode()) for text in TEXTS]
    batch = {**pad(rows, padding), **variant.measure(rows)}
    seen = []
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        model.zero_grad()
        logits = model(**batch).logits[batch["attention_mask"].bool()]
        logits.square().mean().backward()
        seen.append([logits, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for eager, fused in zip(*seen, strict=True):
        torch.testing.assert_close(fused, eager, atol=1e-4, rtol=1e-4)


@ALL
def test_promise_7_bf16_trains(variant):
    model, ids = variant.build(initializer_range=0.02).train().to(torch.bfloat16), draw(3, 31)
    lengths, optimizer = variant.measure(ids.tolist()), torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = model(ids, labels=ids, **lengths).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


@ALL
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_promise_7_gradient_checkpointing_gives_the_same_gradients(variant, use_reentrant):
    model, ids = variant.build().train(), draw(2, 23)
    lengths, plain = variant.measure(ids.tolist()), copy.deepcopy(model)
    plain(ids, labels=ids, **lengths).loss.backward()
    # Renamed within the versions of transformers that we support; the old name warns in the new ones.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})
    model(ids, labels=ids, **lengths).loss.backward()
    for expected, seen in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(seen.grad, expected.grad, atol=1e-6, rtol=1e-4)


@ALL
@pytest.mark.parametrize("padding", [False, True])
def test_promise_7_a_compiled_training_step_has_no_graph_break(variant, padding):
    model, rows = variant.build().train(), [list(b"abc de fg"), list(b"ab c d")]
    rows = rows if padding else [rows[0], rows[0]]
    batch = {**pad(rows, "right"), **variant.measure(rows)}
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    if not padding:
        batch.pop("attention_mask")
    expected = model(**batch).loss
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    loss = compiled(**batch).loss
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_promise_8_patches_are_visible_and_their_size_can_be_changed():
    model, ids = VARIANTS[2].build(), draw(1, 23)
    assert model(ids, output_patches=True).patches.lengths.tolist() == [[5, 5, 5, 5, 3]]
    assert model(ids).patches is None
    model.config.patch_size = 7
    assert model(ids, output_patches=True).patches.lengths.tolist() == [[7, 7, 7, 2]]


@pytest.mark.parametrize("data", ["né漢😀\r\n\0 Приве́т".encode(), RANDOM_BYTES[:17]], ids=["text", "bytes"])
@pytest.mark.parametrize("variant", VARIANTS[:6], ids=lambda variant: variant.name)
def test_anything_survives_encoding_training_generation_and_decoding(variant, data):
    """A model that learned it by heart writes it again, to the last byte; words stand in for tokens."""
    tokenizer = build_byte_tokenizer()
    ids = torch.tensor([[*encode_bytes(data), tokenizer.eos_token_id]])
    model = variant.build(initializer_range=0.1, reconstruction_loss_weight=0.0).train()
    lengths, first, prompt = {}, {}, ids[:, :1]
    if model.config.patching == "token":  # given patches are whole ones
        words = number_patches(find_patch_ends(ids, "space", 4, model.config.max_patch_bytes), None, None).lengths
        lengths, first, prompt = {"patch_lengths": words}, {"patch_lengths": words[:, :1]}, ids[:, : words[0, 0]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        loss = model(ids, labels=ids, **lengths).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    options = {"max_length": 60, "eos_token_id": 257, "do_sample": False}
    generated = model.eval().generate(prompt, attention_mask=torch.ones_like(prompt), **options, **first)
    assert decode_bytes(generated[0]) == data
    assert tokenizer.decode(generated[0], skip_special_tokens=True) == data.decode(errors="replace")


PACKED = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])


DOCUMENTS = (
    b"ends in a wo",
    b"rd",
    b" ",
    b"x",
    "unfinished 漢".encode()[:-1],
    "漢字".encode()[2:],
    b"abcdefg",  # as long as a patch may be
    b"abcde",
    b"fghij ",
    RANDOM_BYTES[:19],
)


def test_a_training_model_gives_a_cache_only_when_asked():
    model, ids = VARIANTS[0].build().train(), draw(1, 9)
    assert model(ids).past_key_values is None
    outputs = model(ids, use_cache=True)
    assert outputs.past_key_values.get_seq_length() == 9
    more = model(draw(1, 2), past_key_values=outputs.past_key_values)
    assert more.past_key_values.get_seq_length() == 11


def read_in_parts(model, ids: torch.Tensor, starts: list[int], cache=None) -> tuple[torch.Tensor, PatchCache]:
    """Logits of bytes read part after part from a cache."""
    logits = []
    for start, stop in itertools.pairwise([*starts, ids.shape[1]]):
        outputs = model(ids[:, start:stop], past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        logits.append(outputs.logits)
    return torch.cat(logits, dim=1), cache


@WITH_UNCACHED
def test_a_cache_made_in_inference_mode_can_be_read_on_from_outside(variant):
    model, ids = variant.build(), draw(2, 47)
    with torch.inference_mode():
        _, cache = read_in_parts(model, ids[:, :31], [0, 20, *range(21, 31)])  # with spare room by then
    with torch.no_grad():
        rest, _ = read_in_parts(model, ids[:, 31:], list(range(16)), cache)
    expected = model(ids, use_cache=False).logits[:, 31:]
    torch.testing.assert_close(rest, expected, atol=1e-4, rtol=1e-4)


@WITH_UNCACHED
def test_gradients_flow_through_a_cache(variant):
    model, ids = variant.build(), draw(2, 37)
    for read in (
        lambda: read_in_parts(model, ids, [0, 20, *range(21, 37)])[0],
        lambda: model(ids, use_cache=False).logits,
    ):
        model.zero_grad()
        read().square().mean().backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        expected = locals().get("expected") or found
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize(("byte_layers", "scale"), [("residual", 4.0), ("published", 1.0)])
def test_bytes_are_scaled_by_the_root_of_their_width_unless_as_published(byte_layers, scale):
    model = VARIANTS[1].build(byte_layers=byte_layers, hidden_size=16, encoder_num_hidden_layers=2)
    table = model.model.embed_tokens.weight
    assert torch.equal(model.model.embed(torch.tensor([[97, 257]])), table[[97, 257]][None] * scale)


@ALL
def test_packed_documents_are_read_as_if_each_were_alone(variant):
    model = variant.build()
    rows = [list(document) for document in DOCUMENTS] + [[257], list(b"and so on")]
    alone = [model(torch.tensor([row]), use_cache=False, **variant.measure([row])).logits for row in rows]
    packed = DataCollatorWithFlattening()([{"input_ids": row} for row in rows])
    lengths = [variant.measure([row]).get("patch_lengths") for row in rows]
    if lengths[0] is not None:
        packed["patch_lengths"] = torch.cat([row[row > 0] for row in lengths])[None]
    outputs = model(**packed, output_patches=True)
    assert outputs.past_key_values is None
    torch.testing.assert_close(outputs.logits, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-5)
    assert outputs.patches.lengths.sum() == sum(map(len, rows))

    # Two packed rows at once, and a training step: the gradient is that of the rows read apart.
    num_items = sum(len(row) - 1 for row in rows)
    for read in (
        lambda: model(**packed, num_items_in_batch=num_items).loss,
        lambda: sum(
            model(
                torch.tensor([row]), labels=torch.tensor([[-100, *row[1:]]]), num_items_in_batch=num_items,
                use_cache=False, **variant.measure([row]),
            ).loss
            for row in rows
        ),
    ):  # fmt: skip
        model.zero_grad()
        read().backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters()}
        expected = locals().get("expected") or found
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4, msg=name)
    twice = {name: value.repeat(2, 1) for name, value in packed.items() if name != "labels"}
    torch.testing.assert_close(model(**twice).logits[1:], outputs.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[3]], ids=lambda variant: variant.name)
def test_packed_documents_compile_without_a_graph_break(variant):
    model = variant.build().train()
    packed = DataCollatorWithFlattening()([{"input_ids": list(document)} for document in DOCUMENTS[:5]])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**packed).loss, model(**packed).loss)


@ALL
def test_promise_8_patches_of_generated_bytes_are_those_that_the_model_read(variant):
    """Also of bytes that a cache holds, whose ends nothing else remembers."""
    model, prompt = variant.build(), torch.tensor([list(b"the cat sat"), list(b"a b c d e f")])
    options = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": -1, "return_dict_in_generate": True}
    lengths = variant.measure(prompt.tolist())
    first = model.generate(prompt, attention_mask=torch.ones_like(prompt), **lengths, **options)
    text = torch.cat((first.sequences, torch.tensor([list(b" A"), list(b"b ")])), dim=1)
    cache = getattr(first, CACHE_NAME)
    outputs = model.generate(
        text, attention_mask=torch.ones_like(text), **{CACHE_NAME: cache}, output_patches=True, **options
    )
    num_read = getattr(outputs, CACHE_NAME).get_seq_length()  # the last byte is never read
    assert num_read == outputs.sequences.shape[1] - 1
    assert torch.equal(outputs.patches.is_end[:, :num_read], getattr(outputs, CACHE_NAME).is_end)
    if lengths:
        with pytest.raises(ValueError, match="`patch_lengths` was passed with bytes in `past_key_values`"):
            model.generate(text, **{CACHE_NAME: cache}, patch_lengths=torch.tensor([[22], [22]]), **options)


def test_promise_8_patches_are_returned_without_a_prompt():
    model = VARIANTS[0].build(bos_token_id=256)
    outputs = model.generate(max_new_tokens=6, return_dict_in_generate=True, output_patches=True, do_sample=False)
    assert torch.equal(outputs.patches.is_end[:, :-1], getattr(outputs, CACHE_NAME).is_end)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_reconstruction_loss_is_no_prediction_and_says_when_it_is_left_out(
    smoothing, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # else caplog hears nothing
    modeling_byte_patch.logger.warning_once.cache_clear()
    rows = [{"input_ids": ids, "labels": ids} for ids in draw(4, 9).tolist()]
    args = TrainingArguments(
        tmp_path, max_steps=1, use_cpu=True, report_to="none", save_strategy="no", label_smoothing_factor=smoothing
    )
    trainer = Trainer(VARIANTS[1].build(), args, train_dataset=rows)
    trainer.train()
    assert trainer.predict(rows).predictions.shape == (4, 9, 259)
    said = [
        record.getMessage() for record in caplog.records if "reconstruction loss is left out" in record.getMessage()
    ]
    assert len(said) == (1 if smoothing else 0)


def test_promise_9_bad_input_is_one_clear_error():
    model, ids = VARIANTS[0].build(), draw(2, 9)
    token, parallel = VARIANTS[4].build(), VARIANTS[6].build()
    blocks = {"patch_input_ids": torch.zeros(1, 2, parallel.config.max_patch_bytes, dtype=torch.long)}
    for call, message in (
        (lambda: model(), "Neither `input_ids` nor `patch_input_ids`"),
        (lambda: model(torch.tensor([[1, 259]])), "holds 259"),
        (lambda: model(torch.zeros(1, 0, dtype=torch.long)), "no size 0"),
        (lambda: model(draw(1, 152)), "`max_position_embeddings` is 151"),
        (lambda: model(ids, attention_mask=torch.ones(2, 8)), "`attention_mask` has shape"),
        (lambda: model(ids, position_ids=PACKED, use_cache=True), "passed with a cache"),
        (
            lambda: model(ids, position_ids=PACKED, past_key_values=PatchCache(model.config)),
            "passed with a cache",
        ),
        (
            lambda: model(ids, position_ids=PACKED, attention_mask=torch.ones(2, 9)),
            "passed with an `attention_mask`",
        ),
        (lambda: model(ids, position_ids=torch.arange(8)[None]), "`position_ids` has shape"),
        (lambda: model(draw(1, 160), position_ids=torch.arange(160)[None]), "longest document is 160 tokens"),
        (
            lambda: token(ids, position_ids=PACKED, patch_lengths=torch.tensor([[4, 5], [3, 6]])),
            "bytes 3 and 4 of row 1",
        ),
        (lambda: model(ids, past_key_values=DynamicCache()), "is a DynamicCache"),
        (lambda: model(patch_input_ids=torch.zeros(1, 2, 7, dtype=torch.long)), 'needs `decoder="parallel"`'),
        (lambda: model(ids, attention_mask=torch.ones(2, 1, 9, 9)), "`attention_mask` has 4 dimensions"),
        (lambda: parallel(**blocks, logits_to_keep=1), "`patch_input_ids` was passed with"),
        (lambda: parallel(**blocks, output_patches=True), "`patch_input_ids` was passed with"),
        (lambda: parallel(**blocks, use_cache=True), "`patch_input_ids` was passed with"),
        (lambda: parallel(**blocks, position_ids=torch.arange(2)[None]), "`patch_input_ids` was passed with"),
        (lambda: token(ids), "`patch_lengths` is missing"),
        (lambda: token(ids, patch_lengths=torch.tensor([[7, 2]])), "`patch_lengths` has shape"),
        (lambda: token(ids, patch_lengths=torch.tensor([[7, 2], [7, 1]])), "of row 1 sum to 8"),
        (lambda: token(ids, patch_lengths=torch.tensor([[1, 8], [7, 2]])), "`patch_lengths` holds 8"),
        (lambda: token(ids, patch_lengths=torch.tensor([[7, 0, 2], [7, 2, 0]])), "0 before a patch"),
        (lambda: model.generate(ids, cache_implementation="static", max_new_tokens=2), "`cache_implementation="),
        (lambda: PatchCache(model.config).crop(-1), "`tokens_to_remove` is -1"),
        (lambda: model.generate(ids, max_new_tokens=150), "Generation may read"),
        (lambda: token.generate(ids, use_cache=False, max_new_tokens=2), "`use_cache=False` was passed"),
        (lambda: token.generate(ids, patch_lengths=torch.tensor([[7], [7]]), max_new_tokens=2), "of row 0 sum to 7"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_patch_bytes": 3}, "`max_patch_bytes` is 3"),
        ({"patching": "fixed", "patch_size": 17}, "`patch_size` 17 is larger"),
        ({"hidden_size": 12}, "`hidden_size` 12 is not a multiple"),
        ({"reconstruction_loss_weight": 1.0}, "`reconstruction_loss_weight` is 1.0"),
        ({"is_causal": False}, "`is_causal` is False"),
        ({"hidden_act": "swish"}, '`hidden_act` is "swish"'),
        ({"num_key_value_heads": 2}, "or set `core_num_key_value_heads`"),
        ({"core_num_key_value_heads": 3}, "is not a multiple of `core_num_key_value_heads`"),
        ({"core_hidden_size": 24}, "is odd; rotary positions"),
        ({"byte_layers": "published", "encoder_num_hidden_layers": 1}, "`encoder_num_hidden_layers` is 1"),
    ],
)
def test_promise_9_numbers_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(Exception, match=message):
        BytePatchConfig(**changes)
