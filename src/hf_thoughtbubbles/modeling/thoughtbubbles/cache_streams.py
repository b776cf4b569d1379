# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""KV cache of streams.

A token has one stream or many, so the rows of a batch fill a layer at different speeds. The slots of a row have no
gaps and follow the order of tokens: the next stream of row b gets slot `lengths[b]`, and a stream attends to its own
slot and those before it. That one comparison also hides the slots that only longer rows have. Every length that
transformers asks for is in tokens.

Until a call runs fork layers, which none does with anchored scores and a budget of 1, a layer holds tokens as a native
cache does, padding included. That call moves them into slots.

Shapes: B batch, S new streams, C slots, K heads of keys, H head size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticLayer
from transformers.configuration_utils import PreTrainedConfig

from ..common.cache_room import make_room
from .streams import count_streams


LAYER_TYPE = "stream_attention"
NO_TOKEN = torch.iinfo(torch.long).max  # in slots that a row has not filled


@dataclass(frozen=True)
class StreamSlots:
    """
    The slots of one call's streams, the same for all layers between two forks.

    Args:
        slots (`torch.LongTensor` of shape `(B, S)`): the slot of each new stream. In a static layout fillers get slots
            after their row's streams, which the row's next streams overwrite.
        first_slot (`int`, *optional*): the slot of the first new stream when it is the same in all rows; saves an
            indexed write.
        num_slots (`int`): C, the slots in use afterwards.
        num_tokens (`int`): tokens of this call.
        token_index (`torch.LongTensor` of shape `(B, C)`, *optional*): the token of each slot afterwards, counted from
            the first cached token, in a growing layout.
        lengths (`torch.LongTensor` of shape `(B,)`, *optional*): streams of each row afterwards, in a static layout,
            which cannot be cropped and so needs no more.
        packed (`torch.LongTensor` of shape `(n,)`, *optional*): in a growing layout with fillers, the index of each
            stream that is none among all `B * S`. Layers compute these streams alone, as one row `(1, n, ...)`.
        past_order (`torch.LongTensor` of shape `(B, P)`, *optional*): where the cache holds tokens with padding, their
            order in slots, from [`sort_tokens`].
    """

    slots: torch.LongTensor
    first_slot: int | None
    num_slots: int
    num_tokens: int
    token_index: torch.LongTensor | None = None
    lengths: torch.LongTensor | None = None
    packed: torch.LongTensor | None = None
    past_order: torch.LongTensor | None = None

    @property
    def needs_mask(self) -> bool:
        """Whether a fused causal kernel would attend to other slots than it should."""
        return not (self.first_slot == 0 or (self.first_slot is not None and self.slots.shape[1] == 1))

    def pack(self, states: torch.Tensor) -> torch.Tensor:
        """States `(B, S, ...)` of all streams to `(1, n, ...)` of those that are no fillers."""
        return states if self.packed is None else states.flatten(0, 1).index_select(0, self.packed)[None]

    def unpack(self, states: torch.Tensor) -> torch.Tensor:
        """States `(1, n, ...)` to `(B, S, ...)`; those of fillers are 0."""
        if self.packed is None:
            return states
        filled = states.new_zeros(self.slots.numel(), *states.shape[2:]).index_copy(0, self.packed, states[0])
        return filled.view(*self.slots.shape, *states.shape[2:])

    def write(self, storage: torch.Tensor, states: torch.Tensor):
        """Put `states` `(B, K, S, H)`, or packed ones `(1, K, n, H)`, into `storage` `(B, K, C or more, H)`."""
        if self.packed is not None:
            rows = self.packed // self.slots.shape[1]
            storage[rows, :, self.slots.flatten()[self.packed]] = states[0].transpose(0, 1)
        elif self.first_slot is not None:
            storage[:, :, self.first_slot : self.first_slot + states.shape[2]] = states
        else:
            rows = torch.arange(states.shape[0], device=states.device)[:, None]
            storage[rows, :, self.slots] = states.transpose(1, 2)


