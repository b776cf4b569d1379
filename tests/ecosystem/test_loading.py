# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Models load in every way that transformers offers; a bad folder is one clear error."""

import json
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, QuantoConfig

from hf_thoughtbubbles import build_byte_tokenizer
from hf_thoughtbubbles.modeling.thoughtbubbles.modeling_thoughtbubbles import ThoughtbubblesFork
from tests.families import (
    ANSWERERS,
    BYTE_VARIANTS,
    FAMILIES,
    THOUGHT_VARIANTS,
    Answerer,
    Family,
    draw_bytes,
    draw_ids,
)


# accelerate says so of a parameter that lies beside modules; it is placed all the same,
LONE_PARAMETER = pytest.mark.filterwarnings("ignore:The following device_map keys do not match:UserWarning")
# and says at every saving of offloaded weights that a file of them must fit into memory.
SHARD_FITS = pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded modules:UserWarning")
# Of a model's size: room for nothing, for a part and for most.
SHARES = (0.05, 0.5, 0.75)


LAYERS = {  # what adds to what it was given, or reads parameters of its own beside its parts
    "AttentionPooling",
    "ByteLayer",
    "GenericDecoderLayer",
    "LoopedThinkerLayer",
    "LoopedThinkerPlainLayer",
    "ThoughtbubblesDecoderLayer",
    "ThoughtbubblesFork",
}


@dataclass(frozen=True)
class Load:
    """A model of one family, what it reads and what it goes on from."""

    name: str
    build: Callable[..., PreTrainedModel]
    inputs: Callable[[], dict]
    undecided: dict  # changes with which rounding turns no decision


def to_prompt(inputs: dict) -> dict:
    """Of the inputs of a forward pass, those of `generate`."""
    return {name: value for name, value in inputs.items() if not name.startswith(("decoder_", "answer_"))}


def read_bytes() -> dict:
    return {"input_ids": draw_bytes(2, 17)}


def draw_thoughts() -> dict:
    return {"input_ids": draw_ids(2, 9), "decoder_input_ids": draw_ids(2, 5)}


def list_loads() -> list[Load]:
    """Two or more of each family: forks of either rule, loops, learned and relative parts, what layers share, tied."""
    families = (
        "thoughtbubbles",
        "threshold",
        "thinker-exit",
        "thinker-loop",
        "generic",
        "generic-relative",
        "generic-shared",
    )
    answerers = ("plain-autoregressive", "kept-parallel")
    patchings, thoughts = ("space", "fixed", "published"), ("blocks-tied", "deep")

    def read(entry: Family | Answerer) -> Callable[[], dict]:
        if isinstance(entry, Answerer):
            return lambda: {**entry.ask(), **entry.read()}
        return lambda: {"input_ids": draw_ids(2, 9)}

    loads = [Load(f.name, f.build, read(f), f.undecided_changes) for f in FAMILIES if f.name in families]
    loads += [Load(a.name, a.build, read(a), {}) for a in ANSWERERS if a.name in answerers]
    variants = [("bytes", v, read_bytes) for v in BYTE_VARIANTS if v.name in patchings]
    variants += [("next", v, draw_thoughts) for v in THOUGHT_VARIANTS if v.name in thoughts]
    loads += [Load(f"{kind}-{v.name}", v.build, draw, {}) for kind, v, draw in variants]
    assert len(loads) == len(families) + len(answerers) + len(patchings) + len(thoughts)
    return loads


LOADS = list_loads()
ALL = pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
FEW = pytest.mark.parametrize(
    "load",
    [load for load in LOADS if load.name in ("threshold", "generic-shared", "bytes-space", "next-deep")],
    ids=lambda load: load.name,
)


def generate(model: PreTrainedModel, inputs: dict) -> torch.Tensor:
    return model.generate(**to_prompt(inputs), max_new_tokens=4, do_sample=False)


