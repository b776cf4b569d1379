# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A table of inputs that no model can read: each must raise an error that names its argument.

Rows are made of families, calls, arguments and kinds of mistakes. `python -m tests.fuzz.bad_inputs` prints the rows
that are accepted, or refused without the name.
"""

import functools
import sys

import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache

from tests.fuzz.bad_rows import (
    ABSENT,
    INF,
    LENGTH,
    NAN,
    POSITIONS,
    SMALL,
    SPANS,
    WRITERS,
    BadInput,
    build,
    call_forward,
    call_generate,
    find_fault,
    make_ids,
    make_inputs,
    make_row,
)
from tests.fuzz.bad_settings import list_settings


# Kinds of mistakes

IDS = {
    "float": lambda: make_ids().float(),
    "list": lambda: make_ids().tolist(),
    "one dimension": lambda: make_ids()[0],
    "three dimensions": lambda: make_ids()[None],
    "empty": lambda: make_ids()[:, :0],
    "negative": lambda: make_ids() - 9,
    "too large": lambda: make_ids() + 900,
}
MASKS = {
    "too short": lambda: torch.ones(2, LENGTH - 1).long(),
    "one row": lambda: torch.ones(1, LENGTH).long(),
    "twos": lambda: torch.full((2, LENGTH), 2),
    "additive": lambda: torch.tensor([[-INF] * 2 + [0.0] * (LENGTH - 2)] * 2),
    "NaN": lambda: torch.full((2, LENGTH), NAN),
    "list": lambda: [[1] * LENGTH] * 2,
}
POSITION_IDS = {
    "negative": lambda: torch.arange(LENGTH)[None] - 3,
    "too large": lambda: torch.arange(LENGTH)[None] + 1000,
    "one too large": lambda: torch.arange(LENGTH)[None] + POSITIONS - LENGTH + 1,
    "fractions": lambda: torch.arange(LENGTH)[None] + 0.5,
    "too long": lambda: torch.arange(LENGTH + 1)[None],
    "three rows": lambda: torch.arange(LENGTH).repeat(3, 1),
    "list": lambda: [list(range(LENGTH))] * 2,
}
LABELS = {  # for labels of (2, length)
    "transposed": lambda n: make_ids(2, n).T.contiguous(),
    "flat": lambda n: make_ids(2, n).flatten(),
    "longer": lambda n: make_ids(2, n + 1),
    "one row": lambda n: make_ids(1, n),
    "three dimensions": lambda n: make_ids(2, n)[..., None],
    "too large": lambda n: make_ids(2, n) + 900,
    "negative": lambda n: make_ids(2, n) * 0 - 1,
    "float": lambda n: make_ids(2, n).float(),
    "list": lambda n: make_ids(2, n).tolist(),
}
COUNTS = {"zero": 0, "fraction": 1.5, "text": "2"}


def list_ids() -> list[BadInput]:
    families = [family for family in SMALL if family != "plain"]  # the same class as threshold
    rows = [make_row(family, "input_ids", kind, value) for family in families for kind, value in IDS.items()]
    rows += [make_row(family, "decoder_input_ids", kind, value) for family in WRITERS for kind, value in IDS.items()]
    rows += [make_row(family, "input_ids", "missing", ABSENT) for family in families]
    for family in families:
        width = 8 if family == "byte_patch" else 7  # bytes take no vectors, of whatever width
        vectors = torch.zeros(2, LENGTH, width)
        rows.append(make_row(family, "inputs_embeds", "other width", vectors, input_ids=ABSENT))
        rows.append(make_row(family, "inputs_embeds", "beside ids", torch.zeros(2, LENGTH, 8)))
    return rows


def list_masks() -> list[BadInput]:
    families = ("threshold", "topk", "generic", "bidirectional", "thinker_text", "byte_patch", *WRITERS)
    rows = [make_row(family, "attention_mask", kind, value) for family in families for kind, value in MASKS.items()]
    pairs = torch.ones(2, 1, LENGTH, LENGTH).bool()
    for family in ("threshold", "topk", "byte_patch", *WRITERS):
        rows.append(make_row(family, "attention_mask", "of pairs", pairs))
    short = {"too short": torch.ones(2, 2).long(), "twos": torch.full((2, 3), 2), "additive": torch.zeros(2, 3) - INF}
    for family in WRITERS:
        rows += [make_row(family, "decoder_attention_mask", kind, value) for kind, value in short.items()]
    hidden = torch.tensor([[0, 1, 1, 1, 1, 1]] * 2)
    restarts = torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
    for family in ("threshold", "plain", "generic", "thinker_text", "byte_patch"):
        packed = {"position_ids": restarts, "use_cache": False}
        rows.append(make_row(family, "attention_mask", "hides a token of packed rows", hidden, **packed))
    return rows


def list_positions() -> list[BadInput]:
    families = ("threshold", "learned", "generic", "thinker_text", "thinker")
    rows = [
        make_row(family, "position_ids", kind, value)
        for family in families
        for kind, value in POSITION_IDS.items()
        if family == "learned" or "too large" not in kind  # elsewhere late positions are computed, with a warning
    ]
    kinds = ("fractions", "too long", "three rows", "list")
    rows += [make_row("byte_patch", "position_ids", kind, POSITION_IDS[kind]) for kind in kinds]
    for argument in ("position_ids", "decoder_position_ids"):
        rows.append(make_row("next_thought", argument, "not taken", torch.arange(LENGTH)[None]))
    packed = torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
    rows.append(make_row("topk", "position_ids", "packed documents", packed))
    return rows


def list_labels() -> list[BadInput]:
    rows = []
    for family in ("threshold", "topk", "generic", "thinker_text", "byte_patch", "parallel", *WRITERS):
        is_text = family not in (*WRITERS, "parallel")
        length = LENGTH if is_text else 3
        others = {} if is_text else {"decoder_input_ids": ABSENT, "answer_length": ABSENT}
        for kind, value in LABELS.items():
            if not is_text and kind == "longer":
                continue  # answers are as long as their labels
            rows.append(make_row(family, "labels", kind, functools.partial(value, length), **others))
    for family in WRITERS:
        rows.append(make_row(family, "labels", "longer than the decoder's input", make_ids(2, 4)))
    rows.append(make_row("thinker", "probe_targets", "too short", torch.zeros(2, 2, 2), labels=make_ids(2, 3)))
    rows.append(make_row("thinker", "probe_targets", "without labels", torch.zeros(2, 3, 2)))
    rows.append(make_row("parallel", "probe_targets", "without probes", torch.zeros(2, 3, 2), labels=make_ids(2, 3)))
    classes = {
        "too large": torch.tensor([0, 3]),
        "negative": torch.tensor([0, -1]),
        "three rows": torch.tensor([0, 1, 2]),
        "two dimensions": torch.tensor([[0, 1, 1], [1, 0, 1]]),
        "list": [0, 1],
    }
    spans = {
        "float": torch.tensor([0.5, 1.0]),
        "negative": torch.tensor([0, -1]),
        "three rows": torch.tensor([0, 1, 2]),
        "list": [0, 1],
    }
    for owner in (*SPANS, "LoopedThinker", "BytePatch"):
        family = f"{owner}ForSequenceClassification"
        rows += [make_row(family, "labels", kind, value) for kind, value in classes.items()]
        family = f"{owner}ForTokenClassification"
        rows += [make_row(family, "labels", kind, functools.partial(value, LENGTH)) for kind, value in LABELS.items()]
    for owner in SPANS:
        family, right = f"{owner}ForQuestionAnswering", torch.tensor([0, 1])
        for argument, other in (("start_positions", "end_positions"), ("end_positions", "start_positions")):
            rows += [make_row(family, argument, kind, value, **{other: right}) for kind, value in spans.items()]
    return rows


def fill_cache(family: str, num_rows: int = 2):
    return build(family)(**make_inputs(family, num_rows), use_cache=True).past_key_values


def list_caches() -> list[BadInput]:
    rows = []
    for family in ("threshold", "plain", "generic", "thinker_text", "byte_patch", *WRITERS):
        is_writer = family in WRITERS
        other = (
            DynamicCache()
            if is_writer or family == "byte_patch"
            else EncoderDecoderCache(DynamicCache(), DynamicCache())
        )
        wrong = {
            "three rows": functools.partial(fill_cache, family, 3),
            "tuple": ((torch.zeros(2, 2, 3, 4), torch.zeros(2, 2, 3, 4)),) * 2,
            "list": [torch.zeros(2, 2, 3, 4)],
            "other kind": other,
            "other model": functools.partial(
                fill_cache, "generic" if family in ("byte_patch", *WRITERS) else "byte_patch"
            ),
        }
        rows += [make_row(family, "past_key_values", kind, value) for kind, value in wrong.items()]
        rows.append(make_row(family, "past_key_values", "three rows", wrong["three rows"], call_generate))

    def make_short(family: str):
        return StaticCache(config=build(family).config, max_cache_len=LENGTH - 2)

    for family in ("plain", "generic", "thinker_text"):
        rows.append(make_row(family, "past_key_values", "too short", functools.partial(make_short, family)))
        cache = DynamicCache()
        rows.append(make_row(family, "past_key_values", "under both names", cache, cache=cache))
    for family in ("topk", "bidirectional"):
        rows.append(make_row(family, "use_cache", "no cache is exact", True))
        rows.append(make_row(family, "past_key_values", "no cache is exact", DynamicCache))
    rows.append(make_row("parallel", "past_key_values", "needs none", functools.partial(fill_cache, "thinker")))
    long = {"attention_mask": torch.ones(2, 2 * LENGTH - 1).long()}
    for family in ("threshold", "generic", "thinker_text", "byte_patch"):
        cached = functools.partial(fill_cache, family)
        rows.append(
            BadInput(
                family,
                "forward",
                "attention_mask",
                "without the cached tokens",
                lambda family=family, cached=cached: call_forward(family, past_key_values=cached(), **long),
            )
        )
    return rows


def list_kept_logits() -> list[BadInput]:
    wrong = {
        "negative": -2,
        "fraction": 1.5,
        "index too large": torch.tensor([LENGTH + 1]),
    }
    families = ("threshold", "generic", "thinker_text", "byte_patch", "next_thought")
    rows = [make_row(family, "logits_to_keep", kind, value) for family in families for kind, value in wrong.items()]
    return [*rows, make_row("thinker", "logits_to_keep", "not taken", 1)]


FOREIGN = {
    "fork_budget": (2.0, ("thoughtbubbles",)),
    "output_forks": (True, ("thoughtbubbles",)),
    "num_steps": (2, ("thinker", "thinker_text")),
    "output_steps": (True, ("thinker", "thinker_text")),
    "exit_threshold": (0.1, ("thinker_text",)),
    "num_latents": (2, ("thinker",)),
    "memory_ids": (torch.zeros(2, 1).long(), ("thinker",)),
    "loop_decoder": (True, ("thinker",)),
    "num_thoughts": (2, ("next_thought",)),
    "output_pooling": (True, ("next_thought",)),
    "patch_lengths": (torch.tensor([[4, 2]] * 2), ("byte_patch",)),
    "output_patches": (True, ("byte_patch",)),
}


def list_foreign() -> list[BadInput]:
    rows = []
    for family in ("threshold", "generic", "thinker_text", "thinker", "byte_patch", "next_thought"):
        owner = "thoughtbubbles" if family == "threshold" else family
        for argument, (value, owners) in FOREIGN.items():
            if owner not in owners:
                rows.append(make_row(family, argument, "of another family", value))
                if argument in ("fork_budget", "num_steps", "num_thoughts", "output_patches"):
                    rows.append(make_row(family, argument, "of another family", value, call_generate))
    for family, argument in (("plain", "fork_budget"), ("copy", "fork_budget")):
        for call in (call_forward, call_generate):
            rows.append(make_row(family, argument, "without effect", 2.0, call))
    return rows


def list_generation_fields() -> list[BadInput]:
    rows = []
    budgets = {"half": 0.5, "NaN": NAN, "text": "2", "not calibrated": 3.0}
    thresholds = {"negative": -0.1, "NaN": NAN, "text": "0"}
    for call in (call_forward, call_generate):
        rows += [make_row("threshold", "fork_budget", kind, value, call) for kind, value in budgets.items()]
        for family in ("thinker_text", "thinker"):
            rows += [make_row(family, "num_steps", kind, value, call) for kind, value in COUNTS.items()]
        rows += [make_row("thinker_text", "exit_threshold", kind, value, call) for kind, value in thresholds.items()]
        rows += [make_row("next_thought", "num_thoughts", kind, value, call) for kind, value in COUNTS.items()]
        rows += [make_row("thinker", "num_latents", kind, value, call) for kind, value in COUNTS.items()]
        rows.append(make_row("thinker", "num_latents", "too many", 4, call))
        rows.append(make_row("thinker", "num_read_steps", "negative", -1, call))
        rows.append(make_row("thinker", "num_read_steps", "fraction", 0.5, call))
        memories = {
            "too large": torch.full((2, 1), 3),
            "negative": torch.full((2, 1), -1),
            "three rows": torch.zeros(3, 1).long(),
            "float": torch.zeros(2, 1),
        }
        rows += [make_row("thinker", "memory_ids", kind, value, call) for kind, value in memories.items()]
        rows.append(make_row("parallel", "memory_ids", "without memories", torch.zeros(2, 1).long(), call))
        lengths = {
            "sum too small": torch.tensor([[4, 1]] * 2),
            "too long": torch.tensor([[6]] * 2),
            "negative": torch.tensor([[-1, 4, 3]] * 2),
            "zero inside": torch.tensor([[4, 0, 2]] * 2),
            "one row": torch.tensor([[4, 2]]),
            "float": torch.tensor([[4.0, 2.0]] * 2),
            "list": [[4, 2]] * 2,
        }
        rows += [make_row("token_patch", "patch_lengths", kind, value, call) for kind, value in lengths.items()]
        rows.append(make_row("token_patch", "patch_lengths", "missing", ABSENT, call))
    rows += [make_row("parallel", "answer_length", kind, value) for kind, value in COUNTS.items()]
    blocks = {
        "other width": torch.zeros(2, 2, 4).long(),
        "two dimensions": make_ids(),
        "too large": 900 + torch.zeros(2, 2, 5).long(),
    }
    for kind, value in blocks.items():
        rows.append(make_row("block_patch", "patch_input_ids", kind, value, input_ids=ABSENT))
    rows.append(
        make_row("byte_patch", "patch_input_ids", "other decoder", torch.zeros(2, 2, 5).long(), input_ids=ABSENT)
    )
    rows.append(make_row("block_patch", "patch_input_ids", "beside ids", torch.zeros(2, 2, 5).long()))
    rows.append(make_row("next_thought", "encoder_outputs", "no output", (torch.zeros(2, 7),)))
    return rows


def list_generation() -> list[BadInput]:
    rows = []
    for family in ("learned", "thinker", "next_thought"):  # with a table of positions
        rows.append(make_row(family, "max_new_tokens", "too many", 50, call_generate))
    for family in ("topk", "byte_patch", "parallel", "bidirectional"):
        rows.append(make_row(family, "cache_implementation", "static", "static", call_generate))
    for argument in ("prefill_chunk_size", "prompt_lookup_num_tokens"):
        rows.append(make_row("topk", argument, "no cache", 2, call_generate))
    for family in ("thinker", "parallel", "next_thought"):
        rows.append(make_row(family, "guidance_scale", "answers", 1.5, call_generate))
    rows.append(make_row("byte_patch", "output_patches", "without a dict", True, call_generate))
    rows.append(make_row("threshold", "output_forks", "without a dict", True, call_generate))
    rows.append(make_row("plain", "output_forks", "no forks", True, call_generate, return_dict_in_generate=True))
    for family in SMALL:
        rows.append(make_row(family, "input_ids", "too large", make_ids() + 900, call_generate))
        rows.append(make_row(family, "input_ids", "float", make_ids().float(), call_generate))
    for family in ("threshold", "generic", "thinker_text", "byte_patch", *WRITERS):
        for kind in ("additive", "too short"):
            rows.append(make_row(family, "attention_mask", kind, MASKS[kind], call_generate))
    special = torch.tensor([[97, 98, 257, 99, 100, 101]])
    for call in (call_forward, call_generate):
        lengths = torch.tensor([[4, 2]])
        row = make_row("token_patch", "patch_lengths", "special token inside", lengths, call, input_ids=special)
        rows.append(row)
    return rows


def has_attentions(out) -> bool:
    names = ("attentions", "decoder_attentions")
    return any(len(out[name] or ()) > 0 for name in names if name in out)


def list_outputs() -> list[BadInput]:
    """Outputs that sdpa does not give are an error or are there."""
    return [
        BadInput(
            family,
            "forward",
            "output_attentions",
            "under sdpa",
            lambda family=family: call_forward(family, output_attentions=True),
            has_attentions,
        )
        for family in SMALL
    ]


def list_bad_inputs() -> list[BadInput]:
    """The whole table."""
    lists = (
        list_ids,
        list_masks,
        list_positions,
        list_labels,
        list_caches,
        list_kept_logits,
        list_foreign,
        list_generation_fields,
        list_generation,
        list_outputs,
        list_settings,
    )
    return [row for make_rows in lists for row in make_rows()]


def main() -> int:
    """Print the rows that fail, and how many there are."""
    rows = list_bad_inputs()
    faults = {str(row): find_fault(row) for row in rows}
    assert len(faults) == len(rows), "two rows have one name"
    wrong = {name: fault for name, fault in faults.items() if fault is not None}
    for name, fault in wrong.items():
        print(f"{name}: {fault}")
    print(f"{len(wrong)} of {len(rows)} rows fail")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
