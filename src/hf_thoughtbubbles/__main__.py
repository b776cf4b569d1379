# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The command line as a module: `python -m hf_thoughtbubbles serve`."""

from .cli.main import main


if __name__ == "__main__":
    main()
