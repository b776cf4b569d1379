# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What do the common tests import that the source distribution lacks? This folder, joined with the fetched one."""

from pkgutil import extend_path


__path__ = extend_path(__path__, __name__)
