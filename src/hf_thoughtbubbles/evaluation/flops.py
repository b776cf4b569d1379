# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""
Operations and memory that a model needs.

Estimates follow from the configuration and lengths. torch's `FlopCounterMode` counts a model on the meta device, which
has shapes and no values: matrix products, 2 operations for a multiplication and an addition, attention over all pairs
of a query and a key. Norms, activations, softmax, rotary embeddings, sorting and gathering are left out. Where shapes
depend on values, formulas count the same (`flop_formulas.py`): streams that thresholds keep, and patches of bytes.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, EncoderDecoderCache

from .flop_formulas import RowCost, count_byte_patch, count_threshold_forks


BACKWARD_SHARE = 2  # every product of the forward pass has two in the backward pass: for its input and its weights
LENGTHS = {  # beside `num_tokens`, by `model_type`
    "byte_patch": ("num_patches", "bytes_per_patch"),
    "generic_transformer": (),
    "gpt2": (),
    "llama": (),
    "looped_thinker": ("num_steps", "num_latents", "num_read_steps", "answer_length"),
    "looped_thinker_text": ("num_steps",),
    "next_thought": ("answer_length", "num_thoughts"),
    "thoughtbubbles": (),
}


@dataclass(frozen=True)
class Flops:
    """
    Floating-point operations, as [`estimate_flops`] counts them.

    Args:
        forward (`int`): of one pass over the batch, without labels.
        training (`int`): of a forward and a backward pass with labels, three times a forward pass with labels; without
            the optimizer, and without what gradient checkpointing computes again (about one more forward pass).
        per_generated_token (`float`): of one more token of one row, with the row's tokens in the cache.
        num_tokens (`int`): tokens of a row; those of a problem and of its answer together.
        batch_size (`int`): rows.
    """

    forward: int
    training: int
    per_generated_token: float
    num_tokens: int
    batch_size: int

    @property
    def forward_per_row(self) -> float:
        """Of one pass, for each row: a text, or a problem with its answer."""
        return self.forward / self.batch_size

    @property
    def forward_per_token(self) -> float:
        """Of one pass, for each token of the rows; of a byte-patch model for each byte."""
        return self.forward_per_row / self.num_tokens


@dataclass(frozen=True)
class Memory:
    """
    Bytes, as [`estimate_memory`] counts them.

    Args:
        parameters (`int`): of the weights. Buffers are left out.
        gradients (`int`): of a gradient for each weight.
        optimizer (`int`): of the optimizer's state.
        cache (`int`): of the KV cache after a prompt; 0 for models without one.
    """

    parameters: int
    gradients: int
    optimizer: int
    cache: int

    @property
    def training(self) -> int:
        """Weights, gradients and optimizer; activations are left out."""
        return self.parameters + self.gradients + self.optimizer

    @property
    def generation(self) -> int:
        """Weights and cache; activations are left out."""
        return self.parameters + self.cache


def build_meta_model(config: PreTrainedConfig, num_positions: int = 0) -> PreTrainedModel:
    """The language model without memory for its weights, for `num_positions` tokens or more."""
    config = copy.deepcopy(config)
    if num_positions > 0:
        config.use_cache, config.pad_token_id = True, None  # GPT-2 searches ids for padding
        config.max_position_embeddings = max(config.max_position_embeddings, num_positions)
    fields = config.to_dict()
    if "exit_threshold" in fields:
        config.exit_threshold = None  # as if no token exits early
    if fields.get("rope_parameters"):  # scalings cost the same, and one of them reads positions, which have no values
        config.rope_parameters = {"rope_type": "default", "rope_theta": fields["rope_parameters"]["rope_theta"]}
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        return auto_class.from_config(config, attn_implementation="eager").eval()


def make_ids(length: int) -> torch.Tensor:
    """Token ids `(1, length)` on the meta device."""
    return torch.zeros(1, length, dtype=torch.long, device="meta")


@torch.no_grad()
def count_call(model: torch.nn.Module, *args, **inputs) -> tuple[int, Any]:
    """FLOPs of a call of `forward`, and its output."""
    with FlopCounterMode(display=False) as counter:
        outputs = model(*args, **inputs)
    return counter.get_total_flops(), outputs


