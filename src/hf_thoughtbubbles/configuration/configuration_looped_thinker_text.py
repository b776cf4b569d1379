# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The configuration of looped Thinkers that are language models."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .looped_settings import LoopedThinkerSettings


@strict
class LoopedThinkerTextConfig(LoopedThinkerSettings):
    r"""
    The configuration of a [`LoopedThinkerTextModel`]: every token of a text has a latent vector, and one weight-shared
    block is applied to the latents again and again ([`LoopedThinkerForCausalLM`]).

    Args:
        vocab_size (`int`, defaults to 50257):
            Number of token ids; by default those of GPT-2.
        hidden_size (`int`, defaults to 128):
            Width of a latent. Must be a multiple of `num_attention_heads`.
        num_hidden_layers (`int`, defaults to 1):
            Number of layers in the shared block. A state passes `num_unrolled_layers` of them.
        num_attention_heads (`int`, defaults to 4):
            Number of attention heads. The head size `hidden_size / num_attention_heads` must be even.
        intermediate_size (`int`, *optional*):
            Width of the gated feed-forward layer; `4 * hidden_size` by default.
        max_position_embeddings (`int`, defaults to 512):
            Most tokens of a text in training. Longer ones are read with one warning.
        num_steps (`int`, defaults to 8):
            Number of times that the block is applied; a call may ask for more or fewer.
        num_memory_steps (`int`, *optional*):
            Number of past steps in the memory; all by default.
        num_read_steps (`int`, *optional*):
            Number of steps after which the memory no longer contains the input; unlimited by default. The first step
            always attends to it.
        low_rank (`int`, *optional*):
            Rank of the attention projections; full by default, or if not below `hidden_size`.
        skip_self_attention (`bool`, defaults to `False`):
            Whether latents attend to the memory alone, not to each other.
        self_attention_mlp (`bool`, defaults to `False`):
            Whether a feed-forward layer follows self-attention; without effect with `skip_self_attention`.
        exit_threshold (`float`, *optional*):
            Relative change of a token's latent below which the token takes no further step; in evaluation.
        exit_in_training (`bool`, defaults to `False`):
            Whether `exit_threshold` acts in `model.train()` as well, so that it gives the numbers of evaluation: for
            PPO, DPO, GRPO and the like, which compare likelihoods of generated text.
        rope_parameters (`dict`, *optional*):
            Rotary settings in transformers' form, with any of its scalings.
        rms_norm_eps (`float`, defaults to 1e-6):
            Epsilon of the norms.
        initializer_range (`float`, *optional*):
            Standard deviation of the initial weights; `1 / sqrt(hidden_size)` by default, so that scaled embeddings
            and their projections start with variance 1.
        use_cache (`bool`, defaults to `True`):
            Whether to return keys and values.
        pad_token_id (`int`, *optional*), bos_token_id (`int`, *optional*), eos_token_id (`int`, *optional*):
            Special token ids.
        tie_word_embeddings (`bool`, defaults to `True`):
            Whether the output matrix is the embedding matrix.

    Raises:
        `StrictDataclassClassValidationError`: when numbers contradict each other; names the field, what was passed
            and what is allowed.

    Example:

    >>> from hf_thoughtbubbles import LoopedThinkerTextConfig
    >>> LoopedThinkerTextConfig(num_hidden_layers=2, num_steps=6).num_unrolled_layers
    12
    """

    model_type = "looped_thinker_text"
    family_summary = "one block of layers with shared weights, applied again and again to a latent for each token"
    keys_to_ignore_at_inference = ["past_key_values", "cache", "latents", "step_logits", "num_steps_used"]

    exit_threshold: float | int | None = None
    exit_in_training: bool = False
    is_encoder_decoder: Literal[False] = False

    @property
    def num_cache_slots(self) -> int:
        """Number of pairs of keys and values that a text stores: for each step and layer one for each attention."""
        return self.num_unrolled_layers * (1 if self.skip_self_attention else 2)

    def validate_scales(self):
        """Part of `@strict`-powered validation: scales are positive."""
        super().validate_scales()
        if self.exit_threshold is not None and not 0 <= self.exit_threshold < float("inf"):
            raise ValueError(f"`exit_threshold` is {self.exit_threshold}; it must be finite and at least 0, or None.")


__all__ = ["LoopedThinkerTextConfig"]
