# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Questions about held-out text for the lm-evaluation-harness tasks in this folder.

The text is what `load_text("stdlib")` sets aside for validation: source files of the running Python's standard
library, so nothing is downloaded. The package is not imported, because saved models are evaluated without it too.
"""

import functools
import io
import keyword
import random
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset


SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
VALIDATION_SHARE, SPLIT_SEED = 0.05, 0
QUESTIONS_PER_FILE = 20
LEAST_CONTEXT, MOST_CONTEXT = 24, 96  # characters: short enough for models of 128 bytes
SHORTEST_NAME, LONGEST_NAME = 6, 20
SHORTEST_ENDING, LONGEST_ENDING = 3, 24  # characters left of a line to write


@functools.cache
def read_files() -> dict[str, str]:
    """Held-out files, path to text, in the order of `load_text("stdlib")["validation"]`."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path.relative_to(root) for path in sorted(root.rglob("*.py")) if path.stat().st_size]
    names = [path.as_posix() for path in paths if SKIPPED_FOLDERS.isdisjoint(path.parts)]
    split = Dataset.from_dict({"path": names}).train_test_split(round(len(names) * VALIDATION_SHARE), seed=SPLIT_SEED)
    texts = {}
    for name in split["test"]["path"]:
        with tokenize.open(root / name) as file:  # honours the file's own encoding line
            texts[name] = file.read()
    return texts


def load_files(**_) -> dict[str, Dataset]:
    """Rows of `path` and `text`, a file each. The harness passes the arguments of the model, which do not matter."""
    texts = read_files()
    return {"validation": Dataset.from_dict({"path": list(texts), "text": list(texts.values())})}


def load_names(**_) -> dict[str, Dataset]:
    """Rows of `context`, the `name` that follows it, and the name `misspelt`: two neighbouring letters swapped."""
    return _ask(_find_names)


def load_lines(**_) -> dict[str, Dataset]:
    """Rows of `context`, which stops inside a line of code, and the `ending` of that line."""
    return _ask(_find_lines)


@functools.cache
def _ask(find) -> dict[str, Dataset]:
    """A few questions about every file, in an order that makes the first so many of them, `--limit`, a fair sample."""
    rows = []
    for path, text in read_files().items():
        generator = random.Random(path)
        found = list(find(text, generator))
        chosen = generator.sample(found, min(QUESTIONS_PER_FILE, len(found)))
        rows += [{"path": path, **question} for question in chosen]
    random.Random(SPLIT_SEED).shuffle(rows)
    return {"validation": Dataset.from_list(rows)}


def _find_names(text: str, generator: random.Random) -> Iterator[dict[str, str]]:
    for start, name in _iterate_names(text):
        swappable = [i for i in range(1, len(name) - 1) if name[i] != name[i + 1]]
        context = _look_back(text, start)
        if SHORTEST_NAME <= len(name) <= LONGEST_NAME and swappable and context:
            i = generator.choice(swappable)
            misspelt = name[:i] + name[i + 1] + name[i] + name[i + 2 :]
            yield {"context": context, "name": name, "misspelt": misspelt}


def _find_lines(text: str, generator: random.Random) -> Iterator[dict[str, str]]:
    for start, name in _iterate_names(text):
        stop = start + len(name)
        ending, context = text[stop : text.index("\n", stop)], _look_back(text, stop)
        if SHORTEST_ENDING <= len(ending) <= LONGEST_ENDING and ending == ending.strip() and context:
            yield {"context": context, "ending": ending}


def _iterate_names(text: str) -> Iterator[tuple[int, str]]:
    """Where identifiers stand in the code, comments and strings left out."""
    starts = [0]
    for line in io.StringIO(text):
        starts.append(starts[-1] + len(line))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            yield starts[token.start[0] - 1] + token.start[1], token.string


def _look_back(text: str, stop: int) -> str:
    """
    Whole lines before `stop`, or nothing where they are too short. The harness would move white space at the end to
    what follows, so a context with it is not asked about.
    """
    context = text[max(0, stop - MOST_CONTEXT) : stop]
    if stop > MOST_CONTEXT:
        context = context.partition("\n")[2]
    return context if len(context) >= LEAST_CONTEXT and context == context.rstrip() else ""
