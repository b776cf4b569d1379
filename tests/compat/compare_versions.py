# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Models saved now load under the oldest and the newest transformers that setup.cfg promises.

    make compat

Every family is pushed from here to a Hub on the loopback and pulled in each environment, where the package is not
installed; saved again there, and loaded once more by another process there and by the package here. Then the package
is installed, and it loads without `trust_remote_code`. All must compute the same bits, and generate the same; one of
each family also with beams and prompt lookup.
Environments are kept in .cache/compat; a first run takes some 10 minutes, a later one 5.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from tests.compat.environments import CACHE, build_environment, install_package, remove_package
from tests.hub.hub_server import USER, HubServer
from tests.hub.python_process import PythonProcess
from tests.hub.travellers import BY_NAME, LOAD, TRAVELLERS, Traveller, are_equal


PUSH = """
import hf_thoughtbubbles, transformers
getattr(transformers, auto_class).from_pretrained(source).push_to_hub(repository, max_shard_size="30KB")
"""
PULL_AND_SAVE = LOAD + "\nmodel.save_pretrained(target)"
# What reorders, repeats and crops a cache.
SEARCH = """
import transformers
model = getattr(transformers, auto_class).from_pretrained(source, **options).eval()
ways = {"num_beams": 3}, {"prompt_lookup_num_tokens": 2}
result = [model.generate(**generation, do_sample=False, **way) for way in ways]
"""
VERSIONS = """
import importlib.metadata as metadata
installed = {distribution.name for distribution in metadata.distributions()}
result = {name: metadata.version(name) for name in ("transformers", "huggingface_hub", "torch")}
result["has_package"] = "hf-thoughtbubbles" in installed or "hf_thoughtbubbles" in installed
"""
WITH_PACKAGE = """
import sys, hf_thoughtbubbles
assert hf_thoughtbubbles.__file__.startswith(sys.prefix), hf_thoughtbubbles.__file__
"""
OURS = "hf_thoughtbubbles"
# One of each family, with a cache.
SEARCHERS = [
    BY_NAME[name]
    for name in (
        "thoughtbubbles-threshold",
        "generic-AutoModelForCausalLM",
        "thinker-AutoModelForCausalLM",
        "thinker-autoregressive",
        "bytes-space-AutoModelForCausalLM",
        "next-thought-plain",
    )
]
ERRORS = CACHE / "errors.txt"


class Results:
    """What every model did on every way, and why it failed where it did."""

    def __init__(self):
        self.cells, self.errors = {}, {}

    def record(self, traveller: Traveller, way: str, process: PythonProcess, script: str, expected: list, **order):
        """Load a model somewhere, and note whether it computes there what it computes here."""
        place = traveller.name, way
        try:
            seen = process.run(script, **order)
        except AssertionError as error:
            self.cells[place], self.errors[place] = "error", str(error)
            return
        self.cells[place] = "same" if are_equal(seen, expected) else "other numbers"
        has_text = traveller.generation is not None and traveller.base_inputs is None
        if self.cells[place] != "same" and has_text and are_equal(seen[:-1], expected[:-1]):
            self.cells[place] = "other text"

    def print_table(self):
        """One row a model, one column a way; then each error once, and where whole tracebacks are."""
        ways = list(dict.fromkeys(way for _, way in self.cells))
        print("| model |", " | ".join(ways), "|")
        print("|---" * (len(ways) + 1) + "|")
        for traveller in TRAVELLERS:
            print(f"| {traveller.name} |", " | ".join(self.cells.get((traveller.name, way), "-") for way in ways), "|")
        ERRORS.write_text("\n\n".join(f"{name}, {way}\n{error}" for (name, way), error in self.errors.items()))
        for line in dict.fromkeys(error.strip().splitlines()[-1] for error in self.errors.values()):
            print(line)
        if self.errors:
            print(f"tracebacks are in {ERRORS}")

    @property
    def is_good(self) -> bool:
        """Whether everything computed the same everywhere."""
        return set(self.cells.values()) == {"same"}


def compare_environment(
    name: str, results: Results, hub: HubServer, here: PythonProcess, expected: dict, folder: Path
):
    """All ways of loading in one environment."""
    environment = build_environment(name)
    python = str(environment / "bin" / "python")
    remove_package(environment)
    first, second = (
        PythonProcess(folder / kind, hides_package=True, executable=python, **hub.environment)
        for kind in ("first", "second")
    )
    with contextlib.closing(first), contextlib.closing(second):
        versions = first.run(VERSIONS)
        assert not versions["has_package"]
        print(", ".join(f"{package} {version}" for package, version in list(versions.items())[:3]), flush=True)
        for traveller in TRAVELLERS:
            saved, wanted = folder / traveller.name, expected[traveller.name]
            order = {"source": f"{USER}/{traveller.name}", "target": str(saved), **traveller.order()}
            results.record(traveller, f"{name}: pulled", first, PULL_AND_SAVE, wanted, **order)
            if saved.is_dir():
                order = {"source": str(saved), **traveller.order()}
                results.record(traveller, f"{name}: saved there", second, LOAD, wanted, **order)
                order |= traveller.order(OURS)
                results.record(traveller, f"{name}: loaded here", here, LOAD, wanted, **order)
        for traveller in SEARCHERS:
            source = f"{USER}/{traveller.name}"
            wanted = here.run(SEARCH, source=source, **traveller.order(OURS))
            results.record(traveller, f"{name}: searched", first, SEARCH, wanted, source=source, **traveller.order())
    install_package(environment)
    with contextlib.closing(PythonProcess(folder / "package", executable=python, **hub.environment)) as process:
        process.run(WITH_PACKAGE)
        for traveller in TRAVELLERS:
            order = {"source": f"{USER}/{traveller.name}", **traveller.order(OURS)}
            results.record(traveller, f"{name}: package", process, LOAD, expected[traveller.name], **order)


def main():
    """Push everything once, then load it everywhere."""
    disable_progress_bar()
    results, expected = Results(), {}
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(HubServer()) as hub,
        contextlib.closing(PythonProcess(Path(folder, "here"), **hub.environment)) as here,
    ):
        for traveller in TRAVELLERS:
            model, saved = traveller.build(), str(Path(folder, "saved", traveller.name))
            model.save_pretrained(saved)
            expected[traveller.name] = traveller.expect(model)
            order = {"source": saved, "auto_class": traveller.auto_class.__name__}
            here.run(PUSH, repository=f"{USER}/{traveller.name}", **order)
        for name in ("oldest", "newest"):
            compare_environment(name, results, hub, here, expected, Path(folder, name))
    results.print_table()
    sys.exit(not results.is_good)


if __name__ == "__main__":
    main()
