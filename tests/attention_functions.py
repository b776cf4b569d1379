# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Attention functions for tests, registered with transformers under names of their own.

own             reads tensors of masks, as a function that a user writes
own-unmasked    the same without a mask function, so it gets no masks
flex-plain      what a `BlockMask` hides, with gradients, which flex attention does not have on a CPU
flash-plain     transformers' calls of flash attention, whose kernels `load_flash` replaces by plain operations
"""

import torch
import torch.nn.functional as F
import transformers.modeling_flash_attention_utils as flash
from transformers import AttentionInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask, flex_attention_mask, sdpa_mask


def attend(query, key, value, mask, scale, is_causal=False):
    """Attention of heads `(B, N, T, H)` to keys of as many heads or fewer, `(B, T, N, H)`."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    output = F.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal, scale=scale)
    return output.transpose(1, 2)


def attend_own(module, query, key, value, attention_mask, scaling, is_causal=None, **kwargs):
    """Like `sdpa`."""
    is_causal = module.is_causal if is_causal is None else is_causal
    is_causal = is_causal and attention_mask is None and query.shape[2] > 1
    return attend(query, key, value, attention_mask, scaling, is_causal), None


def attend_blocks(module, query, key, value, attention_mask, scaling, **kwargs):
    """Like flex attention, which reads a `BlockMask`, or a tensor that is added to scores."""
    mask = attention_mask
    if mask is not None and not isinstance(mask, torch.Tensor):
        assert mask.seq_lengths == (query.shape[2], key.shape[2])
        assert mask.shape[0] in (1, query.shape[0])
        sizes = query.shape[0], 1, query.shape[2], key.shape[2]
        mask = mask.mask_mod(*torch.meshgrid(*map(torch.arange, sizes), indexing="ij"))
    return attend(query, key, value, mask, scaling), None


def attend_flash(query, key, value, causal, softmax_scale, dropout_p=0.0):
    """Flash attention of states `(B, T, N, H)`: the last query and the last key have the same position."""
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    mask = None
    if causal:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
    return attend(query, key, value, mask, softmax_scale)


def attend_flash_packed(
    query, key, value, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, softmax_scale, dropout_p=0.0
):
    """The same of documents one after the other, `(T, N, H)`."""
    lengths = cu_seqlens_q.diff(), cu_seqlens_k.diff()
    assert (int(lengths[0].max()), int(lengths[1].max())) == (max_seqlen_q, max_seqlen_k)
    parts = (
        states.split(size.tolist()) for states, size in zip((query, key, value), (*lengths, lengths[1]), strict=True)
    )
    return torch.cat(
        [
            attend_flash(*(part[None] for part in one), causal, softmax_scale)[0]
            for one in zip(*parts, strict=True)
            if len(one[0])
        ]
    )


def load_flash(monkeypatch):
    """Replace the kernels that transformers calls for `flash-plain`; `monkeypatch` restores them."""
    for name, value in {
        "_loaded_implementation": "flash-plain",
        "_flash_fn": attend_flash,
        "_flash_varlen_fn": attend_flash_packed,
        "_flash_with_kvcache_fn": None,
        "_pad_fn": flash._pad_input,
        "_unpad_fn": flash._unpad_input,
        "_process_flash_kwargs_fn": flash._lazy_define_process_function(attend_flash_packed),
        "_process_with_kvcache_kwargs_fn": dict,
    }.items():
        monkeypatch.setattr(flash, name, value)


for NAME, FUNCTION, MASK_FUNCTION in (
    ("own", attend_own, sdpa_mask),
    ("own-unmasked", attend_own, None),
    ("flex-plain", attend_blocks, flex_attention_mask),
    ("flash-plain", flash_attention_forward, flash_attention_mask),
):
    AttentionInterface.register(NAME, FUNCTION)
    if MASK_FUNCTION is not None:
        AttentionMaskInterface.register(NAME, MASK_FUNCTION)
