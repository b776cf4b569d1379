# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""
Formulas for FLOPs that depend on values, not on shapes alone: streams that thresholds keep, and patches of bytes.

They count matrix products as `flops.py` does: 2 operations for a multiplication and an addition.
"""

import itertools
import math
from typing import NamedTuple

from transformers import PreTrainedConfig

from ..configuration.configuration_byte_patch import NUM_BYTES
from ..modeling.common.cache_room import NUM_SPARE_SLOTS, SPARE_SHARE


ID_BYTES = 8  # of a LongTensor's entry
NUM_EXACT_DIGITS = 6  # of a measured average times the tokens


class RowCost(NamedTuple):
    """FLOPs of one row, and the size of its cache."""

    num_tokens: int  # an answer included
    forward: int  # of one pass without labels
    labeled: float  # of one pass with labels
    step: float  # of generating one token after them
    cache_numbers: int = 0  # in the model's dtype
    cache_bytes: int = 0  # of indices and masks


def count_layer(num_queries: float, num_keys: float, width: int, intermediate_size: int, is_gated: bool = False):
    """
    FLOPs of a transformer layer with full-width heads, whose `num_queries` attend to `num_keys`.

    >>> count_layer(1, 1, width=2, intermediate_size=3)
    64
    """
    weights = 4 * width**2 + (3 if is_gated else 2) * width * intermediate_size
    return 2 * num_queries * weights + 4 * num_queries * num_keys * width


def count_decoder_layer(
    config: PreTrainedConfig, num_queries: float, num_keys: float, head_dim: int | None = None
) -> float:
    """
    FLOPs of a layer of Thoughtbubbles, whose `num_queries` streams attend to `num_keys`. With a score channel beside a
    head's own, `head_dim` is the width of heads that attention multiplies.
    """
    heads, key_heads = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    num_mlp = 3 if config.feed_forward == "swiglu" else 2
    weights = config.hidden_size * (2 * heads + 2 * key_heads + num_mlp * config.intermediate_size)
    attended = config.num_attention_heads * (head_dim or config.head_dim)
    return 2 * num_queries * weights + 4 * num_queries * num_keys * attended


def count_fork(config: PreTrainedConfig, num_streams: float, num_kept: float) -> float:
    """FLOPs of a fork layer: scores of each stream, and an adapter from each to those that stay."""
    rank = config.fork_adapter_rank or 0
    return 2 * config.hidden_size * ((config.num_fork_scores + rank) * num_streams + rank * num_kept)


def count_threshold_forks(config: PreTrainedConfig, num_tokens: int) -> RowCost:
    """
    Layers over `fork_budget` streams for each token, as in training. In evaluation the budget is an average over text.
    """
    width, budget, forks = config.hidden_size, config.fork_budget, range(len(config.fork_layers) + 1)
    shares = [min(2**i, budget) for i in forks]  # streams of a token after so many forks, of which each doubles them
    counts = [min(2**i * num_tokens, math.ceil(budget * num_tokens)) for i in forks]
    num_forks = [sum(fork <= i for fork in config.fork_layers) for i in range(config.num_hidden_layers)]
    head_dims = [config.head_dim] * len(forks)
    if config.fork_score_channel == "beside":
        head_dims[1:] = [config.wide_head_dim] * (len(forks) - 1)

    def count_pass(queries: list, keys: list, num_kept: int) -> float:
        """The forks, the layers, and the head."""
        flops = sum(count_fork(config, *pair) for pair in itertools.pairwise(queries))
        flops += sum(count_decoder_layer(config, queries[i], keys[i], head_dims[i]) for i in num_forks)
        return flops + 2 * width * config.vocab_size * (queries[-1] if config.fold == "probability" else num_kept)

    forward = int(count_pass(counts, counts, num_tokens))
    step = count_pass(shares, [(num_tokens + 1) * share for share in shares], 1)
    num_slots = [counts[i] + (i > 0) * (NUM_SPARE_SLOTS + int(counts[i] * SPARE_SHARE)) for i in num_forks]
    num_channels = sum(slots * head_dims[i] for slots, i in zip(num_slots, num_forks, strict=True))
    cache_numbers = 2 * config.num_key_value_heads * num_channels
    return RowCost(num_tokens, forward, forward, step, cache_numbers, ID_BYTES * sum(counts[1:]))


class BytePatchFormulas:
    """FLOPs of the parts of a byte-patch model."""

    def __init__(self, config: PreTrainedConfig):
        self.config, self.core = config, config.core_config  # sizes of bytes and of the core
        self.width, self.core_width = config.hidden_size, self.core.hidden_size
        self.intermediate_size, self.longest = config.intermediate_size, config.max_patch_bytes
        self.encoder_depth, self.decoder_depth = config.encoder_num_hidden_layers, config.num_hidden_layers

    def count_byte_layer(self, num_bytes: float, num_pairs: float, width: int, next_width: int) -> float:
        """A layer over bytes, whose attention compares `num_pairs` pairs of a query and a key."""
        wide = self.intermediate_size * width // self.width
        return 2 * num_bytes * (4 * width**2 + wide * (width + next_width)) + 4 * num_pairs * width

    def count_encoder(self, num_bytes: float, num_patches: int) -> float:
        """Bytes to the vectors of patches; a chunk of bytes attends to itself and both neighbours."""
        depth, width, core_width = self.encoder_depth, self.width, self.core_width
        num_pairs = math.ceil(num_bytes / self.longest) * 3 * self.longest**2
        if self.config.byte_layers == "residual":
            layers = depth * self.count_byte_layer(num_bytes, num_pairs, width, width)
            return layers + 2 * num_patches * width * core_width
        widths = [width] + [2 * width] * (depth - 1)
        pairs = zip(widths, [*widths[1:], core_width], strict=True)
        return sum(self.count_byte_layer(num_bytes, num_pairs, *pair) for pair in pairs)

    def count_core(self, num_queries: int, num_keys: int) -> int:
        """The generic transformer over patches."""
        config, width = self.core, self.core_width
        weights = 2 * width * (width + config.num_key_value_heads * config.head_dim)
        weights += (3 if config.feed_forward == "swiglu" else 2) * width * config.intermediate_size
        if config.position_embedding == "relative":
            weights += width * (2 * config.max_relative_position + 1)
        return config.num_hidden_layers * (2 * num_queries * weights + 4 * num_queries * num_keys * width)

    def count_parallel_decoder(self, num_patches: int) -> float:
        """All bytes of each patch at once."""
        num_bytes, width = num_patches * self.longest, self.width
        layer = self.count_byte_layer(num_bytes, num_bytes * self.longest, width, width)
        return 2 * num_bytes * self.core_width * width + self.decoder_depth * layer

    def count_byte_decoder(self, num_states: int, num_bytes: int, num_pairs: float) -> float:
        """One byte after another, each from the core's state of its patch."""
        layer = self.count_byte_layer(num_bytes, num_pairs, self.width, self.width)
        return 2 * num_states * self.core_width * self.width + self.decoder_depth * layer


