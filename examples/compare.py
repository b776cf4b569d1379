# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Train several kinds of models on the same text and compare them: one command, one table, one picture.

    python examples/compare.py --output_dir runs/compare --models thoughtbubbles byte_patch gpt2 --seeds 3

`--match flops` trains every model for as many operations as the first one in `--max_steps` steps: native models
(`gpt2`, `llama`) are built so that a forward pass takes as many, ours keep their sizes and take more or fewer steps.
`--match parameters` gives native models the parameters of the first model, and all models the same text. Folders and
Hub names of trained causal language models, native ones included, are scored as they are.

Every run is trained and scored in a process of its own and leaves a file in `OUTPUT_DIR/runs`; started again, the
command does what is missing. Trained models are scored again once their weights have changed. `table.md`, `table.csv`
and `curves.png` (bits per byte of validation text over training operations) are made of all that is there. Scores of
whole blocks are no likelihood for the published fork rule, which looks ahead; a second column says how many bits more
it needs for `--prefix_blocks` blocks read from prefixes, as generation does, than for the same ones read whole. Memory
is what training took at most, beyond what the process held before.

Other flags are those of `train_thoughtbubbles_text.py` for text, and of TrainingArguments.
"""

import csv
import hashlib
import json
import math
import multiprocessing
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from datasets import DatasetDict, load_from_disk
from matplotlib.figure import Figure
from train_byte_text import PATCH_TOKENIZER, measure_patches
from train_thoughtbubbles_text import DataArguments, TextTrainingArguments, check_flags, load_blocks
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    HfArgumentParser,
    PreTrainedModel,
    Trainer,
    set_seed,
)
from transformers.utils import CONFIG_NAME, cached_file

from hf_thoughtbubbles import (
    BytePatchConfig,
    BytePatchForCausalLM,
    GenericTransformerConfig,
    GenericTransformerForCausalLM,
    HubCallback,
    LoopedThinkerForCausalLM,
    LoopedThinkerTextConfig,
    ThoughtbubblesConfig,
    ThoughtbubblesForCausalLM,
    build_byte_tokenizer,
)
from hf_thoughtbubbles.data.collation import collate_blocks
from hf_thoughtbubbles.evaluation.baselines import FAMILIES as NATIVE
from hf_thoughtbubbles.evaluation.baselines import matched_baseline
from hf_thoughtbubbles.evaluation.flops import estimate_flops, measure_flops
from hf_thoughtbubbles.evaluation.scoring import bits_per_byte_metrics, count_token_bytes, score_dataset


NUM_CURVE_POINTS = 8
READ_BYTES = 1 << 24
NUM_COUNTED_BLOCKS = 256  # of training text, whose patches are counted
# What runs in one folder may differ in: where they lie and run, what is shown. Each run has its own seed and steps.
FREE_ARGUMENTS = ("output_dir", "seed", "data_seed", "use_cpu", "disable_tqdm", "report_to", "run_name", "project")
FREE_BEGINNINGS = ("logging_", "log_", "dataloader_", "hub_", "push_to_hub", "trackio_", "eval_", "save_", "skip_")
COLUMNS = {  # of the table: what a run calls it, and how it is written
    "bits_per_byte": "{:.4f}",
    "look_ahead_bits_per_byte": "{:.4f}",
    "parameters": "{:,.0f}",
    "flops_per_byte": "{:.4g}",
    "training_flops": "{:.4g}",
    "tokens_per_second": "{:,.0f}",
    "peak_memory_mb": "{:,.0f}",
}


@dataclass
class CompareArguments:
    """What to compare."""

    models: list[str] = field(
        default_factory=lambda: ["thoughtbubbles", "byte_patch", "gpt2"],
        metadata={"help": "Kinds of models to train, or folders and Hub names of trained ones; the first is matched."},
    )
    match: Literal["flops", "parameters"] = field(default="flops", metadata={"help": "What all models have alike."})
    seeds: int = field(default=3, metadata={"help": "Runs of each kind, with the seeds from --seed on."})
    hidden_size: int = field(default=128, metadata={"help": "Width of tokens, streams or patches."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Layers; of a looped model layers times steps."})
    num_attention_heads: int = field(default=4, metadata={"help": "Number of attention heads."})


def build_thoughtbubbles(sizes: dict, **changes) -> ThoughtbubblesForCausalLM:
    """Forks before the second and third quarter of the layers."""
    depth = sizes["num_hidden_layers"]
    forks = {"fork_layers": sorted({depth // 4, depth // 2}), "fork_budget": 2.0}
    return ThoughtbubblesForCausalLM(ThoughtbubblesConfig(**{**sizes, **forks, **changes}))


def build_thinker(sizes: dict) -> LoopedThinkerForCausalLM:
    """Half the layers, twice."""
    depth = max(1, sizes["num_hidden_layers"] // 2)
    loop = {"num_hidden_layers": depth, "num_steps": sizes["num_hidden_layers"] // depth}
    return LoopedThinkerForCausalLM(LoopedThinkerTextConfig(**{**sizes, **loop}))


def build_byte_patch(sizes: dict) -> BytePatchForCausalLM:
    """Patches of words; bytes are half as wide."""
    core = {f"core_{name}": sizes[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    bytes_ = {"hidden_size": sizes["hidden_size"] // 2, "num_hidden_layers": 2, "encoder_num_hidden_layers": 1}
    return BytePatchForCausalLM(BytePatchConfig(**{**sizes, **core, **bytes_}))


OURS = {
    "thoughtbubbles": build_thoughtbubbles,
    "threshold": lambda sizes: build_thoughtbubbles(sizes, fork_rule="threshold"),
    "copy": lambda sizes: build_thoughtbubbles(sizes, fork_rule="copy", fork_layers=[0]),
    "gpt": lambda sizes: build_thoughtbubbles(sizes, fork_layers=[]),
    "thinker": build_thinker,
    "byte_patch": build_byte_patch,
    "generic": lambda sizes: GenericTransformerForCausalLM(GenericTransformerConfig(**sizes, feed_forward="swiglu")),
}


def choose_sizes(compare: CompareArguments, data: DataArguments, tokenizer) -> dict:
    """What all kinds have in common."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    return {
        **{name: getattr(compare, name) for name in names},
        "vocab_size": len(tokenizer),
        "max_position_embeddings": data.block_size,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


