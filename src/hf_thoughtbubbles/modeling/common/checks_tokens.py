# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation that all families share: token ids, masks, position ids and lengths.

Types and shapes are always checked. Values are checked only on the CPU and outside of compiled graphs, because reading
a value from an accelerator waits for it. While a model is compiled, sizes are symbols, which compare but have no hash.
"""

import torch
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .checks_caches import check_one_cache


logger = logging.get_logger(__name__)

ID_TYPES = (torch.int64, torch.int32)  # that embeddings take


def can_read(values: torch.Tensor) -> bool:
    """Whether values may be read: on the CPU, and outside of compiled or traced graphs."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def describe_type(given: object) -> str:
    """A tensor's dtype, or the class of anything else, for an error."""
    return f"a tensor of {given.dtype}" if isinstance(given, torch.Tensor) else f"a `{type(given).__name__}`"


def check_tokens(
    config: PreTrainedConfig,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: torch.Tensor | None = None,
    mask_refusal: str | None = None,
) -> torch.Tensor | None:
    """
    Raise for tokens whose types, shapes, number or values do not fit.

    Args:
        config, input_ids, attention_mask, position_ids, past_key_values, inputs_embeds: the arguments of a model.
        mask_refusal (`str`, *optional*): the reason why a family takes no masks of query and key pairs.

    Returns:
        The mask to use: `attention_mask`, or `None` where [`read_mask`] finds that it hides nothing.
    """
    check_one_cache(past_key_values)
    batch_size, num_tokens = _check_shape(config, input_ids, inputs_embeds)
    num_seen_tokens = num_tokens + _count_past_tokens(past_key_values)
    is_counted = isinstance(num_seen_tokens, int)
    if attention_mask is not None:
        check_mask_type(attention_mask, "attention_mask")
        if attention_mask.ndim != 2:  # over query and key pairs
            needed = batch_size, num_tokens, num_seen_tokens if is_counted else None
            _check_pair_mask(attention_mask, *needed, past_key_values, mask_refusal)
        elif is_counted:
            _check_mask(attention_mask, batch_size, num_seen_tokens, past_key_values)
    attention_mask = read_mask(attention_mask)
    if position_ids is not None:
        _check_positions(config, position_ids)
        if tuple(position_ids.shape) not in ((1, num_tokens), (batch_size, num_tokens)):
            raise ValueError(
                f"`position_ids` has shape {tuple(position_ids.shape)}, but the input needs "
                f"{(batch_size, num_tokens)}: one entry per row and token."
            )
    if is_counted:
        _check_length(config, num_seen_tokens, attention_mask, position_ids, past_key_values)
        _check_room(num_seen_tokens, past_key_values)
    if input_ids is not None:
        check_ids(input_ids, "input_ids", config.vocab_size)
    return attention_mask


def _check_shape(
    config: PreTrainedConfig, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None
) -> tuple[int, int]:
    """Return the number of rows and of tokens in a row, after checking that one of the inputs has a right shape."""
    if (input_ids is None) == (inputs_embeds is None):
        passed = "neither was" if input_ids is None else "both were"
        raise ValueError(f"Pass exactly one of `input_ids` and `inputs_embeds`; {passed} passed.")
    if inputs_embeds is None:
        given, name, shape = input_ids, "input_ids", "(B, T)"
        check_id_type(input_ids, name)
    else:
        given, name, shape = inputs_embeds, "inputs_embeds", "(B, T, hidden_size)"
        check_vectors(inputs_embeds, name)
    has_width = inputs_embeds is None or given.shape[-1] == config.hidden_size
    if given.ndim != shape.count(",") + 1 or 0 in given.shape or not has_width:
        raise ValueError(f"`{name}` has shape {tuple(given.shape)}; it must be {shape}, with no size 0.")
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


def check_mask_type(mask: object, name: str):
    """Raise for a mask that is no tensor, or one of complex numbers."""
    if not isinstance(mask, torch.Tensor) or mask.is_complex():
        raise ValueError(
            f"`{name}` is {describe_type(mask)}; pass a tensor, with 1 for real tokens and 0 for padding."
        )


def read_mask(mask: torch.Tensor | None, name: str = "attention_mask") -> torch.Tensor | None:
    """
    A mask `(B, M)` of any number type, or `None` if it hides nothing. Masks of pairs are returned as they are, and so
    are those whose values cannot be read.

    Raises:
        `ValueError`: for other numbers than 0 and 1, such as those of an additive mask.

    >>> read_mask(torch.ones(1, 3)), read_mask(torch.tensor([[0, 1, 1]]))
    (None, tensor([[0, 1, 1]]))
    """
    if mask is None or mask.ndim != 2 or not can_read(mask):
        return mask
    lowest, highest = (bound.item() for bound in mask.aminmax())
    is_binary = lowest in (0, 1) and highest in (0, 1)
    if is_binary and mask.is_floating_point() and lowest != highest:
        is_binary = bool(((mask == 0) | (mask == 1)).all())
    if not is_binary:
        raise ValueError(
            f"`{name}` holds numbers from {lowest} to {highest}; it must hold 1 (or True) for real tokens and 0 (or "
            "False) for padding. Additive masks need a shape of (B, 1, T, M)."
        )
    return None if lowest == 1 else mask


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


