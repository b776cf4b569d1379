# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Train a looped Thinker to compute with the transformers Trainer, then test it with more steps than in training.

Addition in base 16 of numbers below 1000, in a few minutes on 2 cores:

    python examples/train_thinker_numbers.py --output_dir runs/addition

Copying 40 digits with the curriculum, sums of digits with random steps and latents, products, prime factors:

    python examples/train_thinker_numbers.py --output_dir runs/copy --task progressive_copy --length 40 \
        --curriculum 1 --num_steps 2 --hidden_size 64 --max_steps 9500
    python examples/train_thinker_numbers.py --output_dir runs/sums --task cumulative_sum --length 1 8 \
        --hidden_size 64 --num_latents 8 --num_steps 8 --num_read_steps 2 --random_steps 4 12 --random_latents 4 16 \
        --test_steps 2 4 8 12 16 24 --test_latents 4 8 16 24
    python examples/train_thinker_numbers.py --output_dir runs/product --task arithmetic --operators "*" \
        --max_number 100 --bases 10 --num_steps 6 --random_steps 3 8 --max_steps 3500
    python examples/train_thinker_numbers.py --output_dir runs/factors --task factorisation --max_prime 50 \
        --num_factors 2 3 --bases 10 --num_steps 6 --random_steps 3 8 --test_problems 60

Any flag of Seq2SeqTrainingArguments works. The best checkpoint by exact answers is loaded at the end;
`--resume_from_checkpoint true` continues from the last one, with its curriculum and clock. Training stops after
`--max_minutes`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    HfArgumentParser,
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)

from hf_thoughtbubbles import HubCallback, LoopedThinkerConfig, LoopedThinkerForConditionalGeneration
from hf_thoughtbubbles.data.collation import ThinkingCollator
from hf_thoughtbubbles.data.number_tasks import TASKS, make_task
from hf_thoughtbubbles.data.number_text import describe_task
from hf_thoughtbubbles.data.numbers import load_number_dataset, stream_number_dataset
from hf_thoughtbubbles.evaluation.answers import answer_questions, cut_reply, score_answers
from hf_thoughtbubbles.evaluation.metrics import ExactMatch
from hf_thoughtbubbles.evaluation.traces import trace_steps
from hf_thoughtbubbles.plots.steps import measure_change, plot_accuracy_grid, plot_convergence, plot_step_losses
from hf_thoughtbubbles.tokenization.number_tokenizer import build_number_tokenizer
from hf_thoughtbubbles.training.checkpoints import get_last_complete_checkpoint
from hf_thoughtbubbles.training.curriculum import Curriculum, CurriculumCallback, TimeBudgetCallback


@dataclass
class TaskArguments:
    """The task to learn. Options that are not given have the defaults of the task."""

    task: str = field(default="arithmetic", metadata={"help": "The task.", "choices": list(TASKS)})
    length: list[int] | None = field(default=None, metadata={"help": "Number of digits in a row, or fewest and most."})
    num_symbols: int | None = field(default=None, metadata={"help": "Number of different digits in a row."})
    operators: str | None = field(default=None, metadata={"help": "Operators of a chain: any of +-*/, as one word."})
    num_terms: list[int] | None = field(
        default=None, metadata={"help": "Number of terms in a chain, or fewest and most."}
    )
    min_number: int | None = field(default=None, metadata={"help": "Smallest number in a chain."})
    max_number: int | None = field(default=None, metadata={"help": "Numbers in a chain are smaller than this."})
    bases: list[int] = field(default_factory=lambda: [16], metadata={"help": "Bases of questions and answers."})
    max_prime: int | None = field(default=None, metadata={"help": "Largest prime factor."})
    num_factors: list[int] | None = field(
        default=None, metadata={"help": "Number of prime factors, or fewest and most."}
    )
    curriculum: float | None = field(
        default=None, metadata={"help": "Length of the first rows, in digits; longer ones follow as accuracy rises."}
    )
    window: int = field(
        default=100, metadata={"help": "Number of batches whose mean accuracy may raise the curriculum."}
    )
    test_problems: int = field(default=1000, metadata={"help": "Number of test problems; never in the training data."})
    test_steps: list[int] = field(
        default_factory=lambda: [1, 2, 4, 8, 16], metadata={"help": "Numbers of steps to test with."}
    )
    test_latents: list[int] = field(
        default_factory=list, metadata={"help": "Numbers of latents to test with, if several."}
    )

    def build(self):
        """The task, with the options that were given."""
        names = ("num_symbols", "operators", "min_number", "max_number", "max_prime")
        options = {name: getattr(self, name) for name in names}
        for name in ("length", "num_terms", "num_factors"):
            given = getattr(self, name)
            options[name] = given[0] if given and len(given) == 1 else given and tuple(given)
        options = {name: value for name, value in options.items() if value is not None}
        if self.task in ("arithmetic", "factorisation"):
            options |= {"input_bases": self.bases, "output_bases": self.bases}
        return make_task(self.task, **options)


