# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How many operations and how much memory does a model need?

Estimates follow from the configuration and lengths: no weights are made and nothing is run. What is counted is what
torch's `FlopCounterMode` counts with attention written out: matrix products, 2 operations for a multiplication and an
addition, attention over all pairs of a query and a key. Norms, activations, softmax, rotation, sorting and gathering
are left out. A family is one function from configuration and lengths to a [`RowCost`], by `model_type` in `FAMILIES`.

Shapes: B batch, T tokens, S streams, L latents, R steps, A answer positions, P patches, W bytes in a patch, D hidden,
E byte width, V vocabulary.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from ..modeling.looped_thinker.modeling_looped_thinker import choose_visible
from ..modeling.thoughtbubbles.cache_streams import NUM_SPARE_SLOTS, SPARE_SHARE


BACKWARD_SHARE = 2  # every product of the forward pass has two in the backward pass: for its input and its weights
ID_BYTES = 8  # of a LongTensor's entry
NUM_EXACT_DIGITS = 6  # of a measured mean times the tokens
OPTIONAL_LENGTHS = ("loop_decoder", "num_read_steps", "num_static_memories")  # may be 0


@dataclass(frozen=True)
class Flops:
    """
    Floating-point operations, as [`estimate_flops`] counts them.

    Args:
        forward (`int`): of one pass over the batch, without labels.
        training (`int`): of one forward and backward pass with labels, three times the forward pass. Left out: what
            gradient checkpointing computes again (about one more forward pass), and the optimizer. Counted too much:
            gradients that nothing needs, as of frozen weights.
        per_generated_token (`float`): of one more token of one row, when the row's tokens are in the cache.
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
        cache (`int`): of what generation keeps once a prompt is read; 0 for models that keep nothing.
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


@dataclass(frozen=True)
class RowCost:
    """
    What one row costs: what a family's function gives.

    Args:
        num_tokens (`int`): tokens of the row, an answer included.
        forward (`int`): FLOPs of one pass without labels.
        step (`float`): FLOPs of generating one token after them.
        scoring (`int`): FLOPs that labels add.
        cache_numbers (`int`): numbers in the model's dtype that reading the row leaves in a cache.
        cache_bytes (`int`): bytes of indices and masks beside them.
    """

    num_tokens: int
    forward: int
    step: float
    scoring: int = 0
    cache_numbers: int = 0
    cache_bytes: int = 0


def count_linear(num_rows: float, num_inputs: int, num_outputs: int) -> float:
    """FLOPs of a linear layer over rows."""
    return 2 * num_rows * num_inputs * num_outputs


def count_attention(num_queries: float, num_keys: float, width: int) -> float:
    """FLOPs of all heads together: queries times keys, weights times values. Keys that a mask hides count."""
    return 4 * num_queries * num_keys * width


def count_layer(
    num_queries: float,
    num_keys: float,
    width: int,
    intermediate_size: int,
    is_gated: bool = False,
    query_width: int | None = None,
    key_value_width: int | None = None,
) -> float:
    """
    FLOPs of a transformer layer whose queries read keys, their own among them; all heads are as wide as the layer,
    unless `query_width` or `key_value_width` say otherwise.

    >>> count_layer(1, 1, width=2, intermediate_size=3)
    64
    """
    wide = width if query_width is None else query_width
    narrow = wide if key_value_width is None else key_value_width
    projections = 2 * count_linear(num_queries, width, wide) + 2 * count_linear(num_queries, width, narrow)
    feed_forward = (3 if is_gated else 2) * count_linear(num_queries, width, intermediate_size)
    return projections + count_attention(num_queries, num_keys, wide) + feed_forward


def count_streams(
    num_tokens: int, means: Sequence[float], to_whole: Callable[[float], float], growth: float = 2
) -> list[float]:
    """
    Streams before the first fork and after each one, which leaves `means` for each token and multiplies them by
    `growth` at most: a fork doubles them.

    >>> count_streams(10, [1.5, 2.5], math.ceil)
    [10, 15, 25]
    """
    counts = [num_tokens]
    for mean in means:
        counts.append(min(growth * counts[-1], to_whole(num_tokens * mean)))
    return counts


def count_stream_layers(config: PreTrainedConfig, queries: Sequence[float], keys: Sequence[float]) -> float:
    """All layers and forks of a Thoughtbubbles model, of streams before the first fork and after each one."""
    flops, fork = 0, 0
    for layer_idx in range(config.num_hidden_layers):
        if layer_idx in config.fork_layers:  # two scores for each stream; copies have none
            scores = count_linear(queries[fork], config.hidden_size, 2) if config.has_fork_scores else 0
            flops, fork = flops + scores, fork + 1
        flops += count_layer(queries[fork], keys[fork], config.hidden_size, config.intermediate_size)
    return flops


def count_thoughtbubbles(
    config: PreTrainedConfig, num_tokens: int, num_streams: float | Sequence[float] | None = None
) -> RowCost:
    """
    Layers over streams: after a fork `fork_budget` for each token, or `num_streams`, one number or one for each fork.

    That is what the published rule and copies keep, and the causal rule in training. In evaluation the causal rule's
    budget is a mean over text, and rows are as long as the fullest.
    """
    width, num_forks = config.hidden_size, len(config.fork_layers)
    means = config.fork_budget if num_streams is None else num_streams
    means = list(means) if isinstance(means, Sequence) else [means] * num_forks
    if len(means) != num_forks:
        raise ValueError(
            f"`num_streams` has {len(means)} entries, but the model forks {num_forks} times. Give one number, or one "
            "for each fork layer."
        )

    def to_whole(count: float) -> int:
        """A budget is taken to the letter; a measured mean times the tokens may be off by rounding."""
        return math.ceil(count if num_streams is None else round(count, NUM_EXACT_DIGITS))

    def count_head(num_kept: float, num_kept_streams: float) -> float:
        is_mixed = config.fold == "probability" and num_forks > 0
        return count_linear(num_kept_streams if is_mixed else num_kept, width, config.vocab_size)

    growth = 2 if config.has_fork_scores else config.max_streams_per_token
    counts = count_streams(num_tokens, means, to_whole, growth)
    forward = count_stream_layers(config, counts, counts) + count_head(num_tokens, counts[-1])
    if not config.is_cacheable:  # the prefix is read again, and logits made of its last token
        counts = count_streams(num_tokens + 1, means, to_whole)
        step = count_stream_layers(config, counts, counts) + count_head(1, min(2**num_forks, counts[-1]))
        return RowCost(num_tokens, forward, step)
    one = count_streams(1, means, float, growth)
    seen = [(num_tokens + 1) * count for count in one]
    step = count_stream_layers(config, one, seen) + count_head(1, one[-1])
    num_slots = fork = 0
    for layer_idx in range(config.num_hidden_layers):
        fork += layer_idx in config.fork_layers
        num_slots += counts[fork] + (NUM_SPARE_SLOTS + int(counts[fork] * SPARE_SHARE) if fork else 0)
    return RowCost(
        num_tokens, forward, step, cache_numbers=2 * width * num_slots, cache_bytes=ID_BYTES * sum(counts[1:])
    )


def count_block(config: PreTrainedConfig, num_queries: int, num_keys: int, num_memories: int) -> int:
    """One step of a looped Thinker: its states see `num_keys` states of the step, then the projected memory."""
    width = config.hidden_size
    gated = 3 * count_linear(num_queries, width, config.intermediate_size)
    flops = count_thinker_projections(config, 2 * num_queries) + count_attention(num_queries, num_memories, width)
    flops += gated
    if not config.skip_self_attention:
        flops += count_thinker_projections(config, 4 * num_queries) + count_attention(num_queries, num_keys, width)
        flops += gated if config.self_attention_mlp else 0
    return config.num_hidden_layers * flops


def count_thinker_projections(config: PreTrainedConfig, num_rows: int) -> int:
    """Projections of rows, full or through a low rank."""
    if config.low_rank is None or config.low_rank >= config.hidden_size:
        return count_linear(num_rows, config.hidden_size, config.hidden_size)
    return 2 * count_linear(num_rows, config.hidden_size, config.low_rank)


def count_memory_projections(config: PreTrainedConfig, num_rows: int) -> int:
    """Keys and values of a part of the memory, for each layer."""
    return config.num_hidden_layers * count_thinker_projections(config, 2 * num_rows)


def count_thinking_text(config: PreTrainedConfig, num_tokens: int, num_steps: int) -> RowCost:
    """A latent for each token; a step reads the input and what earlier steps left. As if no token exits early."""

    def count(num_queries: int, num_keys: int) -> int:
        flops = num_steps * count_memory_projections(config, num_queries)  # input, all steps but the last
        for step in range(num_steps):
            reads_input, first = choose_visible(step, config.num_read_steps, config.num_memory_steps)
            flops += count_block(config, num_queries, num_keys, num_keys * (reads_input + step - first))
        return flops + count_linear(num_queries, config.hidden_size, config.vocab_size)

    num_slots = config.num_hidden_layers * num_steps * (1 if config.skip_self_attention else 2)
    return RowCost(
        num_tokens,
        forward=count(num_tokens, num_tokens),
        step=count(1, num_tokens + 1),
        cache_numbers=2 * config.hidden_size * num_slots * num_tokens,
    )


def count_thinking_answer(
    config: PreTrainedConfig,
    num_tokens: int,
    num_steps: int,
    num_latents: int,
    num_read_steps: int | None,
    num_answers: int,
    num_static: int,
    loop_decoder: bool,
) -> RowCost:
    """Latents read a problem, static memories and what earlier steps left; answer positions read the last memories."""
    num_layers, width = config.num_hidden_layers, config.hidden_size

    def count_visible(num_finished: int) -> int:
        reads_input, first = choose_visible(num_finished, num_read_steps, config.num_memory_steps)
        num_others = num_static + num_latents * (num_finished - first) if num_finished else 0
        return num_tokens * reads_input + num_others

    def count_reading(num_queries: int, num_finished: int) -> int:
        """Answer positions pass the block and see all of the answer, and the memory after so many steps."""
        return config.num_output_steps * count_block(config, num_queries, num_answers, count_visible(num_finished))

    def count_heads(num_rows: int) -> int:
        return count_linear(num_rows, width, config.vocab_size + config.num_probes)

    forward = count_memory_projections(config, num_tokens + num_static + num_steps * num_latents)
    for step in range(num_steps):
        forward += count_block(config, num_latents, num_latents, count_visible(step))
        if loop_decoder:
            forward += count_block(config, num_answers, num_answers, count_visible(step)) + count_heads(num_answers)
    num_kept = min(config.num_kept_outputs, num_steps)
    forward += sum(count_reading(num_answers, num_steps - i) for i in range(num_kept)) + count_heads(num_answers)
    cost = {"num_tokens": num_tokens + num_answers, "forward": forward}
    cost["scoring"] = count_heads(num_answers * (num_kept - 1))
    if config.readout == "parallel":
        whole = count_reading(num_answers, num_steps) + count_heads(num_answers)
        return RowCost(**cost, step=whole / num_answers)
    numbers = num_layers * config.num_output_steps * width * num_answers
    if config.skip_self_attention:  # one number a position, by which positions are counted
        numbers = num_answers
    numbers += num_layers * width * count_visible(num_steps)
    return RowCost(**cost, step=count_reading(1, num_steps) + count_heads(1), cache_numbers=2 * numbers)


def count_looped_thinker(
    config: PreTrainedConfig,
    num_tokens: int,
    num_steps: int | None = None,
    num_latents: int | None = None,
    num_read_steps: int | None = None,
    answer_length: int | None = None,
    num_static_memories: int | None = None,
    loop_decoder: bool | None = None,
) -> RowCost:
    """
    A text of `num_tokens`, or, with `is_encoder_decoder`, a problem that long and an answer of `answer_length`.

    The answer's length is `max_answer_length` when not given. A generated token of an answer is the last one, read
    from what was thought before; where answers are read out in parallel it is one position's share.
    """
    num_steps = num_steps or config.num_steps
    if config.is_encoder_decoder:
        return count_thinking_answer(
            config,
            num_tokens,
            num_steps,
            num_latents or config.num_latents,
            config.num_read_steps if num_read_steps is None else num_read_steps,
            answer_length or config.max_answer_length,
            num_static_memories or 0,
            loop_decoder or False,
        )
    problem = (num_latents, num_read_steps, answer_length, num_static_memories, loop_decoder)
    if any(value is not None for value in problem):
        raise ValueError(
            "`num_latents`, `num_read_steps`, `answer_length`, `num_static_memories` or `loop_decoder` came, but "
            "`is_encoder_decoder` is False, so that the model reads text. Leave them out."
        )
    return count_thinking_text(config, num_tokens, num_steps)


def count_generic_layers(config: PreTrainedConfig, num_queries: float, num_keys: float) -> float:
    """All layers of a generic transformer, over tokens or patches."""
    width, wide, is_gated = config.hidden_size, config.intermediate_size, config.feed_forward == "swiglu"
    flops = count_layer(
        num_queries, num_keys, width, wide, is_gated, key_value_width=config.num_key_value_heads * config.head_dim
    )
    if config.position_embedding == "relative":
        flops += count_linear(num_queries, width, 2 * config.max_relative_position + 1)
    return config.num_hidden_layers * flops


def count_generic_transformer(config: PreTrainedConfig, num_tokens: int) -> RowCost:
    """Layers over tokens; without a causal mask every generated token reads all of them anew."""

    def count(num_queries: int, num_keys: int, num_kept: int) -> int:
        head = count_linear(num_kept, config.hidden_size, config.vocab_size)
        return count_generic_layers(config, num_queries, num_keys) + head

    forward, num_seen = count(num_tokens, num_tokens, num_tokens), num_tokens + 1
    if not config.is_causal:
        return RowCost(num_tokens, forward, step=count(num_seen, num_seen, 1))
    narrow = config.num_key_value_heads * config.head_dim
    numbers = 2 * config.num_hidden_layers * narrow * num_tokens
    return RowCost(num_tokens, forward, step=count(1, num_seen, 1), cache_numbers=numbers)


def count_byte_layer(num_bytes: float, pairs: float, width: int, intermediate_size: int, next_width: int) -> float:
    """A layer over bytes, of which attention compares so many `pairs` of query and key."""
    feed_forward = count_linear(num_bytes, intermediate_size, width + next_width)
    return 4 * count_linear(num_bytes, width, width) + count_attention(pairs, 1, width) + feed_forward


def count_byte_encoder(config: PreTrainedConfig, num_bytes: float, num_patches: int) -> float:
    """Bytes to the vectors of patches: chunks of bytes see themselves and both neighbours."""
    width, depth = config.byte_hidden_size, config.num_byte_encoder_layers
    pairs = -(-num_bytes // config.max_patch_bytes) * 3 * config.max_patch_bytes**2
    if config.byte_layers == "residual":
        layers = depth * count_byte_layer(num_bytes, pairs, width, 4 * width, width)
        return layers + count_linear(num_patches, width, config.hidden_size)
    widths = [width] + [2 * width] * (depth - 1)
    ends = [*widths[1:], config.hidden_size]
    return sum(count_byte_layer(num_bytes, pairs, w, 4 * w, end) for w, end in zip(widths, ends, strict=True))


def count_written_patches(config: PreTrainedConfig, num_patches: int) -> int:
    """The parallel decoder, which writes all bytes of a patch at once."""
    width, longest = config.byte_hidden_size, config.max_patch_bytes
    num_bytes = num_patches * longest
    layer = count_byte_layer(num_bytes, num_bytes * longest, width, 4 * width, width)
    return count_linear(num_bytes, config.hidden_size, width) + config.num_byte_decoder_layers * layer


def count_patches(
    config: PreTrainedConfig, num_bytes: int, num_patches: int | None, bytes_per_patch: float | None
) -> tuple[int, float]:
    """Patches of a row, and the mean of their bytes: the one follows from the other, of fixed patches both."""
    if num_patches is not None and bytes_per_patch is not None:
        raise ValueError("`num_patches` and `bytes_per_patch` came; the one follows from the other. Give one.")
    if num_patches is None and bytes_per_patch is None:
        if config.patching != "fixed":
            raise ValueError(
                f'`num_patches` and `bytes_per_patch` are missing, and with `patching="{config.patching}"` the text '
                "decides where patches end. Give one; `model(input_ids, output_patches=True).patches.lengths` shows "
                "the patches of some text."
            )
        bytes_per_patch = config.patch_size
    if num_patches is None:
        num_patches = math.ceil(round(num_bytes / bytes_per_patch, NUM_EXACT_DIGITS))
    else:
        bytes_per_patch = num_bytes / num_patches
    if not 1 <= bytes_per_patch <= config.max_patch_bytes:
        raise ValueError(
            f"`num_patches` or `bytes_per_patch` came and make {bytes_per_patch:g} bytes a patch; a patch has 1 to "
            f"{config.max_patch_bytes} bytes, which is `max_patch_bytes`. Give what was measured on a row of "
            f"{num_bytes} bytes."
        )
    return num_patches, bytes_per_patch


def count_byte_patch(
    config: PreTrainedConfig,
    num_tokens: int,
    num_patches: int | None = None,
    bytes_per_patch: float | None = None,
) -> RowCost:
    """
    `num_tokens` bytes in `num_patches` patches, or in patches of `bytes_per_patch` on average.

    `"fixed"` patching needs neither. `patch_lengths.shape[1]` or `model(...).patches.lengths.shape[1]` tell how many
    patches there were. A generated byte is the mean over a patch, at whose end the core runs.
    """
    num_patches, bytes_per_patch = count_patches(config, num_tokens, num_patches, bytes_per_patch)
    width, longest, depth = config.byte_hidden_size, config.max_patch_bytes, config.num_byte_decoder_layers
    is_parallel = config.decoder == "parallel"
    num_states, head = num_patches + 1, count_linear(1, width, config.vocab_size)  # one stands before all patches

    forward = count_byte_encoder(config, num_tokens, num_patches)
    forward += count_generic_layers(config, num_patches, num_patches) + num_tokens * head
    ending = count_byte_encoder(config, bytes_per_patch, 1)
    ending += count_generic_layers(config, 1, int(num_tokens / bytes_per_patch) + 1)
    numbers = 2 * config.num_key_value_heads * config.head_dim * config.num_hidden_layers * num_patches
    numbers += config.hidden_size * num_patches  # the core's states
    cache = {"cache_numbers": numbers, "cache_bytes": (ID_BYTES + 2) * num_tokens}  # ids, padding, ends
    if is_parallel:
        scoring = count_written_patches(config, num_patches) + num_tokens * head
        return RowCost(
            num_tokens,
            forward=forward + count_written_patches(config, num_states),
            step=head + (ending + count_written_patches(config, 1)) / bytes_per_patch,
            scoring=scoring if config.reconstruction_loss_weight > 0 else 0,
            **cache,
        )
    cache["cache_numbers"] += 2 * width * depth * num_tokens
    pairs = -(-num_tokens // longest) * 2 * longest**2  # chunks of bytes see themselves and the chunk before
    forward += count_linear(num_states, config.hidden_size, width)
    forward += depth * count_byte_layer(num_tokens, pairs, width, 4 * width, width)
    step = head + count_linear(1, config.hidden_size, width)
    step += depth * count_byte_layer(1, min(num_tokens + 1, longest), width, 4 * width, width)
    return RowCost(num_tokens, forward, step + ending / bytes_per_patch, **cache)


def count_next_thought(
    config: PreTrainedConfig, num_tokens: int, answer_length: int | None = None, num_thoughts: int | None = None
) -> RowCost:
    """
    A thought of `num_tokens` is read and pooled, the core is applied `num_thoughts` times, and `answer_length` tokens
    of the next thought, as many as were read when not given, are written after its latent tokens.
    """
    width, latent_size = config.hidden_size, config.latent_size
    num_answers, num_thoughts = answer_length or num_tokens, num_thoughts or config.num_thoughts
    is_gated = config.feed_forward == "swiglu"

    def count_side(side: str, num_queries: int, num_keys: int) -> float:
        heads, kv_heads = (getattr(config, f"{side}_{kind}_heads") for kind in ("attention", "key_value"))
        narrow = width // heads * kv_heads
        layer = count_layer(
            num_queries, num_keys, width, getattr(config, f"{side}_ffn_dim"), is_gated, key_value_width=narrow
        )
        return getattr(config, f"num_{side}_layers") * layer

    forward = count_side("encoder", num_tokens, num_tokens)
    widths = [width, *config.pooling_sizes]
    counts = [num_tokens, *config.count_kept_tokens(num_tokens)]
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        num_read, num_kept = counts[i : i + 2]
        forward += 3 * count_linear(num_read, before, before) + count_attention(num_read, num_read, before)
        forward += count_linear(num_kept, before, before) + count_linear(num_kept, before, 4 * before)
        forward += count_linear(num_kept, 4 * before, after)
    blocks = [latent_size, latent_size] if config.core == "mlp" else config.core_block_sizes
    forward += num_thoughts * sum(count_linear(latent_size // size, size, size) for size in blocks)
    num_entries = config.num_latent_tokens + num_answers
    forward += count_linear(1, latent_size, config.num_latent_tokens * width)
    forward += count_side("decoder", num_entries, num_entries) + count_linear(num_answers, width, config.vocab_size)
    narrow = width // config.decoder_attention_heads * config.decoder_key_value_heads
    return RowCost(
        num_tokens + num_answers,
        forward,
        step=count_side("decoder", 1, num_entries + 1) + count_linear(1, width, config.vocab_size),
        cache_numbers=2 * config.num_decoder_layers * narrow * num_entries,
    )


def count_native(config: PreTrainedConfig, num_tokens: int, **layer) -> RowCost:
    """A native decoder of layers as [`count_layer`] describes them."""
    width, depth, head = config.hidden_size, config.num_hidden_layers, config.hidden_size * 2 * config.vocab_size
    narrow = layer.get("key_value_width", width)
    return RowCost(
        num_tokens,
        forward=depth * count_layer(num_tokens, num_tokens, width, **layer) + num_tokens * head,
        step=depth * count_layer(1, num_tokens + 1, width, **layer) + head,
        cache_numbers=2 * depth * narrow * num_tokens,
    )


def count_gpt2(config: PreTrainedConfig, num_tokens: int) -> RowCost:
    """transformers' GPT-2."""
    wide = 4 * config.hidden_size if config.n_inner is None else config.n_inner
    return count_native(config, num_tokens, intermediate_size=wide)


