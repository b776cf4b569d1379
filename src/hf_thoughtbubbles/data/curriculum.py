# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A difficulty that rises during training, and that streams of problems read."""

import math

import torch
from torch.utils.data import get_worker_info


class Curriculum:
    """
    A difficulty that rises when the model is accurate. The defaults are those of the original Thinker's training.

    The numbers are in shared memory, so the workers of a `DataLoader`, forked or spawned, read them. Batches are drawn
    before the training reaches them, so a new difficulty has an effect some batches later. With a `CurriculumCallback`
    their number is fixed, `gradient_accumulation_steps` and what workers prefetch. A stream that a resumed training
    reads again has the difficulty of each batch as it was.

    Args:
        start (`float`): first difficulty.
        limit (`float`): highest difficulty.
        increment (`float`): amount of one rise.
        window (`int`): number of training batches whose accuracy is averaged before the difficulty may rise.
        threshold (`float`): mean accuracy, in [0, 1), that must be exceeded.

    Raises:
        `ValueError`: for a limit below the start, or an increment, window or threshold out of bounds.

    >>> curriculum = Curriculum(start=1, limit=4)
    >>> curriculum.observe(0.85), curriculum.observe(0.9), curriculum.difficulty
    (False, True, 1.5)
    """

    def __init__(self, start: float, limit: float, increment: float = 0.5, window: int = 100, threshold: float = 0.85):
        if not start <= limit:
            raise ValueError(f"`limit` is {limit}; it must be at least `start` {start}.")
        if not increment > 0:
            raise ValueError(f"`increment` is {increment}; it must be greater than 0.")
        if not isinstance(window, int) or window < 1:
            raise ValueError(f"`window` is {window!r}; it must be an integer of at least 1.")
        if not 0 <= threshold < 1:
            raise ValueError(f"`threshold` is {threshold}; it must be at least 0 and below 1, the best accuracy.")
        self.start, self.limit, self.increment = float(start), float(limit), float(increment)
        self.window, self.threshold = window, float(threshold)
        # Rows: the batch of training from which on a difficulty holds, and that difficulty.
        num_rises = self._count_rises(self.start) + 1  # one more for rounding
        self._history = torch.zeros(num_rises + 1, 2, dtype=torch.float64).share_memory_()
        # Rows of a stream in one read of a loader, reads in a batch of training, the first batch, the delay in
        # batches; all 0 while nothing is known.
        self._reading = torch.zeros(4, dtype=torch.long).share_memory_()
        self.difficulty = self.start

    def __repr__(self) -> str:
        return f"Curriculum(difficulty={self.difficulty}, limit={self.limit})"

    def __deepcopy__(self, memo) -> "Curriculum":
        return self  # libraries copy datasets; a copied difficulty would never rise

    @property
    def difficulty(self) -> float:
        """The present difficulty, between `start` and `limit`."""
        return self._get_difficulty_after(math.inf)

    @difficulty.setter
    def difficulty(self, value: float):
        if not self.start <= value <= self.limit:
            raise ValueError(
                f"`difficulty` is {value}; it must be between `start` {self.start} and `limit` {self.limit}."
            )
        self._history.fill_(math.nan)
        self._history[0] = torch.tensor([-math.inf, value], dtype=torch.float64)

    def _get_difficulty_after(self, num_batches: float) -> float:
        """The difficulty after so many batches of training."""
        since, difficulties = self._history.unbind(1)
        return difficulties[(since <= num_batches).sum() - 1].item()  # rows are in order, unused ones not a number

    def get_stream_difficulty(self, row: int, num_shards: int) -> float:
        """
        The difficulty of a row of a stream, in the process that reads it; without a `CurriculumCallback` the present
        one.

        Args:
            row (`int`): number of rows that this process has read from the stream before.
            num_shards (`int`): number of workers that can read at the same time.
        """
        rows_per_read, reads_per_batch, first_batch, lag = self._reading.tolist()
        if not rows_per_read:
            return self.difficulty
        read, worker = row // rows_per_read, get_worker_info()
        if worker is not None:
            read = read * min(worker.num_workers, num_shards) + worker.id
        return self._get_difficulty_after(first_batch + read // reads_per_batch - lag)

    def set_reading(self, rows_per_read: int, reads_per_batch: int, first_batch: int, lag: int):
        """Set how a data loader reads a stream: rows, reads for each batch of training, its first batch, the delay."""
        self._reading.copy_(torch.tensor([rows_per_read, reads_per_batch, first_batch, lag]))

    def restart(self):
        """Begin another training at the present difficulty."""
        self.difficulty = self.difficulty
        self._reading.zero_()

    def observe(self, mean_accuracy: float, num_batches: int | None = None) -> bool:
        """
        Raise the difficulty if this accuracy exceeds the threshold; `True` if it rose. `num_batches` is the number of
        batches of training so far, from which on it holds; without it, it holds at once.
        """
        before = self.difficulty
        if mean_accuracy <= self.threshold or before >= self.limit:
            return False
        risen = min(before + self.increment, self.limit)
        if num_batches is None:
            self.difficulty = risen
        else:
            self._history[len(self._get_rises()) + 1] = torch.tensor([num_batches, risen], dtype=torch.float64)
        return True

    def _get_rises(self) -> list[list[float]]:
        """Pairs of a batch and the difficulty from it on, without the first."""
        return [row for row in self._history[1:].tolist() if not math.isnan(row[0])]

    def state_dict(self) -> dict:
        """Return the state that changes during training: the first difficulty, later ones and since which batch."""
        return {"first_difficulty": self._history[0, 1].item(), "rises": self._get_rises()}

    def load_state_dict(self, state: dict):
        """Restore the state that `state_dict` returned; `ValueError` if it is out of these bounds."""
        first, rises = state["first_difficulty"], state["rises"]
        num_left = len(self._history) - 1 - self._count_rises(rises[-1][1] if rises else first)
        while len(rises) > num_left:  # the increment was changed
            (_, first), *rises = rises
        for _, value in (*rises, (0, first)):
            self.difficulty = value  # which checks it
        self._history[1 : len(rises) + 1] = torch.tensor(rises, dtype=torch.float64).view(-1, 2)

    def _count_rises(self, difficulty: float) -> int:
        return math.ceil((self.limit - difficulty) / self.increment)


__all__ = ["Curriculum"]
