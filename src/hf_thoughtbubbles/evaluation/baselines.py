# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Native GPT-2 and Llama models with as many parameters, or as many FLOPs, as a model that they are compared with."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from .flop_formulas import count_layer
from .flops import Flops, estimate_flops


TOLERANCE = 0.02
KINDS = ("parameters", "flops", "both")
DEPTH_FACTOR = 4  # how much deeper than the model a baseline that matches both may be
INTERMEDIATE_FACTORS = (0.5, 16)  # how narrow and wide its feed-forward layers may be, in multiples of its width


class Shape(NamedTuple):
    """The sizes that are searched."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int


class NativeFamily(NamedTuple):
    """How to build a native model, and how to count its parameters and FLOPs."""

    model_class: type[PreTrainedModel]
    build_config: Callable[[PreTrainedConfig, Shape, int], PreTrainedConfig]
    count_parameters: Callable[[PreTrainedConfig, Shape, int], int]
    is_gated: bool
    usual_factor: float  # intermediate size in multiples of the width
    head_unit: int  # the size of a head is a multiple of it

    def count_flops(self, config: PreTrainedConfig, shape: Shape, num_tokens: int) -> float:
        """FLOPs of a forward pass over `num_tokens` tokens, for each of them."""
        layer = count_layer(num_tokens, num_tokens, shape.hidden_size, shape.intermediate_size, self.is_gated)
        return shape.num_hidden_layers * layer / num_tokens + 2 * shape.hidden_size * config.vocab_size


def build_gpt2_config(config: PreTrainedConfig, shape: Shape, num_positions: int) -> GPT2Config:
    """A GPT-2 with the vocabulary, heads and dropouts of a model."""
    dropout = getattr(config, "hidden_dropout", 0.0)
    return GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=num_positions,
        n_embd=shape.hidden_size,
        n_layer=shape.num_hidden_layers,
        n_head=config.num_attention_heads,
        n_inner=shape.intermediate_size,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def count_gpt2_parameters(config: PreTrainedConfig, shape: Shape, num_positions: int) -> int:
    """Tokens and positions, then each layer's matrices, biases and norms, then the last norm."""
    depth, width, wide = shape
    layer = 4 * width**2 + 9 * width + 2 * width * wide + wide
    return (config.vocab_size + num_positions) * width + depth * layer + 2 * width


def build_llama_config(config: PreTrainedConfig, shape: Shape, num_positions: int) -> LlamaConfig:
    """A Llama with the vocabulary and heads of a model, tied as it is. Its only dropout is that of attention."""
    return LlamaConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=num_positions,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=shape.intermediate_size,
        attention_dropout=getattr(config, "hidden_dropout", 0.0),
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
    )


def count_llama_parameters(config: PreTrainedConfig, shape: Shape, num_positions: int) -> int:
    """Tokens, perhaps an output matrix, then each layer's matrices and norms, then the last norm."""
    depth, width, wide = shape
    num_tables = 1 if config.tie_word_embeddings else 2
    return num_tables * config.vocab_size * width + depth * (4 * width**2 + 3 * width * wide + 2 * width) + width


FAMILIES = {
    "gpt2": NativeFamily(GPT2LMHeadModel, build_gpt2_config, count_gpt2_parameters, False, 4, head_unit=1),
    "llama": NativeFamily(LlamaForCausalLM, build_llama_config, count_llama_parameters, True, 8 / 3, head_unit=2),
}


@dataclass(frozen=True)
class BaselineMatch:
    """
    Sizes and costs of a model and its baseline, see [`describe_match`].

    Args:
        model_parameters (`int`), baseline_parameters (`int`): parameters, shared ones once.
        model_flops (`float`), baseline_flops (`float`): FLOPs of a forward pass for each token, or byte.
    """

    model_parameters: int
    baseline_parameters: int
    model_flops: float
    baseline_flops: float

    @property
    def parameter_ratio(self) -> float:
        """The baseline's parameters in multiples of the model's."""
        return self.baseline_parameters / self.model_parameters

    @property
    def flops_ratio(self) -> float:
        """The baseline's FLOPs in multiples of the model's."""
        return self.baseline_flops / self.model_flops

    def __str__(self) -> str:
        return (
            f"{self.baseline_parameters:,} parameters, {self.parameter_ratio:.3f} of the model's; "
            f"{self.baseline_flops:,.0f} FLOPs a token, {self.flops_ratio:.3f} of the model's"
        )


