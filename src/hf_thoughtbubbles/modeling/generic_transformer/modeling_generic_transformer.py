# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The generic transformer of the tiny-models library (docs/reference_behaviour.md, "Generic transformer").

    embed    token ids to vectors
    decode   layers of attention and feed-forward, then the final norm
    unembed  output matrix

Shapes: B batch, T tokens, M keys, N heads, D hidden, V vocabulary.
"""

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import packed_sequence_mask_function
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from ...configuration.configuration_generic_transformer import GenericTransformerConfig
from ...hub.hub_models import HubModelMixin
from ..common.attention_masks import (
    AttentionChoiceMixin,
    create_bidirectional_mask,
    create_causal_mask,
    create_generation_mask,
    describe_documents,
    is_served,
)
from ..common.batching_engines import count_key_positions, take_paged_cache
from ..common.cache_names import CACHE_NAMES, NEW_NAME, accept_cache_names
from ..common.checks_settings import check_arguments, check_generation_config, check_uncached_generation
from ..common.checks_targets import check_language_targets
from ..common.checks_tokens import check_cache_in_replay, check_generation_length
from ..common.classification_heads import QuestionAnsweringHead, SequenceClassificationHead, TokenClassificationHead
from ..common.decoder_parts import build_norm
from ..common.generation_passes import GenerationPassesMixin
from ..common.model_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from ..common.packed_documents import check_prompt_positions, find_documents, separate_documents
from ..common.position_ids import count_positions, get_position_ids, pad_mask_to_cache, take_last
from ..common.prompt_embeddings import append_generated
from .checks_generic_transformer import check_inputs, find_mask_obstacles
from .generic_layers import (
    SKIP_DEVICE_PLACEMENT,
    GenericAttention,
    GenericDecoderLayer,
    GenericStack,
    init_generic_weights,
)


class GenericTransformerPreTrainedModel(AttentionChoiceMixin, HubModelMixin, PreTrainedModel):
    """Initial weights, and what transformers may do with the models of this family."""

    config: GenericTransformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GenericDecoderLayer"]
    _skip_keys_device_placement = SKIP_DEVICE_PLACEMENT
    _supports_flash_attn = _supports_attention_backend = True
    find_mask_obstacles = staticmethod(find_mask_obstacles)
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": GenericDecoderLayer, "attentions": GenericAttention}

    def __init__(self, config: GenericTransformerConfig, *args, **kwargs):
        config.validate()  # fields set after construction, as `from_pretrained(..., hidden_act=...)` does
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        init_generic_weights(module)


class GenericTransformerModel(GenericTransformerPreTrainedModel):
    """
    The base model: token ids to states, see [`GenericTransformerConfig`].

    Example:

    >>> from hf_thoughtbubbles import GenericTransformerConfig
    >>> config = GenericTransformerConfig(vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
    >>> GenericTransformerModel(config)(torch.tensor([[1, 2, 3]])).last_hidden_state.shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, config: GenericTransformerConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.core = GenericStack(config)
        self.norm = build_norm(config, config.final_normalization, config.head_bias)
        self.post_init()

    def embed(
        self, input_ids: torch.LongTensor | None = None, inputs_embeds: torch.FloatTensor | None = None
    ) -> torch.Tensor:
        """One vector for each token, `(B, T, D)`; positions are added in `decode`."""
        return self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds

    def decode(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        documents: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """States `(B, T, D)` after all layers and the final norm; tokens attend within `documents` `(B or 1, T)`."""
        mask = None
        if not is_served(self.config, kwargs):
            mask = self.create_mask(inputs_embeds, attention_mask, position_ids, past_key_values, documents)
        kwargs |= describe_documents(self.config, documents, attention_mask, inputs_embeds.shape[0], kwargs)
        positions = get_position_ids(inputs_embeds, attention_mask, position_ids, past_key_values)
        key_positions = None
        if self.config.position_embedding == "relative" and NEW_NAME in kwargs:  # many requests in a row
            key_positions = count_key_positions(kwargs["cu_seq_lens_k"], attention_mask.shape[-1])
        elif self.config.position_embedding == "relative":
            key_positions = self.get_key_positions(inputs_embeds, attention_mask, positions, past_key_values)
        hidden_states = self.core(
            inputs_embeds,
            positions,
            attention_mask=mask,
            past_key_values=past_key_values,
            key_positions=key_positions,
            **kwargs,
        )
        return self.norm(hidden_states)

    def create_mask(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None,
        past_key_values: Cache | None,
        documents: torch.LongTensor | None,
    ) -> torch.Tensor | None:
        """The attention mask: causal or not, without padding, within documents; `None` for the fused causal kernel."""
        inputs = {"config": self.config, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        if self.config.is_causal:
            inputs |= separate_documents(documents, attention_mask, inputs_embeds.shape[0])
            return create_causal_mask(**inputs, past_key_values=past_key_values, position_ids=position_ids)
        if documents is not None:
            inputs["and_mask_function"] = packed_sequence_mask_function(documents.expand(inputs_embeds.shape[0], -1))
        return create_bidirectional_mask(**inputs)

    def get_key_positions(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor,
        past_key_values: Cache | None,
    ) -> torch.Tensor | None:
        """Positions `(B or 1, M)` of cached and new tokens, for distances; `None` when they are `position_ids`."""
        if past_key_values is None:
            return None
        num_tokens = inputs_embeds.shape[1]
        is_static = past_key_values.is_compileable
        num_past = past_key_values.get_seq_length()
        num_keys = past_key_values.layers[0].max_cache_len if is_static else num_past + num_tokens
        if attention_mask is not None and attention_mask.ndim == 2:
            positions = count_positions(attention_mask)
            positions = nn.functional.pad(positions, (0, num_keys - positions.shape[1]))
        else:
            positions = torch.arange(num_keys, device=inputs_embeds.device)[None]
        return positions + position_ids[:, :1] - take_last(positions, num_tokens, past_key_values)[:, :1]

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): token ids; or pass `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(B, T)`): 1 for real tokens, 0 for padding on either side.
            position_ids (`torch.LongTensor` of shape `(B, T)`): positions of the tokens, from 0; counted along the
                mask by default. Positions that begin again, without a mask and a cache, begin another document.
            past_key_values (`Cache`): keys and values of earlier tokens; not with `is_causal=False`.
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, D)`): vectors instead of token ids.
            use_cache (`bool`): return keys and values; by default in evaluation, unless `position_ids` pack
                documents.

        Returns:
            `BaseModelOutputWithPast`

        Raises:
            `ValueError`: for input the model cannot read; names the argument, what was passed and what is allowed.
        """
        check_arguments(self, kwargs)
        past_key_values = take_paged_cache(past_key_values, kwargs)
        is_paged = "cache" in kwargs  # continuous batching makes the mask of all its requests
        tokens = {"position_ids": position_ids, "past_key_values": past_key_values, "inputs_embeds": inputs_embeds}
        checked_mask = check_inputs(
            self.config, input_ids, None if is_paged else attention_mask, **tokens, use_cache=use_cache
        )
        attention_mask = attention_mask if is_paged else checked_mask
        check_cache_in_replay(self, past_key_values)
        documents = find_documents(position_ids, attention_mask, past_key_values, use_cache)
        if use_cache is None:
            use_cache = self.config.use_cache and self.config.is_causal and not self.training and documents is None
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)

        inputs_embeds = self.embed(input_ids, inputs_embeds)
        hidden_states = self.decode(inputs_embeds, attention_mask, position_ids, past_key_values, documents, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, past_key_values=past_key_values)


class GenericTransformerForCausalLM(GenerationPassesMixin, GenericTransformerPreTrainedModel, GenerationMixin):
    """
    A generic transformer with a language-modelling head, tied to the embeddings by default.

    With `is_causal=False` every token attends to the token that it should predict: use such a model for
    classification, or with your own loss.

    Example:

    >>> from hf_thoughtbubbles import GenericTransformerConfig
    >>> config = GenericTransformerConfig(vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
    >>> GenericTransformerForCausalLM(config)(torch.tensor([[1, 2, 3]])).logits.shape
    torch.Size([1, 3, 11])
    """

    has_linear_head = True  # `lm_head(last_hidden_state)` is the logits
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: GenericTransformerConfig):
        super().__init__(config)
        self.model = GenericTransformerModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        self.post_init()

    @property
    def engine_obstacle(self) -> str | None:
        """Why continuous batching cannot run the model, if so: it is not causal."""
        return None if self.config.is_causal else "with `is_causal=False` every step reads all tokens again"

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        check_generation_config(generation_config)
        check_generation_length(self.config, max_cache_length)
        check_prompt_positions(model_kwargs)
        if not self.config.is_causal:
            check_uncached_generation(generation_config, model_kwargs, generation_mode, "`is_causal=False`")
            generation_config.use_cache = False  # every step reads all tokens
        super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )

    @staticmethod
    @accept_cache_names
    def create_masks_for_generate(config, inputs_embeds, attention_mask, past_key_values, position_ids=None, **kwargs):
        """transformers' masks; for relative positions the mask of the row, padded to the length of the cache."""
        if config.position_embedding == "relative":
            return pad_mask_to_cache(attention_mask, past_key_values)
        tokens = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}
        return create_generation_mask(config, attention_mask, past_key_values, **tokens)

    def prepare_inputs_for_generation(self, input_ids, inputs_embeds=None, **kwargs):
        """The inputs of the next step; without a cache, the vectors of the prompt and the generated tokens."""
        if inputs_embeds is not None and all(kwargs.get(name) is None for name in CACHE_NAMES):
            tokens = kwargs.get("attention_mask"), kwargs.get("position_ids")
            inputs_embeds = append_generated(self.get_input_embeddings(), inputs_embeds, input_ids, *tokens)
            kwargs["is_first_iteration"] = True
        return super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)

    def unembed(self, last_hidden_state: torch.Tensor, logits_to_keep: int | torch.Tensor = 0) -> torch.Tensor:
        """Logits `(B, T, V)` of states `(B, T, D)`, or of the last or the listed tokens only."""
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return self.lm_head(last_hidden_state[:, kept])

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
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """
        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: see
                [`GenericTransformerModel`].
            labels (`torch.LongTensor` of shape `(B, T)`): ids to predict; the loss shifts them and ignores -100.
            logits_to_keep (`int` or `torch.LongTensor`): number of last tokens whose logits are computed (0: all), or
                their indices.

        Returns:
            `CausalLMOutputWithPast`, logits `(B, T, V)`.
        """
        shift_labels = kwargs.get("shift_labels")
        check_language_targets(self.config, labels, input_ids, inputs_embeds, logits_to_keep, shift_labels)
        outputs: BaseModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.unembed(outputs.last_hidden_state, logits_to_keep)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class GenericTransformerForSequenceClassification(SequenceClassificationHead, GenericTransformerPreTrainedModel):
    """A generic transformer that classifies a sequence from its last token."""

    def __init__(self, config: GenericTransformerConfig):
        GenericTransformerPreTrainedModel.__init__(self, config)
        self.add_head(config, GenericTransformerModel(config))


class GenericTransformerForTokenClassification(TokenClassificationHead, GenericTransformerPreTrainedModel):
    """A generic transformer that classifies every token."""

    def __init__(self, config: GenericTransformerConfig):
        GenericTransformerPreTrainedModel.__init__(self, config)
        self.add_head(config, GenericTransformerModel(config))


class GenericTransformerForQuestionAnswering(QuestionAnsweringHead, GenericTransformerPreTrainedModel):
    """A generic transformer that finds the span of an answer."""

    def __init__(self, config: GenericTransformerConfig):
        GenericTransformerPreTrainedModel.__init__(self, config)
        self.add_head(config, GenericTransformerModel(config))


__all__ = [
    "GenericTransformerForCausalLM",
    "GenericTransformerForQuestionAnswering",
    "GenericTransformerForSequenceClassification",
    "GenericTransformerForTokenClassification",
    "GenericTransformerModel",
    "GenericTransformerPreTrainedModel",
]
