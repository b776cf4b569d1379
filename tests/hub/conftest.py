# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Processes and a Hub that the tests of saving and sharing use together."""

import contextlib

import pytest

from tests.hub.hub_server import HubServer
from tests.hub.python_process import PythonProcess


# When a connection fails, the client waits up to 23 s before it retries, and it stores downloads in pieces of 10 MiB.
# In tests it retries at once and stores small pieces.
IMPATIENCE = """
import time
from huggingface_hub import constants
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.01))
constants.DOWNLOAD_CHUNK_SIZE = 1000
"""


@pytest.fixture(scope="session")
def bare_process(tmp_path_factory):
    """A process where the package is not installed."""
    with contextlib.closing(PythonProcess(tmp_path_factory.mktemp("bare"), hides_package=True)) as process:
        yield process


@pytest.fixture(scope="session")
def second_bare_process(tmp_path_factory):
    """Another process where the package is not installed, with caches of its own."""
    with contextlib.closing(PythonProcess(tmp_path_factory.mktemp("second"), hides_package=True)) as process:
        yield process


@pytest.fixture(scope="session")
def hub():
    """A Hub on the loopback."""
    with contextlib.closing(HubServer()) as server:
        yield server


@pytest.fixture(scope="session")
def owner(tmp_path_factory, hub):
    """A process that uses the package and the Hub."""
    with contextlib.closing(PythonProcess(tmp_path_factory.mktemp("owner"), **hub.environment)) as process:
        process.run(IMPATIENCE + "\nimport hf_thoughtbubbles")
        yield process


@pytest.fixture(scope="session")
def online_bare_process(tmp_path_factory, hub):
    """A process where the package is not installed, but the Hub can be reached."""
    folder = tmp_path_factory.mktemp("online_bare_process")
    with contextlib.closing(PythonProcess(folder, hides_package=True, **hub.environment)) as process:
        process.run(IMPATIENCE)
        yield process
