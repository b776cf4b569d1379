# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The next-thought model (docs/reference_behaviour.md, "Next-thought models").

    embed    token ids to one vector per token
    encode   layers over the tokens, then pooling layers that keep the most attended tokens; their mean is the thought
    think    the core predicts the next thought, `num_thoughts` times
    decode   the predicted thought becomes a few latent tokens; causal layers over them and the next thought's tokens
    unembed  logits

Shapes: B batch, S tokens of the thought, K kept tokens, T tokens of the next thought, M latent tokens, R predicted
thoughts, L latent size, D hidden, N heads, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPast, Seq2SeqLMOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ...configuration.configuration_next_thought import NextThoughtConfig, NextThoughtStackView
from ...hub.hub_models import HubModelMixin
from ..common.attention_masks import AttentionChoiceMixin, create_bidirectional_mask, create_causal_mask
from ..common.cache_names import accept_cache_names, alias_cache_field
from ..common.checks_settings import check_arguments
from ..common.checks_targets import check_logits_to_keep
from ..common.checks_tokens import check_cache_in_replay
from ..common.position_ids import get_position_ids
from ..generic_transformer.generic_layers import (
    SKIP_DEVICE_PLACEMENT,
    GenericAttention,
    GenericDecoderLayer,
    GenericStack,
    PositionVectors,
    init_generic_weights,
)
from .cache_thoughts import LatentPrefixCache
from .checks_next_thought import (
    check_encoder_outputs,
    check_labels,
    check_next_thought,
    check_num_thoughts,
    check_positions,
    check_thought,
)
from .generation_next_thought import NextThoughtGenerationMixin
from .pooling_layers import AttentionPooling, BlockLinearCore, LatentSpaceDecoder, MLPCore, pool_mean


class Pooling(NamedTuple):
    """The tokens that pooling kept, one entry for each layer: the most attended first, -1 where a row keeps fewer."""

    index: tuple[torch.LongTensor, ...]  # (B, K) their indices among the tokens that enter the layer
    token_index: tuple[torch.LongTensor, ...]  # (B, K) their indices in the input
    scores: tuple[torch.FloatTensor, ...]  # (B, S) attention that each entering token receives; 0 for padding


@dataclass
class NextThoughtEncoderOutput(BaseModelOutput):
    """
    The output of reading a thought and predicting the next ones.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, L)`): the thought's vector.
        thoughts (`torch.FloatTensor` of shape `(B, R, L)`): the predicted thoughts, each from the one before.
        pooling (`Pooling`, *optional*): with `output_pooling=True`.
    """

    thoughts: torch.FloatTensor | None = None
    pooling: Pooling | None = None


@alias_cache_field
@dataclass
class NextThoughtModelOutput(BaseModelOutputWithPast):
    """
    The base model's output.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, T, D)`): state of each token of the next thought.
        past_key_values (`EncoderDecoderCache`, *optional*): keys and values, those of latent tokens in its
            cross-attention half.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): input of the decoder's first layer, then the output of
            each layer: `(B, T, D)`, and `(B, M + T, D)` in the call that makes the latent tokens.
        attentions (`tuple(torch.FloatTensor)`, *optional*): attention weights of the decoder's layers, latent tokens
            first.
        encoder_last_hidden_state (`torch.FloatTensor` of shape `(B, L)`): the thought's vector.
        thought (`torch.FloatTensor` of shape `(B, L)`): the predicted thought that the decoder writes out.
        thoughts (`torch.FloatTensor` of shape `(B, R, L)`): all predicted thoughts; `thought` is the last.
        pooling (`Pooling`, *optional*): which tokens were kept, with `output_pooling=True`.
    """

    encoder_last_hidden_state: torch.FloatTensor | None = None
    thought: torch.FloatTensor | None = None
    thoughts: torch.FloatTensor | None = None
    pooling: Pooling | None = None


