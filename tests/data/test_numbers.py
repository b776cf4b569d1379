# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Data sets and streams of number problems: splits, seeds, shards and curricula."""

import multiprocessing
import pickle
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
from torch.utils.data import DataLoader

from hf_thoughtbubbles.data.number_tasks import make_task
from hf_thoughtbubbles.data.numbers import load_number_dataset, stream_number_dataset
from hf_thoughtbubbles.tokenization.number_tokenizer import build_number_tokenizer


def as_questions(stream, number: int) -> list[tuple[int, ...]]:
    return [tuple(row["input_ids"]) for row in islice(stream, number)]


class SharedDifficulty:
    """A difficulty that worker processes see change, and that cannot be pickled outside of starting one."""

    def __init__(self, difficulty: float):
        self.value = multiprocessing.Value("d", difficulty)

    @property
    def difficulty(self) -> float:
        return self.value.value


def test_a_dataset_holds_different_solved_problems_as_text_and_as_ids():
    task, tokenizer = make_task("arithmetic", operators="+-", max_number=20), build_number_tokenizer()
    rows = load_number_dataset(task, num_examples=300)
    assert rows.column_names == ["question", "answer", "input_ids", "labels"]
    assert len(rows) == len(set(rows["question"])) == 300
    assert list(rows["input_ids"]) == tokenizer(list(rows["question"])).input_ids
    assert list(rows["labels"]) == tokenizer([f"{answer} blank" for answer in rows["answer"]]).input_ids
    for row in rows:
        assert task.grade(row["question"].split(), row["answer"].split())


def test_splits_are_apart_whatever_the_seed_and_size():
    sets = {
        split: {
            question
            for seed, size in ((0, 70), (1, 50), (7, 20))
            for question in load_number_dataset("sort", size, split, seed=seed, length=3)["question"]
        }
        for split in ("train", "test")
    }
    assert sets["train"].isdisjoint(sets["test"])
    streamed = as_questions(stream_number_dataset("sort", "train", seed=3, length=3), 2000)
    assert {" ".join(map(str, ids)) for ids in streamed}.isdisjoint(sets["test"])
    assert 850 < len({*streamed, *as_questions(stream_number_dataset("sort", seed=4, length=3), 9000)}) < 950


def test_the_seed_decides_the_problems():
    first, again, other = (load_number_dataset("flip", 20, seed=seed).to_dict() for seed in (5, 5, 6))
    assert first == again
    assert first != other
    streams = [as_questions(stream_number_dataset("flip", seed=seed), 20) for seed in (5, 5, 6)]
    assert streams[0] == streams[1] != streams[2]


def test_too_few_problems_are_one_clear_error():
    options = {"length": 2, "num_symbols": 8}
    number = len(set(as_questions(stream_number_dataset("copy", **options), 2000)))
    assert number < 64, "the others belong to the test split"
    assert len(load_number_dataset("copy", number, **options)) == number
    with pytest.raises(ValueError, match=f"is 70, but only {number} different problems were found in the split 'tr"):
        load_number_dataset("copy", 70, **options)
    with pytest.raises(ValueError, match="none belongs to the split 'test'"):
        load_number_dataset("arithmetic", 1, "test", num_terms=1, max_number=1)  # the only number is 0


def test_wrong_arguments_of_datasets_are_one_clear_error():
    for load in (load_number_dataset, stream_number_dataset):
        size = {"num_examples": 3} if load is load_number_dataset else {}
        for options, message in (
            ({"task": "jump"}, "Task 'jump' is unknown"),
            ({"task": "sort", "digits": 3}, r"has no options \['digits'\]"),
            ({"task": make_task("sort"), "length": 3}, r"The options \['length'\] were passed with `task` SortTask"),
            ({"task": "sort", "split": "validation"}, "`split` is 'validation'; it must be one of"),
            ({"task": "sort", "test_share": 1}, "`test_share` is 1; it must be between 0 and 1"),
        ):
            with pytest.raises(ValueError, match=message):
                load(**options, **size)
    with pytest.raises(ValueError, match="`num_examples` is 0"):
        load_number_dataset("sort", 0)
    with pytest.raises(ValueError, match="`num_shards` is 0"):
        stream_number_dataset("sort", num_shards=0)
    with pytest.raises(ValueError, match=r"follows none\. Remove it or use one of the tasks"):
        stream_number_dataset("arithmetic", curriculum=SimpleNamespace(difficulty=1.0))


def test_shards_differ_and_stay_the_same():
    stream = stream_number_dataset("copy", num_shards=3)
    assert stream.num_shards == 3
    shards = [as_questions(stream.shard(num_shards=3, index=i), 20) for i in range(3)]
    assert len({question for shard in shards for question in shard}) == 60
    assert shards[1] == as_questions(stream.shard(num_shards=3, index=1), 20)


def test_a_stream_follows_the_curriculum_at_every_draw():
    curriculum = SimpleNamespace(difficulty=0.0)
    problems = iter(stream_number_dataset("sort", length=(2, 7), curriculum=curriculum).map(lambda row: row))
    for difficulty, longest in ((0.0, 2), (4.9, 4), (99, 7), (3, 3)):
        curriculum.difficulty = difficulty
        assert {len(row["input_ids"]) for row in islice(problems, 60)} == set(range(2, longest + 1))


def test_progressive_copying_hides_less_as_the_target_grows():
    curriculum = SimpleNamespace(difficulty=1.0)
    stream = stream_number_dataset("progressive_copy", length=11, num_symbols=17, curriculum=curriculum)
    rows = np.array(as_questions(stream, 320))
    assert rows.shape == (320, 11)
    shares = {1.0: (rows == 0).mean()}
    for difficulty in (6.0, 11.0):
        curriculum.difficulty = difficulty
        shares[difficulty] = (np.array(as_questions(stream, 320)) == 0).mean()
    assert shares[1.0] > 0.6 > 0.5 > shares[6.0] > 0.2 > 0.1 > shares[11.0], "one digit in 17 is a real 0"
    whole = np.array(as_questions(stream_number_dataset("progressive_copy", length=11, num_symbols=17), 320))
    assert (whole == 0).mean() < 0.1


def test_data_loader_workers_draw_different_problems_and_see_the_curriculum_change():
    curriculum = SharedDifficulty(2)
    stream = stream_number_dataset("copy", length=(2, 12), num_symbols=17, curriculum=curriculum)
    loader = DataLoader(
        stream, batch_size=5, num_workers=2, prefetch_factor=1, collate_fn=list, multiprocessing_context="fork"
    )
    batches = iter(loader)
    first, second = ({tuple(row["input_ids"]) for row in next(batches)} for _ in range(2))
    assert first != second
    assert {len(question) for question in first | second} == {2}
    curriculum.value.value = 12
    assert max(len(row["input_ids"]) for _ in range(6) for row in next(batches)) > 2


def test_a_stream_can_be_sent_to_another_process():
    stream = stream_number_dataset("sort", curriculum=SimpleNamespace(difficulty=4.0), length=(1, 9))
    assert as_questions(pickle.loads(pickle.dumps(stream)), 20) == as_questions(stream, 20)
