# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What README.md and docs/ecosystem.md say about other tools is run by tests, with the versions named there."""

import ast
import re
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text().split("## What works with what")[1].split("\n## ")[0]
TEXT = (REPOSITORY / "docs" / "ecosystem.md").read_text()
LINES = [*README.splitlines(), *TEXT.splitlines()]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES if line.startswith("| ")]
ROWS = [row for row in ROWS if row[0] != "tool"]


def list_tests(path: Path) -> set[str]:
    """Names of the test functions and methods of a file, read without running it."""
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def exists(test: str) -> bool:
    """Whether `tests/folder/test_file.py::test_name` is a test of `make test`, of every family, or of `make tools`."""
    file, name = test.split("::")
    first = "check_" if file.startswith("tests/tools/") else ("test_", "contract.py")
    is_collected = Path(file).name.startswith(first) and name.startswith("test_")
    return is_collected and (REPOSITORY / file).is_file() and name in list_tests(REPOSITORY / file)


def test_a_test_that_is_not_there_is_noticed():
    here = "tests/ecosystem/test_ecosystem_table.py"
    assert exists(f"{here}::test_a_test_that_is_not_there_is_noticed")
    assert not exists(f"{here}::test_nothing")
    assert not exists(f"{here}::exists")
    assert not exists("tests/ecosystem/test_nothing.py::test_nothing")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[-1])
def test_every_row_names_a_test_that_is_there_and_a_version_that_is_installed(row):
    _, version, *_, test = row
    assert exists(test.strip("`"))
    package, number = version.split()
    pins = "tests/tools/requirements.txt" if "tests/tools/" in test else "constraints.txt"
    assert f"{package}=={number}" in (REPOSITORY / pins).read_text().splitlines()


def test_both_tables_have_rows():
    assert README.count("\n| ") > 10 and TEXT.count("\n| ") > 20


def test_every_test_named_below_the_table_is_there():
    names = re.findall(r"`(test_\w+\.py::test_\w+)`", TEXT)
    assert len(names) > 0
    for name in names:
        assert exists(f"tests/ecosystem/{name}"), name


def test_every_file_of_this_folder_is_in_the_table():
    files = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}
    assert files == {name for name in files if f"tests/ecosystem/{name}::" in TEXT}
