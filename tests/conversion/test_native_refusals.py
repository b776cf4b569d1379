# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Models that cannot be converted are refused by name before their weights are read."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from hf_thoughtbubbles import ThoughtbubblesConfig, ThoughtbubblesForCausalLM, fork_native, loop_native, to_native
from hf_thoughtbubbles.conversion.native_configs import find_obstacle
from tiny_natives import GPT2, KINDS, NATIVES, SIZES, TOKENS, build_native


HALF_SLIDING = ["full_attention"] * 2 + ["sliding_attention"] * 2
PARTIAL = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 0.5}
QUANTISED = {"quant_method": "bitsandbytes", "load_in_4bit": True}
REFUSED = {
    "mistral with windows": (MistralConfig(**SIZES, sliding_window=32), "sliding windows .`sliding_window=32`"),
    "qwen2 with windows": (
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=2),
        r"`layer_types` are \['full_attention', 'sliding_attention'\]",
    ),
    "qwen3 with windows": (Qwen3Config(**SIZES, layer_types=HALF_SLIDING, sliding_window=8), "`layer_types`"),
    "another gate": (LlamaConfig(**SIZES, hidden_act="gelu"), 'hidden_act="gelu"'),
    "partial rotation": (LlamaConfig(**SIZES, rope_parameters=PARTIAL), "`partial_rotary_factor=0.5`"),
    "quantised": (LlamaConfig(**SIZES, quantization_config=QUANTISED), "quantised .`quantization_config`"),
    "scaled by layer": (
        GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True),
        "`scale_attn_by_inverse_layer_idx` is True, not False",
    ),
    "reordered": (GPT2Config(**GPT2, reorder_and_upcast_attn=True), "`reorder_and_upcast_attn` is True"),
    "unscaled": (GPT2Config(**GPT2, scale_attn_weights=False), "`scale_attn_weights` is False, not True"),
    "cross attention": (GPT2Config(**GPT2, add_cross_attention=True), "`add_cross_attention` is True"),
    "experts": (AutoConfig.for_model("mixtral"), "type `mixtral`, a mixture of experts"),
    "experts of qwen": (AutoConfig.for_model("qwen3_moe"), "type `qwen3_moe`, a mixture of experts"),
    "images": (AutoConfig.for_model("llava"), "type `llava`, which is multimodal"),
    "gemma": (AutoConfig.for_model("gemma2"), "type `gemma2`"),
    "encoder": (AutoConfig.for_model("bert"), "type `bert`"),
    "ours": (ThoughtbubblesConfig(), "type `thoughtbubbles`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsupported_models_are_refused_by_name_before_weights_are_read(case, tmp_path):
    config, reason = REFUSED[case]
    config.save_pretrained(tmp_path)  # without weights: reading them would be another error
    for convert in (
        lambda: fork_native(tmp_path, fork_layers=[1]),
        lambda: loop_native(str(tmp_path), loop_layers=(1, 2)),
    ):
        with pytest.raises(ValueError, match=rf"'{tmp_path}' cannot be converted: .*{reason}.*Supported are GPT-2"):
            convert()


@pytest.mark.parametrize("name", NATIVES)
def test_supported_settings_are_not_refused(name):
    assert find_obstacle(NATIVES[name]) is None


@pytest.mark.parametrize("loop_layers", [(2, 1), (-1, 2), (1, 4), (1,), (0, 1, 2)])
def test_loops_outside_the_model_are_refused(loop_layers):
    with pytest.raises(ValueError, match=r"`loop_layers=.* 0 to 3 in this order: the model has 4 layers"):
        loop_native(build_native("llama"), loop_layers=loop_layers)


def test_only_causal_models_of_native_classes_are_converted():
    classifier = LlamaForSequenceClassification(LlamaConfig(**SIZES, **TOKENS))
    with pytest.raises(ValueError, match="A LlamaForSequenceClassification was passed"):
        fork_native(classifier, fork_layers=[1])
    with pytest.raises(ValueError, match=r"A LlamaForCausalLM was passed, with the arguments \['revision'\]"):
        fork_native(build_native("llama"), fork_layers=[1], revision="main")


def test_a_checkpoint_without_some_weights_is_refused(tmp_path):
    LlamaForSequenceClassification(LlamaConfig(**SIZES, **TOKENS)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"The weights for LlamaForCausalLM lack \['lm_head.weight'\]"):
        fork_native(tmp_path, fork_layers=[1])


def test_weights_of_two_precisions_are_refused():
    native = build_native("llama")
    native.model.norm.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"on \['cpu'\] in \['torch.bfloat16', 'torch.float32'\]"):
        fork_native(native, fork_layers=[1])


def test_only_converted_models_return_to_a_native_class():
    model = ThoughtbubblesForCausalLM(
        ThoughtbubblesConfig(vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, fork_layers=[1])
    )
    for other in (model, build_native("gpt2")):
        with pytest.raises(ValueError, match="was not made from a native model"):
            to_native(other)


def make_lora() -> LoraConfig:
    """Settings of an adapter that changes the model at once; peft writes into them."""
    return LoraConfig(target_modules=["q_proj"], init_lora_weights=False)


@pytest.mark.parametrize("kind", KINDS)
def test_models_with_adapters_are_merged_first(kind):
    model, native = KINDS[kind](build_native("llama")), build_native("llama")
    peft_model = get_peft_model(KINDS[kind](build_native("llama")), make_lora())
    model.add_adapter(make_lora())
    with pytest.raises(ValueError, match="The model has adapters"):
        to_native(model)
    with pytest.raises(ValueError, match="merge adapters first, with `merge_and_unload`"):
        to_native(peft_model)
    with pytest.raises(ValueError, match="Merge adapters first, with `merge_and_unload`"):
        KINDS[kind](get_peft_model(build_native("llama"), make_lora()))
    merged = to_native(peft_model.merge_and_unload())
    queries = "model.layers.1.self_attn.q_proj.weight"
    assert not torch.equal(merged.state_dict()[queries], native.state_dict()[queries])
