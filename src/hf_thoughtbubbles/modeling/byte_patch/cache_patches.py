# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What does a byte-patch model remember while it writes byte by byte?

Of each byte: its id, whether it is padding, whether it ends its patch, and the byte decoder's keys and values. Of each
finished patch: the core's keys, values and state. Rows finish patches at different bytes, so every row has its own
slots; what lies beyond a row's finished patches is overwritten by the next one.

Shapes: B batch, T bytes, P slots for patches, N heads, H head size, D hidden, E byte width, W bytes in a patch.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache, DynamicLayer
from transformers.configuration_utils import PreTrainedConfig


NUM_SPARE_SLOTS = 16
SPARE_SHARE = 0.25  # of the slots in use


def make_room(storage: torch.Tensor, values: torch.Tensor, num_kept: int, num_needed: int) -> torch.Tensor:
    """
    Storage `(B, P, ...)` with the first `num_kept` of its slots and room for `num_needed`, into which `values` may be
    written in place: a longer copy where it is too short, where gradients flow, and where inference mode locked it.
    """
    is_tracked = storage.requires_grad or values.requires_grad
    is_locked = storage.is_inference() and not torch.is_inference_mode_enabled()
    if storage.shape[1] >= num_needed and not is_tracked and not is_locked:
        return storage
    kept = storage[:, :num_kept]
    room = num_needed - kept.shape[1] + NUM_SPARE_SLOTS + int(SPARE_SHARE * num_needed)
    return F.pad(kept, (0, 0) * (storage.ndim - 2) + (0, room))


class PatchSlots(NamedTuple):
    """Where new patches go: rows `(b,)` of the batch, and the first free slot of each `(b,)`; at most `num_used`."""

    rows: torch.LongTensor
    first: torch.LongTensor
    num_used: int

    def write(self, storage: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Write `values` `(b, m, ...)` into `storage` `(B, P, ...)`, which is made longer when it is too short."""
        storage = make_room(storage, values, max(self.num_used, storage.shape[1]), self.num_used)
        places = self.first[:, None] + torch.arange(values.shape[1], device=values.device)
        storage[self.rows[:, None], places] = values
        return storage


class PatchSlotLayer(DynamicLayer):
    """Keys and values of patches `(B, P, N, H)`, in slots of their rows."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, slots: PatchSlots | None = None):
        """Write keys and values `(b, N, m, H)`; gives the rows' `(b, N, P, H)`. The first come without slots."""
        if slots is None:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.keys, self.values = key_states.transpose(1, 2), value_states.transpose(1, 2)
            return key_states, value_states
        self.keys = slots.write(self.keys, key_states.transpose(1, 2))
        self.values = slots.write(self.values, value_states.transpose(1, 2))
        used = [states[:, : slots.num_used] for states in (self.keys, self.values)]
        if len(slots.rows) < len(self.keys):  # all rows are not copied
            used = [states.index_select(0, slots.rows) for states in used]
        return tuple(states.transpose(1, 2) for states in used)

    def crop(self, tokens_to_remove: int) -> None:
        """Nothing: how many slots count follows from the bytes that are left."""


class ByteSlotLayer(DynamicLayer):
    """Keys and values of bytes `(B, T, N, H)`, with spare room behind them so that one more byte copies nothing."""

    def __init__(self):
        super().__init__()
        self.num_bytes = 0

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args):
        """Add keys and values `(B, N, n, H)`; gives those of all bytes, `(B, N, T, H)`."""
        start, self.num_bytes = self.num_bytes, self.num_bytes + key_states.shape[2]
        key_states, value_states = key_states.transpose(1, 2), value_states.transpose(1, 2)
        if start == 0:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.keys, self.values = key_states, value_states
        else:
            self.keys = make_room(self.keys, key_states, start, self.num_bytes)
            self.values = make_room(self.values, value_states, start, self.num_bytes)
            self.keys[:, start : self.num_bytes] = key_states
            self.values[:, start : self.num_bytes] = value_states
        return tuple(states[:, : self.num_bytes].transpose(1, 2) for states in (self.keys, self.values))

    def get_seq_length(self) -> int:
        """Cached bytes."""
        return self.num_bytes

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last bytes."""
        self.num_bytes += tokens_to_remove


class PatchCache(Cache):
    """
    The cache of a byte-patch model; counts bytes. The model makes one by itself with `use_cache=True`.

    Args:
        config ([`BytePatchConfig`]): the model's.

    Example:

    >>> from hf_thoughtbubbles import BytePatchConfig
    >>> PatchCache(BytePatchConfig()).get_seq_length()
    0
    """

    def __init__(self, config: PreTrainedConfig):
        num_byte_layers = config.num_byte_decoder_layers if config.decoder == "autoregressive" else 0
        layers = [PatchSlotLayer() for _ in range(config.num_hidden_layers)]
        super().__init__(layers=layers + [ByteSlotLayer() for _ in range(num_byte_layers)])
        self.given_ends: torch.BoolTensor | None = None  # (B, K) of the prompt, where they were said to be
        self.forget()

    def forget(self):
        """Nothing has been read yet."""
        self.input_ids: torch.LongTensor | None = None  # (B, T)
        self.token_mask: torch.BoolTensor | None = None  # (B, T)
        self.is_end: torch.BoolTensor | None = None  # (B, T)
        self.states: torch.FloatTensor | None = None  # (B, P, D) of the core
        self.written: torch.FloatTensor | None = None  # (B, W, E), the parallel decoder's open patch
        self.written_group: torch.LongTensor | None = None  # (B,) patches that were finished then

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Cached bytes."""
        return 0 if self.input_ids is None else self.input_ids.shape[1]

    def get_given_ends(self, start: int, stop: int) -> torch.Tensor | None:
        """The ends among bytes `start` to `stop` that were given, `(B, n)`; those after them are to be found."""
        if self.given_ends is None or start >= self.given_ends.shape[1]:
            return None
        return self.given_ends[:, start:stop]

    def append(self, input_ids: torch.Tensor, token_mask: torch.Tensor, is_end: torch.Tensor):
        """Remember bytes `(B, n)`."""
        if self.input_ids is None:
            self.input_ids, self.token_mask, self.is_end = input_ids, token_mask, is_end
            return
        self.input_ids = torch.cat((self.input_ids, input_ids), dim=1)
        self.token_mask = torch.cat((self.token_mask, token_mask), dim=1)
        self.is_end = torch.cat((self.is_end, is_end), dim=1)

    def _change(self, change):
        """Apply `change` to everything that has a row each."""
        for name in ("given_ends", "input_ids", "token_mask", "is_end", "states", "written", "written_group"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, change(value))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last `-tokens_to_remove` bytes; patches that ended there are open again."""
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
        self.written = self.written_group = None

    def reset(self) -> None:
        """Forget everything."""
        self.layers = [type(layer)() for layer in self.layers]
        self.given_ends = None
        self.forget()

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
