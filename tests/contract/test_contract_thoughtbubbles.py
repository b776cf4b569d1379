# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The promises of Thoughtbubbles, the plain GPT among them; the published rule is the stated exception to some."""

import pytest
import torch
from transformers import DynamicCache

from hf_thoughtbubbles import ThoughtbubblesForCausalLM
from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME
from tests.contract.contract import ModelContract, holds_for
from tests.families import FAMILIES, VOCAB_SIZE, Family, draw_ids


def is_forking(family: Family) -> bool:
    return family.is_forking


class TestThoughtbubbles(ModelContract):
    families = [family for family in FAMILIES if family.model_class is ThoughtbubblesForCausalLM]
    # A GPT in training returns a cache, as transformers' own models do; forks refuse one.
    test_a_training_model_returns_a_cache_only_when_asked = None

    @holds_for(is_forking)
    def test_promise_3_the_published_rule_is_the_stated_exception(self, family):
        """Documented, so measured: later tokens do change earlier logits under `fork_rule="topk"`."""
        model, input_ids = family.build(), draw_ids(8, 23)
        edited = torch.cat((input_ids[:, :11], draw_ids(8, 12)), dim=1)
        assert (model(edited).logits[:, :11] - model(input_ids).logits[:, :11]).abs().max() > 1e-3

    @holds_for(is_forking)
    def test_promise_3_a_budget_that_keeps_every_candidate_is_causal(self, family):
        model, input_ids = family.build(fork_budget=4.0), draw_ids(2, 23)
        edited = torch.cat((input_ids[:, :11], draw_ids(2, 12)), dim=1)
        torch.testing.assert_close(model(edited).logits[:, :11], model(input_ids).logits[:, :11], atol=1e-5, rtol=1e-5)

    @holds_for(is_forking)
    @pytest.mark.parametrize("use_cache", [None, True, False])
    def test_promise_4_the_published_rule_reads_the_prefix_again_for_every_token(self, family, use_cache):
        """No cache can be exact for the published rule, and asking for one must not give other text."""
        model, text = family.build(), draw_ids(2, 9)
        options = {} if use_cache is None else {"use_cache": use_cache}
        generated = model.generate(
            text, attention_mask=torch.ones_like(text), max_new_tokens=11, do_sample=False, eos_token_id=-1, **options
        )
        for _ in range(11):
            logits = model(text).logits[:, -1]
            text = torch.cat((text, logits.argmax(-1, keepdim=True)), dim=1)
        assert len(text[:, 9:].unique()) > 3, "text that varies, so that a lost context would show"
        assert torch.equal(generated, text)

    @holds_for(is_forking)
    def test_promise_4_the_published_rule_finds_the_likeliest_continuation_by_beams(self, family):
        """Two tokens: over all first tokens by hand, and with as many beams."""
        model, prompt = family.build(), draw_ids(1, 6)
        options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 2, "do_sample": False}
        found = model.generate(prompt, num_beams=VOCAB_SIZE, eos_token_id=-1, **options)
        first = model(prompt).logits[0, -1].log_softmax(-1)
        texts = torch.cat((prompt.expand(VOCAB_SIZE, -1), torch.arange(VOCAB_SIZE)[:, None]), dim=1)
        second = model(texts).logits[:, -1].log_softmax(-1)
        best = int((first[:, None] + second).argmax())
        assert found[0, 6:].tolist() == [best // VOCAB_SIZE, best % VOCAB_SIZE]

    @pytest.mark.slow
    @pytest.mark.parametrize("padding", ["none", "right"])
    def test_promise_7_flex_attention_agrees_in_inference(self, padding):
        """Without gradients: on a CPU it has no backward pass. Its head sizes are powers of two."""
        model = self.families[0].build(hidden_size=48, num_attention_heads=3)
        input_ids, mask = draw_ids(2, 17), torch.ones(2, 17, dtype=torch.long)
        mask[1, 11:] = 1 if padding == "none" else 0
        inputs = {"input_ids": input_ids, **({} if padding == "none" else {"attention_mask": mask})}
        expected = model(**inputs).logits[mask.bool()]
        model.set_attn_implementation("flex_attention")
        with torch.no_grad():
            torch.testing.assert_close(model(**inputs).logits[mask.bool()], expected, atol=1e-5, rtol=1e-4)

    @pytest.mark.slow
    @holds_for(is_forking)
    def test_a_compiled_model_generates_the_same_text(self, family):
        model, prompt = family.build(), draw_ids(1, 5)
        options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 3, "do_sample": False}
        expected = model.generate(prompt, **options)
        torch._dynamo.reset()
        model.forward = torch.compile(model.forward, backend="eager")
        assert torch.equal(model.generate(prompt, **options), expected)

    @holds_for(is_forking)
    def test_promise_8_the_budget_of_a_built_model_can_be_changed(self, family):
        model, input_ids = family.build(), draw_ids(2, 20)
        model.config.fork_budget = 2.0
        assert model(input_ids, output_forks=True).forks[-1].num_streams.sum() == 80

    @holds_for(is_forking)
    def test_promise_8_the_compute_of_every_token_is_visible_and_the_budget_changes_it(self, family):
        input_ids = draw_ids(2, 20)
        for budget in (1.0, 1.5, 2.0, 4.0):
            forks = family.build(fork_budget=budget)(input_ids, output_forks=True).forks
            assert [int(fork.num_streams.sum()) for fork in forks] == [
                2 * min(round(20 * budget), 40),
                2 * min(round(20 * budget), 80),
            ]

    @holds_for(is_forking)
    def test_promise_10_generation_that_needs_a_cache_is_refused(self, family):
        model, prompt = family.build(), draw_ids(1, 8)
        assistant, options = family.build(seed=1), {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 3}
        for strategy, message in (
            ({"assistant_model": assistant}, "Assisted and prompt-lookup generation need a cache"),
            ({"prompt_lookup_num_tokens": 2}, "Assisted and prompt-lookup generation need a cache"),
            ({"prefill_chunk_size": 2}, "`prefill_chunk_size` was passed"),
            ({"cache_implementation": "static"}, "`cache_implementation` was passed"),
        ):
            with pytest.raises(ValueError, match=message):
                model.generate(prompt, **options, **strategy)
        with pytest.raises(ValueError, match="nor as its assistant"):
            self.families[2].build().generate(prompt, assistant_model=assistant, **options)

    @holds_for(is_forking)
    def test_promise_10_what_the_published_rule_cannot_do_is_refused(self, family):
        model, input_ids = family.build(), draw_ids(1, 8)
        packed = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
        mask_4d = torch.ones(1, 1, 8, 8, dtype=torch.bool)
        for inputs, message in (
            ({"use_cache": True}, "no cache can be exact"),
            ({"past_key_values": DynamicCache()}, "no cache can be exact"),
            ({"position_ids": packed}, "`position_ids` pack several documents"),
            ({"attention_mask": mask_4d}, "cannot follow tokens that fork"),
        ):
            with pytest.raises(ValueError, match=message):
                model(input_ids, **inputs)
        with pytest.raises(ValueError, match=f"`{CACHE_NAME}` was passed"):
            model.generate(input_ids, **{CACHE_NAME: DynamicCache()}, max_new_tokens=2)
