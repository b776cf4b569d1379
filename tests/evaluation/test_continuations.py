# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Are continuations scored exactly, whatever else is in the batch, by every causal family and by native models?"""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hf_thoughtbubbles import BytePatchConfig, BytePatchForCausalLM, build_byte_tokenizer
from hf_thoughtbubbles.evaluation.scoring import ContinuationScore, score_continuations
from tests.families import FAMILIES, VOCAB_SIZE, draw_ids


LENGTHS = ((3, 2), (11, 5), (1, 1), (7, 9), (2, 13), (11, 5), (4, 1))


def make_native(name: str):
    torch.manual_seed(0)
    if name == "gpt2":
        sizes = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 37, "initializer_range": 0.3}
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB_SIZE, bos_token_id=None, eos_token_id=None, **sizes)).eval()
    sizes = {"hidden_size": 24, "intermediate_size": 47, "num_hidden_layers": 2, "num_attention_heads": 3}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB_SIZE, initializer_range=0.3, **sizes)).eval()


def make_byte_patch(name: str):
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "byte_hidden_size": 16}
    config = BytePatchConfig(vocab_size=VOCAB_SIZE, max_patch_bytes=5, patch_size=3, initializer_range=0.3, **sizes)
    config.patching, config.decoder = name.split("-")
    return BytePatchForCausalLM(config).eval()


MODELS = {
    **{family.name: family.build for family in FAMILIES},
    **{name: lambda name=name: make_native(name) for name in ("gpt2", "llama")},
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
def test_read_from_prefixes_each_token_sees_what_came_before_it_alone(name):
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
    config = BytePatchConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, byte_hidden_size=16)
    model, tokenizer = BytePatchForCausalLM(config).eval(), build_byte_tokenizer()
    pairs = [("Is é a vowel?", " yes"), ("", "yes")]
    scores = score_continuations(model, pairs, tokenizer)
    ids = [(list("Is é a vowel?".encode()), list(b" yes")), ([tokenizer.bos_token_id], list(b"yes"))]
    assert scores == score_continuations(model, ids)
    assert [score.num_tokens for score in scores] == [4, 3]


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


@pytest.mark.parametrize(
    ("pair", "tokenizer", "message"),
    [
        (([1, 2], []), None, "continuation of pair 0 is empty"),
        (("a", "b"), None, "Pair 0 is text, but no `tokenizer` came"),
        (("a", [1]), build_byte_tokenizer(), "Pair 0 is of text and ids"),
        (([], [1]), None, "prefix of pair 0 is empty"),
    ],
)
def test_bad_input(pair, tokenizer, message):
    with pytest.raises(ValueError, match=message):
        score_continuations(MODELS["gpt2"](), [pair], tokenizer)


@pytest.mark.parametrize("options", [{"reading": "whole"}, {"batch_size": 0}], ids=str)
def test_bad_options(options):
    with pytest.raises(ValueError, match="`reading` is"):
        score_continuations(MODELS["gpt2"](), [([1], [2])], **options)
