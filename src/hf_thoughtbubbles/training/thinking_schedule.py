# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A callback that raises the fork budget or the number of steps of a model while it trains."""

from collections.abc import Sequence

from transformers import PreTrainedConfig, TrainerCallback

from ..configuration.fork_rules import get_fork_rule


SETTINGS = ("fork_budget", "num_steps")  # of a forking and of a looped model


def find_setting(config: PreTrainedConfig) -> str:
    """The name of the field that says how much a model thinks."""
    fields = config.to_dict()
    name = next((name for name in SETTINGS if name in fields), None)
    if name is None:
        raise ValueError(
            f"`ThinkingSchedule` was passed to a Trainer of a `{config.model_type}`, whose configuration has neither "
            "`fork_budget` nor `num_steps`. Use it with Thoughtbubbles and looped Thinkers."
        )
    if name == "fork_budget" and not (
        fields["fork_layers"] and get_fork_rule(fields["fork_rule"]).has_budget_per_call
    ):
        raise ValueError(
            f"`ThinkingSchedule` was passed to a Trainer of a model with `fork_layers={fields['fork_layers']}` and "
            f'`fork_rule="{fields["fork_rule"]}"`, whose number of streams cannot change. Use scored fork layers.'
        )
    return name


class ThinkingSchedule(TrainerCallback):
    """
    Raises `config.fork_budget` of a forking model, or `config.num_steps` of a looped one, while the model trains.

    A model that was made from a pretrained one starts as that model, at a budget of 1 or a single step. It learns more
    easily to use more streams or steps when their number rises (McLeish et al. 2025, arXiv 2511.07384). The value
    depends on the step alone, so a training that is resumed continues with the right one, and the model is saved with
    the last value. Evaluation during training uses the value of its step.

    Every entry of the training log gets the value, under the name of the field. As with [`ForkLogCallback`], trackers
    of `report_to` read the log before callbacks that are passed to a Trainer.

    Args:
        values (`Sequence[float | int]`): budgets (streams per token) or numbers of steps, in the order in which they
            are used.
        share (`float`, defaults to 0.5): share of the training, above 0 and at most 1, after which the last value
            is used. The values before it get equal parts of this share.

    Raises:
        `ValueError`: for no values, or a share out of range; and when training begins, for a model without such a
            field, or a value that the field does not allow.

    >>> ThinkingSchedule([1, 2, 4]).choose(30, 100)
    2
    """

    def __init__(self, values: Sequence[float | int], share: float = 0.5):
        if not values:
            raise ValueError("`values` is empty; pass at least one budget or number of steps.")
        if not 0 < share <= 1:
            raise ValueError(f"`share` is {share}; it must be above 0 and at most 1, a share of the training.")
        self.values, self.share = list(values), share

    def choose(self, step: int, num_training_steps: int) -> float | int:
        """The value at an optimizer step, counted from 0, of a training of so many steps."""
        num_rises = len(self.values) - 1
        part = int(num_rises * step / (self.share * num_training_steps))
        return self.values[min(part, num_rises)]

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Check every value before the first step."""
        name = find_setting(model.config)
        before = getattr(model.config, name)
        try:
            for value in self.values:
                setattr(model.config, name, value)
                model.config.validate()
        finally:
            setattr(model.config, name, before)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """Set the value of the step."""
        setattr(model.config, find_setting(model.config), self.choose(state.global_step, state.max_steps))

    def on_log(self, args, state, control, model=None, logs=None, **kwargs):
        """Add the value to an entry of the training log, which has a loss."""
        if logs is None or "loss" not in logs:
            return
        name = find_setting(model.config)
        entry = {name: getattr(model.config, name)}
        logs.update(entry)
        state.log_history[-1].update(entry)


__all__ = ["ThinkingSchedule"]
