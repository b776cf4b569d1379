# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How do questions and answers become a batch, and how long shall the model think about it?"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import get_worker_info
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase


LABEL_PAD_ID = -100


@dataclass
class ThinkingCollator:
    """
    Pads questions and answers, and draws how many steps and latents the model thinks with, once for each batch.

    The draws come from a generator of the collator's own, seeded by `seed` and the number of the dataloader's worker:
    every process of a distributed run draws the same numbers. A Trainer that resumes on a stream reads again the
    batches that it skips, and so the draws go on where they stopped; those of a `Dataset` it skips unread, and draws
    from the start. Without workers an evaluation draws from the same sequence, which a resumed training does not
    repeat: set `dataloader_num_workers` where it matters. Workers start the sequence again at every epoch, unless
    they persist.

    The numbers are Python integers, which no GPU is waited for. Accelerate hands a stream from the first process to
    the others by joining tensors, and refuses integers; let every process read a stream itself, with
    `TrainingArguments(accelerator_config={"dispatch_batches": False})`.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): pads the questions, on its own `padding_side`.
        num_steps (`int` or pair of `int`, *optional*): steps of every batch, or the least and the most to draw from.
            By default the batch does not say.
        num_latents (`int` or pair of `int`, *optional*): likewise for latents.
        seed (`int`): of the draws.
        pad_to_multiple_of (`int`, *optional*): makes the lengths of questions and of answers multiples of this.

    Returns:
        When called with rows that have `input_ids` (T ids) and perhaps `labels` (A ids): a `dict` with `input_ids` and
        `attention_mask` `(B, T)`, `labels` `(B, A)` filled on the right with -100, and the numbers drawn.

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
    _generators: dict[int | None, random.Random] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        self._ranges = {
            name: _check_range(name, value)
            for name, value in (("num_steps", self.num_steps), ("num_latents", self.num_latents))
            if value is not None
        }
        self._pad_inputs = DataCollatorWithPadding(self.tokenizer, pad_to_multiple_of=self.pad_to_multiple_of)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        # DataCollatorForSeq2Seq would pad the answers of a tokenizer that pads on the left there too.
        batch = dict(self._pad_inputs([{key: row[key] for key in row if key != "labels"} for row in rows]))
        if "labels" in rows[0]:
            batch["labels"] = self._pad_labels([torch.as_tensor(row["labels"]) for row in rows])
        generator = self._get_generator()
        batch.update({name: generator.randint(*bounds) for name, bounds in self._ranges.items()})
        return batch

    def _pad_labels(self, labels: list[torch.Tensor]) -> torch.Tensor:
        padded = pad_sequence(labels, batch_first=True, padding_value=LABEL_PAD_ID)  # (B, A)
        if self.pad_to_multiple_of is None:
            return padded
        return F.pad(padded, (0, -padded.shape[1] % self.pad_to_multiple_of), value=LABEL_PAD_ID)

    def _get_generator(self) -> random.Random:
        """The generator of this worker: one that was forked has its parent's as well, and must not go on with it."""
        worker = get_worker_info()
        worker_id = None if worker is None else worker.id
        if worker_id not in self._generators:
            self._generators[worker_id] = random.Random(f"{self.seed} {worker_id or 0}")
        return self._generators[worker_id]


def _check_range(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """The least and the most, both included."""
    bounds = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    is_range = len(bounds) == 2 and all(isinstance(bound, int) and not isinstance(bound, bool) for bound in bounds)
    if not is_range or not 1 <= bounds[0] <= bounds[1]:
        raise ValueError(
            f"`{name}` is {value!r}; it must be a positive integer, or a pair (least, most) of them in order."
        )
    return bounds


__all__ = ["ThinkingCollator"]
