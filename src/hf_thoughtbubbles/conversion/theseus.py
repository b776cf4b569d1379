# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Conversion of checkpoints of the reference implementation (theseus, JAX) to Thoughtbubbles."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from ..modeling.thoughtbubbles.modeling_thoughtbubbles import ThoughtbubblesForCausalLM


# Defaults of the reference for keys that a configuration leaves out (theseus a85f1c4).
ARCHITECTURE_DEFAULTS = {
    "n_layers": 32,
    "n_embd": 2048,
    "n_head": 16,
    "vocab_size": 100288,
    "block_size": 512,
    "max_block_size": 1024,
    "fork": (3, 6, 9),
    "bias": True,
    "use_fork_channel": True,
    "rope": True,
    "intermediate_size": -1,
    "layer_norm_eps": 1e-5,
    "dropout": 0.0,
}

# A key of the reference to ours, inside one layer. Kernels are (in, out) there and (out, in) here.
LAYER_NAMES = {
    "ln_1/weight": "layers.{i}.input_layernorm.weight",
    "ln_1/bias": "layers.{i}.input_layernorm.bias",
    "ln_2/weight": "layers.{i}.post_attention_layernorm.weight",
    "ln_2/bias": "layers.{i}.post_attention_layernorm.bias",
    "attn/c_proj/kernel": "layers.{i}.self_attn.o_proj.weight",
    "attn/c_proj/bias": "layers.{i}.self_attn.o_proj.bias",
    "mlp/c_fc/kernel": "layers.{i}.mlp.up_proj.weight",
    "mlp/c_fc/bias": "layers.{i}.mlp.up_proj.bias",
    "mlp/c_proj/kernel": "layers.{i}.mlp.down_proj.weight",
    "mlp/c_proj/bias": "layers.{i}.mlp.down_proj.bias",
    "forking_ln/weight": "forks.{i}.norm.weight",
    "forking_ln/bias": "forks.{i}.norm.bias",
    "forking_score/kernel": "forks.{i}.keep_proj.weight",
    "fork_embedding": "forks.{i}.embedding",
}


def config_from_architecture(architecture: Mapping[str, Any]) -> ThoughtbubblesConfig:
    """
    Translate the reference's architecture keys.

    Args:
        architecture (`Mapping`): any of `n_layers n_embd n_head vocab_size block_size max_block_size fork bias
            use_fork_channel rope intermediate_size layer_norm_eps dropout`; absent ones take the reference's default,
            except that an architecture with neither `fork` nor `max_block_size` is the reference's plain GPT.

    Returns:
        [`ThoughtbubblesConfig`]

    Raises:
        `ValueError`: for unknown keys, or numbers that the reference could not run.
    """
    unknown = sorted(set(architecture) - set(ARCHITECTURE_DEFAULTS))
    if unknown:
        raise ValueError(f"`architecture` has unknown keys {unknown}; known are {sorted(ARCHITECTURE_DEFAULTS)}.")
    is_plain = "fork" not in architecture and "max_block_size" not in architecture
    given = {**ARCHITECTURE_DEFAULTS, **({"fork": ()} if is_plain else {}), **architecture}
    if given["fork"] and given["max_block_size"] < given["block_size"]:
        raise ValueError(
            f"`max_block_size` {given['max_block_size']} is below `block_size` {given['block_size']}, which would "
            "drop tokens. It must be at least as large."
        )
    return ThoughtbubblesConfig(
        vocab_size=given["vocab_size"],
        hidden_size=given["n_embd"],
        num_hidden_layers=given["n_layers"],
        num_attention_heads=given["n_head"],
        intermediate_size=given["intermediate_size"] if given["intermediate_size"] > 0 else None,
        max_position_embeddings=given["block_size"],
        fork_layers=list(given["fork"]),
        fork_budget=given["max_block_size"] / given["block_size"] if given["fork"] else 1.0,
        fork_score_channel=given["use_fork_channel"],
        attention_bias=given["bias"],
        mlp_bias=given["bias"],
        position_embedding="rope" if given["rope"] else "learned",
        layer_norm_eps=given["layer_norm_eps"],
        embedding_dropout=given["dropout"],
        attention_dropout=given["dropout"],
        hidden_dropout=given["dropout"],
    )


