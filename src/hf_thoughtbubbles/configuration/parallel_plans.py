# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How layers are split over processes: the rules of transformers' `base_model_tp_plan` and `base_model_pp_plan`.

Tensor parallelism splits attention by heads and feed-forward layers by channels. Everything else is the same on all
processes: norms, fork scores, positions. A pipeline has the layers one after the other on different processes.
"""

from collections.abc import Sequence
from typing import Any

from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig


COLUMNS, ROWS = "colwise", "rowwise"  # a part of the outputs, and of the inputs, on each process
# The same with the whole states between both: gathered, and cut again.
GATHERED_COLUMNS, CUT_ROWS = "colwise_gather_output", "rowwise_split_input"


# Below, a configuration of type `Any` may be a view of one for a part of the model.
# What each module of a pipeline is given and returns, in order.
PIPELINE = {
    "embed_tokens": (["input_ids"], ["inputs_embeds"]),
    "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
    "norm": (["hidden_states"], ["hidden_states"]),
}


def is_low_rank(config: Any, in_features: int, out_features: int) -> bool:
    """Whether a projection of attention goes through `config.low_rank` channels, fewer than those of both sides."""
    rank = getattr(config, "low_rank", None)
    return rank is not None and rank < min(in_features, out_features)


def plan_attention(config: Any, name: str) -> dict[str, str]:
    """The rules of attention with `head_dim`, whose projections may have a low rank."""
    width, wide = config.hidden_size, config.num_attention_heads * config.head_dim
    narrow = config.num_key_value_heads * config.head_dim
    outputs = {"q_proj": wide, "k_proj": narrow, "v_proj": narrow}
    rules = {
        f"{name}.{part}{'.up_proj' if is_low_rank(config, width, out_features) else ''}": COLUMNS
        for part, out_features in outputs.items()
    }
    return {**rules, f"{name}.o_proj{'.down_proj' if is_low_rank(config, wide, width) else ''}": ROWS}


def plan_feed_forward(config: Any, name: str) -> dict[str, str]:
    """The rules of a feed-forward layer. An activation with weights of its own reads all channels everywhere."""
    if config.feed_forward == "swiglu":
        return {f"{name}.gate_proj": COLUMNS, f"{name}.up_proj": COLUMNS, f"{name}.down_proj": ROWS}
    if has_trained_activation(config.hidden_act):
        return {f"{name}.up_proj": GATHERED_COLUMNS, f"{name}.down_proj": CUT_ROWS}
    return {f"{name}.up_proj": COLUMNS, f"{name}.down_proj": ROWS}


def plan_stack(config: Any, name: str) -> dict[str, str]:
    """The rules of a stack of generic layers, which may share a feed-forward layer."""
    layers = f"{name}.layers.*"
    mlp = f"{name}.shared_mlp" if config.share_feed_forward else f"{layers}.mlp"
    return {**plan_attention(config, f"{layers}.self_attn"), **plan_feed_forward(config, mlp)}


def has_trained_activation(hidden_act: str) -> bool:
    """Whether the activation that `hidden_act` names has weights of its own."""
    return hidden_act == "learned" or (hidden_act != "none" and any(True for _ in ACT2FN[hidden_act].parameters()))


def check_processes(config: PreTrainedConfig, counts: Sequence[str]):
    """
    Raise for a model that the processes cannot share: a number of heads, of the fields `counts`, that they do not
    divide, or a pipeline of layers that do not simply follow each other.
    """
    distributed_config = vars(config).get("distributed_config")
    if distributed_config is None:
        return
    num_processes, num_stages = distributed_config.tp_size, distributed_config.pp_size
    if num_stages > 1 and config.base_model_pp_plan is None:
        raise ValueError(
            f"`pp_size={num_stages}` was passed, but this `{config.model_type}` model is no chain of layers that "
            "processes can run one after the other. Thoughtbubbles with `fork_layers=[]` and rotary positions are. "
            "Use `tp_size`, or `fsdp_size`."
        )
    for name in counts:
        if (count := getattr(config, name)) % num_processes != 0:
            raise ValueError(
                f"`tp_size={num_processes}` was passed, but `{name}` is {count}: each process holds as many heads "
                f"as the others. Use a `tp_size` that divides {count}, or FSDP (`DistributedConfig(fsdp_size=...)`), "
                "which splits any weight."
            )


__all__ = ["COLUMNS", "PIPELINE", "ROWS", "check_processes", "plan_attention", "plan_feed_forward", "plan_stack"]
