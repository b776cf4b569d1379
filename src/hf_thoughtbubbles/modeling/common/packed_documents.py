# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Documents packed into one row: where each begins, and which input may pack them.

Shapes: B batch, T tokens.
"""

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache
from transformers.masking_utils import packed_sequence_mask_function

from .checks_tokens import can_read, read_mask
from .position_ids import take_last


def find_document_starts(position_ids: torch.Tensor) -> torch.Tensor:
    """
    Whether each token `(B, T)` begins a document: its position does not follow that of the token before.

    >>> find_document_starts(torch.tensor([[0, 1, 2, 0, 1]])).long()
    tensor([[1, 0, 0, 1, 0]])
    """
    return torch.diff(position_ids, prepend=position_ids[:, :1] - 2) != 1


def find_restarts(position_ids: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
    """
    Whether each token `(B, T)` begins another document than the real token before it. Padding between the two may be
    counted in positions or not; neither begins a document.

    >>> find_restarts(torch.tensor([[1, 1, 0, 1, 0]]), torch.tensor([[False, False, True, True, True]])).long()
    tensor([[0, 0, 0, 0, 1]])
    """
    position_ids = position_ids.expand(token_mask.shape)
    index = torch.arange(token_mask.shape[1], device=token_mask.device)
    last = F.pad(torch.where(token_mask, index, -1).cummax(1).values, (1, 0), value=-1)[:, :-1]  # real token before
    distance = position_ids - position_ids.gather(1, last.clamp(min=0))
    return token_mask & (last >= 0) & (distance != 1) & (distance != index - last)


def find_documents(
    position_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
    use_cache: bool | None,
) -> torch.LongTensor | None:
    """
    The document of each token `(B or 1, T)`, counted from 0, when `position_ids` pack several into a row; else `None`.

    Packed rows have no padding and no cache. Positions on an accelerator, or in a compiled graph, are not read:
    without a cache they always give documents, and a row of one document hides no tokens.

    Args:
        attention_mask (`torch.Tensor`, *optional*): as [`read_mask`] returns it.

    Raises:
        `ValueError`: when packed documents are passed with an `attention_mask` that hides tokens, or with a cache.
    """
    if position_ids is None or position_ids.ndim != 2 or position_ids.shape[1] == 1:
        return None
    if attention_mask is not None and attention_mask.ndim == 4:  # a mask of pairs keeps documents apart itself
        return None
    is_masked, is_cached = attention_mask is not None, bool(use_cache) or past_key_values is not None
    if is_cached and not can_read(position_ids):
        return None
    if is_masked:
        real = take_last(attention_mask, position_ids.shape[1], past_key_values).bool()
        is_start = find_restarts(position_ids, real)[:, 1:]
    else:
        is_start = find_document_starts(position_ids)[:, 1:]  # the first token begins the first document
    if can_read(position_ids):
        if not is_start.any():
            return None
        if is_masked or is_cached:
            other = "an `attention_mask`" if is_masked else "a cache"
            raise ValueError(
                f"`position_ids` that pack several documents into a row were passed with {other}. Packed rows have no "
                "padding and are read in one call: remove `attention_mask` and set `use_cache=False`."
            )
    return F.pad(is_start.cumsum(-1), (1, 0))


def check_prompt_positions(model_kwargs: dict):
    """Raise for arguments of `generate` whose `position_ids` pack documents: it continues one text a row."""
    position_ids, mask = model_kwargs.get("position_ids"), model_kwargs.get("attention_mask")
    if isinstance(position_ids, torch.Tensor) and isinstance(mask, torch.Tensor | None):
        is_one_text = mask is None or (mask.ndim == 2 and mask.shape[1] == position_ids.shape[-1])
        if is_one_text:
            find_documents(position_ids, read_mask(mask), None, use_cache=True)


def separate_documents(documents: torch.Tensor | None, attention_mask: torch.Tensor | None, batch_size: int) -> dict:
    """
    Arguments of `create_causal_mask` that keep `documents` `(B or 1, T)` apart where it does not do so by itself:
    transformers reads `position_ids` only without a mask.
    """
    if documents is None or attention_mask is None:
        return {}
    return {"and_mask_function": packed_sequence_mask_function(documents.expand(batch_size, -1))}


__all__ = ["check_prompt_positions", "find_document_starts", "find_documents", "find_restarts", "separate_documents"]
