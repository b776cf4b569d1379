# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What do the common tests look for in generation? A name: the source distribution does not ship those tests."""


class GenerationTesterMixin:
    """Stands in for the mixin with no test."""
