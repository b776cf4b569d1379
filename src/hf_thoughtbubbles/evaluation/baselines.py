# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Which native model is a fair one to compare with?"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel


def matched_baseline(model: PreTrainedModel) -> GPT2LMHeadModel:
    """
    A native GPT-2 with the width, depth, heads, context and dropouts of a model and as many parameters.

    Learned positions cost parameters that rotary ones do not; the feed-forward layers give them back. The depth of a
    looped model is that of its shared block, not of its steps, which cost no parameters.

    Args:
        model (`PreTrainedModel`): one of ours, or any model whose configuration uses transformers' common names.

    Returns:
        `GPT2LMHeadModel`, freshly initialised, whose parameter count differs from `model.num_parameters()` by at most
        `num_hidden_layers * (2 * hidden_size + 1) / 2`.
    """
    config = model.config
    dropout = getattr(config, "hidden_dropout", 0.0)

    def build(intermediate_size: int) -> GPT2Config:
        return GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_position_embeddings,
            n_embd=config.hidden_size,
            n_layer=config.num_hidden_layers,
            n_head=config.num_attention_heads,
            n_inner=intermediate_size,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )

    with torch.device("meta"):
        surplus = GPT2LMHeadModel(build(config.intermediate_size)).num_parameters() - model.num_parameters()
    parameters_per_channel = config.num_hidden_layers * (2 * config.hidden_size + 1)
    baseline = GPT2LMHeadModel(build(config.intermediate_size - round(surplus / parameters_per_channel)))
    baseline.loss_type = "ForCausalLM"  # transformers derives it from the class name and warns about this one
    return baseline


__all__ = ["matched_baseline"]
