# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What a trained Llama gains from forks, loops or more layers, at equal further training operations.

    python benchmarks/think_native.py base --task text                     # train the native Llama to a plateau
    python benchmarks/think_native.py arms --task text                     # train missing runs from it
    python benchmarks/think_native.py table                                # print the tables
    python benchmarks/think_native.py draw                                 # draw the figures of the page of results

Two tasks, each with its own native `LlamaForCausalLM`: `text`, bytes of the Python standard library, in bits per byte
of held-out files; `cups`, where a ball is under five cups after each of `n` permutations, in accuracy of the state
after the last one. All arms of a task start from the same weights and get the same number of training operations, as
torch counts them: three times those of the forward passes. A seed changes the order of the data and new weights.

- `plain`: the native model, trained further.
- `forked`: `fork_native` with anchored scores; the budget rises from 1 during the first half of training.
- `looped`: `loop_native` over the middle layers; the steps rise from 1 during the first half.
- `duplicated`: a native Llama with as many layers as the looped model applies, the middle ones copied, untied.
- `added`: the same, but the output projections of the copies start at zero, so that the model starts unchanged.

Each finished run is one line of the output file, so the script can be stopped and started again.
"""

import argparse
import copy
import datetime
import functools
import itertools
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel, set_seed

from hf_thoughtbubbles import build_byte_tokenizer, calibrate_forks
from hf_thoughtbubbles.data.text import load_text, pack_blocks
from hf_thoughtbubbles.evaluation.flops import BACKWARD_SHARE, count_call
from hf_thoughtbubbles.evaluation.scoring import score_dataset
from runs import describe_seeds, do_missing, read_runs


OUTPUT = Path(__file__).with_suffix(".jsonl")
FIGURES = Path(__file__).parents[1] / "docs" / "results" / "figures"
TASKS = ("text", "cups")
SIZES = {
    "text": {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 6},
    "cups": {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 6},
}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
FORK_LAYERS, LOOP_LAYERS = [2, 4], (2, 3)
BUDGETS, STEPS = (1.0, 1.25, 1.5, 1.75, 2.0), (1, 2, 3, 4, 6, 8)  # read after training
ARMS = {
    "plain": {},
    "forked": {"most": 1.5},
    "forked, budget 2": {"most": 2.0},
    "forked, adapter": {"most": 1.5, "fork_adapter_rank": 16},
    "looped": {"most": 4},
    "duplicated": {"copies": 4},
    "added": {"copies": 4, "is_silent": True},
}
NUM_POINTS = 6  # of the curve over training operations
RAMP_SHARE = 0.5  # of the training operations, during which budgets and steps rise
CUPS, PERMUTATIONS = 5, 4
TRAINED_LENGTH, TESTED_LENGTHS = 16, (4, 8, 12, 16, 24, 32)


class Text:
    """Blocks of the standard library: those that the base reads first, others for further training."""

    block_size, batch_size, num_scored, num_final = 128, 16, 96, 256  # scored blocks

    def __init__(self, num_base_steps: int):
        self.tokenizer = build_byte_tokenizer()
        splits = {name: pack_blocks(rows, self.tokenizer, self.block_size) for name, rows in load_text().items()}
        self.validation = splits["validation"].shuffle(seed=0)
        blocks = splits["train"].with_format("torch")["input_ids"][:]
        order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(0))
        num_base = min(num_base_steps * self.batch_size, len(blocks) * 2 // 3)
        self.parts = {"base": blocks[order[:num_base]], "arms": blocks[order[num_base:]]}
        self.vocab_size = len(self.tokenizer)

    def draw_batches(self, part: str, seed: int):
        """Endless batches: arguments of `forward`."""
        blocks, generator = self.parts[part], torch.Generator().manual_seed(seed)
        while True:
            for rows in torch.randperm(len(blocks), generator=generator).split(self.batch_size):
                if len(rows) == self.batch_size:
                    yield {"input_ids": blocks[rows], "labels": blocks[rows]}

    def get_calibration_rows(self) -> torch.Tensor:
        """Rows of training text on which thresholds of budgets are measured."""
        return self.parts["arms"][:64]

    def score(self, model: PreTrainedModel, num_rows: int = num_scored, **compute) -> dict[str, float]:
        """Bits per byte."""
        scored = score_dataset(model.eval(), self.validation, self.tokenizer, "blockwise", 32, num_rows, **compute)
        return {"bits": scored["bits_per_byte"]}


class Cups:
    """
    A ball under one of five cups, then permutations of the cups; the label of each token is the ball's cup after it.
    The last token of a row only carries the last label, because a causal model predicts the next one.
    """

    batch_size, vocab_size, num_scored, num_final = 64, CUPS + PERMUTATIONS + 1, 256, 1024

    def __init__(self, num_base_steps: int):
        generator = torch.Generator().manual_seed(1)
        self.moves = torch.stack([torch.randperm(CUPS, generator=generator) for _ in range(PERMUTATIONS)])

    def make_problems(self, num_rows: int, length: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """`input_ids` and `labels` `(num_rows, length + 2)`."""
        cup = torch.randint(CUPS, (num_rows,), generator=generator)
        moves = torch.randint(PERMUTATIONS, (num_rows, length), generator=generator)
        cups = [cup]
        for move in moves.T:
            cups.append(self.moves[move, cups[-1]])
        input_ids = torch.full((num_rows, length + 2), self.vocab_size - 1)
        input_ids[:, 0], input_ids[:, 1:-1] = cup, moves + CUPS
        labels = torch.full_like(input_ids, -100)
        labels[:, 1:] = torch.stack(cups, dim=1)
        return {"input_ids": input_ids, "labels": labels}

    def draw_batches(self, part: str, seed: int):
        """Endless batches: arguments of `forward`."""
        generator = torch.Generator().manual_seed(1000 + seed + 500 * (part == "base"))
        while True:
            yield self.make_problems(self.batch_size, TRAINED_LENGTH, generator)

    def get_calibration_rows(self) -> torch.Tensor:
        """Problems on which thresholds of budgets are measured."""
        return self.make_problems(256, TRAINED_LENGTH, torch.Generator().manual_seed(3))["input_ids"]

    @torch.no_grad()
    def score(self, model: PreTrainedModel, num_rows: int = num_scored, **compute) -> dict[str, float]:
        """Accuracy of the last state by the number of permutations."""
        scores = {}
        for length in TESTED_LENGTHS:
            problems = self.make_problems(num_rows, length, torch.Generator().manual_seed(length))
            logits = model.eval()(input_ids=problems["input_ids"], use_cache=False, **compute).logits[:, -2, :CUPS]
            scores[str(length)] = (logits.argmax(-1) == problems["labels"][:, -1]).float().mean().item()
        return scores


DATA = {"text": Text, "cups": Cups}


def duplicate_layers(native: LlamaForCausalLM, copies: int, is_silent: bool = False) -> LlamaForCausalLM:
    """The native model with its middle layers `copies` times, untied; silent copies add nothing at the start."""
    first, last = LOOP_LAYERS
    depth = native.config.num_hidden_layers
    sources = [*range(last + 1), *list(range(first, last + 1)) * (copies - 1), *range(last + 1, depth)]
    config = copy.deepcopy(native.config)
    config.num_hidden_layers = len(sources)
    model = LlamaForCausalLM(config)
    model.model.embed_tokens.load_state_dict(native.model.embed_tokens.state_dict())
    model.model.norm.load_state_dict(native.model.norm.state_dict())
    model.lm_head.load_state_dict(native.lm_head.state_dict())
    for i, (layer, source) in enumerate(zip(model.model.layers, sources, strict=True)):
        layer.load_state_dict(native.model.layers[source].state_dict())
        if is_silent and last < i <= last + (copies - 1) * (last - first + 1):
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
            torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def build(arm: str, base: Path) -> PreTrainedModel:
    """The model of an arm, from the base."""
    options = {name: value for name, value in ARMS[arm].items() if name != "most"}
    if arm.startswith("forked"):
        from hf_thoughtbubbles import fork_native

        return fork_native(base, fork_layers=FORK_LAYERS, fork_budget=1.0, fork_rule="threshold", **options)
    if arm == "looped":
        from hf_thoughtbubbles import loop_native

        return loop_native(base, loop_layers=LOOP_LAYERS, num_steps=1)
    native = AutoModelForCausalLM.from_pretrained(base)
    return duplicate_layers(native, **options) if options else native


def set_compute(model: PreTrainedModel, arm: str, share: float) -> float:
    """Set the budget or the steps of the curriculum at a share of training; returns it."""
    most, progress = ARMS[arm].get("most", 1), min(1.0, share / RAMP_SHARE)
    if arm.startswith("forked"):
        model.config.fork_budget = 1 + math.floor(progress * (most - 1) * 8) / 8
        return model.config.fork_budget
    if arm == "looped":
        model.config.num_steps = min(most, 1 + math.floor(progress * (most - 1) + 1e-6))
        return model.config.num_steps
    return 1


def count_training(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> int:
    """Operations of a training step, as torch counts them on a copy with eager attention."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    return (1 + BACKWARD_SHARE) * count_call(twin.train(), input_ids=batch["input_ids"], use_cache=False)[0]


