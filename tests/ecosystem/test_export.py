# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Exported models compute what the models compute, at other sizes than those of the export."""

import pytest
import torch
from torch import nn
from torch.export import Dim

from hf_thoughtbubbles import BytePatchForCausalLM
from tests.ecosystem.byte_models import BYTES, make_byte_patch
from tests.families import LOOP, NATIVE_LAYERS, Family, make_config, make_generic, make_thinker


# torch.onnx asks pytree under a name that pytree is about to drop
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]

SMALL = {**BYTES, "num_hidden_layers": 2}
FORKING = {**SMALL, "fork_layers": [1]}
NATIVE = {**NATIVE_LAYERS, "fork_anchored": True, "fork_score_channel": "beside", "fork_adapter_rank": 5}
PATCHES = {"core_num_hidden_layers": 1, "num_hidden_layers": 1}
FAMILIES = [
    make_generic("generic", num_key_value_heads=2, position_embedding="relative", max_relative_position=5, **SMALL),
    Family("gpt", make_config(**{**SMALL, "fork_layers": []})),
    Family("threshold", make_config(fork_rule="threshold", **FORKING)),
    Family("native", make_config(**NATIVE, **FORKING)),
    Family("unforked", make_config(**NATIVE, **{**FORKING, "fork_budget": 1.0})),
    Family("copy", make_config(fork_rule="copy", **{**FORKING, "fork_budget": 2})),
    make_thinker("thinker", **{**BYTES, "num_hidden_layers": 1, "num_steps": 2}),
    make_thinker("loop", **{**BYTES, **LOOP, "num_hidden_layers": 1, "num_steps": 2, "num_key_value_heads": 1}),
    make_byte_patch(name="fixed", patching="fixed", **PATCHES),
    make_byte_patch(name="space", **PATCHES),
]
TOPK = Family("topk", make_config(**FORKING), is_causal=False, has_cache=False)
EXPORTED = (3, 11)  # rows and tokens that the export sees
OTHERS = ((1, 9), (2, 29), (5, 13), (2, 14), (1, 35))  # and others, whole patches too
LONGEST = 40
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


class Logits(nn.Module):
    """A model as a function of two tensors: what torch.export needs to name them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def draw(num_rows: int, length: int) -> dict:
    """Letters, spaces and characters of several bytes, the first row with padding on its left."""
    letters = torch.tensor(list("abc de é漢".encode()))
    mask = torch.ones(num_rows, length, dtype=torch.long)
    mask[0, :2] = 0
    ids = letters[torch.randint(0, len(letters), (num_rows, length))]
    return {"input_ids": ids.masked_fill(mask == 0, BYTES["pad_token_id"]), "attention_mask": mask}


def find_fewest(model) -> int:
    """The fewest tokens of a row that an exported model reads; of bytes, more than a patch may have."""
    return model.config.max_patch_bytes + 1 if isinstance(model, BytePatchForCausalLM) else 2


def get_dynamic_shapes(model) -> dict:
    """Any number of rows, and of tokens."""
    sizes = {0: Dim("rows", min=1, max=64), 1: Dim("tokens", min=find_fewest(model), max=LONGEST)}
    return {"input_ids": sizes, "attention_mask": sizes}


def keep(model, inputs: dict) -> torch.export.ExportedProgram:
    """The model as torch.export writes it down; what it cannot prove of sizes is checked when they come."""
    return torch.export.export(
        Logits(model),
        args=(),
        kwargs=inputs,
        dynamic_shapes=get_dynamic_shapes(model),
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def compare(model, read):
    """What `read` gives for other sizes is what the model gives, at real tokens."""
    for size in OTHERS:
        inputs = draw(*size)
        is_real = inputs["attention_mask"].bool()
        expected = model(**inputs, use_cache=False).logits
        torch.testing.assert_close(read(inputs)[is_real], expected[is_real], **TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@torch.no_grad()
def test_what_torch_export_and_onnx_keep_computes_the_same_at_other_sizes(family):
    import onnxruntime  # imported here: with onnxscript below it takes seconds, in every collection

    model, inputs = family.build(), draw(*EXPORTED)
    program = keep(model, inputs)
    exported = program.module()
    compare(model, lambda other: exported(**other))
    for wrong in (LONGEST + 1, *([] if find_fewest(model) == 2 else [find_fewest(model) - 1])):
        with pytest.raises(AssertionError, match=f">= {find_fewest(model)}|<= {LONGEST}"):
            exported(**draw(3, wrong))

    graph = torch.onnx.export(program, dynamo=True, verbose=False).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    compare(model, lambda other: torch.from_numpy(session.run(None, {k: v.numpy() for k, v in other.items()})[0]))


@torch.no_grad()
def test_what_the_exporter_of_transformers_keeps_computes_the_same_at_other_sizes():
    """The published fork rule sorts stably, which torch.onnx alone does not know and this exporter does; unpadded."""
    from transformers.exporters import OnnxConfig, OnnxExporter

    model, inputs = TOPK.build(), {"input_ids": torch.randint(0, 256, EXPORTED)}
    num_streams = model(**inputs, output_forks=True).forks[0].num_streams
    assert num_streams.unique().tolist() == [1, 2]  # it decides
    config = OnnxConfig(
        dynamic_shapes={"input_ids": get_dynamic_shapes(model)["input_ids"]},
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    exported = OnnxExporter().export(model, {**inputs, "use_cache": False}, config=config)
    for size in OTHERS:
        ids = torch.randint(0, 256, size)
        torch.testing.assert_close(exported(input_ids=ids).logits, model(ids).logits, **TOLERANCE)


@torch.no_grad()
def test_the_published_fork_rule_is_exported_with_padding_too():
    model = TOPK.build()
    exported = keep(model, draw(*EXPORTED)).module()
    compare(model, lambda other: exported(**other))
