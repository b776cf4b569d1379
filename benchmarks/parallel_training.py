# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The loss of 20 training steps in one process, and in two by DDP, FSDP2 and tensor parallelism.

    torchrun --standalone --nproc_per_node 2 benchmarks/parallel_training.py  # trains
    python benchmarks/parallel_training.py --draw  # the table, and the picture

Weights, batches and AdamW are the same everywhere. Each of two processes of DDP and FSDP2 reads half of a batch; those
of tensor parallelism read all of it. The text is that of the license, as bytes. The loss is that of the whole batch
before each step, in nats. One process trains before the two connect; once more with the rows of batches in reverse
order, which shows how much rounding alone changes.
"""

import argparse
import datetime
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel, set_seed
from transformers.distributed import DistributedConfig
from transformers.utils import logging

from hf_thoughtbubbles import (
    BytePatchConfig,
    BytePatchForCausalLM,
    GenericTransformerConfig,
    GenericTransformerForCausalLM,
    LoopedThinkerForCausalLM,
    LoopedThinkerTextConfig,
    ThoughtbubblesConfig,
    ThoughtbubblesForCausalLM,
)


ROOT = Path(__file__).parents[1]
FILE = Path(__file__).parent / "results" / "parallel_training.jsonl"
PICTURE = ROOT / "docs" / "results" / "figures" / "parallel_training.png"
SEED, BATCH_SIZE, LENGTH, LEARNING_RATE = 0, 8, 64, 3e-3
SIZES = {"vocab_size": 256, "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": LENGTH}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "thoughtbubbles": lambda: ThoughtbubblesForCausalLM(
        ThoughtbubblesConfig(**SIZES, num_hidden_layers=4, fork_layers=[1, 2], fork_rule="threshold", fork_budget=1.5)
    ),
    "looped_thinker_text": lambda: LoopedThinkerForCausalLM(
        LoopedThinkerTextConfig(**SIZES, num_hidden_layers=2, num_steps=3)
    ),
    "generic_transformer": lambda: GenericTransformerForCausalLM(
        GenericTransformerConfig(**SIZES, num_hidden_layers=4, num_key_value_heads=2, feed_forward="swiglu")
    ),
    "byte_patch": lambda: BytePatchForCausalLM(
        BytePatchConfig(
            **SIZES, num_hidden_layers=2, core_hidden_size=96, core_num_hidden_layers=2, core_num_attention_heads=4
        )
    ),
}
ENGINES = {
    "one": "one process",
    "reversed": "one, rows reversed",
    "ddp": "DDP",
    "fsdp": "FSDP2",
    "tp": "tensor parallel",
}
ALONE, READS_ALL = ("one", "reversed"), ("one", "reversed", "tp")  # the others read their part of a batch


def read_batches(num_steps: int) -> torch.Tensor:
    """Batches of the bytes of the license, `(steps, rows, bytes)`; rows are shuffled."""
    rows = torch.tensor(list((ROOT / "LICENSE").read_bytes()[: num_steps * BATCH_SIZE * LENGTH])).view(-1, LENGTH)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))
    return rows[order].view(num_steps, BATCH_SIZE, LENGTH)


def save(folder: Path):
    """Write untrained models, with the weights of the seed."""
    for name, build in MODELS.items():
        set_seed(SEED)
        build().save_pretrained(folder / name)


def load(name: str, engine: str, folder: Path) -> torch.nn.Module:
    """A saved model, as an engine shares it among processes."""
    config = None
    if engine in ("fsdp", "tp"):  # which share a model while it loads
        config = DistributedConfig(**{f"{engine}_size": dist.get_world_size()})
    model_class = type(MODELS[name]())
    model = model_class.from_pretrained(folder / name, distributed_config=config).train()
    return DistributedDataParallel(model) if engine == "ddp" else model


def train(name: str, engine: str, num_steps: int, folder: Path) -> list[float]:
    """The loss of each step."""
    model, losses = load(name, engine, folder), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    rank, num_parts = (0, 1) if engine in READS_ALL else (dist.get_rank(), dist.get_world_size())
    for batch in read_batches(num_steps):
        part = batch.flip(0) if engine == "reversed" else batch[rank::num_parts]
        loss = model(input_ids=part, labels=part, num_items_in_batch=batch[:, 1:].numel()).loss
        (num_parts * loss).backward()  # DDP and FSDP take the mean of the gradients of processes
        optimizer.step()
        optimizer.zero_grad()
        whole = loss.detach()
        if num_parts > 1:
            dist.all_reduce(whole)
        losses.append(float(whole))
    return losses


def measure(num_steps: int, names: list[str]) -> list[dict]:
    """A row for each model and engine."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        for engine in ENGINES:
            if engine not in ALONE and not dist.is_initialized():
                dist.init_process_group("gloo")
            for name in names:
                losses = train(name, engine, num_steps, Path(folder))
                date = datetime.date.today().isoformat()
                rows.append({"model": name, "engine": engine, "seed": SEED, "date": date, "losses": losses})
    return rows


def find_gap(losses: list[float], expected: list[float]) -> float:
    """The largest difference of two curves, as a part of the loss."""
    return max(abs(loss - alone) / alone for loss, alone in zip(losses, expected, strict=True))


def show(rows: list[dict], picture: Path):
    """Print the table of largest differences, and draw the curves."""
    from hf_thoughtbubbles.plots.losses import plot_losses  # training needs no matplotlib

    curves: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        curves.setdefault(row["model"], {})[ENGINES[row["engine"]]] = row["losses"]
    print("| model | first and last loss | " + " | ".join(list(ENGINES.values())[1:]) + " |")
    print("|---|---|" + "---|" * (len(ENGINES) - 1))
    for name, losses in curves.items():
        alone = losses[ENGINES["one"]]
        gaps = [f"{find_gap(losses[label], alone):.0e}" for label in list(ENGINES.values())[1:]]
        print(f"| `{name}` | {alone[0]:.4f}, {alone[-1]:.4f} | " + " | ".join(gaps) + " |")
    picture.parent.mkdir(parents=True, exist_ok=True)
    plot_losses(curves, "Loss of 20 steps in one process and in two").savefig(picture, dpi=120)


def main():
    """Train and write the rows, or show them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--output", type=Path, default=FILE, help="the rows")
    parser.add_argument("--draw", action="store_true", help="show the rows instead of training")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    args = parser.parse_args()
    if args.draw:
        show([json.loads(line) for line in args.output.read_text().splitlines()], args.picture)
        return
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    rows = measure(args.steps, args.models)
    if int(os.environ["RANK"]) == 0:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