def count_kept_tokens(tokens_to_remove: int, num_tokens: int) -> int:
    """Tokens that stay. Negative: how many to remove; positive, in older transformers: how many to keep."""
    num_kept = num_tokens + tokens_to_remove if tokens_to_remove <= 0 else min(tokens_to_remove, num_tokens)
    if num_kept < 0:
        raise ValueError(
            f"`crop({tokens_to_remove})` would remove more tokens than the {num_tokens} that the cache holds. Remove "
            "at most as many, or `reset()` it."
        )
    return num_kept


def sort_tokens(past_mask: torch.Tensor) -> torch.LongTensor:
    """Indices `(B, P)` of cached tokens, those of the mask `(B, P)` first and in order."""
    return (~past_mask).long().argsort(dim=-1, stable=True)


def gather_tokens(states: torch.Tensor, order: torch.LongTensor | None) -> torch.Tensor:
    """The keys or values `(B, K, P, H)` of cached tokens in the order `(B, P)` or a part of it, when there is one."""
    return states if order is None else states.take_along_dim(order[:, None, :, None], dim=2)


class StreamLayer(DynamicLayer):
    """
    Keys and values of streams, growing as needed. transformers builds it wherever `config.layer_types` says
    `"stream_attention"`, so `DynamicCache(config=...)` has it as well.

    `keys` and `values` of shape `(B, K, at least C, H)` have spare slots at the end; `token_index` `(B, C)` marks
    the filled ones. `get_seq_length` counts tokens. Until a call passes slots, `token_index` is `None` and a token has
    one slot. With a score channel beside a head's own, keys and values get wider then.
    """

    _layer_type = LAYER_TYPE

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.num_tokens = 0
        self.token_index: torch.LongTensor | None = None

    def __repr__(self) -> str:
        num_slots = self.num_tokens if self.token_index is None else self.token_index.shape[1]
        return f"StreamLayer({self.num_tokens} tokens in {num_slots} slots)"

    @property
    def batch_size(self) -> int:
        """Rows of the cache; -1 while it is empty."""
        return self.keys.shape[0] if self.num_tokens > 0 else -1

    @property
    def has_streams(self) -> bool:
        """Whether slots hold streams; otherwise they hold tokens, or nothing."""
        return self.token_index is not None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor, batch_size: int | None = None):
        """Make empty storage for `batch_size` rows, by default as many as those of the states."""
        super().lazy_initialization(key_states, value_states)
        batch_size = batch_size or key_states.shape[0]
        self.keys = key_states.new_zeros(batch_size, key_states.shape[1], 0, key_states.shape[3])
        self.values = value_states.new_zeros(batch_size, value_states.shape[1], 0, value_states.shape[3])

    def list_past(
        self, token_index: torch.Tensor, past_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.LongTensor | None]:
        """
        The token of each filled slot `(B, C)`, and the order of tokens with padding in slots, for
        [`StreamSlots`].
        """
        if self.token_index is not None:
            return self.token_index, None
        if past_mask is None or self.num_tokens == 0:
            past = torch.arange(self.num_tokens, device=token_index.device)
            return past.expand(token_index.shape[0], -1), None
        past_mask = past_mask[:, : self.num_tokens]
        order, lengths = sort_tokens(past_mask), past_mask.sum(-1, keepdim=True)
        order = order[:, : int(lengths.max())]
        is_empty = torch.arange(order.shape[1], device=order.device) >= lengths
        return order.masked_fill(is_empty, NO_TOKEN), order

    def allocate_slots(
        self,
        token_index: torch.Tensor,
        num_tokens: int,
        streams_per_token: int,
        past_mask: torch.Tensor | None = None,
    ) -> StreamSlots:
        """
        Plan the slots of the next call's streams; nothing is written yet.

        Args:
            token_index (`torch.LongTensor` of shape `(B, S)`): the token of each new stream; `num_tokens` for fillers,
                which are at the end of their row.
            num_tokens (`int`): tokens of the call.
            streams_per_token (`int`): the most streams a token can have.
            past_mask (`torch.BoolTensor` of shape `(B, at least the cached tokens)`, *optional*): False for padding.
                Without streams in the cache its slots have padding, which is dropped.
        """
        batch_size, num_streams = token_index.shape
        past, order = self.list_past(token_index, past_mask)
        num_filled, steps = past.shape[1], torch.arange(num_streams, device=token_index.device)
        is_live = token_index < num_tokens
        added = torch.where(is_live, token_index + self.num_tokens, NO_TOKEN)
        if num_streams == 1 and not is_live.any():  # padding alone: nothing stays, but its filler needs a slot
            slots = (past != NO_TOKEN).sum(-1, keepdim=True)
            return StreamSlots(slots, None, num_filled + 1, num_tokens, token_index=past, past_order=order)
        packed = is_live.flatten().nonzero()[:, 0] if batch_size > 1 else None  # one row alone has no fillers
        if packed is not None and packed.shape[0] == batch_size * num_streams:
            packed = None
        if num_filled == 0 or batch_size == 1:  # one row, or the first call, leaves no row behind another
            slots, num_slots = (steps + num_filled).expand(batch_size, -1), num_filled + num_streams
            token_index = torch.cat((past, added), dim=1)
            return StreamSlots(slots, num_filled, num_slots, num_tokens, token_index, None, packed, order)
        lengths = (past != NO_TOKEN).sum(-1)
        slots, num_slots = lengths[:, None] + steps, int((lengths + is_live.sum(-1)).max())
        token_index = torch.cat((past, torch.full_like(added, NO_TOKEN)), dim=1).scatter_(1, slots, added)
        token_index = token_index[:, :num_slots]
        return StreamSlots(slots, None, num_slots, num_tokens, token_index, None, packed, order)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args,
        slots: StreamSlots | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Write new keys and values `(B, K, S, H)`, or packed ones, into `slots`; returns those of all C slots. Without
        `slots` they are those of tokens and follow the tokens before.
        """
        if slots is None:
            self.num_tokens += key_states.shape[2]
            return super().update(key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states, slots.slots.shape[0])
        if self.token_index is None:
            self.keys, self.values = (gather_tokens(past, slots.past_order) for past in (self.keys, self.values))
            num_filled = self.keys.shape[2]
        else:
            num_filled = self.token_index.shape[1]
        num_channels = key_states.shape[3] - self.keys.shape[3]
        if num_channels > 0:
            self.keys, self.values = (F.pad(past, (0, num_channels)) for past in (self.keys, self.values))
        self.keys = make_room(self.keys, key_states, num_filled, slots.num_slots, dim=2)
        self.values = make_room(self.values, value_states, num_filled, slots.num_slots, dim=2)
        slots.write(self.keys, key_states)
        slots.write(self.values, value_states)
        self.token_index, self.num_tokens = slots.token_index, self.num_tokens + slots.num_tokens
        return self.keys[:, :, : slots.num_slots], self.values[:, :, : slots.num_slots]

    def get_seq_length(self) -> int:
        """Cached tokens."""
        return self.num_tokens

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last `-tokens_to_remove` tokens with all their streams."""
        num_kept = count_kept_tokens(tokens_to_remove, self.num_tokens)
        if num_kept == self.num_tokens:
            return
        if num_kept == 0:
            self.reset()
            return
        if self.token_index is None:
            super().crop(num_kept - self.num_tokens)
            self.num_tokens = num_kept
            return
        self.num_tokens = num_kept
        self.token_index = self.token_index.masked_fill(self.token_index >= num_kept, NO_TOKEN)
        self._trim()

    def _trim(self):
        """Drop the slots that no row fills, so that a single row has no empty ones."""
        num_slots = int((self.token_index != NO_TOKEN).sum(-1).max())
        self.token_index = self.token_index[:, :num_slots]

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.num_tokens, self.token_index = 0, None

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Rows in the order of `beam_idx` `(B,)`."""
        super().reorder_cache(beam_idx)
        if self.token_index is not None:
            self.token_index = self.token_index.index_select(0, beam_idx.to(self.token_index.device))
            if self.batch_size == 1:
                self._trim()

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        if self.token_index is not None:
            self.token_index = self.token_index.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """The rows `indices` alone."""
        super().batch_select_indices(indices)
        if self.token_index is not None:
            self.token_index = self.token_index[indices, ...]
            self._trim()


class StaticStreamLayer(StaticLayer):
    """
    Keys and values of streams in memory of a fixed size, for compiled generation: `max_cache_len` tokens of as many
    streams as forks can make. `StaticCache(config=...)` holds it where `config.layer_types` says `"stream_attention"`.
    Until a call passes slots, it has memory for as many tokens; that call allocates the memory for streams.
    """

    _layer_type = LAYER_TYPE
    supports_early_init = False  # the first call tells how many streams a token can have

    def __init__(self, max_cache_len: int, **kwargs):
        super().__init__(max_cache_len=max_cache_len, **kwargs)
        self.lengths: torch.LongTensor | None = None  # (B,) streams of each row

    @property
    def has_streams(self) -> bool:
        """As [`StreamLayer.has_streams`]."""
        return self.lengths is not None

    def list_past(
        self, token_index: torch.Tensor, past_mask: torch.Tensor | None
    ) -> tuple[torch.LongTensor, torch.LongTensor | None]:
        """Filled slots of each row `(B,)`, and the order of cached tokens in slots `(B, P)`."""
        if self.lengths is not None:
            return self.lengths, None
        if not self.is_initialized:
            return token_index.new_zeros(token_index.shape[0]), None
        is_past = torch.arange(self.max_cache_len, device=token_index.device) < self.cumulative_length
        if past_mask is None:
            return is_past.sum().expand(token_index.shape[0]), None
        missing = self.max_cache_len - past_mask.shape[1]
        is_past = is_past & F.pad(past_mask, (0, missing))
        return is_past.sum(-1), sort_tokens(is_past)

    def allocate_slots(
        self,
        token_index: torch.Tensor,
        num_tokens: int,
        streams_per_token: int,
        past_mask: torch.Tensor | None = None,
    ) -> StreamSlots:
        """As [`StreamLayer.allocate_slots`]; every slot is in use, and the mask hides those not filled."""
        num_streams = token_index.shape[1]
        lengths, order = self.list_past(token_index, past_mask)
        slots = lengths[:, None] + torch.arange(num_streams, device=token_index.device)
        lengths = lengths + (token_index < num_tokens).sum(-1)
        num_slots = self.max_cache_len * streams_per_token
        return StreamSlots(slots, None, num_slots, num_tokens, lengths=lengths, past_order=order)

    def make_streams(self, key_states: torch.Tensor, value_states: torch.Tensor, slots: StreamSlots):
        """Allocate memory for streams, and move the cached tokens into it."""
        past = (self.keys, self.values, self.cumulative_length) if self.is_initialized else None
        num_tokens, self.max_cache_len = self.max_cache_len, slots.num_slots
        self.lazy_initialization(key_states, value_states)
        self.max_cache_len = num_tokens
        self.lengths = torch.zeros_like(slots.lengths)
        if not torch.compiler.is_compiling():
            torch._dynamo.mark_static_address(self.lengths)
        if past is not None:
            for storage, states in ((self.keys, past[0]), (self.values, past[1])):
                storage[:, :, :num_tokens, : states.shape[3]] = gather_tokens(states, slots.past_order)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args,
        slots: StreamSlots | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As [`StreamLayer.update`], in place."""
        if slots is None:
            return super().update(key_states, value_states)
        if self.lengths is None:
            self.make_streams(key_states, value_states, slots)
        slots.write(self.keys, key_states)
        slots.write(self.values, value_states)
        self.lengths.copy_(slots.lengths)
        self.cumulative_length.add_(slots.num_tokens)
        return self.keys, self.values

    def reset(self) -> None:
        """Forget everything; the memory stays."""
        super().reset()
        if self.lengths is not None:
            self.lengths.zero_()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Rows in the order of `beam_idx` `(B,)`."""
        if self.is_initialized:
            super().reorder_cache(beam_idx)
        if self.lengths is not None:
            self.lengths = self.lengths.index_select(0, beam_idx.to(self.lengths.device))


class StreamCache(DynamicCache):
    """
    The cache of a model whose fork rule is causal: keys and values of tokens up to the first fork, of their streams
    after it. `get_seq_length`, `crop` and generation count tokens; rows may have different numbers of streams. The
    model makes one by itself with `use_cache=True`.

    Args:
        config ([`ThoughtbubblesConfig`]): the model's.
        offloading (`bool`, defaults to `False`): keep all but the current layer in the CPU's memory.

    Raises:
        `ValueError`: when the fork rule is not causal, so that no cache can be exact.

    Example:

    >>> import torch
    >>> from hf_thoughtbubbles import StreamCache, ThoughtbubblesConfig, ThoughtbubblesForCausalLM
    >>> config = ThoughtbubblesConfig(
    ...     vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, fork_layers=[1],
    ...     fork_rule="threshold",
    ... )
    >>> cache = StreamCache(config)
    >>> _ = ThoughtbubblesForCausalLM(config).eval()(torch.tensor([[1, 2, 3]]), past_key_values=cache)
    >>> cache.get_seq_length(), cache.count_streams().tolist()
    (3, [[[2, 2, 2]]])
    """

    def __init__(self, config: PreTrainedConfig, offloading: bool = False):
        if not config.is_cacheable:
            raise ValueError(
                f'`config` has `fork_rule="{config.fork_rule}"`, which chooses streams over the whole sequence, so no '
                'cache can be exact. Use a model with `fork_rule="threshold"`; `calibrate_forks` makes one.'
            )
        super().__init__(config=config, offloading=offloading)
        self.fork_layers = list(config.fork_layers)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last `-tokens_to_remove` tokens with all their streams."""
        count_kept_tokens(tokens_to_remove, self.get_seq_length())  # an error before any layer changes
        super().crop(tokens_to_remove)

    def count_streams(self) -> torch.LongTensor:
        """
        Streams of each cached token after each of F forks, `(F, B, T)`; padding has none. Until a call runs fork
        layers, which none does with anchored scores and a budget of 1, every token has one, padding included.
        """
        counts = []
        for layer_idx in self.fork_layers:
            layer = self.layers[layer_idx]
            if layer.num_tokens == 0:
                raise ValueError("The cache is empty; read some tokens with the model first.")
            if layer.token_index is None:
                counts.append(torch.ones(layer.batch_size, layer.num_tokens, dtype=torch.long, device=layer.device))
                continue
            counts.append(count_streams(layer.token_index, layer.num_tokens, layer.token_index != NO_TOKEN))
        if not counts:
            raise ValueError("The model has no fork layers, so every token has one stream.")
        return torch.stack(counts)


def allocate_slots(
    past_key_values: Cache | None,
    layer_idx: int,
    token_index: torch.Tensor,
    num_tokens: int,
    streams_per_token: int,
    past_mask: torch.Tensor | None,
) -> StreamSlots | None:
    """
    Plan the slots of new streams in the layers from `layer_idx` to the next fork; `None` without a cache.

    Args:
        past_key_values (`Cache`, *optional*): any cache that was made from the model's configuration.
        layer_idx (`int`): the fork layer.
        token_index, num_tokens, streams_per_token, past_mask: see [`StreamLayer.allocate_slots`].
    """
    if past_key_values is None:
        return None
    return past_key_values.layers[layer_idx].allocate_slots(token_index, num_tokens, streams_per_token, past_mask)


__all__ = ["StaticStreamLayer", "StreamCache", "StreamLayer", "StreamSlots", "allocate_slots"]
