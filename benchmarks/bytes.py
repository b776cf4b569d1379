# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Benchmark of byte models: speed of tokenizing, training and generation.

    python benchmarks/bytes.py                        # CPU, float32
    python benchmarks/bytes.py --parts tokenizer      # one of: tokenizer, training, generation, drafts
    python benchmarks/bytes.py --quick                # tiny: it runs, but its numbers mean nothing

tokenizer   the byte tokenizer against ByT5's (both of transformers, on documents of about a kilobyte), and against
            what needs no tokenizer because ids are bytes: `encode_bytes`, `decode_bytes`, a memory-mapped file.
training    bytes a second of a training step: patches of words and of six bytes, both decoders, against a flat native
            GPT-2 over bytes with as many parameters, and one as deep that is narrower until a forward pass takes as
            many operations.
generation  bytes a second with a cache at a long context, of one row and of many. Text of the standard library is
            forced on all models byte by byte, because patches of what an untrained model would write say nothing.
drafts      bytes a second of `generate` for one row, greedy and sampled, with drafts, without, and with transformers'
            prompt lookup, against a flat GPT-2 whose forward pass takes as many operations. The model
            with drafts is trained first, because drafts of an untrained one are wrong; prompts are texts that were
            not trained on. Time counts from the first new byte on. The speed of GPT-2 does not depend on its weights.

Models take turns in one process; medians are compared, of generation means over several texts. Operations are those
of a forward pass over text, counted by torch with attention written out.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    get_cosine_schedule_with_warmup,
)
from transformers.generation import BaseStreamer

from hf_thoughtbubbles import (
    BytePatchConfig,
    BytePatchForCausalLM,
    build_byte_tokenizer,
    decode_bytes,
    encode_bytes,
)
from hf_thoughtbubbles.data.text import load_text
from hf_thoughtbubbles.evaluation.baselines import matched_baseline
from hf_thoughtbubbles.evaluation.flops import measure_flops


SIZES = {
    "usual": {
        "core_hidden_size": 384, "core_num_hidden_layers": 6, "core_num_attention_heads": 6, "hidden_size": 128,
        "encoder_num_hidden_layers": 1, "num_hidden_layers": 2, "context": 2048, "new_bytes": 96, "rows": (1, 32),
        "batch": 8, "block": 512, "documents_bytes": 1 << 20, "repeats": 5,
        "drafts": {
            "prompts": (512, 1900), "new_bytes": 128, "num_draft_bytes": 8, "steps": 300, "rows": 4, "block": 512,
        },
    },
    "quick": {
        "core_hidden_size": 32, "core_num_hidden_layers": 2, "core_num_attention_heads": 2, "hidden_size": 16,
        "encoder_num_hidden_layers": 1, "num_hidden_layers": 1, "context": 64, "new_bytes": 8, "rows": (1, 2),
        "batch": 2, "block": 64, "documents_bytes": 1 << 14, "repeats": 2,
        "drafts": {
            "prompts": (24,), "new_bytes": 16, "num_draft_bytes": 4, "steps": 2, "rows": 2, "block": 32,
        },
    },
}  # fmt: skip
ARMS = {
    "words, autoregressive": {},
    "words, parallel": {"decoder": "parallel"},
    "six bytes, autoregressive": {"patching": "fixed", "patch_size": 6},
    "six bytes, parallel": {"patching": "fixed", "patch_size": 6, "decoder": "parallel"},
}
DOCUMENT_BYTES = 1000


def build(size: dict, changes: dict) -> BytePatchForCausalLM:
    """One of ours."""
    names = ("core_hidden_size", "core_num_hidden_layers", "core_num_attention_heads")
    names += ("hidden_size", "encoder_num_hidden_layers", "num_hidden_layers")
    fields = {name: size[name] for name in names}
    return BytePatchForCausalLM(BytePatchConfig(**fields, max_position_embeddings=size["context"], **changes))


