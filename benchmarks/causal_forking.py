# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The causal fork rule against the published one, random forks and no forks: bits per byte of small models.

    python benchmarks/causal_forking.py --output runs/causal_forking.jsonl                     # train what is missing
    python benchmarks/causal_forking.py --output runs/causal_forking.jsonl --table             # print the table

Small byte models on the source of the standard library, the same blocks in the same order for every arm of a seed.
Each finished run is one line of the output file, so the script can be stopped, started again, and run twice side by
side with different `--arms` or `--seeds`.

Columns are validation bits per byte: `block` whole blocks in one call (for top-k not a likelihood), `prefix` every
byte from a call on the bytes before it (`prefix_block` the same few blocks read whole), `causal` whole blocks read by
the threshold rule, for top-k models with the thresholds that training tracked. `streams` is streams per token after
the last fork, read causally.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup, set_seed

from hf_thoughtbubbles import (
    ForkRule,
    ThoughtbubblesConfig,
    ThoughtbubblesForCausalLM,
    build_byte_tokenizer,
    register_fork_rule,
)
from hf_thoughtbubbles.data.text import STANDARD_LIBRARY, load_text, pack_blocks
from hf_thoughtbubbles.evaluation.baselines import matched_baseline
from hf_thoughtbubbles.evaluation.scoring import score_dataset
from hf_thoughtbubbles.modeling.thoughtbubbles.streams import find_own_candidates


SIZES = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 128}
WIDE = {"fork_layers": [1, 2], "fork_budget": 2.0}  # the first fork keeps everything
TIGHT = {"fork_layers": [1, 2, 3], "fork_budget": 1.5}  # every fork prunes
ANCHORED = {"fork_rule": "threshold", "fork_anchored": True, "fork_score_channel": "beside"}
ARMS = {
    "top-k, budget 2": {**WIDE, "fork_rule": "topk"},
    "threshold, budget 2": {**WIDE, "fork_rule": "threshold"},
    "random forks, budget 2": {**WIDE, "fork_rule": "random"},
    "top-k, budget 1.5": {**TIGHT, "fork_rule": "topk"},
    "threshold, budget 1.5": {**TIGHT, "fork_rule": "threshold"},
    "random forks, budget 1.5": {**TIGHT, "fork_rule": "random"},
    "top-k, budget 2, init (-2, 4)": {**WIDE, "fork_rule": "topk", "fork_score_init": (-2, 4)},
    "threshold, budget 2, init (0, 0)": {**WIDE, "fork_rule": "threshold", "fork_score_init": (0, 0)},
    "threshold, budget 2, init (0, 4)": {**WIDE, "fork_rule": "threshold", "fork_score_init": (0, 4)},
    "threshold, budget 2, init (-2, 4)": {**WIDE, "fork_rule": "threshold", "fork_score_init": (-2, 4)},
    "threshold, budget 2, init (-4, 4)": {**WIDE, "fork_rule": "threshold", "fork_score_init": (-4, 4)},
    "threshold, budget 2, init (4, 4)": {**WIDE, "fork_rule": "threshold", "fork_score_init": (4, 4)},
    "threshold, budget 1.5, init (-2, 4)": {**TIGHT, "fork_rule": "threshold", "fork_score_init": (-2, 4)},
    "random forks, budget 2, init (-2, 4)": {**WIDE, "fork_rule": "random", "fork_score_init": (-2, 4)},
    "threshold, budget 2, anchored": {**WIDE, **ANCHORED},
    "threshold, budget 2, anchored, last channel": {**WIDE, **ANCHORED, "fork_score_channel": "last"},
    "threshold, budget 1.5, anchored": {**TIGHT, **ANCHORED},
    "no forks": {"fork_layers": []},
    "no forks, 7 layers (equal FLOPs)": {"fork_layers": [], "num_hidden_layers": 7},
    "GPT-2, equal parameters": {**WIDE, "is_gpt2": True},
    "GPT-2, 7 layers (equal FLOPs)": {"fork_layers": [], "num_hidden_layers": 7, "is_gpt2": True},
}  # fmt: skip
COLUMNS = ("block", "prefix", "prefix_block", "causal", "streams")


@register_fork_rule("random")
class RandomRule(ForkRule):
    """The control: as many candidates stay as the budget says, drawn without regard to their scores."""

    def choose(self, candidates, *, fork_budget, capacity, **kwargs):
        is_own = find_own_candidates(candidates.token_index, candidates.num_tokens)
        num_open = (~is_own & (candidates.token_index < candidates.num_tokens)).sum()
        share = is_own.sum() * (fork_budget - 1) / num_open
        return candidates.keep(torch.rand_like(candidates.log_scores) >= 1 - share, capacity)


