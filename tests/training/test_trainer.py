# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The transformers Trainer on our models."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    default_data_collator,
    pipeline,
)

from hf_thoughtbubbles import ThoughtbubblesForCausalLM, build_byte_tokenizer
from hf_thoughtbubbles.evaluation.drawings import draw_forks
from hf_thoughtbubbles.training.callbacks import ForkPlotCallback
from tests.families import ANSWERERS, FAMILIES, THOUGHT_VARIANTS, draw_ids, make_config


pytestmark = pytest.mark.slow


REPOSITORY = Path(__file__).parents[2]


def make_dataset(num_rows: int = 32, length: int = 24) -> Dataset:
    """Rows that count up from a random start: something a tiny model can learn."""
    starts = torch.randint(0, 50, (num_rows, 1), generator=torch.Generator().manual_seed(0))
    rows = (1 + (starts + torch.arange(length)) % 50).tolist()
    return Dataset.from_dict({"input_ids": rows, "labels": rows})


def make_trainer(folder: Path, model=None, callbacks=(), **changes) -> Trainer:
    arguments = {
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return Trainer(
        model=model or FAMILIES[0].build(),
        args=TrainingArguments(**{**arguments, **changes}),
        train_dataset=make_dataset(),
        eval_dataset=make_dataset(8),
        data_collator=default_data_collator,
        callbacks=list(callbacks),
    )


def get_losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_it_trains_evaluates_and_predicts(family, tmp_path):
    trainer = make_trainer(tmp_path, family.build(), max_steps=40)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.7 * before
    prediction = trainer.predict(make_dataset(5))
    assert prediction.predictions.shape == (5, 24, 61), "logits alone: forks, streams and caches are left out"
    assert prediction.metrics["test_loss"] > 0


@pytest.mark.parametrize("family", [*ANSWERERS[:2], THOUGHT_VARIANTS[0]], ids=lambda family: family.name)
def test_models_that_answer_are_evaluated_predict_logits_and_keep_the_best(family, tmp_path):
    rows = Dataset.from_dict({"input_ids": draw_ids(4, 9).tolist(), "labels": draw_ids(4, 6).tolist()})
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="quality",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    shapes = []

    def measure(prediction):
        shapes.append(prediction.predictions.shape)
        return {"quality": -float(len(shapes))}  # falls, so that the first is the best

    trainer = Trainer(
        model=family.build(),
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=default_data_collator,
        compute_metrics=measure,
    )
    trainer.train()
    assert [entry["eval_loss"] > 0 for entry in trainer.state.log_history if "eval_loss" in entry] == [True] * 3
    assert shapes == [(4, 6, 61)] * 3
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    best = type(trainer.model).from_pretrained(tmp_path / "checkpoint-1").state_dict()
    assert all(torch.equal(value, best[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.predict(rows).predictions.shape == (4, 6, 61)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_resuming_ends_with_identical_weights(family, tmp_path):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2}
    whole = make_trainer(tmp_path / "whole", family.build(), **options)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", family.build(seed=5), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    expected = whole.model.state_dict()  # with the thresholds that forks track
    for name, parameter in resumed.model.state_dict().items():
        assert torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_promise_6_accumulated_steps_equal_one_big_batch(family, tmp_path):
    models = []
    for name, (batch, accumulation) in {"big": (8, 1), "accumulated": (2, 4)}.items():
        trainer = make_trainer(
            tmp_path / name,
            family.build(),
            max_steps=3,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
        )
        # Unequal numbers of targets, so that a mean of means would show.
        labels = [[-100] * (i % 7) + row["labels"][i % 7 :] for i, row in enumerate(trainer.train_dataset)]
        trainer.train_dataset = trainer.train_dataset.remove_columns("labels").add_column("labels", labels)
        trainer.train()
        models.append(trainer.model.state_dict())  # with the thresholds that forks track
    for name, parameter in models[0].items():
        torch.testing.assert_close(models[1][name], parameter, atol=1e-6, rtol=1e-4)


def test_bf16_and_gradient_checkpointing_train(tmp_path):
    fields = TrainingArguments.__dataclass_fields__  # renamed within the versions of transformers that we support
    name = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    trainer = make_trainer(tmp_path, max_steps=40, bf16=True, **{name: True})
    trainer.train()
    losses = get_losses(trainer)
    assert losses[-1] < 0.7 * losses[0]


def test_the_best_model_comes_back_at_the_end(tmp_path):
    trainer = make_trainer(
        tmp_path,
        max_steps=4,
        learning_rate=3.0,  # so high that training only makes it worse
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
    )
    trainer.train()
    best = min(entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best, rel=1e-6)
    assert trainer.state.best_metric == pytest.approx(best, rel=1e-6)


def test_checkpoints_carry_their_code(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    names = {path.name for path in (tmp_path / "checkpoint-1").iterdir()}
    assert {"modeling_thoughtbubbles.py", "configuration_thoughtbubbles.py", "model.safetensors"} <= names


def test_label_smoothing_trains_on_shifted_labels(tmp_path):
    model, smoothing = FAMILIES[0].build(), 0.1
    trainer = make_trainer(tmp_path, model, label_smoothing_factor=smoothing)
    batch = default_data_collator(list(make_dataset(4)))
    log_probs = model(batch["input_ids"]).logits[:, :-1].log_softmax(-1).flatten(0, 1)
    targets = batch["labels"][:, 1:].flatten()
    expected = (1 - smoothing) * F.nll_loss(log_probs, targets) - smoothing * log_probs.mean()
    torch.testing.assert_close(trainer.compute_loss(model, dict(batch)), expected)


def test_transformers_own_collator_pads_and_masks(tmp_path):
    tokenizer = build_byte_tokenizer()
    texts = ["a long enough line of text", "short", "", "middling line"]
    rows = Dataset.from_list([{"input_ids": tokenizer(text + "\n").input_ids} for text in texts])
    trainer = make_trainer(tmp_path, ThoughtbubblesForCausalLM(make_config(vocab_size=259)), max_steps=3)
    trainer.train_dataset = rows
    trainer.data_collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer.train()
    assert all(loss == loss and loss < 10 for loss in get_losses(trainer))


def test_the_training_data_is_never_a_mask(tmp_path):
    batch = default_data_collator(list(make_dataset(4)))
    assert set(batch) == {"input_ids", "labels"}


def test_lora_trains_saves_loads_and_merges(tmp_path):
    base = FAMILIES[0].build()
    base.save_pretrained(tmp_path / "base")
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), lora)
    trainer = make_trainer(tmp_path, model, max_steps=10)
    trainer.train()
    assert get_losses(trainer)[-1] < get_losses(trainer)[0]
    model.save_pretrained(tmp_path / "adapter")
    input_ids = torch.arange(1, 14)[None]
    expected = model.eval()(input_ids=input_ids).logits
    reloaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(reloaded.eval()(input_ids=input_ids).logits, expected)
    torch.testing.assert_close(reloaded.merge_and_unload()(input_ids).logits, expected, atol=1e-5, rtol=1e-4)


def test_a_picture_is_written_at_every_evaluation_and_at_the_end(tmp_path):
    model, tokenizer = ThoughtbubblesForCausalLM(make_config(vocab_size=259)), build_byte_tokenizer()
    callback = ForkPlotCallback(tokenizer, "näive text", tmp_path / "forks")
    make_trainer(tmp_path, model, [callback], max_steps=3, eval_strategy="steps", eval_steps=2).train()
    assert sorted(path.name for path in (tmp_path / "forks").iterdir()) == [
        "forks-step-000002.png",
        "forks-step-000003.png",
    ]


def test_what_cannot_be_drawn_is_refused(tmp_path):
    tokenizer = build_byte_tokenizer()
    callback = ForkPlotCallback(tokenizer, "x" * 38, tmp_path)
    with pytest.raises(ValueError, match="`text` has 38 tokens; it must have between 1 and"):
        make_trainer(tmp_path, FAMILIES[0].build(vocab_size=259, position_embedding="learned"), [callback]).train()
    with pytest.raises(ValueError, match="without fork layers"):
        draw_forks(FAMILIES[2].build(vocab_size=259), tokenizer, "a")
    with pytest.raises(ValueError, match="`text` has no tokens"):
        draw_forks(FAMILIES[0].build(vocab_size=259), tokenizer, "")


def test_the_text_generation_pipeline_works(tmp_path):
    tokenizer = build_byte_tokenizer(model_max_length=37)
    ThoughtbubblesForCausalLM(
        make_config(vocab_size=259, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    generator = pipeline("text-generation", model=str(tmp_path), device="cpu")
    outputs = generator(["some text", "more"], max_new_tokens=5, do_sample=False, batch_size=2)
    assert [output[0]["generated_text"][:4] for output in outputs] == ["some", "more"]
    assert all(len(output[0]["generated_text"]) > 4 for output in outputs)
