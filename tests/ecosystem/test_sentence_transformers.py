# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""sentence-transformers over saved models: the vector of a text is the same alone and in a padded batch."""

import numpy as np
import pytest

from hf_thoughtbubbles import build_byte_tokenizer
from tests.ecosystem.byte_models import BYTES, CAUSAL, make_byte_patch
from tests.families import Family, make_config


TEXTS = ["to be, or not to be", "x y", "漢字かな"]

MODELS = [
    *(family for family in CAUSAL if family.is_causal),  # the published fork rule compares all tokens of a row
    Family("copy", make_config(fork_rule="copy", fork_layers=[1], fork_budget=3, **BYTES)),
    Family("gpt-learned", make_config(fork_layers=[], position_embedding="learned", **BYTES)),
    make_byte_patch("byte-patch-parallel", decoder="parallel", patching="fixed"),
]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", MODELS, ids=lambda family: family.name)
def test_a_pooled_vector_is_that_of_the_states_of_the_text_alone(family, side, tmp_path):
    from sentence_transformers import SentenceTransformer  # imported here: it takes seconds, in every collection
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    model, tokenizer = family.build(), build_byte_tokenizer(model_max_length=151)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    read = Transformer(str(tmp_path))
    read.tokenizer.padding_side = side
    states = [model.base_model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS]
    for mode, pool in (
        ("mean", lambda rows: rows.mean(0)),
        ("max", lambda rows: rows.max(0).values),
        ("lasttoken", lambda rows: rows[-1]),
    ):
        encoder = SentenceTransformer(modules=[read, Pooling(model.config.hidden_size, mode)], device="cpu")
        expected = np.stack([pool(rows).detach().numpy() for rows in states])
        np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
        np.testing.assert_allclose(encoder.encode(TEXTS[1:2]), expected[1:2], atol=1e-5)
