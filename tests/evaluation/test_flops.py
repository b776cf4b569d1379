# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Estimates from a configuration equal what torch counts on real inputs, and the bytes of real tensors."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import EncoderDecoderCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig

from hf_thoughtbubbles import (
    BytePatchConfig,
    BytePatchForCausalLM,
    LoopedThinkerForCausalLM,
    LoopedThinkerForConditionalGeneration,
    NextThoughtConfig,
    NextThoughtForConditionalGeneration,
    ThoughtbubblesForCausalLM,
)
from hf_thoughtbubbles.configuration.configuration_generic_transformer import GenericTransformerConfig
from hf_thoughtbubbles.evaluation.flops import count_parameters, estimate_flops, estimate_memory, measure_flops
from hf_thoughtbubbles.modeling.generic_transformer.modeling_generic_transformer import GenericTransformerForCausalLM
from tests.families import (
    NATIVE_LAYERS,
    NATIVE_PARTS,
    draw_ids,
    make_config,
    make_thinker_config,
    make_thinker_text_config,
)


NUM_ROWS, NUM_TOKENS = 2, 19
ANCHORED = {"fork_anchored": True, "fork_score_channel": "beside"}
THOUGHTBUBBLES = {
    "plain": {"fork_layers": [], "position_embedding": "learned", "attention_bias": False, "mlp_bias": False},
    "topk": {"tie_word_embeddings": False, "fork_score_init": (-1.0, 2.0)},
    "topk-first-layer": {"fork_layers": [0, 1, 4], "fork_budget": 2.7},
    "topk-probability": {"fold": "probability", "fork_budget": 1.1},
    "threshold-all": {"fork_rule": "threshold", "fork_budget": 4.0},
    "threshold-none": {"fork_rule": "threshold", "fork_budget": 1.0},
    "threshold-probability": {"fork_rule": "threshold", "fork_budget": 4.0, "fold": "probability"},
    "copy": {"fork_rule": "copy", "fork_budget": 3, "fork_layers": [1]},
    "native-all": {**NATIVE_LAYERS, **ANCHORED, "fork_budget": 4.0, "fork_adapter_rank": 5},
    "native-unforked": {**NATIVE_LAYERS, **ANCHORED, "fork_budget": 1.0},
    "threshold-grouped-swiglu": {
        "fork_rule": "threshold",
        "fork_budget": 4.0,
        "num_key_value_heads": 1,
        "head_dim": 10,
        "feed_forward": "swiglu",
    },
}
THINKERS = {
    "plain": {},
    "one-step": {"num_steps": 1, "num_hidden_layers": 1, "tie_word_embeddings": False},
    "window": {"num_steps": 5, "num_memory_steps": 2, "num_read_steps": 1},
    "low-rank": {"low_rank": 5, "self_attention_mlp": True},
    "skip": {"skip_self_attention": True, "self_attention_mlp": True},
    "parts": {**NATIVE_PARTS, "low_rank": 7},
}
ANSWERS = {
    **THINKERS,
    "output-steps": {"num_output_steps": 2, "static_memory_size": 3, "num_read_steps": 0},
    "kept": {"num_kept_outputs": 2, "num_probes": 3, "tie_word_embeddings": False},
    "kept-all": {"num_kept_outputs": 9, "num_read_steps": 2},
}
GENERIC = {
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    "swiglu-grouped": {"feed_forward": "swiglu", "num_key_value_heads": 2, "tie_word_embeddings": False},
    "shared": {"share_feed_forward": True, "position_embedding": "learned", "hidden_act": "learned"},
    "relative": {"position_embedding": "relative", "max_relative_position": 5, "num_key_value_heads": 1},
    "both-ways": {"is_causal": False, "position_embedding": "sinusoidal"},
}
BYTES = {
    "fixed": {},
    "parallel": {"decoder": "parallel", "encoder_num_hidden_layers": 0},
    "grouped-swiglu": {"core_num_key_value_heads": 1, "feed_forward": "swiglu"},
    "published": {"byte_layers": "published", "encoder_num_hidden_layers": 3},
    "published-parallel": {"byte_layers": "published", "decoder": "parallel"},
    "reconstruction": {"decoder": "parallel", "reconstruction_loss_weight": 1.0},
    "relative": {"position_embedding": "relative", "hidden_act": "learned"},
    "drafts": {"num_draft_bytes": 3},
}
THOUGHTS = {
    "mlp": {},
    "block-linear": {"core": "block_linear", "core_block_sizes": [4, 12, 3], "num_thoughts": 2},
    "one-pooling-layer": {"pooling_sizes": [36], "removed_shares": [0.25], "feed_forward": "mlp"},
    "grouped": {"encoder_key_value_heads": 1, "decoder_key_value_heads": 2, "num_encoder_layers": 2},
}
IDS = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
GPT2 = GPT2Config(vocab_size=61, n_positions=37, n_embd=24, n_layer=3, n_head=3, **IDS)
LLAMA = LlamaConfig(
    vocab_size=61, hidden_size=24, intermediate_size=47, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=2, head_dim=10, tie_word_embeddings=True,
)  # fmt: skip


