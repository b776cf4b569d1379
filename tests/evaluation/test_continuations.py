# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Continuations are scored exactly in any batch, for every causal family and for native models."""

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrOCRConfig,
    TrOCRForCausalLM,
)

from hf_thoughtbubbles import BytePatchConfig, BytePatchForCausalLM, build_byte_tokenizer, train_bpe_tokenizer
from hf_thoughtbubbles.data.patches import measure_patch_lengths
from hf_thoughtbubbles.evaluation.scoring import ContinuationScore, score_continuations
from tests.families import FAMILIES, VOCAB_SIZE, draw_ids


LENGTHS = ((3, 2), (11, 5), (1, 1), (7, 9), (2, 13), (11, 5), (4, 1))


def make_native(name: str):
    torch.manual_seed(0)
    if name == "gpt2":
        sizes = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 37, "initializer_range": 0.3}
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB_SIZE, bos_token_id=None, eos_token_id=None, **sizes)).eval()
    if name == "trocr":  # gives all logits, whatever `logits_to_keep` asks for
        sizes = {"d_model": 24, "decoder_layers": 2, "decoder_attention_heads": 3, "decoder_ffn_dim": 47}
        return TrOCRForCausalLM(TrOCRConfig(vocab_size=VOCAB_SIZE, init_std=0.3, pad_token_id=0, **sizes)).eval()
    sizes = {"hidden_size": 24, "intermediate_size": 47, "num_hidden_layers": 2, "num_attention_heads": 3}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB_SIZE, initializer_range=0.3, **sizes)).eval()


def make_byte_patch(name: str):
    torch.manual_seed(0)
    sizes = {"core_hidden_size": 24, "core_num_hidden_layers": 2, "core_num_attention_heads": 3, "hidden_size": 16}
    config = BytePatchConfig(max_patch_bytes=5, patch_size=3, initializer_range=0.3, **sizes)
    config.patching, config.decoder = name.split("-")
    return BytePatchForCausalLM(config).eval()


MODELS = {
    **{family.name: family.build for family in FAMILIES},
    **{name: lambda name=name: make_native(name) for name in ("gpt2", "llama", "trocr")},
    **{name: lambda name=name: make_byte_patch(name) for name in ("space-autoregressive", "fixed-parallel")},
}


def draw_pairs() -> list[tuple[list[int], list[int]]]:
    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> list[int]:
        return torch.randint(1, VOCAB_SIZE - 1, (length,), generator=generator).tolist()

    return [(draw(prefix), draw(continuation)) for prefix, continuation in LENGTHS]


@torch.no_grad()
def score_alone(model, prefix: list[int], continuation: list[int]) -> ContinuationScore:
    """One call on one row, nothing else."""
    logits = model(torch.tensor([prefix + continuation]), use_cache=False).logits[0, len(prefix) - 1 : -1]
    scores = logits.double().log_softmax(-1)
    targets = torch.tensor(continuation)
    total = scores.gather(1, targets[:, None]).sum().item()
    return ContinuationScore(total, bool((scores.argmax(-1) == targets).all()), len(continuation))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_scores_are_those_of_each_pair_alone(name, batch_size):
    model, pairs = MODELS[name]().train(), draw_pairs()
    scores = score_continuations(model, pairs, batch_size=batch_size)
    assert model.training
    model.eval()
    # The last token is not read, which matters where earlier ones would see it.
    score_one = score_unread if name.startswith("thoughtbubbles") or name.endswith("bidirectional") else score_alone
    for score, (prefix, continuation) in zip(scores, pairs, strict=True):
        expected = score_one(model, prefix, continuation)
        assert score.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-4)
        assert (score.is_greedy, score.num_tokens) == (expected.is_greedy, expected.num_tokens)


@torch.no_grad()
def score_unread(model, prefix: list[int], continuation: list[int]) -> ContinuationScore:
    """The same without reading the last token."""
    ids = torch.tensor([prefix + continuation[:-1]])
    scores = model(ids, use_cache=False).logits[0, len(prefix) - 1 :].double().log_softmax(-1)
    targets = torch.tensor(continuation)
    total = scores.gather(1, targets[:, None]).sum().item()
    return ContinuationScore(total, bool((scores.argmax(-1) == targets).all()), len(continuation))