@torch.no_grad()
def count_patches(model: PreTrainedModel, batches: list[list[list[int]]]) -> list[int]:
    """Patches of the rows of each batch, as many as its row with most has; none of models without any."""
    if not isinstance(model, BytePatchForCausalLM):
        return []
    finder = model.eval().model
    return [finder.find_patches(torch.tensor(rows), None).lengths.shape[1] for rows in batches]


def count_flops(model: PreTrainedModel, batches: list[list[list[int]]]) -> float:
    """
    Operations of a forward pass over a row, the mean over batches; a forking model has the streams that its budget
    says.
    """
    lengths = [{"num_patches": count} for count in count_patches(model, batches)] or [{}]
    num_tokens = len(batches[0][0])
    return statistics.mean(estimate_flops(model.config, num_tokens, **given).forward for given in lengths)


def draw_batches(blocks, batch_size: int) -> list[list[list[int]]]:
    """The first training text in batches, to count on."""
    rows = blocks["train"][: max(NUM_COUNTED_BLOCKS, batch_size)]["input_ids"]
    return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]


def build(name: str, compare: CompareArguments, sizes: dict, batches) -> tuple[PreTrainedModel, float]:
    """A model of a kind, and how many steps it takes for each step of the first kind."""
    first = next((kind for kind in compare.models if kind in OURS), None)
    reference = OURS[first](sizes) if first else GenericTransformerForCausalLM(GenericTransformerConfig(**sizes))
    if name in OURS:
        model = OURS[name](sizes)
    elif compare.match == "flops":
        counts = count_patches(reference, batches)
        lengths = {"num_patches": round(statistics.mean(counts))} if counts else {}
        model = matched_baseline(reference, name, "flops", len(batches[0][0]), **lengths)
    else:
        model = matched_baseline(reference, name, "parameters")
    if compare.match == "parameters":
        return model, 1.0
    return model, count_flops(reference, batches) / count_flops(model, batches)


