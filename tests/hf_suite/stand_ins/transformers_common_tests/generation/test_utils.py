# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The name of the generation tests, which the source distribution does not ship."""


class GenerationTesterMixin:
    """Stands in for the mixin with no test."""
