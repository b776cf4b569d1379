# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Error and size of small trained models in 8 and 4 bits, for each causal family.

    make tools && .cache/tools/bin/python benchmarks/quantisation.py    # a table in Markdown
    .cache/tools/bin/python benchmarks/quantisation.py --quick          # tiny: its numbers mean nothing

Each model is trained on bytes of the Python standard library, saved, and loaded with each quantiser. On held-out
blocks the script compares the logits with those of the float32 model, in evaluation and without a cache. Errors are
relative to the spread of the float32 logits (their standard deviation). Bits per byte are those of the blocks, kB
those of the saved weights. Embeddings, norms, `lm_head` and fork scores stay in float32.
"""

import argparse
import datetime
import importlib.metadata
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, TorchAoConfig, set_seed

from hf_thoughtbubbles import build_byte_tokenizer
from hf_thoughtbubbles.data.text import load_text, pack_blocks
from hf_thoughtbubbles.evaluation.scoring import score_dataset
from small_models import build_config, build_model


MODELS = (
    "thoughtbubbles-plain",
    "thoughtbubbles-threshold",
    "thoughtbubbles-topk",
    "looped_thinker_text",
    "byte_patch-autoregressive",
    "byte_patch-parallel",
    "generic_transformer",
)
QUANTISERS: dict[str, Callable | None] = {
    "float32": None,
    "torchao int8": partial(TorchAoConfig, Int8WeightOnlyConfig()),
    "torchao dynamic int8": partial(TorchAoConfig, Int8DynamicActivationInt8WeightConfig()),
    "bitsandbytes int8": partial(BitsAndBytesConfig, load_in_8bit=True),
    "bitsandbytes nf4": partial(BitsAndBytesConfig, load_in_4bit=True, bnb_4bit_quant_type="nf4"),
}
USUAL = {"width": 128, "depth": 4, "length": 128, "rows": 8, "steps": 200, "scored": 64, "rate": 2e-3}
QUICK = {"width": 32, "depth": 3, "length": 32, "rows": 4, "steps": 2, "scored": 4, "rate": 2e-3}


def load_blocks(length: int) -> dict:
    """Packed blocks of the standard library in random order, for training and validation."""
    tokenizer = build_byte_tokenizer()
    return {name: pack_blocks(rows, tokenizer, length).shuffle(seed=0) for name, rows in load_text().items()}


def train(model: PreTrainedModel, blocks: torch.Tensor, sizes: dict) -> PreTrainedModel:
    """The model after `steps` steps of AdamW, whose rate rises for a tenth of them and falls to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    model.train()
    for step, rows in enumerate(blocks.split(sizes["rows"])):
        share = (step + 1) / sizes["steps"]
        optimizer.param_groups[0]["lr"] = sizes["rate"] * min(1.0, share * 10, 1 - share + 1 / sizes["steps"])
        model(input_ids=rows, labels=rows, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def compute_logits(model: PreTrainedModel, blocks: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Logits `(N, T, V)` of blocks `(N, T)`."""
    return torch.cat([model(input_ids=rows, use_cache=False).logits.float() for rows in blocks.split(num_rows)])


def count_bytes(folder: Path) -> int:
    """Bytes of the saved weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def measure(name: str, splits: dict, sizes: dict, seed: int):
    """Train one model and print its rows of the table."""
    set_seed(seed)
    config = build_config(name, sizes["width"], sizes["depth"], 259, sizes["length"], initializer_range=0.02)
    model = build_model(config, seed)
    train(model, splits["train"].with_format("torch")[: sizes["rows"] * sizes["steps"]]["input_ids"], sizes)
    blocks = splits["validation"].with_format("torch")[: sizes["scored"]]["input_ids"]
    expected = compute_logits(model, blocks, sizes["rows"])
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for quantiser, make in QUANTISERS.items():
            options = {} if make is None else {"quantization_config": make()}
            loaded = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
            error = (compute_logits(loaded, blocks, sizes["rows"]) - expected).abs() / expected.std()
            scored = score_dataset(
                loaded, splits["validation"], build_byte_tokenizer(), "blockwise", sizes["rows"], sizes["scored"]
            )
            with tempfile.TemporaryDirectory() as saved:
                loaded.save_pretrained(saved)
                size = f"{count_bytes(Path(saved)) / 1e3:,.0f}"
            bits = f"{scored['bits_per_byte']:.4f}"
            print(f"| {name} | {quantiser} | {error.mean():.4f} | {error.max():.3f} | {bits} | {size} |", flush=True)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS, help="models to train (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny models and two steps, to see that the script runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = QUICK if args.quick else USUAL
    splits = load_blocks(sizes["length"])
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "torchao", "bitsandbytes")
    ]
    print(f"python {' '.join(sys.argv)}, {datetime.date.today()}, seed {args.seed}, {', '.join(versions)}\n")
    header = ["model", "weights", "mean error", "largest error", "bits per byte", "kB"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for name in args.models:
        measure(name, splits, sizes, args.seed)


if __name__ == "__main__":
    main()
