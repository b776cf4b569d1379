# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Benchmark of byte-patch models: bits per byte of text, clean and with noise, against other models of their size.

    python benchmarks/byte_text.py --output benchmarks/byte_text.jsonl          # train missing runs
    python benchmarks/byte_text.py --output benchmarks/byte_text.jsonl --table  # print the tables

Every arm and seed reads as many bytes of the standard library's source, in blocks of `BLOCK_BYTES` bytes; it is scored
in bits per byte on the same held-out documents: as they are, and with character noise. Each finished run is one line
of the output file, so the script can be stopped, started again, and run twice side by side with different `--arms` or
`--seeds`.

Arms: patches of words or of a fixed size, each with both decoders; `GPT-2, FLOPs`, native, over bytes, as deep as the
core and so wide that a forward pass takes as many operations a byte as that of `words, autoregressive`; `GPT-2,
parameters`, as wide and deep as the core with as many parameters; `GPT-2, BPE`, of the core's width and depth over
tokens of a tokenizer trained on the same text. Operations of training are three times those of a forward pass over
the bytes read, counted by torch.
"""

import argparse
import functools
import itertools
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedModel, Trainer, set_seed

from bytes import ARMS as OURS
from bytes import build_flat, count_flops
from hf_thoughtbubbles import BytePatchConfig, BytePatchForCausalLM, build_byte_tokenizer, train_bpe_tokenizer
from hf_thoughtbubbles.data.collation import collate_blocks
from hf_thoughtbubbles.data.noise import add_character_noise
from hf_thoughtbubbles.data.text import load_text, pack_blocks
from hf_thoughtbubbles.evaluation.baselines import matched_baseline
from hf_thoughtbubbles.evaluation.scoring import score_dataset
from runs import describe_seeds, do_missing, make_arguments, read_runs


ARMS = (*OURS, "GPT-2, FLOPs", "GPT-2, parameters", "GPT-2, BPE")
SIZES = {
    "core_hidden_size": 128, "core_num_hidden_layers": 4, "core_num_attention_heads": 4, "hidden_size": 64,
    "encoder_num_hidden_layers": 1, "num_hidden_layers": 2,
}  # fmt: skip
BLOCK_BYTES = 512
BPE_VOCAB_SIZE = 2048
SCORED_BYTES = 200_000
NOISE = (0.0, 0.05, 0.15)
NOISE_SEED = 1


def build_ours(changes: dict) -> BytePatchForCausalLM:
    """One of ours."""
    return BytePatchForCausalLM(BytePatchConfig(**SIZES, max_position_embeddings=BLOCK_BYTES, **changes))


def build(arm: str, tokenizer, block: torch.Tensor, num_positions: int) -> PreTrainedModel:
    """The model of an arm; `block` `(1, T)` is text in bytes, over which operations are counted."""
    if arm in OURS:
        return build_ours(OURS[arm])
    if arm == "GPT-2, BPE":
        return build_flat({**SIZES, "context": num_positions}, SIZES["core_hidden_size"], len(tokenizer))
    reference = build_ours({})
    if arm == "GPT-2, parameters":
        return matched_baseline(reference)
    wanted, step = count_flops(reference, block), 2 * SIZES["core_num_attention_heads"]
    widths, size = range(step, SIZES["core_hidden_size"], step), {**SIZES, "context": BLOCK_BYTES}
    models = [build_flat(size, width, len(tokenizer)) for width in widths]
    return min(models, key=lambda model: abs(count_flops(model, block) - wanted))


def cut_text(documents: Dataset, num_bytes: int) -> list[str]:
    """The first documents that hold so many bytes."""
    texts, size = [], 0
    for row in documents:
        if size >= num_bytes:
            break
        texts.append(row["text"])
        size += len(row["text"].encode())
    return texts


def score(model: PreTrainedModel, texts: list[str], tokenizer, block_size: int) -> dict[str, float]:
    """Bits per byte of the texts by share of noise."""
    scores = {}
    for share in NOISE:
        noisy = [add_character_noise(text, share, NOISE_SEED + i) for i, text in enumerate(texts)]
        blocks = pack_blocks(Dataset.from_dict({"text": noisy}), tokenizer, block_size)
        scores[str(share)] = score_dataset(model, blocks, tokenizer, batch_size=16)["bits_per_byte"]
    return scores


def run(arm: str, seed: int, args) -> dict:
    """Train and score one arm with one seed."""
    documents = load_text()
    byte_tokenizer = build_byte_tokenizer()
    tokenizer, bytes_per_token = byte_tokenizer, 1.0
    if arm == "GPT-2, BPE":
        tokenizer = train_bpe_tokenizer(documents["train"], BPE_VOCAB_SIZE)
        sample = cut_text(documents["train"].shuffle(seed=0), SCORED_BYTES)
        bytes_per_token = sum(len(text.encode()) for text in sample) / sum(map(len, tokenizer(sample).input_ids))
    block_size = round(BLOCK_BYTES / bytes_per_token)
    blocks = pack_blocks(documents["train"], tokenizer, block_size)
    texts = cut_text(documents["validation"], SCORED_BYTES)
    text_bytes = pack_blocks(Dataset.from_dict({"text": texts}), byte_tokenizer, BLOCK_BYTES)[0]["input_ids"]

    set_seed(seed)
    model = build(arm, tokenizer, torch.tensor([text_bytes]), block_size)
    flops = count_flops(model, torch.tensor([blocks[0]["input_ids"]])) / bytes_per_token  # a byte
    arguments = make_arguments(
        args.output,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        learning_rate=args.learning_rate,
        warmup_steps=args.steps // 20,
        weight_decay=0.1,
        adam_beta2=0.95,
        seed=seed,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=blocks, data_collator=collate_blocks)
    start = time.perf_counter()
    trainer.train()
    seconds, num_bytes = time.perf_counter() - start, args.steps * args.batch * block_size * bytes_per_token
    return {
        "learning_rate": args.learning_rate,
        "parameters": model.num_parameters(),
        "flops": round(flops),
        "bytes": round(num_bytes),
        "seconds": round(seconds, 1),
        "scores": score(model, texts, tokenizer, block_size),
    }


def print_table(output: Path):
    """Bits per byte of each arm."""
    runs = read_runs(output)
    print("\n| arm | parameters | MFLOPs a byte | training PFLOPs | MB read | seeds |", end=" ")
    print(" | ".join(f"{100 * share:g} % noise" for share in NOISE), "|\n|" + "---|" * (6 + len(NOISE)))
    for arm in ARMS:
        found = sorted((run for run in runs if run["arm"] == arm), key=lambda run: run["seed"])
        if not found:
            continue
        flops, num_bytes = found[0]["flops"], found[0]["bytes"]
        print(
            f"| {arm} | {found[0]['parameters']:,} | {flops / 1e6:.2f} | {3 * flops * num_bytes / 1e15:.4f} |", end=" "
        )
        print(f"{num_bytes / 1e6:.2f} | {', '.join(str(run['seed']) for run in found)} |", end=" ")
        print(" | ".join(describe_seeds([run["scores"][str(share)] for run in found]) for share in NOISE), "|")


def main():
    """Train what the output file does not hold yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=4e-3)
    parser.add_argument("--threads", type=int, default=1, help="two runs side by side are faster than two threads")
    parser.add_argument("--table", action="store_true", help="only print finished runs")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.table:
        wanted = ({"arm": arm, "seed": seed} for seed, arm in itertools.product(args.seeds, args.arms))
        do_missing(args.output, wanted, functools.partial(run, args=args))
    print_table(args.output)


if __name__ == "__main__":
    main()
