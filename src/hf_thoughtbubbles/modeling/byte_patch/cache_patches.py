# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The cache of a byte-patch model, which generates byte by byte and runs its core once a patch.

It stores of each byte: its id, whether it is padding, whether it ends its patch, and the byte decoder's keys and
values. Of each finished patch: the core's keys and values, and the context that the byte decoder gets. Rows finish
patches at different bytes, so every row has its own slots; a slot after a row's finished patches is overwritten by
the next patch.

Shapes: B batch, b rows of which a patch ends, T bytes, P slots, m new patches, N heads, H head size, E byte width,
W bytes in a patch.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers.cache_utils import Cache, DynamicLayer
from transformers.configuration_utils import PreTrainedConfig

from ..common.cache_room import make_room


class PatchSlots(NamedTuple):
    """The slots of new patches."""

    rows: torch.LongTensor  # (b,) of the batch
    first: torch.LongTensor  # (b,) the first free slot of each
    num_filled: int  # slots that any row of the batch fills
    num_used: int  # slots that these rows fill, with the new patches

    def write(self, storage: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Write `values` `(b, m, ...)` into `storage` `(B, P, ...)`, or into a longer copy of it."""
        num_kept = min(self.num_filled, storage.shape[1])
        storage = make_room(storage, values, num_kept, max(num_kept, self.num_used), dim=1)
        slots = self.first[:, None] + torch.arange(values.shape[1], device=values.device)
        storage[self.rows[:, None], slots] = values
        return storage


class PatchSlotLayer(DynamicLayer):
    """Keys and values of patches, `(B, P, N, H)`."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, slots: PatchSlots | None = None):
        """Store keys and values `(b, N, m, H)` and return the rows' `(b, N, P, H)`; at first without slots."""
        if slots is None:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.keys, self.values = key_states.transpose(1, 2), value_states.transpose(1, 2)
            return key_states, value_states
        self.keys = slots.write(self.keys, key_states.transpose(1, 2))
        self.values = slots.write(self.values, value_states.transpose(1, 2))
        used = [states[:, : slots.num_used] for states in (self.keys, self.values)]
        if len(slots.rows) < len(self.keys):  # without this test, all rows would be copied
            used = [states.index_select(0, slots.rows) for states in used]
        return tuple(states.transpose(1, 2) for states in used)

    def crop(self, tokens_to_remove: int) -> None:
        """Keep all slots: the remaining bytes tell how many of them count."""


class ByteSlotLayer(DynamicLayer):
    """Keys and values of bytes, `(B, T, N, H)`, with spare slots."""

    def __init__(self):
        super().__init__()
        self.num_bytes = 0

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args):
        """Store keys and values `(B, N, n, H)` and return those of all bytes, `(B, N, T, H)`."""
        start, self.num_bytes = self.num_bytes, self.num_bytes + key_states.shape[2]
        key_states, value_states = key_states.transpose(1, 2), value_states.transpose(1, 2)
        if start == 0:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.keys, self.values = key_states, value_states
        else:
            self.keys = make_room(self.keys, key_states, start, self.num_bytes, dim=1)
            self.values = make_room(self.values, value_states, start, self.num_bytes, dim=1)
            self.keys[:, start : self.num_bytes] = key_states
            self.values[:, start : self.num_bytes] = value_states
        return tuple(states[:, : self.num_bytes].transpose(1, 2) for states in (self.keys, self.values))

    def get_seq_length(self) -> int:
        """Cached bytes."""
        return self.num_bytes

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last bytes."""
        self.num_bytes += tokens_to_remove


class PatchCache(Cache):
    """
    The cache of a byte-patch model; it counts bytes. The model builds one with `use_cache=True`.

    Args:
        config ([`BytePatchConfig`]): the model's.

    Example:

    >>> from hf_thoughtbubbles import BytePatchConfig
    >>> PatchCache(BytePatchConfig()).get_seq_length()
    0
    """

    def __init__(self, config: PreTrainedConfig):
        num_byte_layers = config.num_hidden_layers if config.decoder == "autoregressive" else 0
        layers = [PatchSlotLayer() for _ in range(config.core_num_hidden_layers)]
        super().__init__(layers=layers + [ByteSlotLayer() for _ in range(num_byte_layers)])
        self.given_ends: torch.BoolTensor | None = None  # (B, K) of the prompt, when its `patch_lengths` were passed
        self.clear()

    def clear(self):
        """Remove all bytes and patches."""
        self.input_ids: torch.LongTensor | None = None  # (B, T)
        self.token_mask: torch.BoolTensor | None = None  # (B, T)
        self.is_end: torch.BoolTensor | None = None  # (B, T)
        self.contexts: torch.FloatTensor | None = None  # (B, 1 + P, E or D), slot n for n finished patches
        self.patch_bytes: torch.FloatTensor | None = None  # (B, W, E), the parallel decoder's states of the open patch
        self.num_finished: torch.LongTensor | None = None  # (B,), patches that were finished then

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Cached bytes."""
        return 0 if self.input_ids is None else self.input_ids.shape[1]

    def get_given_ends(self, start: int, stop: int) -> torch.Tensor | None:
        """The given ends among bytes `start` to `stop`, `(B, n)`; ends of later bytes are found by the model."""
        if self.given_ends is None or start >= self.given_ends.shape[1]:
            return None
        return self.given_ends[:, start:stop]

    def get_last_bytes(self, num_bytes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, mask and ends `(B, K)` of the last K bytes."""
        return tuple(values[:, -num_bytes:] for values in (self.input_ids, self.token_mask, self.is_end))

    def append_bytes(self, input_ids: torch.Tensor, token_mask: torch.Tensor, is_end: torch.Tensor):
        """Store bytes `(B, n)`."""
        if self.input_ids is not None:
            input_ids = torch.cat((self.input_ids, input_ids), dim=1)
            token_mask = torch.cat((self.token_mask, token_mask), dim=1)
            is_end = torch.cat((self.is_end, is_end), dim=1)
        self.input_ids, self.token_mask, self.is_end = input_ids, token_mask, is_end

    def write_contexts(self, contexts: torch.Tensor, slots: PatchSlots | None = None):
        """Store contexts `(b, m, E or D)` of new patches; at first, without slots, those of whole rows."""
        if slots is None:
            self.contexts = contexts
        else:  # slot 0 is the context while no patch is finished
            moved = PatchSlots(slots.rows, slots.first + 1, slots.num_filled + 1, slots.num_used + 1)
            self.contexts = moved.write(self.contexts, contexts)

    def update_patch_bytes(
        self, num_finished: torch.Tensor, decode_rows: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """States `(B, W, E)` of the bytes of open patches; decoded again for rows `(b,)` that ended a patch."""
        if self.patch_bytes is None:
            rows = torch.arange(len(num_finished), device=num_finished.device)
            self.patch_bytes = decode_rows(rows)
        else:
            rows = (num_finished != self.num_finished).nonzero().flatten()
            if len(rows) > 0:
                self.patch_bytes = self.patch_bytes.index_copy(0, rows, decode_rows(rows))
        self.num_finished = num_finished
        return self.patch_bytes

    def _change(self, change):
        """Apply `change` to every tensor that has a row for each text."""
        for name in ("given_ends", "input_ids", "token_mask", "is_end", "contexts", "patch_bytes", "num_finished"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, change(value))

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last `-tokens_to_remove` bytes; patches that ended there are open again."""
        if tokens_to_remove > 0 or -tokens_to_remove > self.get_seq_length():
            raise ValueError(
                f"`tokens_to_remove` is {tokens_to_remove}; it must be 0 or negative, and at least "
                f"{-self.get_seq_length()}: the cache holds {self.get_seq_length()} bytes."
            )
        if tokens_to_remove == 0:
            return
        super().crop(tokens_to_remove)
        for name in ("input_ids", "token_mask", "is_end"):
            setattr(self, name, getattr(self, name)[:, :tokens_to_remove])
        self.patch_bytes = self.num_finished = None

    def reset(self) -> None:
        """Remove everything, with the given ends."""
        self.layers = [type(layer)() for layer in self.layers]
        self.given_ends = None
        self.clear()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Rows in the order of `beam_idx` `(B,)`."""
        super().reorder_cache(beam_idx)
        self._change(lambda value: value.index_select(0, beam_idx.to(value.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        self._change(lambda value: value.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """The rows `indices` alone."""
        super().batch_select_indices(indices)
        self._change(lambda value: value[indices, ...])


__all__ = ["ByteSlotLayer", "PatchCache", "PatchSlotLayer", "PatchSlots"]