@alias_cache_field
@dataclass
class NextThoughtSeq2SeqLMOutput(Seq2SeqLMOutput):
    """
    The output of a model that writes the next thought.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): cross entropy of the next thought in nats, with `labels`.
        logits (`torch.FloatTensor` of shape `(B, T, V)`): of each token of the next thought.
        past_key_values (`EncoderDecoderCache`, *optional*): keys and values.
        decoder_hidden_states, decoder_attentions (`tuple(torch.FloatTensor)`, *optional*): see `hidden_states` and
            `attentions` of [`NextThoughtModelOutput`].
        encoder_last_hidden_state (`torch.FloatTensor` of shape `(B, L)`): the thought's vector.
        thought (`torch.FloatTensor` of shape `(B, L)`): the predicted thought that was written out.
        thoughts (`torch.FloatTensor` of shape `(B, R, L)`): all predicted thoughts.
        pooling (`Pooling`, *optional*): which tokens were kept, with `output_pooling=True`.
    """

    thought: torch.FloatTensor | None = None
    thoughts: torch.FloatTensor | None = None
    pooling: Pooling | None = None


class NextThoughtEncoder(nn.Module):
    """Tokens to one vector: layers in which every token attends to all, pooling layers, mean."""

    def __init__(self, config: NextThoughtConfig):
        super().__init__()
        self.config = config
        self.stack = GenericStack(NextThoughtStackView(config, "encoder"))
        widths = [config.hidden_size, *config.pooling_sizes]
        self.pooling_layers = nn.ModuleList(
            AttentionPooling(width, next_width, config.num_pooling_heads, share, config.layer_norm_eps, config.dropout)
            for width, next_width, share in zip(widths[:-1], widths[1:], config.removed_shares, strict=True)
        )

    def forward(
        self, token_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, Pooling]:
        """The vector `(B, L)` of tokens `(B, S, D)`, and the tokens that were kept; padding has no effect."""
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=token_embeds, attention_mask=attention_mask)
        position_ids = torch.arange(token_embeds.shape[1], device=token_embeds.device)[None]
        hidden_states = self.stack(token_embeds, position_ids, attention_mask=mask)
        token_mask = None if attention_mask is None else attention_mask.bool()
        token_index, record = position_ids.expand(token_embeds.shape[0], -1), Pooling((), (), ())
        for layer in self.pooling_layers:
            hidden_states, token_mask, kept_index, scores = layer(hidden_states, token_mask)  # (B, K, E)
            token_index = token_index.gather(1, kept_index)
            kept = (kept_index, token_index)
            if token_mask is not None:
                kept = tuple(index.masked_fill(~token_mask, -1) for index in kept)
            record = Pooling(*((*past, new) for past, new in zip(record, (*kept, scores), strict=True)))
        return pool_mean(hidden_states, token_mask), record


