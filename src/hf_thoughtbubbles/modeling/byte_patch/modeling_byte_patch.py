# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Byte-patch models: bytes are pooled to patches, a transformer runs over the patches, and bytes are decoded back.

    embed    ids to byte vectors
    decode   byte layers pool the bytes of each patch, a generic transformer runs over the patches, and a byte decoder
             gives each byte a state: from the patches finished by then and the earlier bytes of the open patch
             (autoregressive), or all bytes of the next patch at once (parallel)
    unembed  logits of the byte after each

Shapes: B batch, T bytes, K earlier bytes, P patches, W bytes in a patch, N heads, D width of the core, E width of
bytes, V vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple, logging
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ...configuration.configuration_byte_patch import BytePatchConfig
from ...hub.hub_models import HubModelMixin
from ..common.attention_masks import AttentionChoiceMixin, create_causal_mask
from ..common.cache_names import accept_cache_names
from ..common.checks_settings import check_arguments
from ..common.checks_targets import check_labels, check_language_targets
from ..common.checks_tokens import check_cache_in_replay
from ..common.classification_heads import SequenceClassificationHead, TokenClassificationHead
from ..common.common_layers import get_layer_cache
from ..common.decoder_parts import build_norm
from ..common.packed_documents import find_documents
from ..generic_transformer.generic_layers import (
    SKIP_DEVICE_PLACEMENT,
    GenericAttention,
    GenericDecoderLayer,
    GenericStack,
    init_generic_weights,
)
from .byte_layers import AutoregressiveByteDecoder, ByteEncoder, ByteLayer, ParallelByteDecoder
from .byte_positions import ByteWindow, get_byte_offsets, get_byte_positions, get_patch_positions, select_rows
from .cache_patches import PatchCache, PatchSlots
from .checks_byte_patch import check_blocks, check_bytes, check_classifier, check_documents, find_mask_obstacles
from .drafting_byte_patch import ByteDrafter
from .generation_byte_patch import BytePatchGenerationMixin
from .local_attention import build_additive_mask
from .outputs_byte_patch import BytePatchCausalLMOutput, BytePatchModelOutput
from .patch_ends import BytePatches, find_patch_ends, index_patches, number_patches, spread_patch_lengths, take_patches


logger = logging.get_logger(__name__)


class PatchStates(NamedTuple):
    """States of patches: what a byte decoder needs of them, and those of a call without earlier bytes."""

    contexts: torch.Tensor  # (B, 1 + P, E or D), of n finished patches at n
    hidden_states: torch.Tensor | None = None  # (B, P, D), after the core
    embeds: torch.Tensor | None = None  # (B, P, D), before the core


class BytePatchPreTrainedModel(AttentionChoiceMixin, HubModelMixin, PreTrainedModel):
    """Initial weights, and what transformers may do with the models of this family."""

    config: BytePatchConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GenericDecoderLayer", "ByteLayer"]
    _skip_keys_device_placement = SKIP_DEVICE_PLACEMENT
    find_mask_obstacles = staticmethod(find_mask_obstacles)
    _can_record_outputs = {
        "hidden_states": OutputRecorder(ByteLayer, layer_name="byte_decoder"),
        "attentions": GenericAttention,
        "core_hidden_states": GenericDecoderLayer,
    }

    def __init__(self, config: BytePatchConfig, *args, **kwargs):
        config.validate()  # fields set after construction, as `from_pretrained(..., patch_size=...)` does
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        init_generic_weights(module)
        if isinstance(module, BytePatchModel):
            init.normal_(module.initial_state, std=self.config.initializer_range)
        elif isinstance(module, nn.EmbeddingBag):
            init.normal_(module.weight, std=self.config.initializer_range)


