# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The promises about input: masks, packed documents, positions, targets and caches."""

import inspect

import pytest
import torch
from transformers import DataCollatorWithFlattening, DynamicCache, EncoderDecoderCache

from hf_thoughtbubbles import (
    BytePatchForCausalLM,
    GenericTransformerForCausalLM,
    LoopedThinkerForCausalLM,
    LoopedThinkerForConditionalGeneration,
    NextThoughtForConditionalGeneration,
    ThoughtbubblesForCausalLM,
)
from tests.contract.contract_helpers import compute_gradients, has_cache, holds_for, is_decoder_only, take_gradients
from tests.families import Family, select_rows


OTHER_HEADS = {  # changes that give a model of the same width whose keys have another shape
    ThoughtbubblesForCausalLM: {"num_attention_heads": 6, "num_key_value_heads": 6},
    LoopedThinkerForCausalLM: {"num_attention_heads": 12, "num_key_value_heads": 12},
    GenericTransformerForCausalLM: {"num_attention_heads": 12, "num_key_value_heads": 12},
    BytePatchForCausalLM: {"core_num_attention_heads": 6, "core_num_key_value_heads": 6},
    LoopedThinkerForConditionalGeneration: {"num_attention_heads": 12, "num_key_value_heads": 12},
    NextThoughtForConditionalGeneration: {"decoder_attention_heads": 6, "decoder_key_value_heads": 6},
}


def join_patch_lengths(family: Family, documents: list[torch.Tensor]) -> dict:
    """The patch lengths of documents that are packed into a row, for a model that needs them."""
    lengths = [family.pad([document], "right").get("patch_lengths") for document in documents]
    return {} if lengths[0] is None else {"patch_lengths": torch.cat(lengths, dim=1)}


