# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The sampling loop of xlstm-jax (docs/reference_behaviour.md, "Sampling") for any causal language model.

The loop continues a batch of prefixes of any lengths, token by token, with a sampling function of the caller. Each row
ends with its first end-of-document token. transformers' `generate` has more options.

Shapes: B batch, P prefix tokens, L tokens in the end, V vocabulary.
"""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from ..modeling.common.cache_names import CACHE_NAME, CACHE_NAMES
from ..modeling.common.evaluation_mode import evaluation_mode


SEED_LIMIT = 2**62
RANK_STEP = 0x9E3779B97F4A7C15  # odd, so that ranks spread over all seeds
LOWEST_TEMPERATURE = torch.finfo(torch.float32).tiny  # it and its inverse are normal numbers: no 0 / 0, no inf / inf


def greedy_sampling(logits: torch.Tensor, generator: torch.Generator | None = None) -> torch.LongTensor:
    """
    The likeliest token `(...)` of logits `(..., V)`; the first of equally likely ones.

    >>> greedy_sampling(torch.tensor([[1.0, 3.0, 3.0]]))
    tensor([1])
    """
    return logits.argmax(dim=-1)


def temperature_sampling(
    logits: torch.Tensor, generator: torch.Generator | None = None, temperature: float = 1.0
) -> torch.LongTensor:
    """
    Draw from `softmax(logits / temperature)`.

    Args:
        logits (`torch.FloatTensor` of shape `(..., V)`): natural-log scores.
        generator (`torch.Generator`, *optional*): on the logits' device; torch's global one by default.
        temperature (`float`): 0 is greedy.

    Returns:
        `torch.LongTensor` of shape `(...)`.

    Raises:
        `ValueError`: for a temperature that is negative or not finite.

    >>> temperature_sampling(torch.tensor([[1.0, 3.0, 2.0]]), temperature=0.0)
    tensor([1])
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"`temperature` is {temperature}; it must be a finite number of at least 0 (0 is greedy).")
    if temperature == 0:
        return greedy_sampling(logits)
    temperature = min(max(temperature, LOWEST_TEMPERATURE), 1 / LOWEST_TEMPERATURE)
    rows = logits.float().reshape(-1, logits.shape[-1])  # (., V), the shape for `multinomial`
    below = rows - rows.amax(dim=-1, keepdim=True)  # at most 0, so that the quotient may overflow
    return torch.multinomial((below / temperature).softmax(-1), 1, generator=generator).view(logits.shape[:-1])


def make_rank_generator(seed: int, device: torch.device | str = "cpu", rank: int | None = None) -> torch.Generator:
    """
    A random stream for one data-parallel rank: different on every rank, the same in every run with the same seed.

    Args:
        seed (`int`): the same on all ranks.
        device (`torch.device`): that of the logits.
        rank (`int`, *optional*): this process's rank by default, 0 without `torch.distributed`.

    Returns:
        `torch.Generator`
    """
    if rank is None:
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    return torch.Generator(device).manual_seed((seed + rank * RANK_STEP) % SEED_LIMIT)


def _can_cache(model: PreTrainedModel) -> bool:
    """Whether a model can use a cache; not when earlier tokens attend to later ones."""
    config = getattr(model, "config", None)
    return getattr(config, "is_cacheable", True) and getattr(config, "is_causal", True)


def _check_request(model, tokens: torch.Tensor, mask: torch.Tensor | None, cache: Cache | None, max_length: int):
    """Raise for prefixes of wrong shapes, impossible lengths, and caches that would have no effect."""
    if tokens.ndim not in (1, 2) or 0 in tokens.shape:
        raise ValueError(
            f"`prefix_tokens` has shape {tuple(tokens.shape)}; it must be (B, P), or (B,) for one token each, with no "
            "size 0."
        )
    if (mask is not None and mask.shape != tokens.shape) or (mask is not None and mask.ndim != 2):
        raise ValueError(
            f"`prefix_mask` has shape {tuple(mask.shape)} and `prefix_tokens` {tuple(tokens.shape)}; both must be "
            "(B, P)."
        )
    num_prefix = 1 if tokens.ndim == 1 else tokens.shape[1]
    if num_prefix > max_length:
        raise ValueError(
            f"The prefix is {num_prefix} tokens long, but `max_length` is {max_length}. Shorten it or allow more."
        )
    config = getattr(model, "config", None)
    longest, has_table = getattr(config, "max_position_embeddings", None), getattr(config, "has_position_table", True)
    if longest is not None and has_table and max_length - 1 > longest:  # the last token is not read
        raise ValueError(
            f"`max_length` is {max_length}, but the model's `max_position_embeddings` is {longest}. Ask for at most "
            f"{longest + 1} tokens, prefix included."
        )
    if cache is not None and not _can_cache(model) and cache.get_seq_length() > 0:
        raise ValueError(
            f"`cache` holds {int(cache.get_seq_length())} tokens, but this model cannot cache, because earlier "
            "tokens attend to later ones. Remove it, and put its tokens at the start of `prefix_tokens`."
        )


@contextlib.contextmanager
def _gather_params(model: torch.nn.Module) -> Iterator[None]:
    """Gather the parameters of an FSDP2 model for a while; then modules have FSDP's default rule of resharding."""
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(module is not sharded[0], recurse=False)
            module.reshard()


