# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Conversion of checkpoints of the original Thinker (PyTorch, `ToyThinker`)."""

from collections.abc import Mapping
from typing import Any, Literal

from ..configuration.configuration_looped_thinker import LoopedThinkerConfig
from ..modeling.looped_thinker.modeling_looped_thinker import LoopedThinkerForConditionalGeneration
from .state_dicts import copy_parameters


# Key of the original to the field of our configuration.
FIELDS = {
    "vocab_size": "vocab_size",
    "max_latent": "max_latents",
    "max_input_len": "max_position_embeddings",
    "max_output_len": "max_answer_length",
    "d_model": "hidden_size",
    "nhead": "num_attention_heads",
    "d_hid": "intermediate_size",
    "nlayers": "num_hidden_layers",
    "n_probe": "num_probes",
    "static_mem_len": "static_memory_size",
    "skip_self_attn": "skip_self_attention",
    "ff_in_self_attn": "self_attention_mlp",
    "rank": "low_rank",
}
OPTIONAL_FIELDS = {"n_probe", "static_mem_len", "skip_self_attn", "ff_in_self_attn", "rank"}
IGNORED_FIELDS = {"dropout"}  # stored by the original, never applied

# Entries of the original's state that it never uses, or that our model computes.
UNUSED = {"embd_in_pos.weight", "pos_encoder.pe"}
NUM_LATENTS, NUM_STEPS = 8, 1  # defaults of the original

TABLES = {
    "embd_vocab.weight": "model.embed_tokens.weight",
    "embd_latent.weight": "model.latents.weight",
    "embd_out_pos.weight": "model.answer_positions.weight",
    "emb_static_mem.weight": "model.static_memory.weight",
    "probe_proj.weight": "probe.weight",
    "probe_proj.bias": "probe.bias",
    "attn_compute.norm.weight": "model.block.norm.weight",
}
NORMS = {
    "norm1": "self_attn_layernorm",
    "norm2": "cross_attn_layernorm",
    "norm3": "mlp_layernorm",
    "norm4": "self_attn_mlp_layernorm",
}
MLPS = {"ff": "mlp", "ff_sa": "self_attn_mlp"}
MLP_PARTS = {"w1": "gate_proj", "w2": "up_proj", "w3": "down_proj"}
ATTENTIONS = {"sa": "self_attn", "mha": "cross_attn"}
LOW_RANK_PARTS = {"": "", ".0": ".down_proj", ".1": ".up_proj"}


def config_from_toythinker(
    model_kwargs: Mapping[str, Any], readout: Literal["autoregressive", "parallel"] = "autoregressive"
) -> LoopedThinkerConfig:
    """
    Translate the arguments of the original model.

    Args:
        model_kwargs (`Mapping`): `vocab_size max_latent max_input_len max_output_len d_model nhead d_hid nlayers` and
            optionally `n_probe static_mem_len skip_self_attn ff_in_self_attn rank`.
        readout (`str`): the original chooses it at every call, our model in the configuration.

    Returns:
        [`LoopedThinkerConfig`], with the original's single position frequency.

    Raises:
        `ValueError`: for unknown or missing keys; names them.
    """
    unknown = sorted(set(model_kwargs) - set(FIELDS) - IGNORED_FIELDS)
    missing = sorted(set(FIELDS) - OPTIONAL_FIELDS - set(model_kwargs))
    if unknown or missing:
        raise ValueError(
            f"`model_kwargs` has unknown keys {unknown} and lacks {missing}. Remove or add them; the keys are "
            f"{sorted(FIELDS)}, of which {sorted(OPTIONAL_FIELDS)} are optional."
        )
    fields = {FIELDS[key]: value for key, value in model_kwargs.items() if key in FIELDS}
    return LoopedThinkerConfig(
        **fields,
        num_latents=min(NUM_LATENTS, fields["max_latents"]),
        num_steps=NUM_STEPS,
        readout=readout,
        position_frequencies="single",
    )


def list_parameters(config: LoopedThinkerConfig) -> dict[str, str]:
    """Map each name in the original's state of a configuration to the name of our parameter."""
    absent = set()
    if config.static_memory_size == 0:
        absent.add("emb_static_mem.weight")
    if config.num_probes == 0:
        absent |= {"probe_proj.weight", "probe_proj.bias"}
    if config.num_hidden_layers == 1:
        absent.add("attn_compute.norm.weight")
    names = {theirs: ours for theirs, ours in TABLES.items() if theirs not in absent}
    ranks = {"": ""} if config.low_rank is None or config.low_rank >= config.hidden_size else {".0": "", ".1": ""}
    has_self_attention = not config.skip_self_attention
    has_self_attention_mlp = has_self_attention and config.self_attention_mlp
    for i in range(config.num_hidden_layers):
        theirs = "attn_compute" if config.num_hidden_layers == 1 else f"attn_compute.layers.{i}"
        ours = f"model.block.layers.{i}"
        for norm, our_norm in NORMS.items():
            if (norm != "norm1" or has_self_attention) and (norm != "norm4" or has_self_attention_mlp):
                names[f"{theirs}.{norm}.weight"] = f"{ours}.{our_norm}.weight"
        for mlp, our_mlp in MLPS.items():
            if mlp == "ff" or has_self_attention_mlp:
                for part, our_part in MLP_PARTS.items():
                    names[f"{theirs}.{mlp}.{part}.weight"] = f"{ours}.{our_mlp}.{our_part}.weight"
        for attention, our_attention in ATTENTIONS.items():
            if attention == "mha" or has_self_attention:
                for part in "qkvo":
                    for rank in ranks:
                        name = f"{theirs}.{attention}_{part}_proj.fn{rank}.weight"
                        names[name] = f"{ours}.{our_attention}.{part}_proj{LOW_RANK_PARTS[rank]}.weight"
    return names


def looped_thinker_from_toythinker(
    state_dict: Mapping[str, Any],
    model_kwargs: Mapping[str, Any],
    readout: Literal["autoregressive", "parallel"] = "autoregressive",
) -> LoopedThinkerForConditionalGeneration:
    """
    Build our model with the weights of an original `ToyThinker`.

    Args:
        state_dict (`Mapping[str, Tensor or array]`): the original's `state_dict()`, with or without its position
            buffer.
        model_kwargs (`Mapping`): the arguments that the original was built with, see [`config_from_toythinker`].
        readout (`str`): `"autoregressive"` for models trained with `is_output_ar` or `is_full_ar`, else `"parallel"`.

    Returns:
        [`LoopedThinkerForConditionalGeneration`] in evaluation mode.

    Raises:
        `ValueError`: when keys or shapes do not fit the arguments; names them.
    """
    config = config_from_toythinker(model_kwargs, readout)
    is_empty = len(state_dict.get("emb_static_mem.weight", ())) == 0  # the original saves an empty table
    model = LoopedThinkerForConditionalGeneration(config)
    ignored = UNUSED | ({"emb_static_mem.weight"} if is_empty else set())
    copy_parameters(model, list_parameters(config), state_dict, "these `model_kwargs`", ignored)
    return model.eval()


__all__ = ["config_from_toythinker", "list_parameters", "looped_thinker_from_toythinker"]
