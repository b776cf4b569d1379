# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How does transformers' command line come to know the models? `python -m hf_thoughtbubbles serve`, for one.

transformers asks no installed package what it has to offer, so `transformers serve` alone knows only its own models.
Python imports this package before this file, which makes the models known; all else is transformers' command line.
"""

from transformers.cli.transformers import main


if __name__ == "__main__":
    main()
