# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Number tasks: exact answers of looped Thinkers by steps and latents, beside other models of their size.

    python benchmarks/number_tasks.py --output benchmarks/number_tasks.jsonl        # train the missing runs
    python benchmarks/number_tasks.py --output benchmarks/number_tasks.jsonl --table # print the tables, draw

All arms of a task and a seed train on the same stream of problems, without the test problems, for the same number of
problems. Weights are frozen for all tests. Each finished run is one line of the output file, so the script can be
stopped, started again, and run in parallel with different `--tasks`, `--arms` or `--seeds`.

Arms: `looped`; `unlooped, parameters` (the same layers applied once); `unlooped, FLOPs` (one step of as many layers as
make the operations equal); `GPT-2, parameters` and `GPT-2, FLOPs` (native, as deep as the looped model has steps, as
wide as makes them equal). GPT-2 reads question and answer as one text and is scored on the answer. Operations are
those of a forward pass over question and answer, counted by torch.
"""

import argparse
import functools
import itertools
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import (
    DataCollatorForSeq2Seq,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Trainer,
    set_seed,
)

from hf_thoughtbubbles import LoopedThinkerConfig, LoopedThinkerForConditionalGeneration
from hf_thoughtbubbles.data.collation import ThinkingCollator
from hf_thoughtbubbles.data.number_tasks import NumberTask, make_task
from hf_thoughtbubbles.data.numbers import load_number_dataset, stream_number_dataset
from hf_thoughtbubbles.evaluation.answers import score_answers
from hf_thoughtbubbles.evaluation.flops import measure_flops
from hf_thoughtbubbles.plots.steps import plot_accuracy_grid
from hf_thoughtbubbles.tokenization.number_tokenizer import build_number_tokenizer
from hf_thoughtbubbles.training.curriculum import Curriculum, CurriculumCallback, TimeBudgetCallback
from runs import describe_seeds, do_missing, make_arguments, read_runs


SMALL = {"hidden_size": 64, "intermediate_size": 128}
MEDIUM = {"hidden_size": 128, "intermediate_size": 256}
PLANS = {
    "addition": {
        "task": ("arithmetic", {"max_number": 1000, "input_bases": 16, "output_bases": 16}),
        "training": {"even_lengths": True},  # of numbers below 1000, one in 60 has a single digit
        "model": {**MEDIUM, "num_latents": 4, "num_steps": 4, "num_kept_outputs": 2},
        "steps": 6000,
        "tests": {"steps": (1, 2, 3, 4, 6, 8, 16)},
    },
    "copy": {
        "task": ("progressive_copy", {"length": 40}),
        "model": {**SMALL, "num_latents": 4, "num_steps": 2},
        "curriculum": {"start": 1, "limit": 40},
        "steps": 9000,
        "tests": {"steps": (1, 2, 4, 8)},
    },
    "cumulative_sum": {
        "task": ("cumulative_sum", {"length": (1, 8)}),
        # The answer is read from latents alone: the input is in the memory for two steps.
        "model": {**SMALL, "num_latents": 8, "num_steps": 8, "num_read_steps": 2, "num_kept_outputs": 2},
        "thinking": {"num_steps": (4, 12), "num_latents": (4, 16)},
        "steps": 3000,
        "tests": {
            "steps": (1, 2, 4, 8, 12, 16, 24),
            "latents": (1, 2, 4, 8, 16, 24),
            "tasks": {"8 digits": {"length": 8}, "9 digits": {"length": 9}, "12 digits": {"length": 12}},
        },
        "max_answer_length": 13,
        "num_tests": 500,
    },
    "multiplication": {
        "task": ("arithmetic", {"operators": "*", "max_number": 100}),
        "model": {**MEDIUM, "num_latents": 6, "num_steps": 6, "num_read_steps": 2, "num_kept_outputs": 2},
        "thinking": {"num_steps": (3, 8)},
        "steps": 3000,
        "num_tests": 500,  # about half of all
        "tests": {"steps": (1, 2, 3, 4, 6, 8, 12, 16, 24)},
    },
    "factorisation": {
        "task": ("factorisation", {"max_prime": 50, "num_factors": (2, 4)}),
        "model": {**MEDIUM, "num_latents": 6, "num_steps": 6, "num_read_steps": 2, "num_kept_outputs": 2},
        "thinking": {"num_steps": (3, 8)},
        "steps": 2000,
        "num_tests": 300,  # nearly all that exist
        "tests": {"steps": (1, 2, 3, 4, 6, 8, 12, 16, 24)},
    },
}
ARMS = ("looped", "unlooped, parameters", "unlooped, FLOPs", "GPT-2, parameters", "GPT-2, FLOPs")
NUM_HEADS = 4
NUM_TESTS = 1000  # unless a plan has its own number
TEST_SEED = 1  # of the test problems, the same for all runs


def build_thinker(plan: dict, task: NumberTask, **changes) -> LoopedThinkerForConditionalGeneration:
    """The looped model of a plan, or a variant of it."""
    sizes = {
        "num_attention_heads": NUM_HEADS,
        "max_latents": 32,
        "max_answer_length": plan.get("max_answer_length", task.longest_answer),
        "pad_token_id": 20,
        "eos_token_id": 20,
    }
    return LoopedThinkerForConditionalGeneration(LoopedThinkerConfig(**{**sizes, **plan["model"], **changes}))


def build_gpt2(plan: dict, task: NumberTask, width: int) -> GPT2LMHeadModel:
    """A native GPT-2 with as many layers as the looped model has steps."""
    longest_answer = plan.get("max_answer_length", task.longest_answer)
    config = GPT2Config(
        vocab_size=31,
        n_embd=width,
        n_layer=plan["model"]["num_steps"],
        n_head=NUM_HEADS,
        n_positions=2 * max(task.longest_question, longest_answer),
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=20,
        pad_token_id=20,
    )
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # transformers derives it from the class name and warns for GPT-2
    return model


def join_answer(row: dict) -> dict:
    """Question and answer as one text, of which the answer is scored."""
    question, answer = row["input_ids"], row["labels"]
    return {"input_ids": question + answer, "labels": [-100] * len(question) + answer}


def count_flops(model: PreTrainedModel, batch: dict) -> float:
    """Operations of a forward pass, per problem."""
    return measure_flops(model, **batch, use_cache=False) / len(batch["input_ids"])


def build(arm: str, plan: dict, task: NumberTask, batches: dict) -> PreTrainedModel:
    """The model of an arm; `batches` has the same problems for thinkers and for GPT-2."""
    looped = build_thinker(plan, task)
    if arm == "looped":
        return looped
    if arm == "unlooped, parameters":
        return build_thinker(plan, task, num_steps=1)
    parameters, flops = looped.num_parameters(), count_flops(looped, batches["thinker"])
    if arm == "unlooped, FLOPs":
        depths = range(1, 2 * plan["model"]["num_steps"])
        models = [build_thinker(plan, task, num_steps=1, num_hidden_layers=depth) for depth in depths]
        return min(models, key=lambda model: abs(count_flops(model, batches["thinker"]) - flops))
    models = [build_gpt2(plan, task, width) for width in range(16, 257, 8)]
    if arm == "GPT-2, parameters":
        return min(models, key=lambda model: abs(model.num_parameters() - parameters))
    return min(models, key=lambda model: abs(count_flops(model, batches["gpt2"]) - flops))


def train(model: PreTrainedModel, plan: dict, task: NumberTask, seed: int, args) -> dict[str, float]:
    """Train with the Trainer; return seconds, steps and the curriculum's last difficulty."""
    tokenizer, callbacks, curriculum = build_number_tokenizer(), [TimeBudgetCallback(args.max_minutes)], None
    if "curriculum" in plan:
        curriculum = Curriculum(**plan["curriculum"])
        callbacks.append(CurriculumCallback(curriculum))
    trained = replace(task, **plan.get("training", {}))
    stream = stream_number_dataset(trained, seed=seed, curriculum=curriculum)
    if model.config.is_encoder_decoder:
        thinking = plan.get("thinking", {}) if model.config.num_steps > 1 else {}
        collator = ThinkingCollator(tokenizer, **thinking, seed=seed)
    else:
        stream = stream.map(join_answer)
        collator = DataCollatorForSeq2Seq(tokenizer)
        tokenizer.padding_side = "right"
    num_steps = args.steps or plan["steps"]
    schedule, schedule_options = "cosine_with_min_lr", {"min_lr_rate": 0.02}
    if curriculum:  # the last difficulties are learned at the full rate
        schedule, schedule_options = "warmup_stable_decay", {"num_decay_steps": num_steps // 3, "min_lr_ratio": 0.02}
    arguments = make_arguments(
        args.output,
        max_steps=num_steps,
        per_device_train_batch_size=args.batch,
        learning_rate=args.learning_rate,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=schedule_options,
        warmup_steps=100,
        max_grad_norm=1.0,
        adam_beta2=0.98,
        weight_decay=0.01,
        logging_steps=500,
        use_cpu=args.device == "cpu",
        seed=seed,
        accelerator_config={"dispatch_batches": False},
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=stream, data_collator=collator, callbacks=callbacks)
    start = time.perf_counter()
    trainer.train()
    result = {"seconds": round(time.perf_counter() - start, 1), "steps": trainer.state.global_step}
    return {**result, "difficulty": curriculum.difficulty} if curriculum else result


def test(model: PreTrainedModel, plan: dict, task_name: str, options: dict) -> dict:
    """Exact answers of the frozen model, by task, latents and steps."""
    tokenizer, tests = build_number_tokenizer(), plan["tests"]
    is_looped = model.config.is_encoder_decoder and model.config.num_steps > 1
    results = {}
    for name, changes in tests.get("tasks", {"": {}}).items():
        num_tests = plan.get("num_tests", NUM_TESTS)
        problems = load_number_dataset(task_name, num_tests, "test", TEST_SEED, **{**options, **changes})
        usual = score_answers(model, problems, tokenizer)
        results[name] = {"usual": usual, "grid": {}}
        for latents in tests.get("latents", (None,)) if is_looped else ():
            for steps in tests["steps"]:
                thinking = {"num_steps": steps, **({} if latents is None else {"num_latents": latents})}
                scores = score_answers(model, problems, tokenizer, **thinking)
                results[name]["grid"][f"{steps} {latents or model.config.num_latents}"] = scores["exact_match"]
    return results


def run(task: str, arm: str, seed: int, args) -> dict:
    """Train and test one arm of one task with one seed."""
    plan = PLANS[task]
    task_name, options = plan["task"]
    number_task, tokenizer = make_task(task_name, **options), build_number_tokenizer()
    rows = list(load_number_dataset(number_task, 64, "test", TEST_SEED).select_columns(["input_ids", "labels"]))
    batches = {
        "thinker": ThinkingCollator(tokenizer)(rows),
        "gpt2": DataCollatorForSeq2Seq(tokenizer)([join_answer(row) for row in rows]),
    }
    set_seed(seed)
    model = build(arm, plan, number_task, batches)
    flops = count_flops(model, batches["thinker" if model.config.is_encoder_decoder else "gpt2"])
    result = {"parameters": model.num_parameters(), "flops": round(flops)}
    set_seed(seed)
    result |= train(model, plan, number_task, seed, args)
    return {**result, "results": test(model, plan, task_name, options)}


def describe(shares: list[float]) -> str:
    """Mean and standard deviation of shares, in percent."""
    return describe_seeds([100 * share for share in shares], 2)


def print_tables(output: Path):
    """Print for each task a table of arms and one of exact answers by steps; draw grids over latents."""
    runs = read_runs(output)
    for name in PLANS:
        mine = [run for run in runs if run["task"] == name]
        if not mine:
            continue
        tests = list(mine[0]["results"])
        print(f"\n### {name}\n\n| arm | parameters | FLOPs a problem | seeds | minutes |", end="")
        print(" | ".join(f" exact, % {test}" for test in tests), "|\n|" + "---|" * (5 + len(tests)))
        for arm in ARMS:
            found = [run for run in mine if run["arm"] == arm]
            if found:
                minutes = max(run["seconds"] for run in found) / 60
                seeds = ", ".join(str(run["seed"]) for run in sorted(found, key=lambda run: run["seed"]))
                cells = [describe([run["results"][t]["usual"]["exact_match"] for run in found]) for t in tests]
                flops = f"{found[0]['flops'] / 1e6:.2f} M"
                print(f"| {arm} | {found[0]['parameters']:,} | {flops} | {seeds} | {minutes:.1f} |", end=" ")
                print(" | ".join(cells), "|")
        looped = [run for run in mine if run["arm"] == "looped"]
        if looped:
            for test in tests:
                print_grid(name, test, looped, output)


def print_grid(name: str, test: str, runs: list[dict], output: Path):
    """Print exact answers by steps and latents, averaged over seeds; draw them for several latents."""
    cells = [tuple(map(int, cell.split())) for cell in runs[0]["results"][test]["grid"]]
    steps, latents = sorted({step for step, _ in cells}), sorted({latent for _, latent in cells})
    print(f"\n{name} {test}, % exact by steps".replace(" ,", ","))
    print("\n| latents | " + " | ".join(map(str, steps)) + " |\n|" + "---|" * (1 + len(steps)))
    grid = np.zeros((len(latents), len(steps)))
    for (i, latent), (j, step) in itertools.product(enumerate(latents), enumerate(steps)):
        values = [run["results"][test]["grid"][f"{step} {latent}"] for run in runs]
        grid[i, j] = statistics.mean(values)
    for latent, row in zip(latents, grid, strict=True):
        print(f"| {latent} | " + " | ".join(f"{100 * value:.1f}" for value in row) + " |")
    if len(latents) > 1:
        thinking = PLANS[name]["thinking"]
        trained = {"trained_steps": thinking["num_steps"], "trained_latents": thinking["num_latents"]}
        figure = plot_accuracy_grid(grid, steps, latents, **trained, title=f"{name}, {test}: exact answers")
        figure.savefig(output.parent / f"{name} {test}.png".replace(" ", "_"), dpi=120)


def main():
    """Train the runs that the output file lacks, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="optimizer steps (default: those of the task)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--max_minutes", type=float, default=15)
    parser.add_argument("--threads", type=int, default=1, help="two runs side by side are faster than two threads")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true", help="print the tables, without training")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.table:
        every = itertools.product(args.tasks, args.arms, args.seeds)
        wanted = ({"task": task, "arm": arm, "seed": seed} for task, arm, seed in every)
        do_missing(args.output, wanted, functools.partial(run, args=args))
    print_tables(args.output)


if __name__ == "__main__":
    main()
