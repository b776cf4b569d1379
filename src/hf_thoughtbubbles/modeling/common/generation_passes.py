# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Passes that `generate` makes beside those of the text: guidance, assistants, healing of a prompt's last token.

transformers makes them without the arguments of the call. A field of the generation configuration that is ours, or the
argument of the same name, reaches every pass, or `generate` raises before the first.
"""

import torch
from transformers.generation import UnbatchedClassifierFreeGuidanceLogitsProcessor

from .batching_engines import BatchingEngineMixin
from .checks_tokens import check_generation_length, check_ids


class GenerationPassesMixin(BatchingEngineMixin):
    """
    Passes fields of the generation configuration to `forward`. Put it before transformers' `GenerationMixin`.

    `generation_config_fields` are arguments of `forward` that a `GenerationConfig` may set. `prompt_arguments`
    describe the tokens of the prompt, so they fit no other text.
    """

    _tp_plan = {"lm_head": "colwise_gather_output"}  # tensor parallelism splits the output matrix by ids
    generation_config_fields: tuple[str, ...] = ()
    prompt_arguments: tuple[str, ...] = ()
    has_early_exit = False  # whether `config.num_hidden_layers` may be lowered, so that later layers are left out

    def _prepare_generation_config(self, generation_config=None, *args, **kwargs):
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, *args, **kwargs)
        # An assistant is given the configuration of the model that it assists, but uses its own fields.
        is_assistant = getattr(generation_config, "is_assistant", False)
        chosen = self.generation_config if is_assistant else generation_config
        for name in self.generation_config_fields:
            value = getattr(chosen, name, None) if kwargs.get(name) is None else kwargs[name]
            if value is not None:
                model_kwargs[name] = value
        if generation_config.token_healing:
            self.check_healing(model_kwargs)
        return generation_config, model_kwargs

    def _prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs):
        mask = model_kwargs.get("attention_mask")
        if mask is not None and (len(mask) != len(inputs_tensor) or mask.shape[1] < inputs_tensor.shape[1]):
            raise ValueError(
                f"`attention_mask` has shape {tuple(mask.shape)}, but the prompt needs "
                f"{tuple(inputs_tensor.shape[:2])}: one entry per row and token, and those in `past_key_values`."
            )
        return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)

    def check_healing(self, arguments: dict):
        """Raise for arguments that the passes of healing would not read."""
        own = {name: getattr(self.generation_config, name, None) for name in self.generation_config_fields}
        names = (*self.generation_config_fields, *self.prompt_arguments)
        unread = [name for name in names if arguments.get(name) not in (None, own.get(name))]
        if unread or self.config.is_encoder_decoder:
            asked = f"with `{unread[0]}`, which its passes do not read" if unread else "to a model that answers"
            raise ValueError(
                f"`token_healing=True` was passed {asked}. Remove it, or heal the prompt before: "
                "`model.heal_tokens(input_ids, tokenizer)` reads the model's own `generation_config`."
            )

    def _validate_generation_mode(self, generation_mode, generation_config, generation_mode_kwargs):
        if generation_config.cache_implementation == "paged":
            raise ValueError(
                '`cache_implementation="paged"` is set in the generation configuration, where transformers does not '
                "read it. Pass it to `generate` as an argument, or call `generate_batch`."
            )
        if generation_config.guidance_scale not in (None, 1):
            self.check_guidance(generation_config)
        num_layers, highest = generation_config.assistant_early_exit, self.config.num_hidden_layers
        if num_layers is not None and not (self.has_early_exit and 1 <= num_layers <= highest):
            allowed = f"takes 1 to {highest} layers" if self.has_early_exit else "needs all of its layers"
            raise ValueError(
                f"`assistant_early_exit={num_layers}` was passed, but `{type(self).__name__}` {allowed}. Remove it "
                "or pass an `assistant_model`."
            )
        super()._validate_generation_mode(generation_mode, generation_config, generation_mode_kwargs)

    def check_guidance(self, generation_config):
        """Raise where guidance has no second text, or would compare texts that differ."""
        asked = "Classifier-free guidance (`guidance_scale`) was requested, but"
        if self.config.is_encoder_decoder:
            raise ValueError(
                f"{asked} it compares two prompts that the model continues, and `{type(self).__name__}` answers its "
                "input in a text of its own. Remove it."
            )
        if (generation_config.num_beams or 1) > 1:
            raise ValueError(
                f"{asked} `num_beams` is {generation_config.num_beams}, and transformers does not reorder the second "
                "text with the beams. Remove one of the two."
            )

    def _get_logits_processor(
        self,
        generation_config,
        input_ids_seq_length=None,
        encoder_input_ids=None,
        *args,
        model_kwargs=None,
        negative_prompt_ids=None,
        negative_prompt_attention_mask=None,
        **kwargs,
    ):
        negative = {"negative_prompt_ids": negative_prompt_ids}
        negative["negative_prompt_attention_mask"] = negative_prompt_attention_mask
        passed, num_copies = [name for name, value in negative.items() if value is not None], 1
        if passed:  # as many rows as texts
            num_copies = generation_config.num_return_sequences or 1
            negative |= {name: negative[name].repeat_interleave(num_copies, dim=0) for name in passed}
        processors = super()._get_logits_processor(
            generation_config,
            input_ids_seq_length,
            encoder_input_ids,
            *args,
            model_kwargs=model_kwargs,
            **negative,
            **kwargs,
        )
        own = [processor for processor in processors if is_guidance(processor) and processor.model is self]
        if passed and not own:
            raise ValueError(f"`{passed[0]}` was passed without `guidance_scale`, which alone reads it. Set both.")
        for processor in own:
            self.check_guidance(generation_config)
            self.check_second_text(processor, generation_config, input_ids_seq_length, encoder_input_ids, model_kwargs)
            processor.model = self.bind_arguments(processor, model_kwargs)
        return processors

    def check_second_text(self, processor, generation_config, num_tokens, inputs, arguments):
        """Raise for a negative prompt that does not fit, and for arguments that describe another prompt."""
        given = [name for name in self.prompt_arguments if arguments.get(name) is not None]
        if given:
            raise ValueError(
                f"`{given[0]}` was passed with `guidance_scale`, but it describes the prompt and not the second text. "
                "Remove one of the two."
            )
        input_ids, mask = (processor.unconditional_context[name] for name in ("input_ids", "attention_mask"))
        if input_ids is None:
            if num_tokens == 0:
                raise ValueError(
                    "`guidance_scale` was passed with `inputs_embeds`, which has no last token for the second text to "
                    "begin with. Pass `negative_prompt_ids`."
                )
            return
        num_rows = len(inputs) * (generation_config.num_return_sequences or 1)
        if input_ids.ndim != 2 or len(input_ids) != num_rows or 0 in input_ids.shape:
            raise ValueError(
                f"`negative_prompt_ids` has shape {tuple(input_ids.shape)} for {num_rows} texts; it must have a row "
                "of one or more ids for each prompt."
            )
        if mask is not None and mask.shape != input_ids.shape:
            raise ValueError(
                f"`negative_prompt_attention_mask` has shape {tuple(mask.shape)}, but `negative_prompt_ids` has "
                f"{tuple(input_ids.shape)}. Pass one entry for each id."
            )
        check_ids(input_ids, "negative_prompt_ids", self.config.vocab_size)
        check_generation_length(self.config, input_ids.shape[1] + generation_config.max_length - num_tokens - 1)

    def bind_arguments(self, processor, arguments):
        """The model as a function that reads the second text with the arguments of the first."""
        own = {name: arguments[name] for name in self.generation_config_fields if arguments.get(name) is not None}
        mask = processor.unconditional_context["attention_mask"]
        is_padded = mask is not None and not bool((mask == 1).all())

        def read_second_text(input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs):
            return self(input_ids, attention_mask=attention_mask if is_padded else None, **own, **kwargs)

        return read_second_text

    def _get_candidate_generator(
        self, generation_config, *args, logits_processor, model_kwargs, assistant_model=None, **kwargs
    ):
        if any(is_guidance(processor) for processor in logits_processor):
            raise ValueError(
                "Classifier-free guidance (`guidance_scale`) was requested with assisted or prompt-lookup generation, "
                "but transformers does not remove rejected tokens from the second text. Remove one of the two."
            )
        if generation_config.assistant_early_exit is None:  # otherwise the model assists itself, by the same fields
            model_kwargs = {
                key: value for key, value in model_kwargs.items() if key not in self.generation_config_fields
            }
            for name in getattr(assistant_model, "generation_config_fields", ()):
                value = getattr(assistant_model.generation_config, name, None)
                model_kwargs |= {} if value is None else {name: value}
        return super()._get_candidate_generator(
            generation_config,
            *args,
            logits_processor=logits_processor,
            model_kwargs=model_kwargs,
            assistant_model=assistant_model,
            **kwargs,
        )


def is_guidance(processor) -> bool:
    """Whether a logits processor reads a second text."""
    return isinstance(processor, UnbatchedClassifierFreeGuidanceLogitsProcessor)


__all__ = ["GenerationPassesMixin"]
