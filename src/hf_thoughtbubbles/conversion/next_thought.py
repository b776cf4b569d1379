# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Conversion of next-thought models of the tiny-models library (SuperTinyLanguageModels, PyTorch).

The published parts of the original do not run together (docs/reference_behaviour.md, "Next-thought models", N1 to N3).
So a state has the parameters of three parts: the encoder's under `enc.`, the core's under `core.`, the decoder's under
`dec.`.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ..configuration.configuration_next_thought import NextThoughtConfig
from ..modeling.next_thought.modeling_next_thought import NextThoughtForConditionalGeneration
from .state_dicts import copy_parameters
from .stlm import ACTIVATIONS, check_keys, list_attention, list_feed_forward, list_norm, with_biases


NUM_POOLING_HEADS = 12  # fixed in the original (N5)
SHARE_SPELLINGS = ("pct_pool_per_layer", "pooling_pct_per_layer")  # its code's and its files' (N2)
POSITIONS = {"learned": "learned", "sincos": "sinusoidal", "none": "none", "rope": "none"}
CORE_KEY, BLOCK_CORE_KEY = "core.model.0.weight", "core.conv1.weight"
NUM_BLOCK_LAYERS = 3


def read_removed_shares(embedder: Mapping[str, Any]) -> list[float]:
    """The shares that pooling layers remove, by either of their names (N2)."""
    given = {name: list(embedder[name]) for name in SHARE_SPELLINGS if name in embedder}
    if not given:
        raise ValueError(f"`model_cfg` lacks the embedder's {' or '.join(map(repr, SHARE_SPELLINGS))}. Pass one.")
    if len({tuple(shares) for shares in given.values()}) > 1:
        raise ValueError(f"`model_cfg` has an embedder with {given}, two names of one setting. Remove one.")
    return next(iter(given.values()))


