# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What SFT, DPO and GRPO do to models that think: accuracy, reward, streams and steps before and after each stage.

    python benchmarks/post_training.py run --seeds 0 1 2      # train missing runs by examples/post_train.py
    python benchmarks/post_training.py table                  # print the table

Arms:

- `forks`: Thoughtbubbles with the threshold rule and a budget of 1.5 streams per token; SFT, DPO, GRPO.
- `drawn steps`: a text Thinker whose number of steps is drawn from 2 to 6 in all three stages.
- `fixed steps`: DPO and GRPO with 4 steps, from the SFT checkpoint of `drawn steps`.
- `drawn steps, LoRA` and `fixed steps, LoRA`: GRPO of LoRA from the same checkpoint.

Each stage of a finished run is one line of the output file, so the script can be stopped and started again.
"""

import argparse
import datetime
import json
import statistics
import sys
from pathlib import Path

from runs import describe_seeds, read_runs


OUTPUT = Path(__file__).with_suffix(".jsonl")
sys.path.append(str(Path(__file__).parents[1] / "examples"))
LORA = ["--stages", "grpo", "--lora", "--grpo_learning_rate", "5e-3"]
ARMS = {
    "forks": ["--family", "thoughtbubbles", "--sft_steps", "160"],
    "drawn steps": ["--train_values", "2", "6"],
    "fixed steps": ["--train_values", "4", "--stages", "dpo", "grpo"],
    "drawn steps, LoRA": ["--train_values", "2", "6", *LORA],
    "fixed steps, LoRA": ["--train_values", "4", *LORA],
}
TRAINED = ("forks", "drawn steps")  # from nothing


def run_arm(arm: str, seed: int, folder: Path, output: Path):
    """Train one arm and add its lines to the output file."""
    target = folder / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
    start = [] if arm in TRAINED else ["--model", str(folder / f"drawn-steps-{seed}" / "sft")]
    (target / "results.jsonl").unlink(missing_ok=True)
    flags = [*ARMS[arm], *start, "--seed", str(seed), "--use_cpu", "--output_dir", str(target)]
    from post_train import main as post_train

    post_train(flags)
    rows = [{"arm": arm, "date": str(datetime.date.today()), **row} for row in read_runs(target / "results.jsonl")]
    with output.open("a") as file:
        file.writelines(json.dumps({**row, "model": None, "output_dir": None}) + "\n" for row in rows)


def print_table(rows: list[dict]):
    """Mean and standard deviation over seeds, for each arm and stage."""
    print("| arm | after | seeds | accuracy, % | reward | thinking | accuracy by streams or steps, % |")
    print("|---|---|---|---|---|---|---|")
    for arm in ARMS:
        for stage in ("sft", "dpo", "grpo"):
            found = [row for row in rows if (row["arm"], row["stage"]) == (arm, stage)]
            if not found:
                continue
            accuracy = describe_seeds([100 * row["accuracy"] for row in found], 1)
            measured = "streams_per_token" if arm == "forks" else "steps_to_settle"
            thinking = describe_seeds([row[measured] for row in found], 2)
            tested = next(name for name in found[0] if name.startswith("accuracy_at_"))
            by_value = [
                f"{value}: {100 * statistics.mean(row[tested][value] for row in found):.0f}"
                for value in found[0][tested]
            ]
            reward = describe_seeds([row["reward"] for row in found], 2)
            print(f"| {arm} | {stage} | {len(found)} | {accuracy} | {reward} | {thinking} | {', '.join(by_value)} |")


def main():
    """Run missing arms, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/post_training"))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args()
    if asked.action == "table":
        return print_table(read_runs(asked.output))
    for seed in asked.seeds:
        for arm in asked.arms:
            if not any((row["arm"], row["seed"]) == (arm, seed) for row in read_runs(asked.output)):
                run_arm(arm, seed, asked.folder, asked.output)


if __name__ == "__main__":
    main()
