# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""transformers' generic heads, with input validation for their targets. Put one before a family's pretrained base.

The losses of classification are computed here, because transformers' heads ignore `num_items_in_batch`: with four
accumulated batches, the `Trainer` would take steps four times as long. Families build the heads by `add_head`, because
transformers' heads build their base model through `AutoModel`, which cannot load code of a checkpoint.

Shapes: B batch, T tokens, C labels.
"""

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
)
from transformers.modeling_outputs import (
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple

from .cache_names import CACHE_NAME, accept_cache_names
from .checks_settings import check_head_outputs
from .checks_targets import check_labels, check_row_labels, check_spans, get_input_shape


class SequenceClassificationHead(GenericForSequenceClassification):
    """Classifies a sequence from its last token that is not padding."""

    def add_head(self, config: PreTrainedConfig, model: nn.Module):
        """Put scores of labels over the base model, at the end of `__init__`."""
        self.num_labels, self.model = config.num_labels, model
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    @accept_cache_names
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> SequenceClassifierOutputWithPast:
        """
        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: see the base model.
            labels (`torch.Tensor`): class ids `(B,)`, `torch.long`, -100 where a row is not scored; for
                `problem_type="multi_label_classification"` numbers from 0 to 1, `(B, num_labels)`; for `"regression"`
                numbers, `(B,)` or `(B, num_labels)`.
            num_items_in_batch (`int` or `torch.Tensor`): number of scored labels in all batches of an optimizer step,
                by which the sum over those of this batch is divided; without it the loss is their mean.

        Raises:
            `ValueError`: for labels of another shape, type or range, and as the base model.
        """
        check_head_outputs(kwargs)
        shape = get_input_shape(input_ids, inputs_embeds)
        if labels is not None and shape is not None:
            check_row_labels(self.config, labels, shape[0])
        others = {"inputs_embeds": inputs_embeds, "use_cache": use_cache, CACHE_NAME: past_key_values}
        outputs = super().forward(input_ids, attention_mask, position_ids, **others, **kwargs, return_dict=True)
        loss = None if labels is None else self.compute_loss(outputs.logits, labels, num_items_in_batch)
        return SequenceClassifierOutputWithPast(loss=loss, **outputs)

    def compute_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """The loss of rows `(B, C)`: the mean over their numbers, or the sum over `num_items_in_batch`."""
        targets = {"labels": labels, "num_items_in_batch": num_items_in_batch}
        loss = self.loss_function(logits=logits, pooled_logits=logits, config=self.config, **targets)
        if num_items_in_batch is None or self.config.problem_type == "single_label_classification":
            return loss
        return loss * labels.numel() / num_items_in_batch  # transformers' losses of numbers are means


class TokenClassificationHead(GenericForTokenClassification):
    """Classifies every token."""

    def add_head(self, config: PreTrainedConfig, model: nn.Module):
        """Put scores of labels over the base model, at the end of `__init__`."""
        self.num_labels, self.model = config.num_labels, model
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

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
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> TokenClassifierOutput:
        """
        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: see the base model.
            labels (`torch.LongTensor` of shape `(B, T)`): class ids, -100 where nothing is scored.
            num_items_in_batch (`int` or `torch.Tensor`): see [`SequenceClassificationHead`].

        Raises:
            `ValueError`: for labels of another shape, type or range, and as the base model.
        """
        check_head_outputs(kwargs)
        shape = get_input_shape(input_ids, inputs_embeds)
        if labels is not None and shape is not None:
            check_labels(labels, shape, self.config.num_labels, size_name="num_labels")
        others = {"inputs_embeds": inputs_embeds, "use_cache": use_cache, CACHE_NAME: past_key_values}
        outputs = super().forward(input_ids, attention_mask, position_ids, **others, **kwargs, return_dict=True)
        loss = None
        if labels is not None:
            targets = {"labels": labels, "num_items_in_batch": num_items_in_batch}
            loss = self.loss_function(logits=outputs.logits, config=self.config, **targets)
        return TokenClassifierOutput(loss=loss, **outputs)


class QuestionAnsweringHead(GenericForQuestionAnswering):
    """Finds the span of an answer."""

    def add_head(self, config: PreTrainedConfig, model: nn.Module):
        """Put scores of first and last tokens over the base model, at the end of `__init__`."""
        self.model = model
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @accept_cache_names
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        **kwargs,
    ) -> QuestionAnsweringModelOutput:
        """
        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds: see the base model.
            start_positions, end_positions (`torch.LongTensor` of shape `(B,)`): first and last token of the answer,
                0 to T - 1; T where it is not scored.

        Raises:
            `ValueError`: for positions of another shape, type or range, for one without the other, and as the base
                model.
        """
        check_head_outputs(kwargs)
        shape = get_input_shape(input_ids, inputs_embeds)
        if shape is not None:
            check_spans(start_positions, end_positions, *shape)
        spans = {"start_positions": start_positions, "end_positions": end_positions}
        tokens = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        others = {"inputs_embeds": inputs_embeds, CACHE_NAME: past_key_values}
        return super().forward(**tokens, **others, **spans, **kwargs)


__all__ = ["QuestionAnsweringHead", "SequenceClassificationHead", "TokenClassificationHead"]
