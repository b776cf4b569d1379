# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Train Thoughtbubbles on text with the transformers Trainer, beside a native GPT-2 of the same size.

On the source of the standard library, byte by byte, on a laptop (about 3 minutes on 2 cores):

    python examples/train_thoughtbubbles_text.py --output_dir runs/demo --baseline gpt2

GPT-2's positions are learned and ours rotary; `--baseline gpt2 plain` also trains our model without forks, so that
the gain of forking alone can be seen. With forks that depend on the past alone, so that generation is cached and whole
blocks score honestly:

    python examples/train_thoughtbubbles_text.py --output_dir runs/causal --fork_rule threshold

On a Hub dataset with an existing tokenizer, any flag of TrainingArguments included:

    python examples/train_thoughtbubbles_text.py --output_dir runs/owt --source Skylion007/openwebtext --streaming \
        --tokenizer gpt2 --hidden_size 768 --num_hidden_layers 12 --num_attention_heads 12 --block_size 512 \
        --fork_layers 3 7 11 --max_steps 75000 --per_device_train_batch_size 64 --learning_rate 2.5e-4 --bf16 \
        --torch_compile

Several processes: `accelerate launch examples/train_thoughtbubbles_text.py ...` or `torchrun --nproc_per_node 2 ...`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch.distributed.tensor import DTensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_thoughtbubbles import HubCallback, ThoughtbubblesConfig, ThoughtbubblesForCausalLM, build_byte_tokenizer
from hf_thoughtbubbles.data.collation import collate_blocks
from hf_thoughtbubbles.data.text import STANDARD_LIBRARY, load_text, pack_blocks
from hf_thoughtbubbles.evaluation.baselines import matched_baseline
from hf_thoughtbubbles.evaluation.scoring import bits_per_byte_metrics, score_dataset
from hf_thoughtbubbles.hub.hub_models import HubModelMixin
from hf_thoughtbubbles.hub.model_card import build_model_card
from hf_thoughtbubbles.training.callbacks import ForkLogCallback, ForkPlotCallback
from hf_thoughtbubbles.training.checkpoints import get_last_complete_checkpoint


PLOTTED_TEXT = "def fold(streams, scores):\n    return sum(score * stream for score, stream in zip(scores, streams))\n"


@dataclass
class ModelArguments:
    """What to train."""

    hidden_size: int = field(default=128, metadata={"help": "Width of a stream."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Number of layers."})
    num_attention_heads: int = field(default=4, metadata={"help": "Number of attention heads."})
    fork_layers: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "Layers that fork."})
    fork_budget: float = field(default=2.0, metadata={"help": "Streams kept, in multiples of the tokens."})
    fork_rule: Literal["topk", "threshold", "copy"] = field(
        default="topk",
        metadata={
            "help": "topk: as published, over the whole block; threshold: causal; copy: --fork_budget equal streams "
            "before the one layer in --fork_layers, the paper's baseline."
        },
    )
    fork_score_init: list[float] | None = field(
        default=None, metadata={"help": "Two logits at which the scores of copies and of streams themselves start."}
    )
    fold: Literal["residual", "probability"] = field(
        default="residual", metadata={"help": "How the streams of a token become one output."}
    )
    model: str | None = field(
        default=None, metadata={"help": "Train this checkpoint (folder or Hub name) on; its sizes and forks stay."}
    )
    baseline: list[str] = field(
        default_factory=list,
        metadata={
            "help": "What to train beside it: gpt2 (native, equal parameters), plain (ours without forks), or both.",
            "choices": ["gpt2", "plain"],
        },
    )


@dataclass
class DataArguments:
    """What to train on."""

    source: str = field(default=STANDARD_LIBRARY, metadata={"help": "'stdlib', a local file, or a Hub dataset."})
    dataset_name: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    text_column: str = field(default="text", metadata={"help": "Column with the documents."})
    streaming: bool = field(default=False, metadata={"help": "Read the dataset while training."})
    tokenizer: str | None = field(
        default=None, metadata={"help": "Tokenizer folder or Hub name; that of --model, or bytes."}
    )
    block_size: int = field(default=128, metadata={"help": "Tokens per training block."})
    scored_blocks: int = field(default=256, metadata={"help": "Validation blocks in the final score."})
    prefix_blocks: int = field(default=8, metadata={"help": "Validation blocks in the prefix-only score."})


