# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Settings of the shared block and its loop, which both configurations of looped Thinkers have."""

from collections.abc import Sequence

from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import RopeParameters

from .family_config import FamilyConfig
from .rope_settings import check_rope_parameters
from .size_settings import check_counts, check_heads, check_rotary_heads, check_scales


COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "num_steps",
)
LOWEST_OPTIONAL_COUNTS = {"low_rank": 1, "num_memory_steps": 1, "num_read_steps": 0}


class LoopedThinkerSettings(FamilyConfig):
    """Base of [`LoopedThinkerConfig`] and [`LoopedThinkerTextConfig`], whose docstrings describe the fields."""

    # FSDP2 gathers the layers with the whole model, because every step applies all of them.
    base_model_fsdp_plan = {"embed_tokens": "free_full_weight"}

    vocab_size: int = 50257
    hidden_size: int = 128
    num_hidden_layers: int = 1
    num_attention_heads: int = 4
    intermediate_size: int | None = None
    max_position_embeddings: int = 512
    num_steps: int = 8
    num_memory_steps: int | None = None
    num_read_steps: int | None = None
    low_rank: int | None = None
    skip_self_attention: bool = False
    self_attention_mlp: bool = False
    rope_parameters: RopeParameters | dict | None = None
    rms_norm_eps: float | int = 1e-6
    initializer_range: float | int | None = None
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        self.validate_sizes()  # before anything is derived from them
        if self.initializer_range is None:
            self.initializer_range = self.hidden_size**-0.5
        super().__post_init__(**kwargs)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_unrolled_layers(self) -> int:
        """Number of layers that a state passes: those of the block, once for each step."""
        return self.num_hidden_layers * self.num_steps

    @property
    def num_cache_slots(self) -> int:
        """Number of pairs of keys and values that generation stores, see `cache_steps.py`."""
        raise NotImplementedError  # each of the two configurations counts its own

    @property
    def layer_types(self) -> list[str]:
        """One entry for each pair of keys and values; transformers sizes its caches by it."""
        return ["full_attention"] * self.num_cache_slots

    @property  # type: ignore[misc]  # transformers has a property with a setter
    def per_layer_config(self) -> Sequence[PreTrainedConfig]:
        """This configuration for each pair of keys and values; transformers' caches have as many layers."""
        return [self] * self.num_cache_slots

    def validate_layer_type(self):
        """Part of `@strict`-powered validation: nothing, because `layer_types` is derived."""

    def validate_sizes(self):
        """Part of `@strict`-powered validation: sizes are positive and the heads divide the width evenly."""
        check_counts(self, COUNTS)
        for name, lowest in LOWEST_OPTIONAL_COUNTS.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"`{name}` is {value}; it must be at least {lowest}, or None.")
        check_heads(self)
        check_rotary_heads(self)

    @property
    def has_rotary_positions(self) -> bool:
        """Whether any attention rotates queries and keys."""
        return True

    def validate_rope(self):
        """Part of `@strict`-powered validation: only rotary settings that act."""
        check_rope_parameters(self, None if self.has_rotary_positions else "skip_self_attention=True")

    def validate_scales(self):
        """Part of `@strict`-powered validation: scales are positive."""
        check_scales(self, ("rms_norm_eps", "initializer_range"))


__all__ = ["LoopedThinkerSettings"]
