# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Speed of cached generation: forks against re-reading the prefix, and batches of all families against native GPT-2.

    python benchmarks/generation.py                            # CPU, float32: both parts
    python benchmarks/generation.py --parts prompts            # one row: cached, re-reading, GPT-2
    python benchmarks/generation.py --parts batches --models "forks 2" --rows 8 32 --contexts 64 --threads 1
    python benchmarks/generation.py --device cuda              # bf16; adds the static cache, compiled
    python benchmarks/generation.py --quick                    # tiny: a test that it runs, no measurement

prompts  one row: the seconds of many new tokens of `generate` less those of one, divided by the tokens between.
batches  the seconds of a step of `generate` in batches that continue from a filled cache, beside native GPT-2 of the
         same width and depth: even prompts, and ragged ones (padded on the left, of four lengths). Rows of a batch
         repeat up to four prompts and sample different tokens. The FLOPs are those of real tokens, with the streams
         that they had; padding counts for no model. Memory is the highest amount of a step: weights, cache with its
         spare slots, and what the step allocates.

All models have random weights; forks are calibrated on random tokens, with scores sharpened so that some tokens fork
and others do not. The models take turns in one process and medians are compared, so a busy machine slows all equally.
"""

import argparse
import statistics
import time

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from hf_thoughtbubbles import (
    BytePatchConfig,
    BytePatchForCausalLM,
    LoopedThinkerForCausalLM,
    LoopedThinkerTextConfig,
    ThoughtbubblesConfig,
    ThoughtbubblesForCausalLM,
    calibrate_forks,
)
from hf_thoughtbubbles.evaluation.flop_formulas import count_layer
from hf_thoughtbubbles.evaluation.flops import estimate_flops


SIZES = {
    "cpu": {"vocab_size": 259, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8},
    "cuda": {"vocab_size": 50304, "hidden_size": 768, "num_hidden_layers": 16, "num_attention_heads": 12},
    "quick": {"vocab_size": 259, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2},
}
FORK_LAYERS = {"cpu": [2, 4], "cuda": [3, 7, 11], "quick": [1, 2]}
BUDGET = 2.0
PROMPTS = {"cpu": (64, 256, 1024), "cuda": (64, 256, 1024), "quick": (8, 16)}
CONTEXTS = {"cpu": (64, 1024), "cuda": (64, 1024), "quick": (16,)}
ROWS = {"cpu": (1, 8, 32), "cuda": (1, 8, 32), "quick": (1, 4)}
SHARPENING = 3.0  # of random fork scores, as if training had made them decide
NUM_PROMPTS = 4  # different prompts of a batch; ragged ones have 4, 3, 2 and 1 quarters of the context
PATCH_BYTES = 6
MILD_EXIT = 1e-3  # a relative change of latents that random weights hardly reach: the price of asking
MOST_TOKENS, FEW_STEPS = 8 * 1024, 2  # a batch of more tokens takes fewer steps a turn; bytes need those of a patch


def build(name: str, size_name: str) -> PreTrainedModel:
    """One of ours, or native GPT-2 of the same sizes, with random weights."""
    torch.manual_seed(0)
    size, length = SIZES[size_name], 2 * max(PROMPTS[size_name])
    if name == "GPT-2":
        config = GPT2Config(
            vocab_size=size["vocab_size"], n_embd=size["hidden_size"], n_layer=size["num_hidden_layers"],
            n_head=size["num_attention_heads"], n_positions=length, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
    elif name.startswith("thinker"):
        sizes = {key: size[key] for key in ("vocab_size", "hidden_size", "num_attention_heads")}
        exit_threshold = MILD_EXIT if name == "thinker, exit" else None
        model = LoopedThinkerForCausalLM(
            LoopedThinkerTextConfig(
                **sizes, num_steps=size["num_hidden_layers"], max_position_embeddings=length,
                exit_threshold=exit_threshold,
            )
        )  # fmt: skip
    elif name == "bytes":
        sizes = {f"core_{key}": value for key, value in size.items() if key != "vocab_size"}
        config = BytePatchConfig(
            **sizes, hidden_size=size["hidden_size"] // 4, num_attention_heads=size["num_attention_heads"] // 2,
            patching="fixed", patch_size=PATCH_BYTES, max_position_embeddings=length,
        )  # fmt: skip
        model = BytePatchForCausalLM(config)
    else:
        model = build_forks(size, size_name, float(name.removeprefix("forks ")), length)
    return model.to(get_device(size_name), torch.bfloat16 if size_name == "cuda" else torch.float32).eval()


def build_forks(size: dict, size_name: str, budget: float, max_length: int) -> ThoughtbubblesForCausalLM:
    """A forking model, calibrated to `budget` streams per token."""
    config = ThoughtbubblesConfig(
        **size, max_position_embeddings=max_length, fork_layers=FORK_LAYERS[size_name], fork_budget=budget,
        fork_rule="threshold", initializer_range=0.1,
    )  # fmt: skip
    model = ThoughtbubblesForCausalLM(config)
    with torch.no_grad():
        for fork in model.model.forks.values():
            fork.keep_proj.weight.mul_(SHARPENING)
    tokens = torch.randint(0, size["vocab_size"], (4, max_length // 2))
    calibrate_forks(model, [{"input_ids": tokens}], budgets=[budget])
    return model


def get_device(size_name: str) -> str:
    """Where models of a size run."""
    return "cuda" if size_name == "cuda" else "cpu"


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
    tensors = [states for layer in list_cache_layers(cache) for states in (layer.keys, layer.values)]
    return sum(states.untyped_storage().nbytes() for states in tensors if isinstance(states, torch.Tensor))


def list_cache_layers(cache) -> list:
    """The layers of a cache, or of both halves of one."""
    halves = [getattr(cache, name, None) for name in ("self_attention_cache", "cross_attention_cache")]
    return [layer for half in (halves if halves[0] is not None else [cache]) for layer in half.layers]


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


def measure_prompts(size_name: str, num_new_tokens: int, repeats: int):
    """Time and memory by prompt length for one row, then ratios."""
    device = get_device(size_name)
    ours, gpt2 = build(f"forks {BUDGET}", size_name), build("GPT-2", size_name)
    medians: dict[str, dict[int, float]] = {}
    for length in PROMPTS[size_name]:
        prompt, mask = make_prompt(length, 1, SIZES[size_name]["vocab_size"], device)
        arms = make_arms(ours, gpt2, device, num_new_tokens)
        for arm in arms.values():  # warm up, and compile
            arm.generate(prompt, mask, 3)
        for _ in range(repeats):
            for arm in arms.values():
                arm.measure(prompt, mask, device)
        report(arms, prompt, mask)
        for label, arm in arms.items():
            medians.setdefault(label, {})[length] = arm.median

    print("\nratios of medians")
    longest, shortest = max(PROMPTS[size_name]), min(PROMPTS[size_name])
    for label, steps in medians.items():
        print(f"  {label:24} a step at {longest} against one at {shortest}: {steps[longest] / steps[shortest]:.2f}")
    for length in PROMPTS[size_name]:
        ours, native = medians["ours, cached"][length], medians["GPT-2, cached"][length]
        print(f"  at {length}: ours / GPT-2 {ours / native:.2f}, ", end="")
        print(f"re-reading / cached {medians['ours, re-reading'][length] / ours:.1f}")
        if device == "cuda":
            ours, native = (medians[f"{model}, static, compiled"][length] for model in ("ours", "GPT-2"))
            print(f"  at {length}, static and compiled: ours / GPT-2 {ours / native:.2f}")


class Clock:
    """A logits processor that notes when each step has its logits."""

    def __init__(self, device: str):
        self.device, self.times = device, []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        synchronize(self.device)
        self.times.append(time.perf_counter())
        return scores


class Batch:
    """A batch that one model continues from a filled cache, again and again from the same context."""

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, prompt: torch.Tensor, mask: torch.Tensor, rows: int, num_steps: int):
        self.model, self.num_new_tokens = model, num_steps + 1
        self.repeats = rows // len(prompt)
        self.seconds: list[float] = []
        short = mask[:, :-1] if (mask == 0).any() else None
        self.cache = model(prompt[:, :-1], attention_mask=short, use_cache=True, logits_to_keep=1).past_key_values
        self.cache.batch_repeat_interleave(self.repeats)
        self.prompt, self.mask = (values.repeat_interleave(self.repeats, dim=0) for values in (prompt, mask))

    def generate(self, num_new_tokens: int) -> list[float]:
        """Sample from all tokens; returns when each step had its logits. The cache is then longer."""
        clock = Clock(self.prompt.device.type)
        self.model.generate(
            self.prompt, attention_mask=self.mask, past_key_values=self.cache, max_new_tokens=num_new_tokens,
            min_new_tokens=num_new_tokens, do_sample=True, top_k=0, pad_token_id=0, logits_processor=[clock],
        )  # fmt: skip
        return clock.times

    def measure(self):
        """Note the mean seconds of a step."""
        times = self.generate(self.num_new_tokens)
        self.cache.crop(-self.num_new_tokens)
        self.seconds.append((times[-1] - times[0]) / (self.num_new_tokens - 1))

    def count_flops(self) -> float:
        """FLOPs of a step of the whole batch at the end of a turn, with the streams that the tokens then have."""
        config, lengths = self.model.config, (self.mask.sum(1) + self.num_new_tokens - 1).tolist()
        if isinstance(self.model, ThoughtbubblesForCausalLM):
            return count_fork_flops(self, lengths)
        options = {"bytes_per_patch": PATCH_BYTES} if config.model_type == "byte_patch" else {}
        costs = {length: estimate_flops(config, length, **options) for length in set(lengths)}
        return sum(costs[length].per_generated_token for length in lengths)

    def describe_streams(self) -> str:
        """Streams per new token after each fork, of a turn whose tokens are still in the cache."""
        if not isinstance(self.model, ThoughtbubblesForCausalLM):
            return ""
        means = self.cache.count_streams()[:, :, -self.num_new_tokens :].float().mean(dim=(1, 2))
        return ", ".join(f"{mean:.2f}" for mean in means.tolist())

    def measure_memory(self) -> int:
        """Bytes of the weights, of the cache, and of what a step allocates at most."""
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self.generate(1)
        self.cache.crop(-1)
        changes = sorted(
            (event.start_ns(), event.nbytes()) for event in profiler.profiler.kineto_results.events()
            if event.name() == "[memory]"
        )  # fmt: skip
        held = highest = 0
        for _, change in changes:
            held += change
            highest = max(highest, held)
        return weights + count_cache_bytes(self.cache) + highest


def count_fork_flops(batch: Batch, lengths: list[int]) -> float:
    """FLOPs of a step of a forking model; `lengths` are the real tokens of each row."""
    config, streams = batch.model.config, batch.cache.count_streams().float()  # (F, B, T)
    width, sizes = config.hidden_size, (config.hidden_size, config.intermediate_size)
    queries = [[1.0] * len(lengths), *streams[:, :, -batch.num_new_tokens :].mean(2).tolist()]
    keys = [lengths, *streams.sum(2).tolist()]
    flops = sum(4 * width * sum(counts) for counts in queries[:-1]) + 2 * width * config.vocab_size * len(lengths)
    for layer_idx in range(config.num_hidden_layers):
        fork = sum(other <= layer_idx for other in config.fork_layers)
        flops += sum(count_layer(*pair, *sizes) for pair in zip(queries[fork], keys[fork], strict=True))
    return flops


def draw_prompts(rows: int, context: int, is_ragged: bool, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Up to `NUM_PROMPTS` random prompts and their mask; ragged ones lose quarters at their left."""
    num_prompts = min(rows, NUM_PROMPTS)
    prompt, mask = torch.randint(0, 256, (num_prompts, context)), torch.ones(num_prompts, context, dtype=torch.long)
    for row in range(num_prompts if is_ragged else 0):
        mask[row, : row * context // NUM_PROMPTS] = 0
    return prompt.to(device), mask.to(device)


def measure_batch(models: dict[str, PreTrainedModel], shape: tuple[int, int, bool], num_steps: int, repeats: int):
    """Print a row for each model: GPT-2 last among `models`, which all others are compared with."""
    rows, context, is_ragged = shape
    prompt, mask = draw_prompts(rows, context, is_ragged, next(iter(models.values())).device.type)
    few = min(num_steps, FEW_STEPS) if rows * context > MOST_TOKENS else num_steps
    batches = {
        name: Batch(model, prompt, mask, rows, num_steps if name == "bytes" else few) for name, model in models.items()
    }
    for turn in range(1 + repeats):  # the first warms up
        for batch in batches.values():
            batch.measure()
        if turn == 0:
            for batch in batches.values():
                batch.seconds.clear()
    memory = {name: batch.measure_memory() for name, batch in batches.items()}
    for batch in batches.values():
        batch.generate(batch.num_new_tokens)  # tokens whose streams are counted
    native = batches["GPT-2"]
    native_flops, native_seconds = native.count_flops(), statistics.median(native.seconds)
    for name, batch in batches.items():
        seconds, flops = statistics.median(batch.seconds), batch.count_flops() / native_flops
        ratio = seconds / native_seconds
        low, _, high = statistics.quantiles(a / b for a, b in zip(batch.seconds, native.seconds, strict=True))
        cells = (
            rows, context, "ragged" if is_ragged else "even", name, f"{rows / seconds:.1f}", f"{1e3 * seconds:.2f}",
            f"{ratio:.2f} ({low:.2f} to {high:.2f})", f"{flops:.2f}", f"**{ratio / flops:.2f}**",
            f"{memory[name] / 2**20:.0f}", f"{memory[name] / memory['GPT-2']:.2f}", batch.describe_streams(),
        )  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def measure_batches(size_name: str, names: list[str], shapes: list[tuple[int, int, bool]], steps: int, repeats: int):
    """A table of all models over rows, contexts, even and ragged prompts."""
    models = {name: build(name, size_name) for name in (*names, "GPT-2")}
    head = (
        "rows", "context", "prompts", "model", "tokens/s", "ms a step", "time / GPT-2", "FLOPs / GPT-2",
        "time / FLOPs", "peak MiB", "peak / GPT-2", "streams",
    )  # fmt: skip
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    for shape in shapes:
        measure_batch(models, shape, steps, repeats)


def main():
    """Run the parts that were asked for."""
    names = ("forks 1.5", "forks 2", "thinker", "thinker, exit", "bytes")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--parts", nargs="+", default=["prompts", "batches"], choices=["prompts", "batches"])
    parser.add_argument("--models", nargs="+", default=names, choices=names, help="of the part `batches`")
    parser.add_argument("--rows", type=int, nargs="+", help="of the part `batches` (default: 1 8 32)")
    parser.add_argument("--contexts", type=int, nargs="+", help="tokens, of the part `batches` (default: 64 1024)")
    parser.add_argument("--new_tokens", type=int, default=33, help="of the part `prompts`, from each prompt")
    parser.add_argument("--steps", type=int, default=PATCH_BYTES, help="of each turn of the part `batches`")
    parser.add_argument("--repeats", type=int, default=7, help="turns that every model takes")
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's)")
    parser.add_argument("--quick", action="store_true", help="tiny models and contexts")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    size_name = "quick" if args.quick else args.device
    name = f"{torch.get_num_threads()} threads" if args.device == "cpu" else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {name}")
    print(f"{SIZES[size_name]}, forks before layers {FORK_LAYERS[size_name]}")
    if "prompts" in args.parts:
        measure_prompts(size_name, 3 if args.quick else args.new_tokens, args.repeats)
    if "batches" in args.parts:
        shapes = [
            (rows, context, is_ragged)
            for rows in args.rows or ROWS[size_name]
            for context in args.contexts or CONTEXTS[size_name]
            for is_ragged in (False, True)
            if rows > 1 or not is_ragged
        ]
        measure_batches(size_name, args.models, shapes, 2 if args.quick else args.steps, args.repeats)


if __name__ == "__main__":
    main()
