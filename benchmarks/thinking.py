# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The cost of thinking: time, FLOPs and memory of looped Thinkers beside native GPT-2.

    python benchmarks/thinking.py                       # CPU, float32: the size of the claims in docs/results.md
    python benchmarks/thinking.py --threads 1
    python benchmarks/thinking.py --device cuda         # bf16, wider models, longer inputs
    python benchmarks/thinking.py --parts exit          # some of: length, depth, loops, exit
    python benchmarks/thinking.py --parts loops --compile --rows 1  # training steps compiled
    python benchmarks/thinking.py --quick               # tiny, without memory: a test that it runs, no measurement

length  one more step of a model that answers problems, and one more layer of a native GPT-2 of the same width, by the
        length of the input. Each is the difference of two forward passes, divided by the steps or layers between.
depth   one layer applied 8 times against a native GPT-2 of 8 layers and the same width: forward pass, training step,
        memory, parameters and generation with a cache; and a model that answers problems on the same input.
loops   training steps and cached tokens, with memories of all and of one earlier step, against transformers' HRM-Text
        (eight applications of one layer of the same width) and GPT-2 of 8 layers: time ratio over FLOP ratio.
exit    the time that an exit threshold saves in generation, with a model that was trained for a minute. Thresholds are
        quantiles of the relative change of latents in a step, on validation text. Decisions of generation with its
        cache are compared with a pass without one.

The models take turns in one process and medians are compared, so a busy machine slows all equally. FLOPs are those of
the matrix products that torch counts, with attention; causal attention counts in full. Memory is the highest resident
(CPU) or allocated (GPU) amount above that before the model, in a process of its own.
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, HrmTextConfig, HrmTextForCausalLM, PreTrainedModel

from generation import Arm, make_prompt, synchronize
from hf_thoughtbubbles import (
    LoopedThinkerConfig,
    LoopedThinkerForCausalLM,
    LoopedThinkerForConditionalGeneration,
    LoopedThinkerTextConfig,
    build_byte_tokenizer,
)
from hf_thoughtbubbles.data.text import load_text, pack_blocks
from hf_thoughtbubbles.plots.steps import measure_change


SIZES = {
    "cpu": {
        "vocab_size": 259, "hidden_size": 256, "num_attention_heads": 4, "batch": 8, "tokens": 256,
        "lengths": [128 << i for i in range(9)], "native_longest": 8192, "length_batch": 1,
        "prompts": [64, 512], "problems": [64, 1024], "new_tokens": 33,
        "exit": {"hidden_size": 128, "block": 128, "batch": 16, "steps": 150, "blocks": 64, "documents": 100,
                 "new_tokens": 65},
    },
    "cuda": {
        "vocab_size": 50304, "hidden_size": 768, "num_attention_heads": 12, "batch": 32, "tokens": 512,
        "lengths": [1024 << i for i in range(8)], "native_longest": 32768, "length_batch": 4,
        "prompts": [64, 512], "problems": [64, 1024], "new_tokens": 33,
        "exit": {"hidden_size": 256, "block": 128, "batch": 64, "steps": 400, "blocks": 128,
                 "documents": 300, "new_tokens": 65},
    },
    "quick": {
        "vocab_size": 37, "hidden_size": 16, "num_attention_heads": 2, "batch": 2, "tokens": 32,
        "lengths": [8, 16, 32, 64], "native_longest": 32, "length_batch": 1,
        "prompts": [8], "problems": [8], "new_tokens": 3,
        "exit": {"hidden_size": 16, "block": 16, "batch": 4, "steps": 3, "blocks": 4, "documents": 2, "new_tokens": 5},
    },
}  # fmt: skip
LOOP_SIZES = {
    "cpu": {"num_attention_heads": 8, "rows": (1, 8, 32), "contexts": (64, 512)},
    "cuda": {"rows": (1, 8, 32), "contexts": (64, 512)},
    "quick": {"rows": (1, 2), "contexts": (8,)},
}
MEMORIES = {  # `num_memory_steps` and `num_read_steps`
    "looped": {},
    "looped, 1 step": {"num_memory_steps": 1},
    "looped, 1 step, input once": {"num_memory_steps": 1, "num_read_steps": 1},
}
STEPS = 8
LATENTS = 8
STEP_COUNTS = (4, 68)  # far apart: reading the input once costs many steps
LAYER_COUNTS = (1, 3)  # fewer, because attention over a long input takes long
TRAINED_STEPS = (2, 8)
QUANTILES = (0.1, 0.25, 0.5, 0.75)
SAME_LOGITS = 1e-4


