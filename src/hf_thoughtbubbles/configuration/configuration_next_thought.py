# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The configuration of next-thought models."""

from dataclasses import field
from typing import Literal

from huggingface_hub.dataclasses import strict

from .family_config import FamilyConfig
from .layer_settings import Normalization, check_key_value_heads, check_layers
from .parallel_plans import plan_stack
from .size_settings import check_counts, check_heads


HEAD_COUNTS = (
    "encoder_attention_heads",
    "encoder_key_value_heads",
    "decoder_attention_heads",
    "decoder_key_value_heads",
)
COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_pooling_heads",
    "num_encoder_layers",
    "num_decoder_layers",
    *HEAD_COUNTS,
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "num_latent_tokens",
    "num_thoughts",
    "max_position_embeddings",
)


@strict
class NextThoughtConfig(FamilyConfig):
    r"""
    The configuration of a [`NextThoughtModel`]: a thought (a line or a sentence) is pooled to one vector, a core
    predicts the vector of the next thought, and a decoder writes it out (docs/reference_behaviour.md, "Next-thought
    models").

    Args:
        vocab_size (`int`, defaults to 50257):
            Number of token ids.
        hidden_size (`int`, defaults to 384):
            Width of a token in the decoder, and in the encoder before its first pooling layer.
        pooling_sizes (`list[int]`, defaults to `[768, 1200]`):
            Width of a token after each pooling layer; the last is the width of a thought, `latent_size`. The
            original's `pooling_dims` are `hidden_size` and these.
        removed_shares (`list[float]`, defaults to `[0.3, 0.5]`):
            Share of the tokens that each pooling layer removes, from 0 to below 1. The original calls it
            `pct_pool_per_layer`.
        num_pooling_heads (`int`, defaults to 12):
            Heads of the pooling layers; divides the input width of each of them.
        num_encoder_layers (`int`, defaults to 1), num_decoder_layers (`int`, defaults to 4):
            Number of layers before pooling, and of the decoder.
        encoder_attention_heads, decoder_attention_heads (`int`, defaults to 12):
            Number of query heads of these layers.
        encoder_key_value_heads, decoder_key_value_heads (`int`, *optional*):
            Number of heads of keys and values, divisors of the query heads, their default.
        encoder_ffn_dim, decoder_ffn_dim (`int`, *optional*):
            Widths of the feed-forward layers (default: `4 * hidden_size`).
        feed_forward (`str`, defaults to `"swiglu"`):
            `"mlp"` widens, activates and narrows; `"swiglu"` multiplies a SiLU gate in and ignores `hidden_act`.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the `"mlp"`, see [`GenericTransformerConfig`].
        attention_normalization, mlp_normalization (`str`, defaults to `"rms_norm"`):
            Norm before attention and before the feed-forward layer: `"rms_norm"`, `"layer_norm"` or `"none"`.
        attention_bias, mlp_bias (`bool`, defaults to `False`):
            Whether attention and feed-forward layers, with their layer norms, have biases. Pooling layers and the core
            always have them.
        rms_norm_eps (`float`, defaults to 1e-6), layer_norm_eps (`float`, defaults to 1e-5):
            Epsilons of the norms.
        core (`str`, defaults to `"mlp"`):
            The core, which predicts the next thought: `"mlp"`, two layers with a ReLU between them, or
            `"block_linear"`, which multiplies blocks of neighbouring channels with one matrix, without any activation
            (the original calls it a convolution).
        core_block_sizes (`list[int]`, defaults to `[30, 300, 3]`):
            Channels in a block of each `"block_linear"` layer; each divides `latent_size`.
        num_latent_tokens (`int`, defaults to 16):
            Number of latent tokens that a thought becomes; they precede the text in the decoder. The original calls it
            `latent_decoded_into`.
        num_thoughts (`int`, defaults to 1):
            Number of applications of the core; any call may ask for more.
        position_embedding (`str`, defaults to `"learned"`):
            `"learned"` and `"sinusoidal"` add a vector to the embeddings, the same in encoder and decoder; `"none"`.
        max_position_embeddings (`int`, defaults to 512):
            Most tokens of a thought in training. Longer ones are read with one warning, unless positions are learned.
        dropout (`float`, defaults to 0.0):
            Dropout of embeddings, and of the outputs of attention, feed-forward and pooling layers.
        initializer_range (`float`, *optional*):
            Standard deviation of the initial weights (default: `1 / sqrt(hidden_size)`). With much smaller weights the
            tokens dominate the predicted thought, and models learn to write without reading.
        use_cache (`bool`, defaults to `True`):
            Whether to return keys and values by default.
        pad_token_id, bos_token_id, eos_token_id (`int`, *optional*):
            Special token ids.
        decoder_start_token_id (`int`, *optional*):
            Id of the token before the next thought (default: `pad_token_id`).
        tie_word_embeddings (`bool`, defaults to `False`):
            Whether the output matrix is the embedding matrix.

    Raises:
        `StrictDataclassClassValidationError`: when fields contradict each other; names the field, its value and what
            is allowed.

    Example:

    >>> from hf_thoughtbubbles import NextThoughtConfig
    >>> config = NextThoughtConfig(removed_shares=[0.3, 0.5])
    >>> config.latent_size, config.count_kept_tokens(10), config.min_tokens
    (1200, [7, 3], 3)
    """

    model_type = "next_thought"
    family_summary = "a thought is pooled to one vector, the vector of the next is predicted and written out"
    keys_to_ignore_at_inference = [
        "past_key_values",
        "cache",
        "encoder_last_hidden_state",
        "thought",
        "thoughts",
        "pooling",
    ]
    # FSDP2 gathers each layer by itself and the rest together.
    base_model_fsdp_plan = {
        "embed_tokens": "free_full_weight",
        "encoder.stack.layers.*": "free_full_weight",
        "encoder.pooling_layers.*": "free_full_weight",
        "decoder.stack.layers.*": "free_full_weight",
    }
    head_counts = HEAD_COUNTS
    attribute_map = {
        "num_hidden_layers": "num_decoder_layers",
        "num_attention_heads": "decoder_attention_heads",
        "num_key_value_heads": "decoder_key_value_heads",
        "intermediate_size": "decoder_ffn_dim",
    }

    vocab_size: int = 50257
    hidden_size: int = 384
    pooling_sizes: list[int] = field(default_factory=lambda: [768, 1200])
    removed_shares: list[float | int] = field(default_factory=lambda: [0.3, 0.5])
    num_pooling_heads: int = 12
    num_encoder_layers: int = 1
    num_decoder_layers: int = 4
    encoder_attention_heads: int = 12
    encoder_key_value_heads: int | None = None
    encoder_ffn_dim: int | None = None
    decoder_attention_heads: int = 12
    decoder_key_value_heads: int | None = None
    decoder_ffn_dim: int | None = None
    feed_forward: Literal["mlp", "swiglu"] = "swiglu"
    hidden_act: str = "gelu"
    attention_normalization: Normalization = "rms_norm"
    mlp_normalization: Normalization = "rms_norm"
    attention_bias: bool = False
    mlp_bias: bool = False
    rms_norm_eps: float | int = 1e-6
    layer_norm_eps: float | int = 1e-5
    core: Literal["mlp", "block_linear"] = "mlp"
    core_block_sizes: list[int] = field(default_factory=lambda: [30, 300, 3])
    num_latent_tokens: int = 16
    num_thoughts: int = 1
    position_embedding: Literal["learned", "sinusoidal", "none"] = "learned"
    max_position_embeddings: int = 512
    dropout: float | int = 0.0
    initializer_range: float | int | None = None
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        for side in ("encoder", "decoder"):
            if getattr(self, f"{side}_key_value_heads") is None:
                setattr(self, f"{side}_key_value_heads", getattr(self, f"{side}_attention_heads"))
            if getattr(self, f"{side}_ffn_dim") is None:
                setattr(self, f"{side}_ffn_dim", 4 * self.hidden_size)
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.pad_token_id
        self.validate_sizes()  # before anything is derived from them
        if self.initializer_range is None:
            self.initializer_range = self.hidden_size**-0.5
        super().__post_init__(**kwargs)

    @property
    def base_model_tp_plan(self) -> dict[str, str]:  # type: ignore[override]  # transformers has a class attribute
        """The layers of both stacks are split over processes; pooling layers choose by all heads, and are not."""
        views = {side: NextThoughtStackView(self, side) for side in ("encoder", "decoder")}
        return {**plan_stack(views["encoder"], "encoder.stack"), **plan_stack(views["decoder"], "decoder.stack")}

    @property
    def latent_size(self) -> int:
        """Width of a thought."""
        return self.pooling_sizes[-1]

    @property
    def head_dim(self) -> int:
        """Head size of the decoder; transformers sizes static caches by it."""
        return self.hidden_size // self.decoder_attention_heads

    def count_kept_tokens(self, num_tokens: int) -> list[int]:
        """Number of tokens that each pooling layer keeps: the product in double precision, truncated (N9)."""
        counts = []
        for share in self.removed_shares:
            num_tokens = int(num_tokens * (1 - share))
            counts.append(num_tokens)
        return counts

    @property
    def min_tokens(self) -> int:
        """Smallest length of which pooling keeps a token; `max_position_embeddings + 1` when there is none."""
        candidates = range(1, self.max_position_embeddings + 1)
        return next((n for n in candidates if self.count_kept_tokens(n)[-1] > 0), len(candidates) + 1)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> "NextThoughtConfig":
        """Return this configuration; transformers' own method would rename the fields of one side."""
        return self

    def validate_sizes(self):
        """Part of `@strict`-powered validation: sizes are positive and heads divide widths evenly."""
        check_counts(self, COUNTS)
        for side in ("encoder", "decoder"):
            heads, kv_heads = f"{side}_attention_heads", f"{side}_key_value_heads"
            check_heads(self, "hidden_size", heads)
            check_key_value_heads(self, heads, kv_heads)

    def validate_pooling(self):
        """Part of `@strict`-powered validation: every pooling layer has a width, a share and heads that divide."""
        if len(self.pooling_sizes) == 0 or len(self.pooling_sizes) != len(self.removed_shares):
            raise ValueError(
                f"`pooling_sizes` {self.pooling_sizes} and `removed_shares` {self.removed_shares} need one entry for "
                "each pooling layer, and there must be at least one layer."
            )
        if min(self.pooling_sizes) < 1:
            raise ValueError(f"`pooling_sizes` is {self.pooling_sizes}; widths must be at least 1.")
        for share in self.removed_shares:
            if not 0 <= share < 1:
                raise ValueError(f"`removed_shares` holds {share}; a share must be at least 0 and below 1.")
        for width in (self.hidden_size, *self.pooling_sizes[:-1]):
            if width % self.num_pooling_heads != 0:
                raise ValueError(
                    f"`num_pooling_heads` {self.num_pooling_heads} does not divide {width}, the input width of a "
                    "pooling layer (`hidden_size`, then `pooling_sizes` but the last). Change one."
                )
        if self.min_tokens > self.max_position_embeddings:
            raise ValueError(
                f"`removed_shares` {self.removed_shares} leave no token of a thought of `max_position_embeddings` "
                f"{self.max_position_embeddings}. Lower the shares, or raise `max_position_embeddings`."
            )

    def validate_core(self):
        """Part of `@strict`-powered validation: blocks of the core divide a thought evenly."""
        if self.core != "block_linear":
            return
        if len(self.core_block_sizes) == 0 or min(self.core_block_sizes) < 1:
            raise ValueError(f"`core_block_sizes` is {self.core_block_sizes}; give at least one size of at least 1.")
        for size in self.core_block_sizes:
            if self.latent_size % size != 0:
                raise ValueError(
                    f"`core_block_sizes` holds {size}, which does not divide the `latent_size` {self.latent_size} "
                    "(the last of `pooling_sizes`). Change one."
                )

    def validate_activation(self):
        """Part of `@strict`-powered validation: a known activation, and scales in range."""
        check_layers(self, "dropout")


