# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Input validation for targets: labels of tokens and rows, positions of answers, and which logits are computed.

Types and shapes are always checked, before the model runs; values only on the CPU and outside of compiled graphs.

Shapes: B batch, T tokens.
"""

import torch
from transformers.configuration_utils import PreTrainedConfig

from .checks_tokens import ID_TYPES, can_read, describe_type


IGNORED = -100


def get_input_shape(input_ids: object, inputs_embeds: object) -> tuple[int, int] | None:
    """Rows and tokens of the input of a model; `None` for input that the model refuses."""
    given = input_ids if inputs_embeds is None else inputs_embeds
    return tuple(given.shape[:2]) if isinstance(given, torch.Tensor) and given.ndim >= 2 else None


def count_entries(given: object) -> int:
    """T of ids `(B, T)` or vectors `(B, T, D)`; 1 for anything else, which no check accepts."""
    return given.shape[1] if isinstance(given, torch.Tensor) and given.ndim > 1 else 1


def check_labels(
    labels: torch.Tensor, shape: tuple[int, ...], num_classes: int, name: str = "labels", size_name: str = "vocab_size"
):
    """Raise for class ids of another shape or type, or outside of 0 to `num_classes - 1`; -100 is not scored."""
    if not isinstance(labels, torch.Tensor) or labels.dtype != torch.long:
        raise ValueError(
            f"`{name}` is {describe_type(labels)}; it must be a tensor of class ids (`torch.long`), -100 where "
            "nothing is scored."
        )
    if tuple(labels.shape) != shape:
        raise ValueError(
            f"`{name}` has shape {tuple(labels.shape)}, but the input needs {shape}: one class id for each entry, "
            "-100 where nothing is scored."
        )
    if not can_read(labels) or labels.numel() == 0:
        return
    lowest, highest = (bound.item() for bound in labels.aminmax())
    wrong = highest if highest >= num_classes else None
    if wrong is None and lowest < 0:
        negative = labels[(labels < 0) & (labels != IGNORED)]
        wrong = negative[0].item() if len(negative) else None
    if wrong is not None:
        raise ValueError(
            f"`{name}` holds {wrong}, but class ids are 0 to {num_classes - 1} (`{size_name}` {num_classes}), and "
            "-100 where nothing is scored."
        )


def check_language_targets(
    config: PreTrainedConfig,
    labels: torch.Tensor | None,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    logits_to_keep: int | torch.Tensor = 0,
    shift_labels: torch.Tensor | None = None,
):
    """Raise for labels of a language model, or an argument `logits_to_keep`, that do not fit its input `(B, T)`."""
    shape = get_input_shape(input_ids, inputs_embeds)
    if shape is None:
        return
    check_logits_to_keep(logits_to_keep, shape[1], labels)
    for name, targets in (("labels", labels), ("shift_labels", shift_labels)):
        if targets is not None:
            check_labels(targets, shape, config.vocab_size, name)


def check_logits_to_keep(logits_to_keep: int | torch.Tensor, num_tokens: int, labels: torch.Tensor | None = None):
    """Raise for anything but a number of last tokens (0: all) or their indices, and for either with labels."""
    if isinstance(logits_to_keep, torch.Tensor):
        is_right = logits_to_keep.ndim == 1 and logits_to_keep.dtype in ID_TYPES
        if is_right and can_read(logits_to_keep) and logits_to_keep.numel() > 0:
            lowest, highest = (bound.item() for bound in logits_to_keep.aminmax())
            is_right = -num_tokens <= lowest and highest < num_tokens
    else:
        is_right = isinstance(logits_to_keep, int) and not isinstance(logits_to_keep, bool) and logits_to_keep >= 0
    if not is_right:
        raise ValueError(
            f"`logits_to_keep` is {logits_to_keep!r}; it must be a whole number of last tokens (0: all), or a "
            f"1-dimensional tensor of indices of the {num_tokens} tokens."
        )
    if labels is not None and (isinstance(logits_to_keep, torch.Tensor) or logits_to_keep != 0):
        raise ValueError(
            "`logits_to_keep` was passed with `labels`, which need the logits of all tokens. Remove one of them."
        )


def check_row_labels(config: PreTrainedConfig, labels: torch.Tensor, batch_size: int):
    """
    Raise for labels of sequence classification that do not fit `config.problem_type`; where it is not set,
    transformers derives it: regression with one label, class ids for whole numbers, else several labels at once.
    """
    kind, num_labels = config.problem_type, config.num_labels
    is_real = isinstance(labels, torch.Tensor) and labels.is_floating_point()
    if kind is None:
        kind = "regression" if num_labels == 1 else "multi_label_classification" if is_real else "single"
    if kind not in ("regression", "multi_label_classification"):
        check_labels(labels, (batch_size,), num_labels, size_name="num_labels")
        return
    if not is_real:
        raise ValueError(
            f'`labels` is {describe_type(labels)}; `problem_type` "{kind}" needs floating-point numbers. With '
            "`num_labels` above 1, class ids are a tensor of `torch.long`."
        )
    is_single = kind == "regression" and num_labels == 1
    shapes = [(batch_size,), (batch_size, 1)] if is_single else [(batch_size, num_labels)]
    if tuple(labels.shape) not in shapes:
        raise ValueError(
            f'`labels` has shape {tuple(labels.shape)}, but `problem_type` "{kind}" needs {shapes[0]} for '
            f"`num_labels` {num_labels}. Class ids are a tensor of `torch.long` of shape {(batch_size,)}."
        )
    if kind == "multi_label_classification" and can_read(labels) and not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError("`labels` of several labels at once must be between 0 and 1.")


def check_spans(
    start_positions: torch.Tensor | None, end_positions: torch.Tensor | None, batch_size: int, num_tokens: int
):
    """
    Raise for positions of answers `(B,)` or `(B, 1)` outside of 0 to T; T, as in transformers, is not scored. Both or
    neither must be passed.
    """
    if (start_positions is None) != (end_positions is None):
        passed, missing = ("start", "end") if end_positions is None else ("end", "start")
        raise ValueError(
            f"`{passed}_positions` was passed without `{missing}_positions`, but a loss needs both. Pass both."
        )
    for name, positions in (("start_positions", start_positions), ("end_positions", end_positions)):
        if positions is None:
            continue
        is_long = isinstance(positions, torch.Tensor) and positions.dtype == torch.long
        if not is_long or tuple(positions.shape) not in ((batch_size,), (batch_size, 1)):
            shape = f" of shape {tuple(positions.shape)}" if isinstance(positions, torch.Tensor) else ""
            raise ValueError(
                f"`{name}` is {describe_type(positions)}{shape}; it must be a tensor of `torch.long` with one "
                f"position for each of the {batch_size} rows."
            )
        if can_read(positions) and ((positions < 0) | (positions > num_tokens)).any():
            raise ValueError(
                f"`{name}` is {positions.flatten().tolist()}, but positions are 0 to {num_tokens - 1}, and "
                f"{num_tokens} where an answer is not scored."
            )


__all__ = [
    "check_labels",
    "check_language_targets",
    "check_logits_to_keep",
    "check_row_labels",
    "check_spans",
    "count_entries",
    "get_input_shape",
]
