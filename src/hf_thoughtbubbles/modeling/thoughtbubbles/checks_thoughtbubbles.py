# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for Thoughtbubbles."""

import math
import numbers

import torch
from transformers.cache_utils import Cache
from transformers.utils import logging

from ...configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from ...configuration.fork_rules import get_fork_rule
from ..common.checks_caches import check_cache_layers
from ..common.checks_tokens import can_read, check_tokens


logger = logging.get_logger(__name__)


def find_mask_obstacles(config: ThoughtbubblesConfig) -> dict[str, str]:
    """The kinds of masks that forks do not fit: a row of a cache has as many keys as its tokens have streams."""
    if not config.fork_layers:
        return {}
    obstacles = {"none": "tokens that fork have different numbers of keys"}
    if not config.has_dead_slots:
        obstacles["padding"] = "streams in a cache, and those of packed documents, are hidden pair by pair"
    return obstacles


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
) -> torch.Tensor | None:
    """
    Refuse input that the model cannot read; returns the mask, or `None` if it hides nothing. The published rule rounds
    the budget down with any mask, so there a mask of ones stays (docs/reference_behaviour.md, "Thoughtbubbles", T5).
    """
    hiding_mask = check_tokens(
        config,
        input_ids,
        attention_mask,
        position_ids,
        past_key_values,
        inputs_embeds,
        mask_refusal="A mask over query and key pairs cannot follow tokens that fork." if config.fork_layers else None,
    )
    if fork_budget is not None:
        check_budget(config, is_training, fork_budget)
    if config.fork_layers and (use_cache or past_key_values is not None):
        check_cache_use(config, is_training)
    if past_key_values is not None:
        batch_size = (input_ids if inputs_embeds is None else inputs_embeds).shape[0]
        heads = config.num_key_value_heads // config.num_head_processes, config.head_dim, config.wide_head_dim
        check_cache_layers(past_key_values, config.layer_types, batch_size, *heads)
    return attention_mask if config.has_dead_slots else hiding_mask


def warn_of_forks_before_attention(config: ThoughtbubblesConfig, fork_rule: str):
    """Warn once that a fork before layer 0 under the causal rule decides by the token id alone."""
    if get_fork_rule(fork_rule).has_thresholds and 0 in config.fork_layers:
        logger.warning_once(
            f'`fork_layers` has layer 0 and the fork rule is "{fork_rule}". Before layer 0 a score depends on the '
            "token id alone, so an id forks always or never, and `fork_budget` is met only as nearly as ids allow. "
            "Fork before layer 1 or later to let the context decide."
        )


def is_budget(number) -> bool:
    """Whether `number` can be a mean number of streams per token."""
    return isinstance(number, numbers.Real) and not isinstance(number, bool) and 1 <= number < math.inf


def check_budget(config: ThoughtbubblesConfig, is_training: bool, fork_budget: float):
    """Refuse budgets that name no number of streams, and any where they would change nothing."""
    if not config.fork_layers:
        raise ValueError(f"`fork_budget={fork_budget}` was passed, but the model has no fork layers. Remove it.")
    if not get_fork_rule(config.fork_rule).has_budget_per_call:
        raise ValueError(
            f'`fork_budget={fork_budget}` was passed, but with `fork_rule="{config.fork_rule}"` every token has as '
            "many streams as in training. Remove it."
        )
    if is_training:
        raise ValueError(
            f"`fork_budget={fork_budget}` was passed to a model in training, which follows its configuration. Set "
            "`model.config.fork_budget`, or call `model.eval()` first."
        )
    if not is_budget(fork_budget):
        raise ValueError(
            f"`fork_budget` is {fork_budget!r}; it must be a finite Python or numpy number of at least 1, in streams "
            "per token."
        )


def check_cache_use(config: ThoughtbubblesConfig, is_training: bool):
    """Refuse a cache where none can be exact, and in training."""
    if not config.is_cacheable:
        raise ValueError(
            f'`use_cache=True` or `past_key_values` was passed, but `fork_rule="{config.fork_rule}"` chooses streams '
            "over the whole sequence, so no cache can be exact. Call the model on the whole prefix with "
            "`use_cache=False`; `generate` does so by itself."
        )
    if is_training:
        raise ValueError(
            "`past_key_values` or `use_cache=True` was passed to a forking model in training, where rows have a fixed "
            "number of streams. Call `model.eval()` first, or remove it."
        )


def check_head(config: ThoughtbubblesConfig, has_lm_head: bool, output_streams: bool):
    """
    Refuse a call of the base model of a language model whose head is not linear in `last_hidden_state`: tools that
    compute the logits themselves begin with it.
    """
    if has_lm_head and config.is_head_mixing and not output_streams:
        raise ValueError(
            "The base model of a `ThoughtbubblesForCausalLM` was called without its head, but with "
            '`fold="probability"` the head mixes the distributions of streams, so `lm_head(last_hidden_state)` is '
            "another distribution than the model's. Tools that compute it (trainers of TRL from 1.7 on, Liger "
            'kernels, logit lenses) cannot be used: train with `fold="residual"`, or call the model itself, as '
            "`transformers.Trainer` does. For the states alone pass `output_streams=True`."
        )


def check_documents(config: ThoughtbubblesConfig, documents: torch.Tensor | None, attention_mask: torch.Tensor | None):
    """
    Refuse packed documents under a rule by which all tokens of a row compete. Where positions cannot be read, on an
    accelerator or in a compiled graph, they are those of padding if there is a mask, and refused if there is none.
    """
    if documents is None or config.is_cacheable or not (can_read(documents) or attention_mask is None):
        return
    hint = "Pass one document per row, or an `attention_mask` if the positions only skip padding."
    if not can_read(documents):
        hint = f"{hint} On an accelerator positions are not read: remove those of a row that holds one document."
    raise ValueError(
        f'`position_ids` pack several documents into a row, but `fork_rule="{config.fork_rule}"` lets all tokens '
        f"of a row compete for streams. {hint}"
    )


__all__ = [
    "check_budget",
    "check_documents",
    "check_head",
    "check_inputs",
    "is_budget",
    "warn_of_forks_before_attention",
]
