# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Configurations of native models in terms of ours, and input validation for the models that cannot be converted."""

import json
from typing import Any

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel


NATIVE_CLASSES: dict[type[PreTrainedConfig], type[PreTrainedModel]] = {
    GPT2Config: GPT2LMHeadModel,
    LlamaConfig: LlamaForCausalLM,
    MistralConfig: MistralForCausalLM,
    Qwen2Config: Qwen2ForCausalLM,
    Qwen3Config: Qwen3ForCausalLM,
}
SUPPORTED = "GPT-2, Llama, Mistral, Qwen2 and Qwen3 with full attention and dense layers"
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
# Settings of GPT-2 that change attention, with the one value that our layers compute.
GPT2_SETTINGS = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
SAME_FIELDS = ("vocab_size", "hidden_size", "max_position_embeddings", "initializer_range", "use_cache")
UNSAVED = {"dtype", "transformers_version", "_name_or_path", "architectures", "quantization_config"}


def check_native(config: PreTrainedConfig, name: str):
    """Raise for a model whose logits our layers would not give, before any weight is read."""
    obstacle = find_obstacle(config)
    if obstacle:
        raise ValueError(f"{name!r} cannot be converted: {obstacle}. Supported are {SUPPORTED}.")


def find_obstacle(config: PreTrainedConfig) -> str | None:
    """What our layers do not compute, by the name of the setting; `None` when they compute all of a model."""
    fields = config.to_dict()
    if fields.get("quantization_config"):
        return "its weights are quantised (`quantization_config`). Pass the checkpoint that is not"
    if type(config) not in NATIVE_CLASSES:
        return f"it is a model of type `{config.model_type}`{_describe_type(fields)}"
    if fields.get("layer_types") and set(fields["layer_types"]) != {"full_attention"}:
        return f"its `layer_types` are {sorted(set(fields['layer_types']))}, not full attention alone"
    if config.model_type == "mistral" and config.sliding_window is not None:
        return f"it has sliding windows (`sliding_window={config.sliding_window}`), not full attention"
    if config.model_type == "gpt2":
        wrong = [name for name, value in GPT2_SETTINGS.items() if fields[name] != value]
        return f"its `{wrong[0]}` is {fields[wrong[0]]}, not {GPT2_SETTINGS[wrong[0]]}" if wrong else None
    if config.hidden_act not in ("silu", "swish"):
        return f'the gate of its feed-forward layers is `hidden_act="{config.hidden_act}"`, not "silu"'
    rope_parameters = fields["rope_parameters"]
    if rope_parameters["rope_type"] not in ROPE_TYPES:
        return f"its `rope_type` is {rope_parameters['rope_type']!r}, not one of {ROPE_TYPES}"
    if rope_parameters.get("partial_rotary_factor", 1.0) != 1.0:
        return f"it rotates a part of each head (`partial_rotary_factor={rope_parameters['partial_rotary_factor']}`)"
    return None


def _describe_type(fields: dict[str, Any]) -> str:
    """What is known of a model type that is not supported."""
    if any(name in fields for name in ("vision_config", "audio_config", "text_config")):
        return ", which is multimodal"
    if any(fields.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        return ", a mixture of experts"
    return ""


def translate_layers(config: PreTrainedConfig) -> dict[str, Any]:
    """
    The fields that our configurations and a native one share: sizes, the options of a layer, and special tokens.

    Dropout is not taken over: our configurations name other places for it. Special token ids outside the vocabulary,
    which some checkpoints have, become `None`.
    """
    fields = {name: getattr(config, name) for name in SAME_FIELDS}
    for name in TOKEN_IDS:
        ids = getattr(config, name) if isinstance(getattr(config, name), list) else [getattr(config, name)]
        is_valid = all(token_id is not None and 0 <= token_id < config.vocab_size for token_id in ids)
        fields[name] = getattr(config, name) if is_valid else None
    fields["num_attention_heads"] = config.num_attention_heads
    fields["tie_word_embeddings"] = config.tie_word_embeddings
    return {**fields, **(_translate_gpt2(config) if config.model_type == "gpt2" else _translate_gated(config))}


def _translate_gpt2(config: PreTrainedConfig) -> dict[str, Any]:
    """The options of a GPT-2's layers."""
    return {
        "intermediate_size": config.n_inner,  # None is four times the hidden size in both
        "feed_forward": "mlp",
        "hidden_act": config.activation_function,
        **dict.fromkeys(("attention_normalization", "mlp_normalization", "final_normalization"), "layer_norm"),
        "layer_norm_eps": config.layer_norm_epsilon,
        "attention_bias": True,
        "mlp_bias": True,
        "position_embedding": "learned",
    }


def _translate_gated(config: PreTrainedConfig) -> dict[str, Any]:
    """The options of the layers of Llama and its relatives. Only some of them have a field for each bias and size."""
    fields = config.to_dict()
    return {
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": fields.get("head_dim"),
        "intermediate_size": config.intermediate_size,
        "feed_forward": "swiglu",
        **dict.fromkeys(("attention_normalization", "mlp_normalization", "final_normalization"), "rms_norm"),
        "rms_norm_eps": config.rms_norm_eps,
        "attention_bias": "qkv" if config.model_type == "qwen2" else fields.get("attention_bias", False),
        "mlp_bias": fields.get("mlp_bias", False),
        "use_qk_norm": config.model_type == "qwen3",
        "position_embedding": "rope",
        "rope_parameters": fields["rope_parameters"],
    }


def save_native_config(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of a native configuration that `restore_native_config` needs, as JSON gives them back."""
    own = type(config).__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()
    changed = json.loads(config.to_json_string(use_diff=True))
    fields = json.loads(config.to_json_string(use_diff=False))
    kept = {name: fields[name] for name in sorted((own & fields.keys()) | changed.keys() | {"model_type"})}
    return {name: value for name, value in kept.items() if name not in UNSAVED}


def restore_native_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the native model that a model was made from, with the special tokens of now."""
    native_config: dict[str, Any] = {
        name: value for name, value in config.native_config.items() if name not in SOURCE_FIELDS
    }
    tokens = {name: getattr(config, name) for name in TOKEN_IDS if getattr(config, name) is not None}
    native_class = next(known for known in NATIVE_CLASSES if known.model_type == native_config["model_type"])
    return native_class.from_dict({**native_config, **tokens, "vocab_size": config.vocab_size})


# What `native_config` says of the source beside its fields.
SOURCE_FIELDS = ("_name_or_path", "license", "license_name", "license_link")

__all__ = [
    "NATIVE_CLASSES",
    "check_native",
    "find_obstacle",
    "restore_native_config",
    "save_native_config",
    "translate_layers",
]
