# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Classification heads: their targets, their losses, and the states that they read."""

import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

import hf_thoughtbubbles
from hf_thoughtbubbles import build_byte_tokenizer
from tests.contract.contract_helpers import enable_checkpointing
from tests.families import BYTE_VARIANTS, Family, make_config, make_generic, make_thinker


DOCUMENTATION = Path(__file__).parents[3] / "docs" / "training.md"
HEADS = {"sequence": "SequenceClassification", "token": "TokenClassification", "answer": "QuestionAnswering"}
THINKER = make_thinker("thinker")
BYTES = {variant.name: variant for variant in BYTE_VARIANTS}
BUILDS = {  # the beginning of the names of a family's classes, and the family
    "threshold": ("Thoughtbubbles", Family("threshold", make_config(fork_rule="threshold"))),
    "topk": ("Thoughtbubbles", Family("topk", make_config())),
    "generic": ("GenericTransformer", make_generic("generic")),
    "thinker": ("LoopedThinker", THINKER),
    "thinker-exit": ("LoopedThinker", make_thinker("thinker-exit", num_steps=5, exit_threshold=0.25)),
    "bytes": ("BytePatch", BYTES["fixed"]),
    "token-bytes": ("BytePatch", BYTES["token"]),
}
FAMILIES = ("threshold", "topk", "generic", "thinker", "bytes")
ANSWERING = ("threshold", "topk", "generic")
CAUSAL = ("threshold", "generic", "thinker", "thinker-exit", "bytes", "token-bytes")  # not the published rule


def build(family: str, head: str, **changes) -> torch.nn.Module:
    torch.manual_seed(0)
    owner, entry = BUILDS[family]
    model_class = getattr(hf_thoughtbubbles, f"{owner}For{HEADS[head]}")
    return model_class(type(entry.config)(**{**entry.config.to_dict(), **changes}))


def check(model: torch.nn.Module, rights: tuple, wrongs: tuple, message: str = "`labels`"):
    """Take each of the right targets, then refuse each of the wrong ones, without a change of the configuration."""
    ids = torch.randint(1, 59, (3, 7))
    for labels in rights:
        assert model(ids, labels=labels).loss.isfinite()
    kind = model.config.problem_type
    for labels in wrongs:
        with pytest.raises(ValueError, match=message):
            model(ids, labels=labels)
    assert model.config.problem_type == kind


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_has_one_class_id(family):
    right = torch.tensor([0, 4, -100])
    wrongs = (
        right[:2],
        right[:, None],
        right[None],
        right.float(),
        right > 0,
        right.int(),
        right.tolist(),
        torch.tensor([0, 5, 1]),
        torch.tensor([0, -1, 1]),
    )
    model = build(family, "sequence", num_labels=5)
    check(model, (), wrongs)
    assert model.config.problem_type is None
    check(model, (right,), wrongs)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_have_numbers_or_several_labels_at_once_where_the_problem_says_so(family):
    several, numbers = torch.tensor([[0.0, 1.0, 0.5]] * 3), torch.tensor([0.3, -7.0, 2.0])
    wrongs = (several.T[:2], several.flatten(), several.long(), several > 0, several + 1, numbers)
    check(build(family, "sequence", num_labels=3), (several,), wrongs)
    wrongs = (numbers[:2], numbers.long(), numbers[None], numbers > 0, numbers.tolist())
    check(build(family, "sequence", num_labels=1), (numbers, numbers[:, None]), wrongs)
    wide = torch.rand(3, 2)
    model = build(family, "sequence", num_labels=2, problem_type="regression")
    check(model, (wide,), (wide.T, wide[:, 0], wide.long()))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_has_one_class_id(family):
    right = torch.randint(0, 5, (3, 7))
    wrongs = (right.T, right.flatten(), right[:1], right[:, :6], right.float(), right + 5, right - 9, right > 0)
    check(build(family, "token", num_labels=5), (right, right.masked_fill(right == 2, -100)), wrongs)