@dataclass
class ModelArguments:
    """The model to train."""

    hidden_size: int = field(default=128, metadata={"help": "Width of a latent."})
    intermediate_size: int | None = field(
        default=None, metadata={"help": "Width of the feed-forward layer (default: 2 x hidden size)."}
    )
    num_hidden_layers: int = field(default=1, metadata={"help": "Number of layers in the shared block."})
    num_attention_heads: int = field(default=4, metadata={"help": "Number of attention heads."})
    num_latents: int = field(default=4, metadata={"help": "Number of latents."})
    max_latents: int = field(default=32, metadata={"help": "Largest number of latents that a call may use."})
    num_steps: int = field(default=4, metadata={"help": "Number of steps."})
    num_read_steps: int | None = field(
        default=None, metadata={"help": "Number of steps that attend to the question (default: all)."}
    )
    num_kept_outputs: int = field(
        default=2, metadata={"help": "Number of last steps after which the answer is scored."}
    )
    readout: Literal["autoregressive", "parallel"] = field(
        default="autoregressive", metadata={"help": "Read answers out token by token, or in one pass."}
    )
    random_steps: list[int] | None = field(
        default=None, metadata={"help": "Fewest and most steps, drawn for each batch."}
    )
    random_latents: list[int] | None = field(
        default=None, metadata={"help": "Fewest and most latents, drawn for each batch."}
    )
    max_minutes: float = field(default=15.0, metadata={"help": "Limit on the time of training, in minutes."})


@dataclass
class NumberTrainingArguments(Seq2SeqTrainingArguments):
    """Seq2SeqTrainingArguments with defaults for a laptop; any of them can be set."""

    max_steps: int = 3000
    per_device_train_batch_size: int = 64
    per_device_eval_batch_size: int = 250
    learning_rate: float = 1e-3
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 100
    weight_decay: float = 0.01
    adam_beta2: float = 0.98
    max_grad_norm: float = 1.0
    predict_with_generate: bool = True
    eval_strategy: str = "steps"
    eval_steps: float | None = 500
    save_strategy: str = "steps"
    save_steps: float = 500
    save_total_limit: int | None = 1
    load_best_model_at_end: bool | None = True
    metric_for_best_model: str | None = "exact_match"
    logging_steps: float = 100
    report_to: str = "none"
    dataloader_pin_memory: bool = torch.cuda.is_available()
    # Every process reads the stream itself, because accelerate distributes tensors alone, not numbers of steps.
    accelerator_config: dict | str | None = field(default_factory=lambda: {"dispatch_batches": False})


class NumberTrainer(Seq2SeqTrainer):
    """A Trainer that evaluates with the model's own numbers of steps and latents, while training draws others."""

    def get_eval_dataloader(self, eval_dataset=None):
        training_collator = self.data_collator
        self.data_collator = ThinkingCollator(self.processing_class)
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collator


def make_metrics(tokenizer):
    """Return a function for the Trainer: the share of generated answers that are right."""
    metric = ExactMatch(config_name="ids")

    def compute(evaluated) -> dict[str, float]:
        end = tokenizer.eos_token_id
        replies = [cut_reply(reply[1:].tolist(), end) for reply in evaluated.predictions]  # without the start token
        answers = [cut_reply(answer[answer != -100].tolist(), end) for answer in evaluated.label_ids]
        return metric.compute(predictions=replies, references=answers)

    return compute