def step_optimizer(model, optimizer, batch, learning_rate: float) -> float:
    """One step; returns the loss."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def build_optimizer(model: PreTrainedModel) -> torch.optim.AdamW:
    """AdamW, with weight decay on matrices only."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95))


def train_base(args: argparse.Namespace):
    """Train the native Llama of a task, and save it with its curve."""
    data = DATA[args.task](args.base_steps)
    set_seed(0)
    sizes = {**SIZES[args.task], **HEADS, "vocab_size": data.vocab_size, "max_position_embeddings": 256}
    ids = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **ids)).train()
    optimizer, batches = build_optimizer(model), data.draw_batches("base", 0)
    curve, losses, start = [], [], time.perf_counter()
    for step in range(args.base_steps):
        # Constant, then falling to zero over the last fifth.
        share = (step + 1) / args.base_steps
        rate = args.base_rate * min(1.0, (step + 1) / 100, (1 - share) * 5 + 1 / args.base_steps)
        losses.append(step_optimizer(model, optimizer, next(batches), rate))
        if (step + 1) % (args.base_steps // 20) == 0:
            scores = data.score(model)
            curve.append({"step": step + 1, "loss": statistics.mean(losses), **scores})
            losses = []
            model.train()
            print(json.dumps({**curve[-1], "seconds": round(time.perf_counter() - start)}), flush=True)
    model.save_pretrained(args.bases / args.task)
    report = {
        "task": args.task,
        "arm": "base",
        "seed": 0,
        "date": str(datetime.date.today()),
        "command": " ".join(["python", *sys.argv]),
        "parameters": model.num_parameters(),
        "base_steps": args.base_steps,
        "flops": args.base_steps * count_training(model, next(batches)),
        "curve": curve,
        "final": data.score(model, data.num_final),
    }
    with args.output.open("a") as file:
        file.write(json.dumps(report) + "\n")


def read_by_compute(model: PreTrainedModel, arm: str, data) -> dict[str, dict[str, float]]:
    """Scores at each budget or number of steps at test time."""
    if arm.startswith("forked"):
        model.config.fork_budget = ARMS[arm]["most"]
        calibrate_forks(model.eval(), [{"input_ids": data.get_calibration_rows()}], budgets=BUDGETS)
        return {str(budget): data.score(model, fork_budget=budget) for budget in BUDGETS}
    return {str(steps): data.score(model, num_steps=steps) for steps in STEPS} if arm == "looped" else {}


def run(task: str, further_steps: int, arm: str, seed: int, args: argparse.Namespace, data) -> dict:
    """Train one arm further with one seed."""
    base = args.bases / task
    batches = data.draw_batches("arms", seed)
    native_cost = count_training(AutoModelForCausalLM.from_pretrained(base), next(batches))
    total = further_steps * native_cost
    set_seed(seed)
    model = build(arm, base)
    optimizer, costs, spent, num_steps = build_optimizer(model), {}, 0, 0
    curve, start = [{"flops": 0, **data.score(model)}], time.perf_counter()
    model.train()
    while spent < total:
        batch, share = next(batches), spent / total
        compute = set_compute(model, arm, share)
        if compute not in costs:
            costs[compute] = count_training(model, batch)
        step_optimizer(model, optimizer, batch, args.rate * min(1.0, (share + 0.002) / 0.05, 1.002 - share))
        spent, num_steps = spent + costs[compute], num_steps + 1
        if spent >= total * len(curve) / NUM_POINTS:
            curve.append({"flops": spent, "compute": compute, **data.score(model)})
            model.train()
    seconds = round(time.perf_counter() - start, 1)
    report = {"parameters": model.num_parameters(), "seconds": seconds, "steps": num_steps, "flops": spent}
    report |= {"rate": args.rate, "date": str(datetime.date.today())}
    report |= {"final": data.score(model, data.num_final), "curve": curve}
    report |= {"costs": {str(compute): cost for compute, cost in costs.items()}}
    report["by_compute"] = read_by_compute(model, arm, data)
    report["command"] = " ".join(["python", *sys.argv])
    return report


def get_score(task: str, scores: dict[str, float], length: int = TRAINED_LENGTH) -> float:
    """The number that a table shows: bits per byte, or the accuracy in percent at a number of permutations."""
    return scores["bits"] if task == "text" else 100 * scores[str(length)]


def find_groups(output: Path) -> dict[tuple[str, int], dict[str, list[dict]]]:
    """The finished runs of each arm, by task and length of further training."""
    runs = sorted((run for run in read_runs(output) if run["arm"] in ARMS), key=lambda run: run["seed"])
    groups: dict[tuple[str, int], dict[str, list[dict]]] = {}
    for task, arm in itertools.product(TASKS, ARMS):
        for run in runs:
            if (run["task"], run["arm"]) == (task, arm):
                groups.setdefault((task, run["further_steps"]), {}).setdefault(arm, []).append(run)
    return groups


def print_rows(title: str, header: list[str], rows: list[list[str]]):
    """A table in Markdown."""
    print(f"\n{title}\n")
    for cells in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(cells) + " |")


