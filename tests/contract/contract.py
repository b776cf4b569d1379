# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The promises of docs/architecture.md, each stated once for every model of every family.

A family's test class inherits from `ModelContract`, lists its entries of tests/families.py and adds what only it
promises. Promise 1 (parity) is in tests/modeling, loading without the package in tests/hub, and training by the
Trainer, alone and in several processes, in tests/training.
"""

import copy
import dataclasses
import inspect
import logging
from typing import ClassVar

import pytest
import torch
from transformers import (
    AutoModel,
    Cache,
    EncoderDecoderCache,
    GenerationConfig,
    PreTrainedModel,
)

from hf_thoughtbubbles.modeling.common import checks_tokens
from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME
from tests import attention_functions  # noqa: F401  # registers `flex-plain`
from tests.contract.contract_helpers import (
    by,
    compute_gradients,
    enable_checkpointing,
    has_cache,
    holds_for,
    is_decoder_only,
    take_gradients,
)
from tests.contract.contract_inputs import InputContract
from tests.families import VOCAB_SIZE, Family, draw_ids, select_rows, take_row


STATIC = {"cache_implementation": "static", "disable_compile": True}
CACHED_WAYS = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.8},
    "beam": {"num_beams": 3, "do_sample": False},
    "chunked": {"do_sample": False, "prefill_chunk_size": 3},
    "static": {"do_sample": False, **STATIC},
    "static-beam": {"num_beams": 2, "do_sample": False, **STATIC},
    "lookup": {"do_sample": False, "prompt_lookup_num_tokens": 3},
}
SINGLE_ROW_WAYS = {
    "assistant": {},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "chunked": {"prefill_chunk_size": 5},
}
PADDED_WAYS = {"greedy": {}, "beam": {"num_beams": 2}, "static": STATIC}
# The entries that `make test-fast` runs; where a promise holds for none of them, it runs the first one that keeps it.
FIRST_ENTRIES = {"thoughtbubbles", "threshold", "generic", "thinker", "plain-autoregressive", "plain-parallel"}
FIRST_ENTRIES |= {"space", "plain"}


class ModelContract(InputContract):
    """One test for each promise, over the entries of a family."""

    families: ClassVar[list[Family]] = []
    accumulation_tolerance: ClassVar[dict] = {"atol": 1e-6, "rtol": 1e-4}
    attention_tolerance = 1e-5  # of logits between eager and sdpa attention, absolute

    def __init_subclass__(cls):
        """A promise that none of the entries keeps is no test of the class."""
        for name, test in inspect.getmembers(cls, inspect.isfunction):
            if name.startswith("test_") and hasattr(test, "condition") and not any(map(test.condition, cls.families)):
                setattr(cls, name, None)

    def pytest_generate_tests(self, metafunc):
        if "family" not in metafunc.fixturenames:
            return
        condition = getattr(metafunc.function, "condition", lambda family: True)
        families = [family for family in self.families if condition(family)]
        first = FIRST_ENTRIES & {family.name for family in families} or {family.name for family in families[:1]}
        marks = {family.name: () if family.name in first else pytest.mark.thorough for family in families}
        if "way" not in metafunc.fixturenames:
            cases = [pytest.param(family, id=family.name, marks=marks[family.name]) for family in families]
            metafunc.parametrize("family", cases)
            return
        cases = [
            pytest.param(family, way, id=f"{family.name}-{way}", marks=marks[family.name])
            for family in families
            for way in metafunc.function.ways
            if family.supports(way)
        ]
        metafunc.parametrize(("family", "way"), cases)

    def check_gradients(self, gradients: dict, expected: dict, atol: float = 1e-6, rtol: float = 1e-4):
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], atol=atol, rtol=rtol)

    # Saving

    def test_promise_2_saving_and_loading_keeps_every_bit(self, family, tmp_path):
        model, inputs = family.build(), {**family.ask(), **family.read()}
        model.save_pretrained(tmp_path)
        reloaded = family.auto_class.from_pretrained(tmp_path)
        assert type(reloaded) is type(model)
        assert {**reloaded.config.to_dict(), "_name_or_path": ""} == model.config.to_dict()
        assert torch.equal(reloaded(**inputs).logits, model(**inputs).logits)
        base = AutoModel.from_pretrained(tmp_path)
        assert torch.equal(base(**inputs).last_hidden_state, family.read_states(model, **inputs))

    # Causality

    @holds_for(lambda family: family.is_causal)
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_promise_3_later_tokens_change_no_earlier_logit(self, family, attention):
        """Lengths of patches that are passed stay as they are."""
        model, inputs = family.build(), family.draw_text()
        model.set_attn_implementation(attention)
        expected, text = model(**inputs).logits, inputs[family.text_name]
        for cut in range(1, text.shape[1], 3):
            edited = torch.cat((text[:, :cut], family.change(text[:, cut:])), dim=1)
            logits = model(**{**inputs, family.text_name: edited}).logits
            torch.testing.assert_close(logits[:, :cut], expected[:, :cut], atol=1e-5, rtol=0)
            changes = (logits[:, cut:] - expected[:, cut:]).abs().amax(-1)
            assert (changes.min() if family.later_tokens_act_at_once else changes.max()) > 1e-4, (
                "and later ones change"
            )

    @holds_for(lambda family: family.is_encoder_decoder)
    def test_promise_3_every_logit_depends_on_the_input(self, family):
        model, inputs = family.build(), family.draw_text()
        other = {**inputs, "input_ids": family.change(inputs["input_ids"])}
        assert (model(**other).logits - model(**inputs).logits).abs().amax(-1).min() > 1e-4

    # Caches

    @by(CACHED_WAYS)
    @holds_for(lambda family: family.generates_uncached)
    def test_promise_4_cached_generation_equals_uncached(self, family, way):
        strategy = CACHED_WAYS[way]
        model, prompt = family.build(), family.draw_prompt(*[1] * (way == "lookup"))
        plain = {key: strategy[key] for key in ("do_sample", "temperature", "num_beams") if key in strategy}
        for compute in family.compute:
            options = {"max_new_tokens": family.num_new_tokens, **compute, **prompt}
            options |= {"eos_token_id": -1} if way == "lookup" else {}
            torch.manual_seed(1)
            expected = model.generate(use_cache=False, **options, **plain)
            written = expected if family.is_encoder_decoder else expected[:, prompt["input_ids"].shape[1] :]
            assert way == "lookup" or len(written.unique()) >= family.num_distinct, "so that a lost context would show"
            torch.manual_seed(1)
            assert torch.equal(model.generate(**options, **strategy), expected), compute

    @by(SINGLE_ROW_WAYS)
    @holds_for(has_cache)
    def test_promise_4_assisted_and_chunked_generation_equals_greedy(self, family, way):
        model, prompt = family.build(), family.draw_prompt(1)
        strategy = SINGLE_ROW_WAYS[way]
        if way == "assistant":
            strategy = {"assistant_model": family.build(seed=1, **family.assistant_changes)}
        for compute in family.compute:
            options = {"max_new_tokens": family.num_new_tokens, "do_sample": False, **compute, **prompt}
            assert torch.equal(model.generate(**options, **strategy), model.generate(**options)), compute

    @holds_for(lambda family: family.generates_uncached)
    def test_promise_4_cached_logits_equal_uncached(self, family):
        """Part after part, in every kind of cache, with the input or what the encoder made of it."""
        model, tolerance = (
            family.build(),
            {"atol": 1e-4, "rtol": 0} if family.is_encoder_decoder else {"atol": 1e-5, "rtol": 1e-4},
        )
        for inputs in family.draw_readings():
            is_real, length = family.mask_text(inputs), inputs[family.text_name].shape[1]
            first = 3 if family.is_encoder_decoder else 7
            for compute in family.compute:
                expected = model(**inputs, **compute, use_cache=False).logits
                sources = [{**inputs, **compute}]
                if family.is_encoder_decoder:
                    own = {key: value for key, value in inputs.items() if key.startswith("decoder_")}
                    problem = {key: value for key, value in inputs.items() if key not in own}
                    sources.append({"encoder_outputs": model.get_encoder()(**problem, **compute), **own})
                is_usual = all(getattr(model.config, name) == value for name, value in compute.items())
                for source in sources:
                    for cache in family.make_caches(model.config)[: None if is_usual else 1]:
                        for start, end in ((0, first), (first, first + 1), (first + 1, length)):
                            part = family.take_part(source, start, end)
                            outputs = model(**part, past_key_values=cache, use_cache=True)
                            cache, real = outputs.past_key_values, is_real[:, start:end]
                            torch.testing.assert_close(outputs.logits[real], expected[:, start:end][real], **tolerance)
                        self.check_cache(family, cache, length)

    def check_cache(self, family: Family, cache: Cache, length: int) -> None:
        """Check the kind of a returned cache and the tokens that it holds."""
        assert int(cache.get_seq_length()) == length
        assert (type(cache) is EncoderDecoderCache) == family.is_encoder_decoder

    @holds_for(has_cache)
    def test_promise_4_generation_goes_on_from_its_own_cache(self, family):
        model, prompt = family.build(), family.draw_prompt()
        options = {"do_sample": False, "return_dict_in_generate": True, "eos_token_id": -1}
        expected = model.generate(**prompt, max_new_tokens=10, **options).sequences
        first = model.generate(**prompt, max_new_tokens=4, **options)
        if family.is_encoder_decoder:
            prompt["decoder_input_ids"] = first.sequences
        else:
            new = torch.ones(len(first.sequences), 4, dtype=torch.long)
            mask = torch.cat((prompt["attention_mask"], new), dim=1)
            prompt = {"input_ids": first.sequences, "attention_mask": mask}
        continued = model.generate(max_new_tokens=6, **{CACHE_NAME: first[CACHE_NAME]}, **prompt, **options)
        assert torch.equal(continued.sequences, expected)

    @holds_for(lambda family: family.generates_uncached)
    def test_promise_4_rejected_tokens_leave_no_trace(self, family):
        model, inputs = family.build(), family.draw_text()
        length = inputs[family.text_name].shape[1]
        expected = model(**inputs, use_cache=False).logits
        cache = model(**family.take_part(inputs, 0, 4), use_cache=True).past_key_values
        rest = family.take_part(inputs, 4, length)
        for num_rejected in (6, 1):
            rejected = {**rest, family.text_name: family.draw(len(expected), num_rejected)}
            model(**rejected, past_key_values=cache)
            cache.crop(-num_rejected)
        torch.testing.assert_close(model(**rest, past_key_values=cache).logits, expected[:, 4:], atol=1e-4, rtol=0)

    @holds_for(has_cache)
    def test_a_training_model_returns_a_cache_only_when_asked(self, family):
        model, inputs = family.build().train(), family.draw_text()
        assert model(**inputs).past_key_values is None
        assert model(**family.draw_lesson()).past_key_values is None
        cache = model(**family.take_part(inputs, 0, 9), use_cache=True).past_key_values
        assert cache.get_seq_length() == 9
        model(**family.take_part(inputs, 9, 11), past_key_values=cache)
        assert cache.get_seq_length() == 11

    @holds_for(lambda family: family.takes_vectors)
    def test_promise_4_vectors_instead_of_tokens_give_the_same(self, family):
        """Of prompts padded on the left, and of the text that the decoder is given."""
        model, prompt, reading = family.build(), family.pad(family.draw_rows()[:3], "left"), family.read(3)
        embed = model.get_input_embeddings()
        embedded = {**prompt, "inputs_embeds": embed(prompt["input_ids"])}
        del embedded["input_ids"]
        expected = model(**prompt, **reading).logits
        torch.testing.assert_close(model(**embedded, **reading).logits, expected)
        if "decoder_input_ids" in reading:
            queries = embed(reading["decoder_input_ids"])
            for inputs in (prompt, embedded):
                torch.testing.assert_close(model(**inputs, decoder_inputs_embeds=queries).logits, expected)
        options = {"max_new_tokens": 11, "do_sample": False}
        generated = model.generate(**prompt, **options)
        if is_decoder_only(family):
            both = model.generate(**prompt, inputs_embeds=embedded["inputs_embeds"], **options)
            assert torch.equal(both, generated)
            generated = generated[:, prompt["input_ids"].shape[1] :]
        assert torch.equal(model.generate(**embedded, **options), generated)

    # Padding

    @holds_for(lambda family: not family.is_forking)
    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_promise_5_a_padded_row_equals_the_row_alone(self, family, side, attention):
        model, rows = family.build(), family.draw_rows()
        batch = family.complete(family.pad(rows, side))
        model.set_attn_implementation(attention)
        logits, is_real = model(**batch).logits, batch["attention_mask"].bool()
        assert logits.isfinite().all()
        for row in range(len(rows)):
            own = logits[row][is_real[row]] if is_decoder_only(family) else logits[row]
            torch.testing.assert_close(own, model(**take_row(batch, row)).logits[0], atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_promise_5_a_row_of_padding_alone_harms_nothing(self, family, attention):
        model, lesson = family.build(), family.draw_lesson(3)
        model.set_attn_implementation(attention)
        lesson["attention_mask"] = torch.ones_like(lesson["input_ids"])
        lesson["attention_mask"][1], lesson["labels"][1] = 0, -100
        if "patch_lengths" in lesson:
            lesson["patch_lengths"][1] = 0
        outputs = model(**lesson, use_cache=False)
        assert outputs.logits.isfinite().all()
        outputs.loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        others = model(**select_rows(lesson, [0, 2]), use_cache=False)
        torch.testing.assert_close(outputs.logits[[0, 2]], others.logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(outputs.loss, others.loss)

    @by(PADDED_WAYS)
    def test_promise_5_padding_changes_no_generated_text(self, family, way):
        """For the published rule, at a budget that prunes nothing: padding changes there what gets pruned."""
        model, rows = family.build(**({"fork_budget": 4.0} if family.is_forking else {})), family.draw_rows()
        options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": -1}
        plain = {key: value for key, value in PADDED_WAYS[way].items() if key == "num_beams"}
        for side in ("left", "right") if family.is_encoder_decoder else ("left",):
            batch = family.pad(rows, side)
            together = model.generate(**batch, **options, **PADDED_WAYS[way])
            for row in range(len(rows)):
                alone = model.generate(**take_row(batch, row), **options, **plain)
                assert torch.equal(together[row, -8:], alone[0, -8:]), (side, row)

    # Training

    def test_promise_6_parts_of_a_batch_add_up_to_the_whole(self, family):
        model, lesson = family.build().train(), family.draw_lesson(padding="right")
        num_items = family.count_targets(lesson["labels"])
        whole = lesson if family.averages_once else {**lesson, "num_items_in_batch": num_items}
        loss, expected = compute_gradients(model, whole)
        parts = [
            model(**select_rows(lesson, rows), num_items_in_batch=num_items).loss for rows in (slice(1), slice(1, 4))
        ]
        sum(parts).backward()
        torch.testing.assert_close(sum(parts).detach(), loss)
        self.check_gradients(take_gradients(model), expected, **self.accumulation_tolerance)

    @pytest.mark.parametrize("padding", [None, "left", "right"])
    def test_promise_7_attention_implementations_agree(self, family, padding):
        model, lesson = family.build(), family.draw_lesson(padding=padding)
        is_real, seen = family.mask_text(lesson), []
        for attention in ("eager", "sdpa"):
            model.set_attn_implementation(attention)
            seen.append((model(**lesson).logits[is_real], *compute_gradients(model, lesson)))
        (expected, expected_loss, expected_gradients), (logits, loss, gradients) = seen
        torch.testing.assert_close(logits, expected, atol=self.attention_tolerance, rtol=1e-4)
        torch.testing.assert_close(loss, expected_loss)
        self.check_gradients(gradients, expected_gradients, atol=1e-4, rtol=1e-4)

    @holds_for(lambda family: "block" not in family.model_class.find_mask_obstacles(family.config))
    def test_promise_7_flex_attention_gets_masks_that_train_as_sdpa(self, family):
        """Its kernel has no gradients on a CPU, so plain operations read its masks."""
        model, lesson = family.build().train(), family.draw_lesson(padding="right")
        expected_loss, expected = compute_gradients(model, lesson)
        model.set_attn_implementation("flex-plain")
        with torch.compiler.set_stance("force_eager"):
            loss, gradients = compute_gradients(model, lesson)
        torch.testing.assert_close(loss, expected_loss)
        self.check_gradients(gradients, expected, atol=1e-4, rtol=1e-4)

    def test_promise_7_bf16_trains(self, family):
        model, lesson = family.build(**family.bf16_changes).to(torch.bfloat16).train(), family.draw_lesson()
        optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
        for _ in range(family.bf16_steps):
            loss = model(**lesson).loss
            loss.backward()
            assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]

    def test_promise_7_bf16_is_near_float32_where_nothing_is_decided(self, family):
        """Where every candidate is kept and no token exits: elsewhere rounding decides between scores nearly equal."""
        model = family.build(**family.undecided_changes, **family.bf16_changes)
        lesson = family.draw_lesson()
        expected = model(**lesson).logits.softmax(-1)
        rounded = copy.deepcopy(model).to(torch.bfloat16)(**lesson).logits.float().softmax(-1)
        assert (rounded - expected).abs().max() < family.bf16_distance

    @pytest.mark.slow
    @holds_for(lambda family: family.is_compiled)
    @pytest.mark.parametrize("padding", [False, True])
    def test_promise_7_a_compiled_training_step_has_no_graph_break(self, family, padding):
        """One graph serves all data. Its backward pass is traced with padding alone, which adds branches."""
        side = None if not padding else "left" if family.is_encoder_decoder else "right"
        model, lesson = family.build(**family.compile_changes).train(), family.draw_lesson(2, side)
        lesson |= family.compile_options
        loss, expected = compute_gradients(model, lesson)
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager" if padding else "eager")
        compiled_loss, gradients = compute_gradients(compiled, lesson)
        torch.testing.assert_close(compiled_loss, loss)
        gradients = {name.removeprefix("_orig_mod."): gradient for name, gradient in gradients.items()}
        self.check_gradients(gradients, expected, atol=1e-5, rtol=1e-3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch.compiler.set_stance("fail_on_recompile"):  # other text, padding, forks, thresholds and patches
            for _ in range(3):
                others = {**lesson, "input_ids": family.change(lesson["input_ids"])}
                lesson = {
                    name: value.flip(0) if isinstance(value, torch.Tensor) else value for name, value in others.items()
                }
                optimizer.zero_grad()
                compiled(**lesson).loss.backward()
                optimizer.step()

    @pytest.mark.parametrize("use_reentrant", [False, True])
    @pytest.mark.parametrize("padding", [None, "right"])
    def test_promise_7_gradient_checkpointing_gives_the_same_gradients(self, family, use_reentrant, padding):
        model, lesson = family.build().train(), family.draw_lesson(2, padding)
        _, expected = compute_gradients(model, lesson)
        enable_checkpointing(model, use_reentrant=use_reentrant)
        _, gradients = compute_gradients(model, lesson)
        self.check_gradients(gradients, expected)

    # Compute

    def amplify(self, model: PreTrainedModel) -> None:
        """Change a model so that other compute gives another text."""

    @holds_for(lambda family: bool(family.compute_options))
    def test_promise_8_generation_computes_as_much_as_it_is_told(self, family, tmp_path):
        """By an argument, by a configuration passed, and by the saved one, in this order."""
        model, prompt = family.build(), family.draw_prompt(6)
        self.amplify(model)
        options = {"max_new_tokens": 9, "do_sample": False}
        usual = {name: getattr(model.config, name) for name in family.compute_options}
        bare, expected = (
            model.generate(**prompt, **options),
            model.generate(**prompt, **options, **family.compute_options),
        )
        assert not torch.equal(expected, bare), "so that a lost field would show"
        chosen = GenerationConfig(**options, **family.compute_options)
        assert torch.equal(model.generate(**prompt, generation_config=chosen), expected)
        for name, value in family.compute_options.items():
            setattr(model.generation_config, name, value)
        model.save_pretrained(tmp_path)
        reloaded = family.auto_class.from_pretrained(tmp_path)
        assert torch.equal(reloaded.generate(**prompt, **options), expected)
        assert torch.equal(reloaded.generate(**prompt, **options, **usual), bare), "an argument comes first"

    # Outputs and errors

    @holds_for(is_decoder_only)
    def test_promise_9_the_last_hidden_state_has_a_row_for_each_input_id(self, family):
        model, inputs = family.build(), family.ask()
        states = family.read_states(model, **inputs)
        assert states.shape == (*inputs["input_ids"].shape, model.config.hidden_size)
        assert model.get_input_embeddings().weight.shape[1] == model.config.hidden_size
        if model.has_linear_head:
            torch.testing.assert_close(model.lm_head(states), model(**inputs).logits)

    def get_refusals(self, family: Family) -> list[tuple[dict, str]]:
        """Inputs that no model takes, each with the error."""
        input_ids = family.draw(2, 7)
        embeds = torch.rand(2, 7, 24)
        too_long = [({"input_ids": draw_ids(1, 38)}, "38 tokens long, but `max_position_embeddings` is 37")]
        return [
            *(too_long if family.config.has_position_table else []),
            (
                {"input_ids": input_ids, "inputs_embeds": embeds},
                "exactly one of `input_ids` and `inputs_embeds`; both",
            ),
            ({}, "exactly one of `input_ids` and `inputs_embeds`; neither"),
            ({"input_ids": input_ids + VOCAB_SIZE}, "`input_ids` holds .* ids are 0 to 60"),
            ({"input_ids": input_ids - VOCAB_SIZE}, "`input_ids` holds -.* ids are 0 to 60"),
            ({"input_ids": input_ids, "attention_mask": torch.ones(2, 6)}, r"`attention_mask` has shape \(2, 6\)"),
            ({"input_ids": input_ids, "attention_mask": torch.ones(1, 7)}, r"needs \(2, 7\)"),
            ({"input_ids": input_ids, "attention_mask": torch.ones(2, 7, 7)}, "`attention_mask` has 3 dimensions"),
            ({"input_ids": input_ids[0]}, r"shape \(7,\); it must be \(B, T\)"),
            ({"input_ids": input_ids[:, :0]}, r"shape \(2, 0\); it must be \(B, T\)"),
            ({"inputs_embeds": embeds[..., :5]}, r"shape \(2, 7, 5\); it must be \(B, T, hidden_size\)"),
            ({"input_ids": input_ids, "position_ids": torch.arange(6)[None]}, r"`position_ids` has shape \(1, 6\)"),
        ]

    def get_generation_refusals(self, family: Family) -> list[tuple[dict, str]]:
        """Arguments of `generate` that a model does not take, each with the error."""
        if not family.config.has_position_table:
            return []
        prompt = {"attention_mask": torch.ones(2, 7, dtype=torch.long), "max_new_tokens": 32}
        return [
            ({**prompt, "input_ids": draw_ids(2, 7)}, r"may read 38 tokens .* `max_position_embeddings` is 37"),
            ({**prompt, "inputs_embeds": torch.rand(2, 7, 24)}, "may read 38 tokens"),
        ]

    def test_promise_10_bad_input_is_one_clear_error(self, family):
        model = family.build()
        for inputs, message in self.get_refusals(family):
            with pytest.raises(ValueError, match=message):
                model(**inputs)

    def test_promise_10_bad_arguments_of_generation_are_one_clear_error(self, family):
        model = family.build()
        for options, message in self.get_generation_refusals(family):
            with pytest.raises(ValueError, match=message):
                model.generate(**options)

    @holds_for(lambda family: not family.config.has_position_table)
    def test_texts_longer_than_the_positions_of_training_keep_the_promises(self, family, caplog):
        """With one warning. The texts of these tests are up to four times as long as 7 positions."""
        logger = logging.getLogger(checks_tokens.__name__)
        logger.warning_once.cache_clear()
        config = type(family.config)(**{**family.config.to_dict(), "max_position_embeddings": 7})
        short = dataclasses.replace(family, config=config)
        with caplog.at_level(logging.WARNING, logger=logger.name):
            short.build()(**short.draw_text())
            if not short.is_forking:
                self.test_promise_5_a_padded_row_equals_the_row_alone(short, "left", "sdpa")
            if short.generates_uncached:
                self.test_promise_4_cached_logits_equal_uncached(short)
            for way in filter(short.supports, ("greedy", "static", "lookup") if short.generates_uncached else ()):
                self.test_promise_4_cached_generation_equals_uncached(short, way)
        warnings = [record for record in caplog.records if record.name == logger.name]
        assert len(warnings) == 1
        assert "longer than `max_position_embeddings` 7. The model computes later" in warnings[0].getMessage()

    @holds_for(is_decoder_only)
    def test_promise_10_generation_reaches_the_longest_text(self, family):
        """The last new token is never read, so one more fits."""
        model, prompt = family.build(), family.ask(2, 7)
        options = dict.fromkeys(("max_new_tokens", "min_new_tokens"), model.config.max_position_embeddings - 6)
        mask = torch.ones_like(prompt["input_ids"])
        assert (
            model.generate(**prompt, attention_mask=mask, do_sample=False, **options).shape[1]
            == options["max_new_tokens"] + 7
        )

    @holds_for(lambda family: bool(family.bad_changes))
    def test_promise_10_numbers_that_contradict_each_other_are_refused(self, family, tmp_path):
        """On construction, and when they are set while loading."""
        family.build().save_pretrained(tmp_path)
        for changes, message in family.bad_changes:
            with pytest.raises(Exception, match=message):
                family.build(**changes)
            with pytest.raises(Exception, match=message):
                family.auto_class.from_pretrained(tmp_path, **changes)
