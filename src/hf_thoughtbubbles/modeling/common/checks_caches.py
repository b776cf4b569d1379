# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for KV caches: their kind, layers, rows and heads. Shapes alone are read.

Shapes: B batch, N heads, M entries, H head size.
"""

from collections.abc import Sequence

from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    EncoderDecoderCache,
    QuantizedCache,
    StaticCache,
)


FULL = "full_attention"
ADVICE = "Use the cache that this model returned for the same batch, or remove it."


def check_one_cache(past_key_values: object):
    """Raise for anything but a `Cache` of one text: tuples, lists, and caches with a half for an encoder."""
    if past_key_values is None:
        return
    if not isinstance(past_key_values, Cache):
        raise ValueError(
            f"`past_key_values` is a `{type(past_key_values).__name__}`; it must be a transformers `Cache`. {ADVICE}"
        )
    if isinstance(past_key_values, EncoderDecoderCache):
        raise ValueError(
            "`past_key_values` is an `EncoderDecoderCache`, but a text has one cache. Use the cache that the model "
            "returns."
        )


def check_two_caches(past_key_values: object, reason: str):
    """Raise for anything but an `EncoderDecoderCache`; `reason` says what needs it."""
    if past_key_values is not None and not isinstance(past_key_values, EncoderDecoderCache):
        raise ValueError(
            f"`past_key_values` is a `{type(past_key_values).__name__}`; it must be an `EncoderDecoderCache`, "
            f"{reason}. {ADVICE}"
        )


def is_filled(layer: CacheLayerMixin) -> bool:
    """Whether a layer of a cache holds keys, or has memory for them."""
    return layer.is_initialized and layer.keys.numel() > 0


def check_rows(
    layers: Sequence[CacheLayerMixin],
    batch_size: int,
    num_heads: int,
    head_dim: int,
    wide_head_dim: int | None = None,
):
    """
    Raise for filled layers whose keys `(B, N, M, H)` are of other rows, or of a model with other heads; H may also be
    `wide_head_dim`.
    """
    for layer in layers:
        if not is_filled(layer):
            continue
        held = (*layer.keys.shape[:2], layer.keys.shape[-1])
        if held[:2] != (batch_size, num_heads) or held[2] not in (head_dim, wide_head_dim):
            raise ValueError(
                f"`past_key_values` holds {held[0]} rows, {held[1]} heads of size {held[2]}, but the input has "
                f"{batch_size} rows and the model {num_heads} heads of size {head_dim}. {ADVICE} "
                "`batch_repeat_interleave` and `batch_select_indices` change its rows."
            )


def check_cache_layers(
    past_key_values: Cache,
    layer_types: Sequence[str],
    batch_size: int,
    num_heads: int,
    head_dim: int,
    wide_head_dim: int | None = None,
):
    """
    Raise for a cache of another kind, of another model or of other rows.

    Args:
        past_key_values (`Cache`): of transformers' own classes; a growing one may still have no layers.
        layer_types (`Sequence[str]`): the kind of each layer, `"full_attention"` for plain keys and values.
        batch_size, num_heads, head_dim (`int`): shape of the keys.
        wide_head_dim (`int`, *optional*): another head size that they may have.
    """
    is_known = isinstance(past_key_values, (DynamicCache, StaticCache, QuantizedCache))
    if not is_known and type(past_key_values) is not Cache:
        raise ValueError(
            f"`past_key_values` is a `{type(past_key_values).__name__}`, which stores what another family needs. "
            f"{ADVICE}"
        )
    layers = past_key_values.layers
    kinds = [getattr(layer, "_layer_type", None) or FULL for layer in layers]
    is_growing = past_key_values.layer_class_to_replicate is not None
    if kinds != list(layer_types) and (kinds or not is_growing or set(layer_types) != {FULL}):
        raise ValueError(
            f"`past_key_values` has {len(kinds)} layers of the kinds {kinds}, but this model needs "
            f"{len(layer_types)}: {list(layer_types)}. {ADVICE}"
        )
    check_rows((layers[0], layers[-1]) if layers else (), batch_size, num_heads, head_dim, wide_head_dim)


__all__ = ["check_cache_layers", "check_one_cache", "check_rows", "check_two_caches", "is_filled"]
