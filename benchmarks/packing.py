# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Benchmark of packing: speed, tokens lost and memory, beside TRL's packing and LitData.

    python benchmarks/packing.py --parts bytes words stream    # speed and tokens lost, about 3 minutes
    python benchmarks/packing.py --parts memory --megabytes 2000    # a text file, then JSON lines; 9 GB of disk
    python benchmarks/packing.py --quick                       # tiny: it runs, but its numbers mean nothing

bytes, words  megabytes of text a second, of documents in memory to blocks in a file, with nothing cached: bytes, and
              BPE beside the tokenizer alone. TRL's `pack_dataset` takes token lists, which `Dataset.map` makes;
              `wrapped` and `bfd` join documents within each thousand of them. LitData, if it is installed, writes one
              token stream. Every arm has documents of 1 kB and of 22 kB. All take turns in one process; the median
              and quartiles are printed, and the share of tokens that are in no block.
stream        the same of a stream that is read once.
memory        one file of text, and one of JSON lines, of `--megabytes`: `load_text` and `pack_blocks` in a process of
              their own. Anonymous memory is sampled from /proc; the largest resident memory also counts pages of
              mapped files, which the system takes back when it needs memory.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_thoughtbubbles import build_byte_tokenizer, train_bpe_tokenizer
from hf_thoughtbubbles.data.text import load_text, pack_blocks


SIZES = {
    "usual": {"bytes": 8_000_000, "words": 2_000_000, "sample": 1_000_000, "vocab_size": 4096, "block": 1024},
    "quick": {"bytes": 90_000, "words": 30_000, "sample": 10_000, "vocab_size": 300, "block": 64},
}
DOCUMENT_BYTES = (1000, 22_000)
DOCUMENTS_PER_CALL = 256
SHARES = {"bytes": 40, "words": 1}  # of the documents, one in so many is for the other libraries
SAMPLE_SECONDS = 0.01


