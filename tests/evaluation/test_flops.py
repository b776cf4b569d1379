# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Do estimates from a configuration agree with what torch counts, and with the bytes of real tensors?"""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig

from hf_thoughtbubbles import (
    BytePatchConfig,
    BytePatchForCausalLM,
    LoopedThinkerForCausalLM,
    LoopedThinkerForConditionalGeneration,
    NextThoughtConfig,
    NextThoughtForConditionalGeneration,
    StreamCache,
    ThoughtbubblesForCausalLM,
)
from hf_thoughtbubbles.configuration.configuration_generic_transformer import GenericTransformerConfig
from hf_thoughtbubbles.evaluation.flops import count_parameters, estimate_flops, estimate_memory, measure_flops
from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME
from hf_thoughtbubbles.modeling.generic_transformer.modeling_generic_transformer import GenericTransformerForCausalLM
from tests.families import draw_ids, make_config, make_thinker_config


NUM_ROWS, NUM_TOKENS = 2, 19
THOUGHTBUBBLES = {
    "plain": {"fork_layers": []},
    "plain-learned": {"fork_layers": [], "position_embedding": "learned", "bias": False},
    "topk": {},
    "topk-untied": {"tie_word_embeddings": False, "fork_score_init": (-1.0, 2.0)},
    "topk-first-layer": {"fork_layers": [0, 1, 4], "fork_budget": 2.7},
    "topk-tight": {"fork_budget": 1.0},
    "topk-probability": {"fold": "probability", "fork_budget": 1.1},
    "threshold-all": {"fork_policy": "threshold", "fork_budget": 4.0},
    "threshold-none": {"fork_policy": "threshold", "fork_budget": 1.0},
    "threshold-probability": {"fork_policy": "threshold", "fork_budget": 4.0, "fold": "probability"},
    "copy": {"fork_policy": "copy", "fork_budget": 3, "fork_layers": [1]},
    "copy-probability": {"fork_policy": "copy", "fork_budget": 2, "fork_layers": [0], "fold": "probability"},
}
THINKERS = {
    "plain": {},
    "one-layer": {"num_hidden_layers": 1, "num_steps": 5, "tie_word_embeddings": False},
    "one-step": {"num_steps": 1},
    "window": {"num_steps": 5, "num_memory_steps": 2, "num_read_steps": 1},
    "low-rank": {"low_rank": 5, "self_attention_mlp": True},
    "skip": {"skip_self_attention": True, "self_attention_mlp": True},
}
ANSWERS = {
    "output-steps": {"num_output_steps": 2},
    "kept": {"num_kept_outputs": 2, "num_probes": 3, "tie_word_embeddings": False},
    "kept-all": {"num_kept_outputs": 9, "num_read_steps": 2},
    "static-memory": {"static_memory_size": 3, "num_read_steps": 0},
}
GENERIC = {
    "mlp": {},
    "swiglu-grouped": {"feed_forward": "swiglu", "num_key_value_heads": 2, "tie_word_embeddings": False},
    "shared": {"share_feed_forward": True, "position_embedding": "learned", "hidden_act": "relu"},
    "relative": {"position_embedding": "relative", "max_relative_position": 5, "num_key_value_heads": 1},
    "learned-curve": {"hidden_act": "learned", "mlp_bias": True, "head_bias": True, "attention_bias": True},
    "swiglu-ignores-the-curve": {"hidden_act": "learned", "feed_forward": "swiglu", "position_embedding": "none"},
    "both-ways": {"is_causal": False, "position_embedding": "sinusoidal"},
}
BYTES = {
    "fixed": {"patching": "fixed"},
    "fixed-parallel": {"patching": "fixed", "decoder": "parallel", "num_byte_encoder_layers": 0},
    "grouped-swiglu": {"patching": "fixed", "num_key_value_heads": 1, "feed_forward": "swiglu"},
    "published": {"patching": "fixed", "byte_layers": "published", "num_byte_encoder_layers": 3},
    "published-parallel": {"patching": "fixed", "byte_layers": "published", "decoder": "parallel"},
    "reconstruction": {"patching": "fixed", "decoder": "parallel", "reconstruction_loss_weight": 1.0},
    "relative-learned-curve": {"patching": "fixed", "position_embedding": "relative", "hidden_act": "learned"},
}
NATIVE = {
    "gpt2": GPT2Config(
        vocab_size=61, n_positions=37, n_embd=24, n_layer=3, n_head=3, n_inner=47, bos_token_id=1, eos_token_id=1
    ),
    "gpt2-usual-width": GPT2Config(
        vocab_size=61, n_positions=37, n_embd=24, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1
    ),
    "llama": LlamaConfig(
        vocab_size=61, hidden_size=24, intermediate_size=47, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "llama-heads": LlamaConfig(
        vocab_size=61, hidden_size=24, intermediate_size=47, num_hidden_layers=2, num_attention_heads=4, head_dim=10
    ),
}  # fmt: skip


def make_generic(**changes) -> GenericTransformerConfig:
    """A generic transformer of tiny, distinct sizes."""
    sizes = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 47, "max_position_embeddings": 37}
    return GenericTransformerConfig(**{**sizes, **changes})


