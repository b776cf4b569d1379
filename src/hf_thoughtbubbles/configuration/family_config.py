# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The base of all configurations: it refuses unknown fields and special token ids outside the vocabulary."""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import ClassVar

from transformers.configuration_utils import PreTrainedConfig
from transformers.generation import GenerationConfig
from transformers.utils import logging

from ..hub.remote_code import RemoteCodeConfigMixin
from .parallel_plans import check_processes


logger = logging.get_logger(__name__)

# What transformers and its tools read from a configuration, or pass to it, without a field or a property of it.
TOOL_FIELDS = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "hf_thoughtbubbles_version",
    "loss_type",
    "prefix",
    "quantization_config",
    "task_specific_params",
    "tie_last_hidden_states",
    "tokenizer_class",
    "transformers_weights",
}
ROTARY_FIELDS = {"rope_theta", "rope_scaling", "partial_rotary_factor"}  # older names, which transformers converts
# Similarity of a misspelt name and the right one, from 0 to 1. Where arguments of loaders and tokenizers pass (as
# `eos_token`, `batch_size`), a name must be nearer to be taken for one of ours.
NEAR, NEAR_IN_LOADERS = 0.7, 0.905


class FamilyConfig(RemoteCodeConfigMixin, PreTrainedConfig):
    """Base of the configurations of all families."""

    # The fields that count heads, which tensor parallelism splits over processes.
    head_counts: ClassVar[tuple[str, ...]] = ("num_attention_heads", "num_key_value_heads")

    def __post_init__(self, **kwargs):
        unknown = [name for name in kwargs if not is_known(type(self), name)]
        # Only a saved configuration names its type. One of a newer version may have fields that this one has not.
        is_saved = "model_type" in kwargs
        if unknown and not is_saved:
            raise ValueError(describe_unknown(type(self), unknown))
        if unknown:
            logger.warning_once(f"In a saved configuration {describe_unknown(type(self), unknown)} It has no effect.")
        kwargs = {name: value for name, value in kwargs.items() if not is_derived(type(self), name)}
        super().__post_init__(**kwargs)
        if not is_saved:  # of a saved one transformers warns, so that any checkpoint loads
            self.check_token_ids()

    @property
    def has_position_table(self) -> bool:
        """
        Whether positions are vectors of a table with `max_position_embeddings` rows. Longer texts are refused there;
        elsewhere positions are computed, and such texts are one warning.
        """
        return "position_embedding" in self.__dataclass_fields__ and self.position_embedding == "learned"

    @property
    def thinking_summary(self) -> str:
        """How much the model thinks and how this is chosen, in words, for model cards; empty for plain models."""
        return ""

    @property
    def known_limits(self) -> tuple[str, ...]:
        """What must be known before numbers of the model are quoted, for model cards, each as a sentence."""
        return ()

    @property
    def num_head_processes(self) -> int:
        """Over how many processes tensor parallelism splits the heads; transformers says so while it loads a model."""
        distributed_config = vars(self).get("distributed_config")
        return 1 if distributed_config is None else distributed_config.tp_size

    def validate_processes(self):
        """Part of `@strict`-powered validation: the processes that share the model can."""
        check_processes(self, self.head_counts)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """
        The configuration of a dictionary, with the fields in `kwargs` replaced, as transformers does.

        Raises:
            `ValueError`: for a name in `kwargs` that is no field; from a model or an Auto class only when it looks
                like a misspelt field. Also for special token ids in `kwargs` outside the vocabulary.
        """
        # Models and Auto classes (which add `name_or_path`) pass arguments that are not for the configuration.
        is_loader = kwargs.get("return_unused_kwargs") or "name_or_path" in kwargs
        names = [name for name in kwargs if name != "return_unused_kwargs" and not is_known(cls, name)]
        unknown = [name for name in names if not is_loader or find_field(cls, name, NEAR_IN_LOADERS)]
        unknown += [name for name in ("rope_theta", "partial_rotary_factor") if name in kwargs and name not in unknown]
        if unknown:
            raise ValueError(describe_unknown(cls, unknown))
        loaded = super().from_dict(config_dict, **kwargs)
        if any(name.endswith("_token_id") for name in kwargs):
            (loaded[0] if isinstance(loaded, tuple) else loaded).check_token_ids()
        return loaded

    def check_token_ids(self):
        """Raise for special token ids that have no row in the embeddings."""
        for name in (field.name for field in dataclasses.fields(self) if field.name.endswith("_token_id")):
            value = getattr(self, name)
            if value == []:
                raise ValueError(f"`{name}` is an empty list. Use None for no such token.")
            for token_id in value if isinstance(value, list) else [value]:
                if token_id is not None and not 0 <= token_id < self.vocab_size:
                    raise ValueError(
                        f"`{name}` is {value}, but ids are 0 to {self.vocab_size - 1} (`vocab_size` "
                        f"{self.vocab_size}). Use one of them, None for no such token, or a larger `vocab_size`."
                    )


def is_derived(config_class: type[PreTrainedConfig], name: str) -> bool:
    """Whether a name is that of a property which follows from fields and cannot be set."""
    attribute = getattr(config_class, name, None)
    return isinstance(attribute, property) and attribute.fset is None


def is_known(config_class: type[PreTrainedConfig], name: str) -> bool:
    """Whether a configuration can be given a value by this name."""
    has_rotary = "rope_parameters" in config_class.__dataclass_fields__
    return (
        name.startswith("_")
        or name in TOOL_FIELDS
        or (name in ROTARY_FIELDS and has_rotary)
        or (name in config_class.__dataclass_fields__ and not is_derived(config_class, name))
        or name in config_class.attribute_map
        or (name not in ROTARY_FIELDS and hasattr(config_class, name) and not is_derived(config_class, name))
    )


def find_field(config_class: type[PreTrainedConfig], name: str, cutoff: float = NEAR) -> str | None:
    """The field whose name is nearest to a misspelt one; `None` when none is near."""
    names = [*config_class.__dataclass_fields__, *config_class.attribute_map]
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=cutoff)), None)


def describe_unknown(config_class: type[PreTrainedConfig], unknown: Iterable[str]) -> str:
    """Say for each unknown name what to do with it."""
    advices = []
    for name in unknown:
        nearest = find_field(config_class, name)
        if is_derived(config_class, name):
            advices.append(f"`{name}` follows from other fields: remove it.")
        elif name in ROTARY_FIELDS and "rope_parameters" in config_class.__dataclass_fields__:
            advices.append("Pass it as an entry of `rope_parameters`.")
        elif nearest:
            advices.append(f"Did you mean `{nearest}`?")
        elif hasattr(GenerationConfig(), name):
            advices.append(f"`{name}` is a setting of generation: pass it to `generate`, or in a `GenerationConfig`.")
        else:
            advices.append(f"Remove `{name}`.")
    names = ", ".join(f"`{name}`" for name in unknown)
    return f"{names} was passed, but {config_class.__name__} has no such field to set. {' '.join(advices)}"


__all__ = ["FamilyConfig"]
