# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Data collators: of packed blocks, and of questions and answers with drawn numbers of steps and latents."""

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import get_worker_info
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, default_data_collator


LABEL_PAD_ID = -100
HASH_BYTES = 16


def collate_blocks(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """
    Stack the rows of `pack_blocks`, and add `labels`, which are the `input_ids`.

    transformers' `DataCollatorForLanguageModeling` also adds a mask, and hides ends of sequence from the loss where a
    tokenizer pads with them.

    Returns:
        `dict` with the columns of the rows and `labels`, all `(B, T)`.

    >>> collate_blocks([{"input_ids": [5, 6]}, {"input_ids": [7, 8]}])["labels"].tolist()
    [[5, 6], [7, 8]]
    """
    batch = default_data_collator(list(rows))
    return {**batch, "labels": batch["input_ids"].clone()}


@dataclass
class ThinkingCollator:
    """
    Pads questions and answers, and draws the numbers of steps and latents once for each batch.

    The numbers depend on `seed` and on the rows of the batch alone. So a resumed training draws what an uninterrupted
    one draws, from a stream or not, with any number of workers, and evaluation changes nothing. A batch of equal rows
    gets equal numbers.

    In a distributed run rows differ between processes, and the numbers must not. There every process draws the same
    sequence, seeded by `seed` and the number of the dataloader's worker. Resumed on a stream, the sequence continues,
    because skipped batches are read again. On a `Dataset` it begins again. Workers begin it again at every epoch,
    unless they persist.

    The numbers are Python integers, so that no step waits for a GPU. By default Accelerate joins tensors to send a
    stream from the first process to the others, and it raises for integers. Let every process read a stream itself:
    `TrainingArguments(accelerator_config={"dispatch_batches": False})`.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): pads the questions, on its own `padding_side`.
        num_steps (`int` or pair of `int`, *optional*): number of steps of every batch, or the least and the most to
            draw from. By default the batch has none.
        num_latents (`int` or pair of `int`, *optional*): the same for latents.
        seed (`int`): seed of the draws.
        pad_to_multiple_of (`int`, *optional*): pad questions and answers to multiples of this length.
        copy_labels (`bool`): rows are text, as from `pack_blocks`, and their labels are the `input_ids`.

    Returns:
        For rows with `input_ids` (T ids) and optional `labels` (A ids): a `dict` with `input_ids` and `attention_mask`
        `(B, T)`, `labels` `(B, A)` padded on the right with -100, and the drawn numbers.

    Raises:
        `ValueError`: for numbers that are neither a positive `int` nor a pair of them in order.

    >>> from hf_thoughtbubbles import build_byte_tokenizer
    >>> collator = ThinkingCollator(build_byte_tokenizer(), num_steps=3)
    >>> batch = collator([{"input_ids": [5], "labels": [6, 7]}, {"input_ids": [5, 5], "labels": [8]}])
    >>> batch["labels"].tolist(), batch["num_steps"]
    ([[6, 7], [8, -100]], 3)
    """

    tokenizer: PreTrainedTokenizerBase
    num_steps: int | tuple[int, int] | None = None
    num_latents: int | tuple[int, int] | None = None
    seed: int = 0
    pad_to_multiple_of: int | None = None
    copy_labels: bool = False
    _generators: dict[int | None, random.Random] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        self._ranges = {
            name: _check_range(name, value)
            for name, value in (("num_steps", self.num_steps), ("num_latents", self.num_latents))
            if value is not None
        }
        self._pad_inputs = DataCollatorWithPadding(self.tokenizer, pad_to_multiple_of=self.pad_to_multiple_of)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if self.copy_labels:
            rows = [{**row, "labels": row["input_ids"]} for row in rows]
        # DataCollatorForSeq2Seq would pad answers on the tokenizer's side.
        batch = dict(self._pad_inputs([{key: row[key] for key in row if key != "labels"} for row in rows]))
        if "labels" in rows[0]:
            batch["labels"] = self._pad_labels([torch.as_tensor(row["labels"]) for row in rows])
        is_distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1  # also in workers
        generator = self._get_sequence() if is_distributed else self._get_generator(batch)
        batch.update({name: generator.randint(*bounds) for name, bounds in self._ranges.items()})
        return batch

    def _pad_labels(self, labels: list[torch.Tensor]) -> torch.Tensor:
        padded = pad_sequence(labels, batch_first=True, padding_value=LABEL_PAD_ID)  # (B, A)
        if self.pad_to_multiple_of is None:
            return padded
        return F.pad(padded, (0, -padded.shape[1] % self.pad_to_multiple_of), value=LABEL_PAD_ID)

    def _get_generator(self, batch: Mapping[str, torch.Tensor]) -> random.Random:
        """The generator of this batch."""
        digest = blake2b(digest_size=HASH_BYTES)
        for name in ("input_ids", "labels"):
            if name in batch:
                digest.update(batch[name].numpy().tobytes())
        return random.Random(f"{self.seed} {digest.hexdigest()}")

    def _get_sequence(self) -> random.Random:
        """The generator of this worker; a forked worker must not continue the generator of its parent."""
        worker = get_worker_info()
        worker_id = None if worker is None else worker.id
        if worker_id not in self._generators:
            self._generators[worker_id] = random.Random(f"{self.seed} {worker_id or 0}")
        return self._generators[worker_id]


def _check_range(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Return the least and the most of a range, both included, after checking them."""
    bounds = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    is_range = len(bounds) == 2 and all(isinstance(bound, int) and not isinstance(bound, bool) for bound in bounds)
    if not is_range or not 1 <= bounds[0] <= bounds[1]:
        raise ValueError(
            f"`{name}` is {value!r}; it must be a positive integer, or a pair (least, most) of them in order."
        )
    return bounds


__all__ = ["ThinkingCollator", "collate_blocks"]
