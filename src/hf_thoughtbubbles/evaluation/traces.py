# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Traces of how much a model thought: streams of each token, and what each step of a loop predicts.

Shapes: B batch, T tokens, F fork layers, S streams, R steps, A positions that predict a token, L latents, D hidden,
V vocabulary.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ..modeling.thoughtbubbles.forking import ThoughtbubblesForkOutput


IGNORED_LABEL = -100


@dataclass(frozen=True)
class ForkTrace:
    """
    Where a forking model forked. All tensors are on the CPU and without gradients.

    Args:
        fork_layers (`list[int]`): the layers that fork.
        token_mask (`torch.BoolTensor` of shape `(B, T)`): True for tokens that are not padding.
        num_streams (`torch.LongTensor` of shape `(B, F, T)`): streams of each token after each fork layer; 0 for
            padding.
        scores (`torch.FloatTensor` of shape `(B, F, T)`): mean score of the token's streams, a probability in [0, 1];
            0 for padding.
        entropies (`torch.FloatTensor` of shape `(B, T)`): entropy of the distribution of the next token, in nats.
    """

    fork_layers: list[int]
    token_mask: torch.Tensor
    num_streams: torch.Tensor
    scores: torch.Tensor
    entropies: torch.Tensor

    @property
    def depths(self) -> torch.Tensor:
        """Fork layers after which a token has more streams than before, `(B, T)`."""
        before = F.pad(self.num_streams, (0, 0, 1, 0), value=1)
        return (before.diff(dim=1) > 0).sum(dim=1)


@dataclass(frozen=True)
class StepTrace:
    """
    What a looped model would predict if each step were its last. All tensors are on the CPU and without gradients.

    Args:
        logits (`torch.FloatTensor` of shape `(B, R, A, V)`): after each step. A text has as many positions as tokens.
        targets (`torch.LongTensor` of shape `(B, A)`): the token that each position predicts; -100 for none.
        latents (`torch.FloatTensor` of shape `(B, R, L, D)`): the latents after each step; one a token in a text.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    latents: torch.Tensor

    @property
    def predictions(self) -> torch.Tensor:
        """The likeliest token of each position after each step, `(B, R, A)`."""
        return self.logits.argmax(-1)

    @property
    def probs(self) -> torch.Tensor:
        """The probability of the likeliest token, `(B, R, A)`."""
        return self.logits.softmax(-1).amax(-1)

    @property
    def losses(self) -> torch.Tensor:
        """-ln p of each target after each step in nats, `(B, R, A)`; 0 where there is none."""
        targets = self.targets[:, None].expand(self.logits.shape[:-1])
        options: dict[str, Any] = {"ignore_index": IGNORED_LABEL, "reduction": "none"}
        return F.cross_entropy(self.logits.flatten(0, 2), targets.flatten(), **options).view_as(targets)

    @property
    def step_losses(self) -> torch.Tensor:
        """Mean loss after each step in nats, `(R,)`."""
        return self.losses.sum((0, 2)) / (self.targets != IGNORED_LABEL).sum()


@contextlib.contextmanager
def _reading(model: PreTrainedModel) -> Iterator[Any]:
    """The model in evaluation mode, without gradients."""
    was_training = model.training
    try:
        with torch.no_grad():
            yield cast(Any, model.eval())
    finally:
        model.train(was_training)


def summarize_forks(forks: Sequence[ThoughtbubblesForkOutput], num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Streams of each token and their mean score, from the forks that a model or `generate` returns.

    Args:
        forks (`Sequence[ThoughtbubblesForkOutput]`): one for each fork layer, with `num_streams`.
        num_tokens (`int`): T.

    Returns:
        `torch.LongTensor` and `torch.FloatTensor`, both `(B, F, T)` and on the CPU: counts, and mean scores in [0, 1].
        A token without streams, as padding, has 0 of both.

    >>> fork = ThoughtbubblesForkOutput(
    ...     token_index=torch.tensor([[0, 0, 1]]),
    ...     log_scores=torch.tensor([[0.5, 1.0, 0.25]]).log(),
    ...     num_streams=torch.tensor([[2, 1]]),
    ... )
    >>> summarize_forks([fork], num_tokens=2)
    (tensor([[[2, 1]]]), tensor([[[0.7500, 0.2500]]]))
    """
    counts, scores = [], []
    for fork in forks:
        token_index, log_scores, num_streams = (part.cpu() for part in fork.to_tuple())
        totals = torch.zeros(len(token_index), num_tokens + 1)  # fillers belong to the token after the last
        totals.scatter_add_(1, token_index, log_scores.float().exp())
        counts.append(num_streams)
        scores.append(totals[:, :num_tokens] / num_streams.clamp(min=1))
    return torch.stack(counts, dim=1), torch.stack(scores, dim=1)