def print_tables(output: Path):
    """Scores after training, along it, and by what a model computes at test time."""
    for (task, further_steps), found in find_groups(output).items():
        name, digits = f"{task}, {further_steps} steps of `plain`", 4 if task == "text" else 1
        lengths = [0] if task == "text" else TESTED_LENGTHS

        def describe(scores: list[dict], length: int = TRAINED_LENGTH, task=task, digits=digits) -> str:
            return describe_seeds([get_score(task, row, length) for row in scores], digits)

        def subtract(runs: list[dict], found=found, task=task, digits=digits) -> str:
            native = {run["seed"]: get_score(task, run["final"]) for run in found.get("plain", [])}
            both = [run for run in runs if run["seed"] in native]
            return describe_seeds([get_score(task, r["final"]) - native[r["seed"]] for r in both], digits)

        columns = ["bits per byte"] if task == "text" else [f"{length} permutations" for length in lengths]
        rows = [
            [arm, f"{r[0]['parameters']:,}", str(len(r)), str(r[0]["steps"])]
            + [describe([run["final"] for run in r], length) for length in lengths]
            + [subtract(r)]
            for arm, r in found.items()
        ]
        print_rows(name, ["arm", "parameters", "seeds", "steps", *columns, "less `plain`, seed by seed"], rows)
        points = [point["flops"] for point in next(iter(found.values()))[0]["curve"]]
        rows = [
            [arm, *(describe([run["curve"][i] for run in r]) for i in range(len(points)))] for arm, r in found.items()
        ]
        print_rows(f"{name}: by training operations (10^12)", ["arm", *(f"{p / 1e12:.2f}" for p in points)], rows)
        for kind, numbers in (("forked", BUDGETS), ("looped", STEPS)):
            rows = [
                [arm, *([f"{length}"] if length else []), *(describe(scores, length) for scores in columns)]
                for arm, r in found.items()
                if arm.startswith(kind)
                for columns in [[[run["by_compute"][str(n)] for run in r] for n in numbers]]
                for length in lengths
            ]
            header = ["arm", *(["permutations"] if task == "cups" else []), *map(str, numbers)]
            print_rows(f"{name}: {kind}, by {'budget' if kind == 'forked' else 'steps'} at test time", header, rows)


