# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Native baselines have as many parameters, or FLOPs, as the models that they are compared with."""

import random

import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from hf_thoughtbubbles import (
    BytePatchConfig,
    BytePatchForCausalLM,
    LoopedThinkerConfig,
    LoopedThinkerForCausalLM,
    LoopedThinkerForConditionalGeneration,
    LoopedThinkerTextConfig,
    ThoughtbubblesConfig,
    ThoughtbubblesForCausalLM,
)
from hf_thoughtbubbles.configuration.configuration_byte_patch import CORE_SIZES
from hf_thoughtbubbles.configuration.configuration_generic_transformer import GenericTransformerConfig
from hf_thoughtbubbles.evaluation import baselines
from hf_thoughtbubbles.evaluation.baselines import describe_match, matched_baseline
from hf_thoughtbubbles.evaluation.flops import estimate_flops, measure_flops
from hf_thoughtbubbles.modeling.generic_transformer.modeling_generic_transformer import GenericTransformerForCausalLM
from tests.families import LOOP, draw_ids, make_config, make_thinker_config, make_thinker_text_config


NUM_DRAWS = 20
NATIVE_CLASSES = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM}


def draw_sizes(rng: random.Random) -> dict:
    """Sizes that all families share."""
    num_heads = rng.choice([2, 3, 4])
    return {
        "vocab_size": rng.randrange(50, 400),
        "hidden_size": num_heads * rng.choice([8, 12, 16, 26]),
        "num_hidden_layers": rng.randrange(2, 6),
        "num_attention_heads": num_heads,
        "max_position_embeddings": rng.randrange(40, 160),
        "tie_word_embeddings": rng.random() < 0.5,
    }


def draw_thoughtbubbles(rng: random.Random, sizes: dict):
    config = ThoughtbubblesConfig(
        **sizes,
        fork_layers=rng.sample(range(sizes["num_hidden_layers"]), rng.randrange(3)),
        fork_budget=rng.choice([1.2, 1.5, 2.0]),
        fork_rule=rng.choice(["topk", "threshold"]),
        position_embedding=rng.choice(["rope", "learned"]),
        fold=rng.choice(["residual", "probability"]),
        attention_bias=rng.choice([True, False, "qkv"]),
        mlp_bias=rng.random() < 0.5,
        num_key_value_heads=rng.choice([None, 1]),
        feed_forward=rng.choice(["mlp", "swiglu"]),
    )
    return ThoughtbubblesForCausalLM(config), {}


def draw_text_thinker(rng: random.Random, sizes: dict):
    config = LoopedThinkerTextConfig(
        **sizes,
        num_steps=rng.randrange(1, 5),
        num_memory_steps=rng.choice([None, 2]),
        skip_self_attention=rng.random() < 0.3,
        self_attention_mlp=rng.random() < 0.3,
    )
    return LoopedThinkerForCausalLM(config), {"num_steps": rng.choice([None, 3])}


def draw_answering_thinker(rng: random.Random, sizes: dict):
    config = LoopedThinkerConfig(**sizes, num_steps=rng.randrange(2, 5), num_kept_outputs=rng.randrange(1, 3))
    return LoopedThinkerForConditionalGeneration(config), {"answer_length": rng.randrange(5, 40)}


def draw_bytes(rng: random.Random, sizes: dict):
    sizes = {**sizes, "vocab_size": 256 + sizes["vocab_size"]}  # at least one for each byte
    config = BytePatchConfig(
        **{f"core_{name}" if name in CORE_SIZES else name: size for name, size in sizes.items()},
        hidden_size=32,
        num_attention_heads=4,
        patching=rng.choice(["space", "fixed"]),
        decoder=rng.choice(["autoregressive", "parallel"]),
        byte_layers=rng.choice(["residual", "published"]),
    )
    return BytePatchForCausalLM(config), {"bytes_per_patch": rng.uniform(2, 8)}


