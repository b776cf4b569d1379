# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Speed of cached generation with forks, against re-reading the prefix and against native GPT-2.

    python benchmarks/generation.py                       # CPU, float32: the size of the claim in docs/results.md
    python benchmarks/generation.py --batch 8             # ragged rows, so that masks are needed
    python benchmarks/generation.py --device cuda         # bf16; adds the static cache, compiled

All models have the same width, depth and heads and random weights; forks are calibrated to two streams per token on
random tokens, with scores sharpened so that some tokens fork and others do not. Every number comes from `generate`:
the seconds of a token are those of many new tokens less those of one, divided by the tokens between. The models take
turns in one process and medians are compared, so a busy machine slows all alike.
"""

import argparse
import statistics
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from hf_thoughtbubbles import ThoughtbubblesConfig, ThoughtbubblesForCausalLM, calibrate_forks


SIZES = {
    "cpu": {"vocab_size": 259, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8},
    "cuda": {"vocab_size": 50304, "hidden_size": 768, "num_hidden_layers": 16, "num_attention_heads": 12},
}
FORK_LAYERS = {"cpu": [2, 4], "cuda": [3, 7, 11]}
BUDGET = 2.0
PROMPTS = (64, 256, 1024)
SHARPENING = 3.0  # of random fork scores, as if training had made them decide


def build(name: str, device: str) -> PreTrainedModel:
    """Ours, calibrated, or native GPT-2 of the same sizes."""
    torch.manual_seed(0)
    size, length = SIZES[device], 2 * max(PROMPTS)
    if name == "gpt2":
        config = GPT2Config(
            vocab_size=size["vocab_size"], n_embd=size["hidden_size"], n_layer=size["num_hidden_layers"],
            n_head=size["num_attention_heads"], n_positions=length, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
    else:
        config = ThoughtbubblesConfig(
            **size, max_position_embeddings=length, fork_layers=FORK_LAYERS[device], fork_budget=BUDGET,
            fork_rule="threshold", initializer_range=0.1,
        )  # fmt: skip
        model = ThoughtbubblesForCausalLM(config)
        with torch.no_grad():
            for fork in model.model.forks.values():
                fork.keep_proj.weight.mul_(SHARPENING)
        calibrate_forks(model, [{"input_ids": torch.randint(0, size["vocab_size"], (4, 1024))}], budgets=[BUDGET])
    return model.to(device, torch.bfloat16 if device == "cuda" else torch.float32).eval()


def synchronize(device: str):
    """Wait for an accelerator."""
    if device == "cuda":
        torch.cuda.synchronize()


class Arm:
    """One way of generating."""

    def __init__(self, model: PreTrainedModel, num_new_tokens: int, options: dict):
        self.model, self.num_new_tokens, self.options = model, num_new_tokens, options
        self.seconds: list[float] = []

    def generate(self, prompt: torch.Tensor, mask: torch.Tensor, num_new_tokens: int):
        """Greedy text of exactly so many tokens, with everything that `generate` returns."""
        return self.model.generate(
            prompt, attention_mask=mask, max_new_tokens=num_new_tokens, min_new_tokens=num_new_tokens,
            do_sample=False, pad_token_id=0, return_dict_in_generate=True, **self.options,
        )  # fmt: skip

    def measure(self, prompt: torch.Tensor, mask: torch.Tensor, device: str):
        """Note the seconds of one further token."""
        times = []
        for num_new_tokens in (1, self.num_new_tokens):
            synchronize(device)
            start = time.perf_counter()
            self.generate(prompt, mask, num_new_tokens)
            synchronize(device)
            times.append(time.perf_counter() - start)
        self.seconds.append((times[1] - times[0]) / (self.num_new_tokens - 1))

    @property
    def median(self) -> float:
        """Seconds of a token."""
        return statistics.median(self.seconds)


def make_prompt(length: int, batch: int, vocab_size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens; every row after the first is a little shorter, padded on the left."""
    prompt, mask = torch.randint(0, vocab_size, (batch, length)), torch.ones(batch, length, dtype=torch.long)
    for row in range(batch):
        mask[row, : row * length // 16] = 0
    return prompt.to(device), mask.to(device)


def count_cache_bytes(cache) -> int:
    """Memory of all keys and values that a cache holds on to."""
    return sum(
        layer.keys.untyped_storage().nbytes() + layer.values.untyped_storage().nbytes() for layer in cache.layers
    )


def make_arms(ours: PreTrainedModel, gpt2: PreTrainedModel, device: str, num_new_tokens: int) -> dict[str, Arm]:
    """What takes turns."""
    arms = {
        "ours, cached": Arm(ours, num_new_tokens, {}),
        "GPT-2, cached": Arm(gpt2, num_new_tokens, {}),
        "ours, re-reading": Arm(ours, 5, {"use_cache": False}),  # few tokens: a long prefix takes long
    }
    if device == "cuda":
        static = {"cache_implementation": "static"}
        arms["ours, static, compiled"] = Arm(ours, num_new_tokens, static)
        arms["GPT-2, static, compiled"] = Arm(gpt2, num_new_tokens, static)
    return arms


def report(arms: dict[str, Arm], prompt: torch.Tensor, mask: torch.Tensor):
    """Print the times at one prompt length, the memory of the caches, and the streams in ours."""
    print(f"\nprompt of {prompt.shape[1]} tokens")
    for label, arm in arms.items():
        low, _, high = (1e3 * quartile for quartile in statistics.quantiles(arm.seconds))
        rate = len(prompt) / arm.median
        print(f"  {label:24} {rate:9.1f} new tokens/s, {1e3 * arm.median:8.2f} ms a step ({low:.2f} to {high:.2f})")
    ours, native = (
        arms[label].generate(prompt, mask, 9).past_key_values for label in ("ours, cached", "GPT-2, cached")
    )
    size, native_size = count_cache_bytes(ours), count_cache_bytes(native)
    streams = [round(float(count[count > 0].float().mean()), 2) for count in ours.count_streams()]
    print(f"  cache {size / 2**20:.2f} MiB, GPT-2's {native_size / 2**20:.2f} MiB: {size / native_size:.3f} times")
    print(f"  streams per token after each fork: {streams}")


def main():
    """Time and memory by prompt length, then ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--new_tokens", type=int, default=33)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    ours, gpt2 = build("ours", args.device), build("gpt2", args.device)
    name = f"{torch.get_num_threads()} threads" if args.device == "cpu" else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {name}, batch {args.batch}")
    print(f"{SIZES[args.device]}, forks before layers {FORK_LAYERS[args.device]}, budget {BUDGET}")

    medians: dict[str, dict[int, float]] = {}
    for length in PROMPTS:
        prompt, mask = make_prompt(length, args.batch, SIZES[args.device]["vocab_size"], args.device)
        arms = make_arms(ours, gpt2, args.device, args.new_tokens)
        for arm in arms.values():  # warm up, and compile
            arm.generate(prompt, mask, 3)
        for _ in range(args.repeats):
            for arm in arms.values():
                arm.measure(prompt, mask, args.device)
        report(arms, prompt, mask)
        for label, arm in arms.items():
            medians.setdefault(label, {})[length] = arm.median

    print("\nratios of medians")
    longest, shortest = max(PROMPTS), min(PROMPTS)
    for label, steps in medians.items():
        print(f"  {label:24} a step at {longest} against one at {shortest}: {steps[longest] / steps[shortest]:.2f}")
    for length in PROMPTS:
        ours, native = medians["ours, cached"][length], medians["GPT-2, cached"][length]
        print(f"  at {length}: ours / GPT-2 {ours / native:.2f}, ", end="")
        print(f"re-reading / cached {medians['ours, re-reading'][length] / ours:.1f}")
        if args.device == "cuda":
            ours, native = (medians[f"{model}, static, compiled"][length] for model in ("ours", "GPT-2"))
            print(f"  at {length}, static and compiled: ours / GPT-2 {ours / native:.2f}")


if __name__ == "__main__":
    main()
