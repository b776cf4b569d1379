# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The configuration of Thoughtbubbles."""

import itertools
import math
from typing import Literal, cast

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import RopeParameters

from .family_config import FamilyConfig
from .fork_rules import get_fork_rule
from .layer_settings import AttentionBias, check_key_value_heads, fill_heads
from .parallel_plans import PIPELINE, plan_attention, plan_feed_forward
from .rope_settings import check_rope_parameters
from .size_settings import check_counts, check_rotary_heads, check_scales


DecoderNorm = Literal["rms_norm", "layer_norm"]


@strict
class ThoughtbubblesConfig(FamilyConfig):
    r"""
    The configuration of a [`ThoughtbubblesModel`]: a GPT whose tokens fork into parallel residual streams
    (arXiv 2510.00219). With `fork_layers=[]` it is the GPT that Thoughtbubbles extends.

    Args:
        vocab_size (`int`, defaults to 50257):
            Number of token ids.
        hidden_size (`int`, defaults to 768):
            Width of a residual stream. Must be a multiple of `num_attention_heads` unless `head_dim` is given.
        num_hidden_layers (`int`, defaults to 12):
            Number of transformer layers.
        num_attention_heads (`int`, defaults to 12):
            Number of attention heads.
        num_key_value_heads (`int`, *optional*):
            Number of heads of keys and values, a divisor of `num_attention_heads`, its default.
        head_dim (`int`, *optional*):
            Width of a head (default: `hidden_size / num_attention_heads`), even with rotary positions.
        intermediate_size (`int`, *optional*):
            Width of the feed-forward layer; `4 * hidden_size` when not given.
        feed_forward (`str`, defaults to `"mlp"`):
            `"mlp"` widens, activates and narrows; `"swiglu"` multiplies a SiLU gate in and ignores `hidden_act`.
        hidden_act (`str`, defaults to `"gelu_pytorch_tanh"`):
            Activation of the `"mlp"`; the reference uses the tanh approximation of GELU.
        attention_normalization (`str`, defaults to `"layer_norm"`), mlp_normalization (`str`, defaults to
            `"layer_norm"`), final_normalization (`str`, defaults to `"layer_norm"`):
            `"layer_norm"` or `"rms_norm"`, before the attention, before the feed-forward layer and at a fork, and
            before the output.
        max_position_embeddings (`int`, defaults to 512):
            Most tokens of a text in training. Longer texts are read with one warning, unless positions are learned.
            The original calls it `block_size`.
        fork_layers (`list[int]`, defaults to `(3, 7, 11)`):
            0-based layers that fork before they run; the default are the paper's (section 3.1). Any order, no repeats.
        fork_budget (`float`, defaults to 2.0):
            Streams a fork may leave, in multiples of the tokens; at least 1. The original calls it
            `max_block_size / block_size` and the paper writes kappa = 2L.
        fork_rule (`str`, defaults to `"topk"`):
            How streams are chosen. `"topk"` is the published rule: the best `ceil(fork_budget * T)` streams of the
            whole sequence. **It is not causal**: a later token can take a stream from an earlier one. `"threshold"`
            is: a stream stays when its score reaches the layer's threshold, which training tracks so that a token has
            `fork_budget` streams on average. `"copy"` is the paper's baseline: before the one layer in `fork_layers`
            (0 for the whole depth) every token becomes `fork_budget` equal streams without scores, whose outputs are
            averaged; they differ by rotary positions and causal order alone. Other names are those of rules
            registered with `register_fork_rule`.
        fork_score_init (`tuple[float, float]`, *optional*):
            Logits at which the scores of a copy and of the stream itself start, `(fork_logit, keep_logit)`, as a
            learned bias. By default scores have no bias and start at one half, as published. With
            `fork_anchored=True` there is one logit, `(fork_logit,)`.
        fork_tracking (`bool`, defaults to `True`):
            Whether `model.train()` reads by the rule of training: a row has room for `ceil(fork_budget * T)` streams,
            and thresholds follow the scores. With `False` it reads by the rule of evaluation, as generation does, and
            thresholds stay: for PPO, DPO, GRPO and the like, which compare likelihoods of generated text.
        fork_calibration (`dict`, *optional*):
            The table that `calibrate_forks` makes: `"budgets"`, ascending, and for each its `"thresholds"`, one per
            fork layer. `generate(fork_budget=...)` uses it.
        fork_anchored (`bool`, defaults to `False`):
            Whether a token's own stream has the score 1 always and stands at the token's native position, so that
            copies alone are scored: `log score of a copy = log sigmoid(r) + log score of the stream it copies`. The n
            streams of token t have the positions `t - (n-1)/n, ..., t`. With a budget of 1 fork layers are not run:
            the model computes what it would without them. Not under `fork_rule="topk"` and `"copy"`.
        fork_score_channel (`str`, defaults to `"last"`):
            How scores enter attention. `"last"`: as the last channel of queries (1) and keys (the log score), in place
            of their own, which multiplies attention weights by `score ** (1 / sqrt(H))`. The original calls it
            `use_fork_channel`. `"beside"`: as a channel more, `sqrt(H)` in queries and the log score in keys, which
            multiplies attention weights by the score and leaves a head its channels. `"none"`: not at all. True and
            False are other names of `"last"` and `"none"`.
        fork_adapter_rank (`int`, *optional*):
            Rank of an adapter of copies, `copy = x + e + B A norm(x)`, where B starts at zero; none by default.
        fold (`str`, defaults to `"residual"`):
            How the streams of a token become one prediction: `"residual"` sums the streams weighted by their scores
            and decodes once; `"probability"` decodes every stream and mixes the distributions (paper, eq. 11).
        attention_bias (`bool` or `str`, defaults to `True`):
            Whether the projections of attention and a layer norm before it have biases. `"qkv"`: those of queries,
            keys and values have, that of the output has none.
        mlp_bias (`bool`, defaults to `True`):
            Whether the projections of the feed-forward layer have biases, and all other layer norms.
        use_qk_norm (`bool`, defaults to `False`):
            Whether an RMS norm over each head of queries and keys comes before the rotary embedding.
        position_embedding (`str`, defaults to `"rope"`):
            `"rope"` rotates queries and keys (streams of one token share its rotation in equal parts), `"learned"`
            adds a table of `max_position_embeddings` vectors to the embeddings.
        rope_parameters (`dict`, *optional*):
            Rotary settings in transformers' form, with any of its scalings; the reference uses `rope_theta` 10000.
        rms_norm_eps (`float`, defaults to 1e-6), layer_norm_eps (`float`, defaults to 1e-5):
            Epsilons of the norms.
        embedding_dropout (`float`, defaults to 0.0):
            Dropout of the embeddings.
        attention_dropout (`float`, defaults to 0.0):
            Dropout of the output of attention, before the output projection; as in the reference, the attention
            probabilities have none.
        hidden_dropout (`float`, defaults to 0.0):
            Dropout of the output of the attention and of the feed-forward layer.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights; the two projections that write to the residual stream start
            smaller by `sqrt(2 * num_hidden_layers)`.
        use_cache (`bool`, defaults to `True`):
            Whether to return keys and values. With the published fork rule there are none: every step computes the
            whole prefix again.
        pad_token_id (`int`, *optional*), bos_token_id (`int`, *optional*), eos_token_id (`int`, *optional*):
            Special token ids.
        native_config (`dict`, *optional*):
            The configuration of the native model that this one was made from; nothing here reads it.
        tie_word_embeddings (`bool`, defaults to `True`):
            Whether the output matrix is the embedding matrix.

    Raises:
        `StrictDataclassClassValidationError`: when the numbers contradict each other, with the field, what was passed
            and what is allowed.

    Example:

    >>> from hf_thoughtbubbles import ThoughtbubblesConfig
    >>> config = ThoughtbubblesConfig(num_hidden_layers=4, fork_layers=[1, 2], fork_budget=1.5)
    >>> config.head_dim
    64
    """

    model_type = "thoughtbubbles"
    family_summary = (
        "a GPT whose tokens fork into parallel residual streams ([arXiv 2510.00219](https://arxiv.org/abs/2510.00219))"
    )
    keys_to_ignore_at_inference = ["past_key_values", "cache", "forks", "streams"]

    vocab_size: int = 50257
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    feed_forward: Literal["mlp", "swiglu"] = "mlp"
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 512
    fork_layers: list[int] | tuple[int, ...] = (3, 7, 11)
    fork_budget: float | int = 2.0
    fork_rule: str = "topk"
    fork_score_init: list[float | int] | tuple[float | int, ...] | None = None
    fork_tracking: bool = True
    fork_calibration: dict | None = None
    fork_anchored: bool = False
    fork_score_channel: bool | Literal["last", "beside", "none"] = "last"
    fork_adapter_rank: int | None = None
    fold: Literal["residual", "probability"] = "residual"
    attention_normalization: DecoderNorm = "layer_norm"
    mlp_normalization: DecoderNorm = "layer_norm"
    final_normalization: DecoderNorm = "layer_norm"
    attention_bias: AttentionBias = True
    mlp_bias: bool = True
    use_qk_norm: bool = False
    position_embedding: Literal["rope", "learned"] = "rope"
    rope_parameters: RopeParameters | dict | None = None
    rms_norm_eps: float | int = 1e-6
    layer_norm_eps: float | int = 1e-5
    embedding_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    initializer_range: float | int = 0.02
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    native_config: dict | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        fill_heads(self)
        self.fork_layers = sorted(self.fork_layers)
        if isinstance(self.fork_score_channel, bool):
            self.fork_score_channel = "last" if self.fork_score_channel else "none"
        self.validate_sizes()  # before rotary settings are derived from them
        super().__post_init__(**kwargs)

    @property
    def base_model_tp_plan(self) -> dict[str, str]:  # type: ignore[override]  # transformers has a class attribute
        """Heads and feed-forward channels are split over processes; forks are the same on all."""
        return {**plan_attention(self, "layers.*.self_attn"), **plan_feed_forward(self, "layers.*.mlp")}

    @property
    def base_model_pp_plan(self) -> dict | None:  # type: ignore[override]  # transformers has a class attribute
        """The stages of a pipeline; none where streams fork, or where every stage would add learned positions."""
        return None if self.fork_layers or self.position_embedding == "learned" else PIPELINE

    @property
    def is_cacheable(self) -> bool:
        """Whether a token's streams depend on its past alone, so that keys and values can be kept."""
        return not self.fork_layers or get_fork_rule(self.fork_rule).is_causal

    @property
    def has_fork_scores(self) -> bool:
        """Whether streams are scored, so that scores weigh what they add; copies are not."""
        return len(self.fork_layers) > 0 and get_fork_rule(self.fork_rule).has_scores

    @property
    def has_fork_thresholds(self) -> bool:
        """Whether the fork rule compares scores with a threshold of the layer."""
        return len(self.fork_layers) > 0 and get_fork_rule(self.fork_rule).has_thresholds

    @property
    def has_dead_slots(self) -> bool:
        """Whether streams that die stay in their row, as under the published rule; other rows have no gaps."""
        return len(self.fork_layers) > 0 and get_fork_rule(self.fork_rule).has_dead_slots

    @property
    def has_training_rule(self) -> bool:
        """Whether training chooses streams by another rule than evaluation: rows have room for fewer."""
        return self.has_fork_scores and not self.has_dead_slots

    @property
    def num_fork_scores(self) -> int:
        """Scores of each stream at a fork: of its copy, and of itself unless own streams are anchored."""
        return 1 if self.fork_anchored else 2

    @property
    def wide_head_dim(self) -> int:
        """Width of heads with a score channel beside their own, a multiple of 8, which fused kernels want."""
        return (cast(int, self.head_dim) // 8 + 1) * 8

    @property
    def first_position(self) -> int:
        """The rotary position of the first token; the published form counts from 1 where tokens fork."""
        return int(bool(self.fork_layers) and not self.fork_anchored)

    @property
    def is_head_mixing(self) -> bool:
        """Whether the language-modelling head mixes the distributions of a token's streams."""
        return self.fold == "probability" and len(self.fork_layers) > 0

    @property
    def max_streams_per_token(self) -> int:
        """The most streams that a token can have in the last layer."""
        return get_fork_rule(self.fork_rule).count_candidates(self) ** len(self.fork_layers)

    @property
    def layer_types(self) -> list[str]:
        """The kind of each layer's cache: keys and values of tokens, or of streams after a fork."""
        first = min(*self.fork_layers, self.num_hidden_layers) if self.fork_layers else self.num_hidden_layers
        first = first if self.is_cacheable else self.num_hidden_layers
        return ["full_attention"] * first + ["stream_attention"] * (self.num_hidden_layers - first)

    def can_skip_forks(self, fork_budget: float) -> bool:
        """Whether fork layers need not be run for a budget: own streams alone stay, and forks do not change them."""
        return self.fork_anchored and fork_budget == 1

    @property
    def thinking_summary(self) -> str:
        """How tokens fork, in words, for model cards."""
        if not self.fork_layers:
            return "No layer forks, so this is a plain GPT."
        where = f"Before the layers {self.fork_layers} (counted from 0) tokens fork into parallel streams"
        how = {
            "topk": f"of a whole text the {self.fork_budget:g} x tokens streams with the best learned scores stay",
            "threshold": "a stream stays when its learned score reaches a threshold",
            "copy": f"every token gets {self.fork_budget:g} equal streams",
        }.get(self.fork_rule, f"the rule `{self.fork_rule}` chooses which stay")
        budget = f" On average {self.fork_budget:g} streams a token stay; `generate(fork_budget=...)` changes this."
        return f"{where}, and {how}.{budget if self.fork_rule == 'threshold' else ''}"

    @property
    def known_limits(self) -> tuple[str, ...]:
        """What must be known before numbers of the model are quoted, for model cards."""
        if not self.fork_layers or get_fork_rule(self.fork_rule).is_causal:
            return ()
        return (
            "The choice of streams reads the whole text, so a later token can change the logits of an earlier one. A "
            "perplexity of whole blocks is not a likelihood.",
            "Generation has no KV cache: every new token reads the whole text again.",
        )

    def validate_layer_type(self):
        """Part of `@strict`-powered validation: nothing, because `layer_types` is derived here."""

    def validate_sizes(self):
        """Part of `@strict`-powered validation: sizes are positive, and query heads a multiple of those of keys."""
        names = (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "intermediate_size",
            "max_position_embeddings",
        )
        check_counts(self, names)
        check_key_value_heads(self)
        if self.position_embedding == "rope":
            check_rotary_heads(self)

    def validate_rope(self):
        """Part of `@strict`-powered validation: only rotary settings that act."""
        is_rotary = self.position_embedding == "rope"
        check_rope_parameters(self, None if is_rotary else f'position_embedding="{self.position_embedding}"')

    def validate_forks(self):
        """Part of `@strict`-powered validation: the rule is known, fork layers exist once, budgets are 1 or more."""
        rule = get_fork_rule(self.fork_rule)
        for layer in self.fork_layers:
            if not 0 <= layer < self.num_hidden_layers:
                raise ValueError(
                    f"`fork_layers` names layer {layer}, but with `num_hidden_layers={self.num_hidden_layers}` layers "
                    f"are 0 to {self.num_hidden_layers - 1}. Remove it or add layers."
                )
        if len(set(self.fork_layers)) != len(self.fork_layers):
            raise ValueError(f"`fork_layers` {list(self.fork_layers)} repeats a layer; a layer forks at most once.")
        if not 1 <= self.fork_budget < float("inf"):
            raise ValueError(
                f"`fork_budget` is {self.fork_budget}; it must be finite and at least 1, because a smaller budget "
                "would drop tokens. Use 1.0 for no extra streams."
            )
        self.check_scores()
        self.check_calibration()
        if self.fork_layers:
            rule.check_config(self)
            if self.fork_anchored and (rule.has_dead_slots or not rule.has_scores):
                raise ValueError(
                    f'`fork_anchored=True` was passed with `fork_rule="{self.fork_rule}"`, which does not score '
                    'copies alone and keep every own stream. Use `fork_rule="threshold"`.'
                )
        if not self.fork_tracking and not self.has_training_rule:
            raise ValueError(
                f"`fork_tracking=False` was passed, but with `fork_layers={list(self.fork_layers)}` and "
                f'`fork_rule="{self.fork_rule}"` training and evaluation read by one rule. Remove it.'
            )

    def check_scores(self):
        """Scores start at finite logits, one for each, and adapters have a rank."""
        init, num_logits = self.fork_score_init, self.num_fork_scores
        if init is not None and not (len(init) == num_logits and all(math.isfinite(logit) for logit in init)):
            logits = (
                "one finite logit, `(fork_logit,)`"
                if self.fork_anchored
                else ("two finite logits, `(fork_logit, keep_logit)`")
            )
            raise ValueError(
                f"`fork_score_init` is {init}; it must be {logits}, with `fork_anchored={self.fork_anchored}`, or "
                "None for scores without a bias."
            )
        if isinstance(self.fork_score_channel, bool):
            raise ValueError(
                f'`fork_score_channel` was set to {self.fork_score_channel}; it must be "last", "beside" or "none".'
            )
        if self.fork_adapter_rank is not None:
            check_counts(self, ("fork_adapter_rank",))

    def check_calibration(self):
        """Every calibrated budget has a threshold for every fork layer."""
        if self.fork_calibration is None:
            return
        budgets, thresholds = (self.fork_calibration.get(name, []) for name in ("budgets", "thresholds"))
        is_ascending = all(low < high for low, high in itertools.pairwise(budgets))
        sizes = sorted({len(row) for row in thresholds})
        if not budgets or len(budgets) != len(thresholds) or not is_ascending or budgets[0] < 1:
            raise ValueError(
                f"`fork_calibration` has the `budgets` {budgets} and {len(thresholds)} rows of `thresholds`; it must "
                "have ascending budgets of at least 1 and a row for each. `calibrate_forks(model, batches)` makes one."
            )
        numbers = [*budgets, *itertools.chain(*thresholds)]
        are_numbers = all(isinstance(number, int | float) and not math.isnan(number) for number in numbers)
        if not are_numbers or budgets[-1] == math.inf:
            raise ValueError(
                f"`fork_calibration` has the `budgets` {budgets} and the `thresholds` {thresholds}; they must be "
                "numbers, and budgets finite. `calibrate_forks(model, batches)` makes such a table."
            )
        if sizes != [len(self.fork_layers)]:
            raise ValueError(
                f"`fork_calibration` has thresholds for {sizes} fork layers, but `fork_layers` names "
                f"{len(self.fork_layers)}. Set it to None and calibrate the changed model with `calibrate_forks`."
            )

    def validate_layers(self):
        """Part of `@strict`-powered validation: the activation exists, dropouts and scales are in range."""
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act` is {self.hidden_act!r}; it must be one of {sorted(ACT2FN)}.")
        dropouts = ("embedding_dropout", "attention_dropout", "hidden_dropout")
        check_scales(self, ("rms_norm_eps", "layer_norm_eps", "initializer_range"), dropouts)


__all__ = ["ThoughtbubblesConfig"]