def describe_match(
    model: PreTrainedModel, baseline: PreTrainedModel, num_tokens: int | None = None, **lengths
) -> BaselineMatch:
    """
    Compare any baseline with a model in parameters and FLOPs.

    Args:
        model (`PreTrainedModel`), baseline (`PreTrainedModel`): of families that [`estimate_flops`] knows.
        num_tokens (`int`, *optional*): tokens of an input; `max_position_embeddings` by default. The baseline's
            input is as long, with a problem's answer added.
        lengths: other lengths that the model's FLOPs depend on, see [`estimate_flops`].

    Returns:
        [`BaselineMatch`], which prints as a sentence.

    Raises:
        `ValueError`: see [`estimate_flops`].

    Example:

    >>> from hf_thoughtbubbles import ThoughtbubblesConfig, ThoughtbubblesForCausalLM
    >>> config = ThoughtbubblesConfig(
    ...     vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64,
    ...     fork_layers=[1],
    ... )
    >>> model = ThoughtbubblesForCausalLM(config)
    >>> print(describe_match(model, matched_baseline(model, by="flops")))
    52,260 parameters, 1.888 of the model's; 118,976 FLOPs a token, 1.001 of the model's
    """
    num_tokens = model.config.max_position_embeddings if num_tokens is None else num_tokens
    wanted = estimate_flops(model.config, num_tokens, **lengths)
    return BaselineMatch(
        model_parameters=model.num_parameters(),
        baseline_parameters=baseline.num_parameters(),
        model_flops=wanted.forward_per_token,
        baseline_flops=estimate_flops(baseline.config, wanted.num_tokens).forward_per_token,
    )


def solve_intermediate_size(count: Callable[[Shape], float], depth: int, width: int, wanted: float) -> int:
    """The intermediate size whose count, linear in it, is nearest to the wanted count; below 1 if there is none."""
    first, second = (count(Shape(depth, width, size)) for size in (1, 2))
    return 1 + round((wanted - first) / (second - first))


def list_shapes(
    count: Callable[[Shape], float], wanted: float, depth: int, width_unit: int, lowest: float = 0
) -> list[Shape]:
    """Shapes of that depth with the wanted count, narrow to wide; feed-forward layers are `lowest` widths or more."""
    shapes: list[Shape] = []
    while True:
        width = width_unit * (len(shapes) + 1)
        size = solve_intermediate_size(count, depth, width, wanted)
        if size < max(1, lowest * width):
            return shapes
        shapes.append(Shape(depth, width, size))


def measure_misfit(value: float, wanted: float) -> float:
    """Relative distance from the wanted value."""
    return abs(value / wanted - 1)


