# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Peak memory of a conversion, from a checkpoint in shards to a saved folder, in multiples of the checkpoint.

    python benchmarks/conversion_memory.py                   # checkpoints of about 400 MB
    python benchmarks/conversion_memory.py --megabytes 100

Each conversion runs in a new process, which imports and converts a tiny model first. Memory is what the process has to
itself (`RssAnon` of Linux), read every millisecond. Pages of files, which the system takes back when it needs memory,
are counted apart (`RssFile`); the weights of a loaded checkpoint are such pages until they are changed.
"""

import argparse
import multiprocessing
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from hf_thoughtbubbles import fork_native, loop_native, save_converted


BUILDERS = {
    "gpt2": lambda width: GPT2LMHeadModel(GPT2Config(n_embd=width, n_layer=8, n_head=8)),
    "llama": lambda width: LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=4,
            vocab_size=20000,
        )
    ),
}
CONVERSIONS = {
    "forks": lambda source: fork_native(source, fork_layers=[2, 4]),
    "loops": lambda source: loop_native(source, loop_layers=(2, 4)),
}
NUM_SHARDS = 8


def read_memory() -> dict[str, int]:
    """Bytes that this process has to itself, and those of pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line[:7]: 1024 * int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssFile"))}


def convert(kind: str, source: str, target: str, peaks: multiprocessing.Queue):
    """Convert and save in this process, and report how far memory rose."""
    logging.disable_progress_bar()
    with TemporaryDirectory() as folder:
        BUILDERS[Path(source).name](16).save_pretrained(f"{folder}/tiny")
        save_converted(CONVERSIONS[kind](f"{folder}/tiny"), f"{folder}/tiny", f"{folder}/new")
    before, highest, is_over = read_memory(), {"RssAnon": 0, "RssFile": 0}, threading.Event()

    def watch():
        while not is_over.is_set():
            for name, value in read_memory().items():
                highest[name] = max(highest[name], value - before[name])
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    save_converted(CONVERSIONS[kind](source), source, target)
    is_over.set()
    watcher.join()
    peaks.put(highest)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400, help="size of the checkpoints")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print("| native model | converted to | checkpoint, MB | memory | pages of files |\n|---|---|---|---|---|")
    for name, build in BUILDERS.items():
        with TemporaryDirectory() as folder:
            width = 64
            while 4e-6 * count_parameters(build, width) < args.megabytes:
                width += 64
            build(width).save_pretrained(f"{folder}/{name}", max_shard_size=f"{args.megabytes // NUM_SHARDS}MB")
            size = sum(path.stat().st_size for path in Path(folder, name).glob("*.safetensors"))
            for kind in CONVERSIONS:
                peaks = context.Queue()
                process = context.Process(target=convert, args=(kind, f"{folder}/{name}", f"{folder}/{kind}", peaks))
                process.start()
                highest = peaks.get()
                process.join()
                shares = [highest[key] / size for key in ("RssAnon", "RssFile")]
                print(f"| {name} | {kind} | {size / 1e6:.0f} | {shares[0]:.2f} | {shares[1]:.2f} |", flush=True)


def count_parameters(build, width: int) -> int:
    """The number of parameters of a model of a width."""
    with torch.device("meta"):
        return build(width).num_parameters()


if __name__ == "__main__":
    main()