def list_parameters(config: ThoughtbubblesConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name in the reference to our name and shape, for every parameter of `config`; q, k and v are one there."""
    width, hidden = config.intermediate_size, config.hidden_size
    shapes = {
        "attn/c_proj/kernel": (hidden, hidden),
        "mlp/c_fc/kernel": (hidden, width),
        "mlp/c_fc/bias": (width,),
        "mlp/c_proj/kernel": (width, hidden),
        "forking_score/kernel": (hidden, 2),
    }
    expected = {"wte": ("embed_tokens.weight", (config.vocab_size, hidden)), "ln_f/weight": ("norm.weight", (hidden,))}
    if config.mlp_bias:
        expected["ln_f/bias"] = ("norm.bias", (hidden,))
    if config.position_embedding == "learned":
        expected["wpe"] = ("embed_positions.weight", (config.max_position_embeddings, hidden))
    for i in range(config.num_hidden_layers):
        expected[f"blocks_{i}/attn/c_attn/kernel"] = (f"layers.{i}.self_attn.{{}}_proj.weight", (hidden, 3 * hidden))
        if config.attention_bias:
            expected[f"blocks_{i}/attn/c_attn/bias"] = (f"layers.{i}.self_attn.{{}}_proj.bias", (3 * hidden,))
        for key, name in LAYER_NAMES.items():
            is_absent_fork = name.startswith("forks") and i not in config.fork_layers
            if is_absent_fork or (key.endswith("bias") and not config.mlp_bias):
                continue
            expected[f"blocks_{i}/{key}"] = (name.format(i=i), shapes.get(key, (hidden,)))
    return expected


def thoughtbubbles_from_theseus(
    params: Mapping[str, np.ndarray], architecture: Mapping[str, Any]
) -> ThoughtbubblesForCausalLM:
    """
    Build our model from the parameters of a reference `Thoughtbubbles` or `GPT`.

    Args:
        params (`Mapping[str, array]`): reference parameters by `/`-joined name (`blocks_0/attn/c_attn/kernel`),
            without a leading `params/`.
        architecture (`Mapping`): the reference's own configuration keys; see [`config_from_architecture`].

    Returns:
        [`ThoughtbubblesForCausalLM`] in float32 and evaluation mode, with the reference's logits.

    Raises:
        `ValueError`: lists the parameters that are unknown, missing or of another shape.
    """
    config = config_from_architecture(architecture)
    expected = list_parameters(config)
    problems = [f"missing {name} {shape}" for name, (_, shape) in expected.items() if name not in params]
    problems += [f"unknown {name}" for name in params if name not in expected]
    for name in expected.keys() & params.keys():
        passed, shape = tuple(np.shape(params[name])), expected[name][1]
        if passed != shape:
            problems.append(f"{name} has shape {passed} instead of {shape}")
    if problems:
        raise ValueError(f"`params` do not fit `architecture`: {'; '.join(sorted(problems))}.")

    state = {}
    for name, (target, _) in expected.items():
        tensor = torch.from_numpy(np.array(params[name], dtype=np.float32))
        if name.endswith("kernel"):
            tensor = tensor.T.contiguous()
        if "{}" in target:
            state.update({target.format(part): piece for part, piece in zip("qkv", tensor.chunk(3), strict=True)})
        else:
            state[target] = tensor
    model = ThoughtbubblesForCausalLM(config)
    model.model.load_state_dict({**model.model.state_dict(), **state})  # the reference tracks no thresholds
    return model.eval()


__all__ = ["config_from_architecture", "thoughtbubbles_from_theseus"]
