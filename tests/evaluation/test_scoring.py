# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Texts are scored as likelihoods, byte for byte."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from hf_thoughtbubbles import (
    BytePatchConfig,
    BytePatchForCausalLM,
    LoopedThinkerForCausalLM,
    ThoughtbubblesForCausalLM,
    build_byte_tokenizer,
)
from hf_thoughtbubbles.evaluation.baselines import matched_baseline
from hf_thoughtbubbles.evaluation.scoring import count_token_bytes, score_dataset
from tests.families import FAMILIES, make_config, make_thinker_text_config


def make_rows(*lengths: int) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(1, 256, (n,), generator=generator).tolist()} for n in lengths]


def test_bytes_are_counted_by_token():
    counts = count_token_bytes(build_byte_tokenizer())
    assert counts.tolist() == [1] * 256 + [0, 0, 0]
    backend = Tokenizer(models.WordLevel({"▁snow": 0, "☃": 1, "[UNK]": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert count_token_bytes(tokenizer).tolist() == [5, 3, 0]


def test_added_and_fallback_tokens_are_counted_by_their_text():
    tokenizer = build_byte_tokenizer()
    tokenizer.add_tokens(["    ", "é!"])
    assert count_token_bytes(tokenizer).tolist() == [1] * 256 + [0, 0, 0, 4, 3]
    backend = Tokenizer(models.WordLevel({"▁a": 0, "<0x0A>": 1, "[UNK]": 2}, unk_token="[UNK]"))
    assert count_token_bytes(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")).tolist() == [
        2,
        1,
        0,
    ]


def test_a_uniform_model_needs_the_bits_of_its_vocabulary():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=259, n_embd=6, n_layer=1, n_head=1, n_positions=16))
    torch.nn.init.zeros_(model.transformer.wte.weight)
    score = score_dataset(model, make_rows(13, 13, 7), build_byte_tokenizer())
    assert score["loss"] == pytest.approx(math.log(259), rel=1e-6)
    assert score["perplexity"] == pytest.approx(259, rel=1e-5)
    assert score["bits_per_byte"] == pytest.approx(math.log2(259), rel=1e-6)
    assert score["num_tokens"] == score["num_bytes"] == 12 + 12 + 6


def test_special_tokens_cost_bits_and_are_no_bytes():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=259, n_embd=6, n_layer=1, n_head=1, n_positions=16))
    torch.nn.init.zeros_(model.transformer.wte.weight)
    score = score_dataset(model, [{"input_ids": [97, 257, 98]}], build_byte_tokenizer())
    assert (score["num_tokens"], score["num_bytes"]) == (2, 1)
    assert score["bits_per_byte"] == pytest.approx(2 * math.log2(259), rel=1e-6)


def test_prefix_scores_are_what_generation_would_give_each_token():
    model = FAMILIES[0].build(vocab_size=259)
    row = make_rows(9)[0]["input_ids"]
    nats = [-model(torch.tensor([row[:n]])).logits[0, -1].log_softmax(-1)[row[n]].item() for n in range(1, len(row))]
    score = score_dataset(model, [{"input_ids": row}], build_byte_tokenizer(), reading="prefix")
    assert score["loss"] == pytest.approx(sum(nats) / 8, rel=1e-5)
    blockwise = score_dataset(model, [{"input_ids": row}], build_byte_tokenizer())
    assert blockwise["loss"] != pytest.approx(score["loss"], rel=1e-4), "the published rule looks ahead"


@pytest.mark.parametrize("fork_rule", ["threshold", None])
def test_both_readings_agree_for_a_causal_model(fork_rule):
    model = ThoughtbubblesForCausalLM(make_config(fork_layers=[], vocab_size=259)).train()
    if fork_rule:
        model = next(family for family in FAMILIES if family.name == fork_rule).build(vocab_size=259).train()
    rows, tokenizer = make_rows(9, 9, 5, 9), build_byte_tokenizer()
    blockwise = score_dataset(model, rows, tokenizer, batch_size=2)
    prefix = score_dataset(model, rows, tokenizer, reading="prefix", batch_size=3)
    assert prefix == pytest.approx(blockwise, rel=1e-5)
    assert model.training, "scoring leaves the model as it found it"


