# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The layers over bytes: the encoder, which pools bytes to patches, and the two byte decoders.

Layers over bytes attend within patches only. They run over chunks of `max_patch_bytes` bytes and adjacent chunks, so
that bytes keep their position in the row, wherever patches end.

Shapes: B batch, T bytes, P patches, W bytes in a patch, N heads, H head size, D width of the core, E width of bytes,
G blocks.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...configuration.configuration_byte_patch import BytePatchConfig
from ..common.common_layers import eager_attention_forward, get_layer_cache
from .byte_positions import BytePositions, get_byte_offsets, select_rows
from .cache_patches import PatchCache
from .local_attention import FULL_ROWS, ChunkLayout, WindowLayout, build_chunk_layout, build_window_layout
from .patch_ends import BytePatches


class ByteAttention(nn.Module):
    """Attention over the bytes of a patch; the layout says which bytes these are."""

    def __init__(self, config: BytePatchConfig, width: int, layer_idx: int | None = None):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx  # in a cache, after the core's layers; None for layers without a cache
        self.head_dim = width // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False  # the mask of the layout hides later bytes where needed
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, T, E), or blocks (G, W, E)
        layout: ChunkLayout | WindowLayout,
        past_key_values: PatchCache | None = None,
    ) -> torch.Tensor:
        states = (proj(hidden_states) for proj in (self.q_proj, self.k_proj, self.v_proj))
        query, key, value = (part.unflatten(-1, (-1, self.head_dim)) for part in states)  # (B, T, N, H)
        if past_key_values is not None:
            key, value = past_key_values.update(key.transpose(1, 2), value.transpose(1, 2), self.layer_idx)
            key, value = key.transpose(1, 2), value.transpose(1, 2)
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, _ = attention_interface(
            self,
            layout.split_queries(query),
            layout.gather_keys(key),
            layout.gather_keys(value),
            layout.mask,
            dropout=0.0,
            scaling=self.scaling,
            is_causal=False,
        )
        attn_output = layout.join(attn_output, hidden_states.shape[:2])
        return self.o_proj(attn_output.contiguous())  # a split projection takes no slice


class ByteMLP(nn.Module):
    """Feed-forward layer with exact GELU, which may change the width."""

    def __init__(self, width: int, intermediate_size: int, next_width: int):
        super().__init__()
        self.up_proj = nn.Linear(width, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, next_width, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.gelu(self.up_proj(hidden_states)))


class ByteLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward over bytes; a published feed-forward layer replaces the residual stream."""

    def __init__(
        self,
        config: BytePatchConfig,
        width: int,
        intermediate_size: int,
        next_width: int,
        layer_idx: int | None = None,
    ):
        super().__init__()
        self.is_residual = config.byte_layers == "residual"
        self.self_attn = ByteAttention(config, width, layer_idx)
        self.mlp = ByteMLP(width, intermediate_size, next_width)
        self.input_layernorm = nn.RMSNorm(width, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(width, config.rms_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        layout: ChunkLayout | WindowLayout = FULL_ROWS,
        past_key_values: PatchCache | None = None,
    ) -> torch.Tensor:
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), layout, past_key_values)
        mlp_output = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + mlp_output if self.is_residual else mlp_output


class ByteEncoder(nn.Module):
    """Bytes to one vector a patch: layers over the bytes of the patch, then their mean."""

    def __init__(self, config: BytePatchConfig):
        super().__init__()
        self.config = config
        width, wide, depth = config.hidden_size, config.intermediate_size, config.encoder_num_hidden_layers
        self.positions = nn.Embedding(config.max_patch_bytes, width)
        if config.byte_layers == "published":
            widths = [width] + [2 * width] * (depth - 1)
            hidden = [wide] + [2 * wide] * (depth - 1)
            ends = [*widths[1:], config.core_hidden_size]
            self.layers = nn.ModuleList(map(lambda *sizes: ByteLayer(config, *sizes), widths, hidden, ends))
            self.norm, self.projection = nn.Identity(), nn.Identity()
        else:
            self.layers = nn.ModuleList(ByteLayer(config, width, wide, width) for _ in range(depth))
            self.norm = nn.RMSNorm(width, config.rms_norm_eps)
            self.projection = nn.Linear(width, config.core_hidden_size, bias=False)

    def encode_blocks(self, byte_embeds: torch.Tensor) -> torch.Tensor:
        """Blocks `(B, P, W, E)` to vectors `(B, P, D)`; padding is encoded like bytes, as published."""
        positions = self.positions(torch.arange(byte_embeds.shape[2], device=byte_embeds.device))
        hidden_states = byte_embeds.flatten(0, 1) + positions  # (G, W, E)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return self.projection(self.norm(hidden_states).mean(1)).unflatten(0, byte_embeds.shape[:2])

    def forward(self, byte_embeds: torch.Tensor, patches: BytePatches, token_mask: torch.Tensor | None):
        """Bytes `(B, T, E)` to the vectors of their patches `(B, P, D)`."""
        longest = self.config.max_patch_bytes
        offsets = get_byte_offsets(patches, token_mask).clamp(max=longest - 1)
        hidden_states = byte_embeds + self.positions(offsets)
        layout = build_chunk_layout(patches.patch_index, longest, False, hidden_states.dtype)
        for layer in self.layers:
            hidden_states = layer(hidden_states, layout)
        return self.projection(average_patches(self.norm(hidden_states), patches))


def average_patches(hidden_states: torch.Tensor, patches: BytePatches) -> torch.Tensor:
    """The mean over the bytes `(B, T, E)` of each patch, `(B, P, E)`; 0 for empty patches."""
    num_patches = patches.lengths.shape[1]
    sums = hidden_states.new_zeros(hidden_states.shape[0], num_patches + 1, hidden_states.shape[-1])
    index = torch.where(patches.patch_index < 0, num_patches, patches.patch_index)
    sums = sums.scatter_add(1, index[..., None].expand_as(hidden_states), hidden_states)[:, :-1]
    return sums / patches.lengths.clamp(min=1)[..., None]


class AutoregressiveByteDecoder(nn.Module):
    """States of finished patches and the bytes of the open patch to a state for each byte."""

    def __init__(self, config: BytePatchConfig):
        super().__init__()
        self.config = config
        width, wide = config.hidden_size, config.intermediate_size
        self.projection = nn.Linear(config.core_hidden_size, width, bias=False)
        self.positions = nn.Embedding(config.max_patch_bytes, width)
        self.layers = nn.ModuleList(
            ByteLayer(config, width, wide, width, config.core_num_hidden_layers + i)
            for i in range(config.num_hidden_layers)
        )

    def project(self, states: torch.Tensor) -> torch.Tensor:
        """States of the core `(B, P, D)` to contexts `(B, P, E)`."""
        return self.projection(states)

    def forward(
        self,
        contexts: torch.Tensor,
        byte_embeds: torch.Tensor,
        positions: BytePositions,
        past_key_values: PatchCache | None = None,
    ) -> torch.Tensor:
        """
        States that predict the byte after each.

        Args:
            contexts (`torch.FloatTensor` of shape `(B, 1 + P, E)`): the context of n finished patches at n.
            byte_embeds (`torch.FloatTensor` of shape `(B, T, E)`): the bytes.
            positions (`BytePositions`): their positions among patches.
            past_key_values (`PatchCache`, *optional*): keys and values of earlier bytes; those of these are added.

        Returns:
            `torch.FloatTensor` of shape `(B, T, E)`.
        """
        longest, num_bytes, dtype = self.config.max_patch_bytes, byte_embeds.shape[1], byte_embeds.dtype
        hidden_states = byte_embeds + select_rows(contexts, positions.num_finished)
        hidden_states = hidden_states + self.positions(positions.num_open_bytes.clamp(0, longest - 1))
        if positions.groups.shape[1] == num_bytes:
            layout = build_chunk_layout(positions.groups, longest, True, dtype)
        else:
            layout = build_window_layout(positions.groups, num_bytes, dtype)
        for layer in self.layers:
            hidden_states = layer(hidden_states, layout, past_key_values=get_layer_cache(layer, past_key_values))
        return hidden_states


class ParallelByteDecoder(nn.Module):
    """The state of a patch to all bytes of the next one at once (docs/reference_behaviour.md, "Byte-level models")."""

    def __init__(self, config: BytePatchConfig):
        super().__init__()
        self.config = config
        width, wide = config.hidden_size, config.intermediate_size
        self.projection = nn.Linear(config.core_hidden_size, config.max_patch_bytes * width, bias=False)
        self.positions = nn.Embedding(config.max_patch_bytes, width)
        self.layers = nn.ModuleList(ByteLayer(config, width, wide, width) for _ in range(config.num_hidden_layers))

    def project(self, states: torch.Tensor) -> torch.Tensor:
        """The states `(B, P, D)` themselves: [`decode_patches`] projects them, to as many bytes."""
        return states

    def decode_patches(self, states: torch.Tensor) -> torch.Tensor:
        """States `(B, P, D)` to those of the bytes of patches `(B, P, W, E)`."""
        longest = self.config.max_patch_bytes
        hidden_states = self.projection(states).view(-1, longest, self.config.hidden_size)  # (G, W, E)
        # The factor 2 is the original's (docs/reference_behaviour.md, "Byte-level models", B1).
        hidden_states = 2 * hidden_states + self.positions(torch.arange(longest, device=states.device))
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states.unflatten(0, states.shape[:2])

    def forward(
        self,
        contexts: torch.Tensor,
        byte_embeds: torch.Tensor,
        positions: BytePositions,
        past_key_values: PatchCache | None = None,
    ) -> torch.Tensor:
        """States `(B, T, E)` that predict the byte after each, as [`AutoregressiveByteDecoder`] gives them."""
        longest, num_finished = self.config.max_patch_bytes, positions.num_finished.clamp(min=0)
        offsets = positions.num_open_bytes.clamp(0, longest - 1)
        if positions.groups.shape[1] == byte_embeds.shape[1]:  # no earlier bytes
            return select_rows(self.decode_patches(contexts).flatten(1, 2), num_finished * longest + offsets)
        if byte_embeds.shape[1] == 1:

            def decode_rows(rows: torch.Tensor) -> torch.Tensor:
                return self.decode_patches(select_rows(contexts[rows], num_finished[rows]))[:, 0]

            patch_bytes = past_key_values.update_patch_bytes(num_finished[:, 0], decode_rows)  # (B, W, E)
            return select_rows(patch_bytes, offsets)
        first = num_finished.min(dim=1, keepdim=True).values
        index = first + torch.arange(int((num_finished - first).max()) + 1, device=first.device)
        patch_bytes = self.decode_patches(select_rows(contexts, index)).flatten(1, 2)
        return select_rows(patch_bytes, (num_finished - first) * longest + offsets)


__all__ = [
    "AutoregressiveByteDecoder",
    "ByteAttention",
    "ByteEncoder",
    "ByteLayer",
    "ByteMLP",
    "ParallelByteDecoder",
    "average_patches",
]
