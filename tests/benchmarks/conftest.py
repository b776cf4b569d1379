# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Benchmarks import each other by their file names, as when they are started as scripts."""

import sys
from pathlib import Path


sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
