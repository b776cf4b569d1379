# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Outputs of Thoughtbubbles.

Shapes: B batch, T tokens, S streams, N heads, D hidden, V vocabulary.
"""

from dataclasses import dataclass

from ..common.cache_names import alias_cache_field
from ..common.model_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from .forking import ThoughtbubblesForkOutput
from .streams import ThoughtbubblesStreams


@alias_cache_field
@dataclass
class ThoughtbubblesModelOutput(BaseModelOutputWithPast):
    """
    The base model's output.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, T, D)`): folded, normalised state of each token.
        past_key_values (`Cache`, *optional*): keys and values; not when the fork rule is not causal.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): the streams entering each layer, `(B, S, D)` with S
            growing at fork layers, then `last_hidden_state`.
        attentions (`tuple(torch.FloatTensor)`, *optional*): attention weights of each layer, `(B, N, S, S)`.
        forks (`tuple(ThoughtbubblesForkOutput)`, *optional*): one entry per fork layer, with `output_forks=True`.
        streams (`ThoughtbubblesStreams`, *optional*): the last streams, with `output_streams=True`.
    """

    forks: tuple[ThoughtbubblesForkOutput, ...] | None = None
    streams: ThoughtbubblesStreams | None = None


@alias_cache_field
@dataclass
class ThoughtbubblesCausalLMOutput(CausalLMOutputWithPast):
    """
    The language model's output.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): next-token cross entropy in nats, with `labels`.
        logits (`torch.FloatTensor` of shape `(B, T, V)`): with `fold="probability"` natural-log probabilities.
        past_key_values (`Cache`, *optional*): keys and values; not when the fork rule is not causal.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): see [`ThoughtbubblesModelOutput`]; with
            `fold="probability"` the last entry has the normalised streams, `(B, S, D)`, that the head reads.
        attentions (`tuple(torch.FloatTensor)`, *optional*): see [`ThoughtbubblesModelOutput`].
        forks (`tuple(ThoughtbubblesForkOutput)`, *optional*): one entry per fork layer, with `output_forks=True`.
    """

    forks: tuple[ThoughtbubblesForkOutput, ...] | None = None


__all__ = ["ThoughtbubblesCausalLMOutput", "ThoughtbubblesModelOutput"]