def make_generic(**changes) -> GenericTransformerConfig:
    """A generic transformer of tiny, distinct sizes."""
    sizes = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 47, "max_position_embeddings": 37}
    return GenericTransformerConfig(**{**sizes, **changes})


def make_bytes(**changes) -> BytePatchConfig:
    """A byte-patch model of tiny, distinct sizes."""
    sizes = {"core_hidden_size": 24, "core_num_hidden_layers": 2, "core_num_attention_heads": 3}
    sizes |= {"core_intermediate_size": 47, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3}
    sizes |= {"max_position_embeddings": 151, "max_patch_bytes": 7, "patch_size": 5, "patching": "fixed"}
    return BytePatchConfig(**{**sizes, **changes})


def make_thoughts(**changes) -> NextThoughtConfig:
    """A next-thought model of tiny, distinct sizes."""
    sizes = {"vocab_size": 61, "hidden_size": 24, "pooling_sizes": [36, 48], "removed_shares": [0.3, 0.5]}
    sizes |= {"encoder_attention_heads": 3, "decoder_attention_heads": 4, "encoder_ffn_dim": 47, "decoder_ffn_dim": 31}
    sizes |= {"num_decoder_layers": 3, "num_latent_tokens": 5, "max_position_embeddings": 37, "pad_token_id": 0}
    return NextThoughtConfig(**{**sizes, **changes})


def make_text_thinker(**changes):
    return make_thinker_text_config(**changes)


TEXT_MODELS = {
    **{f"thoughtbubbles-{k}": (ThoughtbubblesForCausalLM, make_config(**v)) for k, v in THOUGHTBUBBLES.items()},
    **{f"thinker-{k}": (LoopedThinkerForCausalLM, make_text_thinker(**v)) for k, v in THINKERS.items()},
    **{f"generic-{k}": (GenericTransformerForCausalLM, make_generic(**v)) for k, v in GENERIC.items()},
    **{f"bytes-{k}": (BytePatchForCausalLM, make_bytes(**v)) for k, v in BYTES.items()},
    "gpt2": (GPT2LMHeadModel, GPT2),
    "llama": (LlamaForCausalLM, LLAMA),
}
UNCACHED_MODELS = [name for name in TEXT_MODELS if name.startswith(("thoughtbubbles-topk", "generic-both-ways"))]
CACHED_MODELS = [name for name in TEXT_MODELS if name not in UNCACHED_MODELS]


def sum_bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def sum_cache_bytes(cache) -> int:
    """Bytes of all tensors of a cache; one that layers share counts once."""
    is_pair = isinstance(cache, EncoderDecoderCache)
    halves = (cache.self_attention_cache, cache.cross_attention_cache) if is_pair else (cache,)
    values = [value for half in halves for holder in (*half.layers, half) for value in vars(holder).values()]
    tensors = {value.data_ptr(): value for value in values if isinstance(value, torch.Tensor)}
    return sum_bytes(*tensors.values())


def count_training_step(model, input_ids: torch.Tensor, **options) -> int:
    """FLOPs of a forward and a backward pass with attention written out."""
    model.train().set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids, labels=input_ids, **options).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", TEXT_MODELS)
