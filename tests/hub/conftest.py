# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Which processes, and which Hub, do the tests of saving and sharing use together?"""

import contextlib

import pytest

from tests.hub.hub_server import HubServer
from tests.hub.python_process import PythonProcess


# The client waits up to 23 s between its tries when a connection fails, and keeps what came in pieces of 10 MiB. Here
# it tries again at once, and keeps small pieces.
IMPATIENCE = """
import time
from huggingface_hub import constants
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.01))
constants.DOWNLOAD_CHUNK_SIZE = 1000
"""


@pytest.fixture(scope="session")
def stranger(tmp_path_factory):
    """A process where the package is not installed."""
    with contextlib.closing(PythonProcess(tmp_path_factory.mktemp("stranger"), is_stranger=True)) as process:
        yield process


@pytest.fixture(scope="session")
def second_stranger(tmp_path_factory):
    """Another one, that knows nothing of the first but what it saved."""
    with contextlib.closing(PythonProcess(tmp_path_factory.mktemp("second"), is_stranger=True)) as process:
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
def online_stranger(tmp_path_factory, hub):
    """A process where the package is not installed, but the Hub can be reached."""
    folder = tmp_path_factory.mktemp("online_stranger")
    with contextlib.closing(PythonProcess(folder, is_stranger=True, **hub.environment)) as process:
        process.run(IMPATIENCE)
        yield process
