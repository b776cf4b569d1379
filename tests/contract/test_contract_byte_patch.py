# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The promises of byte-patch models, over patchings and decoders."""

import itertools
import logging

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    DataCollatorWithFlattening,
    DynamicCache,
    Trainer,
    TrainingArguments,
)

from hf_thoughtbubbles import (
    PatchCache,
    build_byte_tokenizer,
    decode_bytes,
    encode_bytes,
)
from hf_thoughtbubbles.modeling.byte_patch import modeling_byte_patch
from hf_thoughtbubbles.modeling.byte_patch.patch_ends import find_patch_ends, number_patches
from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME
from tests.contract.contract import ModelContract, holds_for
from tests.families import BYTE_VARIANTS, TEXTS, BytePatchFamily, draw_bytes, make_byte_patch


RANDOM_BYTES = bytes(torch.randint(0, 256, (53,), generator=torch.Generator().manual_seed(3)).tolist())


def measure_ends(is_end: torch.Tensor, lengths: dict) -> dict:
    """The patch lengths of one row whose ends are known, for a model that needs `lengths`."""
    stops = sorted({*is_end[0].nonzero().flatten().tolist(), is_end.shape[1] - 1})
    return {"patch_lengths": torch.tensor([stops]).diff(prepend=torch.tensor([[-1]]))} if lengths else {}


def generates_uncached(family: BytePatchFamily) -> bool:
    return family.generates_uncached


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