def count_llama(config: PreTrainedConfig, num_tokens: int) -> RowCost:
    """transformers' Llama."""
    return count_native(
        config,
        num_tokens,
        intermediate_size=config.intermediate_size,
        is_gated=True,
        query_width=config.num_attention_heads * config.head_dim,
        key_value_width=config.num_key_value_heads * config.head_dim,
    )


FAMILIES: dict[str, Callable[..., RowCost]] = {
    "byte_patch": count_byte_patch,
    "generic_transformer": count_generic_transformer,
    "gpt2": count_gpt2,
    "llama": count_llama,
    "looped_thinker": count_looped_thinker,
    "next_thought": count_next_thought,
    "thoughtbubbles": count_thoughtbubbles,
}


def count_row(config: PreTrainedConfig, num_tokens: int, batch_size: int, lengths: dict) -> RowCost:
    """What a row costs, after a look at what was asked."""
    if config.model_type not in FAMILIES:
        raise ValueError(
            f'`config` has the `model_type` "{config.model_type}"; costs are known of {sorted(FAMILIES)}. Measure '
            "others with `measure_flops(model, **inputs)`."
        )
    for name, value in (("num_tokens", num_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"`{name}` is {value}; it must be at least 1.")
    count, lengths = FAMILIES[config.model_type], {k: v for k, v in lengths.items() if v is not None}
    known = list(inspect.signature(count).parameters)[2:]
    for name, value in lengths.items():
        if name not in known:
            raise ValueError(
                f'`{name}` came, but the costs of `model_type="{config.model_type}"` depend on {known or "no"} other '
                "lengths. Leave it out."
            )
        lowest = 0 if name in OPTIONAL_LENGTHS else 1
        if min(value if isinstance(value, Sequence) else [value], default=lowest) < lowest:
            raise ValueError(f"`{name}` is {value}; it must be at least {lowest}.")
    return count(config, num_tokens, **lengths)


def estimate_flops(config: PreTrainedConfig, num_tokens: int, batch_size: int = 1, **lengths) -> Flops:
    """
    The FLOPs of a model with this configuration: what [`measure_flops`] counts on real inputs.

    Args:
        config (`PreTrainedConfig`): of one of our language models, of GPT-2 or of Llama.
        num_tokens (`int`): tokens of each row, bytes for byte-patch models, those of the problem for looped Thinkers
            that answer, those of the thought that is read for next-thought models.
        batch_size (`int`): rows.
        lengths: what else decides how much a family computes; the configuration's by default.

            - Thoughtbubbles: `num_streams` (`float`, or one for each fork layer), streams a token has.
            - looped Thinkers: `num_steps`; of problems also `num_latents`, `num_read_steps`, `answer_length`,
              `num_static_memories` (the width of `memory_ids`) and `loop_decoder`. Steps that tokens exit before are
              not subtracted.
            - next-thought models: `answer_length`, `num_tokens` by default, and `num_thoughts`.
            - byte-patch models: `num_patches` of a row, or `bytes_per_patch`. One is needed unless patches are
              `"fixed"`.

    Returns:
        [`Flops`]. A generated token is one cached step after `num_tokens` tokens; for `fork_policy="topk"`, which has
        no cache, a pass over them and the new one.

    Raises:
        `ValueError`: for an unknown `model_type`, a number that is too small, or lengths of another family.

    Example:

    >>> from transformers import LlamaConfig
    >>> sizes = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> flops = estimate_flops(LlamaConfig(vocab_size=10, **sizes), num_tokens=2)
    >>> flops.forward, flops.forward_per_token, flops.per_generated_token
    (864, 432.0, 448)
    """
    cost = count_row(config, num_tokens, batch_size, lengths)
    return Flops(
        forward=batch_size * cost.forward,
        training=(1 + BACKWARD_SHARE) * batch_size * (cost.forward + cost.scoring),
        per_generated_token=cost.step,
        num_tokens=cost.num_tokens,
        batch_size=batch_size,
    )


def count_parameters(config: PreTrainedConfig) -> int:
    """Parameters of the language model with this configuration, shared ones once; no memory is taken for them."""
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        return auto_class.from_config(config).num_parameters()


def estimate_memory(
    config: PreTrainedConfig,
    num_tokens: int,
    batch_size: int = 1,
    dtype: torch.dtype = torch.float32,
    optimizer_bytes_per_parameter: int = 8,
    **lengths,
) -> Memory:
    """
    The bytes of a model's weights, gradients, optimizer and cache. Left out are activations, which depend on how
    attention is computed and on gradient checkpointing, and what libraries take for themselves.

    Args:
        config (`PreTrainedConfig`), num_tokens (`int`), batch_size (`int`), lengths: see [`estimate_flops`].
        dtype (`torch.dtype`): of weights, gradients and cache.
        optimizer_bytes_per_parameter (`int`): 8 for AdamW's two averages in float32, 2 with 8-bit ones, 12 with a
            float32 copy of half-precision weights.

    Returns:
        [`Memory`], in bytes. The cache is a growing one as reading `num_tokens` leaves it; later tokens may add spare
        room. Of a problem it is that of the memory and of the whole answer.

    Raises:
        `ValueError`: see [`estimate_flops`], and for fewer than 0 bytes.

    Example:

    >>> from transformers import LlamaConfig
    >>> sizes = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> estimate_memory(LlamaConfig(vocab_size=10, **sizes), num_tokens=2, dtype=torch.bfloat16)
    Memory(parameters=504, gradients=504, optimizer=2016, cache=32)
    """
    if optimizer_bytes_per_parameter < 0:
        raise ValueError(
            f"`optimizer_bytes_per_parameter` is {optimizer_bytes_per_parameter}; it must be at least 0, which an "
            "optimizer without state needs."
        )
    cost, num_parameters = count_row(config, num_tokens, batch_size, lengths), count_parameters(config)
    return Memory(
        parameters=num_parameters * dtype.itemsize,
        gradients=num_parameters * dtype.itemsize,
        optimizer=num_parameters * optimizer_bytes_per_parameter,
        cache=batch_size * (cost.cache_numbers * dtype.itemsize + cost.cache_bytes),
    )


@torch.no_grad()
def measure_flops(model: PreTrainedModel, *args, **inputs) -> int:
    """
    The FLOPs of one real forward pass in evaluation, counted by torch with attention written out, because not all
    fused kernels are counted. The model's attention and mode are put back, also when the pass fails.

    Args:
        model (`PreTrainedModel`): any.
        args, inputs: of its `forward`.

    Returns:
        `int`, of all rows together.

    Example:

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> measure_flops(LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes)), torch.tensor([[1, 2]]))
    864
    """
    attention, was_training = model.config._attn_implementation, model.training
    try:
        model.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter:
            model.eval()(*args, **inputs)
    finally:
        model.set_attn_implementation(attention)
        model.train(was_training)
    return counter.get_total_flops()


__all__ = [
    "Flops",
    "Memory",
    "count_parameters",
    "estimate_flops",
    "estimate_memory",
    "measure_flops",
]