def measure(model: PreTrainedModel) -> int:
    """The bytes that its weights take."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def collect(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Everything that a model holds, saved or not."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.thorough
@ALL
@torch.no_grad()
def test_half_precision_loads_computes_and_is_saved_again(load, tmp_path):
    """Angles and thresholds of forks stay float32, which rounding would change; in float16 fork scores stay too."""
    model, inputs = load.build(**load.undecided), load.inputs()
    model.save_pretrained(tmp_path / "float32")
    expected = model(**inputs).logits.softmax(-1)
    kept = {name for name in collect(model) if name.endswith(("inv_freq", "threshold", "threshold_budget"))}
    counts = {name for name in collect(model) if name.endswith("window_counts")}
    for dtype, most in ((torch.bfloat16, 0.06), (torch.float16, 0.01)):
        half = type(model).from_pretrained(tmp_path / "float32", dtype=dtype)
        assert half.config.dtype == dtype
        floats = kept | ({name for name in collect(model) if "keep_proj" in name} if dtype == torch.float16 else set())
        assert {name for name, value in collect(half).items() if value.dtype != dtype} == floats | counts
        assert all(collect(half)[name].dtype == torch.float32 for name in floats)
        logits = half(**inputs).logits
        assert logits.dtype == dtype
        assert (logits.float().softmax(-1) - expected).abs().max() < most
        assert len(generate(half, inputs)) == 2

        half.save_pretrained(tmp_path / str(dtype))
        for again in (
            type(model).from_pretrained(tmp_path / str(dtype)),
            type(model).from_pretrained(tmp_path / str(dtype), dtype="auto"),
        ):
            found = collect(again)
            for name, value in collect(half).items():
                assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
            assert torch.equal(again(**inputs).logits, logits)


@pytest.mark.slow
@ALL
@LONE_PARAMETER
@SHARD_FITS
@torch.no_grad()
def test_weights_on_disk_compute_the_same(load, tmp_path):
    """What is shared, tied or used in several places included. No layer is torn: it adds to what it was given."""
    model, inputs = load.build(), load.inputs()
    model.save_pretrained(tmp_path)
    logits, generated = model(**inputs).logits, generate(model, inputs)
    layers = [name for name, module in model.named_modules() if type(module).__name__ in LAYERS]
    assert layers
    for share in SHARES:
        memory = {"cpu": int(share * measure(model))}
        spread = type(model).from_pretrained(
            tmp_path, device_map="auto", max_memory=memory, offload_folder=tmp_path / "disk"
        )
        assert "disk" in spread.hf_device_map.values()
        assert not [part for part in spread.hf_device_map if any(part.startswith(f"{name}.") for name in layers)]
        assert any(parameter.is_meta for parameter in spread.parameters())
        assert torch.equal(spread(**inputs).logits, logits)
        assert torch.equal(generate(spread, inputs), generated)
    assert "cpu" in spread.hf_device_map.values()
    spread.save_pretrained(tmp_path / "again")
    again = type(model).from_pretrained(tmp_path / "again")
    assert all(torch.equal(collect(again)[name], value) for name, value in collect(model).items())


@FEW
@LONE_PARAMETER
@torch.no_grad()
def test_weights_that_are_written_to_disk_while_loading_compute_the_same(load, tmp_path):
    """From safetensors they are read where they lie; a checkpoint of torch is written out first."""
    model, inputs = load.build(), load.inputs()
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    memory = {"cpu": int(SHARES[0] * measure(model))}
    spread = type(model).from_pretrained(
        tmp_path, device_map="auto", max_memory=memory, offload_folder=tmp_path / "disk"
    )
    assert len([*(tmp_path / "disk").iterdir()]) > 10
    assert torch.equal(spread(**inputs).logits, model(**inputs).logits)


def load_quantised(model: PreTrainedModel, folder, **changes) -> PreTrainedModel:
    """What was saved, its linear layers in 8 bits."""
    return type(model).from_pretrained(folder, quantization_config=QuantoConfig(weights="int8", **changes))


def list_unquantised(model: PreTrainedModel) -> set[str]:
    return {name for name, module in model.named_modules() if type(module) is nn.Linear}


def list_fork_scores(model: PreTrainedModel) -> set[str]:
    return {f"{name}.keep_proj" for name, module in model.named_modules() if isinstance(module, ThoughtbubblesFork)}


@ALL
@torch.no_grad()
def test_eight_bits_compute_nearly_the_same_and_head_and_fork_scores_are_left_alone(load, tmp_path):
    model, inputs = load.build(**load.undecided, initializer_range=0.1), load.inputs()
    model.save_pretrained(tmp_path)
    quantised = load_quantised(model, tmp_path)
    kept = {"lm_head"} | list_fork_scores(model)
    assert list_unquantised(quantised) == kept
    num_linear = sum(type(module).__name__ == "QLinear" for module in quantised.modules())
    assert num_linear == sum(isinstance(module, nn.Linear) for module in model.modules()) - len(kept)
    logits, expected = quantised(**inputs).logits, model(**inputs).logits
    assert not torch.equal(logits, expected)
    assert (logits.softmax(-1) - expected.softmax(-1)).abs().max() < 0.03
    assert len(generate(quantised, inputs)) == 2


def test_names_that_are_passed_replace_those_of_transformers_and_a_quantised_model_is_not_saved(tmp_path):
    """Fork scores stay all the same. The head is quantised unless it is named."""
    model = LOADS[1].build()
    model.save_pretrained(tmp_path / "full")
    quantised = load_quantised(model, tmp_path / "full", modules_to_not_convert=["mlp.down_proj"])
    kept = {name for name, _ in model.named_modules() if name.endswith("mlp.down_proj")}
    assert len(list_fork_scores(model)) == 2 and list_unquantised(quantised) == kept | list_fork_scores(model)
    with pytest.raises(ValueError, match="quantized with quanto and is not serializable"):
        quantised.save_pretrained(tmp_path / "quantised")
    assert not [*tmp_path.glob("quantised/*")]


@FEW
@pytest.mark.parametrize("kind", ["bfloat16", "quantised"])
def test_adapters_learn_on_smaller_weights_and_load_onto_them(load, kind, tmp_path):
    model = load.build()
    model.save_pretrained(tmp_path / "base")

    def load_base() -> PreTrainedModel:
        if kind == "quantised":
            return load_quantised(model, tmp_path / "base")
        return type(model).from_pretrained(tmp_path / "base", dtype=torch.bfloat16)

    adapted = get_peft_model(load_base(), LoraConfig(r=2, target_modules="all-linear")).train()
    inputs = to_prompt(load.inputs())
    inputs["labels"] = draw_ids(2, 5) if model.config.is_encoder_decoder else inputs["input_ids"]
    learning = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert all(weight.dtype == torch.float32 and "lora" in name for name, weight in learning.items())
    optimizer, losses = torch.optim.SGD(learning.values(), lr=0.5), []
    for _ in range(2):
        loss = adapted(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and math.isfinite(losses[-1])

    adapted.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(load_base(), tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(
            again(**inputs).logits, adapted.eval()(**inputs).logits, atol=1e-5, rtol=1e-5
        )  # sums depend on where weights lie in memory


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model and the folder that it was saved to, in several files."""
    model, folder = LOADS[1].build(), tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder, max_shard_size="16KB")
    assert len([*folder.glob("*.safetensors")]) > 3
    return model, folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of what was saved, to be spoiled."""
    return shutil.copytree(saved[1], tmp_path / "copy")


@pytest.fixture
def logs(caplog, monkeypatch):
    """What transformers logs, once; its loggers hand on to the root, where caplog listens, only when `CI` is set."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    return caplog


