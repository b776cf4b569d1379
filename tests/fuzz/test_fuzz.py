# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A few examples of each check of the fuzzer, the same in every run; `make fuzz` draws others for an hour."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.checks import list_cells, run_cell


NUM_EXAMPLES = 4


@pytest.mark.thorough
@pytest.mark.parametrize("cell", list_cells())
def test_drawn_models_keep_the_promises(cell):
    @settings(
        derandomize=True,
        deadline=None,
        max_examples=NUM_EXAMPLES,
        database=None,
        phases=[Phase.generate],  # `make fuzz` shrinks what it finds
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data):
        run_cell(cell, data.draw)

    run()