def _check_pair_mask(
    mask: torch.Tensor,
    batch_size: int,
    num_tokens: int,
    num_seen_tokens: int | None,
    past_key_values: Cache | None,
    mask_refusal: str | None,
):
    """Raise for a mask over query and key pairs that attention would not read, or would read in another sense."""
    if mask_refusal or mask.ndim != 4:
        raise ValueError(
            f"`attention_mask` has {mask.ndim} dimensions; pass one of shape {(batch_size, num_tokens)} "
            f"with 1 for real tokens. {mask_refusal or ''}".rstrip()
        )
    is_long = num_seen_tokens is None or mask.shape[3] == num_seen_tokens
    if past_key_values is not None and past_key_values.is_compileable:
        is_long = is_long or mask.shape[3] == past_key_values.layers[0].max_cache_len
    if mask.shape[0] not in (1, batch_size) or mask.shape[2] != num_tokens or not is_long:
        raise ValueError(
            f"`attention_mask` has shape {tuple(mask.shape)}, but pairs of tokens need "
            f"{(batch_size, 1, num_tokens, num_seen_tokens)}: one entry per row, query and key."
        )
    is_additive = mask.is_floating_point()
    if not is_additive and mask.dtype != torch.bool:
        raise ValueError(
            f"`attention_mask` over pairs is {describe_type(mask)}; it must be boolean, with True where a query "
            "attends to a key, or additive: 0 there and -inf elsewhere."
        )
    if is_additive and can_read(mask) and mask.max() > 0:
        raise ValueError(
            f"`attention_mask` over pairs holds {mask.max().item()}, but one of {mask.dtype} is added to scores: 0 "
            "where a query attends to a key, -inf elsewhere. Pass `attention_mask.bool()` if 1 means attend."
        )


def _check_positions(config: PreTrainedConfig, position_ids: torch.Tensor):
    """Raise for positions that are negative, no whole numbers, or outside of a table; warn of late ones elsewhere."""
    if config.has_position_table:
        check_ids(position_ids, "position_ids", config.max_position_embeddings, "max_position_embeddings")
        return
    check_id_type(position_ids, "position_ids")
    if not can_read(position_ids) or position_ids.numel() == 0:
        return
    lowest, highest = (bound.item() for bound in position_ids.aminmax())
    if lowest < 0:
        raise ValueError(f"`position_ids` holds {lowest}, but positions are counted from 0. Pass numbers from 0 on.")
    warn_of_late_positions(config, highest + 1)


def warn_of_late_positions(config: PreTrainedConfig, num_tokens: int):
    """Warn once of texts longer than `max_position_embeddings`, in a model whose positions are computed."""
    if num_tokens > config.max_position_embeddings:
        logger.warning_once(
            f"A text is, or may become, longer than `max_position_embeddings` {config.max_position_embeddings}. The "
            "model computes later positions, but its predictions may be worse there if it was not trained on them. "
            "Shorten the text, train on longer ones, or scale rotary positions with `rope_parameters`."
        )


def _check_length(
    config: PreTrainedConfig,
    num_tokens: int,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    past_key_values: Cache | None,
):
    """
    Raise for more tokens than a table of positions has rows, and warn of them where positions are computed. A row that
    packs documents may be longer than each of them.
    """
    if not config.has_position_table:
        if position_ids is None and not torch.compiler.is_compiling():  # a comparison would bound an open size
            warn_of_late_positions(config, num_tokens)
        return
    if num_tokens <= config.max_position_embeddings:
        return
    if position_ids is not None and past_key_values is None and (attention_mask is None or not can_read(position_ids)):
        return
    raise ValueError(
        f"The input is {num_tokens} tokens long, but `max_position_embeddings` is "
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
    """Raise, before any work, when generation would read more tokens than a table of positions has; or warn of it."""
    if not config.has_position_table:
        warn_of_late_positions(config, max_cache_length)
    elif max_cache_length > config.max_position_embeddings:
        raise ValueError(
            f"Generation may read {max_cache_length} tokens (prompt and `max_new_tokens` but the last), and "
            f"`max_position_embeddings` is {config.max_position_embeddings}. Ask for fewer new tokens or "
            "shorten the prompt."
        )


def check_vectors(vectors: object, name: str):
    """Raise for vectors that are no tensor of floating-point numbers."""
    if not isinstance(vectors, torch.Tensor) or not vectors.is_floating_point():
        raise ValueError(f"`{name}` is {describe_type(vectors)}; it must be a tensor of floating-point numbers.")


def check_id_type(ids: object, name: str):
    """Raise for ids that are no tensor of whole numbers."""
    if not isinstance(ids, torch.Tensor) or ids.dtype not in ID_TYPES:
        raise ValueError(f"`{name}` is {describe_type(ids)}; it must be a tensor of whole numbers (`torch.long`).")


def check_ids(ids: torch.Tensor, name: str, size: int, size_name: str = "vocab_size"):
    """Raise for ids that are no tensor of whole numbers, or outside a table of `size` rows."""
    check_id_type(ids, name)
    if not can_read(ids) or ids.numel() == 0:
        return
    lowest, highest = (bound.item() for bound in ids.aminmax())
    if lowest < 0 or highest >= size:
        hint = " Was the text tokenized with this model's tokenizer?" if size_name == "vocab_size" else ""
        raise ValueError(
            f"`{name}` holds {lowest if lowest < 0 else highest}, but ids are 0 to {size - 1} (`{size_name}` "
            f"{size}).{hint}"
        )


__all__ = [
    "can_read",
    "check_cache_in_replay",
    "check_generation_length",
    "check_id_type",
    "check_ids",
    "check_mask_type",
    "check_tokens",
    "check_vectors",
    "describe_type",
    "read_mask",
    "warn_of_late_positions",
]
