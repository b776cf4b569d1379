# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How does generation without a cache read a prompt that was given as vectors?

transformers reads the vectors once and relies on a cache from then on.

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
    """The prompt's vectors `(B, T, D)` with those of the tokens that were generated since, to be read anew."""
    seen = position_ids if attention_mask is None else attention_mask  # (B, prompt and generated)
    num_generated = seen.shape[1] - inputs_embeds.shape[1]
    generated = embed_tokens(input_ids[:, input_ids.shape[1] - num_generated :])
    return torch.cat((inputs_embeds, generated), dim=1)


__all__ = ["append_generated"]
