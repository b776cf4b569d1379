# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Drafts of the next bytes of one text, which the model verifies in one pass (Leviathan et al., 2023).

A draft begins with a byte that the model has chosen but not read. A small network proposes the bytes after it, from
the byte decoder's last state and from the last bytes. Its loss trains the network alone: states are detached.

Shapes: B batch, T bytes, E width of bytes, C context bytes, n drafted bytes, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.generation import (
    CandidateGenerator,
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteriaList,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
    logits_process,
)

from ...configuration.configuration_byte_patch import BytePatchConfig
from ..common.cache_names import CACHE_NAME
from .byte_positions import select_rows
from .patch_ends import NUM_BYTES, SPECIAL, BytePatches, find_last, shift_right


NUM_CONTEXT_BYTES = 8  # of the text, which a proposal depends on beside the state
# A draft stops where the probability of all its bytes falls below. A proposal costs about this share of a pass.
LEAST_CONFIDENCE = 0.05


DRAFTED_CRITERIA = (EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria)
STATEFUL_PROCESSORS = (SynthIDTextWatermarkLogitsProcessor, UnbatchedClassifierFreeGuidanceLogitsProcessor)


def can_draft(
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    arguments: dict,
) -> bool:
    """
    Whether the text `(B, T)` may be drafted: one row with a cache, and nothing that must read each byte in turn. A
    text that continues a cache must be passed whole.

    transformers' assisted decoding tests criteria after several bytes, calls processors for bytes that it rejects, and
    reads the prompt whole. So other criteria than the ends that it handles, processors with a state or of other
    libraries, recorded attentions or hidden states, and assistants of other models exclude drafts.
    """
    cache, mask = arguments.get(CACHE_NAME), arguments.get("attention_mask")
    num_given = getattr(generation_config, "_mask_length", -1) if mask is None else mask.shape[1]
    plain = ("is_assistant", "output_attentions", "output_hidden_states", "prefill_chunk_size")
    return (
        len(input_ids) == 1
        and cache is not None
        and (cache.get_seq_length() == 0 or num_given == input_ids.shape[1])
        and not any(getattr(generation_config, name) for name in plain)
        and generation_config.assistant_ensemble_weight is None
        and all(isinstance(criterion, DRAFTED_CRITERIA) for criterion in stopping_criteria)
        and all(
            type(processor).__module__ == logits_process.__name__ and not isinstance(processor, STATEFUL_PROCESSORS)
            for processor in logits_processor
        )
    )


