# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Graded answers: questions for any generating model, ours or native, and the share of right replies."""

from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .metrics import ExactMatch


@torch.no_grad()
def answer_questions(
    model: PreTrainedModel,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 256,
    **generation: int | float,
) -> list[list[int]]:
    """
    Generate greedy replies to questions.

    Args:
        model (`PreTrainedModel`): an encoder-decoder that answers questions, or a causal model that continues them.
        dataset (`Dataset`): questions in `input_ids`, answers in `labels`, as `load_number_dataset` makes them.
        tokenizer (`PreTrainedTokenizerBase`): pads questions on the left; its end token ends a reply.
        batch_size (`int`): number of questions in a batch.
        generation: arguments of `generate`, for example `num_steps=16`, `num_latents=24`.

    Returns:
        `list[list[int]]`: the ids of each reply, up to the end token or the length of the longest answer.
    """
    was_training, replies = model.training, []
    longest = max(map(len, dataset["labels"]))
    model.eval()
    try:
        for start in range(0, len(dataset), batch_size):
            questions = dataset[start : start + batch_size]["input_ids"]
            batch = tokenizer.pad({"input_ids": questions}, padding_side="left", return_tensors="pt").to(model.device)
            generated = cast(Any, model).generate(
                **batch,
                do_sample=False,
                max_new_tokens=longest,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **generation,
            )
            num_given = 1 if model.config.is_encoder_decoder else batch["input_ids"].shape[1]
            replies += [cut_reply(reply, tokenizer.eos_token_id) for reply in generated[:, num_given:].tolist()]
    finally:
        model.train(was_training)
    return replies


def cut_reply(reply: list[int], end: int) -> list[int]:
    """
    A reply up to its end token.

    >>> cut_reply([8, 1, 20, 3], end=20)
    [8, 1]
    """
    return reply[: reply.index(end)] if end in reply else reply


def score_answers(
    model: PreTrainedModel,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 256,
    **generation: int | float,
) -> dict[str, float]:
    """
    Grade a model's greedy answers.

    Args:
        model, dataset, tokenizer, batch_size, generation: see [`answer_questions`].

    Returns:
        `dict`: `exact_match`, the share of questions whose whole answer is right, and `token_accuracy`, the share of
        answer tokens (without the end token) that the reply has at the same position.

    Raises:
        `ValueError`: when the dataset is empty.
    """
    if len(dataset) == 0:
        raise ValueError("`dataset` is empty, but it must have at least one question. Pass a longer one.")
    replies = answer_questions(model, dataset, tokenizer, batch_size, **generation)
    answers = [cut_reply(list(labels), tokenizer.eos_token_id) for labels in dataset["labels"]]
    pairs = list(zip(replies, answers, strict=True))
    num_right = sum(sum(map(int.__eq__, reply, answer)) for reply, answer in pairs)
    scores = ExactMatch(config_name="ids").compute(predictions=replies, references=answers)
    return {**scores, "token_accuracy": num_right / sum(len(answer) for answer in answers)}


__all__ = ["answer_questions", "cut_reply", "score_answers"]
