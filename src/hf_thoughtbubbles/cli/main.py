# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The command `hf-thoughtbubbles`: commands of this package, and those of transformers with our models."""

import importlib
import sys

from . import ask, convert, demo, plan


OWN_COMMANDS = {"ask": ask, "convert": convert, "demo": demo, "plan": plan}
OVERVIEW = """Commands of this package, each with a --help of its own:
  hf-thoughtbubbles ask      asks a looped Thinker to compute, as "123 + 456"
  hf-thoughtbubbles convert  adds forks or loops to a pretrained model
  hf-thoughtbubbles demo     trains a small model, draws where it thinks, and lets it write
  hf-thoughtbubbles plan     says what a training run needs: operations, memory, hours

All other commands are those of transformers, with the models of this package:
"""


def add_models():
    """Add the models to the namespace of transformers in this process. `serve` looks classes up there by name."""
    package = importlib.import_module("hf_thoughtbubbles")
    transformers = importlib.import_module("transformers")  # the module replaces itself while its parts are imported
    for name in package.__all__:
        public = getattr(package, name)
        if isinstance(public, type) and issubclass(public, transformers.PreTrainedModel):
            setattr(transformers, name, public)


def main():
    """Run the command that the arguments of the process name."""
    own = OWN_COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if own is not None:
        own.main(sys.argv[2:])
        return
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        print(OVERVIEW)
    add_models()
    importlib.import_module("transformers.cli.transformers").main()


__all__ = ["add_models", "main"]
