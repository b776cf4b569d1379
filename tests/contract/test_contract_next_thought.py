# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The promises of next-thought models."""

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    StaticCache,
)
from transformers.modeling_outputs import BaseModelOutput

from hf_thoughtbubbles import NextThoughtConfig, build_byte_tokenizer
from hf_thoughtbubbles.modeling.next_thought.pooling_layers import AttentionPooling
from tests.contract.contract import ModelContract, compute_gradients, enable_checkpointing
from tests.families import THOUGHT_VARIANTS, VOCAB_SIZE, draw_ids


PLAIN = THOUGHT_VARIANTS[0]


def make_trainer(folder, batch: int, **changes) -> Seq2SeqTrainer:
    """Three steps on texts of unequal length, collated by transformers' own collator."""
    model = PLAIN.build(vocab_size=259, pad_token_id=258, eos_token_id=257)
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "input_ids": torch.randint(97, 123, (5 + i % 7,), generator=generator).tolist(),
            "labels": torch.randint(97, 123, (1 + i % 5,), generator=generator).tolist(),
        }
        for i in range(24)
    ]
    arguments = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": batch,
        "learning_rate": 1e-1,
        "optim": "sgd",
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(**{**arguments, **changes}),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:8]),
        data_collator=DataCollatorForSeq2Seq(build_byte_tokenizer(), model=model),
    )


def draw_rows_without_ties(model, lengths: list[int]) -> list[torch.Tensor]:
    """Ids without repetition whose pooling scores differ by more than rounding, so that their order is certain."""
    for _ in range(100):
        rows = [torch.randperm(VOCAB_SIZE - 2)[:length] + 1 for length in lengths]
        scores = [
            layer[0].sort().values
            for row in rows
            for layer in model(row[None], decoder_input_ids=row[None, :1], output_pooling=True).pooling.scores
        ]
        if min((layer.diff() / layer[-1]).min() for layer in scores if len(layer) > 1) > 2e-5:
            return rows
    raise AssertionError("every draw has scores that are equal up to rounding")


