# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How does a batch of prefixes of any lengths go on, token by token, with a sampling function of one's own?

transformers' `generate` does more; this is the plain loop of xlstm-jax (SPEC section 8), for any causal language model
with a transformers cache: rows go on where their prefix ends, and end where they write an end-of-document token.

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


SEED_LIMIT = 2**62
RANK_STEP = 0x9E3779B97F4A7C15  # odd, so that ranks spread over all seeds
LOWEST_TEMPERATURE = torch.finfo(torch.float32).tiny  # it and its inverse are normal numbers: no 0 / 0, no inf / inf


def greedy_sampling(logits: torch.Tensor, generator: torch.Generator | None = None) -> torch.LongTensor:
    """
    The likeliest token of logits `(..., V)`, `(...)`; the first of equally likely ones.

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
        `ValueError`: for a temperature that is negative or no finite number.

    >>> temperature_sampling(torch.tensor([[1.0, 3.0, 2.0]]), temperature=0.0)
    tensor([1])
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"`temperature` is {temperature}; it must be a finite number of at least 0 (0 is greedy).")
    if temperature == 0:
        return greedy_sampling(logits)
    temperature = min(max(temperature, LOWEST_TEMPERATURE), 1 / LOWEST_TEMPERATURE)
    rows = logits.float().reshape(-1, logits.shape[-1])  # (., V), as `multinomial` wants it
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
    """Whether a model reads on from a cache; those whose earlier tokens see later ones read all tokens anew."""
    config = getattr(model, "config", None)
    return getattr(config, "is_cacheable", True) and getattr(config, "is_causal", True)


def _check_request(model, tokens: torch.Tensor, mask: torch.Tensor | None, cache: Cache | None, max_length: int):
    """Refuse prefixes of wrong shapes, lengths that cannot be, and caches that would not be read."""
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
    longest = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if longest is not None and max_length - 1 > longest:  # the last token is not read
        raise ValueError(
            f"`max_length` is {max_length}, but the model's `max_position_embeddings` is {longest}. Ask for at most "
            f"{longest + 1} tokens, prefix included."
        )
    if cache is not None and not _can_cache(model) and cache.get_seq_length() > 0:
        raise ValueError(
            f"`cache` holds {int(cache.get_seq_length())} tokens, but this model cannot cache: its earlier tokens see "
            "later ones. Give no cache, or an empty one, and put the earlier tokens at the start of `prefix_tokens`."
        )


@contextlib.contextmanager
def _gather_params(model: torch.nn.Module) -> Iterator[None]:
    """Keep the parameters of an FSDP2 model whole; what comes back to one module's rule is FSDP's default."""
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
    """Parameters in another dtype for a while; shared ones stay shared, and the originals come back bit for bit."""
    if any(isinstance(module, FSDPModule) for module in model.modules()):
        raise ValueError(
            "`param_dtype` came with a model that FSDP2 shards, which casts by itself. Shard it with "
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


@contextlib.contextmanager
def _evaluate(model: torch.nn.Module) -> Iterator[None]:
    """A model in training in evaluation mode for a while; then every module is as it was, frozen ones too."""
    was_training = [module for module in model.modules() if module.training]
    if model.training:
        model.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True


def _count_whole_columns(mask: torch.Tensor) -> int:
    """Leading places at which every row has a prefix token, and at least one: they can be read in one pass."""
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

    Rows may have prefixes of different lengths, aligned on the left; where the mask is False the model fills in. What
    all rows have in common in length is read in one pass, then one token is read at a time from the cache. Models that
    cannot cache (`fork_rule="topk"`, bidirectional ones) read all tokens anew for each one.

    Args:
        model (`PreTrainedModel`): any causal language model with a transformers cache, native ones included.
        prefix_tokens (`torch.LongTensor` of shape `(B, P)` or `(B,)`): what is there already.
        prefix_mask (`torch.BoolTensor` of shape `(B, P)`, *optional*): False where a prefix has no token. A row whose
            first token is missing is not valid at all.
        cache (`Cache`, *optional*): keys and values of text before the prefix; changed in place.
        max_length (`int`): tokens of a row in the end, prefix included.
        eod_token_id (`int`): the end-of-document token; what a row writes after its first own one is not valid, and
            the loop stops when all rows have ended. One in a prefix ends nothing. Negative: rows never end.
        token_sample_fn (`Callable`): called with logits `(B, V)` and `generator=`; gives tokens `(B,)`.
        gather_params_once (`bool`): whether a model that FSDP2 shards is gathered once for all steps.
        param_dtype (`torch.dtype`, *optional*): what parameters are cast to, once for all steps.
        generator (`torch.Generator`, *optional*): random numbers. By default one seeded from torch's global generator,
            of its own on every data-parallel rank, so that one seed reproduces all ranks. Ranks that hold parts of the
            same rows (tensor parallelism) must be given equal ones.

    Returns:
        Tokens `(B, L)`, 0 where not valid, and which are valid, `(B, L)`.

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
        stack.enter_context(_evaluate(model))
        _write_tokens(model, tokens, is_valid, mask, cache, eod_token_id, token_sample_fn, generator)
    return tokens * is_valid, is_valid


def _write_tokens(model, tokens, is_valid, mask, cache, eod_token_id, token_sample_fn, generator):
    """The loop of SPEC section 8, which fills `tokens` and `is_valid` `(B, L)`."""
    can_cache, is_alive, last = _can_cache(model), mask[:, 0].clone(), tokens.shape[1] - 1
    known = inspect.signature(model.forward).parameters
    keeps = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    cache_name = next((name for name in CACHE_NAMES if name in known), CACHE_NAME)  # of models that others wrote too
    start, place = 0, _count_whole_columns(mask) - 1  # the first step reads all up to here at once
    while place < last and (eod_token_id < 0 or bool(is_alive.any())):
        if can_cache:
            keeps[cache_name] = cache
            outputs = model(input_ids=tokens[:, start : place + 1], use_cache=True, **keeps)
            cache = getattr(outputs, cache_name)
        else:
            outputs = model(input_ids=tokens[:, : place + 1], use_cache=False, **keeps)
        sampled = token_sample_fn(outputs.logits[:, -1], generator=generator)
        is_prefix = is_valid[:, place + 1].clone()
        following = torch.where(is_prefix, tokens[:, place + 1], sampled)
        tokens[:, place + 1], is_valid[:, place + 1] = following, is_alive
        is_alive = is_alive & ((following != eod_token_id) | is_prefix)
        start = place = place + 1


__all__ = ["generate_tokens", "greedy_sampling", "make_rank_generator", "temperature_sampling"]