class Search:
    """The shapes of a native family that match a model."""

    def __init__(
        self,
        model: PreTrainedModel,
        family: NativeFamily,
        num_positions: int,
        flops: Flops | None,
        num_steps: int | None,
    ):
        is_byte_patch = model.config.model_type == "byte_patch"  # its core is the part of the usual sizes
        self.config, self.family = model.config.core_config if is_byte_patch else model.config, family
        self.num_parameters, self.num_positions = model.num_parameters(), num_positions
        self.num_tokens = num_positions if flops is None else flops.num_tokens
        self.flops_per_token = math.nan if flops is None else flops.forward_per_token
        self.width_unit = family.head_unit * self.config.num_attention_heads
        fields = self.config.to_dict()
        num_plain_layers = fields.get("num_prelude_layers", 0) + fields.get("num_coda_layers", 0)
        self.num_layers = num_plain_layers + self.config.num_hidden_layers
        # A looped model passes its block once a step.
        num_passes = num_steps or fields.get("num_steps", 1)
        self.num_unrolled_layers = num_plain_layers + self.config.num_hidden_layers * num_passes

    def count_parameters(self, shape: Shape) -> int:
        return self.family.count_parameters(self.config, shape, self.num_positions)

    def count_flops(self, shape: Shape) -> float:
        return self.family.count_flops(self.config, shape, self.num_tokens)

    def rate(self, shape: Shape) -> float:
        """How far the proportions of the feed-forward layers are from the family's usual ones."""
        return abs(math.log(shape.intermediate_size / (self.family.usual_factor * shape.hidden_size)))

    def measure_misfits(self, shape: Shape, by: str) -> dict[str, float]:
        """Relative distances of the counts to be matched."""
        misfits = {}
        if by != "flops":
            misfits["parameters"] = measure_misfit(self.count_parameters(shape), self.num_parameters)
        if by != "parameters":
            misfits["FLOPs"] = measure_misfit(self.count_flops(shape), self.flops_per_token)
        return misfits

    def match_parameters(self) -> Shape | None:
        """The model's depth and width."""
        depth, width = self.num_layers, self.config.hidden_size
        size = solve_intermediate_size(self.count_parameters, depth, width, self.num_parameters)
        is_possible = size >= 1 and width % self.width_unit == 0
        return Shape(depth, width, size) if is_possible else None

    def match_flops(self) -> Shape | None:
        """At each depth the most usual proportions; of the depths between one step and all, nearest to the width."""
        wanted, width, best = self.flops_per_token, self.config.hidden_size, []
        for depth in range(self.num_layers, self.num_unrolled_layers + 1):
            shapes = list_shapes(self.count_flops, wanted, depth, self.width_unit)
            best += [min(shapes, key=self.rate)] if shapes else []
        return min(best, key=lambda shape: abs(math.log(shape.hidden_size / width)), default=None)

    def explain(self, family: str, by: str) -> str:
        """Why there is no shape at all."""
        config, depth = self.config, self.num_layers
        if by == "both":
            return f'no "{family}" with {config.num_attention_heads} heads is as small with sensible proportions.'
        if by == "flops":
            found, wanted = self.count_flops(Shape(depth, self.width_unit, 1)), self.flops_per_token
        elif config.hidden_size % self.width_unit != 0:
            size = config.hidden_size / config.num_attention_heads
            return f'a "{family}" needs heads of even size, and those of the model have {size:g} channels.'
        else:
            found, wanted = self.count_parameters(Shape(depth, config.hidden_size, 1)), self.num_parameters
        unit = "FLOPs a token" if by == "flops" else "parameters"
        return f'the smallest "{family}" with {depth} layers has {found:,.0f} {unit}, the model has {wanted:,.0f}.'

    def match_both(self, tolerance: float) -> Shape | None:
        """Of all depths and widths: the most usual that is near enough, or else the nearest."""
        usual_depth, tolerance = self.num_unrolled_layers, min(tolerance, TOLERANCE)
        lowest, highest = INTERMEDIATE_FACTORS

        def count(shape: Shape) -> float:
            """2 where one is above by the same share as the other is below: as near as that width can be."""
            flops = self.count_flops(shape) / self.flops_per_token
            return self.count_parameters(shape) / self.num_parameters + flops

        def rank(shape: Shape) -> tuple[float, float]:
            misfit = max(self.measure_misfits(shape, "both").values())
            detour = abs(math.log(shape.num_hidden_layers / usual_depth))
            return max(misfit, tolerance), self.rate(shape) + detour

        shapes = (
            shape
            for depth in range(1, DEPTH_FACTOR * usual_depth + 1)
            for shape in list_shapes(count, 2.0, depth, self.width_unit, lowest)
            if shape.intermediate_size <= highest * shape.hidden_size
        )
        return min(shapes, key=rank, default=None)


