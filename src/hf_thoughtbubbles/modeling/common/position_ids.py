# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Where in its text does each token stand, and where does a text begin?

Shapes: B batch, T tokens.
"""

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache


def take_last(mask: torch.Tensor, num_tokens: int, past_key_values: Cache | None) -> torch.Tensor:
    """
    Of a row `(B, seen tokens)` what belongs to the last `num_tokens`. With a static cache the row may be as long as
    the cache, so that its shape stays the same while tokens come.
    """
    if past_key_values is None or not past_key_values.is_compileable:
        return mask[:, -num_tokens:]
    return mask.index_select(1, torch.arange(num_tokens, device=mask.device) + past_key_values.get_seq_length())


def lengthen_row(attention_mask: torch.Tensor | None, past_key_values: Cache) -> torch.Tensor | None:
    """A mask `(B, seen tokens)` as long as a static cache, for [`take_last`]; masks of other kinds as they are."""
    if attention_mask is None or attention_mask.ndim != 2:
        return attention_mask
    return F.pad(attention_mask, (0, past_key_values.layers[0].max_cache_len - attention_mask.shape[1]))


def find_starts(position_ids: torch.Tensor) -> torch.Tensor:
    """
    Which tokens `(B, T)` begin a document: the first of each row, and those whose positions do not go on.

    >>> find_starts(torch.tensor([[0, 1, 2, 0, 1]])).long()
    tensor([[1, 0, 0, 1, 0]])
    """
    return torch.diff(position_ids, prepend=position_ids[:, :1] - 2) != 1


def place_tokens(
    inputs: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.LongTensor | None,
    past_key_values: Cache | None,
) -> torch.Tensor:
    """
    Positions `(B or 1, T)` from 0 of tokens `(B, T, ...)`: as given; by the mask, in which padding takes no place;
    or one after another, after those in the cache.
    """
    num_tokens = inputs.shape[1]
    if position_ids is not None:
        return position_ids
    if attention_mask is not None and attention_mask.ndim == 2:
        places = (attention_mask.bool().cumsum(-1) - 1).clamp(min=0)
        return take_last(places, num_tokens, past_key_values)
    num_past_tokens = 0 if past_key_values is None else past_key_values.get_seq_length()
    return torch.arange(num_tokens, device=inputs.device)[None] + num_past_tokens


__all__ = ["find_starts", "lengthen_row", "place_tokens", "take_last"]
