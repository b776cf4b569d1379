# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Which numbers describe a looped Thinker?"""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import RopeParameters

from ..hub.remote_code import RemoteCodeConfigMixin
from .rope_settings import check_rope_parameters
from .size_settings import check_counts, check_heads, check_rotary_heads, check_scales


COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "num_latents",
    "max_latents",
    "num_steps",
    "num_output_steps",
    "num_kept_outputs",
    "max_answer_length",
)


@strict
class LoopedThinkerConfig(RemoteCodeConfigMixin, PreTrainedConfig):
    r"""
    The configuration of a [`LoopedThinkerModel`]: one weight-shared block that is applied again and again.

    With `is_encoder_decoder` a few latent vectors think about a problem, and its answer is read out
    ([`LoopedThinkerForConditionalGeneration`]); without, every token of a text has a latent of its own
    ([`LoopedThinkerForCausalLM`]). Each head sets the field for itself.

    Args:
        vocab_size (`int`, defaults to 31):
            Number of token ids; the default are the tokens of `build_number_tokenizer`.
        hidden_size (`int`, defaults to 128):
            Width of a latent. Must be a multiple of `num_attention_heads`.
        num_hidden_layers (`int`, defaults to 1):
            Layers inside the shared block. How deep a model is depends on its steps: `num_unrolled_layers`.
        num_attention_heads (`int`, defaults to 4):
            Number of attention heads. The head size `hidden_size / num_attention_heads` must be even.
        intermediate_size (`int`, *optional*):
            Width of the gated feed-forward layer; `4 * hidden_size` when not given. The original calls it `d_hid`.
        max_position_embeddings (`int`, defaults to 512):
            Most tokens of a problem, or of a text. The original calls it `max_input_len`.
        num_steps (`int`, defaults to 8):
            How often the block is applied; any call may ask for more or fewer.
        num_memory_steps (`int`, *optional*):
            How many past steps the memory holds; all of them when not given. The original calls it `n_memory`.
        num_read_steps (`int`, *optional*):
            Steps after which the memory no longer holds the input; never when not given. The first step always reads
            it. The original calls it `read_step`.
        low_rank (`int`, *optional*):
            Rank of the attention projections; full when not given or not below `hidden_size`.
        skip_self_attention (`bool`, defaults to `False`):
            Whether latents look at the memory alone, not at each other.
        self_attention_mlp (`bool`, defaults to `False`):
            Whether a feed-forward layer follows self-attention too; without effect with `skip_self_attention`, as in
            the original (`ff_in_self_attn`).
        num_latents (`int`, defaults to 8):
            Latents that think about a problem; any call may ask for up to `max_latents`.
        max_latents (`int`, defaults to 32):
            Rows of the table of initial latents.
        num_output_steps (`int`, defaults to 1):
            How often the block is applied to read an answer out.
        num_kept_outputs (`int`, defaults to 1):
            Last steps after which the answer is read out and scored (deep supervision); more than `num_steps` mean
            all. The original calls it `n_keep_output`.
        max_answer_length (`int`, defaults to 64):
            Most tokens of an answer. The original calls it `max_output_len`.
        num_probes (`int`, defaults to 0):
            Numbers that a linear probe reads off every answer position.
        static_memory_size (`int`, defaults to 0):
            Rows of the table that `memory_ids` picks static memories from. The original calls it `static_mem_len`.
        readout (`str`, defaults to `"autoregressive"`):
            `"autoregressive"`: an answer position sees the earlier positions and the token before it.
            `"parallel"`: all positions are read out in one pass and see each other.
        position_frequencies (`str`, defaults to `"standard"`):
            Frequencies of the sinusoidal positions of a problem. `"single"` gives every channel pair the frequency 1:
            a mistake of the original that its checkpoints depend on.
        exit_threshold (`float`, *optional*):
            Relative change of a token's latent below which it is done thinking, in evaluation. Text models only.
        rope_parameters (`dict`, *optional*):
            Rotary settings in transformers' form; the original uses `rope_theta` 10000.
        rms_norm_eps (`float`, defaults to 1e-6):
            Epsilon of the norms.
        initializer_range (`float`, *optional*):
            Standard deviation of the initial weights; `1 / sqrt(hidden_size)` when not given, so that embedded tokens
            and what a projection makes of them start with variance 1.
        use_cache (`bool`, defaults to `True`):
            Whether to return keys and values.
        pad_token_id (`int`, *optional*), bos_token_id (`int`, *optional*), eos_token_id (`int`, *optional*):
            Special token ids.
        decoder_start_token_id (`int`, *optional*):
            What stands before an answer; `pad_token_id` when not given.
        is_encoder_decoder (`bool`, defaults to `True`):
            Whether problems are answered or text is continued.
        tie_word_embeddings (`bool`, defaults to `True`):
            Whether the output matrix is the embedding matrix.

    Raises:
        `StrictDataclassClassValidationError`: when the numbers contradict each other, with the field, what came and
            what is allowed.

    Example:

    >>> from hf_thoughtbubbles import LoopedThinkerConfig
    >>> LoopedThinkerConfig(num_hidden_layers=2, num_steps=6).num_unrolled_layers
    12
    """

    model_type = "looped_thinker"
    family_summary = "one block of layers with shared weights, applied again and again to latents that remember"
    # What FSDP2 gathers at once: every step goes through the layers again, so they are gathered with the whole model.
    base_model_fsdp_plan = {"embed_tokens": "free_full_weight"}
    keys_to_ignore_at_inference = [
        "past_key_values",
        "cache",
        "encoder_last_hidden_state",
        "latents",
        "step_hidden_states",
        "step_logits",
        "step_probes",
        "loop_hidden_states",
        "loop_logits",
        "loop_probes",
        "probes",
        "num_steps_used",
    ]

    vocab_size: int = 31
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
    num_latents: int = 8
    max_latents: int = 32
    num_output_steps: int = 1
    num_kept_outputs: int = 1
    max_answer_length: int = 64
    num_probes: int = 0
    static_memory_size: int = 0
    readout: Literal["autoregressive", "parallel"] = "autoregressive"
    position_frequencies: Literal["standard", "single"] = "standard"
    exit_threshold: float | int | None = None
    rope_parameters: RopeParameters | dict | None = None
    rms_norm_eps: float | int = 1e-6
    initializer_range: float | int | None = None
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.pad_token_id
        self.validate_sizes()  # before anything is derived from them
        if self.initializer_range is None:
            self.initializer_range = self.hidden_size**-0.5
        super().__post_init__(**kwargs)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_unrolled_layers(self) -> int:
        """How many layers a token passes through: those of the block, once a step."""
        return self.num_hidden_layers * self.num_steps

    @property
    def num_cache_slots(self) -> int:
        """Pairs of keys and values that generation keeps, see `modeling/looped_thinker/cache_steps.py`."""
        if self.is_encoder_decoder:
            return self.num_hidden_layers * self.num_output_steps
        return self.num_unrolled_layers * (1 if self.skip_self_attention else 2)

    @property
    def layer_types(self) -> list[str]:
        """One entry for each pair of keys and values, by which transformers sizes its caches."""
        return ["full_attention"] * self.num_cache_slots

    @property
    def per_layer_config(self) -> list["LoopedThinkerConfig"]:
        """The same for every pair of keys and values; transformers' caches have no more layers than this."""
        return [self] * self.num_cache_slots

    def validate_layer_type(self):
        """Part of `@strict`-powered validation: nothing, because `layer_types` is derived here."""

    def validate_sizes(self):
        """Part of `@strict`-powered validation: sizes are positive and the heads divide the width evenly."""
        check_counts(self, COUNTS)
        for name in ("num_probes", "static_memory_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be at least 0.")
        for name, lowest in (("low_rank", 1), ("num_memory_steps", 1), ("num_read_steps", 0)):
            if getattr(self, name) is not None and getattr(self, name) < lowest:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be at least {lowest}, or None.")
        check_heads(self)
        check_rotary_heads(self)
        if self.num_latents > self.max_latents:
            raise ValueError(
                f"`num_latents` is {self.num_latents}, but `max_latents` is {self.max_latents}. Use fewer latents or "
                "raise `max_latents`."
            )

    def validate_rope(self):
        """Part of `@strict`-powered validation: only rotary settings that act."""
        super().validate_rope()
        check_rope_parameters(self.rope_parameters)

    def validate_scales(self):
        """Part of `@strict`-powered validation: scales are positive."""
        check_scales(self, ("rms_norm_eps", "initializer_range"))
        if self.exit_threshold is not None and not 0 <= self.exit_threshold < float("inf"):
            raise ValueError(f"`exit_threshold` is {self.exit_threshold}; it must be finite and at least 0, or None.")


__all__ = ["LoopedThinkerConfig"]
