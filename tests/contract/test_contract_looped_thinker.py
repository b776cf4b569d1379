# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The promises of the looped Thinker that answers problems."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    DataCollatorForSeq2Seq,
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    StaticCache,
)

from hf_thoughtbubbles import LoopedThinkerConfig, LoopedThinkerForConditionalGeneration, build_byte_tokenizer
from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME
from hf_thoughtbubbles.modeling.looped_thinker.outputs_looped_thinker import LoopedThinkerEncoderOutput
from tests.contract.contract import ModelContract, holds_for
from tests.families import ANSWERERS, VOCAB_SIZE, Answerer, draw_ids, select_rows, take_row
from tests.training.processes import find_port, start_forked
from tests.training.train_answers_once import make_answer_trainer, train_as_rank


BY_NAME = {family.name: family for family in ANSWERERS}


def is_parallel(family: Answerer) -> bool:
    return family.is_parallel


def is_reading(family: Answerer) -> bool:
    return not family.is_parallel


class TestLoopedThinker(ModelContract):
    families = ANSWERERS

    @holds_for(is_reading)
    def test_promise_3_later_answer_tokens_change_no_earlier_loop_logit(self, family):
        model, problem, answer = family.build(), family.ask(), draw_ids(2, 11)
        edited = torch.cat((answer[:, :5], draw_ids(2, 6)), dim=1)
        expected, outputs = (
            model(**problem, decoder_input_ids=tokens, loop_decoder=True).loop_logits for tokens in (answer, edited)
        )
        torch.testing.assert_close(outputs[:, :, :5], expected[:, :, :5], atol=1e-5, rtol=0)

    @holds_for(is_reading)
    def test_promise_4_a_cache_sized_by_the_configuration_serves_too(self, family):
        """All kept steps are still read out and scored while it is filled."""
        model, problem, answer = family.build(), family.ask(), draw_ids(2, 8)
        expected = model(**problem, labels=answer, use_cache=False)
        for cache in (
            EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config)),
            EncoderDecoderCache(DynamicCache(), DynamicCache()),
            EncoderDecoderCache(StaticCache(config=model.config, max_cache_len=13), DynamicCache()),
        ):
            outputs = model(**problem, labels=answer, past_key_values=cache)
            torch.testing.assert_close(outputs.loss, expected.loss)
            torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-5, rtol=1e-4)
            assert cache.is_updated[0]

    @holds_for(is_parallel)
    def test_promise_4_a_parallel_answer_is_one_forward_pass(self, family):
        model, problem = family.build(), family.pad(family.draw_rows()[:2], "left")
        for compute in family.compute:
            options = {"max_new_tokens": 8, **compute, "eos_token_id": -1, **problem}
            logits = model(**problem, answer_length=8, **compute).logits
            generated = model.generate(do_sample=False, **options)
            assert torch.equal(generated[:, 1:], logits.argmax(-1))
            assert len(generated.unique()) > 2
            # Positions are independent given the problem, so the likeliest answer is the likeliest of each.
            assert torch.equal(model.generate(num_beams=3, do_sample=False, **options), generated)
            torch.manual_seed(2)
            sampled = model.generate(do_sample=True, top_k=0, num_return_sequences=2, **options)
            torch.manual_seed(2)
            drawn = [torch.multinomial(row.repeat_interleave(2, 0).softmax(-1), 1) for row in logits.unbind(1)]
            assert torch.equal(sampled[:, 1:], torch.cat(drawn, dim=1))

    @holds_for(is_reading)
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_promise_5_padding_changes_no_loop_logit(self, family, side):
        model, problem, answer = family.build(), family.pad(family.draw_rows()[:2], side), draw_ids(2, 6)
        outputs = model(**problem, decoder_input_ids=answer, loop_decoder=True).loop_logits
        alone = model(**take_row(problem, 1), decoder_input_ids=answer[1:], loop_decoder=True).loop_logits
        torch.testing.assert_close(outputs[1:], alone, atol=1e-5, rtol=1e-4)

    @holds_for(is_reading)
    def test_promise_5_padding_of_answers_changes_no_other_logit(self, family):
        """Positions of a parallel answer attend to each other, so there its length is part of the question."""
        model, lesson = family.build(), family.draw_lesson()
        logits = model(**lesson).logits
        shorter = select_rows(lesson, slice(3, None))
        shorter.pop("probe_targets", None)
        shorter["labels"] = shorter["labels"][:, :4]
        torch.testing.assert_close(logits[3:, :4], model(**shorter).logits, atol=1e-5, rtol=1e-4)

    def test_the_loss_is_the_mean_over_kept_steps_of_what_the_logits_say(self, family):
        model, lesson = family.build(), family.draw_lesson()
        outputs, labels = model(**lesson, output_steps=True), lesson["labels"]
        kept = min(family.config.num_kept_outputs, family.config.num_steps)
        assert outputs.step_logits.shape == (4, kept, 7, VOCAB_SIZE)
        is_scored = labels != -100

        def score(logits):  # (B, S, A, V)
            chosen = logits.log_softmax(-1).gather(
                -1, labels.clamp(min=0)[:, None, :, None].expand(*logits.shape[:3], 1)
            )
            return -chosen[..., 0].mean(1)[is_scored].mean()

        expected = score(outputs.step_logits)
        if "loop_decoder" in lesson:
            assert outputs.loop_logits.shape == (4, 3, 7, VOCAB_SIZE)
            expected = expected + score(outputs.loop_logits)
        if "probe_targets" in lesson:
            errors = (outputs.step_probes - lesson["probe_targets"][:, None]).square().mean((1, 3))
            expected = expected + errors[is_scored].mean()
        torch.testing.assert_close(outputs.loss, expected)
        assert torch.equal(outputs.logits, outputs.step_logits[:, -1])

    @pytest.mark.slow
    @holds_for(lambda family: family.name in ("kept-autoregressive", "static-memory-autoregressive", "kept-parallel"))
    def test_promise_6_accumulated_steps_equal_one_big_batch(self, family, tmp_path):
        models = []
        for name, (batch, accumulation) in {"big": (8, 1), "accumulated": (2, 4)}.items():
            trainer = make_answer_trainer(tmp_path / name, family, batch, gradient_accumulation_steps=accumulation)
            trainer.train()
            models.append(trainer.model.state_dict())
        before = family.build().state_dict()
        assert any((models[0][name] - before[name]).abs().max() > 1e-3 for name in before)
        for name, parameter in models[0].items():
            torch.testing.assert_close(models[1][name], parameter, atol=1e-6, rtol=1e-4)

    @pytest.mark.slow
    def test_promise_6_two_processes_equal_one_with_twice_the_batch(self, tmp_path):
        answerer = BY_NAME["kept-autoregressive"]
        start_forked(train_as_rank, find_port(), tmp_path / "two", answerer)
        trainer = make_answer_trainer(tmp_path / "one", answerer, 8)
        trainer.train()
        trainer.save_model()
        one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=1e-4)

    @pytest.mark.slow
    @holds_for(lambda family: family.name in ("plain-autoregressive", "plain-parallel"))
    def test_the_trainer_evaluates_by_generation(self, family, tmp_path):
        seen = {}

        def measure(prediction):
            seen["predictions"], seen["labels"] = prediction.predictions, prediction.label_ids
            return {"exact": float((prediction.predictions[:, 1:8] == prediction.label_ids[:, :7]).all(-1).mean())}

        trainer = make_answer_trainer(
            tmp_path,
            family,
            8,
            max_steps=1,
            predict_with_generate=True,
            generation_max_length=5,
            compute_metrics=measure,
        )
        metrics = trainer.evaluate()
        assert metrics["eval_loss"] > 0
        assert metrics["eval_exact"] >= 0
        assert (seen["predictions"][:, 5:] == 0).all(), (
            "`generation_max_length` counts; the rest is the Trainer's padding"
        )
        assert (trainer.predict(trainer.train_dataset, max_length=4).predictions[:, 4:] == 0).all()

    @holds_for(is_reading)
    def test_transformers_own_collator_shifts_the_answers(self, family):
        model = family.build(vocab_size=259)
        collator = DataCollatorForSeq2Seq(build_byte_tokenizer(), model=model)
        rows = [{"input_ids": [5, 6], "labels": [7, 8, 9]}, {"input_ids": [5], "labels": [7]}]
        batch = collator(rows)
        assert batch["decoder_input_ids"].tolist() == [[0, 7, 8], [0, 7, 0]]
        expected = model(**{key: value for key, value in batch.items() if key != "decoder_input_ids"}).loss
        assert torch.equal(model(**batch).loss, expected)

    def test_promise_8_compute_is_adjustable_per_call(self, family):
        """More and fewer steps and latents than trained; the output shows what was done."""
        model, problem, reading = family.build(), family.ask(), family.read()
        seen = []
        for num_steps, num_latents in ((1, 1), (3, 5), (12, 7)):
            outputs = model(**problem, **reading, num_steps=num_steps, num_latents=num_latents, output_steps=True)
            assert outputs.latents.shape == (2, num_steps, num_latents, 24)
            assert outputs.logits.isfinite().all()
            seen.append(outputs.logits)
        assert (seen[0] - seen[1]).abs().max() > 1e-3
        assert (seen[1] - seen[2]).abs().max() > 1e-3
        torch.testing.assert_close(model(**problem, **reading).logits, seen[1])

    def test_an_answer_has_the_length_that_is_asked_for(self, family):
        model, problem = family.build(), family.ask()
        assert model.generate(**problem, eos_token_id=-1).shape == (2, 14), "by default up to `max_answer_length`"
        assert model.generate(**problem, eos_token_id=-1, max_new_tokens=4).shape == (2, 5)
        assert model.generate(**problem, eos_token_id=-1, max_length=4).shape == (2, 4)
        assert model.generate(**problem, generation_config=GenerationConfig(eos_token_id=-1, max_length=4)).shape == (
            2,
            4,
        )
        assert model.generate(**problem, eos_token_id=-1, max_new_tokens=13).shape == (2, 14)

    def get_refusals(self, family) -> list[tuple[dict, str]]:
        problem, reading = family.ask(), family.read()
        input_ids, whole = problem["input_ids"], {**problem, **reading}
        static = family.config.static_memory_size > 0
        refusals = [
            ({**whole, "num_latents": 8}, "`num_latents` is 8, but `max_latents` is 7"),
            ({**whole, "num_latents": 0}, "`num_latents` is 0; it must be a whole number of at least 1"),
            ({**whole, "num_steps": 0}, "`num_steps` is 0; it must be a whole number of at least 1"),
            ({**whole, "num_steps": -2}, "`num_steps` is -2"),
            ({**whole, "num_steps": 2.5}, "`num_steps` is 2.5"),
            ({**whole, "num_steps": True}, "`num_steps` is True"),
            ({**whole, "num_read_steps": -1}, "`num_read_steps` is -1; it must be a whole number of at least 0"),
            ({**whole, "exit_threshold": 0.1}, "`exit_threshold` was passed, but LoopedThinkerModel does not read it"),
            ({**whole, "input_ids": input_ids + VOCAB_SIZE}, "`input_ids` holds .* ids are 0 to 60"),
            ({**whole, "input_ids": input_ids - VOCAB_SIZE}, "`input_ids` holds -.* ids are 0 to 60"),
            ({**whole, "attention_mask": torch.ones(2, 6)}, r"`attention_mask` has shape \(2, 6\)"),
            ({**whole, "attention_mask": torch.ones(2, 9, 9)}, "`attention_mask` has 3 dimensions"),
            ({**whole, "attention_mask": torch.ones(2, 1, 9, 9)}, "`attention_mask` has 4 dimensions"),
            ({**whole, "position_ids": torch.arange(6)[None]}, r"`position_ids` has shape \(1, 6\)"),
            (reading, "exactly one of `input_ids` and `inputs_embeds`; neither"),
            ({**problem, "labels": draw_ids(2, 14)}, "answer is 14 tokens long, but `max_answer_length` is 13"),
            ({**problem, "labels": draw_ids(2, 5) + VOCAB_SIZE}, "`labels` holds .* ids are 0 to 60"),
            ({**problem, "labels": torch.full((2, 5), -7)}, "`labels` holds -7"),
            ({**problem, "labels": draw_ids(3, 5)}, r"`labels` has shape \(3, 5\).* \(2, "),
            ({**problem, "labels": draw_ids(2, 5), "answer_length": 6}, r"`labels` has shape \(2, 5\).* \(2, 6\)"),
            ({**problem, "labels": draw_ids(5)}, r"`labels` has shape \(5,\)"),
            (
                {**problem, "decoder_inputs_embeds": torch.rand(2, 6, 24), "labels": draw_ids(2, 5)},
                r"`labels` has shape \(2, 5\).* \(2, 6\)",
            ),
            (
                {**problem, "decoder_inputs_embeds": torch.rand(2, 6, 5)},
                r"shape \(2, 6, 5\); it must be \(B, A, hidden",
            ),
            ({**problem, "decoder_input_ids": draw_ids(3, 6)}, r"`decoder_input_ids` has shape \(3, 6\).* B = 2"),
            (
                {**problem, "decoder_input_ids": draw_ids(2, 14)},
                "answer is 14 tokens long, but `max_answer_length` is 13",
            ),
            ({**problem, "decoder_input_ids": draw_ids(2, 5) + VOCAB_SIZE}, "`decoder_input_ids` holds"),
            (
                {**problem, "decoder_input_ids": draw_ids(2, 5), "answer_length": 4},
                "`answer_length` is 4, but `decoder_input_ids` has 5 positions",
            ),
            (
                {**problem, "decoder_input_ids": draw_ids(2, 5), "decoder_inputs_embeds": torch.rand(2, 5, 24)},
                "at most one of `decoder_input_ids` and `decoder_inputs_embeds`",
            ),
            ({**whole, "decoder_attention_mask": torch.ones(2, 5)}, r"`decoder_attention_mask` has shape \(2, 5\)"),
            ({**whole, "past_key_values": DynamicCache()}, "`past_key_values`"),
            ({**whole, "probe_targets": torch.rand(2, 7, 2)}, "`probe_targets` was passed"),
        ]
        if static:
            refusals += [
                ({**whole, "memory_ids": torch.tensor([[3], [0]])}, "`memory_ids` holds 3, but ids are 0 to 2"),
                ({**whole, "memory_ids": torch.tensor([[-1], [0]])}, "`memory_ids` holds -1"),
                ({**whole, "memory_ids": torch.zeros(3, 1).long()}, r"`memory_ids` has shape \(3, 1\), .* 2 rows"),
                ({**whole, "memory_ids": torch.zeros(2).long()}, r"`memory_ids` has shape \(2,\)"),
            ]
        else:
            refusals.append(({**whole, "memory_ids": torch.zeros(2, 1).long()}, "the model has no static memory"))
        if family.config.num_probes > 0:
            wrong = {**problem, "labels": draw_ids(2, 7), "probe_targets": torch.rand(2, 7, 1)}
            refusals.append((wrong, r"`probe_targets` has shape \(2, 7, 1\).* \(2, 7, 2\)"))
        if family.is_parallel:
            refusals += [
                (
                    {**problem, "labels": draw_ids(2, 5), "decoder_input_ids": draw_ids(2, 5)},
                    "`decoder_input_ids` was passed",
                ),
                ({**whole, "loop_decoder": True}, "`loop_decoder=True` needs"),
                ({**problem, "answer_length": 14}, "answer is 14 tokens long, but `max_answer_length` is 13"),
                ({**problem, "answer_length": 0}, "`answer_length` is 0"),
                ({**problem, "answer_length": 2.5}, "`answer_length` is 2.5"),
            ]
        else:
            refusals += [
                (problem, "needs `labels`, `decoder_input_ids` or `decoder_inputs_embeds`; none was passed"),
                ({**problem, "answer_length": 5}, "needs `labels`, `decoder_input_ids`"),
                (
                    {**problem, "labels": draw_ids(2, 5), "decoder_input_ids": draw_ids(2, 6)},
                    r"`labels` has shape \(2, 5\).* \(2, 6\)",
                ),
                (
                    {**problem, "decoder_inputs_embeds": torch.rand(2, 5, 24), "loop_decoder": True},
                    "`loop_decoder=True` needs",
                ),
            ]
        return refusals

    def get_generation_refusals(self, family) -> list[tuple[dict, str]]:
        problem = family.ask()
        return [
            ({**problem, "max_new_tokens": 14}, "answer may become 14 tokens long, but `max_answer_length` is 13"),
            ({**problem, "num_steps": 0}, "`num_steps` is 0"),
            ({**problem, "num_steps": 1.5}, "`num_steps` is 1.5"),
            ({**problem, "num_latents": 8}, "`num_latents` is 8, but `max_latents` is 7"),
            ({**problem, "exit_threshold": 0.1}, "exit_threshold"),
            (
                {**problem, "generation_config": GenerationConfig(num_latents=9)},
                "`num_latents` is 9, but `max_latents` is 7",
            ),
        ]

    @holds_for(is_parallel)
    def test_promise_10_what_one_pass_cannot_do_is_refused(self, family):
        model, problem = family.build(), family.ask(1)
        for options, message in (
            ({"assistant_model": family.build(seed=1)}, "Assisted or prompt-lookup generation was requested"),
            ({"prompt_lookup_num_tokens": 2}, "Assisted or prompt-lookup generation was requested"),
            ({"cache_implementation": "static"}, "`cache_implementation` was passed"),
            ({CACHE_NAME: EncoderDecoderCache(DynamicCache(), DynamicCache())}, f"`{CACHE_NAME}` was passed"),
        ):
            with pytest.raises(ValueError, match=message):
                model.generate(**problem, max_new_tokens=3, **options)
        with pytest.raises(ValueError, match="Remove `model` from the arguments of the collator"):
            model.prepare_decoder_input_ids_from_labels(draw_ids(1, 3))

    @holds_for(is_reading)
    def test_promise_10_an_answer_does_not_outgrow_its_cache(self, family):
        model, problem = family.build(), family.ask()
        cache = model(**problem, decoder_input_ids=draw_ids(2, 12)).past_key_values
        with pytest.raises(ValueError, match="answer is 14 tokens long, but `max_answer_length` is 13"):
            model(**problem, decoder_input_ids=draw_ids(2, 2), past_key_values=cache)

    @holds_for(is_reading)
    def test_promise_10_encoder_outputs_are_read_with_their_mask(self, family):
        """Thoughts whose mask was lost would be read with their padding."""
        model, problem, answer = family.build(), family.pad(family.draw_rows()[:2], "left"), draw_ids(2, 4)
        thoughts = model.get_encoder()(**problem)
        expected = model(**problem, decoder_input_ids=answer).logits
        torch.testing.assert_close(
            model(encoder_outputs=thoughts, decoder_input_ids=answer).logits, expected, atol=1e-5, rtol=1e-4
        )
        is_input_read = thoughts.memory_mask is not None
        assert is_input_read == (family.config.num_read_steps is None)
        bare = LoopedThinkerEncoderOutput(last_hidden_state=thoughts.last_hidden_state)
        if is_input_read:
            logits = model(encoder_outputs=bare, decoder_input_ids=answer).logits
            torch.testing.assert_close(logits[0], expected[0], atol=1e-5, rtol=1e-4)

    def test_an_answer_needs_something_to_start_from(self):
        model = LoopedThinkerForConditionalGeneration(
            LoopedThinkerConfig(hidden_size=8, num_attention_heads=2, num_steps=1)
        )
        with pytest.raises(ValueError, match="no `decoder_start_token_id`"):
            model(torch.tensor([[1]]), labels=torch.tensor([[2]]))