def count_cache(cache: Cache | EncoderDecoderCache) -> dict[str, int]:
    """Numbers in a cache, and bytes of its indices and masks."""
    halves = [cache]
    if isinstance(cache, EncoderDecoderCache):
        halves = [cache.self_attention_cache, cache.cross_attention_cache]
    values = [value for half in halves for holder in (half, *half.layers) for value in vars(holder).values()]
    tensors = list({id(value): value for value in values if isinstance(value, torch.Tensor)}.values())
    return {
        "cache_numbers": sum(tensor.numel() for tensor in tensors if tensor.is_floating_point()),
        "cache_bytes": sum(tensor.nbytes for tensor in tensors if not tensor.is_floating_point()),
    }


def count_text(config: PreTrainedConfig, num_tokens: int, **lengths) -> RowCost:
    """A pass over a text and one cached step after it; without a cache the step is a pass over one token more."""
    model = build_meta_model(config, num_tokens + 1)
    forward, outputs = count_call(model, input_ids=make_ids(num_tokens), **lengths)
    cache, held = outputs.past_key_values, {}
    if cache is None:
        step, _ = count_call(model, input_ids=make_ids(num_tokens + 1), logits_to_keep=1, **lengths)
    else:
        held = count_cache(cache)
        step, _ = count_call(model, input_ids=make_ids(1), past_key_values=cache, **lengths)
    return RowCost(num_tokens, forward, forward, step, **held)


def count_answer(config: PreTrainedConfig, num_tokens: int, answer_length: int | None = None, **lengths) -> RowCost:
    """A pass over a problem and its answer, and the step of a token; a parallel answer's tokens share one reading."""
    is_thought = config.model_type == "next_thought"
    is_parallel = not is_thought and config.readout == "parallel"
    num_answers = answer_length or (num_tokens if is_thought else config.max_answer_length)
    model = build_meta_model(config, num_tokens + num_answers + 1)
    problem = {"input_ids": make_ids(num_tokens), **lengths}
    answer = {"answer_length": num_answers} if is_parallel else {"decoder_input_ids": make_ids(num_answers)}
    forward, _ = count_call(model, **problem, **answer)
    labeled, _ = count_call(model, **problem, **answer, labels=make_ids(num_answers))
    thinking, encoder_outputs = count_call(model.get_encoder(), **problem)
    if is_parallel:  # generation makes one pass for all tokens of the answer, without earlier outputs
        model.config.num_kept_outputs = 1
        step = (count_call(model, **problem, **answer)[0] - thinking) / num_answers
        return RowCost(num_tokens + num_answers, forward, labeled, step)
    _, outputs = count_call(model, encoder_outputs=encoder_outputs, **answer, use_cache=True)
    cache = outputs.past_key_values
    held = count_cache(cache)
    if not is_thought:  # an answer has at most `max_answer_length` tokens, so the step is that of its last one
        cache.self_attention_cache.crop(-1)
    state = {"encoder_outputs": encoder_outputs, "past_key_values": cache, "use_cache": True}
    step, _ = count_call(model, decoder_input_ids=make_ids(1), **state)
    return RowCost(num_tokens + num_answers, forward, labeled, step, **held)


def count_row(config: PreTrainedConfig, num_tokens: int, batch_size: int, lengths: dict) -> RowCost:
    """Check what was passed, and count one row."""
    kind, lengths = config.model_type, {name: value for name, value in lengths.items() if value is not None}
    if kind not in LENGTHS:
        raise ValueError(
            f'`model_type="{kind}"` was passed; it must be one of {sorted(LENGTHS)}. Use `measure_flops` for others.'
        )
    known = LENGTHS[kind]
    for name, value in {"num_tokens": num_tokens, "batch_size": batch_size, **lengths}.items():
        if name in lengths and name not in known:
            raise ValueError(
                f'`{name}` was passed, but the costs of this `model_type="{kind}"` depend on {list(known) or "no"} '
                f"other lengths. Remove `{name}`."
            )
        lowest = 0 if name == "num_read_steps" else 1
        if value < lowest:
            raise ValueError(f"`{name}={value}` was passed; it must be at least {lowest}.")
    if kind == "byte_patch":
        return count_byte_patch(config, num_tokens, **lengths)
    if kind == "thoughtbubbles" and config.has_fork_thresholds and not config.can_skip_forks(config.fork_budget):
        return count_threshold_forks(config, num_tokens, **lengths)
    return (count_answer if config.is_encoder_decoder else count_text)(config, num_tokens, **lengths)