class NextThoughtStackView:
    """
    The fields that the generic layers need, for the encoder or the decoder of one configuration. Both use its
    attention implementation.
    """

    def __init__(self, config: NextThoughtConfig, side: Literal["encoder", "decoder"]):
        self.config = config
        self.hidden_size = config.hidden_size
        self.num_hidden_layers = getattr(config, f"num_{side}_layers")
        self.num_attention_heads = getattr(config, f"{side}_attention_heads")
        self.num_key_value_heads = getattr(config, f"{side}_key_value_heads")
        self.intermediate_size = getattr(config, f"{side}_ffn_dim")
        self.head_dim = config.hidden_size // self.num_attention_heads
        self.feed_forward, self.hidden_act = config.feed_forward, config.hidden_act
        self.attention_normalization = config.attention_normalization
        self.mlp_normalization = config.mlp_normalization
        self.attention_bias, self.mlp_bias = config.attention_bias, config.mlp_bias
        self.rms_norm_eps, self.layer_norm_eps = config.rms_norm_eps, config.layer_norm_eps
        self.embedding_dropout = self.hidden_dropout = config.dropout
        self.attention_dropout = 0.0
        self.is_causal = side == "decoder"
        self.position_embedding = "none"  # positions are added before, once for both sides
        self.share_feed_forward = False

    @property
    def _attn_implementation(self) -> str:
        return self.config._attn_implementation


__all__ = ["NextThoughtConfig", "NextThoughtStackView"]
