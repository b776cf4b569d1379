# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Source of transformers' own common tests.

From the source distribution of the transformers that is installed: pip fetches it once per version into a cache folder
that git ignores. It ships the tests of its top folder; for the modules those import from other folders there are
stand-ins of ours in `stand_ins/`. Both folders together are the package `transformers_common_tests`.
"""

import functools
import importlib
import subprocess
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import transformers
from filelock import FileLock


PACKAGE = "transformers_common_tests"
CACHE = Path(__file__).parents[2] / ".cache" / "hf_suite"
STAND_INS = Path(__file__).parent / "stand_ins"
FETCH_SECONDS = 120


def extract_tests(sdist: Path, folder: Path):
    """Write the `tests/test_*.py` of a source distribution into `folder`, which becomes a package."""
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            path = Path(member.name)
            if path.parts[1:-1] == ("tests",) and path.match("test_*.py") and member.isfile():
                (folder / path.name).write_bytes(archive.extractfile(member).read())
    (folder / "__init__.py").touch()


@functools.cache
def fetch_tests() -> tuple[Path | None, str]:
    """The folder that holds the package for the installed transformers; `None` and the reason where pip has none."""
    cached, requirement = CACHE / transformers.__version__, f"transformers=={transformers.__version__}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "lock"):
        if cached.is_dir():
            return cached, ""
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            options = ["--no-deps", "--no-binary", "transformers", "--retries", "2", "--quiet", "--dest", scratch]
            command = [sys.executable, "-m", "pip", "download", *options, requirement]
            try:
                fetched = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS)
            except subprocess.TimeoutExpired:
                return None, f"pip did not fetch the sdist of {requirement} within {FETCH_SECONDS} seconds"
            sdists = list(Path(scratch).glob("transformers-*.tar.gz"))
            if fetched.returncode != 0 or len(sdists) != 1:
                last_line = (fetched.stderr.strip() or fetched.stdout.strip() or "no message").splitlines()[-1]
                return None, f"pip could not fetch the sdist of {requirement}: {last_line}"
            folder = Path(scratch) / "extracted"
            (folder / PACKAGE).mkdir(parents=True)
            extract_tests(sdists[0], folder / PACKAGE)
            folder.rename(cached)
    return cached, ""


def import_common_tests(name: str) -> ModuleType:
    """Import a module of transformers' tests; skips the importing test module where they could not be fetched."""
    folder, reason = fetch_tests()
    if folder is None:
        pytest.skip(f"transformers' common tests are not there: {reason}", allow_module_level=True)
    for path in (str(STAND_INS), str(folder)):  # on sys.path, so that processes started by a test find them too
        if path not in sys.path:
            sys.path.append(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"{PACKAGE}.{name}")