def score(model: PreTrainedModel, blocks, tokenizer, data: DataArguments) -> dict[str, float | None]:
    """Bits per byte of whole blocks, and how many more are needed from prefixes where that is another number."""
    whole = score_dataset(model, blocks, tokenizer, batch_size=16, max_blocks=data.scored_blocks)
    is_ahead = getattr(model.config, "fork_rule", None) == "topk" and bool(model.config.fork_layers)
    look_ahead = None
    if is_ahead and data.prefix_blocks > 0:
        limits = {"batch_size": data.prefix_blocks, "max_blocks": data.prefix_blocks}
        honest = score_dataset(model, blocks, tokenizer, reading="prefix", **limits)
        same = score_dataset(model, blocks, tokenizer, **limits)
        look_ahead = honest["bits_per_byte"] - same["bits_per_byte"]
    return {"bits_per_byte": whole["bits_per_byte"], "look_ahead_bits_per_byte": look_ahead}


def score_trained(name: str, data: DataArguments, args: TextTrainingArguments) -> dict:
    """A model that is there already, with its own tokenizer."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(name).to(args.device), AutoTokenizer.from_pretrained(name)
    blocks = load_blocks(data, tokenizer, args)
    model.loss_type = "ForCausalLM"
    if getattr(model.config, "patching", None) == "token":
        drawing = AutoTokenizer.from_pretrained(name, subfolder=PATCH_TOKENIZER)
        blocks = measure_patches(blocks, drawing, model.config.max_patch_bytes)
    first = {name: torch.tensor([ids], device=model.device) for name, ids in blocks["validation"][0].items()}
    ids = blocks["validation"][0]["input_ids"]
    flops = measure_flops(model, **{k: first[k] for k in first if k != "labels"}, use_cache=False)
    return {
        "parameters": model.num_parameters(),
        "flops_per_byte": flops / count_bytes(ids, tokenizer),
        **score(model, blocks["validation"], tokenizer, data),
    }


def count_bytes(ids: list[int], tokenizer) -> int:
    """Bytes of text that ids stand for."""
    return int(count_token_bytes(tokenizer)[ids].sum())


def train_new(
    name: str, seed: int, compare: CompareArguments, data: DataArguments, args: TextTrainingArguments
) -> dict:
    """Train and score one model."""
    tokenizer, blocks = build_byte_tokenizer(), load_from_disk(str(Path(args.output_dir) / "data"))
    batches = draw_batches(blocks, args.train_batch_size)
    set_seed(seed)
    model, num_steps = build(name, compare, choose_sizes(compare, data, tokenizer), batches)
    set_seed(seed)
    args.seed, args.max_steps = seed, max(1, round(args.max_steps * num_steps))
    args.warmup_steps = args.warmup_steps * num_steps if args.warmup_steps >= 1 else args.warmup_steps
    args.eval_steps = math.ceil(args.max_steps / NUM_CURVE_POINTS)
    args.output_dir, args.skip_memory_metrics = str(Path(args.output_dir) / "trainer" / f"{name}-{seed}"), False
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=blocks["train"],
        eval_dataset=blocks["validation"],
        processing_class=tokenizer,
        data_collator=collate_blocks,
        callbacks=[HubCallback()],
        **bits_per_byte_metrics(tokenizer),
    )
    metrics = trainer.train().metrics
    flops, rows_a_step = count_flops(model, batches), args.train_batch_size * args.gradient_accumulation_steps
    step_flops = 3 * flops * rows_a_step
    curve = [
        (entry["step"] * step_flops, entry["eval_bits_per_byte"])
        for entry in trainer.state.log_history
        if "eval_loss" in entry
    ]
    seconds = metrics["train_runtime"] - sum(entry.get("eval_runtime", 0) for entry in trainer.state.log_history)
    counted = [ids for rows in batches for ids in rows]
    device = "gpu" if args.device.type == "cuda" else "cpu"
    peak = metrics[f"train_mem_{device}_alloc_delta"] + metrics[f"train_mem_{device}_peaked_delta"]
    return {
        "steps": args.max_steps,
        "parameters": model.num_parameters(),
        "flops_per_byte": flops * len(counted) / sum(count_bytes(ids, tokenizer) for ids in counted),
        "training_flops": args.max_steps * step_flops,
        "tokens_per_second": args.max_steps * rows_a_step * len(counted[0]) / seconds,
        "peak_memory_mb": peak / 2**20,
        "curve": curve,
        **score(model, blocks["validation"], tokenizer, data),
    }


def run(name: str, seed: int, path: Path, compare: CompareArguments, data: DataArguments, arguments: dict):
    """One run, in a process of its own; its file appears when it is whole."""
    args = TextTrainingArguments(**arguments)
    is_new = name in OURS or name in NATIVE
    result = train_new(name, seed, compare, data, args) if is_new else score_trained(name, data, args)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps({"model": name, "seed": seed, **result}, indent=1))
    unfinished.rename(path)


def prepare(compare: CompareArguments, data: DataArguments, args: TextTrainingArguments, parser: HfArgumentParser):
    """Blocks of bytes, packed once for all runs, and what all runs of the folder have in common."""
    folder = Path(args.output_dir)
    names = ("match", "hidden_size", "num_hidden_layers", "num_attention_heads")
    settings = {name: getattr(compare, name) for name in names}
    settings |= {"first": compare.models[0], **vars(data)}
    names = [name for name, field in TextTrainingArguments.__dataclass_fields__.items() if field.init]
    names = [name for name in names if name not in FREE_ARGUMENTS and not name.startswith(FREE_BEGINNINGS)]
    settings |= {name: getattr(args, name) for name in names}
    settings = json.loads(json.dumps(settings, default=str))  # as they are read again
    path = folder / "settings.json"
    if path.exists():
        before = json.loads(path.read_text())
        changed = [
            f"{name} {before.get(name)} there, {value} now"
            for name, value in settings.items()
            if before.get(name) != value
        ]
        if changed:
            parser.error(
                f"--output_dir {folder} holds runs with other settings: {'; '.join(changed)}. Use another folder"
            )
        return
    DatasetDict(load_blocks(data, build_byte_tokenizer(), args)).save_to_disk(str(folder / "data"))
    path.write_text(json.dumps(settings, indent=1))


def do_missing(compare: CompareArguments, data: DataArguments, args: TextTrainingArguments, given: dict) -> list[Path]:
    """Start a process for every run that has no file yet; gives the files of all runs."""
    folder, paths = Path(args.output_dir) / "runs", []
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seed, args.seed + compare.seeds):
        for name in compare.models:
            is_new = name in OURS or name in NATIVE
            path = folder / f"{name.replace('/', '--')}-{seed if is_new else digest_model(name)}.json"
            if path in paths:
                continue
            paths.append(path)
            if path.exists():
                continue
            print(f"\n== {name}, seed {seed} ==" if is_new else f"\n== {name} ==", flush=True)
            process = multiprocessing.get_context("spawn").Process(
                target=run, args=(name, seed, path, compare, data, given)
            )
            process.start()
            process.join()
            if process.exitcode != 0:
                raise SystemExit(f"{path.stem} failed, see above. Started again, the command goes on from here.")
    return paths


def digest_model(name: str) -> str:
    """A digest of the weights, configuration and tokenizer in a folder, or the commit that a Hub name stands for."""
    if not Path(name).is_dir():
        return Path(cached_file(name, CONFIG_NAME)).parent.name
    digest = hashlib.sha256()
    weights, tokenizers = ("*.safetensors", "*.index.json", "pytorch_model*"), ("", f"{PATCH_TOKENIZER}/")
    for pattern in (*weights, CONFIG_NAME, *(f"{folder}tokenizer.json" for folder in tokenizers)):
        for path in sorted(Path(name).glob(pattern)):
            digest.update(path.relative_to(name).as_posix().encode())
            with path.open("rb") as file:
                while block := file.read(READ_BYTES):
                    digest.update(block)
    return digest.hexdigest()[:16]


def describe(values: list[float | None], form: str) -> str:
    """Mean and standard deviation, without those that are not there."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return ""
    deviation = (
        f" ± {form.format(statistics.stdev(numbers))}" if len(numbers) > 1 and statistics.stdev(numbers) else ""
    )
    return form.format(statistics.mean(numbers)) + deviation


