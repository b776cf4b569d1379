# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""transformers' tests of configurations, run on ours."""

import unittest

import pytest

from .upstream import import_common_tests
from .variants import VARIANTS


configuration = import_common_tests("test_configuration_common")


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_config_passes_the_common_tests(variant):
    tester = configuration.ConfigTester(unittest.TestCase(), variant.config_class, **variant.config_kwargs)
    tester.run_common_tests()
