# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for next-thought models."""

import numbers

import torch
from transformers.cache_utils import Cache

from ...configuration.configuration_next_thought import NextThoughtConfig
from ..common.checks_caches import ADVICE, check_rows, check_two_caches, is_filled
from ..common.checks_targets import check_labels as check_classes
from ..common.checks_targets import check_logits_to_keep, count_entries
from ..common.checks_tokens import (
    can_read,
    check_id_type,
    check_ids,
    check_mask_type,
    check_tokens,
    check_vectors,
    read_mask,
    warn_of_late_positions,
)
from .cache_thoughts import has_latent_tokens


def check_thought(
    config: NextThoughtConfig,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """
    Raise for a thought that the encoder cannot read, or that is too short for pooling to keep a token; returns the
    mask, or `None` if it hides nothing.
    """
    attention_mask = check_tokens(
        config,
        input_ids,
        attention_mask,
        inputs_embeds=inputs_embeds,
        mask_refusal="Pooling counts tokens, and a mask over pairs of tokens does not tell how many there are.",
    )
    num_tokens = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]
    if config.count_kept_tokens(num_tokens)[-1] < 1:
        raise ValueError(_describe_short_thought(config, "The input has", num_tokens))
    if attention_mask is None or not can_read(attention_mask):
        return attention_mask
    counts = attention_mask.bool().sum(1)
    row = int(counts.argmin())
    if counts[row] < config.min_tokens:
        raise ValueError(
            _describe_short_thought(config, f"Row {row} of the input, by its `attention_mask`, has", int(counts[row]))
        )
    return attention_mask


def _describe_short_thought(config: NextThoughtConfig, subject: str, num_tokens: int) -> str:
    return (
        f"{subject} {num_tokens} tokens. With `removed_shares` {config.removed_shares}, pooling keeps "
        f"{config.count_kept_tokens(num_tokens)} of them, but must keep at least one. Pass at least "
        f"{config.min_tokens} tokens."
    )


def check_positions(position_ids: torch.Tensor | None, decoder_position_ids: torch.Tensor | None):
    """Raise for position ids."""
    for name, given in (("position_ids", position_ids), ("decoder_position_ids", decoder_position_ids)):
        if given is not None:
            raise ValueError(
                f"`{name}` was passed, but positions are counted along the mask, from 0 and without padding. Remove "
                "it, and pass each text as a row of its own."
            )


def check_num_thoughts(num_thoughts: int | None):
    """Raise for a value that is not a whole number of at least 1."""
    is_number = isinstance(num_thoughts, numbers.Integral) and not isinstance(num_thoughts, bool)
    if num_thoughts is not None and (not is_number or num_thoughts < 1):
        raise ValueError(f"`num_thoughts` is {num_thoughts!r}; it must be a whole number of at least 1.")


def check_encoder_outputs(config: NextThoughtConfig, encoder_outputs, output_pooling: bool):
    """Raise for an output without vectors of thoughts, or without the pooling that is to be returned."""
    latent = getattr(encoder_outputs, "last_hidden_state", None)
    if latent is None or latent.ndim != 2 or latent.shape[1] != config.latent_size:
        passed = f"a `{type(encoder_outputs).__name__}`"
        if latent is not None:
            passed += f" whose `last_hidden_state` has shape {tuple(latent.shape)}"
        raise ValueError(
            f"`encoder_outputs` is {passed}; it must have a `last_hidden_state` of shape (B, {config.latent_size}). "
            "Pass what `model.get_encoder()` returns."
        )
    if output_pooling and getattr(encoder_outputs, "pooling", None) is None:
        raise ValueError(
            "`output_pooling=True` was passed, but `encoder_outputs` has no `pooling`. Pass it to "
            "`model.get_encoder()`, too."
        )


