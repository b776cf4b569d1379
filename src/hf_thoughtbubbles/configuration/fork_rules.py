# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The registry of fork rules: their names and declarations, for configuration, checks, caches and generation.

The three built-in rules are declared here, so that a configuration can be read before any model code;
`modeling/thoughtbubbles/forking.py` defines the `choose` of each.
"""

from collections.abc import Callable


class ForkRule:
    """
    A rule that chooses which candidates of a fork stay. Subclass it and register the subclass by name.

    Class attributes:
        is_causal (`bool`, defaults to `True`): the streams of a token depend on that token and earlier ones alone.
            The model then has a KV cache, and the score of a text is a likelihood.
        has_scores (`bool`, defaults to `True`): a learned score weighs every stream. Without scores, a stream becomes
            `count_candidates` equal streams.
        has_thresholds (`bool`, defaults to `False`): `choose` reads the threshold that training tracks, or that
            `calibrate_forks` measures, for the budget of the call.
        has_dead_slots (`bool`, defaults to `False`): streams that die stay in their row, as the published rule's
            positions need. Otherwise rows have no gaps, and fillers are at their end.
        has_budget_per_call (`bool`, defaults to `True`): `forward` and `generate` accept `fork_budget`.
        refused_fields (`tuple[str, ...]`): optional fields of the configuration that mean nothing under this rule.
    """

    is_causal = True
    has_scores = True
    has_thresholds = False
    has_dead_slots = False
    has_budget_per_call = True
    refused_fields: tuple[str, ...] = ()

    def choose(self, candidates, *, fork_budget, threshold, capacity):
        """
        Choose the candidates that stay.

        Args:
            candidates ([`ForkCandidates`]): log scores `(B, C)` of all candidates and the token of each.
            fork_budget (`float`): streams per token of this call.
            threshold (0-dimensional `torch.Tensor` or `float`, *optional*): the lowest log score that stays, for rules
                with `has_thresholds`; also passed in training.
            capacity (`int`, *optional*): streams of a row; `None` for as many as the fullest row needs.

        Returns:
            [`ForkChoice`], usually from `candidates.keep(mask, capacity)`.
        """
        raise NotImplementedError  # `register_fork_rule` refuses a rule that does not define it

    def count_candidates(self, config) -> int:
        """Candidates of each stream, and so the most streams that one fork makes of it."""
        return 2

    def check_config(self, config):
        """Refuse fields of the configuration that contradict this rule."""
        for name in self.refused_fields:
            if getattr(config, name) is not None:
                raise ValueError(
                    f'`{name}={getattr(config, name)}` was passed, but under `fork_rule="{config.fork_rule}"` it has '
                    "no effect. Remove it."
                )


class TopKRule(ForkRule):
    """Declaration of `"topk"`, the published rule, which compares all candidates of a row."""

    is_causal = False
    has_dead_slots = True


class ThresholdRule(ForkRule):
    """Declaration of `"threshold"`, the causal rule, which compares each candidate with the layer's threshold."""

    has_thresholds = True


class CopyRule(ForkRule):
    """Declaration of `"copy"`, the baseline of the paper, which makes equal streams and scores none."""

    has_scores = False
    has_budget_per_call = False
    refused_fields = ("fork_score_init", "fork_calibration", "fork_adapter_rank")

    def count_candidates(self, config) -> int:
        """As many copies as `fork_budget` says."""
        return int(config.fork_budget)

    def check_config(self, config):
        """Copies are whole and made once."""
        super().check_config(config)
        if len(config.fork_layers) != 1 or config.fork_budget != int(config.fork_budget):
            raise ValueError(
                f'`fork_rule="copy"` was passed with `fork_layers={list(config.fork_layers)}` and '
                f"`fork_budget={config.fork_budget}`, but copies are made before one layer, as many as a whole number "
                "says. Use `fork_layers=[0]` and a budget of 2 or more."
            )


BUILT_IN_RULES = {"topk": TopKRule, "threshold": ThresholdRule, "copy": CopyRule}
FORK_RULES: dict[str, ForkRule] = {name: rule_class() for name, rule_class in BUILT_IN_RULES.items()}


def register_fork_rule(name: str) -> Callable[[type[ForkRule]], type[ForkRule]]:
    """
    Decorator of a [`ForkRule`]: makes it known as `ThoughtbubblesConfig(fork_rule=name)`.

    Register a rule before a model that uses it is built or loaded. Registering a name again replaces its rule.

    Raises:
        `ValueError`: when the name is that of a built-in rule, or the class does not define `choose`.

    >>> from hf_thoughtbubbles import ForkRule, ThoughtbubblesConfig, register_fork_rule
    >>> @register_fork_rule("first_half")
    ... class FirstHalf(ForkRule):
    ...     def choose(self, candidates, *, capacity, **kwargs):
    ...         return candidates.keep(candidates.token_index < 8, capacity)
    >>> ThoughtbubblesConfig(fork_rule="first_half").is_cacheable
    True
    """

    def register(rule_class: type[ForkRule]) -> type[ForkRule]:
        if name in BUILT_IN_RULES and rule_class.__bases__ != (BUILT_IN_RULES[name],):
            raise ValueError(f'`register_fork_rule("{name}")` was called, but that rule is built in. Use a new name.')
        if not issubclass(rule_class, ForkRule) or rule_class.choose is ForkRule.choose:
            raise ValueError(
                f"`register_fork_rule` was applied to {rule_class.__name__}; it must be a subclass of `ForkRule` that "
                "defines `choose`."
            )
        FORK_RULES[name] = rule_class()
        return rule_class

    return register


def get_fork_rule(name: str) -> ForkRule:
    """The rule that is registered as `name`, or an error that lists the names that are."""
    if name not in FORK_RULES:
        raise ValueError(
            f"`fork_rule={name!r}` was passed, but the registered rules are {sorted(FORK_RULES)}. Use one of them, or "
            f"register yours first: put `@hf_thoughtbubbles.register_fork_rule({name!r})` above a subclass of "
            "`hf_thoughtbubbles.ForkRule`, in the process that builds or loads the model."
        )
    return FORK_RULES[name]


__all__ = ["ForkRule", "get_fork_rule", "register_fork_rule"]
