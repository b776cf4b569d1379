# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The looped Thinker that is a language model.

    embed    token ids to one vector per token
    decode   the shared block, applied again and again to one latent per token: a step is given the token once more,
             and attends to the input and to the latents of earlier steps, of tokens up to its own; as options, plain
             layers before and after the loop, and in it
    unembed  logits

Shapes: B batch, T tokens, A rows with tokens that still think, R steps, M memory entries, D hidden, V vocabulary.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions, CausalLMOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple, logging
from transformers.utils.output_capturing import capture_outputs

from ...configuration.configuration_looped_thinker_text import LoopedThinkerTextConfig
from ..common.attention_masks import create_causal_mask, describe_documents
from ..common.cache_names import accept_cache_names, alias_cache_field
from ..common.checks_settings import check_arguments
from ..common.checks_targets import check_language_targets
from ..common.checks_tokens import check_cache_in_replay
from ..common.classification_heads import SequenceClassificationHead, TokenClassificationHead
from ..common.common_layers import RotaryEmbedding, double_rotary
from ..common.decoder_parts import build_norm
from ..common.evaluation_mode import compares_likelihoods
from ..common.packed_documents import find_documents, separate_documents
from ..common.position_ids import get_position_ids, take_last
from ..common.unused_parameters import add_zero_gradients
from .cache_steps import KeyValue, StepStates, prefetch
from .checks_loop import check_selection
from .checks_looped_thinker_text import check_step_outputs, check_text
from .generation_looped_thinker_text import TextThinkingMixin
from .layers_looped_thinker import (
    LoopedPreTrainedModel,
    LoopedThinkerBlock,
    LoopedThinkerLayer,
    LoopedThinkerPlainLayer,
    LoopedThinkerPlainLayers,
    build_input_adapter,
)
from .part_attention import has_part_attention
from .step_cache import StepCache
from .text_memory import TextMemory


logger = logging.get_logger(__name__)


@alias_cache_field
@dataclass
class LoopedThinkerTextModelOutput(BaseModelOutputWithPastAndCrossAttentions):
    """
    The base model's output.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, T, D)`): the latent of each token after the last step, and
            after the layers that follow the loop.
        past_key_values (`Cache`, *optional*): keys and values of tokens and steps.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): the input of the first layer, then the output of each
            application of a layer, in order. With `output_steps=True` the layers after the loop are applied for each
            step.
        attentions (`tuple(torch.FloatTensor)`, *optional*): self-attention weights in the same order; empty with
            `skip_self_attention`.
        cross_attentions (`tuple(torch.FloatTensor)`, *optional*): weights over the memory in the same order.
        latents (`torch.FloatTensor` of shape `(B, R, T, D)`, *optional*): after each step, with `output_steps=True`.
        step_hidden_states (`torch.FloatTensor` of shape `(B, R, T, D)`, *optional*): the `last_hidden_state` if a step
            were the last one, with `output_steps=True`; the latents themselves where only the output matrix follows.
        num_steps_used (`torch.LongTensor` of shape `(B, T)`): number of steps that each token took.
    """

    latents: torch.FloatTensor | None = None
    step_hidden_states: torch.FloatTensor | None = None
    num_steps_used: torch.LongTensor | None = None


@alias_cache_field
@dataclass
class LoopedThinkerCausalLMOutput(CausalLMOutputWithPast):
    """
    The language model's output.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): next-token cross entropy in nats, with `labels`.
        logits (`torch.FloatTensor` of shape `(B, T, V)`): after the last step.
        past_key_values (`Cache`, *optional*): keys and values of tokens and steps.
        hidden_states, attentions, cross_attentions (`tuple(torch.FloatTensor)`, *optional*): see
            [`LoopedThinkerTextModelOutput`].
        latents (`torch.FloatTensor` of shape `(B, R, T, D)`, *optional*): after each step, with `output_steps=True`.
        step_logits (`torch.FloatTensor` of shape `(B, R, T, V)`, *optional*): with `output_steps=True`.
        num_steps_used (`torch.LongTensor` of shape `(B, T)`): number of steps that each token took.
    """

    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    latents: torch.FloatTensor | None = None
    step_logits: torch.FloatTensor | None = None
    num_steps_used: torch.LongTensor | None = None


