# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Counts of a training step and of generation for each family, compared with those in the repository.

    python benchmarks/step_counts.py                        # fails where a count grew by more than 2 %
    python benchmarks/step_counts.py --update               # writes the counts to benchmarks/step_counts.json
    python benchmarks/step_counts.py --models gpt2 next_thought

Nothing is timed: counts are the same on a busy machine, on other processors and with any number of threads.

operations    aten operations that torch's dispatcher runs, forward and backward, by a `TorchDispatchMode`
kernels       those that are no views: on the CPU one call of a kernel each
flops         of matrix products and attention, by the formulas of torch's `FlopCounterMode`; other operations count 0
bytes         of all storages that operations allocate for their outputs; without temporary buffers inside a kernel
peak_bytes    of those storages, the most that exist at the same time
graph_breaks  of `torch.compile` in a forward pass, by `torch._dynamo.explain`

A training step is a forward pass with labels and a backward pass, after an update of the weights. In `backward`,
peak_bytes are those of the whole step. Generation is `generate` of 17 tokens less `generate` of one: 16 greedy tokens
for each of 2 prompts of unequal length, with the model's cache if it has one. Its graph breaks are those of a later
pass, with a static cache where the model takes one.
"""

import argparse
import copy
import gc
import importlib.metadata
import json
import logging
import sys
import weakref
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop
from transformers import PreTrainedModel

from small_models import NAMES, build_config, build_model, draw_ids, draw_lesson


FILE = Path(__file__).with_suffix(".json")
WIDTH, DEPTH, VOCAB_SIZE = 64, 3, 257
BATCH, TOKENS, PROMPT, NEW_TOKENS = 2, 64, 32, 16
WITHOUT_STATIC_CACHE = ("thoughtbubbles-topk", "byte_patch-autoregressive", "byte_patch-parallel")
ALLOWED_GROWTH = 0.02
LIBRARIES = ("torch", "transformers")
FLOPS = {  # by operation; torch does not list the attention of the CPU
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}


class OperationCounter(TorchDispatchMode):
    """Count operations, kernels, and bytes of new storages."""

    def __init__(self):
        super().__init__()
        self.counts = dict.fromkeys(("operations", "kernels", "flops", "bytes", "peak_bytes"), 0)
        self.live_bytes, self.storages = 0, weakref.WeakSet()

    def __enter__(self):
        gc.collect()
        gc.disable()  # when cycles are collected depends on all that Python did before
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        gc.enable()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        inputs = {leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        outputs = function(*args, **(kwargs or {}))
        self.counts["operations"] += 1
        self.counts["kernels"] += not function.is_view
        if function.overloadpacket in FLOPS:
            self.counts["flops"] += FLOPS[function.overloadpacket](*args, **(kwargs or {}), out_val=outputs)
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor):
                self.add(output.untyped_storage(), inputs)
        return outputs

    def add(self, storage: torch.UntypedStorage, inputs: set):
        """Count a storage unless it is one of the inputs', or known."""
        if storage in inputs or storage in self.storages:
            return
        self.storages.add(storage)
        size = storage.nbytes()
        self.live_bytes += size
        self.counts["bytes"] += size
        self.counts["peak_bytes"] = max(self.counts["peak_bytes"], self.live_bytes)
        weakref.finalize(storage, self.free, size)

    def free(self, size: int):
        """Note that a storage no longer exists."""
        self.live_bytes -= size


def count_graph_breaks(model: PreTrainedModel, inputs: dict) -> int:
    """Graph breaks of a forward pass."""
    torch._dynamo.reset()
    return torch._dynamo.explain(model)(**inputs).graph_break_count


