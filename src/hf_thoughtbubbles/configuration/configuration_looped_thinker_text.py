# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The configuration of looped Thinkers that are language models."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .looped_settings import LoopedThinkerSettings
from .parallel_plans import plan_attention, plan_feed_forward


# What layers without a memory do not have.
WITHOUT_MEMORY = ("skip_self_attention", "self_attention_mlp", "num_memory_steps", "num_read_steps")


@strict
class LoopedThinkerTextConfig(LoopedThinkerSettings):
    r"""
    The configuration of a [`LoopedThinkerTextModel`]: every token of a text has a latent vector, and one weight-shared
    block is applied to the latents again and again ([`LoopedThinkerForCausalLM`]).

    The defaults are the published form. `skip_cross_attention=True` and `input_injection="adapter"` make a loop over
    plain decoder layers, which with one step is the native decoder of the same layers.

    Args:
        vocab_size (`int`, defaults to 50257):
            Number of token ids; by default those of GPT-2.
        hidden_size (`int`, defaults to 128):
            Width of a latent.
        num_hidden_layers (`int`, defaults to 1):
            Number of layers in the shared block. A state passes `num_unrolled_layers`.
        num_prelude_layers, num_coda_layers (`int`, defaults to 0):
            Number of plain decoder layers before and after the loop, with weights of their own.
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
            Most tokens of a text in training. Longer ones are read with one warning, but refused with
            `position_embedding="learned"`.
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
        skip_cross_attention (`bool`, defaults to `False`):
            Whether the layers of the block are plain decoder layers: self-attention and a feed-forward layer, without
            a memory.
        self_attention_mlp (`bool`, defaults to `False`):
            Whether a feed-forward layer follows self-attention; without effect with `skip_self_attention`.
        input_injection (`str`, defaults to `"add"`):
            What a step after the first reads, from the input e of the loop and the latent h of the step before.
            `"add"`: the published form e + h, where h is normalised after each step. `"adapter"`: A [h, e], where the
            matrix A starts as [identity, 0]; h is not normalised, and the final norm comes after the coda.
        exit_threshold (`float`, *optional*):
            Relative change of a token's latent below which the token takes no further step; in evaluation.
        exit_in_training (`bool`, defaults to `False`):
            Whether `exit_threshold` acts in `model.train()` as well, so that it gives the numbers of evaluation: for
            PPO, DPO, GRPO and the like, which compare likelihoods of generated text.
        position_embedding (`str`, defaults to `"rope"`):
            `"rope"` rotates queries and keys of all attention; `"learned"` adds a table of `max_position_embeddings`
            vectors to the embeddings.
        rope_parameters (`dict`, *optional*):
            Rotary settings in transformers' form, with any of its scalings, for `"rope"` alone.
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
        native_config (`dict`, *optional*):
            Configuration of the native model that this one was converted from, if it was.

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
    keys_to_ignore_at_inference = ["past_key_values", "cache", "latents", "step_hidden_states", "step_logits"]
    keys_to_ignore_at_inference += ["num_steps_used"]

    position_embedding: Literal["rope", "learned"] = "rope"
    scale_embeddings: bool = True
    num_prelude_layers: int = 0
    num_coda_layers: int = 0
    skip_cross_attention: bool = False
    input_injection: Literal["add", "adapter"] = "add"
    exit_threshold: float | int | None = None
    exit_in_training: bool = False
    native_config: dict | None = None
    is_encoder_decoder: Literal[False] = False

    @property
    def unrotated_by(self) -> str | None:
        """The setting by which no attention rotates queries and keys, if there is one."""
        return None if self.position_embedding == "rope" else f'position_embedding="{self.position_embedding}"'

    @property
    def base_model_fsdp_plan(self) -> dict[str, str]:  # type: ignore[override]  # transformers has a class attribute
        """As for all looped Thinkers; layers that are not in the loop are gathered one by one."""
        counts = {"prelude": self.num_prelude_layers, "coda": self.num_coda_layers}
        plain = {f"{name}.*": "free_full_weight" for name, count in counts.items() if count > 0}
        return {**super().base_model_fsdp_plan, **plain}

    @property
    def base_model_tp_plan(self) -> dict[str, str]:  # type: ignore[override]  # transformers has a class attribute
        """As for all looped Thinkers; layers that are not in the loop are split likewise."""
        rules = super().base_model_tp_plan
        if self.skip_cross_attention:
            rules = {name: style for name, style in rules.items() if ".cross_attn." not in name}
        counts = {"prelude": self.num_prelude_layers, "coda": self.num_coda_layers}
        for name in (f"{name}.*" for name, count in counts.items() if count > 0):
            rules |= plan_attention(self, f"{name}.self_attn") | plan_feed_forward(self, f"{name}.mlp")
        return rules

    @property
    def num_plain_layers(self) -> int:
        """Number of layers before and after the loop."""
        return self.num_prelude_layers + self.num_coda_layers

    @property
    def num_unrolled_layers(self) -> int:
        """Number of layers that a state passes: those of the block once for each step, and those around the loop."""
        return self.num_plain_layers + self.num_hidden_layers * self.num_steps

    @property
    def num_step_slots(self) -> int:
        """Number of pairs of keys and values that a step stores: for each layer one for each attention."""
        return self.num_hidden_layers * (2 - self.skip_self_attention - self.skip_cross_attention)

    def count_cache_slots(self, num_steps: int) -> int:
        """Number of pairs of keys and values that a text stores in so many steps."""
        return self.num_plain_layers + num_steps * self.num_step_slots

    @property
    def num_cache_slots(self) -> int:
        """Number of pairs of keys and values that a text stores, see `cache_steps.py`."""
        return self.count_cache_slots(self.num_steps)

    @property
    def thinking_summary(self) -> str:
        """How often the block is applied, in words, for model cards."""
        early = " A token stops earlier when its latent has settled." if self.exit_threshold is not None else ""
        return (
            f"A block of {self.num_hidden_layers} layers is applied {self.num_steps} times to every token; "
            f"`generate(num_steps=...)` changes this.{early}"
        )

    def validate_sizes(self):
        """Part of `@strict`-powered validation: also, plain layers have nothing that belongs to a memory."""
        super().validate_sizes()
        for name in ("num_prelude_layers", "num_coda_layers"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be at least 0.")
        for name in WITHOUT_MEMORY if self.skip_cross_attention else ():
            if getattr(self, name) not in (None, False):
                raise ValueError(
                    f"`{name}={getattr(self, name)}` was passed with `skip_cross_attention=True`, whose layers have "
                    f"self-attention and one feed-forward layer, without a memory. Remove `{name}`."
                )

    def validate_scales(self):
        """Part of `@strict`-powered validation: scales are positive."""
        super().validate_scales()
        if self.exit_threshold is not None and not 0 <= self.exit_threshold < float("inf"):
            raise ValueError(f"`exit_threshold` is {self.exit_threshold}; it must be finite and at least 0, or None.")


__all__ = ["LoopedThinkerTextConfig"]
