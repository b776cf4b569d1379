# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Time and memory of a training step of Thoughtbubbles, against native GPT-2.

    python benchmarks/training_step.py                      # CPU, float32: the size of the claim in docs/results.md
    python benchmarks/training_step.py --fork_rule threshold
    python benchmarks/training_step.py --device cuda        # 150M parameters, bf16, eager and compiled, with MFU

Steps of the two models alternate in one process and medians are compared, so a busy machine slows both. Memory is the
highest resident (CPU) or allocated (GPU) amount over what the process held before the model, in a process of its own.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from hf_thoughtbubbles import ThoughtbubblesConfig, ThoughtbubblesForCausalLM


SIZES = {
    "cpu": {"vocab_size": 259, "hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4, "tokens": 256},
    "cuda": {
        "vocab_size": 50304,
        "hidden_size": 768,
        "num_hidden_layers": 16,
        "num_attention_heads": 12,
        "tokens": 512,
    },
}
FORK_LAYERS = {"cpu": [2, 4], "cuda": [3, 7, 11]}
BATCH = {"cpu": 8, "cuda": 32}
BF16_PEAK_FLOPS = 989e12  # dense bf16 of an H100 or H200 by the vendor's datasheet


def build(name: str, device: str, fork_rule: str):
    """Ours or native GPT-2, same sizes, no dropout on either side."""
    size = dict(SIZES[device])
    tokens = size.pop("tokens")
    if name == "thoughtbubbles":
        config = ThoughtbubblesConfig(
            **size,
            max_position_embeddings=tokens,
            fork_layers=FORK_LAYERS[device],
            fork_budget=2.0,
            fork_rule=fork_rule,
        )
        return ThoughtbubblesForCausalLM(config)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size["vocab_size"],
            n_embd=size["hidden_size"],
            n_layer=size["num_hidden_layers"],
            n_head=size["num_attention_heads"],
            n_positions=tokens,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
        )
    )


def count_forward_flops(name: str, device: str) -> float:
    """Multiply-adds of one row's forward pass times two: projections, feed-forward, full attention, output."""
    size = SIZES[device]
    hidden, tokens, layers = size["hidden_size"], size["tokens"], size["num_hidden_layers"]
    flops = 2.0 * tokens * hidden * size["vocab_size"]
    for layer in range(layers):
        is_forked = name == "thoughtbubbles" and layer >= FORK_LAYERS[device][0]
        streams = 2 * tokens if is_forked else tokens  # budget 2 is filled by the first fork
        flops += 24.0 * streams * hidden**2 + 4.0 * streams**2 * hidden
    return flops


class Step:
    """One optimizer step of a model on random tokens."""

    def __init__(self, name: str, device: str, fork_rule: str, is_compiled: bool = False):
        torch.manual_seed(0)
        self.model = build(name, device, fork_rule).to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=device == "cuda")
        self.device, size = device, SIZES[device]
        self.input_ids = torch.randint(0, size["vocab_size"], (BATCH[device], size["tokens"]), device=device)
        self.forward = torch.compile(self.model) if is_compiled else self.model

    def __call__(self) -> float:
        """Seconds that the step took."""
        start = time.perf_counter()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss = self.forward(input_ids=self.input_ids, labels=self.input_ids).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def measure_memory(name: str, device: str, fork_rule: str) -> int:
    """Bytes that training adds to this process at its highest. Run in a process of its own."""
    if device == "cuda":
        step = Step(name, device, fork_rule)
        for _ in range(3):
            step()
        return torch.cuda.max_memory_allocated()
    torch.randn(512, 512, requires_grad=True).matmul(torch.randn(512, 512)).sum().backward()  # load the libraries
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = Step(name, device, fork_rule)
    for _ in range(3):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def compare(device: str, fork_rule: str, is_compiled: bool, num_steps: int):
    """Time both, alternating, and print the ratio."""
    steps = {name: Step(name, device, fork_rule, is_compiled) for name in ("thoughtbubbles", "gpt2")}
    for step in steps.values():
        for _ in range(3):
            step()
    seconds = {name: [] for name in steps}
    for _ in range(num_steps):
        for name, step in steps.items():
            seconds[name].append(step())
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    pairs = [ours / theirs for ours, theirs in zip(seconds["thoughtbubbles"], seconds["gpt2"], strict=True)]
    flops = {name: count_forward_flops(name, device) for name in steps}
    for name, median in medians.items():
        tokens = BATCH[device] * SIZES[device]["tokens"] / median
        line = f"{name:15} {1000 * median:9.1f} ms a step, {tokens:12,.0f} tokens/s"
        if device == "cuda":
            line += f", MFU {3 * flops[name] * BATCH[device] / median / BF16_PEAK_FLOPS:.1%}"
        print(line)
    print(
        f"time ratio {medians['thoughtbubbles'] / medians['gpt2']:.3f} (quartiles of pairs "
        f"{statistics.quantiles(pairs)[0]:.3f} to {statistics.quantiles(pairs)[2]:.3f}) at "
        f"{flops['thoughtbubbles'] / flops['gpt2']:.3f} times the FLOPs"
    )


def main():
    """Memory, then time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--fork_rule", default="topk", choices=["topk", "threshold"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="on a CPU too; on a GPU both are always measured")
    parser.add_argument("--memory_of", choices=["thoughtbubbles", "gpt2"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(json.dumps(measure_memory(args.memory_of, args.device, args.fork_rule)))
        return

    threads = f", {torch.get_num_threads()} threads" if args.device == "cpu" else f", {torch.cuda.get_device_name()}"
    print(f"torch {torch.__version__}{threads}, batch {BATCH[args.device]}, {SIZES[args.device]}")
    # Memory first: a process inherits the peak of the one that starts it, and this one is still small.
    memory = {}
    for name in ("thoughtbubbles", "gpt2"):
        command = [sys.executable, __file__, "--device", args.device, "--memory_of", name]
        command += ["--fork_rule", args.fork_rule]
        memory[name] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(f"{name:15} {memory[name] / 2**20:9.1f} MiB at the highest")
    print(f"memory ratio {memory['thoughtbubbles'] / memory['gpt2']:.3f}")
    for is_compiled in [False, True] if args.device == "cuda" else [args.compile]:
        print("compiled" if is_compiled else "eager")
        compare(args.device, args.fork_rule, is_compiled, args.steps)


if __name__ == "__main__":
    main()
