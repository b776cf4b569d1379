# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Continuous batching: the text of `generate` where a token has one key in every layer, an error everywhere else."""

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS, draw_ids


LENGTHS = (9, 4, 17, 1, 12)
GREEDY = {"do_sample": False, "max_new_tokens": 9, "eos_token_id": 60, "pad_token_id": 0}
BATCHED = [family for family in FAMILIES if family.name.startswith(("gpt", "generic")) and family.has_cache]
REFUSED = [*(family for family in FAMILIES if family not in BATCHED), *ANSWERERS, *BYTE_VARIANTS, *THOUGHT_VARIANTS]


def make_pool(num_blocks: int = 32, max_batch_tokens: int = 64, page_size: int = 4) -> ContinuousBatchingConfig:
    """A pool of blocks, which without sizes takes all memory."""
    return ContinuousBatchingConfig(num_blocks=num_blocks, max_batch_tokens=max_batch_tokens, page_size=page_size)


def draw_prompts() -> list[list[int]]:
    return [draw_ids(length).tolist() for length in LENGTHS]


def write_each(model, prompts: list[list[int]], **settings) -> list[list[int]]:
    """What `generate` writes to each prompt alone, up to the end of sequence."""
    return [model.generate(torch.tensor([ids]), **settings)[0, len(ids) :].tolist() for ids in prompts]


def write_batched(model, prompts: list[list[int]], pool=None, **settings) -> list[list[int]]:
    """What the engine writes."""
    config = GenerationConfig(**settings)
    results = model.generate_batch(prompts, config, continuous_batching_config=pool or make_pool())
    return [result.generated_tokens for result in results.values()]


def by(families):
    return pytest.mark.parametrize("family", families, ids=lambda family: family.name)


@by(BATCHED)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_generate_batch_writes_what_generate_writes(family, attention):
    model, prompts = family.build(), draw_prompts()
    model.set_attn_implementation(attention)
    expected = write_each(model, prompts, **GREEDY)
    assert len({token for text in expected for token in text}) > 4, "so that a lost context would show"
    assert write_batched(model, prompts, **GREEDY) == expected
    assert model.config._attn_implementation == attention
