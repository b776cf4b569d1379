# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How far log-probabilities by the fork rule of training lie from those by the rule of evaluation, after training.

    python benchmarks/likelihoods.py

Small byte models, trained on blocks of 30 files of the standard library and read on blocks of 30 others. `dpo` is the
first loss of DPO (beta 0.1, halves of the batch as chosen and rejected) with a policy that reads by one rule and a
reference that reads by the other; equal rules give ln 2 = 0.6931.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F
from transformers import get_cosine_schedule_with_warmup, set_seed

from hf_thoughtbubbles import ThoughtbubblesConfig, ThoughtbubblesForCausalLM, build_byte_tokenizer
from hf_thoughtbubbles.data.text import load_text, pack_blocks


SIZES = {"vocab_size": 259, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
BETA = 0.1  # of DPO


def train(model, blocks, num_steps: int, batch_size: int = 8):
    """Train on random blocks `(N, T)`."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    schedule = get_cosine_schedule_with_warmup(optimizer, num_steps // 20, num_steps)
    for _ in range(num_steps):
        input_ids = blocks[torch.randint(len(blocks), (batch_size,))]
        model(input_ids, labels=input_ids).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


@torch.no_grad()
def read(model, input_ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities `(B, T - 1)` of the next bytes."""
    logits = model(input_ids, use_cache=False).logits[:, :-1]
    return logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]


def measure(model, input_ids: torch.Tensor) -> dict[str, float]:
    """Differences between the two rules, in nats."""
    trained, evaluated = read(model.train(), input_ids), read(model.eval(), input_ids)
    distance, (chosen, rejected) = (trained - evaluated).abs(), (trained - evaluated).sum(-1).chunk(2)
    return {
        "mean": float(distance.mean()),
        "max": float(distance.max()),
        "equal": float((distance < 1e-5).float().mean()),
        "a block": float((trained - evaluated).sum(-1).abs().mean()),
        "nats": -float(evaluated.mean()),
        "dpo": float(-F.logsigmoid(BETA * (chosen - rejected)).mean()),
    }


def main():
    """Print a line for each rule and budget: mean over seeds, and range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer, documents = build_byte_tokenizer(), load_text()
    train_blocks, read_blocks = (
        pack_blocks(documents[name].select(range(30)), tokenizer, 96).with_format("torch")["input_ids"][:]
        for name in ("train", "validation")
    )
    for rule, budget in (("threshold", 1.5), ("threshold", 2.0), ("topk", 1.5)):
        found = []
        for seed in args.seeds:
            set_seed(seed)
            config = ThoughtbubblesConfig(**SIZES, fork_layers=[1, 2, 3], fork_rule=rule, fork_budget=budget)
            model = ThoughtbubblesForCausalLM(config)
            train(model, train_blocks, args.steps)
            found.append(measure(model, read_blocks[torch.randperm(len(read_blocks))[:64]]))
        columns = {key: [row[key] for row in found] for key in found[0]}
        texts = [f"{key} {statistics.mean(v):.4f} ({min(v):.4f} to {max(v):.4f})" for key, v in columns.items()]
        print(f"{rule}, budget {budget}: {', '.join(texts)}", flush=True)


if __name__ == "__main__":
    main()
