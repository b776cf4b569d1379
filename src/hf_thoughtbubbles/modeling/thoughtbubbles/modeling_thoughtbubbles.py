# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Thoughtbubbles (arXiv 2510.00219): a GPT whose tokens fork into parallel residual streams.

    embed    token ids to one residual stream per token
    decode   layers over streams; before some layers streams fork (forking.py)
    unembed  the streams of a token are folded into one vector, then logits

Every stream has a cumulative log score. It weighs the layers' outputs for the stream, the stream's keys and values in
attention, and the stream's share in the output of its token. Without fork layers every token has one stream of log
score 0: a plain GPT.

Shapes: B batch, T tokens, S streams (T before the first fork), N heads, D hidden, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple, logging
from transformers.utils.output_capturing import capture_outputs

from ...configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from ...hub.hub_models import HubModelMixin
from ..common.attention_masks import AttentionChoiceMixin, create_causal_mask, describe_documents, is_served
from ..common.batching_engines import take_paged_cache
from ..common.cache_names import CACHE_NAMES, accept_cache_names
from ..common.checks_settings import check_arguments
from ..common.checks_targets import check_language_targets
from ..common.checks_tokens import check_cache_in_replay
from ..common.classification_heads import QuestionAnsweringHead, SequenceClassificationHead, TokenClassificationHead
from ..common.common_layers import RotaryEmbedding, double_rotary, get_layer_cache
from ..common.decoder_parts import build_norm
from ..common.evaluation_mode import compares_likelihoods
from ..common.packed_documents import find_documents, separate_documents
from ..common.position_ids import get_position_ids, take_last
from .cache_streams import StreamCache, StreamSlots, allocate_slots
from .checks_thoughtbubbles import (
    check_documents,
    check_head,
    check_inputs,
    find_mask_obstacles,
    warn_of_forks_before_attention,
)
from .fork_thresholds import is_learning, read_thresholds
from .forking import ThoughtbubblesFork, ThoughtbubblesForkOutput, ThoughtbubblesUnscoredFork, keep_tokens
from .generation_thoughtbubbles import ThoughtbubblesGenerationMixin
from .layers_thoughtbubbles import ThoughtbubblesAttention, ThoughtbubblesDecoderLayer, create_stream_mask
from .outputs_thoughtbubbles import ThoughtbubblesCausalLMOutput, ThoughtbubblesModelOutput
from .streams import (
    ThoughtbubblesStreams,
    count_streams,
    fold_streams,
    get_stream_positions,
    list_single_streams,
    mix_stream_distributions,
)


logger = logging.get_logger(__name__)


class ThoughtbubblesPreTrainedModel(AttentionChoiceMixin, HubModelMixin, PreTrainedModel):
    """Initial weights, and what transformers may do with the models of this family."""

    config: ThoughtbubblesConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ThoughtbubblesDecoderLayer", "ThoughtbubblesFork"]
    _skip_keys_device_placement = [*CACHE_NAMES]
    _supports_flash_attn = _supports_attention_backend = True
    find_mask_obstacles = staticmethod(find_mask_obstacles)
    _keep_in_fp32_modules = [r".*\.keep_proj"]  # every quantiser skips these, and float16 does not round them
    _keep_in_fp32_modules_strict = [r".*\.threshold", r".*\.threshold_budget"]
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": ThoughtbubblesDecoderLayer, "attentions": ThoughtbubblesAttention}

    def __init__(self, config: ThoughtbubblesConfig, *args, **kwargs):
        config.validate()  # fields set after construction, as `from_pretrained(..., fork_layers=...)` does
        super().__init__(config, *args, **kwargs)
        if not config.has_fork_scores:  # accelerate's FSDP refuses names that the model has no layer of
            self._no_split_modules = ["ThoughtbubblesDecoderLayer"]
            self._keep_in_fp32_modules = self._keep_in_fp32_modules_strict = None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        std = self.config.initializer_range
        if getattr(module, "writes_residual", False):
            init.normal_(module.weight, std=std / math.sqrt(2 * self.config.num_hidden_layers))
        elif isinstance(module, ThoughtbubblesFork):
            init.normal_(module.embedding, std=self.config.hidden_size**-0.5)
            if module.adapter_up is not None:
                init.zeros_(module.adapter_up.weight)
            if module.keep_proj.bias is not None:
                init.copy_(module.keep_proj.bias, torch.tensor(self.config.fork_score_init, dtype=torch.float32))
            module.init_thresholds()


