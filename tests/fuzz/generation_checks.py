# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Checks of the fuzzer: generated text, beams, and arguments that change how much is computed."""

import math

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch.nn.functional import log_softmax
from transformers import GenerationConfig

from tests.fuzz.comparing import SEEDS, compare, read_by_ends, take_prompt
from tests.fuzz.subjects import (
    OWN_RULE,
    Inputs,
    Subject,
    read,
    take_row,
)


def generate_alone(model, subject: Subject, prompt: dict, num_new: int, **fields) -> torch.Tensor:
    """The greedy continuation, by full forward passes without a cache; `(B, T)` as `generate` returns it."""
    num_rows, config = len(prompt["input_ids"]), model.config
    ids, mask, others = torch.full((num_rows, 1), 0), None, prompt
    if subject.is_text:
        others = {}
        ids, mask = prompt["input_ids"], prompt["attention_mask"]
    if subject.is_parallel:
        logits = model(**prompt, answer_length=num_new, **fields).logits
    is_done = torch.zeros(num_rows).bool()
    for step in range(num_new):
        if not subject.is_parallel:
            logits = read(model, subject, ids, *describe(subject, mask, others), use_cache=False, **fields).logits
        new = logits[:, step if subject.is_parallel else -1].argmax(-1).masked_fill(is_done, config.pad_token_id)
        ids = torch.cat((ids, new[:, None]), dim=1)
        mask = None if mask is None else torch.cat((mask, torch.ones(num_rows, 1).long()), dim=1)
        is_done = is_done | (new == (-1 if config.eos_token_id is None else config.eos_token_id))
        if bool(is_done.all()):
            break
    return ids


