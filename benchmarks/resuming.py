# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Interrupt trainings of every family at random moments, resume them, and compare them with uninterrupted ones.

    OMP_NUM_THREADS=1 python benchmarks/resuming.py --runs 100

Every run is a training of a tiny model in a process of its own, interrupted once or twice and resumed from
`get_last_complete_checkpoint`. The model must end equal to that of an uninterrupted run, bit for bit with buffers.
There are three kinds of interruption:

    kill      SIGKILL after a random time, also while the process starts or writes a checkpoint; with dropout
    term      SIGTERM after a random time, with transformers' `enable_jit_checkpoint`
    preempt   the checkpoint of `enable_jit_checkpoint` after a random forward pass, before the step of the optimizer

Dropout is off for the last two: transformers saves the random state after the passes of a step, which a resumed
training makes again. Persistent workers are off with dropout: torch then draws fewer random numbers in later epochs
than a resumed training does. Native models differ in both cases too. Prints one line for every run that differs, then
a table. About 8 minutes on one core.
"""

import argparse
import collections
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, Trainer, TrainingArguments, default_data_collator
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from hf_thoughtbubbles import (
    BytePatchConfig,
    BytePatchForCausalLM,
    GenericTransformerConfig,
    GenericTransformerForCausalLM,
    LoopedThinkerConfig,
    LoopedThinkerForCausalLM,
    LoopedThinkerForConditionalGeneration,
    LoopedThinkerTextConfig,
    NextThoughtConfig,
    NextThoughtForConditionalGeneration,
    ThoughtbubblesConfig,
    ThoughtbubblesForCausalLM,
    build_byte_tokenizer,
)
from hf_thoughtbubbles.data.collation import ThinkingCollator
from hf_thoughtbubbles.data.numbers import load_number_dataset, stream_number_dataset
from hf_thoughtbubbles.tokenization.number_tokenizer import build_number_tokenizer
from hf_thoughtbubbles.training.checkpoints import get_last_complete_checkpoint
from hf_thoughtbubbles.training.curriculum import Curriculum, CurriculumCallback


KINDS = ("kill", "term", "preempt")
NUM_STEPS = 8
PATIENCE_SECONDS = 120  # of one process
SHAPE = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64}
IDS = {"vocab_size": 259, "pad_token_id": 258, "eos_token_id": 257, "bos_token_id": 256}
TEXT = {**SHAPE, **IDS, "num_hidden_layers": 2}


def build_bubbles(dropout: float, fork_rule: str) -> PreTrainedModel:
    """A tiny Thoughtbubbles."""
    changes = {"fork_layers": [1], "fork_budget": 2} if fork_rule == "copy" else {"fork_layers": [0, 1]}
    fields = {"fork_budget": 1.5, "fork_rule": fork_rule, "initializer_range": 0.3, **changes}
    return ThoughtbubblesForCausalLM(ThoughtbubblesConfig(**TEXT, **fields, hidden_dropout=dropout))


def build_answering_thinker(dropout: float) -> PreTrainedModel:
    """A tiny Thinker for numbers."""
    fields = {"vocab_size": 31, "num_steps": 2, "num_latents": 2, "pad_token_id": 20, "eos_token_id": 20}
    return LoopedThinkerForConditionalGeneration(LoopedThinkerConfig(**SHAPE, **fields, hidden_dropout=dropout))


def build_byte_patch(dropout: float) -> PreTrainedModel:
    """A tiny model of byte patches."""
    core = {"core_hidden_size": 16, "core_num_hidden_layers": 1, "core_num_attention_heads": 2}
    fields = {"hidden_size": 8, "num_attention_heads": 2, "max_position_embeddings": 64, "hidden_dropout": dropout}
    return BytePatchForCausalLM(BytePatchConfig(**core, **fields))


MODELS = {
    "bubbles-topk": lambda dropout: build_bubbles(dropout, "topk"),
    "bubbles-threshold": lambda dropout: build_bubbles(dropout, "threshold"),
    "bubbles-copy": lambda dropout: build_bubbles(dropout, "copy"),
    "numbers-curriculum": build_answering_thinker,
    "numbers-dataset": build_answering_thinker,
    "thinker-text": lambda dropout: LoopedThinkerForCausalLM(
        LoopedThinkerTextConfig(**TEXT, num_steps=2, hidden_dropout=dropout)
    ),
    "byte-patch": build_byte_patch,
    "generic": lambda dropout: GenericTransformerForCausalLM(GenericTransformerConfig(**TEXT, hidden_dropout=dropout)),
    "next-thought": lambda dropout: NextThoughtForConditionalGeneration(
        NextThoughtConfig(
            **IDS,
            hidden_size=24,
            pooling_sizes=[36],
            removed_shares=[0.5],
            max_position_embeddings=64,
            hidden_dropout=dropout,
        )
    ),
}


def draw_text(num_rows: int, length: int) -> list[list[int]]:
    """Random lower-case letters."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(97, 123, (num_rows, length), generator=generator).tolist()


