# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Train a byte-patch model on text with the transformers Trainer: it reads bytes and runs its core over patches.

On the source of the standard library, on a laptop (about 3 minutes on 2 cores with both baselines):

    python examples/train_byte_text.py --output_dir runs/bytes --baseline gpt2 bpe

`gpt2` is a native GPT-2 over the same bytes with as many parameters; `bpe` one of the core's width and depth over the
tokens of a tokenizer that is trained on the same text. All are scored in bits per byte. Patches of a fixed
size, and the published decoder that writes all bytes of a patch at once:

    python examples/train_byte_text.py --output_dir runs/fixed --patching fixed --patch_size 6
    python examples/train_byte_text.py --output_dir runs/parallel --decoder parallel --reconstruction_loss_weight 1

Patches that the tokens of that tokenizer make (it chooses them by looking ahead, so the score is that of a model which
is told where tokens end):

    python examples/train_byte_text.py --output_dir runs/token --patching token

It is saved beside the model, in `patch_tokenizer`, from where `--model` takes it again.

Data, several processes and flags of TrainingArguments: as in `train_thoughtbubbles_text.py`. The text that the model
goes on to write is shown as it comes, character by character.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    HfArgumentParser,
    TextStreamer,
    set_seed,
)

from hf_thoughtbubbles import BytePatchConfig, BytePatchForCausalLM, build_byte_tokenizer, train_bpe_tokenizer
from hf_thoughtbubbles.data.collation import collate_blocks
from hf_thoughtbubbles.data.patches import TokenPatchCollator, measure_patch_lengths
from hf_thoughtbubbles.data.text import load_text
from hf_thoughtbubbles.evaluation.baselines import matched_baseline


PATCH_TOKENIZER = "patch_tokenizer"  # folder beside a model, for the tokenizer that makes its patches


