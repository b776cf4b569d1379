# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Likelihoods of texts and continuations under a causal language model."""

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from ..data.patches import measure_patch_lengths
from ..tokenization.byte_tokenizer import byte_alphabet
from .metrics import BitsPerByte


IGNORED_LABEL = -100
UNKNOWN_ENDS = (
    'where the last patch of a prefix ends is not known before the text after it. Use `reading="blockwise"`.'
)
SCORED_COLUMNS = ("input_ids", "labels", "patch_lengths")
MAX_EXPONENT = 700.0  # about the largest whose exponential a float holds
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")  # SentencePiece's name for a byte that no other token covers


def count_token_bytes(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """
    Count the bytes of text of each token id; special tokens have none.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): byte-level tokenizers are counted exactly; others by the UTF-8 length of
            the token, with a space for a word-start mark.

    Returns:
        `torch.LongTensor` of shape `(len(tokenizer),)`.
    """
    alphabet, specials, added = byte_alphabet(), set(tokenizer.all_special_ids), tokenizer.added_tokens_decoder
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    is_byte_level = all(c in alphabet for i, token in enumerate(tokens) if i not in added for c in token)

    def count(i: int, token: str) -> int:
        if i in specials:
            return 0
        if i in added:
            return len(token.encode())
        if is_byte_level:
            return len(token)
        return 1 if BYTE_TOKEN.fullmatch(token) else len(token.replace("▁", " ").encode())

    return torch.tensor([count(i, token) for i, token in enumerate(tokens)])


def _iterate_batches(dataset: Iterable[dict], batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
    """
    Rows of equal length together: `input_ids` and `labels` `(B, T)`, and `patch_lengths` `(B, P)` if given. Padding
    would change the streams that the top-k rule keeps.
    """
    rows: list[dict[str, torch.Tensor]] = []

    def collate() -> dict[str, torch.Tensor]:
        return {name: pad_sequence([row[name] for row in rows], batch_first=True) for name in rows[0]}

    for row in dataset:
        given = {"labels": row["input_ids"], **{name: value for name, value in row.items() if value is not None}}
        read = {name: torch.as_tensor(given[name]) for name in SCORED_COLUMNS if name in given}
        if rows and (len(rows) == batch_size or len(rows[0]["input_ids"]) != len(read["input_ids"])):
            yield collate()
            rows = []
        rows.append(read)
    if rows:
        yield collate()


def _score_blockwise(model, input_ids: torch.Tensor, **inputs) -> torch.Tensor:
    return model(input_ids=input_ids, use_cache=False, **inputs).logits[:, :-1]


def _score_prefixes(model, input_ids: torch.Tensor, **compute) -> torch.Tensor:
    """Each token from a call on the tokens before it: one call per length, never a padded batch."""
    if "patch_lengths" in compute:
        raise ValueError(f'`reading="prefix"` was passed with rows that have `patch_lengths`: {UNKNOWN_ENDS}')
    return torch.cat(
        [
            model(input_ids=input_ids[:, :length], use_cache=False, logits_to_keep=1, **compute).logits[:, -1:]
            for length in range(1, input_ids.shape[1])
        ],
        dim=1,
    )


@torch.no_grad()
def score_dataset(
    model: PreTrainedModel,
    dataset: Iterable[dict],
    tokenizer: PreTrainedTokenizerBase,
    reading: Literal["blockwise", "prefix"] = "blockwise",
    batch_size: int = 8,
    max_blocks: int | None = None,
    **compute: int | float,
) -> dict[str, float | int]:
    """
    Perplexity and bits per byte of a causal language model, native ones included.

    Args:
        model (`PreTrainedModel`): any causal language model.
        dataset (`Iterable[dict]`): rows with `input_ids` and optionally `labels` (-100 is not scored) and
            `patch_lengths`, which byte-patch models with `patching="token"` need. The first token of a row is never
            scored.
        tokenizer (`PreTrainedTokenizerBase`): tells how many bytes each token stands for.
        reading (`str`): `"blockwise"` reads each row in one call, as papers report. For the published top-k fork rule
            **that is not a likelihood**, because later tokens influence earlier forks; `"prefix"` predicts every token
            from a call on the tokens before it alone, T - 1 calls per row, which is what generation does. For causal
            models, `fork_rule="threshold"` included, both give the same number.
        batch_size (`int`): rows of a call.
        max_blocks (`int`, *optional*): score only the first so many rows.
        compute: arguments of the model's `forward` that say how much it may compute, for example `num_steps=16`,
            `exit_threshold=0.1` or `fork_budget=1.5`.

    Returns:
        `dict` with `loss` (mean nats per token), `perplexity` (per token), `bits_per_byte`, `num_tokens`, `num_bytes`.

    Raises:
        `ValueError`: for an unknown `reading`, prefixes of rows with `patch_lengths`, a batch size or limit below 1,
            or when nothing was scored.
    """
    readers: dict[str, Callable[..., torch.Tensor]] = {"blockwise": _score_blockwise, "prefix": _score_prefixes}
    if reading not in readers:
        raise ValueError(f"`reading={reading!r}` was passed; it must be one of {sorted(readers)}.")
    if batch_size < 1 or (max_blocks is not None and max_blocks < 1):
        raise ValueError(f"`{batch_size=}` and `{max_blocks=}` were passed; they must be at least 1.")
    was_training, read = model.training, functools.partial(readers[reading], **compute)
    try:
        nats, num_tokens, num_bytes = _sum_losses(
            model.eval(), dataset, count_token_bytes(tokenizer), read, batch_size, max_blocks
        )
    finally:
        model.train(was_training)
    if num_tokens == 0:
        raise ValueError("`dataset` holds no token to score; rows need two tokens or more and labels other than -100.")
    loss = nats / num_tokens
    return {
        "loss": loss,
        "perplexity": math.exp(loss) if loss < MAX_EXPONENT else math.inf,
        "num_tokens": num_tokens,
        "num_bytes": num_bytes,
        **BitsPerByte().compute(nats=[nats], num_bytes=[num_bytes]),
    }


def _sum_losses(model, dataset, token_bytes: torch.Tensor, read, batch_size: int, max_blocks: int | None):
    """Nats, tokens and bytes of everything scored."""
    missing = max(0, model.config.vocab_size - len(token_bytes))  # rows that only fill up the embedding matrix
    token_bytes = F.pad(token_bytes, (0, missing)).to(model.device)
    nats, num_tokens, num_bytes, num_blocks = [], 0, 0, 0
    for batch in _iterate_batches(dataset, batch_size):
        if max_blocks is not None:
            batch = {name: values[: max_blocks - num_blocks] for name, values in batch.items()}
        num_blocks += len(batch["input_ids"])
        targets = batch.pop("labels")[:, 1:].to(model.device)
        logits = read(model, **{name: values.to(model.device) for name, values in batch.items()}).float()
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL, reduction="none")
        is_scored = targets != IGNORED_LABEL
        nats.append(losses.double().sum().item())
        num_tokens += int(is_scored.sum())
        num_bytes += int(token_bytes[targets[is_scored]].sum())
        if max_blocks is not None and num_blocks >= max_blocks:
            break
    return math.fsum(nats), num_tokens, num_bytes


def bits_per_byte_metrics(tokenizer: PreTrainedTokenizerBase) -> dict[str, Callable]:
    """
    The arguments that make a Trainer of a causal language model log `eval_bits_per_byte`, for every tracker.

    It is the number of [`score_dataset`] with `reading="blockwise"`, exact for rows of any length, on any number of
    processes, and without further terms of the loss. Only the loss of each token is kept, never logits.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): tells how many bytes each token stands for.

    Returns:
        `dict` with `compute_metrics` and `preprocess_logits_for_metrics`, for
        `Trainer(..., **bits_per_byte_metrics(tokenizer))`.
    """
    token_bytes = count_token_bytes(tokenizer)

    def score_tokens(logits, labels: torch.Tensor) -> torch.Tensor:
        """Nats `(B, T)` of each label; 0 for the first one of a row and for those that are not scored."""
        logits = logits[0] if isinstance(logits, tuple) else logits
        by_class = logits[:, :-1].float().transpose(1, 2)  # (B, V, T - 1)
        nats = F.cross_entropy(by_class, labels[:, 1:], ignore_index=IGNORED_LABEL, reduction="none")
        return F.pad(nats, (1, 0))

    def compute_bits(prediction: EvalPrediction) -> dict[str, float]:
        labels = torch.as_tensor(prediction.label_ids)[:, 1:]
        nats = torch.as_tensor(prediction.predictions)[:, 1:]
        is_scored = labels != IGNORED_LABEL
        num_bytes = F.pad(token_bytes, (0, max(0, int(labels.max()) + 1 - len(token_bytes))))[labels[is_scored]].sum()
        return BitsPerByte().compute(nats=[nats[is_scored].double().sum().item()], num_bytes=[int(num_bytes)])

    return {"compute_metrics": compute_bits, "preprocess_logits_for_metrics": score_tokens}


@dataclass(frozen=True)
class ContinuationScore:
    """
    The likelihood of a continuation under a model.

    Args:
        log_likelihood (`float`): natural log of its probability given the prefix.
        is_greedy (`bool`): whether each of its tokens is the likeliest one, so that greedy decoding would write it.
        num_tokens (`int`): its tokens.
    """

    log_likelihood: float
    is_greedy: bool
    num_tokens: int


def score_continuations(
    model: PreTrainedModel,
    pairs: Iterable[tuple[str | Sequence[int], str | Sequence[int]]],
    tokenizer: PreTrainedTokenizerBase | None = None,
    reading: Literal["blockwise", "prefix"] = "blockwise",
    batch_size: int = 8,
    truncate: bool = False,
    patch_tokenizer: PreTrainedTokenizerBase | None = None,
    **compute: int | float,
) -> list[ContinuationScore]:
    """
    Log-likelihoods of continuations given their prefixes, as evaluation harnesses ask for them: in batches of pairs of
    any lengths, with the same result as one by one.

    Text is tokenized as prefix and continuation together, and what the tokens of the prefix alone do not cover is the
    continuation, as lm-evaluation-harness does it; white space at the end of a prefix stays with the prefix, where the
    harness would move it to the continuation. Where they cover all, because a token joins both, each is tokenized by
    itself. Special tokens that the tokenizer puts before a text stay; those it puts after one are left out. The
    reference implementation joins both with a space and scores all (docs/reference_behaviour.md, "Sampling", S6).

    Args:
        model (`PreTrainedModel`): any causal language model.
        pairs (`Iterable[tuple]`): prefix and continuation, both text or both token ids. An empty prefix becomes the
            tokenizer's beginning of sequence, or its end of sequence.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): needed for text and for empty prefixes.
        reading (`str`): `"blockwise"` reads prefix and continuation in one call; `"prefix"` predicts every token from
            a call on those before it alone. They differ for the published top-k fork rule only, see [`score_dataset`].
        batch_size (`int`): pairs a call.
        truncate (`bool`): leave out the beginning of prefixes, so that pairs have `max_position_embeddings` tokens.
            Without it, longer pairs are an error in models with a table of positions, and read in others.
        patch_tokenizer (`PreTrainedTokenizerBase`, *optional*): draws the patches of byte-patch models with
            `patching="token"`, over prefix and continuation together; only for `reading="blockwise"`. The likelihood
            is one given these boundaries, see [`measure_patch_lengths`].
        compute: arguments of the model's `forward` that say how much it may compute.

    Returns:
        `list[ContinuationScore]`, one for each pair, in their order.

    Raises:
        `ValueError`: for an empty continuation, text without a tokenizer, an empty prefix without a token for
            it, pairs that are too long, and patches that are missing, not needed or not known yet.
    """
    _check_patch_tokenizer(model, patch_tokenizer, reading)
    if reading not in ("blockwise", "prefix") or batch_size < 1:
        raise ValueError(
            f"`{reading=}` and `{batch_size=}` were passed; `reading` must be 'blockwise' or 'prefix', and "
            "`batch_size` at least 1."
        )
    encoded = [_encode_pair(model, tokenizer, truncate, *pair, i) for i, pair in enumerate(pairs)]
    asked = [(i, ids, start - 1) for i, (ids, start) in enumerate(encoded)]
    if reading == "prefix":
        asked = [(i, ids[:stop], stop - 2) for i, ids, last in asked for stop in range(last + 2, len(ids) + 1)]
    asked.sort(key=lambda question: len(question[1]))  # rows of a batch are about as long
    was_training = model.training
    scores: list[list[tuple[float, bool]]] = [[] for _ in encoded]
    try:
        for batch in _batch_questions(model.eval(), asked, batch_size):
            answers = _answer_questions(model, batch, patch_tokenizer, compute)
            for (i, *_), answer in zip(batch, answers, strict=True):
                scores[i].append(answer)
    finally:
        model.train(was_training)
    return [
        ContinuationScore(math.fsum(nats for nats, _ in parts), all(is_best for _, is_best in parts), len(ids) - start)
        for parts, (ids, start) in zip(scores, encoded, strict=True)
    ]


def _count_unread(model: PreTrainedModel) -> int:
    """Tokens at the end of a row that the model need not read: 1, or 0 where given patches must cover the row."""
    return 0 if getattr(model.config, "patching", None) == "token" else 1


def _check_patch_tokenizer(model: PreTrainedModel, patch_tokenizer: PreTrainedTokenizerBase | None, reading: str):
    """Refuse token patches without a tokenizer, and a tokenizer for patches that a model finds by itself."""
    is_needed = _count_unread(model) == 0
    if is_needed and reading == "prefix":
        raise ValueError(f'`reading="prefix"` was passed for a model with `patching="token"`: {UNKNOWN_ENDS}')
    if is_needed != (patch_tokenizer is not None):
        problem = "is missing, but this model needs it" if is_needed else "was passed, but this model needs none"
        raise ValueError(f'`patch_tokenizer` {problem}: only `patching="token"` needs it.')


def _encode_text(tokenizer: PreTrainedTokenizerBase, prefix: str, continuation: str) -> tuple[int, list[int]]:
    """Where the continuation begins among the ids of both, and these, with the special tokens before a text."""

    def encode(text: str, **options) -> list[int]:
        return list(tokenizer(text, verbose=False, **options).input_ids)

    joint = encode(prefix + continuation, add_special_tokens=False)
    first = encode(prefix, add_special_tokens=False) if prefix else []
    if len(joint) <= len(first):
        joint = first + (encode(continuation, add_special_tokens=False) if continuation else [])
    whole, lead = encode(prefix + continuation), []
    for start in range(len(whole) - len(joint) + 1):
        if joint and whole[start : start + len(joint)] == joint:
            lead = whole[:start]
            break
    return len(lead) + len(first), lead + joint


def _encode_pair(model, tokenizer, truncate: bool, prefix, continuation, pair_idx: int) -> tuple[list[int], int]:
    """All ids of a pair, and where the continuation begins, after at least one token."""
    if isinstance(prefix, str) != isinstance(continuation, str):
        raise ValueError(f"Pair {pair_idx} is of text and ids; pass both as text or both as ids.")
    if isinstance(prefix, str):
        if tokenizer is None:
            raise ValueError(f"Pair {pair_idx} is text, but no `tokenizer` was passed. Pass one, or token ids.")
        start, ids = _encode_text(tokenizer, prefix, continuation)
    else:
        start, ids = len(prefix), [*map(int, prefix), *map(int, continuation)]
    if len(ids) <= start:
        raise ValueError(f"The continuation of pair {pair_idx} is empty; there is nothing to score.")
    if start == 0:
        first = None if tokenizer is None else tokenizer.bos_token_id
        first = tokenizer.eos_token_id if first is None and tokenizer is not None else first
        if first is None:
            raise ValueError(
                f"The prefix of pair {pair_idx} is empty, and no `tokenizer` with a beginning or end of sequence was "
                "passed. Pass one, or a prefix."
            )
        start, ids = 1, [first, *ids]
    longest = getattr(model.config, "max_position_embeddings", None)
    too_many = 0 if longest is None else len(ids) - _count_unread(model) - longest
    has_table = getattr(model.config, "has_position_table", True)
    if too_many > 0 and has_table and (not truncate or too_many >= start):
        raise ValueError(
            f"Pair {pair_idx} has {start} and {len(ids) - start} tokens, but `max_position_embeddings` is "
            f"{longest}. Shorten it{'' if truncate else ', or set `truncate=True` to leave out a beginning'}."
        )
    num_cut = max(0, min(too_many, start - 1)) if truncate else 0
    return ids[num_cut:], start - num_cut


def _batch_questions(model, asked: list, batch_size: int) -> Iterator[list]:
    """Batches of `(pair, ids, last token before the scored ones)`; rows of models with top-k forks get no padding."""
    is_equal = getattr(model.config, "fork_rule", None) == "topk" and bool(model.config.fork_layers)
    batch: list[tuple[int, list[int], int]] = []
    for question in asked:
        if batch and (len(batch) == batch_size or (is_equal and len(batch[0][1]) != len(question[1]))):
            yield batch
            batch = []
        batch.append(question)
    if batch:
        yield batch


@torch.no_grad()
def _answer_questions(model, batch: list, patch_tokenizer, compute: dict) -> list[tuple[float, bool]]:
    """Nats of the scored tokens of each row, and whether all of them are the likeliest."""
    rows = [torch.tensor(ids) for _, ids, _ in batch]
    rows = [ids[: len(ids) - _count_unread(model)] for ids in rows]
    read = pad_sequence(rows, batch_first=True).to(model.device)  # (B, T)
    lengths = torch.tensor([len(ids) for ids in rows])
    mask = (torch.arange(read.shape[1]) < lengths[:, None]).long().to(model.device)
    inputs = {} if bool(mask.all()) else {"attention_mask": mask}
    if patch_tokenizer is not None:
        longest = model.config.max_patch_bytes
        patches = [torch.tensor(measure_patch_lengths(ids, patch_tokenizer, longest)) for _, ids, _ in batch]
        inputs["patch_lengths"] = pad_sequence(patches, batch_first=True).to(model.device)
    first = min(last for *_, last in batch)  # nothing before it is scored
    kept = read.shape[1] - first
    logits = model(input_ids=read, use_cache=False, logits_to_keep=kept, **inputs, **compute).logits
    logits = logits[:, -kept:].float()  # some models ignore `logits_to_keep`
    answers = []
    for row, (_, ids, last) in zip(logits, batch, strict=True):
        scores = row[last - first : len(ids) - 1 - first].log_softmax(-1)
        targets = torch.tensor(ids[last + 1 :], device=scores.device)
        nats = scores.gather(1, targets[:, None]).double().sum().item()
        answers.append((nats, bool((scores.argmax(-1) == targets).all())))
    return answers


__all__ = [
    "ContinuationScore",
    "bits_per_byte_metrics",
    "count_token_bytes",
    "score_continuations",
    "score_dataset",
]
