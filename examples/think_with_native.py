# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Make a pretrained Llama, Qwen, Mistral or GPT-2 think: add forks or loops to it, and train it on.

Forks before layers 10 and 20 of a small Llama, whose budget rises from 1 (the native model) to 2 streams per token:

    python examples/think_with_native.py --model HuggingFaceTB/SmolLM2-135M --fork_layers 10 20 --values 1 1.5 2 \
        --source roneneldan/TinyStories --block_size 512 --output_dir runs/forked

A loop over layers 10 to 19, from 1 step to 4:

    python examples/think_with_native.py --model HuggingFaceTB/SmolLM2-135M --loop_layers 10 19 --values 1 2 4 \
        --source roneneldan/TinyStories --block_size 512 --output_dir runs/looped

What is trained: `--train new` (the forks or the adapter of the loop alone, the native weights stay), `lora` (these and
LoRA on the attention) or `all` (the default). Instructions and chats, with TRL's SFT:

    python examples/think_with_native.py --model Qwen/Qwen3-0.6B --loop_layers 10 17 --values 1 2 3 --train lora \
        --sft trl-lib/Capybara --output_dir runs/chat

Data, tokenizers, several processes and flags of TrainingArguments: as in `train_thoughtbubbles_text.py`.
docs/guides/make_your_model_think.md explains the choices.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from train_thoughtbubbles_text import DataArguments, TextTrainingArguments, check_flags, load_blocks
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser, Trainer, TrainingArguments, set_seed

from hf_thoughtbubbles import HubCallback, fork_native, loop_native
from hf_thoughtbubbles.data.collation import collate_blocks
from hf_thoughtbubbles.evaluation.scoring import score_dataset
from hf_thoughtbubbles.training.callbacks import ForkLogCallback
from hf_thoughtbubbles.training.checkpoints import get_last_complete_checkpoint
from hf_thoughtbubbles.training.thinking_schedule import ThinkingSchedule


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ADDED = ("forks.", "adapter.")  # names of the weights that a native model does not have


@dataclass
class ThinkingArguments:
    """The native model, and how it is to think."""

    model: str = field(metadata={"help": "Native checkpoint: folder or Hub name."})
    fork_layers: list[int] | None = field(default=None, metadata={"help": "Layers before which tokens fork."})
    loop_layers: list[int] | None = field(
        default=None, metadata={"help": "First and last layer of the block that is repeated."}
    )
    values: list[float] = field(
        default_factory=list,
        metadata={"help": "Budgets (streams per token) or numbers of steps in training, from the first to the last."},
    )
    share: float = field(default=0.5, metadata={"help": "Share of the training after which the last value is used."})
    train: Literal["new", "lora", "all"] = field(
        default="all", metadata={"help": "Weights that are trained: the added ones, these and LoRA, or all."}
    )
    fork_adapter_rank: int | None = field(
        default=None, metadata={"help": "Rank of the adapter that tells a copy from its token (default: none)."}
    )
    lora_rank: int = field(default=16, metadata={"help": "Rank of LoRA, for --train lora."})
    test_values: list[float] | None = field(
        default=None, metadata={"help": "Budgets or numbers of steps to score with (default: those of --values)."}
    )
    sft: str | None = field(
        default=None, metadata={"help": "Dataset (folder, file or Hub name) of chats or prompts for TRL's SFTTrainer."}
    )


def build_model(parser: HfArgumentParser, thinking: ThinkingArguments):
    """The native model with forks or a loop, and the values of its schedule."""
    if (thinking.fork_layers is None) == (thinking.loop_layers is None):
        parser.error("pass one of --fork_layers and --loop_layers")
    if thinking.loop_layers is None:
        options = {"fork_layers": thinking.fork_layers, "fork_adapter_rank": thinking.fork_adapter_rank}
        return fork_native(thinking.model, **options), thinking.values or [1.0, 1.5]
    values = thinking.values or [1, 2, 3]
    if any(value != int(value) for value in values):
        parser.error(f"--values is {values}; numbers of steps are whole")
    return loop_native(thinking.model, loop_layers=tuple(thinking.loop_layers)), [int(value) for value in values]