@dataclass
class TextTrainingArguments(TrainingArguments):
    """TrainingArguments with defaults for a laptop; any of them can be set."""

    max_steps: int = 400
    per_device_train_batch_size: int = 16
    per_device_eval_batch_size: int = 16
    learning_rate: float = 2e-3
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 40
    weight_decay: float = 0.1
    adam_beta2: float = 0.95
    eval_strategy: str = "steps"
    eval_steps: float | None = 200
    logging_steps: float = 50
    save_strategy: str = "no"
    report_to: str = "none"
    dataloader_pin_memory: bool = torch.cuda.is_available()


def check_flags(parser: HfArgumentParser, data: DataArguments, args: TextTrainingArguments):
    """Say what is wrong with flags before anything takes time."""
    if data.scored_blocks < 1:
        parser.error(f"--scored_blocks is {data.scored_blocks}; at least one block must be scored")
    if args.resume_from_checkpoint:
        if args.resume_from_checkpoint.lower() != "true":
            parser.error("--resume_from_checkpoint takes true; each model continues from its own folder")
        if not any(get_last_complete_checkpoint(folder) for folder in Path(args.output_dir).glob("*/")):
            parser.error(f"--resume_from_checkpoint: {args.output_dir} holds no complete checkpoint to continue from")


def load_blocks(data: DataArguments, tokenizer: PreTrainedTokenizerBase, args: TextTrainingArguments) -> dict:
    """Blocks to train on, and those of validation that are scored, by split."""
    documents = load_text(data.source, data.dataset_name, data.text_column, streaming=data.streaming)
    with args.main_process_first(desc="packing"):
        splits = {split: pack_blocks(documents[split], tokenizer, data.block_size) for split in documents}
    if data.streaming:
        splits["validation"] = splits["validation"].take(data.scored_blocks)
    else:
        num_scored = min(len(splits["validation"]), data.scored_blocks)
        splits["validation"] = splits["validation"].shuffle(seed=args.seed).select(range(num_scored))
    return splits


def train(
    model: PreTrainedModel,
    name: str,
    splits,
    tokenizer,
    args: TextTrainingArguments,
    callbacks,
    data_collator=collate_blocks,
) -> Path:
    """
    Train one model with the Trainer, save it with its tokenizer, and say where.

    `--resume_from_checkpoint true` continues each model from the last checkpoint in its own folder, if there is one.
    """
    folder = Path(args.output_dir) / name
    args.output_dir = str(folder)
    print(f"\n== {name}: {model.num_parameters():,} parameters ==", flush=True)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=tokenizer,
        data_collator=data_collator,
        callbacks=[HubCallback(), *callbacks],
        **bits_per_byte_metrics(tokenizer),
    )
    resumed = get_last_complete_checkpoint(folder) if args.resume_from_checkpoint else None
    trainer.train(resume_from_checkpoint=resumed)
    trainer.save_model()
    if args.push_to_hub and isinstance(model, HubModelMixin):
        model.push_to_hub(trainer.hub_model_id, token=args.hub_token, revision=args.hub_revision)  # completes the card
    args.output_dir = str(folder.parent)
    return folder


def check_reload(model: PreTrainedModel, folder: Path):
    """The saved checkpoint, loaded through AutoModelForCausalLM, must give the same logits to the last bit."""
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        print(f"{folder.name:16} sharded over processes: not compared with what was saved")
        return
    reloaded = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(min(model.config.vocab_size, model.config.max_position_embeddings))[None]
    inputs = {"input_ids": ids, "use_cache": False}
    if getattr(model.config, "patching", None) == "token":
        inputs["patch_lengths"] = torch.ones_like(ids)
    with torch.no_grad():
        expected, logits = model.to("cpu").eval()(**inputs).logits, reloaded.eval()(**inputs).logits
    if not torch.equal(logits, expected):
        raise AssertionError(f"{folder} gives other logits after reloading: {(logits - expected).abs().max()} apart.")
    print(f"{folder.name:16} reloaded through AutoModelForCausalLM: logits identical")