@pytest.mark.parametrize("name", ["thoughtbubbles", "threshold", "gpt2"])
def test_read_from_prefixes_each_token_depends_on_the_tokens_before_it_alone(name):
    model, pairs = MODELS[name](), draw_pairs()
    scores = score_continuations(model, pairs, reading="prefix", batch_size=3)
    for score, (prefix, continuation) in zip(scores, pairs, strict=True):
        steps = [score_unread(model, prefix + continuation[:i], [token]) for i, token in enumerate(continuation)]
        assert score.log_likelihood == pytest.approx(sum(step.log_likelihood for step in steps), abs=1e-4)
        assert score.is_greedy == all(step.is_greedy for step in steps)
    whole = [score.log_likelihood for score in score_continuations(model, pairs)]
    is_same = whole == pytest.approx([score.log_likelihood for score in scores], abs=1e-4)
    assert is_same == (name != "thoughtbubbles")


def test_what_a_model_writes_greedily_is_greedy():
    model, prompt = MODELS["threshold"](), draw_ids(1, 7)
    written = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False)
    continuation = written[0, 7:].tolist()
    other = [*continuation[:-1], continuation[-1] % 58 + 1]
    scores = score_continuations(model, [(prompt[0].tolist(), continuation), (prompt[0].tolist(), other)])
    assert [score.is_greedy for score in scores] == [True, False]
    assert scores[0].log_likelihood > scores[1].log_likelihood


def test_text_is_tokenized_as_a_whole_and_an_empty_prefix_begins_a_sequence():
    torch.manual_seed(0)
    config = BytePatchConfig(core_hidden_size=24, core_num_hidden_layers=1, core_num_attention_heads=3, hidden_size=16)
    model, tokenizer = BytePatchForCausalLM(config).eval(), build_byte_tokenizer()
    pairs = [("Is é a vowel?", " yes"), ("", "yes")]
    scores = score_continuations(model, pairs, tokenizer)
    ids = [(list("Is é a vowel?".encode()), list(b" yes")), ([tokenizer.bos_token_id], list(b"yes"))]
    assert scores == score_continuations(model, ids)
    assert [score.num_tokens for score in scores] == [4, 3]


def build_wrapped_tokenizer(before: str, after: str) -> PreTrainedTokenizerFast:
    """The byte tokenizer, which puts these special tokens around a text."""
    tokenizer = build_byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{before} $A {after}".strip(), special_tokens=[("<|bos|>", 256), ("<|eos|>", 257)]
    )
    return tokenizer


@pytest.mark.parametrize("after", ["", "<|eos|>"])
@pytest.mark.parametrize("before", ["", "<|bos|>"])
@pytest.mark.parametrize("reading", ["blockwise", "prefix"])
def test_special_tokens_around_a_text_are_not_scored(reading, before, after):
    torch.manual_seed(0)
    config = BytePatchConfig(core_hidden_size=24, core_num_hidden_layers=1, core_num_attention_heads=3, hidden_size=16)
    model, tokenizer = BytePatchForCausalLM(config).eval(), build_wrapped_tokenizer(before, after)
    assert tokenizer("a").input_ids == [256] * bool(before) + [97] + [257] * bool(after)
    lead = [256] * bool(before)
    ids = [([*lead, 97, 98], [99]), ([256], [99])]
    expected = score_continuations(model, ids, reading=reading)
    assert score_continuations(model, [("ab", "c"), ("", "c")], tokenizer, reading=reading) == expected


def test_a_token_that_joins_prefix_and_continuation_is_taken_apart():
    tokenizer = train_bpe_tokenizer(["low low low low"] * 3, vocab_size=262)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=24, n_layer=1, n_head=3)).eval()
    lo, w, low = (tokenizer(text).input_ids for text in ("lo", "w", "low"))
    assert len(low) <= len(lo)
    assert score_continuations(model, [("lo", "w")], tokenizer) == score_continuations(model, [(lo, w)])
    with pytest.raises(ValueError, match="continuation of pair 0 is empty"):
        score_continuations(model, [("lo", "")], tokenizer)