def describe(subject: Subject, mask: torch.Tensor | None, context: dict) -> tuple[torch.Tensor | None, dict]:
    """The mask and the other arguments of a padded text, as `generate` passes them."""
    if mask is None or bool(mask.all()):
        return None, context
    if subject.family == "thoughtbubbles":
        context = {**context, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    return mask, context


def draw_fields(subject: Subject, draw) -> dict:
    """Arguments that change how much the model computes, each also a field of its configuration."""
    settings, fields = subject.settings, {}
    if subject.family == "thoughtbubbles" and settings["fork_rule"] != "copy" and settings["fork_layers"]:
        budgets = [1.0, 1.3, 2.0, 3.7]
        if settings["fork_rule"] == "threshold":
            table = settings["fork_calibration"]
            budgets = [1.0] if table is None else [*table["budgets"], 2.3]
        fields["fork_budget"] = draw(st.sampled_from(budgets))
    if subject.family in ("thinker", "thinker_text"):
        fields["num_steps"] = draw(st.integers(1, 6))
    if subject.family == "thinker_text" and draw(st.booleans()):
        fields["exit_threshold"] = draw(st.sampled_from([0.2, 0.7, 5.0]))
    if subject.family == "thinker":
        fields["num_latents"] = draw(st.integers(1, settings["max_latents"]))
        fields["num_read_steps"] = draw(st.integers(0, 3))
    if subject.family == "next_thought":
        fields["num_thoughts"] = draw(st.integers(1, 4))
    return {name: value for name, value in fields.items() if draw(st.booleans()) or len(fields) == 1}


@torch.no_grad()
def check_generation(subject: Subject, draw):
    """Greedy generation, in every way that it is computed, gives the argmax of full forward passes."""
    model, inputs, num_rows = subject.build(), Inputs(subject, draw(SEEDS)), draw(st.integers(1, 3))
    side = draw(st.sampled_from([None, "left"]))
    prompt, num_new = take_prompt(subject, inputs, draw, num_rows, side), draw(st.integers(1, 7))
    fields, ways = draw_fields(subject, draw), ["cached", "uncached"]
    if subject.family != "byte_patch" and not subject.looks_ahead:
        ways += ["static"] + (["chunked"] if subject.is_text else [])
    if not subject.looks_ahead:
        ways.append("continued")
    way = draw(st.sampled_from(ways))
    if subject.is_token_patched:
        check_patched_generation(model, prompt, num_new)
        return
    options = {"max_new_tokens": num_new, "do_sample": False, **prompt, **fields}
    if way == "uncached":
        options["use_cache"] = False
    if way == "static":
        options["cache_implementation"] = "static"
    if way == "chunked":
        options["prefill_chunk_size"] = draw(st.integers(1, 5))
    expected = generate_alone(model, subject, prompt, num_new, **fields)
    if way == "continued" and num_new > 1:
        found = generate_in_turns(model, subject, options, draw(st.integers(1, num_new - 1)))
        if found is None:
            return
    else:
        found = model.generate(**options)
    assert found.tolist() == expected.tolist(), f"{way}: {found.tolist()}, expected {expected.tolist()}"


def generate_in_turns(model, subject: Subject, options: dict, num_first: int) -> torch.Tensor | None:
    """Generation that stops after some tokens and is continued from the returned cache; `None` when a text ended."""
    num_all, name = options["max_new_tokens"], "input_ids" if subject.is_text else "decoder_input_ids"
    first = model.generate(**{**options, "max_new_tokens": num_first}, return_dict_in_generate=True)
    ids = first.sequences
    eos = model.config.eos_token_id
    if eos is not None and bool((ids == eos).any()):
        return None
    options = {**options, "max_new_tokens": num_all - num_first, name: ids, "past_key_values": first.past_key_values}
    options.pop("patch_lengths", None)
    if subject.is_text:
        new = torch.ones(len(ids), num_first).long()
        options["attention_mask"] = torch.cat((options["attention_mask"], new), dim=1)
    return model.generate(**options)


def check_patched_generation(model, prompt: dict, num_new: int):
    """Every generated byte is the argmax of a forward pass over the patches that `generate` returns."""
    out = model.generate(
        **prompt, max_new_tokens=num_new, do_sample=False, return_dict_in_generate=True, output_patches=True
    )
    ids, start = out.sequences, prompt["input_ids"].shape[1]
    mask = torch.cat((prompt["attention_mask"], torch.ones_like(ids[:, start:])), dim=1)
    expected = read_by_ends(model, ids, mask, out.patches.is_end)[:, start - 1 : -1].argmax(-1).tolist()
    for row, generated in enumerate(ids[:, start:].tolist()):
        eos = model.config.eos_token_id
        num_read = generated.index(eos) + 1 if eos in generated else len(generated)
        found, right = generated[:num_read], expected[row][:num_read]
        assert found == right, f"row {row}: {found}, expected {right}"


@torch.no_grad()
def check_beams(subject: Subject, draw):
    """The score of a beam is the sum of log probabilities that a full forward pass gives its text."""
    model, inputs, num_rows = subject.build(), Inputs(subject, draw(SEEDS)), draw(st.integers(1, 2))
    assume(not subject.is_token_patched)
    prompt = take_prompt(subject, inputs, draw, num_rows, draw(st.sampled_from([None, "left"])))
    num_new, num_beams = draw(st.integers(1, 5)), draw(st.integers(2, 3))
    out = model.generate(
        **prompt,
        max_new_tokens=num_new,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        length_penalty=0.0,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    start = prompt["input_ids"].shape[1] if subject.is_text else 1
    for index, text in enumerate(out.sequences):
        row = take_row(prompt, index // num_beams)
        mask = None
        if subject.is_text:
            row, mask = {}, torch.ones_like(text[None])
            mask[:, :start] = prompt["attention_mask"][index // num_beams]
            mask, row = describe(subject, mask[:, :-1], row)
        num_read = num_new if subject.is_parallel else len(text) - 1
        ids = torch.zeros(1, num_read).long() if subject.is_parallel else text[None, :-1]
        logits = read(model, subject, ids, mask, row, use_cache=False).logits[0]
        logits = logits if subject.is_parallel else logits[start - 1 :]
        new = text[start:].tolist()
        eos = model.config.eos_token_id
        new = new[: new.index(eos) + 1] if eos in new else new
        log_probs = log_softmax(logits, dim=-1)
        expected = sum(float(log_probs[i, token]) for i, token in enumerate(new))
        found = float(out.sequences_scores[index])
        assert abs(found - expected) < 1e-4 * max(1, abs(expected)), f"beam {index}: {found}, expected {expected}"


@torch.no_grad()
def check_generation_fields(subject: Subject, draw):
    """A field does the same in a call, in `generate`, in its configuration, and in the model's configuration."""
    model, inputs, num_rows = subject.build(), Inputs(subject, draw(SEEDS)), draw(st.integers(1, 2))
    if subject.family == "byte_patch":
        check_patch_settings(model, subject, inputs, draw)
        return
    fields = draw_fields(subject, draw)
    built = fields
    if "num_steps" in fields and subject.settings.get("exit_threshold") is not None:
        built = {"exit_threshold": subject.settings["exit_threshold"], **fields}
    changed = subject.build(**built)
    changed.load_state_dict(model.state_dict())
    length = draw(st.integers(1, 9))
    ids, context = inputs.draw_ids(num_rows, length), inputs.draw_context(num_rows)
    found = read(model, subject, ids, None, context, use_cache=False, **fields)
    compare("logits with fields", found.logits, read(changed, subject, ids, None, context, use_cache=False).logits)
    check_amounts(model, subject, ids, context, fields, found)

    prompt = take_prompt(subject, inputs, draw, num_rows)
    options = {**prompt, "max_new_tokens": 4, "do_sample": False}
    expected = changed.generate(**options).tolist()
    assert model.generate(**options, **fields).tolist() == expected, "generate with fields as arguments"
    fixed = GenerationConfig(max_new_tokens=4, do_sample=False, **fields)
    for name in ("pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id"):
        setattr(fixed, name, getattr(model.generation_config, name))
    assert model.generate(**prompt, generation_config=fixed).tolist() == expected, "fields in `generation_config`"


def check_amounts(model, subject: Subject, ids: torch.Tensor, context: dict, fields: dict, out):
    """The output tells how much was computed, and an amount without effect changes nothing."""
    if "fork_budget" in fields:
        forks = model(input_ids=ids, use_cache=False, output_forks=True, **fields).forks
        counts = [fork.num_streams for fork in forks]
        assert all(bool((count >= 1).all()) for count in counts) or subject.is_published_rule
        if fields["fork_budget"] == 1.0 and subject.settings["fork_rule"] not in (OWN_RULE, "topk"):
            assert all(bool((count == 1).all()) for count in counts), "forks with a budget of 1"
        if subject.is_published_rule and ids.shape[1] > 1:
            most = math.ceil(ids.shape[1] * fields["fork_budget"])
            assert all(int(count.sum(1).max()) <= most for count in counts), "more streams than the budget"
    if subject.family == "thinker_text":
        num_steps = fields.get("num_steps", model.config.num_steps)
        assert int(out.num_steps_used.max()) <= num_steps
        never = model(input_ids=ids, use_cache=False, num_steps=num_steps, exit_threshold=0.0, output_steps=True)
        compare("last of `step_logits`", never.step_logits[:, -1], never.logits)
        short = model(input_ids=ids, use_cache=False, num_steps=min(2, num_steps), exit_threshold=0.0)
        early = model(input_ids=ids, use_cache=False, num_steps=num_steps, exit_threshold=1e9)
        compare("exit after two steps", early.logits, short.logits)
        assert bool((early.num_steps_used == min(2, num_steps)).all())
    if subject.family == "thinker":
        few = {**context, **{name: value for name, value in fields.items() if name != "num_steps"}}
        less, more = (read(model, subject, ids, None, few, num_steps=n, output_steps=True).latents for n in (2, 4))
        compare("latents of the first steps", more[:, :2], less)
    if subject.family == "next_thought":
        less, more = (read(model, subject, ids, None, context, num_thoughts=n).thoughts for n in (1, 3))
        compare("the first thought", more[:, :1], less)


def check_patch_settings(model, subject: Subject, inputs: Inputs, draw):
    """The patches that a model finds, passed back as `patch_lengths`, change nothing before the last byte."""
    length = draw(st.integers(2, 17))
    ids, given = inputs.draw_ids(2, length), inputs.measure([length, length])
    out = model(input_ids=ids, **given, output_patches=True)
    lengths = out.patches.lengths
    assert int(lengths.max()) <= model.config.max_patch_bytes and lengths.sum(1).tolist() == [length, length]
    again = model(input_ids=ids, patch_lengths=lengths)
    compare("logits by `patch_lengths`", again.logits[:, :-1], out.logits[:, :-1])
    if subject.is_token_patched:
        assert lengths.tolist() == given["patch_lengths"].tolist()
    elif subject.settings["patching"] == "fixed":
        for row, text in enumerate(ids.tolist()):
            assert [n for n in lengths[row].tolist() if n] == cut_fixed(text, model.config.patch_size)


def cut_fixed(text: list[int], size: int) -> list[int]:
    """Lengths of patches of a fixed size, which special tokens end early."""
    lengths, count = [], 0
    for byte in text:
        count += 1
        if count == size or byte >= 256:
            lengths.append(count)
            count = 0
    return [*lengths, count] if count else lengths
