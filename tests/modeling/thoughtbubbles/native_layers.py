# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Tiny native decoders with random weights, and Thoughtbubbles with the same layers and weights."""

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hf_thoughtbubbles import ThoughtbubblesForCausalLM
from tests.families import make_config


# Head sizes of 8, as the tests of caches and kernels use.
LLAMA = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 47,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 37,
    "initializer_range": 0.3,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
    "eos_token_id": 60,
}
GPT2 = {
    "vocab_size": 61,
    "n_embd": 24,
    "n_inner": 47,
    "n_layer": 5,
    "n_head": 3,
    "n_positions": 37,
    "initializer_range": 0.3,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 60,
    "bos_token_id": None,
}
# The options of our configuration that have no name in a native one.
NATIVE_LAYERS = {
    "feed_forward": "swiglu",
    "attention_normalization": "rms_norm",
    "mlp_normalization": "rms_norm",
    "final_normalization": "rms_norm",
    "attention_bias": False,
    "mlp_bias": False,
}
NATIVES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {**LLAMA, "tie_word_embeddings": False}),
    "llama-biases": (LlamaForCausalLM, LlamaConfig, {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {**LLAMA, "hidden_size": 48}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**LLAMA, "tie_word_embeddings": True}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, GPT2),
}
GPT2_NAMES = {
    "wte": "embed_tokens",
    "wpe": "embed_positions",
    "ln_f": "norm",
    "h.": "layers.",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    ".attn.": ".self_attn.",
    "self_attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}


def build_native(name: str, **changes) -> PreTrainedModel:
    """A native decoder whose norms and biases are random, so that none can be left out."""
    model_class, config_class, sizes = NATIVES[name]
    torch.manual_seed(0)
    model = model_class(config_class(**{**sizes, **changes})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight), alpha=0.3)
    return model


def translate_options(native: PreTrainedModel) -> dict:
    """The options of our layers that make them those of a native decoder."""
    config = native.config
    if config.model_type == "gpt2":
        same = {"hidden_act": "gelu_pytorch_tanh", "position_embedding": "learned", "tie_word_embeddings": True}
        return {**same, "layer_norm_eps": config.layer_norm_epsilon}
    names = ("hidden_size", "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings")
    options = {**NATIVE_LAYERS, **{name: getattr(config, name) for name in names}}
    options["rope_parameters"] = dict(config.rope_parameters)
    options["head_dim"] = getattr(config, "head_dim", None)
    if config.model_type == "llama":
        return {**options, "attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}
    return {**options, **({"attention_bias": "qkv"} if config.model_type == "qwen2" else {"use_qk_norm": True})}


def translate_weights(native: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of a native decoder by our names."""
    state = native.state_dict()
    if native.config.model_type != "gpt2":
        return state
    translated = {}
    for name, weight in state.items():
        for theirs, ours in GPT2_NAMES.items():
            name = name.replace(theirs, ours)
        name = name.replace("transformer.", "model.")
        if ".c_attn." in name:
            for part, piece in zip("qkv", weight.chunk(3, dim=-1), strict=True):
                translated[name.replace("c_attn", f"{part}_proj")] = piece.T if piece.ndim == 2 else piece
        else:
            is_kernel = "_proj.weight" in name
            translated[name] = weight.T if is_kernel else weight
    return translated


def build_same(native: PreTrainedModel, **changes) -> ThoughtbubblesForCausalLM:
    """Thoughtbubbles with the layers and weights of a native decoder; forks have weights of their own."""
    torch.manual_seed(1)
    options = {"fork_layers": [], "fork_budget": 1.0, **translate_options(native), **changes}
    model = ThoughtbubblesForCausalLM(make_config(**options)).eval()
    missing, unexpected = model.load_state_dict(translate_weights(native), strict=False)
    assert not unexpected
    assert all(name.startswith("model.forks.") for name in missing)
    return model
