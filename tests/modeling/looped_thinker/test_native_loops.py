# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Loops over the layers of native decoders: with one step the native model, with more one with layers repeated."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    StaticCache,
)

from hf_thoughtbubbles import LoopedThinkerForCausalLM, LoopedThinkerTextConfig, LoopedThinkerTextModel
from hf_thoughtbubbles.evaluation.flops import estimate_flops, estimate_memory
from hf_thoughtbubbles.modeling.looped_thinker.layers_looped_thinker import LowRankLinear
from tests.families import LOOP, draw_ids, make_thinker, make_thinker_text_config


FIRST, LAST = 1, 3  # of five layers, those in the loop
SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 47,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "max_position_embeddings": 37,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 9}
GPT2_PARTS = {
    "position_embedding": "learned",
    "attention_normalization": "layer_norm",
    "mlp_normalization": "layer_norm",
    "final_normalization": "layer_norm",
    "attention_bias": True,
    "mlp_bias": True,
    "feed_forward": "mlp",
    "hidden_act": "gelu_new",
}
GPT2_SIZES = {"n_inner": 47, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
NATIVES = {  # a configuration, and our options beside its sizes
    "llama": (LlamaConfig(**SIZES, num_key_value_heads=2, head_dim=6, tie_word_embeddings=False), {}),
    "llama-biased": (
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, rope_parameters=YARN),
        {"attention_bias": True, "mlp_bias": True},
    ),
    "mistral": (MistralConfig(**SIZES, num_key_value_heads=3, sliding_window=None), {}),
    "qwen2": (Qwen2Config(**SIZES, num_key_value_heads=3, tie_word_embeddings=True), {"attention_bias": "qkv"}),
    "qwen3": (Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=10), {"use_qk_norm": True}),
    "gpt2": (
        GPT2Config(**{name: SIZES[name] for name in SIZES if name != "intermediate_size"}, **GPT2_SIZES),
        GPT2_PARTS,
    ),
}
EACH = pytest.mark.parametrize("name", NATIVES)
GPT2_NAMES = {
    "transformer.wte": "model.embed_tokens",
    "transformer.wpe": "model.embed_positions",
    "transformer.ln_f": "model.norm",
    "transformer.h": "model.layers",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}


