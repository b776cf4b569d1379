# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Continue a text with any saved causal language model, ours or native.

python examples/generate_text.py runs/demo/thoughtbubbles --prompt "def fold(" --max_new_tokens 80
python examples/generate_text.py runs/demo/gpt2 --prompt "import " --temperature 0.7 --seed 1
python examples/generate_text.py runs/causal/thoughtbubbles --prompt "def fold(" --fork_budget 1.5 --forks forks.png
"""

import argparse
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer, set_seed

import hf_thoughtbubbles  # noqa: F401  (importing registers the models)
from hf_thoughtbubbles.evaluation.drawings import draw_read_forks


def main():
    """Load, generate, print as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder or Hub name")
    parser.add_argument("--prompt", default="def ", help="text to continue")
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 always takes the likeliest token")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fork_budget", type=float, help="streams per token; a forking model's own when not given")
    parser.add_argument("--forks", type=Path, help="draw the streams of every token over the text into this picture")
    args = parser.parse_args()
    if not args.prompt or args.temperature < 0:
        parser.error("--prompt must not be empty and --temperature not negative")

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model).eval()
    set_seed(args.seed)

    sampling = {"do_sample": True, "temperature": args.temperature} if args.temperature > 0 else {"do_sample": False}
    inputs = tokenizer(args.prompt, return_tensors="pt", return_token_type_ids=False)
    options = {"max_new_tokens": args.max_new_tokens, "streamer": TextStreamer(tokenizer), **sampling}
    if args.fork_budget is not None:
        options["fork_budget"] = args.fork_budget
    if args.forks is None:
        model.generate(**inputs, **options)
        return
    generated = model.generate(**inputs, output_forks=True, return_dict_in_generate=True, **options)
    pieces = [tokenizer.decode([token]) for token in generated.sequences[0, :-1].tolist()]  # the last was not read
    args.forks.parent.mkdir(parents=True, exist_ok=True)
    draw_read_forks(pieces, generated.forks, model.config.fork_layers).savefig(args.forks, dpi=120)
    print(f"picture in {args.forks}")


if __name__ == "__main__":
    main()
