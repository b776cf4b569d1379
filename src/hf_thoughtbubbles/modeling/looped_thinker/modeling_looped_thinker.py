# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The looped Thinker that answers problems.

    embed    token ids to one vector per token, with sinusoidal positions
    decode   the shared block, applied again and again to a few latents, which attend to the problem and to the latents
             of earlier steps; then answer positions attend to both through the same block
    unembed  logits

Shapes: B batch, T tokens of the problem, L latents, R steps, S kept steps, A answer positions, M memory entries,
D hidden, V vocabulary.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.generation import GenerationMixin
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from ...configuration.configuration_looped_thinker import LoopedThinkerConfig
from ..common.attention_masks import create_bidirectional_mask, create_causal_mask
from ..common.cache_names import accept_cache_names
from ..common.checks_settings import check_arguments
from ..common.checks_tokens import check_cache_in_replay
from ..common.common_layers import RotaryEmbedding, double_rotary, embed_sinusoids
from ..common.position_ids import get_position_ids
from .cache_steps import KeyValue
from .checks_loop import check_selection
from .checks_looped_thinker import check_answer, check_decoder_positions, check_labels, check_problem
from .generation_looped_thinker import AnswerThinkingMixin
from .layers_looped_thinker import (
    LoopedPreTrainedModel,
    LoopedThinkerBlock,
    Memory,
    create_memory_mask,
)
from .outputs_looped_thinker import LoopedThinkerEncoderOutput, LoopedThinkerModelOutput, LoopedThinkerSeq2SeqLMOutput
from .problem_memory import ProblemMemory


class LoopedThinkerPreTrainedModel(LoopedPreTrainedModel):
    """Base of the looped Thinkers that answer problems."""

    config: LoopedThinkerConfig
    _supports_flex_attn = False


class LoopedThinkerEncoder(nn.Module):
    """The part that thinks about a problem, in the form that transformers' generation needs."""

    main_input_name = "input_ids"

    def __init__(self, model: "LoopedThinkerModel"):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        num_steps: int | None = None,
        num_latents: int | None = None,
        num_read_steps: int | None = None,
        memory_ids: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool = True,
    ) -> LoopedThinkerEncoderOutput:
        """See [`LoopedThinkerModel.think`]; the states of steps are in `latents`."""
        thinking = {"num_steps": num_steps, "num_latents": num_latents, "num_read_steps": num_read_steps}
        thinking["memory_ids"] = memory_ids
        tokens = {"attention_mask": attention_mask, "position_ids": position_ids}
        _, attention_mask = check_problem(self.model.config, input_ids, inputs_embeds, **tokens, **thinking)
        tokens["attention_mask"] = attention_mask
        embedded = self.model.embed(input_ids, inputs_embeds, **tokens)
        encoder_outputs, _, _ = self.model.think(embedded, attention_mask, **thinking)
        return encoder_outputs


