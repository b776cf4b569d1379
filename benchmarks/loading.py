# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Seconds to load each family, and to its first token, beside GPT-2 with as many parameters and tensors.

    python benchmarks/loading.py --threads 1        # the size of the claim in docs/results.md
    python benchmarks/loading.py --quick            # tiny, as a test
    python benchmarks/loading.py --models next_thought

again        `from_pretrained` in one process, after a first time; ours and GPT-2 in turns.
first load   `from_pretrained` in a new process, which has imported the libraries and used nothing.
first token  in a new process, `pipeline("text-generation")` with a path, and one new token. Encoder-decoders have no
             such pipeline: `from_pretrained` of model and tokenizer and `generate`, also on GPT-2's side.

Of each the median, and the quartiles of the ratios of turns. GPT-2 has the depth that gives it as many tensors and the
width that gives it as many parameters, as nearly as they go. `import_time.py` measures the import.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    pipeline,
)
from transformers.utils import logging

from hf_thoughtbubbles import build_byte_tokenizer
from small_models import NAMES, build_config, build_model
from thinking import compare, print_head, print_row


LIBRARIES = ["transformers.models.gpt2.modeling_gpt2", "transformers.pipelines", "datasets", "matplotlib.pyplot"]
LIBRARIES += ["hf_thoughtbubbles.plots.steps", "thinking"]  # all that this script imports
SIZES = {"full": {"width": 256, "depth": 8}, "quick": {"width": 32, "depth": 2}}
VOCAB_SIZE, POSITIONS = 259, 512


def build_gpt2(model: PreTrainedModel) -> PreTrainedModel:
    """A GPT-2 with about as many parameters and tensors as a model."""
    depth = max(1, round((len(model.state_dict()) - 5) / 12))
    width = 8
    while 12 * depth * width**2 + (VOCAB_SIZE + POSITIONS) * width < model.num_parameters():
        width += 4
    config = GPT2Config(
        vocab_size=VOCAB_SIZE, n_embd=width, n_layer=depth, n_head=4, n_positions=POSITIONS, bos_token_id=None,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def load(folder: str, is_answering: bool) -> PreTrainedModel:
    """A saved model."""
    return (AutoModelForSeq2SeqLM if is_answering else AutoModelForCausalLM).from_pretrained(folder)


def write_token(folder: str, is_answering: bool, by_pipeline: bool):
    """Load a model and its tokenizer, and generate one token."""
    if by_pipeline:
        pipeline("text-generation", model=folder)("a question", max_new_tokens=1)
    else:
        model, tokenizer = load(folder, is_answering), AutoTokenizer.from_pretrained(folder)
        model.generate(**tokenizer("a question", return_tensors="pt"), max_new_tokens=1)


def run_timed(sender, num_threads: int, function: Callable, arguments: tuple):
    """In a new process: send the seconds of a call."""
    torch.set_num_threads(num_threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    start = time.perf_counter()
    function(*arguments)
    sender.send(time.perf_counter() - start)


def time_in_new_process(function: Callable, *arguments) -> float:
    """Seconds of a call in a new process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_timed, args=(sender, torch.get_num_threads(), function, arguments))
    process.start()
    sender.close()
    seconds = receiver.recv()
    process.join()
    return seconds


def time_here(function: Callable, *arguments) -> float:
    """Seconds of a call in this process."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def measure(name: str, size: dict, repeats: int, folder: Path):
    """Print one row of the table."""
    config = build_config(name, vocab_size=VOCAB_SIZE, positions=POSITIONS, **size)
    models = {"ours": build_model(config)}
    models["gpt2"] = build_gpt2(models["ours"])
    for label, model in models.items():
        model.save_pretrained(folder / label)
        build_byte_tokenizer().save_pretrained(folder / label)
    cells = [name]
    for count in (lambda model: model.num_parameters(), lambda model: len(model.state_dict())):
        cells.append(f"{count(models['ours']):,} / {count(models['gpt2']):,}")
    by_pipeline, tables = not config.is_encoder_decoder, {}
    for what, timer, function, options in (
        ("again", time_here, load, ()),
        ("first load", time_in_new_process, load, ()),
        ("first token", time_in_new_process, write_token, (by_pipeline,)),
    ):
        tables[what] = seconds = {label: [] for label in models}
        for turn in range(repeats + 1):
            for label in models:
                is_answering = label == "ours" and config.is_encoder_decoder
                taken = timer(function, str(folder / label), is_answering, *options)
                if turn > 0:
                    seconds[label].append(taken)
        medians = [f"{1e3 * statistics.median(seconds[label]):.0f}" for label in models]
        cells.append(f"{' / '.join(medians)}: {compare(seconds, 'ours', 'gpt2')}")
    print_row(*cells)


def main():
    """One row for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=NAMES[1:], choices=NAMES[1:], metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a test")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, milliseconds of ours / GPT-2: ratio\n")
    print_head("model", "parameters", "tensors", "again", "first load", "first token")
    for name in args.models:
        with TemporaryDirectory() as folder:
            measure(name, SIZES["quick" if args.quick else "full"], args.repeats, Path(folder))


if __name__ == "__main__":
    main()