def build_gpt2(size: dict, num_layers: int, max_length: int) -> GPT2LMHeadModel:
    """Native GPT-2 without dropout."""
    config = GPT2Config(
        vocab_size=size["vocab_size"], n_embd=size["hidden_size"], n_layer=num_layers,
        n_head=size["num_attention_heads"], n_positions=max_length, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def build_hrm(size: dict, max_length: int) -> HrmTextForCausalLM:
    """transformers' HRM-Text: two stacks of one layer, applied `STEPS` times in all, causal, with all gradients."""
    width, num_heads = size["hidden_size"], size["num_attention_heads"]
    config = HrmTextConfig(
        vocab_size=size["vocab_size"], hidden_size=width, intermediate_size=4 * width, num_hidden_layers=1,
        num_attention_heads=num_heads, head_dim=width // num_heads, max_position_embeddings=max_length,
        prefix_lm=False, H_cycles=2, L_cycles=STEPS // 2 - 1, L_bp_cycles=[STEPS // 2 - 1] * 2,
        tie_word_embeddings=True,
    )  # fmt: skip
    return HrmTextForCausalLM(config)


def build_looped(size: dict, max_length: int, is_text: bool, **memory: int) -> PreTrainedModel:
    """Return one layer applied `STEPS` times: a model that continues text, or that answers problems."""
    sizes = {name: size[name] for name in ("vocab_size", "hidden_size", "num_attention_heads")}
    sizes |= {"num_steps": STEPS, "max_position_embeddings": max_length, "pad_token_id": 0, **memory}
    if is_text:
        return LoopedThinkerForCausalLM(LoopedThinkerTextConfig(**sizes))
    return LoopedThinkerForConditionalGeneration(LoopedThinkerConfig(**sizes, num_latents=LATENTS))


def prepare(model: PreTrainedModel, device: str) -> PreTrainedModel:
    """Move a model to the device for inference, in bf16 on a GPU."""
    return model.to(device, torch.bfloat16 if device == "cuda" else torch.float32).eval()


def count_flops(build: Callable[[], PreTrainedModel], call: Callable[[PreTrainedModel], object]) -> int:
    """FLOPs of a call, on the meta device; with eager attention, because torch does not count all fused kernels."""
    with torch.device("meta"):
        model = build().eval()
        model.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter:
            call(model)
    return counter.get_total_flops()


@torch.no_grad()
def take_turns(calls: dict[str, Callable[[], object]], device: str, repeats: int, warm_ups: int = 1) -> dict:
    """Seconds of each call, in turns: a list for each."""
    seconds = {name: [] for name in calls}
    for turn in range(warm_ups + repeats):
        for name, call in calls.items():
            synchronize(device)
            start = time.perf_counter()
            call()
            synchronize(device)
            if turn >= warm_ups:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compare(seconds: dict[str, list[float]], ours: str, theirs: str) -> str:
    """Ratio of medians, and the quartiles of the ratios of turns."""
    ratio = statistics.median(seconds[ours]) / statistics.median(seconds[theirs])
    pairs = [mine / other for mine, other in zip(seconds[ours], seconds[theirs], strict=True)]
    low, _, high = statistics.quantiles(pairs)
    return f"{ratio:.2f} ({low:.2f} to {high:.2f})"


def print_row(*cells: object):
    """One line of a Markdown table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def print_head(*cells: str):
    """The first two lines of a Markdown table."""
    print_row(*cells)
    print("|" + "---|" * len(cells))


def fit_exponent(lengths: list[int], costs: list[float]) -> float:
    """The power of the length that a cost grows with, by least squares over the longer half."""
    half = len(costs) // 2
    return float(np.polyfit(np.log(lengths[half : len(costs)]), np.log(np.maximum(costs[half:], 1e-12)), 1)[0])


def read_native(model: PreTrainedModel, batch: int, length: int, **options):
    """A pass of GPT-2 with a mask, because on the meta device transformers cannot read whether one is needed."""
    ids, mask = torch.zeros(batch, length, dtype=torch.long), torch.zeros(1, 1, length, length)
    return model(ids, attention_mask=mask, use_cache=False, **options)


def count_step_flops(size: dict, length: int) -> float:
    """FLOPs of one more step, for a batch of inputs of `length` tokens."""
    few, many = (
        count_flops(
            lambda: build_looped(size, length, is_text=False),
            lambda model, n=n: model.get_encoder()(
                torch.zeros(size["length_batch"], length, dtype=torch.long), num_steps=n
            ),
        )
        for n in STEP_COUNTS
    )
    return (many - few) / (STEP_COUNTS[1] - STEP_COUNTS[0])


def count_layer_flops(size: dict, length: int) -> float:
    """FLOPs of one more layer of GPT-2, for a batch of inputs of `length` tokens."""
    shallow, deep = (
        count_flops(
            lambda n=n: build_gpt2(size, n, length).transformer,
            lambda model: read_native(model, size["length_batch"], length),
        )
        for n in LAYER_COUNTS
    )
    return (deep - shallow) / (LAYER_COUNTS[1] - LAYER_COUNTS[0])


def find_marginal(seconds: dict, name: str, counts: tuple[int, int]) -> float:
    """Seconds of one more step or layer: the median over turns."""
    few, many = counts
    pairs = zip(seconds[name, many], seconds[name, few], strict=True)
    return statistics.median((high - low) / (many - few) for high, low in pairs)


def describe_cost(costs: dict[str, list[float]], name: str) -> list[str]:
    """Milliseconds, growth since half the length, and MFLOPs at the last length."""
    times = costs[name]
    growth = f"{times[-1] / times[-2]:.2f}" if len(times) > 1 else ""
    return [f"{1e3 * times[-1]:.3f}", growth, f"{costs[f'{name} FLOPs'][-1] / 1e6:.2f}"]


def measure_lengths(size: dict, device: str, repeats: int):
    """Print the cost of one more step by the length of the input, beside one more layer of GPT-2."""
    torch.manual_seed(0)
    encoder = prepare(build_looped(size, max(size["lengths"]), is_text=False), device).get_encoder()
    layered = {count: build_gpt2(size, count, size["native_longest"]).transformer for count in LAYER_COUNTS}
    natives = {count: prepare(model, device) for count, model in layered.items()}
    print(f"\n### One more step of {LATENTS} latents by input length, batch {size['length_batch']}\n")
    print_head(
        "input", "a step (ms)", "per doubling", "MFLOPs", "a layer of GPT-2 (ms)", "per doubling", "MFLOPs",
        "time of step / layer",
    )  # fmt: skip
    costs = {name: [] for name in ("step", "step FLOPs", "layer", "layer FLOPs")}
    for length in size["lengths"]:
        ids = torch.randint(0, size["vocab_size"], (size["length_batch"], length), device=device)
        is_compared = length <= size["native_longest"]
        calls = {("step", n): lambda n=n, ids=ids: encoder(input_ids=ids, num_steps=n) for n in STEP_COUNTS}
        if is_compared:
            calls |= {("layer", n): lambda n=n, ids=ids: natives[n](ids, use_cache=False) for n in LAYER_COUNTS}
        seconds = take_turns(calls, device, repeats, warm_ups=2)
        costs["step"].append(find_marginal(seconds, "step", STEP_COUNTS))
        costs["step FLOPs"].append(count_step_flops(size, length))
        if is_compared:
            costs["layer"].append(find_marginal(seconds, "layer", LAYER_COUNTS))
            costs["layer FLOPs"].append(count_layer_flops(size, length))
        cells = [*describe_cost(costs, "step"), *(describe_cost(costs, "layer") if is_compared else [""] * 3)]
        print_row(length, *cells, f"{costs['step'][-1] / costs['layer'][-1]:.4f}" if is_compared else "")
    print("\nexponents over the longer half: ", end="")
    print(", ".join(f"{name} {fit_exponent(size['lengths'], values):.2f}" for name, values in costs.items()))


def build_deep(name: str, size: dict, max_length: int) -> PreTrainedModel:
    """A looped model of `MEMORIES`, or `hrm` of as many applications or `gpt2` of as many layers as it has steps."""
    if name in MEMORIES:
        model = build_looped(size, max_length, is_text=True, **MEMORIES[name])
    else:
        model = build_hrm(size, max_length) if name == "hrm" else build_gpt2(size, STEPS, max_length)
    model.loss_type = "ForCausalLM"  # transformers derives it from the class name and warns for GPT-2
    return model


class Training:
    """One optimizer step of a model on random tokens."""

    def __init__(self, name: str, size: dict, device: str, is_compiled: bool = False):
        torch.manual_seed(0)
        self.model = build_deep(name, size, size["tokens"]).to(device).train()
        self.forward = torch.compile(self.model) if is_compiled else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=device == "cuda")
        self.device = device
        self.input_ids = torch.randint(0, size["vocab_size"], (size["batch"], size["tokens"]), device=device)

    @torch.enable_grad()
    def __call__(self):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss = self.forward(input_ids=self.input_ids, labels=self.input_ids, use_cache=False).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure_memory(name: str, size: dict, device: str) -> int:
    """Bytes that training adds to this process at its highest. Run in a process of its own."""
    torch.randn(512, 512, requires_grad=True).matmul(torch.randn(512, 512)).sum().backward()  # load the libraries
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = Training(name, size, device)
    for _ in range(3):
        step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def measure_memory_ratio(device: str) -> float:
    """Ours over GPT-2's. Before anything else: a process inherits the peak of the one that starts it."""
    memory = {}
    for name in ("looped", "gpt2"):
        command = [sys.executable, __file__, "--device", device, "--threads", str(torch.get_num_threads())]
        command += ["--memory_of", name]
        memory[name] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(f"training {name}: {memory[name] / 2**20:.1f} MiB at the highest", flush=True)
    return memory["looped"] / max(memory["gpt2"], 1)


def measure_depth(size: dict, device: str, repeats: int, memory_ratio: float | None):
    """Print the cost of the whole loop beside a native model with as many layers as the loop has steps."""
    torch.manual_seed(0)
    batch, tokens = size["batch"], size["tokens"]
    longest = max(tokens, *size["problems"], *(prompt + size["new_tokens"] for prompt in size["prompts"]))
    models = {name: prepare(build_deep(name, size, longest), device) for name in ("looped", "gpt2")}
    ids = torch.randint(0, size["vocab_size"], (batch, tokens), device=device)
    parameters = {name: model.num_parameters() for name, model in models.items()}
    flops = {
        "looped": count_flops(
            lambda: build_deep("looped", size, tokens),
            lambda model: model(torch.zeros(1, tokens, dtype=torch.long), use_cache=False),
        ),
        "gpt2": count_flops(lambda: build_deep("gpt2", size, tokens), lambda model: read_native(model, 1, tokens)),
    }
    forward = {name: lambda model=model: model(ids, use_cache=False) for name, model in models.items()}
    forward_seconds = take_turns(forward, device, repeats)
    training_seconds = take_turns({name: Training(name, size, device) for name in models}, device, repeats, 2)

    print(f"\n### 1 layer, {STEPS} steps against GPT-2 with {STEPS} layers, batch {batch}, {tokens} tokens\n")
    print_head("", "looped", "GPT-2", "ratio")
    print_row("parameters", *parameters.values(), f"{parameters['looped'] / parameters['gpt2']:.3f}")
    print_row(
        "GFLOPs of a row", *(f"{count / 1e9:.2f}" for count in flops.values()),
        f"{flops['looped'] / flops['gpt2']:.2f}",
    )  # fmt: skip
    for label, seconds in (("forward (ms)", forward_seconds), ("training step (ms)", training_seconds)):
        medians = [f"{1e3 * statistics.median(times):.1f}" for times in seconds.values()]
        print_row(label, *medians, compare(seconds, "looped", "gpt2"))
    if memory_ratio is not None:
        print_row("training memory", "", "", f"{memory_ratio:.2f}")

    for length in size["prompts"]:
        prompt, mask = make_prompt(length, 1, size["vocab_size"], device)
        arms = {name: Arm(model, size["new_tokens"], {}) for name, model in models.items()}
        for arm in arms.values():
            arm.generate(prompt, mask, 3)
        for _ in range(repeats):
            for arm in arms.values():
                arm.measure(prompt, mask, device)
        seconds = {name: arm.seconds for name, arm in arms.items()}
        medians = [f"{1e3 * arm.median:.2f}" for arm in arms.values()]
        print_row(f"new token after {length} (ms)", *medians, compare(seconds, "looped", "gpt2"))

    print(f"\n### {LATENTS} latents, {STEPS} steps, one answer token against the same GPT-2, batch {batch}\n")
    print_head("input", "looped (ms)", "GPT-2 (ms)", "time ratio", "FLOP ratio")
    thinker, native = prepare(build_looped(size, longest, is_text=False), device), models["gpt2"]
    for length in size["problems"]:
        ids = torch.randint(0, size["vocab_size"], (batch, length), device=device)
        query = torch.zeros(batch, 1, dtype=torch.long, device=device)
        calls = {
            "looped": lambda ids=ids, query=query: thinker(ids, decoder_input_ids=query, use_cache=False),
            "gpt2": lambda ids=ids: native(ids, use_cache=False, logits_to_keep=1),
        }
        seconds = take_turns(calls, device, repeats)
        ours = count_flops(
            lambda: build_looped(size, longest, is_text=False),
            lambda model, length=length: model(
                torch.zeros(1, length, dtype=torch.long),
                decoder_input_ids=torch.zeros(1, 1, dtype=torch.long),
                use_cache=False,
            ),
        )
        theirs = count_flops(
            lambda: build_deep("gpt2", size, longest),
            lambda model, length=length: read_native(model, 1, length, logits_to_keep=1),
        )
        medians = [f"{1e3 * statistics.median(times):.1f}" for times in seconds.values()]
        print_row(length, *medians, compare(seconds, "looped", "gpt2"), f"{ours / theirs:.3f}")


class Token:
    """One token of a model with a cache, whose context grows by the tokens that are measured."""

    def __init__(self, model: PreTrainedModel, rows: int, context: int, device: str):
        self.model, self.mask = model, torch.ones(rows, context, dtype=torch.long, device=device)
        with torch.no_grad():
            self.cache = model(torch.zeros_like(self.mask), use_cache=True, logits_to_keep=1).past_key_values

    def __call__(self):
        token = self.mask.new_zeros(self.mask.shape[0], 1)
        self.mask = torch.cat((self.mask, torch.ones_like(token)), dim=1)
        self.model(token, attention_mask=self.mask, past_key_values=self.cache, use_cache=True)


@torch.no_grad()
def count_real_flops(model: PreTrainedModel, context: int, is_token: bool) -> int:
    """FLOPs of a pass over `context` tokens, or of one more token, on the CPU with eager attention."""
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    model.set_attn_implementation("eager")
    ids = torch.zeros(1, context, dtype=torch.long)
    call = Token(model, 1, context, "cpu") if is_token else lambda: model(ids, use_cache=False)
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def measure_loops(size: dict, loops: dict, device: str, repeats: int, is_compiled: bool):
    """Print time over FLOPs of looped models beside HRM-Text's and GPT-2's."""
    size, names = size | loops, (*MEMORIES, "hrm", "gpt2")
    longest = max(size["tokens"], max(size["contexts"]) + repeats + 4)
    models = {name: prepare(build_deep(name, size, longest), device) for name in names}

    def print_rows(label: str, seconds: dict, flops: dict):
        for name in MEMORIES:
            cells = [label, name, f"{1e3 * statistics.median(seconds[name]):.2f}"]
            for other in ("hrm", "gpt2"):
                ratio = statistics.median(seconds[name]) / statistics.median(seconds[other])
                needed = flops[name] / flops[other]
                cells += [compare(seconds, name, other), f"{needed:.2f}", f"{ratio / needed:.2f}"]
            print_row(*cells)

    print(f"\n### Loops of {STEPS} steps, {size['num_attention_heads']} heads{', compiled' * is_compiled}\n")
    heads = ("time / {}", "FLOPs / {}", "per FLOP")
    print_head("", "model", "ms", *(head.format(name) for name in ("HRM-Text", "GPT-2") for head in heads))
    flops = {name: count_real_flops(model, size["tokens"], is_token=False) for name, model in models.items()}
    training = {name: Training(name, size, device, is_compiled) for name in names}
    print_rows(f"training step, {size['batch']} x {size['tokens']}", take_turns(training, device, repeats, 2), flops)
    for context in size["contexts"]:
        flops = {name: count_real_flops(model, context, is_token=True) for name, model in models.items()}
        for rows in size["rows"]:
            tokens = {name: Token(model, rows, context, device) for name, model in models.items()}
            print_rows(f"token, {rows} rows after {context}", take_turns(tokens, device, repeats, 2), flops)


def train_briefly(size: dict, device: str) -> tuple[LoopedThinkerForCausalLM, torch.Tensor]:
    """Return a model of bytes, trained with random steps, and blocks of validation text `(blocks, T)`."""
    options, tokenizer = size["exit"], build_byte_tokenizer()
    splits = {
        split: pack_blocks(
            documents.select(range(min(len(documents), options["documents"]))), tokenizer, options["block"]
        ).with_format("torch")["input_ids"][:]
        for split, documents in load_text().items()
    }
    torch.manual_seed(0)
    config = LoopedThinkerTextConfig(
        vocab_size=len(tokenizer), hidden_size=options["hidden_size"], num_steps=STEPS,
        num_attention_heads=size["num_attention_heads"], max_position_embeddings=2 * options["block"],
    )  # fmt: skip
    model = LoopedThinkerForCausalLM(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1)
    warmed = max(1, options["steps"] // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmed, 1 - step / options["steps"])
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(options["steps"]):
        rows = torch.randint(0, len(splits["train"]), (options["batch"],), generator=generator)
        num_steps = int(torch.randint(TRAINED_STEPS[0], TRAINED_STEPS[1] + 1, (1,), generator=generator))
        ids = splits["train"][rows].to(device)
        model(input_ids=ids, labels=ids, num_steps=num_steps).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    indices = torch.randperm(len(splits["validation"]), generator=generator)[: options["blocks"]]
    return model.eval(), splits["validation"][indices].to(device)


def check_decisions(model: LoopedThinkerForCausalLM, generated, prompt_length: int, threshold: float | None) -> float:
    """Return the mean steps of generated tokens, after a check that a pass without a cache gives the same logits."""
    outputs = model(generated.sequences[:, :-1], exit_threshold=threshold, use_cache=False)
    cached, uncached = torch.stack(generated.logits, dim=1), outputs.logits[:, prompt_length - 1 :]
    error = (cached - uncached).abs().max().item()
    if error > SAME_LOGITS:
        raise AssertionError(f"With exit threshold {threshold} generation's logits are {error} from an uncached pass.")
    return outputs.num_steps_used[:, prompt_length:].float().mean().item()


@torch.no_grad()
def measure_exit(model: LoopedThinkerForCausalLM, blocks: torch.Tensor, options: dict, device: str, repeats: int):
    """Print the time that exit thresholds save in generation, and their cost in bits."""
    latents = torch.cat([model(rows, output_steps=True, use_cache=False).latents for rows in blocks.split(8)])
    latents = latents.transpose(0, 1).float()  # (R, blocks, T, D)
    by_step = measure_change(latents.cpu().numpy())
    print("mean change of a latent by step: " + ", ".join(f"{change:.3f}" for change in by_step))
    changes = (latents[1:] - latents[:-1]).norm(dim=-1) / latents[1:].norm(dim=-1)
    thresholds = {"no exit": None, "0 (never done)": 0.0}  # the second shows the cost of the test
    for quantile, value in zip(QUANTILES, np.quantile(changes.cpu().numpy(), QUANTILES), strict=True):
        thresholds[f"{value:.3f} ({quantile:.0%})"] = float(value)

    bits = {}
    for label, threshold in thresholds.items():
        losses = [
            model(rows, labels=rows, exit_threshold=threshold, use_cache=False).loss.item() for rows in blocks.split(8)
        ]
        bits[label] = statistics.mean(losses) / np.log(2)
    for batch in (1, min(8, len(blocks))):
        prompt = blocks[:batch, : options["block"] // 2]
        mask, arms, steps = torch.ones_like(prompt), {}, {}
        for label, threshold in thresholds.items():
            given = {"num_steps": STEPS, "output_logits": True}
            given |= {} if threshold is None else {"exit_threshold": threshold}
            arms[label] = Arm(model, options["new_tokens"], given)
            generated = arms[label].generate(prompt, mask, options["new_tokens"])
            steps[label] = check_decisions(model, generated, prompt.shape[1], threshold)
        for _ in range(repeats):
            for arm in arms.values():
                arm.measure(prompt, mask, device)
        seconds = {label: arm.seconds for label, arm in arms.items()}
        print(f"\n### Generation with an exit, width {options['hidden_size']}, {STEPS} steps, batch {batch}\n")
        print_head("exit threshold (quantile)", "steps a token", "ms a token", "time / no exit", "bits per byte")
        for label, arm in arms.items():
            ratio = compare(seconds, label, "no exit")
            print_row(label, f"{steps[label]:.2f}", f"{1e3 * arm.median:.2f}", ratio, f"{bits[label]:.4f}")
    print("\nlogits of cached generation equal those of uncached passes with the same threshold")


def main():
    """Parse flags, measure memory, then the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--repeats", type=int, default=7)
    parts = ["length", "depth", "loops", "exit"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--compile", action="store_true", help="training steps of the part `loops` are compiled")
    parser.add_argument("--rows", nargs="+", type=int, help="rows of tokens in the part `loops` (default: 1 8 32)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, without memory, as a test")
    parser.add_argument("--memory_of", choices=["looped", "gpt2"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    size = SIZES["quick" if args.quick else args.device]
    if args.memory_of:
        print(json.dumps(measure_memory(args.memory_of, size, args.device)))
        return

    machine = f"{torch.get_num_threads()} threads" if args.device == "cpu" else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {machine}, width {size['hidden_size']}, {size['num_attention_heads']} heads")
    is_memory_measured = "depth" in args.parts and not args.quick
    memory_ratio = measure_memory_ratio(args.device) if is_memory_measured else None
    if "length" in args.parts:
        measure_lengths(size, args.device, args.repeats)
    if "depth" in args.parts:
        measure_depth(size, args.device, args.repeats, memory_ratio)
    if "loops" in args.parts:
        loops = LOOP_SIZES["quick" if args.quick else args.device]
        loops |= {"rows": args.rows} if args.rows else {}
        measure_loops(size, loops, args.device, args.repeats, args.compile)
    if "exit" in args.parts:
        start = time.perf_counter()
        model, blocks = train_briefly(size, args.device)
        print(f"\ntrained {size['exit']['steps']} steps in {time.perf_counter() - start:.0f} s")
        measure_exit(model, blocks, size["exit"], args.device, args.repeats)


if __name__ == "__main__":
    main()
