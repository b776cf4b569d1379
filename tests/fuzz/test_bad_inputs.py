# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Every row of the table of bad inputs is refused with an error that names its argument."""

import pytest

from tests.fuzz.bad_inputs import list_bad_inputs
from tests.fuzz.bad_rows import BASES, call_forward, call_generate, find_fault, make_config


ROWS = list_bad_inputs()


@pytest.mark.parametrize("row", ROWS, ids=map(str, ROWS))
def test_a_bad_input_is_refused_by_name(row):
    assert find_fault(row) is None


def test_the_right_input_of_each_family_is_accepted():
    """Without the mistake there is no error, so that a row fails for its mistake alone."""
    for family, (_, class_name, _) in BASES.items():
        call_forward(family)
        make_config(family)
        if "CausalLM" in class_name or "Conditional" in class_name:
            call_generate(family)