class InputContract:
    """Tests over the entries of a family, for [`ModelContract`]."""

    def test_masks_are_true_or_false_whatever_their_type(self, family):
        model, batch = family.build(), family.complete(family.pad(family.draw_rows()[:2], "right"))
        mask = batch.pop("attention_mask")
        expected = model(**batch, attention_mask=mask, use_cache=False).logits
        for same in (mask.bool(), mask.float(), mask.int()):
            assert torch.equal(model(**batch, attention_mask=same, use_cache=False).logits, expected)

    @holds_for(lambda family: not family.is_forking)
    def test_a_mask_of_ones_is_read_as_none(self, family):
        """Bit for bit; the published rule rounds budgets down with any mask."""
        model, inputs = family.build(), {**family.ask(3, 17), **family.read(3)}
        expected = model(**inputs).logits
        for mask in (torch.ones_like(inputs["input_ids"]), torch.ones(inputs["input_ids"].shape).bool()):
            assert torch.equal(model(**inputs, attention_mask=mask).logits, expected)
        if "decoder_input_ids" in inputs:
            mask = torch.ones_like(inputs["decoder_input_ids"])
            assert torch.equal(model(**inputs, decoder_attention_mask=mask).logits, expected)

    def test_padding_leaves_numbers_in_float64_with_eager_attention(self, family):
        model, batch = family.build().double(), family.complete(family.pad(family.draw_rows()[:2], "left"))
        model.set_attn_implementation("eager")
        assert model(**batch, use_cache=False).logits.isfinite().all()

    def test_masks_of_other_numbers_than_0_and_1_are_refused(self, family):
        model, inputs = family.build(), {**family.ask(), **family.read()}
        for text in {"input_ids", "decoder_input_ids"} & inputs.keys():
            name, given = text.replace("input_ids", "attention_mask"), torch.ones_like(inputs[text])
            given[:, :2] = 0
            additive = torch.zeros(given.shape).masked_fill(given == 0, -torch.inf)
            for wrong in (2 * given + 1, -given - 1, given + 0.5, additive, torch.full(given.shape, torch.nan)):
                with pytest.raises(ValueError, match=f"`{name}` holds numbers from"):
                    model(**inputs, **{name: wrong})
            with pytest.raises(ValueError, match=f"`{name}` is a `list`"):
                model(**inputs, **{name: given.tolist()})

    @holds_for(lambda family: family.is_causal and is_decoder_only(family))
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_packed_documents_stay_apart(self, family, attention):
        """Logits, loss and gradients of packed rows are those of the documents, with a mask of ones and without."""
        model, documents = family.build(), [family.draw(length) for length in (5, 8, 1, 3)]
        model.set_attn_implementation(attention)
        packed = dict(DataCollatorWithFlattening()([{"input_ids": row.tolist()} for row in documents]))
        packed |= join_patch_lengths(family, documents)
        alone = [{"input_ids": row[None], **join_patch_lengths(family, [row])} for row in documents]
        num_items = family.count_targets(packed["labels"])
        for mask in ({}, {"attention_mask": torch.ones_like(packed["input_ids"])}):
            outputs = model(**packed, **mask)
            expected = torch.cat([model(**row).logits for row in alone], dim=1)
            torch.testing.assert_close(outputs.logits, expected, atol=1e-5, rtol=1e-4)
            assert outputs.past_key_values is None
        if family.averages_once:
            loss, gradients = compute_gradients(model, {**packed, "num_items_in_batch": num_items})
            losses = [model(**row, labels=row["input_ids"], num_items_in_batch=num_items).loss for row in alone]
            sum(losses).backward()
            torch.testing.assert_close(loss, sum(losses).detach())
            self.check_gradients(gradients, take_gradients(model), atol=1e-5, rtol=1e-3)

    @holds_for(is_decoder_only)
    def test_restarts_that_padding_does_not_explain_are_refused(self, family):
        """Where a mask hides something; positions that padding explains, in any of three ways, change nothing."""
        model, batch = family.build(), family.pad([family.draw(9), family.draw(5)], "left")
        mask = batch["attention_mask"]
        counted, places = mask.cumsum(-1) - 1, torch.arange(9).expand(2, -1)
        expected = model(**batch, position_ids=counted.masked_fill(mask == 0, 1), use_cache=False).logits
        for position_ids in (counted.clamp(min=0), counted.masked_fill(mask == 0, 1)):
            logits = model(**batch, position_ids=position_ids, use_cache=False).logits
            torch.testing.assert_close(logits[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-4)
        model(**batch, position_ids=places, use_cache=False)
        behind = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 1, 2, 0, 1]])
        across = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 3, 0, 1, 2, 3]])
        hole = mask.clone()
        hole[1] = torch.tensor([1, 1, 1, 1, 0, 1, 1, 1, 1])
        lengths = family.pad([family.draw(9), family.draw(8)], "right")  # as many as the mask leaves
        for position_ids, given in ((behind, batch), (across, {**lengths, "attention_mask": hole})):
            with pytest.raises(ValueError, match="were passed with an `attention_mask`"):
                model(**given, position_ids=position_ids, use_cache=False)

    @holds_for(is_decoder_only)
    def test_packed_prompts_are_refused(self, family):
        prompt, position_ids = family.ask(1, 7), torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
        with pytest.raises(ValueError, match="`position_ids` that pack several documents"):
            family.build().generate(**prompt, position_ids=position_ids, max_new_tokens=2)

    def test_labels_of_another_shape_type_or_range_are_refused(self, family):
        model, lesson = family.build(), family.draw_lesson(4)
        labels, size = lesson.pop("labels"), model.config.vocab_size
        lesson.pop("probe_targets", None)
        wrong = {
            "transposed": labels.T.contiguous(),
            "flat": labels.flatten(),
            "one row": labels[:1],
            "one of them": labels[0],
            "of three dimensions": labels[None],
            "floating-point": labels.float(),
            "boolean": labels > 0,
            "32-bit": labels.int(),
            "a list": labels.tolist(),
            "too high": labels.masked_fill(labels == labels[0, 0], size),
            "negative": labels.masked_fill(labels == labels[0, 0], -1),
        }
        if is_decoder_only(family):  # elsewhere labels are as long as the text that they make
            wrong |= {"one column": labels[:, :1], "longer": torch.cat((labels, labels), dim=1)}
        for what, given in wrong.items():
            with pytest.raises(ValueError, match="`labels`"):
                model(**lesson, labels=given)
                pytest.fail(f"labels were taken: {what}")
        assert model(**lesson, labels=labels).loss.isfinite()

    def test_ids_and_vectors_of_another_type_are_refused(self, family):
        model, inputs = family.build(), {**family.ask(), **family.read()}
        for name in {"input_ids", "decoder_input_ids"} & inputs.keys():
            for wrong in (inputs[name].float(), inputs[name] > 0, inputs[name].tolist()):
                with pytest.raises(ValueError, match=f"`{name}` is"):
                    model(**{**inputs, name: wrong})
        if family.takes_vectors:
            del inputs["input_ids"]
            for wrong in (torch.ones(2, 5, model.config.hidden_size).long(), [[0.5]]):
                with pytest.raises(ValueError, match="`inputs_embeds` is"):
                    model(**inputs, inputs_embeds=wrong)

    @holds_for(is_decoder_only)
    def test_positions_outside_of_the_model_are_refused(self, family):
        model, inputs = family.build(), family.ask(2, 9)
        most, places = model.config.max_position_embeddings, torch.arange(9)[None]
        too_late = [(places + most - 8, f"`position_ids` holds {most}")]
        for wrong, message in (
            *(too_late if model.config.has_position_table else []),
            (places - 3, "`position_ids` holds -3"),
            (places + 0.5, "`position_ids` is a tensor of torch.float32"),
            (places > 0, "`position_ids` is a tensor of torch.bool"),
            (places.tolist(), "`position_ids` is a `list`"),
        ):
            with pytest.raises(ValueError, match=message):
                model(**inputs, position_ids=wrong, use_cache=False)
        if not family.is_forking:
            model(**inputs, position_ids=places + most - 9, use_cache=False)

    @holds_for(lambda family: "logits_to_keep" in inspect.signature(family.model_class.forward).parameters)
    def test_logits_to_keep_is_a_number_of_tokens_or_their_indices(self, family):
        model, inputs = family.build(), {**family.ask(), **family.read()}
        expected = model(**inputs).logits
        for kept in (0, 2, 999, torch.tensor([0, 3])):
            part = expected[:, kept] if torch.is_tensor(kept) else expected[:, -kept:]
            torch.testing.assert_close(model(**inputs, logits_to_keep=kept).logits, part, atol=1e-5, rtol=1e-4)
        for wrong in (-1, 1.0, True, None, [1], torch.tensor([999]), torch.tensor([0.0]), torch.tensor([[0]])):
            with pytest.raises(ValueError, match="`logits_to_keep` is"):
                model(**inputs, logits_to_keep=wrong)
        with pytest.raises(ValueError, match="`logits_to_keep` was passed with `labels`"):
            model(**family.draw_lesson(), logits_to_keep=1)

    @holds_for(has_cache)
    def test_caches_of_another_kind_model_or_batch_are_refused(self, family):
        model, inputs = family.build(), {**family.ask(4, 9), **family.read(4)}
        cache = model(**inputs, use_cache=True).past_key_values
        half = cache.self_attention_cache if family.is_encoder_decoder else cache
        legacy = tuple((layer.keys, layer.values) for layer in half.layers)
        single = select_rows(inputs, slice(1))
        other = family.build(**OTHER_HEADS[family.model_class])
        foreign = other(**inputs, use_cache=True).past_key_values
        crossed = EncoderDecoderCache(DynamicCache(), DynamicCache())
        crossed = DynamicCache() if family.is_encoder_decoder else crossed
        for text, wrong in ((single, cache), (inputs, foreign), (inputs, crossed), (inputs, legacy), (inputs, [])):
            with pytest.raises(ValueError, match="`past_key_values`"):
                model(**text, past_key_values=wrong)