def matched_baseline(
    model: PreTrainedModel,
    family: Literal["gpt2", "llama"] = "gpt2",
    by: Literal["parameters", "flops", "both"] = "parameters",
    num_tokens: int | None = None,
    tolerance: float = TOLERANCE,
    **lengths,
) -> PreTrainedModel:
    """
    Build a native GPT-2 or Llama with the vocabulary, heads, context and dropouts of a model, and its size or cost.

    - `"parameters"`: depth and width are the model's, and the feed-forward width makes the count match. It also makes
      up for learned positions, which rotary embeddings do not have. The depth of a looped model counts its shared
      block once; steps cost no parameters.
    - `"flops"`: of a forward pass for each token, or byte. The depth is the model's, the width a multiple of the heads
      with the most usual proportions, and the feed-forward width makes the count match. For a looped model the depth
      lies between the layers of one step and of all steps, with the width nearest to the model's.
    - `"both"`: depth, width and feed-forward width are searched, up to four times the model's depth. A model that
      uses each weight much more often than a native one, such as a looped one, has no such baseline.

    Only the match is built; the search uses formulas. [`describe_match`] compares it with the model.

    Args:
        model (`PreTrainedModel`): one of ours, or any model whose configuration uses transformers' common names.
        family (`str`): `"gpt2"`, tied, with learned positions; or `"llama"`, tied as the model, with rotary positions,
            gated feed-forward layers and no biases.
        by (`str`): the counts to match, see above.
        num_tokens (`int`, *optional*): tokens of an input where FLOPs are matched, without a problem's answer; the
            model's `max_position_embeddings` by default.
        tolerance (`float`): the largest relative difference of a matched count.
        lengths: other lengths that the model's FLOPs depend on, for example `bytes_per_patch=5.0`, see
            [`estimate_flops`].

    Returns:
        `GPT2LMHeadModel` or `LlamaForCausalLM`, freshly initialised. With `"parameters"` the count of a GPT-2 differs
        from `model.num_parameters()` by at most `num_hidden_layers * (2 * hidden_size + 1) / 2`.

    Raises:
        `ValueError`: for an unknown `family` or `by`, lengths that have no effect, or when no baseline is near enough.
    """
    check_request(family, by, num_tokens, tolerance, lengths)
    config, native = model.config, FAMILIES[family]
    num_positions, flops = config.max_position_embeddings, None
    if by != "parameters":
        flops = estimate_flops(config, num_positions if num_tokens is None else num_tokens, **lengths)
        num_positions = max(num_positions, flops.num_tokens)
    search = Search(model, native, num_positions, flops, lengths.get("num_steps"))
    shape = find_match(search, family, by, tolerance)
    baseline = native.model_class(native.build_config(search.config, shape, num_positions))
    baseline.loss_type = "ForCausalLM"  # transformers derives it from the class name and warns about GPT-2's
    return baseline


def check_request(family: str, by: str, num_tokens: int | None, tolerance: float, lengths: dict):
    """Refuse arguments that are unknown or have no effect."""
    if family not in FAMILIES:
        raise ValueError(f"`family={family!r}` was passed; it must be one of {sorted(FAMILIES)}.")
    if by not in KINDS:
        raise ValueError(f"`by={by!r}` was passed; it must be one of {KINDS}.")
    given = [*lengths, *([] if num_tokens is None else ["num_tokens"])]
    if by == "parameters" and given:
        raise ValueError(
            f'`{given[0]}` was passed with `by="parameters"`, but no length changes parameters. Remove it, or set '
            '`by="flops"`.'
        )
    if not tolerance > 0:
        raise ValueError(f"`tolerance={tolerance}` was passed; it must be positive, for example {TOLERANCE}.")


def find_match(search: Search, family: str, by: str, tolerance: float) -> Shape:
    """Search a shape; refuse a missing one, or one outside the tolerance."""
    if by == "parameters":
        shape = search.match_parameters()
    else:
        shape = search.match_flops() if by == "flops" else search.match_both(tolerance)
    if shape is None:
        raise ValueError(f'`by="{by}"` has no match: {search.explain(family, by)} Use another `by` or `family`.')
    misfits = search.measure_misfits(shape, by)
    if max(misfits.values()) > tolerance:
        found = " and ".join(f"{name} that differ by {misfit:.1%}" for name, misfit in misfits.items())
        raise ValueError(
            f'`by="{by}"` has no match within the `tolerance` {tolerance:.1%}: the nearest "{family}" has {found}. '
            f"Use another `by`, or accept it with `tolerance={math.ceil(1000 * max(misfits.values())) / 1000}`."
        )
    return shape


__all__ = ["BaselineMatch", "describe_match", "matched_baseline"]
