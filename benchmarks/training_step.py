# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Time, memory and recompilations of a training step of every text family, against native GPT-2.

    python benchmarks/training_step.py                           # eager, CPU, float32: the size of docs/results.md
    python benchmarks/training_step.py --compile --layers 4 --families topk threshold   # inductor
    python benchmarks/training_step.py --parts memory            # one of: time, memory, recompile
    python benchmarks/training_step.py --device cuda --compile   # bf16
    python benchmarks/training_step.py --quick                   # tiny: a test that it runs, no measurement

All models have the width, depth and heads of GPT-2: looped Thinkers apply one layer so often, the core of byte patches
has that width and depth, beside layers of a quarter of it over bytes.

time       Steps of the models alternate in one process and medians are compared, so a busy machine slows all. FLOPs
           are those that torch counts in the forward pass with labels; causal attention counts in full. The time to
           compile is that of the first step.
memory     The most that is allocated at once in a step, beside the weights and the optimizer's state: every
           allocation and release that torch's profiler records. Also under gradient checkpointing.
recompile  Graphs that a tiny model compiles in its first steps, and in all others, each on a batch of other text.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Iterable

import torch
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from hf_thoughtbubbles import (
    BytePatchConfig,
    BytePatchForCausalLM,
    GenericTransformerConfig,
    GenericTransformerForCausalLM,
    LoopedThinkerForCausalLM,
    LoopedThinkerTextConfig,
    ThoughtbubblesConfig,
    ThoughtbubblesForCausalLM,
)
from hf_thoughtbubbles.data.patches import PatchCollator


FAMILIES = ("topk", "threshold", "looped", "bytes", "generic")
SIZES = {  # vocabulary, width, layers, heads, layers that fork, rows, tokens
    "cpu": {"vocab": 259, "width": 256, "layers": 8, "heads": 4, "forks": [2, 4], "batch": 8, "tokens": 256},
    "cuda": {"vocab": 50304, "width": 768, "layers": 16, "heads": 12, "forks": [3, 7, 11], "batch": 32, "tokens": 512},
    "quick": {"vocab": 259, "width": 16, "layers": 2, "heads": 2, "forks": [1], "batch": 2, "tokens": 32},
}  # fmt: skip
PATCH_MULTIPLE = 8  # numbers of patches are multiples of this
NUM_FIRST_STEPS = 20  # a second number of patches makes that size of a graph dynamic, once
BF16_PEAK_FLOPS = 989e12  # dense bf16 of an H100 or H200 by the vendor's datasheet