def draw_generic(rng: random.Random, sizes: dict):
    config = GenericTransformerConfig(
        **sizes,
        num_key_value_heads=rng.choice([1, sizes["num_attention_heads"]]),
        feed_forward=rng.choice(["mlp", "swiglu"]),
        position_embedding=rng.choice(["rope", "learned", "relative", "sinusoidal"]),
        share_feed_forward=rng.random() < 0.3,
    )
    return GenericTransformerForCausalLM(config), {}


DRAWS = (draw_thoughtbubbles, draw_text_thinker, draw_answering_thinker, draw_bytes, draw_generic)


def draw(seed: int):
    """A random model, and lengths that its FLOPs depend on; four of each kind."""
    rng = random.Random(seed)
    sizes = draw_sizes(rng)
    with torch.device("meta"):
        model, lengths = DRAWS[seed % len(DRAWS)](rng, sizes)
    return model, {"num_tokens": rng.randrange(20, 200), **lengths}


ESTIMATES = {}


def estimate_once(config, num_tokens: int, **lengths):
    """What [`estimate_flops`] returns, which runs a model, computed once for equal arguments."""
    key = type(config), config.to_json_string(use_diff=False), num_tokens, tuple(sorted(lengths.items()))
    if key not in ESTIMATES:
        ESTIMATES[key] = estimate_flops(config, num_tokens, **lengths)
    return ESTIMATES[key]


def get_sizes(model):
    """The sizes that a baseline keeps: those of the core for byte patches, else the configuration's."""
    return model.config.core_config if model.config.model_type == "byte_patch" else model.config


@pytest.mark.parametrize("family", NATIVE_CLASSES)
@pytest.mark.parametrize("seed", range(NUM_DRAWS))
def test_a_baseline_has_as_many_parameters(family, seed):
    model, _ = draw(seed)
    with torch.device("meta"):
        baseline = matched_baseline(model, family, by="parameters")
    assert type(baseline) is NATIVE_CLASSES[family]
    assert baseline.num_parameters() == pytest.approx(model.num_parameters(), rel=0.02)
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    for name in names:
        assert getattr(baseline.config, name) == getattr(get_sizes(model), name)


@pytest.mark.slow
@pytest.mark.parametrize("family", NATIVE_CLASSES)
@pytest.mark.parametrize("seed", range(NUM_DRAWS))
def test_a_baseline_has_as_many_flops(family, seed, monkeypatch):
    monkeypatch.setattr(baselines, "estimate_flops", estimate_once)
    model, lengths = draw(seed)
    baseline, wanted = matched_baseline(model, family, by="flops", **lengths), estimate_once(model.config, **lengths)
    measured = measure_flops(baseline, torch.zeros(1, wanted.num_tokens, dtype=torch.long), use_cache=False)
    assert measured == pytest.approx(wanted.forward, rel=0.02)
    assert baseline.config.num_attention_heads == get_sizes(model).num_attention_heads
    assert baseline.config.max_position_embeddings == max(model.config.max_position_embeddings, wanted.num_tokens)
    num_steps = lengths.get("num_steps") or model.config.to_dict().get("num_steps", 1)
    assert 1 <= baseline.config.num_hidden_layers / get_sizes(model).num_hidden_layers <= num_steps
    inner = baseline.config.n_inner if family == "gpt2" else baseline.config.intermediate_size
    usual = 4 if family == "gpt2" else 8 / 3
    assert 0.25 < inner / (usual * baseline.config.hidden_size) < 4, "proportions stay usual"
    match = describe_match(model, baseline, **lengths)
    assert match.baseline_flops == measured / wanted.num_tokens
    assert match.flops_ratio == pytest.approx(measured / wanted.forward)


@pytest.mark.parametrize("family", NATIVE_CLASSES)
@pytest.mark.parametrize(
    "changes", [{"fork_layers": []}, {"fork_budget": 1.1}, {"fork_layers": [], "position_embedding": "learned"}]
)
def test_a_baseline_can_match_both_where_a_model_computes_as_native_ones_do(family, changes):
    model = ThoughtbubblesForCausalLM(make_config(hidden_size=48, intermediate_size=192, **changes))
    baseline = matched_baseline(model, family, by="both", num_tokens=37)
    match = describe_match(model, baseline, num_tokens=37)
    assert match.parameter_ratio == pytest.approx(1, abs=0.02)
    assert match.flops_ratio == pytest.approx(1, abs=0.02)
    assert match.baseline_parameters == baseline.num_parameters()
    assert match.model_parameters == model.num_parameters()


