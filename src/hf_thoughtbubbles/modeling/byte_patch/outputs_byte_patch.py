# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Outputs of byte-patch models.

Shapes: B batch, T bytes, P patches, W bytes in a patch, N heads, D width of the core, E width of bytes, V vocabulary.
"""

from dataclasses import dataclass

import torch

from ..common.cache_names import alias_cache_field
from ..common.model_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from .patch_ends import BytePatches


@alias_cache_field
@dataclass
class BytePatchModelOutput(BaseModelOutputWithPast):
    """
    The base model's output.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, T, E)`): a state for each byte, which predicts the byte
            after it; for blocks `(B, P, W, E)`, which predict the block after each.
        past_key_values (`PatchCache`, *optional*): the cache.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): the input of each layer of the byte decoder, then
            `last_hidden_state`. Each is `(B, T, E)`, or of whole patches `(B * P, W, E)` with the parallel decoder.
        attentions (`tuple(torch.FloatTensor)`, *optional*): attention weights of the core's layers, `(B, N, P, P)`.
            With a cache, those of rows that finish a patch; empty when none does, because the core does not run.
        core_hidden_states (`tuple(torch.FloatTensor)`, *optional*): the output of each layer of the core,
            `(B, P, D)`; with `output_core_hidden_states=True`.
        patch_hidden_states (`torch.FloatTensor` of shape `(B, P, D)`, *optional*): the core's state of each patch;
            `None` for bytes after those in a cache.
        patch_embeds (`torch.FloatTensor` of shape `(B, P, D)`, *optional*): the pooled vector of each patch, before
            the core; `None` for bytes after those in a cache.
        patches (`BytePatches`, *optional*): which bytes belong to which patch; `None` for blocks, and for bytes after
            those in a cache.
    """

    core_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    patch_hidden_states: torch.FloatTensor | None = None
    patch_embeds: torch.FloatTensor | None = None
    patches: BytePatches | None = None


@alias_cache_field
@dataclass
class BytePatchCausalLMOutput(CausalLMOutputWithPast):
    """
    The language model's output.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): cross entropy of the next byte in nats, plus the weighted
            reconstruction loss; with `labels`.
        logits (`torch.FloatTensor` of shape `(B, T, V)`): of the byte after each; for blocks `(B, P, W, V)`, of the
            block after each.
        past_key_values (`PatchCache`, *optional*): the cache.
        hidden_states, attentions, core_hidden_states (`tuple(torch.FloatTensor)`, *optional*): see
            [`BytePatchModelOutput`].
        reconstruction_loss (`torch.FloatTensor` of shape `()`, *optional*): cross entropy in nats of each patch
            decoded from its own vector; with blocks, or with `reconstruction_loss_weight` and labels.
        draft_loss (`torch.FloatTensor` of shape `()`, *optional*): cross entropy in nats of proposed bytes; with
            `num_draft_bytes`, `draft_loss_weight` and labels.
        patches (`BytePatches`, *optional*): with `output_patches=True`.
    """

    core_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    draft_loss: torch.FloatTensor | None = None
    patches: BytePatches | None = None


__all__ = ["BytePatchCausalLMOutput", "BytePatchModelOutput"]
