# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Generation with a static cache and a compiled step, against the growing cache without compilation.

    python benchmarks/static_cache.py --threads 1        # CPU, float32
    python benchmarks/static_cache.py --quick            # tiny, without a backend: a test that it runs

For every text family that has static caches, and for native GPT-2. Thoughtbubbles forks by thresholds of random
weights, calibrated to two streams a token. Numbers come from `generate`: the seconds of a token are those of many
new tokens less those of one, divided by the tokens between. The ways take turns in one process and medians are
compared. The time to compile is that of the first call.
"""

import argparse
import statistics
import time

import torch
from transformers import CompileConfig

from generation import Arm, make_prompt
from hf_thoughtbubbles import calibrate_forks
from training_step import SIZES, build


FAMILIES = ("threshold", "looped", "generic", "gpt2")
PROMPT, NEW_TOKENS = 64, 33


def measure(name: str, size: dict, repeats: int, backend: str):
    """Print one row: the ways take turns."""
    torch.manual_seed(0)
    model = build(name, size).eval()
    if name == "threshold":
        calibrate_forks(model, [{"input_ids": torch.randint(0, size["vocab"], (4, size["tokens"]))}], budgets=[2.0])
    compile_config = CompileConfig(backend=backend, fullgraph=True, mode=None)
    compile_config._compile_all_devices = True  # transformers compiles by itself on accelerators alone
    static = {"cache_implementation": "static"}
    arms = {
        "growing, eager": Arm(model, NEW_TOKENS, {}),
        "static, eager": Arm(model, NEW_TOKENS, {**static, "disable_compile": True}),
        "static, compiled": Arm(model, NEW_TOKENS, {**static, "compile_config": compile_config}),
    }
    prompt, mask = make_prompt(size["prompt"], 1, size["vocab"], "cpu")
    for arm in arms.values():
        start = time.perf_counter()
        for num_new_tokens in (1, 3, NEW_TOKENS):  # static caches are as long as the text
            arm.generate(prompt, mask, num_new_tokens)
        first = time.perf_counter() - start
    for _ in range(repeats):
        for arm in arms.values():
            arm.measure(prompt, mask, "cpu")
    eager = arms["growing, eager"]
    for label, arm in arms.items():
        low, _, high = statistics.quantiles(a / b for a, b in zip(arm.seconds, eager.seconds, strict=True))
        compiled = f"{first:.1f}" if label == "static, compiled" else ""
        ratio = f"{arm.median / eager.median:.3f} ({low:.3f} to {high:.3f})"
        print(f"| {name} | {label} | {1e3 * arm.median:.2f} | {ratio} | {compiled} |", flush=True)


def main():
    """A row for each family and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a test")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    size = (
        dict(SIZES["quick"])
        if args.quick
        else {**SIZES["cpu"], "layers": args.layers, "forks": [args.layers // 4, args.layers // 2]}
    )
    size |= {"prompt": 8 if args.quick else PROMPT, "tokens": max(size["tokens"], 64)}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {size}\n")
    print("| | way | ms a token | / growing, eager (quartiles) | first call (s) |")
    print("|---|---|---|---|---|")
    for name in args.families:
        measure(name, size, args.repeats, "eager" if args.quick else "inductor")


if __name__ == "__main__":
    main()
