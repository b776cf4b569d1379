# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Growing storage of caches, with spare slots at the end, so that new tokens rarely cause a copy."""

import torch
import torch.nn.functional as F


NUM_SPARE_SLOTS, SPARE_SHARE = 16, 1 / 32  # spare slots: a fixed number, and a share of the needed slots


def make_room(storage: torch.Tensor, values: torch.Tensor, num_kept: int, num_needed: int, dim: int) -> torch.Tensor:
    """
    Storage with at least `num_needed` slots along `dim`, into which `values` may be written in place.

    Args:
        storage (`torch.Tensor`): the present slots, the first `num_kept` of them filled.
        values (`torch.Tensor`): the values to write.
        num_kept (`int`): number of slots that are filled.
        num_needed (`int`): number of slots that will be filled.
        dim (`int`): the dimension of the slots.

    Returns:
        `storage` itself when it is long enough; a longer copy when it is not, when gradients flow, or when inference
        mode locks it. New slots are zeros, because masked slots are multiplied by 0 and empty memory may hold NaN.

    >>> make_room(torch.ones(1, 2), torch.ones(1, 1), num_kept=2, num_needed=3, dim=1).shape
    torch.Size([1, 19])
    """
    is_tracked = storage.requires_grad or (torch.is_grad_enabled() and values.requires_grad)
    is_locked = storage.is_inference() and not torch.is_inference_mode_enabled()
    if storage.shape[dim] >= num_needed and not is_tracked and not is_locked:
        return storage
    kept = storage.narrow(dim, 0, num_kept)
    num_spare = num_needed - num_kept + NUM_SPARE_SLOTS + int(SPARE_SHARE * num_needed)
    return F.pad(kept, (0, 0) * (storage.ndim - 1 - dim) + (0, num_spare))


__all__ = ["NUM_SPARE_SLOTS", "SPARE_SHARE", "make_room"]
