# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Graded answers: questions for any generating model, ours or native, and the share of right replies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..data.number_tasks import NumberTask, make_task
from ..data.number_text import list_surprises, read_question, write_answer
from ..tokenization.number_tokenizer import build_number_tokenizer
from .metrics import ExactMatch


logger = logging.get_logger(__name__)

FAR_BEYOND = 2  # times the configured number of steps


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


@dataclass(frozen=True)
class NumberReply:
    """
    What a model replied to a question.

    Args:
        question (`str`): the question as it was asked.
        reply (`str`, *optional*): the reply as text; `None` when the model wrote no number.
        answer (`str`): the right answer, computed.
    """

    question: str
    reply: str | None
    answer: str

    @property
    def is_right(self) -> bool:
        """Whether the reply is the answer."""
        return self.reply == self.answer

    def __str__(self) -> str:
        verdict = "right" if self.is_right else f"wrong, it is {self.answer}"
        return f"{self.question} -> {self.reply or 'no number'} ({verdict})"


def warn_of_surprises(
    model: PreTrainedModel, task: NumberTask, asked: dict[str, list[str]], num_steps: int | float | None
):
    """Warn of questions, given with their tokens, and of a number of steps that are unlike those of the training."""
    for text, question in asked.items():
        for surprise in list_surprises(question, task):
            logger.warning(f"{text!r} has {surprise}. The reply may be wrong.")
    configured = getattr(model.config, "num_steps", None)
    if num_steps is not None and configured is not None and num_steps > FAR_BEYOND * configured:
        logger.warning(
            f"`num_steps={num_steps}` was passed, but the model has `num_steps={configured}`. Accuracy often falls "
            f"beyond {FAR_BEYOND} times the number of steps in training."
        )


def ask_numbers(
    model: PreTrainedModel,
    questions: str | Sequence[str],
    task: NumberTask | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **generation: Any,
) -> list[NumberReply]:
    """
    Ask a model that was trained on a number task, in decimal numbers and plain text.

    Chains are evaluated from left to right, without operator precedence, as in training.

    Args:
        model (`PreTrainedModel`): a looped Thinker, or any model that [`answer_questions`] takes.
        questions (`str` or `Sequence[str]`): as `"123 + 456"`, `"factorise 60"` or `"3 1 2"`, by the model's task.
        task (`NumberTask`, *optional*): by default that of `model.config.number_task`.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): by default [`build_number_tokenizer`]'s.
        generation: arguments of `generate`, for example `num_steps=16`, `num_latents=24`.

    Returns:
        `list[NumberReply]`: one for each question.

    Raises:
        `ValueError`: for a text that is no question of the task (it says what the task knows), a division by zero, no
            questions, or a model whose configuration names no task when none is passed.
    """
    questions = [questions] if isinstance(questions, str) else list(questions)
    if not questions:
        raise ValueError('`questions` is empty; pass at least one, as `["123 + 456"]`.')
    if task is None:
        description = getattr(model.config, "number_task", None)
        if description is None:
            raise ValueError(
                "`model.config.number_task` is None, so the model's task is unknown. Pass `task`, as "
                '`task=make_task("arithmetic", input_bases=16, output_bases=16)`.'
            )
        task = make_task(**description)
    tokenizer = tokenizer or build_number_tokenizer()
    asked = [read_question(text, task) for text in questions]
    answers = [task.answer(question) for question in asked]
    warn_of_surprises(model, task, dict(zip(questions, asked, strict=True)), generation.get("num_steps"))
    room = max(task.longest_answer, *(len(answer) + 1 for answer in answers))  # the longest label bounds a reply
    room = min(room, getattr(model.config, "max_answer_length", room))
    rows = {
        "input_ids": [tokenizer.convert_tokens_to_ids(question) for question in asked],
        "labels": [[0] * room for _ in asked],
    }
    replies = answer_questions(model, Dataset.from_dict(rows), tokenizer, **generation)
    texts = [write_answer(tokenizer.convert_ids_to_tokens(reply), task) for reply in replies]
    rights = [cast(str, write_answer(answer, task)) for answer in answers]
    return [NumberReply(*parts) for parts in zip(questions, texts, rights, strict=True)]


__all__ = ["NumberReply", "answer_questions", "ask_numbers", "cut_reply", "score_answers"]
