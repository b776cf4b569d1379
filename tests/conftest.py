# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The environment of all tests: no network, a cache of their own, one thread each under several processes."""

import multiprocessing
import os
import tempfile


# Before transformers, datasets and huggingface_hub are imported: they read these once.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_thoughtbubbles_tests_")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "agg"
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores; tests start processes of their own too
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch


collect_ignore = ["compat", "preloaded.py"]  # programs of their own, which hold no tests

# The server of forked processes imports it, when a test forks the first one.
multiprocessing.set_forkserver_preload(["tests.preloaded"])
pytest.register_assert_rewrite("tests.contract.contract")


def pytest_collection_modifyitems(items):
    """Put files of slow tests first, so that no process is left with a long one when the others have finished."""
    quick = {item.path for item in items if item.get_closest_marker("slow") is None}
    items.sort(key=lambda item: item.path in quick)


@pytest.fixture(autouse=True)
def seed():
    """Every test starts from the same random state; `torch.manual_seed` traces the stack for absent accelerators."""
    torch.default_generator.manual_seed(0)
