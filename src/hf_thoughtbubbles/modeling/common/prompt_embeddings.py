# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Generation without a cache from a prompt of vectors (`inputs_embeds`).

transformers passes the vectors in the first step only, because later steps continue from a cache.

Shapes: B batch, T tokens, D hidden.
"""

import torch


def append_generated(
    embed_tokens: torch.nn.Module,
    inputs_embeds: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
) -> torch.Tensor:
    """The vectors `(B, T, D)` of the prompt, followed by the embeddings of the generated tokens."""
    tokens = position_ids if attention_mask is None else attention_mask  # (B, prompt and generated)
    num_generated = tokens.shape[1] - inputs_embeds.shape[1]
    generated = embed_tokens(input_ids[:, input_ids.shape[1] - num_generated :])
    return torch.cat((inputs_embeds, generated), dim=1)


__all__ = ["append_generated"]