def check_next_thought(
    config: NextThoughtConfig,
    batch_size: int,
    decoder_input_ids: torch.Tensor | None = None,
    decoder_inputs_embeds: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    past_key_values: Cache | None = None,
) -> torch.Tensor | None:
    """Raise for a next thought that the decoder cannot read; returns the mask, or `None` if it hides nothing."""
    if (decoder_input_ids is None) == (decoder_inputs_embeds is None):
        passed = "neither was" if decoder_input_ids is None else "both were"
        raise ValueError(
            "The decoder reads the next thought: pass exactly one of `labels` or `decoder_input_ids`, and "
            f"`decoder_inputs_embeds`; {passed} passed. `generate` makes them, and `get_encoder()` needs none."
        )
    name, shape, given = "decoder_input_ids", "(B, T)", decoder_input_ids
    if decoder_inputs_embeds is not None:
        name, shape, given = "decoder_inputs_embeds", f"(B, T, {config.hidden_size})", decoder_inputs_embeds
    check_vectors(given, name) if given is decoder_inputs_embeds else check_id_type(given, name)
    has_width = given.ndim == 2 or given.shape[-1] == config.hidden_size
    if given.ndim != shape.count(",") + 1 or 0 in given.shape or given.shape[0] != batch_size or not has_width:
        raise ValueError(
            f"`{name}` has shape {tuple(given.shape)}; it must be {shape} with B = {batch_size} and no size 0."
        )
    if decoder_input_ids is not None:
        check_ids(decoder_input_ids, "decoder_input_ids", config.vocab_size)
    if attention_mask is not None:
        check_mask_type(attention_mask, "decoder_attention_mask")
    num_past = 0
    if past_key_values is not None:
        check_cache(config, past_key_values, batch_size)
        num_past = past_key_values.get_seq_length()
    if isinstance(num_past, torch.Tensor):  # a static cache counts on its device
        if not can_read(num_past):
            return attention_mask
        num_past = int(num_past)
    check_next_length(config, batch_size, num_past + given.shape[1], attention_mask)
    return read_mask(attention_mask, "decoder_attention_mask")


def check_next_length(
    config: NextThoughtConfig, batch_size: int, num_tokens: int, decoder_attention_mask: torch.Tensor | None
):
    """
    Raise for a next thought, its cached tokens included, that is longer than a table of positions or whose mask has
    another length.
    """
    if not config.has_position_table:
        if not torch.compiler.is_compiling():  # a comparison would bound an open size
            warn_of_late_positions(config, num_tokens)
    elif num_tokens > config.max_position_embeddings:
        raise ValueError(
            f"The next thought is {num_tokens} tokens long, but `max_position_embeddings` is "
            f"{config.max_position_embeddings}. Shorten it."
        )
    if decoder_attention_mask is not None and tuple(decoder_attention_mask.shape) != (batch_size, num_tokens):
        raise ValueError(
            f"`decoder_attention_mask` has shape {tuple(decoder_attention_mask.shape)}, but the next thought needs "
            f"{(batch_size, num_tokens)}: one entry per row and token."
        )


def check_cache(config: NextThoughtConfig, past_key_values: Cache, batch_size: int):
    """Raise for caches that cannot store latent tokens, that hold written tokens without them, or of other rows."""
    check_two_caches(past_key_values, "which also stores latent tokens")
    num_past = past_key_values.get_seq_length()
    if isinstance(num_past, int) and num_past > 0 and not has_latent_tokens(past_key_values):
        raise ValueError(
            f"`past_key_values` holds {num_past} tokens but no latent tokens before them. Pass the cache that the "
            "model returned."
        )
    heads = config.decoder_key_value_heads // config.num_head_processes, config.head_dim
    for half in (past_key_values.self_attention_cache, past_key_values.cross_attention_cache):
        layers, num_filled = half.layers, sum(map(is_filled, half.layers))
        if num_filled not in (0, config.num_decoder_layers) and not half.is_compileable:
            raise ValueError(
                f"`past_key_values` holds {num_filled} filled layers, but this model has {config.num_decoder_layers} "
                f"decoder layers. {ADVICE}"
            )
        check_rows((layers[0], layers[-1]) if layers else (), batch_size, *heads)
    latents = past_key_values.cross_attention_cache.layers
    if has_latent_tokens(past_key_values) and latents[0].keys.shape[2] != config.num_latent_tokens:
        raise ValueError(
            f"`past_key_values` holds {latents[0].keys.shape[2]} latent tokens, but `num_latent_tokens` is "
            f"{config.num_latent_tokens}. {ADVICE}"
        )


def check_labels(
    config: NextThoughtConfig,
    labels: torch.Tensor,
    sources: tuple[torch.Tensor | None, ...],
    given: torch.Tensor | None = None,
    logits_to_keep: int | torch.Tensor = 0,
):
    """
    Raise for labels that do not fit the next thought. They need one row for each row of the first of `sources` that is
    not `None`, and one entry for each token of `given`, the decoder's input.
    """
    num_rows = next((len(source) for source in sources if source is not None), len(labels))
    num_tokens = count_entries(labels if given is None else given)
    check_classes(labels, (num_rows, num_tokens), config.vocab_size)
    check_logits_to_keep(logits_to_keep, num_tokens, labels)


__all__ = [
    "check_encoder_outputs",
    "check_labels",
    "check_next_thought",
    "check_num_thoughts",
    "check_positions",
    "check_thought",
]