def count_training(model: PreTrainedModel) -> dict[str, dict[str, int]]:
    """Counts of the second training step: the first one may fill tables that stay."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    lesson = draw_lesson(model.config, BATCH, TOKENS)
    model(**lesson).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    with OperationCounter() as counter:
        loss = model(**lesson).loss
        forward = {name: count for name, count in counter.counts.items() if name != "peak_bytes"}
        loss.backward()
    backward = {name: counter.counts[name] - count for name, count in forward.items()}
    return {
        "forward": {**forward, "graph_breaks": count_graph_breaks(model, lesson)},
        "backward": {**backward, "peak_bytes": counter.counts["peak_bytes"]},
    }


def count_generation(model: PreTrainedModel, **cache) -> dict[str, int]:
    """Counts of `NEW_TOKENS` tokens after the first one; `cache` has the arguments of the pass that is compiled."""
    input_ids, mask = draw_ids(model.config, BATCH, PROMPT), torch.ones(BATCH, PROMPT, dtype=torch.long)
    input_ids[1, : PROMPT // 4], mask[1, : PROMPT // 4] = 0, 0

    def generate(num_tokens: int, **options):
        lengths = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
        model.generate(input_ids, attention_mask=mask, do_sample=False, **lengths, **options)

    generate(1)  # fills tables that stay
    counts = {}
    for num_tokens in (1, 1 + NEW_TOKENS):
        with OperationCounter() as counter:
            generate(num_tokens)
        counts = {name: count - counts.get(name, 0) for name, count in counter.counts.items()}
    peak = {"peak_bytes": counter.counts["peak_bytes"]}

    passes = []
    with model.register_forward_pre_hook(
        lambda _, args, inputs: passes.append(copy.deepcopy(inputs)), with_kwargs=True
    ):
        generate(3, **cache)
    with torch.no_grad():
        return {**counts, **peak, "graph_breaks": count_graph_breaks(model, passes[-1])}


def count_model(name: str) -> dict[str, dict[str, int]]:
    """Counts of generation and of training of one model."""
    model = build_model(build_config(name, WIDTH, DEPTH, VOCAB_SIZE, positions=2 * TOKENS))
    cache = {} if name in WITHOUT_STATIC_CACHE else {"cache_implementation": "static", "disable_compile": True}
    return {"generation": count_generation(model, **cache), **count_training(model)}


def get_versions() -> dict[str, str]:
    """Versions of the libraries whose operations are counted."""
    return {name: importlib.metadata.version(name).split("+")[0] for name in LIBRARIES}


def compare(name: str, counts: dict[str, dict[str, int]], earlier: dict[str, dict[str, int]]) -> tuple[list, list]:
    """
    Return one line for each count that grew by more than 2 %, and one for each that shrank by more.

    >>> compare("gpt2", {"forward": {"kernels": 104}}, {"forward": {"kernels": 100}})[0]
    ['gpt2, forward: kernels was 100, is 104 (+4.0 %), allowed 102. Find what was added, or accept it with --update.']
    """
    grown, shrunk = [], []
    for step, numbers in counts.items():
        for kind, count in numbers.items():
            known = earlier.get(step, {}).get(kind)
            if known is None:
                grown.append(f"{name}, {step}: {kind} is {count}, but the file has no number. Write it with --update.")
                continue
            change = f"was {known}, is {count}" + (f" ({count / known - 1:+.1%})".replace("%", " %") if known else "")
            allowed = int(known * (1 + ALLOWED_GROWTH))
            if count > allowed:
                advice = "Find what was added, or accept it with --update."
                grown.append(f"{name}, {step}: {kind} {change}, allowed {allowed}. {advice}")
            elif count < known * (1 - ALLOWED_GROWTH):
                shrunk.append(f"{name}, {step}: {kind} {change}. Keep this with --update.")
    return grown, shrunk


def check_versions(earlier: dict[str, str]):
    """Refuse to compare with the counts of other libraries."""
    if earlier != get_versions():
        raise SystemExit(
            f"{FILE.name} has the counts of {earlier}, but {get_versions()} is installed. Install the versions of "
            "constraints.txt, or write the counts of these versions with --update."
        )


def main():
    """Count, then compare or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=NAMES, choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--file", type=Path, default=FILE, help="the counts to compare with")
    parser.add_argument("--update", action="store_true", help="write the counts instead of comparing them")
    args = parser.parse_args()
    known = json.loads(args.file.read_text()) if args.file.exists() else {"versions": get_versions(), "counts": {}}
    if not args.update:
        check_versions(known["versions"])
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # graph breaks are counted, not explained

    all_grown, all_shrunk, counted = [], [], {}
    for name in args.models:
        counted[name] = count_model(name)
        grown, shrunk = compare(name, counted[name], known["counts"].get(name, {}))
        print("\n".join([f"{name}: counted", *([] if args.update else grown + shrunk)]), flush=True)
        all_grown += grown
        all_shrunk += shrunk
    if args.update:
        counts = {name: count for name, count in {**known["counts"], **counted}.items() if name in NAMES}
        args.file.write_text(json.dumps({"versions": get_versions(), "counts": counts}, indent=1) + "\n")
        print(f"{len(all_grown)} counts grew, {len(all_shrunk)} shrank; written to {args.file}")
        return
    print(f"{len(args.models)} models; by more than 2 %, {len(all_grown)} counts grew and {len(all_shrunk)} shrank")
    sys.exit(1 if all_grown else 0)


if __name__ == "__main__":
    main()