def build_flat(size: dict, width: int, vocab_size: int = 259) -> GPT2LMHeadModel:
    """A native GPT-2 over bytes or tokens, as deep as the core."""
    config = GPT2Config(
        vocab_size=vocab_size, n_embd=width, n_layer=size["core_num_hidden_layers"],
        n_head=size["core_num_attention_heads"], n_positions=size["context"], resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # transformers derives it from the class name and warns about this one
    return model


def count_flops(model: PreTrainedModel, ids: torch.Tensor) -> float:
    """Operations of a forward pass a byte."""
    return measure_flops(model, ids, use_cache=False) / ids.numel()


def build_models(size: dict, text: torch.Tensor, length: int) -> dict[str, PreTrainedModel]:
    """Ours and the flat ones; `text` `(n,)`, of which `length` bytes are counted."""
    torch.manual_seed(0)
    models: dict[str, PreTrainedModel] = {name: build(size, changes) for name, changes in ARMS.items()}
    ours, ids = models["words, autoregressive"], text[None, :length]
    models["GPT-2, parameters"] = matched_baseline(ours)
    wanted, step = count_flops(ours, ids), 2 * size["core_num_attention_heads"]
    widths = range(step, 2 * size["core_hidden_size"], step)
    width = min(widths, key=lambda width: abs(estimate_flat_flops(size, width, length) - wanted))
    models["GPT-2, FLOPs"] = build_flat(size, width)
    return models


def estimate_flat_flops(size: dict, width: int, length: int) -> float:
    """Operations of a flat GPT-2 a byte: its matrices, and attention over `length` bytes."""
    return 2 * size["core_num_hidden_layers"] * (12 * width**2 + 2 * length * width) + 2 * 259 * width


def take_turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, in turns, after one warm-up each."""
    seconds = {name: [] for name in calls}
    for turn in range(1 + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def load_bytes(num_bytes: int) -> bytes:
    """So many bytes of the standard library's source."""
    documents, data = load_text()["train"], b""
    for row in documents:
        data += row["text"].encode()
        if len(data) >= num_bytes:
            return data[:num_bytes]
    raise ValueError(f"The standard library's documents hold {len(data)} bytes, fewer than {num_bytes}.")


def measure_tokenizers(size: dict):
    """Megabytes a second of encoding and decoding."""
    data = load_bytes(size["documents_bytes"])
    text = data.decode(errors="ignore")
    documents = [text[i : i + DOCUMENT_BYTES] for i in range(0, len(text), DOCUMENT_BYTES)]
    ours, theirs = build_byte_tokenizer(), ByT5Tokenizer()
    encoded = {name: [tok(d).input_ids for d in documents] for name, tok in (("ours", ours), ("ByT5", theirs))}
    tensors, their_tensors = ([torch.tensor(ids) for ids in rows] for rows in encoded.values())
    encode_fast = ours.backend_tokenizer.encode_batch_fast
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.bin"
        path.write_bytes(data)

        def read_file():
            return torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="r").astype(np.int64))

        calls = {
            "encode, byte tokenizer": lambda: [ours(d) for d in documents],
            "encode, byte tokenizer, one batch": lambda: ours(documents),
            "encode, library without offsets": lambda: [
                e.ids for e in encode_fast(documents, add_special_tokens=False)
            ],
            "encode, ByT5": lambda: [theirs(d) for d in documents],
            "encode, encode_bytes": lambda: [encode_bytes(d.encode()) for d in documents],
            "decode, byte tokenizer": lambda: [ours.decode(ids) for ids in encoded["ours"]],
            "decode, byte tokenizer, tensors": lambda: [ours.decode(ids) for ids in tensors],
            "decode, library": lambda: [ours.backend_tokenizer.decode(ids) for ids in encoded["ours"]],
            "decode, ByT5": lambda: [theirs.decode(ids) for ids in encoded["ByT5"]],
            "decode, ByT5, tensors": lambda: [theirs.decode(ids) for ids in their_tensors],
            "decode, decode_bytes": lambda: [decode_bytes(ids).decode() for ids in encoded["ours"]],
            "memory-mapped file": read_file,
        }
        seconds = take_turns(calls, size["repeats"])
    print("\n| tokenizer | MB/s |\n|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {len(data) / value / 1e6:.2f} |")
    for name, value in seconds.items():
        kind = name.split(",")[0]
        other = f"{kind}, ByT5" + (", tensors" if name.endswith("tensors") else "")
        if other in seconds:
            print(f"\n{name}: {seconds[other] / value:.1f} times ByT5's speed")


