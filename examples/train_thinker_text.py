# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Train a looped Thinker on text with the transformers Trainer: one layer, applied again and again.

On the source of the standard library, byte by byte, on a laptop (about 4 minutes on 2 cores):

    python examples/train_thinker_text.py --output_dir runs/thinker --baseline gpt2

The number of steps is drawn for every batch, between the two of `--random_steps`, so that the model works with fewer
or more steps than in training; `--test_steps` are those of the test. `--baseline unlooped` trains the same model with
one step and a layer of its own for every step of the looped one: as deep, with many times the parameters.

    python examples/train_thinker_text.py --output_dir runs/longer --random_steps 2 8 --test_steps 4 8 16 32 64 \
        --num_memory_steps 4 --baseline gpt2 unlooped

Data, tokenizers, several processes and flags of TrainingArguments: as in `train_thoughtbubbles_text.py`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from train_thoughtbubbles_text import (
    DataArguments,
    TextTrainingArguments,
    check_flags,
    check_reload,
    load_blocks,
    report,
    train,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser, set_seed

from hf_thoughtbubbles import LoopedThinkerForCausalLM, LoopedThinkerTextConfig, build_byte_tokenizer
from hf_thoughtbubbles.data.collation import ThinkingCollator, collate_blocks
from hf_thoughtbubbles.evaluation.baselines import matched_baseline
from hf_thoughtbubbles.evaluation.scoring import score_dataset
from hf_thoughtbubbles.evaluation.traces import trace_steps
from hf_thoughtbubbles.plots.steps import measure_change, plot_convergence, plot_step_losses


DRAWN_BLOCKS = 16  # of validation, in the figures


@dataclass
class ModelArguments:
    """The model to train."""

    hidden_size: int = field(default=128, metadata={"help": "Width of a latent."})
    num_hidden_layers: int = field(
        default=1, metadata={"help": "Number of layers in the block that every step applies."}
    )
    num_attention_heads: int = field(default=4, metadata={"help": "Number of attention heads."})
    num_memory_steps: int | None = field(
        default=None, metadata={"help": "Number of past steps in the memory (default: all)."}
    )
    random_steps: list[int] = field(
        default_factory=lambda: [2, 8],
        metadata={
            "help": "Number of steps of a batch: one number, or fewest and most. The last is the model's `num_steps`."
        },
    )
    test_steps: list[int] | None = field(
        default=None,
        metadata={"help": "Numbers of steps to score with (default: 1, 2 and 4 times the model's `num_steps`)."},
    )
    model: str | None = field(
        default=None, metadata={"help": "Checkpoint (folder or Hub name) to continue; it sets the sizes."}
    )
    baseline: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Baselines to train: gpt2 (native, equal parameters), unlooped (a layer for each step), or both.",
            "choices": ["gpt2", "unlooped"],
        },
    )


def build_baseline(name: str, model: LoopedThinkerForCausalLM):
    """`gpt2`, with as many layers and parameters, or `unlooped`, with as many layers as the model applies."""
    if name == "gpt2":
        return matched_baseline(model)
    depth = {"num_hidden_layers": model.config.num_unrolled_layers, "num_steps": 1}
    return LoopedThinkerForCausalLM(LoopedThinkerTextConfig(**{**model.config.to_dict(), **depth}))


def measure_steps(model: LoopedThinkerForCausalLM, blocks, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Loss after each step `(R,)`, and relative change of the latents from the second on `(R - 1,)`."""
    traces = [trace_steps(model, torch.tensor([row["input_ids"]]), num_steps=num_steps) for row in blocks]
    changes = [measure_change(trace.latents[0].numpy()) for trace in traces]
    return np.mean([trace.step_losses.numpy() for trace in traces], axis=0), np.mean(changes, axis=0)


def draw_steps(model: LoopedThinkerForCausalLM, blocks, num_steps: int, trained: tuple[int, int], folder: Path):
    """Save a figure of the loss after each step, and one of the relative change of the latents."""
    losses, changes = measure_steps(model, blocks, num_steps)
    plot_step_losses({"looped": losses}, trained).savefig(folder / "step_losses.png", dpi=150)
    plot_convergence({"looped": changes}, trained).savefig(folder / "convergence.png", dpi=150)
    print(f"{'figures':16} {folder / 'step_losses.png'} and {folder / 'convergence.png'}")


def main():
    """Parse flags, train, compare."""
    parser = HfArgumentParser((ModelArguments, DataArguments, TextTrainingArguments))
    model_args, data_args, args = parser.parse_args_into_dataclasses()
    check_flags(parser, data_args, args)
    random_steps = model_args.random_steps
    if len(random_steps) > 2 or not 1 <= random_steps[0] <= random_steps[-1]:
        parser.error(
            f"--random_steps is {random_steps}; pass one positive number, or the fewest and the most in order"
        )
    if model_args.test_steps and min(model_args.test_steps) < 1:
        parser.error(f"--test_steps is {model_args.test_steps}; pass numbers of at least 1")
    if data_args.streaming:  # accelerate distributes tensors alone, and numbers of steps are none
        args.accelerator_config.dispatch_batches = False
    set_seed(args.seed)

    # Data
    tokenizer_source = data_args.tokenizer or model_args.model
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_source) if tokenizer_source else build_byte_tokenizer()
    splits = load_blocks(data_args, tokenizer, args)
    trained_steps = (random_steps[0], random_steps[-1])
    draw = ThinkingCollator(tokenizer, num_steps=trained_steps, seed=args.seed, copy_labels=True)

    # Models
    if model_args.model:
        model = AutoModelForCausalLM.from_pretrained(model_args.model)
    else:
        model = LoopedThinkerForCausalLM(
            LoopedThinkerTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=model_args.hidden_size,
                num_hidden_layers=model_args.num_hidden_layers,
                num_attention_heads=model_args.num_attention_heads,
                num_steps=random_steps[-1],
                num_memory_steps=model_args.num_memory_steps,
                max_position_embeddings=data_args.block_size,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    if not isinstance(model.config, LoopedThinkerTextConfig):
        parser.error(f"--model {model_args.model} is not a looped Thinker for text; pass a checkpoint of this script")

    # Train
    trained = {"looped": (model, train(model, "looped", splits, tokenizer, args, [], draw))}
    for name in model_args.baseline:
        set_seed(args.seed)
        baseline = build_baseline(name, model)
        trained[name] = (baseline, train(baseline, name, splits, tokenizer, args, [], collate_blocks))

    # Compare
    if args.process_index == 0:
        print()
        for _, checkpoint in trained.values():
            report(checkpoint, args.device, splits["validation"], tokenizer, data_args)
        model = AutoModelForCausalLM.from_pretrained(trained["looped"][1]).to(args.device)
        test_steps = model_args.test_steps or [factor * model.config.num_steps for factor in (1, 2, 4)]
        for num_steps in test_steps:
            scored = {"batch_size": 16, "max_blocks": data_args.scored_blocks, "num_steps": num_steps}
            bits = score_dataset(model, splits["validation"], tokenizer, **scored)["bits_per_byte"]
            print(f"{'looped':16} {bits:.4f} bits per byte after {num_steps} steps")
        drawn = splits["validation"].take(DRAWN_BLOCKS)
        draw_steps(model, drawn, max(2, *test_steps), trained_steps, Path(args.output_dir))
        for name, (trained_model, checkpoint) in trained.items():
            check_reload(trained_model, checkpoint)
            print(f"{name:16} saved in {checkpoint}")


if __name__ == "__main__":
    main()
