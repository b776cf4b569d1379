# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Continue a text with any saved causal language model, ours or native.

python examples/generate_text.py runs/demo/thoughtbubbles --prompt "def fold(" --max_new_tokens 80
python examples/generate_text.py runs/demo/gpt2 --prompt "import " --temperature 0.7 --seed 1
"""

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer, set_seed

import hf_thoughtbubbles  # noqa: F401  (importing registers the models)


def main():
    """Load, generate, print as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder or Hub name")
    parser.add_argument("--prompt", default="def ", help="text to continue")
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 always takes the likeliest token")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not args.prompt or args.temperature < 0:
        parser.error("--prompt must not be empty and --temperature not negative")

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model).eval()
    set_seed(args.seed)

    sampling = {"do_sample": True, "temperature": args.temperature} if args.temperature > 0 else {"do_sample": False}
    inputs = tokenizer(args.prompt, return_tensors="pt", return_token_type_ids=False)
    model.generate(**inputs, max_new_tokens=args.max_new_tokens, streamer=TextStreamer(tokenizer), **sampling)


if __name__ == "__main__":
    main()
