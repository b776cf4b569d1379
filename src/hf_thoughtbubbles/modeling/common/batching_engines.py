# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Continuous batching: `generate_batch`, `init_continuous_batching`, and `transformers serve --continuous-batching`.

transformers' engine joins the new tokens of many requests into one row, and stores keys and values in blocks that all
requests share. A request that fails is only logged there, so everything is checked before the engine starts.

Shapes: T new tokens, M keys, N heads of keys, H head size.
"""

from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.generation import GenerationConfig, GenerationMode, logits_process
from transformers.generation.continuous_batching import ContinuousBatchingManager, PagedAttentionCache

from .cache_names import CACHE_NAME, NEW_NAME
from .checks_tokens import check_generation_length, check_ids


# Processors that read scores alone. The engine leaves some others out, and gives the rest only the last token.
SCORE_PROCESSORS = (
    logits_process.EpsilonLogitsWarper,
    logits_process.EtaLogitsWarper,
    logits_process.InfNanRemoveLogitsProcessor,
    logits_process.LogitNormalization,
    logits_process.MinPLogitsWarper,
    logits_process.SuppressTokensLogitsProcessor,
    logits_process.TemperatureLogitsWarper,
    logits_process.TopKLogitsWarper,
    logits_process.TopPLogitsWarper,
    logits_process.TypicalLogitsWarper,
)
# Settings that the engine does not read, and the values that change nothing.
UNREAD_SETTINGS = {
    "guidance_scale": (None, 1),
    "max_time": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "stop_strings": (None,),
    "token_healing": (None, False),
}
INSTEAD = "Use `generate` with a batch of padded prompts, or `transformers serve` without `--continuous-batching`."


def take_paged_cache(past_key_values: Cache | PagedAttentionCache | None, kwargs: dict) -> Cache | None:
    """The cache unless it is a paged one, which moves to the `kwargs` of all attention layers."""
    if isinstance(past_key_values, PagedAttentionCache):
        kwargs[NEW_NAME] = past_key_values
        return None
    return past_key_values


def update_paged_cache(key: torch.Tensor, value: torch.Tensor, layer_idx: int, kwargs: dict):
    """
    Keys and values `(1, N, M, H)` of all requests in a batch from those of the new tokens `(1, N, T, H)`, by a paged
    cache in `kwargs`. Before transformers renamed its caches, its attention functions did this.
    """
    if CACHE_NAME != NEW_NAME or NEW_NAME not in kwargs:
        return key, value
    return kwargs.pop(NEW_NAME).update(key, value, layer_idx, kwargs=kwargs)


def count_key_positions(cu_seq_lens_k: torch.Tensor | dict[str, torch.Tensor], num_keys: int) -> torch.Tensor:
    """
    Positions `(1, M)` of the keys of requests that lie behind each other in a row, each counted from 0.

    >>> count_key_positions(torch.tensor([0, 3, 5]), 5)
    tensor([[0, 1, 2, 0, 1]])
    """
    if isinstance(cu_seq_lens_k, dict):  # by the kind of layer, which transformers leaves out before 5.18
        (cu_seq_lens_k,) = cu_seq_lens_k.values()
    keys = torch.arange(num_keys, device=cu_seq_lens_k.device)
    request = torch.bucketize(keys, cu_seq_lens_k[1:-1], right=True)
    return (keys - cu_seq_lens_k[request])[None]


def check_request(config, input_ids: list[int], max_new_tokens: int | None, pool: Any | None):
    """Raise for a request without an end, or for which the model has no ids or positions, or the pool no room."""
    if max_new_tokens is None:
        raise ValueError(
            "`max_new_tokens` was not passed, and continuous batching has no other limit. Pass it, or set it in the "
            "generation configuration."
        )
    ids = torch.as_tensor(input_ids)
    if ids.ndim != 1 or len(ids) == 0 or ids.is_floating_point():
        raise ValueError(f"A request has ids of shape {tuple(ids.shape)}; it must be a list of one or more token ids.")
    check_ids(ids, "input_ids", config.vocab_size)
    num_tokens = len(ids) + max_new_tokens - 1
    check_generation_length(config, num_tokens)
    if pool is None or pool.num_blocks is None:
        return
    tokens_per_block = pool.page_size if hasattr(pool, "page_size") else pool.block_size  # as in transformers 5.17
    room = pool.num_blocks * tokens_per_block
    if room < num_tokens:
        raise ValueError(
            f"A request may need the keys of {num_tokens} tokens, but the `num_blocks` {pool.num_blocks} of the pool "
            f"hold those of {room}. Use more blocks, or ask for fewer new tokens."
        )


class CheckedBatchingManager(ContinuousBatchingManager):
    """transformers' manager, which raises for a request that the engine could not finish."""

    def add_request(self, input_ids, request_id=None, max_new_tokens=None, *args, **kwargs):
        """As [`~transformers.ContinuousBatchingManager.add_request`]."""
        limit = self.generation_config.max_new_tokens if max_new_tokens is None else max_new_tokens
        check_request(self.model.config, input_ids, limit, self.continuous_batching_config)
        return super().add_request(input_ids, request_id, max_new_tokens, *args, **kwargs)