@pytest.mark.parametrize("family", ANSWERING)
def test_both_ends_of_an_answer_lie_in_the_row(family):
    model, ids, right = build(family, "answer"), torch.randint(1, 59, (3, 7)), torch.tensor([0, 6, 7])
    for given in (right, right[:, None]):
        assert model(ids, start_positions=given, end_positions=given).loss.isfinite()
    for name, other in (("start_positions", "end_positions"), ("end_positions", "start_positions")):
        for wrong in (right[:2], right[None], right.float(), right + 1, right - 1, right.tolist(), right.repeat(7)):
            with pytest.raises(ValueError, match=f"`{name}` is"):
                model(ids, **{name: wrong, other: right})
        with pytest.raises(ValueError, match=f"`{name}` was passed without `{other}`"):
            model(ids, **{name: right})


LESSONS = {  # kinds of targets for rows or tokens `(B, T)` with three labels, some of which are not scored
    "classes": lambda ids: torch.arange(len(ids)).remainder(3).masked_fill(torch.arange(len(ids)) % 4 == 1, -100),
    "several labels": lambda ids: torch.rand(len(ids), 3).round(),
    "numbers": lambda ids: torch.randn(len(ids), 3),
    "tokens": lambda ids: (ids % 3).masked_fill(torch.arange(ids.shape[1]) < torch.arange(len(ids))[:, None], -100),
}


def draw_lesson(family: str, kind: str, num_rows: int = 8) -> tuple[torch.nn.Module, dict]:
    """A model in training and a batch with labels of a kind."""
    changes = {"problem_type": "regression"} if kind == "numbers" else {}
    model = build(family, "token" if kind == "tokens" else "sequence", num_labels=3, **changes).train()
    inputs = BUILDS[family][1].ask(num_rows, 11)
    return model, {**inputs, "labels": LESSONS[kind](inputs["input_ids"])}


