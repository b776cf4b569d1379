# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Attention masks by transformers' functions, and the attention implementations that a model takes.

The mask function that is registered for an implementation decides what a model hands over (`MASK_KINDS`): a tensor, a
`BlockMask`, the padding alone, or no mask where none is registered, as for the functions of serving engines.

Shapes: B batch, T tokens, M keys, D hidden.
"""

from types import SimpleNamespace
from typing import Any

import torch
from transformers import masking_utils
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .cache_names import CACHE_NAME
from .position_ids import pad_mask_to_cache


# Which attention function reads which masks, as an error names them.
MASK_KINDS = {
    "dense": '"eager" or "sdpa"',  # tensors `(B, 1, T, M)`
    "block": '"flex_attention"',  # a `BlockMask`
    "padding": '"flash_attention_2" or "flash_attention_3"',  # `(B, M)`; causality and documents are arguments
    "none": "a function without a mask function",
}
READS = {"dense": "masks of pairs", "block": "masks of blocks", "padding": "the padding alone", "none": "no masks"}
# What vLLM and SGLang (`attention_instances`) or a collator for flash attention pass instead of a mask.
REQUEST_ARGUMENTS = ("attention_instances", "cu_seq_lens_q")


def get_mask_kind(implementation: str | None) -> str:
    """
    The kind of masks, of `MASK_KINDS`, that an implementation of attention reads.

    >>> get_mask_kind("sdpa"), get_mask_kind("flex_attention"), get_mask_kind("flash_attention_2")
    ('dense', 'block', 'padding')
    """
    functions = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS._global_mapping
    function = functions.get((implementation or "sdpa").removeprefix("paged|"))
    if function is None:
        return "none"
    if function is functions["flash_attention_2"]:
        return "padding"
    return "block" if function is functions["flex_attention"] else "dense"


def is_served(config: PreTrainedConfig, kwargs: dict[str, Any]) -> bool:
    """Whether arguments of the call describe its requests to an attention function that reads no masks."""
    is_described = any(kwargs.get(name) is not None for name in REQUEST_ARGUMENTS)
    return is_described and get_mask_kind(config._attn_implementation) == "none"


def _check_pairs(config: PreTrainedConfig, attention_mask: torch.Tensor | None, kind: str):
    """Raise for a mask of pairs that the attention function does not read."""
    if kind != "dense" and attention_mask is not None and attention_mask.ndim == 4:
        raise ValueError(
            f"An `attention_mask` of shape {tuple(attention_mask.shape)} was passed, but "
            f'`attn_implementation="{config._attn_implementation}"` reads no masks of query and key pairs. Pass a '
            'mask `(B, T)`, or use "eager" or "sdpa".'
        )


def _check_unneeded(config: PreTrainedConfig, needed: torch.Tensor | None):
    """Raise when attention without a mask function would need the mask that `sdpa` gets."""
    if needed is not None:
        name = config._attn_implementation
        raise ValueError(
            f'`attn_implementation="{name}"` has no mask function, but this call needs a mask: its rows have padding, '
            "packed documents, a static cache, or several tokens after those in a cache. Register a function, as "
            f'`AttentionMaskInterface.register("{name}", sdpa_mask)` with both from `transformers.masking_utils`, or '
            'use "sdpa".'
        )


def create_causal_mask(
    *,
    config: PreTrainedConfig,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None = None,
    **kwargs,
):
    """
    transformers' `create_causal_mask`, with the cache under our name.

    Raises:
        `ValueError`: when the attention function does not read the mask that the call needs.
    """
    kind = get_mask_kind(config._attn_implementation)
    _check_pairs(config, attention_mask, kind)
    is_static = past_key_values is not None and past_key_values.is_compileable
    if (
        kind == "block" and is_static
    ):  # its mask reads the length of the cache, which a layer changes before it attends
        raise ValueError(
            f'A static cache was passed, but `attn_implementation="{config._attn_implementation}"` needs one that '
            'grows. Remove `cache_implementation="static"`, or use "eager" or "sdpa".'
        )
    if kind == "padding" and is_static:  # flash attention cuts a static cache to the length of the mask
        num_tokens = int(past_key_values.get_seq_length()) + inputs_embeds.shape[1]
        if attention_mask is None:
            attention_mask = inputs_embeds.new_ones(inputs_embeds.shape[0], num_tokens, dtype=torch.bool)
        attention_mask = attention_mask[:, :num_tokens]
    inputs = {"inputs_embeds": inputs_embeds, "attention_mask": attention_mask, CACHE_NAME: past_key_values, **kwargs}
    if kind == "none":
        fused = SimpleNamespace(_attn_implementation="sdpa", is_causal=getattr(config, "is_causal", True))
        allowed = {"allow_is_causal_skip": False} if is_static else {}
        _check_unneeded(config, masking_utils.create_causal_mask(config=fused, **inputs, **allowed))
    return masking_utils.create_causal_mask(config=config, **inputs)


def create_bidirectional_mask(*, config: PreTrainedConfig, attention_mask: torch.Tensor | None, **kwargs):
    """transformers' `create_bidirectional_mask`; raises as [`create_causal_mask`]."""
    kind = get_mask_kind(config._attn_implementation)
    _check_pairs(config, attention_mask, kind)
    if kind == "none":
        fused = SimpleNamespace(_attn_implementation="sdpa")
        needed = masking_utils.create_bidirectional_mask(config=fused, attention_mask=attention_mask, **kwargs)
        _check_unneeded(config, needed)
    return masking_utils.create_bidirectional_mask(config=config, attention_mask=attention_mask, **kwargs)