def write_tables(runs: dict[str, list[dict]], folder: Path) -> str:
    """`table.csv` with a line a run, `table.md` with a line a model; gives the latter."""
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["model", "seed", "steps", *COLUMNS], extrasaction="ignore")
        writer.writeheader()
        for results in runs.values():
            writer.writerows(results)
    lines = ["| model | seeds | " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |"]
    lines.append("|" + "---|" * (2 + len(COLUMNS)))
    for name, results in runs.items():
        cells = [describe([result.get(column) for result in results], form) for column, form in COLUMNS.items()]
        lines.append(f"| {name} | {len(results)} | " + " | ".join(cells) + " |")
    table = "\n".join(lines) + "\n"
    (folder / "table.md").write_text(table)
    return table


def draw_curves(runs: dict[str, list[dict]], path: Path):
    """Bits per byte over training operations: mean over seeds, and the span between them."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, results in runs.items():
        curves = [result["curve"] for result in results if result.get("curve")]
        if not curves:
            for result in results:
                axes.axhline(result["bits_per_byte"], linestyle="--", linewidth=1, label=name)
            continue
        points = list(zip(*curves, strict=False))  # as many as the shortest has
        flops = [column[0][0] for column in points]
        bits = [[bits for _, bits in column] for column in points]
        line = axes.plot(flops, [statistics.mean(values) for values in bits], marker=".", label=name)[0]
        axes.fill_between(flops, list(map(min, bits)), list(map(max, bits)), alpha=0.2, color=line.get_color())
    axes.set_xlabel("training FLOPs")
    axes.set_ylabel("bits per byte, validation, whole blocks")
    axes.set_xscale("log")
    axes.legend()
    figure.savefig(path, dpi=150)


def main():
    """Parse flags, run what is missing, print the comparison."""
    parser = HfArgumentParser((CompareArguments, DataArguments, TextTrainingArguments))
    compare, data, args = parser.parse_args_into_dataclasses()
    check_flags(parser, data, args)
    if compare.seeds < 1:
        parser.error(f"--seeds is {compare.seeds}; at least one run is needed")
    if data.tokenizer or data.streaming:
        parser.error(
            "--tokenizer or --streaming was passed, but models are compared on bytes of local text. Remove it"
        )
    known = [*OURS, *NATIVE]
    for name in compare.models:
        if name not in known and not Path(name).is_dir() and "/" not in name:
            parser.error(f"--models names {name}; it must be one of {known}, a folder, or a Hub name with its owner")
    given = {name: getattr(args, name) for name, f in TextTrainingArguments.__dataclass_fields__.items() if f.init}
    prepare(compare, data, args, parser)
    paths = do_missing(compare, data, args, given)
    runs: dict[str, list[dict]] = {}
    for path in paths:
        result = json.loads(path.read_text())
        runs.setdefault(result["model"], []).append(result)
    folder = Path(args.output_dir)
    table = write_tables(runs, folder)
    draw_curves(runs, folder / "curves.png")
    print(f"\n{table}\nin {folder / 'table.md'} and {folder / 'table.csv'}, drawn in {folder / 'curves.png'}")


if __name__ == "__main__":
    main()
