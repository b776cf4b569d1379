# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Are problems about numbers solved exactly, apart by split, and different when they should be?"""

import collections
import json
import multiprocessing
import pickle
import random
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch.utils.data import DataLoader

from hf_thoughtbubbles.data.number_tasks import (
    TASKS,
    ArithmeticTask,
    FactorisationTask,
    SequenceTask,
    evaluate_chain,
    factorise,
    format_factors,
    from_base,
    list_primes,
    load_number_dataset,
    make_task,
    mask_progressively,
    stream_number_dataset,
    to_base,
)
from hf_thoughtbubbles.tokenization.number_tokenizer import build_number_tokenizer


THINKER_DATA = Path(__file__).parents[1] / "parity" / "thinker_data"
OPS_KEY = "ops (first one is drawn but unused)"
NAMES = {None: "copy", "cumsum": "cumulative_sum", "roll_num": "roll_by_number"}  # the original's to ours


def read_examples(case: str) -> list[dict]:
    return json.loads((THINKER_DATA / f"{case}.json").read_text())["examples"]


def as_text(tokens) -> list[str]:
    return [str(token) for token in tokens]


def as_questions(stream, number: int) -> list[tuple[int, ...]]:
    return [tuple(row["input_ids"]) for row in islice(stream, number)]


class SharedDifficulty:
    """A difficulty that worker processes see change, and that cannot be pickled outside of starting one."""

    def __init__(self, difficulty: float):
        self.value = multiprocessing.Value("d", difficulty)

    @property
    def difficulty(self) -> float:
        return self.value.value


# Parity with the original. Fixed, so different on purpose: D1 and D3 (`roll_num`, unknown tasks), D2 (`jump` is
# dropped), D4 (ranges of terms and factors work), D6 (no overflow), D7 (division by zero is refused), D9 (a batch of
# one is not masked), D10 (a curriculum is an object of the caller's), D12 (`roll` gives integers), and the last of the
# primes is drawn. Reproduced: D5 (strictly left to right) and D8 (a masked digit looks like 0).


def test_the_originals_digits_are_reproduced():
    for example in read_examples("to_base"):
        number, base = example["input"]["n"], example["input"]["base"]
        if isinstance(number, list):
            written = [t for n in number for t in ([n] if isinstance(n, str) else to_base(n, base))]
            assert written == as_text(example["output"])
        elif "ValueError" in example.get("exception", ""):
            with pytest.raises(ValueError, match="`base` is 1; it must be an integer from 2 to 16"):
                to_base(number, base)
        elif "exception" in example:  # fixed: NumPy's integers are integers too
            assert to_base(np.int64(number), base) == to_base(number, base)
        else:
            assert to_base(number, base) == as_text(example["output"])


def test_the_originals_chains_are_reproduced_but_for_division_by_zero():
    refused = 0
    for example in read_examples("add_mult"):
        numbers, operators = example["input"]["numbers"], example["input"][OPS_KEY][1:]
        if "warnings" in example:
            with pytest.raises(ValueError, match="divide by zero"):
                evaluate_chain(numbers, operators)
            refused += 1
        else:
            assert [evaluate_chain(numbers, operators)] == example["output"]["y"]
    assert refused == 1


def test_the_originals_factors_are_reproduced_but_for_overflow():
    overflowed = 0
    for example in read_examples("factorize"):
        factors = example["input"]["sampled_factors (unsorted)"]
        product = int(np.prod(np.array(factors, dtype=object)))
        tokens = [t for n in example["output"]["y"] for t in ([n] if isinstance(n, str) else to_base(n, 10))]
        assert format_factors(factorise(product), base=10) == tokens
        if "warnings" in example:
            assert example["output"]["x"] != [product] == [541**10]
            overflowed += 1
        else:
            assert example["output"]["x"] == [product]
    assert overflowed == 1
    assert list(list_primes(71)) == json.loads((THINKER_DATA / "factorize.json").read_text())["first_20_primes"]


def test_the_originals_candidate_primes_are_reproduced_but_for_its_table_end():
    fixed = {7919: (1000, 7919), 1000000: (78498, 999983)}
    candidates = [e for e in read_examples("argument_quirks") if "max_number" in e["input"]]
    assert len(candidates) == 7
    for example in candidates:
        limit, output = example["input"]["max_number"], example["output"]
        if limit in fixed:
            assert (len(list_primes(limit)), list_primes(limit)[-1]) == fixed[limit]
        else:
            assert len(list_primes(limit)) == output["n_candidate_primes"]
            assert list(list_primes(limit)[-3:]) == output["last_candidates"]
    with pytest.raises(ValueError, match="`max_prime` is 1; it must be an integer from 2 on"):
        FactorisationTask(max_prime=1)


