# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Benchmark: next-thought models write the next line of code from the vector of a line, beside a native BART.

    python benchmarks/next_thought.py --output benchmarks/next_thought.jsonl          # train what is missing
    python benchmarks/next_thought.py --output benchmarks/next_thought.jsonl --table  # print the table

Every arm and seed trains on the same pairs of lines of the standard library's source, byte by byte. The score is in
bits per byte of the following lines in held-out documents. A second score exchanges the first lines between pairs,
which shows how much an arm uses them. Each finished run is one line of the output file, so the script can be stopped
and started again.

Arms: `mlp` and `block linear`, next-thought models with the two published cores; `encoder-decoder`, a native BART of
equal parameters with as many layers, which attends to every byte of the line; `no reading`, the same BART with the pad
token as its only input.
"""

import argparse
import functools
import itertools
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    Trainer,
    set_seed,
)

from hf_thoughtbubbles import NextThoughtConfig, NextThoughtForConditionalGeneration, build_byte_tokenizer
from hf_thoughtbubbles.data.text import load_text
from hf_thoughtbubbles.data.thoughts import pair_thoughts
from runs import describe_seeds, do_missing, make_arguments, read_runs


ARMS = ("mlp", "block linear", "encoder-decoder", "no reading")
SIZES = {
    "hidden_size": 96, "pooling_sizes": [144, 192], "removed_shares": [0.3, 0.5], "num_pooling_heads": 12,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_decoder_layers": 3, "num_latent_tokens": 8,
    "encoder_ffn_dim": 192, "decoder_ffn_dim": 192,
}  # fmt: skip
LONGEST_LINE = 96  # bytes, the end of the line included
NUM_SCORED = 2000  # pairs
PARAMETER_STEP = 4  # of the native model's feed-forward width


def build_ours(tokenizer, **changes) -> NextThoughtForConditionalGeneration:
    """A next-thought model."""
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = NextThoughtConfig(**{**SIZES, **ids, "max_position_embeddings": LONGEST_LINE, **changes})
    return NextThoughtForConditionalGeneration(config)


def build_native(tokenizer, wanted: int) -> BartForConditionalGeneration:
    """A BART of the same width and depth whose feed-forward layers give it the wanted parameters."""

    def configure(wide: int) -> BartConfig:
        return BartConfig(
            vocab_size=len(tokenizer), d_model=SIZES["hidden_size"], encoder_layers=1 + len(SIZES["pooling_sizes"]),
            decoder_layers=SIZES["num_decoder_layers"], encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=wide, decoder_ffn_dim=wide, max_position_embeddings=LONGEST_LINE, dropout=0.0,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.pad_token_id,
            forced_eos_token_id=None,
        )  # fmt: skip

    def count(wide: int) -> int:
        with torch.device("meta"):
            return BartForConditionalGeneration(configure(wide)).num_parameters()

    widths = range(PARAMETER_STEP, 1024, PARAMETER_STEP)
    low, high = count(widths[0]), count(widths[1])
    nearest = min(widths, key=lambda wide: abs(low + (wide - widths[0]) / PARAMETER_STEP * (high - low) - wanted))
    return BartForConditionalGeneration(configure(nearest))


def build(arm: str, tokenizer) -> PreTrainedModel:
    """The model of an arm."""
    if arm == "mlp":
        return build_ours(tokenizer)
    if arm == "block linear":
        return build_ours(tokenizer, core="block_linear", core_block_sizes=[12, 96, 3])
    return build_native(tokenizer, build_ours(tokenizer).num_parameters())


class Collator(DataCollatorForSeq2Seq):
    """Batches of pairs; `is_blind` replaces first lines by the pad token, `is_exchanged` by those of other pairs."""

    def __init__(self, *args, is_blind: bool = False, is_exchanged: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.is_blind, self.is_exchanged = is_blind, is_exchanged

    def __call__(self, rows, return_tensors=None):
        if self.is_blind:
            rows = [{**row, "input_ids": [self.tokenizer.pad_token_id]} for row in rows]
        if self.is_exchanged:
            lines = [row["input_ids"] for row in rows]
            rows = [{**row, "input_ids": line} for row, line in zip(rows, [*lines[1:], lines[0]], strict=True)]
        return super().__call__(rows, return_tensors)


@torch.no_grad()
def score(model: PreTrainedModel, pairs, tokenizer, collator: Collator) -> float:
    """Bits per byte of the second lines; the ends of lines count as bits but not as bytes."""
    nats, num_bytes = [], 0
    model.eval()
    for start in range(0, len(pairs), 50):
        batch = collator([pairs[i] for i in range(start, min(start + 50, len(pairs)))])
        labels = batch["labels"]
        logits = model(**batch, use_cache=False).logits
        nats.append(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item())
        num_bytes += int(((labels >= 0) & (labels != tokenizer.eos_token_id)).sum())
    return math.fsum(nats) / math.log(2) / num_bytes


def run(arm: str, seed: int, args) -> dict:
    """Train and score one arm with one seed."""
    tokenizer, documents = build_byte_tokenizer(), load_text()
    shortest = build_ours(tokenizer).config.min_tokens
    options = {"max_length": LONGEST_LINE, "min_length": shortest}
    documents["train"] = documents["train"].shuffle(seed=0).select(range(args.documents))
    pairs = {split: pair_thoughts(documents[split], tokenizer, **options) for split in documents}
    scored = pairs["validation"].shuffle(seed=0).select(range(NUM_SCORED))
    set_seed(seed)
    model = build(arm, tokenizer)
    collators = [
        Collator(tokenizer, model=model, is_blind=arm == "no reading", is_exchanged=exchanged)
        for exchanged in (False, True)
    ]
    arguments = make_arguments(
        args.output,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        learning_rate=args.learning_rate,
        warmup_steps=args.steps // 20,
        weight_decay=0.01,
        seed=seed,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=pairs["train"], data_collator=collators[0])
    start = time.perf_counter()
    trainer.train()
    seconds = round(time.perf_counter() - start, 1)
    read, exchanged = (score(model, scored, tokenizer, collator) for collator in collators)
    result = {"parameters": model.num_parameters(), "seconds": seconds, "pairs": args.steps * args.batch}
    return {**result, "read": read, "exchanged": exchanged}


def print_table(output: Path):
    """Bits per byte of each arm."""
    runs = read_runs(output)
    print("\n| arm | parameters | pairs | seeds | bits per byte | with another line read |\n|---|---|---|---|---|---|")
    for arm in ARMS:
        found = sorted((run for run in runs if run["arm"] == arm), key=lambda run: run["seed"])
        if found:
            seeds = ", ".join(str(run["seed"]) for run in found)
            print(f"| {arm} | {found[0]['parameters']:,} | {found[0]['pairs']:,} | {seeds} |", end=" ")
            print(" | ".join(describe_seeds([run[name] for run in found]) for name in ("read", "exchanged")), "|")


def main():
    """Train what the output file does not hold yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print the table of finished runs")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.table:
        wanted = ({"arm": arm, "seed": seed} for seed, arm in itertools.product(args.seeds, args.arms))
        do_missing(args.output, wanted, functools.partial(run, args=args))
    print_table(args.output)


if __name__ == "__main__":
    main()