@dataclass
class ModelArguments:
    """What to train."""

    core_hidden_size: int = field(default=128, metadata={"help": "Width of a patch."})
    core_num_hidden_layers: int = field(default=4, metadata={"help": "Layers over patches."})
    core_num_attention_heads: int = field(default=4, metadata={"help": "Attention heads over patches."})
    hidden_size: int = field(default=64, metadata={"help": "Width of a byte."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Layers of the byte decoder."})
    encoder_num_hidden_layers: int = field(default=1, metadata={"help": "Layers over bytes before pooling."})
    patching: Literal["space", "fixed", "token"] = field(default="space", metadata={"help": "Where patches end."})
    patch_size: int = field(default=4, metadata={"help": "Bytes in a fixed patch."})
    decoder: Literal["autoregressive", "parallel"] = field(
        default="autoregressive", metadata={"help": "Whether a byte attends to the earlier ones of its patch."}
    )
    reconstruction_loss_weight: float = field(
        default=0.0, metadata={"help": "Weight of decoding each patch from its own vector; with --decoder parallel."}
    )
    bpe_vocab_size: int = field(default=2048, metadata={"help": "Tokens of --patching token and --baseline bpe."})
    prompt: str = field(default="def ", metadata={"help": "What the trained model continues."})
    model: str | None = field(
        default=None, metadata={"help": "Train this checkpoint (folder or Hub name) on; its sizes stay."}
    )
    baseline: list[str] = field(
        default_factory=list,
        metadata={
            "help": "What to train beside it: gpt2 (native, over bytes), bpe (native, over tokens), or both.",
            "choices": ["gpt2", "bpe"],
        },
    )


def build_bpe_baseline(model: BytePatchForCausalLM, tokenizer, block_size: int) -> GPT2LMHeadModel:
    """A native GPT-2 over tokens, as wide and as deep as the core."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=block_size,
        n_embd=model.config.core_hidden_size,
        n_layer=model.config.core_num_hidden_layers,
        n_head=model.config.core_num_attention_heads,
        n_inner=model.config.core_intermediate_size,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    baseline = GPT2LMHeadModel(config)
    baseline.loss_type = "ForCausalLM"  # transformers derives it from the class name and warns about this one
    return baseline


def measure_patches(splits: dict, patch_tokenizer, longest: int) -> dict:
    """Blocks with the lengths of the patches that a tokenizer's tokens make."""

    def measure(row: dict) -> dict:
        return {"patch_lengths": measure_patch_lengths(row["input_ids"], patch_tokenizer, longest)}

    return {split: blocks.map(measure) for split, blocks in splits.items()}


def write_on(model: BytePatchForCausalLM, tokenizer, patch_tokenizer, prompt: str):
    """Show what the model writes after a prompt, as it comes."""
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    if model.config.patching == "token":
        ids, longest = inputs.input_ids[0].tolist(), model.config.max_patch_bytes
        inputs["patch_lengths"] = torch.tensor([measure_patch_lengths(ids, patch_tokenizer, longest)])
    model.eval().generate(
        **inputs, max_new_tokens=80, do_sample=True, temperature=0.7, streamer=TextStreamer(tokenizer)
    )


def main():
    """Parse flags, train, compare."""
    parser = HfArgumentParser((ModelArguments, DataArguments, TextTrainingArguments))
    model_args, data_args, args = parser.parse_args_into_dataclasses()
    check_flags(parser, data_args, args)
    if data_args.tokenizer:
        parser.error("--tokenizer was passed, but a byte-patch model reads bytes. Remove it")
    set_seed(args.seed)

    # Data
    tokenizer = build_byte_tokenizer()
    splits = load_blocks(data_args, tokenizer, args)

    # Models
    if model_args.model:
        model = AutoModelForCausalLM.from_pretrained(model_args.model)
    else:
        model = BytePatchForCausalLM(
            BytePatchConfig(
                vocab_size=len(tokenizer),
                core_hidden_size=model_args.core_hidden_size,
                core_num_hidden_layers=model_args.core_num_hidden_layers,
                core_num_attention_heads=model_args.core_num_attention_heads,
                hidden_size=model_args.hidden_size,
                num_hidden_layers=model_args.num_hidden_layers,
                encoder_num_hidden_layers=model_args.encoder_num_hidden_layers,
                patching=model_args.patching,
                patch_size=model_args.patch_size,
                decoder=model_args.decoder,
                reconstruction_loss_weight=model_args.reconstruction_loss_weight,
                max_position_embeddings=max(data_args.block_size, len(model_args.prompt.encode()) + 80),
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    if not isinstance(model.config, BytePatchConfig):
        parser.error(f"--model {model_args.model} is no byte-patch model")

    # Patches
    patch_tokenizer, blocks, collator = None, splits, collate_blocks
    if model.config.patching == "token" and model_args.model:
        patch_tokenizer = AutoTokenizer.from_pretrained(model_args.model, subfolder=PATCH_TOKENIZER)
    elif model.config.patching == "token" or "bpe" in model_args.baseline:
        documents = load_text(data_args.source, data_args.dataset_name, data_args.text_column)
        patch_tokenizer = train_bpe_tokenizer(documents["train"], model_args.bpe_vocab_size)
    if model.config.patching == "token":
        blocks = measure_patches(splits, patch_tokenizer, model.config.max_patch_bytes)
        collator = TokenPatchCollator(tokenizer, patch_tokenizer, model.config.max_patch_bytes)

    # Train
    folder = train(model, "byte_patch", blocks, tokenizer, args, [], collator)
    if model.config.patching == "token" and args.process_index == 0:
        patch_tokenizer.save_pretrained(Path(folder) / PATCH_TOKENIZER)
    trained = {"byte_patch": (model, folder, blocks, tokenizer)}
    for name in model_args.baseline:
        set_seed(args.seed)
        if name == "gpt2":
            baseline, blocks, reader = matched_baseline(model), splits, tokenizer
        else:
            reader, blocks = patch_tokenizer, load_blocks(data_args, patch_tokenizer, args)
            baseline = build_bpe_baseline(model, reader, data_args.block_size)
        trained[name] = (baseline, train(baseline, name, blocks, reader, args, []), blocks, reader)

    # Compare
    if args.process_index == 0:
        print()
        for _, checkpoint, blocks, reader in trained.values():
            report(checkpoint, args.device, blocks["validation"], reader, data_args)
        for name, (trained_model, checkpoint, _, _) in trained.items():
            check_reload(trained_model, checkpoint)
            print(f"{name:16} saved in {checkpoint}")
        torch.manual_seed(args.seed)
        model = AutoModelForCausalLM.from_pretrained(folder).to(args.device)
        write_on(model, tokenizer, patch_tokenizer, model_args.prompt)


if __name__ == "__main__":
    main()
