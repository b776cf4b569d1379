# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""On which models do transformers' common tests run?

One entry of `VARIANTS` is one configuration, tested with every class that the package registers for it.
"""

from dataclasses import dataclass, field

from transformers import PreTrainedConfig, PreTrainedModel

import hf_thoughtbubbles
from hf_thoughtbubbles import ThoughtbubblesConfig


# Two layers, as the common tests demand. They set sizes of their own in places, so heads divide 32 and 64.
SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}

NOT_SHIPPED = (
    "asks for the generation tests to be inherited, which the source distribution of transformers does not ship; "
    "our contract tests cover generation"
)


TOO_LONG = (
    "reads half as many tokens again as `max_position_embeddings`, which our models refuse by design; "
    "tests/modeling covers rotary scaling within it"
)

NO_DYNAMIC = (
    'asks for `rope_type="dynamic"`, which acts only on such longer inputs, so our configurations refuse it; '
    "tests/modeling covers the scalings they take"
)

CANNOT_HOLD = {
    "test_generation_tester_mixin_inheritance": NOT_SHIPPED,
    "test_model_rope_scaling_from_config_0_linear": TOO_LONG,
    "test_model_rope_scaling_from_config_1_dynamic": TOO_LONG,
    "test_model_rope_scaling_from_config_2_yarn": TOO_LONG,
    "test_model_rope_scaling_frequencies": NO_DYNAMIC,
}


@dataclass(frozen=True)
class Variant:
    """
    One model under test.

    Args:
        config_class (`type`): its configuration class.
        config_kwargs (`dict`): what the configuration is made of.
        cannot_hold (`dict[str, str]`): tests that cannot hold for it by design, each with the reason.
    """

    config_class: type[PreTrainedConfig]
    config_kwargs: dict
    cannot_hold: dict[str, str] = field(default_factory=dict)

    @property
    def model_classes(self) -> tuple[type[PreTrainedModel], ...]:
        """The base model, then those with a head."""
        models = [
            public
            for public in public_classes(PreTrainedModel)
            if public.config_class is self.config_class and not public.__name__.endswith("PreTrainedModel")
        ]
        return tuple(sorted(models, key=lambda model: "For" in model.__name__))


def public_classes(base: type) -> list[type]:
    """The classes below `base` that the package exports."""
    exported = [getattr(hf_thoughtbubbles, name) for name in hf_thoughtbubbles.__all__]
    return [public for public in exported if isinstance(public, type) and issubclass(public, base)]


VARIANTS = {
    "ThoughtbubblesForking": Variant(
        config_class=ThoughtbubblesConfig,
        config_kwargs={**SMALL, "fork_layers": [1], "fork_budget": 1.5, "fork_policy": "topk"},
        cannot_hold=CANNOT_HOLD,
    ),
    "ThoughtbubblesCausalForking": Variant(
        config_class=ThoughtbubblesConfig,
        config_kwargs={**SMALL, "fork_layers": [1], "fork_budget": 1.5, "fork_policy": "threshold"},
        cannot_hold=CANNOT_HOLD,
    ),
    "ThoughtbubblesPlain": Variant(
        config_class=ThoughtbubblesConfig,
        config_kwargs={**SMALL, "fork_layers": []},
        cannot_hold=CANNOT_HOLD,
    ),
}