@pytest.mark.parametrize("decoder", ["autoregressive", "parallel"])
def test_patches_that_a_tokenizer_draws_are_those_of_the_whole_text(decoder):
    torch.manual_seed(0)
    sizes = {"core_hidden_size": 24, "core_num_hidden_layers": 2, "core_num_attention_heads": 3, "hidden_size": 16}
    config = BytePatchConfig(patching="token", decoder=decoder, max_patch_bytes=5, initializer_range=0.3, **sizes)
    model, drawing = BytePatchForCausalLM(config).eval(), train_bpe_tokenizer(["low lower lowest", "low"], 265)
    pairs = [("low lo", "wer and lowest"), ("a", " low"), ("lower lowest ", "low")]
    scores = score_continuations(model, pairs, build_byte_tokenizer(), batch_size=2, patch_tokenizer=drawing)
    for score, (prefix, continuation) in zip(scores, pairs, strict=True):
        ids = list((prefix + continuation).encode())
        lengths = torch.tensor([measure_patch_lengths(ids, drawing, 5)])
        with torch.no_grad():
            logits = model(torch.tensor([ids]), patch_lengths=lengths, use_cache=False).logits[0].double()
        first, targets = len(prefix.encode()), torch.tensor(ids)
        nats = logits.log_softmax(-1)[first - 1 : -1].gather(1, targets[first:, None]).sum().item()
        assert score.log_likelihood == pytest.approx(nats, abs=1e-4)


def test_token_patches_need_a_tokenizer_and_the_whole_text():
    model, drawing = BytePatchForCausalLM(BytePatchConfig(patching="token")), train_bpe_tokenizer(["low"], 260)
    with pytest.raises(ValueError, match="`patch_tokenizer` is missing"):
        score_continuations(model, [([1], [2])])
    with pytest.raises(ValueError, match=r'`reading="prefix"` was passed for a model with `patching="token"`'):
        score_continuations(model, [([1], [2])], reading="prefix", patch_tokenizer=drawing)
    with pytest.raises(ValueError, match="`patch_tokenizer` was passed, but this model needs none"):
        score_continuations(MODELS["gpt2"](), [([1], [2])], patch_tokenizer=drawing)


def test_how_much_to_compute_is_passed_on():
    model, pairs = MODELS["thinker"](), draw_pairs()
    few, many = (score_continuations(model, pairs, num_steps=steps) for steps in (1, 4))
    assert few != many


def test_prefixes_that_are_too_long_are_cut_when_asked_for():
    model, prefix, continuation = MODELS["gpt2"](), draw_ids(40).tolist(), [5, 6, 7]
    with pytest.raises(ValueError, match="Pair 0 has 40 and 3 tokens, but `max_position_embeddings` is 37"):
        score_continuations(model, [(prefix, continuation)])
    cut = score_continuations(model, [(prefix, continuation)], truncate=True)
    assert cut == score_continuations(model, [(prefix[5:], continuation)])
    with pytest.raises(ValueError, match="Pair 0 has 1 and 50 tokens"):
        score_continuations(model, [([1], draw_ids(50).tolist())], truncate=True)


def test_prefixes_that_are_longer_than_in_training_are_read_where_positions_are_computed():
    """Unless a cut is asked for: of the prefix, never of what is scored."""
    model, prefix, continuation = MODELS["thinker"](), draw_ids(40).tolist(), [5, 6, 7]
    whole = score_continuations(model, [(prefix, continuation)])
    cut = score_continuations(model, [(prefix, continuation)], truncate=True)
    assert whole != cut == score_continuations(model, [(prefix[5:], continuation)])
    long = draw_ids(50).tolist()
    assert score_continuations(model, [(prefix, long)], truncate=True) == score_continuations(
        model, [(prefix[-1:], long)]
    )


@pytest.mark.parametrize(
    ("pair", "tokenizer", "message"),
    [
        (([1, 2], []), None, "continuation of pair 0 is empty"),
        (("a", "b"), None, "Pair 0 is text, but no `tokenizer` was passed"),
        (("a", [1]), build_byte_tokenizer(), "Pair 0 is of text and ids"),
        (([], [1]), None, "prefix of pair 0 is empty"),
    ],
)
def test_bad_input(pair, tokenizer, message):
    with pytest.raises(ValueError, match=message):
        score_continuations(MODELS["gpt2"](), [pair], tokenizer)


@pytest.mark.parametrize("options", [{"reading": "whole"}, {"batch_size": 0}], ids=str)
def test_bad_options(options):
    with pytest.raises(ValueError, match=r"`reading=.*` and `batch_size=.*` were passed; `reading` must be"):
        score_continuations(MODELS["gpt2"](), [([1], [2])], **options)