def test_a_looped_model_that_reads_text_is_compared_with_all_its_layers_and_one_that_answers_with_fewer():
    sizes = {"hidden_size": 48, "num_steps": 5, "max_position_embeddings": 97}
    text = LoopedThinkerForCausalLM(make_thinker_text_config(**sizes))
    text = matched_baseline(text, by="flops", num_tokens=31)
    assert (text.config.n_layer, text.config.n_embd) == (10, 54)
    loop = LoopedThinkerForCausalLM(make_thinker_text_config(**sizes, **LOOP))
    assert 2 + 2 <= matched_baseline(loop, by="flops", num_tokens=31).config.n_layer <= 2 + 10
    assert matched_baseline(loop, "llama").config.num_hidden_layers == 2 + 2
    answers = LoopedThinkerForConditionalGeneration(make_thinker_config(**sizes))
    answers = matched_baseline(answers, by="flops", num_tokens=90)
    assert 2 <= answers.config.n_layer < 10


def test_of_many_matches_of_both_the_most_usual_is_taken():
    changes = {"fork_layers": [], "position_embedding": "learned", "hidden_size": 48, "intermediate_size": 192}
    model = ThoughtbubblesForCausalLM(make_config(**changes))
    baseline = matched_baseline(model, by="both", tolerance=0.5)
    match = describe_match(model, baseline)
    assert max(abs(match.parameter_ratio - 1), abs(match.flops_ratio - 1)) <= 0.02, "not merely within the tolerance"
    assert (baseline.config.n_layer, baseline.config.n_embd) == (5, 48), "the model is a GPT-2 in all but name"
    model = ThoughtbubblesForCausalLM(make_config(**{**changes, "intermediate_size": 47}))
    config = matched_baseline(model, by="both").config
    assert config.n_inner > 2 * config.n_embd, "not the model's own proportions, which would be nearer"


@pytest.mark.slow
def test_a_match_of_both_outside_the_tolerance_can_be_accepted():
    model = LoopedThinkerForCausalLM(make_thinker_text_config(num_steps=9))
    with pytest.raises(
        ValueError, match=r"no match within the `tolerance` 2.0%: the nearest .* with `tolerance=0"
    ) as e:
        matched_baseline(model, by="both")
    tolerance = float(str(e.value).split("`tolerance=")[1].split("`")[0])
    baseline = matched_baseline(model, by="both", tolerance=tolerance)
    assert 0.5 <= baseline.config.n_inner / baseline.config.n_embd <= 16
    match = describe_match(model, baseline)
    assert 1 < match.parameter_ratio <= 1 + tolerance
    assert 1 - tolerance <= match.flops_ratio < 1


@pytest.mark.parametrize(
    ("changes", "inner"), [({}, 44), ({"fork_layers": [], "attention_bias": False, "mlp_bias": False}, 39)]
)
def test_the_default_is_a_gpt2_of_equal_size(changes, inner):
    model = ThoughtbubblesForCausalLM(make_config(hidden_dropout=0.25, **changes))
    baseline = matched_baseline(model)
    assert type(baseline) is GPT2LMHeadModel
    config = baseline.config
    assert (config.n_inner, config.n_embd, config.n_layer, config.n_head, config.n_positions) == (inner, 24, 5, 3, 37)
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.25, 0.25, 0.25)
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (0, 60, None)
    assert baseline.loss_type == "ForCausalLM"