@pytest.mark.parametrize("kind", LESSONS)
@pytest.mark.parametrize("family", ["generic", "thinker", "token-bytes"])
def test_promise_6_parts_of_a_batch_add_up_to_its_loss_and_gradients(family, kind):
    model, lesson = draw_lesson(family, kind)
    expected = model(**lesson).loss
    expected.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    num_items, total = (lesson["labels"] != -100).sum(), 0
    for rows in (slice(0, 2), slice(2, 3), slice(3, 8)):
        part = {name: value[rows] for name, value in lesson.items()}
        loss = model(**part, num_items_in_batch=num_items).loss
        loss.backward()
        total += loss.detach()
    torch.testing.assert_close(total, expected.detach(), atol=1e-6, rtol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind"), [("generic", "classes"), ("thinker", "several labels"), ("bytes", "tokens")]
)
def test_promise_6_accumulated_steps_equal_one_big_batch(family, kind, tmp_path):
    """transformers' own heads take steps as many times as long as there are accumulated batches."""
    models = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        model, lesson = draw_lesson(family, kind)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            learning_rate=0.1,
            optim="sgd",
            train_sampling_strategy="sequential",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        rows = Dataset.from_dict({name: value.tolist() for name, value in lesson.items()})
        Trainer(model, arguments, default_data_collator, train_dataset=rows).train()
        models.append(model.state_dict())
    assert not torch.equal(models[0]["score.weight"], draw_lesson(family, kind)[0].score.weight), "it was trained"
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("head", ["sequence", "token"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", CAUSAL)
def test_promise_5_a_padded_row_is_classified_as_alone(family, side, head):
    entry, model = BUILDS[family][1], build(family, head, num_labels=3).eval()
    rows = [entry.draw(length) for length in (13, 5, 9)]
    batch = entry.pad(rows, side)
    with torch.no_grad():
        logits = model(**batch).logits
        for row, ids in enumerate(rows):
            alone = model(input_ids=ids[None], **getattr(entry, "measure", lambda rows: {})([ids.tolist()])).logits[0]
            found = logits[row] if head == "sequence" else logits[row][batch["attention_mask"][row].bool()]
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", ["sequence", "token"])
@pytest.mark.parametrize("family", CAUSAL)
def test_logits_are_the_score_of_the_states_of_the_base_model(family, head):
    """With the arguments of the base model; `last_hidden_state` has a row for each token, or byte."""
    model, inputs = build(family, head, num_labels=3).eval(), BUILDS[family][1].ask(2, 11)
    options = {"thinker": {"num_steps": 7}, "thinker-exit": {"exit_threshold": 0.6}}.get(family, {})
    with torch.no_grad():
        logits = model(**inputs, **options).logits
        expected = model.score(model.model(**inputs, **options).last_hidden_state)
        torch.testing.assert_close(logits, expected[:, -1] if head == "sequence" else expected, atol=1e-5, rtol=1e-5)
        if options:
            assert (model(**inputs).logits - logits).abs().max() > 1e-4, "the argument acts"


def test_an_exit_saves_steps_in_evaluation_alone():
    model, inputs = build("thinker-exit", "sequence", num_labels=3), THINKER.ask(2, 11)
    with torch.no_grad():
        trained, evaluated = model.train()(**inputs).logits, model.eval()(**inputs).logits
        assert torch.equal(trained, model(**inputs, exit_threshold=0.0).logits)
        assert not torch.allclose(trained, evaluated)
        model.config.exit_in_training = True
        assert torch.equal(model.train()(**inputs).logits, evaluated)


@pytest.mark.parametrize("kind", ["classes", "tokens"])
@pytest.mark.parametrize("family", ["threshold", "generic", "thinker", "bytes", "token-bytes"])
def test_every_parameter_has_a_gradient_which_checkpointing_does_not_change(family, kind):
    """DDP waits for all of them, so a head holds no part of a language model that it does not use."""
    model, lesson = draw_lesson(family, kind)
    model(**lesson).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    model.zero_grad()
    enable_checkpointing(model, use_reentrant=False)
    model(**lesson).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("head", ["sequence", "token"])
@pytest.mark.parametrize("family", ["thinker", "bytes"])
def test_promise_2_saving_and_loading_keeps_every_bit_and_takes_the_base_of_a_language_model(family, head, tmp_path):
    auto_class = {"sequence": AutoModelForSequenceClassification, "token": AutoModelForTokenClassification}[head]
    entry, model = BUILDS[family][1], build(family, head, num_labels=3).eval()
    model.save_pretrained(tmp_path / "head")
    inputs, loaded = entry.ask(2, 11), auto_class.from_pretrained(tmp_path / "head")
    assert type(loaded) is type(model)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    language_model = entry.build()
    language_model.save_pretrained(tmp_path / "language")
    base = auto_class.from_pretrained(tmp_path / "language", num_labels=3).model.state_dict()
    assert all(torch.equal(value, base[name]) for name, value in language_model.model.state_dict().items())


@pytest.mark.parametrize(
    ("family", "head", "name"),
    [
        *(("threshold", head, "output_forks") for head in HEADS),
        *(("thinker", head, "output_steps") for head in ("sequence", "token")),
    ],
)
def test_outputs_of_the_base_model_that_a_head_has_no_field_for_are_refused(family, head, name):
    with pytest.raises(ValueError, match=f"`{name}=True` was passed, but the output of this head"):
        build(family, head)(BUILDS[family][1].draw(2, 7), **{name: True})


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_the_parallel_decoder_is_refused(head):
    """Its state of a byte does not depend on the byte, unless the byte ends a patch."""
    with pytest.raises(ValueError, match='`decoder="parallel"` was passed'):
        build("bytes", head, decoder="parallel", num_draft_bytes=0)


def test_a_tuple_begins_with_the_loss():
    model, lesson = draw_lesson("generic", "classes")
    assert torch.equal(model(**lesson, return_dict=False)[0], model(**lesson).loss)


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
@pytest.mark.slow
def test_the_documented_classifier_learns_its_texts(tmp_path):
    """The code of docs/training.md."""
    (code,) = re.findall(r"```python\n(from datasets .*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    THINKER.build(vocab_size=259, pad_token_id=258, max_position_embeddings=151).save_pretrained(tmp_path)
    build_byte_tokenizer().save_pretrained(tmp_path)
    shown = {}
    exec(code.replace("FOLDER", str(tmp_path)).replace("OUTPUT", str(tmp_path / "output")), shown)
    assert shown["labels"] == ["LABEL_1", "LABEL_0"]