def test_the_originals_questions_and_answers_are_reproduced():
    tokenizer = build_number_tokenizer()
    for example in read_examples("compute_batch"):
        questions = [[t for t in as_text(row) if t != "blank"] for row in example["output"]["x_tokens"]]
        answers = [[t for t in as_text(row) if t != "blank"] for row in example["output"]["y_tokens"]]
        task = ArithmeticTask()
        assert [task.answer(question) for question in questions] == answers
        texts = [" ".join(question) for question in questions]
        assert tokenizer(texts, padding=True).input_ids == example["output"]["x"]
        padded = tokenizer([" ".join(a) for a in answers], padding=True, padding_side="right")
        assert padded.input_ids == example["output"]["y"]


def test_the_originals_rows_are_reproduced_or_mended():
    mended = {
        ("roll_num", 7): [[6, 4, 0, 4, 1], [4, 2, 4, 1, 3]],
        ("roll_num", 5): [[2, 3], [1, 3]],
    }
    seen = set()
    for example in read_examples("copy_variants"):
        name, modulus = example["input"]["task"], example["input"]["vocab_size"]
        rows = example["input"]["x"]
        ours = NAMES.get(name, name)
        seen.add(ours)
        if ours not in TASKS:
            with pytest.raises(ValueError, match=f"Task '{name}' is unknown; the tasks are"):
                make_task(ours)
        elif name == "progressive_copy":
            noise, target = example["input"]["normal_samples"], example["input"]["target_len"]
            masked = mask_progressively(np.array(rows), np.array(noise), target)
            assert masked.tolist() == (rows if len(rows) == 1 else example["output"]["x"])
        else:
            expected = mended[name, modulus] if "exception" in example else example["output"]["y"]
            task = make_task(ours, num_symbols=modulus)
            assert [task.answer(as_text(row)) for row in rows] == [as_text(row) for row in expected]
    assert seen == {"jump", "unknown_task", *TASKS} - {"arithmetic", "factorisation"}


def test_digits_are_read_back_in_every_base():
    generator = random.Random(0)
    for base in range(2, 17):
        for number in (0, 1, -1, base, -base, *(generator.randint(-(10**30), 10**30) for _ in range(50))):
            tokens = to_base(number, base)
            assert from_base(tokens, base) == number
            assert (tokens[0] == "!") == (number < 0)
    assert from_base(["1", "0"], 10) == 1


def test_what_is_no_number_is_refused():
    for tokens, base in (([], 10), (["!"], 10), (["2"], 2), (["1", "!"], 10), (["!", "!", "1"], 10), (["x"], 16)):
        with pytest.raises(ValueError, match=f"are no number in base {base}"):
            from_base(tokens, base)
    for base in (1, 17, 0, -2):
        for convert, value in ((to_base, 3), (from_base, ["1"])):
            with pytest.raises(ValueError, match=f"`base` is {base}; it must be an integer from 2 to 16"):
                convert(value, base)


def test_huge_products_are_exact():
    task = ArithmeticTask(operators="*", num_terms=40)
    question = ["10", "@", *(" * ".join(["9 9 9"] * 40)).split(), ":addmul", "@=", "10"]
    answer = task.answer(question)
    assert "".join(reversed(answer)) == str(999**40)
    assert len(answer) + 1 == task.longest_answer
    assert len(question) == task.longest_question


def test_wrong_chains_and_products_are_refused():
    with pytest.raises(ValueError, match=r"`operators` holds '\^'; the operators are"):
        evaluate_chain([1, 2], ["^"])
    with pytest.raises(ValueError, match="3 `numbers` need one operator fewer between them; got 1"):
        evaluate_chain([1, 2, 3], ["+"])
    for number in (1, 0, -6):
        with pytest.raises(ValueError, match=f"`number` is {number}; only integers from 2 on"):
            factorise(number)


def test_rows_of_equal_noise_or_full_length_stay_whole():
    rows = np.array([[1, 2, 3], [4, 5, 6]])
    assert mask_progressively(rows, np.array([0.7, 0.7]), 1).tolist() == rows.tolist()
    assert mask_progressively(rows, np.array([-2.0, 1.5]), 3).tolist() == rows.tolist()
    assert mask_progressively(rows, np.array([0.0, 1.0]), 2).tolist() == [[1, 2, 3], [0, 0, 6]]
    assert rows.tolist() == [[1, 2, 3], [4, 5, 6]], "the rows given are not changed"
    with pytest.raises(ValueError, match=r"`rows` of shape \(2, 3\) and `noise` of shape \(3,\) do not match"):
        mask_progressively(rows, np.zeros(3), 1)


