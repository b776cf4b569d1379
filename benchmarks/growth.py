# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Cost per token against context, batch, streams, steps and bytes per patch, measured and predicted.

    python benchmarks/growth.py --threads 1         # measures, and writes benchmarks/growth.json
    python benchmarks/growth.py --draw              # draws docs/results/figures/ from it (`make figures`)
    python benchmarks/growth.py --quick --output X  # tiny, as a test

context  one cached token after 64 to 8,192 tokens, which are read in parts of 512
batch    one cached token of each of 1 to 32 rows, after 64 tokens, divided by the rows
streams  one cached token with a budget of 1 to 8 streams, after 256 tokens
steps    one cached token after 64 tokens with 1 to 64 steps, or layers of GPT-2; and an answer of one token to 64
patches  a pass over 512 bytes in patches of 1 to 16, divided by the bytes

Predicted is max(FLOPs / F, bytes / B) + operations * O. FLOPs are those of `estimate_flops`. Bytes are those of the
weights (for each step of a loop), of the cache, and twice those of all outputs of operations (written and read).
Operations are counted, see `step_counts.py`. F, B and O are measured in the same run: a product of matrices of the
models' width, a copy of 4 MiB, and a step of a GPT-2 of width 16 divided by its operations. Models take turns.
"""

import argparse
import datetime
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from hf_thoughtbubbles.evaluation.flops import estimate_flops
from small_models import build_config, build_model, draw_ids
from step_counts import OperationCounter
from thinking import take_turns


FILE = Path(__file__).with_suffix(".json")
FIGURES = Path(__file__).parents[1] / "docs" / "results" / "figures"
VOCAB_SIZE = 259
PART = 512  # of a context that is read
SIZES = {
    "full": {
        "width": 128, "depth": 4, "context": [64, 256, 1024, 4096, 8192], "batch": [1, 2, 4, 8, 16, 32],
        "streams": [1, 2, 3, 4, 6, 8], "streams_context": 256, "steps": [1, 2, 4, 8, 16, 32, 64], "prompt": 64,
        "patches": [1, 2, 4, 8, 16], "num_bytes": 512,
    },
    "quick": {
        "width": 32, "depth": 4, "context": [8, 16], "batch": [1, 2], "streams": [1, 2], "streams_context": 8,
        "steps": [1, 2], "prompt": 8, "patches": [1, 2], "num_bytes": 16,
    },
}  # fmt: skip
TEXT_MODELS = ("gpt2", "generic_transformer", "thoughtbubbles-threshold", "looped_thinker_text")
SIZE_LABELS = {
    "context": "tokens in the cache", "batch": "rows", "streams": "budget (streams per token)",
    "steps": "steps of the loop, or layers of GPT-2", "patches": "bytes per patch",
}  # fmt: skip
TITLES = {
    "context": "One cached token by the length of the context, one row",
    "batch": "One cached token by the number of rows, after 64 tokens",
    "streams": "One cached token by the budget of streams, after 256 tokens",
    "steps": "One token by the number of steps, after 64 tokens",
    "patches": "Reading 512 bytes by the size of a patch",
}


class CachedStep:
    """Reads more of a text, then one token at a time."""

    def __init__(self, config: PreTrainedConfig, batch_size: int = 1, **options):
        self.model, self.options = build_model(config), options
        self.cache, self.length, self.batch_size = None, 0, batch_size
        self.weights = sum(parameter.nbytes for parameter in self.model.parameters())
        self.weights *= getattr(config, "num_steps", 1)

    @torch.no_grad()
    def read(self, num_tokens: int):
        """Read `num_tokens` more tokens of each row."""
        ids = draw_ids(self.model.config, self.batch_size, num_tokens)
        options = {"past_key_values": self.cache, "use_cache": True, "logits_to_keep": 1, **self.options}
        self.cache = self.model(ids, **options).past_key_values
        self.length += num_tokens

    def __call__(self):
        self.read(1)

    def count_bytes(self) -> int:
        """Bytes of weights and cache that a step reads."""
        tensors = [value for layer in self.cache.layers for value in vars(layer).values()]
        return self.weights + sum(value.nbytes for value in tensors if isinstance(value, torch.Tensor))


def predict(call: Callable[[], object], flops: float, num_read: int, roofline: dict) -> dict:
    """FLOPs, bytes and operations of a call, and its predicted seconds."""
    with torch.no_grad(), OperationCounter() as counter:
        call()
    num_bytes, operations = num_read + 2 * counter.counts["bytes"], counter.counts["operations"]
    seconds = max(flops / roofline["flops_per_second"], num_bytes / roofline["bytes_per_second"])
    predicted = seconds + operations * roofline["seconds_per_operation"]
    return {"flops": flops, "bytes": num_bytes, "operations": operations, "predicted": predicted}


def measure_point(axis: str, size: int, calls: dict, repeats: int, roofline: dict, units: int = 1) -> list[dict]:
    """Rows of one size: calls by model, each with its FLOPs and the bytes that it reads; for each of `units`."""
    costs = {name: predict(call, flops, num_read, roofline) for name, (call, flops, num_read) in calls.items()}
    seconds = take_turns({name: call for name, (call, *_) in calls.items()}, "cpu", repeats)
    rows = []
    for name, times in seconds.items():
        low, middle, high = (quartile / units for quartile in statistics.quantiles(times, method="inclusive"))
        costs[name]["predicted"] /= units
        rows.append(
            {"axis": axis, "model": name, "size": size, "cost": middle, "low": low, "high": high, **costs[name]}
        )
        print(
            f"{axis} {size} {name}: {1e3 * middle:.3f} ms, predicted {1e3 * costs[name]['predicted']:.3f}", flush=True
        )
    return rows


def measure_context(size: dict, repeats: int, roofline: dict) -> list[dict]:
    """One cached token by the length of the context."""
    positions = 2 * max(size["context"])
    configs = {name: build_config(name, size["width"], size["depth"], VOCAB_SIZE, positions) for name in TEXT_MODELS}
    steps, rows = {name: CachedStep(config) for name, config in configs.items()}, []
    for length in size["context"]:
        calls = {}
        for name, step in steps.items():
            while step.length < length:
                step.read(min(PART, length - step.length))
            flops = estimate_flops(configs[name], length).per_generated_token
            calls[name] = (step, flops, step.count_bytes())
        rows += measure_point("context", length, calls, repeats, roofline)
    return rows


def measure_batch(size: dict, repeats: int, roofline: dict) -> list[dict]:
    """One cached token of each row by the number of rows."""
    prompt, rows = size["prompt"], []
    for batch_size in size["batch"]:
        calls = {}
        for name in TEXT_MODELS:
            config = build_config(name, size["width"], size["depth"], VOCAB_SIZE, 2 * prompt)
            step = CachedStep(config, batch_size)
            step.read(prompt)
            flops = batch_size * estimate_flops(config, prompt).per_generated_token
            calls[name] = (step, flops, step.count_bytes())
        rows += measure_point("batch", batch_size, calls, repeats, roofline, units=batch_size)
    return rows


def measure_streams(size: dict, repeats: int, roofline: dict) -> list[dict]:
    """One cached token by the budget of streams; GPT-2 has one stream."""
    length, rows = size["streams_context"], []
    for budget in size["streams"]:
        sizes = (size["width"], size["depth"], VOCAB_SIZE, 2 * length)
        forks = {"fork_layers": [1, 2, 3], "fork_budget": budget}
        configs = {"thoughtbubbles-threshold": build_config("thoughtbubbles-threshold", *sizes, **forks)}
        configs |= {"gpt2": build_config("gpt2", *sizes)}
        calls = {}
        for name, config in configs.items():
            step = CachedStep(config)
            step.read(length)
            calls[name] = (step, estimate_flops(config, length).per_generated_token, step.count_bytes())
        rows += measure_point("streams", budget, calls, repeats, roofline)
    return rows


def measure_steps(size: dict, repeats: int, roofline: dict) -> list[dict]:
    """One token by the number of steps, or of layers of GPT-2."""
    prompt, rows = size["prompt"], []
    for num_steps in size["steps"]:
        calls = {}
        for name in ("gpt2", "looped_thinker_text"):
            config = build_config(name, size["width"], num_steps, VOCAB_SIZE, 2 * prompt)
            step = CachedStep(config)
            step.read(prompt)
            calls[name] = (step, estimate_flops(config, prompt).per_generated_token, step.count_bytes())
        config = build_config("looped_thinker", size["width"], num_steps, VOCAB_SIZE, 2 * prompt)
        model, inputs = build_model(config), {"use_cache": False}
        inputs |= {"input_ids": draw_ids(config, 1, prompt), "decoder_input_ids": draw_ids(config, 1, 1)}
        flops = estimate_flops(config, prompt, answer_length=1).forward
        calls["looped_thinker"] = make_pass(model, flops, num_steps, **inputs)
        rows += measure_point("steps", num_steps, calls, repeats, roofline)
    return rows


def make_pass(model: PreTrainedModel, flops: float, num_times: int = 1, **inputs) -> tuple:
    """A pass without a cache, its FLOPs, and the bytes of its weights, read `num_times`."""
    return lambda: model(**inputs), flops, num_times * sum(parameter.nbytes for parameter in model.parameters())


def measure_patches(size: dict, repeats: int, roofline: dict) -> list[dict]:
    """A pass over bytes by the size of a patch; GPT-2 reads bytes."""
    num_bytes, rows = size["num_bytes"], []
    for patch_size in size["patches"]:
        calls = {}
        for name in ("gpt2", "byte_patch-autoregressive", "byte_patch-parallel"):
            patches = {"patching": "fixed", "patch_size": patch_size} if name != "gpt2" else {}
            config = build_config(name, size["width"], size["depth"], VOCAB_SIZE, 2 * num_bytes, **patches)
            ids = draw_ids(config, 1, num_bytes)
            flops = estimate_flops(config, num_bytes).forward
            calls[name] = make_pass(build_model(config), flops, input_ids=ids, use_cache=False)
        rows += measure_point("patches", patch_size, calls, repeats, roofline, units=num_bytes)
    return rows


MEASURES = {
    "context": measure_context, "batch": measure_batch, "streams": measure_streams, "steps": measure_steps,
    "patches": measure_patches,
}  # fmt: skip


def find_median(call: Callable[[], object], repeats: int = 21) -> float:
    """Median seconds of a call."""
    return statistics.median(take_turns({"call": call}, "cpu", repeats, warm_ups=3)["call"])


def measure_roofline(size: dict) -> dict[str, float]:
    """The speeds of this machine: products of matrices, copies, and small operations."""
    rows, weights = torch.randn(PART, size["width"]), torch.randn(size["width"], 4 * size["width"])
    source, target = torch.randn(1 << 20), torch.empty(1 << 20)
    step = CachedStep(build_config("gpt2", 16, size["depth"], VOCAB_SIZE, 64))
    step.read(8)
    with OperationCounter() as counter:
        step()
    return {
        "flops_per_second": 2 * PART * 4 * size["width"] ** 2 / find_median(lambda: rows @ weights),
        "bytes_per_second": 2 * source.nbytes / find_median(lambda: target.copy_(source)),
        "seconds_per_operation": find_median(step) / counter.counts["operations"],
    }


def describe_processor() -> str:
    """The name of the processor, or its kind where the system does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def draw(file: Path, folder: Path):
    """Write a picture of each axis."""
    from hf_thoughtbubbles.plots.growth import PARTS, plot_growth  # measuring needs no matplotlib

    run = json.loads(file.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    colors = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(row["model"] for row in run["rows"]))}
    for axis in dict.fromkeys(row["axis"] for row in run["rows"]):
        curves = {}
        for row in run["rows"]:
            if row["axis"] == axis:
                curve = curves.setdefault(row["model"], {part: [] for part in PARTS})
                for part in PARTS:
                    curve[part].append(row[part] * (1 if part == "size" else 1e3))
        cost_label = "milliseconds per byte" if axis == "patches" else "milliseconds per token"
        figure = plot_growth(curves, SIZE_LABELS[axis], cost_label, TITLES[axis], colors)
        figure.savefig(folder / f"growth_{axis}.png", dpi=120)