class TestNextThought(ModelContract):
    families = THOUGHT_VARIANTS
    test_promise_5_a_row_of_padding_alone_harms_nothing = None  # it is refused: a thought needs tokens

    def check_gradients(self, gradients, expected, **tolerances):
        """
        By the largest of each parameter: the gradients of pooling are sums of many terms. Biases of keys have none, up
        to rounding, because a softmax does not change with them.
        """
        assert gradients.keys() == expected.keys()
        rounding = 1e-6 * max(gradient.abs().max() for gradient in expected.values())
        for name, gradient in gradients.items():
            difference, largest = (gradient - expected[name]).abs().max(), expected[name].abs().max()
            assert difference <= 5e-5 * largest + rounding, (name, difference, largest)

    def check_cache(self, family, cache, length):
        super().check_cache(family, cache, length)
        assert cache.cross_attention_cache.get_seq_length() == family.config.num_latent_tokens

    def test_promise_4_thinking_and_latent_tokens_happen_once(self, family):
        model, batch, calls = family.build(), family.pad(family.draw_rows(), "left"), []
        for part in (model.model.encoder, model.model.core, model.model.decoder.latent_decoder):
            part.register_forward_hook(lambda module, inputs, output: calls.append(type(module).__name__))
        model.generate(**batch, max_new_tokens=9, num_beams=2, do_sample=False, num_thoughts=3, eos_token_id=-1)
        assert len(calls) == 1 + 3 + 1

    def test_promise_4_generation_starts_from_thoughts_alone(self, family):
        """Those of the encoder, or a vector of one's own."""
        model, thought = family.build(), {"input_ids": draw_ids(3, 9)}
        options = {"do_sample": False, "max_new_tokens": 9}
        thoughts = model.get_encoder()(**thought, num_thoughts=2)
        expected = model.generate(**thought, **options, num_thoughts=2)
        assert torch.equal(model.generate(encoder_outputs=thoughts, **options), expected)
        vector = BaseModelOutput(last_hidden_state=thoughts.last_hidden_state)
        assert torch.equal(model.generate(encoder_outputs=vector, num_thoughts=2, **options), expected)

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_promise_5_a_padded_thought_keeps_the_tokens_that_it_keeps_alone(self, family, side, attention):
        """It keeps the tokens that it keeps alone: as many, the same, in the same order."""
        model, text = family.build(), draw_ids(4, 7)
        model.set_attn_implementation(attention)
        rows = draw_rows_without_ties(model, [len(row) for row in family.draw_rows()])
        batch = family.pad(rows, side, longest=23)
        outputs = model(**batch, decoder_input_ids=text, output_pooling=True)
        for i, row in enumerate(rows):
            alone = model(row[None], decoder_input_ids=text[i : i + 1], output_pooling=True)
            torch.testing.assert_close(outputs.logits[i], alone.logits[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(outputs.thought[i], alone.thought[0], atol=1e-5, rtol=1e-4)
            shift, counts = 23 - len(row) if side == "left" else 0, model.config.count_kept_tokens(len(row))
            for kept, own, count in zip(outputs.pooling.token_index, alone.pooling.token_index, counts, strict=True):
                assert own.shape == (1, count)
                assert torch.equal(kept[i, :count], own[0] + shift)
                assert (kept[i, count:] == -1).all()

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_promise_5_padding_of_the_next_thought_changes_no_other_logit(self, family, side):
        model, thought, rows = family.build(), {"input_ids": draw_ids(3, 9)}, [draw_ids(n) for n in (7, 4, 1)]
        batch = family.pad(rows, side)
        logits = model(
            **thought, decoder_input_ids=batch["input_ids"], decoder_attention_mask=batch["attention_mask"]
        ).logits
        for i, row in enumerate(rows):
            alone = model(thought["input_ids"][i : i + 1], decoder_input_ids=row[None]).logits[0]
            torch.testing.assert_close(logits[i][batch["attention_mask"][i].bool()], alone, atol=1e-5, rtol=1e-4)

    def test_the_loss_is_what_the_logits_say_about_the_labels(self, family):
        """Position t is given label t - 1 and scored on label t; the first is given the start."""
        model, lesson = family.build(), family.draw_lesson(padding="right")
        labels = lesson.pop("labels")
        given = torch.cat((torch.zeros(4, 1).long(), labels[:, :-1].clamp(min=0)), dim=1)
        expected = model(**lesson, decoder_input_ids=given)
        outputs = model(**lesson, labels=labels)
        assert torch.equal(outputs.logits, expected.logits)
        chosen = expected.logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        torch.testing.assert_close(outputs.loss, -chosen[labels != -100].mean())
        strided = torch.stack((labels, labels), dim=-1)[..., 0]
        assert torch.equal(model(**lesson, labels=strided).loss, outputs.loss) and not strided.is_contiguous()
        assert torch.equal(model(**lesson, decoder_input_ids=given, logits_to_keep=2).logits, outputs.logits[:, -2:])

    @pytest.mark.slow
    def test_promise_6_accumulated_steps_equal_one_big_batch(self, tmp_path):
        models = []
        for name, (batch, accumulation) in {"big": (8, 1), "accumulated": (2, 4)}.items():
            trainer = make_trainer(tmp_path / name, batch, gradient_accumulation_steps=accumulation)
            trainer.train()
            models.append(trainer.model.state_dict())
        before = PLAIN.build(vocab_size=259, pad_token_id=258, eos_token_id=257).state_dict()
        assert any((models[0][name] - before[name]).abs().max() > 1e-3 for name in before)
        for name, parameter in models[0].items():
            torch.testing.assert_close(models[1][name], parameter, atol=1e-5, rtol=1e-3)

    @pytest.mark.slow
    def test_the_trainer_smooths_labels_and_evaluates_by_generation(self, tmp_path):
        trainer = make_trainer(
            tmp_path, 8, label_smoothing_factor=0.25, predict_with_generate=True, generation_max_length=5
        )
        inputs = next(iter(trainer.get_train_dataloader()))
        labels = inputs["labels"]
        smoothed = trainer.compute_loss(trainer.model, dict(inputs)).detach()
        logits = trainer.model(**inputs).logits.log_softmax(-1)
        own = -logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        expected = (0.75 * own + 0.25 * -logits.mean(-1))[labels != -100].mean()
        torch.testing.assert_close(smoothed, expected.detach())
        assert trainer.evaluate()["eval_loss"] > 0
        predictions = trainer.predict(trainer.eval_dataset).predictions
        assert (predictions[:, 5:] == 258).all(), "`generation_max_length` counts; the rest is the Trainer's padding"

    def test_transformers_own_collator_shifts_the_next_thoughts(self):
        model = PLAIN.build(vocab_size=259, decoder_start_token_id=256)
        collator = DataCollatorForSeq2Seq(build_byte_tokenizer(), model=model)
        batch = collator([{"input_ids": [5, 6, 7, 8], "labels": [7, 8, 9]}, {"input_ids": [5] * 5, "labels": [7]}])
        assert batch["decoder_input_ids"].tolist() == [[256, 7, 8], [256, 7, 0]]
        expected = model(**{key: value for key, value in batch.items() if key != "decoder_input_ids"}).loss
        assert torch.equal(model(**batch).loss, expected)

    def test_promise_7_every_parameter_learns(self, family):
        _, gradients = compute_gradients(family.build(), family.draw_lesson(padding="right"))
        model = family.build()
        # A bias of keys adds the same to all scores of a query, which changes nothing.
        learned = {name for name, _ in model.named_parameters() if not name.endswith("k_proj.bias")}
        assert {name for name, gradient in gradients.items() if gradient.abs().max() > 1e-9} >= learned

    @pytest.mark.slow
    def test_what_follows_a_thought_is_learned_and_depends_on_it(self, family):
        """A model that learned pairs by heart writes them again, each after its own thought."""
        model, lesson = family.build(initializer_range=None).train(), family.pad(family.draw_rows(), "left")
        labels = torch.cat((draw_ids(4, 6), torch.full((4, 1), 60)), dim=1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(150):
            model(**lesson, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert torch.equal(model.eval().generate(**lesson, max_new_tokens=7, do_sample=False)[:, 1:], labels)

    def amplify(self, model):
        with torch.no_grad():
            for parameter in model.model.core.parameters():
                parameter.mul_(1.5)

    def test_promise_8_compute_is_adjustable_per_call(self, family):
        """Each thought is the core's of the one before, and the last is written out."""
        model, inputs = family.build(), {"input_ids": draw_ids(2, 9), "decoder_input_ids": draw_ids(2, 5)}
        seen = []
        for num_thoughts in (1, 3, 7):
            outputs = model(**inputs, num_thoughts=num_thoughts)
            assert outputs.thoughts.shape == (2, num_thoughts, model.config.latent_size)
            thought = outputs.encoder_last_hidden_state
            for i in range(num_thoughts):
                thought = model.model.core(thought)
                torch.testing.assert_close(outputs.thoughts[:, i], thought)
            assert torch.equal(outputs.thought, outputs.thoughts[:, -1])
            written = BaseModelOutput(last_hidden_state=outputs.encoder_last_hidden_state)
            written.thoughts = outputs.thought[:, None]
            torch.testing.assert_close(
                model(encoder_outputs=written, decoder_input_ids=inputs["decoder_input_ids"]).logits, outputs.logits
            )
            seen.append(outputs.thoughts)
        assert torch.equal(seen[2][:, :3], seen[1])
        assert model(**inputs).thoughts.shape[1] == model.config.num_thoughts

    def test_promise_8_the_tokens_kept_are_visible(self, family):
        """Scores of a layer sum to 1 over a row; the highest are kept, in descending order."""
        model = family.build()
        batch, text = family.pad(family.draw_rows(), "left"), draw_ids(4, 3)
        assert model(**batch, decoder_input_ids=text).pooling is None
        pooling = model(**batch, decoder_input_ids=text, output_pooling=True).pooling
        for i, mask in enumerate(batch["attention_mask"].bool()):
            counts = model.config.count_kept_tokens(int(mask.sum()))
            for index, scores, count in zip(pooling.index, pooling.scores, counts, strict=True):
                torch.testing.assert_close(scores[i].sum(), torch.tensor(1.0))
                best = scores[i].sort(descending=True).values[:count]
                assert torch.equal(scores[i][index[i, :count]], best)
        assert not pooling.scores[0][~batch["attention_mask"].bool()].any()

    def test_states_and_weights_of_the_decoder_are_recorded(self, family):
        model, inputs = family.build(), {"input_ids": draw_ids(2, 9), "decoder_input_ids": draw_ids(2, 7)}
        model.set_attn_implementation("eager")
        outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
        depth = model.config.num_decoder_layers
        assert [states.shape for states in outputs.decoder_hidden_states] == [(2, 12, 24)] * (depth + 1)
        assert [weights.shape for weights in outputs.decoder_attentions] == [(2, 4, 12, 12)] * depth
        seen = model.lm_head(outputs.decoder_hidden_states[-1][:, 5:])
        torch.testing.assert_close(seen, outputs.logits)

    def test_dropout_acts_in_training_alone(self):
        plain, model, lesson = PLAIN.build(), PLAIN.build(dropout=0.5), PLAIN.draw_lesson(padding="right")
        expected = plain(**lesson).loss
        assert torch.equal(model(**lesson).loss, expected)
        model.train()
        assert not torch.equal(model(**lesson).loss, model(**lesson).loss)
        assert torch.equal(plain.train()(**lesson).loss, expected), "by default there is none"
        layer, tokens = AttentionPooling(24, 36, num_heads=3, removed_share=0.3, dropout=0.5), torch.rand(2, 7, 24)
        assert not torch.equal(layer(tokens)[0], layer(tokens)[0])
        assert torch.equal(layer.eval()(tokens)[0], layer(tokens)[0])

    @pytest.mark.slow
    def test_a_compiled_step_with_a_static_cache_has_no_graph_break(self, family):
        model, thought, text = family.build(), {"input_ids": draw_ids(2, 9)}, draw_ids(2, 6)
        expected = model(**thought, decoder_input_ids=text).logits
        cache = EncoderDecoderCache(StaticCache(config=model.config, max_cache_len=9), DynamicCache())
        with torch.no_grad():
            thoughts = model.get_encoder()(**thought)
            model(encoder_outputs=thoughts, decoder_input_ids=text[:, :2], past_key_values=cache)
            torch._dynamo.reset()
            compiled = torch.compile(model, backend="eager", fullgraph=True)
            for i in range(2, 6):
                seen = compiled(
                    encoder_outputs=thoughts, decoder_input_ids=text[:, i : i + 1], past_key_values=cache
                ).logits
                torch.testing.assert_close(seen[:, 0], expected[:, i], atol=1e-4, rtol=0)

    def get_refusals(self, family) -> list[tuple[dict, str]]:
        ids, text, latent = draw_ids(2, 9), draw_ids(2, 5), torch.zeros(2, family.config.latent_size)
        whole = {"input_ids": ids, "decoder_input_ids": text}
        short, least = family.pad([draw_ids(9), draw_ids(1)], "left"), family.config.min_tokens
        lonely = EncoderDecoderCache(DynamicCache(), DynamicCache())
        lonely.self_attention_cache.update(torch.zeros(2, 2, 3, 6), torch.zeros(2, 2, 3, 6), 0)
        too_long = [
            ({**whole, "input_ids": draw_ids(2, 38)}, "38 tokens long, but `max_position_embeddings` is 37"),
            (
                {**whole, "decoder_input_ids": draw_ids(2, 38)},
                "next thought is 38 tokens long, but `max_position_",
            ),
        ]
        return [
            *(too_long if family.config.has_position_table else []),
            ({"decoder_input_ids": text}, "exactly one of `input_ids` and `inputs_embeds`; neither"),
            ({**whole, "input_ids": ids + VOCAB_SIZE}, "`input_ids` holds .* ids are 0 to 60"),
            ({**whole, "input_ids": ids[:, :1]}, rf"has 1 tokens\. .* Pass at least {least} tokens"),
            ({**whole, **short}, rf"Row 1 of the input.* has 1 tokens\. .* Pass at least {least} tokens"),
            ({**whole, "attention_mask": torch.ones(2, 6)}, r"`attention_mask` has shape \(2, 6\)"),
            ({**whole, "attention_mask": torch.ones(2, 1, 9, 9)}, "`attention_mask` has 4 dimensions"),
            ({"input_ids": ids}, "pass exactly one of `labels` or `decoder_input_ids`.*; neither was passed"),
            ({**whole, "decoder_inputs_embeds": torch.rand(2, 5, 24)}, "; both were passed"),
            ({**whole, "decoder_input_ids": draw_ids(3, 5)}, r"`decoder_input_ids` has shape \(3, 5\).* B = 2"),
            ({**whole, "decoder_input_ids": text + VOCAB_SIZE}, "`decoder_input_ids` holds"),
            ({**whole, "decoder_input_ids": text[:, :0]}, "no size 0"),
            ({"input_ids": ids, "decoder_inputs_embeds": torch.rand(2, 5, 7)}, r"must be \(B, T, 24\) with B = 2"),
            ({**whole, "decoder_attention_mask": torch.ones(2, 4)}, r"`decoder_attention_mask` has shape \(2, 4\)"),
            ({**whole, "past_key_values": DynamicCache()}, "`past_key_values` is a `DynamicCache`"),
            ({**whole, "position_ids": torch.arange(9)[None]}, "`position_ids` was passed"),
            ({**whole, "decoder_position_ids": torch.arange(5)[None]}, "`decoder_position_ids` was passed"),
            ({**whole, "num_thoughts": 0}, "`num_thoughts` is 0; it must be a whole number"),
            ({**whole, "num_thoughts": 1.5}, "`num_thoughts` is 1.5"),
            ({**whole, "num_thoughts": True}, "`num_thoughts` is True"),
            ({"input_ids": ids, "labels": draw_ids(3, 5)}, r"`labels` has shape \(3, 5\).* \(2, 5\)"),
            ({"input_ids": ids, "labels": draw_ids(5)}, r"`labels` has shape \(5,\)"),
            ({"input_ids": ids, "labels": torch.full((2, 5), -7)}, "`labels` holds -7"),
            ({**whole, "labels": draw_ids(2, 4)}, r"`labels` has shape \(2, 4\).* \(2, 5\)"),
            ({"input_ids": ids, "labels": text, "logits_to_keep": 1}, "`logits_to_keep` was passed with `labels`"),
            ({"encoder_outputs": (latent,), "decoder_input_ids": text}, "`encoder_outputs` is a `tuple`"),
            (
                {"encoder_outputs": BaseModelOutput(last_hidden_state=latent[:, 1:]), "decoder_input_ids": text},
                "`last_hidden_state` has shape",
            ),
            ({**whole, "past_key_values": lonely}, "holds 3 tokens but no latent tokens"),
        ]

    def get_generation_refusals(self, family) -> list[tuple[dict, str]]:
        thought = family.ask()
        too_long = [
            ({**thought, "max_new_tokens": 38}, "may read 38 tokens .* `max_position_embeddings` is 37"),
            ({"input_ids": draw_ids(2, 38)}, "38 tokens long, but `max_position_embeddings` is 37"),
        ]
        return [
            *(too_long if family.config.has_position_table else []),
            ({**thought, "num_thoughts": 0}, "`num_thoughts` is 0"),
            ({**thought, "generation_config": GenerationConfig(num_thoughts=-1)}, "`num_thoughts` is -1"),
            ({"input_ids": draw_ids(2, 1)}, "has 1 tokens"),
        ]

    def test_promise_10_generation_reaches_the_longest_text(self, family):
        assert family.build().generate(**family.ask(), max_new_tokens=37, eos_token_id=-1).shape == (2, 38)

    def test_promise_10_a_filled_cache_is_refused_under_gradient_checkpointing(self, family):
        model, lesson = family.build(), family.draw_lesson(padding="right")
        cache = model(**lesson).past_key_values
        enable_checkpointing(model.train())
        assert model(**lesson, use_cache=True).past_key_values.get_seq_length() == 0
        with pytest.raises(ValueError, match=r"`past_key_values` with 8 tokens was passed .* gradient checkpointing"):
            model(**lesson, past_key_values=cache)

    def test_promise_2_compute_can_be_changed_while_loading(self, family, tmp_path):
        model, inputs = family.build(), {**family.ask(), **family.read()}
        model.save_pretrained(tmp_path)
        more = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, num_thoughts=5)
        assert torch.equal(more(**inputs).logits, model(**inputs, num_thoughts=5).logits)

    def test_a_next_thought_needs_something_to_start_from(self):
        model = PLAIN.build(pad_token_id=None)
        with pytest.raises(ValueError, match="no `decoder_start_token_id`"):
            model(draw_ids(1, 9), labels=draw_ids(1, 3))

    def test_counts_are_products_in_double_precision_cut_to_integers(self):
        """10 * (1 - 0.9) is 0.999..., so of ten tokens none is kept: as in the original."""
        config = NextThoughtConfig(pooling_sizes=[12], removed_shares=[0.9])
        assert config.count_kept_tokens(10) == [0] and config.min_tokens == 11
        model = PLAIN.build(pooling_sizes=[12], removed_shares=[0.9])
        rows = [draw_ids(n) for n in (30, 31, 11)]
        pooling = model(**PLAIN.pad(rows, "left"), decoder_input_ids=draw_ids(3, 2), output_pooling=True).pooling
        assert (pooling.index[0] >= 0).sum(1).tolist() == [2, 3, 1]
