# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""With the options of a native decoder the layers compute its numbers, bit for bit."""

import pytest
import torch
from torch import nn

from hf_thoughtbubbles import ThoughtbubblesConfig, ThoughtbubblesForCausalLM
from tests.families import draw_ids, make_config
from tests.modeling.thoughtbubbles.native_layers import NATIVES, build_native, build_same


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NATIVES)
def test_layers_give_the_logits_of_a_native_decoder_bit_for_bit(name, dtype, attention):
    native = build_native(name).to(dtype)
    model, input_ids = build_same(native).to(dtype), draw_ids(3, 19)
    for each in (native, model):
        each.set_attn_implementation(attention)
    with torch.no_grad():
        expected, found = native(input_ids), model(input_ids)
        if name == "gpt2":  # its weights lie the other way round in memory, which sums products in another order
            tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02}
            torch.testing.assert_close(found.logits, expected.logits, **tolerance)
            return
        assert torch.equal(found.logits, expected.logits)
        more = draw_ids(3, 1)
        step = model(more, past_key_values=found.past_key_values).logits
        assert torch.equal(step, native(more, past_key_values=expected.past_key_values).logits)


@pytest.mark.parametrize("fork_rule", ["topk", "threshold"])
def test_grouped_heads_equal_full_heads_with_repeated_keys(fork_rule):
    options = {"num_attention_heads": 6, "head_dim": 6, "fork_rule": fork_rule, "fork_layers": [1, 3]}
    grouped = ThoughtbubblesForCausalLM(make_config(**options, num_key_value_heads=2)).eval()
    full = ThoughtbubblesForCausalLM(make_config(**options)).eval()
    state = grouped.state_dict()
    for name, weight in state.items():
        if "k_proj" in name or "v_proj" in name:
            state[name] = weight.unflatten(0, (2, 6)).repeat_interleave(3, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    input_ids = draw_ids(2, 13)
    for attention in ("sdpa", "eager"):
        grouped.set_attn_implementation(attention)
        torch.testing.assert_close(grouped(input_ids).logits, full(input_ids).logits, atol=1e-4, rtol=1e-4)


def test_layers_have_no_subclass_of_linear_that_quantisation_would_leave_out():
    model = ThoughtbubblesForCausalLM(make_config())
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert linear
    assert {type(module) for module in linear} == {nn.Linear}


def test_biases_and_norms_follow_their_options():
    sizes = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "fork_layers": [1]}
    model = ThoughtbubblesForCausalLM(ThoughtbubblesConfig(**sizes, attention_bias="qkv", mlp_bias=False))
    biased = {name.split(".", 3)[-1] for name, _ in model.named_parameters() if name.endswith("bias")}
    assert biased == {f"self_attn.{part}_proj.bias" for part in "qkv"} | {"input_layernorm.bias"}
    config = ThoughtbubblesConfig(**sizes, mlp_normalization="rms_norm", use_qk_norm=True)
    layer, fork = (getattr(ThoughtbubblesForCausalLM(config).model, name) for name in ("layers", "forks"))
    kinds = layer[0].input_layernorm, layer[0].post_attention_layernorm, fork["1"].norm, layer[0].self_attn.q_norm
    assert [type(norm).__name__ for norm in kinds] == ["LayerNorm", "RMSNorm", "RMSNorm", "HeadRMSNorm"]