def draw(model: PreTrainedModel, problems, tokenizer, task: TaskArguments, thinking: dict, folder: Path):
    """Print and draw exact answers by steps and latents, the loss of each step and the change of latents."""
    steps = sorted({*task.test_steps, model.config.num_steps})
    latents = sorted({*task.test_latents, model.config.num_latents})
    grid = np.zeros((len(latents), len(steps)))
    for i, num_latents in enumerate(latents):
        for j, num_steps in enumerate(steps):
            scores = score_answers(model, problems, tokenizer, num_steps=num_steps, num_latents=num_latents)
            grid[i, j] = scores["exact_match"]
            print(f"{num_steps:3} steps, {num_latents:2} latents: {scores['exact_match']:.4f} exact answers")
    trained = {"trained_steps": thinking["num_steps"], "trained_latents": thinking["num_latents"]}
    plot_accuracy_grid(grid, steps, latents, **trained).savefig(folder / "accuracy.png", dpi=120)

    rows = list(problems.select(range(min(250, len(problems)))).select_columns(["input_ids", "labels"]))
    trace = trace_steps(model, **ThinkingCollator(tokenizer)(rows), num_steps=max(steps))
    trained = {"trained_steps": thinking["num_steps"]}
    losses = {"test problems": trace.step_losses.numpy()}
    plot_step_losses(losses, **trained).savefig(folder / "losses.png", dpi=120)
    changes = measure_change(trace.latents.transpose(0, 1).numpy())
    plot_convergence({"latents": changes}, **trained).savefig(folder / "convergence.png", dpi=120)


def main():
    """Parse flags, train, test with more steps."""
    parser = HfArgumentParser((TaskArguments, ModelArguments, NumberTrainingArguments))
    task_args, model_args, args = parser.parse_args_into_dataclasses()
    set_seed(args.seed)
    folder = Path(args.output_dir)

    # Data
    tokenizer, task = build_number_tokenizer(), task_args.build()
    problems = load_number_dataset(task, task_args.test_problems, split="test")
    callbacks, curriculum = [HubCallback(), TimeBudgetCallback(model_args.max_minutes)], None
    if task_args.curriculum is not None:
        curriculum = Curriculum(task_args.curriculum, limit=task.longest_question, window=task_args.window)
        callbacks.append(CurriculumCallback(curriculum))
    stream = stream_number_dataset(task, seed=args.seed, curriculum=curriculum)
    ranges = {"num_steps": model_args.random_steps, "num_latents": model_args.random_latents}
    collator = ThinkingCollator(tokenizer, **{name: r and tuple(r) for name, r in ranges.items()}, seed=args.seed)

    # Model
    config = LoopedThinkerConfig(
        vocab_size=len(tokenizer),
        hidden_size=model_args.hidden_size,
        intermediate_size=model_args.intermediate_size or 2 * model_args.hidden_size,
        num_hidden_layers=model_args.num_hidden_layers,
        num_attention_heads=model_args.num_attention_heads,
        num_latents=model_args.num_latents,
        max_latents=max(model_args.max_latents, model_args.num_latents, *task_args.test_latents, 1),
        num_steps=model_args.num_steps,
        num_read_steps=model_args.num_read_steps,
        num_kept_outputs=model_args.num_kept_outputs,
        readout=model_args.readout,
        max_position_embeddings=max(512, task.longest_question),
        max_answer_length=task.longest_answer,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        number_task=describe_task(task),
    )
    model = LoopedThinkerForConditionalGeneration(config)
    print(f"{task}\n{model.num_parameters():,} parameters", flush=True)

    # Train
    trainer = NumberTrainer(
        model=model,
        args=args,
        train_dataset=stream,
        eval_dataset=problems.select_columns(["input_ids", "labels"]),
        data_collator=collator,
        processing_class=tokenizer,
        compute_metrics=make_metrics(tokenizer),
        callbacks=callbacks,
    )
    resumed = get_last_complete_checkpoint(folder) if args.resume_from_checkpoint else None
    trainer.train(resume_from_checkpoint=resumed)
    trainer.save_model()

    # Share
    if args.push_to_hub:
        model.push_to_hub(trainer.hub_model_id, token=args.hub_token, revision=args.hub_revision)  # completes the card
    if args.process_index == 0:
        model = AutoModelForSeq2SeqLM.from_pretrained(folder).to(model.device)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        asked = problems.select(range(5))
        for question, reply in zip(asked["question"], answer_questions(model, asked, tokenizer), strict=True):
            print(f"{question}  ->  {tokenizer.decode(reply)}")
        thinking = {"num_steps": model_args.random_steps or [model_args.num_steps] * 2}
        thinking["num_latents"] = model_args.random_latents or [model_args.num_latents] * 2
        draw(model, problems, tokenizer, task_args, {name: tuple(r) for name, r in thinking.items()}, folder)
        print(f"saved in {folder}, with accuracy.png, losses.png and convergence.png")


if __name__ == "__main__":
    main()
