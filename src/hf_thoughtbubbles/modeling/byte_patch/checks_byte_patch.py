# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for byte-patch models: bytes, patch lengths, packed documents and blocks."""

import torch

from ...configuration.configuration_byte_patch import BytePatchConfig
from ..common.checks_tokens import check_ids, check_tokens
from .cache_patches import PatchCache
from .patch_ends import spread_patch_lengths


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
):
    """Refuse bytes whose shapes or ids do not fit, patch lengths that do not cover them, and vectors."""
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
    check_tokens(config, input_ids, attention_mask, position_ids, past_key_values, mask_refusal=MASK_REFUSAL)
    if past_key_values is not None and past_key_values.get_seq_length() > 0:
        if patch_lengths is not None:
            raise ValueError(
                "`patch_lengths` was passed with bytes in `past_key_values`. Pass it with the first bytes only."
            )
        return
    has_given_ends = past_key_values is not None and past_key_values.given_ends is not None
    if config.patching == "token" and patch_lengths is None and not has_given_ends:
        raise ValueError(
            '`patch_lengths` is missing, but `patching="token"` needs it. Pass the bytes in each patch, from '
            "`TokenPatchCollator` or `measure_patch_lengths`."
        )
    if patch_lengths is not None:
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        check_patch_lengths(config, patch_lengths, real)


def check_documents(documents: torch.Tensor | None, patch_lengths: torch.Tensor | None):
    """Refuse patches that lie in two of the `documents` `(B or 1, T)` of a row; values only where no device waits."""
    if documents is None or patch_lengths is None or documents.device.type != "cpu" or torch.compiler.is_compiling():
        return
    is_inner = documents.diff(dim=-1) > 0
    is_end = spread_patch_lengths(patch_lengths, torch.ones(len(patch_lengths), documents.shape[1]).bool())
    wrong = (is_inner & ~is_end[:, :-1]).nonzero().tolist()
    if wrong:
        row, byte = wrong[0]
        raise ValueError(
            f"`patch_lengths` put bytes {byte} and {byte + 1} of row {row} into one patch, but `position_ids` begin "
            "a document between them. Measure the patches of each document alone, as `TokenPatchCollator` does."
        )


def check_patch_lengths(config: BytePatchConfig, patch_lengths: torch.Tensor, real: torch.Tensor):
    """Refuse lengths `(B, P)` that do not cover the real bytes of each row; values only where no device waits."""
    if patch_lengths.ndim != 2 or len(patch_lengths) != len(real) or patch_lengths.shape[1] == 0:
        raise ValueError(
            f"`patch_lengths` has shape {tuple(patch_lengths.shape)}; it must be (B, P) with B = {len(real)} "
            "rows, as many as the bytes have, and at least one patch."
        )
    if patch_lengths.device.type != "cpu" or torch.compiler.is_compiling():
        return
    sums, counts = patch_lengths.sum(1), real.bool().sum(1)
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


__all__ = ["check_blocks", "check_bytes", "check_documents", "check_patch_lengths"]
