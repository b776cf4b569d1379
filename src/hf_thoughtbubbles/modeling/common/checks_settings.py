# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for arguments that a model would ignore: those of another family, and outputs that it cannot give.

transformers and its tools pass arguments through `**kwargs` that no signature names, so only names that belong to one
of our families, or nearly so, are refused.
"""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers.generation import GenerationConfig, GenerationMode
from transformers.modeling_utils import PreTrainedModel

from .cache_names import CACHE_NAME


# Arguments of a `forward` or `generate` in one of our families that transformers has no meaning for in all models.
FAMILY_ARGUMENTS = (
    "answer_length",
    "decoder_attention_mask",
    "decoder_input_ids",
    "decoder_inputs_embeds",
    "encoder_outputs",
    "exit_threshold",
    "fork_budget",
    "loop_decoder",
    "memory_ids",
    "num_draft_bytes",
    "num_latents",
    "num_read_steps",
    "num_steps",
    "num_thoughts",
    "output_forks",
    "output_patches",
    "output_pooling",
    "output_steps",
    "patch_input_ids",
    "patch_lengths",
    "probe_targets",
)
HEAD_ARGUMENTS = ("logits_to_keep",)  # which heads read themselves, and hand on to no base model
BASE_OUTPUTS = ("output_forks", "output_steps", "output_streams")  # which base models return beside their states
NEAR = 0.92  # similarity of a misspelt name and the right one, from 0 to 1


@functools.cache
def find_argument(name: str) -> str | None:
    """
    The argument of one of our families with this name, or nearly; `None` when there is none.

    >>> find_argument("num_step"), find_argument("cu_seq_lens_q")
    ('num_steps', None)
    """
    return next(iter(difflib.get_close_matches(name, (*FAMILY_ARGUMENTS, *HEAD_ARGUMENTS), n=1, cutoff=NEAR)), None)


def check_arguments(model: PreTrainedModel, kwargs: dict[str, Any]):
    """
    Raise for keyword arguments of a `forward` without effect; `kwargs` are those that its signature does not name.

    Raises:
        `ValueError`: for an argument of another family, a misspelt one of ours, and for `output_attentions=True` with
            an attention implementation that gives none.
    """
    if kwargs and not torch.compiler.is_compiling():
        _check_names(kwargs, type(model).__name__, type(model).forward)
    is_asked = kwargs.get("output_attentions", model.config.output_attentions)
    if is_asked and (attention := model.config._attn_implementation) != "eager":
        raise ValueError(
            f'`output_attentions=True` was passed, but `attn_implementation="{attention}"` computes no attention '
            'weights. Load the model with `attn_implementation="eager"`, or call '
            '`model.set_attn_implementation("eager")`.'
        )


def _check_names(settings: dict[str, Any], owner: str, reader: Callable | tuple[str, ...]):
    """Raise for an argument of ours, or nearly one, which `owner` does not read: the function or names `reader`."""
    for name, value in settings.items():
        known = find_argument(name)
        if known is not None and value is not None and value is not False:
            names = inspect.signature(reader).parameters if callable(reader) else reader
            advice = f"Did you mean `{known}`?" if known in names else "Remove it."
            raise ValueError(f"`{name}` was passed, but {owner} does not read it. {advice}")


def check_head_outputs(kwargs: dict[str, Any]):
    """Raise for outputs of a base model that are asked of a head whose output has no field for them."""
    for name in BASE_OUTPUTS:
        if kwargs.get(name):
            raise ValueError(
                f"`{name}=True` was passed, but the output of this head has no field for it. Call the base model, "
                "`model.model`."
            )


def check_generation_config(generation_config: GenerationConfig, fields: tuple[str, ...] = ()):
    """
    Raise for fields of a generation configuration that no step reads; the family reads `fields`.

    An assistant is given the configuration of the model that it assists, so it is not checked.
    """
    if getattr(generation_config, "is_assistant", False):
        return
    others = {name: value for name, value in vars(generation_config).items() if name not in fields}
    _check_names(others, "`generate` of this model", fields)


def check_uncached_generation(
    generation_config: GenerationConfig, model_kwargs: dict[str, Any], generation_mode: GenerationMode, reason: str
):
    """
    Raise for arguments that need a cache, where `reason` says that the model has none.

    `use_cache` is not one of them, because transformers sets it by default.
    """
    asked = [name for name in ("prefill_chunk_size", "cache_implementation") if getattr(generation_config, name)]
    if model_kwargs.get(CACHE_NAME) is not None:
        asked.append(CACHE_NAME)
    if asked:
        raise ValueError(f"`{asked[0]}` was passed, but with {reason} no cache can be used. Remove it.")
    is_assistant = getattr(generation_config, "is_assistant", False)
    if is_assistant or generation_mode == GenerationMode.ASSISTED_GENERATION:
        raise ValueError(
            f"Assisted and prompt-lookup generation need a cache, which a model with {reason} cannot use, neither as "
            "the model nor as its assistant. Remove `assistant_model` or `prompt_lookup_num_tokens`."
        )


__all__ = [
    "check_arguments",
    "check_generation_config",
    "check_head_outputs",
    "check_uncached_generation",
    "find_argument",
]
