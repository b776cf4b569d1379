# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A schedule raises or draws budgets and steps while a model trains, and refuses what would go wrong in silence."""

import re
from types import SimpleNamespace

import pytest
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback, TrainerControl, TrainerState
from trl import DPOConfig, GRPOConfig

from hf_thoughtbubbles import GenericTransformerConfig, GenericTransformerForCausalLM
from hf_thoughtbubbles.training.callbacks import ForkLogCallback
from hf_thoughtbubbles.training.thinking_schedule import ThinkingSchedule
from tests.families import VOCAB_SIZE
from tests.training.lessons import FAMILY_BY_NAME, Lesson


MODELS = {"threshold": ("fork_budget", [1.0, 1.5, 2.0]), "thinker": ("num_steps", [1, 2, 4])}


class Record(TrainerCallback):
    """Records a field of the configuration in each step."""

    def __init__(self, name: str):
        self.name, self.values = name, []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
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
    names = sorted(name for name in trainer.state.log_history[0] if name.startswith("streams_per_token_"))
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
    [
        (([],), "`values` is empty"),
        (([1], 0), "`share` is 0"),
        (([1], 1.5), "`share` is 1.5"),
        (([(3, 2)],), "`values` has (3, 2)"),
        (([(1, 2, 3)],), "`values` has (1, 2, 3)"),
    ],
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


# Drawn numbers


def test_draws_depend_on_seed_and_step_alone():
    drawn = [ThinkingSchedule([(2, 5)], seed=3).choose(step, 100) for step in range(100)]
    assert set(drawn) == {2, 3, 4, 5}
    assert [ThinkingSchedule([(2, 5)], seed=3).choose(step, 700) for step in reversed(range(100))] == drawn[::-1]
    assert [ThinkingSchedule([(2, 5)], seed=4).choose(step, 100) for step in range(100)] != drawn
    budgets = {ThinkingSchedule([(1.0, 1.5)]).choose(step, 100) for step in range(100)}
    assert len(budgets) == 100 and 1 <= min(budgets) < 1.05 and 1.45 < max(budgets) <= 1.5


def test_numbers_and_pairs_may_follow_each_other():
    schedule = ThinkingSchedule([1, (2, 3), (7, 8)], share=1.0)
    drawn = [schedule.choose(step, 20) for step in range(21)]
    assert drawn[:10] == [1] * 10 and set(drawn[10:20]) == {2, 3} and drawn[20] in (7, 8)


class RecordEvaluation(Record):
    """Records the field after an evaluation."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Record nothing in a step."""

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.values.append(getattr(model.config, self.name))


@pytest.mark.parametrize(("own", "pair", "rest"), [(2, (1, 4), 2), (9, (1, 4), 4)])
def test_models_are_evaluated_and_saved_with_their_own_number_or_the_nearest_drawn_one(own, pair, rest, tmp_path):
    lesson, record, evaluated = build_lesson("thinker"), Record("num_steps"), RecordEvaluation("num_steps")
    model, eval_dataset = lesson.build(), lesson.make_dataset().select(range(2))
    model.config.num_steps = own
    options = {"eval_strategy": "steps", "eval_steps": 2, "callbacks": [ThinkingSchedule([pair]), record, evaluated]}
    options |= {"eval_dataset": eval_dataset, "max_steps": 6, "learning_rate": 1e-3}
    trainer = lesson.make_trainer(tmp_path, model, 2, **options)
    trainer.train()
    drawn = [ThinkingSchedule([pair]).choose(step, 6) for step in range(6)]
    assert record.values == drawn and len(set(drawn)) > 1
    assert [entry["num_steps"] for entry in trainer.state.log_history if "loss" in entry] == drawn
    assert evaluated.values == [rest] * 3 and model.config.num_steps == rest


def test_a_resumed_training_draws_what_an_uninterrupted_one_draws(tmp_path):
    lesson, records = build_lesson("thinker"), [Record("num_steps"), Record("num_steps")]
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3}
    for record, resumed in zip(records, (None, str(tmp_path / "checkpoint-3")), strict=True):
        callbacks = [ThinkingSchedule([(1, 5)]), record]
        trainer = lesson.make_trainer(tmp_path, lesson.build(), 2, callbacks=callbacks, **options)
        trainer.train(resume_from_checkpoint=resumed)
    assert records[0].values[3:] == records[1].values and len(set(records[0].values)) > 2


