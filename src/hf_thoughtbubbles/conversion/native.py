# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Conversion of pretrained causal models of transformers: room to think is added, and taken away again.

`fork_native` adds forks, `loop_native` repeats layers, and `to_native` returns to the native class. GPT-2, Llama,
Mistral, Qwen2 and Qwen3 are supported; other models are refused before their weights are read.
"""

import copy
import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation import GenerationConfig
from transformers.modeling_utils import PreTrainedModel

from ..configuration.configuration_looped_thinker_text import LoopedThinkerTextConfig
from ..configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from ..modeling.looped_thinker.modeling_looped_thinker_text import LoopedThinkerForCausalLM
from ..modeling.thoughtbubbles.modeling_thoughtbubbles import ThoughtbubblesForCausalLM
from .native_configs import (
    NATIVE_CLASSES,
    check_native,
    restore_native_config,
    save_native_config,
    translate_layers,
)
from .native_source import HUB_ARGUMENTS, read_source
from .native_weights import (
    NameLayer,
    build_model,
    check_report,
    name_decoder_layer,
    name_looped_layer,
    return_weights,
    take_weights,
)


NEW_FORKS, NEW_LOOP = r"model\.forks\.", r"model\.adapter\."


def fork_native(
    model_or_name: PreTrainedModel | str | os.PathLike,
    fork_layers: Sequence[int],
    fork_budget: float = 1.0,
    fork_adapter_rank: int | None = None,
    fork_rule: str = "threshold",
    dtype: str | torch.dtype = "auto",
    **kwargs,
) -> ThoughtbubblesForCausalLM:
    """
    Add forks to a pretrained causal model. With a budget of 1 the new model has the logits of the native one.

    Scores are anchored and stand in a channel beside those of the heads (`fork_anchored`, `fork_score_channel`).

    Args:
        model_or_name (`PreTrainedModel`, `str` or `os.PathLike`): a native model, whose weights are copied, a name on
            the Hub, or a folder.
        fork_layers (`Sequence[int]`): 0-based layers that fork before they run.
        fork_budget (`float`): streams per token, at least 1; more than 1 changes the logits at once.
        fork_adapter_rank (`int`, *optional*): rank of an adapter that makes copies differ; none by default.
        fork_rule (`str`): see [`ThoughtbubblesConfig`].
        dtype (`str` or `torch.dtype`): precision of the new model; `"auto"` keeps that of the native one.
        **kwargs: arguments of `from_pretrained` that load the native model (`revision`, `token`, `cache_dir`, ...),
            and `attn_implementation`.

    Returns:
        [`ThoughtbubblesForCausalLM`] in evaluation mode, with the generation settings of the native model. Its
        configuration keeps the native one as `native_config`.

    Raises:
        `ValueError`: for a model that is not supported, before its weights are read; names the reason.

    Example:

    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from hf_thoughtbubbles import fork_native
    >>> sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    >>> native = LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes)).eval()
    >>> model, input_ids = fork_native(native, fork_layers=[1]), torch.tensor([[1, 2, 3]])
    >>> torch.allclose(model(input_ids).logits, native(input_ids).logits, atol=1e-5)
    True
    """
    native_config, source = read_native(model_or_name, kwargs)
    config = ThoughtbubblesConfig(
        **translate_layers(native_config),
        num_hidden_layers=native_config.num_hidden_layers,
        fork_layers=list(fork_layers),
        fork_budget=fork_budget,
        fork_rule=fork_rule,
        fork_anchored=True,
        fork_score_channel="beside",
        fork_adapter_rank=fork_adapter_rank,
        native_config={**save_native_config(native_config), **source},
    )
    return convert(model_or_name, config, ThoughtbubblesForCausalLM, NEW_FORKS, dtype, kwargs)


def loop_native(
    model_or_name: PreTrainedModel | str | os.PathLike,
    loop_layers: tuple[int, int],
    num_steps: int = 1,
    dtype: str | torch.dtype = "auto",
    **kwargs,
) -> LoopedThinkerForCausalLM:
    """
    Repeat some layers of a pretrained causal model. With one step the new model has the logits of the native one.

    The layers before and after the loop become prelude and coda. Each later step reads its input and the output of the
    prelude through an adapter that starts as the identity (`input_injection="adapter"`).

    Args:
        model_or_name (`PreTrainedModel`, `str` or `os.PathLike`): see [`fork_native`].
        loop_layers (`tuple[int, int]`): 0-based first and last layer of the loop, both included.
        num_steps (`int`): number of times that the loop runs; more than 1 changes the logits at once.
        dtype (`str` or `torch.dtype`): see [`fork_native`].
        **kwargs: see [`fork_native`].

    Returns:
        [`LoopedThinkerForCausalLM`] in evaluation mode, as in [`fork_native`].

    Raises:
        `ValueError`: see [`fork_native`]; also for `loop_layers` that the native model has not.

    Example:

    >>> import torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from hf_thoughtbubbles import loop_native
    >>> native = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=16, n_layer=4, n_head=2)).eval()
    >>> model, input_ids = loop_native(native, loop_layers=(1, 2)), torch.tensor([[1, 2, 3]])
    >>> torch.allclose(model(input_ids).logits, native(input_ids).logits, atol=1e-5)
    True
    >>> model(input_ids, num_steps=4).logits.shape
    torch.Size([1, 3, 11])
    """
    native_config, source = read_native(model_or_name, kwargs)
    first, last = check_loop_layers(loop_layers, native_config.num_hidden_layers)
    config = LoopedThinkerTextConfig(
        **translate_layers(native_config),
        num_prelude_layers=first,
        num_hidden_layers=last - first + 1,
        num_coda_layers=native_config.num_hidden_layers - 1 - last,
        num_steps=num_steps,
        skip_cross_attention=True,
        scale_embeddings=False,
        input_injection="adapter",
        native_config={**save_native_config(native_config), **source},
    )
    return convert(model_or_name, config, LoopedThinkerForCausalLM, NEW_LOOP, dtype, kwargs)


def to_native(model: ThoughtbubblesForCausalLM | LoopedThinkerForCausalLM) -> PreTrainedModel:
    """
    The native model that a converted one contains, with its weights of now: without forks, or with one step.

    Its weights are copies. Vocabulary, special tokens and generation settings are those of the converted model.

    Args:
        model: a model that [`fork_native`] or [`loop_native`] made, trained or not.

    Returns:
        `PreTrainedModel`: a model of the native class, in evaluation mode; save it with `save_pretrained`.

    Raises:
        `ValueError`: for any other model.

    Example:

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from hf_thoughtbubbles import fork_native, to_native
    >>> native = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=16, n_layer=4, n_head=2))
    >>> type(to_native(fork_native(native, fork_layers=[2])))
    <class 'transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel'>
    """
    check_converted(model)
    native_config = restore_native_config(model.config)
    weights = return_weights(model, native_config, choose_names(model.config))
    native = build_model(NATIVE_CLASSES[type(native_config)], native_config, weights)
    own = {"fork_budget", "num_steps", "exit_threshold"}
    settings = {name: value for name, value in model.generation_config.to_dict().items() if name not in own}
    native.generation_config = GenerationConfig.from_dict(settings)
    return native


def read_native(
    model_or_name: PreTrainedModel | str | os.PathLike, kwargs: dict[str, Any]
) -> tuple[PreTrainedConfig, dict[str, str]]:
    """The configuration of a supported native model, and what is known of its source."""
    hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    if isinstance(model_or_name, str | os.PathLike):
        name = os.fspath(model_or_name)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **hub_arguments)
        check_native(config, name)
        return config, read_source(name, **hub_arguments)
    name = type(model_or_name).__name__
    if type(model_or_name) not in NATIVE_CLASSES.values() or kwargs.keys() - {"attn_implementation"}:
        known = ", ".join(native_class.__name__ for native_class in NATIVE_CLASSES.values())
        raise ValueError(
            f"A {name} was passed, with the arguments {sorted(kwargs)}. Pass a model of the class {known}, with no "
            "argument of `from_pretrained`, a name or a folder. Merge adapters first, with `merge_and_unload`."
        )
    config = model_or_name.config
    check_native(config, config.name_or_path or name)
    return config, read_source(config.name_or_path, local_files_only=True)


def check_loop_layers(loop_layers: tuple[int, int], num_layers: int) -> tuple[int, int]:
    """Raise for a loop that does not begin and end at layers of the model."""
    if len(loop_layers) != 2 or not 0 <= loop_layers[0] <= loop_layers[1] < num_layers:
        raise ValueError(
            f"`loop_layers={tuple(loop_layers)}` was passed, but it must be the first and the last layer of the loop, "
            f"0 to {num_layers - 1} in this order: the model has {num_layers} layers."
        )
    return loop_layers[0], loop_layers[1]


def choose_names(config: PreTrainedConfig) -> NameLayer:
    """Where the layers of a native model stand in a converted one."""
    if config.model_type == ThoughtbubblesConfig.model_type:
        return name_decoder_layer
    first = config.num_prelude_layers
    return name_looped_layer((first, first + config.num_hidden_layers - 1))


def check_converted(model: PreTrainedModel):
    """Raise for a model that was not made from a native one, and for one with adapters."""
    families = (ThoughtbubblesForCausalLM, LoopedThinkerForCausalLM)
    if not isinstance(model, families) or model.config.native_config is None:
        raise ValueError(
            f"A {type(model).__name__} that was not made from a native model was passed. Pass what `fork_native` or "
            "`loop_native` returned; merge adapters first, with `merge_and_unload`."
        )
    if not model.saves_full_model:
        raise ValueError("The model has adapters. Load it with `peft.PeftModel` and merge them first.")


def convert(
    model_or_name: PreTrainedModel | str | os.PathLike,
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    new_names: str,
    dtype: str | torch.dtype,
    kwargs: dict[str, Any],
):
    """Build our model of a configuration with the weights of a native one."""
    attention = {name: kwargs[name] for name in ("attn_implementation",) if name in kwargs}
    is_moved = isinstance(model_or_name, str | os.PathLike)
    if is_moved:
        loaded = {name: value for name, value in kwargs.items() if name not in attention}
        native, report = AutoModelForCausalLM.from_pretrained(
            model_or_name, dtype=dtype, trust_remote_code=False, output_loading_info=True, **loaded
        )
        check_report(report, type(native).__name__)
    else:
        native = model_or_name
    check_placement(native)
    generation_config = copy.deepcopy(native.generation_config)
    weights = take_weights(native, choose_names(config), is_moved)
    if not is_moved and dtype != "auto":
        target = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        weights = {name: weights.pop(name).to(target) for name in list(weights)}
    model = build_model(model_class, config, weights, new_names, **attention)
    generation_config._from_model_config = False  # transformers would drop the settings of thinking from it
    model.generation_config = generation_config
    return model


def check_placement(native: PreTrainedModel):
    """Raise for weights on several devices, or of several precisions, which one new model has not."""
    devices = {str(parameter.device) for parameter in native.parameters()}
    dtypes = {str(parameter.dtype) for parameter in native.parameters()}
    if len(devices) > 1 or len(dtypes) > 1 or "meta" in devices:
        raise ValueError(
            f"The native model has weights on {sorted(devices)} in {sorted(dtypes)}. Load it on one device in one "
            "precision, convert and save it, then place it with `from_pretrained`."
        )


__all__ = ["fork_native", "loop_native", "to_native"]
