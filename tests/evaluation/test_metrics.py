# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Metrics count the same in one call and in batches, without a network."""

import math

import pytest

from hf_thoughtbubbles.evaluation.metrics import BitsPerByte, ExactMatch


def test_bits_per_byte_is_total_bits_over_total_bytes():
    metric = BitsPerByte()
    metric.add_batch(nats=[math.log(2), 3 * math.log(2)], num_bytes=[1, 3])
    metric.add(nats=4 * math.log(2), num_bytes=0)
    assert metric.compute() == {"bits_per_byte": pytest.approx(2.0)}


def test_bits_per_byte_of_no_bytes_is_refused():
    with pytest.raises(ValueError, match="`num_bytes` sums to 0"):
        BitsPerByte().compute(nats=[1.0], num_bytes=[0])


def test_exact_match_takes_text_and_token_ids():
    assert ExactMatch().compute(predictions=["12", "7", "x "], references=["12", "8", "x"]) == {"exact_match": 1 / 3}
    assert ExactMatch().compute(predictions=[[1, 2], [3]], references=[[1, 2], [3, 0]]) == {"exact_match": 0.5}
