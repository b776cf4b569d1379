# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How far converted models are from their native ones: forks with a budget of 1 and loops of one step.

    python benchmarks/native_exactness.py                    # the table in docs/conversion.md
    python benchmarks/native_exactness.py --natives llama    # the models whose name begins so

Weights are random, those of biases and norms included, and large enough that the logits have a standard deviation of
1.4 to 3.4. Errors are the largest over all logits, absolute, in float32; of the padded batch those of real tokens.

logits      32 rows of 48 tokens
padded      4 rows of 1 to 24 tokens with padding on the left
packed      4 rows of 3 documents, told apart by `position_ids`
bf16        both models in bfloat16, on 32 rows of 48 tokens: the largest error in roundings, that is in steps between
            neighbouring numbers of bfloat16 at the largest native logit of the token
gradients   of all shared weights after one batch, relative to the largest gradient of a weight
greedy, sampled, beams
            tokens that differ, of 8 rows of 40 new tokens, half of them padded; sampled with one seed, 3 beams
"""

import argparse

import torch
from transformers import PreTrainedModel

from hf_thoughtbubbles.conversion.native import choose_names
from hf_thoughtbubbles.conversion.native_weights import join_parts
from tiny_natives import KINDS, NATIVES, build_native, draw_ids


SETTINGS = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.9},
    "beams": {"do_sample": False, "num_beams": 3},
}
COLUMNS = ("logits", "padded", "packed", "bf16", "gradients", *SETTINGS)
BFLOAT16_STEP = 2**-7  # between 1 and the next number of bfloat16


def pad_rows(lengths: list[int]) -> dict[str, torch.Tensor]:
    """A batch with padding on the left, and the positions that `generate` counts along the mask."""
    input_ids = draw_ids(len(lengths), max(lengths))
    attention_mask = (torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]).long()
    position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": input_ids * attention_mask, "attention_mask": attention_mask, "position_ids": position_ids}


def pack_rows(lengths: list[int]) -> dict[str, torch.Tensor]:
    """Rows of several documents without padding."""
    position_ids = torch.cat([torch.arange(length) for length in lengths]).expand(4, -1)
    return {"input_ids": draw_ids(4, sum(lengths)), "position_ids": position_ids}


@torch.no_grad()
def compare_logits(native: PreTrainedModel, model: PreTrainedModel, **batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Native logits and ours, of real tokens alone."""
    kept = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
    native_logits = native(**batch, use_cache=False).logits  # which it needs to tell documents apart
    return native_logits[kept].float(), model(**batch).logits[kept].float()


def count_roundings(expected: torch.Tensor, given: torch.Tensor) -> float:
    """The largest difference in steps between neighbouring numbers of bfloat16."""
    steps = 2.0 ** expected.abs().amax(-1, keepdim=True).log2().floor() * BFLOAT16_STEP
    return ((given - expected).abs() / steps).max().item()


def compare_gradients(native: PreTrainedModel, model: PreTrainedModel) -> float:
    """The largest difference of gradients, relative to the largest gradient of the same weight."""
    input_ids = draw_ids(8, 32)
    for each in (native, model):
        each.zero_grad()
        each(input_ids, labels=input_ids).loss.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    name_layer = choose_names(model.config)
    worst = 0.0
    for name, parameter in native.named_parameters():
        gradient = join_parts(name, name_layer, gradients)
        worst = max(worst, ((gradient - parameter.grad).abs().max() / parameter.grad.abs().max()).item())
    return worst


def count_other_tokens(native: PreTrainedModel, model: PreTrainedModel, **settings) -> str:
    """Tokens that differ, of all that the native model generated."""
    num_other = num_tokens = 0
    for batch in ({"input_ids": draw_ids(4, 8)}, pad_rows([8, 5, 3, 1])):
        batch.pop("position_ids", None)
        texts = []
        for each in (native, model):
            torch.manual_seed(0)
            texts.append(each.generate(**batch, **settings, max_new_tokens=40, pad_token_id=0))
        expected, given = texts
        is_other = expected != given if expected.shape == given.shape else torch.ones_like(expected, dtype=torch.bool)
        num_other += int(is_other.sum())
        num_tokens += expected.numel() - batch["input_ids"].numel()
    return f"{num_other} / {num_tokens}"


def measure(kind: str, name: str) -> dict[str, str]:
    """One row of the table."""
    native = build_native(name)
    model = KINDS[kind](native)
    batches = {
        "logits": {"input_ids": draw_ids(32, 48)},
        "padded": pad_rows([24, 17, 6, 1]),
        "packed": pack_rows([9, 22, 14]),
    }
    cells = {}
    for column, batch in batches.items():
        expected, given = compare_logits(native, model, **batch)
        cells[column] = format_error((given - expected).abs().max().item())
    cells["gradients"] = format_error(compare_gradients(native, model))
    cells |= {column: count_other_tokens(native, model, **settings) for column, settings in SETTINGS.items()}
    halved = build_native(name, dtype=torch.bfloat16)
    cells["bf16"] = f"{count_roundings(*compare_logits(halved, KINDS[kind](halved), **batches['logits'])):.3g}"
    return cells


def format_error(error: float) -> str:
    """An error with one digit after the point; 0 says that all bits are equal."""
    return "0" if error == 0 else f"{error:.1e}"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--natives", nargs="*", default=[""], help="beginnings of names, as llama (default: all)")
    parser.add_argument("--kinds", nargs="*", default=[*KINDS], choices=[*KINDS], help="forks, loops (default: both)")
    args = parser.parse_args()
    print(f"| native model | converted to | {' | '.join(COLUMNS)} |")
    print(f"|---|---|{'---|' * len(COLUMNS)}")
    for name in (name for name in NATIVES if name.startswith(tuple(args.natives))):
        for kind in args.kinds:
            cells = measure(kind, name)
            print(f"| {name} | {kind} | {' | '.join(cells[column] for column in COLUMNS)} |", flush=True)


if __name__ == "__main__":
    main()