def choose_weights(model, thinking: ThinkingArguments):
    """Choose the weights that are trained; returns the model, with LoRA if asked for."""
    if thinking.train == "lora":
        added = {name.rsplit(".", 1)[0] for name, _ in model.named_modules() if name.endswith(".keep_proj")}
        added = sorted(name.removeprefix("model.") for name in added) or ["adapter"]
        lora = {"target_modules": ATTENTION, "modules_to_save": added, "task_type": "CAUSAL_LM"}
        return get_peft_model(model, LoraConfig(r=thinking.lora_rank, lora_alpha=2 * thinking.lora_rank, **lora))
    if thinking.train == "new":
        for name, weight in model.named_parameters():
            weight.requires_grad = any(added in name for added in ADDED)
    return model


def build_trainer(model, tokenizer, thinking, splits, args, callbacks) -> Trainer:
    """The Trainer, or TRL's for instructions and chats."""
    common = {"model": model, "processing_class": tokenizer, "callbacks": [HubCallback(), *callbacks]}
    if thinking.sft is None:
        data = {"train_dataset": splits["train"], "eval_dataset": splits["validation"]}
        return Trainer(args=args, data_collator=collate_blocks, **data, **common)
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(**{part.name: getattr(args, part.name) for part in fields(TrainingArguments) if part.init})
    config.eval_strategy = "no"
    return SFTTrainer(args=config, train_dataset=load_dataset(thinking.sft, split="train"), **common)


def score(name: str, model, splits, tokenizer, data: DataArguments, **options):
    """Print bits per byte of held-out text."""
    scored = {"batch_size": 8, "max_blocks": data.scored_blocks, **options}
    bits = score_dataset(model, splits["validation"], tokenizer, **scored)["bits_per_byte"]
    print(f"{name:28} {bits:.4f} bits per byte", flush=True)


def main():
    """Parse flags, convert, train, compare."""
    parser = HfArgumentParser((ThinkingArguments, DataArguments, TextTrainingArguments))
    thinking, data, args = parser.parse_args_into_dataclasses()
    check_flags(parser, data, args)
    set_seed(args.seed)

    # Data and model
    model, values = build_model(parser, thinking)
    tokenizer = AutoTokenizer.from_pretrained(data.tokenizer or thinking.model)
    splits = load_blocks(data, tokenizer, args)
    native = AutoModelForCausalLM.from_pretrained(thinking.model, dtype="auto").to(args.device)
    score("native", native, splits, tokenizer, data)
    score("before training", model.to(args.device), splits, tokenizer, data)

    # Train
    folder, args.output_dir = Path(args.output_dir) / "model", str(Path(args.output_dir) / "training")
    callbacks = [ThinkingSchedule(values, thinking.share), *([ForkLogCallback()] if thinking.fork_layers else [])]
    trainer = build_trainer(choose_weights(model, thinking), tokenizer, thinking, splits, args, callbacks)
    resumed = get_last_complete_checkpoint(args.output_dir) if args.resume_from_checkpoint else None
    trainer.train(resume_from_checkpoint=resumed)
    if thinking.train != "lora":
        trainer.save_model(str(folder))
    elif args.process_index == 0:
        trainer.accelerator.unwrap_model(trainer.model).merge_and_unload().save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    # Compare
    if args.process_index == 0:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(args.device)
        setting = "fork_budget" if thinking.fork_layers else "num_steps"
        for value in thinking.test_values or sorted({values[0], values[-1]}):
            score(f"{setting} {value:g}", model, splits, tokenizer, data, **{setting: type(values[0])(value)})
        print(f"saved in {folder}")


if __name__ == "__main__":
    main()
