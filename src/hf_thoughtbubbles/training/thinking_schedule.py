# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A callback that raises or draws the fork budget or the number of steps of a model while it trains."""

import itertools
import random
from collections.abc import Sequence

from transformers import PreTrainedConfig, PreTrainedModel

from ..configuration.fork_rules import get_fork_rule
from .log_entries import LogEntriesCallback


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


def has_tracked_thresholds(config: PreTrainedConfig) -> bool:
    """Whether a forking model finds the threshold of its budget while it trains."""
    return config.fork_tracking and get_fork_rule(config.fork_rule).has_thresholds


def count_held_steps(args) -> int:
    """
    The number of optimizer steps that train on one batch of generated text (GRPO, RLOO); 1 for other trainers.

    Raises:
        `ValueError`: when text is generated in the middle of an optimizer step, where no callback is called.
    """
    if not hasattr(args, "steps_per_generation"):
        return 1
    accumulated = args.gradient_accumulation_steps
    num_batches = args.steps_per_generation * args.num_iterations
    if num_batches % accumulated and accumulated % num_batches:
        raise ValueError(
            f"`steps_per_generation * num_iterations` is {num_batches} and `gradient_accumulation_steps` is "
            f"{accumulated}, so text is generated in the middle of an optimizer step, where `ThinkingSchedule` cannot "
            "change the number. One of the two must be a multiple of the other."
        )
    return max(num_batches // accumulated, 1)


def check_trainer(name: str, values: Sequence, args, model: PreTrainedModel, reference):
    """Raise where the log-probabilities that a trainer of TRL compares would be read with different numbers."""
    own = getattr(model.config, name)
    if getattr(args, "precompute_ref_log_probs", False) and any(value != own for value in values):
        raise ValueError(
            f"`precompute_ref_log_probs=True` was passed with `ThinkingSchedule({list(values)})`. The reference was "
            f"read with `{name}={own}` alone. Remove `precompute_ref_log_probs`."
        )
    is_compared = hasattr(args, "precompute_ref_log_probs") and not args.precompute_ref_log_probs
    is_generating = hasattr(args, "num_generations")
    has_reference = is_compared or (is_generating and args.beta != 0)
    if has_reference and reference is None and not hasattr(model, "peft_config"):
        raise ValueError(
            f"`ThinkingSchedule` was passed to a trainer with a reference model, whose `{name}` it does not know. Add "
            "it after the trainer is built: `trainer.add_callback(ThinkingSchedule(values, "
            "reference=trainer.ref_model))`."
        )
    if reference is not None and find_setting(reference.config) != name:
        raise ValueError(
            f"`reference` is a `{reference.config.model_type}`, whose configuration has no `{name}`. Pass a reference "
            "of the family of the model."
        )
    asked = {**(getattr(args, "generation_kwargs", None) or {})}
    fixed = asked.get(name, getattr(model.generation_config, name, None)) if is_generating else None
    if fixed is not None:
        raise ValueError(
            f"`{name}={fixed}` is set in the generation configuration, so text would be generated with it and trained "
            "with the numbers of `ThinkingSchedule`. Set it to `None`, or remove it from `generation_kwargs`."
        )


class ThinkingSchedule(LogEntriesCallback):
    """
    Raises or draws `config.fork_budget` of a forking model, or `config.num_steps` of a looped one, while it trains.

    A model that was made from a pretrained one starts as that model, at a budget of 1 or a single step. It learns more
    easily to use more streams or steps when their number rises (McLeish et al. 2025, arXiv 2511.07384). A looped model
    that was trained with drawn numbers of steps keeps working with all of them while their number is still drawn
    (Geiping et al. 2025, arXiv 2502.05171): pass a pair, `ThinkingSchedule([(2, 8)])`.

    The number depends on the step and `seed` alone. So all processes have the same one, and a training that is resumed
    continues with the right one. In GRPO and RLOO of TRL all steps on one batch of generated text have the number that
    generated it. A policy without its adapter has the same configuration; a separate reference model is passed as
    `reference`, after the trainer is built:

    ```python
    trainer.add_callback(ThinkingSchedule([(2, 8)], reference=trainer.ref_model))
    ```

    The model is saved with the last value. Where that is a pair, it is saved and evaluated with the number that it had
    before, or the nearest one in the pair.

    Every entry of the training log gets the number, under the name of the field.

    Args:
        values (`Sequence` of `float`, `int` or pairs): budgets (streams per token) or numbers of steps, in the order
            in which they are used. From a pair (least, most) a number is drawn for each optimizer step: a whole one,
            both ends included, if both are whole.
        share (`float`, defaults to 0.5): share of the training, above 0 and at most 1, after which the last value
            is used. The values before it get equal parts of this share.
        seed (`int`, defaults to 0): seed of the draws.
        reference (`PreTrainedModel`, *optional*): a model that gets the same numbers.

    Raises:
        `ValueError`: for no values, or a share out of range; and when training begins, for a model without such a
            field, a value that the field does not allow, and a trainer that would compare log-probabilities of
            different numbers. Budgets can be drawn where thresholds are not tracked (`config.fork_tracking=False`) but
            calibrated.

    >>> ThinkingSchedule([1, 2, 4]).choose(30, 100)
    2
    >>> [ThinkingSchedule([(1, 4)]).choose(step, 100) for step in range(6)]
    [3, 2, 2, 1, 4, 4]
    """

    def __init__(
        self,
        values: Sequence[float | Sequence[float]],
        share: float = 0.5,
        seed: int = 0,
        reference: PreTrainedModel | None = None,
    ):
        if not values:
            raise ValueError("`values` is empty; pass at least one budget or number of steps.")
        if not 0 < share <= 1:
            raise ValueError(f"`share` is {share}; it must be above 0 and at most 1, a share of the training.")
        self.ranges = [tuple(value) if isinstance(value, (tuple, list)) else (value, value) for value in values]
        for bounds in self.ranges:
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                raise ValueError(f"`values` has {bounds}; a pair must be two numbers, the least and the most to draw.")
        self.values, self.share, self.seed, self.reference = list(values), share, seed, reference
        self.first_step, self.held_steps = 0, 1

    def _find_range(self, step: int, num_training_steps: int) -> tuple:
        """The least and the most that a step may use; equal where nothing is drawn."""
        num_rises = len(self.ranges) - 1
        part = int(num_rises * self._find_first_step(step) / (self.share * num_training_steps))
        return self.ranges[min(part, num_rises)]

    def _find_first_step(self, step: int) -> int:
        """The first step that trains on the same generated text; the step itself where nothing is generated."""
        return step - (step - self.first_step) % self.held_steps

    def choose(self, step: int, num_training_steps: int) -> float | int:
        """The number at an optimizer step, counted from 0, of a training of so many steps."""
        least, most = self._find_range(step, num_training_steps)
        generator = random.Random(f"{self.seed} {self._find_first_step(step)}")
        is_whole = isinstance(least, int) and isinstance(most, int)
        return generator.randint(least, most) if is_whole else generator.uniform(least, most)

    def _set(self, model: PreTrainedModel, number: float | int):
        """Give the number to the model and its reference."""
        for config in [model.config] if self.reference is None else [model.config, self.reference.config]:
            setattr(config, find_setting(config), number)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Check every value, and the trainer, before the first step."""
        super().on_train_begin(args, state, control, **kwargs)
        name = find_setting(model.config)
        self.own = getattr(model.config, name)
        is_drawn = any(least < most for least, most in self.ranges)
        if name == "fork_budget" and is_drawn and has_tracked_thresholds(model.config):
            raise ValueError(
                f"`ThinkingSchedule({self.values})` draws budgets, but `fork_tracking` is on, and training tracks the "
                "thresholds of one budget. Set `model.config.fork_tracking = False` and measure thresholds before: "
                "`calibrate_forks(model, batches, budgets)`."
            )
        try:
            for number in itertools.chain(*self.ranges):
                setattr(model.config, name, number)
                model.config.validate()
        finally:
            setattr(model.config, name, self.own)
        check_trainer(name, self.values, args, model, self.reference)
        self.first_step, self.held_steps = state.global_step, count_held_steps(args)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """Set the number of the step."""
        self.number = self.choose(state.global_step, state.max_steps)
        self._set(model, self.number)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Between steps, where models are evaluated and saved, set a number that was not drawn."""
        least, most = self._find_range(state.global_step - 1, state.max_steps)
        self._set(model, min(max(self.own, least), most))

    def collect_entries(self, args, state, model) -> dict[str, float]:
        """Return the number, under the name of its field."""
        return {find_setting(model.config): self.number}


__all__ = ["ThinkingSchedule"]
