# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for byte-patch models: bytes, patch lengths, packed documents and blocks."""

import torch

from ...configuration.configuration_byte_patch import BytePatchConfig
from ..common.checks_caches import ADVICE
from ..common.checks_tokens import can_read, check_id_type, check_ids, check_tokens
from .cache_patches import PatchCache
from .patch_ends import NUM_BYTES, spread_patch_lengths


MASK_REFUSAL = "Patches decide which byte attends to which."


def check_bytes(
    config: BytePatchConfig,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None = None,
    patch_lengths: torch.Tensor | None = None,
    past_key_values: PatchCache | None = None,
    position_ids: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    **others,
) -> torch.Tensor | None:
    """
    Refuse bytes whose shapes or ids do not fit, patch lengths that do not cover them, and vectors; returns the mask,
    or `None` if it hides nothing.
    """
    if inputs_embeds is not None:
        raise ValueError(
            "`inputs_embeds` was passed, but patches follow from the bytes. Remove it and pass `input_ids`."
        )
    if input_ids is None:
        raise ValueError("Neither `input_ids` nor `patch_input_ids` was passed. Pass one of them.")
    if past_key_values is not None and not isinstance(past_key_values, PatchCache):
        raise ValueError(
            f"`past_key_values` is a {type(past_key_values).__name__}; it must be a `PatchCache`, which the model "
            "builds with `use_cache=True`."
        )
    tokens = input_ids, attention_mask, position_ids, past_key_values
    attention_mask = check_tokens(config, *tokens, mask_refusal=MASK_REFUSAL)
    if past_key_values is not None:
        check_cache(config, past_key_values, input_ids.shape[0])
    if past_key_values is not None and past_key_values.get_seq_length() > 0:
        if patch_lengths is not None:
            raise ValueError(
                "`patch_lengths` was passed with bytes in `past_key_values`. Pass it with the first bytes only."
            )
        return attention_mask
    has_given_ends = past_key_values is not None and past_key_values.given_ends is not None
    if config.patching == "token" and patch_lengths is None and not has_given_ends:
        raise ValueError(
            '`patch_lengths` is missing, but `patching="token"` needs it. Pass the bytes in each patch, from '
            "`TokenPatchCollator` or `measure_patch_lengths`."
        )
    if patch_lengths is not None:
        check_patch_lengths(config, patch_lengths, input_ids, attention_mask)
    return attention_mask


def check_cache(config: BytePatchConfig, past_key_values: PatchCache, batch_size: int):
    """Refuse a cache of another model or of other rows. Its keys are `(B, entries, heads, head size)`."""
    num_core, is_causal_decoder = config.core_num_hidden_layers, config.decoder == "autoregressive"
    layers, num_byte = past_key_values.layers, config.num_hidden_layers if is_causal_decoder else 0
    core = config.core_num_key_value_heads // config.num_head_processes, config.core_head_dim
    own = config.num_attention_heads // config.num_head_processes, config.hidden_size // config.num_attention_heads
    first = [(layers[0], core), (layers[-1], own if num_byte else core)]
    is_same = len(layers) == num_core + num_byte and all(
        tuple(layer.keys.shape[2:]) == heads for layer, heads in first if layer.is_initialized
    )
    if not is_same:
        raise ValueError(
            f"`past_key_values` has {len(layers)} layers of another model; this one has {num_core} core layers with "
            f"{core[0]} heads of size {core[1]}, and {num_byte} byte layers with {own[0]} heads of size {own[1]}. "
            f"{ADVICE}"
        )
    stored = past_key_values.given_ends if past_key_values.input_ids is None else past_key_values.input_ids
    if stored is not None and len(stored) != batch_size:
        raise ValueError(f"`past_key_values` holds {len(stored)} rows, but the input has {batch_size} rows. {ADVICE}")


def check_documents(documents: torch.Tensor | None, patch_lengths: torch.Tensor | None):
    """Refuse patches that lie in two of the `documents` `(B or 1, T)` of a row; values only where no device waits."""
    if documents is None or patch_lengths is None or not can_read(documents):
        return
    is_inner = documents.diff(dim=-1) > 0
    is_end = spread_patch_lengths(patch_lengths, torch.ones(patch_lengths.shape[0], documents.shape[1]).bool())
    wrong = (is_inner & ~is_end[:, :-1]).nonzero().tolist()
    if wrong:
        row, byte = wrong[0]
        raise ValueError(
            f"`patch_lengths` put bytes {byte} and {byte + 1} of row {row} into one patch, but `position_ids` begin "
            "a document between them. Measure the patches of each document alone, as `TokenPatchCollator` does."
        )