def _read_blocks(model_cfg: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of each side's blocks, and the fields that both sides share."""
    own, shared = {}, {}
    for side, part, is_causal in (("encoder", "embedder", False), ("decoder", "lm_head", True)):
        attention, feed_forward = (model_cfg[part][f"standard_{kind}_block"] for kind in ("attn", "ffn"))
        if bool(attention["is_causal"]) != is_causal:
            raise ValueError(
                f"`model_cfg` has `is_causal` {attention['is_causal']} in the attention of its {part}; it must be "
                f"{is_causal}, as in our {side}."
            )
        num_heads, activation = attention["num_heads"], feed_forward.get("activation")
        own |= {
            f"{side}_attention_heads": num_heads,
            f"{side}_key_value_heads": num_heads // attention.get("group_size", 1),
            f"{side}_ffn_dim": feed_forward["ffn_dim"],
        }
        shared[part] = {
            "feed_forward": "swiglu" if feed_forward["ffn_type"] == "swiglu" else "mlp",
            "hidden_act": "gelu" if feed_forward["ffn_type"] == "swiglu" else ACTIVATIONS.get(activation, activation),
            "attention_normalization": attention["normalization"],
            "mlp_normalization": feed_forward["normalization"],
            "attention_bias": attention["bias"],
            "mlp_bias": feed_forward["bias"],
        }
    if shared["embedder"] != shared["lm_head"]:
        raise ValueError(
            f"`model_cfg` has blocks of two kinds, {shared}. Encoder and decoder may differ only in their heads and "
            "feed-forward widths."
        )
    return own, shared["embedder"]


def next_thought_config_from_stlm(
    model_cfg: Mapping[str, Any], core: str = "mlp", core_block_sizes: list[int] | None = None
) -> NextThoughtConfig:
    """
    Translate the configuration of the original's next-thought model.

    Args:
        model_cfg (`Mapping`): `embedder lm_head latent_dim embedding_dim hidden_dim context_window vocab_size
            positional_encoding_type`, as the original's; other keys are ignored.
        core (`str`), core_block_sizes (`list[int]`, *optional*): see [`NextThoughtConfig`]; they are not in the
            original's configuration, but follow from its parameters.

    Returns:
        [`NextThoughtConfig`]

    Raises:
        `ValueError`: for missing keys, sizes that contradict each other, different shares under their two names, and
            blocks that our model does not have.
    """
    needed = {"embedder", "lm_head", "latent_dim", "embedding_dim", "hidden_dim"}
    needed |= {"context_window", "vocab_size", "positional_encoding_type"}
    check_keys(model_cfg, needed, "a next-thought model")
    embedder, lm_head = model_cfg["embedder"], model_cfg["lm_head"]
    sizes = list(embedder["pooling_dims"])
    widths = {"hidden_dim": model_cfg["hidden_dim"], "embedding_dim": model_cfg["embedding_dim"]}
    if set(widths.values()) != {sizes[0]} or model_cfg["latent_dim"] != sizes[-1]:
        raise ValueError(
            f"`model_cfg` has `pooling_dims` {sizes}, but {widths} and `latent_dim` {model_cfg['latent_dim']}. The "
            "first of `pooling_dims` must equal both widths, and the last must equal `latent_dim`."
        )
    position = model_cfg["positional_encoding_type"]
    if position not in POSITIONS:
        raise ValueError(f"`model_cfg` has `positional_encoding_type` {position!r}; it must be one of {[*POSITIONS]}.")
    own, shared = _read_blocks(model_cfg)
    blocks = {} if core_block_sizes is None else {"core_block_sizes": core_block_sizes}
    return NextThoughtConfig(
        **own,
        **shared,
        **blocks,
        core=core,
        vocab_size=model_cfg["vocab_size"],
        hidden_size=sizes[0],
        pooling_sizes=sizes[1:],
        removed_shares=read_removed_shares(embedder),
        num_pooling_heads=NUM_POOLING_HEADS,
        num_encoder_layers=1,
        num_decoder_layers=lm_head["num_layers"],
        num_latent_tokens=lm_head["latent_decoded_into"],
        position_embedding=POSITIONS[position],
        max_position_embeddings=model_cfg["context_window"],
    )


def list_written_out_attention(theirs: str, ours: str) -> dict[str, str]:
    """Names of the projections of a pooling layer's attention."""
    parts = {"query_proj": "q_proj", "key_proj": "k_proj", "value_proj": "v_proj", "out_proj": "o_proj"}
    return with_biases({f"{theirs}.{name}.weight": f"{ours}.{part}.weight" for name, part in parts.items()}, True)


def list_pooling_layer(theirs: str, ours: str) -> dict[str, str]:
    """Names of the parameters of one pooling layer."""
    parts = {
        "norm1": "attention_layernorm",
        "ffn.0": "up_proj",
        "ffn.2": "down_proj",
        "norm2": "output_layernorm",
    }
    names = with_biases({f"{theirs}.{name}.weight": f"{ours}.{part}.weight" for name, part in parts.items()}, True)
    return names | list_written_out_attention(f"{theirs}.attention", f"{ours}.attention")


def list_predictor(config: NextThoughtConfig) -> dict[str, str]:
    """Names of the parameters of the core."""
    if config.core == "mlp":
        weights = {CORE_KEY: "model.core.up_proj.weight", "core.model.2.weight": "model.core.down_proj.weight"}
    else:
        num_layers = len(config.core_block_sizes)
        weights = {f"core.conv{i + 1}.weight": f"model.core.layers.{i}.weight" for i in range(num_layers)}
    return with_biases(weights, True)


def list_block(config: NextThoughtConfig, theirs: str, ours: str) -> dict[str, str | tuple[str, ...]]:
    """Names of the parameters of one layer of encoder or decoder."""
    norms = (config.attention_normalization, config.attention_bias), (config.mlp_normalization, config.mlp_bias)
    names = list_norm(f"{theirs}.attn_norm", f"{ours}.input_layernorm", *norms[0])
    names |= list_attention(f"{theirs}.attn", f"{ours}.self_attn", config.attention_bias)
    names |= list_norm(f"{theirs}.ffn_norm", f"{ours}.post_attention_layernorm", *norms[1])
    has_gate = config.feed_forward == "swiglu"
    return names | list_feed_forward(f"{theirs}.ffn", f"{ours}.mlp", has_gate, config.mlp_bias)


def list_next_thought_parameters(config: NextThoughtConfig) -> dict[str, str | tuple[str, ...]]:
    """Map each name in the original's state to the names of our parameters."""
    names = {
        "enc.token_embedder.weight": "model.embed_tokens.weight",
        "dec.latent_decoder.weight": "model.decoder.latent_decoder.projection.weight",
        "dec.lm_head.weight": "lm_head.weight",
        **list_predictor(config),
    }
    if config.position_embedding == "learned":
        names["enc.positional_encodings.pe.weight"] = "model.positions.table.weight"
    stacks = {"enc.standard_transformer": "encoder", "dec.autoregressive_transformer": "decoder"}
    for theirs, side in stacks.items():
        for i in range(getattr(config, f"num_{side}_layers")):
            names |= list_block(config, f"{theirs}.{i}", f"model.{side}.stack.layers.{i}")
    for i in range(len(config.pooling_sizes)):
        names |= list_pooling_layer(f"enc.pooling_transformer.{i}", f"model.encoder.pooling_layers.{i}")
    return names


def _check_shared(state_dict: Mapping[str, Any]) -> set[str]:
    """The names of the modules that decoder and encoder share; raises when their values differ."""
    prefixes = ("dec.token_embedder.", "dec.positional_encodings.")
    names = {name for name in state_dict if name.startswith(prefixes)}
    for name in names:
        own = state_dict.get("enc." + name.removeprefix("dec."))
        if own is not None and not torch.equal(torch.as_tensor(own), torch.as_tensor(state_dict[name])):
            raise ValueError(
                f"`state_dict` has other values in {name} than in the encoder, but they are one module in the "
                "original. Pass the state of parts of one model."
            )
    return names


def next_thought_from_stlm(
    state_dict: Mapping[str, Any], model_cfg: Mapping[str, Any]
) -> NextThoughtForConditionalGeneration:
    """
    Build our model with the weights of the original's next-thought model.

    Args:
        state_dict (`Mapping[str, Tensor or array]`): the `state_dict()` of its encoder, core and decoder, with the
            prefixes `enc.`, `core.` and `dec.`. The core may be either of the original's two.
        model_cfg (`Mapping`): its configuration, see [`next_thought_config_from_stlm`].

    Returns:
        [`NextThoughtForConditionalGeneration`] in evaluation mode. Its configuration has no special tokens: set
        `decoder_start_token_id`, `pad_token_id` and `eos_token_id` before `labels` or `generate`.

    Raises:
        `ValueError`: when keys or shapes do not fit the configuration; names them.
    """
    core = {}
    if BLOCK_CORE_KEY in state_dict and CORE_KEY not in state_dict:
        names = [f"core.conv{i + 1}.weight" for i in range(NUM_BLOCK_LAYERS)]
        sizes = [len(state_dict[name]) for name in names if name in state_dict]
        core = {"core": "block_linear", "core_block_sizes": sizes}
    config = next_thought_config_from_stlm(model_cfg, **core)
    model = NextThoughtForConditionalGeneration(config)
    ignored = _check_shared(state_dict) | {"enc.positional_encodings.pe"}  # a table of sines
    copy_parameters(model, list_next_thought_parameters(config), state_dict, "these `model_cfg`", ignored)
    return model.eval()


__all__ = ["list_next_thought_parameters", "next_thought_config_from_stlm", "next_thought_from_stlm"]
