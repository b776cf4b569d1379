# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Drafts change no text: greedy text is the same, sampled strings have the same distribution; what a draft loss is."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from transformers import LogitsProcessor, LogitsProcessorList

from hf_thoughtbubbles import BytePatchForCausalLM
from hf_thoughtbubbles.modeling.byte_patch import generation_byte_patch
from hf_thoughtbubbles.modeling.byte_patch.patch_ends import NUM_BYTES, SPECIAL
from tests.families import TEXTS, BytePatchFamily, make_byte_patch


TEXT = b"one two three four, five sixteen. seven eleven. one two four seven"
NUM_DRAFT_BYTES = 6


@pytest.fixture(scope="module", params=["space", "fixed", "token"])
def trained(request) -> tuple[BytePatchFamily, BytePatchForCausalLM]:
    """A family, and a model that has learned a text nearly by heart, so that drafts are often right."""
    changes = {"patching": request.param, "num_draft_bytes": NUM_DRAFT_BYTES}
    return train(make_byte_patch("drafts", initializer_range=0.05, **changes))


def train(family: BytePatchFamily, num_steps: int = 60) -> tuple[BytePatchFamily, BytePatchForCausalLM]:
    model, ids = family.build().train(), torch.tensor([list(TEXT)])
    lesson = {"input_ids": ids, "labels": ids, **family.measure(ids.tolist())}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(num_steps):
        model(**lesson).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return family, model.eval()


def count_passes(model, monkeypatch) -> list[int]:
    """Bytes of each pass of the model from here on."""
    sizes, forward = [], model.model.forward

    def count(input_ids, *args, **kwargs):
        sizes.append(input_ids.shape[1])
        return forward(input_ids, *args, **kwargs)

    monkeypatch.setattr(model.model, "forward", count)
    return sizes


def generate(family, model, prompts: list[bytes], **options):
    batch = family.pad([torch.tensor(list(prompt)) for prompt in prompts], "left", longest=23)
    return model.generate(**batch, **{"max_new_tokens": 31, "do_sample": False, "eos_token_id": -1, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_new_tokens": 5},
        {"eos_token_id": ord("v")},
        {"repetition_penalty": 1.3, "min_new_tokens": 9, "eos_token_id": ord("e")},
    ],
    ids=["long", "short", "end inside a draft", "processors"],
)
def test_greedy_text_is_that_without_drafts(trained, options, monkeypatch):
    """Over prompts with padding before them, known and unknown text, and characters of several bytes."""
    family, model = trained
    for prompt in (b"one", b"seven eleven. one two ", b"xq", TEXTS[1].encode()[:19]):
        expected = generate(family, model, [prompt], num_draft_bytes=0, **options)
        assert torch.equal(generate(family, model, [prompt], **options), expected), prompt


def test_a_pass_reads_several_bytes(trained, monkeypatch):
    family, model = trained
    sizes = count_passes(model, monkeypatch)
    text = generate(family, model, [b"one two thr"])
    assert len(sizes) < 0.9 * (text.shape[1] - 23) and max(sizes[1:]) > 2


def test_outputs_are_those_without_drafts(trained):
    """Scores, patches, the cache and what is generated from it, also with drafts of another length."""
    family, model = trained
    options = {"return_dict_in_generate": True, "output_scores": True, "output_patches": True, "max_new_tokens": 17}
    expected = generate(family, model, [b"one two"], num_draft_bytes=0, **options)
    for most in (None, 1, 4):
        seen = generate(family, model, [b"one two"], num_draft_bytes=most, **options)
        assert torch.equal(seen.sequences, expected.sequences)
        torch.testing.assert_close(torch.cat(seen.scores), torch.cat(expected.scores), atol=1e-4, rtol=1e-4)
        assert torch.equal(seen.patches.is_end, expected.patches.is_end)
        assert torch.equal(seen.past_key_values.input_ids, expected.past_key_values.input_ids)
        assert torch.equal(seen.past_key_values.is_end, expected.past_key_values.is_end)
        mask = torch.ones_like(seen.sequences)
        mask[:, : 23 - len(b"one two")] = 0
        more = {"attention_mask": mask, "max_new_tokens": 19, "do_sample": False, "eos_token_id": -1}
        more |= {"past_key_values": seen.past_key_values}
        longer = generate(family, model, [b"one two"], num_draft_bytes=0, max_new_tokens=17 + 19)
        assert torch.equal(model.generate(seen.sequences, num_draft_bytes=most, **more), longer)


