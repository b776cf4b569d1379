# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Stand-ins for modules that the common tests import and the source distribution lacks."""

from pkgutil import extend_path


__path__ = extend_path(__path__, __name__)
