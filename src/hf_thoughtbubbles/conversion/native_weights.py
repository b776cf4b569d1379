# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Weights of native models under our names, and back, without a second copy of a model in memory."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping

import torch
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from .native_configs import NATIVE_CLASSES


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
LAYER = re.compile(r"^(?:model\.layers|transformer\.h)\.(\d+)\.(.+)\.(weight|bias)$")
# Modules of a GPT-2 to ours; its queries, keys and values are one layer.
GPT2_TABLES = {"transformer.wte": "model.embed_tokens", "transformer.wpe": "model.embed_positions"}
GPT2_TABLES |= {"transformer.ln_f": "model.norm"}
GPT2_MODULES = {
    "ln_1": "input_layernorm",
    "attn.c_attn": "self_attn.{}_proj",
    "attn.c_proj": "self_attn.o_proj",
    "ln_2": "post_attention_layernorm",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}
TRANSPOSED = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")  # stored as (in, out)
NameLayer = Callable[[int, str], str]  # place of a layer and the module in it, to our name of the module


def name_decoder_layer(layer_idx: int, module: str) -> str:
    """The name of a module in a model with one stack of layers."""
    return f"model.layers.{layer_idx}.{module}"


def name_looped_layer(loop_layers: tuple[int, int]) -> NameLayer:
    """Names of modules in a model with layers before, in and after a loop over the layers from `first` to `last`."""
    first, last = loop_layers

    def name_layer(layer_idx: int, module: str) -> str:
        if layer_idx < first:
            return f"model.prelude.{layer_idx}.{module}"
        if layer_idx > last:
            return f"model.coda.{layer_idx - last - 1}.{module}"
        return f"model.block.layers.{layer_idx - first}.{module}"

    return name_layer


def list_targets(native_name: str, name_layer: NameLayer) -> list[str]:
    """The names of our parameters that are parts of one native parameter: three for attention in a GPT-2, or one."""
    in_layer = LAYER.match(native_name)
    if in_layer is None:
        module, _, kind = native_name.rpartition(".")
        return [f"{GPT2_TABLES.get(module, module)}.{kind}"]
    module = GPT2_MODULES.get(in_layer[2], in_layer[2])
    parts = [module.format(part) for part in "qkv"] if "{}" in module else [module]
    return [f"{name_layer(int(in_layer[1]), part)}.{in_layer[3]}" for part in parts]


def take_weights(native: PreTrainedModel, name_layer: NameLayer, is_moved: bool) -> dict[str, torch.Tensor]:
    """
    The weights of a native model under our names.

    With `is_moved` the native model loses them, so that memory holds one model and one tensor at most. Otherwise they
    are copies.
    """
    weights = native.state_dict()
    if is_moved:
        native.to("meta")
    if native.config.tie_word_embeddings:
        del weights[HEAD]
    taken = {}
    for native_name in list(weights):
        tensor, targets = weights.pop(native_name), list_targets(native_name, name_layer)
        if TRANSPOSED.search(native_name):
            tensor = tensor.T
        pieces = tensor.chunk(len(targets))
        has_own_memory = is_moved and len(targets) == 1 and tensor.is_contiguous()
        for target, piece in zip(targets, pieces, strict=True):
            taken[target] = piece if has_own_memory else piece.clone(memory_format=torch.contiguous_format)
    return taken


def return_weights(
    model: PreTrainedModel, native_config: PreTrainedConfig, name_layer: NameLayer
) -> dict[str, torch.Tensor]:
    """Copies of our weights under the names of a native model; those that it has no place for are left out."""
    with torch.device("meta"):
        native_names = NATIVE_CLASSES[type(native_config)](native_config).state_dict().keys()
    weights, returned = model.state_dict(), {}
    for native_name in native_names:
        if native_name == HEAD and native_config.tie_word_embeddings:
            continue
        returned[native_name] = join_parts(native_name, name_layer, weights)
    return returned


def join_parts(native_name: str, name_layer: NameLayer, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A copy of the tensors, weights or gradients, that are parts of one native parameter, in its shape."""
    joined = torch.cat([tensors[target] for target in list_targets(native_name, name_layer)])
    return joined.T.contiguous() if TRANSPOSED.search(native_name) else joined


def build_model(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    weights: dict[str, torch.Tensor],
    new_names: str | None = None,
    **kwargs,
) -> PreTrainedModel:
    """
    A model in evaluation mode whose parameters are the tensors of `weights`, on their device and in their dtype.

    Parameters whose names match the pattern `new_names` are initialised; any other without weights is an error.
    """
    tensor = next(iter(weights.values()))
    device_map = None if tensor.device.type == "cpu" else {"": tensor.device}
    with _hide_load_report():
        model, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=tensor.dtype,
            device_map=device_map,
            output_loading_info=True,
            **kwargs,
        )
    check_report(report, model_class.__name__, new_names)
    model.name_or_path = model.config.name_or_path = ""  # transformers writes "None"
    return model


def check_report(report: dict, name: str, new_names: str | None = None):
    """Raise for weights that are missing, or of another shape."""
    missing = [key for key in report["missing_keys"] if new_names is None or not re.match(new_names, key)]
    wrong = [key for key, *_ in report["mismatched_keys"]]
    if missing or wrong:
        raise ValueError(
            f"The weights for {name} lack {sorted(missing)} and have other shapes for {sorted(wrong)}. A conversion "
            "needs all weights of a causal language model: pass a checkpoint that has them."
        )


@contextlib.contextmanager
def _hide_load_report() -> Iterator[None]:
    """Without transformers' report of new weights, which a conversion always has."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_shown(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_shown)
    try:
        yield
    finally:
        logger.removeFilter(is_shown)


__all__ = [
    "build_model",
    "check_report",
    "join_parts",
    "list_targets",
    "name_decoder_layer",
    "name_looped_layer",
    "return_weights",
    "take_weights",
]
