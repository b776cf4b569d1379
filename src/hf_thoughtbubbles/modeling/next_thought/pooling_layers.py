# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Pooling layers, cores and latent tokens of next-thought models (docs/reference_behaviour.md, "Next-thought models").

Shapes: B batch, S tokens, K kept tokens, M tokens of the source, N heads, H head size, D width, E width after pooling,
L latent size.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


class WrittenOutAttention(nn.Module):
    """Attention that returns its weights, so it cannot use a fused kernel. All projections have biases."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.scaling = (hidden_size // num_heads) ** -0.5
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def split(self, states: torch.Tensor) -> torch.Tensor:
        """`(B, S, D)` to `(B, N, S, H)`."""
        return states.view(*states.shape[:2], self.num_heads, -1).transpose(1, 2)

    def forward(
        self, hidden_states: torch.Tensor, source: torch.Tensor, source_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Attend from states `(B, S, D)` to a source `(B, M, D)`, except where `source_mask` `(B, M)` is False.

        Returns:
            The attention output `(B, S, D)` before the output projection, and the weights `(B, N, S, M)` in float32 or
            better.
        """
        query, key, value = self.q_proj(hidden_states), self.k_proj(source), self.v_proj(source)
        scores = self.split(query) @ self.split(key).transpose(2, 3) * self.scaling
        if source_mask is not None:
            scores = scores.masked_fill(~source_mask[:, None, None], torch.finfo(scores.dtype).min)
        weights = F.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        attn_output = weights.to(value.dtype) @ self.split(value)
        return attn_output.transpose(1, 2).flatten(2), weights


class AttentionPooling(GradientCheckpointingLayer):
    """
    Self-attention, a choice of the most attended tokens, and a feed-forward layer to another width.

    The original calls it `AttentionPoolingRemoval`. The choice of tokens has no gradient.
    """

    def __init__(
        self,
        hidden_size: int,
        output_size: int,
        num_heads: int,
        removed_share: float,
        layer_norm_eps: float = 1e-5,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.removed_share = removed_share
        self.attention = WrittenOutAttention(hidden_size, num_heads)
        self.attention_layernorm = nn.LayerNorm(hidden_size, layer_norm_eps)
        self.up_proj = nn.Linear(hidden_size, 4 * hidden_size)
        self.down_proj = nn.Linear(4 * hidden_size, output_size)
        self.output_layernorm = nn.LayerNorm(output_size, layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def score(self, weights: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor:
        """The attention that each token `(B, S)` receives, averaged over heads and tokens; 0 for padding."""
        if token_mask is None:
            return weights.mean((1, 2))
        num_read = token_mask.sum(1, keepdim=True).clamp(min=1) * weights.shape[1]
        return (weights * token_mask[:, None, :, None]).sum((1, 2)) / num_read * token_mask

    @torch.no_grad()
    def choose(
        self, scores: torch.Tensor, token_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Indices `(B, K)` of the tokens that stay, and which of them count `(B, K)`.

        The most attended tokens come first, and the earlier of equal ones. As many tokens of a row count as it would
        keep without its padding.
        """
        kept_share = 1 - self.removed_share
        if token_mask is not None:
            scores = scores.masked_fill(~token_mask, float("-inf"))
        order = scores.sort(dim=1, descending=True, stable=True).indices
        kept_index = order[:, : int(scores.shape[1] * kept_share)]
        if token_mask is None:
            return kept_index, None
        num_kept = (token_mask.sum(1, keepdim=True).double() * kept_share).long()  # truncated as above
        return kept_index, torch.arange(kept_index.shape[1], device=scores.device) < num_kept

    def forward(
        self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """
        Args:
            hidden_states (`torch.FloatTensor` of shape `(B, S, D)`): tokens.
            token_mask (`torch.BoolTensor` of shape `(B, S)`, *optional*): False for padding.

        Returns:
            The tokens that stay, `(B, K, E)`; which of them count, `(B, K)` or `None`; their indices in the input,
            `(B, K)`; the scores of all tokens, `(B, S)`.
        """
        attn_output, weights = self.attention(hidden_states, hidden_states, token_mask)
        scores = self.score(weights, token_mask)
        kept_index, kept_mask = self.choose(scores, token_mask)
        index = kept_index[..., None].expand(-1, -1, hidden_states.shape[-1])
        kept = hidden_states.gather(1, index) + self.attention.o_proj(attn_output.gather(1, index))  # (B, K, D)
        kept = self.down_proj(F.gelu(self.up_proj(self.attention_layernorm(kept))))
        return self.output_layernorm(self.dropout(kept)), kept_mask, kept_index, scores


def pool_mean(hidden_states: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor:
    """
    The mean `(B, D)` of tokens `(B, S, D)` without padding.

    >>> pool_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    if token_mask is None:
        return hidden_states.mean(1)
    sums = hidden_states.masked_fill(~token_mask[..., None], 0).sum(1)
    return sums / token_mask.sum(1, keepdim=True).clamp(min=1)


class LatentSpaceDecoder(nn.Module):
    """One vector to several tokens: `(B, L)` to `(B, length, D)`."""

    def __init__(self, latent_size: int, hidden_size: int, length: int, bias: bool = True):
        super().__init__()
        self.length = length
        self.projection = nn.Linear(latent_size, length * hidden_size, bias=bias)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.projection(latent).unflatten(-1, (self.length, -1))


class MLPCore(nn.Module):
    """A thought `(B, L)` to the next: two layers with a ReLU between them (the original's `BaselineCoreModel`)."""

    def __init__(self, latent_size: int):
        super().__init__()
        self.up_proj = nn.Linear(latent_size, latent_size)
        self.down_proj = nn.Linear(latent_size, latent_size)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.relu(self.up_proj(latent)))


class BlockLinearCore(nn.Module):
    """
    A thought `(B, L)` to the next, by one layer for each block size.

    A layer multiplies every block of neighbouring channels with the same matrix. The original calls it
    `Conv1dCoreModel`, but it is not a convolution and has no activation.

    >>> core = BlockLinearCore([2])
    >>> _ = core.layers[0].weight.data.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]])), core.layers[0].bias.data.zero_()
    >>> core(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist()
    [[2.0, 1.0, 4.0, 3.0]]
    """

    def __init__(self, block_sizes: list[int]):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, size) for size in block_sizes)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            latent = layer(latent.unflatten(-1, (-1, layer.in_features))).flatten(-2)
        return latent


__all__ = ["AttentionPooling", "BlockLinearCore", "LatentSpaceDecoder", "MLPCore", "WrittenOutAttention", "pool_mean"]
