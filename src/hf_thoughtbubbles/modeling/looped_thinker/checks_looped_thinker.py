# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for looped Thinkers that answer problems."""

import torch
from transformers.cache_utils import Cache, EncoderDecoderCache

from ...configuration.configuration_looped_thinker import LoopedThinkerConfig
from ..common.checks_caches import ADVICE, check_rows, check_two_caches, is_filled
from ..common.checks_targets import check_labels as check_classes
from ..common.checks_targets import count_entries
from ..common.checks_tokens import (
    check_id_type,
    check_ids,
    check_mask_type,
    check_tokens,
    check_vectors,
    describe_type,
    read_mask,
)
from .checks_loop import check_count


def check_problem(
    config: LoopedThinkerConfig,
    input_ids: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    num_steps: int | None = None,
    num_latents: int | None = None,
    num_read_steps: int | None = None,
    memory_ids: torch.Tensor | None = None,
    encoder_outputs=None,
) -> tuple[int, torch.Tensor | None]:
    """
    Refuse a problem, number of steps or latents, or static memories that do not fit; returns the number of rows, and
    the mask, or `None` if it hides nothing.
    """
    if encoder_outputs is not None:
        return len(encoder_outputs["last_hidden_state"]), attention_mask
    attention_mask = check_tokens(
        config,
        input_ids,
        attention_mask,
        position_ids,
        inputs_embeds=inputs_embeds,
        mask_refusal="Latents attend to the whole problem, so a mask over pairs of tokens has no meaning.",
    )
    batch_size = (input_ids if inputs_embeds is None else inputs_embeds).shape[0]
    if num_steps is not None:
        check_count("num_steps", num_steps)
    if num_latents is not None:
        check_count("num_latents", num_latents, config.max_latents, "max_latents")
    if num_read_steps is not None:
        check_count("num_read_steps", num_read_steps, lowest=0)
    if memory_ids is not None:
        if config.static_memory_size == 0:
            raise ValueError(
                "`memory_ids` was passed, but the model has no static memory. Remove it or set `static_memory_size`."
            )
        check_id_type(memory_ids, "memory_ids")
        if memory_ids.ndim != 2 or len(memory_ids) != batch_size:
            raise ValueError(
                f"`memory_ids` has shape {tuple(memory_ids.shape)}, but the input has {batch_size} rows; it must be "
                f"({batch_size}, number of memories)."
            )
        check_ids(memory_ids, "memory_ids", config.static_memory_size, "static_memory_size")
    return batch_size, attention_mask


def check_answer(
    config: LoopedThinkerConfig,
    past_key_values: Cache | None,
    batch_size: int,
    decoder_input_ids: torch.Tensor | None = None,
    decoder_inputs_embeds: torch.Tensor | None = None,
    decoder_attention_mask: torch.Tensor | None = None,
    answer_length: int | None = None,
    loop_decoder: bool = False,
) -> tuple[int, torch.Tensor | None]:
    """
    Refuse an answer that cannot be read out; returns the number of positions A of this call, and the mask, or `None`
    if it hides nothing.
    """
    if decoder_input_ids is not None and decoder_inputs_embeds is not None:
        raise ValueError("Pass at most one of `decoder_input_ids` and `decoder_inputs_embeds`; both were passed.")
    given = decoder_input_ids if decoder_inputs_embeds is None else decoder_inputs_embeds
    name, shape = "decoder_input_ids", "(B, A)"
    if decoder_inputs_embeds is not None:
        name, shape = "decoder_inputs_embeds", "(B, A, hidden_size)"
    if given is not None:
        check_vectors(given, name) if given is decoder_inputs_embeds else check_id_type(given, name)
        is_wide = given.ndim == 2 or given.shape[-1] == config.hidden_size
        if given.ndim != shape.count(",") + 1 or 0 in given.shape or given.shape[0] != batch_size or not is_wide:
            raise ValueError(
                f"`{name}` has shape {tuple(given.shape)}; it must be {shape} with B = {batch_size} and no size 0."
            )
        if answer_length is not None and answer_length != given.shape[1]:
            raise ValueError(
                f"`answer_length` is {answer_length}, but `{name}` has {given.shape[1]} positions. Pass one of them."
            )
        answer_length = given.shape[1]
    if decoder_input_ids is not None:
        check_ids(decoder_input_ids, "decoder_input_ids", config.vocab_size)
    if config.readout == "autoregressive" and given is None:
        raise ValueError(
            "An answer is read out token by token, so it needs `labels`, `decoder_input_ids` or "
            "`decoder_inputs_embeds`; none was passed. `generate` makes them by itself."
        )
    check_two_caches(past_key_values, "which stores the memory, too")
    if loop_decoder and (config.readout != "autoregressive" or decoder_input_ids is None):
        raise ValueError(
            '`loop_decoder=True` needs `readout="autoregressive"` and `labels` or `decoder_input_ids`. Pass one of '
            "them, or remove `loop_decoder`."
        )
    if config.readout == "parallel" and past_key_values is not None:
        raise ValueError(
            '`past_key_values` was passed, but with `readout="parallel"` all positions are read out in one pass. '
            "Remove it."
        )
    if past_key_values is not None:
        check_cache(config, past_key_values, batch_size)
    answer_length = config.max_answer_length if answer_length is None else answer_length
    check_count("answer_length", answer_length)
    num_past = 0 if past_key_values is None else past_key_values.get_seq_length()
    if isinstance(num_past, torch.Tensor):
        num_past = int(num_past) if num_past.device.type == "cpu" and not torch.compiler.is_compiling() else 0
    if num_past + answer_length > config.max_answer_length:
        raise ValueError(
            f"The answer is {num_past + answer_length} tokens long, but `max_answer_length` is "
            f"{config.max_answer_length}. Use a shorter one, or build a model with a larger `max_answer_length`."
        )
    if decoder_attention_mask is not None:
        check_mask_type(decoder_attention_mask, "decoder_attention_mask")
        needed, shape = (batch_size, num_past + answer_length), tuple(decoder_attention_mask.shape)
        is_pair_mask = len(shape) == 4  # made by `generate` for a static cache
        if not is_pair_mask and (len(shape) != 2 or not (torch.compiler.is_compiling() or shape == needed)):
            raise ValueError(
                f"`decoder_attention_mask` has shape {shape}, but the answer needs {needed}: one entry per row and "
                "position."
            )
    return answer_length, read_mask(decoder_attention_mask, "decoder_attention_mask")


