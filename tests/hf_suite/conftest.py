# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""pytest settings that transformers' common tests need."""

import pytest
import torch


collect_ignore = ["stand_ins"]

MARKERS = (
    "accelerate_tests",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_test",
    "is_fsdp_test",
    "is_training_test",
    "slow",
    "torch_compile_test",
)


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: a marker of transformers' common tests")


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Tensors are so small here that a second thread costs more than it does."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
