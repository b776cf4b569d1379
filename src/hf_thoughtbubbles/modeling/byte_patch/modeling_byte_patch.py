# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How does a byte-patch model turn bytes into logits?

    embed    layers over the bytes of each patch, whose mean is the patch's vector
    decode   a generic transformer over the patches, causal
    unembed  for each byte the core's state of the patches finished by then, and what the decoder makes of it: with the
             earlier bytes of the open patch (autoregressive), or all bytes of the patch at once (parallel)

Layers over bytes see the bytes of one patch only. They attend within chunks of `max_patch_bytes` bytes and their
neighbours, so that bytes stay where they are in the row, whatever patches there are.

Shapes: B batch, T bytes, P patches, W bytes in a patch, C chunks, N heads, H head size, D hidden, E byte width,
V vocabulary, G blocks.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple, logging
from transformers.utils.output_capturing import capture_outputs

from ...configuration.configuration_byte_patch import BytePatchConfig
from ...hub.hub_models import HubModelMixin
from ..common.cache_names import CACHE_NAME, accept_cache_names
from ..common.checks_tokens import check_cache_in_replay
from ..common.common_layers import eager_attention_forward
from ..common.position_ids import find_document_starts
from ..generic_transformer.generic_layers import (
    SKIP_DEVICE_PLACEMENT,
    GenericAttention,
    GenericDecoderLayer,
    GenericStack,
    build_norm,
    init_generic_weights,
)
from .cache_patches import PatchCache, PatchSlots
from .checks_byte_patch import check_blocks, check_bytes
from .generation_byte_patch import BytePatchGenerationMixin
from .local_attention import WHOLE_ROWS, Neighbourhood, Window, build_mask, build_neighbourhood, is_same_group
from .patch_ends import (
    BytePatches,
    count_open_bytes,
    find_last,
    find_patch_ends,
    number_patches,
    spread_patch_lengths,
    take_patches,
)


logger = logging.get_logger(__name__)


@dataclass
class BytePatchModelOutput(BaseModelOutputWithPast):
    """
    The base model's output.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, P, D)`): the core's state of each patch.
        past_key_values (`Cache`, *optional*): keys and values.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): what enters each layer of the core, then what the last
            one leaves.
        attentions (`tuple(torch.FloatTensor)`, *optional*): attention weights of the core's layers, `(B, N, P, P)`.
        patch_embeds (`torch.FloatTensor` of shape `(B, P, D)`): the pooled vector of each patch, before the core.
        patches (`BytePatches`, *optional*): where the patches lie; `None` when they came as blocks, and for bytes
            after those in a cache.
        places (`BytePlaces`, *optional*): how a decoder sees each byte; `None` when they came as blocks.
        initial_state (`torch.FloatTensor` of shape `(D,)`, *optional*): the core's state while no patch is finished;
            `None` when they came as blocks. It is handed on, because a parameter that lies on disk is here only while
            its own module runs.
    """

    patch_embeds: torch.FloatTensor | None = None
    patches: BytePatches | None = None
    places: "BytePlaces | None" = None
    initial_state: torch.FloatTensor | None = None


@dataclass
class BytePatchCausalLMOutput(CausalLMOutputWithPast):
    """
    The language model's output.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): cross entropy of the next byte in nats, plus the weighted
            reconstruction loss; with `labels`.
        logits (`torch.FloatTensor` of shape `(B, T, V)`): of the byte after each; for blocks `(B, P, W, V)`, of the
            block after each.
        past_key_values (`Cache`, *optional*): keys and values.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*): of the core, see [`BytePatchModelOutput`].
        reconstruction_loss (`torch.FloatTensor` of shape `()`, *optional*): cross entropy in nats of each patch
            written from its own vector; with blocks, or with `reconstruction_loss_weight` and labels.
        patches (`BytePatches`, *optional*): with `output_patches=True`.
    """

    reconstruction_loss: torch.FloatTensor | None = None
    patches: BytePatches | None = None


class BytePlaces(NamedTuple):
    """Where bytes stand among patches, as a decoder sees them; of padding, -1 patches are finished."""

    num_finished: torch.LongTensor  # (B, T) patches finished with each byte; 0 while its document has none
    num_open_bytes: torch.LongTensor  # (B, T) bytes that the open patch has by then
    groups: torch.LongTensor | None  # (B, T) equal for bytes of the same open patch
    is_seen: torch.BoolTensor | None = None  # (B, T, K + T) instead, after a cache: of which K bytes are in reach


