# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What a training run needs: operations, memory and hours on devices of a kind, from a configuration alone."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from .flops import count_parameters, estimate_flops, estimate_memory


@dataclass(frozen=True)
class Device:
    """
    A kind of device, by its maker's data sheet.

    Args:
        flops_per_second (`float`): dense bfloat16 products with float32 sums; float16 where it has no bfloat16.
        memory_bytes (`float`): of one device.
    """

    flops_per_second: float
    memory_bytes: float


GIGA = 1e9
DEVICES = {
    "a100-40": Device(312e12, 40 * GIGA),
    "a100-80": Device(312e12, 80 * GIGA),
    "h100": Device(989e12, 80 * GIGA),
    "h200": Device(989e12, 141 * GIGA),
    "l4": Device(121e12, 24 * GIGA),
    "rtx-3090": Device(71e12, 24 * GIGA),
    "rtx-4090": Device(165e12, 24 * GIGA),
    "t4": Device(65e12, 16 * GIGA),
}
MASTER_BYTES = 12  # of AdamW's two averages and a float32 copy of each bfloat16 weight
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class TrainingPlan:
    """
    What a training run needs, as [`plan_training`] computes it.

    Args:
        num_parameters (`int`): of the model.
        flops (`float`): of all forward and backward passes.
        state_bytes (`int`): of weights, gradients and optimizer; activations are left out.
        state_bytes_per_device (`float`): the same for each device, whole or divided.
        cache_bytes (`int`): of the KV cache of one row of `block_size` tokens in bfloat16; 0 for models without one.
        hours (`float`): of wall time on all devices together.
        cost (`float`, *optional*): of all devices, in the unit of the price that was passed.
        fits (`bool`): whether the state leaves room on each device.
    """

    num_parameters: int
    flops: float
    state_bytes: int
    state_bytes_per_device: float
    cache_bytes: int
    hours: float
    cost: float | None
    fits: bool


def plan_training(
    config: PreTrainedConfig,
    num_tokens: float,
    block_size: int,
    device: str | Device = "h100",
    num_devices: int = 1,
    utilisation: float = 0.35,
    is_sharded: bool = False,
    price_per_hour: float | None = None,
    **lengths,
) -> TrainingPlan:
    """
    Return what a training run needs, in bfloat16 with a float32 copy of the weights and AdamW.

    Args:
        config (`PreTrainedConfig`): of one of our language models, of GPT-2 or of Llama.
        num_tokens (`float`): tokens of the whole training; bytes for byte-patch models.
        block_size (`int`): tokens of a row.
        device (`str` or [`Device`]): a name of [`DEVICES`], or its numbers.
        num_devices (`int`): number of devices.
        utilisation (`float`, defaults to 0.35): share of the data sheet's speed that training reaches, in (0, 1]. Well
            tuned runs of plain transformers reach 0.3 to 0.5; measure yours.
        is_sharded (`bool`): weights, gradients and optimizer are divided over the devices (FSDP); otherwise each
            device has all of them (DDP).
        price_per_hour (`float`, *optional*): of one device.
        lengths: other lengths that the costs of a family depend on, see [`estimate_flops`].

    Returns:
        [`TrainingPlan`]. Operations that are computed again by gradient checkpointing are left out.

    Raises:
        `ValueError`: for an unknown device, or a number out of range.

    >>> from hf_thoughtbubbles import GenericTransformerConfig
    >>> config = GenericTransformerConfig(vocab_size=50257, hidden_size=768, num_attention_heads=12)
    >>> plan = plan_training(config, num_tokens=2.5e9, block_size=512, device="a100-80", num_devices=8)
    >>> plan.fits, plan.hours < 3
    (True, True)
    """
    if isinstance(device, str) and device not in DEVICES:
        raise ValueError(f"`device` is {device!r}; it must be one of {sorted(DEVICES)}, or a `Device`.")
    numbers = DEVICES[device] if isinstance(device, str) else device
    for name, value in (("num_tokens", num_tokens), ("block_size", block_size), ("num_devices", num_devices)):
        if not value >= 1:
            raise ValueError(f"`{name}` is {value}; it must be at least 1.")
    if not 0 < utilisation <= 1:
        raise ValueError(f"`utilisation` is {utilisation}; it must be above 0 and at most 1.")
    flops = estimate_flops(config, block_size, **lengths)
    kept: dict[str, Any] = {"dtype": torch.bfloat16, "optimizer_bytes_per_parameter": MASTER_BYTES}
    memory = estimate_memory(config, block_size, **kept, **lengths)
    total = flops.training / flops.num_tokens * num_tokens
    hours = total / (numbers.flops_per_second * utilisation * num_devices) / SECONDS_PER_HOUR
    on_each = memory.training / (num_devices if is_sharded else 1)
    return TrainingPlan(
        num_parameters=count_parameters(config),
        flops=total,
        state_bytes=memory.training,
        state_bytes_per_device=on_each,
        cache_bytes=memory.cache,
        hours=hours,
        cost=None if price_per_hour is None else hours * num_devices * price_per_hour,
        fits=on_each < numbers.memory_bytes,
    )


__all__ = ["DEVICES", "Device", "TrainingPlan", "plan_training"]