def count_patches(
    config: PreTrainedConfig, num_bytes: int, num_patches: int | None, bytes_per_patch: float | None
) -> tuple[int, float]:
    """Patches of a row and their average length: each follows from the other, and both from `"fixed"` patching."""
    if num_patches is not None and bytes_per_patch is not None:
        raise ValueError("`num_patches` and `bytes_per_patch` were passed; each follows from the other. Remove one.")
    if num_patches is not None:
        bytes_per_patch = num_bytes / num_patches
    elif bytes_per_patch is None and config.patching == "fixed":
        bytes_per_patch = config.patch_size
    if bytes_per_patch is None:
        raise ValueError(
            f'`num_patches` and `bytes_per_patch` are missing, and with `patching="{config.patching}"` patches end '
            "where the text says. Pass one; `model(input_ids, output_patches=True).patches.lengths` has the patches "
            "of some text."
        )
    if not 1 <= bytes_per_patch <= config.max_patch_bytes:
        raise ValueError(
            f"`num_patches` or `bytes_per_patch` was passed, {bytes_per_patch:g} bytes a patch; a patch has 1 to "
            f"{config.max_patch_bytes} bytes (`max_patch_bytes`). Pass the number measured on {num_bytes} bytes."
        )
    return num_patches or math.ceil(round(num_bytes / bytes_per_patch, NUM_EXACT_DIGITS)), bytes_per_patch


def count_byte_patch(
    config: PreTrainedConfig, num_bytes: int, num_patches: int | None = None, bytes_per_patch: float | None = None
) -> RowCost:
    """
    A row of bytes; `model(..., output_patches=True).patches.lengths.shape[1]` is its number of patches. A generated
    byte is the average over a patch, at whose end the core runs.
    """
    num_patches, bytes_per_patch = count_patches(config, num_bytes, num_patches, bytes_per_patch)
    parts, longest = BytePatchFormulas(config), config.max_patch_bytes
    head, num_states = 2 * parts.width * config.vocab_size, num_patches + 1  # a state before all patches
    forward = parts.count_encoder(num_bytes, num_patches) + parts.count_core(num_patches, num_patches)
    forward += num_bytes * head
    ending = parts.count_encoder(bytes_per_patch, 1) + parts.count_core(1, int(num_bytes / bytes_per_patch) + 1)
    core = parts.core
    key_value_width = core.num_key_value_heads * core.head_dim
    numbers = num_patches * 2 * key_value_width * core.num_hidden_layers
    num_cache_bytes = (ID_BYTES + 2) * num_bytes  # ids, padding, ends
    if config.decoder == "parallel":
        forward += parts.count_parallel_decoder(num_states)
        labeled = forward
        if config.reconstruction_loss_weight > 0:
            labeled += parts.count_parallel_decoder(num_patches) + num_bytes * head
        numbers += num_states * parts.core_width
        step = head + (ending + parts.count_parallel_decoder(1)) / bytes_per_patch
        return RowCost(num_bytes, int(forward), int(labeled), step, numbers, num_cache_bytes)
    numbers += num_states * parts.width + 2 * parts.width * parts.decoder_depth * num_bytes
    num_pairs = math.ceil(num_bytes / longest) * 2 * longest**2  # a chunk attends to itself and the one before
    forward += parts.count_byte_decoder(num_states, num_bytes, num_pairs)
    ending += parts.count_byte_decoder(1, 0, 0)  # a patch's state is projected once
    step = head + parts.count_byte_decoder(0, 1, min(num_bytes + 1, longest)) + ending / bytes_per_patch
    labeled = forward
    if config.num_draft_bytes > 0 and config.draft_loss_weight > 0:
        # States are detached, so that the backward pass of their projection takes as long as its forward pass.
        labeled += num_bytes * 2 * config.intermediate_size * (parts.width * 2 / 3 + NUM_BYTES)
    return RowCost(num_bytes, int(forward), labeled, step, numbers, num_cache_bytes)


__all__ = ["RowCost", "count_byte_patch", "count_layer", "count_threshold_forks"]