class ByteDrafter(nn.Module):
    """A layer that proposes the byte at a distance of 1 to n after the byte that a state predicts; bytes only."""

    def __init__(self, config: BytePatchConfig):
        super().__init__()
        wide = config.intermediate_size
        self.num_draft_bytes = config.num_draft_bytes
        self.state_proj = nn.Linear(config.hidden_size, wide)
        # An entry for each id at each of the last bytes, then one for each distance; their sum is one operation.
        self.context = nn.EmbeddingBag(NUM_CONTEXT_BYTES * (SPECIAL + 1) + config.num_draft_bytes, wide, mode="sum")
        self.head = nn.Linear(wide, NUM_BYTES)

    def forward(self, projected: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
        """Projected states `(n, I)` and their entries `(n, C + 1)` of the context to logits `(n, 256)`."""
        return self.head(F.gelu(projected + self.context(entries)))

    def score(
        self, states: torch.Tensor, input_ids: torch.Tensor, labels: torch.Tensor, patches: BytePatches
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Proposals for each byte after the second of a document, each at one distance, in turn.

        Args:
            states (`torch.FloatTensor` of shape `(B, T, E)`): the model's, which predict the byte after each.
            input_ids (`torch.LongTensor` of shape `(B, T)`): the bytes.
            labels (`torch.LongTensor` of shape `(B, T)`): targets of the byte after each; -100 is not scored.
            patches (`BytePatches`): of these bytes; they tell padding and the beginnings of documents.

        Returns:
            Logits `(B * T, 256)` and their targets `(B * T,)`, -100 where no state, byte or label is.
        """
        is_real = patches.patch_index >= 0
        begins = is_real & ~shift_right(is_real, 1, False)
        begins = begins if patches.is_start is None else begins | (patches.is_start & is_real)
        indices = torch.arange(input_ids.shape[1], device=input_ids.device)
        offsets = indices - find_last(begins)  # of a byte in its document
        distances = 1 + offsets % self.num_draft_bytes
        ids = input_ids.clamp(max=SPECIAL)
        entries = [
            torch.where(offsets < i, SPECIAL, shift_right(ids, i, SPECIAL)) + i * (SPECIAL + 1)
            for i in range(NUM_CONTEXT_BYTES)
        ]
        entries = torch.stack([*entries, NUM_CONTEXT_BYTES * (SPECIAL + 1) + distances - 1], dim=-1)  # (B, T, C + 1)
        sources = select_rows(self.state_proj(states.detach()), indices - distances)
        logits = self(sources.flatten(0, 1), entries.flatten(0, 1))
        is_target = is_real & (offsets >= distances) & (labels < NUM_BYTES)
        return logits, torch.where(is_target, labels, -100).flatten()

    def list_entries(self, last_ids: list[int], distance: int) -> list[int]:
        """The entries of a proposal after the ids `last_ids`, the newest last."""
        missing = [SPECIAL] * (NUM_CONTEXT_BYTES - len(last_ids))
        ids = [min(id_, SPECIAL) for id_ in reversed(last_ids)] + missing
        entries = [i * (SPECIAL + 1) + id_ for i, id_ in enumerate(ids)]
        return [*entries, NUM_CONTEXT_BYTES * (SPECIAL + 1) + distance - 1]


class DraftCandidateGenerator(CandidateGenerator):
    """
    Drafts for transformers' assisted decoding, which compares them with the model's choices.

    Args:
        drafter ([`ByteDrafter`]): the network.
        num_draft_bytes (`int`): most bytes of a draft.
        vocab_size (`int`): V, of the candidates' logits.
        logits_processor (`LogitsProcessorList`): the processors of the text, applied to proposals as well.
        is_sampled (`bool`): whether bytes are drawn; a draft is then returned with the logits that it was drawn from.
        max_length (`int`): of the text.
        attention_mask (`torch.Tensor` of shape `(1, T)`, *optional*): of the prompt; 0 for padding.
    """

    requires_model_outputs = True
    model_kwargs_overrides = {"output_hidden_states": -1}  # the last one

    def __init__(
        self,
        drafter: ByteDrafter,
        num_draft_bytes: int,
        vocab_size: int,
        logits_processor: LogitsProcessorList,
        is_sampled: bool,
        max_length: int,
        attention_mask: torch.Tensor | None,
    ):
        self.drafter, self.num_draft_bytes, self.vocab_size = drafter, num_draft_bytes, vocab_size
        self.logits_processor, self.is_sampled, self.max_length = logits_processor, is_sampled, max_length
        self.num_padding = 0 if attention_mask is None else int((attention_mask == 0).sum())
        self.num_drafted = 0

    @torch.no_grad()
    def get_candidates(self, input_ids, model_kwargs, model_outputs, is_first_iteration, n_last_matches):
        """The text `(1, T)` with a draft, and the logits `(1, n, V)` of drawn bytes; see `CandidateGenerator`."""
        num_most = 0 if is_first_iteration else min(self.num_draft_bytes, self.max_length - input_ids.shape[1] - 1)
        num_last, self.num_drafted = self.num_drafted, 0
        if num_most <= 0:
            return input_ids, None
        states = model_outputs.hidden_states[-1]
        projected = self.drafter.state_proj(states[0, n_last_matches - num_last - 1, None])  # (1, I)
        num_context = min(NUM_CONTEXT_BYTES, input_ids.shape[1] - self.num_padding)
        last_ids, drawn_from, confidence = input_ids[0, -num_context:].tolist(), [], 1.0
        drafted = input_ids
        for distance in range(1, num_most + 1):
            entries = self.drafter.list_entries(last_ids[-NUM_CONTEXT_BYTES:], distance)
            logits = self.drafter(projected, torch.tensor([entries], device=projected.device)).float()
            if len(self.logits_processor) > 0 or self.is_sampled:
                logits = F.pad(logits, (0, self.vocab_size - NUM_BYTES), value=-torch.inf)
                logits = self.logits_processor(drafted, logits)
            probs = logits.softmax(-1)
            highest = probs.max(-1)
            confidence *= highest.values.item()
            # Tested before the byte is drawn, or the draw would be biased; also false for a NaN.
            if not confidence >= LEAST_CONFIDENCE:
                break
            next_id = torch.multinomial(probs, 1) if self.is_sampled else highest.indices[:, None]
            drafted = torch.cat((drafted, next_id), dim=1)
            last_ids.append(next_id.item())
            drawn_from.append(logits)
        self.num_drafted = len(drawn_from)
        return drafted, torch.stack(drawn_from, dim=1) if self.is_sampled and drawn_from else None


__all__ = ["ByteDrafter", "DraftCandidateGenerator"]