def make_bytes(**changes) -> BytePatchConfig:
    """A byte-patch model of tiny, distinct sizes."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 47}
    sizes |= {"byte_hidden_size": 16, "num_byte_attention_heads": 2, "num_byte_decoder_layers": 3}
    sizes |= {"max_position_embeddings": 151, "max_patch_bytes": 7, "patch_size": 5}
    return BytePatchConfig(**{**sizes, **changes})


def make_text_thinker(**changes):
    return make_thinker_config(is_encoder_decoder=False, **changes)


TEXT_MODELS = {
    **{f"thoughtbubbles-{k}": (ThoughtbubblesForCausalLM, make_config(**v)) for k, v in THOUGHTBUBBLES.items()},
    **{f"thinker-{k}": (LoopedThinkerForCausalLM, make_text_thinker(**v)) for k, v in THINKERS.items()},
    **{f"generic-{k}": (GenericTransformerForCausalLM, make_generic(**v)) for k, v in GENERIC.items()},
    **{f"bytes-{k}": (BytePatchForCausalLM, make_bytes(**v)) for k, v in BYTES.items()},
    **{k: (GPT2LMHeadModel if k.startswith("gpt2") else LlamaForCausalLM, v) for k, v in NATIVE.items()},
}
CACHED_MODELS = {
    name: pair
    for name, pair in TEXT_MODELS.items()
    if not name.startswith(("thoughtbubbles-topk", "generic-both-ways"))
}


def sum_bytes(*tensors: torch.Tensor | None) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def sum_cache_bytes(cache) -> int:
    """Bytes of all tensors of a cache; one that layers share counts once."""
    tensors = {}
    for holder in (*cache.layers, cache):
        for value in vars(holder).values():
            if isinstance(value, torch.Tensor):
                tensors[value.data_ptr()] = value
    return sum_bytes(*tensors.values())


@pytest.mark.parametrize("name", TEXT_MODELS)
@pytest.mark.parametrize("num_tokens", [1, NUM_TOKENS])
def test_a_forward_pass_is_estimated_exactly(name, num_tokens):
    model_class, config = TEXT_MODELS[name]
    model, input_ids = model_class(config), draw_ids(NUM_ROWS, num_tokens)
    flops = estimate_flops(config, num_tokens, NUM_ROWS)
    assert flops.forward == measure_flops(model, input_ids, use_cache=False)
    assert flops.forward_per_token == flops.forward / NUM_ROWS / num_tokens
    assert flops.training == 3 * measure_flops(model, input_ids, labels=input_ids, use_cache=False)


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_a_training_step_costs_three_forward_passes(name):
    model_class, config = TEXT_MODELS[name]
    model, input_ids = model_class(config).train(), draw_ids(NUM_ROWS, NUM_TOKENS)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids, labels=input_ids).loss.backward()
    assert estimate_flops(config, NUM_TOKENS, NUM_ROWS).training == counter.get_total_flops()


def test_a_budget_is_taken_to_the_letter():
    config = make_config(fork_budget=1.1, max_position_embeddings=53)
    measured = measure_flops(ThoughtbubblesForCausalLM(config), draw_ids(1, 50))
    assert estimate_flops(config, 50).forward == measured, "50 * 1.1 is a little more than 55"
    assert estimate_flops(config, 50, num_streams=1.1).forward < measured, "a measured mean may be off by rounding"


@pytest.mark.parametrize("name", CACHED_MODELS)
def test_a_generated_token_is_estimated_exactly(name):
    model_class, config = CACHED_MODELS[name]
    model, num_steps, num_before = model_class(config).eval(), 1, NUM_TOKENS - 1
    if isinstance(config, BytePatchConfig):  # the mean over a patch, after one that began with a cache
        num_steps, num_before = config.patch_size, 3 * config.patch_size
    num_tokens = num_before + num_steps
    row, measured = draw_ids(1, num_tokens + num_steps), []
    with torch.no_grad():
        cache = model(row[:, :num_before], use_cache=True).past_key_values
    for place in range(num_before, num_tokens + num_steps):
        measured.append(measure_flops(model, row[:, place : place + 1], **{CACHE_NAME: cache}, use_cache=True))
    total = sum(measured[-num_steps:])
    assert estimate_flops(config, num_tokens).per_generated_token == pytest.approx(total / num_steps, rel=1e-12)


@pytest.mark.parametrize("name", [name for name in TEXT_MODELS if name not in CACHED_MODELS])
def test_without_a_cache_a_generated_token_costs_a_pass(name):
    model_class, config = TEXT_MODELS[name]
    pass_flops = measure_flops(model_class(config), draw_ids(1, NUM_TOKENS + 1), use_cache=False, logits_to_keep=1)
    assert estimate_flops(config, NUM_TOKENS).per_generated_token == pass_flops


@pytest.mark.parametrize("name", CACHED_MODELS)
def test_a_cache_has_the_estimated_bytes(name):
    model_class, config = CACHED_MODELS[name]
    with torch.no_grad():
        cache = model_class(config).eval()(draw_ids(NUM_ROWS, NUM_TOKENS), use_cache=True).past_key_values
    assert estimate_memory(config, NUM_TOKENS, NUM_ROWS).cache == sum_cache_bytes(cache)


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_weights_have_the_estimated_bytes(name):
    model_class, config = TEXT_MODELS[name]
    model = model_class(config).to(torch.bfloat16)
    memory = estimate_memory(config, NUM_TOKENS, dtype=torch.bfloat16, optimizer_bytes_per_parameter=12)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert memory.parameters == memory.gradients == sum_bytes(*model.parameters())
    assert memory.optimizer == 12 * num_parameters == 12 * count_parameters(config)
    assert memory.training == memory.parameters + memory.gradients + memory.optimizer
    assert memory.generation == memory.parameters + memory.cache


@pytest.mark.parametrize("name", ANSWERS)
def test_weights_of_a_model_that_answers_have_the_estimated_bytes(name):
    config = make_thinker_config(**ANSWERS[name])
    weights = LoopedThinkerForConditionalGeneration(config).parameters()
    assert estimate_memory(config, 9).parameters == sum_bytes(*weights)


def test_a_model_without_a_cache_keeps_nothing():
    assert estimate_memory(make_config(), NUM_TOKENS).cache == 0
    assert estimate_memory(make_generic(is_causal=False), NUM_TOKENS).cache == 0
    assert estimate_memory(make_thinker_config(readout="parallel"), 9).cache == 0


def test_adamw_keeps_as_many_bytes_as_estimated():
    model, input_ids = GPT2LMHeadModel(NATIVE["gpt2"]), draw_ids(1, 5)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids, labels=input_ids).loss.backward()
    optimizer.step()
    averages = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    memory = estimate_memory(model.config, 5)
    assert memory.optimizer == sum_bytes(*averages)
    assert memory.gradients == sum_bytes(*(parameter.grad for parameter in model.parameters()))


@pytest.mark.parametrize("budget", [1.25, 1.5, 3.1])
def test_measured_streams_give_the_flops_of_the_causal_rule(budget):
    config = make_config(fork_policy="threshold")
    model = ThoughtbubblesForCausalLM(config).eval()
    input_ids = draw_ids(1, 37)
    with torch.no_grad():
        scores = [fork.threshold.fill_(-budget).item() for fork in model.model.forks.values()]
        for fork in model.model.forks.values():
            fork.threshold_budget.fill_(config.fork_budget)
        forks = model(input_ids, output_forks=True, use_cache=False).forks
    means = [fork.num_streams.float().mean().item() for fork in forks]
    assert 1 < means[-1] < 4, scores
    measured = measure_flops(model, input_ids, use_cache=False)
    assert estimate_flops(config, 37, num_streams=means).forward == measured


def test_a_mean_over_generated_tokens_is_estimated():
    config = make_config(fork_policy="threshold", hidden_size=48)
    model = ThoughtbubblesForCausalLM(config).eval()
    row = draw_ids(1, 37)
    with torch.no_grad():
        for fork in model.model.forks.values():
            fork.threshold.fill_(-1.4)
            fork.threshold_budget.fill_(config.fork_budget)
        cache, total = StreamCache(config), 0
        for i in range(37):
            total += measure_flops(model, row[:, i : i + 1], past_key_values=cache)
    means = cache.count_streams()[:, 0].float().mean(-1).tolist()
    estimate = estimate_flops(config, 36 // 2, num_streams=means).per_generated_token  # after so many on average
    assert estimate == pytest.approx(total / 37, rel=0.02)


@pytest.mark.parametrize("changes", [{}, {"fold": "probability"}])
def test_training_under_the_causal_rule_costs_what_its_budget_says(changes):
    config = make_config(fork_policy="threshold", fork_budget=1.3, **changes)
    model, input_ids = ThoughtbubblesForCausalLM(config).train(), draw_ids(NUM_ROWS, NUM_TOKENS)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids, labels=input_ids)
    assert estimate_flops(config, NUM_TOKENS, NUM_ROWS).forward == counter.get_total_flops()


@pytest.mark.parametrize("name", THINKERS)
@pytest.mark.parametrize("num_steps", [2, 7])
def test_more_steps_of_a_text_are_estimated_exactly(name, num_steps):
    config = make_text_thinker(**THINKERS[name])
    model, input_ids = LoopedThinkerForCausalLM(config), draw_ids(NUM_ROWS, NUM_TOKENS)
    measured = measure_flops(model, input_ids, num_steps=num_steps, use_cache=False)
    assert estimate_flops(config, NUM_TOKENS, NUM_ROWS, num_steps=num_steps).forward == measured


@pytest.mark.parametrize("name", [*THINKERS, *ANSWERS])
@pytest.mark.parametrize("readout", ["autoregressive", "parallel"])
@pytest.mark.parametrize("thinking", [{}, {"num_steps": 4, "num_latents": 3, "num_read_steps": 0}])
def test_an_answer_is_estimated_exactly(name, readout, thinking):
    config = make_thinker_config(readout=readout, **{**THINKERS, **ANSWERS}.get(name))
    model, problem = LoopedThinkerForConditionalGeneration(config), {"input_ids": draw_ids(NUM_ROWS, 9)}
    lengths = {"answer_length": 7, **thinking}
    if config.static_memory_size > 0:
        problem["memory_ids"], lengths["num_static_memories"] = torch.zeros(NUM_ROWS, 2, dtype=torch.long), 2
    given = {"answer_length": 7} if readout == "parallel" else {"decoder_input_ids": draw_ids(NUM_ROWS, 7)}
    flops = estimate_flops(config, 9, NUM_ROWS, **lengths)
    assert flops.forward == measure_flops(model, **problem, **given, **thinking)
    assert flops.training == 3 * measure_flops(model, **problem, **thinking, labels=draw_ids(NUM_ROWS, 7))
    assert (flops.num_tokens, flops.forward_per_row) == (16, flops.forward / NUM_ROWS)


@pytest.mark.parametrize("name", [*THINKERS, *ANSWERS])
def test_the_last_token_of_an_answer_and_its_cache_are_estimated_exactly(name):
    config = make_thinker_config(**{**THINKERS, **ANSWERS}.get(name))
    model, answer = LoopedThinkerForConditionalGeneration(config).eval(), draw_ids(1, 7)
    problem, lengths = {"input_ids": draw_ids(1, 9)}, {"answer_length": 7}
    if config.static_memory_size > 0:
        problem["memory_ids"], lengths["num_static_memories"] = torch.zeros(1, 2, dtype=torch.long), 2
    with torch.no_grad():
        thoughts = model.get_encoder()(**problem)
        cache = model(encoder_outputs=thoughts, decoder_input_ids=answer[:, :6], use_cache=True).past_key_values
    one = measure_flops(
        model, encoder_outputs=thoughts, decoder_input_ids=answer[:, 6:], past_key_values=cache, use_cache=True
    )
    assert estimate_flops(config, 9, **lengths).per_generated_token == one
    num_bytes = sum_cache_bytes(cache.self_attention_cache) + sum_cache_bytes(cache.cross_attention_cache)
    assert estimate_memory(config, 9, **lengths).cache == num_bytes


def test_an_answer_is_as_long_as_it_may_be_by_default():
    config = make_thinker_config(readout="parallel")
    model, problem = LoopedThinkerForConditionalGeneration(config), draw_ids(1, 9)
    assert estimate_flops(config, 9).forward == measure_flops(model, problem)


def test_a_parallel_answer_costs_each_token_its_share_of_reading_out():
    config = make_thinker_config(readout="parallel", num_kept_outputs=2)
    model, problem = LoopedThinkerForConditionalGeneration(config).eval(), draw_ids(1, 9)
    with torch.no_grad():
        thoughts = model.get_encoder()(problem)
    reading = measure_flops(model, encoder_outputs=thoughts, answer_length=7)
    projecting = 2 * 2 * thoughts.last_hidden_state.shape[1] * 24 * 24 * config.num_hidden_layers  # kept, not repeated
    assert estimate_flops(config, 9, answer_length=7).per_generated_token == (reading - projecting) / 7


def test_an_answer_that_thinks_along_is_estimated_exactly():
    config = make_thinker_config()
    model, answer = LoopedThinkerForConditionalGeneration(config), draw_ids(NUM_ROWS, 7)
    measured = measure_flops(model, draw_ids(NUM_ROWS, 9), decoder_input_ids=answer, loop_decoder=True)
    assert estimate_flops(config, 9, NUM_ROWS, answer_length=7, loop_decoder=True).forward == measured


@pytest.mark.parametrize("decoder", ["autoregressive", "parallel"])
@pytest.mark.parametrize("patching", ["space", "token"])
def test_patches_of_text_are_estimated_by_their_number_or_their_mean_length(patching, decoder):
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
def test_a_byte_of_text_costs_about_the_mean_over_its_patches(decoder):
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


def test_a_measured_pass_leaves_the_model_as_it_was():
    model = ThoughtbubblesForCausalLM(make_config(fork_layers=[])).train()
    before = model.config._attn_implementation
    assert before == "sdpa"
    measure_flops(model, draw_ids(1, 3))
    assert (model.config._attn_implementation, model.training) == (before, True)
    with pytest.raises(ValueError, match="input_ids"):
        measure_flops(model, input_ids=None)
    assert (model.config._attn_implementation, model.training) == (before, True)
    model.eval()
    measure_flops(model, draw_ids(1, 3))
    assert not model.training


def test_products_count_two_operations_for_each_pair():
    sizes = {"vocab_size": 7, "n_positions": 5, "n_embd": 3, "n_layer": 1, "n_head": 1, "n_inner": 11}
    config = GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)
    layer = 2 * (3 * 3 * 4 + 2 * 3 * 11) * 5 + 2 * 2 * 5 * 5 * 3
    flops = estimate_flops(config, 5, batch_size=2)
    assert flops.forward == 2 * (layer + 2 * 5 * 3 * 7)
    assert flops.training == 3 * flops.forward


@pytest.mark.parametrize(
    ("config", "lengths", "message"),
    [
        (make_config(), {"num_steps": 3}, r"`num_steps` came, but .* depend on \['num_streams'\]"),
        (NATIVE["gpt2"], {"num_streams": 2.0}, "`num_streams` came, but .* depend on no other"),
        (make_config(), {"num_streams": 0.5}, "`num_streams` is 0.5; it must be at least 1"),
        (make_config(), {"num_streams": [1.5]}, "`num_streams` has 1 entries, but the model forks 2 times"),
        (make_config(), {"num_tokens": 0}, "`num_tokens` is 0; it must be at least 1"),
        (make_config(), {"batch_size": 0}, "`batch_size` is 0; it must be at least 1"),
        (make_text_thinker(), {"num_latents": 3}, "`is_encoder_decoder` is False"),
        (make_text_thinker(), {"num_steps": 0}, "`num_steps` is 0"),
        (make_thinker_config(), {"num_read_steps": -1}, "`num_read_steps` is -1; it must be at least 0"),
        (make_bytes(patching="space"), {}, '`num_patches` and `bytes_per_patch` are missing, .*patching="space"'),
        (make_bytes(), {"num_patches": 3, "bytes_per_patch": 4.0}, "`num_patches` and `bytes_per_patch` came"),
        (make_bytes(), {"num_patches": 20}, "make 0.95 bytes a patch; a patch has 1 to 7 bytes"),
        (make_bytes(), {"bytes_per_patch": 7.5}, "make 7.5 bytes a patch; a patch has 1 to 7 bytes"),
        (MistralConfig(), {}, r'`model_type` "mistral"; costs are known of \[\'byte_patch\''),
    ],
)
def test_bad_input_gets_one_clear_error(config, lengths, message):
    for estimate in (estimate_flops, estimate_memory):
        with pytest.raises(ValueError, match=message):
            estimate(config, **{"num_tokens": NUM_TOKENS, **lengths})


def test_an_optimizer_cannot_keep_less_than_nothing():
    with pytest.raises(ValueError, match="`optimizer_bytes_per_parameter` is -1"):
        estimate_memory(NATIVE["gpt2"], 3, optimizer_bytes_per_parameter=-1)


def test_estimates_are_fast_for_models_that_would_not_fit():
    config = make_config(hidden_size=2**14, num_attention_heads=2**7, intermediate_size=2**16, vocab_size=2**17)
    flops = estimate_flops(config, 2**20)
    assert math.isfinite(flops.forward_per_token)
    assert flops.forward > 2 * 2**20 * 2**31


THOUGHTS = {
    "mlp": {},
    "block-linear": {"core": "block_linear", "core_block_sizes": [4, 12, 3], "num_thoughts": 2},
    "one-pooling-layer": {"pooling_sizes": [36], "removed_shares": [0.25], "feed_forward": "mlp"},
    "grouped": {"encoder_key_value_heads": 1, "decoder_key_value_heads": 2, "num_encoder_layers": 2},
}


@pytest.mark.parametrize("name", THOUGHTS)
def test_next_thoughts_are_estimated_exactly(name):
    config = NextThoughtConfig(
        **{
            "vocab_size": 61, "hidden_size": 24, "pooling_sizes": [36, 48], "removed_shares": [0.3, 0.5],
            "encoder_attention_heads": 3, "decoder_attention_heads": 4, "encoder_ffn_dim": 47, "decoder_ffn_dim": 31,
            "num_decoder_layers": 3, "num_latent_tokens": 5, "max_position_embeddings": 37, "pad_token_id": 0,
            **THOUGHTS[name],
        }
    )  # fmt: skip
    model, thought, written = NextThoughtForConditionalGeneration(config).eval(), draw_ids(2, 19), draw_ids(2, 7)
    flops = estimate_flops(config, 19, 2, answer_length=7)
    assert flops.forward == measure_flops(model, thought, decoder_input_ids=written, use_cache=False)
    assert flops.num_tokens == 19 + 7
    more = estimate_flops(config, 19, 2, answer_length=7, num_thoughts=4)
    assert more.forward == measure_flops(model, thought, decoder_input_ids=written, num_thoughts=4, use_cache=False)
    assert more.forward > flops.forward

    with torch.no_grad():
        outputs = model(thought, decoder_input_ids=written, use_cache=True)
        cache, encoded = outputs.past_key_values, model.get_encoder()(thought)
    halves = (*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers)
    held = sum_bytes(*(tensor for layer in halves for tensor in (layer.keys, layer.values)))
    assert estimate_memory(config, 19, 2, answer_length=7).cache == held
    step = measure_flops(model, encoder_outputs=encoded, decoder_input_ids=written[:, :1], past_key_values=cache)
    assert flops.per_generated_token * 2 == step


def test_a_next_thought_as_long_as_what_was_read_is_assumed():
    config = NextThoughtConfig(vocab_size=61, hidden_size=24, pooling_sizes=[36], removed_shares=[0.5])
    assert estimate_flops(config, 9) == estimate_flops(config, 9, answer_length=9)
    assert count_parameters(config) == NextThoughtForConditionalGeneration(config).num_parameters()
