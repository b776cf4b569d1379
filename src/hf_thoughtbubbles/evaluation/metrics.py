# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Metrics of text and answers: `evaluate.Metric` classes that need no network."""

import math

import evaluate
from datasets import Features, Value
from datasets import Sequence as SequenceOf


class BitsPerByte(evaluate.Metric):
    """
    Bits per byte of text: the sum of `-ln p` of the scored text, in bits, divided by its bytes.

    Unlike the perplexity of a token it can be compared across tokenizers.

    >>> import math
    >>> BitsPerByte().compute(nats=[math.log(2), math.log(2)], num_bytes=[1, 3])["bits_per_byte"]
    0.5
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Bits per byte of text.",
            citation="",
            inputs_description="nats: `-ln p` of each piece of text; num_bytes: its UTF-8 length in bytes.",
            features=Features({"nats": Value("float64"), "num_bytes": Value("int64")}),
        )

    def _compute(self, nats, num_bytes):
        if sum(num_bytes) == 0:
            raise ValueError("`num_bytes` sums to 0; bits per byte need at least one byte of text.")
        return {"bits_per_byte": math.fsum(nats) / math.log(2) / sum(num_bytes)}


class ExactMatch(evaluate.Metric):
    """
    Share of predictions equal to their reference, strings or lists of token ids.

    >>> ExactMatch().compute(predictions=["12", "7"], references=["12", "8"])["exact_match"]
    0.5
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of predictions equal to their reference.",
            citation="",
            inputs_description="predictions and references: strings, or lists of token ids.",
            features=[
                Features({"predictions": Value("string"), "references": Value("string")}),
                Features({"predictions": SequenceOf(Value("int64")), "references": SequenceOf(Value("int64"))}),
            ],
        )

    def _compute(self, predictions, references):
        matches = [prediction == reference for prediction, reference in zip(predictions, references, strict=True)]
        return {"exact_match": sum(matches) / len(matches)}


__all__ = ["BitsPerByte", "ExactMatch"]