@pytest.mark.parametrize("family", NATIVE_CLASSES)
def test_a_baseline_trains_without_a_warning(family):
    model = ThoughtbubblesForCausalLM(make_config(hidden_size=48))
    baseline, input_ids = matched_baseline(model, family, by="flops", num_tokens=11), draw_ids(2, 11)
    baseline(input_ids, labels=input_ids).loss.backward()
    assert all(parameter.grad is not None for parameter in baseline.parameters())


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_llama_is_tied_as_the_model_and_has_no_biases(is_tied):
    model = ThoughtbubblesForCausalLM(make_config(tie_word_embeddings=is_tied, hidden_dropout=0.25))
    baseline = matched_baseline(model, "llama")
    assert (baseline.lm_head.weight is baseline.model.embed_tokens.weight) == is_tied
    assert not [name for name, _ in baseline.named_parameters() if name.endswith("bias")]
    assert baseline.config.num_key_value_heads == baseline.config.num_attention_heads == 3
    assert baseline.config.attention_dropout == 0.25


def test_a_match_prints_as_a_sentence():
    model = ThoughtbubblesForCausalLM(make_config(fork_layers=[]))
    match = describe_match(model, model, num_tokens=7)
    assert (match.parameter_ratio, match.flops_ratio) == (1, 1)
    flops = estimate_flops(model.config, 7).forward / 7
    expected = f"{model.num_parameters():,} parameters, 1.000 of the model's; {flops:,.0f} FLOPs a token, 1.000 of"
    assert str(match).startswith(expected)


def make_shared() -> GenericTransformerForCausalLM:
    """A model whose layers share what takes most parameters."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 1}
    config = GenericTransformerConfig(vocab_size=7, share_feed_forward=True, max_position_embeddings=500, **sizes)
    return GenericTransformerForCausalLM(config)


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (make_config, {"family": "bert"}, r"`family='bert'` was passed; it must be one of \['gpt2', 'llama'\]"),
        (
            make_config,
            {"by": "width"},
            r"`by='width'` was passed; it must be one of \('parameters', 'flops', 'bo",
        ),
        (make_config, {"num_tokens": 7}, '`num_tokens` was passed with `by="parameters"`'),
        (make_config, {"num_steps": 3}, '`num_steps` was passed with `by="parameters"`'),
        (make_config, {"by": "flops", "num_steps": 3}, "`num_steps` was passed, but"),
        (make_config, {"by": "flops", "num_tokens": 0}, "`num_tokens=0` was passed"),
        (make_config, {"tolerance": 0}, "`tolerance=0` was passed; it must be positive"),
        (
            make_shared,
            {},
            '`by="parameters"` has no match: the smallest "gpt2" with 7 layers has .* parameters, the model',
        ),
        (make_shared, {"by": "flops", "num_tokens": 1, "tolerance": 1e-9}, "no match within the `tolerance` 0.0%"),
        (make_config, {"by": "both"}, '`by="both"` has no match within the `tolerance` 2.0%: the nearest "gpt2"'),
    ],
)
def test_bad_input_gets_one_clear_error(build, arguments, message):
    built = build()
    model = built if isinstance(built, GenericTransformerForCausalLM) else ThoughtbubblesForCausalLM(built)
    with pytest.raises(ValueError, match=message):
        matched_baseline(model, **arguments)


def test_impossible_matches_say_why():
    config = GenericTransformerConfig(
        vocab_size=7, hidden_size=9, num_hidden_layers=2, num_attention_heads=3, position_embedding="learned"
    )
    model = GenericTransformerForCausalLM(config)
    with pytest.raises(ValueError, match="needs heads of even size, and those of the model have 3 channels"):
        matched_baseline(model, "llama")
    tiny = GenericTransformerConfig(vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=8,
                                    num_key_value_heads=1, intermediate_size=1, position_embedding="none")  # fmt: skip
    with pytest.raises(ValueError, match=r'smallest "llama" with 1 layers has .* FLOPs a token, the model has'):
        matched_baseline(GenericTransformerForCausalLM(tiny), "llama", by="flops", num_tokens=3)
    with pytest.raises(ValueError, match='no "llama" with 8 heads is as small with sensible proportions'):
        matched_baseline(GenericTransformerForCausalLM(tiny), "llama", by="both", num_tokens=3)
