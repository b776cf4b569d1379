# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Linear layers as quantisers expect them: of class `nn.Linear` itself, with names of those that stay in float."""

import pytest
from torch import nn
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from hf_thoughtbubbles.modeling.thoughtbubbles.modeling_thoughtbubbles import ThoughtbubblesPreTrainedModel
from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS


MODELS = [*FAMILIES, *ANSWERERS, *BYTE_VARIANTS, *THOUGHT_VARIANTS]


def list_linear(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}


@pytest.mark.parametrize("family", MODELS, ids=lambda family: family.name)
def test_no_linear_layer_is_of_a_class_of_its_own(family):
    """bitsandbytes replaces layers of the class `nn.Linear` and leaves subclasses in float without a word."""
    layers = list_linear(family.build())
    assert len(layers) > 3
    assert [name for name, layer in layers.items() if type(layer) is not nn.Linear] == []


@pytest.mark.parametrize("family", MODELS, ids=lambda family: family.name)
@pytest.mark.parametrize("passed", [None, ["embed_tokens"]])
def test_quantisers_leave_fork_scores_and_by_default_the_head(family, passed):
    """torchao, bitsandbytes and quanto read `_keep_in_fp32_modules`, also beside names that the user passes."""
    model = family.build()
    skipped = HfQuantizer.get_modules_to_not_convert(model, passed, model._keep_in_fp32_modules)
    names = list_linear(model)
    kept = {name for name in names if not should_convert_module(name, skipped)}
    kept_weights = {name for name in names if not should_convert_module(f"{name}.weight", skipped)}  # torchao's names
    scores = {name for name in names if name.endswith("keep_proj")}
    assert kept == kept_weights == scores | (set() if passed else {"lm_head"})
    assert bool(scores) == (isinstance(model, ThoughtbubblesPreTrainedModel) and model.config.has_fork_scores)