def cut_documents(text: str, length: int, size: int) -> Dataset:
    """Documents of so many characters; the text repeats."""
    pieces = [text[i : i + length] for i in range(0, len(text), length)]
    return Dataset.from_dict({"text": [pieces[i % len(pieces)] for i in range(-(-size // length))]})


def pack_with_trl(rows: Dataset, tokenizer: PreTrainedTokenizerBase, block_size: int, strategy: str) -> Dataset:
    """Token lists with the end of sequence, as TRL makes them, then its packing."""
    from trl import pack_dataset  # not where memory is measured

    def tokenize(batch):
        ids = tokenizer(batch["text"], add_special_tokens=False)["input_ids"]
        return {"input_ids": [[*one, tokenizer.eos_token_id] for one in ids]}

    return pack_dataset(rows.map(tokenize, batched=True, remove_columns=["text"]), block_size, strategy)


def encode_for_litdata(text: str, tokenizer: PreTrainedTokenizerBase):
    """The tokens of a document; a function of a module, because LitData starts processes."""
    yield torch.tensor([*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id])


def pack_with_litdata(rows: Dataset, tokenizer: PreTrainedTokenizerBase, block_size: int, folder: Path):
    """LitData's files of tokens, which its `StreamingDataset` cuts into blocks."""
    from litdata import TokensLoader, optimize

    optimize(
        partial(encode_for_litdata, tokenizer=tokenizer),
        inputs=rows["text"][:],
        output_dir=str(folder / f"litdata-{time.monotonic_ns()}"),
        chunk_size=block_size * 2048,
        item_loader=TokensLoader(block_size=block_size),
        num_workers=1,
    )


def count_tokens(blocks, block_size: int) -> int:
    """Tokens in full blocks."""
    return block_size * sum(len(ids) == block_size for ids in blocks.with_format("numpy")["input_ids"])


def take_turns(calls: dict[str, Callable[[], object]], repeats: int, cache: Path) -> dict[str, list[float]]:
    """Seconds of each call, in turns, with an empty cache, after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(1 + repeats):
        for name, call in calls.items():
            shutil.rmtree(cache, ignore_errors=True)
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def list_arms(
    rows: Dataset, share: Dataset, tokenizer: PreTrainedTokenizerBase, block_size: int, folder: Path
) -> dict:
    """Calls by name: ours pack all rows, the others a share of them."""
    texts, backend = share["text"][:], tokenizer.backend_tokenizer
    batches = [texts[i : i + DOCUMENTS_PER_CALL] for i in range(0, len(texts), DOCUMENTS_PER_CALL)]
    shuffled = rows.shuffle(seed=0)
    arms = {
        "tokenizer alone, `encode_batch_fast`": lambda: [
            backend.encode_batch_fast(batch, add_special_tokens=False) for batch in batches
        ],
        "`pack_blocks`": lambda: pack_blocks(rows, tokenizer, block_size),
        "`pack_blocks`, positions": lambda: pack_blocks(rows, tokenizer, block_size, position_ids=True),
        "`pack_blocks`, shuffled": lambda: pack_blocks(shuffled, tokenizer, block_size),
        "TRL, wrapped": lambda: pack_with_trl(share, tokenizer, block_size, "wrapped"),
        "TRL, bfd": lambda: pack_with_trl(share, tokenizer, block_size, "bfd"),
    }
    if find_spec("litdata"):
        arms["LitData"] = lambda: pack_with_litdata(share, tokenizer, block_size, folder)
    return arms


def measure_speed(kind: str, size: dict, repeats: int, folder: Path):
    """Megabytes a second and tokens lost of one tokenizer."""
    text, block_size = "".join(load_text()["train"]["text"]), size["block"]
    words = text[: size["sample"]]
    tokenizer = build_byte_tokenizer() if kind == "bytes" else train_bpe_tokenizer([words], size["vocab_size"])
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    print(
        f"\n| {kind}, documents of | arm | MB/s | quartiles | / tokenizer | tokens lost |\n|---|---|---|---|---|---|"
    )
    for length in DOCUMENT_BYTES:
        rows = cut_documents(text, length, size[kind])
        share = rows.select(range(-(-len(rows) // SHARES[kind])))  # the others are slow
        arms, counts = list_arms(rows, share, tokenizer, block_size, folder), {}
        for name, some in (("ours", rows), ("others", share)):
            ids = tokenizer(some["text"][:], add_special_tokens=False)["input_ids"]
            counts[name] = (sum(len(one.encode()) for one in some["text"]), sum(map(len, ids)) + len(some))
        seconds = take_turns(arms, repeats, folder / "cache")
        for name, times in seconds.items():
            num_bytes, num_tokens = counts["ours" if name.startswith("`") else "others"]
            low, middle, high = (num_bytes / 1e6 / value for value in np.quantile(times, [0.75, 0.5, 0.25]))
            if name.startswith("tokenizer"):
                alone = middle
            lost = ""
            if name.startswith(("`", "TRL")):
                lost = f"{100 * (1 - count_tokens(arms[name](), block_size) / num_tokens):.3f} %"
            print(f"| {length} B | {name} | {middle:.2f} | {low:.2f} to {high:.2f} | {middle / alone:.2f} | {lost} |")


def measure_stream(size: dict, repeats: int, folder: Path):
    """Megabytes a second of reading a stream once."""
    text, tokenizer = "".join(load_text()["train"]["text"]), build_byte_tokenizer()
    print("\n| stream of bytes, documents of | MB/s | quartiles |\n|---|---|---|")
    for length in DOCUMENT_BYTES:
        rows = cut_documents(text, length, size["bytes"] // 8)
        stream = pack_blocks(rows.to_iterable_dataset(num_shards=min(4, len(rows))), tokenizer, size["block"])
        times = take_turns({"stream": lambda s=stream: sum(1 for _ in s)}, repeats, folder / "cache")["stream"]
        low, middle, high = (size["bytes"] / 8e6 / value for value in np.quantile(times, [0.75, 0.5, 0.25]))
        print(f"| {length} B | {middle:.2f} | {low:.2f} to {high:.2f} |")


def read_memory(name: str) -> float:
    """Megabytes of this process: `RssAnon`, or `VmHWM`, the largest resident memory since it began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1e3


def pack_file(path: Path, block_size: int):
    """Pack a file in this process, and print its memory in megabytes."""
    datasets.config.HF_DATASETS_CACHE = path.parent / "cache"
    datasets.disable_progress_bars()
    peak, is_done = [0.0], threading.Event()

    def sample():
        while not is_done.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], read_memory("RssAnon"))

    thread = threading.Thread(target=sample)
    thread.start()
    before, start = read_memory("VmHWM"), time.perf_counter()
    rows = load_text(path, validation_share=0.001)["train"]
    loaded, loading = read_memory("VmHWM"), time.perf_counter() - start
    start = time.perf_counter()
    blocks = pack_blocks(rows, build_byte_tokenizer(), block_size)
    packing = time.perf_counter() - start
    is_done.set()
    thread.join()
    after = read_memory("VmHWM")
    print(json.dumps({
        "imports": before, "loaded": loaded, "resident": after, "anonymous": peak[0],
        "loading": loading, "packing": packing, "blocks": len(blocks),
    }))  # fmt: skip


def measure_memory(size: dict, folder: Path, megabytes: float):
    """Peak memory of packing files, each in a process of its own."""
    text = "".join(load_text()["train"]["text"]).encode()
    pieces = [text[i : i + DOCUMENT_BYTES[0]].decode(errors="ignore") for i in range(0, len(text), DOCUMENT_BYTES[0])]
    lines = "".join(json.dumps({"text": piece}) + "\n" for piece in pieces).encode()
    print("\n| file | MB | s to load | s to pack | MB after imports | loaded, resident | peak, resident | anonymous |")
    print("|---|---|---|---|---|---|---|---|")
    for name, content in (("text.txt", text), ("rows.jsonl", lines)):
        path = folder / name
        with path.open("wb") as file:
            while file.tell() < megabytes * 1e6:
                file.write(content)
        command = [sys.executable, __file__, "--pack", str(path), "--block", str(size["block"])]
        ended = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
        found = json.loads(ended.stdout.splitlines()[-1])
        numbers = [found[key] for key in ("loading", "packing", "imports", "loaded", "resident", "anonymous")]
        print(f"| {name} | {path.stat().st_size / 1e6:.0f} |", " | ".join(f"{number:.1f}" for number in numbers), "|")
        shutil.rmtree(folder / "cache")
        path.unlink()


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["bytes", "words", "stream", "memory"])
    parser.add_argument("--megabytes", type=float, default=2000, help="Size of the files of the part `memory`.")
    parser.add_argument("--folder", help="Where files are written (default: the system's temporary folder).")
    parser.add_argument("--repeats", type=int, default=7, help="Turns that are timed.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of Arrow and, above 1, of tokenizers.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pack", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--block", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    pa.set_cpu_count(args.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = str(args.threads > 1).lower()
    if args.pack:
        pack_file(args.pack, args.block)
        return
    datasets.disable_progress_bars()
    size = SIZES["quick" if args.quick else "usual"]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for part in args.parts:
            if part == "memory":
                measure_memory(size, Path(folder), 0.1 if args.quick else args.megabytes)
            elif part == "stream":
                measure_stream(size, args.repeats, Path(folder))
            else:
                measure_speed(part, size, args.repeats, Path(folder))


if __name__ == "__main__":
    main()