@pytest.mark.parametrize("num_tokens", [1, NUM_TOKENS])
def test_a_pass_and_a_training_step_are_estimated_exactly(name, num_tokens):
    model_class, config = TEXT_MODELS[name]
    flops, input_ids = estimate_flops(config, num_tokens, NUM_ROWS), draw_ids(NUM_ROWS, num_tokens)
    assert flops.forward == measure_flops(model_class(config), input_ids, use_cache=False)
    assert flops.forward_per_token == flops.forward / NUM_ROWS / num_tokens
    if num_tokens > 1:
        assert flops.training == count_training_step(model_class(config), input_ids)


@pytest.mark.parametrize("name", CACHED_MODELS)
def test_a_generated_token_is_estimated_exactly(name):
    model_class, config = TEXT_MODELS[name]
    model, num_steps, num_before = model_class(config).eval(), 1, NUM_TOKENS - 1
    if isinstance(config, BytePatchConfig):  # the average over a patch, after one that began with a cache
        num_steps, num_before = config.patch_size, 3 * config.patch_size
    num_tokens = num_before + num_steps
    row, measured = draw_ids(1, num_tokens + num_steps), []
    with torch.no_grad():
        cache = model(row[:, :num_before], use_cache=True).past_key_values
    for i in range(num_before, num_tokens + num_steps):
        measured.append(measure_flops(model, row[:, i : i + 1], past_key_values=cache, use_cache=True))
    total = sum(measured[-num_steps:])
    assert estimate_flops(config, num_tokens).per_generated_token == pytest.approx(total / num_steps, rel=1e-12)


@pytest.mark.parametrize("name", UNCACHED_MODELS)
def test_without_a_cache_a_generated_token_costs_a_pass(name):
    model_class, config = TEXT_MODELS[name]
    pass_flops = measure_flops(model_class(config), draw_ids(1, NUM_TOKENS + 1), use_cache=False, logits_to_keep=1)
    assert estimate_flops(config, NUM_TOKENS).per_generated_token == pass_flops
    assert estimate_memory(config, NUM_TOKENS).cache == 0


@pytest.mark.parametrize("name", CACHED_MODELS)
def test_weights_and_cache_have_the_estimated_bytes(name):
    model_class, config = TEXT_MODELS[name]
    model = model_class(config).eval()
    with torch.no_grad():
        cache = model(draw_ids(NUM_ROWS, NUM_TOKENS), use_cache=True).past_key_values
    memory = estimate_memory(config, NUM_TOKENS, NUM_ROWS, optimizer_bytes_per_parameter=12)
    assert memory.cache == sum_cache_bytes(cache)
    assert memory.parameters == memory.gradients == sum_bytes(*model.parameters())
    assert memory.optimizer == 12 * count_parameters(config) == 3 * memory.parameters
    assert memory.training == memory.parameters + memory.gradients + memory.optimizer
    assert memory.generation == memory.parameters + memory.cache
    half = estimate_memory(config, NUM_TOKENS, NUM_ROWS, dtype=torch.bfloat16)
    assert (half.parameters, half.gradients) == (memory.parameters // 2, memory.gradients // 2)


def test_adamw_keeps_as_many_bytes_as_estimated():
    model, input_ids = GPT2LMHeadModel(GPT2), draw_ids(1, 5)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids, labels=input_ids).loss.backward()
    optimizer.step()
    averages = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    memory = estimate_memory(model.config, 5)
    assert memory.optimizer == sum_bytes(*averages)
    assert memory.gradients == sum_bytes(*(parameter.grad for parameter in model.parameters()))


@pytest.mark.parametrize(
    "changes", [{}, {"fork_rule": "threshold"}, {"fork_rule": "threshold", "fold": "probability"}]
)
def test_a_budget_is_taken_to_the_letter(changes):
    config = make_config(fork_budget=1.1, max_position_embeddings=53, **changes)
    measured = count_training_step(ThoughtbubblesForCausalLM(config), draw_ids(1, 50))
    assert estimate_flops(config, 50).training == measured, "50 * 1.1 is a little more than 55"