def build(name: str, size: dict) -> PreTrainedModel:
    """A model of the family, or native GPT-2, of the same sizes without dropout."""
    width, layers, heads, tokens = size["width"], size["layers"], size["heads"], size["tokens"]
    sizes = {
        "vocab_size": size["vocab"], "hidden_size": width, "num_attention_heads": heads,
        "max_position_embeddings": tokens,
    }  # fmt: skip
    if name in ("topk", "threshold"):
        config = ThoughtbubblesConfig(**sizes, num_hidden_layers=layers, fork_layers=size["forks"], fork_rule=name)
        model = ThoughtbubblesForCausalLM(config)
    elif name == "looped":
        model = LoopedThinkerForCausalLM(LoopedThinkerTextConfig(**sizes, num_steps=layers))
    elif name == "generic":
        model = GenericTransformerForCausalLM(GenericTransformerConfig(**sizes, num_hidden_layers=layers))
    elif name == "bytes":
        sizes |= {"hidden_size": width // 4, "num_hidden_layers": 2, "encoder_num_hidden_layers": 1}
        config = BytePatchConfig(
            **sizes, core_hidden_size=width, core_num_hidden_layers=layers, core_num_attention_heads=heads
        )
        model = BytePatchForCausalLM(config)
    else:
        config = GPT2Config(
            vocab_size=size["vocab"], n_embd=width, n_layer=layers, n_head=heads, n_positions=tokens, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
        model.loss_type = "ForCausalLM"  # transformers derives it from the class name and warns for GPT-2
    return model


def draw_batch(model: PreTrainedModel, size: dict, generator: torch.Generator) -> dict:
    """Random words of random lengths, so that numbers of patches differ; with these where a model reads them."""
    shape = (size["batch"], size["tokens"])
    is_space = torch.rand(shape, generator=generator) < 0.1 + 0.2 * torch.rand(1, generator=generator)
    ids = torch.randint(97, 123, shape, generator=generator).masked_fill(is_space, 32)
    inputs = {"input_ids": ids}
    if isinstance(model, BytePatchForCausalLM):
        inputs = PatchCollator(model.config, lambda rows: inputs, PATCH_MULTIPLE)([])
    return {**inputs, "labels": ids, "use_cache": False}


@torch.no_grad()
def count_flops(model: PreTrainedModel, inputs: dict) -> int:
    """FLOPs of a forward pass in training, with eager attention, because torch does not count all fused kernels."""
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(**inputs)
    model.set_attn_implementation(attention)
    return counter.get_total_flops()


class Step:
    """An optimizer step of a model, on another batch each time."""

    def __init__(self, name: str, size: dict, device: str, backend: str | None = None, is_checkpointed: bool = False):
        torch.manual_seed(0)
        self.model = build(name, size).to(device).train()
        if is_checkpointed:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=device == "cuda")
        self.device, self.size, self.generator = device, size, torch.Generator().manual_seed(0)
        self.flops = 0
        self.forward = torch.compile(self.model, backend=backend, fullgraph=True) if backend else self.model
        self.seconds: list[float] = []

    def draw(self) -> dict:
        """The next batch, on the device."""
        batch = draw_batch(self.model, self.size, self.generator)
        return {name: value.to(self.device) if name != "use_cache" else value for name, value in batch.items()}

    def run(self, batch: dict):
        """Forward and backward pass and the optimizer's step."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss = self.forward(**batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device == "cuda":
            torch.cuda.synchronize()

    def measure(self) -> float:
        """Run a step, and return and note its seconds."""
        batch = self.draw()
        start = time.perf_counter()
        self.run(batch)
        self.seconds.append(time.perf_counter() - start)
        return self.seconds[-1]


def find_peak(step: Step) -> int:
    """The most bytes that a step has allocated at once, beyond those before it."""
    batch = step.draw()
    if step.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step.run(batch)
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step.run(batch)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def compare_times(names: Iterable[str], size: dict, device: str, backend: str | None, num_steps: int):
    """Print milliseconds of a step and its ratio to GPT-2's, beside the ratio of FLOPs."""
    print(f"\n### A training step, {'compiled' if backend else 'eager'}\n")
    steps = {name: Step(name, size, device, backend) for name in (*names, "gpt2")}
    for step in steps.values():
        step.flops = count_flops(step.model, step.draw())
    first = {}
    for name, step in steps.items():
        first[name] = step.measure()
        print(f"{name}: first step in {first[name]:.1f} s", flush=True)
    print()
    print("| | first step (s) | ms | tokens/s | time / GPT-2 (quartiles) | FLOPs / GPT-2 | time ratio / FLOP ratio |")
    print("|---|---|---|---|---|---|---|")
    for step in steps.values():
        for _ in range(2):
            step.run(step.draw())
        step.seconds.clear()
    for _ in range(num_steps):
        for step in steps.values():
            step.measure()
    native = steps["gpt2"]
    for name, step in steps.items():
        median, pairs = statistics.median(step.seconds), zip(step.seconds, native.seconds, strict=True)
        low, _, high = statistics.quantiles(ours / theirs for ours, theirs in pairs)
        time_ratio, flop_ratio = median / statistics.median(native.seconds), step.flops / native.flops
        rate = size["batch"] * size["tokens"] / median
        mfu = f", MFU {3 * step.flops / median / BF16_PEAK_FLOPS:.1%}" if device == "cuda" else ""
        print(
            f"| {name} | {first[name]:.1f} | {1e3 * median:.1f} | {rate:,.0f}{mfu} | {time_ratio:.3f} ({low:.3f} to "
            f"{high:.3f}) | {flop_ratio:.3f} | {time_ratio / flop_ratio:.3f} |",
            flush=True,
        )


def compare_memory(names: Iterable[str], size: dict, device: str, backend: str | None):
    """Print the memory of a step, its ratio to GPT-2's, and that under gradient checkpointing."""
    print(f"\n### Memory of a training step, {'compiled' if backend else 'eager'}\n")
    print("| | MiB | / GPT-2 | FLOPs / GPT-2 | checkpointed, MiB | checkpointed / not |")
    print("|---|---|---|---|---|---|")
    peaks, flops = {}, {}
    for name in ("gpt2", *names):
        for is_checkpointed in (False, True):
            step = Step(name, size, device, backend, is_checkpointed)
            step.run(step.draw())  # makes the optimizer's state
            peaks[name, is_checkpointed] = find_peak(step)
        flops[name] = count_flops(step.model, step.draw())
        usual, replayed = peaks[name, False], peaks[name, True]
        print(
            f"| {name} | {usual / 2**20:.1f} | {usual / peaks['gpt2', False]:.3f} | {flops[name] / flops['gpt2']:.3f} "
            f"| {replayed / 2**20:.1f} | {replayed / usual:.3f} |",
            flush=True,
        )


def count_recompilations(names: Iterable[str], num_steps: int, backend: str):
    """Print how many graphs were compiled in the first steps, and after them."""
    print(f"\n### Graphs compiled in {num_steps} steps of varying text\n")
    print(f"| | in the first {NUM_FIRST_STEPS} steps | in the others |")
    print("|---|---|---|")
    for name in (*names, "gpt2"):
        torch._dynamo.reset()
        counters.clear()
        step, counts = Step(name, {**SIZES["quick"], "tokens": 128}, "cpu", backend), []  # so many that patches vary
        for _ in range(num_steps):
            step.run(step.draw())
            counts.append(counters["stats"]["unique_graphs"])
        first = counts[min(NUM_FIRST_STEPS, num_steps) - 1]
        print(f"| {name} | {first} | {counts[-1] - first} |", flush=True)


def main():
    """Parse flags, then the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--parts", nargs="+", default=["time"], choices=["time", "memory", "recompile"])
    parser.add_argument("--steps", type=int, default=7, help="steps of each model that are timed")
    parser.add_argument("--layers", type=int, help="depth of all models (default: that of the device's size)")
    parser.add_argument("--compile", action="store_true", help="with torch.compile (inductor)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a test")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    size = SIZES["quick" if args.quick else args.device]
    if args.layers:
        size |= {"layers": args.layers, "forks": [args.layers // 4, args.layers // 2]}
    torch._dynamo.config.automatic_dynamic_local_pgo = False  # shapes of earlier runs would make these dynamic
    backend = ("aot_eager" if args.quick else "inductor") if args.compile else None
    machine = f"{torch.get_num_threads()} threads" if args.device == "cpu" else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {machine}, {size}")
    if "memory" in args.parts:
        compare_memory(args.families, size, args.device, backend)
    if "time" in args.parts:
        compare_times(args.families, size, args.device, backend, args.steps)
    if "recompile" in args.parts:
        count_recompilations(args.families, *((22, "eager") if args.quick else (200, "aot_eager")))


if __name__ == "__main__":
    main()
