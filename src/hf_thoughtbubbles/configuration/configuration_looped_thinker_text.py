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
            Width of a latent.
        num_hidden_layers (`int`, defaults to 1):
            Number of layers in the shared block. A state passes `num_unrolled_layers` of them.
        num_attention_heads (`int`, defaults to 4):
            Number of heads of queries.
        num_key_value_heads (`int`, *optional*):
            Number of heads of keys and values, a divisor of `num_attention_heads`, its default.
        head_dim (`int`, *optional*):
            Number of channels of a head; `hidden_size / num_attention_heads` by default. Must be even for rotary
            positions.
        intermediate_size (`int`, *optional*):
            Width of the feed-forward layers; `4 * hidden_size` by default.
        feed_forward (`str`, defaults to `"swiglu"`):
            `"swiglu"` multiplies a SiLU gate in and ignores `hidden_act`; `"mlp"` widens, activates and narrows.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the `"mlp"`; any name of transformers' `ACT2FN`.
        attention_normalization, mlp_normalization, final_normalization (`str`, defaults to `"rms_norm"`):
            Norm before attention, before feed-forward layers and before the output: `"rms_norm"` or `"layer_norm"`.
        rms_norm_eps (`float`, defaults to 1e-6), layer_norm_eps (`float`, defaults to 1e-5):
            Epsilons of the norms.
        attention_bias (`bool` or `"qkv"`, defaults to `False`):
            Whether the projections of attention have biases, with the layer norms before attention. `"qkv"`: those to
            queries, keys and values have, that of the output has none.
        mlp_bias (`bool`, defaults to `False`):
            Whether feed-forward layers have biases, with the layer norms before them and the final one.
        use_qk_norm (`bool`, defaults to `False`):
            Whether each head of queries and keys passes an RMS norm before it is rotated.
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
            Rank of the attention projections; full by default, or where it is not below both widths of a projection.
        skip_self_attention (`bool`, defaults to `False`):
            Whether latents attend to the memory alone, not to each other.
        self_attention_mlp (`bool`, defaults to `False`):
            Whether a feed-forward layer follows self-attention; without effect with `skip_self_attention`.
        exit_threshold (`float`, *optional*):
            Relative change of a token's latent below which the token takes no further step; in evaluation.
        exit_in_training (`bool`, defaults to `False`):
            Whether `exit_threshold` acts in `model.train()` as well, so that it gives the numbers of evaluation: for
            PPO, DPO, GRPO and the like, which compare likelihoods of generated text.
        position_embedding (`str`, defaults to `"rope"`):
            `"rope"` rotates queries and keys of all attention; `"learned"` adds a table of `max_position_embeddings`
            vectors to the embeddings.
        rope_parameters (`dict`, *optional*):
            Rotary settings in transformers' form, for `"rope"` alone.
        scale_embeddings (`bool`, defaults to `True`):
            Whether embeddings are multiplied by `sqrt(hidden_size)`, as in the published form.
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

    position_embedding: Literal["rope", "learned"] = "rope"
    scale_embeddings: bool = True
    exit_threshold: float | int | None = None
    exit_in_training: bool = False
    is_encoder_decoder: Literal[False] = False

    @property
    def unrotated_by(self) -> str | None:
        """The setting by which no attention rotates queries and keys, if there is one."""
        return None if self.position_embedding == "rope" else f'position_embedding="{self.position_embedding}"'

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
