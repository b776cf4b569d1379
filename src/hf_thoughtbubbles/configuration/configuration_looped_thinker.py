# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The configuration of looped Thinkers that answer problems."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .looped_settings import LoopedThinkerSettings
from .size_settings import check_counts


COUNTS = ("num_latents", "max_latents", "num_output_steps", "num_kept_outputs", "max_answer_length")


@strict
class LoopedThinkerConfig(LoopedThinkerSettings):
    r"""
    The configuration of a [`LoopedThinkerModel`]: a few latent vectors pass one weight-shared block again and again,
    attend to a problem, and its answer is read out ([`LoopedThinkerForConditionalGeneration`]).

    Args:
        vocab_size (`int`, defaults to 31):
            Number of token ids; by default those of `build_number_tokenizer`.
        hidden_size (`int`, defaults to 128):
            Width of a latent.
        num_hidden_layers (`int`, defaults to 1):
            Number of layers in the shared block. A state passes `num_unrolled_layers` of them.
        num_attention_heads (`int`, defaults to 4):
            Number of heads of queries.
        num_key_value_heads (`int`, *optional*):
            Number of heads of keys and values, a divisor of `num_attention_heads`, its default.
        head_dim (`int`, *optional*):
            Number of channels of a head; `hidden_size / num_attention_heads` by default. Must be even where latents
            attend to each other.
        intermediate_size (`int`, *optional*):
            Width of the feed-forward layers; `4 * hidden_size` by default. The original calls it `d_hid`.
        feed_forward (`str`, defaults to `"swiglu"`):
            `"swiglu"` multiplies a SiLU gate in and ignores `hidden_act`; `"mlp"` widens, activates and narrows.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the `"mlp"`; any name of transformers' `ACT2FN`.
        attention_normalization, mlp_normalization, final_normalization (`str`, defaults to `"rms_norm"`):
            Norm before attention, before feed-forward layers and after a step: `"rms_norm"` or `"layer_norm"`.
        rms_norm_eps (`float`, defaults to 1e-6), layer_norm_eps (`float`, defaults to 1e-5):
            Epsilons of the norms.
        attention_bias (`bool` or `"qkv"`, defaults to `False`):
            Whether the projections of attention have biases, with the layer norms before attention. `"qkv"`: those to
            queries, keys and values have, that of the output has none.
        mlp_bias (`bool`, defaults to `False`):
            Whether feed-forward layers have biases, with the layer norms before them and the final one.
        use_qk_norm (`bool`, defaults to `False`):
            Whether each head of queries and keys passes an RMS norm before it is rotated.
        max_position_embeddings (`int`, defaults to 512):
            Most tokens of a problem in training. Longer ones are read with one warning. The original calls it
            `max_input_len`.
        num_steps (`int`, defaults to 8):
            Number of times that the block is applied; a call may ask for more or fewer.
        num_memory_steps (`int`, *optional*):
            Number of past steps in the memory; all by default. The original calls it `n_memory`.
        num_read_steps (`int`, *optional*):
            Number of steps after which the memory no longer contains the input; unlimited by default. The first step
            always attends to it. The original calls it `read_step`.
        low_rank (`int`, *optional*):
            Rank of the attention projections; full by default, or where it is not below both widths of a projection.
        skip_self_attention (`bool`, defaults to `False`):
            Whether latents attend to the memory alone, not to each other.
        self_attention_mlp (`bool`, defaults to `False`):
            Whether a feed-forward layer follows self-attention; without effect with `skip_self_attention`, as in the
            original (`ff_in_self_attn`).
        num_latents (`int`, defaults to 8):
            Number of latents for a problem; a call may ask for up to `max_latents`.
        max_latents (`int`, defaults to 32):
            Number of rows of the table of initial latents.
        num_output_steps (`int`, defaults to 1):
            Number of times that the block is applied to read an answer out.
        num_kept_outputs (`int`, defaults to 1):
            Number of last steps after which the answer is read out and scored (deep supervision); more than
            `num_steps` mean all. The original calls it `n_keep_output`.
        max_answer_length (`int`, defaults to 64):
            Largest number of tokens of an answer. The original calls it `max_output_len`.
        num_probes (`int`, defaults to 0):
            Number of values that a linear probe predicts at every answer position.
        static_memory_size (`int`, defaults to 0):
            Number of rows of the table of static memories, which `memory_ids` picks. The original calls it
            `static_mem_len`.
        readout (`str`, defaults to `"autoregressive"`):
            `"autoregressive"`: an answer position attends to earlier positions and is given the token before it.
            `"parallel"`: all positions are read out in one pass and attend to each other.
        position_frequencies (`str`, defaults to `"standard"`):
            Frequencies of the sinusoidal positions of a problem. `"single"` gives every channel pair the frequency 1:
            a mistake of the original that its checkpoints depend on.
        rope_parameters (`dict`, *optional*):
            Rotary settings in transformers' form, with any of its scalings; the original uses `rope_theta` 10000.
        initializer_range (`float`, *optional*):
            Standard deviation of the initial weights; `1 / sqrt(hidden_size)` by default, so that scaled embeddings
            and their projections start with variance 1.
        use_cache (`bool`, defaults to `True`):
            Whether to return keys and values.
        pad_token_id (`int`, *optional*), bos_token_id (`int`, *optional*), eos_token_id (`int`, *optional*):
            Special token ids.
        decoder_start_token_id (`int`, *optional*):
            Id of the token before an answer; `pad_token_id` by default.
        number_task (`dict`, *optional*):
            Name and options of the number task that the model was trained on, as `describe_task` gives them. Questions
            in decimal numbers are translated by it; the model itself does not read it.
        tie_word_embeddings (`bool`, defaults to `True`):
            Whether the output matrix is the embedding matrix.

    Raises:
        `StrictDataclassClassValidationError`: when numbers contradict each other; names the field, what was passed
            and what is allowed.

    Example:

    >>> from hf_thoughtbubbles import LoopedThinkerConfig
    >>> LoopedThinkerConfig(num_hidden_layers=2, num_steps=6).num_unrolled_layers
    12
    """

    model_type = "looped_thinker"
    family_summary = "one block of layers with shared weights, applied again and again to the latents of a problem"
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
    ]

    vocab_size: int = 31
    num_latents: int = 8
    max_latents: int = 32
    num_output_steps: int = 1
    num_kept_outputs: int = 1
    max_answer_length: int = 64
    num_probes: int = 0
    static_memory_size: int = 0
    readout: Literal["autoregressive", "parallel"] = "autoregressive"
    position_frequencies: Literal["standard", "single"] = "standard"
    decoder_start_token_id: int | None = None
    number_task: dict | None = None
    is_encoder_decoder: Literal[True] = True

    def __post_init__(self, **kwargs):
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.pad_token_id
        super().__post_init__(**kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> "LoopedThinkerConfig":
        """Return this configuration; transformers' own method would return a copy with renamed fields."""
        return self

    @property
    def num_cache_slots(self) -> int:
        """Number of pairs of keys and values that an answer stores, besides those of the memory."""
        return self.num_hidden_layers * self.num_output_steps

    @property
    def unrotated_by(self) -> str | None:
        """The setting by which no attention rotates queries and keys: latents and answers do in self-attention."""
        return "skip_self_attention=True" if self.skip_self_attention else None

    @property
    def thinking_summary(self) -> str:
        """How often the block is applied, in words, for model cards."""
        task = "" if self.number_task is None else f" It was trained on the number task `{self.number_task['name']}`."
        return (
            f"{self.num_latents} latents pass a block of {self.num_hidden_layers} layers {self.num_steps} times, then "
            f"the answer is read out; `generate(num_steps=..., num_latents=...)` changes both.{task}"
        )

    def validate_sizes(self):
        """Part of `@strict`-powered validation: sizes are positive and the heads divide the width evenly."""
        super().validate_sizes()
        check_counts(self, COUNTS)
        for name in ("num_probes", "static_memory_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be at least 0.")
        if self.num_latents > self.max_latents:
            raise ValueError(
                f"`num_latents` is {self.num_latents}, but `max_latents` is {self.max_latents}. Use fewer latents or "
                "raise `max_latents`."
            )


__all__ = ["LoopedThinkerConfig"]