class LoopedThinkerModel(LoopedThinkerPreTrainedModel):
    """
    The bare looped Thinker: latents attend to a problem and to the latents of earlier steps, again and again through
    one block, and answer positions are read out through the same block.

    Example:

    >>> from hf_thoughtbubbles import LoopedThinkerConfig
    >>> config = LoopedThinkerConfig(hidden_size=8, num_attention_heads=2, readout="parallel")
    >>> LoopedThinkerModel(config)(torch.tensor([[3, 21, 4]]), answer_length=5).last_hidden_state.shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, config: LoopedThinkerConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        # A block of one layer has no norm (docs/reference_behaviour.md, "Looped Thinker", Q9).
        self.block = LoopedThinkerBlock(config, has_norm=config.num_hidden_layers > 1)
        self.rotary_emb = RotaryEmbedding(config)
        self.latents = nn.Embedding(config.max_latents, config.hidden_size)
        self.answer_positions = nn.Embedding(config.max_answer_length, config.hidden_size)
        if config.static_memory_size > 0:
            self.static_memory = nn.Embedding(config.static_memory_size, config.hidden_size)
        self.gradient_checkpointing = False
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> LoopedThinkerEncoder:
        """The part that thinks about a problem."""
        return LoopedThinkerEncoder(self)

    def embed(
        self,
        input_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
    ) -> torch.Tensor:
        """One vector for each token, `(B, T, D)`, scaled by `sqrt(D)`, with sinusoidal positions added."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        inputs_embeds = inputs_embeds * math.sqrt(self.config.hidden_size)
        positions = get_position_ids(inputs_embeds, attention_mask, position_ids, past_key_values=None)
        sinusoids = embed_sinusoids(positions, self.config.hidden_size, self.config.position_frequencies)
        return inputs_embeds + sinusoids.to(inputs_embeds.dtype)

    def embed_answer_stream(
        self, decoder_input_ids: torch.Tensor, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The answer stream that passes every step, `(B, A, D)`; its positions follow those of the problem."""
        positions = torch.arange(decoder_input_ids.shape[1], device=decoder_input_ids.device)[None]
        num_tokens = inputs_embeds.shape[1] if attention_mask is None else attention_mask.bool().sum(-1, keepdim=True)
        return self.embed(decoder_input_ids, position_ids=positions + num_tokens)

    def get_rotary(self, num_positions: int, like: torch.Tensor) -> KeyValue:
        """Cosines and signed sines of rotary positions from 0."""
        return double_rotary(*self.rotary_emb(like, torch.arange(num_positions, device=like.device)[None]))

    def think(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_steps: int | None = None,
        num_latents: int | None = None,
        num_read_steps: int | None = None,
        memory_ids: torch.LongTensor | None = None,
        loop_embeds: torch.Tensor | None = None,
        num_kept: int = 1,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[LoopedThinkerEncoderOutput, list[Memory], torch.Tensor | None]:
        """
        Think about an embedded problem `(B, T, D)` (docs/reference_behaviour.md, "Looped Thinker").

        Args:
            loop_embeds (`torch.Tensor` of shape `(B, A, D)`, *optional*): an answer stream that passes every step.
            num_kept (`int`): number of last steps of which the memory is returned.

        Returns:
            [`LoopedThinkerEncoderOutput`], the memory after each kept step, and the states of the answer stream after
            each step, `(B, R, A, D)`, if there is one.
        """
        config, device = self.config, inputs_embeds.device
        num_steps, num_latents = num_steps or config.num_steps, num_latents or config.num_latents
        num_read_steps = config.num_read_steps if num_read_steps is None else num_read_steps
        fixed = [inputs_embeds] if memory_ids is None else [inputs_embeds, self.static_memory(memory_ids)]
        memory = ProblemMemory(config, self.block, fixed, num_steps * num_latents, attention_mask, num_read_steps)
        latents = self.latents(torch.arange(num_latents, device=device)).repeat(len(inputs_embeds), 1, 1)  # (B, L, D)
        rotary, loop_arguments = self.get_rotary(num_latents, inputs_embeds), {}
        if loop_embeds is not None:
            loop_arguments["position_embeddings"] = self.get_rotary(loop_embeds.shape[1], inputs_embeds)
            loop_arguments["attention_mask"] = create_causal_mask(
                config=config, inputs_embeds=loop_embeds, attention_mask=None
            )

        kept, loop_states, visible = [], [], memory.read(0)
        for step in range(num_steps):
            latents = self.block(latents, visible, position_embeddings=rotary, **kwargs)
            if loop_embeds is not None:
                loop_embeds = self.block(loop_embeds, visible, is_causal=True, **loop_arguments, **kwargs)
                loop_states.append(loop_embeds)
            memory.append(latents)
            visible = memory.read(step + 1)
            if step >= num_steps - num_kept:
                kept.append(visible)
        states, mask = memory.join(num_steps)
        encoder_outputs = LoopedThinkerEncoderOutput(states, memory_mask=mask, latents=memory.stack_latents())
        return encoder_outputs, kept, torch.stack(loop_states, dim=1) if loop_states else None

    def read_out(
        self,
        memories: list[Memory],
        batch_size: int,
        answer_length: int,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Read an answer out of each memory: states `(B, S, A, D)`; the cache stores those of the last memory."""
        config, is_causal = self.config, self.config.readout == "autoregressive"
        cache = None if past_key_values is None else past_key_values.self_attention_cache
        num_past = 0 if cache is None else cache.get_seq_length()
        positions = torch.arange(answer_length, device=memories[0].layers[0][0].device) + num_past
        queries = self.answer_positions(positions).expand(batch_size, -1, -1)  # (B, A, D)
        if decoder_inputs_embeds is not None:
            queries = queries + decoder_inputs_embeds
        elif decoder_input_ids is not None:
            queries = queries + self.embed_tokens(decoder_input_ids)
        inputs = {"config": config, "inputs_embeds": queries, "attention_mask": decoder_attention_mask}
        mask = (
            create_causal_mask(**inputs, past_key_values=cache) if is_causal else create_bidirectional_mask(**inputs)
        )
        if cache is not None and config.skip_self_attention:  # no keys to store, but the cache counts positions
            cache.update(*(queries.new_ones(batch_size, 1, answer_length, 1) for _ in range(2)), 0)

        def update_cache(key: torch.Tensor, value: torch.Tensor, layer_idx: int, output_step: int) -> KeyValue:
            return cache.update(key, value, output_step * config.num_hidden_layers + layer_idx)

        outputs, rotary = [], double_rotary(*self.rotary_emb(queries, positions[None]))
        for i, memory in enumerate(memories):
            states, is_cached = queries, cache is not None and i == len(memories) - 1
            for output_step in range(config.num_output_steps):
                states = self.block(
                    states,
                    memory,
                    update_cache=partial(update_cache, output_step=output_step) if is_cached else None,
                    position_embeddings=rotary,
                    attention_mask=mask,
                    is_causal=is_causal,
                    **kwargs,
                )
            outputs.append(states)
        return torch.stack(outputs, dim=1)

    def load_memory_kv(self, encoder_outputs: ModelOutput, past_key_values: EncoderDecoderCache | None) -> Memory:
        """Keys and values of a memory that is passed: projected once, then loaded from the cache."""
        states, mask = encoder_outputs["last_hidden_state"], encoder_outputs.get("memory_mask")
        if mask is not None:
            mask = create_memory_mask(self.config, states, mask)
        if past_key_values is None:
            return Memory(self.block.project(states), mask)
        if past_key_values.is_updated.get(0):
            layers = past_key_values.cross_attention_cache.layers[: self.config.num_hidden_layers]
            return Memory([(layer.keys, layer.values) for layer in layers], mask)
        memory = Memory(self.block.project(states), mask)
        self.store_memory_kv(memory, past_key_values)
        return memory

    @staticmethod
    def store_memory_kv(memory: Memory, past_key_values: EncoderDecoderCache):
        """Store keys and values of a memory in the cache of an answer."""
        for layer_idx, (key, value) in enumerate(memory.layers):
            past_key_values.cross_attention_cache.update(key, value, layer_idx)
            past_key_values.is_updated[layer_idx] = True

    def decode(
        self,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        encoder_outputs: ModelOutput | None,
        past_key_values: EncoderDecoderCache | None,
        thinking: dict,
        reading: dict,
        output_steps: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LoopedThinkerModelOutput:
        """
        Think about an embedded problem `(B, T, D)`, unless `encoder_outputs` are passed, and read the answer out.

        `thinking` and `reading` are arguments of [`think`] and [`read_out`].
        """
        cache, loop_hidden_states = self.block.get_cache(past_key_values), None
        if encoder_outputs is None:
            has_memory = cache is not None and cache.is_updated.get(0, False)
            num_kept = 1 if has_memory else self.config.num_kept_outputs
            encoder_outputs, memories, loop_hidden_states = self.think(
                inputs_embeds, attention_mask, **thinking, num_kept=num_kept, **kwargs
            )
            if cache is not None and not has_memory:
                self.store_memory_kv(memories[-1], cache)
        else:
            memories = [self.load_memory_kv(encoder_outputs, cache)]
        step_hidden_states = self.read_out(memories, past_key_values=cache, **reading, **kwargs)
        return LoopedThinkerModelOutput(
            last_hidden_state=step_hidden_states[:, -1],
            past_key_values=past_key_values,
            encoder_last_hidden_state=encoder_outputs["last_hidden_state"],
            latents=encoder_outputs.get("latents") if output_steps else None,
            step_hidden_states=step_hidden_states,
            loop_hidden_states=loop_hidden_states,
        )

    def create_cache(self, use_cache: bool | None) -> EncoderDecoderCache | None:
        """An empty cache if one is used: by default in evaluation, if answers are read out token by token."""
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        is_cached = use_cache and self.config.readout == "autoregressive"
        return EncoderDecoderCache(DynamicCache(), DynamicCache()) if is_cached else None

    @accept_cache_names
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        num_steps: int | None = None,
        num_latents: int | None = None,
        num_read_steps: int | None = None,
        memory_ids: torch.LongTensor | None = None,
        answer_length: int | None = None,
        loop_decoder: bool = False,
        output_steps: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LoopedThinkerModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): the problem; or pass `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(B, T)`): 1 for real tokens, 0 for padding on either side. Without
                it latents attend to every token, also to a `blank` on the left, as in the original.
            position_ids (`torch.LongTensor` of shape `(B, T)`): positions of the tokens, from 0; counted along the
                mask by default.
            decoder_input_ids (`torch.LongTensor` of shape `(B, A)`): tokens added to the answer positions. Position a
                is given entry a, so for training they are the answer shifted by one, as the head does.
            decoder_attention_mask (`torch.Tensor` of shape `(B, A)`): 0 for answer positions that are padding.
            decoder_inputs_embeds (`torch.FloatTensor` of shape `(B, A, D)`): vectors instead of `decoder_input_ids`.
            encoder_outputs ([`LoopedThinkerEncoderOutput`]): a memory to read the answer from. The problem, and the
                arguments for thinking about it, are then not needed and have no effect, as in `generate`.
            past_key_values (`EncoderDecoderCache`): keys and values of earlier answer tokens and of the memory.
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, D)`): vectors instead of token ids.
            use_cache (`bool`): return keys and values; by default in evaluation, if `readout="autoregressive"`.
            num_steps (`int`): number of steps in this call, also more than in training; by default the
                configuration's.
            num_latents (`int`): number of latents that think about a problem, at most `max_latents`.
            num_read_steps (`int`): see [`LoopedThinkerConfig`].
            memory_ids (`torch.LongTensor` of shape `(B, K)`): static memories of each problem.
            answer_length (`int`): number of positions of a parallel answer; `max_answer_length` by default.
            loop_decoder (`bool`): let a stream of answer tokens pass every step (the original's full autoregression).
            output_steps (`bool`): return the latents after each step.

        Returns:
            [`LoopedThinkerModelOutput`]

        Raises:
            `ValueError`: for input the model cannot read; names the argument, what was passed and what is allowed.
        """
        check_arguments(self, kwargs)
        check_selection(kwargs.get("output_hidden_states"))
        check_decoder_positions(kwargs.get("decoder_position_ids"))
        past_key_values = self.create_cache(use_cache) if past_key_values is None else past_key_values
        tokens = {"attention_mask": attention_mask, "position_ids": position_ids}
        thinking = {"num_steps": num_steps, "num_latents": num_latents, "num_read_steps": num_read_steps}
        thinking["memory_ids"] = memory_ids
        reading = {"decoder_input_ids": decoder_input_ids, "decoder_inputs_embeds": decoder_inputs_embeds}
        reading["decoder_attention_mask"] = decoder_attention_mask
        reading["batch_size"], attention_mask = check_problem(
            self.config, input_ids, inputs_embeds, **tokens, **thinking, encoder_outputs=encoder_outputs
        )
        tokens["attention_mask"] = attention_mask
        limits = {"answer_length": answer_length, "loop_decoder": loop_decoder}
        answer = check_answer(self.config, past_key_values, **reading, **limits)
        reading["answer_length"], reading["decoder_attention_mask"] = answer
        check_cache_in_replay(self, past_key_values)

        if encoder_outputs is None:
            inputs_embeds = self.embed(input_ids, inputs_embeds, **tokens)
            if loop_decoder:
                thinking["loop_embeds"] = self.embed_answer_stream(decoder_input_ids, inputs_embeds, attention_mask)
        return self.decode(
            inputs_embeds, attention_mask, encoder_outputs, past_key_values, thinking, reading, output_steps, **kwargs
        )


class LoopedThinkerForConditionalGeneration(AnswerThinkingMixin, LoopedThinkerPreTrainedModel, GenerationMixin):
    """
    A looped Thinker that answers problems: "3 + 4 =" in, "7" out.

    `generate` takes `num_steps`, `num_latents` and `num_read_steps`, which are fields of `GenerationConfig`, too, and
    answers with up to `max_answer_length` tokens by default. With `readout="parallel"` a whole answer is read out once
    and then decoded by transformers' own search, position by position.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: LoopedThinkerConfig):
        super().__init__(config)
        self.model = LoopedThinkerModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.num_probes > 0:
            self.probe = nn.Linear(config.hidden_size, config.num_probes)
        # transformers drops fields it does not know, as `num_steps`, from a generation config of this origin.
        self.generation_config._from_model_config = False
        self.generation_config.max_new_tokens = config.max_answer_length
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> LoopedThinkerEncoder:
        """The part that thinks about a problem."""
        return self.model.get_encoder()

    def unembed(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Logits `(..., V)` of answer states `(..., D)`."""
        return self.lm_head(hidden_states)

    def probe_states(self, hidden_states: torch.Tensor | None) -> torch.Tensor | None:
        """Predictions of the probes `(..., num_probes)` from answer states `(..., D)`, if there are probes."""
        return self.probe(hidden_states) if self.config.num_probes > 0 and hidden_states is not None else None

    def prepare_decoder_input_ids_from_labels(self, labels: torch.LongTensor) -> torch.LongTensor:
        """Answers `(B, A)` shifted right: position a is given token a - 1, the first `decoder_start_token_id`."""
        if self.config.readout == "parallel":
            raise ValueError(
                'Decoder inputs were requested, but `readout="parallel"` reads answers out without any. Remove '
                "`model` from the arguments of the collator."
            )
        start = self.config.decoder_start_token_id
        if start is None:
            raise ValueError(
                "`labels` was passed, but the config has no `decoder_start_token_id` for the start of an answer. "
                "Set it, or `pad_token_id`, in the config."
            )
        filler = start if self.config.pad_token_id is None else self.config.pad_token_id
        return F.pad(labels[:, :-1], (1, 0), value=start).masked_fill(F.pad(labels[:, :-1], (1, 0)) == -100, filler)

    def prepare_answer(
        self,
        labels: torch.LongTensor | None,
        decoder_input_ids: torch.LongTensor | None,
        decoder_inputs_embeds: torch.FloatTensor | None,
        answer_length: int | None,
    ) -> tuple[torch.LongTensor | None, int | None]:
        """`decoder_input_ids` and `answer_length`, made from `labels` when neither is passed."""
        if labels is None:
            return decoder_input_ids, answer_length
        if self.config.readout == "autoregressive":
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
            return decoder_input_ids, answer_length
        if decoder_input_ids is not None:
            raise ValueError(
                '`decoder_input_ids` was passed with `labels`, but with `readout="parallel"` every position attends '
                "to all of them, the answer included. Remove it (and `model` from the arguments of the collator)."
            )
        if answer_length is None and decoder_inputs_embeds is None:
            answer_length = labels.shape[1]
        return decoder_input_ids, answer_length

    def score_answers(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Cross entropy of `(B, S, A, V)` logits, averaged over steps; over targets the sum by their number."""
        num_kept = logits.shape[1]
        loss = self.loss_function(
            logits=logits.flatten(0, 1),
            labels=None,
            shift_labels=labels.repeat_interleave(num_kept, dim=0),  # aligned already
            vocab_size=self.config.vocab_size,
            num_items_in_batch=num_items_in_batch,
        )
        return loss if num_items_in_batch is None else loss / num_kept

    @staticmethod
    def score_probes(
        probes: torch.Tensor, probe_targets: torch.Tensor, labels: torch.Tensor, num_items_in_batch=None
    ) -> torch.Tensor:
        """Squared error of `(B, S, A, P)` probes, averaged over probes and steps; over positions as `labels`."""
        is_scored = (labels != -100)[:, None]
        errors = (probes.float() - probe_targets[:, None].float()).square().mean(-1)  # (B, S, A)
        count = is_scored.sum() if num_items_in_batch is None else num_items_in_batch
        return (errors * is_scored).mean(1).sum() / count

    @accept_cache_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        probe_targets: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        num_steps: int | None = None,
        num_latents: int | None = None,
        num_read_steps: int | None = None,
        memory_ids: torch.LongTensor | None = None,
        answer_length: int | None = None,
        loop_decoder: bool = False,
        output_steps: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LoopedThinkerSeq2SeqLMOutput:
        """
        Args:
            input_ids, attention_mask, position_ids, decoder_attention_mask, decoder_inputs_embeds, encoder_outputs,
                past_key_values, inputs_embeds, use_cache, num_steps, num_latents, num_read_steps, memory_ids: see
                [`LoopedThinkerModel`].
            decoder_input_ids (`torch.LongTensor` of shape `(B, A)`): see [`LoopedThinkerModel`]; made from `labels`.
            labels (`torch.LongTensor` of shape `(B, A)`): the answers, not shifted; -100 is not scored.
            probe_targets (`torch.FloatTensor` of shape `(B, A, num_probes)`): numbers that the probes should predict
                at the positions where `labels` are scored.
            answer_length (`int`): number of positions of a parallel answer; by default that of the labels, or
                `max_answer_length`.
            loop_decoder (`bool`): let a stream of answer tokens pass every step, and score it, too.
            output_steps (`bool`): return logits, hidden states and latents of steps.

        Returns:
            [`LoopedThinkerSeq2SeqLMOutput`]

        Example:

        >>> import torch
        >>> from hf_thoughtbubbles import LoopedThinkerConfig, LoopedThinkerForConditionalGeneration
        >>> config = LoopedThinkerConfig(hidden_size=8, num_attention_heads=2, num_steps=3, pad_token_id=20)
        >>> model = LoopedThinkerForConditionalGeneration(config)
        >>> outputs = model(torch.tensor([[3, 21, 4]]), labels=torch.tensor([[7]]), num_steps=5, output_steps=True)
        >>> outputs.logits.shape, outputs.latents.shape
        (torch.Size([1, 1, 31]), torch.Size([1, 5, 8, 8]))
        """
        answer_logits = None if encoder_outputs is None else encoder_outputs.get("answer_logits")
        if answer_logits is not None and decoder_input_ids is not None:  # a parallel answer in generation
            return LoopedThinkerSeq2SeqLMOutput(logits=answer_logits[:, : decoder_input_ids.shape[1]])
        given = decoder_input_ids if decoder_inputs_embeds is None else decoder_inputs_embeds
        problem = input_ids if inputs_embeds is None else inputs_embeds
        if encoder_outputs is not None:
            problem = encoder_outputs["last_hidden_state"]
        check_labels(self.config, labels, probe_targets, problem, given, answer_length)
        answer = self.prepare_answer(labels, decoder_input_ids, decoder_inputs_embeds, answer_length)
        decoder_input_ids, answer_length = answer
        outputs: LoopedThinkerModelOutput = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            decoder_inputs_embeds=decoder_inputs_embeds,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            num_steps=num_steps,
            num_latents=num_latents,
            num_read_steps=num_read_steps,
            memory_ids=memory_ids,
            answer_length=answer_length,
            loop_decoder=loop_decoder,
            output_steps=output_steps,
            **kwargs,
        )
        states, loop_states = outputs.step_hidden_states, outputs.loop_hidden_states
        if labels is None and not output_steps:
            states = states[:, -1:]
        step_logits, step_probes = self.unembed(states), self.probe_states(states)  # (B, S, A, V), (B, S, A, P)
        loop_logits = None if loop_states is None else self.unembed(loop_states)
        num_items, loss = kwargs.get("num_items_in_batch"), None
        if labels is not None:
            loss = self.score_answers(step_logits, labels, num_items)
            if loop_logits is not None:
                loss = loss + self.score_answers(loop_logits, labels, num_items)
            if probe_targets is not None:
                loss = loss + self.score_probes(step_probes, probe_targets, labels, num_items)
        return LoopedThinkerSeq2SeqLMOutput(
            loss=loss,
            logits=step_logits[:, -1],
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            latents=outputs.latents,
            probes=None if step_probes is None else step_probes[:, -1],
            step_hidden_states=states if output_steps else None,
            step_logits=step_logits if output_steps else None,
            step_probes=step_probes if output_steps else None,
            loop_hidden_states=loop_states,
            loop_logits=loop_logits,
            loop_probes=self.probe_states(loop_states),
        )


__all__ = ["LoopedThinkerForConditionalGeneration", "LoopedThinkerModel", "LoopedThinkerPreTrainedModel"]
