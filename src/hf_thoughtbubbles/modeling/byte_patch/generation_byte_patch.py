# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Generation with byte-patch models: it builds their cache, which stores the ends of the prompt's patches."""

import torch
from transformers.generation import GenerationMode
from transformers.utils import ModelOutput

from ..common.cache_names import CACHE_NAME, CACHE_NAMES
from ..common.checks_settings import check_generation_config
from ..common.checks_tokens import check_generation_length
from ..common.generation_passes import GenerationPassesMixin
from ..common.packed_documents import check_prompt_positions
from .cache_patches import PatchCache
from .checks_byte_patch import check_patch_lengths
from .drafting_byte_patch import DraftCandidateGenerator, can_draft
from .patch_ends import number_patches, spread_patch_lengths


class BytePatchGenerationMixin(GenerationPassesMixin):
    """A base class before transformers' `GenerationMixin`."""

    generation_config_fields = ("num_draft_bytes",)
    prompt_arguments = ("patch_lengths",)
    engine_obstacle = "a byte-patch model has keys and values of its core for patches, not for bytes"

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        check_generation_config(generation_config, self.generation_config_fields)
        self.get_num_draft_bytes(model_kwargs)
        check_generation_length(self.config, max_cache_length)
        check_prompt_positions(model_kwargs)
        if generation_config.cache_implementation is not None:
            raise ValueError(
                f'`cache_implementation="{generation_config.cache_implementation}"` was passed, but byte-patch models '
                "have a cache of their own, `PatchCache`. Remove it."
            )
        patch_lengths, cache = model_kwargs.get("patch_lengths"), model_kwargs.get(CACHE_NAME)
        if not generation_config.use_cache:
            if patch_lengths is not None or self.config.patching == "token":
                raise ValueError(
                    '`use_cache=False` was passed with `patch_lengths` or `patching="token"`, but only the cache '
                    "stores the ends of the prompt's patches while text is generated. Remove it."
                )
            return
        if cache is None:
            cache = model_kwargs[CACHE_NAME] = PatchCache(self.config)
        if patch_lengths is not None and cache.get_seq_length() == 0:
            mask = model_kwargs.get("attention_mask")  # transformers leaves one of ones alone out
            real = patch_lengths.new_ones(len(patch_lengths), int(patch_lengths[0].sum())) if mask is None else mask
            cache.given_ends = spread_patch_lengths(patch_lengths, real.bool())

    def check_guidance(self, generation_config):
        """Raise where guidance has no second text, or one whose patches are not known."""
        if self.config.patching == "token":
            raise ValueError(
                '`guidance_scale` was passed to a model with `patching="token"`, but the second text has no '
                "`patch_lengths`. Remove it."
            )
        super().check_guidance(generation_config)

    def bind_arguments(self, processor, arguments):
        """The model as a function that reads the second text of guidance, which is never drafted."""
        return super().bind_arguments(processor, {**arguments, "num_draft_bytes": None})

    def get_num_draft_bytes(self, model_kwargs: dict) -> int:
        """Most bytes of a draft: the argument, or the configuration's."""
        asked, most = model_kwargs.get("num_draft_bytes"), self.config.num_draft_bytes
        if asked is None:
            return most
        if isinstance(asked, bool) or not isinstance(asked, int) or not 0 <= asked <= most:
            raise ValueError(
                f"`num_draft_bytes={asked!r}` was passed; it must be a whole number from 0, which is no drafts, to "
                f"`config.num_draft_bytes` {most}, for which the model was built. Lower or remove it."
            )
        return asked

    def _sample(self, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        arguments = input_ids, logits_processor, stopping_criteria, generation_config
        if self.get_num_draft_bytes(kwargs) == 0 or not can_draft(*arguments, kwargs):
            return super()._sample(*arguments, **kwargs)
        return self._assisted_decoding(*arguments, num_read_bytes=kwargs[CACHE_NAME].get_seq_length(), **kwargs)

    def _get_candidate_generator(
        self, generation_config, *args, logits_processor, model_kwargs, assistant_model=None, **kwargs
    ):
        is_asked = generation_config.get_generation_mode(assistant_model) == GenerationMode.ASSISTED_GENERATION
        if is_asked:  # by arguments of transformers
            return super()._get_candidate_generator(
                generation_config,
                *args,
                logits_processor=logits_processor,
                model_kwargs=model_kwargs,
                assistant_model=assistant_model,
                **kwargs,
            )
        return DraftCandidateGenerator(
            self.drafter,
            self.get_num_draft_bytes(model_kwargs),
            self.config.vocab_size,
            logits_processor,
            generation_config.do_sample,
            generation_config.max_length,
            model_kwargs.get("attention_mask"),
        )

    def prepare_inputs_for_generation(
        self,
        input_ids,
        next_sequence_length=None,
        *args,
        patch_lengths=None,
        num_draft_bytes=None,
        num_read_bytes=0,
        **kwargs,
    ):
        """
        Inputs of the next step, without the prompt's `patch_lengths`: the cache stores the ends of its patches. Of a
        drafted text that continues a cache, `num_read_bytes` are left out at first, which transformers does not do.
        """
        if num_read_bytes > 0 and kwargs.get("is_first_iteration"):
            next_sequence_length = input_ids.shape[1] - num_read_bytes
        return super().prepare_inputs_for_generation(input_ids, next_sequence_length, *args, **kwargs)

    @torch.no_grad()
    def generate(self, inputs=None, *args, output_patches: bool = False, **kwargs):
        r"""
        Generate bytes, see transformers' `generate`. A model with `num_draft_bytes` drafts a single text, greedy or
        sampled: the text, or its distribution, is that of generation without drafts.

        Args:
            inputs (`torch.LongTensor` of shape `(B, T)`): the prompts; `input_ids` is another name.
            output_patches (`bool`, defaults to `False`): with `return_dict_in_generate=True`, whether the output gets
                `patches`, the [`BytePatches`] of prompts and generated bytes. Padding after the end of a text counts
                as special tokens.
            patch_lengths (`torch.LongTensor` of shape `(B, P)`, *optional*): bytes in each patch of the prompts; not
                with a cache that holds bytes, which stores the ends of their patches. With `patching="token"`, patches
                of generated bytes are words.
            num_draft_bytes (`int`, *optional*): most bytes of a draft, also a field of `GenerationConfig`; at most
                the configuration's, which is the default. 0: no drafts.

        Raises:
            `ValueError`: for another kind of cache, and for `patch_lengths` that do not fit.
        """
        prompt, lengths = kwargs.get("input_ids") if inputs is None else inputs, kwargs.get("patch_lengths")
        mask, known = kwargs.get("attention_mask"), None
        real = torch.ones_like(prompt) if mask is None and prompt is not None else mask
        cache = next((kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None), None)
        is_continued = isinstance(cache, PatchCache) and cache.get_seq_length() > 0
        is_assistant = getattr(kwargs.get("generation_config"), "is_assistant", False)  # is given them at every turn
        if is_continued and lengths is not None and not is_assistant:
            raise ValueError(
                "`patch_lengths` was passed with bytes in `past_key_values`, which stores the ends of their patches. "
                "Remove it."
            )
        if is_continued:
            known = cache.is_end
        elif lengths is not None:
            check_patch_lengths(self.config, lengths, prompt, mask)
            known = spread_patch_lengths(lengths, real.bool())
        outputs = super().generate(inputs, *args, **kwargs)
        if not output_patches:
            return outputs
        if not isinstance(outputs, ModelOutput):
            raise ValueError(
                "`output_patches=True` was passed without `return_dict_in_generate=True`. Set both, because "
                "patches are returned beside the text."
            )
        token_mask = torch.ones_like(outputs.sequences, dtype=torch.bool)
        if prompt is not None:
            repeats = len(outputs.sequences) // len(prompt)
            token_mask[:, : prompt.shape[1]] = real.bool().repeat_interleave(repeats, dim=0)
            known = None if known is None else known.repeat_interleave(repeats, dim=0)
        is_end = self.model.find_ends(outputs.sequences, token_mask, known)
        outputs["patches"] = number_patches(is_end, token_mask, None)
        return outputs


__all__ = ["BytePatchGenerationMixin"]
