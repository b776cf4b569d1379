# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How likely does a causal language model find a text?"""

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..tokenization.byte_tokenizer import byte_alphabet
from .metrics import BitsPerByte


IGNORED_LABEL = -100


def count_token_bytes(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """
    How many bytes of text each token id stands for; special tokens stand for none.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): byte-level tokenizers are counted exactly; for others the UTF-8 length
            of the token, a word-start mark counting as a space.

    Returns:
        `torch.LongTensor` of shape `(len(tokenizer),)`.
    """
    alphabet, specials = byte_alphabet(), set(tokenizer.all_special_ids)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    regular = [token for i, token in enumerate(tokens) if i not in specials]
    is_byte_level = all(character in alphabet for token in regular for character in token)
    counts = []
    for i, token in enumerate(tokens):
        text = token if is_byte_level else token.replace("▁", " ")
        counts.append(0 if i in specials else len(text) if is_byte_level else len(text.encode()))
    return torch.tensor(counts)


def _iterate_batches(dataset: Iterable[dict], batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Rows of equal length together, `(B, T)` ids and labels; padding would change what the top-k rule keeps."""
    rows, labels = [], []
    for row in dataset:
        if rows and (len(rows) == batch_size or len(rows[0]) != len(row["input_ids"])):
            yield torch.tensor(rows), torch.tensor(labels)
            rows, labels = [], []
        rows.append(list(row["input_ids"]))
        labels.append(list(row.get("labels", row["input_ids"])))
    if rows:
        yield torch.tensor(rows), torch.tensor(labels)


def _score_blockwise(model, input_ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=input_ids, use_cache=False).logits[:, :-1]


def _score_prefixes(model, input_ids: torch.Tensor) -> torch.Tensor:
    """Each token from a call that saw nothing after it: one call per length, never a padded batch."""
    return torch.cat(
        [
            model(input_ids=input_ids[:, :length], use_cache=False, logits_to_keep=1).logits
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
) -> dict[str, float | int]:
    """
    Perplexity and bits per byte of a causal language model, native ones included.

    Args:
        model (`PreTrainedModel`): any causal language model.
        dataset (`Iterable[dict]`): rows with `input_ids` and optionally `labels` (-100 is not scored). The first token
            of a row is never scored.
        tokenizer (`PreTrainedTokenizerBase`): tells how many bytes each token stands for.
        reading (`str`): `"blockwise"` reads each row in one call, as papers report. For the published top-k fork rule
            **that is not a likelihood**, because later tokens influence earlier forks; `"prefix"` predicts every token
            from a call on the tokens before it alone, T - 1 calls per row, which is what generation does.
        batch_size (`int`): rows per call.
        max_blocks (`int`, *optional*): score only the first so many rows.

    Returns:
        `dict` with `loss` (mean nats per token), `perplexity` (per token), `bits_per_byte`, `num_tokens`, `num_bytes`.

    Raises:
        `ValueError`: for an unknown `reading`, or when nothing was scored.
    """
    readers = {"blockwise": _score_blockwise, "prefix": _score_prefixes}
    if reading not in readers:
        raise ValueError(f"`reading` is {reading!r}; it must be one of {sorted(readers)}.")
    was_training, token_bytes = model.training, count_token_bytes(tokenizer).to(model.device)
    metric, nats, num_tokens, num_bytes, num_blocks = BitsPerByte(), [], 0, 0, 0
    model.eval()
    for input_ids, labels in _iterate_batches(dataset, batch_size):
        if max_blocks is not None:
            input_ids, labels = input_ids[: max_blocks - num_blocks], labels[: max_blocks - num_blocks]
        num_blocks += len(input_ids)
        input_ids, targets = input_ids.to(model.device), labels[:, 1:].to(model.device)
        logits = readers[reading](model, input_ids).float()
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL, reduction="none")
        is_scored = targets != IGNORED_LABEL
        nats.append(losses.double().sum().item())
        num_tokens += int(is_scored.sum())
        num_bytes += int(token_bytes[targets[is_scored]].sum())
        if max_blocks is not None and num_blocks >= max_blocks:
            break
    model.train(was_training)
    if num_tokens == 0:
        raise ValueError("`dataset` holds no token to score; rows need two tokens or more and labels other than -100.")
    loss = math.fsum(nats) / num_tokens
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "num_tokens": num_tokens,
        "num_bytes": num_bytes,
        **metric.compute(nats=[math.fsum(nats)], num_bytes=[num_bytes]),
    }


__all__ = ["count_token_bytes", "score_dataset"]