def create_generation_mask(config: PreTrainedConfig, attention_mask: torch.Tensor | None, past_key_values, **kwargs):
    """The mask that `generate` makes before each step with a static cache: of pairs where these are read."""
    if get_mask_kind(config._attn_implementation) == "dense":
        inputs = {"attention_mask": attention_mask, "past_key_values": past_key_values}
        return create_causal_mask(config=config, **inputs, **kwargs)
    return pad_mask_to_cache(attention_mask, past_key_values)


def describe_documents(
    config: PreTrainedConfig,
    documents: torch.LongTensor | None,
    attention_mask: torch.Tensor | None,
    batch_size: int,
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    """
    Arguments by which flash attention keeps `documents` `(B or 1, T)` apart, whose masks hold the padding alone: the
    lengths of all documents in a batch, added up. None for other attention, or when `kwargs` have them.

    Raises:
        `ValueError`: for packed documents with an `attention_mask`, which flash attention reads instead.
    """
    is_described = kwargs.get("cu_seq_lens_q") is not None
    if documents is None or is_described or get_mask_kind(config._attn_implementation) != "padding":
        return {}
    if attention_mask is not None:
        if bool((documents > 0).any()):
            raise ValueError(
                "`position_ids` that pack several documents into a row were passed with an `attention_mask`. Packed "
                "rows have no padding: remove `attention_mask`."
            )
        return {}
    is_start = torch.diff(documents, prepend=documents[:, :1] - 1).expand(batch_size, -1) != 0
    starts = is_start.flatten().nonzero()[:, 0]
    ends = torch.cat((starts, starts.new_tensor([is_start.numel()]))).int()
    longest = int(ends.diff().max())
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


class AttentionChoiceMixin:
    """
    The attention implementations of a model, and an error by name for others. Put it before `PreTrainedModel` in the
    bases of a family, which defines `find_mask_obstacles`.
    """

    _supports_sdpa = True
    _supports_flex_attn = True  # and flash attention where a class says so; an instance knows its configuration

    @staticmethod
    def find_mask_obstacles(config: PreTrainedConfig) -> dict[str, str]:
        """Why a model of a configuration cannot use attention that reads masks of a kind, by kinds of `MASK_KINDS`."""
        return {}

    def __init__(self, config: PreTrainedConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        obstacles, served = self.find_mask_obstacles(config), type(self)._supports_attention_backend
        self._supports_flex_attn = "block" not in obstacles
        self._supports_flash_attn = "padding" not in obstacles
        self._supports_attention_backend = served and "none" not in obstacles

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args, **kwargs) -> str:
        self.check_attention(attn_implementation)
        adjusted = super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)
        self.check_attention(adjusted)  # a kernel of the Hub is registered only now
        return adjusted

    def check_attention(self, implementation: str | None):
        """Raise for a registered implementation whose masks cannot express what the model hides."""
        kind = get_mask_kind(implementation)
        obstacles = self.find_mask_obstacles(self.config)
        is_known = kind != "none" or implementation in ALL_ATTENTION_FUNCTIONS.valid_keys()
        if kind not in obstacles or not is_known:
            return
        others = " or ".join(
            names for other, names in MASK_KINDS.items() if other not in obstacles and other != "none"
        )
        advice = f"Use {others}."
        if kind == "none":
            advice = (
                f'Register a mask function, as `AttentionMaskInterface.register("{implementation}", sdpa_mask)` with '
                f"both from `transformers.masking_utils`, or use {others}."
            )
        raise ValueError(
            f'`attn_implementation="{implementation}"` was passed, but it reads {READS[kind]} and '
            f"`{type(self).__name__}` needs more: {obstacles[kind]}. {advice}"
        )


__all__ = [
    "MASK_KINDS",
    "AttentionChoiceMixin",
    "create_bidirectional_mask",
    "create_causal_mask",
    "create_generation_mask",
    "describe_documents",
    "get_mask_kind",
    "is_served",
]
