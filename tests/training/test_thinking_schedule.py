# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A schedule raises budgets and steps while a model trains, also after a checkpoint, and refuses what cannot rise."""

import re

import pytest
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback

from hf_thoughtbubbles import GenericTransformerConfig, GenericTransformerForCausalLM
from hf_thoughtbubbles.training.callbacks import ForkLogCallback
from hf_thoughtbubbles.training.thinking_schedule import ThinkingSchedule
from tests.families import VOCAB_SIZE
from tests.training.lessons import FAMILY_BY_NAME, Lesson


MODELS = {"threshold": ("fork_budget", [1.0, 1.5, 2.0]), "thinker": ("num_steps", [1, 2, 4])}


class Record(TrainerCallback):
    """Records a field of the configuration at each step."""

    def __init__(self, name: str):
        self.name, self.values = name, []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.values.append(getattr(model.config, self.name))


def build_lesson(name: str) -> Lesson:
    return Lesson(name, FAMILY_BY_NAME[name].build)


@pytest.mark.parametrize("name", MODELS)
def test_the_value_rises_in_equal_parts_and_is_saved(name, tmp_path):
    setting, values = MODELS[name]
    lesson, record = build_lesson(name), Record(setting)
    callbacks = [ThinkingSchedule(values, share=0.8), record]
    trainer = lesson.make_trainer(tmp_path, lesson.build(), 2, max_steps=5, learning_rate=1e-3, callbacks=callbacks)
    trainer.train()
    assert record.values == [values[0], values[0], values[1], values[1], values[2]]
    assert [entry[setting] for entry in trainer.state.log_history if "loss" in entry] == record.values
    trainer.save_model(str(tmp_path / "saved"))
    reloaded = type(trainer.model).from_pretrained(tmp_path / "saved")
    assert getattr(reloaded.config, setting) == values[-1]


def test_a_resumed_training_continues_with_the_value_of_its_step(tmp_path):
    lesson, record = build_lesson("thinker"), Record("num_steps")
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    lesson.make_trainer(
        tmp_path, lesson.build(), 2, callbacks=[ThinkingSchedule([1, 3], share=0.5)], **options
    ).train()
    callbacks = [ThinkingSchedule([1, 3], share=0.5), record]
    trainer = lesson.make_trainer(tmp_path, lesson.build(), 2, callbacks=callbacks, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert record.values == [3, 3]


def test_streams_follow_the_budget_that_rises(tmp_path):
    lesson = build_lesson("threshold")
    callbacks = [ThinkingSchedule([1.0, 2.0], share=0.5), ForkLogCallback()]
    trainer = lesson.make_trainer(tmp_path, lesson.build(), 8, max_steps=8, learning_rate=1e-3, callbacks=callbacks)
    trainer.train()
    names = sorted(name for name in trainer.state.log_history[0] if name.startswith("streams_layer_"))
    first, *_, last = (entry for entry in trainer.state.log_history if "loss" in entry)
    assert all(first[name] == 1 for name in names)
    assert 1.3 < last[names[-1]] < 2.3


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("threshold", [1.0, 0.5], "`fork_budget` is 0.5"),
        ("thinker", [1, 0], "`num_steps` is 0"),
        ("thinker", [1, 1.5], "num_steps"),
        ("copy", [2.0], "number of streams cannot change"),
    ],
)
def test_values_that_a_model_does_not_allow_are_refused_before_training(name, values, message, tmp_path):
    lesson = build_lesson(name)
    trainer = lesson.make_trainer(tmp_path, lesson.build(), 2, callbacks=[ThinkingSchedule(values)])
    before = trainer.model.config.to_dict()
    with pytest.raises(Exception, match=re.escape(message)):
        trainer.train()
    assert trainer.model.config.to_dict() == before


def test_a_model_that_does_not_think_is_refused(tmp_path):
    lesson = build_lesson("thinker")
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = GenericTransformerForCausalLM(GenericTransformerConfig(**sizes))
    trainer = lesson.make_trainer(tmp_path, model, 2, callbacks=[ThinkingSchedule([2])])
    with pytest.raises(ValueError, match="neither `fork_budget` nor `num_steps`"):
        trainer.train()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(([],), "`values` is empty"), (([1], 0), "`share` is 0"), (([1], 1.5), "`share` is 1.5")],
)
def test_an_empty_schedule_and_a_wrong_share_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ThinkingSchedule(*arguments)


def test_forks_that_an_adapter_trains_follow_the_schedule(tmp_path):
    lesson = build_lesson("threshold")
    model = lesson.build()
    forks = [f"forks.{layer_idx}" for layer_idx in model.config.fork_layers]
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=forks)
    options = {"max_steps": 4, "learning_rate": 1e-3, "callbacks": [ThinkingSchedule([1.0, 1.5], share=0.5)]}
    trainer = lesson.make_trainer(tmp_path, get_peft_model(model, lora), 8, **options)
    trainer.train()
    merged = trainer.model.merge_and_unload().eval()
    assert [float(fork.threshold_budget) for fork in merged.model.forks.values()] == [1.5] * len(forks)
    assert all(fork.config is merged.config for fork in merged.model.forks.values())