class ByteAttention(nn.Module):
    """Attention over the bytes of a patch; what surrounds a byte says which."""

    def __init__(self, config: BytePatchConfig, width: int, layer_idx: int | None = None):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx  # in a cache, after the core's; None where nothing is kept
        self.num_heads = config.num_byte_attention_heads
        self.scaling = (width // self.num_heads) ** -0.5
        self.is_causal = False  # what a byte sees is in the mask
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        surroundings: Neighbourhood | Window,
        past_key_values: PatchCache | None = None,
    ) -> torch.Tensor:
        """`(B, T, E)`, or whole blocks `(G, W, E)`."""
        shape = (*hidden_states.shape[:2], self.num_heads, -1)
        query, key, value = (proj(hidden_states).view(shape) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if past_key_values is not None:
            key, value = past_key_values.update(key.transpose(1, 2), value.transpose(1, 2), self.layer_idx)
            key, value = key.transpose(1, 2), value.transpose(1, 2)
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        read, _ = attention_interface(
            self,
            surroundings.split(query),
            surroundings.gather(key),
            surroundings.gather(value),
            surroundings.mask,
            dropout=0.0,
            scaling=self.scaling,
            is_causal=False,
        )
        return self.o_proj(surroundings.join(read, hidden_states.shape))


class ByteMLP(nn.Module):
    """Widen, activate, narrow to the next layer's width."""

    def __init__(self, width: int, intermediate_size: int, next_width: int):
        super().__init__()
        self.up_proj = nn.Linear(width, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, next_width, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.gelu(self.up_proj(hidden_states)))


class ByteLayer(GradientCheckpointingLayer):
    """Attention and feed-forward over bytes; the original's feed-forward layer replaces the stream (SPEC 4)."""

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

    @accept_cache_names
    def forward(
        self,
        hidden_states: torch.Tensor,
        surroundings: Neighbourhood | Window = WHOLE_ROWS,
        past_key_values: PatchCache | None = None,
    ) -> torch.Tensor:
        normed = self.input_layernorm(hidden_states)
        hidden_states = hidden_states + self.self_attn(normed, surroundings, past_key_values)
        widened = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + widened if self.is_residual else widened


class ByteEncoder(nn.Module):
    """Bytes to one vector a patch: layers over the bytes of the patch, then their mean."""

    def __init__(self, config: BytePatchConfig):
        super().__init__()
        self.config = config
        width, depth = config.byte_hidden_size, config.num_byte_encoder_layers
        self.positions = nn.Embedding(config.max_patch_bytes, width)
        if config.byte_layers == "published":
            widths = [width] + [2 * width] * (depth - 1)
            hidden = [4 * width] + [8 * width] * (depth - 1)
            ends = [*widths[1:], config.hidden_size]
            self.layers = nn.ModuleList(map(lambda *sizes: ByteLayer(config, *sizes), widths, hidden, ends))
            self.norm, self.projection = nn.Identity(), nn.Identity()
        else:
            self.layers = nn.ModuleList(ByteLayer(config, width, 4 * width, width) for _ in range(depth))
            self.norm = nn.RMSNorm(width, config.rms_norm_eps)
            self.projection = nn.Linear(width, config.hidden_size, bias=False)

    def encode_blocks(self, byte_embeds: torch.Tensor) -> torch.Tensor:
        """Blocks `(B, P, W, E)`, padding and all, to `(B, P, D)`: as published."""
        hidden_states = byte_embeds.flatten(0, 1) + self.positions(
            torch.arange(byte_embeds.shape[2], device=byte_embeds.device)
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return self.projection(self.norm(hidden_states).mean(1)).unflatten(0, byte_embeds.shape[:2])

    def forward(self, byte_embeds: torch.Tensor, patches: BytePatches, token_mask: torch.Tensor | None):
        """Bytes `(B, T, E)` to the vectors of their patches `(B, P, D)`."""
        place = find_places(patches, token_mask).clamp(max=self.config.max_patch_bytes - 1)
        hidden_states = byte_embeds + self.positions(place)
        neighbourhood = build_neighbourhood(
            patches.patch_index, self.config.max_patch_bytes, False, hidden_states.dtype
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, neighbourhood)
        return self.projection(pool_patches(self.norm(hidden_states), patches))


def find_places(patches: BytePatches, token_mask: torch.Tensor | None) -> torch.Tensor:
    """The place `(B, T)` of each byte in its patch, from 0; what padding gets is left open."""
    num_open = count_open_bytes(patches.is_end, token_mask, patches.is_start)
    place = torch.where(patches.is_end, F.pad(num_open, (1, 0))[:, :-1], num_open - 1).clamp(min=0)
    return place if patches.is_start is None else place.masked_fill(patches.is_start, 0)


def place_bytes(patches: BytePatches, token_mask: torch.Tensor | None) -> BytePlaces:
    """How a decoder sees the bytes `(B, T)`."""
    num_finished = patches.patch_index + patches.is_end.long()  # -1 for padding, which ends nothing
    num_open = count_open_bytes(patches.is_end, token_mask, patches.is_start)
    if patches.is_start is None:
        return BytePlaces(num_finished, num_open, num_finished)
    document = patches.is_start.long().cumsum(1)
    first = patches.patch_index.gather(1, find_last(patches.is_start).clamp(min=0))  # of the document
    groups = num_finished + document  # the last byte of a document never shares its group with the next one's first
    return BytePlaces(torch.where(num_finished > first, num_finished, 0), num_open, groups)


def place_patches(patches: BytePatches) -> torch.Tensor:
    """The position `(B or 1, P)` of each patch in its document."""
    num_patches = patches.lengths.shape[1]
    places = torch.arange(num_patches, device=patches.lengths.device)[None]
    if patches.is_start is None:
        return places
    is_first = torch.zeros_like(patches.lengths).scatter_reduce(
        1, patches.patch_index, patches.is_start.long(), reduce="amax"
    )
    return places - find_last(is_first.bool()).clamp(min=0)


def pool_patches(hidden_states: torch.Tensor, patches: BytePatches) -> torch.Tensor:
    """The mean of the bytes `(B, T, E)` of each patch, `(B, P, E)`; 0 for patches that are not there."""
    num_patches = patches.lengths.shape[1]
    sums = hidden_states.new_zeros(hidden_states.shape[0], num_patches + 1, hidden_states.shape[-1])
    index = torch.where(patches.patch_index < 0, num_patches, patches.patch_index)
    sums = sums.scatter_add(1, index[..., None].expand_as(hidden_states), hidden_states)[:, :-1]
    return sums / patches.lengths.clamp(min=1)[..., None]


class AutoregressiveByteDecoder(nn.Module):
    """States of finished patches and the bytes of the open one to a state for each byte."""

    def __init__(self, config: BytePatchConfig):
        super().__init__()
        self.config = config
        width = config.byte_hidden_size
        self.projection = nn.Linear(config.hidden_size, width, bias=False)
        self.positions = nn.Embedding(config.max_patch_bytes, width)
        self.layers = nn.ModuleList(
            ByteLayer(config, width, 4 * width, width, config.num_hidden_layers + i)
            for i in range(config.num_byte_decoder_layers)
        )

    def forward(
        self,
        context: torch.Tensor,
        byte_embeds: torch.Tensor,
        places: BytePlaces,
        past_key_values: PatchCache | None = None,
    ) -> torch.Tensor:
        """
        States for the byte after each.

        Args:
            context (`torch.FloatTensor` of shape `(B, T, E)`): the projected state of the patches finished by then.
            byte_embeds (`torch.FloatTensor` of shape `(B, T, E)`): the bytes.
            places (`BytePlaces`): where they stand.
            past_key_values (`PatchCache`, *optional*): keys and values of earlier bytes; takes those of these.

        Returns:
            `torch.FloatTensor` of shape `(B, T, E)`.
        """
        longest = self.config.max_patch_bytes
        hidden_states = byte_embeds + context + self.positions(places.num_open_bytes.clamp(0, longest - 1))
        if places.is_seen is not None:
            seen = Window(build_mask(places.is_seen, hidden_states.dtype)[:, None])
        else:
            seen = build_neighbourhood(places.groups, longest, True, hidden_states.dtype)
        for layer in self.layers:
            hidden_states = layer(hidden_states, seen, **{CACHE_NAME: past_key_values})
        return hidden_states


class ParallelByteDecoder(nn.Module):
    """A state to all bytes of a patch at once, as published (SPEC section 4)."""

    def __init__(self, config: BytePatchConfig):
        super().__init__()
        self.config = config
        width = config.byte_hidden_size
        self.projection = nn.Linear(config.hidden_size, config.max_patch_bytes * width, bias=False)
        self.positions = nn.Embedding(config.max_patch_bytes, width)
        self.layers = nn.ModuleList(
            ByteLayer(config, width, 4 * width, width) for _ in range(config.num_byte_decoder_layers)
        )

    def spread(self, states: torch.Tensor) -> torch.Tensor:
        """States `(G, D)` to what enters the first layer, `(G, W, E)`; the doubling is the original's."""
        hidden_states = self.projection(states).view(states.shape[0], self.config.max_patch_bytes, -1)
        return 2 * hidden_states + self.positions(torch.arange(hidden_states.shape[1], device=hidden_states.device))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States `(B, P, D)` to `(B, P, W, E)`."""
        hidden_states = self.spread(states.flatten(0, 1))
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states.unflatten(0, states.shape[:2])


class BytePatchPreTrainedModel(HubModelMixin, PreTrainedModel):
    """Initial weights, and what transformers may do with the models of this family."""

    config: BytePatchConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GenericDecoderLayer", "ByteLayer"]
    _skip_keys_device_placement = SKIP_DEVICE_PLACEMENT
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": GenericDecoderLayer, "attentions": GenericAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        init_generic_weights(module)
        if isinstance(module, BytePatchModel):
            init.normal_(module.initial_state, std=self.config.initializer_range)


class BytePatchModel(BytePatchPreTrainedModel):
    """
    Bytes to the states of their patches, see [`BytePatchConfig`].

    Example:

    >>> from hf_thoughtbubbles import BytePatchConfig
    >>> config = BytePatchConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, byte_hidden_size=16)
    >>> outputs = BytePatchModel(config)(torch.tensor([list(b"to be, or not")]))
    >>> outputs.patches.lengths, outputs.last_hidden_state.shape
    (tensor([[3, 3, 4, 3]]), torch.Size([1, 4, 32]))
    """

    def __init__(self, config: BytePatchConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.byte_hidden_size)
        self.embed_scale = config.byte_hidden_size**0.5 if config.byte_layers == "residual" else 1.0
        self.byte_encoder = ByteEncoder(config)
        self.core = GenericStack(config)
        self.norm = build_norm(config, config.final_normalization, config.head_bias)
        self.initial_state = nn.Parameter(torch.empty(config.hidden_size))  # the core's, while no patch is finished
        self.post_init()

    def embed_bytes(self, input_ids: torch.Tensor) -> torch.Tensor:
        """
        Ids of any shape to vectors `(..., E)`, as in Vaswani et al. (2017), section 3.4: unscaled, a byte would be
        drowned by what the core says about its patch.
        """
        return self.embed_tokens(input_ids) * self.embed_scale

    def find_patches(
        self,
        input_ids: torch.Tensor,
        token_mask: torch.Tensor | None,
        patch_lengths: torch.Tensor | None = None,
        given: torch.Tensor | None = None,
        is_start: torch.Tensor | None = None,
    ) -> BytePatches:
        """The patches of bytes `(B, T)`; lengths, or ends of the first bytes `(B, K)`, are taken as they are given."""
        if patch_lengths is not None:
            real = torch.ones_like(input_ids, dtype=torch.bool) if token_mask is None else token_mask
            is_end = spread_patch_lengths(patch_lengths, real)
            return number_patches(is_end, token_mask, patch_lengths.shape[1], is_start)
        is_end = self.find_ends(input_ids, token_mask, given, is_start)
        num_patches = input_ids.shape[1] if torch.compiler.is_compiling() else None
        return number_patches(is_end, token_mask, num_patches, is_start)

    def find_ends(
        self,
        input_ids: torch.Tensor,
        token_mask: torch.Tensor | None,
        known: torch.Tensor | None = None,
        is_start: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Which bytes end a patch; words stand in for the tokens of bytes that were just written."""
        patching = "space" if self.config.patching == "token" else self.config.patching
        return find_patch_ends(
            input_ids, patching, self.config.patch_size, self.config.max_patch_bytes, token_mask, known, is_start
        )

    def embed(
        self, input_ids: torch.Tensor, patches: BytePatches, token_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Bytes `(B, T)` to the vectors of their patches `(B, P, D)`."""
        return self.byte_encoder(self.embed_bytes(input_ids), patches, token_mask)

    def decode(
        self,
        patch_embeds: torch.Tensor,
        past_key_values: PatchCache | None = None,
        slots: PatchSlots | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        Vectors of patches `(B, P, D)` to the core's states `(B, P, D)`; patches that are not there come last.

        With `slots` the patches `(b, m, D)` come after those that the cache holds of some rows. Where `position_ids`
        `(B, P)` begin again, so does a document.
        """
        places = torch.arange(patch_embeds.shape[1], device=patch_embeds.device)[None]
        if slots is None:
            position_ids = places if position_ids is None else position_ids
            mask = create_causal_mask(
                config=self.config,
                inputs_embeds=patch_embeds,
                attention_mask=None,
                **{CACHE_NAME: None},
                position_ids=position_ids,
            )
            states = self.core(
                patch_embeds, position_ids, attention_mask=mask, past_key_values=past_key_values, **kwargs
            )
            return self.norm(states)
        position_ids = slots.first[:, None] + places  # (b, m)
        key_positions = torch.arange(slots.num_used, device=places.device)[None]
        mask = None
        if position_ids.numel() > 1:  # a single patch sees all
            mask = build_mask(key_positions <= position_ids[..., None], patch_embeds.dtype)[:, None]  # (b, 1, m, P)
        states = self.core(
            patch_embeds,
            position_ids,
            attention_mask=mask,
            past_key_values=past_key_values,
            key_positions=key_positions,
            cache_kwargs={"slots": slots},
            **kwargs,
        )
        return self.norm(states)

    def read_on(
        self,
        input_ids: torch.Tensor,
        token_mask: torch.Tensor,
        cache: PatchCache,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BytePatchModelOutput:
        """
        Read bytes `(B, n)` after those in the cache: the core runs only for rows of which a patch ends.

        Its states go to the cache; the output has those that were computed.
        """
        longest = self.config.max_patch_bytes
        num_past = cache.get_seq_length()
        given = cache.get_given_ends(num_past, num_past + input_ids.shape[1])
        num_known = min(num_past, longest + 2)
        known = cache.is_end[:, num_past - num_known :]
        taken = known if given is None else torch.cat((known, given), dim=1)
        ids = torch.cat((cache.input_ids[:, num_past - num_known :], input_ids), dim=1)
        mask = torch.cat((cache.token_mask[:, num_past - num_known :], token_mask), dim=1)
        is_end = self.find_ends(ids, mask, taken) & mask
        counts, first = is_end.long().cumsum(1), cache.is_end.sum(1)
        num_before = first - counts[:, num_known - 1]  # patches before the window
        cache.append(input_ids, token_mask, is_end[:, num_known:])

        num_ended = counts[:, -1] + num_before - first
        states = None
        rows = num_ended.nonzero().flatten()
        if len(rows) > 0:
            known = counts[rows, num_known - 1]  # patches of the window that were finished before
            patches, start = take_patches(is_end[rows], mask[rows], known, int(num_ended.max()))
            patch_embeds = self.embed(ids[rows, start:], patches, mask[rows, start:])
            states = self.decode_on(patch_embeds, rows, first[rows], cache, **kwargs)

        groups = (counts + num_before[:, None]).masked_fill(~mask, -1)
        places = BytePlaces(
            groups[:, num_known:],
            count_open_bytes(is_end, mask)[:, num_known:],
            groups=None,
            is_seen=is_same_group(groups[:, max(0, num_known - longest + 1) :], input_ids.shape[1]),
        )
        return BytePatchModelOutput(
            last_hidden_state=states, places=places, initial_state=self.initial_state, **{CACHE_NAME: cache}
        )

    def decode_on(
        self,
        patch_embeds: torch.Tensor,
        rows: torch.Tensor,
        first: torch.Tensor,
        cache: PatchCache,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """The core's states `(b, m, D)` of patches after the `first` `(b,)` of rows `(b,)`; the cache keeps them."""
        slots = PatchSlots(rows, first, int(first.max()) + patch_embeds.shape[1])
        states = self.decode(patch_embeds, cache, slots, **kwargs)
        cache.states = slots.write(cache.states, states)
        return states

    @accept_cache_names
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        patch_lengths: torch.LongTensor | None = None,
        patch_input_ids: torch.LongTensor | None = None,
        past_key_values: PatchCache | None = None,
        use_cache: bool | None = None,
        position_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BytePatchModelOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): bytes and special tokens.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 0 for padding, on either side; also of the
                bytes in `past_key_values`.
            position_ids (`torch.LongTensor` of shape `(B or 1, T)`, *optional*): begin again where a document does,
                when several are packed into a row: they do not see each other. Such rows have no padding and no
                cache. The places of patches follow from the bytes, whatever other positions say.
            patch_lengths (`torch.LongTensor` of shape `(B, P)`, *optional*): bytes in each patch, from the first real
                byte on; 0 after the last. Their sum is the row's number of real bytes.
            patch_input_ids (`torch.LongTensor` of shape `(B, P, W)`): blocks of bytes instead of `input_ids`, padding
                and all, as the original reads them.
            past_key_values (`PatchCache`, *optional*): what was read before.
            use_cache (`bool`, *optional*): whether to return a cache; the configuration's by default.

        Raises:
            `ValueError`: when shapes, ids or lengths do not fit.
        """
        if patch_input_ids is not None:
            others = (input_ids, attention_mask, patch_lengths, past_key_values, position_ids, use_cache or None)
            check_blocks(self.config, patch_input_ids, *others)
            patch_embeds = self.byte_encoder.encode_blocks(self.embed_bytes(patch_input_ids))
            return BytePatchModelOutput(
                last_hidden_state=self.decode(patch_embeds, **kwargs), patch_embeds=patch_embeds
            )
        check_bytes(
            self.config, input_ids, attention_mask, patch_lengths, past_key_values, position_ids, use_cache, **kwargs
        )
        check_cache_in_replay(self, past_key_values)
        token_mask = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :].bool()
        real = torch.ones_like(input_ids, dtype=torch.bool) if token_mask is None else token_mask
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            return self.read_on(input_ids, real, past_key_values, **kwargs)
        is_packed = position_ids is not None and attention_mask is None and past_key_values is None and not use_cache
        is_start = find_document_starts(position_ids).expand(input_ids.shape) if is_packed else None
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and not is_packed
        if past_key_values is None and use_cache:
            past_key_values = PatchCache(self.config)

        given = None if past_key_values is None else past_key_values.get_given_ends(0, input_ids.shape[1])
        patches = self.find_patches(input_ids, token_mask, patch_lengths, given, is_start)
        patch_embeds = self.embed(input_ids, patches, token_mask)
        states = self.decode(patch_embeds, past_key_values, position_ids=place_patches(patches), **kwargs)
        # With gradient checkpointing the layers were not given the cache, and nothing is to be remembered.
        if past_key_values is not None and past_key_values.layers[0].is_initialized:
            past_key_values.append(input_ids, real, patches.is_end)
            past_key_values.states = states.clone()  # later patches are written into it
        return BytePatchModelOutput(
            last_hidden_state=states,
            patch_embeds=patch_embeds,
            **{CACHE_NAME: past_key_values},
            patches=patches,
            places=place_bytes(patches, token_mask),
            initial_state=self.initial_state,
        )


def pick(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Of states `(B, P, E)` those at `index` `(B, T)`, `(B, T, E)`; the first or last for places beyond."""
    index = index.clamp(0, states.shape[1] - 1)
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def pick_finished(cache: PatchCache, num_finished: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    """The core's state of the last finished patch, `(B, T, D)`; the initial one `(D,)` while there is none."""
    return torch.where((num_finished > 0)[..., None], pick(cache.states, num_finished - 1), initial)


class BytePatchForCausalLM(BytePatchGenerationMixin, BytePatchPreTrainedModel, GenerationMixin):
    """
    A language model over bytes that thinks in patches, see [`BytePatchConfig`].

    Example:

    >>> from hf_thoughtbubbles import BytePatchConfig
    >>> config = BytePatchConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, byte_hidden_size=16)
    >>> BytePatchForCausalLM(config)(torch.tensor([list(b"to be, or not")])).logits.shape
    torch.Size([1, 13, 259])
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _fsdp_plan = {"byte_decoder.layers.*": "free_full_weight"}

    def __init__(self, config: BytePatchConfig):
        super().__init__(config)
        is_parallel = config.decoder == "parallel"
        self.model = BytePatchModel(config)
        self.byte_decoder = ParallelByteDecoder(config) if is_parallel else AutoregressiveByteDecoder(config)
        is_residual = config.byte_layers == "residual"
        self.byte_norm = nn.RMSNorm(config.byte_hidden_size, config.rms_norm_eps) if is_residual else nn.Identity()
        self.lm_head = nn.Linear(config.byte_hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def unembed(
        self, outputs: BytePatchModelOutput, input_ids: torch.Tensor, past_key_values: PatchCache | None = None
    ) -> torch.Tensor:
        """What the base model read of bytes `(B, T)` to a state for the byte after each, `(B, T, E)`."""
        places = outputs.places
        if self.config.decoder == "parallel":
            return self.read_written(outputs, past_key_values)
        states, initial = outputs.last_hidden_state, outputs.initial_state
        if places.is_seen is not None:
            context = self.byte_decoder.projection(pick_finished(past_key_values, places.num_finished, initial))
        else:  # every state is here, more bytes than states
            context = self.byte_decoder.projection(torch.cat((initial.expand(states.shape[0], 1, -1), states), dim=1))
            context = pick(context, places.num_finished)
        return self.byte_decoder(context, self.model.embed_bytes(input_ids), places, past_key_values)

    def read_written(self, outputs: BytePatchModelOutput, cache: PatchCache | None) -> torch.Tensor:
        """Of patches that the parallel decoder writes at once, the states `(B, T, E)` of the bytes to come."""
        places, longest = outputs.places, self.config.max_patch_bytes
        group, offset = places.num_finished.clamp(min=0), places.num_open_bytes.clamp(0, longest - 1)
        if places.is_seen is None:
            states = outputs.last_hidden_state
            states = torch.cat((outputs.initial_state.expand(states.shape[0], 1, -1), states), dim=1)
            return pick(self.byte_decoder(states).flatten(1, 2), group * longest + offset)
        if group.shape[1] > 1:
            first = group.min(dim=1, keepdim=True).values
            groups = first + torch.arange(int((group - first).max()) + 1, device=group.device)
            written = self.byte_decoder(pick_finished(cache, groups, outputs.initial_state)).flatten(1, 2)
            return pick(written, (group - first) * longest + offset)
        if cache.written is None:
            cache.written = self.byte_decoder(pick_finished(cache, group, outputs.initial_state))[:, 0]  # (B, W, E)
        else:  # only rows whose patch ended are written anew
            rows = (group[:, 0] != cache.written_group).nonzero().flatten()
            if len(rows) > 0:
                states = pick_finished(cache, group, outputs.initial_state)[rows]
                cache.written = cache.written.index_copy(0, rows, self.byte_decoder(states)[:, 0])
        cache.written_group = group[:, 0]
        return pick(cache.written, offset)

    def compute_reconstruction_loss(
        self, patch_embeds: torch.Tensor, targets: torch.Tensor, index: torch.Tensor | None, num_items: float | None
    ) -> torch.Tensor:
        """
        Cross entropy of patches written from their own vectors `(B, P, D)`.

        `targets` are the blocks `(B, P, W)`, or bytes `(B, T)` at places `index` `(B, T)` among the blocks. The mean
        over targets other than `reconstruction_ignore_id`, or the sum over `num_items`.
        """
        written = self.byte_norm(self.byte_decoder(patch_embeds)).flatten(1, 2)
        if index is not None:
            written = pick(written, index)
        logits = self.lm_head(written).flatten(0, 1).float()
        kind, ignored = "mean" if num_items is None else "sum", self.config.reconstruction_ignore_id
        loss = F.cross_entropy(logits, targets.flatten(), ignore_index=ignored, reduction=kind)
        return loss if num_items is None else loss / num_items

    @accept_cache_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        patch_lengths: torch.LongTensor | None = None,
        patch_input_ids: torch.LongTensor | None = None,
        past_key_values: PatchCache | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        position_ids: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        output_patches: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BytePatchCausalLMOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): bytes and special tokens.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 0 for padding, on either side.
            patch_lengths (`torch.LongTensor` of shape `(B, P)`, *optional*): see [`BytePatchModel.forward`]. Given
                them, no logit depends on later bytes; whether the lengths do is up to the tokenizer that made them.
            patch_input_ids (`torch.LongTensor` of shape `(B, P, W)`): blocks instead of `input_ids`, as published.
            labels (`torch.LongTensor` of shape `(B, T)` or `(B, P, W)`, *optional*): the bytes themselves, -100 where
                none is to be predicted; shifted here, by one byte, or by one block.
            position_ids (`torch.LongTensor` of shape `(B or 1, T)`, *optional*): begin again where a document does,
                when several are packed into a row, see [`BytePatchModel.forward`].
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0): the last so many bytes, or these; 0 keeps all.
            output_patches (`bool`, defaults to `False`): whether to return where the patches lie.

        Raises:
            `ValueError`: when shapes, ids or lengths do not fit.
        """
        outputs = self.model(
            input_ids,
            attention_mask,
            patch_lengths,
            patch_input_ids,
            past_key_values,
            use_cache,
            position_ids,
            **kwargs,
        )
        num_items = kwargs.get("num_items_in_batch")
        if patch_input_ids is not None:
            is_cut = isinstance(logits_to_keep, torch.Tensor) or logits_to_keep > 0
            check_blocks(self.config, patch_input_ids, is_cut or None, output_patches or None)
            return self.answer_blocks(outputs, patch_input_ids, labels, num_items)
        token_mask = None if attention_mask is None else attention_mask.bool()
        past_key_values = getattr(outputs, CACHE_NAME)
        hidden_states = self.unembed(outputs, input_ids, past_key_values)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(self.byte_norm(hidden_states[:, kept]))

        loss = reconstruction_loss = None
        if labels is None and self.training and self.config.reconstruction_loss_weight > 0:
            logger.warning_once(
                "The model is training with `reconstruction_loss_weight`, but no `labels` came (label smoothing takes "
                "them away): the reconstruction loss is left out."
            )
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
            if self.config.reconstruction_loss_weight > 0:
                reconstruction_loss = self.reconstruct(outputs, input_ids, labels, token_mask, num_items)
                loss = loss + self.config.reconstruction_loss_weight * reconstruction_loss
        return BytePatchCausalLMOutput(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: past_key_values},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            reconstruction_loss=reconstruction_loss,
            patches=outputs.patches if output_patches else None,
        )

    def reconstruct(self, outputs, input_ids, labels, token_mask, num_items) -> torch.Tensor:
        """The auxiliary loss of bytes `(B, T)`; bytes without a label, and padding, are not written."""
        if outputs.patches is None:
            raise ValueError(
                "`labels` came with bytes in `past_key_values`, but `reconstruction_loss_weight` asks for the loss of "
                "whole patches, which may have begun there. Give all bytes at once."
            )
        index, longest = outputs.patches.patch_index, self.config.max_patch_bytes
        place = find_places(outputs.patches, token_mask).clamp(max=longest - 1)
        targets = input_ids.masked_fill((labels == -100) | (index < 0), self.config.reconstruction_ignore_id)
        return self.compute_reconstruction_loss(
            outputs.patch_embeds, targets, index.clamp(min=0) * longest + place, num_items
        )

    def answer_blocks(self, outputs, patch_input_ids, labels, num_items) -> BytePatchCausalLMOutput:
        """Logits `(B, P, W, V)` of the block after each, and the auxiliary loss, as published."""
        logits = self.lm_head(self.byte_norm(self.byte_decoder(outputs.last_hidden_state)))
        reconstruction_loss = self.compute_reconstruction_loss(outputs.patch_embeds, patch_input_ids, None, num_items)
        loss = None
        if labels is not None:
            kind = "mean" if num_items is None else "sum"
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 2).float(), labels[:, 1:].flatten(), reduction=kind)
            loss = loss if num_items is None else loss / num_items
            loss = loss + self.config.reconstruction_loss_weight * reconstruction_loss
        return BytePatchCausalLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            reconstruction_loss=reconstruction_loss,
        )


__all__ = ["BytePatchForCausalLM", "BytePatchModel", "BytePatchPreTrainedModel"]