# Trainers of TRL that compare log-probabilities


def begin(schedule: ThinkingSchedule, args, model, step: int = 0):
    """Begin a training, without a trainer."""
    schedule.on_train_begin(args, TrainerState(global_step=step), TrainerControl(), model=model)


def make_grpo_args(tmp_path, **options) -> GRPOConfig:
    sizes = {"per_device_train_batch_size": 2, "num_generations": 2, **options}
    return GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, activation_checkpointing=False, report_to=[], **sizes)


@pytest.mark.parametrize(
    ("options", "first", "held"),
    [
        ({}, 0, 1),
        ({"num_iterations": 3}, 0, 3),
        ({"steps_per_generation": 4, "gradient_accumulation_steps": 2}, 0, 2),
        ({"steps_per_generation": 1, "gradient_accumulation_steps": 2}, 0, 1),
        ({"num_iterations": 3}, 4, 3),
    ],
)
def test_a_number_is_held_for_all_steps_on_one_generated_batch(options, first, held, tmp_path):
    schedule = ThinkingSchedule([(1, 1000)])
    begin(schedule, make_grpo_args(tmp_path, **options), build_lesson("thinker").build(), first)
    drawn = [schedule.choose(step, 100) for step in range(first, first + 12)]
    assert drawn == [drawn[i - i % held] for i in range(12)] and len(set(drawn)) == 12 // held


def test_values_that_rise_are_held_as_well(tmp_path):
    schedule = ThinkingSchedule([1, 2], share=1.0)
    begin(schedule, make_grpo_args(tmp_path, num_iterations=4), build_lesson("thinker").build())
    assert [schedule.choose(step, 6) for step in range(9)] == [1] * 8 + [2]


def make_dpo_args(tmp_path, **options) -> DPOConfig:
    return DPOConfig(str(tmp_path), use_cpu=True, bf16=False, activation_checkpointing=False, report_to=[], **options)


@pytest.mark.parametrize(
    ("make_args", "options", "message"),
    [
        (make_dpo_args, {}, "add_callback(ThinkingSchedule(values, reference=trainer.ref_model))"),
        (make_grpo_args, {"beta": 0.1}, "add_callback(ThinkingSchedule(values, reference=trainer.ref_model))"),
        (make_dpo_args, {"precompute_ref_log_probs": True}, "Remove `precompute_ref_log_probs`"),
        (make_grpo_args, {"generation_kwargs": {"num_steps": 3}}, "`num_steps=3` is set in the generation"),
        (
            make_grpo_args,
            {"steps_per_generation": 3, "gradient_accumulation_steps": 2},
            "`steps_per_generation * num_iterations` is 3 and `gradient_accumulation_steps` is 2",
        ),
    ],
)
def test_trainers_that_would_compare_different_numbers_are_refused(make_args, options, message, tmp_path):
    model = build_lesson("thinker").build()
    with pytest.raises(ValueError, match=re.escape(message)):
        begin(ThinkingSchedule([(1, 3)]), make_args(tmp_path, **options), model)


def test_a_number_of_its_own_in_the_generation_configuration_is_refused(tmp_path):
    model = build_lesson("thinker").build()
    model.generation_config.num_steps = 5
    with pytest.raises(ValueError, match="`num_steps=5` is set in the generation configuration"):
        begin(ThinkingSchedule([(1, 3)]), make_grpo_args(tmp_path), model)
    begin(ThinkingSchedule([(1, 3)]), SimpleNamespace(), model)  # a trainer that generates nothing


def test_a_reference_of_another_family_is_refused(tmp_path):
    thinker, forking = (build_lesson(name).build() for name in ("thinker", "threshold"))
    with pytest.raises(ValueError, match="has no `num_steps`"):
        begin(ThinkingSchedule([(1, 3)], reference=forking), make_dpo_args(tmp_path), thinker)


def test_budgets_are_drawn_only_where_training_tracks_no_threshold(tmp_path):
    model = build_lesson("threshold").build()
    with pytest.raises(ValueError, match=r"`ThinkingSchedule\(\[\(1.0, 1.5\)\]\)` draws budgets, but"):
        begin(ThinkingSchedule([(1.0, 1.5)]), SimpleNamespace(), model)
    model.config.fork_tracking = False
    begin(ThinkingSchedule([(1.0, 1.5)]), SimpleNamespace(), model)
