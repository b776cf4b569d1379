# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Outputs of looped Thinkers that answer problems.

Shapes: B batch, L latents, R steps, S kept steps, A answer positions, M memory entries, D hidden, V vocabulary.
"""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions, Seq2SeqLMOutput

from ..common.cache_names import alias_cache_field


@dataclass
class LoopedThinkerEncoderOutput(BaseModelOutput):
    """
    The result of thinking about a problem.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, M, D)`): the memory that the answer is read from: the
            input (if it is still in the memory), static memories, latents of steps.
        memory_mask (`torch.LongTensor` of shape `(B, M)`, *optional*): 0 for entries that are padding of the input.
        latents (`torch.FloatTensor` of shape `(B, R, L, D)`): the latents after each step.
        answer_logits (`torch.FloatTensor` of shape `(B, A, V)`, *optional*): a parallel answer, once it is read out.
    """

    memory_mask: torch.LongTensor | None = None
    latents: torch.FloatTensor | None = None
    answer_logits: torch.FloatTensor | None = None


@alias_cache_field
@dataclass
class LoopedThinkerModelOutput(BaseModelOutputWithPastAndCrossAttentions):
    """
    The base model's output.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, A, D)`): the state of each answer position.
        past_key_values (`EncoderDecoderCache`, *optional*): keys and values of the answer and of the memory.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): the input of the first layer, then the output of each
            application of a layer, in order; thinking before reading out.
        attentions (`tuple(torch.FloatTensor)`, *optional*): self-attention weights in the same order; empty with
            `skip_self_attention`.
        cross_attentions (`tuple(torch.FloatTensor)`, *optional*): weights over the memory in the same order.
        encoder_last_hidden_state (`torch.FloatTensor` of shape `(B, M, D)`): the memory.
        latents (`torch.FloatTensor` of shape `(B, R, L, D)`, *optional*): after each step, with `output_steps=True`.
        step_hidden_states (`torch.FloatTensor` of shape `(B, S, A, D)`): answer states of the kept steps.
        loop_hidden_states (`torch.FloatTensor` of shape `(B, R, A, D)`, *optional*): states of the answer stream that
            passes every step, with `loop_decoder=True`.
    """

    encoder_last_hidden_state: torch.FloatTensor | None = None
    latents: torch.FloatTensor | None = None
    step_hidden_states: torch.FloatTensor | None = None
    loop_hidden_states: torch.FloatTensor | None = None


@alias_cache_field
@dataclass
class LoopedThinkerSeq2SeqLMOutput(Seq2SeqLMOutput):
    """
    The output of a model that answers problems.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): cross entropy of the answer in nats, averaged over the
            kept steps, plus that of the answer stream and the probes' squared error; with `labels`.
        logits (`torch.FloatTensor` of shape `(B, A, V)`): after the last step.
        past_key_values (`EncoderDecoderCache`, *optional*): keys and values of the answer and of the memory.
        decoder_hidden_states, decoder_attentions, cross_attentions (`tuple(torch.FloatTensor)`, *optional*): see
            `hidden_states`, `attentions`, `cross_attentions` of [`LoopedThinkerModelOutput`].
        encoder_last_hidden_state (`torch.FloatTensor` of shape `(B, M, D)`): the memory.
        latents (`torch.FloatTensor` of shape `(B, R, L, D)`, *optional*): with `output_steps=True`.
        probes (`torch.FloatTensor` of shape `(B, A, num_probes)`, *optional*): predictions of the probes.
        step_hidden_states (`torch.FloatTensor` of shape `(B, S, A, D)`, *optional*): with `output_steps=True`.
        step_logits (`torch.FloatTensor` of shape `(B, S, A, V)`, *optional*): with `output_steps=True`.
        step_probes (`torch.FloatTensor` of shape `(B, S, A, num_probes)`, *optional*): with `output_steps=True`.
        loop_hidden_states, loop_logits, loop_probes (`torch.FloatTensor` of shape `(B, R, A, .)`, *optional*): of the
            answer stream that passes every step, with `loop_decoder=True`.
    """

    latents: torch.FloatTensor | None = None
    probes: torch.FloatTensor | None = None
    step_hidden_states: torch.FloatTensor | None = None
    step_logits: torch.FloatTensor | None = None
    step_probes: torch.FloatTensor | None = None
    loop_hidden_states: torch.FloatTensor | None = None
    loop_logits: torch.FloatTensor | None = None
    loop_probes: torch.FloatTensor | None = None


__all__ = ["LoopedThinkerEncoderOutput", "LoopedThinkerModelOutput", "LoopedThinkerSeq2SeqLMOutput"]
