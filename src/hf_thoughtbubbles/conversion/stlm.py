# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Conversion of byte-level and generic models of the tiny-models library (SuperTinyLanguageModels, PyTorch)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..configuration.configuration_byte_patch import CORE_SIZES, BytePatchConfig, BytePatchCoreView
from ..configuration.configuration_generic_transformer import GenericTransformerConfig
from ..modeling.byte_patch.modeling_byte_patch import BytePatchForCausalLM
from ..modeling.generic_transformer.modeling_generic_transformer import GenericTransformerForCausalLM
from .state_dicts import copy_parameters


NUM_BYTE_HEADS, NUM_ENCODER_LAYERS, NUM_DECODER_LAYERS = 8, 4, 7  # fixed in the original
IGNORED_TARGET = 257  # of its auxiliary loss (docs/reference_behaviour.md, "Byte-level models", B2)
ACTIVATIONS = {"leakyrelu": "leaky_relu", None: "none"}
POSITIONS = {"learned": "learned", "sincos": "sinusoidal", "rope": "rope", "none": "none"}
EMBEDDING, OUTPUT = "embedding_model.token_embedder.weight", "model_head.linear.weight"

# Names in the original's state that are not parameters: the tables of rotary and sinusoidal positions.
UNUSED = ("core_model.freqs_cis", "embedding_model.positional_encodings.pe")


