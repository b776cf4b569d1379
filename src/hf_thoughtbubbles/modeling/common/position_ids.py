# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Position ids of tokens, and masks as long as a static cache.

Shapes: B batch, T tokens, M tokens of the mask (those in the cache and those of the call).
"""

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache


def take_last(mask: torch.Tensor, num_tokens: int, past_key_values: Cache | None) -> torch.Tensor:
    """
    The entries of a row `(B, M)` that belong to the last `num_tokens`. With a static cache the row may be as long as
    the cache, so that its shape stays the same while tokens are generated.
    """
    if past_key_values is None or not past_key_values.is_compileable:
        return mask[:, -num_tokens:]
    return mask.index_select(1, torch.arange(num_tokens, device=mask.device) + past_key_values.get_seq_length())


def pad_mask_to_cache(attention_mask: torch.Tensor | None, past_key_values: Cache) -> torch.Tensor | None:
    """A mask `(B, M)` padded to the length of a static cache, for [`take_last`]; 4-dimensional masks unchanged."""
    if attention_mask is None or attention_mask.ndim != 2:
        return attention_mask
    return F.pad(attention_mask, (0, past_key_values.layers[0].max_cache_len - attention_mask.shape[1]))


def count_positions(attention_mask: torch.Tensor) -> torch.LongTensor:
    """
    Positions of the tokens of a mask `(B, M)`, from 0; padding takes no position.

    >>> count_positions(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])).tolist()
    [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2]]
    """
    return (attention_mask.bool().cumsum(-1) - 1).clamp(min=0)


def get_position_ids(
    inputs: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.LongTensor | None,
    past_key_values: Cache | None,
) -> torch.Tensor:
    """
    Position ids `(B or 1, T)` of tokens `(B, T, ...)`, from 0: `position_ids` when passed, else counted along the
    mask, where padding takes no position, else counted on from the tokens in the cache.
    """
    num_tokens = inputs.shape[1]
    if position_ids is not None:
        return position_ids
    if attention_mask is not None and attention_mask.ndim == 2:
        return take_last(count_positions(attention_mask), num_tokens, past_key_values)
    num_past_tokens = 0 if past_key_values is None else past_key_values.get_seq_length()
    return torch.arange(num_tokens, device=inputs.device)[None] + num_past_tokens


__all__ = ["count_positions", "get_position_ids", "pad_mask_to_cache", "take_last"]
