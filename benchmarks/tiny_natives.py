# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Tiny native models with random weights, large enough that logits are no near ties, and their conversions."""

import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from hf_thoughtbubbles import fork_native, loop_native
from hf_thoughtbubbles.conversion.native_configs import NATIVE_CLASSES
from hf_thoughtbubbles.conversion.native_weights import build_model


VOCAB_SIZE, MAX_LENGTH, NUM_LAYERS = 61, 64, 4
SIZES = {"vocab_size": VOCAB_SIZE, "hidden_size": 24, "num_hidden_layers": NUM_LAYERS, "intermediate_size": 38}
SIZES |= {"num_attention_heads": 6, "num_key_value_heads": 3, "max_position_embeddings": MAX_LENGTH}
TOKENS = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
GPT2 = {
    "vocab_size": VOCAB_SIZE,
    "n_positions": MAX_LENGTH,
    "n_embd": 24,
    "n_layer": NUM_LAYERS,
    "n_head": 3,
    **TOKENS,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}

NATIVES: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(**GPT2, n_inner=38),
    "gpt2-untied": GPT2Config(**GPT2, tie_word_embeddings=False, activation_function="gelu"),
    "llama": LlamaConfig(**SIZES, **TOKENS),
    "llama-tied-biases-llama3": LlamaConfig(
        **SIZES,
        **TOKENS,
        head_dim=10,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        rope_parameters=LLAMA3,
    ),
    "llama-head-dim-yarn": LlamaConfig(**SIZES, **TOKENS, head_dim=14, rope_parameters=YARN),
    "mistral-linear": MistralConfig(**SIZES, **TOKENS, sliding_window=None, rope_parameters=LINEAR),
    "mistral-head-dim-tied": MistralConfig(
        **SIZES, **TOKENS, sliding_window=None, head_dim=2, tie_word_embeddings=True
    ),
    "qwen2": Qwen2Config(**SIZES, pad_token_id=0, eos_token_id=5),
    "qwen2-tied-dynamic": Qwen2Config(**SIZES, **TOKENS, tie_word_embeddings=True, rope_parameters=DYNAMIC),
    "qwen3-tied": Qwen3Config(**SIZES, **TOKENS, head_dim=10, tie_word_embeddings=True),
    "qwen3-biases-yarn": Qwen3Config(
        **SIZES, head_dim=8, attention_bias=True, rope_parameters=YARN, pad_token_id=0, eos_token_id=[5, 7]
    ),
}
KINDS = {
    "forks": lambda native, **kwargs: fork_native(native, fork_layers=[1, 3], fork_adapter_rank=2, **kwargs),
    "loops": lambda native, **kwargs: loop_native(native, loop_layers=(1, 2), **kwargs),
}


def build_native(
    name: str, attn_implementation: str = "sdpa", dtype: torch.dtype = torch.float32, seed: int = 0
) -> PreTrainedModel:
    """
    A native model in evaluation mode whose parameters, biases and norms included, are all random.

    In half precision its rotary frequencies stay in float32, as those of a loaded model, which `to` would round.
    """
    torch.default_generator.manual_seed(seed)
    native_class, config = NATIVE_CLASSES[type(NATIVES[name])], NATIVES[name]
    model = native_class._from_config(config, attn_implementation=attn_implementation, dtype=torch.float32)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            is_norm_weight = parameter.ndim == 1 and parameter_name.endswith("weight")
            spread = 0.6 if "embed" in parameter_name or "wte" in parameter_name else 0.3
            parameter.normal_(mean=1.0 if is_norm_weight else 0.0, std=spread)
    state = {key: value.to(dtype) for key, value in model.state_dict().items()}
    return build_model(native_class, config, state, attn_implementation=attn_implementation)


def draw_ids(*shape: int, seed: int = 1) -> torch.Tensor:
    """Random token ids without padding."""
    return torch.randint(1, VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))