@pytest.mark.slow
@pytest.mark.parametrize("name", THINKERS)
def test_more_steps_of_a_text_are_estimated_exactly_as_if_no_token_exits(name):
    model, input_ids = LoopedThinkerForCausalLM(make_text_thinker(**THINKERS[name])), draw_ids(NUM_ROWS, NUM_TOKENS)
    measured = measure_flops(model, input_ids, num_steps=7, use_cache=False)
    config = make_text_thinker(**THINKERS[name], exit_threshold=0.1)
    assert estimate_flops(config, NUM_TOKENS, NUM_ROWS, num_steps=7).forward == measured
    assert config.exit_threshold == 0.1, "the estimate changed the configuration"


@pytest.mark.slow
@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("readout", ["autoregressive", "parallel"])
@pytest.mark.parametrize("thinking", [{}, {"num_steps": 4, "num_latents": 3, "num_read_steps": 0}])
def test_an_answer_is_estimated_exactly(name, readout, thinking):
    config = make_thinker_config(readout=readout, **ANSWERS[name])
    model, problem = LoopedThinkerForConditionalGeneration(config), draw_ids(NUM_ROWS, 9)
    given = {"answer_length": 7} if readout == "parallel" else {"decoder_input_ids": draw_ids(NUM_ROWS, 7)}
    flops = estimate_flops(config, 9, NUM_ROWS, answer_length=7, **thinking)
    assert flops.forward == measure_flops(model, problem, **given, **thinking)
    assert flops.training == 3 * measure_flops(model, problem, **thinking, labels=draw_ids(NUM_ROWS, 7))
    assert (flops.num_tokens, flops.forward_per_row) == (16, flops.forward / NUM_ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ANSWERS)
def test_the_last_token_of_an_answer_and_its_cache_are_estimated_exactly(name):
    config = make_thinker_config(**ANSWERS[name])
    model, answer = LoopedThinkerForConditionalGeneration(config).eval(), draw_ids(1, 7)
    with torch.no_grad():
        thoughts = model.get_encoder()(draw_ids(1, 9))
        cache = model(encoder_outputs=thoughts, decoder_input_ids=answer[:, :6], use_cache=True).past_key_values
    inputs = {"encoder_outputs": thoughts, "decoder_input_ids": answer[:, 6:], "past_key_values": cache}
    step = measure_flops(model, **inputs, use_cache=True)
    assert estimate_flops(config, 9, answer_length=7).per_generated_token == step
    memory = estimate_memory(config, 9, answer_length=7)
    assert memory.cache == sum_cache_bytes(cache)
    assert memory.parameters == sum_bytes(*model.parameters())


def test_a_parallel_answer_costs_each_token_its_share_of_one_reading():
    config = make_thinker_config(readout="parallel", num_kept_outputs=2)
    model, problem = LoopedThinkerForConditionalGeneration(config).eval(), draw_ids(1, 9)
    with torch.no_grad():
        thoughts = model.get_encoder()(problem)
    reading = measure_flops(model, encoder_outputs=thoughts, answer_length=7)
    projecting = 2 * 2 * thoughts.last_hidden_state.shape[1] * 24 * 24 * config.num_hidden_layers  # kept, not repeated
    assert estimate_flops(config, 9, answer_length=7).per_generated_token == (reading - projecting) / 7
    assert estimate_flops(config, 9).forward == measure_flops(model, problem), "as long as answers may be"
    assert estimate_memory(config, 9).cache == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", THOUGHTS)