class RisingCurriculum(Curriculum):
    """Rises after every window, because a model does not learn in 8 steps."""

    def observe(self, mean_accuracy: float, num_batches: int | None = None) -> bool:
        return super().observe(1.0, num_batches)


def prepare_data(name: str) -> dict:
    """Arguments of the Trainer: data, collator, callbacks. Datasets have 24 rows, so that there are several epochs."""
    if name == "numbers-curriculum":
        curriculum = RisingCurriculum(1, 8, window=2)
        stream = stream_number_dataset("copy", length=(1, 8), curriculum=curriculum)
        return {"train_dataset": stream, "callbacks": [CurriculumCallback(curriculum)]}
    if name == "numbers-dataset":
        problems = load_number_dataset("sort", num_examples=24, length=5)
        return {"train_dataset": problems.select_columns(["input_ids", "labels"])}
    ids = draw_text(24, 20)
    labels = draw_text(48, 7)[24:] if name == "next-thought" else ids
    return {"train_dataset": Dataset.from_dict({"input_ids": ids, "labels": labels})}


# Accumulated batches, steps of warmup from 0, workers of the data loader, whether these persist.
SETTINGS = [(1, 3, 0, False), (2, 0, 2, False), (2, 3, 1, True)]


def draw_options(source: random.Random, kind: str) -> tuple:
    """Settings of a training, as pairs; there are few, so that uninterrupted runs can be compared several times."""
    num_batches, num_warmup, num_workers, is_persistent = source.choice(SETTINGS)
    options = {
        "gradient_accumulation_steps": num_batches,
        "warmup_steps": num_warmup,
        "dataloader_num_workers": num_workers,
        "dataloader_persistent_workers": is_persistent and kind != "kill",
        "enable_jit_checkpoint": kind != "kill",
        "save_steps": source.choice([1, 3]),
    }
    return tuple(options.items())


def make_trainer(name: str, folder: Path, options: tuple) -> Trainer:
    """The Trainer of a run, new or resumed."""
    changes = dict(options)
    torch.manual_seed(0)
    model = MODELS[name](0.0 if changes["enable_jit_checkpoint"] else 0.1)
    if name.startswith("numbers"):
        collator = ThinkingCollator(build_number_tokenizer(), num_steps=(1, 3), num_latents=(1, 3))
    elif name == "next-thought":
        collator = DataCollatorForSeq2Seq(build_byte_tokenizer(), model=model)
    else:
        collator = default_data_collator
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=NUM_STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        save_strategy="steps",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        accelerator_config={"dispatch_batches": False},
        **changes,
    )
    return Trainer(model=model, args=args, data_collator=collator, **prepare_data(name))


def train(name: str, folder: Path, options: tuple, request_at: int | None = None):
    """Train or resume in this process, and leave the model in `folder / "end.pt"`; the process then ends."""
    trainer = make_trainer(name, folder, options)
    if dict(options)["enable_jit_checkpoint"]:
        callbacks = trainer.callback_handler.callbacks
        manager = next(each for each in callbacks if isinstance(each, JITCheckpointCallback)).jit_manager
        manager.kill_wait, passes = 0, [0]

        def request(*args):
            passes[0] += 1
            if passes[0] == request_at:
                manager.is_checkpoint_requested = True

        trainer.model.register_forward_hook(request)
    trainer.train(resume_from_checkpoint=get_last_complete_checkpoint(folder))
    if trainer.state.global_step == NUM_STEPS:
        torch.save(trainer.model.state_dict(), folder / "end.part")
        (folder / "end.part").rename(folder / "end.pt")