class ThoughtbubblesModel(ThoughtbubblesPreTrainedModel):
    """
    The bare Thoughtbubbles model: token ids to one normalised vector per token.

    The published fork rule (`fork_rule="topk"`) compares all candidates of a row: the streams of a token depend on
    later tokens and on the length, so no cache can be exact, and rows padded into one batch differ slightly from the
    same rows alone. With a causal fork rule, or without fork layers, the model is causal and has a cache.
    """

    def __init__(self, config: ThoughtbubblesConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        if config.position_embedding == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        else:
            self.rotary_emb = RotaryEmbedding(config, config.first_position)
        self.layers = nn.ModuleList([ThoughtbubblesDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        fork_class = ThoughtbubblesFork if config.has_fork_scores else ThoughtbubblesUnscoredFork
        self.forks = nn.ModuleDict(
            {str(layer_idx): fork_class(config, i + 1) for i, layer_idx in enumerate(config.fork_layers)}
        )
        self.norm = build_norm(config, config.final_normalization, config.mlp_bias)
        self.gradient_checkpointing = False
        self.has_lm_head = False  # set by a language model
        warn_of_forks_before_attention(config, config.fork_rule)
        self.post_init()

    def embed(
        self,
        input_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
    ) -> torch.Tensor:
        """One vector per token, `(B, T, D)`, with its learned position."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if self.config.position_embedding == "learned":
            positions = self.count_positions(inputs_embeds, attention_mask, position_ids, past_key_values)
            if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
                # Padding itself has positions from the left (docs/reference_behaviour.md, "GPT", G1).
                places = torch.arange(attention_mask.shape[1], device=attention_mask.device)[None]
                rows = torch.where(attention_mask.bool(), -1, places)
                own = take_last(rows, inputs_embeds.shape[1], past_key_values)
                positions = torch.where(own < 0, positions, own)
            inputs_embeds = inputs_embeds + self.embed_positions(positions)
        return self.embedding_dropout(inputs_embeds)

    def count_positions(self, inputs_embeds, attention_mask, position_ids, past_key_values) -> torch.Tensor:
        """
        Positions `(B or 1, T)`; by default counted along the mask, where padding takes none. The published rule counts
        from the left of the row (docs/reference_behaviour.md, "Thoughtbubbles", T16).
        """
        counted_mask = None if self.config.has_dead_slots else attention_mask
        return get_position_ids(inputs_embeds, counted_mask, position_ids, past_key_values)

    def decode(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        documents: torch.LongTensor | None = None,
        fork_budget: float | None = None,
        thresholds: list[float | torch.Tensor] | None = None,
        output_forks: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[ThoughtbubblesStreams, tuple[ThoughtbubblesForkOutput, ...]]:
        """
        Run the layers over `(B, T, D)`, forking on the way; returns the streams and those after each fork layer.

        In evaluation `thresholds`, one per fork layer, replace those of the budget. Tokens attend within their
        document, `documents` `(B or 1, T)`. Skipped fork layers are among those returned with `output_forks=True`.
        """
        num_tokens, token_mask = inputs_embeds.shape[1], None
        if attention_mask is not None and attention_mask.ndim == 2:
            token_mask = take_last(attention_mask, num_tokens, past_key_values).bool()
        for fork in self.forks.values():
            if fork.config is not self.config:  # PEFT trains a copy of a fork, which has a copy of the configuration
                fork.follow(self.config)
        skips_forks = thresholds is None and self.skips_forks(fork_budget, past_key_values)
        if thresholds is None:
            thresholds = self.read_thresholds(fork_budget)
        # A compiled graph and a static cache have one shape for all inputs; a growing cache holds no fillers.
        is_growing = past_key_values is not None and not past_key_values.is_compileable
        is_static = torch.compiler.is_compiling() and not is_growing

        streams, forks = ThoughtbubblesStreams(inputs_embeds), []
        log_scores = gates = None
        positions = self.count_positions(inputs_embeds, attention_mask, position_ids, past_key_values)
        shared = self.prepare_tokens(
            inputs_embeds, positions, attention_mask, position_ids, past_key_values, token_mask, documents, kwargs
        )
        for layer_idx, layer in enumerate(self.layers[: self.config.num_hidden_layers]):
            is_fork = layer_idx in self.config.fork_layers
            if is_fork and skips_forks:
                if self.training and torch.is_grad_enabled():
                    streams = self.forks[str(layer_idx)](streams, num_tokens, is_skipped=True)
            elif is_fork:
                fork, threshold = self.forks[str(layer_idx)], thresholds[len(forks)]
                streams = fork(streams, num_tokens, token_mask, fork_budget, threshold, is_static)
                forks.append(ThoughtbubblesForkOutput(streams.token_index, streams.log_scores))
                log_scores, gates = self.weigh_streams(streams, token_mask)
                if self.config.has_dead_slots:
                    shared = self.prepare_rows_with_dead_slots(streams, token_mask, position_ids, num_tokens)
                else:
                    plan = streams.token_index, num_tokens, fork.max_streams_per_token
                    past_mask = None if token_mask is None else attention_mask.bool()
                    slots = allocate_slots(past_key_values, layer_idx, *plan, past_mask)
                    if slots is not None and log_scores is not None:
                        log_scores, gates = slots.pack(log_scores), slots.pack(gates)
                    shared = self.prepare_rows_without_gaps(streams, positions, documents, slots)
            layer_cache = get_layer_cache(layer, past_key_values)
            streams.hidden_states = layer(
                streams.hidden_states, log_scores, gates, past_key_values=layer_cache, **shared, **kwargs
            )
        if skips_forks and output_forks:
            num_forks = sum(layer_idx < self.config.num_hidden_layers for layer_idx in self.config.fork_layers)
            forks = [keep_tokens(inputs_embeds, token_mask) for _ in range(num_forks)]
        return streams, tuple(forks)

    def skips_forks(self, fork_budget: float | None, past_key_values: Cache | None) -> bool:
        """
        Whether fork layers need not be run: with anchored scores and a budget of 1, until the cache holds copies, to
        which later tokens attend by their scores.
        """
        first = min(self.config.fork_layers, default=self.config.num_hidden_layers)
        if first >= self.config.num_hidden_layers:
            return False  # there are none
        has_streams = past_key_values is not None and past_key_values.layers[first].has_streams
        return self.config.can_skip_forks(fork_budget or self.config.fork_budget) and not has_streams

    def read_thresholds(self, fork_budget: float | None = None) -> list[float | torch.Tensor | None]:
        """The thresholds of a budget, one per fork layer; `None` where the rule uses none, or training tracks them."""
        if not self.config.has_fork_thresholds or is_learning(self):
            return [None] * len(self.forks)
        return read_thresholds(self.config, list(self.forks.values()), fork_budget)

    def embed_rotary(self, positions: torch.Tensor, hidden_states: torch.Tensor):
        """
        Cosines and sines at `positions`, of channel pairs where scores replace a channel, else of all channels;
        `None` for learned positions, which are part of the embedding.
        """
        if self.config.position_embedding != "rope":
            return None
        tables = self.rotary_emb(hidden_states, positions)
        replaces_channel = self.config.has_fork_scores and self.config.fork_score_channel == "last"
        return tables if replaces_channel else double_rotary(*tables)

    def weigh_streams(self, streams: ThoughtbubblesStreams, token_mask: torch.Tensor | None):
        """Finite log scores `(B, S)` and scores `(B, S, 1)` of streams; `None` for both without scores."""
        if not self.config.has_fork_scores:
            return None, None
        log_scores = streams.log_scores
        gates = log_scores.exp()[..., None].to(streams.hidden_states.dtype)
        if token_mask is not None or not self.config.has_dead_slots:  # fillers and dead slots: -inf is NaN in a key
            log_scores = log_scores.masked_fill(log_scores == -torch.inf, 0.0)
        return log_scores, gates

    def prepare_tokens(
        self,
        inputs_embeds: torch.Tensor,
        positions: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None,
        past_key_values: Cache | None,
        token_mask: torch.Tensor | None,
        documents: torch.Tensor | None,
        kwargs: dict,
    ) -> dict:
        """Arguments of the layers before the first fork; `positions` `(B or 1, T)` are the tokens'."""
        mask = None
        if not is_served(self.config, kwargs):
            mask = create_causal_mask(
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
                **separate_documents(documents, attention_mask, inputs_embeds.shape[0]),
            )
        return {
            **describe_documents(self.config, documents, attention_mask, inputs_embeds.shape[0], kwargs),
            "position_embeddings": self.embed_rotary(positions + self.config.first_position, inputs_embeds),
            "attention_mask": mask,
            "query_mask": None if token_mask is None else token_mask[..., None],
        }

    def prepare_rows_with_dead_slots(
        self,
        streams: ThoughtbubblesStreams,
        token_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None,
        num_tokens: int,
    ) -> dict:
        """Arguments of the layers up to the next fork, under the published rule."""
        query_mask = key_mask = None
        if token_mask is not None:
            query_mask = key_mask = token_mask.gather(1, streams.token_index)  # (B, S)
            # Without the score channel dead slots stay keys of value 0 and dilute attention
            # (docs/reference_behaviour.md, "Thoughtbubbles", T3).
            if self.config.fork_score_channel != "none":
                key_mask = key_mask & (streams.log_scores > -torch.inf)
        positions = get_stream_positions(streams.token_index, num_tokens, position_ids)
        mask = create_causal_mask(config=self.config, inputs_embeds=streams.hidden_states, attention_mask=key_mask)
        return {
            "position_embeddings": self.embed_rotary(positions, streams.hidden_states),
            "attention_mask": mask,
            "query_mask": None if query_mask is None else query_mask[..., None],
        }

    def prepare_rows_without_gaps(
        self,
        streams: ThoughtbubblesStreams,
        positions: torch.Tensor,
        documents: torch.Tensor | None,
        slots: StreamSlots | None,
    ) -> dict:
        """
        Arguments of the layers up to the next fork, where fillers are last in their row: no stream attends to them, so
        neither padding nor an uncached pass needs a mask. `positions` and `documents` `(B or 1, T)` are the tokens'.
        """
        hidden_states, token_index = streams.hidden_states, streams.token_index
        positions = get_stream_positions(
            token_index, positions.shape[1] + 1, F.pad(positions, (0, 1)), self.config.fork_anchored
        )
        if documents is not None:
            documents = F.pad(documents, (0, 1), value=-1).expand(token_index.shape[0], -1)
            documents = documents.gather(1, token_index)  # (B, S)
        mask = create_stream_mask(self.config, hidden_states, documents, slots)
        positions = positions if slots is None else slots.pack(positions)
        return {
            "position_embeddings": self.embed_rotary(positions, hidden_states),
            "attention_mask": mask,
            "query_mask": None,
            "slots": slots,
        }

    @accept_cache_names
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        output_forks: bool = False,
        output_streams: bool = False,
        fork_budget: float | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ThoughtbubblesModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): token ids; or pass `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(B, T)`): 1 for real tokens, 0 for padding on either side.
            position_ids (`torch.LongTensor` of shape `(B, T)`): positions of the tokens, from 0; counted along the
                mask by default, under the published fork rule from the left of the row. Positions that begin again,
                without padding and a cache, begin another document.
            past_key_values (`Cache`): keys and values of earlier tokens; needs a causal fork rule.
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, D)`): vectors in place of token ids.
            use_cache (`bool`): return keys and values; needs a causal fork rule. By default in evaluation, unless
                `position_ids` pack documents.
            output_forks (`bool`): return the streams after each fork layer.
            output_streams (`bool`): return the streams after the last layer. A head that mixes their distributions
                needs them.
            fork_budget (`float`): streams per token in this call, in evaluation; the configuration's by default. Under
                the causal rule a mean over the calibration text, and 1 means no forks.

        Returns:
            [`ThoughtbubblesModelOutput`]

        Raises:
            `ValueError`: for input the model cannot read; names the argument, what was passed and what is allowed.
        """
        check_arguments(self, kwargs)
        past_key_values = take_paged_cache(past_key_values, kwargs)
        check_head(self.config, self.has_lm_head, output_streams)
        is_paged = "cache" in kwargs  # continuous batching makes the mask of all its requests
        checked_mask = check_inputs(
            self.config,
            is_learning(self),
            input_ids,
            None if is_paged else attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            fork_budget,
        )
        attention_mask = attention_mask if is_paged else checked_mask
        check_cache_in_replay(self, past_key_values)
        documents = find_documents(position_ids, attention_mask, past_key_values, use_cache)
        check_documents(self.config, documents, attention_mask)
        if use_cache is None:
            use_cache = self.is_cached_by_default() and documents is None
        if use_cache and past_key_values is None:
            past_key_values = StreamCache(self.config)

        inputs_embeds = self.embed(input_ids, inputs_embeds, attention_mask, position_ids, past_key_values)
        context = inputs_embeds, attention_mask, position_ids, past_key_values, documents
        streams, forks = self.decode(*context, fork_budget, output_forks=output_forks or output_streams, **kwargs)
        num_tokens = inputs_embeds.shape[1]
        folded = self.fold(streams, num_tokens, attention_mask is not None)
        if output_streams and forks and streams.token_index is None:
            streams = list_single_streams(streams.hidden_states)
        if output_forks:
            for fork in forks:
                fork.num_streams = count_streams(fork.token_index, num_tokens, fork.log_scores > -torch.inf)
        return ThoughtbubblesModelOutput(
            last_hidden_state=self.norm(folded),
            past_key_values=past_key_values,
            forks=forks if output_forks else None,
            streams=streams if output_streams and forks else None,
        )

    def is_cached_by_default(self) -> bool:
        """Whether a call returns a cache when neither `use_cache` nor a cache is passed."""
        is_kept_small = self.training and (bool(self.config.fork_layers) or self.gradient_checkpointing)
        return self.config.use_cache and self.config.is_cacheable and not is_kept_small

    def fold(self, streams: ThoughtbubblesStreams, num_tokens: int, is_masked: bool) -> torch.Tensor:
        """
        One vector per token. As in the reference, under the published rule as many streams as tokens are not folded
        (docs/reference_behaviour.md, "Thoughtbubbles", T7), except with a mask, where a token may have several
        streams or none.
        """
        if streams.token_index is None:
            return streams.hidden_states
        is_as_published = self.config.has_dead_slots and not is_masked
        if is_as_published and streams.token_index.shape[1] == num_tokens:
            return streams.hidden_states
        return fold_streams(streams.hidden_states, streams.log_scores, streams.token_index, num_tokens)


class ThoughtbubblesForCausalLM(ThoughtbubblesGenerationMixin, ThoughtbubblesPreTrainedModel, GenerationMixin):
    """
    Thoughtbubbles with a language-modelling head, usually tied to the embeddings.

    Under the published rule `generate` computes the whole prefix again for every token, with a budget that grows with
    it (the paper's dynamic forking, section 5.1), and in a text that is scored in one call later tokens influence the
    forks of earlier ones; `evaluation.scoring.score_dataset` can score from prefixes. With `fork_rule="threshold"`
    generation is cached and a text's score is a likelihood. `calibrate_forks` turns a model of the first kind into one
    of the second.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: ThoughtbubblesConfig):
        super().__init__(config)
        self.model = ThoughtbubblesModel(config)
        self.model.has_lm_head = True
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        # transformers drops unknown fields, as `fork_budget`, from a generation configuration that it derived.
        self.generation_config._from_model_config = False
        self.post_init()

    @property
    def has_linear_head(self) -> bool:
        """
        Whether `lm_head(last_hidden_state)` is the logits. Not with `fold="probability"` and fork layers, where the
        distributions of a token's streams are mixed; the base model then refuses calls that go around the head.
        """
        return not self.config.is_head_mixing

    def add_model_tags(self, tags: list[str] | str):
        """
        As transformers' method, with which the trainers of TRL tell what they train. All but SFT compare likelihoods
        with those of text that evaluation generated, or of a reference in evaluation mode, so `config.fork_tracking`
        becomes False.
        """
        super().add_model_tags(tags)
        if self.config.has_training_rule and self.config.fork_tracking and compares_likelihoods(tags):
            self.config.fork_tracking = False
            logger.warning_once(
                f"`config.fork_tracking` is now False, because a trainer of TRL ({', '.join(tags)}) compares "
                "likelihoods: `model.train()` reads by the rule of evaluation, and fork thresholds stay. Set it to "
                "True to train on text again."
            )

    def unembed(self, outputs: ThoughtbubblesModelOutput, logits_to_keep: int | torch.Tensor = 0) -> torch.Tensor:
        """Logits `(B, T, V)` of the base model's outputs, or of the last or the listed tokens only."""
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        if outputs.streams is None:
            return self.lm_head(outputs.last_hidden_state[:, kept])
        streams, num_tokens = outputs.streams, outputs.last_hidden_state.shape[1]
        if isinstance(logits_to_keep, int) and logits_to_keep > 0:
            streams = self.take_last_streams(streams, num_tokens, logits_to_keep)
        logits = self.lm_head(self.model.norm(streams.hidden_states))
        return mix_stream_distributions(logits, streams.log_scores, streams.token_index, num_tokens)[:, kept]

    def take_last_streams(self, streams: ThoughtbubblesStreams, num_tokens: int, num_kept: int):
        """The streams of the last `num_kept` tokens, in rows of as many as these can have."""
        num_tail = min(num_kept * self.config.max_streams_per_token, streams.token_index.shape[1])
        if self.config.has_dead_slots:  # rows have no fillers, so the last tokens' streams are the last streams
            return ThoughtbubblesStreams(*(part[:, -num_tail:] for part in streams.to_tuple()))
        num_live = (streams.token_index < num_tokens).sum(-1, keepdim=True)
        tail = torch.arange(num_tail, device=num_live.device) + (num_live - num_tail).clamp(min=0)  # (B, tail)
        hidden_states = streams.hidden_states.take_along_dim(tail[..., None], dim=1)
        return ThoughtbubblesStreams(
            hidden_states, streams.token_index.gather(1, tail), streams.log_scores.gather(1, tail)
        )

    @accept_cache_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_forks: bool = False,
        fork_budget: float | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ThoughtbubblesCausalLMOutput:
        """
        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, output_forks,
                fork_budget: see [`ThoughtbubblesModel`].
            labels (`torch.LongTensor` of shape `(B, T)`): ids to predict, shifted inside; -100 is not scored.
            logits_to_keep (`int` or `torch.LongTensor`): compute logits of the last so many tokens (0: all), or of
                the listed positions.

        Returns:
            [`ThoughtbubblesCausalLMOutput`]

        Example:

        >>> import torch
        >>> from hf_thoughtbubbles import ThoughtbubblesConfig, ThoughtbubblesForCausalLM
        >>> config = ThoughtbubblesConfig(
        ...     vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, fork_layers=[1]
        ... )
        >>> outputs = ThoughtbubblesForCausalLM(config)(torch.tensor([[1, 2, 3]]), output_forks=True)
        >>> outputs.forks[0].num_streams
        tensor([[2, 2, 2]])
        """
        shift_labels = kwargs.get("shift_labels")
        check_language_targets(self.config, labels, input_ids, inputs_embeds, logits_to_keep, shift_labels)
        outputs: ThoughtbubblesModelOutput = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_forks=output_forks,
            output_streams=not self.has_linear_head,
            fork_budget=fork_budget,
            **kwargs,
        )
        logits = self.unembed(outputs, logits_to_keep)
        hidden_states, loss = outputs.hidden_states, None
        if hidden_states is not None and outputs.streams is not None:  # `lm_head` of the last entry is what is mixed
            hidden_states = (*hidden_states[:-1], self.model.norm(outputs.streams.hidden_states))
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return ThoughtbubblesCausalLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=hidden_states,
            attentions=outputs.attentions,
            forks=outputs.forks,
        )


class ThoughtbubblesForSequenceClassification(SequenceClassificationHead, ThoughtbubblesPreTrainedModel):
    """Thoughtbubbles that classifies a sequence from its last token."""

    def __init__(self, config: ThoughtbubblesConfig):
        ThoughtbubblesPreTrainedModel.__init__(self, config)
        self.add_head(config, ThoughtbubblesModel(config))


class ThoughtbubblesForTokenClassification(TokenClassificationHead, ThoughtbubblesPreTrainedModel):
    """Thoughtbubbles that classifies every token."""

    def __init__(self, config: ThoughtbubblesConfig):
        ThoughtbubblesPreTrainedModel.__init__(self, config)
        self.add_head(config, ThoughtbubblesModel(config))


class ThoughtbubblesForQuestionAnswering(QuestionAnsweringHead, ThoughtbubblesPreTrainedModel):
    """Thoughtbubbles that finds the span of an answer."""

    def __init__(self, config: ThoughtbubblesConfig):
        ThoughtbubblesPreTrainedModel.__init__(self, config)
        self.add_head(config, ThoughtbubblesModel(config))


__all__ = [
    "ThoughtbubblesForCausalLM",
    "ThoughtbubblesForQuestionAnswering",
    "ThoughtbubblesForSequenceClassification",
    "ThoughtbubblesForTokenClassification",
    "ThoughtbubblesModel",
    "ThoughtbubblesPreTrainedModel",
]