def cut(path, num_bytes: int):
    path.write_bytes(path.read_bytes()[:num_bytes])


def edit_config(folder, **changes):
    """Fields as given, and no word of code that travels."""
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    del fields["auto_map"]
    path.write_text(json.dumps({**fields, **changes}))


SPOILED = {
    "a shard is missing": (lambda f: second(f).unlink(), FileNotFoundError, "model-00002-of-"),
    "a shard is cut off": (lambda f: cut(second(f), -100), Exception, "incomplete metadata, file not fully covered"),
    "a shard ends in its header": (lambda f: cut(second(f), 40), Exception, "invalid header length"),
    "a shard is empty": (lambda f: cut(second(f), 0), Exception, "header too small"),
    "a shard claims a huge header": (
        lambda f: second(f).write_bytes(b"\xff" * 8 + b"{}"),
        Exception,
        "header too large",
    ),
    "the index is no JSON": (
        lambda f: (f / "model.safetensors.index.json").write_text("{"),
        json.JSONDecodeError,
        "Expecting property name",
    ),
    "the configuration is no JSON": (
        lambda f: (f / "config.json").write_text("{"),
        OSError,
        "config.json' is not a valid JSON file",
    ),
    "a field is of another type": (
        lambda f: edit_config(f, hidden_size="24"),
        Exception,
        "Field 'hidden_size' expected int, got str",
    ),
    "fields contradict each other": (lambda f: edit_config(f, fork_layers=[9]), Exception, "names layer 9"),
    "vectors are wider": (lambda f: edit_config(f, hidden_size=36), RuntimeError, "ignore_mismatched_sizes"),
    "there are more tokens": (lambda f: edit_config(f, vocab_size=71), RuntimeError, "ignore_mismatched_sizes"),
}


