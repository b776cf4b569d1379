# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What can a next-thought model not read or write? Each refusal names the argument, what came and what is allowed."""

import numbers

import torch
from transformers.cache_utils import Cache, EncoderDecoderCache

from ...configuration.configuration_next_thought import NextThoughtConfig
from ..common.checks_tokens import check_ids, check_tokens
from .cache_thoughts import has_latent_tokens


def check_thought(
    config: NextThoughtConfig,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
):
    """Refuse a thought that the encoder cannot read, or of which no token would be kept."""
    check_tokens(
        config,
        input_ids,
        attention_mask,
        inputs_embeds=inputs_embeds,
        mask_refusal="Pooling counts tokens, of which a mask over pairs says nothing.",
    )
    num_tokens = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]
    if config.count_kept_tokens(num_tokens)[-1] < 1:
        raise ValueError(_describe_short_thought(config, "The input has", num_tokens))
    if attention_mask is None or attention_mask.device.type != "cpu" or torch.compiler.is_compiling():
        return
    counts = attention_mask.bool().sum(1)
    row = int(counts.argmin())
    if counts[row] < config.min_tokens:
        raise ValueError(
            _describe_short_thought(config, f"Row {row} of the input, by its `attention_mask`, has", int(counts[row]))
        )


def _describe_short_thought(config: NextThoughtConfig, subject: str, num_tokens: int) -> str:
    return (
        f"{subject} {num_tokens} tokens, of which the `removed_shares` {config.removed_shares} leave "
        f"{config.count_kept_tokens(num_tokens)}; one must stay to the end. Give at least {config.min_tokens} tokens."
    )


def check_positions(position_ids: torch.Tensor | None, decoder_position_ids: torch.Tensor | None):
    """Refuse positions that are given."""
    for name, given in (("position_ids", position_ids), ("decoder_position_ids", decoder_position_ids)):
        if given is not None:
            raise ValueError(
                f"`{name}` came, but places of tokens follow from their mask: from 0, padding left out. Leave it out, "
                "and give each text a row of its own."
            )


def check_num_thoughts(num_thoughts: int | None):
    """Refuse what is no whole number of at least 1."""
    is_number = isinstance(num_thoughts, numbers.Integral) and not isinstance(num_thoughts, bool)
    if num_thoughts is not None and (not is_number or num_thoughts < 1):
        raise ValueError(f"`num_thoughts` is {num_thoughts!r}; it must be a whole number of at least 1.")


def check_encoder_outputs(config: NextThoughtConfig, encoder_outputs):
    """Refuse what holds no vectors of thoughts."""
    latent = getattr(encoder_outputs, "last_hidden_state", None)
    if latent is None or latent.ndim != 2 or latent.shape[1] != config.latent_size:
        came = f"a `{type(encoder_outputs).__name__}`"
        if latent is not None:
            came += f" whose `last_hidden_state` has shape {tuple(latent.shape)}"
        raise ValueError(
            f"`encoder_outputs` is {came}; it must have a `last_hidden_state` of shape (B, {config.latent_size}), as "
            "`model.get_encoder()` returns."
        )