def measure_change(hidden_states: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Relative change `(B, T)` of states `(B, T, D)` from one step to the next: `|h - h_before| / |h|`."""
    hidden_states, before = hidden_states.float(), before.float()
    return (hidden_states - before).norm(dim=-1) / hidden_states.norm(dim=-1).clamp(min=torch.finfo(torch.float).tiny)


class LoopedThinkerTextPreTrainedModel(LoopedPreTrainedModel):
    """Base of the looped Thinkers that are language models."""

    config: LoopedThinkerTextConfig
    _supports_flash_attn = True

    def __init__(self, config: LoopedThinkerTextConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        # FSDP in accelerate refuses names of layers that the model does not have.
        has_plain_layers = config.skip_cross_attention or config.num_plain_layers > 0
        block_layers = [] if config.skip_cross_attention else [LoopedThinkerLayer.__name__]
        self._no_split_modules = block_layers + [LoopedThinkerPlainLayer.__name__] * has_plain_layers


class LoopedThinkerTextModel(LoopedThinkerTextPreTrainedModel):
    """
    The bare looped Thinker for text: one block of layers, applied again and again to a latent for each token.

    Example:

    >>> from hf_thoughtbubbles import LoopedThinkerTextConfig
    >>> config = LoopedThinkerTextConfig(vocab_size=11, hidden_size=8, num_attention_heads=2, num_steps=3)
    >>> LoopedThinkerTextModel(config)(torch.tensor([[1, 2, 3]])).last_hidden_state.shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, config: LoopedThinkerTextConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.position_embedding == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        else:
            self.rotary_emb = RotaryEmbedding(config)
        self.prelude = LoopedThinkerPlainLayers(config, config.num_prelude_layers)
        layer_class = LoopedThinkerPlainLayer if config.skip_cross_attention else LoopedThinkerLayer
        has_adapter = config.input_injection == "adapter"
        self.block = LoopedThinkerBlock(config, has_norm=not has_adapter, layer_class=layer_class)
        self.adapter = build_input_adapter(config.hidden_size) if has_adapter else None
        self.coda = LoopedThinkerPlainLayers(config, config.num_coda_layers)
        self.norm = None
        if has_adapter or config.num_coda_layers > 0:
            self.norm = build_norm(config, config.final_normalization, config.mlp_bias)
        self.gradient_checkpointing = False
        self.post_init()

    def embed(
        self, input_ids: torch.LongTensor | None = None, inputs_embeds: torch.FloatTensor | None = None
    ) -> torch.Tensor:
        """One vector for each token, `(B, T, D)`, perhaps scaled by `sqrt(D)`; positions are added in `decode`."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        return inputs_embeds * math.sqrt(self.config.hidden_size) if self.config.scale_embeddings else inputs_embeds

    def decode(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        documents: torch.LongTensor | None = None,
        num_steps: int | None = None,
        exit_threshold: float | None = None,
        output_steps: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LoopedThinkerTextModelOutput:
        """
        Apply the prelude, the block `num_steps` times and the coda to an embedded text `(B, T, D)`, whose tokens
        attend within their document, `documents` `(B or 1, T)`.
        """
        config, num_steps = self.config, num_steps or self.config.num_steps
        positions, rotary = get_position_ids(inputs_embeds, attention_mask, position_ids, past_key_values), None
        if config.position_embedding == "learned":
            inputs_embeds = inputs_embeds + self.embed_positions(positions)
        else:
            rotary = double_rotary(*self.rotary_emb(inputs_embeds, positions))
        num_parts = 1 + min(num_steps - 1, config.num_memory_steps or num_steps)
        is_joined, is_padding = not has_part_attention(config, inputs_embeds), None
        masks = self.create_masks(
            inputs_embeds, attention_mask, position_ids, past_key_values, documents, num_parts, is_joined
        )
        if exit_threshold is not None and attention_mask is not None and attention_mask.ndim == 2:
            is_padding = ~take_last(attention_mask, inputs_embeds.shape[1], past_key_values).bool()
        cache = self.block.get_cache(past_key_values)
        kwargs |= describe_documents(config, documents, attention_mask, inputs_embeds.shape[0], kwargs)
        keeps_rows = not isinstance(masks[0], torch.Tensor | None) or "cu_seq_lens_q" in kwargs
        states, memory = StepStates(config, cache, exit_threshold is not None, keeps_rows), None
        if not config.skip_cross_attention:
            memory = TextMemory(config, self.block, states, num_steps, masks, is_joined)

        arguments = {"position_embeddings": rotary, "attention_mask": masks[0], "is_causal": True, **kwargs}
        inputs_embeds = self.prelude(inputs_embeds, cache, first_slot=0, **arguments)
        steps = {"num_steps": num_steps, "output_steps": output_steps, "exit_threshold": exit_threshold}
        latents, num_steps_used = self.loop(inputs_embeds, states, memory, is_padding, **steps, **arguments)
        step_states = [self.finish(latent, None, **arguments) for latent in latents[:-1]]
        step_states.append(self.finish(latents[-1], cache, **arguments))
        return LoopedThinkerTextModelOutput(
            last_hidden_state=step_states[-1],
            past_key_values=past_key_values,
            latents=torch.stack(latents, dim=1) if output_steps else None,
            step_hidden_states=torch.stack(step_states, dim=1) if output_steps else None,
            num_steps_used=num_steps_used,
        )

    def inject(self, inputs_embeds: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
        """What a step reads, `(B, T, D)`: the loop's input, with the latents of the step before if there is one."""
        if before is None:
            return inputs_embeds
        if self.adapter is None:
            return inputs_embeds + before
        return self.adapter(torch.cat((before, inputs_embeds), dim=-1))

    def loop(
        self,
        inputs_embeds: torch.Tensor,
        states: StepStates,
        memory: TextMemory | None,
        is_padding: torch.Tensor | None,  # (B, T)
        num_steps: int,
        output_steps: bool,
        exit_threshold: float | None,
        position_embeddings: KeyValue | None,
        attention_mask: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """
        Apply the block `num_steps` times to `(B, T, D)`; returns the latents after each step, or of the last step
        alone, and the number of steps `(B, T)` that each token took.
        """
        prefetch(states.past_key_values, states.first_slot)
        if memory is not None:
            memory.append(inputs_embeds, position_embeddings, step=0)
        hidden_states, latents, select = None, [], states.select_rows
        num_steps_used = torch.full(inputs_embeds.shape[:2], num_steps, device=inputs_embeds.device)
        for step in range(num_steps):
            before = hidden_states
            rotary = position_embeddings and tuple(select(part) for part in position_embeddings)
            new = self.block(
                self.inject(select(inputs_embeds), select(before)),  # (A, T, D)
                **({} if memory is None else memory.read(step, rotary)),
                update_cache=partial(states.update_self, step=step),
                position_embeddings=rotary,
                attention_mask=select(attention_mask),
                **kwargs,
            )
            hidden_states = states.complete(new, before)
            latents = [*latents, hidden_states] if output_steps else [hidden_states]
            if step + 1 == num_steps:
                break
            if memory is not None:
                memory.append(new, rotary, step + 1)
            if exit_threshold is not None and before is not None:
                is_done = measure_change(hidden_states, before) < exit_threshold
                states.exit(is_done if is_padding is None else is_done | is_padding)
                if states.is_thinking is not None:
                    num_steps_used = num_steps_used.where(states.is_thinking, num_steps_used.clamp(max=step + 1))
            if states.is_finished:
                states.repeat_rest(step + 1, num_steps)
                latents += [hidden_states] * (num_steps - step - 1 if output_steps else 0)
                break
        if num_steps == 1 and self.adapter is not None and self.training and torch.is_grad_enabled():
            latents = [add_zero_gradients(hidden_states, self.adapter)]
        return latents, num_steps_used

    def finish(self, latents: torch.Tensor, cache: Cache | None, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        """States `(B, T, D)` that the head reads, from the latents after a step: the coda and the final norm."""
        prefetch(cache, len(self.prelude))
        hidden_states = self.coda(latents, cache, first_slot=len(self.prelude), **kwargs)
        return hidden_states if self.norm is None else self.norm(hidden_states)

    def create_masks(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None,
        past_key_values: Cache | None,
        documents: torch.LongTensor | None,
        num_parts: int,
        is_joined: bool,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """
        The masks of self-attention and of a memory of `num_parts` parts, each as long as the text: of the joined
        memory, or one that is added to the scores of each part. `None` for the fused causal path, or for a single new
        token.
        """
        arguments = {
            "config": self.config,
            "inputs_embeds": inputs_embeds[:1] if attention_mask is None and position_ids is None else inputs_embeds,
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "position_ids": position_ids,
            **separate_documents(documents, attention_mask, inputs_embeds.shape[0]),
        }
        mask = full = create_causal_mask(**arguments)
        if self.config.skip_cross_attention:
            return mask, None
        if not is_joined:
            if mask is not None and mask.dtype == torch.bool:
                full = torch.zeros_like(mask, dtype=inputs_embeds.dtype)
                full = full.masked_fill_(~mask, torch.finfo(full.dtype).min)
            return mask, full
        if num_parts > 1 and mask is None and inputs_embeds.shape[1] > 1:
            full = create_causal_mask(**arguments, allow_is_causal_skip=False)
        return mask, None if full is None else full.repeat(1, 1, 1, num_parts)

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
        num_steps: int | None = None,
        exit_threshold: float | None = None,
        output_steps: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LoopedThinkerTextModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): token ids; or pass `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(B, T)`): 1 for real tokens, 0 for padding on either side.
            position_ids (`torch.LongTensor` of shape `(B, T)`): positions of the tokens, from 0; counted along the
                mask by default. Positions that begin again, without a mask and a cache, begin another document.
            past_key_values (`Cache`): keys and values of earlier tokens, which took as many steps.
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, D)`): vectors instead of token ids.
            use_cache (`bool`): return keys and values; by default in evaluation, unless `position_ids` pack
                documents.
            num_steps (`int`): number of steps in this call, also more than in training; by default the
                configuration's.
            exit_threshold (`float`): relative change of its latent below which a token takes no further step; in
                evaluation, or with `config.exit_in_training`.
            output_steps (`bool`): return the latents and states after each step; with layers after the loop only for
                a whole text.

        Returns:
            [`LoopedThinkerTextModelOutput`]

        Raises:
            `ValueError`: for input the model cannot read; names the argument, what was passed and what is allowed.
        """
        check_arguments(self, kwargs)
        check_selection(kwargs.get("output_hidden_states"))
        steps = {"num_steps": num_steps, "exit_threshold": exit_threshold}
        inputs = {"attention_mask": attention_mask, "position_ids": position_ids, "past_key_values": past_key_values}
        takes_all_steps = self.training and not self.config.exit_in_training
        attention_mask = check_text(
            self.config, takes_all_steps, input_ids, inputs_embeds=inputs_embeds, **inputs, **steps
        )
        check_cache_in_replay(self, past_key_values)
        check_step_outputs(self.config, output_steps, past_key_values)
        documents = find_documents(position_ids, attention_mask, past_key_values, use_cache)
        inputs |= {"attention_mask": attention_mask, "documents": documents}
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and documents is None
        if use_cache and past_key_values is None:
            is_compiling = torch.compiler.is_compiling()
            inputs["past_key_values"] = (
                DynamicCache() if is_compiling else StepCache(self.config, num_steps or self.config.num_steps)
            )
        if exit_threshold is None and not takes_all_steps:
            steps["exit_threshold"] = self.config.exit_threshold

        inputs_embeds = self.embed(input_ids, inputs_embeds)
        return self.decode(inputs_embeds, **inputs, **steps, output_steps=output_steps, **kwargs)


class LoopedThinkerForCausalLM(TextThinkingMixin, LoopedThinkerTextPreTrainedModel, GenerationMixin):
    """
    A looped Thinker as a language model: every token has a latent, and the shared block is applied `num_steps` times.

    `generate` takes `num_steps` (also more than in training) and `exit_threshold`, which are fields of
    `GenerationConfig`, too. A token is done when its latent changes by less than the threshold from one step to the
    next: later steps attend to its last keys and values, and a row whose tokens are all done is skipped.
    """

    has_linear_head = True  # `lm_head(last_hidden_state)` is the logits
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: LoopedThinkerTextConfig):
        super().__init__(config)
        self.model = LoopedThinkerTextModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        # transformers drops fields it does not know, as `num_steps`, from a generation config of this origin.
        self.generation_config._from_model_config = False
        self.post_init()

    def add_model_tags(self, tags: list[str] | str):
        """
        As transformers' method, with which the trainers of TRL tell what they train. All but SFT compare likelihoods
        with those of text that evaluation generated, or of a reference in evaluation mode, so with an
        `exit_threshold` `config.exit_in_training` becomes True.
        """
        super().add_model_tags(tags)
        has_exit = self.config.exit_threshold is not None and not self.config.exit_in_training
        if has_exit and compares_likelihoods(tags):
            self.config.exit_in_training = True
            logger.warning_once(
                f"`config.exit_in_training` is now True, because a trainer of TRL ({', '.join(tags)}) compares "
                "likelihoods: `model.train()` exits as evaluation does. Set it to False to train on text again."
            )

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
        num_steps: int | None = None,
        exit_threshold: float | None = None,
        output_steps: bool = False,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LoopedThinkerCausalLMOutput:
        """
        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, num_steps,
                exit_threshold: see [`LoopedThinkerTextModel`].
            labels (`torch.LongTensor` of shape `(B, T)`): ids to predict, shifted inside; -100 is not scored.
            output_steps (`bool`): return the latents and logits after each step.
            logits_to_keep (`int` or `torch.LongTensor`): compute logits of the last so many tokens (0: all), or of
                the listed positions.

        Returns:
            [`LoopedThinkerCausalLMOutput`]

        Example:

        >>> import torch
        >>> from hf_thoughtbubbles import LoopedThinkerForCausalLM, LoopedThinkerTextConfig
        >>> config = LoopedThinkerTextConfig(vocab_size=11, hidden_size=8, num_attention_heads=2, num_steps=3)
        >>> LoopedThinkerForCausalLM(config)(torch.tensor([[1, 2, 3]]), num_steps=5).num_steps_used
        tensor([[5, 5, 5]])
        """
        shift_labels = kwargs.get("shift_labels")
        check_language_targets(self.config, labels, input_ids, inputs_embeds, logits_to_keep, shift_labels)
        outputs: LoopedThinkerTextModelOutput = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            num_steps=num_steps,
            exit_threshold=exit_threshold,
            output_steps=output_steps,
            **kwargs,
        )
        logits = self.unembed(outputs.last_hidden_state, logits_to_keep)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return LoopedThinkerCausalLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            latents=outputs.latents,
            step_logits=self.lm_head(outputs.step_hidden_states) if output_steps else None,
            num_steps_used=outputs.num_steps_used,
        )


class LoopedThinkerForSequenceClassification(SequenceClassificationHead, LoopedThinkerTextPreTrainedModel):
    """
    A looped Thinker for text that classifies a sequence from its last token.

    `num_steps` and `exit_threshold` act as in [`LoopedThinkerTextModel`]: with a threshold, evaluation exits early and
    training takes all steps, unless `config.exit_in_training`.
    """

    def __init__(self, config: LoopedThinkerTextConfig):
        LoopedThinkerTextPreTrainedModel.__init__(self, config)
        self.add_head(config, LoopedThinkerTextModel(config))


class LoopedThinkerForTokenClassification(TokenClassificationHead, LoopedThinkerTextPreTrainedModel):
    """
    A looped Thinker for text that classifies every token.

    `num_steps` and `exit_threshold` act as in [`LoopedThinkerForSequenceClassification`].
    """

    def __init__(self, config: LoopedThinkerTextConfig):
        LoopedThinkerTextPreTrainedModel.__init__(self, config)
        self.add_head(config, LoopedThinkerTextModel(config))


__all__ = [
    "LoopedThinkerForCausalLM",
    "LoopedThinkerForSequenceClassification",
    "LoopedThinkerForTokenClassification",
    "LoopedThinkerTextModel",
    "LoopedThinkerTextPreTrainedModel",
]
