# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Documents packed into one row: where each begins, and which input may pack them.

Shapes: B batch, T tokens.
"""

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache

from .position_ids import take_last


def find_document_starts(position_ids: torch.Tensor) -> torch.Tensor:
    """
    Whether each token `(B, T)` begins a document: its position does not follow that of the token before.

    >>> find_document_starts(torch.tensor([[0, 1, 2, 0, 1]])).long()
    tensor([[1, 0, 0, 1, 0]])
    """
    return torch.diff(position_ids, prepend=position_ids[:, :1] - 2) != 1


def find_documents(
    position_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
    use_cache: bool | None,
) -> torch.LongTensor | None:
    """
    The document of each token `(B or 1, T)`, counted from 0, when `position_ids` pack several into a row; else `None`.

    Packed rows have no padding and no cache. Positions on an accelerator, or in a compiled graph, are not read:
    without a mask and a cache they always give documents, and a row of one document hides no tokens.

    Raises:
        `ValueError`: when packed documents are passed with an `attention_mask` that hides tokens, or with a cache.
    """
    if position_ids is None or position_ids.ndim != 2:
        return None
    if attention_mask is not None and attention_mask.ndim == 4:  # a mask of pairs keeps documents apart itself
        return None
    is_masked, is_cached = attention_mask is not None, bool(use_cache) or past_key_values is not None
    is_start = find_document_starts(position_ids)[:, 1:]  # the first token begins the first document
    is_readable = position_ids.device.type == "cpu" and not torch.compiler.is_compiling()
    if is_readable:
        if is_masked:
            real = take_last(attention_mask, position_ids.shape[1], past_key_values).bool()
            is_start = is_start & real[:, 1:] & real[:, :-1]
        if not is_start.any():
            return None
        if is_masked or is_cached:
            other = "an `attention_mask`" if is_masked else "a cache"
            raise ValueError(
                f"`position_ids` that pack several documents into a row were passed with {other}. Packed rows have no "
                "padding and are read in one call: remove `attention_mask` and set `use_cache=False`."
            )
    elif is_masked or is_cached:
        return None
    return F.pad(is_start.cumsum(-1), (1, 0))


__all__ = ["find_document_starts", "find_documents"]
