# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Models for the tests of other tools: a tiny model of each family that reads bytes and generates letters."""

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_thoughtbubbles import BytePatchConfig, BytePatchForCausalLM, build_byte_tokenizer, set_chat_template
from tests.families import BYTE_PATCH_SIZES, Family, make_config, make_generic, make_thinker


BYTES = {"vocab_size": 259, "pad_token_id": 258, "eos_token_id": 257, "max_position_embeddings": 151}
# Models with random weights generate bytes that are no text; letters are the same in every tool.
NO_LETTERS = [token_id for token_id in range(BYTES["vocab_size"]) if not ord("a") <= token_id <= ord("z")]


def make_byte_patch(name: str = "byte-patch", **changes) -> Family:
    """A byte-patch model of tiny, distinct sizes."""
    sizes = {**BYTE_PATCH_SIZES, "initializer_range": 0.3}
    return Family(name, BytePatchConfig(**{**BYTES, **sizes, **changes}), model_class=BytePatchForCausalLM)


CAUSAL = [
    Family("topk", make_config(**BYTES), is_causal=False, has_cache=False),
    Family("threshold", make_config(fork_rule="threshold", **BYTES)),
    make_thinker("thinker", **BYTES),
    make_generic("generic", **BYTES),
    make_byte_patch(),
]


def build(family) -> PreTrainedModel:
    """The model, whose text is letters."""
    model = family.build()
    model.generation_config.suppress_tokens = NO_LETTERS
    return model


def build_chat_tokenizer() -> PreTrainedTokenizerFast:
    """A byte tokenizer with a chat template, for a model in `CAUSAL`."""
    tokenizer = build_byte_tokenizer(model_max_length=BYTES["max_position_embeddings"])
    tokenizer.padding_side = "left"
    return set_chat_template(tokenizer)
