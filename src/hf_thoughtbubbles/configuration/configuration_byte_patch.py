# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Which numbers describe a byte-patch model?"""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_generic_transformer import GenericTransformerConfig
from .size_settings import check_counts, check_heads


LONGEST_CHARACTER = 4  # bytes of UTF-8


@strict
class BytePatchConfig(GenericTransformerConfig):
    r"""
    The configuration of a [`BytePatchModel`]: bytes are pooled to patches, a generic transformer runs over the
    patches, and a decoder turns its states back into bytes (SPEC section 4). The fields of the core are those of
    [`GenericTransformerConfig`].

    Args:
        vocab_size (`int`, defaults to 259):
            Number of ids: the 256 bytes, then special tokens.
        max_position_embeddings (`int`, defaults to 2048):
            Most bytes in one sequence, and so most patches.
        patching (`str`, defaults to `"space"`):
            Where patches end. `"space"`: with the separator that follows a run of letters or digits; all characters of
            several bytes count as letters. `"fixed"`: after `patch_size` bytes. `"token"`: where the collator says,
            in `patch_lengths`. Special tokens always end a patch. Whether a byte ends its patch never depends on
            later bytes.
        patch_size (`int`, defaults to 4):
            Bytes in a `"fixed"` patch.
        max_patch_bytes (`int`, defaults to 16):
            Most bytes in a patch; longer ones are cut, between characters. At least 4, the longest character. The
            original calls it `byte_context_window`.
        decoder (`str`, defaults to `"autoregressive"`):
            `"autoregressive"` reads the core's state of the finished patches and the earlier bytes of the byte's own
            patch; `"parallel"` is the published one, which writes all bytes of a patch at once from that state alone.
        byte_layers (`str`, defaults to `"residual"`):
            Layers over bytes. `"residual"`: pre-norm layers of width `byte_hidden_size`. `"published"`: the
            original's, whose feed-forward layer replaces the stream instead of adding to it, and widens it on the way
            in.
        byte_hidden_size (`int`, defaults to 128):
            Width of a byte; a multiple of `num_byte_attention_heads`.
        num_byte_attention_heads (`int`, defaults to 8):
            Heads of the layers over bytes.
        num_byte_encoder_layers (`int`, defaults to 2), num_byte_decoder_layers (`int`, defaults to 4):
            Layers over bytes before pooling and in the decoder; the original has 4 and 7.
        reconstruction_loss_weight (`float`, defaults to 0.0):
            Weight of the published auxiliary loss: the decoder writes each patch from its own pooled vector. Needs
            `decoder="parallel"`.
        reconstruction_ignore_id (`int`, defaults to -100):
            Target that the auxiliary loss leaves out. The original leaves out 257, which is its end of text and not
            its padding; converted checkpoints keep that.

    Example:

    >>> from hf_thoughtbubbles import BytePatchConfig
    >>> BytePatchConfig(patching="fixed", patch_size=8).max_patches(2048)
    256
    """

    model_type = "byte_patch"
    family_summary = "bytes are pooled to patches, a transformer runs over the patches, and each is decoded into bytes"
    keys_to_ignore_at_inference = ["past_key_values", "cache", "patches", "reconstruction_loss"]
    base_model_fsdp_plan = {
        **GenericTransformerConfig.base_model_fsdp_plan,
        "byte_encoder.layers.*": "free_full_weight",
    }

    vocab_size: int = 259
    max_position_embeddings: int = 2048
    patching: Literal["space", "fixed", "token"] = "space"
    patch_size: int = 4
    max_patch_bytes: int = 16
    decoder: Literal["autoregressive", "parallel"] = "autoregressive"
    byte_layers: Literal["residual", "published"] = "residual"
    byte_hidden_size: int = 128
    num_byte_attention_heads: int = 8
    num_byte_encoder_layers: int = 2
    num_byte_decoder_layers: int = 4
    reconstruction_loss_weight: float | int = 0.0
    reconstruction_ignore_id: int = -100
    tie_word_embeddings: bool = False

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> "BytePatchConfig":
        """This configuration; transformers would take the field `decoder` for a nested one."""
        return self

    def max_patches(self, num_bytes: int) -> int:
        """Most patches that `num_bytes` bytes can make, special tokens aside for `"fixed"` patching."""
        if self.patching == "fixed":
            return -(-num_bytes // self.patch_size)
        return num_bytes

    def validate_patches(self):
        """Part of `@strict`-powered validation: patches hold a character, and fixed ones fit."""
        names = ("patch_size", "byte_hidden_size", "num_byte_attention_heads", "num_byte_decoder_layers")
        check_counts(self, names)
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
        if self.num_byte_encoder_layers < fewest:
            raise ValueError(
                f"`num_byte_encoder_layers` is {self.num_byte_encoder_layers}; it must be at least {fewest} for "
                f'`byte_layers="{self.byte_layers}"`.'
            )

    def validate_byte_width(self):
        """Part of `@strict`-powered validation: the heads divide the widths of the layers over bytes."""
        check_heads(self, "byte_hidden_size", "num_byte_attention_heads")

    def validate_reconstruction(self):
        """Part of `@strict`-powered validation: only a decoder of whole patches can reconstruct them."""
        if self.reconstruction_loss_weight < 0:
            raise ValueError(f"`reconstruction_loss_weight` is {self.reconstruction_loss_weight}; use 0 or more.")
        if self.reconstruction_loss_weight > 0 and self.decoder != "parallel":
            raise ValueError(
                f"`reconstruction_loss_weight` is {self.reconstruction_loss_weight}, but only "
                '`decoder="parallel"` writes a patch from one vector. Use 0, or that decoder.'
            )
        if not self.is_causal:
            raise ValueError(
                "`is_causal` is False; the core must be causal over patches, because bytes are predicted."
            )


__all__ = ["BytePatchConfig"]
