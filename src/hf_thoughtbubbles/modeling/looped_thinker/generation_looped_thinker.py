# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Generation of answers with looped Thinkers."""

from transformers.generation import GenerationMode

from ..common.cache_names import CACHE_NAME, accept_cache_names
from ..common.checks_settings import check_generation_config
from .generation_loop import LoopedThinkerGenerationMixin


class AnswerThinkingMixin(LoopedThinkerGenerationMixin):
    """Generation of answers: a parallel answer is read out once, then searched as any other."""

    generation_config_fields = ("num_steps", "num_latents", "num_read_steps")
    engine_obstacle = "a Thinker thinks about a whole problem, and answers it in a text of its own"

    @accept_cache_names
    def prepare_inputs_for_generation(self, input_ids, next_sequence_length=None, past_key_values=None, **kwargs):
        # transformers skips tokens in a given cache only if a `decoder_attention_mask` tells how many there are.
        if next_sequence_length is None and past_key_values is not None:
            num_past, mask = int(past_key_values.get_seq_length()), kwargs.get("decoder_attention_mask")
            if mask is None and 0 < num_past < input_ids.shape[1]:
                next_sequence_length = input_ids.shape[1] - num_past
        cache = {CACHE_NAME: past_key_values}
        return super().prepare_inputs_for_generation(input_ids, next_sequence_length, **cache, **kwargs)

    def _prepare_generation_config(self, generation_config=None, *args, **kwargs):
        asked = generation_config
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, *args, **kwargs)
        # The model's default is a number of new tokens; a limit from the caller, of either kind, overrides it.
        is_total = kwargs.get("max_length") is not None or (asked is not None and asked.max_length is not None)
        is_new = kwargs.get("max_new_tokens") is not None or (asked is not None and asked.max_new_tokens is not None)
        if is_total and not is_new:
            generation_config.max_new_tokens = None
        elif not is_total:
            generation_config.max_length = None
        return generation_config, model_kwargs

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        check_generation_config(generation_config, self.generation_config_fields)
        if max_cache_length > self.config.max_answer_length:
            raise ValueError(
                f"The answer may become {max_cache_length} tokens long, but `max_answer_length` is "
                f"{self.config.max_answer_length}. Use fewer `max_new_tokens`."
            )
        if self.config.readout == "parallel":
            is_assistant = getattr(generation_config, "is_assistant", False)
            if is_assistant or generation_mode == GenerationMode.ASSISTED_GENERATION:
                raise ValueError(
                    'Assisted or prompt-lookup generation was requested, but `readout="parallel"` reads an answer out '
                    "in one pass, so there is nothing to speed up. Remove the argument that requests it."
                )
            asked = [name for name in ("cache_implementation",) if getattr(generation_config, name)]
            asked += [CACHE_NAME] if model_kwargs.get(CACHE_NAME) is not None else []
            if asked:
                raise ValueError(f'`{asked[0]}` was passed, but `readout="parallel"` needs no cache. Remove it.')
            asked = [
                name for name in ("output_attentions", "output_hidden_states") if getattr(generation_config, name)
            ]
            if asked:
                raise ValueError(
                    f'`{asked[0]}=True` was passed, but with `readout="parallel"` no step of `generate` reads the '
                    "answer. Call the model on the generated answer instead."
                )
            generation_config.use_cache = False
            encoder_outputs = model_kwargs["encoder_outputs"]
            encoder_outputs["answer_logits"] = self(
                encoder_outputs=encoder_outputs, answer_length=max_cache_length
            ).logits
        super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )


__all__ = ["AnswerThinkingMixin"]