class NextThoughtDecoder(nn.Module):
    """Causal layers over the latent tokens of a thought and the tokens of a text; no norm follows."""

    def __init__(self, config: NextThoughtConfig):
        super().__init__()
        self.config = config
        self.latent_decoder = LatentSpaceDecoder(
            config.latent_size, config.hidden_size, config.num_latent_tokens, bias=False
        )
        self.stack = GenericStack(NextThoughtStackView(config, "decoder"))

    def forward(
        self,
        thought: torch.Tensor,
        token_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        States `(B, T, D)` of tokens `(B, T, D)` that write the thought `(B, L)` out. When a cache holds the latent
        tokens of a thought, `thought` is not used.
        """
        num_latents, num_tokens = self.config.num_latent_tokens, token_embeds.shape[1]
        cache = None if past_key_values is None else LatentPrefixCache(past_key_values, num_latents)
        hidden_states = token_embeds
        if cache is None or not cache.is_filled:
            hidden_states = torch.cat((self.latent_decoder(thought), token_embeds), dim=1)  # (B, M + T, D)
        if attention_mask is not None:
            attention_mask = F.pad(attention_mask.long(), (num_latents, 0), value=1)
        mask = create_causal_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask, past_key_values=cache
        )
        position_ids = torch.arange(hidden_states.shape[1], device=hidden_states.device)[None]
        hidden_states = self.stack(hidden_states, position_ids, attention_mask=mask, past_key_values=cache, **kwargs)
        return hidden_states[:, -num_tokens:]


class NextThoughtPreTrainedModel(AttentionChoiceMixin, HubModelMixin, PreTrainedModel):
    """Initial weights, and what transformers may do with the models of this family."""

    config: NextThoughtConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GenericDecoderLayer", "AttentionPooling"]
    _skip_keys_device_placement = SKIP_DEVICE_PLACEMENT
    _supports_flash_attn = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": OutputRecorder(GenericDecoderLayer, layer_name="decoder"),
        "attentions": OutputRecorder(GenericAttention, index=1, layer_name="decoder"),
    }

    def __init__(self, config: NextThoughtConfig, *args, **kwargs):
        config.validate()  # fields set after construction, as `from_pretrained(..., num_thoughts=...)` does
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        init_generic_weights(module)


class NextThoughtPredictor(nn.Module):
    """The half of a model that reads a thought and predicts the next, in the form of an encoder of transformers."""

    main_input_name = "input_ids"

    def __init__(self, model: "NextThoughtModel"):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        num_thoughts: int | None = None,
        output_pooling: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool = True,
    ) -> NextThoughtEncoderOutput:
        """See [`NextThoughtModel.forward`]."""
        check_num_thoughts(num_thoughts)
        latent, pooling = self.model.encode(input_ids, attention_mask, inputs_embeds)
        thoughts = self.model.think(latent, num_thoughts)
        return NextThoughtEncoderOutput(
            last_hidden_state=latent, thoughts=thoughts, pooling=pooling if output_pooling else None
        )


class NextThoughtModel(NextThoughtPreTrainedModel):
    """
    A model that reads a thought and returns the states of the next thought's tokens, see [`NextThoughtConfig`].

    Example:

    >>> from hf_thoughtbubbles import NextThoughtConfig
    >>> config = NextThoughtConfig(vocab_size=11, hidden_size=24, pooling_sizes=[36], removed_shares=[0.5])
    >>> outputs = NextThoughtModel(config)(torch.tensor([[1, 2, 3]]), decoder_input_ids=torch.tensor([[0, 4]]))
    >>> outputs.last_hidden_state.shape, outputs.thought.shape
    (torch.Size([1, 2, 24]), torch.Size([1, 36]))
    """

    def __init__(self, config: NextThoughtConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = None if config.position_embedding == "none" else PositionVectors(config)
        self.encoder = NextThoughtEncoder(config)
        is_mlp = config.core == "mlp"
        self.core = MLPCore(config.latent_size) if is_mlp else BlockLinearCore(config.core_block_sizes)
        self.decoder = NextThoughtDecoder(config)
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> NextThoughtPredictor:
        """The module that reads a thought and predicts the next."""
        return NextThoughtPredictor(self)

    def embed(
        self,
        input_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> torch.Tensor:
        """
        One vector per token, `(B, T, D)`: twice its embedding, as in the original, plus its position; padding takes no
        position.
        """
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        inputs_embeds = 2 * inputs_embeds
        if self.positions is None:
            return inputs_embeds
        return inputs_embeds + self.positions(
            inputs_embeds, get_position_ids(inputs_embeds, attention_mask, None, past_key_values)
        )

    def encode(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
    ) -> tuple[torch.Tensor, Pooling]:
        """The vector `(B, L)` of a thought of S tokens, and the tokens that pooling kept."""
        attention_mask = check_thought(self.config, input_ids, attention_mask, inputs_embeds)
        return self.encoder(self.embed(input_ids, inputs_embeds, attention_mask), attention_mask)

    def think(self, latent: torch.Tensor, num_thoughts: int | None = None) -> torch.Tensor:
        """The thoughts `(B, R, L)` that follow a thought `(B, L)`, each predicted from the one before."""
        thoughts = []
        for _ in range(self.config.num_thoughts if num_thoughts is None else num_thoughts):
            latent = self.core(latent)
            thoughts.append(latent)
        return torch.stack(thoughts, dim=1)

    def decode(
        self,
        thought: torch.Tensor,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """States `(B, T, D)` of the next thought's tokens `(B, T, D)`, given its vector `(B, L)`."""
        return self.decoder(thought, inputs_embeds, attention_mask, past_key_values, **kwargs)

    def choose_cache(self, past_key_values: Cache | None, use_cache: bool | None) -> Cache | None:
        """The passed cache, or a new one when `use_cache` asks for it; by default in evaluation."""
        is_default = self.config.use_cache and not self.training
        if past_key_values is None and (is_default if use_cache is None else use_cache):
            return EncoderDecoderCache(DynamicCache(), DynamicCache())
        return past_key_values

    @accept_cache_names
    @capture_outputs(tie_last_hidden_states=False)  # outputs of layers include the latent tokens
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        num_thoughts: int | None = None,
        output_pooling: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> NextThoughtModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`): token ids of the thought; or pass `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(B, S)`): 1 for real tokens, 0 for padding on either side. A row
                keeps as many tokens as it would without its padding.
            decoder_input_ids (`torch.LongTensor` of shape `(B, T)`): token ids of the next thought. Position t attends
                to tokens up to its own, so for training they are shifted by one, as the head does.
            decoder_attention_mask (`torch.Tensor` of shape `(B, T)`): 0 for padding of the next thought, the tokens in
                `past_key_values` included.
            decoder_inputs_embeds (`torch.FloatTensor` of shape `(B, T, D)`): vectors instead of `decoder_input_ids`.
            encoder_outputs ([`NextThoughtEncoderOutput`]): predicted thoughts, as `get_encoder()` returns; `input_ids`
                and `num_thoughts` then have no effect. With a `last_hidden_state` `(B, L)` alone, that vector is the
                thought from which the next ones are predicted.
            past_key_values (`EncoderDecoderCache`): keys and values of latent tokens and earlier tokens.
            inputs_embeds (`torch.FloatTensor` of shape `(B, S, D)`): vectors instead of `input_ids`.
            use_cache (`bool`): return keys and values; by default in evaluation.
            num_thoughts (`int`): number of applications of the core; the last predicted thought is written out.
            output_pooling (`bool`): return which tokens were kept.

        Returns:
            [`NextThoughtModelOutput`]

        Raises:
            `ValueError`: for input the model cannot read; names the argument, what was passed and what is allowed. On
                a CPU also for a row that is too short for pooling to keep a token.
        """
        check_arguments(self, kwargs)
        check_num_thoughts(num_thoughts)
        check_positions(kwargs.pop("position_ids", None), kwargs.pop("decoder_position_ids", None))
        check_cache_in_replay(self, past_key_values)
        if encoder_outputs is None:
            latent, pooling = self.encode(input_ids, attention_mask, inputs_embeds)
            thoughts = None
        else:
            check_encoder_outputs(self.config, encoder_outputs, output_pooling)
            latent, pooling = encoder_outputs.last_hidden_state, getattr(encoder_outputs, "pooling", None)
            thoughts = getattr(encoder_outputs, "thoughts", None)
        if thoughts is None:
            thoughts = self.think(latent, num_thoughts)

        past_key_values = self.choose_cache(past_key_values, use_cache)
        text = {"attention_mask": decoder_attention_mask, "past_key_values": past_key_values}
        text["attention_mask"] = check_next_thought(
            self.config, latent.shape[0], decoder_input_ids, decoder_inputs_embeds, **text
        )
        token_embeds = self.embed(decoder_input_ids, decoder_inputs_embeds, **text)
        return NextThoughtModelOutput(
            last_hidden_state=self.decode(thoughts[:, -1], token_embeds, **text, **kwargs),
            past_key_values=past_key_values,
            encoder_last_hidden_state=latent,
            thought=thoughts[:, -1],
            thoughts=thoughts,
            pooling=pooling if output_pooling else None,
        )


class NextThoughtForConditionalGeneration(NextThoughtGenerationMixin, NextThoughtPreTrainedModel, GenerationMixin):
    """
    A model that reads a thought (a line, a sentence) and writes the next, see [`NextThoughtConfig`].

    `generate` takes `num_thoughts`, which is also a field of `GenerationConfig`.

    Example:

    >>> from hf_thoughtbubbles import NextThoughtConfig
    >>> sizes = {"hidden_size": 24, "pooling_sizes": [36], "removed_shares": [0.5]}
    >>> model = NextThoughtForConditionalGeneration(NextThoughtConfig(vocab_size=11, pad_token_id=0, **sizes)).eval()
    >>> model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, num_thoughts=2).shape
    torch.Size([1, 5])
    """

    has_linear_head = True  # `lm_head(last_hidden_state)` is the logits
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: NextThoughtConfig):
        super().__init__(config)
        self.model = NextThoughtModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        # From a generation config made of a model config, transformers drops unknown fields, as `num_thoughts` is.
        self.generation_config._from_model_config = False
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> NextThoughtPredictor:
        """The module that reads a thought and predicts the next."""
        return self.model.get_encoder()

    def unembed(self, hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor = 0) -> torch.Tensor:
        """Logits `(B, T, V)` of states `(B, T, D)`, or of the last or the listed tokens only."""
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return self.lm_head(hidden_states[:, kept])

    def prepare_decoder_input_ids_from_labels(self, labels: torch.LongTensor) -> torch.LongTensor:
        """Decoder inputs `(B, T)`: the labels shifted right, with `decoder_start_token_id` in the first position."""
        start = self.config.decoder_start_token_id
        if start is None:
            raise ValueError(
                "`labels` was passed, but the configuration has no `decoder_start_token_id` (nor `pad_token_id`) with "
                "which a next thought starts. Set one."
            )
        filler = start if self.config.pad_token_id is None else self.config.pad_token_id
        shifted = F.pad(labels[:, :-1], (1, 0), value=start)
        return shifted.masked_fill(shifted == -100, filler)

    @accept_cache_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        num_thoughts: int | None = None,
        output_pooling: bool = False,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> NextThoughtSeq2SeqLMOutput:
        """
        Args:
            input_ids, attention_mask, decoder_attention_mask, decoder_inputs_embeds, encoder_outputs, past_key_values,
                inputs_embeds, use_cache, num_thoughts, output_pooling: see [`NextThoughtModel`].
            decoder_input_ids (`torch.LongTensor` of shape `(B, T)`): see [`NextThoughtModel`]; by default made from
                `labels`.
            labels (`torch.LongTensor` of shape `(B, T)`): the next thoughts, not shifted; the loss ignores -100.
            logits_to_keep (`int` or `torch.LongTensor`): number of last tokens whose logits are computed (0: all), or
                their indices; not with `labels`.

        Returns:
            [`NextThoughtSeq2SeqLMOutput`]

        Raises:
            `ValueError`: as [`NextThoughtModel`], and for labels that do not fit.
        """
        if labels is not None:
            sources = (input_ids, inputs_embeds, None if encoder_outputs is None else encoder_outputs[0])
            given = decoder_input_ids if decoder_inputs_embeds is None else decoder_inputs_embeds
            check_labels(self.config, labels, sources, given, logits_to_keep)
            if given is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        text = decoder_input_ids if decoder_inputs_embeds is None else decoder_inputs_embeds
        if isinstance(text, torch.Tensor) and text.ndim > 1:
            check_logits_to_keep(logits_to_keep, text.shape[1])
        outputs: NextThoughtModelOutput = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            decoder_inputs_embeds=decoder_inputs_embeds,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            num_thoughts=num_thoughts,
            output_pooling=output_pooling,
            **kwargs,
        )
        logits = self.unembed(outputs.last_hidden_state, logits_to_keep)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=None,
                shift_labels=labels.contiguous(),  # the decoder's inputs are shifted already
                vocab_size=self.config.vocab_size,
                **kwargs,
            )
        return NextThoughtSeq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            thought=outputs.thought,
            thoughts=outputs.thoughts,
            pooling=outputs.pooling,
        )


__all__ = ["NextThoughtForConditionalGeneration", "NextThoughtModel", "NextThoughtPreTrainedModel"]
