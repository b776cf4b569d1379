# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""An empty base class for the export tests, which the source distribution does not ship."""


class ExportTesterMixin:
    """Stands in for the mixin with no test."""
