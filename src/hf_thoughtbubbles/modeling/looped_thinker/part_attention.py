# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Attention to a memory of several parts with torch's fused CPU kernel; parts and masks are not joined.

The kernel reads each part causally, and returns its output o_p and l_p, the logarithm of its softmax's sum. With
l = logsumexp(l_p) the output over all parts is sum exp(l_p - l) o_p. The kernel's backward reads that output and l
alone, so with those of all parts it returns the exact gradients of each part (Ring Attention, Liu et al., 2023).

Shapes: P parts, B batch, N heads, K heads of keys and values, T queries, S entries of a part, H head size.
"""

import torch
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import is_torchdynamo_exporting
from transformers.utils.import_utils import is_torch_greater_or_equal


FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
READS_GROUPS = is_torch_greater_or_equal("2.9")  # whether the kernel takes grouped heads


def has_part_attention(config: PreTrainedConfig, states: torch.Tensor) -> bool:
    """
    Whether [`attend_parts`] serves a model: `sdpa` on a CPU, and no export, whose formats lack the kernel. Older
    kernels want as many heads of keys as of queries.
    """
    is_fused = states.device.type == "cpu" and config._attn_implementation == "sdpa"
    is_grouped = config.num_key_value_heads < config.num_attention_heads
    return is_fused and not is_torchdynamo_exporting() and (not is_grouped or READS_GROUPS)


def merge_parts(outputs: list[torch.Tensor], log_sums: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Output `(B, N, T, H)` and logarithm of the sum `(B, N, T)` over parts, from those of each part."""
    log_sum = torch.stack(log_sums).logsumexp(0)
    shares = [(part - log_sum).exp()[..., None].to(outputs[0].dtype) for part in log_sums]
    merged = outputs[0] * shares[0]
    for output, share in zip(outputs[1:], shares[1:], strict=True):
        merged = merged.addcmul_(output, share)
    return merged, log_sum


def read_parts(
    query: torch.Tensor, parts: tuple[torch.Tensor, ...], mask: torch.Tensor | None, is_causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As [`merge_parts`], for keys and values `(B, K, S, H)` of each part in turn."""
    options = {"attn_mask": mask, "scale": scale}
    pairs = zip(parts[::2], parts[1::2], strict=True)
    outputs, log_sums = zip(*[FORWARD(query, *pair, 0.0, is_causal, **options) for pair in pairs], strict=True)
    return merge_parts(outputs, log_sums)


class PartAttention(torch.autograd.Function):
    """[`read_parts`] with gradients of the query and of each part."""

    @staticmethod
    def forward(ctx, query, mask, is_causal, scale, *parts):
        output, log_sum = read_parts(query, parts, mask, is_causal, scale)
        ctx.save_for_backward(query, mask, output, log_sum, *parts)
        ctx.settings = is_causal, scale
        return output

    @staticmethod
    def backward(ctx, grad):
        query, mask, output, log_sum, *parts = ctx.saved_tensors
        is_causal, scale = ctx.settings
        query_grad, part_grads = None, []
        for key, value in zip(parts[::2], parts[1::2], strict=True):
            added, *grads = BACKWARD(
                grad, query, key, value, output, log_sum, 0.0, is_causal, attn_mask=mask, scale=scale
            )
            query_grad = added if query_grad is None else query_grad + added
            part_grads += grads
        return query_grad, None, None, None, *part_grads


def read_stack(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Output `(B, N, 1, H)` of a single query for parts that are stacked, `(P, B, K, S, H)`: one call for all."""
    num_parts = key.shape[0]
    query = query.expand(num_parts, *query.shape).flatten(0, 1)
    if mask is not None and mask.shape[0] > 1:
        mask = mask.repeat(num_parts, 1, 1, 1)
    output, log_sum = FORWARD(query, key.flatten(0, 1), value.flatten(0, 1), 0.0, attn_mask=mask, scale=scale)
    shares = log_sum.unflatten(0, (num_parts, -1)).softmax(0)[..., None].to(output.dtype)
    return (output.unflatten(0, (num_parts, -1)) * shares).sum(0)


def attend_parts(
    query: torch.Tensor, parts: tuple[torch.Tensor, ...], mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """
    Attention of queries to all parts of a memory.

    Args:
        query (`torch.Tensor` of shape `(B, N, T, H)`): the queries.
        parts (`tuple` of `torch.Tensor`): keys, then values of each part, `(B, K, S, H)`; or for a single query one
            pair `(P, B, K, S, H)`, which no gradient needs.
        mask (`torch.Tensor` of shape `(B or 1, 1, T, S)`, *optional*): added to the scores of every part; causal
            without it.
        scale (`float`): factor of the scores.

    Returns:
        `torch.Tensor` of shape `(B, N, T, H)`.
    """
    if torch.is_autocast_enabled("cpu"):
        query, *parts = (states.to(torch.get_autocast_dtype("cpu")) for states in (query, *parts))
    mask = None if mask is None else mask.to(query.dtype)
    if parts[0].ndim == 5:
        return read_stack(query, *parts, mask, scale)
    is_causal = mask is None and query.shape[2] > 1
    if torch.is_grad_enabled() and any(states.requires_grad for states in (query, *parts)):
        return PartAttention.apply(query, mask, is_causal, scale, *parts)
    return read_parts(query, parts, mask, is_causal, scale)[0]


__all__ = ["attend_parts", "has_part_attention"]