def describe(models: dict[str, PreTrainedModel], ids: torch.Tensor, rates: dict[str, float], what: str):
    """A table of models, with speeds relative to the flat ones."""
    print(f"\n| {what} | parameters | MFLOPs a byte | bytes/s | / GPT-2, parameters | / GPT-2, FLOPs |")
    print("|---|---|---|---|---|---|")
    for name, model in models.items():
        ratios = [rates[name] / rates[other] for other in ("GPT-2, parameters", "GPT-2, FLOPs")]
        flops = count_flops(model, ids) / 1e6
        print(f"| {name} | {model.num_parameters():,} | {flops:.2f} | {rates[name]:,.0f} |", end=" ")
        print(" | ".join(f"{ratio:.2f}" for ratio in ratios), "|")


def measure_training(size: dict):
    """Bytes a second of forward, backward and AdamW."""
    text = torch.tensor(list(load_bytes(size["batch"] * size["block"])))
    models, ids = build_models(size, text, size["block"]), text.view(size["batch"], size["block"])

    def make_step(model: PreTrainedModel):
        optimizer = torch.optim.AdamW(model.parameters())

        def step():
            model.train()(ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    seconds = take_turns({name: make_step(model) for name, model in models.items()}, size["repeats"])
    rates = {name: ids.numel() / value for name, value in seconds.items()}
    describe(models, ids[:1], rates, f"training, {size['batch']} rows of {size['block']}")


def measure_generation(size: dict):
    """Bytes a second with a cache, up to the full context."""
    most = max(size["rows"])
    text = torch.tensor(list(load_bytes(most * size["context"]))).view(most, -1)
    models, first = build_models(size, text[0], size["context"]), size["context"] - size["new_bytes"]

    @torch.inference_mode()
    def write(model: PreTrainedModel, ids: torch.Tensor) -> float:
        cache = model.eval()(ids[:, :first], use_cache=True, logits_to_keep=1).past_key_values
        start = time.perf_counter()
        for byte in range(first, size["context"]):
            cache = model(ids[:, byte : byte + 1], past_key_values=cache, use_cache=True).past_key_values
        return time.perf_counter() - start

    for num_rows in size["rows"]:
        seconds = {name: [] for name in models}
        for turn in range(1 + max(2, size["repeats"] // num_rows)):
            rows = text.roll(-turn * num_rows, dims=0)[:num_rows]  # other texts each turn: patches differ
            for name, model in models.items():
                value = write(model, rows)
                if turn > 0:
                    seconds[name].append(value)
        rates = {name: num_rows * size["new_bytes"] / statistics.mean(values) for name, values in seconds.items()}
        what = f"generation, {num_rows} {'row' if num_rows == 1 else 'rows'}, context of {size['context']}"
        describe(models, text[:1], rates, what)


class Clock(BaseStreamer):
    """Seconds and passes of one generated text, from its first byte on."""

    def __init__(self):
        self.times: list[float] = []

    def put(self, value: torch.Tensor):
        self.times.append(time.perf_counter())

    def end(self):
        self.seconds, self.num_passes = self.times[-1] - self.times[1], len(self.times) - 2


def train_with_drafts(size: dict) -> BytePatchForCausalLM:
    """A model with drafts, trained on the standard library's text."""
    torch.manual_seed(0)
    model = build(size, {"num_draft_bytes": size["num_draft_bytes"]}).train()
    text = torch.frombuffer(bytearray(load_bytes(size["steps"] * size["rows"] * size["block"] * 2)), dtype=torch.uint8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98))
    schedule = get_cosine_schedule_with_warmup(optimizer, size["steps"] // 20, size["steps"])
    losses, start = [], time.perf_counter()
    for _ in range(size["steps"]):
        starts = torch.randint(len(text) - size["block"], (size["rows"],)).tolist()
        ids = torch.stack([text[first : first + size["block"]] for first in starts]).long()
        outputs = model(ids, labels=ids)
        outputs.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append([(outputs.loss - outputs.draft_loss).item(), outputs.draft_loss.item()])
    bits, draft_bits = (torch.tensor(losses[-20:]).mean(0) / math.log(2)).tolist()
    print(f"\nTrained for {size['steps']} steps of {size['rows']} x {size['block']} bytes in", end=" ")
    print(f"{time.perf_counter() - start:.0f} s: {bits:.2f} bits a byte, {draft_bits:.2f} of drafted bytes")
    return model.eval()


def count_generation_flops(model: PreTrainedModel, prompt: torch.Tensor, num_bytes: int, options: dict) -> float:
    """Operations a generated byte, with drafts and rejected bytes, without those of the prompt."""
    attention, counts = model.config._attn_implementation, []
    model.set_attn_implementation("eager")
    for number in (1, num_bytes):
        torch.manual_seed(0)
        with FlopCounterMode(display=False) as counter:
            model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=number, **options)
        counts.append(counter.get_total_flops())
    model.set_attn_implementation(attention)
    return (counts[1] - counts[0]) / (num_bytes - 1)


def measure_drafts(size: dict):
    """Bytes a second of `generate`, with drafts and without."""
    size = {**size, **size["drafts"]}
    ours, texts = train_with_drafts(size), load_text()["validation"]
    for length in size["prompts"]:
        prompts = [list(row["text"].encode()[:length]) for row in texts if len(row["text"].encode()) >= length]
        prompts = [torch.tensor([prompt]) for prompt in prompts[: 1 + size["repeats"]]]
        wanted, step = count_flops(ours, prompts[0]), 2 * size["core_num_attention_heads"]
        widths = range(step, 4 * size["core_hidden_size"], step)
        flat = build_flat(size, min(widths, key=lambda w: abs(estimate_flat_flops(size, w, length) - wanted))).eval()
        arms = {
            "drafts": (ours, {}),
            "no drafts": (ours, {"num_draft_bytes": 0}),
            "prompt lookup": (ours, {"prompt_lookup_num_tokens": size["num_draft_bytes"]}),
            "GPT-2, FLOPs": (flat, {}),
        }
        for is_sampled in (False, True):
            options = {"do_sample": is_sampled, "pad_token_id": 258, **({"top_k": 0} if is_sampled else {})}
            what = f"{'sampled' if is_sampled else 'greedy'}, {length} bytes of prompt, {size['new_bytes']} new"
            print(f"\n| {what} | MFLOPs a byte, forward | generated | bytes/s | spread | bytes a pass | / GPT-2 |")
            print("|---|---|---|---|---|---|---|")
            describe_drafts({name: (m, {**o, **options}) for name, (m, o) in arms.items()}, prompts, size)


def describe_drafts(arms: dict[str, tuple], prompts: list[torch.Tensor], size: dict):
    """A table of arms, which take turns on each prompt; the first prompt is not timed."""
    rates, passes, texts = {name: [] for name in arms}, dict.fromkeys(arms, 0), {name: [] for name in arms}
    for turn, prompt in enumerate(prompts):
        for name, (model, options) in arms.items():
            clock = Clock()
            torch.manual_seed(turn)
            sizes = {"max_new_tokens": size["new_bytes"], "streamer": clock, "attention_mask": torch.ones_like(prompt)}
            texts[name].append(model.generate(prompt, **sizes, **options)[0].tolist())
            if turn > 0:
                rates[name].append((size["new_bytes"] - 1) / clock.seconds)
                passes[name] += clock.num_passes
    for name, (model, options) in arms.items():
        low, middle, high = statistics.quantiles(rates[name], n=4)
        flops = count_flops(model, prompts[0]), count_generation_flops(model, prompts[0], size["new_bytes"], options)
        a_pass = len(rates[name]) * (size["new_bytes"] - 1) / passes[name]
        ratio = statistics.median(ours / flat for ours, flat in zip(rates[name], rates["GPT-2, FLOPs"], strict=True))
        print(f"| {name} | {flops[0] / 1e6:.2f} | {flops[1] / 1e6:.2f} | {middle:,.0f} |", end=" ")
        print(f"{low:,.0f} to {high:,.0f} | {a_pass:.2f} | {ratio:.2f} |", flush=True)
    if not options["do_sample"]:
        print(f"\nGreedy texts with and without drafts are equal: {texts['drafts'] == texts['no drafts']}")


PARTS = {
    "tokenizer": measure_tokenizers,
    "training": measure_training,
    "generation": measure_generation,
    "drafts": measure_drafts,
}


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for part in args.parts:
        PARTS[part](SIZES["quick" if args.quick else "usual"])


if __name__ == "__main__":
    main()