def check_next_thought(
    config: NextThoughtConfig,
    batch_size: int,
    decoder_input_ids: torch.Tensor | None = None,
    decoder_attention_mask: torch.Tensor | None = None,
    decoder_inputs_embeds: torch.Tensor | None = None,
    past_key_values: Cache | None = None,
):
    """Refuse a next thought that the decoder cannot read."""
    if (decoder_input_ids is None) == (decoder_inputs_embeds is None):
        came = "neither" if decoder_input_ids is None else "both"
        raise ValueError(
            "The next thought is read token by token: give exactly one of `labels` or `decoder_input_ids`, and "
            f"`decoder_inputs_embeds`; {came} came. `generate` makes them by itself, and `get_encoder()` needs none."
        )
    name, shape, given = "decoder_input_ids", "(B, T)", decoder_input_ids
    if decoder_inputs_embeds is not None:
        name, shape, given = "decoder_inputs_embeds", f"(B, T, {config.hidden_size})", decoder_inputs_embeds
    is_wide = given.ndim == 2 or given.shape[-1] == config.hidden_size
    if given.ndim != shape.count(",") + 1 or 0 in given.shape or len(given) != batch_size or not is_wide:
        raise ValueError(
            f"`{name}` has shape {tuple(given.shape)}; it must be {shape} with B = {batch_size} and no size 0."
        )
    if decoder_input_ids is not None:
        check_ids(decoder_input_ids, "decoder_input_ids", config.vocab_size)
    num_past = 0
    if past_key_values is not None:
        check_cache(past_key_values)
        num_past = past_key_values.get_seq_length()
    if isinstance(num_past, torch.Tensor):  # a static cache counts on its device
        if num_past.device.type != "cpu" or torch.compiler.is_compiling():
            return
        num_past = int(num_past)
    num_seen = num_past + given.shape[1]
    if num_seen > config.max_position_embeddings:
        raise ValueError(
            f"The next thought is {num_seen} tokens long, but `max_position_embeddings` is "
            f"{config.max_position_embeddings}. Shorten it."
        )
    mask = decoder_attention_mask
    if mask is not None and tuple(mask.shape) != (batch_size, num_seen):
        raise ValueError(
            f"`decoder_attention_mask` has shape {tuple(mask.shape)}, but the next thought needs "
            f"{(batch_size, num_seen)}: one entry per row and token."
        )


def check_cache(past_key_values: Cache):
    """Refuse caches that keep no latent tokens, or tokens without them."""
    if not isinstance(past_key_values, EncoderDecoderCache):
        raise ValueError(
            f"`past_key_values` is a `{type(past_key_values).__name__}`; a next thought needs an "
            "`EncoderDecoderCache`, which keeps its latent tokens too. Use the cache that the model returns."
        )
    num_past = past_key_values.get_seq_length()
    if isinstance(num_past, int) and num_past > 0 and not has_latent_tokens(past_key_values):
        raise ValueError(
            f"`past_key_values` holds {num_past} tokens but no latent tokens before them. Use the cache that the "
            "model returns."
        )


def check_replay(is_replayed: bool, use_cache: bool | None, past_key_values: Cache | None):
    """Refuse a cache where layers are computed again for their gradients: it would keep their tokens twice."""
    if is_replayed and (use_cache or past_key_values is not None):
        raise ValueError(
            "`use_cache=True` or `past_key_values` came with gradient checkpointing, which computes layers again, and "
            "a cache would keep their tokens twice. Leave it out in training."
        )


def check_labels(
    config: NextThoughtConfig,
    labels: torch.Tensor,
    sources: tuple[torch.Tensor | None, ...],
    given: torch.Tensor | None = None,
    logits_to_keep: int | torch.Tensor = 0,
):
    """
    Refuse targets that do not lie over the next thought: one row for each of the first of `sources` that is there, and
    one entry for each token that is `given`.
    """
    num_rows = next((len(source) for source in sources if source is not None), len(labels))
    num_tokens = labels.shape[-1] if given is None or given.ndim < 2 else given.shape[1]
    if tuple(labels.shape) != (num_rows, num_tokens):
        raise ValueError(
            f"`labels` has shape {tuple(labels.shape)}, but the next thought needs {(num_rows, num_tokens)}: one "
            "entry per row and token, -100 where nothing is scored."
        )
    if not isinstance(logits_to_keep, int) or logits_to_keep != 0:
        raise ValueError("`logits_to_keep` came with `labels`, which need the logits of all tokens. Give one of them.")
    check_ids(labels.masked_fill(labels == -100, 0), "labels", config.vocab_size)


__all__ = [
    "check_encoder_outputs",
    "check_labels",
    "check_next_thought",
    "check_num_thoughts",
    "check_positions",
    "check_replay",
    "check_thought",
]