def draw(output: Path, folder: Path):
    """Scores by training operations, and by budget or steps at test time: means with deviations over seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    for (task, further_steps), found in find_groups(output).items():
        figure = Figure(figsize=(9.6, 3.6))
        figure.set_layout_engine("constrained")
        left, right = figure.subplots(1, 2)
        label = "bits per byte" if task == "text" else f"accuracy after {TRAINED_LENGTH} permutations, %"
        for number, (arm, runs) in enumerate(found.items()):
            curves = [[get_score(task, point) for point in run["curve"]] for run in runs]
            flops = [point["flops"] / 1e12 for point in runs[0]["curve"]]
            add_line(left, flops, curves, arm, f"C{number}")
            numbers = list(runs[0]["by_compute"])
            if numbers:
                curves = [[get_score(task, run["by_compute"][number]) for number in numbers] for run in runs]
                add_line(right, [float(number) for number in numbers], curves, arm, f"C{number}")
        left.set(xlabel="training operations after the base, 10^12", ylabel=label)
        right.set(xlabel="streams per token or steps at test time", ylabel=label)
        for axis in (left, right):
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
        figure.savefig(folder / f"think_native_{task}_{further_steps}.png", dpi=110)


def add_line(axis, places: list[float], curves: list[list[float]], name: str, color: str):
    """One line with bars of one standard deviation."""
    columns = list(zip(*curves, strict=True))
    bars = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in columns]
    means = [statistics.mean(values) for values in columns]
    axis.errorbar(places, means, yerr=bars, fmt="o-", markersize=4, linewidth=1.2, capsize=2, label=name, color=color)


def main():
    """Train the base, train missing arms, print the tables or draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["base", "arms", "table", "draw"])
    parser.add_argument("--task", choices=TASKS, default="text")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--bases", type=Path, default=Path("runs/think_native"), help="the folder of the base models")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="the folder of the pictures")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--base_steps", type=int, default=4000)
    parser.add_argument("--base_rate", type=float, default=2e-3)
    parser.add_argument("--further_steps", type=int, default=400, help="steps of `plain`; others get as many FLOPs")
    parser.add_argument("--rate", type=float, default=5e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.job == "base":
        train_base(args)
    elif args.job == "table":
        print_tables(args.output)
    elif args.job == "draw":
        draw(args.output, args.figures)
    else:
        data = DATA[args.task](args.base_steps)
        kind = {"task": args.task, "further_steps": args.further_steps}
        wanted = ({**kind, "arm": a, "seed": s} for s, a in itertools.product(args.seeds, args.arms))
        do_missing(args.output, wanted, functools.partial(run, args=args, data=data))


if __name__ == "__main__":
    main()
