# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation that all families share: token ids, masks, position ids and caches."""

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
    Refuse tokens whose shapes, number or ids do not fit. Looks at shapes; at values only where no device has to be
    waited for. `mask_refusal` says why a family cannot take masks of query and key pairs.
    """
    if (input_ids is None) == (inputs_embeds is None):
        passed = "neither was" if input_ids is None else "both were"
        raise ValueError(f"Pass exactly one of `input_ids` and `inputs_embeds`; {passed} passed.")
    given, shape = (input_ids, "(B, T)") if inputs_embeds is None else (inputs_embeds, "(B, T, hidden_size)")
    is_wide = inputs_embeds is None or given.shape[-1] == config.hidden_size
    if given.ndim != shape.count(",") + 1 or 0 in given.shape or not is_wide:
        raise ValueError(f"The input has shape {tuple(given.shape)}; it must be {shape}, with no size 0.")
    batch_size, num_tokens = given.shape[:2]
    num_past_tokens = 0 if past_key_values is None else past_key_values.get_seq_length()
    is_readable = not torch.compiler.is_compiling()
    if isinstance(num_past_tokens, torch.Tensor) and num_past_tokens.device.type == "cpu" and is_readable:
        num_past_tokens = int(num_past_tokens)  # a static cache counts on its device
    num_seen_tokens = num_past_tokens + num_tokens
    is_counted = isinstance(num_seen_tokens, int)
    if is_counted:
        is_packable = attention_mask is None and past_key_values is None
        check_length(config, num_seen_tokens, position_ids if is_packable else None)
    is_paired = attention_mask is not None and attention_mask.ndim != 2  # over query and key pairs
    if is_paired and (mask_refusal or attention_mask.ndim != 4):
        raise ValueError(
            f"`attention_mask` has {attention_mask.ndim} dimensions; give one of shape {(batch_size, num_tokens)} "
            f"with 1 for real tokens. {mask_refusal or ''}".rstrip()
        )
    is_flat = attention_mask is not None and attention_mask.ndim == 2
    # While a model is compiled or exported, sizes are symbols: they compare one by one, but have no hash for a set.
    widths = [num_seen_tokens]
    if past_key_values is not None and past_key_values.is_compileable:  # or as long as a static cache
        room = past_key_values.layers[0].max_cache_len
        widths.append(room)
        if is_counted and num_seen_tokens > room:
            raise ValueError(
                f"The input is {num_seen_tokens} tokens long with what `past_key_values` holds, but this static cache "
                f"has room for {room}. Make it with a larger `max_cache_len`."
            )
    if is_flat and is_counted and not is_one_per_seen_token(attention_mask, batch_size, widths):
        raise ValueError(
            f"`attention_mask` has shape {tuple(attention_mask.shape)}, but the input needs "
            f"{(batch_size, num_seen_tokens)}: one entry per row and token."
        )
    if position_ids is not None and not is_one_per_token(position_ids, batch_size, num_tokens):
        raise ValueError(
            f"`position_ids` has shape {tuple(position_ids.shape)}, but the input needs "
            f"{(batch_size, num_tokens)}: one entry per row and token."
        )
    if input_ids is not None:
        check_ids(input_ids, "input_ids", config.vocab_size)


def is_one_per_seen_token(attention_mask: torch.Tensor, batch_size: int, widths: list[int]) -> bool:
    """Whether a mask has as many rows, and one of the widths."""
    return attention_mask.shape[0] == batch_size and any(attention_mask.shape[1] == width for width in widths)


def is_one_per_token(position_ids: torch.Tensor, batch_size: int, num_tokens: int) -> bool:
    """Whether positions are `(1, T)` or `(B, T)`."""
    if position_ids.ndim != 2 or position_ids.shape[1] != num_tokens:
        return False
    return position_ids.shape[0] == 1 or position_ids.shape[0] == batch_size


def check_length(config: PreTrainedConfig, num_tokens: int, position_ids: torch.Tensor | None):
    """Refuse more tokens than there are positions; a row that packs documents may be longer than each of them."""
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
    """Refuse a filled cache under gradient checkpointing, where layers are computed again and write no cache."""
    if past_key_values is None or not model.training:
        return
    is_replayed = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if is_replayed and past_key_values.get_seq_length() > 0:
        raise ValueError(
            f"`past_key_values` with {int(past_key_values.get_seq_length())} tokens was passed to a model that trains "
            "with gradient checkpointing, where layers are computed again and write no cache. Call `model.eval()` to "
            "generate, or pass all tokens in one call."
        )


def check_generation_length(config: PreTrainedConfig, max_cache_length: int):
    """Refuse to generate more than can be read, before any work; the last new token is never read."""
    if max_cache_length > config.max_position_embeddings:
        raise ValueError(
            f"Generation may read {max_cache_length} tokens (prompt and `max_new_tokens` but the last), and "
            f"`max_position_embeddings` is {config.max_position_embeddings}. Ask for fewer new tokens or "
            "shorten the prompt."
        )


def check_ids(ids: torch.Tensor, name: str, size: int, size_name: str = "vocab_size"):
    """Refuse ids outside a table of `size` rows by name, where they can be looked at without waiting for a device."""
    if ids.device.type != "cpu" or torch.compiler.is_compiling() or ids.numel() == 0:
        return
    lowest, highest = ids.min(), ids.max()
    if lowest < 0 or highest >= size:
        hint = " Was the text tokenized with this model's tokenizer?" if size_name == "vocab_size" else ""
        raise ValueError(
            f"`{name}` holds {int(lowest if lowest < 0 else highest)}, but ids are 0 to {size - 1} (`{size_name}` "
            f"{size}).{hint}"
        )


__all__ = [
    "check_cache_in_replay",
    "check_generation_length",
    "check_ids",
    "check_length",
    "check_tokens",
]
