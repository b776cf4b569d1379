# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The command line of transformers with the models of this package: `python -m hf_thoughtbubbles serve`."""

import importlib

from transformers import PreTrainedModel
from transformers.cli.transformers import main

import hf_thoughtbubbles


def add_models():
    """Add the models to the namespace of transformers in this process. `serve` looks classes up there by name."""
    transformers = importlib.import_module("transformers")  # the module replaces itself while its parts are imported
    for name in hf_thoughtbubbles.__all__:
        public = getattr(hf_thoughtbubbles, name)
        if isinstance(public, type) and issubclass(public, PreTrainedModel):
            setattr(transformers, name, public)


if __name__ == "__main__":
    add_models()
    main()
