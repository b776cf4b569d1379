# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Imports and first-use work of the processes that tests fork, done once in the server that forks them.

The server finds this module where pytest runs in the root of the repository; elsewhere each process does the work.
"""

import datasets  # noqa: F401  # for the forked processes
import matplotlib.pyplot  # noqa: F401  # for the forked processes
import parameterized  # noqa: F401  # for the forked processes
import torch.distributed.fsdp  # noqa: F401  # for the forked processes
import transformers.testing_utils
import transformers.trainer  # noqa: F401  # for the forked processes
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import hf_thoughtbubbles


get_checkpoint_conversion_mapping("llama")  # transformers compiles a thousand patterns for the first model it loads
for names in hf_thoughtbubbles.FAMILIES.values():
    getattr(hf_thoughtbubbles, names["AutoConfig"])().export_code()  # sources are parsed for the first model saved
    for name in names.values():
        getattr(hf_thoughtbubbles, name)
