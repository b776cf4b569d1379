# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The KV cache of next-thought models: an `EncoderDecoderCache` with latent tokens in its cross-attention half.

Latent tokens are the same for every written token, as the encoder's output is in other models. So lengths count
written tokens, `crop` removes written tokens only, and beam search reorders both halves.

Shapes: B batch, N heads, L latent tokens, T written tokens, M entries, H head size.
"""

import torch
from transformers.cache_utils import EncoderDecoderCache


class LatentPrefixCache:
    """
    An `EncoderDecoderCache` in the form that attention uses: one causal row, latent tokens first.

    The first call passes the latent tokens before its own tokens.

    Args:
        cache (`EncoderDecoderCache`): latent tokens in its cross-attention half, written tokens in the other.
        num_latent_tokens (`int`): number of latent tokens.
    """

    def __init__(self, cache: EncoderDecoderCache, num_latent_tokens: int):
        self.cache = cache
        self.num_latent_tokens = num_latent_tokens
        self.is_filled = has_latent_tokens(cache)

    @property
    def is_compileable(self) -> bool:
        return self.cache.is_compileable

    def get_query_offset(self, layer_idx: int = 0) -> int | torch.Tensor:
        """Number of entries before those of this call."""
        return self.num_latent_tokens + self.cache.get_seq_length(layer_idx) if self.is_filled else 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Number of entries that `query_length` queries attend to at most, and the index of the first."""
        num_tokens = query_length if self.is_filled else query_length - self.num_latent_tokens
        length, offset = self.cache.self_attention_cache.get_mask_sizes(num_tokens, layer_idx)
        return self.num_latent_tokens + length, offset

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values `(B, N, T or L + T, H)` of this call; return those of all entries, `(B, N, M, H)`."""
        prefix = self.cache.cross_attention_cache
        if not self.is_filled:
            split = (self.num_latent_tokens, key.shape[2] - self.num_latent_tokens)
            (first_key, key), (first_value, value) = key.split(split, dim=2), value.split(split, dim=2)
            prefix.update(first_key, first_value, layer_idx)
            self.cache.is_updated[layer_idx] = True
        layer = prefix.layers[layer_idx]
        key, value = self.cache.self_attention_cache.update(key, value, layer_idx)
        return torch.cat((layer.keys, key), dim=2), torch.cat((layer.values, value), dim=2)


def has_latent_tokens(cache: EncoderDecoderCache) -> bool:
    """Whether a cache holds the latent tokens already."""
    return cache.is_updated.get(0, False)


__all__ = ["LatentPrefixCache", "has_latent_tokens"]
