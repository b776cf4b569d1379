# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Data sets and streams of number problems, with a train and a test split that never share a problem."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from datasets import Dataset, IterableDataset
from datasets.iterable_dataset import ExamplesIterable

from ..tokenization.number_tokenizer import BLANK_TOKEN, NUMBER_TOKENS
from .curriculum import Curriculum
from .number_tasks import TASKS, NumberTask, SequenceTask, check_integer, make_task


TOKEN_IDS = {token: token_id for token_id, token in enumerate(NUMBER_TOKENS)}
SPLITS = ("train", "test")
HASH_BYTES = 8
PATIENCE = 100  # raise after as many draws without a problem of the split as should have given this many
REPEATS_PER_PROBLEM = 10


def _get_task(task: str | NumberTask, options: dict[str, Any]) -> NumberTask:
    if isinstance(task, NumberTask):
        if options:
            raise ValueError(
                f"The options {sorted(options)} were passed with `task` {task}. Pass them when you build the task."
            )
        return task
    return make_task(task, **options)


def _check_split(split: str, test_share: float):
    if split not in SPLITS:
        raise ValueError(f"`split` is {split!r}; it must be one of {SPLITS}.")
    if not 0 < test_share < 1:
        raise ValueError(f"`test_share` is {test_share}; it must be between 0 and 1.")


def _keep_split(questions: Iterator[list[str]], split: str, test_share: float) -> Iterator[tuple[str, list[str]]]:
    """The texts and tokens of the questions of a split. A hash of the text decides the split, whatever the seed."""
    border = int(test_share * (1 << 8 * HASH_BYTES)).to_bytes(HASH_BYTES, "big")
    is_test = split == "test"
    patience = PATIENCE / (test_share if is_test else 1 - test_share)
    misses = 0
    for question in questions:
        text = " ".join(question)
        if (blake2b(text.encode(), digest_size=HASH_BYTES).digest() < border) == is_test:
            misses = 0
            yield text, question
        elif (misses := misses + 1) > patience:
            raise ValueError(
                f"Drew {misses} problems in a row, and none belongs to the split {split!r}: there are too few "
                "different ones. Make them longer or larger, or change `test_share`."
            )


def _to_example(question: list[str], answer: list[str]) -> dict[str, list[int]]:
    return {
        "input_ids": [TOKEN_IDS[token] for token in question],
        "labels": [*[TOKEN_IDS[token] for token in answer], TOKEN_IDS[BLANK_TOKEN]],
    }


def load_number_dataset(
    task: str | NumberTask,
    num_examples: int,
    split: str = "train",
    seed: int = 0,
    test_share: float = 0.1,
    **options: Any,
) -> Dataset:
    """
    Draw different problems of a task.

    Args:
        task (`str` or `NumberTask`): a name in `TASKS`, its class's options then in `options`, or a task.
        num_examples (`int`): number of problems.
        split (`str`): `"train"` or `"test"`. A hash of the question decides the split of a problem, so no problem is
            in both, whatever the seeds and sizes.
        seed (`int`): the same seed draws the same problems.
        test_share (`float`): share of all problems that belong to the test split, between 0 and 1. Pass the same for
            both splits.

    Returns:
        `Dataset` with columns `question` and `answer` (tokens joined by spaces), `input_ids` (those of the question)
        and `labels` (those of the answer and a closing `blank`).

    Raises:
        `ValueError`: for an unknown task, option or split, or when the task has too few problems.

    Example:

    >>> row = load_number_dataset("arithmetic", num_examples=1, operators="*", max_number=50)[0]
    >>> row["question"], row["answer"]
    ('10 @ 8 4 * 2 :addmul @= 10', '6 9')
    >>> row["labels"]
    [6, 9, 20]
    """
    task = _get_task(task, options)
    _check_split(split, test_share)
    check_integer("num_examples", num_examples, 1)
    columns: dict[str, list] = {name: [] for name in ("question", "answer", "input_ids", "labels")}
    seen: set[str] = set()
    repeats = 0
    for text, question in _keep_split(task.ask_forever(random.Random(seed)), split, test_share):
        if text in seen:
            repeats += 1
            if repeats > PATIENCE + REPEATS_PER_PROBLEM * len(seen):
                raise ValueError(
                    f"`num_examples` is {num_examples}, but only {len(seen)} different problems were found in the "
                    f"split {split!r} of {task}. Ask for fewer, or make the problems longer or larger."
                )
            continue
        repeats = 0
        seen.add(text)
        answer = task.answer(question)
        row = {"question": text, "answer": " ".join(answer), **_to_example(question, answer)}
        for name, value in row.items():
            columns[name].append(value)
        if len(seen) == num_examples:
            break
    return Dataset.from_dict(columns)