def main():
    """Measure and write the rows, or draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--axes", nargs="+", default=list(MEASURES), choices=list(MEASURES))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a test")
    parser.add_argument("--output", type=Path, default=FILE, help="the rows")
    parser.add_argument("--draw", action="store_true", help="draw the rows instead of measuring")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="the folder of the pictures")
    args = parser.parse_args()
    if args.draw:
        draw(args.output, args.figures)
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    size, start = SIZES["quick" if args.quick else "full"], time.perf_counter()
    roofline = measure_roofline(size)
    rows = [row for axis in args.axes for row in MEASURES[axis](size, args.repeats, roofline)]
    run = {
        "command": f"python benchmarks/growth.py {shlex.join(sys.argv[1:])}".strip(),
        "date": datetime.date.today().isoformat(),
        "machine": f"{describe_processor()}, {torch.get_num_threads()} threads, float32, torch {torch.__version__}",
        "seed": 0,
        "roofline": roofline,
    }
    earlier = json.loads(args.output.read_text())["rows"] if args.output.exists() else []
    kept = [row for row in earlier if row["axis"] not in args.axes]
    text = json.dumps(run, indent=1).removesuffix("\n}") + ',\n "rows": [\n  '
    args.output.write_text(text + ",\n  ".join(json.dumps(row) for row in [*kept, *rows]) + "\n ]\n}\n")
    print(f"{len(rows)} rows in {time.perf_counter() - start:.0f} s, written to {args.output}")


if __name__ == "__main__":
    main()
