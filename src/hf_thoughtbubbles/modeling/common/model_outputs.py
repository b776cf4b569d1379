# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""transformers' output classes with the KV cache under one name, `past_key_values`, in all versions."""

from dataclasses import dataclass

from transformers import modeling_outputs

from .cache_names import alias_cache_field


@alias_cache_field
@dataclass
class BaseModelOutputWithPast(modeling_outputs.BaseModelOutputWithPast):
    """The base model's output: `last_hidden_state` `(B, T, D)`, one row for each input id."""


@alias_cache_field
@dataclass
class CausalLMOutputWithPast(modeling_outputs.CausalLMOutputWithPast):
    """The language model's output: `loss` in nats, `logits` `(B, T, V)`."""


__all__ = ["BaseModelOutputWithPast", "CausalLMOutputWithPast"]
