# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""transformers' pipelines with our models, and their outputs."""

import pytest
import torch
from transformers import TextStreamer, pipeline

from hf_thoughtbubbles import (
    BytePatchForSequenceClassification,
    BytePatchForTokenClassification,
    GenericTransformerForQuestionAnswering,
    GenericTransformerForSequenceClassification,
    GenericTransformerForTokenClassification,
    LoopedThinkerForSequenceClassification,
    LoopedThinkerForTokenClassification,
    NextThoughtConfig,
    NextThoughtForConditionalGeneration,
    ThoughtbubblesForQuestionAnswering,
    ThoughtbubblesForSequenceClassification,
    ThoughtbubblesForTokenClassification,
)
from tests.ecosystem.byte_models import BYTES, CAUSAL, build, build_chat_tokenizer, make_byte_patch
from tests.families import Answerer, make_config, make_generic, make_thinker, make_thinker_config


ALL = pytest.mark.parametrize("family", CAUSAL, ids=lambda family: family.name)
LABELLED = {**BYTES, "num_labels": 3}
GREEDY = {"max_new_tokens": 7, "do_sample": False}
TEXT, OTHER = "to be, or", "not"


def write(model, text: str) -> str:
    """The text and what the model goes on to write."""
    tokenizer = build_chat_tokenizer()
    return tokenizer.decode(model.generate(**tokenizer(text, return_tensors="pt"), **GREEDY)[0])


class Chunks(TextStreamer):
    """Keeps what it is told to show."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, skip_prompt=True)
        self.chunks = []

    def on_finalized_text(self, text: str, stream_end: bool = False):
        self.chunks.append(text)


@ALL
def test_text_generation_writes_what_generate_writes(family):
    """One text, a batch, a conversation, and streamed; a saved model by its folder is in test_trainer.py."""
    model, tokenizer = build(family), build_chat_tokenizer()
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    assert generator(TEXT, **GREEDY) == [{"generated_text": write(model, TEXT)}]
    asked = [{"role": "user", "content": "hi"}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    answer = {"role": "assistant", "content": write(model, prompt).removeprefix(prompt)}
    assert generator(asked, **GREEDY) == [{"generated_text": [*asked, answer]}]

    streamer = Chunks(tokenizer)
    (written,) = generator(TEXT, streamer=streamer, return_full_text=False, **GREEDY)
    assert "".join(streamer.chunks) == written["generated_text"] == write(model, TEXT).removeprefix(TEXT)

    (first,), (second,) = generator([TEXT, OTHER], batch_size=2, **GREEDY)
    if family.is_causal:
        assert (first["generated_text"], second["generated_text"]) == (write(model, TEXT), write(model, OTHER))
    else:  # a padded row has a budget of its own, so the published rule may decide otherwise
        assert first["generated_text"].startswith(TEXT)
        assert second["generated_text"].startswith(OTHER)


@ALL
def test_feature_extraction_gives_the_last_hidden_states(family):
    """One vector a token, or a byte."""
    model, tokenizer = family.build().model, build_chat_tokenizer()
    extractor = pipeline("feature-extraction", model=model, tokenizer=tokenizer, device="cpu")
    with torch.no_grad():
        expected = model(**tokenizer(TEXT, return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(torch.tensor(extractor(TEXT)), expected)


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (ThoughtbubblesForSequenceClassification, make_config(fork_rule="threshold", **LABELLED)),
        (GenericTransformerForSequenceClassification, make_generic("generic", **LABELLED).config),
        (LoopedThinkerForSequenceClassification, make_thinker("thinker", exit_threshold=0.3, **LABELLED).config),
        (BytePatchForSequenceClassification, make_byte_patch(**LABELLED).config),
    ],
    ids=["thoughtbubbles", "generic", "thinker", "byte-patch"],
)
def test_text_classification_gives_the_likeliest_label(model_class, config):
    model, tokenizer = model_class(config).eval(), build_chat_tokenizer()
    classifier = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    answers = classifier([TEXT, OTHER], batch_size=2)
    for text, answer in zip((TEXT, OTHER), answers, strict=True):
        with torch.no_grad():
            probs = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
        assert answer["label"] == f"LABEL_{int(probs.argmax())}"
        assert answer["score"] == pytest.approx(float(probs.max()), abs=1e-5)


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (ThoughtbubblesForTokenClassification, make_config(fork_rule="threshold", **LABELLED)),
        (GenericTransformerForTokenClassification, make_generic("generic", **LABELLED).config),
        (LoopedThinkerForTokenClassification, make_thinker("thinker", exit_threshold=0.3, **LABELLED).config),
        (BytePatchForTokenClassification, make_byte_patch(**LABELLED).config),
    ],
    ids=["thoughtbubbles", "generic", "thinker", "byte-patch"],
)
def test_token_classification_gives_a_label_for_every_byte(model_class, config):
    config.id2label = {0: "A", 1: "B", 2: "C"}  # "O", which the pipeline leaves out, is not among them
    model, tokenizer = model_class(config).eval(), build_chat_tokenizer()
    classifier = pipeline("token-classification", model=model, tokenizer=tokenizer, device="cpu", ignore_labels=[])
    with torch.no_grad():
        expected = model(**tokenizer(TEXT, return_tensors="pt")).logits[0].argmax(-1).tolist()
    found = classifier(TEXT)
    assert [entity["entity"] for entity in found] == [config.id2label[label] for label in expected]
    assert [(entity["start"], entity["end"]) for entity in found] == [(i, i + 1) for i in range(len(TEXT))]


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (ThoughtbubblesForQuestionAnswering, make_config(**BYTES)),
        (GenericTransformerForQuestionAnswering, make_generic("generic", **BYTES).config),
    ],
    ids=["thoughtbubbles", "generic"],
)
def test_transformers_5_has_no_pipeline_for_the_spans_of_answers(model_class, config):
    """The models are there for the Trainer, or a loop of one's own."""
    with pytest.raises(KeyError, match="question-answering has been removed from transformers"):
        pipeline("question-answering", model=model_class(config), tokenizer=build_chat_tokenizer())


def build_next_thought() -> NextThoughtForConditionalGeneration:
    sizes = {"hidden_size": 24, "pooling_sizes": [36, 20], "removed_shares": [0.3, 0.4], "num_latent_tokens": 5}
    return NextThoughtForConditionalGeneration(NextThoughtConfig(**BYTES, **sizes)).eval()


@pytest.mark.parametrize(
    "build_model",
    [Answerer("answerer", make_thinker_config(**BYTES)).build, build_next_thought],
    ids=["thinker", "next-thought"],
)
def test_transformers_5_has_no_pipeline_for_models_that_answer(build_model):
    """`text2text-generation` is gone, and `text-generation` takes the prompt's length off whatever comes."""
    model, tokenizer = build_model(), build_chat_tokenizer()
    for task in ("text2text-generation", "summarization"):
        with pytest.raises(KeyError, match=f"{task} has been removed from transformers"):
            pipeline(task, model=model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="`generate` makes them"):
        pipeline("feature-extraction", model=model, tokenizer=tokenizer, device="cpu")(TEXT)
    assert model.generate(**tokenizer(TEXT, return_tensors="pt"), **GREEDY).shape[0] == 1  # what to use instead
