# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Time of models converted with a budget of 1 or one step, against the native model that they were made from.

    python benchmarks/native_cost.py            # a Llama of 8 layers of width 512, on one thread
    python benchmarks/native_cost.py --quick    # tiny: a test that it runs, no measurement

Training steps (4 rows of 128 tokens, AdamW) and single tokens after a prompt in a cache alternate between the models
in one process. The ratio is the median over rounds of the quotients of neighbours; quartiles are in brackets.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from hf_thoughtbubbles import fork_native, loop_native


SIZES = {"vocab_size": 2048, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8}
QUICK_SIZES = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048}
BATCH, TOKENS = 4, 128


def build_models(sizes: dict) -> dict[str, PreTrainedModel]:
    """The native model and what is made from it, with equal weights."""
    torch.manual_seed(0)
    native = LlamaForCausalLM(LlamaConfig(**sizes, **HEADS)).eval()
    middle = sizes["num_hidden_layers"] // 2
    return {
        "native": native,
        "forks": fork_native(native, fork_layers=[middle - 1, middle + 1]),
        "loops": loop_native(native, loop_layers=(middle - 1, middle)),
    }


def make_step(model: PreTrainedModel, vocab_size: int) -> Callable[[], None]:
    """A training step on random tokens."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, vocab_size, (BATCH, TOKENS))

    def step():
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_token(model: PreTrainedModel, vocab_size: int, num_rows: int, num_past: int) -> Callable[[], None]:
    """The pass over one token in each row after `num_past` tokens in a cache, as `generate` makes it."""
    model.eval()
    ids = torch.randint(0, vocab_size, (num_rows, num_past))
    state: dict = {"cache": None, "length": 0}

    @torch.inference_mode()
    def step():
        if state["cache"] is None or state["length"] == 64:  # so that contexts stay of about one length
            cache = DynamicCache(config=model.config) if isinstance(model, LlamaForCausalLM) else None
            outputs = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            state["cache"], state["length"] = outputs.past_key_values, 0
        state["length"] += 1
        model(input_ids=ids[:, :1], past_key_values=state["cache"], use_cache=True)

    return step


def measure(steps: dict[str, Callable[[], None]], rounds: int, repeats: int) -> dict[str, str]:
    """Quotients of each model's seconds and those of the native one in the same round: median and quartiles."""
    for step in steps.values():
        step()
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    for round_idx in range(rounds):
        seconds = {}
        for name in sorted(steps, reverse=round_idx % 2 == 1):
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                steps[name]()
                times.append(time.perf_counter() - start)
            seconds[name] = statistics.median(times)
        for name in steps:
            ratios[name].append(seconds[name] / seconds["native"])
    described = {}
    for name, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        described[name] = f"{middle:.3f} [{low:.3f}, {high:.3f}]"
    return described


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21, help="Number of rounds (default: 21).")
    parser.add_argument("--quick", action="store_true", help="Run a tiny model in 2 rounds.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes, rounds = (QUICK_SIZES, 2) if arguments.quick else (SIZES, arguments.rounds)
    models = build_models(sizes)
    names = [name for name in models if name != "native"]
    print(f"| seconds / those of the native model | {' | '.join(names)} |")
    print(f"|---|{'---|' * len(names)}", flush=True)
    kinds: dict[str, Callable[[PreTrainedModel], Callable[[], None]]] = {
        f"token, {rows} rows after {past}": lambda model, rows=rows, past=past: make_token(
            model, sizes["vocab_size"], rows, past
        )
        for rows, past in ((1, 64), (1, 512), (8, 64), (8, 512))
    }
    kinds["training step"] = lambda model: make_step(model, sizes["vocab_size"])
    for kind, make in kinds.items():
        steps = {name: make(model) for name, model in models.items()}
        repeats = 1 if kind == "training step" else 16
        ratios = measure(steps, rounds, repeats)
        print(f"| {kind} | {' | '.join(ratios[name] for name in names)} |", flush=True)


if __name__ == "__main__":
    main()
