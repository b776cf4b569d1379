# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What can Thoughtbubbles not read? Each refusal names the argument, what came, what is allowed and what to do."""

import math
import numbers

import torch
from transformers.cache_utils import Cache
from transformers.masking_utils import find_packed_sequence_indices
from transformers.utils import logging

from ...configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from ..common.checks_tokens import check_tokens


logger = logging.get_logger(__name__)


def check_inputs(
    config: ThoughtbubblesConfig,
    is_training: bool,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: torch.Tensor | None = None,
    use_cache: bool | None = None,
    fork_budget: float | None = None,
):
    """Refuse what the model cannot read. Looks at shapes; at values only where no device has to be waited for."""
    check_tokens(
        config,
        input_ids,
        attention_mask,
        position_ids,
        past_key_values,
        inputs_embeds,
        mask_refusal="A mask over query and key pairs cannot follow tokens that fork." if config.fork_layers else None,
    )
    batch_size = (input_ids if inputs_embeds is None else inputs_embeds).shape[0]
    if fork_budget is not None:
        check_budget(config, is_training, fork_budget)
    if not config.is_cacheable:
        check_uncached(is_training, attention_mask, position_ids, past_key_values, use_cache)
    elif past_key_values is not None and config.fork_layers:
        check_cache(config, is_training, past_key_values, batch_size)


def warn_of_forks_before_attention(config: ThoughtbubblesConfig, fork_rule: str):
    """Warn once that a fork before layer 0 under the causal rule decides by the token id alone."""
    if fork_rule == "threshold" and 0 in config.fork_layers:
        logger.warning_once(
            '`fork_layers` has layer 0 and the fork rule is "threshold". Before layer 0 a score depends on the token '
            "id alone, so an id forks always or never, and `fork_budget` is met only as nearly as ids allow. Fork "
            "before layer 1 or later to let the context decide."
        )


def is_budget(number) -> bool:
    """Whether `number` can be a mean number of streams per token."""
    return isinstance(number, numbers.Real) and not isinstance(number, bool) and 1 <= number < math.inf


def check_budget(config: ThoughtbubblesConfig, is_training: bool, fork_budget: float):
    """Refuse budgets that name no number of streams, and any where they would change nothing."""
    if not config.fork_layers:
        raise ValueError(f"`fork_budget={fork_budget}` came, but the model has no fork layers. Leave it out.")
    if config.fork_rule == "copy":
        raise ValueError(
            f'`fork_budget={fork_budget}` came, but with `fork_rule="copy"` every token has as many streams as in '
            "training. Leave it out."
        )
    if is_training:
        raise ValueError(
            f"`fork_budget={fork_budget}` came to a model in training, which follows its configuration. Set "
            "`model.config.fork_budget`, or call `model.eval()` first."
        )
    if not is_budget(fork_budget):
        raise ValueError(
            f"`fork_budget` is {fork_budget!r}; it must be a finite Python or numpy number of at least 1, in streams "
            "per token."
        )


def check_cache(config: ThoughtbubblesConfig, is_training: bool, past_key_values: Cache, batch_size: int):
    """Refuse a cache of another model, of other rows, or of a training pass."""
    if is_training:
        raise ValueError(
            "`past_key_values` or `use_cache=True` came to a forking model in training, where rows have a fixed "
            "number of streams. Call `model.eval()` first, or leave it out."
        )
    kinds = [getattr(layer, "_layer_type", None) or "full_attention" for layer in past_key_values.layers]
    if kinds != config.layer_types:
        raise ValueError(
            f"`past_key_values` has layers of the kinds {kinds}, but this model needs {config.layer_types}. "
            "Make it with `StreamCache(model.config)`, or leave it out and use the one that the model returns."
        )
    for layer in past_key_values.layers:
        shape, head_dim = (layer.keys.shape if layer.is_initialized else None), config.head_dim
        needed = (batch_size, config.num_attention_heads, head_dim)
        if shape is not None and (shape[0], shape[1], shape[-1]) != needed and layer.keys.numel() > 0:
            raise ValueError(
                f"`past_key_values` holds {shape[0]} rows, {shape[1]} heads of size {shape[-1]}, but the input has "
                f"{batch_size} rows and the model {needed[1]} heads of size {head_dim}. Use the cache of the same "
                "model and batch; `batch_repeat_interleave` and `batch_select_indices` change its rows."
            )


def check_uncached(is_training: bool, attention_mask, position_ids, past_key_values, use_cache):
    """Refuse what the published fork rule cannot do: caches and packed documents."""
    if use_cache or past_key_values is not None:
        raise ValueError(
            '`use_cache=True` or `past_key_values` came, but `fork_rule="topk"` chooses streams over the whole '
            "sequence, so no cache can be exact. Call the model on the whole prefix with `use_cache=False`; "
            "`generate` does so by itself."
        )
    # A compiled model cannot look at positions: generation places every prompt in order, training must not guess.
    is_placed = position_ids is not None and attention_mask is None
    is_readable = is_training or not torch.compiler.is_compiling()
    if is_placed and is_readable and find_packed_sequence_indices(position_ids) is not None:
        raise ValueError(
            '`position_ids` pack several documents into a row, but `fork_rule="topk"` lets all tokens of a row '
            "compete for streams. Give one document per row, or an `attention_mask` if the positions only skip "
            "padding."
        )


__all__ = ["check_budget", "check_inputs", "is_budget", "warn_of_forks_before_attention"]