@pytest.mark.parametrize(
    ("name", "options", "question", "answer"),
    [
        ("copy", {}, "3 1 4", "3 1 4"),
        ("progressive_copy", {}, "0 0 4", "0 0 4"),
        ("sort", {"num_symbols": 17}, "16 3 11 3", "3 3 11 16"),
        ("flip", {}, "3 1 4", "4 1 3"),
        ("roll", {}, "1 2 3 4 5", "5 1 2 3 4"),
        ("roll", {}, "7 2 3 4 5", "4 5 7 2 3"),
        ("roll", {}, "0 2 3", "0 2 3"),
        ("roll_by_number", {"num_symbols": 5}, "3 1 4 0", "1 4 2 3"),
        ("cumulative_sum", {"num_symbols": 5}, "3 1 4 0", "3 4 3 3"),
        ("arithmetic", {}, "10 @ 2 1 + 9 :addmul @= 10", "1 2"),
        ("arithmetic", {}, "2 @ 1 - 1 0 1 :addmul @= 3", "! 1 1"),
        ("arithmetic", {}, "16 @ ! 15 * 2 / 4 :addmul @= 10", "! 8"),
        ("arithmetic", {}, "10 @ 5 5 2 :addmul @= 16", "15 15"),
        ("factorisation", {}, "10 @ 0 6 3 :fact @= 10", "2 ^ 3 * 3 ^ 2 * 5"),
        ("factorisation", {}, "2 @ 1 1 0 1 :fact @= 16", "11"),
        ("factorisation", {}, "10 @ 6 2 :fact @= 2", "0 1 * 1 0 1 1"),
    ],
)
def test_answers_are_what_a_pencil_gives(name, options, question, answer):
    task = make_task(name, **options)
    assert task.answer(question.split()) == answer.split()
    assert task.grade(question.split(), answer.split())


def test_a_reply_counts_up_to_its_first_blank():
    task, question = make_task("sort"), ["2", "1"]
    for reply in ("1 2", "1 2 blank", "1 2 blank 7 blank"):
        assert task.grade(question, reply.split())
    for reply in ("2 1", "1", "1 2 3", "blank 1 2", ""):
        assert not task.grade(question, reply.split())
    with pytest.raises(ValueError, match=r"`reply` is the text '1 2'; give its tokens"):
        task.grade(question, "1 2")


HARD = {
    "arithmetic": {
        "operators": "+-*/",
        "num_terms": (1, 5),
        "min_number": -20,
        "max_number": -3,
        "input_bases": range(2, 17),
        "output_bases": (3, 16),
    },
    "factorisation": {"max_prime": 13, "num_factors": (1, 5), "input_bases": (2, 7), "output_bases": [2, 3]},
}


@pytest.mark.parametrize("name", TASKS)
def test_questions_and_answers_fit_their_bounds(name):
    task, generator = make_task(name, **HARD.get(name, {"length": (2, 7), "num_symbols": 17})), random.Random(0)
    questions = [task.ask(generator) for _ in range(300)]
    answers = [task.answer(question) for question in questions]
    assert 0.6 * task.longest_question <= max(map(len, questions)) <= task.longest_question
    assert max(map(len, answers)) + 1 <= task.longest_answer
    assert all(task.grade(question, answer) for question, answer in zip(questions, answers, strict=True))
    if isinstance(task, SequenceTask):
        assert {len(question) for question in questions} == {2, 3, 4, 5, 6, 7}
        assert {token for question in questions for token in question} == {str(value) for value in range(17)}


def test_ranges_and_bases_are_all_drawn():
    task, generator = make_task("arithmetic", **HARD["arithmetic"]), random.Random(0)
    questions = [task.ask(generator) for _ in range(600)]
    assert {question[0] for question in questions} == {str(base) for base in range(2, 17)}
    assert {question[-1] for question in questions} == {"3", "16"}
    assert {sum(token in "+-*/" for token in question) for question in questions} == {0, 1, 2, 3, 4}
    task = make_task("arithmetic", num_terms=1, min_number=5, max_number=7)
    assert {task.ask(generator)[2] for _ in range(50)} == {"5", "6"}, "the largest number is one below `max_number`"
    task = make_task("factorisation", max_prime=7, num_factors=1)
    assert {task.ask(generator)[2] for _ in range(100)} == {"2", "3", "5", "7"}


