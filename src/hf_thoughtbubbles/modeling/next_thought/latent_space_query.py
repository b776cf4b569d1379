# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A layer of the original that no model here uses (docs/reference_behaviour.md, "Next-thought models", other layers).

Shapes: B batch, S tokens, M latent tokens, D width.
"""

import torch
from torch import nn

from .pooling_layers import WrittenOutAttention


class LatentSpaceQuery(nn.Module):
    """Cross-attention of tokens `(B, S, D)` to latent tokens `(B, M, D)`, without a norm or a residual stream."""

    def __init__(self, hidden_size: int, num_heads: int = 12):
        super().__init__()
        self.attention = WrittenOutAttention(hidden_size, num_heads)

    def forward(self, hidden_states: torch.Tensor, latent_tokens: torch.Tensor) -> torch.Tensor:
        attn_output, _ = self.attention(hidden_states, latent_tokens)
        return self.attention.o_proj(attn_output)


__all__ = ["LatentSpaceQuery"]
