# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Turn a checkpoint of the reference implementation (theseus) into a folder that `from_pretrained` loads.

The parameters come as an `.npz` (names joined by `/`), a flax `.msgpack`, or an orbax checkpoint folder; the last two
need `pip install flax orbax-checkpoint`. The architecture is a JSON file, or JSON text, with the reference's own keys:

    python examples/convert_theseus_checkpoint.py params.npz architecture.json runs/converted
    python examples/convert_theseus_checkpoint.py checkpoint_folder \
        '{"n_layers": 36, "n_embd": 2048, "n_head": 16, "vocab_size": 50257, "fork": [2, 5, 8]}' runs/converted
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hf_thoughtbubbles.conversion.arrays import load_arrays
from hf_thoughtbubbles.conversion.theseus import thoughtbubbles_from_theseus


def flatten(tree: Mapping, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested parameters to `/`-joined names; wrappers that hold one `value` are opened, `params` levels removed."""
    flat = {}
    for name, value in tree.items():
        path = f"{prefix}/{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            flat.update(flatten(value, path))
        else:
            flat[path] = np.asarray(value)
    return {name.removeprefix("params/").removesuffix("/value"): value for name, value in flat.items()}


def read_parameters(path: Path) -> dict[str, np.ndarray]:
    """Parameters by name from an `.npz`, a flax `.msgpack` or an orbax folder."""
    if path.is_dir():
        from orbax.checkpoint import PyTreeCheckpointer

        return flatten(PyTreeCheckpointer().restore(path.resolve()))
    if path.suffix == ".msgpack":
        from flax.serialization import msgpack_restore

        return flatten(msgpack_restore(path.read_bytes()))
    if path.suffix == ".npz":
        return flatten(load_arrays(path))
    raise SystemExit(f"{path} is neither an .npz or .msgpack file nor a checkpoint folder.")


def main():
    """Read, convert, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parameters", type=Path, help="an .npz or .msgpack file, or an orbax folder")
    parser.add_argument("architecture", help="JSON file or JSON text with the reference's architecture keys")
    parser.add_argument("output", type=Path, help="folder to write")
    args = parser.parse_args()

    is_text = args.architecture.lstrip().startswith("{")
    architecture = json.loads(args.architecture if is_text else Path(args.architecture).read_text(encoding="utf-8"))
    model = thoughtbubbles_from_theseus(read_parameters(args.parameters), architecture)
    model.save_pretrained(args.output)
    print(f"{model.num_parameters():,} parameters in {args.output}")


if __name__ == "__main__":
    main()