def check_cache(config: LoopedThinkerConfig, past_key_values: EncoderDecoderCache, batch_size: int):
    """Refuse a cache of another model or of other rows."""
    num_layers, memory = config.num_hidden_layers, past_key_values.cross_attention_cache
    answer, num_slots = past_key_values.self_attention_cache, num_layers * config.num_output_steps
    halves = [(memory, num_layers)] if config.skip_self_attention else [(memory, num_layers), (answer, num_slots)]
    for half, needed in halves:
        num_filled = sum(map(is_filled, half.layers))
        if num_filled not in (0, needed) and not half.is_compileable:
            raise ValueError(
                f"`past_key_values` holds {num_filled} filled layers, but this model fills {needed}. {ADVICE}"
            )
        layers = half.layers
        heads = config.num_key_value_heads // config.num_head_processes, config.head_dim
        check_rows((layers[0], layers[-1]) if layers else (), batch_size, *heads)


def check_decoder_positions(decoder_position_ids: torch.Tensor | None):
    """Refuse positions of an answer."""
    if decoder_position_ids is not None:
        raise ValueError("`decoder_position_ids` was passed, but an answer has the positions from 0. Remove it.")


def check_labels(
    config: LoopedThinkerConfig,
    labels: torch.Tensor | None,
    probe_targets: torch.Tensor | None,
    problem: torch.Tensor | None,
    given: torch.Tensor | None,
    answer_length: int | None = None,
):
    """Refuse labels and probe targets that do not fit the problem, or the decoder inputs `given`."""
    if probe_targets is not None and config.num_probes == 0:
        raise ValueError("`probe_targets` was passed, but the model has no probes. Remove it or set `num_probes`.")
    if probe_targets is not None and labels is None:
        raise ValueError("`probe_targets` was passed without `labels`, which choose the scored positions. Pass both.")
    if labels is None:
        return
    num_rows = len(labels if problem is None else problem)
    length = answer_length
    if length is None:
        length = count_entries(labels if given is None else given)
    check_classes(labels, (num_rows, length), config.vocab_size)
    if probe_targets is None:
        return
    if not isinstance(probe_targets, torch.Tensor) or probe_targets.dtype == torch.bool or probe_targets.is_complex():
        raise ValueError(f"`probe_targets` is {describe_type(probe_targets)}; it must be a tensor of numbers.")
    if tuple(probe_targets.shape) != (num_rows, length, config.num_probes):
        raise ValueError(
            f"`probe_targets` has shape {tuple(probe_targets.shape)}, but the answer needs "
            f"{(num_rows, length, config.num_probes)}: one number per row, position and probe."
        )


__all__ = ["check_answer", "check_decoder_positions", "check_labels", "check_problem"]