def read_in_parts(model, ids: torch.Tensor, starts: list[int], cache=None) -> tuple[torch.Tensor, PatchCache]:
    """Logits of bytes read part after part from a cache."""
    logits = []
    for start, stop in itertools.pairwise([*starts, ids.shape[1]]):
        outputs = model(ids[:, start:stop], past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        logits.append(outputs.logits)
    return torch.cat(logits, dim=1), cache


def pad_lengths(lesson: dict, num_more: int) -> dict:
    """The lesson with so many more patches without bytes."""
    return {**lesson, "patch_lengths": F.pad(lesson["patch_lengths"], (0, num_more))}


class TestBytePatch(ModelContract):
    families = BYTE_VARIANTS
    accumulation_tolerance = {"atol": 1e-5, "rtol": 1e-3}
    attention_tolerance = 1e-4  # published layers widen the residual stream, and logits grow with it

    @pytest.mark.parametrize("data", [*(text.encode() for text in TEXTS), RANDOM_BYTES], ids=range(len(TEXTS) + 1))
    def test_promise_4_bytes_read_in_parts_give_the_logits_of_the_whole(self, family, data):
        """Byte by byte, and in chunks of every size, after a prompt of any length."""
        model, ids = family.build(), torch.tensor([list(data)])
        for sizes in ([1] * len(data), [5, 1, 1, 9, 2, 23] * 9, [len(data) - 2, 1, 1]):
            cache, start, seen, lengths = None, 0, [], family.measure(ids[:, : sizes[0]].tolist())
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

    def test_promise_4_scores_of_beams_are_the_uncached_likelihoods(self, family):
        """Also with token patching, which does not generate uncached, given the lengths of the patches."""
        model, rows = family.build(), [torch.tensor(list(text)) for text in (b"to be, or", b"a b c")]
        batch = family.pad(rows, "left")
        outputs = model.generate(
            **batch,
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
        given = {"patch_lengths": outputs.patches.lengths} if "patch_lengths" in batch else {}
        logits = model(outputs.sequences, attention_mask=mask, use_cache=False, **given).logits[:, -12:-1]
        scores = logits.log_softmax(-1).gather(2, outputs.sequences[:, -11:, None]).sum((1, 2))
        torch.testing.assert_close(outputs.sequences_scores, scores, atol=1e-4, rtol=1e-4)

    def test_promise_4_the_core_runs_once_a_patch(self, family):
        """Counted, for a single row: patches of the prompt at once, then one run for each that ends; no drafts."""
        model, prompt = family.build(), torch.tensor([list(b"abc de")])
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
            num_draft_bytes=0,
            **family.measure(prompt.tolist()),
        )
        ended = outputs.patches.is_end[0, prompt.shape[1] : -1].sum()  # the last byte is never read
        assert 0 < ended < 40
        assert len(runs) == 1 + ended and runs[1:] == [1] * int(ended)

    def test_promise_4_the_core_runs_for_the_rows_whose_patches_end(self, family):
        """Counted: as many rows run as patches end; the parallel decoder writes patches for the same rows."""
        model, texts = family.build(), ("abc defgh ijk", "a b c d e f g", "abcdefghijklmno")
        ids, runs, written = torch.tensor([list(text.encode())[:12] for text in texts]), [], []
        cache = model(ids[:, :2], use_cache=True, **family.measure(ids[:, :2].tolist())).past_key_values
        model(ids[:, 2:3], past_key_values=cache)  # the parallel decoder writes the open patches of all rows
        model.model.core.register_forward_hook(lambda module, inputs, output: runs.append(output.shape[:2]))
        is_parallel = model.config.decoder == "parallel"
        if is_parallel:
            projection = model.model.byte_decoder.projection
            projection.register_forward_hook(lambda module, inputs, output: written.append(output.shape[:2]))
        for i in range(3, 12):
            model(ids[:, i : i + 1], past_key_values=cache)
        ended = cache.is_end[:, 3:].sum(0)
        assert 0 < ended.sum() < 27
        assert runs == [(int(count), 1) for count in ended if count > 0]
        assert written == (runs if is_parallel else [])

    def test_promise_4_rejected_bytes_leave_no_trace_in_open_patches(self, family):
        """Whether their patches were finished or not."""
        model, ids = family.build(), torch.tensor([list(TEXTS[0].encode())])
        first = family.measure(ids[:, :9].tolist())
        kept = model(ids[:, :9], use_cache=True, **first).past_key_values
        expected = [model(ids[:, i : i + 1], past_key_values=kept).logits for i in range(9, 25)]
        cache = model(ids[:, :9], use_cache=True, **first).past_key_values
        for rejected in (b"x y z zzz", b"  ", b"."):
            model(torch.tensor([list(rejected)]), past_key_values=cache)
            cache.crop(-len(rejected))
        for i, logits in zip(range(9, 25), expected, strict=True):
            seen = model(ids[:, i : i + 1], past_key_values=cache).logits
            torch.testing.assert_close(seen, logits, atol=1e-5, rtol=1e-5)

    def test_promise_4_later_bytes_change_no_returned_state(self, family):
        model, ids = family.build(), torch.tensor([list(b"to be, or")])
        with torch.no_grad():
            outputs = model.model(ids, use_cache=True, **family.measure(ids.tolist()))
            before = outputs.patch_hidden_states.clone()
            for byte in b" not to be":
                model.model(torch.tensor([[byte]]), past_key_values=outputs.past_key_values)
        assert torch.equal(outputs.patch_hidden_states, before)

    def test_promise_5_padding_in_reach_of_a_short_prompt_is_not_read(self, family):
        """Byte by byte, while the first patch is still open, with any ids for padding."""
        model, text, start = family.build(), list(b"xyz to be"), 6 + 2
        mask = torch.tensor([[0] * 6 + [1] * len(text)])
        first = {"patch_lengths": torch.tensor([[2]])} if family.measure([text]) else {}
        logits = []
        for padding in (b"??????", b"\0\1\2\3\4\5"):
            ids = torch.tensor([list(padding) + text])
            cache = model(ids[:, :start], attention_mask=mask[:, :start], use_cache=True, **first).past_key_values
            for i in range(start, ids.shape[1]):
                outputs = model(ids[:, i : i + 1], attention_mask=mask[:, : i + 1], past_key_values=cache)
                logits.append(outputs.logits)
        half = len(logits) // 2
        torch.testing.assert_close(torch.cat(logits[:half]), torch.cat(logits[half:]))

    @pytest.mark.parametrize("byte_layers", ["published", "residual"])
    def test_bytes_in_full_patches_are_read_and_written_as_blocks_are(self, byte_layers):
        """The published computation, which the reference arrays check, and ours over plain bytes are one."""
        changes = {"decoder": "parallel", "byte_layers": byte_layers, "patching": "fixed", "patch_size": 7}
        model, ids = make_byte_patch("blocks", **changes).build(reconstruction_loss_weight=0.5), draw_bytes(2, 28)
        blocks = ids.view(2, 4, 7)
        expected, seen = model(patch_input_ids=blocks, labels=blocks), model(ids, labels=ids)
        base, plain = model.model(patch_input_ids=blocks), model.model(ids)
        torch.testing.assert_close(plain.patch_embeds, base.patch_embeds, atol=1e-5, rtol=1e-5)
        # The block after block s is written where block s ends: its byte j is the one after byte 7 (s + 1) + j - 1.
        written = expected.logits[:, :-1].flatten(1, 2)  # (B, 21, V)
        torch.testing.assert_close(seen.logits[:, 6:-1], written, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen.reconstruction_loss, expected.reconstruction_loss)
        model.config.reconstruction_loss_weight = 0.0
        for labels, outputs, inputs in (
            (ids, seen, {"input_ids": ids}),
            (blocks, expected, {"patch_input_ids": blocks}),
        ):
            without = model(**inputs, labels=labels).loss
            torch.testing.assert_close(outputs.loss, without + 0.5 * expected.reconstruction_loss)

    def test_promise_8_patches_are_visible_and_their_size_can_be_changed(self):
        model, ids = BYTE_VARIANTS[2].build(), draw_bytes(1, 23)
        assert model(ids, output_patches=True).patches.lengths.tolist() == [[5, 5, 5, 5, 3]]
        assert model(ids).patches is None
        model.config.patch_size = 7
        assert model(ids, output_patches=True).patches.lengths.tolist() == [[7, 7, 7, 2]]

    @pytest.mark.slow
    @pytest.mark.parametrize("data", ["né漢😀\r\n\0 Приве́т".encode(), RANDOM_BYTES[:17]], ids=["text", "bytes"])
    @holds_for(lambda family: family.name not in ("published", "layer-norm"))
    def test_anything_survives_encoding_training_generation_and_decoding(self, family, data):
        """A model that learned it by heart writes it again, to the last byte; words stand in for tokens."""
        tokenizer = build_byte_tokenizer()
        ids = torch.tensor([[*encode_bytes(data), tokenizer.eos_token_id]])
        model = family.build(initializer_range=0.1, reconstruction_loss_weight=0.0).train()
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

    @holds_for(generates_uncached)
    def test_promise_4_a_cache_made_in_inference_mode_can_be_continued_outside(self, family):
        model, ids = family.build(), draw_bytes(2, 47)
        with torch.inference_mode():
            _, cache = read_in_parts(model, ids[:, :31], [0, 20, *range(21, 31)])  # with spare room by then
        with torch.no_grad():
            rest, _ = read_in_parts(model, ids[:, 31:], list(range(16)), cache)
        expected = model(ids, use_cache=False).logits[:, 31:]
        torch.testing.assert_close(rest, expected, atol=1e-4, rtol=1e-4)

    @holds_for(generates_uncached)
    def test_gradients_flow_through_a_cache(self, family):
        model, ids = family.build(), draw_bytes(2, 37)
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
    def test_bytes_are_scaled_by_the_root_of_their_width_unless_as_published(self, byte_layers, scale):
        model = BYTE_VARIANTS[1].build(byte_layers=byte_layers, hidden_size=16, encoder_num_hidden_layers=2)
        table = model.model.embed_tokens.weight
        assert torch.equal(model.model.embed(torch.tensor([[97, 257]])), table[[97, 257]][None] * scale)

    def test_packed_documents_stay_apart(self, family):
        model = family.build()
        rows = [list(document) for document in DOCUMENTS] + [[257], list(b"and so on")]
        alone = [model(torch.tensor([row]), use_cache=False, **family.measure([row])).logits for row in rows]
        packed = DataCollatorWithFlattening()([{"input_ids": row} for row in rows])
        lengths = [family.measure([row]).get("patch_lengths") for row in rows]
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
                    use_cache=False, **family.measure([row]),
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

    @pytest.mark.slow
    @holds_for(lambda family: family.name in ("space", "fixed-parallel"))
    def test_packed_documents_compile_without_a_graph_break(self, family):
        model = family.build().train()
        packed = DataCollatorWithFlattening()([{"input_ids": list(document)} for document in DOCUMENTS[:5]])
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(**packed).loss, model(**packed).loss)

    @pytest.mark.slow
    @holds_for(lambda family: family.name == "token")
    def test_the_second_number_of_patches_compiles_a_graph_for_all(self, family):
        model, lesson = family.build().train(), family.draw_lesson(2)
        torch._dynamo.reset()
        with torch._dynamo.config.patch(automatic_dynamic_local_pgo=False):
            compiled = torch.compile(model, fullgraph=True, backend="eager")
            for num_more in (0, 5):
                compiled(**pad_lengths(lesson, num_more)).loss.backward()
            with torch.compiler.set_stance("fail_on_recompile"):
                for num_more in (1, 3, 8):
                    compiled(**pad_lengths(lesson, num_more)).loss.backward()

    def test_promise_8_patches_of_generated_bytes_are_returned(self, family):
        """Also of bytes that a cache holds."""
        model, prompt = family.build(), torch.tensor([list(b"the cat sat"), list(b"a b c d e f")])
        options = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": -1, "return_dict_in_generate": True}
        lengths = family.measure(prompt.tolist())
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

    def test_promise_8_patches_are_returned_without_a_prompt(self):
        model = BYTE_VARIANTS[0].build(bos_token_id=256)
        outputs = model.generate(max_new_tokens=6, return_dict_in_generate=True, output_patches=True, do_sample=False)
        assert torch.equal(outputs.patches.is_end[:, :-1], getattr(outputs, CACHE_NAME).is_end)

    @pytest.mark.slow
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_a_reconstruction_loss_that_needs_labels_warns_without_them(
        self, smoothing, tmp_path, caplog, monkeypatch
    ):
        monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # else caplog hears nothing
        modeling_byte_patch.logger.warning_once.cache_clear()
        rows = [{"input_ids": ids, "labels": ids} for ids in draw_bytes(4, 9).tolist()]
        args = TrainingArguments(
            tmp_path, max_steps=1, use_cpu=True, report_to="none", save_strategy="no", label_smoothing_factor=smoothing
        )
        trainer = Trainer(BYTE_VARIANTS[1].build(), args, train_dataset=rows)
        trainer.train()
        assert trainer.predict(rows).predictions.shape == (4, 9, 259)
        said = [
            record.getMessage()
            for record in caplog.records
            if "reconstruction loss is left out" in record.getMessage()
        ]
        assert len(said) == (1 if smoothing else 0)

    def get_generation_refusals(self, family) -> list[tuple[dict, str]]:
        prompt = {**family.ask(2, 9), "max_new_tokens": 2}
        too_long = [({**prompt, "max_new_tokens": 150}, "Generation may read")]
        refusals = [
            *(too_long if family.config.has_position_table else []),
            ({**prompt, "cache_implementation": "static"}, "`cache_implementation="),
        ]
        if not family.generates_uncached:
            refusals += [
                ({**prompt, "use_cache": False}, "`use_cache=False` was passed"),
                ({**prompt, "patch_lengths": torch.tensor([[7], [7]])}, "of row 0 sum to 7"),
            ]
        return refusals

    def test_promise_10_bad_input_is_one_clear_error(self):
        model, ids = BYTE_VARIANTS[0].build(), draw_bytes(2, 9)
        token, parallel, learned = (BYTE_VARIANTS[i].build() for i in (4, 6, 3))
        blocks = {"patch_input_ids": torch.zeros(1, 2, parallel.config.max_patch_bytes, dtype=torch.long)}
        for call, message in (
            (lambda: model(), "Neither `input_ids` nor `patch_input_ids`"),
            (lambda: model(torch.tensor([[1, 259]])), "holds 259"),
            (lambda: model(torch.zeros(1, 0, dtype=torch.long)), "no size 0"),
            (lambda: learned(draw_bytes(1, 152)), "`max_position_embeddings` is 151"),
            (lambda: model(ids, attention_mask=torch.ones(2, 8)), "`attention_mask` has shape"),
            (lambda: model(ids, position_ids=PACKED, use_cache=True), "passed with a cache"),
            (
                lambda: model(ids, position_ids=PACKED, past_key_values=PatchCache(model.config)),
                "passed with a cache",
            ),
            (
                lambda: model(ids, position_ids=PACKED, attention_mask=torch.tensor([[1] * 9, [0] * 2 + [1] * 7])),
                "passed with an `attention_mask`",
            ),
            (lambda: model(ids, position_ids=torch.arange(8)[None]), "`position_ids` has shape"),
            (
                lambda: learned(draw_bytes(1, 160), position_ids=torch.arange(160)[None]),
                "`position_ids` holds 159",
            ),
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
            (lambda: PatchCache(model.config).crop(-1), "`tokens_to_remove` is -1"),
        ):
            with pytest.raises(ValueError, match=message):
                call()