def run(seconds: float | None, signal_number: int | None, *arguments) -> str | None:
    """Train in a process of its own, which gets a signal after `seconds`; the error, if it raised or hangs."""
    folder = arguments[1]
    child = os.fork()
    if child == 0:
        os.setsid()
        with open(folder.parent / "output.txt", "a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            try:
                train(*arguments)
                code = 0
            except BaseException:
                traceback.print_exc()
                code = 1
            output.flush()
        os._exit(code)
    start, is_sent = time.monotonic(), signal_number is None
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        elapsed = time.monotonic() - start
        if not is_sent and elapsed > seconds:
            is_sent = True
            os.kill(child, signal_number)
        if elapsed > PATIENCE_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "it hangs"
        time.sleep(0.005)
    if os.WIFEXITED(ended[1]) and os.WEXITSTATUS(ended[1]):
        return (folder.parent / "output.txt").read_text()[-600:]
    return None


def compare(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> str | None:
    """Which tensors differ, or `None`."""
    names = [name for name, value in expected.items() if not torch.equal(value, found[name])]
    return f"{len(names)} of {len(expected)} tensors differ: {names[:4]}" if names else None


class Experiment:
    """Runs of one command, with an uninterrupted one for each setting."""

    def __init__(self, folder: Path):
        self.folder, self.ends = folder, {}
        self.num_interrupted = collections.Counter()

    def get_end(self, name: str, options: tuple) -> tuple[dict[str, torch.Tensor], float]:
        """The model of an uninterrupted run and the time that it took, in seconds."""
        # Where and whether checkpoints are written must not matter.
        key = name, tuple((field, value) for field, value in options if field != "save_steps")
        if key not in self.ends:
            place = self.folder / "whole" / "run"
            place.mkdir(parents=True)
            start = time.monotonic()
            if problem := run(None, None, name, place, (*key[1], ("save_steps", 500))):
                raise RuntimeError(f"An uninterrupted training of {name} failed: {problem}")
            self.ends[key] = torch.load(place / "end.pt"), time.monotonic() - start
            shutil.rmtree(place.parent)
        return self.ends[key]

    def interrupt(self, name: str, kind: str, seed: int) -> str | None:
        """One run; what is wrong with it, or `None`."""
        source = random.Random(seed)
        options = draw_options(source, kind)
        expected, seconds = self.get_end(name, options)
        place = self.folder / f"run-{seed}" / "run"
        place.mkdir(parents=True)
        num_passes = NUM_STEPS * dict(options)["gradient_accumulation_steps"]
        for _ in range(source.choice([1, 2])):
            if kind == "preempt":
                problem = run(None, None, name, place, options, source.randint(1, num_passes))
            else:
                number = signal.SIGKILL if kind == "kill" else signal.SIGTERM
                problem = run(source.uniform(0, seconds), number, name, place, options)
            if problem:
                return f"{options}: {problem}"
            self.num_interrupted[kind] += not (place / "end.pt").exists()
        while not (place / "end.pt").exists():
            if problem := run(None, None, name, place, options):
                return f"{options}: {problem}"
        problem = compare(expected, torch.load(place / "end.pt"))
        shutil.rmtree(place.parent)
        return problem and f"{options}: {problem}"


def main():
    """Parse flags, run, print what differs and a table; the exit status is 1 if anything does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="Number of interrupted trainings.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of settings and moments.")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="Models to train.")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    start, counts = time.monotonic(), collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(Path(folder))
        for i in range(flags.runs):
            name, kind = flags.models[i % len(flags.models)], KINDS[(i // len(flags.models)) % len(KINDS)]
            problem = experiment.interrupt(name, kind, flags.seed * 10_000 + i)
            counts[name][kind, problem is None] += 1
            if problem:
                print(f"run {i}, {name}, {kind}: {problem}", flush=True)
    print(f"\n{'equal / runs':20}" + "".join(f"{kind:>10}" for kind in KINDS))
    for name, row in counts.items():
        cells = [f"{row[kind, True]}/{row[kind, True] + row[kind, False]}" for kind in KINDS]
        print(f"{name:20}" + "".join(f"{cell:>10}" for cell in cells))
    num_wrong = sum(row[kind, False] for row in counts.values() for kind in KINDS)
    print(f"{flags.runs - num_wrong} of {flags.runs} runs equal; interruptions before the end: ", end="")
    print(", ".join(f"{experiment.num_interrupted[kind]} {kind}" for kind in KINDS), end="")
    print(f"; {time.monotonic() - start:.0f} seconds")
    sys.exit(num_wrong > 0)


if __name__ == "__main__":
    main()