def check_patch_lengths(
    config: BytePatchConfig, patch_lengths: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
):
    """
    Refuse lengths `(B, P)` that do not cover the real bytes of each row `(B, T)`, or with a special token before the
    end of a patch; values only where no device waits.
    """
    check_id_type(patch_lengths, "patch_lengths")
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    if patch_lengths.ndim != 2 or patch_lengths.shape[0] != real.shape[0] or patch_lengths.shape[1] == 0:
        raise ValueError(
            f"`patch_lengths` has shape {tuple(patch_lengths.shape)}; it must be (B, P) with B = {real.shape[0]} "
            "rows, as many as the bytes have, and at least one patch."
        )
    if not can_read(patch_lengths):
        return
    sums, counts = patch_lengths.sum(1), real.sum(1)
    wrong = (sums != counts).nonzero().flatten().tolist()
    if wrong:
        row = wrong[0]
        raise ValueError(
            f"`patch_lengths` of row {row} sum to {int(sums[row])}, but the row has {int(counts[row])} bytes without "
            "padding. Measure them on the same bytes."
        )
    longest, shortest = int(patch_lengths.max()), int(patch_lengths.min())
    if longest > config.max_patch_bytes or shortest < 0:
        raise ValueError(
            f"`patch_lengths` holds {shortest if shortest < 0 else longest}; patches have 1 to `max_patch_bytes` "
            f"{config.max_patch_bytes} bytes (0 pads rows). Cut longer ones: `measure_patch_lengths(..., "
            f"max_patch_bytes={config.max_patch_bytes})`."
        )
    if ((patch_lengths[:, 1:] > 0) & (patch_lengths[:, :-1] == 0)).any():
        raise ValueError("`patch_lengths` has a 0 before a patch; zeros may only pad the end of a row.")
    inner = ((input_ids >= NUM_BYTES) & real & ~spread_patch_lengths(patch_lengths, real)).nonzero().tolist()
    if inner:
        row, place = inner[0]
        raise ValueError(
            f"`patch_lengths` of row {row} put the special token {int(input_ids[row, place])}, at index {place}, "
            "before the end of a patch, but a special token ends its patch. Measure them with `measure_patch_lengths`."
        )


def check_blocks(config: BytePatchConfig, patch_input_ids: torch.Tensor, *others: object | None):
    """Refuse blocks of the wrong width, for the autoregressive decoder, or with other input."""
    if any(other is not None for other in others):
        raise ValueError(
            "`patch_input_ids` was passed with `input_ids`, `attention_mask`, `patch_lengths`, `position_ids`, a "
            "cache, `logits_to_keep` or `output_patches`. Blocks hold their padding and are read in one call: pass "
            "them alone."
        )
    if config.decoder != "parallel":
        raise ValueError(f'`patch_input_ids` needs `decoder="parallel"`; this model has "{config.decoder}".')
    if patch_input_ids.ndim != 3 or patch_input_ids.shape[2] != config.max_patch_bytes or 0 in patch_input_ids.shape:
        raise ValueError(
            f"`patch_input_ids` has shape {tuple(patch_input_ids.shape)}; it must be (B, P, W) with W = "
            f"`max_patch_bytes` {config.max_patch_bytes}, and no size 0."
        )
    check_ids(patch_input_ids, "patch_input_ids", config.vocab_size)


def find_mask_obstacles(config: BytePatchConfig) -> dict[str, str]:
    """The kinds of masks that patches do not fit."""
    reason = "bytes attend within their patch, which a mask of pairs describes"
    obstacles = dict.fromkeys(("padding", "none"), reason)
    if config.core_config.position_embedding == "relative":
        obstacles["block"] = "the core adds a bias of relative positions to the scores of all pairs"
    return obstacles


def check_classifier(config: BytePatchConfig):
    """Refuse a classifier with the parallel decoder, whose state of a byte lacks the bytes of its open patch."""
    if config.decoder != "autoregressive":
        raise ValueError(
            f'`decoder="{config.decoder}"` was passed, but its state of a byte depends on finished patches alone, so '
            'a label could not depend on the bytes of an open patch. Use `decoder="autoregressive"`.'
        )


__all__ = [
    "check_blocks",
    "check_bytes",
    "check_classifier",
    "check_documents",
    "check_patch_lengths",
    "find_mask_obstacles",
]