class BatchingEngineMixin:
    """Continuous batching, or an error before anything runs. Put it before transformers' `GenerationMixin`."""

    # An overriding property or attribute is `None` where a token has one key and one value in every layer.
    engine_obstacle: str | None = "no family has said that it has one key and one value for each token and layer"

    def check_engine(self, generation_config: GenerationConfig | None = None) -> GenerationConfig:
        """
        The generation configuration as `generate` completes it.

        Raises:
            `ValueError`: for a model that the engine cannot run, and for settings that it would leave out.
        """
        name = type(self).__name__
        if self.engine_obstacle is not None:
            raise ValueError(
                f"Continuous batching was requested, but `{name}` has no paged cache: "
                f"{self.engine_obstacle}. {INSTEAD}"
            )
        completed, arguments = self._prepare_generation_config(generation_config)
        mode = completed.get_generation_mode()
        asked = [mode.value] if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE) else []
        asked += [f"`{key}`" for key, value in arguments.items() if value is not None]
        asked += [f"`{key}`" for key, values in UNREAD_SETTINGS.items() if getattr(completed, key) not in values]
        if not asked:
            processors = self._get_logits_processor(completed, 1, device=self.device)
            asked = [
                type(processor).__name__ for processor in processors if not isinstance(processor, SCORE_PROCESSORS)
            ]
        if asked:
            raise ValueError(
                f"The generation configuration requests {asked[0]}, but continuous batching only decodes greedily or "
                f"samples from scores. Remove it. {INSTEAD}"
            )
        return completed

    def init_continuous_batching(self, generation_config=None, *args, **kwargs):
        """As [`~transformers.GenerationMixin.init_continuous_batching`]; settings that are `None` are the model's."""
        manager = super().init_continuous_batching(self.check_engine(generation_config), *args, **kwargs)
        manager.__class__ = CheckedBatchingManager  # transformers takes no class of ours
        return manager

    def generate_batch(self, inputs, generation_config=None, continuous_batching_config=None, *args, **kwargs):
        """
        As [`~transformers.GenerationMixin.generate_batch`], for models of one key and one value a token and layer.

        Raises:
            `ValueError`: for a model, a setting or a prompt that the engine cannot run, before anything runs.
            `RuntimeError`: when a request failed.
        """
        completed = self.check_engine(generation_config)
        # `generate(..., cache_implementation="paged")` passes all of its arguments, of which most are settings.
        unread = {key: value for key, value in kwargs.items() if not self.is_read_by_engine(key, value)}
        if unread:
            raise ValueError(
                f"`{next(iter(unread))}` was passed, but continuous batching does not read it. Remove it. Prompts are "
                "lists of different lengths, without padding."
            )
        limit = kwargs.get("max_new_tokens")
        for input_ids in inputs:
            limit = completed.max_new_tokens if limit is None else limit
            check_request(self.config, input_ids, limit, continuous_batching_config)
        results = super().generate_batch(inputs, completed, continuous_batching_config, *args, **kwargs)
        failed = [f"{key}: {result.error}" for key, result in results.items() if result.error is not None]
        if failed or len(results) < len(inputs):
            raise RuntimeError(
                f"Continuous batching answered {len(results) - len(failed)} of {len(inputs)} requests. "
                f"{'; '.join(failed)}"
            )
        return results

    @staticmethod
    def is_read_by_engine(name: str, value) -> bool:
        """Whether an argument changes nothing, is one of the engine, or is a setting, which was read before."""
        if value is None or (name.endswith("attention_mask") and bool((value == 1).all())):
            return True
        engine = ("input_ids", "record_timestamps", "progress_bar", "persistent_manager", "warmup")
        return hasattr(GenerationConfig(), name) or name in engine


__all__ = ["BatchingEngineMixin", "count_key_positions", "take_paged_cache", "update_paged_cache"]