def report(folder: Path, device, validation, tokenizer: PreTrainedTokenizerBase, data: DataArguments):
    """
    Print bits per byte of a saved model: read in one go, and where forks look ahead also from prefixes alone.

    They go into the model card of one of our models as well, unless that card was changed since it was saved.
    """
    name, model = folder.name, AutoModelForCausalLM.from_pretrained(folder).to(device)
    score = score_dataset(model, validation, tokenizer, batch_size=16, max_blocks=data.scored_blocks)
    results = {"bits per byte, whole blocks": score["bits_per_byte"]}
    print(f"{name:16} {score['bits_per_byte']:.4f} bits per byte, whole blocks ({score['num_bytes']} bytes)")
    if getattr(model.config, "fork_rule", None) in ("threshold", "copy"):
        print(f"{name:16} forks look at the past alone, so that is what generation gets")
    elif getattr(model.config, "fork_layers", None) and data.prefix_blocks > 0:
        prefix = {"batch_size": data.prefix_blocks, "max_blocks": data.prefix_blocks}
        honest = score_dataset(model, validation, tokenizer, reading="prefix", **prefix)
        same = score_dataset(model, validation, tokenizer, **prefix)
        print(
            f"{name:16} {honest['bits_per_byte']:.4f} bits per byte, prefix only, against {same['bits_per_byte']:.4f} "
            f"for the same {data.prefix_blocks} blocks read whole (top-k forks look ahead; the first is what "
            "generation gets)"
        )
        results["bits per byte, prefix only"] = honest["bits_per_byte"]
    if isinstance(model, HubModelMixin):
        if (folder / "README.md").read_text() == str(build_model_card(model, str(folder))):
            build_model_card(model, str(folder), f"`{data.source}`", results).save(folder / "README.md")
        else:
            print(f"{name:16} keeps the README.md that is there")


def main():
    """Parse flags, train, compare."""
    parser = HfArgumentParser((ModelArguments, DataArguments, TextTrainingArguments))
    model_args, data_args, args = parser.parse_args_into_dataclasses()
    check_flags(parser, data_args, args)
    set_seed(args.seed)

    # Data
    tokenizer_source = data_args.tokenizer or model_args.model
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_source) if tokenizer_source else build_byte_tokenizer()
    splits = load_blocks(data_args, tokenizer, args)

    # Models
    if model_args.model:
        model = AutoModelForCausalLM.from_pretrained(model_args.model)
    else:
        model = ThoughtbubblesForCausalLM(
            ThoughtbubblesConfig(
                vocab_size=len(tokenizer),
                hidden_size=model_args.hidden_size,
                num_hidden_layers=model_args.num_hidden_layers,
                num_attention_heads=model_args.num_attention_heads,
                max_position_embeddings=data_args.block_size,
                fork_layers=model_args.fork_layers,
                fork_budget=model_args.fork_budget,
                fork_rule=model_args.fork_rule,
                fork_score_init=model_args.fork_score_init,
                fold=model_args.fold,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )

    if "plain" in model_args.baseline and not isinstance(model.config, ThoughtbubblesConfig):
        parser.error("--baseline plain is our model without forks; --model names another kind")

    # Train
    folder = Path(args.output_dir)
    callbacks = []
    if getattr(model.config, "fork_layers", None):
        plotted = ForkPlotCallback(tokenizer, PLOTTED_TEXT[: data_args.block_size], folder / "forks")
        callbacks = [ForkLogCallback(), plotted]
    trained = {"thoughtbubbles": (model, train(model, "thoughtbubbles", splits, tokenizer, args, callbacks))}
    for name in model_args.baseline:
        set_seed(args.seed)
        if name == "gpt2":
            baseline = matched_baseline(model)
        else:
            baseline = ThoughtbubblesForCausalLM(ThoughtbubblesConfig(**{**model.config.to_dict(), "fork_layers": []}))
        trained[name] = (baseline, train(baseline, name, splits, tokenizer, args, []))

    # Compare
    if args.process_index == 0:
        print()
        for _, checkpoint in trained.values():
            report(checkpoint, args.device, splits["validation"], tokenizer, data_args)
        for name, (trained_model, checkpoint) in trained.items():
            check_reload(trained_model, checkpoint)
            print(f"{name:16} saved in {checkpoint}")
        if callbacks:
            print(f"{'pictures':16} in {folder / 'forks'}")


if __name__ == "__main__":
    main()