@dataclass
class _RowDifficulty:
    """The difficulty of the next row that one process reads."""

    curriculum: Curriculum
    num_shards: int
    row: int = 0

    @property
    def difficulty(self) -> float:
        return self.curriculum.get_stream_difficulty(self.row, self.num_shards)


@dataclass(frozen=True, eq=False)
class _ProblemStream:
    """A generator function that can be sent to worker processes and whose copies share the curriculum."""

    task: NumberTask
    split: str
    seed: int
    test_share: float
    curriculum: Any | None
    num_shards: int

    def __deepcopy__(self, memo: dict) -> "_ProblemStream":
        return self

    def __call__(self, shards: list[int]) -> Iterator[tuple[int, dict[str, list[int]]]]:
        rng = random.Random(f"{self.seed} {shards}")  # `datasets` passes one shard at a time
        curriculum = self.curriculum
        if isinstance(curriculum, Curriculum):
            curriculum = _RowDifficulty(curriculum, self.num_shards)
        questions = self.task.ask_forever(rng, curriculum)
        for key, (_, question) in enumerate(_keep_split(questions, self.split, self.test_share)):
            yield key, _to_example(question, self.task.answer(question))
            if isinstance(curriculum, _RowDifficulty):
                curriculum.row = key + 1


def stream_number_dataset(
    task: str | NumberTask,
    split: str = "train",
    seed: int = 0,
    test_share: float = 0.1,
    curriculum: Any | None = None,
    num_shards: int = 64,
    **options: Any,
) -> IterableDataset:
    """
    Draw problems of a task without end, from the same splits as [`load_number_dataset`]; problems may repeat.

    Args:
        task (`str` or `NumberTask`): a name in `TASKS`, its class's options then in `options`, or a task.
        split (`str`): `"train"` or `"test"`.
        seed (`int`): the same seed draws the same problems in each shard.
        test_share (`float`): share of all problems that belong to the test split, between 0 and 1.
        curriculum (*optional*): a [`Curriculum`], or any object with a number `difficulty`, read before each draw: the
            digits of the longest row, within the task's `length`; in progressive copying, the visible digits of a
            medium row. Only for tasks on rows. A resumed training reads the same problems again with a `Curriculum`
            alone, and if rows are neither dropped nor shuffled between stream and batch.
        num_shards (`int`): number of different streams; each data loader worker reads one, a single process the first.

    Returns:
        `IterableDataset` without end, with columns `input_ids` and `labels`.

    Raises:
        `ValueError`: for an unknown task, option or split, or a curriculum that the task cannot follow; during
            iteration, when no problem belongs to the split.

    Example:

    >>> stream = stream_number_dataset("sort", length=5)
    >>> next(iter(stream))
    {'input_ids': [7, 4, 4, 4, 1], 'labels': [1, 4, 4, 4, 7, 20]}
    """
    task = _get_task(task, options)
    _check_split(split, test_share)
    check_integer("num_shards", num_shards, 1)
    if curriculum is not None and not isinstance(task, SequenceTask):
        names = [name for name, kind in TASKS.items() if issubclass(kind, SequenceTask)]
        raise ValueError(
            f"`curriculum` was passed, but {task} follows none. Remove it or use one of the tasks {names}."
        )
    # Not `from_generator`: it pickles the generator to name it, and a curriculum in shared memory cannot be pickled.
    generate = _ProblemStream(task, split, seed, test_share, curriculum, num_shards)
    return IterableDataset(ExamplesIterable(generate, {"shards": list(range(num_shards))}))


__all__ = ["load_number_dataset", "stream_number_dataset"]