def test_next_thoughts_are_estimated_exactly(name):
    config = make_thoughts(**THOUGHTS[name])
    model, thought, written = NextThoughtForConditionalGeneration(config).eval(), draw_ids(2, 19), draw_ids(2, 7)
    flops = estimate_flops(config, 19, 2, answer_length=7)
    assert flops.forward == measure_flops(model, thought, decoder_input_ids=written, use_cache=False)
    assert flops.num_tokens == 19 + 7
    more = estimate_flops(config, 19, 2, answer_length=7, num_thoughts=4)
    assert more.forward == measure_flops(model, thought, decoder_input_ids=written, num_thoughts=4, use_cache=False)
    with torch.no_grad():
        outputs = model(thought, decoder_input_ids=written, use_cache=True)
        cache, encoded = outputs.past_key_values, model.get_encoder()(thought)
    assert estimate_memory(config, 19, 2, answer_length=7).cache == sum_cache_bytes(cache)
    step = measure_flops(model, encoder_outputs=encoded, decoder_input_ids=written[:, :1], past_key_values=cache)
    assert flops.per_generated_token * 2 == step
    assert estimate_flops(config, 9) == estimate_flops(config, 9, answer_length=9), "as long as the input by default"


@pytest.mark.parametrize("decoder", ["autoregressive", "parallel"])
@pytest.mark.parametrize("patching", ["space", "token"])
def test_patches_of_text_are_estimated_by_their_number_or_their_average_length(patching, decoder):
    config = make_bytes(patching=patching, decoder=decoder)
    model = BytePatchForCausalLM(config).eval()
    input_ids = torch.tensor([list(b"to be, or not to be: that is the question.")])
    lengths = {"patch_lengths": torch.tensor([[5, 7, 6] * 2 + [6]])} if patching == "token" else {}
    with torch.no_grad():
        num_patches = model(input_ids, output_patches=True, **lengths).patches.lengths.shape[1]
    measured = measure_flops(model, input_ids, use_cache=False, **lengths)
    num_bytes = input_ids.shape[1]
    assert estimate_flops(config, num_bytes, num_patches=num_patches).forward == measured
    assert estimate_flops(config, num_bytes, bytes_per_patch=num_bytes / num_patches).forward == measured
    assert num_patches < num_bytes / 2


