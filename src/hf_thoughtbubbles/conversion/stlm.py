# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How does a checkpoint of the tiny-models library (SuperTinyLanguageModels, PyTorch) become ours?"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..configuration.configuration_byte_patch import BytePatchConfig
from ..modeling.modeling_byte_patch import BytePatchForCausalLM
from .state_dicts import copy_parameters


NUM_BYTE_HEADS, NUM_ENCODER_LAYERS, NUM_DECODER_LAYERS = 8, 4, 7  # fixed in the original
IGNORED_TARGET = 257  # of its auxiliary loss (SPEC quirk B2)
ACTIVATIONS = {"leakyrelu": "leaky_relu", None: "none"}

# What the original's state may hold beside the parameters: the tables of rotary and sinusoidal positions.
UNUSED = ("core_model.freqs_cis", "embedding_model.positional_encodings.pe")


def translate_core(model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a core's configuration (SPEC section 3) from the original's."""
    core = model_cfg["core_model"]
    attention, feed_forward = core["attn"], core["ffn"]
    activation = feed_forward.get("activation")
    return {
        "hidden_size": model_cfg["hidden_dim"],
        "num_hidden_layers": core["num_layers"],
        "num_attention_heads": attention["num_heads"],
        "num_key_value_heads": attention["num_heads"] // attention.get("group_size", 1),
        "intermediate_size": feed_forward["ffn_dim"],
        "feed_forward": "swiglu" if feed_forward["ffn_type"] == "swiglu" else "mlp",
        "hidden_act": ACTIVATIONS.get(activation, activation),
        "attention_normalization": attention["normalization"],
        "mlp_normalization": feed_forward["normalization"],
        "attention_bias": attention["bias"],
        "mlp_bias": feed_forward["bias"],
        "is_causal": attention["is_causal"],
    }


def byte_patch_config_from_stlm(model_cfg: Mapping[str, Any]) -> BytePatchConfig:
    """
    Translate the configuration of the original's byte-level model.

    Args:
        model_cfg (`Mapping`): `hidden_dim context_window positional_encoding_type core_model byte_vocab_size
            byte_embedding_dim byte_context_window`, as the original's; what else it has plays no part.

    Returns:
        [`BytePatchConfig`] with the published layers and decoder, and the original's auxiliary loss.

    Raises:
        `ValueError`: for keys that are missing; names them.
    """
    needed = {"hidden_dim", "context_window", "positional_encoding_type", "core_model"}
    needed |= {"byte_vocab_size", "byte_embedding_dim", "byte_context_window"}
    missing = sorted(needed - set(model_cfg))
    if missing:
        raise ValueError(f"`model_cfg` lacks {missing}; give the original's configuration of a byte-level model.")
    is_rotary = model_cfg["positional_encoding_type"] == "rope"  # the only kind that its byte level reads
    return BytePatchConfig(
        **translate_core(model_cfg),
        vocab_size=model_cfg["byte_vocab_size"],
        max_position_embeddings=model_cfg["context_window"] * model_cfg["byte_context_window"],
        position_embedding="rope" if is_rotary else "none",
        final_normalization="none",
        patching="token",
        max_patch_bytes=model_cfg["byte_context_window"],
        decoder="parallel",
        byte_layers="published",
        byte_hidden_size=model_cfg["byte_embedding_dim"],
        num_byte_attention_heads=NUM_BYTE_HEADS,
        num_byte_encoder_layers=NUM_ENCODER_LAYERS,
        num_byte_decoder_layers=NUM_DECODER_LAYERS,
        reconstruction_loss_weight=1.0,
        reconstruction_ignore_id=IGNORED_TARGET,
    )


def replace_weight(names: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The bias that goes with a weight."""
    if isinstance(names, tuple):
        return tuple(map(replace_weight, names))
    return names.removesuffix("weight") + "bias"


def list_layer(theirs: str, ours: str, has_gate: bool = False, biases: tuple[bool, bool] = (False, False)):
    """Names of one layer's parameters; queries, keys and values of the original are one matrix."""
    names = {
        f"{theirs}.attn_norm.weight": f"{ours}.input_layernorm.weight",
        f"{theirs}.attn.c_attn.weight": tuple(f"{ours}.self_attn.{part}_proj.weight" for part in "qkv"),
        f"{theirs}.attn.c_proj.weight": f"{ours}.self_attn.o_proj.weight",
        f"{theirs}.ffn_norm.weight": f"{ours}.post_attention_layernorm.weight",
        f"{theirs}.ffn.linear_1.weight": f"{ours}.mlp.{'gate' if has_gate else 'up'}_proj.weight",
        f"{theirs}.ffn.linear_2.weight": f"{ours}.mlp.down_proj.weight",
    }
    if has_gate:
        names[f"{theirs}.ffn.linear_3.weight"] = f"{ours}.mlp.up_proj.weight"
    attention_bias, mlp_bias = biases
    for their_name, our_name in list(names.items()):
        if mlp_bias if ".ffn" in their_name else attention_bias:
            names[replace_weight(their_name)] = replace_weight(our_name)
    return names


def list_byte_patch_parameters(config: BytePatchConfig) -> dict[str, str | tuple[str, ...]]:
    """Every name that the original's state must have for a configuration, to the names of our parameters."""
    names = {
        "embedding_model.byte_token_embedder.weight": "model.embed_tokens.weight",
        "embedding_model.pos_encoder.pe.weight": "model.byte_encoder.positions.weight",
        "model_head.projection.weight": "byte_decoder.projection.weight",
        "model_head.pos_encoder.pe.weight": "byte_decoder.positions.weight",
        "model_head.lm_head.weight": "lm_head.weight",
    }
    for i in range(config.num_byte_encoder_layers):
        names |= list_layer(f"embedding_model.transformer.{i}", f"model.byte_encoder.layers.{i}")
    for i in range(config.num_byte_decoder_layers):
        names |= list_layer(f"model_head.transformer.{i}", f"byte_decoder.layers.{i}")
    for i in range(config.num_hidden_layers):
        names |= list_layer(
            f"core_model.transformer.h.{i}",
            f"model.core.layers.{i}",
            config.feed_forward == "swiglu",
            (config.attention_bias, config.mlp_bias),
        )
    return names


def byte_patch_from_stlm(state_dict: Mapping[str, Any], model_cfg: Mapping[str, Any]) -> BytePatchForCausalLM:
    """
    Build our model with the weights of the original's byte-level model.

    Args:
        state_dict (`Mapping[str, Tensor or array]`): the `state_dict()` of its shell.
        model_cfg (`Mapping`): its configuration, see [`byte_patch_config_from_stlm`].

    Returns:
        [`BytePatchForCausalLM`] in evaluation mode. `model(patch_input_ids=...)` computes what the original does. The
        original has no state for bytes before the first finished patch; ours starts at 0 there.

    Raises:
        `ValueError`: when keys or shapes do not fit the configuration; names them.
    """
    config = byte_patch_config_from_stlm(model_cfg)
    model = BytePatchForCausalLM(config)
    nn.init.zeros_(model.model.initial_state)
    copy_parameters(model, list_byte_patch_parameters(config), state_dict, "these `model_cfg`", set(UNUSED))
    return model.eval()


__all__ = ["byte_patch_config_from_stlm", "byte_patch_from_stlm", "list_byte_patch_parameters"]
