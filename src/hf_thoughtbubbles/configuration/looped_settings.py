# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Settings of the shared block and its loop, which both configurations of looped Thinkers have."""

from collections.abc import Sequence
from typing import Literal

from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import RopeParameters

from .family_config import FamilyConfig
from .layer_settings import AttentionBias, check_key_value_heads, fill_heads
from .parallel_plans import plan_attention, plan_feed_forward
from .rope_settings import check_rope_parameters
from .size_settings import check_counts, check_rotary_heads, check_scales


COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
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
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    feed_forward: Literal["mlp", "swiglu"] = "swiglu"
    hidden_act: str = "gelu"
    attention_normalization: Literal["rms_norm", "layer_norm"] = "rms_norm"
    mlp_normalization: Literal["rms_norm", "layer_norm"] = "rms_norm"
    final_normalization: Literal["rms_norm", "layer_norm"] = "rms_norm"
    rms_norm_eps: float | int = 1e-6
    layer_norm_eps: float | int = 1e-5
    attention_bias: AttentionBias = False
    mlp_bias: bool = False
    use_qk_norm: bool = False
    max_position_embeddings: int = 512
    num_steps: int = 8
    num_memory_steps: int | None = None
    num_read_steps: int | None = None
    low_rank: int | None = None
    skip_self_attention: bool = False
    self_attention_mlp: bool = False
    rope_parameters: RopeParameters | dict | None = None
    initializer_range: float | int | None = None
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        fill_heads(self)
        self.validate_sizes()  # before anything is derived from them
        if self.initializer_range is None:
            self.initializer_range = self.hidden_size**-0.5
        super().__post_init__(**kwargs)

    @property
    def base_model_tp_plan(self) -> dict[str, str]:  # type: ignore[override]  # transformers has a class attribute
        """Heads and feed-forward channels of the block are split over processes."""
        layer = "block.layers.*"
        rules = {**plan_attention(self, f"{layer}.cross_attn"), **plan_feed_forward(self, f"{layer}.mlp")}
        if not self.skip_self_attention:
            rules |= plan_attention(self, f"{layer}.self_attn")
            rules |= plan_feed_forward(self, f"{layer}.self_attn_mlp") if self.self_attention_mlp else {}
        return rules

    @property
    def known_limits(self) -> tuple[str, ...]:
        """What must be known before numbers of the model are quoted, for model cards."""
        return ("More steps than in training can help or hurt. Measure them before you use them.",)

    @property
    def hidden_dropout(self) -> float:
        """Dropout of the feed-forward layers: looped Thinkers have none."""
        return 0.0

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
        """Part of `@strict`-powered validation: sizes are positive and the heads fit each other."""
        check_counts(self, COUNTS)
        for name, lowest in LOWEST_OPTIONAL_COUNTS.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"`{name}` is {value}; it must be at least {lowest}, or None.")
        check_key_value_heads(self)
        if self.unrotated_by is None:
            check_rotary_heads(self)

    @property
    def unrotated_by(self) -> str | None:
        """The setting by which no attention rotates queries and keys, if there is one."""
        raise NotImplementedError  # each of the two configurations has its own

    def validate_rope(self):
        """Part of `@strict`-powered validation: only rotary settings that act."""
        check_rope_parameters(self, self.unrotated_by)

    def validate_scales(self):
        """Part of `@strict`-powered validation: a known activation, and positive scales."""
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act` is {self.hidden_act!r}; it must be one of {sorted(ACT2FN)}.")
        check_scales(self, ("rms_norm_eps", "layer_norm_eps", "initializer_range"))


__all__ = ["LoopedThinkerSettings"]