def test_a_streamer_is_given_each_byte_once(trained):
    family, model = trained
    received = []

    class Streamer:
        def put(self, value):
            received.extend(value.flatten().tolist())

        def end(self):
            received.append("end")

    text = generate(family, model, [b"one two"], streamer=Streamer())
    assert received == [*text[0].tolist(), "end"]


@pytest.mark.slow
def test_sampled_strings_have_the_distribution_of_the_model():
    """All strings of four bytes, by chi square; drafts are accepted and rejected."""
    _, model = train(make_byte_patch("drafts", num_draft_bytes=3, initializer_range=0.05), num_steps=50)
    options = {"do_sample": True, "top_k": 3, "temperature": 2.5, "max_new_tokens": 4, "eos_token_id": -1}
    prompt, num_samples, counts = torch.tensor([list(b"one t")]), 450, {}
    mask = torch.ones_like(prompt)
    torch.manual_seed(0)
    for _ in range(num_samples):
        text = tuple(model.generate(prompt, attention_mask=mask, **options)[0, 5:].tolist())
        counts[text] = counts.get(text, 0) + 1
    expected = enumerate_strings(model, prompt, 4, top_k=3, temperature=2.5)
    assert sum(expected.values()) == pytest.approx(1) and counts.keys() <= expected.keys()
    rare = [text for text, prob in expected.items() if num_samples * prob < 5]
    cells = [(counts.get(text, 0), prob) for text, prob in expected.items() if text not in rare]
    cells.append((sum(counts.get(text, 0) for text in rare), sum(expected[text] for text in rare)))
    chi_square = sum((count - num_samples * prob) ** 2 / (num_samples * prob) for count, prob in cells if prob > 0)
    freedom = len(cells) - 1
    assert freedom > 10
    assert chi_square < freedom + 3 * (2 * freedom) ** 0.5


@torch.no_grad()
def enumerate_strings(model, prompt, length: int, top_k: int, temperature: float) -> dict[tuple, float]:
    """The probability of every string of so many bytes that may follow the prompt."""
    found = {(): 1.0}
    for _ in range(length):
        rows = torch.tensor([prompt[0].tolist() + list(text) for text in found])
        logits, ids = (model(rows, use_cache=False).logits[:, -1] / temperature).topk(top_k)
        found = {
            (*text, byte): prob * share
            for (text, prob), bytes_, shares in zip(
                found.items(), ids.tolist(), logits.softmax(-1).tolist(), strict=True
            )
            for byte, share in zip(bytes_, shares, strict=True)
        }
    return found


def test_generation_that_reads_byte_by_byte_is_not_drafted(monkeypatch):
    """Several rows, other criteria, processors with a state, recorded layers, no cache, beams, assistants."""

    def refuse(*args):
        raise AssertionError("drafted")

    family = make_byte_patch("drafts", num_draft_bytes=3)
    model, batch = family.build(), family.pad([torch.tensor(list(b"abc de"))], "left")
    monkeypatch.setattr(generation_byte_patch, "DraftCandidateGenerator", refuse)
    assistant = make_byte_patch("assistant", num_draft_bytes=2).build(seed=1)
    recorded = {"return_dict_in_generate": True, "output_hidden_states": True}
    for options in (
        {"num_return_sequences": 2, "do_sample": True},
        {"stopping_criteria": [lambda input_ids, scores: torch.zeros(len(input_ids), dtype=torch.bool)]},
        {"logits_processor": LogitsProcessorList([CountingProcessor()])},
        {"guidance_scale": 1.5},
        {"guidance_scale": 1.5, "num_draft_bytes": 0},
        {"use_cache": False},
        {"num_beams": 2},
        {"prompt_lookup_num_tokens": 2},
        {"assistant_model": assistant},
        {"prefill_chunk_size": 2},
        {"num_draft_bytes": 0},
        recorded,
    ):
        model.generate(**batch, **{"do_sample": False, "max_new_tokens": 3, **options})
    model.generation_config.num_draft_bytes = 0
    model.generate(**batch, max_new_tokens=3)
    model.generation_config.num_draft_bytes = 1
    with pytest.raises(AssertionError, match="drafted"):
        model.generate(**batch, max_new_tokens=3)