def test_questions_of_another_kind_are_refused():
    for name, question, message in (
        ("sort", [], r"`question` is \[\]; give tokens from '0' to '9'"),
        ("sort", ["12"], r"give tokens from '0' to '9'"),
        ("sort", "1 2", r"`question` is '1 2'"),
        ("arithmetic", ["10", "@", "6", ":fact", "@=", "10"], "reads `base @ ... :addmul @= base`"),
        ("arithmetic", ["1", "@", "6", ":addmul", "@=", "10"], "begin and end with a base, 2 to 16"),
        ("arithmetic", ["10", "@", "6", ":addmul", "@=", "+"], "begin and end with a base, 2 to 16"),
        ("arithmetic", ["10", "@", "6", "+", ":addmul", "@=", "10"], r"\[\] are no number in base 10"),
        ("arithmetic", ["10", "@", "6", "/", "0", ":addmul", "@=", "10"], "divide by zero"),
        ("factorisation", ["10", "@", "1", ":fact", "@=", "10"], "only integers from 2 on"),
        ("factorisation", ["10", "@", ":fact", "@=", "10"], "reads `base @ ... :fact @= base`"),
    ):
        with pytest.raises(ValueError, match=message):
            make_task(name).answer(question)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jump", {}, r"Task 'jump' is unknown; the tasks are \['copy'"),
        ("sort", {"base": 2}, r"Task 'sort' has no options \['base'\]; its options are \['length', 'num_symbols'\]"),
        ("sort", {"length": 0}, "`length` is 0; it must be an integer from 1 on"),
        ("sort", {"length": (5, 2)}, r"`length` is \(5, 2\); the lowest comes first"),
        ("sort", {"length": (1, 2, 3)}, "give an integer, or a pair"),
        ("sort", {"length": "10"}, "give an integer, or a pair"),
        ("sort", {"length": 2.5}, "give an integer, or a pair"),
        ("sort", {"length": {2, 10}}, "give an integer, or a pair"),
        ("sort", {"length": True}, "`length` is True; it must be an integer"),
        ("sort", {"num_symbols": 18}, "`num_symbols` is 18; it must be an integer from 2 to 17"),
        ("sort", {"num_symbols": 1}, "`num_symbols` is 1; it must be an integer from 2 to 17"),
        ("arithmetic", {"operators": "+^"}, r"`operators` is '\+\^'; give at least one, each of"),
        ("arithmetic", {"operators": ""}, "`operators` is ''; give at least one"),
        ("arithmetic", {"operators": None}, "`operators` is None; give at least one"),
        ("arithmetic", {"operators": "/"}, "could divide by zero. Set `min_number=1`"),
        ("arithmetic", {"operators": "+/", "min_number": -3}, "from `min_number` -3 to below `max_number` 1000"),
        ("arithmetic", {"num_terms": 0}, "`num_terms` is 0"),
        ("arithmetic", {"min_number": 1.5}, "`min_number` is 1.5; it must be an integer"),
        ("arithmetic", {"min_number": 7, "max_number": 7}, "`max_number` is 7; it must be an integer from 8 on"),
        ("arithmetic", {"input_bases": 1}, "`input_bases` is 1; it must be an integer from 2 to 16"),
        ("arithmetic", {"output_bases": (2, 17)}, "`output_bases` is 17; it must be an integer from 2 to 16"),
        ("arithmetic", {"output_bases": []}, "give at least one base"),
        ("factorisation", {"num_factors": (0, 2)}, "`num_factors` is 0"),
        ("factorisation", {"input_bases": "10"}, "`input_bases` is '10'"),
    ],
)
def test_wrong_options_are_one_clear_error(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_task(name, **options)


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
            ({"task": make_task("sort"), "length": 3}, r"already; give the options \['length'\] when making it"),
            ({"task": "sort", "split": "validation"}, "`split` is 'validation'; it must be one of"),
            ({"task": "sort", "test_share": 1}, "`test_share` is 1; it must be between 0 and 1"),
        ):
            with pytest.raises(ValueError, match=message):
                load(**options, **size)
    with pytest.raises(ValueError, match="`num_examples` is 0"):
        load_number_dataset("sort", 0)
    with pytest.raises(ValueError, match="`num_shards` is 0"):
        stream_number_dataset("sort", num_shards=0)
    with pytest.raises(ValueError, match="follows no `curriculum`; the tasks that do are"):
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


def test_even_lengths_make_short_numbers_as_frequent_as_long_ones():
    task = make_task("arithmetic", max_number=1000, input_bases=16, even_lengths=True)
    rng, lengths = random.Random(0), collections.Counter()
    for _ in range(3000):
        question = task.ask(rng)
        expression = question[2 : question.index(":addmul")]
        lengths.update((expression.index("+"), len(expression) - expression.index("+") - 1))
        numbers = [from_base(part.split(), 16) for part in " ".join(expression).split("+")]
        assert all(0 <= number < 1000 for number in numbers)
    assert lengths.keys() == {1, 2, 3}
    assert all(1800 < count < 2200 for count in lengths.values())
    with pytest.raises(ValueError, match="`even_lengths` draws lengths of numbers of at least 0"):
        make_task("arithmetic", min_number=-5, even_lengths=True)
