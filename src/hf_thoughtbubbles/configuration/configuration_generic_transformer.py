# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The configuration of generic transformers."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.modeling_rope_utils import RopeParameters

from .family_config import FamilyConfig
from .layer_settings import Normalization, check_key_value_heads, check_layers
from .parallel_plans import plan_stack
from .rope_settings import check_rope_parameters
from .size_settings import check_counts, check_heads, check_rotary_heads


@strict
class GenericTransformerConfig(FamilyConfig):
    r"""
    The configuration of a generic transformer, with all options of the core of the tiny-models library
    (docs/reference_behaviour.md, "Generic transformer").

    Args:
        vocab_size (`int`, defaults to 50257):
            Number of token ids.
        hidden_size (`int`, defaults to 512):
            Width of the residual stream. Must be a multiple of `num_attention_heads`.
        num_hidden_layers (`int`, defaults to 8):
            Number of layers.
        num_attention_heads (`int`, defaults to 8):
            Number of query heads. With rotary positions the head size must be even.
        num_key_value_heads (`int`, *optional*):
            Number of heads of keys and values, a divisor of `num_attention_heads`, its default. The original calls the
            quotient `group_size`.
        intermediate_size (`int`, *optional*):
            Width of the feed-forward layer (default: `4 * hidden_size`).
        feed_forward (`str`, defaults to `"mlp"`):
            `"mlp"` widens, activates and narrows; `"swiglu"` multiplies a SiLU gate in and ignores `hidden_act`.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the `"mlp"`: `"gelu"` (exact), `"relu"`, `"leaky_relu"` (slope 0.01), `"tanh"`, `"sigmoid"`,
            `"silu"`, `"none"`, or `"learned"`, a small trainable curve that all layers of a model share.
        share_feed_forward (`bool`, defaults to `False`):
            Whether all layers use the weights of one feed-forward layer; their norms stay their own.
        attention_normalization, mlp_normalization, final_normalization (`str`, defaults to `"rms_norm"`):
            Norm before attention, before the feed-forward layer and before the output: `"rms_norm"`, `"layer_norm"` or
            `"none"`.
        rms_norm_eps (`float`, defaults to 1e-6), layer_norm_eps (`float`, defaults to 1e-5):
            Epsilons of the norms.
        attention_bias, mlp_bias, head_bias (`bool`, defaults to `False`):
            Whether attention, feed-forward layers and the output have biases, with their layer norms.
        position_embedding (`str`, defaults to `"rope"`):
            `"rope"` rotates neighbouring channels of queries and keys; `"relative"` adds a learned vector for the
            distance, up to `max_relative_position`, to the keys (Shaw et al. 2018); `"learned"` and `"sinusoidal"` add
            a vector to the embeddings; `"none"`.
        max_position_embeddings (`int`, defaults to 512):
            Most tokens of a text in training. Longer texts are read with one warning, unless positions are learned.
        max_relative_position (`int`, defaults to 32):
            Distance from which `"relative"` positions share one vector.
        rope_parameters (`dict`, *optional*):
            Rotary settings in transformers' form, with any of its scalings, for `"rope"` alone; the reference uses
            `rope_theta` 10000.
        is_causal (`bool`, defaults to `True`):
            Whether a token attends only to itself and earlier tokens.
        embedding_dropout, attention_dropout, hidden_dropout (`float`, defaults to 0.0):
            Dropout of the embeddings, of attention probabilities, and of the outputs of attention and feed-forward
            layers.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights.
        use_cache (`bool`, defaults to `True`):
            Whether to return keys and values by default.
        pad_token_id, bos_token_id, eos_token_id (`int`, *optional*):
            Special token ids.
        tie_word_embeddings (`bool`, defaults to `True`):
            Whether the output matrix is the embedding matrix.

    Raises:
        `StrictDataclassClassValidationError`: when fields contradict each other; names the field, its value and what
            is allowed.

    Example:

    >>> from hf_thoughtbubbles import GenericTransformerConfig
    >>> GenericTransformerConfig(num_attention_heads=8, num_key_value_heads=2).head_dim
    64
    """

    model_type = "generic_transformer"
    family_summary = "a plain transformer whose parts are options of its configuration"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]
    # FSDP2 gathers each layer by itself, and modules that layers share with the rest of the model.
    base_model_fsdp_plan = {
        "embed_tokens": "free_full_weight",
        "core.layers.*": "free_full_weight",
        "norm": "keep_full_weight",
    }

    vocab_size: int = 50257
    hidden_size: int = 512
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    intermediate_size: int | None = None
    feed_forward: Literal["mlp", "swiglu"] = "mlp"
    hidden_act: str = "gelu"
    share_feed_forward: bool = False
    attention_normalization: Normalization = "rms_norm"
    mlp_normalization: Normalization = "rms_norm"
    final_normalization: Normalization = "rms_norm"
    rms_norm_eps: float | int = 1e-6
    layer_norm_eps: float | int = 1e-5
    attention_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    position_embedding: Literal["learned", "sinusoidal", "rope", "relative", "none"] = "rope"
    max_position_embeddings: int = 512
    max_relative_position: int = 32
    rope_parameters: RopeParameters | dict | None = None
    is_causal: bool = True
    embedding_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    initializer_range: float | int = 0.02
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        self.validate_sizes()  # before rotary settings are derived from them
        super().__post_init__(**kwargs)

    @property
    def base_model_tp_plan(self) -> dict[str, str]:  # type: ignore[override]  # transformers has a class attribute
        """Heads and feed-forward channels are split over processes."""
        return plan_stack(self, "core")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_attention_heads

    def validate_sizes(self):
        """Part of `@strict`-powered validation: sizes are positive and the heads divide the width evenly."""
        names = (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "intermediate_size",
            "max_position_embeddings",
            "max_relative_position",
        )
        check_counts(self, names)
        check_heads(self)
        check_key_value_heads(self)
        if self.position_embedding == "rope":
            check_rotary_heads(self)

    def validate_activation(self):
        """Part of `@strict`-powered validation: a known activation, and scales in range."""
        check_layers(self, "embedding_dropout", "attention_dropout", "hidden_dropout")

    def validate_rope(self):
        """Part of `@strict`-powered validation: only rotary settings with an effect."""
        is_rotary = self.position_embedding == "rope"
        check_rope_parameters(self, None if is_rotary else f'position_embedding="{self.position_embedding}"')


__all__ = ["GenericTransformerConfig"]