def second(folder):
    return sorted(folder.glob("*.safetensors"))[1]


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_folder_is_one_clear_error(name, saved, folder):
    spoil, error, message = SPOILED[name]
    spoil(folder)
    with pytest.raises(error, match=message):
        type(saved[0]).from_pretrained(folder)


def test_what_does_not_fit_is_named(saved, folder, logs):
    edit_config(folder, vocab_size=71)
    with pytest.raises(RuntimeError):
        type(saved[0]).from_pretrained(folder)
    assert "model.embed_tokens.weight" in logs.text and "MISMATCH" in logs.text and "model.norm" not in logs.text


def test_a_model_of_unknown_type_is_refused(saved, folder):
    edit_config(folder, model_type="nonsense")
    for auto_class in (AutoConfig, AutoModelForCausalLM):
        with pytest.raises(ValueError, match="model type `nonsense`"):
            auto_class.from_pretrained(folder)


def test_a_shard_that_the_index_does_not_name_is_left_alone(saved, folder):
    model = saved[0]
    (folder / "model-00099-of-00099.safetensors").write_bytes(b"not weights")
    loaded = type(model).from_pretrained(folder)
    assert all(torch.equal(collect(loaded)[name], value) for name, value in collect(model).items())


@pytest.mark.parametrize(
    ("num_layers", "missing", "unexpected"), [(6, "model.layers.5.", None), (4, None, "model.layers.4.")]
)
def test_weights_that_are_missing_or_left_over_are_reported(num_layers, missing, unexpected, saved, folder, logs):
    """transformers goes on, with new weights for the missing; what it says is all that tells."""
    model = saved[0]
    edit_config(folder, num_hidden_layers=num_layers)
    _, info = type(model).from_pretrained(folder, output_loading_info=True)
    for kind, prefix in (("missing_keys", missing), ("unexpected_keys", unexpected)):
        assert (len(info[kind]) > 0) == (prefix is not None)
        assert all(key.startswith(prefix) for key in info[kind])
        assert all(key in logs.text for key in info[kind])


def test_saving_over_a_file_is_an_error_and_leaves_the_file_as_it_was(saved, tmp_path, logs):
    """Of tokenizers, which are transformers' own, the error is only logged."""
    model, path = saved[0], tmp_path / "notes.txt"
    path.write_text("important")
    for part in (model, model.config):
        with pytest.raises(NotADirectoryError, match=r"`save_directory=.*notes\.txt'` was passed, but it must be a "):
            part.save_pretrained(path)
    build_byte_tokenizer().save_pretrained(path)
    assert [record.levelname for record in logs.records] == ["ERROR"]
    assert "notes.txt) should be a directory, not a file" in logs.records[0].getMessage()
    with pytest.raises(NotADirectoryError, match=r"notes\.txt"):
        model.save_pretrained(path / "below")
    assert [found.name for found in tmp_path.iterdir()] == ["notes.txt"] and path.read_text() == "important"


def test_a_pickle_among_the_weights_is_not_run(saved, folder):
    for path in folder.glob("*safetensors*"):
        path.unlink()
    torch.save({"model.norm.weight": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match="Weights only load failed"):
        type(saved[0]).from_pretrained(folder)
    assert Trap.sprung == 0


class Trap:
    """What counts how often it was unpickled."""

    sprung = 0

    def __reduce__(self):
        return (spring, ())


def spring():
    Trap.sprung += 1