def build(arm: dict, vocab_size: int) -> PreTrainedModel:
    """The model of an arm, freshly initialised."""
    changes = {key: value for key, value in arm.items() if not key.startswith("is_")}
    model = ThoughtbubblesForCausalLM(ThoughtbubblesConfig(**{**SIZES, "vocab_size": vocab_size, **changes}))
    return matched_baseline(model) if arm.get("is_gpt2") else model


def train(model: PreTrainedModel, blocks: torch.Tensor, args: argparse.Namespace) -> float:
    """Train on the blocks in order; returns seconds."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.95))
    schedule: LambdaLR = get_cosine_schedule_with_warmup(optimizer, args.steps // 10, args.steps)
    start = time.perf_counter()
    model.train()
    for step in range(args.steps):
        input_ids = blocks[step * args.batch : (step + 1) * args.batch]
        model(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


def score(model: PreTrainedModel, validation, tokenizer, args: argparse.Namespace) -> dict[str, float]:
    """Bits per byte, by each reading that fits the model."""

    def read(reading: str, num_blocks: int) -> float:
        torch.manual_seed(0)  # for random forks
        batch_size = 32 if reading == "blockwise" else num_blocks
        scored = score_dataset(model, validation, tokenizer, reading, batch_size, max_blocks=num_blocks)
        return scored["bits_per_byte"]

    scores = {"block": read("blockwise", args.scored_blocks)}
    if not getattr(model.config, "fork_layers", None):
        return {**scores, "causal": scores["block"]}
    if model.config.fork_rule == "topk":
        scores["prefix"] = read("prefix", args.prefix_blocks)
        scores["prefix_block"] = read("blockwise", args.prefix_blocks)
        model.config.fork_rule = "threshold"
    scores["causal"] = read("blockwise", args.scored_blocks)
    rows = torch.tensor(validation[:32]["input_ids"])
    with torch.no_grad():
        forks = model.eval()(input_ids=rows, use_cache=False, output_forks=True).forks
    scores["streams"] = forks[-1].num_streams.float().mean().item()
    return scores


def run(name: str, seed: int, splits, tokenizer, args: argparse.Namespace) -> dict:
    """Train and score one arm with one seed."""
    arm = ARMS[name]
    order = torch.randperm(len(splits["train"]), generator=torch.Generator().manual_seed(seed))
    blocks = torch.tensor(splits["train"].select(order[: args.steps * args.batch].tolist())["input_ids"])
    set_seed(seed)
    model = build(arm, len(tokenizer))
    seconds = train(model, blocks, args)
    scores = score(model, splits["validation"], tokenizer, args)
    num_parameters = model.num_parameters()
    return {"arm": name, "seed": seed, "parameters": num_parameters, "seconds": round(seconds, 1), **scores}


def print_table(path: Path):
    """Mean and standard deviation over seeds, one row an arm."""
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    print("| arm | parameters | seeds | " + " | ".join(COLUMNS) + " |")
    print("|---" * (3 + len(COLUMNS)) + "|")
    for name in ARMS:
        mine = [run for run in runs if run["arm"] == name]
        if not mine:
            continue
        cells = []
        for column in COLUMNS:
            values = [run[column] for run in mine if column in run]
            deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{deviation}" if values else "")
        seeds = ", ".join(str(run["seed"]) for run in sorted(mine, key=lambda run: run["seed"]))
        print(f"| {name} | {mine[0]['parameters']:,} | {seeds} | " + " | ".join(cells) + " |")


def main():
    """Train what the output file does not hold yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--scored_blocks", type=int, default=512)
    parser.add_argument("--prefix_blocks", type=int, default=16)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    if not args.table:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        tokenizer, documents = build_byte_tokenizer(), load_text(STANDARD_LIBRARY)
        splits = {
            name: pack_blocks(documents[name], tokenizer, SIZES["max_position_embeddings"]) for name in documents
        }
        splits["validation"] = splits["validation"].shuffle(seed=0)
        for seed in args.seeds:
            for name in args.arms:
                done = args.output.read_text().splitlines() if args.output.exists() else []
                if any((run["arm"], run["seed"]) == (name, seed) for run in map(json.loads, done)):
                    continue
                line = json.dumps(run(name, seed, splits, tokenizer, args))
                print(line, flush=True)
                with args.output.open("a") as file:
                    file.write(line + "\n")
    print_table(args.output)


if __name__ == "__main__":
    main()
