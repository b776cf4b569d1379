# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Draw where a Thoughtbubbles model forks in a text.

python examples/plot_forks.py runs/demo/thoughtbubbles --text "for i in range(10):" --output forks.png
python examples/plot_forks.py runs/demo/thoughtbubbles --file examples/plot_forks.py --output forks.png
"""

import argparse
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

import hf_thoughtbubbles  # noqa: F401  (importing registers the models)
from hf_thoughtbubbles.evaluation.drawings import draw_forks


def main():
    """Load, read the text, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder or Hub name")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--text", default="for token in text:\n    print(token)\n", help="text to read")
    given.add_argument("--file", type=Path, help="file to read instead; cut at the model's longest input")
    parser.add_argument("--output", type=Path, default=Path("forks.png"), help="where the picture goes")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model).eval()
    text = args.text if args.file is None else args.file.read_text(encoding="utf-8")
    offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False).offset_mapping
    if len(offsets) > model.config.max_position_embeddings:
        text = text[: offsets[model.config.max_position_embeddings][0]]
        print(f"cut to the first {model.config.max_position_embeddings} tokens")

    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw_forks(model, tokenizer, text).savefig(args.output, dpi=120)
    print(f"picture in {args.output}")


if __name__ == "__main__":
    main()
