# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A growing cache of a loop, whose slots of all steps share storage with room for more tokens.

The slots are transformers' own layers, whose keys and values are views of the storage: a new token is written in
place, and the parts of a memory are one tensor for a kernel. What replaces keys and values of a slot (another order of
beams, other rows, other devices) takes effect: the next token is written after a copy of them.

Shapes: R steps, B batch, K heads of keys and values, S tokens, C tokens that the storage has room for, H head size.
"""

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from ...configuration.configuration_looped_thinker_text import LoopedThinkerTextConfig
from ..common.cache_room import NUM_SPARE_SLOTS, SPARE_SHARE


class StepStorage:
    """Keys and values `(R, B, K, C, H)` of the slots that steps have in the same order."""

    def __init__(self, num_steps: int, key: torch.Tensor, num_tokens: int):
        num_tokens += NUM_SPARE_SLOTS + int(SPARE_SHARE * num_tokens)
        shape = (num_steps, *key.shape[:2], num_tokens, key.shape[3])
        self.keys, self.values = key.new_empty(shape), key.new_empty(shape)
        self.slots = list(zip(self.keys, self.values, strict=True))

    def fits(self, num_steps: int, key: torch.Tensor, num_tokens: int) -> bool:
        """Whether the storage has room for so many steps and tokens, and may be written in place."""
        is_like = self.keys.dtype == key.dtype and self.keys.device == key.device
        is_locked = self.keys.is_inference() and not torch.is_inference_mode_enabled()
        shape = self.keys.shape
        has_room = shape[0] >= num_steps and shape[3] >= num_tokens
        return is_like and has_room and not is_locked and shape[1:3] == key.shape[:2] and shape[4] == key.shape[3]

    def write(self, layer: DynamicLayer, step: int, states: tuple[torch.Tensor, torch.Tensor], start: int):
        """Write keys and values `(B, K, T, H)` after the `start` tokens of a slot."""
        slot, num_new = self.slots[step], states[0].shape[2]
        for storage, held in zip(slot, (layer.keys, layer.values), strict=True):
            is_held = start > 0 and (held.data_ptr(), held.stride()) == (storage.data_ptr(), storage.stride())
            if start > 0 and not is_held:
                storage.narrow(2, 0, start).copy_(held)
        for storage, new in zip(slot, states, strict=True):
            storage.narrow(2, start, num_new).copy_(new)
        layer.keys, layer.values = (storage.narrow(2, 0, start + num_new) for storage in slot)


class StepCache(DynamicCache):
    """
    A `DynamicCache` of a looped Thinker that reads text.

    Args:
        config ([`LoopedThinkerTextConfig`]): tells the slots of a step.
        num_steps (`int`): number of steps that the storage is allocated for; it grows for more.
    """

    def __init__(self, config: LoopedThinkerTextConfig, num_steps: int):
        super().__init__()  # without a configuration it grows to any number of steps
        self.first_slot, self.stride, self.num_steps = config.num_plain_layers, config.num_step_slots, num_steps
        self.storages: dict[int, StepStorage] = {}  # by the slot of the first step

    def locate(self, layer_idx: int) -> tuple[int, int]:
        """The step of a slot, and the slot that the first step has in its place; 0 for layers around the loop."""
        step = max(0, layer_idx - self.first_slot) // self.stride
        return step, layer_idx - step * self.stride

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args, **kwargs):
        """Append keys and values `(B, K, T, H)` to a slot; returns all of the slot."""
        while len(self.layers) <= layer_idx:
            self.layers.append(DynamicLayer())
        layer, (step, slot) = self.layers[layer_idx], self.locate(layer_idx)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():  # what a gradient needs is not written again
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if not layer.is_initialized:
            layer.lazy_initialization(key_states, value_states)
        start, storage = layer.get_seq_length(), self.storages.get(slot)
        self.num_steps, num_tokens = max(self.num_steps, step + 1), start + key_states.shape[2]
        num_steps = self.num_steps if slot >= self.first_slot else 1
        if storage is None or not storage.fits(num_steps, key_states, num_tokens):
            storage = self.storages[slot] = StepStorage(num_steps, key_states, num_tokens)
        storage.write(layer, step, (key_states, value_states), start)
        return layer.keys, layer.values

    def read_steps(self, first: int, end: int, slot: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """
        Keys and values `(end - first, B, K, S, H)` of a slot of the steps from `first` to `end`, which the present
        call has written; `None` if they are not in one storage.
        """
        storage = self.storages.get(self.first_slot + slot)
        layers = self.layers[self.first_slot + first * self.stride + slot :: self.stride][: end - first]
        pointers = [layer.keys.data_ptr() for layer in layers]
        if storage is None or pointers != [keys.data_ptr() for keys, _ in storage.slots[first:end]]:
            return None
        num_tokens = layers[0].keys.shape[2]
        return tuple(states[first:end].narrow(3, 0, num_tokens) for states in (storage.keys, storage.values))


__all__ = ["StepCache"]