def test_patch_lengths_of_rows_reach_the_model_and_prefixes_refuse_them():
    torch.manual_seed(0)
    config = BytePatchConfig(core_hidden_size=16, core_num_hidden_layers=1, core_num_attention_heads=2, hidden_size=16)
    config.patching, rows = "token", make_rows(7, 7, 5)
    model = BytePatchForCausalLM(config).eval()
    for row, lengths in zip(rows, ([3, 4], [1, 2, 4], [5]), strict=True):
        row["patch_lengths"] = lengths
    nats = 0.0
    for row in rows:
        ids, lengths = torch.tensor([row["input_ids"]]), torch.tensor([row["patch_lengths"]])
        nats += model(ids, patch_lengths=lengths, labels=ids).loss.item() * (ids.shape[1] - 1)
    score = score_dataset(model, rows, build_byte_tokenizer())
    assert score["num_tokens"] == 16
    assert score["loss"] * 16 == pytest.approx(nats, rel=1e-5)
    with pytest.raises(ValueError, match="was passed with rows that have `patch_lengths`"):
        score_dataset(model, rows, build_byte_tokenizer(), reading="prefix")


def test_rows_may_be_tensors():
    model, rows = ThoughtbubblesForCausalLM(make_config(vocab_size=259)).eval(), make_rows(6, 6)
    expected = score_dataset(model, rows, build_byte_tokenizer())
    tensors = [{"input_ids": torch.tensor(row["input_ids"]), "labels": None} for row in rows]
    assert score_dataset(model, tensors, build_byte_tokenizer()) == expected


def test_ignored_labels_and_a_limit_are_respected():
    model = FAMILIES[2].build(vocab_size=259)
    rows = [{**row, "labels": [-100, -100, *row["input_ids"][2:]]} for row in make_rows(9, 9, 9)]
    assert score_dataset(model, rows, build_byte_tokenizer())["num_tokens"] == 21
    assert score_dataset(model, rows, build_byte_tokenizer(), batch_size=2, max_blocks=1)["num_tokens"] == 7
    for bad, message in (([], "no token to score"), ([{"input_ids": [5]}], "no token to score")):
        with pytest.raises(ValueError, match=message):
            score_dataset(model, bad, build_byte_tokenizer())
    for limits in ({"batch_size": 0}, {"max_blocks": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            score_dataset(model, rows, build_byte_tokenizer(), **limits)
    with pytest.raises(ValueError, match="`reading='causal'` was passed"):
        score_dataset(model, rows, build_byte_tokenizer(), reading="causal")


@pytest.mark.parametrize("changes", [{}, {"fork_layers": [], "mlp_bias": False}, {"position_embedding": "learned"}])
def test_the_baseline_has_as_many_parameters(changes):
    model = ThoughtbubblesForCausalLM(make_config(hidden_dropout=0.1, **changes))
    baseline = matched_baseline(model)
    assert abs(baseline.num_parameters() - model.num_parameters()) <= 5 * (2 * 24 + 1) / 2
    assert (baseline.config.n_layer, baseline.config.n_embd, baseline.config.resid_pdrop) == (5, 24, 0.1)


def test_how_much_to_compute_is_passed_on():
    torch.manual_seed(0)
    config = make_thinker_text_config(vocab_size=259)
    model, tokenizer = LoopedThinkerForCausalLM(config), build_byte_tokenizer()
    dataset = [{"input_ids": tokenizer(text).input_ids} for text in ("some text", "more of it")]
    usual, more = (score_dataset(model, dataset, tokenizer, **compute)["loss"] for compute in ({}, {"num_steps": 9}))
    assert usual != more
    config.num_steps = 9
    assert score_dataset(model, dataset, tokenizer)["loss"] == more
    assert score_dataset(model, dataset, tokenizer, reading="prefix", num_steps=9)["loss"] == pytest.approx(more)
