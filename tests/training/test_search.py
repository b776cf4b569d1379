# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The Trainer's `hyperparameter_search` with Optuna over how much a model thinks."""

import optuna
import pytest
from transformers import Trainer, TrainingArguments, default_data_collator
from transformers.trainer_utils import set_seed

from tests.training.lessons import FAMILY_BY_NAME, Lesson


VALUES = {"fork_budget": ("threshold", [1.0, 2.0]), "num_steps": ("thinker", [1, 3])}


@pytest.mark.parametrize("setting", VALUES)
def test_each_trial_trains_a_model_with_its_setting_and_the_best_is_returned(setting, tmp_path):
    name, values = VALUES[setting]
    family, built = FAMILY_BY_NAME[name], []

    def build(value):
        built.append(family.model_class(type(family.config)(**{**family.config.to_dict(), setting: value})))
        return built[-1]

    def build_for_trial(trial: optuna.Trial | None):
        return build(values[0] if trial is None else trial.suggest_categorical(setting, values))

    def make_trainer(model_init) -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=3,
            learning_rate=1e-2,
            eval_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        rows = Lesson(name, family.build).make_dataset()
        return Trainer(
            args=arguments,
            model_init=model_init,
            train_dataset=rows,
            eval_dataset=rows,
            data_collator=default_data_collator,
        )

    trainer = make_trainer(build_for_trial)
    losses = {}

    def record(metrics: dict) -> float:
        assert trainer.model is built[-1]
        losses[getattr(trainer.model.config, setting)] = metrics["eval_loss"]
        return metrics["eval_loss"]

    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {},
        compute_objective=record,
        n_trials=2,
        backend="optuna",
        sampler=optuna.samplers.GridSampler({setting: values}),
    )
    assert sorted(losses) == values and losses[values[0]] != losses[values[1]]
    value = min(losses, key=losses.__getitem__)
    assert best.hyperparameters == {setting: value} and best.objective == losses[value]

    set_seed(42)
    alone = make_trainer(lambda: build(value))
    alone.train()
    assert alone.evaluate()["eval_loss"] == best.objective
