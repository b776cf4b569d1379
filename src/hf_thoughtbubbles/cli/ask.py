# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""`hf-thoughtbubbles ask`: ask a looped Thinker to compute, in decimal numbers.

hf-thoughtbubbles ask runs/addition "123 + 456" "7 + 8"
hf-thoughtbubbles ask runs/addition "123 + 456" --num-steps 16
"""

import argparse
from collections.abc import Sequence

from transformers import AutoModelForSeq2SeqLM

from ..evaluation.answers import ask_numbers


def build_parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(
        prog="hf-thoughtbubbles ask",
        description="Ask a looped Thinker to compute. Every reply is shown beside the right answer.",
    )
    parser.add_argument("model", help="name on the Hub, or folder, of a Thinker that was trained on a number task")
    parser.add_argument("questions", nargs="+", help='as "123 + 456", "factorise 60" or "3 1 2", by the task')
    parser.add_argument("--num-steps", type=int, help="number of steps to think (default: the model's)")
    parser.add_argument("--num-latents", type=int, help="number of latents to think with (default: the model's)")
    return parser


def main(arguments: Sequence[str] | None = None):
    """Ask and print; errors of the arguments end with status 2."""
    parser = build_parser()
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    source, questions = given.pop("model"), given.pop("questions")
    try:
        for reply in ask_numbers(AutoModelForSeq2SeqLM.from_pretrained(source), questions, **given):
            print(reply)
    except (ValueError, OSError) as error:
        parser.error(str(error))