def trace_forks(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    fork_budget: float | None = None,
) -> ForkTrace:
    """
    Read a text with a forking language model, by the rule of evaluation, and return where it forked.

    Args:
        model (`PreTrainedModel`): a Thoughtbubbles language model with fork layers and any fork rule, also one that
            `fork_native` made, or with an adapter of PEFT.
        input_ids (`torch.LongTensor` of shape `(B, T)`): the text.
        attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 for real tokens, 0 for padding.
        fork_budget (`float`, *optional*): streams per token; the configuration's by default.

    Returns:
        [`ForkTrace`]

    Raises:
        `ValueError`: when the model does not fork, or is no language model.
    """
    name, fork_layers = type(model).__name__, getattr(model.config, "fork_layers", None)
    if not fork_layers:
        raise ValueError(
            f"`model` is a `{name}` without fork layers, so there are no forks to read. Pass a Thoughtbubbles "
            "language model with `fork_layers`."
        )
    inputs: dict[str, Any] = {"input_ids": input_ids.to(model.device), "use_cache": False, "output_forks": True}
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask.to(model.device)
    if fork_budget is not None:
        inputs["fork_budget"] = fork_budget
    with _reading(model) as reader:
        outputs = reader(**inputs)
    forks, logits = getattr(outputs, "forks", None), getattr(outputs, "logits", None)
    if forks is None or logits is None:
        raise ValueError(f"`model` is a `{name}`, which returns no forks and logits. Pass a language model.")
    num_streams, scores = summarize_forks(forks, input_ids.shape[1])
    log_probs = logits.float().log_softmax(-1).cpu()
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    entropies = torch.special.entr(log_probs.exp()).sum(-1)
    return ForkTrace(list(fork_layers)[: len(forks)], mask.bool().cpu(), num_streams, scores, entropies)


def trace_steps(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    num_steps: int | None = None,
    **compute: int | float,
) -> StepTrace:
    """
    Read a text, or think about a problem, with a looped model, and return what each step would predict.

    A language model is run once. A model that answers is run once for each number of steps up to `num_steps`, because
    the memory that an answer is read from grows with every step.

    Args:
        model (`PreTrainedModel`): a looped Thinker with a language-modelling head, for text or for answers, also one
            that `loop_native` made, or with an adapter of PEFT.
        input_ids (`torch.LongTensor` of shape `(B, T)`): the text or the problem.
        attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 for real tokens, 0 for padding.
        labels (`torch.LongTensor` of shape `(B, T)` or `(B, A)`, *optional*): the tokens to predict, -100 for none; by
            default those of the text, or the answer that the model generates greedily with `num_steps`.
        num_steps (`int`, *optional*): R; the configuration's by default.
        compute: further arguments of the model's `forward` that say how much it may compute, as `num_latents=16`.

    Returns:
        [`StepTrace`]

    Raises:
        `ValueError`: when the model does not loop, or has no language-modelling head.
    """
    name, num_steps = type(model).__name__, num_steps or getattr(model.config, "num_steps", None)
    if "num_steps" not in model.config.to_dict() or num_steps is None:
        raise ValueError(f"`model` is a `{name}`, which does not loop, so it has no steps. Pass a looped Thinker.")
    inputs: dict[str, Any] = {"input_ids": input_ids.to(model.device)}
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask.to(model.device)
    with _reading(model) as reader:
        if model.config.is_encoder_decoder:
            if labels is None:
                labels = _generate_answer(reader, inputs, num_steps, compute)
            inputs |= {"labels": labels.to(model.device), "output_steps": True, **compute}
            logits = [reader(**inputs, num_steps=step).logits.float().cpu() for step in range(1, num_steps)]
            outputs = reader(**inputs, num_steps=num_steps)
            logits.append(outputs.logits.float().cpu())
            return StepTrace(torch.stack(logits, dim=1), labels.cpu(), outputs.latents.float().cpu())
        outputs = reader(**inputs, num_steps=num_steps, output_steps=True, use_cache=False, **compute)
    if getattr(outputs, "step_logits", None) is None:
        raise ValueError(f"`model` is a `{name}`, which returns no logits of steps. Pass a language model.")
    targets = F.pad((input_ids if labels is None else labels)[:, 1:], (0, 1), value=IGNORED_LABEL)
    if attention_mask is not None:
        is_real = attention_mask.bool()
        targets = targets.masked_fill(~(is_real & F.pad(is_real[:, 1:], (0, 1))), IGNORED_LABEL)
    return StepTrace(outputs.step_logits.float().cpu(), targets.cpu(), outputs.latents.float().cpu())


def _generate_answer(model, inputs: dict, num_steps: int, compute: dict) -> torch.Tensor:
    """Labels `(B, A)` of the greedy answers: the end token is the last one that is scored."""
    answers = model.generate(**inputs, do_sample=False, num_steps=num_steps, **compute)[:, 1:]
    end = model.generation_config.eos_token_id
    if end is None:
        return answers
    is_end = torch.isin(answers, torch.tensor(end, device=answers.device))
    return answers.masked_fill(is_end.cumsum(-1) - is_end.long() > 0, IGNORED_LABEL)


__all__ = ["ForkTrace", "StepTrace", "summarize_forks", "trace_forks", "trace_steps"]
