# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The configuration of byte-patch models."""

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from .configuration_generic_transformer import GenericTransformerConfig
from .layer_settings import check_key_value_heads
from .parallel_plans import COLUMNS, ROWS, plan_stack
from .rope_settings import check_rope_parameters
from .size_settings import check_counts, check_heads


NUM_BYTES = 256
LONGEST_CHARACTER = 4  # bytes of UTF-8
# What the core has under the prefix `core_`, because bytes have their own.
CORE_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "head_dim",
)
# The projections of a layer over bytes, of whose outputs or inputs a process computes its part.
BYTE_COLUMNS = ("self_attn.q", "self_attn.k", "self_attn.v", "mlp.up")
BYTE_ROWS = ("self_attn.o", "mlp.down")


@strict
class BytePatchConfig(GenericTransformerConfig):
    r"""
    The configuration of a [`BytePatchModel`]: bytes are pooled to patches, a generic transformer (the core) runs over
    the patches, and a byte decoder turns its states back into bytes (docs/reference_behaviour.md, "Byte-level
    models").

    Sizes without a prefix are those of bytes: `hidden_size` is the width of embeddings and of `last_hidden_state`. The
    core's sizes have the prefix `core_`. All other fields of [`GenericTransformerConfig`] describe the core.

    Args:
        vocab_size (`int`, defaults to 259):
            Number of ids: the 256 bytes, then special tokens; at least 256.
        max_position_embeddings (`int`, defaults to 2048):
            Most bytes of a text in training, and so most patches, which have the core's positions. Longer texts are
            read with one warning, unless positions are learned.
        hidden_size (`int`, defaults to 128):
            Width of a byte; a multiple of `num_attention_heads`.
        num_hidden_layers (`int`, defaults to 4):
            Layers of the byte decoder; the original has 7.
        num_attention_heads (`int`, defaults to 8):
            Heads of the layers over bytes. Keys and values have as many.
        intermediate_size (`int`, *optional*):
            Width of the feed-forward layers over bytes; `4 * hidden_size` when not given. Published layers of twice
            the width have twice as much.
        encoder_num_hidden_layers (`int`, defaults to 2):
            Layers over bytes before they are pooled; the original has 4.
        core_hidden_size (`int`, defaults to 512):
            Width of a patch in the core; a multiple of `core_num_attention_heads`.
        core_num_hidden_layers (`int`, defaults to 8):
            Layers of the core.
        core_num_attention_heads (`int`, defaults to 8), core_num_key_value_heads (`int`, *optional*):
            Heads of queries in the core, and of keys and values; as many when not given.
        core_intermediate_size (`int`, *optional*):
            Width of the core's feed-forward layers; `4 * core_hidden_size` when not given.
        patching (`str`, defaults to `"space"`):
            Where patches end. `"space"`: with the separator that follows a run of letters or digits; all characters of
            several bytes count as letters. `"fixed"`: after `patch_size` bytes. `"token"`: by the `patch_lengths` of
            the batch. Special tokens always end a patch. Whether a byte ends its patch never depends on later bytes.
        patch_size (`int`, defaults to 4):
            Bytes in a `"fixed"` patch.
        max_patch_bytes (`int`, defaults to 16):
            Most bytes in a patch; longer ones are cut, between characters. At least 4, the longest character. The
            original calls it `byte_context_window`.
        decoder (`str`, defaults to `"autoregressive"`):
            `"autoregressive"` decodes a byte from the core's state of the finished patches and the earlier bytes of
            its own patch; `"parallel"` is the published one, which decodes all bytes of a patch from that state alone.
        byte_layers (`str`, defaults to `"residual"`):
            Layers over bytes. `"residual"`: pre-norm layers of width `hidden_size`. `"published"`: the original's,
            whose feed-forward layer replaces the residual stream, and widens it in the encoder.
        reconstruction_loss_weight (`float`, defaults to 0.0):
            Weight of the published auxiliary loss: each patch is decoded from its own pooled vector. Needs
            `decoder="parallel"`.
        reconstruction_ignore_id (`int`, defaults to -100):
            Target that the auxiliary loss ignores. The original ignores 257, which is its end of text and not its
            padding; converted checkpoints keep that.
        num_draft_bytes (`int`, defaults to 0):
            Most bytes of a draft. From 1 on the language model has a small network that proposes the next bytes while
            a single text is generated, so that one pass verifies several (Leviathan et al., 2023). Its loss has no
            gradient in other weights. Needs `decoder="autoregressive"`.
        draft_loss_weight (`float`, defaults to 1.0):
            Weight of the network's cross entropy in the loss; 0 leaves the network as it is.

    Raises:
        `StrictDataclassClassValidationError`: when the numbers contradict each other, with the field, what was passed
            and what is allowed.

    Example:

    >>> from hf_thoughtbubbles import BytePatchConfig
    >>> BytePatchConfig(core_hidden_size=256).core_head_dim
    32
    """

    model_type = "byte_patch"
    family_summary = "bytes are pooled to patches, a transformer runs over the patches, and each is decoded into bytes"
    keys_to_ignore_at_inference = ["past_key_values", "cache", "patches", "reconstruction_loss", "draft_loss"]
    base_model_fsdp_plan = {
        **GenericTransformerConfig.base_model_fsdp_plan,
        "byte_encoder.layers.*": "free_full_weight",
        "byte_decoder.layers.*": "free_full_weight",
    }

    head_counts = ("num_attention_heads", "core_num_attention_heads", "core_num_key_value_heads")

    vocab_size: int = 259
    max_position_embeddings: int = 2048
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    encoder_num_hidden_layers: int = 2
    core_hidden_size: int = 512
    core_num_hidden_layers: int = 8
    core_num_attention_heads: int = 8
    core_num_key_value_heads: int | None = None
    core_intermediate_size: int | None = None
    patching: Literal["space", "fixed", "token"] = "space"
    patch_size: int = 4
    max_patch_bytes: int = 16
    decoder: Literal["autoregressive", "parallel"] = "autoregressive"
    byte_layers: Literal["residual", "published"] = "residual"
    reconstruction_loss_weight: float | int = 0.0
    reconstruction_ignore_id: int = -100
    num_draft_bytes: int = 0
    draft_loss_weight: float | int = 1.0
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        if self.core_intermediate_size is None:
            self.core_intermediate_size = 4 * self.core_hidden_size
        if self.core_num_key_value_heads is None:
            self.core_num_key_value_heads = self.core_num_attention_heads
        super().__post_init__(**kwargs)

    @property
    def base_model_tp_plan(self) -> dict[str, str]:  # type: ignore[override]  # transformers has a class attribute
        """Heads and feed-forward channels of the core and of layers over bytes are split over processes."""
        depths = {"byte_encoder": self.encoder_num_hidden_layers, "byte_decoder": self.num_hidden_layers}
        layers = [f"{name}.layers.*" for name, depth in depths.items() if depth > 0]
        columns = [f"{layer}.{part}_proj" for layer in layers for part in BYTE_COLUMNS]
        rows = [f"{layer}.{part}_proj" for layer in layers for part in BYTE_ROWS]
        return {**plan_stack(self.core_config, "core"), **dict.fromkeys(columns, COLUMNS), **dict.fromkeys(rows, ROWS)}

    @property
    def core_head_dim(self) -> int:
        return self.core_hidden_size // self.core_num_attention_heads

    @property
    def core_config(self) -> "BytePatchCoreView":
        """The core's sizes under the names of a [`GenericTransformerConfig`]."""
        return BytePatchCoreView(self)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> "BytePatchConfig":
        """This configuration; transformers would take the field `decoder` for a nested one."""
        return self

    @property
    def thinking_summary(self) -> str:
        """How bytes are pooled, in words, for model cards."""
        kinds = {"space": "words", "fixed": f"{self.patch_size} bytes", "token": "tokens of another tokenizer"}
        return f"Bytes are pooled to patches of {kinds[self.patching]}; the large part of the model runs once a patch."

    def validate_sizes(self):
        """Part of `@strict`-powered validation: sizes are positive and heads divide widths evenly."""
        names = ("vocab_size", "max_position_embeddings", "max_relative_position", "patch_size", "num_key_value_heads")
        sizes = [name for name in CORE_SIZES if name not in ("num_key_value_heads", "head_dim")]
        check_counts(self, (*names, *sizes, "core_num_key_value_heads", *(f"core_{name}" for name in sizes)))
        if self.vocab_size < NUM_BYTES:
            raise ValueError(
                f"`vocab_size` is {self.vocab_size}; it must be at least {NUM_BYTES}, an id for each byte, and more "
                "with special tokens."
            )
        check_heads(self)
        check_heads(self, "core_hidden_size", "core_num_attention_heads")
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(
                f"`num_key_value_heads` is {self.num_key_value_heads}, but layers over bytes have as many as "
                f"`num_attention_heads` {self.num_attention_heads}. Remove it or set `core_num_key_value_heads`."
            )
        check_key_value_heads(self, "core_num_attention_heads", "core_num_key_value_heads")
        if self.position_embedding == "rope" and self.core_head_dim % 2 != 0:
            raise ValueError(
                f"The head size `core_hidden_size / core_num_attention_heads` = {self.core_head_dim} is odd; rotary "
                "positions turn channels in pairs. Use sizes whose quotient is even."
            )

    def validate_rope(self):
        """Part of `@strict`-powered validation: only rotary settings with an effect, for the heads of the core."""
        is_rotary = self.position_embedding == "rope"
        unrotated = None if is_rotary else f'position_embedding="{self.position_embedding}"'
        core: Any = self.core_config
        check_rope_parameters(core, unrotated)

    def _validate_longrope_rope_parameters(self, *args, **kwargs):
        """transformers' own check, for the heads of the core."""
        core: Any = self.core_config
        PreTrainedConfig._validate_longrope_rope_parameters(core, *args, **kwargs)

    def validate_patches(self):
        """Part of `@strict`-powered validation: patches hold a character, and fixed ones fit."""
        if self.max_patch_bytes < LONGEST_CHARACTER:
            raise ValueError(
                f"`max_patch_bytes` is {self.max_patch_bytes}; it must be at least {LONGEST_CHARACTER}, so that no "
                "character has to be split."
            )
        if self.patching == "fixed" and self.patch_size > self.max_patch_bytes:
            raise ValueError(
                f"`patch_size` {self.patch_size} is larger than `max_patch_bytes` {self.max_patch_bytes}. Raise the "
                "latter, or use smaller patches."
            )
        fewest = 2 if self.byte_layers == "published" else 0
        if self.encoder_num_hidden_layers < fewest:
            raise ValueError(
                f"`encoder_num_hidden_layers` is {self.encoder_num_hidden_layers}; it must be at least {fewest} for "
                f'`byte_layers="{self.byte_layers}"`.'
            )

    def validate_loss_weights(self):
        """Part of `@strict`-powered validation: weights of losses are finite and not negative."""
        for name in ("reconstruction_loss_weight", "draft_loss_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be finite and at least 0.")

    def validate_drafts(self):
        """Part of `@strict`-powered validation: only bytes that are decoded one by one are drafted."""
        if self.num_draft_bytes < 0:
            raise ValueError(
                f"`num_draft_bytes` is {self.num_draft_bytes}; it must be at least 0, which is no drafts."
            )
        if self.num_draft_bytes > 0 and self.decoder != "autoregressive":
            raise ValueError(
                f"`num_draft_bytes` is {self.num_draft_bytes}, but only bytes of the autoregressive decoder are "
                'drafted. Use 0, or `decoder="autoregressive"`.'
            )

    def validate_reconstruction(self):
        """Part of `@strict`-powered validation: only a decoder of whole patches can reconstruct them."""
        if self.reconstruction_loss_weight > 0 and self.decoder != "parallel":
            raise ValueError(
                f"`reconstruction_loss_weight` is {self.reconstruction_loss_weight}, but only "
                '`decoder="parallel"` decodes a patch from one vector. Use 0, or that decoder.'
            )
        if self.reconstruction_ignore_id != -100 and not 0 <= self.reconstruction_ignore_id < self.vocab_size:
            raise ValueError(
                f"`reconstruction_ignore_id` is {self.reconstruction_ignore_id}, which no target is; use an id from 0 "
                f"to {self.vocab_size - 1}, or -100 for none."
            )
        if self.head_bias and self.final_normalization != "layer_norm":
            raise ValueError(
                "`head_bias` is True, but the output over bytes has no bias, only a final `layer_norm` of the core. "
                'Remove it or set `final_normalization="layer_norm"`.'
            )
        if not self.is_causal:
            raise ValueError(
                "`is_causal` is False; the core must be causal over patches, because bytes are predicted."
            )


class BytePatchCoreView:
    """
    A view of a configuration for the generic layers of the core: sizes are those with the prefix `core_`, all other
    attributes are the configuration's own, the attention implementation among them.

    >>> BytePatchConfig(hidden_size=32, core_hidden_size=64).core_config.hidden_size
    64
    """

    def __init__(self, config: BytePatchConfig):
        self.config = config

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copying and pickling ask for methods that no object has
            raise AttributeError(name)
        return getattr(self.config, f"core_{name}" if name in CORE_SIZES else name)


__all__ = ["CORE_SIZES", "BytePatchConfig", "BytePatchCoreView"]
