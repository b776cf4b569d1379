# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation that all families share: token ids, masks, position ids and caches.

Shapes are always checked. Values are checked only on the CPU and outside of compiled graphs, because reading a value
from an accelerator waits for it. While a model is compiled, sizes are symbols, which compare but have no hash.
"""

import torch
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel


def check_tokens(
    config: PreTrainedConfig,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: torch.Tensor | None = None,
    mask_refusal: str | None = None,
):
    """
    Raise for tokens whose shapes, number or ids do not fit.

    Args:
        config, input_ids, attention_mask, position_ids, past_key_values, inputs_embeds: the arguments of a model.
        mask_refusal (`str`, *optional*): the reason why a family takes no masks of query and key pairs.
    """
    batch_size, num_tokens = _check_shape(config, input_ids, inputs_embeds)
    num_seen_tokens = num_tokens + _count_past_tokens(past_key_values)
    is_counted = isinstance(num_seen_tokens, int)
    if is_counted:
        is_packable = past_key_values is None and (attention_mask is None or attention_mask.ndim == 4)
        _check_length(config, num_seen_tokens, position_ids if is_packable else None)
        _check_room(num_seen_tokens, past_key_values)
    if attention_mask is not None and attention_mask.ndim != 2:  # over query and key pairs
        if mask_refusal or attention_mask.ndim != 4:
            raise ValueError(
                f"`attention_mask` has {attention_mask.ndim} dimensions; pass one of shape {(batch_size, num_tokens)} "
                f"with 1 for real tokens. {mask_refusal or ''}".rstrip()
            )
    elif attention_mask is not None and is_counted:
        _check_mask(attention_mask, batch_size, num_seen_tokens, past_key_values)
    fitting = ((1, num_tokens), (batch_size, num_tokens))
    if position_ids is not None and tuple(position_ids.shape) not in fitting:
        raise ValueError(
            f"`position_ids` has shape {tuple(position_ids.shape)}, but the input needs "
            f"{(batch_size, num_tokens)}: one entry per row and token."
        )
    if input_ids is not None:
        check_ids(input_ids, "input_ids", config.vocab_size)


def _check_shape(
    config: PreTrainedConfig, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None
) -> tuple[int, int]:
    """Return the number of rows and of tokens in a row, after checking that one of the inputs has a right shape."""
    if (input_ids is None) == (inputs_embeds is None):
        passed = "neither was" if input_ids is None else "both were"
        raise ValueError(f"Pass exactly one of `input_ids` and `inputs_embeds`; {passed} passed.")
    given, shape = (input_ids, "(B, T)") if inputs_embeds is None else (inputs_embeds, "(B, T, hidden_size)")
    has_width = inputs_embeds is None or given.shape[-1] == config.hidden_size
    if given.ndim != shape.count(",") + 1 or 0 in given.shape or not has_width:
        raise ValueError(f"The input has shape {tuple(given.shape)}; it must be {shape}, with no size 0.")
    return given.shape[0], given.shape[1]


def _count_past_tokens(past_key_values: Cache | None) -> int | torch.Tensor:
    """Number of tokens in the cache; a tensor where a static cache counts on an accelerator or in a compiled graph."""
    num_past_tokens = 0 if past_key_values is None else past_key_values.get_seq_length()
    if isinstance(num_past_tokens, torch.Tensor) and num_past_tokens.device.type == "cpu":
        return num_past_tokens if torch.compiler.is_compiling() else int(num_past_tokens)
    return num_past_tokens


def _check_room(num_tokens: int, past_key_values: Cache | None):
    """Raise for more tokens than a static cache has room for."""
    if past_key_values is None or not past_key_values.is_compileable:
        return
    room = past_key_values.layers[0].max_cache_len
    if num_tokens > room:
        raise ValueError(
            f"The input is {num_tokens} tokens long with what `past_key_values` holds, but this static cache "
            f"has room for {room}. Make it with a larger `max_cache_len`."
        )


def _check_mask(attention_mask: torch.Tensor, batch_size: int, num_tokens: int, past_key_values: Cache | None):
    """Raise for a mask without one entry per row and token; its rows may also be as long as a static cache."""
    is_long = attention_mask.shape[1] == num_tokens
    if past_key_values is not None and past_key_values.is_compileable:
        is_long = is_long or attention_mask.shape[1] == past_key_values.layers[0].max_cache_len
    if attention_mask.shape[0] != batch_size or not is_long:
        raise ValueError(
            f"`attention_mask` has shape {tuple(attention_mask.shape)}, but the input needs "
            f"{(batch_size, num_tokens)}: one entry per row and token."
        )


def _check_length(config: PreTrainedConfig, num_tokens: int, position_ids: torch.Tensor | None):
    """Raise for more tokens than there are positions; a row that packs documents may be longer than each of them."""
    longest, what = num_tokens, "input"
    if position_ids is not None and num_tokens > config.max_position_embeddings:
        is_readable = position_ids.device.type == "cpu" and not torch.compiler.is_compiling()
        longest, what = int(position_ids.max()) + 1 if is_readable else 0, "longest document"
    if longest > config.max_position_embeddings:
        raise ValueError(
            f"The {what} is {longest} tokens long, but `max_position_embeddings` is "
            f"{config.max_position_embeddings}. Shorten the input or split it into blocks."
        )


def check_cache_in_replay(model: PreTrainedModel, past_key_values: Cache | None):
    """Raise for a filled cache under gradient checkpointing, where layers run twice and write no cache."""
    if past_key_values is None or not model.training:
        return
    is_replayed = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if is_replayed and past_key_values.get_seq_length() > 0:
        raise ValueError(
            f"`past_key_values` with {int(past_key_values.get_seq_length())} tokens was passed to a model that trains "
            "with gradient checkpointing, where layers run twice and write no cache. Call `model.eval()` to "
            "generate, or pass all tokens in one call."
        )


def check_generation_length(config: PreTrainedConfig, max_cache_length: int):
    """Raise, before any work, when generation would read more tokens than there are positions."""
    if max_cache_length > config.max_position_embeddings:
        raise ValueError(
            f"Generation may read {max_cache_length} tokens (prompt and `max_new_tokens` but the last), and "
            f"`max_position_embeddings` is {config.max_position_embeddings}. Ask for fewer new tokens or "
            "shorten the prompt."
        )


def check_ids(ids: torch.Tensor, name: str, size: int, size_name: str = "vocab_size"):
    """Raise for ids outside a table of `size` rows."""
    if ids.device.type != "cpu" or torch.compiler.is_compiling() or ids.numel() == 0:
        return
    lowest, highest = ids.min(), ids.max()
    if lowest < 0 or highest >= size:
        hint = " Was the text tokenized with this model's tokenizer?" if size_name == "vocab_size" else ""
        raise ValueError(
            f"`{name}` holds {int(lowest if lowest < 0 else highest)}, but ids are 0 to {size - 1} (`{size_name}` "
            f"{size}).{hint}"
        )


__all__ = ["check_cache_in_replay", "check_generation_length", "check_ids", "check_tokens"]
