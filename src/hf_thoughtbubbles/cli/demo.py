# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""`hf-thoughtbubbles demo`: train a small model on the source of Python, draw where it thinks, let it write."""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from ..configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from ..data.collation import collate_blocks
from ..data.text import load_text, pack_blocks
from ..evaluation.drawings import draw_forks
from ..evaluation.scoring import score_dataset
from ..modeling.thoughtbubbles.modeling_thoughtbubbles import ThoughtbubblesForCausalLM
from ..tokenization.byte_tokenizer import build_byte_tokenizer
from ..training.checkpoints import get_last_complete_checkpoint
from ..training.interruption import InterruptCallback


BLOCK_SIZE = 128
SCORED_BLOCKS = 64
DRAWN_TEXT = "def fold(streams, scores):\n    return sum(score * stream for score, stream in zip(scores, streams))\n"
PROMPT = "def get_"


class ProgressLines(TrainerCallback):
    """Prints a line for each entry of the log: step, loss, speed and the time left."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock; a resumed training has made some steps before."""
        self.start, self.first_step = time.monotonic(), state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Print an entry of training, which has a loss."""
        if "loss" not in logs:
            return
        num_steps, seconds = state.global_step - self.first_step, time.monotonic() - self.start
        speed = num_steps * args.train_batch_size * BLOCK_SIZE / seconds
        left = seconds / num_steps * (state.max_steps - state.global_step)
        print(
            f"step {state.global_step:4}/{state.max_steps}   loss {logs['loss']:.2f} nats per byte   "
            f"{speed:,.0f} bytes/s   {left:.0f} s left",
            flush=True,
        )


def build_parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(
        prog="hf-thoughtbubbles demo",
        description="Train a small Thoughtbubbles on the source of Python's standard library (about 80 seconds on 2 "
        "idle cores), draw where it thinks, and let it write. Interrupted, the same command goes on.",
    )
    parser.add_argument("--output-dir", type=Path, default=Path("runs/demo"), help="folder for everything it writes")
    parser.add_argument("--max-steps", type=int, default=250, help="number of training steps (default: %(default)s)")
    return parser


def train(folder: Path, max_steps: int) -> bool:
    """Train and save; returns whether the training reached its end."""
    set_seed(0)
    tokenizer = build_byte_tokenizer()
    config = ThoughtbubblesConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=BLOCK_SIZE,
        fork_layers=[1, 2],
        fork_budget=1.5,
        fork_rule="threshold",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    print("Reading and packing the source of Python ...", flush=True)
    blocks = pack_blocks(load_text()["train"], tokenizer, BLOCK_SIZE)
    args = TrainingArguments(
        output_dir=str(folder / "training"),
        max_steps=max_steps,
        per_device_train_batch_size=16,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=max_steps // 10,
        weight_decay=0.1,
        adam_beta2=0.95,
        logging_steps=max(1, max_steps // 10),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    interruption = InterruptCallback()
    trainer = Trainer(
        model=ThoughtbubblesForCausalLM(config),
        args=args,
        train_dataset=blocks,
        data_collator=collate_blocks,
        processing_class=tokenizer,
        callbacks=[ProgressLines(), interruption],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=get_last_complete_checkpoint(args.output_dir))
    if interruption.is_interrupted:
        return False
    trainer.save_model(str(folder / "thoughtbubbles"))
    shutil.rmtree(args.output_dir, ignore_errors=True)
    return True


def show(folder: Path):
    """Reload the model, score it, draw where it thinks, let it write, and say what to try next."""
    saved = folder / "thoughtbubbles"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(saved).eval(), AutoTokenizer.from_pretrained(saved)
    blocks = pack_blocks(load_text()["validation"], tokenizer, BLOCK_SIZE)
    score = score_dataset(model, blocks.shuffle(seed=0), tokenizer, batch_size=16, max_blocks=SCORED_BLOCKS)
    picture = folder / "forks.png"
    draw_forks(model, tokenizer, DRAWN_TEXT).savefig(picture, dpi=120)
    set_seed(0)
    inputs = tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)
    text = tokenizer.decode(model.generate(**inputs, max_new_tokens=80, do_sample=True, temperature=0.6)[0])
    print(f"\n{score['bits_per_byte']:.2f} bits per byte of text that it was not trained on. It writes:\n\n{text}\n")
    print(f"Where it thinks:  {picture}")
    print(f"The model:        {saved} (load it with AutoModelForCausalLM.from_pretrained)")
    print(f"Try next:         python examples/generate_text.py {saved} --prompt 'import ' --fork_budget 1.5")


def main(arguments: Sequence[str] | None = None):
    """Train, or continue an interrupted training, and show the result."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.max_steps < 1:
        parser.error(f"--max-steps is {args.max_steps}; it must be at least 1")
    if not train(args.output_dir, args.max_steps):
        print(f"\nInterrupted. The same command goes on from the checkpoint in {args.output_dir / 'training'}.")
        raise SystemExit(130)
    show(args.output_dir)