def estimate_flops(config: PreTrainedConfig, num_tokens: int, batch_size: int = 1, **lengths) -> Flops:
    """
    Return the FLOPs of a model with this configuration, equal to those of [`measure_flops`] on real inputs.

    Args:
        config (`PreTrainedConfig`): of one of our language models, of GPT-2 or of Llama.
        num_tokens (`int`): tokens of each row: bytes for byte-patch models, those of the problem for looped Thinkers
            that answer, those of the input thought for next-thought models.
        batch_size (`int`): rows.
        lengths: other lengths that the costs of a family depend on; the configuration's by default.

            - looped Thinkers: `num_steps`, as if no token exits early; those that answer also `num_latents`,
              `num_read_steps` and `answer_length`.
            - next-thought models: `answer_length`, `num_tokens` by default, and `num_thoughts`.
            - byte-patch models: `num_patches` of a row, or `bytes_per_patch`; required unless patches are `"fixed"`.

    Returns:
        [`Flops`]. A generated token is one cached step after `num_tokens` tokens; for models without a cache a pass
        over them and the new one.

    Raises:
        `ValueError`: for an unknown `model_type`, a number that is too small, or lengths of another family.

    >>> from transformers import LlamaConfig
    >>> sizes = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> flops = estimate_flops(LlamaConfig(vocab_size=10, **sizes), num_tokens=2)
    >>> flops.forward, flops.forward_per_token, flops.per_generated_token
    (864, 432.0, 448)
    """
    cost = count_row(config, num_tokens, batch_size, lengths)
    return Flops(
        forward=batch_size * cost.forward,
        training=round((1 + BACKWARD_SHARE) * batch_size * cost.labeled),
        per_generated_token=cost.step,
        num_tokens=cost.num_tokens,
        batch_size=batch_size,
    )


def count_parameters(config: PreTrainedConfig) -> int:
    """Parameters of the language model with this configuration, shared ones once; no memory is allocated for them."""
    return build_meta_model(config).num_parameters()


def estimate_memory(
    config: PreTrainedConfig,
    num_tokens: int,
    batch_size: int = 1,
    dtype: torch.dtype = torch.float32,
    optimizer_bytes_per_parameter: int = 8,
    **lengths,
) -> Memory:
    """
    Return the bytes of a model's weights, gradients, optimizer and cache; activations are left out.

    Args:
        config (`PreTrainedConfig`), num_tokens (`int`), batch_size (`int`), lengths: see [`estimate_flops`].
        dtype (`torch.dtype`): of weights, gradients and cache.
        optimizer_bytes_per_parameter (`int`): 8 for AdamW's two averages in float32, 2 with 8-bit ones, 12 with a
            float32 copy of half-precision weights.

    Returns:
        [`Memory`], in bytes. The cache is a growing one after `num_tokens` tokens, or after the whole answer.

    >>> from transformers import LlamaConfig
    >>> sizes = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> estimate_memory(LlamaConfig(vocab_size=10, **sizes), num_tokens=2, dtype=torch.bfloat16)
    Memory(parameters=504, gradients=504, optimizer=2016, cache=32)
    """
    if optimizer_bytes_per_parameter < 0:
        raise ValueError(f"`{optimizer_bytes_per_parameter=}` was passed; it must be at least 0, without any state.")
    cost, num_parameters = count_row(config, num_tokens, batch_size, lengths), count_parameters(config)
    return Memory(
        parameters=num_parameters * dtype.itemsize,
        gradients=num_parameters * dtype.itemsize,
        optimizer=num_parameters * optimizer_bytes_per_parameter,
        cache=batch_size * (cost.cache_numbers * dtype.itemsize + cost.cache_bytes),
    )


def measure_flops(model: PreTrainedModel, *args, **inputs) -> int:
    """
    Return the FLOPs of one real forward pass in evaluation, with eager attention, because torch does not count all
    fused kernels. The model's attention and mode are restored, also when the pass fails.

    Args:
        model (`PreTrainedModel`), args, inputs: any model, and arguments of its `forward`.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> measure_flops(LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes)), torch.tensor([[1, 2]]))
    864
    """
    attention, was_training = model.config._attn_implementation, model.training
    try:
        model.set_attn_implementation("eager")
        return count_call(model.eval(), *args, **inputs)[0]
    finally:
        model.set_attn_implementation(attention)
        model.train(was_training)


__all__ = ["Flops", "Memory", "count_parameters", "estimate_flops", "estimate_memory", "measure_flops"]