class CountingProcessor(LogitsProcessor):
    """A processor with a state."""

    num_calls = 0

    def __call__(self, input_ids, scores):
        self.num_calls += 1
        return scores + self.num_calls % 2


@pytest.mark.parametrize("wrong", [-1, 4, True, 1.0])
def test_drafts_of_another_length_than_the_model_has_are_refused(wrong):
    family = make_byte_patch("drafts", num_draft_bytes=3)
    with pytest.raises(ValueError, match=f"`num_draft_bytes={wrong!r}` was passed; it must be a whole number from 0"):
        family.build().generate(**family.draw_prompt(1), num_draft_bytes=wrong, max_new_tokens=3)


@pytest.mark.parametrize("padding", [0, 4])
def test_the_draft_loss_scores_one_distance_a_byte_and_trains_the_drafter_alone(padding):
    """Written out byte by byte, for a row with padding and a special token."""
    family = make_byte_patch("drafts", num_draft_bytes=3)
    model, text = family.build(), [*b"abc de", 257, *b"fgh i"]
    ids = torch.tensor([[258] * padding + text])
    mask, labels = torch.ones_like(ids), ids.clone()
    mask[:, :padding], labels[:, :padding], labels[:, padding + 4] = 0, -100, -100
    outputs = model(ids, attention_mask=mask, labels=labels, num_items_in_batch=10)
    states = model.model(ids, attention_mask=mask, use_cache=False).last_hidden_state[0, padding:]
    losses = []
    for last in range(len(text) - 1):  # the last byte that a proposal reads
        distance = 1 + last % 3
        if last < distance or last + 1 == 4 or text[last + 1] >= NUM_BYTES:
            continue
        entries = model.drafter.list_entries(text[max(0, last - 7) : last + 1], distance)
        projected = model.drafter.state_proj(states[last - distance, None])
        logits = model.drafter(projected, torch.tensor([entries]))
        losses.append(F.cross_entropy(logits, torch.tensor([text[last + 1]])))
    torch.testing.assert_close(outputs.draft_loss, sum(losses) / 10)
    text_loss = model(ids, attention_mask=mask, labels=labels, num_items_in_batch=10).loss - outputs.draft_loss
    model.config.draft_loss_weight = 0
    torch.testing.assert_close(model(ids, attention_mask=mask, labels=labels, num_items_in_batch=10).loss, text_loss)
    outputs.draft_loss.backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"drafter"}


def test_entries_of_a_short_text_are_those_of_special_tokens_before_it():
    drafter = make_byte_patch("drafts", num_draft_bytes=3).build().drafter
    full = drafter.list_entries([SPECIAL] * 6 + [97, 98], 2)
    assert drafter.list_entries([97, 98], 2) == full
    assert len(set(full)) == 9 and max(full) == 8 * 257 + 1


def test_drafters_are_saved_and_their_bytes_do_not_depend_on_the_vocabulary(tmp_path):
    family = make_byte_patch("drafts", num_draft_bytes=3)
    model = family.build()
    model.save_pretrained(tmp_path)
    again = BytePatchForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.drafter.head.weight, model.drafter.head.weight)
    again.resize_token_embeddings(300)
    prompt = family.draw_prompt(1)
    for options in itertools.product([False, True], [None, 0]):
        again.generate(**prompt, do_sample=options[0], num_draft_bytes=options[1], max_new_tokens=9)