@pytest.mark.parametrize("decoder", ["autoregressive", "parallel"])
def test_a_byte_of_text_costs_about_the_average_over_its_patches(decoder):
    config = make_bytes(patching="space", decoder=decoder)
    model = BytePatchForCausalLM(config).eval()
    row = torch.tensor([list(b"to be, or not to be: that is the question. whether it is,")])
    with torch.no_grad():
        lengths = model(row, output_patches=True).patches.lengths[0].tolist()
        start, stop, total = sum(lengths[:6]), row.shape[1], 0
        cache = model(row[:, : start - 1], use_cache=True).past_key_values
        model(row[:, start - 1 : start], past_key_values=cache)  # the parallel decoder writes a patch
    for i in range(start, stop):
        total += measure_flops(model, row[:, i : i + 1], past_key_values=cache, use_cache=True)
    bytes_per_patch = (stop - start) / len(lengths[6:])
    estimate = estimate_flops(config, (start + stop) // 2, bytes_per_patch=bytes_per_patch)
    assert estimate.per_generated_token == pytest.approx(total / (stop - start), rel=0.02)


@pytest.mark.parametrize("is_training", [False, True])
def test_a_measured_pass_restores_the_attention_and_mode_of_the_model(is_training):
    model = ThoughtbubblesForCausalLM(make_config(fork_layers=[])).train(is_training)
    measure_flops(model, draw_ids(1, 3))
    assert (model.config._attn_implementation, model.training) == ("sdpa", is_training)
    with pytest.raises(ValueError, match="input_ids"):
        measure_flops(model, input_ids=None)
    assert (model.config._attn_implementation, model.training) == ("sdpa", is_training)


def test_products_count_two_operations_for_each_pair():
    sizes = {"vocab_size": 7, "n_positions": 5, "n_embd": 3, "n_layer": 1, "n_head": 1, "n_inner": 11}
    config = GPT2Config(**sizes, **IDS)
    layer = 2 * (3 * 3 * 4 + 2 * 3 * 11) * 5 + 2 * 2 * 5 * 5 * 3
    flops = estimate_flops(config, 5, batch_size=2)
    assert flops.forward == 2 * (layer + 2 * 5 * 3 * 7)
    assert flops.training == 3 * flops.forward


@pytest.mark.parametrize(
    ("config", "num_tokens", "lengths", "expected"),
    [
        (make_config(), 19, {}, (3298080, 9894240, 1668528, 0)),
        (make_config(fork_rule="threshold"), 19, {}, (3298080, 9894240, 86208.0, 77344)),
        (make_config(fork_rule="copy", fork_budget=3, fork_layers=[1]), 19, {}, (7181088, 21543264, 192528, 121872)),
        (make_text_thinker(**THINKERS["window"]), 19, {"num_steps": 7}, (11387232, 34161696, 303504, 204288)),
        (make_thinker_config(**ANSWERS["kept"]), 9, {"num_steps": 4}, (3423744, 10510848, 38496, 32256)),
        (make_thinker_config(readout="parallel"), 9, {"answer_length": 7}, (1658784, 4976352, 36240.0, 0)),
        (make_generic(**GENERIC["relative"]), 19, {}, (1222080, 3666240, 32448, 5472)),
        (make_bytes(patching="space"), 40, {"bytes_per_patch": 4.3}, (4007680, 12023040, 49773.395348837206, 40608)),
        (make_bytes(**BYTES["reconstruction"]), 19, {}, (2491072, 11869440, 57056.0, 4412)),
        (make_thoughts(), 19, {"answer_length": 7}, (2422560, 7267680, 33888, 13824)),
        (GPT2, 19, {}, (1895136, 5685408, 50160, 21888)),
        (LLAMA, 19, {}, (2278176, 6834528, 60672, 18240)),
    ],
)
def test_estimates_are_those_of_formulas_written_by_hand(config, num_tokens, lengths, expected):
    """Counted once by closed formulas for each family: forward, training, generated token, bytes of a cache."""
    flops, memory = (estimate(config, num_tokens, 2, **lengths) for estimate in (estimate_flops, estimate_memory))
    assert (flops.forward, flops.training, flops.per_generated_token, memory.cache) == expected


@pytest.mark.parametrize(
    ("config", "lengths", "message"),
    [
        (make_config(), {"num_steps": 3}, "`num_steps` was passed, but .* depend on no other lengths. Remove"),
        (make_text_thinker(), {"num_latents": 3}, r"`num_latents` was passed, but .* depend on \['num_steps'\]"),
        (make_config(), {"num_tokens": 0}, "`num_tokens=0` was passed; it must be at least 1"),
        (make_config(), {"batch_size": 0}, "`batch_size=0` was passed; it must be at least 1"),
        (make_text_thinker(), {"num_steps": 0}, "`num_steps=0` was passed"),
        (make_thinker_config(), {"num_read_steps": -1}, "`num_read_steps=-1` was passed; it must be at least 0"),
        (make_bytes(patching="space"), {}, '`num_patches` and `bytes_per_patch` are missing, .*patching="space"'),
        (make_bytes(), {"num_patches": 3, "bytes_per_patch": 4.0}, "`num_patches` and `bytes_per_patch` were passed"),
        (make_bytes(), {"num_patches": 20}, "0.95 bytes a patch; a patch has 1 to 7 bytes"),
        (make_bytes(), {"bytes_per_patch": 7.5}, "7.5 bytes a patch; a patch has 1 to 7 bytes"),
        (MistralConfig(), {}, r"`model_type=\"mistral\"` was passed; it must be one of \['byte_patch'"),
    ],
)
def test_bad_input_gets_one_clear_error(config, lengths, message):
    for estimate in (estimate_flops, estimate_memory):
        with pytest.raises(ValueError, match=message):
            estimate(config, **{"num_tokens": NUM_TOKENS, **lengths})


def test_an_optimizer_cannot_keep_less_than_nothing():
    with pytest.raises(ValueError, match="`optimizer_bytes_per_parameter=-1` was passed; it must be at least 0"):
        estimate_memory(GPT2, 3, optimizer_bytes_per_parameter=-1)


def test_estimates_are_fast_for_models_that_would_not_fit():
    config = make_config(hidden_size=2**14, num_attention_heads=2**7, intermediate_size=2**16, vocab_size=2**17)
    flops = estimate_flops(config, 2**20)
    assert math.isfinite(flops.forward_per_token)
    assert flops.forward > 2 * 2**20 * 2**31