def build_native(name: str, dtype=torch.float32, attention: str = "sdpa", **changes):
    """A native model with weights that are nowhere ones or zeros."""
    torch.default_generator.manual_seed(0)
    config = copy.deepcopy(NATIVES[name][0])
    config.update(changes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    return model.to(dtype)


def rename(native) -> dict[str, torch.Tensor]:
    """The weights of a native model by the names of Llama; linear layers of GPT-2 are stored transposed."""
    weights = {}
    for name, tensor in native.state_dict().items():
        for theirs, ours in GPT2_NAMES.items() if native.config.model_type == "gpt2" else ():
            name = name.replace(theirs, ours)
        is_transposed = native.config.model_type == "gpt2" and "norm" not in name and ".layers." in name
        tensor = tensor.T if is_transposed and tensor.ndim == 2 else tensor
        if "attn.c_attn" in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                weights[name.replace("attn.c_attn", f"self_attn.{part}_proj")] = piece
        else:
            weights[name] = tensor
    return weights


def build_loop(native, name: str, num_steps: int = 1, **changes) -> LoopedThinkerForCausalLM:
    """The loop over some layers of a native model, with its weights."""
    config, sizes = native.config, {key: SIZES[key] for key in SIZES if key != "num_hidden_layers"}
    if config.model_type != "gpt2":
        changes |= {key: getattr(config, key) for key in ("rms_norm_eps", "num_key_value_heads", "rope_parameters")}
        changes["head_dim"] = getattr(config, "head_dim", None)
    loop = LoopedThinkerForCausalLM(
        LoopedThinkerTextConfig(
            **sizes,
            **LOOP | {"num_prelude_layers": FIRST, "num_coda_layers": config.num_hidden_layers - 1 - LAST},
            **NATIVES[name][1],
            num_hidden_layers=LAST - FIRST + 1,
            num_steps=num_steps,
            tie_word_embeddings=config.tie_word_embeddings,
            **changes,
        )
    )
    weights = {}
    for key, tensor in rename(native).items():
        if key.startswith("model.layers."):
            idx, part = key.removeprefix("model.layers.").split(".", 1)
            place, start = ("prelude", 0) if int(idx) < FIRST else ("block.layers", FIRST)
            place, start = ("coda", LAST + 1) if int(idx) > LAST else (place, start)
            key = f"model.{place}.{int(idx) - start}.{part}"
        weights[key] = tensor
    report = loop.load_state_dict(weights, strict=False)
    assert report == (["model.adapter.weight"], [])
    loop.set_attn_implementation(config._attn_implementation)
    return loop.to(native.dtype).eval()


def repeat_layers(native, num_times: int):
    """A native model whose looped layers follow each other so many times, with the same weights."""
    repeated = copy.deepcopy(native)
    layers = repeated.transformer.h if native.config.model_type == "gpt2" else repeated.model.layers
    inside = [copy.deepcopy(layer) for _ in range(num_times) for layer in layers[FIRST : LAST + 1]]
    inside = [*layers[:FIRST], *inside, *layers[LAST + 1 :]]
    for i, layer in enumerate(inside):
        (layer.attn if native.config.model_type == "gpt2" else layer.self_attn).layer_idx = i
    repeated.config.num_hidden_layers = len(inside)
    if native.config.model_type == "gpt2":
        repeated.transformer.h = torch.nn.ModuleList(inside)
    else:
        repeated.model.layers = torch.nn.ModuleList(inside)
        repeated.config.layer_types = ["full_attention"] * len(inside)
    return repeated


def pad_left(input_ids: torch.Tensor) -> dict:
    """Rows of which the second begins with padding, with their mask and positions."""
    mask = torch.ones_like(input_ids)
    mask[1, :5] = 0
    return {"input_ids": input_ids * mask, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def check_equal(found: torch.Tensor, expected: torch.Tensor, name: str):
    """Bit for bit; the projections of a GPT-2 are one matrix product there, which rounds in another order."""
    if name == "gpt2":
        half = expected.dtype == torch.bfloat16
        torch.testing.assert_close(found, expected, atol=0.1 if half else 1e-5, rtol=0.02 if half else 1e-5)
    else:
        assert torch.equal(found, expected)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_one_step_is_the_native_model(name, dtype, attention):
    """Logits of whole rows, of padded rows and of packed documents, and those of cached tokens."""
    native = build_native(name, dtype, attention)
    loop, input_ids = build_loop(native, name), draw_ids(2, 17)
    check_equal(loop(input_ids).logits, native(input_ids).logits, name)
    padded = pad_left(input_ids)
    is_real = padded["attention_mask"].bool()
    check_equal(loop(**padded).logits[is_real], native(**padded).logits[is_real], name)
    packed = {"position_ids": torch.cat((torch.arange(11), torch.arange(6)))[None], "use_cache": False}
    check_equal(loop(input_ids, **packed).logits, native(input_ids, **packed).logits, name)
    ours, plain, theirs = loop(input_ids[:, :11]).past_key_values, DynamicCache(), DynamicCache()
    for model, cache in ((loop, plain), (native, theirs)):
        model(input_ids[:, :11], past_key_values=cache)
    close = {"atol": 0.1, "rtol": 0.02} if dtype == torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
    for i in range(11, 17):
        token = input_ids[:, i : i + 1]
        expected = native(token, past_key_values=theirs).logits
        check_equal(loop(token, past_key_values=plain).logits, expected, name)
        # Keys of our own cache have room behind them, for which matrix products may round in another order.
        torch.testing.assert_close(loop(token, past_key_values=ours).logits, expected, **close)


@EACH
@pytest.mark.parametrize(
    "options",
    [{}, {"do_sample": True, "top_k": 7}, {"num_beams": 3}, {"cache_implementation": "static"}],
    ids=["greedy", "sampled", "beams", "static"],
)
def test_one_step_generates_the_text_of_the_native_model(name, options):
    native = build_native(name)
    loop, texts = build_loop(native, name), []
    padded = pad_left(draw_ids(2, 11))
    del padded["position_ids"]
    for model in (native, loop):
        torch.manual_seed(0)
        texts.append(model.generate(**padded, max_new_tokens=13, **{"do_sample": False, **options}))
    assert torch.equal(*texts)
    assert len(texts[0][:, 11:].unique()) > 3, "so that a lost context would show"


@EACH
def test_one_step_gives_the_gradients_of_the_native_model(name):
    """Of all shared weights; the adapter, which one step does not read, gets zeros, so that DDP finds gradients."""
    native = build_native(name)
    loop, input_ids = build_loop(native, name).train(), draw_ids(2, 11)
    for model in (native, loop):
        model(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
    assert loop.model.adapter.weight.grad.count_nonzero() == 0
    reference = copy.deepcopy(native)
    for parameter, source in zip(reference.parameters(), native.parameters(), strict=True):
        parameter.data.copy_(source.grad)
    expected = build_loop(reference, name)
    for (parameter_name, parameter), grad in zip(loop.named_parameters(), expected.parameters(), strict=True):
        if "adapter" not in parameter_name:
            torch.testing.assert_close(parameter.grad, grad.detach(), atol=1e-5, rtol=1e-4)


@EACH
@pytest.mark.parametrize("num_steps", [2, 4])
@torch.no_grad()
def test_more_steps_repeat_the_layers_while_the_adapter_is_the_identity(name, num_steps):
    native = build_native(name)
    loop, input_ids, expected = build_loop(native, name, num_steps), draw_ids(2, 11), repeat_layers(native, num_steps)
    check_equal(loop(input_ids).logits, expected(input_ids).logits, name)
    padded = pad_left(input_ids)
    texts = [model.generate(**padded, max_new_tokens=13, do_sample=False) for model in (expected, loop)]
    assert torch.equal(*texts)
    check_equal(build_loop(native, name)(input_ids, num_steps=num_steps).logits, expected(input_ids).logits, name)


@torch.no_grad()
def test_a_step_reads_the_adapter_of_latent_and_input():
    """By hand, with native layers."""
    native = build_native("llama")
    loop, input_ids = build_loop(native, "llama", num_steps=3), draw_ids(2, 7)
    torch.nn.init.normal_(loop.model.adapter.weight, std=0.2)
    from_latent, from_input = loop.model.adapter.weight.chunk(2, dim=1)
    positions = torch.arange(7)[None]
    arguments = {"position_embeddings": native.model.rotary_emb(native.model.embed_tokens.weight, positions)}

    def apply_layers(hidden_states, first, last):
        for layer in native.model.layers[first : last + 1]:
            hidden_states = layer(hidden_states, **arguments)
        return hidden_states

    embedded = apply_layers(native.model.embed_tokens(input_ids), 0, FIRST - 1)
    latents, step_logits = apply_layers(embedded, FIRST, LAST), []
    for step in range(3):
        if step > 0:
            latents = apply_layers(latents @ from_latent.T + embedded @ from_input.T, FIRST, LAST)
        step_logits.append(native.lm_head(native.model.norm(apply_layers(latents, LAST + 1, 4))))
    outputs = loop(input_ids, output_steps=True)
    torch.testing.assert_close(outputs.step_logits, torch.stack(step_logits, dim=1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs.latents[:, -1], latents, atol=1e-4, rtol=1e-4)
    assert torch.equal(outputs.step_logits[:, -1], outputs.logits)


KINDS = {
    "loop": LOOP,
    "learned": {**LOOP, **GPT2_PARTS, "num_prelude_layers": 0, "num_coda_layers": 2},
    "memory": {
        "num_prelude_layers": 1,
        "num_coda_layers": 1,
        "input_injection": "adapter",
        "skip_self_attention": True,
    },
    "published-coda": {"num_coda_layers": 1, "num_memory_steps": 2},
    "published": {},
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


@EACH_KIND
@torch.no_grad()
def test_the_outputs_of_a_step_are_those_of_as_many_steps(kind):
    """Also after an early exit, which repeats the last one."""
    model, input_ids = make_thinker(kind, num_steps=4, **KINDS[kind]).build(), draw_ids(2, 9)
    outputs = model(input_ids, output_steps=True)
    for step in range(4):
        fewer = model(input_ids, num_steps=step + 1)
        torch.testing.assert_close(outputs.step_logits[:, step], fewer.logits)
    states = model.model(input_ids, output_steps=True).step_hidden_states
    torch.testing.assert_close(model.lm_head(states), outputs.step_logits)
    exited = model(input_ids, num_steps=7, exit_threshold=1e9, output_steps=True)
    assert exited.num_steps_used.unique().tolist() == [2]
    torch.testing.assert_close(exited.step_logits[:, 1:], outputs.step_logits[:, 1:2].expand(-1, 6, -1, -1))


@EACH_KIND
@torch.no_grad()
def test_the_head_reads_normalised_states(kind):
    """Whatever the layers before the final norm add up to; fresh norms have weights of ones and no biases."""
    model, input_ids = make_thinker(kind, num_steps=4, **KINDS[kind]).build(), draw_ids(2, 9)
    states = model.model(input_ids, output_steps=True).step_hidden_states
    torch.testing.assert_close(states.square().mean(-1), torch.ones(states.shape[:-1]), atol=1e-3, rtol=0.0)


def test_outputs_of_steps_are_refused_where_the_cache_has_those_of_the_last_alone():
    model, input_ids = make_thinker("loop", **LOOP).build(), draw_ids(2, 9)
    filled, static = model(input_ids).past_key_values, StaticCache(config=model.config, max_cache_len=17)
    for cache in (filled, static):
        with pytest.raises(ValueError, match="`output_steps=True` was passed with a `past_key_values`"):
            model(input_ids, past_key_values=cache, output_steps=True)
    outputs = model(input_ids, past_key_values=DynamicCache(), output_steps=True)
    following = model(input_ids[:, :1], past_key_values=outputs.past_key_values).logits
    expected = model(torch.cat((input_ids, input_ids[:, :1]), dim=1)).logits[:, -1:]
    torch.testing.assert_close(following, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_slots_of_steps_follow_those_of_the_layers_around_the_loop():
    """So that more steps have more slots, and the others stay where they are."""
    model, input_ids = make_thinker("loop", **LOOP).build(), draw_ids(2, 9)
    caches = [model(input_ids, num_steps=num_steps).past_key_values for num_steps in (1, 3)]
    assert [len(cache.layers) for cache in caches] == [2 + 2, 2 + 3 * 2]
    assert model.config.num_cache_slots == len(model.config.layer_types) == model.config.num_unrolled_layers == 8
    few, many = ([layer.keys for layer in cache.layers] for cache in caches)
    assert [torch.equal(*keys) for keys in zip(few, many, strict=False)] == [True, False, True, True]


def test_the_adapter_starts_as_the_latent():
    model = LoopedThinkerForCausalLM(make_thinker_text_config(**LOOP))
    assert torch.equal(model.model.adapter.weight, torch.eye(24, 48))


def test_a_missing_adapter_is_initialised_while_loading(tmp_path):
    model = make_thinker("loop", **LOOP).build().model
    weights = {name: tensor for name, tensor in model.state_dict().items() if "adapter" not in name}
    loaded = LoopedThinkerTextModel.from_pretrained(None, config=model.config, state_dict=weights)
    assert torch.equal(loaded.adapter.weight, torch.eye(24, 48))


def test_one_step_costs_what_the_native_model_costs():
    native = build_native("llama")
    ours, theirs = (estimate_flops(model.config, 19) for model in (build_loop(native, "llama"), native))
    assert ours == theirs
    num_shared = 24 * 48
    for config, extra in ((build_loop(native, "llama").config, 4 * num_shared), (native.config, 0)):
        memory = estimate_memory(config, 19)
        assert memory.parameters == 4 * native.num_parameters() + extra
        assert memory.cache == estimate_memory(native.config, 19).cache


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"LoopedThinkerLayer"}),
        ({"num_coda_layers": 1}, {"LoopedThinkerLayer", "LoopedThinkerPlainLayer"}),
        (LOOP, {"LoopedThinkerPlainLayer"}),
    ],
    ids=["published", "coda", "loop"],
)
def test_layers_that_stay_whole_are_those_of_the_model(changes, names):
    """accelerate's FSDP refuses the name of a layer that a model does not have."""
    model = LoopedThinkerForCausalLM(make_thinker_text_config(**changes))
    found = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules) == names <= found


def test_fsdp_gathers_layers_around_the_loop_one_by_one():
    plan = LoopedThinkerForCausalLM(make_thinker_text_config(**LOOP))._fsdp_plan
    assert {"model.prelude.*", "model.coda.*", "model.embed_tokens"} <= set(plan)
    assert not any("prelude" in name for name in LoopedThinkerForCausalLM(make_thinker_text_config())._fsdp_plan)


@pytest.mark.parametrize("name", ["skip_self_attention", "self_attention_mlp", "num_memory_steps", "num_read_steps"])
def test_what_plain_layers_do_not_have_is_refused_with_them(name):
    value = True if "attention" in name else 2
    with pytest.raises(ValueError, match=f"`{name}={value}` was passed with `skip_cross_attention=True`"):
        make_thinker_text_config(**LOOP, **{name: value})


@pytest.mark.parametrize("name", ["num_prelude_layers", "num_coda_layers"])
def test_a_negative_number_of_layers_is_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` is -1; it must be at least 0"):
        make_thinker_text_config(**{name: -1})


def test_heads_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match="`num_attention_heads` 3 is not a multiple of `num_key_value_heads` 2"):
        make_thinker_text_config(num_key_value_heads=2)
    with pytest.raises(ValueError, match="is odd"):
        make_thinker_text_config(head_dim=5)
    assert make_thinker_text_config(head_dim=5, position_embedding="learned").head_dim == 5
    with pytest.raises(StrictDataclassClassValidationError, match="`hidden_act` is 'swish2'; it must be one of"):
        make_thinker_text_config(hidden_act="swish2")
    with pytest.raises(
        StrictDataclassClassValidationError, match='with `position_embedding="learned"` nothing is rotated'
    ):
        make_thinker_text_config(position_embedding="learned", rope_parameters=YARN)


def test_a_projection_is_low_rank_where_that_is_narrower_than_both_of_its_sides():
    parts = {"num_attention_heads": 6, "head_dim": 10, "num_key_value_heads": 1}
    model = LoopedThinkerForCausalLM(make_thinker_text_config(**LOOP, **parts, low_rank=13, attention_bias=True))
    attention = model.model.prelude[0].self_attn
    assert [type(attention.q_proj), type(attention.o_proj)] == [LowRankLinear] * 2  # 24 channels and 60
    assert [type(attention.k_proj), type(attention.v_proj)] == [torch.nn.Linear] * 2  # 24 and 10
    assert attention.q_proj.down_proj.bias is None and attention.q_proj.up_proj.bias is not None