@contextlib.contextmanager
def _cast_params(model: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Cast parameters to another dtype for a while; shared ones stay shared, and the originals return unchanged."""
    if any(isinstance(module, FSDPModule) for module in model.modules()):
        raise ValueError(
            "`param_dtype` was passed with a model that FSDP2 shards, and FSDP2 casts by itself. Shard the model with "
            "`mp_policy=MixedPrecisionPolicy(param_dtype=...)`."
        )
    originals = [(p, p.data) for p in model.parameters() if p.is_floating_point()]
    try:
        for parameter, data in originals:
            parameter.data = data.to(dtype)
        yield
    finally:
        for parameter, data in originals:
            parameter.data = data


def _count_full_columns(mask: torch.Tensor) -> int:
    """Number of leading columns, at least 1, in which every row has a prefix token; one pass reads them."""
    return max(1, int(mask.all(dim=0).long().cumprod(0).sum()))


@torch.no_grad()
def generate_tokens(
    model: PreTrainedModel,
    prefix_tokens: torch.LongTensor,
    prefix_mask: torch.Tensor | None = None,
    cache: Cache | Any | None = None,
    max_length: int = 2048,
    eod_token_id: int = -1,
    token_sample_fn: Callable[..., torch.LongTensor] = temperature_sampling,
    gather_params_once: bool = False,
    param_dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> tuple[torch.LongTensor, torch.BoolTensor]:
    """
    Continue prefixes up to `max_length` tokens.

    Prefixes may have different lengths, aligned on the left; where the mask is False the model writes tokens. One pass
    reads the columns in which all rows have a prefix, then each step reads one token, with a cache. Models that cannot
    cache (`fork_rule="topk"`, bidirectional ones) read all tokens in each step.

    Args:
        model (`PreTrainedModel`): any causal language model with a transformers cache, native ones included.
        prefix_tokens (`torch.LongTensor` of shape `(B, P)` or `(B,)`): the tokens to continue.
        prefix_mask (`torch.BoolTensor` of shape `(B, P)`, *optional*): False where a prefix has no token. A row
            without its first token is not valid at all.
        cache (`Cache`, *optional*): keys and values of text before the prefix; changed in place.
        max_length (`int`): final length of the rows in tokens, prefix included.
        eod_token_id (`int`): the end-of-document token. Tokens after the first that a row writes are not valid, and
            the loop stops when all rows have ended. One in a prefix has no effect. Negative: rows never end.
        token_sample_fn (`Callable`): called with logits `(B, V)` and `generator=`; returns tokens `(B,)`.
        gather_params_once (`bool`): whether a model that FSDP2 shards is gathered once for all steps.
        param_dtype (`torch.dtype`, *optional*): dtype to which parameters are cast, once for all steps.
        generator (`torch.Generator`, *optional*): source of random numbers. By default a new one, seeded from torch's
            global generator and the data-parallel rank, so that one seed reproduces all ranks. Ranks that hold parts
            of the same rows (tensor parallelism) need equal generators.

    Returns:
        Tokens `(B, L)`, 0 where not valid, and whether they are valid, `(B, L)`.

    Raises:
        `ValueError`: for shapes that do not fit, more tokens than the model has positions for, and a cache with tokens
            for a model that cannot cache.
    """
    _check_request(model, prefix_tokens, prefix_mask, cache, max_length)
    prefix = prefix_tokens[:, None] if prefix_tokens.ndim == 1 else prefix_tokens
    mask = torch.ones_like(prefix, dtype=torch.bool) if prefix_mask is None else prefix_mask.bool()
    batch_size, num_prefix = prefix.shape
    tokens = prefix.new_zeros(batch_size, max_length)
    tokens[:, :num_prefix] = prefix * mask
    is_valid = torch.zeros_like(tokens, dtype=torch.bool)
    is_valid[:, :num_prefix] = mask
    if generator is None:
        seed = int(torch.randint(SEED_LIMIT, ()))
        generator = make_rank_generator(seed, tokens.device)

    with contextlib.ExitStack() as stack:
        if gather_params_once:
            stack.enter_context(_gather_params(model))
        if param_dtype is not None:
            stack.enter_context(_cast_params(model, param_dtype))
        stack.enter_context(evaluation_mode(model))
        _write_tokens(model, tokens, is_valid, mask, cache, eod_token_id, token_sample_fn, generator)
    return tokens * is_valid, is_valid


def _write_tokens(model, tokens, is_valid, mask, cache, eod_token_id, token_sample_fn, generator):
    """Fill `tokens` and `is_valid` `(B, L)`, one token of each row in a step."""
    can_cache, is_alive, last = _can_cache(model), mask[:, 0].clone(), tokens.shape[1] - 1
    known = inspect.signature(model.forward).parameters
    keeps = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    cache_name = next((name for name in CACHE_NAMES if name in known), CACHE_NAME)  # also of models of other packages
    start, position = 0, _count_full_columns(mask) - 1  # the first step reads all tokens up to here
    while position < last and (eod_token_id < 0 or bool(is_alive.any())):
        if can_cache:
            keeps[cache_name] = cache
            outputs = model(input_ids=tokens[:, start : position + 1], use_cache=True, **keeps)
            cache = getattr(outputs, cache_name)
        else:
            outputs = model(input_ids=tokens[:, : position + 1], use_cache=False, **keeps)
        sampled = token_sample_fn(outputs.logits[:, -1], generator=generator)
        is_prefix = is_valid[:, position + 1].clone()
        following = torch.where(is_prefix, tokens[:, position + 1], sampled)
        tokens[:, position + 1], is_valid[:, position + 1] = following, is_alive
        is_alive = is_alive & ((following != eod_token_id) | is_prefix)
        start = position = position + 1


__all__ = ["generate_tokens", "greedy_sampling", "make_rank_generator", "temperature_sampling"]