class BytePatchModel(BytePatchPreTrainedModel):
    """
    Bytes to states of bytes, by way of patches, see [`BytePatchConfig`].

    Example:

    >>> from hf_thoughtbubbles import BytePatchConfig
    >>> config = BytePatchConfig(hidden_size=16, core_hidden_size=32, core_num_hidden_layers=1)
    >>> outputs = BytePatchModel(config)(torch.tensor([list(b"to be, or not")]))
    >>> outputs.last_hidden_state.shape, outputs.patch_hidden_states.shape, outputs.patches.lengths
    (torch.Size([1, 13, 16]), torch.Size([1, 4, 32]), tensor([[3, 3, 4, 3]]))
    """

    def __init__(self, config: BytePatchConfig):
        super().__init__(config)
        is_residual = config.byte_layers == "residual"
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_scale = config.hidden_size**0.5 if is_residual else 1.0
        self.byte_encoder = ByteEncoder(config)
        self.core = GenericStack(config.core_config)
        self.core_norm = build_norm(config.core_config, config.final_normalization, config.head_bias)
        self.initial_state = nn.Parameter(torch.empty(config.core_hidden_size))  # while no patch is finished
        is_parallel = config.decoder == "parallel"
        self.byte_decoder = ParallelByteDecoder(config) if is_parallel else AutoregressiveByteDecoder(config)
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps) if is_residual else nn.Identity()
        self.post_init()

    def find_ends(
        self,
        input_ids: torch.Tensor,
        token_mask: torch.Tensor | None,
        known: torch.Tensor | None = None,
        is_start: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Which bytes `(B, T)` end a patch; under token patching, words replace the tokens of bytes without ends."""
        patching = "space" if self.config.patching == "token" else self.config.patching
        return find_patch_ends(
            input_ids, patching, self.config.patch_size, self.config.max_patch_bytes, token_mask, known, is_start
        )

    def find_patches(
        self,
        input_ids: torch.Tensor,
        token_mask: torch.Tensor | None,
        patch_lengths: torch.Tensor | None = None,
        given: torch.Tensor | None = None,
        is_start: torch.Tensor | None = None,
    ) -> BytePatches:
        """The patches of bytes `(B, T)`, by their lengths or by the given ends of the first bytes `(B, K)` if any."""
        if patch_lengths is not None:
            real = torch.ones_like(input_ids, dtype=torch.bool) if token_mask is None else token_mask
            is_end = spread_patch_lengths(patch_lengths, real)
            return number_patches(is_end, token_mask, patch_lengths.shape[1], is_start)
        is_end = self.find_ends(input_ids, token_mask, given, is_start)
        num_patches = input_ids.shape[1] if torch.compiler.is_compiling() else None
        return number_patches(is_end, token_mask, num_patches, is_start)

    def open_window(
        self,
        input_ids: torch.Tensor,
        token_mask: torch.Tensor | None,
        patch_lengths: torch.Tensor | None,
        past_key_values: PatchCache | None,
        is_start: torch.Tensor | None,
    ) -> ByteWindow:
        """The bytes `(B, T)` of a call after the last ones of the cache, and their patches."""
        num_past = 0 if past_key_values is None else past_key_values.get_seq_length()
        given = None
        if past_key_values is not None:
            given = past_key_values.get_given_ends(num_past, num_past + input_ids.shape[1])
        if num_past == 0:
            patches = self.find_patches(input_ids, token_mask, patch_lengths, given, is_start)
            return ByteWindow(input_ids, token_mask, patches, 0)
        num_known = min(num_past, self.config.max_patch_bytes + 2)  # so many decide about the next end
        known_ids, known_mask, known_ends = past_key_values.get_last_bytes(num_known)
        ids = torch.cat((known_ids, input_ids), dim=1)
        mask = torch.cat((known_mask, torch.ones_like(input_ids).bool() if token_mask is None else token_mask), dim=1)
        known = known_ends if given is None else torch.cat((known_ends, given), dim=1)
        is_end = self.find_ends(ids, mask, known) & mask
        num_before = past_key_values.is_end.sum(1, keepdim=True) - known_ends.sum(1, keepdim=True)
        patch_index = (index_patches(is_end, mask) + num_before).masked_fill(~mask, -1)
        return ByteWindow(ids, mask, BytePatches(is_end=is_end, patch_index=patch_index), num_known)

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """
        Ids of any shape to vectors `(..., E)`, scaled as in Vaswani et al. (2017), section 3.4: without the scale, the
        sum with the patch state is dominated by the patch state.
        """
        return self.embed_tokens(input_ids) * self.embed_scale

    def decode(
        self,
        byte_embeds: torch.Tensor,
        window: ByteWindow,
        past_key_values: PatchCache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, PatchStates]:
        """Byte vectors `(B, K + T, E)` of a window to states `(B, T, E)`, and to those of patches."""
        decode_patches = self.decode_patches if window.num_past == 0 else self.decode_new_patches
        patch_states = decode_patches(byte_embeds, window, past_key_values, **kwargs)
        positions = get_byte_positions(window, self.config.max_patch_bytes)
        new_embeds = byte_embeds[:, window.num_past :]
        hidden_states = self.byte_decoder(patch_states.contexts, new_embeds, positions, past_key_values)
        return self.norm(hidden_states), patch_states

    def decode_patches(
        self, byte_embeds: torch.Tensor, window: ByteWindow, past_key_values: PatchCache | None, **kwargs
    ) -> PatchStates:
        """All patches of rows without earlier bytes."""
        patch_embeds = self.byte_encoder(byte_embeds, window.patches, window.token_mask)
        position_ids = get_patch_positions(window.patches)
        states = self.run_core(patch_embeds, past_key_values, position_ids=position_ids, **kwargs)
        contexts = self.byte_decoder.project(
            torch.cat((self.initial_state.expand(states.shape[0], 1, -1), states), dim=1)
        )
        if past_key_values is not None:
            past_key_values.write_contexts(contexts)
        return PatchStates(contexts, states, patch_embeds)

    def decode_new_patches(
        self, byte_embeds: torch.Tensor, window: ByteWindow, past_key_values: PatchCache, **kwargs
    ) -> PatchStates:
        """The patches that end after the bytes in a cache; the core runs for their rows alone."""
        first = past_key_values.is_end.sum(1)
        num_ended = window.patches.is_end[:, window.num_past :].sum(1)
        rows = num_ended.nonzero().flatten()
        if len(rows) > 0:
            num_new = int(num_ended.max())
            patches, start = take_patches(window.patches, rows, first[rows], num_new)
            patch_embeds = self.byte_encoder(byte_embeds[rows, start:], patches, window.token_mask[rows, start:])
            slots = PatchSlots(rows, first[rows], int(first.max()), int(first[rows].max()) + num_new)
            states = self.run_core(patch_embeds, past_key_values, slots, **kwargs)
            past_key_values.write_contexts(self.byte_decoder.project(states), slots)
        return PatchStates(past_key_values.contexts)

    def run_core(
        self,
        patch_embeds: torch.Tensor,
        past_key_values: PatchCache | None = None,
        slots: PatchSlots | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        Vectors of patches `(B, P, D)` to the core's states `(B, P, D)`; empty patches are the last ones of a row.

        Args:
            patch_embeds (`torch.FloatTensor` of shape `(B, P, D)`): vectors of patches.
            past_key_values (`PatchCache`, *optional*): stores keys and values.
            slots (`PatchSlots`, *optional*): the slots of the patches, `(b, m, D)`, when they follow cached ones.
            position_ids (`torch.LongTensor` of shape `(B or 1, P)`, *optional*): positions without `slots`; where they
                begin again, a document begins.
        """
        steps = torch.arange(patch_embeds.shape[1], device=patch_embeds.device)
        key_positions = cache_kwargs = None
        if slots is None:
            position_ids = steps[None] if position_ids is None else position_ids
            inputs = {"inputs_embeds": patch_embeds, "attention_mask": None, "position_ids": position_ids}
            mask = create_causal_mask(config=self.config, past_key_values=None, **inputs)
        else:
            position_ids, mask = slots.first[:, None] + steps, None  # (b, m)
            key_positions = torch.arange(slots.num_used, device=steps.device)[None]
            if position_ids.numel() > 1:  # a single patch attends to all slots of its row
                is_earlier = key_positions <= position_ids[..., None]
                mask = build_additive_mask(is_earlier, patch_embeds.dtype)[:, None]  # (b, 1, m, P)
            cache_kwargs = {"slots": slots}
        states = self.core(
            patch_embeds,
            position_ids,
            attention_mask=mask,
            past_key_values=past_key_values,
            key_positions=key_positions,
            cache_kwargs=cache_kwargs,
            **kwargs,
        )
        return self.core_norm(states)

    def decode_blocks(
        self, patch_input_ids: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BytePatchModelOutput:
        """Blocks of bytes `(B, P, W)`, read and decoded as published."""
        patch_embeds = self.byte_encoder.encode_blocks(self.embed(patch_input_ids))
        states = self.run_core(patch_embeds, **kwargs)
        hidden_states = self.norm(self.byte_decoder.decode_patches(states))
        return BytePatchModelOutput(hidden_states, patch_hidden_states=states, patch_embeds=patch_embeds)

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
            patch_lengths (`torch.LongTensor` of shape `(B, P)`, *optional*): bytes in each patch, from the first real
                byte on; 0 after the last. Their sum is the row's number of real bytes.
            patch_input_ids (`torch.LongTensor` of shape `(B, P, W)`): blocks of bytes instead of `input_ids`, with
                their padding, as the original reads them.
            past_key_values (`PatchCache`, *optional*): the cache of earlier bytes.
            use_cache (`bool`, *optional*): whether to return a cache; by default in evaluation, unless `position_ids`
                pack documents.
            position_ids (`torch.LongTensor` of shape `(B or 1, T)`, *optional*): begin again where a document does,
                when several are packed into a row; no document attends to another. Such rows have no padding and no
                cache. Other positions change nothing: those of patches follow from the bytes.

        Raises:
            `ValueError`: when shapes, ids or lengths do not fit.
        """
        check_arguments(self, kwargs)
        if patch_input_ids is not None:
            others = (input_ids, attention_mask, patch_lengths, past_key_values, position_ids, use_cache or None)
            check_blocks(self.config, patch_input_ids, *others)
            return self.decode_blocks(patch_input_ids, **kwargs)
        attention_mask = check_bytes(
            self.config, input_ids, attention_mask, patch_lengths, past_key_values, position_ids, **kwargs
        )
        check_cache_in_replay(self, past_key_values)
        documents = find_documents(position_ids, attention_mask, past_key_values, use_cache)
        check_documents(documents, patch_lengths)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and documents is None
        if use_cache and past_key_values is None:
            past_key_values = PatchCache(self.config)
        written_cache = get_layer_cache(self.core.layers[0], past_key_values)
        token_mask = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :].bool()
        is_start = None
        if documents is not None:
            is_start = F.pad(documents.diff(dim=1) > 0, (1, 0), value=True).expand(input_ids.shape)

        window = self.open_window(input_ids, token_mask, patch_lengths, past_key_values, is_start)
        byte_embeds = self.embed(window.input_ids)
        hidden_states, patch_states = self.decode(byte_embeds, window, written_cache, **kwargs)
        if written_cache is not None:
            real = torch.ones_like(input_ids, dtype=torch.bool) if token_mask is None else token_mask
            written_cache.append_bytes(input_ids, real, window.patches.is_end[:, window.num_past :])
        return BytePatchModelOutput(
            last_hidden_state=hidden_states,
            past_key_values=past_key_values,
            patch_hidden_states=patch_states.hidden_states,
            patch_embeds=patch_states.embeds,
            patches=window.patches if window.num_past == 0 else None,
        )


class BytePatchForCausalLM(BytePatchGenerationMixin, BytePatchPreTrainedModel, GenerationMixin):
    """
    A language model over bytes that runs its core over patches, see [`BytePatchConfig`].

    Example:

    >>> from hf_thoughtbubbles import BytePatchConfig
    >>> config = BytePatchConfig(hidden_size=16, core_hidden_size=32, core_num_hidden_layers=1)
    >>> BytePatchForCausalLM(config)(torch.tensor([list(b"to be, or not")])).logits.shape
    torch.Size([1, 13, 259])
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    has_linear_head = True  # `lm_head(last_hidden_state)` is the logits, as tools assume that call the head themselves

    def __init__(self, config: BytePatchConfig):
        super().__init__(config)
        self.model = BytePatchModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.drafter = ByteDrafter(config) if config.num_draft_bytes > 0 else None
        self.post_init()

    def add_model_tags(self, tags: list[str] | str):
        """As transformers' method, with which the trainers of TRL tell what they train; they compute the loss."""
        if "trl" in tags and self.config.reconstruction_loss_weight > 0:
            raise ValueError(
                "A trainer of TRL computes the loss itself, without the reconstruction loss that "
                f"`reconstruction_loss_weight={self.config.reconstruction_loss_weight}` adds. Set "
                "`model.config.reconstruction_loss_weight = 0`, or use `transformers.Trainer`."
            )
        super().add_model_tags(tags)

    def unembed(self, last_hidden_state: torch.Tensor, logits_to_keep: int | torch.Tensor = 0) -> torch.Tensor:
        """Logits `(B, T, V)` of states `(B, T, E)`, or of the last or the listed bytes only."""
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return self.lm_head(last_hidden_state[:, kept])

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
            input_ids, attention_mask, past_key_values, use_cache, position_ids: see [`BytePatchModel.forward`].
            patch_lengths (`torch.LongTensor` of shape `(B, P)`, *optional*): see [`BytePatchModel.forward`]. Given
                the lengths, no logit depends on later bytes; the tokenizer that chose them may have read ahead.
            patch_input_ids (`torch.LongTensor` of shape `(B, P, W)`): blocks instead of `input_ids`, as published.
            labels (`torch.LongTensor` of shape `(B, T)` or `(B, P, W)`, *optional*): ids to predict, shifted inside by
                one byte or by one block; -100 is not scored.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0): compute logits of the last so many bytes (0: all),
                or of the listed positions.
            output_patches (`bool`, defaults to `False`): whether to return the patches.

        Raises:
            `ValueError`: when shapes, ids or lengths do not fit.
        """
        if patch_input_ids is not None:
            is_cut = isinstance(logits_to_keep, torch.Tensor) or logits_to_keep != 0
            check_blocks(self.config, patch_input_ids, is_cut or None, output_patches or None)
            if labels is not None:
                check_labels(labels, tuple(patch_input_ids.shape), self.config.vocab_size)
        shift_labels = kwargs.get("shift_labels")
        check_language_targets(self.config, labels, input_ids, None, logits_to_keep, shift_labels)
        outputs: BytePatchModelOutput = self.model(
            input_ids,
            attention_mask,
            patch_lengths,
            patch_input_ids,
            past_key_values,
            use_cache,
            position_ids,
            **kwargs,
        )
        logits = self.unembed(outputs.last_hidden_state, logits_to_keep)
        if patch_input_ids is None:
            losses = self.compute_losses(outputs, logits, input_ids, attention_mask, labels, **kwargs)
        else:
            losses = self.compute_block_losses(outputs, logits, patch_input_ids, labels, **kwargs)
        return BytePatchCausalLMOutput(
            loss=losses[0],
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            core_hidden_states=outputs.core_hidden_states,
            reconstruction_loss=losses[1],
            draft_loss=losses[2],
            patches=outputs.patches if output_patches else None,
        )

    def compute_losses(
        self,
        outputs: BytePatchModelOutput,
        logits: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        labels: torch.Tensor | None,
        **kwargs,
    ) -> tuple[torch.Tensor | None, ...]:
        """The loss of bytes `(B, T)`, and the reconstruction and draft losses in it; bytes need a label to count."""
        weight, draft_weight = self.config.reconstruction_loss_weight, self.config.draft_loss_weight
        if self.drafter is None:
            draft_weight = 0
        if labels is None:
            if self.training and weight > 0:
                logger.warning_once(
                    "The model is in training mode with `reconstruction_loss_weight`, but no `labels` were passed "
                    "(label smoothing removes them): the reconstruction loss is left out."
                )
            return None, None, None
        loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        if weight == 0 and draft_weight == 0:
            return loss, None, None
        if outputs.patches is None:
            raise ValueError(
                "`labels` were passed with bytes in `past_key_values`, but `reconstruction_loss_weight` and "
                "`num_draft_bytes` need all bytes of the text in one call. Pass them, without a cache."
            )
        num_items, reconstruction_loss, draft_loss = kwargs.get("num_items_in_batch"), None, None
        if weight > 0:
            index, longest = outputs.patches.patch_index, self.config.max_patch_bytes
            token_mask = None if attention_mask is None else attention_mask.bool()
            offsets = get_byte_offsets(outputs.patches, token_mask).clamp(max=longest - 1)
            targets = input_ids.masked_fill((labels == -100) | (index < 0), self.config.reconstruction_ignore_id)
            reconstruction_loss = self.compute_reconstruction_loss(
                outputs.patch_embeds, targets, num_items, index.clamp(min=0) * longest + offsets
            )
            loss = loss + weight * reconstruction_loss
        if draft_weight > 0:
            targets = kwargs.get("shift_labels")
            targets = F.pad(labels[:, 1:], (0, 1), value=-100) if targets is None else targets
            proposals = self.drafter.score(outputs.last_hidden_state, input_ids, targets, outputs.patches)
            draft_loss = average_loss(*proposals, (targets != -100).sum() if num_items is None else num_items)
            loss = loss + draft_weight * draft_loss
        return loss, reconstruction_loss, draft_loss

    def compute_block_losses(
        self,
        outputs: BytePatchModelOutput,
        logits: torch.Tensor,
        patch_input_ids: torch.Tensor,
        labels: torch.Tensor | None,
        num_items_in_batch: float | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor | None, torch.Tensor, None]:
        """The loss of blocks `(B, P, W)`, each predicted from those before, and the reconstruction loss."""
        reconstruction_loss = self.compute_reconstruction_loss(
            outputs.patch_embeds, patch_input_ids, num_items_in_batch
        )
        if labels is None:
            return None, reconstruction_loss, None
        loss = average_loss(logits[:, :-1].flatten(0, 2), labels[:, 1:].flatten(), num_items_in_batch)
        return loss + self.config.reconstruction_loss_weight * reconstruction_loss, reconstruction_loss, None

    def compute_reconstruction_loss(
        self,
        patch_embeds: torch.Tensor,
        targets: torch.Tensor,
        num_items_in_batch: float | None,
        index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Cross entropy of patches decoded from their own vectors `(B, P, D)`.

        `targets` are blocks `(B, P, W)`, or bytes `(B, T)` with their `index` `(B, T)` among the bytes of all blocks.
        """
        hidden_states = self.model.norm(self.model.byte_decoder.decode_patches(patch_embeds)).flatten(1, 2)
        if index is not None:
            hidden_states = select_rows(hidden_states, index)
        logits, ignored = self.lm_head(hidden_states).flatten(0, 1), self.config.reconstruction_ignore_id
        return average_loss(logits, targets.flatten(), num_items_in_batch, ignored)


def average_loss(
    logits: torch.Tensor, targets: torch.Tensor, num_items_in_batch: float | None, ignore_id: int = -100
) -> torch.Tensor:
    """Cross entropy of logits `(n, V)`: the mean over targets `(n,)`, or the sum over `num_items_in_batch`."""
    kind = "mean" if num_items_in_batch is None else "sum"
    loss = F.cross_entropy(logits.float(), targets, ignore_index=ignore_id, reduction=kind)
    return loss if num_items_in_batch is None else loss / num_items_in_batch


class BytePatchForSequenceClassification(SequenceClassificationHead, BytePatchPreTrainedModel):
    """Byte patches that classify a text from its last byte, with the autoregressive decoder."""

    def __init__(self, config: BytePatchConfig):
        check_classifier(config)
        BytePatchPreTrainedModel.__init__(self, config)
        self.add_head(config, BytePatchModel(config))


class BytePatchForTokenClassification(TokenClassificationHead, BytePatchPreTrainedModel):
    """Byte patches that classify every byte, with the autoregressive decoder."""

    def __init__(self, config: BytePatchConfig):
        check_classifier(config)
        BytePatchPreTrainedModel.__init__(self, config)
        self.add_head(config, BytePatchModel(config))


__all__ = [
    "BytePatchForCausalLM",
    "BytePatchForSequenceClassification",
    "BytePatchForTokenClassification",
    "BytePatchModel",
    "BytePatchPreTrainedModel",
]
