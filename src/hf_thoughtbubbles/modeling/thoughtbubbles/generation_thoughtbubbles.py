# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Generation with Thoughtbubbles: budgets of streams, forks in the result, a cache where the fork rule allows it."""

import torch
import torch.nn.functional as F
from transformers.cache_utils import DynamicCache

from ..common.attention_masks import create_generation_mask
from ..common.cache_names import CACHE_NAME, accept_cache_names
from ..common.checks_settings import check_generation_config, check_uncached_generation
from ..common.checks_tokens import check_generation_length
from ..common.evaluation_mode import evaluation_mode
from ..common.generation_passes import GenerationPassesMixin
from ..common.packed_documents import check_prompt_positions
from ..common.position_ids import count_positions, pad_mask_to_cache
from ..common.prompt_embeddings import append_generated
from .cache_streams import StreamCache
from .checks_thoughtbubbles import check_budget


class ThoughtbubblesGenerationMixin(GenerationPassesMixin):
    """Put it before transformers' `GenerationMixin` in the bases of a language model."""

    generation_config_fields = ("fork_budget",)
    has_early_exit = True

    @property
    def engine_obstacle(self) -> str | None:
        """Why continuous batching cannot run the model, if so: tokens fork."""
        return "its tokens fork, so they have different numbers of keys" if self.config.fork_layers else None

    def generate(self, inputs: torch.Tensor | None = None, *args, output_forks: bool = False, **kwargs):
        """
        As [`~transformers.GenerationMixin.generate`], with two options of its own. A model in training generates in
        evaluation mode: by the rule of evaluation, with a cache, without dropout.

        Args:
            fork_budget (`float`, *optional*): streams per token, also a field of `GenerationConfig`. Under the causal
                rule a budget that was calibrated (or trained), or between two such; 1 means no forks.
            output_forks (`bool`): with `return_dict_in_generate=True` the result gets `forks`, one
                [`ThoughtbubblesForkOutput`] per fork layer, for every token but the last new one, which the model
                never reads. They are computed from the finished text in one more pass, which under the causal rule
                forks as every step did.
        """
        with evaluation_mode(self):
            if not output_forks:
                return super().generate(inputs, *args, **kwargs)
            prompt, record = kwargs.get("input_ids") if inputs is None else inputs, {}
            generated = super().generate(inputs, *args, fork_record=record, **kwargs)
            num_prompt_tokens = 0 if prompt is None else prompt.shape[1]
            generated["forks"] = self.read_forks(generated.sequences, num_prompt_tokens, **record)
            return generated

    @torch.no_grad()
    def read_forks(self, sequences, num_prompt_tokens, attention_mask, inputs_embeds, fork_budget):
        """The streams of generated `sequences` `(B, T)` after each fork layer, their last token excepted."""
        input_ids, num_rows, position_ids = sequences[:, :-1], len(sequences), None
        num_tokens = input_ids.shape[1]
        if inputs_embeds is not None:  # sequences do not hold the tokens of a prompt of vectors
            inputs_embeds = inputs_embeds.repeat_interleave(num_rows // len(inputs_embeds), dim=0)
            generated = self.get_input_embeddings()(input_ids[:, num_prompt_tokens:])
            input_ids, inputs_embeds = None, torch.cat((inputs_embeds, generated), dim=1)
            num_tokens = inputs_embeds.shape[1]
        if attention_mask is not None:
            attention_mask = attention_mask.repeat_interleave(num_rows // len(attention_mask), dim=0)
            attention_mask = F.pad(attention_mask, (0, num_tokens - attention_mask.shape[1]), value=1)
            position_ids = count_positions(attention_mask)
        return self(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=False,
            output_forks=True,
            fork_budget=fork_budget,
            logits_to_keep=1,
        ).forks

    def prepare_inputs_for_generation(self, input_ids, inputs_embeds=None, fork_record=None, **kwargs):
        """Inputs of the next step; without a cache, a prompt of vectors is read again with the generated tokens."""
        if not self.config.is_cacheable and inputs_embeds is not None:
            tokens = kwargs.get("attention_mask"), kwargs.get("position_ids")
            inputs_embeds = append_generated(self.get_input_embeddings(), inputs_embeds, input_ids, *tokens)
            kwargs["is_first_iteration"] = True
        inputs = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        if not self.config.is_cacheable and inputs.get("attention_mask") is None:
            inputs.pop("position_ids", None)  # counted from the left: nothing is padding
        return inputs

    @staticmethod
    @accept_cache_names
    def create_masks_for_generate(config, inputs_embeds, attention_mask, past_key_values, position_ids=None, **kwargs):
        """
        The mask with a static cache: one for all layers of a model without forks; a forking model makes its own after
        each fork, from a row as long as the cache.
        """
        if config.fork_layers:
            return pad_mask_to_cache(attention_mask, past_key_values)
        tokens = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}
        return create_generation_mask(config, attention_mask, past_key_values, **tokens)

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        check_generation_config(generation_config, ("fork_budget",))
        check_generation_length(self.config, max_cache_length)
        check_prompt_positions(model_kwargs)
        if model_kwargs.get("fork_budget") is not None:
            check_budget(self.config, False, model_kwargs["fork_budget"])
        self.model.read_thresholds(model_kwargs.get("fork_budget"))  # an error for an unknown budget, before any work
        if not self.config.is_cacheable:
            reason = f'`fork_rule="{self.config.fork_rule}"`'
            check_uncached_generation(generation_config, model_kwargs, generation_mode, reason)
            generation_config.use_cache = False  # every step reads the whole prefix
            mask = model_kwargs.get("attention_mask")
            if mask is not None and bool((mask == 1).all()):  # nothing is padding, and a mask rounds the budget down
                model_kwargs["attention_mask"] = None
        elif self.config.fork_layers and generation_config.cache_implementation == "quantized":
            raise ValueError(
                '`cache_implementation="quantized"` was passed, but the streams of a forking model cannot be '
                'quantized. Remove it, or use "offloaded" or "static".'
            )
        record = model_kwargs.pop("fork_record", None)
        if record is not None:
            self.start_record(record, generation_config, model_kwargs, batch_size)
        is_given = model_kwargs.get(CACHE_NAME) is not None
        super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )
        cache = model_kwargs.get(CACHE_NAME)
        if self.config.fork_layers and type(cache) is DynamicCache and not is_given:
            model_kwargs[CACHE_NAME] = StreamCache(self.config, cache.offloading)

    def start_record(self, record: dict, generation_config, model_kwargs, batch_size: int):
        """Record, once for each prompt, the arguments that [`read_forks`] needs."""
        if not generation_config.return_dict_in_generate:
            raise ValueError(
                "`output_forks=True` needs `return_dict_in_generate=True`, because forks are returned beside the "
                "text. Pass both."
            )
        if not self.config.fork_layers:
            raise ValueError("`output_forks=True` was passed, but the model has no fork layers. Remove it.")
        for name in ("attention_mask", "inputs_embeds"):
            given = model_kwargs.get(name)
            record[name] = None if given is None else given[:: len(given) // batch_size]
        record["fork_budget"] = model_kwargs.get("fork_budget")


__all__ = ["ThoughtbubblesGenerationMixin"]
