# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""`hf-thoughtbubbles convert`: add forks or loops to a pretrained model, or take them away, and save the result.

hf-thoughtbubbles convert HuggingFaceTB/SmolLM2-135M smollm2-forked --fork-layers 10 20
hf-thoughtbubbles convert HuggingFaceTB/SmolLM2-135M smollm2-looped --loop-layers 10 19 --num-steps 4
hf-thoughtbubbles convert smollm2-forked smollm2-native --to-native
"""

import argparse
from collections.abc import Sequence

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM

from ..conversion.native import fork_native, loop_native, to_native
from ..conversion.native_files import check_target, save_converted


def build_parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(
        prog="hf-thoughtbubbles convert",
        description="Add forks or loops to a pretrained GPT-2, Llama, Mistral, Qwen2 or Qwen3, and save the model.",
    )
    parser.add_argument("source", help="name on the Hub, or folder, of the pretrained model")
    parser.add_argument("target", help="folder to write, new or empty")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--fork-layers", type=int, nargs="+", metavar="LAYER", help="0-based layers that fork")
    kind.add_argument(
        "--loop-layers", type=int, nargs=2, metavar=("FIRST", "LAST"), help="0-based first and last layer of the loop"
    )
    kind.add_argument("--to-native", action="store_true", help="return a converted model to its native class")
    parser.add_argument("--fork-budget", type=float, help="streams per token (default: 1, the native model)")
    parser.add_argument("--fork-adapter-rank", type=int, help="rank of the adapter of copies (default: no adapter)")
    parser.add_argument("--fork-rule", help="how streams are chosen (default: threshold)")
    parser.add_argument("--num-steps", type=int, help="times that the loop runs (default: 1, the native model)")
    parser.add_argument("--dtype", default="auto", help="precision, as bfloat16 (default: the source's)")
    parser.add_argument("--revision", help="branch, tag or commit of the source (default: main)")
    parser.add_argument("--token", help="token for the Hub (default: the one that `hf auth login` saved)")
    parser.add_argument("--cache-dir", help="folder for downloaded files")
    return parser


def main(arguments: Sequence[str] | None = None):
    """Convert and save; errors of the arguments end with status 2."""
    parser = build_parser()
    parsed = vars(parser.parse_args(arguments))
    given = {name: value for name, value in parsed.items() if value is not None and value is not False}
    source, target, dtype = given.pop("source"), given.pop("target"), given.pop("dtype")
    hub_arguments = {name: given.pop(name) for name in ("revision", "token", "cache_dir") if name in given}
    kind = next(name for name in ("fork_layers", "loop_layers", "to_native") if name in given)
    own = {"fork_layers": "fork_", "loop_layers": "num_steps", "to_native": "to_native"}[kind]
    wrong = [f"--{name.replace('_', '-')}" for name in given if name != kind and not name.startswith(own)]
    if wrong:
        parser.error(f"{wrong[0]} was passed, but has no effect with --{kind.replace('_', '-')}. Remove one.")
    try:
        check_target(target)
        if kind == "to_native":
            loaded = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **hub_arguments)
            model = to_native(loaded)
        else:
            model = (fork_native if kind == "fork_layers" else loop_native)(
                source, dtype=dtype, **given, **hub_arguments
            )
        names = save_converted(model, source, target, **hub_arguments)
    except (ValueError, OSError, StrictDataclassError) as error:
        parser.error(str(error))
    print(f"{type(model).__name__} with {model.num_parameters():,} parameters in {target}: {', '.join(names)}")