def translate_core(model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the original's configuration of a core."""
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


def check_keys(model_cfg: Mapping[str, Any], needed: set[str], what: str):
    """Raise for a configuration without a needed key."""
    missing = sorted(needed - set(model_cfg))
    if missing:
        raise ValueError(f"`model_cfg` lacks {missing}. Pass the original's configuration of {what}.")


def byte_patch_config_from_stlm(model_cfg: Mapping[str, Any]) -> BytePatchConfig:
    """
    Translate the configuration of the original's byte-level model.

    Args:
        model_cfg (`Mapping`): `hidden_dim context_window positional_encoding_type core_model byte_vocab_size
            byte_embedding_dim byte_context_window`, as the original's; other keys are ignored.

    Returns:
        [`BytePatchConfig`] with the published layers and decoder, and the original's auxiliary loss.

    Raises:
        `ValueError`: for missing keys; names them.
    """
    needed = {"hidden_dim", "context_window", "positional_encoding_type", "core_model"}
    needed |= {"byte_vocab_size", "byte_embedding_dim", "byte_context_window"}
    check_keys(model_cfg, needed, "a byte-level model")
    is_rotary = model_cfg["positional_encoding_type"] == "rope"  # the only kind that its byte level has
    core = {f"core_{name}" if name in CORE_SIZES else name: value for name, value in translate_core(model_cfg).items()}
    return BytePatchConfig(
        **core,
        vocab_size=model_cfg["byte_vocab_size"],
        max_position_embeddings=model_cfg["context_window"] * model_cfg["byte_context_window"],
        position_embedding="rope" if is_rotary else "none",
        final_normalization="none",
        patching="token",
        max_patch_bytes=model_cfg["byte_context_window"],
        decoder="parallel",
        byte_layers="published",
        hidden_size=model_cfg["byte_embedding_dim"],
        num_attention_heads=NUM_BYTE_HEADS,
        num_hidden_layers=NUM_DECODER_LAYERS,
        encoder_num_hidden_layers=NUM_ENCODER_LAYERS,
        reconstruction_loss_weight=1.0,
        reconstruction_ignore_id=IGNORED_TARGET,
    )


def replace_weight(names: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The names of the biases that belong to weights."""
    if isinstance(names, tuple):
        return tuple(map(replace_weight, names))
    return names.removesuffix("weight") + "bias"


def with_biases(names: dict, has_bias: bool) -> dict:
    """The names of weights, and of their biases if `has_bias`."""
    return names | {replace_weight(name): replace_weight(ours) for name, ours in names.items() if has_bias}


def list_attention(theirs: str, ours: str, has_bias: bool = False) -> dict:
    """Names of one attention; queries, keys and values of the original are one matrix."""
    names = {
        f"{theirs}.c_attn.weight": tuple(f"{ours}.{part}_proj.weight" for part in "qkv"),
        f"{theirs}.c_proj.weight": f"{ours}.o_proj.weight",
    }
    return with_biases(names, has_bias)


def list_feed_forward(theirs: str, ours: str, has_gate: bool = False, has_bias: bool = False) -> dict:
    """Names of one feed-forward layer."""
    names = {
        f"{theirs}.linear_1.weight": f"{ours}.{'gate' if has_gate else 'up'}_proj.weight",
        f"{theirs}.linear_2.weight": f"{ours}.down_proj.weight",
    }
    if has_gate:
        names[f"{theirs}.linear_3.weight"] = f"{ours}.up_proj.weight"
    return with_biases(names, has_bias)


def list_norm(theirs: str, ours: str, kind: str = "rms_norm", has_bias: bool = False) -> dict:
    """Names of one norm; none without parameters."""
    if kind == "none":
        return {}
    return with_biases({f"{theirs}.weight": f"{ours}.weight"}, has_bias and kind == "layer_norm")


def list_byte_layer(theirs: str, ours: str) -> dict:
    """Names of one layer over bytes."""
    names = list_norm(f"{theirs}.attn_norm", f"{ours}.input_layernorm")
    names |= list_attention(f"{theirs}.attn", f"{ours}.self_attn")
    names |= list_norm(f"{theirs}.ffn_norm", f"{ours}.post_attention_layernorm")
    return names | list_feed_forward(f"{theirs}.ffn", f"{ours}.mlp")


def list_core(config: GenericTransformerConfig | BytePatchCoreView) -> dict[str, str | tuple[str, ...]]:
    """Names of a core's parameters; shared ones by their names in the first layer."""
    names, has_gate = {}, config.feed_forward == "swiglu"
    for i in range(config.num_hidden_layers):
        theirs, ours = f"core_model.transformer.h.{i}", f"model.core.layers.{i}"
        attention_norm, mlp_norm = config.attention_normalization, config.mlp_normalization
        names |= list_norm(f"{theirs}.attn_norm", f"{ours}.input_layernorm", attention_norm, config.attention_bias)
        names |= list_attention(f"{theirs}.attn", f"{ours}.self_attn", config.attention_bias)
        names |= list_norm(f"{theirs}.ffn_norm", f"{ours}.post_attention_layernorm", mlp_norm, config.mlp_bias)
        if i == 0 or not config.share_feed_forward:
            mlp = "model.core.shared_mlp" if config.share_feed_forward else f"{ours}.mlp"
            names |= list_feed_forward(f"{theirs}.ffn", mlp, has_gate, config.mlp_bias)
    if config.hidden_act == "learned" and not has_gate:
        for part, prefix in (("fc1", "up"), ("fc2", "down")):
            for kind in ("weight", "bias"):
                theirs = f"core_model.transformer.h.0.ffn.activation.{part}.{kind}"
                names[theirs] = f"model.core.act_fn.{prefix}_{kind}"
    return names


def find_copies(state_dict: Mapping[str, Any], num_layers: int, part: str) -> dict[str, str]:
    """Map names below `core_model.transformer.h.i.{part}` of later layers to those of the first layer."""
    copies = {}
    for i in range(1, num_layers):
        start, first = f"core_model.transformer.h.{i}.{part}", f"core_model.transformer.h.0.{part}"
        copies |= {name: first + name.removeprefix(start) for name in state_dict if name.startswith(start)}
    return copies


def are_equal(state_dict: Mapping[str, Any], copies: Mapping[str, str]) -> bool:
    """Whether every copy equals its original."""
    return all(
        first in state_dict and torch.equal(torch.as_tensor(state_dict[name]), torch.as_tensor(state_dict[first]))
        for name, first in copies.items()
    )


def remove_curve_copies(state_dict: Mapping[str, Any], num_layers: int) -> dict[str, Any]:
    """The state with the learned activation, which all layers share, in the first layer only."""
    copies = find_copies(state_dict, num_layers, "ffn.activation.")
    if not are_equal(state_dict, copies):
        raise ValueError(
            "`state_dict` has learned activations that differ between layers, but the original has one for all. Pass "
            "the `state_dict()` of one model."
        )
    return {name: value for name, value in state_dict.items() if name not in copies}


def list_byte_patch_parameters(config: BytePatchConfig) -> dict[str, str | tuple[str, ...]]:
    """Map each name in the original's state to the names of our parameters."""
    names = {
        "embedding_model.byte_token_embedder.weight": "model.embed_tokens.weight",
        "embedding_model.pos_encoder.pe.weight": "model.byte_encoder.positions.weight",
        "model_head.projection.weight": "model.byte_decoder.projection.weight",
        "model_head.pos_encoder.pe.weight": "model.byte_decoder.positions.weight",
        "model_head.lm_head.weight": "lm_head.weight",
    }
    for i in range(config.encoder_num_hidden_layers):
        names |= list_byte_layer(f"embedding_model.transformer.{i}", f"model.byte_encoder.layers.{i}")
    for i in range(config.num_hidden_layers):
        names |= list_byte_layer(f"model_head.transformer.{i}", f"model.byte_decoder.layers.{i}")
    return names | list_core(config.core_config)


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
    state_dict = remove_curve_copies(state_dict, config.core_num_hidden_layers)
    model = BytePatchForCausalLM(config)
    nn.init.zeros_(model.model.initial_state)
    copy_parameters(model, list_byte_patch_parameters(config), state_dict, "these `model_cfg`", set(UNUSED))
    return model.eval()


def generic_config_from_stlm(model_cfg: Mapping[str, Any], **changes) -> GenericTransformerConfig:
    """
    Translate the configuration of the original's generic model.

    Args:
        model_cfg (`Mapping`): `hidden_dim context_window vocab_size positional_encoding_type core_model lm_head`, as
            the original's; other keys are ignored.
        changes: values of fields that the original's configuration does not have.

    Returns:
        [`GenericTransformerConfig`]

    Raises:
        `ValueError`: for missing keys and unknown positions; names them.
    """
    needed = {"hidden_dim", "context_window", "vocab_size", "positional_encoding_type", "core_model", "lm_head"}
    check_keys(model_cfg, needed, "a generic model")
    positions, head = model_cfg["positional_encoding_type"], model_cfg["lm_head"]
    if positions not in POSITIONS:
        raise ValueError(
            f"`model_cfg` has `positional_encoding_type` {positions!r}; it must be one of {sorted(POSITIONS)}."
        )
    return GenericTransformerConfig(
        **translate_core(model_cfg),
        vocab_size=model_cfg["vocab_size"],
        max_position_embeddings=model_cfg["context_window"],
        position_embedding=POSITIONS[positions],
        final_normalization=head["normalization"],
        head_bias=head["bias"],
        **changes,
    )


def list_generic_parameters(config: GenericTransformerConfig) -> dict[str, str | tuple[str, ...]]:
    """Map each name in the original's state to the names of our parameters."""
    names = {EMBEDDING: "model.embed_tokens.weight", **list_core(config)}
    if config.position_embedding == "learned":
        names["embedding_model.positional_encodings.pe.weight"] = "model.core.positions.table.weight"
    names |= list_norm("model_head.layer_norm", "model.norm", config.final_normalization, config.head_bias)
    names |= with_biases({OUTPUT: "lm_head.weight"}, config.head_bias)
    if config.tie_word_embeddings:
        del names[OUTPUT]
    return names


def generic_transformer_from_stlm(
    state_dict: Mapping[str, Any], model_cfg: Mapping[str, Any]
) -> GenericTransformerForCausalLM:
    """
    Build our model with the weights of the original's generic model.

    Shared weights are detected by their values, because the original's configuration may not name them: one
    feed-forward layer when those of all layers are equal, tied embeddings when the output matrix equals the embedding
    matrix. The state needs only one copy of shared weights.

    Args:
        state_dict (`Mapping[str, Tensor or array]`): the `state_dict()` of its shell.
        model_cfg (`Mapping`): its configuration, see [`generic_config_from_stlm`].

    Returns:
        [`GenericTransformerForCausalLM`] in evaluation mode.

    Raises:
        `ValueError`: when keys or shapes do not fit the configuration; names them.
    """
    num_layers = generic_config_from_stlm(model_cfg).num_hidden_layers
    state_dict = remove_curve_copies(state_dict, num_layers)
    layers, tied = find_copies(state_dict, num_layers, "ffn."), {OUTPUT: EMBEDDING}
    is_tied = OUTPUT not in state_dict or are_equal(state_dict, tied)
    is_shared = num_layers > 1 and are_equal(state_dict, layers)
    config = generic_config_from_stlm(model_cfg, share_feed_forward=is_shared, tie_word_embeddings=is_tied)
    copies = {*(layers if is_shared else ()), *(tied if is_tied else ())}
    model = GenericTransformerForCausalLM(config)
    names = list_generic_parameters(config)
    copy_parameters(model, names, state_dict, "these `model_cfg`", {*UNUSED, *copies})
    return model.eval()


__all__ = [
    "byte_patch_config_from_stlm",
    "byte_patch_from_stlm",
    "generic_config_from_stlm",
    "generic_transformer_from_stlm",
    "list_byte_patch_parameters",
    "list_generic_parameters",
]
