# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What does generation with Thoughtbubbles do that generation with other models does not?

It chooses how many streams a token gets, tells how many it got, keeps them in a cache of their own, and re-reads the
prefix where the fork rule allows no cache.
"""

import torch
import torch.nn.functional as F
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationMode
from transformers.masking_utils import create_causal_mask

from ..common.cache_names import CACHE_NAME, accept_cache_names
from ..common.checks_tokens import check_generation_length
from ..common.position_ids import pad_mask_to_cache
from ..common.prompt_embeddings import append_generated
from .cache_streams import StreamCache
from .checks_thoughtbubbles import check_budget


class ThoughtbubblesGenerationMixin:
    """To stand before transformers' `GenerationMixin` among the bases of a language model."""

    def generate(self, inputs: torch.Tensor | None = None, *args, output_forks: bool = False, **kwargs):
        """
        As [`~transformers.GenerationMixin.generate`], with two options of its own.

        Args:
            fork_budget (`float`, *optional*): streams per token, also a field of `GenerationConfig`. Under the causal
                rule a budget that was calibrated (or trained), or between two such; 1 means no forks.
            output_forks (`bool`): with `return_dict_in_generate=True` the result gets `forks`, one
                [`ThoughtbubblesForkOutput`] per fork layer, for every token that was read: the last new one was not.
                They are read off the finished text in one more pass, which under the causal rule decides as every
                step did.
        """
        if not output_forks:
            return super().generate(inputs, *args, **kwargs)
        prompt, record = kwargs.get("input_ids") if inputs is None else inputs, {}
        generated = super().generate(inputs, *args, fork_record=record, **kwargs)
        num_prompt_tokens = 0 if prompt is None else prompt.shape[1]
        generated["forks"] = self.read_forks(generated.sequences, num_prompt_tokens, **record)
        return generated

    @torch.no_grad()
    def read_forks(self, sequences, num_prompt_tokens, attention_mask, inputs_embeds, fork_budget):
        """What each fork layer left of generated `sequences` `(B, T)`, their last token excepted."""
        input_ids, num_rows, position_ids = sequences[:, :-1], len(sequences), None
        num_tokens = input_ids.shape[1]
        if inputs_embeds is not None:  # of a prompt of vectors, no or other tokens stand in the sequences
            inputs_embeds = inputs_embeds.repeat_interleave(num_rows // len(inputs_embeds), dim=0)
            generated = self.get_input_embeddings()(input_ids[:, num_prompt_tokens:])
            input_ids, inputs_embeds = None, torch.cat((inputs_embeds, generated), dim=1)
            num_tokens = inputs_embeds.shape[1]
        if attention_mask is not None:
            attention_mask = attention_mask.repeat_interleave(num_rows // len(attention_mask), dim=0)
            attention_mask = F.pad(attention_mask, (0, num_tokens - attention_mask.shape[1]), value=1)
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        return self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=False,
            output_forks=True,
            fork_budget=fork_budget,
        ).forks

    def prepare_inputs_for_generation(
        self,
        input_ids,
        inputs_embeds=None,
        attention_mask=None,
        is_first_iteration=False,
        fork_record=None,
        **kwargs,
    ):
        """Inputs of the next step; a prompt given as vectors is read again with what was generated after it."""
        if not self.config.is_cacheable and inputs_embeds is not None:
            embed_tokens, position_ids = self.get_input_embeddings(), kwargs.get("position_ids")
            inputs_embeds = append_generated(embed_tokens, inputs_embeds, input_ids, attention_mask, position_ids)
            is_first_iteration = True
        return super().prepare_inputs_for_generation(
            input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )

    @staticmethod
    @accept_cache_names
    def create_masks_for_generate(config, inputs_embeds, attention_mask, past_key_values, position_ids=None, **kwargs):
        """
        With a static cache: one mask for all layers of a plain model; a forking one makes its own at each fork, out of
        a row that is as long from the first token to the last.
        """
        if config.fork_layers:
            return pad_mask_to_cache(attention_mask, past_key_values)
        return create_causal_mask(
            config=config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            **{CACHE_NAME: past_key_values},
            position_ids=position_ids,
        )

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        check_generation_length(self.config, max_cache_length)
        # An assistant is given the configuration of the model that it assists; it keeps to its own budget.
        is_assistant = getattr(generation_config, "is_assistant", False)
        fork_budget = getattr(self.generation_config if is_assistant else generation_config, "fork_budget", None)
        if fork_budget is not None and model_kwargs.get("fork_budget") is None:
            model_kwargs["fork_budget"] = fork_budget
        if model_kwargs.get("fork_budget") is not None:
            check_budget(self.config, False, model_kwargs["fork_budget"])
        self.model.read_thresholds(model_kwargs.get("fork_budget"))  # refuses an unknown budget before any work
        if not self.config.is_cacheable:
            self.check_uncached_generation(generation_config, model_kwargs, generation_mode)
            generation_config.use_cache = False  # every step reads the whole prefix
            mask = model_kwargs.get("attention_mask")
            if mask is not None and bool((mask == 1).all()):  # nothing is padding, and a mask rounds the budget down
                model_kwargs["attention_mask"] = None
        elif self.config.fork_layers and generation_config.cache_implementation == "quantized":
            raise ValueError(
                '`cache_implementation="quantized"` came, but the streams of a forking model cannot be quantized. '
                'Leave it out, or use "offloaded" or "static".'
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

    def _get_candidate_generator(self, *args, model_kwargs, **kwargs):
        own = {key: value for key, value in model_kwargs.items() if key != "fork_budget"}  # not the assistant's
        return super()._get_candidate_generator(*args, model_kwargs=own, **kwargs)

    def start_record(self, record: dict, generation_config, model_kwargs, batch_size: int):
        """Keep, of each prompt once, what reading the forks off the finished text will need."""
        if not generation_config.return_dict_in_generate:
            raise ValueError(
                "`output_forks=True` needs `return_dict_in_generate=True`, because forks are returned beside the text."
            )
        if not self.config.fork_layers:
            raise ValueError("`output_forks=True` came, but the model has no fork layers. Leave it out.")
        for name in ("attention_mask", "inputs_embeds"):
            given = model_kwargs.get(name)
            record[name] = None if given is None else given[:: len(given) // batch_size]
        record["fork_budget"] = model_kwargs.get("fork_budget")

    def check_uncached_generation(self, generation_config, model_kwargs, generation_mode):
        """Refuse what asks for a cache by name; `use_cache` is a default, so it only has no effect."""
        asked = [name for name in ("prefill_chunk_size", "cache_implementation") if getattr(generation_config, name)]
        if model_kwargs.get(CACHE_NAME) is not None:
            asked.append(CACHE_NAME)
        if asked:
            raise ValueError(f'`{asked[0]}` came, but `fork_rule="topk"` cannot use a cache. Leave it out.')
        is_assistant = getattr(generation_config, "is_assistant", False)
        if is_assistant or generation_mode == GenerationMode.ASSISTED_GENERATION:
            raise ValueError(
                'Assisted and prompt-lookup generation need a cache, which `fork_rule="topk"` cannot use, neither '
                "as the model nor as its assistant. Generate without."
            )


__all__ = ["ThoughtbubblesGenerationMixin"]
