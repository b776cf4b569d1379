# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Rules by which processes share a model; tests/training/test_processes.py runs them."""

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from transformers.distributed import DistributedConfig
from transformers.distributed.parallel_utils import replace_layer_number_by_wildcard

from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS


ALL = [*FAMILIES, *ANSWERERS[::2], *BYTE_VARIANTS, *THOUGHT_VARIANTS]
IN, OUT = {"colwise", "colwise_gather_output"}, {"rowwise", "rowwise_split_input"}
# What is the same on all processes: small, or read by all heads.
WHOLE = ("forks", "adapter", "byte_encoder.projection", "byte_decoder.projection", "drafter", "probe")
WHOLE += ("encoder.pooling_layers", "core.up_proj", "core.down_proj", "core.layers", "latent_decoder")
NO_STAGES = ("copy", "gpt-learned", "thinker-loop", "plain-autoregressive", "generic", "space", "deep")  # of each kind


def find(name: str):
    """The family of this name."""
    return next(family for family in ALL if family.name == name)


@pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)
def test_every_rule_names_projections_and_every_projection_of_layers_has_one(family):
    model = family.build()
    rules = model.tp_plan
    assert rules["lm_head"] == "colwise_gather_output"
    layers = {replace_layer_number_by_wildcard(key) for key, part in model.named_modules() if type(part) is nn.Linear}
    assert rules.keys() - layers == {"model.embed_tokens"}
    unsplit = {name for name in layers - rules.keys() if not any(f"{part}." in f"{name}." for part in WHOLE)}
    low_rank = {name for name in unsplit if name.endswith(("proj.down_proj", "proj.up_proj"))}
    assert unsplit == low_rank and (not low_rank or family.config.low_rank)
    for name, style in rules.items():
        is_output = name.endswith(("o_proj", "o_proj.down_proj", "mlp.down_proj"))
        assert style in (OUT if is_output else IN | {"embedding_rowwise"}), name


def test_a_pipeline_has_the_modules_of_a_plain_gpt_and_each_is_given_what_the_last_returned():
    family = find("gpt-rope")
    model = family.build().model
    stages = list(family.config.base_model_pp_plan.items())
    assert [name for name, _ in stages] == ["embed_tokens", "layers", "norm"]
    assert all(name in dict(model.named_children()) for name, _ in stages)
    ((_, first), (_, middle), (_, last)) = stages
    assert first[1] == ["inputs_embeds"] and middle[0][0] == middle[1][0] == last[0][0] == last[1][0]


def share(family, **sizes):
    """Build the model as `from_pretrained` does for several processes."""
    config = type(family.config).from_dict(family.config.to_dict())
    config.distributed_config = DistributedConfig(**sizes)
    return family.model_class(config)


@pytest.mark.parametrize("name", NO_STAGES)
def test_only_plain_gpts_are_run_in_stages(name):
    family = find(name)
    with pytest.raises(StrictDataclassClassValidationError, match=f"`{family.config.model_type}` model is no chain"):
        share(family, pp_size=2)


@pytest.mark.parametrize(
    ("name", "tp_size", "field"),
    [
        ("thoughtbubbles", 2, "`num_attention_heads` is 3"),
        ("generic", 3, "`num_key_value_heads` is 2"),
        ("thinker-loop", 3, "`num_key_value_heads` is 1"),
        ("plain-autoregressive", 2, "`num_attention_heads` is 3"),
        ("space", 2, "`core_num_attention_heads` is 3"),
        ("fixed", 2, "`core_num_attention_heads` is 3"),
        ("sinusoidal-biased", 2, "`encoder_attention_heads` is 3"),
    ],
)
def test_heads_that_processes_do_not_divide_are_refused(name, tp_size, field):
    with pytest.raises(StrictDataclassClassValidationError, match=f"`tp_size={tp_size}` was passed, but {field}"):
        share(find(name), tp_size=tp_size)
