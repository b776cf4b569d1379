# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Names and numbers that no configuration takes: an error for what a user passes, a warning for what a file holds."""

import json
import logging
import math

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from hf_thoughtbubbles import (
    BytePatchConfig,
    GenericTransformerConfig,
    GenericTransformerModel,
    LoopedThinkerConfig,
    LoopedThinkerTextConfig,
    NextThoughtConfig,
    ThoughtbubblesConfig,
)


REFUSED = (ValueError, StrictDataclassClassValidationError)
SIZES = {"vocab_size": 31, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
CLASSES = [
    BytePatchConfig,
    GenericTransformerConfig,
    LoopedThinkerConfig,
    LoopedThinkerTextConfig,
    NextThoughtConfig,
    ThoughtbubblesConfig,
]
OF_EACH = pytest.mark.parametrize("config_class", CLASSES, ids=[each.model_type for each in CLASSES])
ROTARY = [
    GenericTransformerConfig,
    BytePatchConfig,
    LoopedThinkerConfig,
    LoopedThinkerTextConfig,
    ThoughtbubblesConfig,
]
OF_EACH_ROTARY = pytest.mark.parametrize("config_class", ROTARY, ids=[each.model_type for each in ROTARY])
# All others rotate heads of 64 channels by default.
HEADS_OF_64 = {each: {"hidden_size": 256} for each in (LoopedThinkerConfig, LoopedThinkerTextConfig)}
FACTORS = {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
SCALINGS = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256},
    {"rope_type": "longrope", **FACTORS, "factor": 2.0, "original_max_position_embeddings": 256},
    {
        "rope_type": "llama3",
        "factor": 2.0,
        "original_max_position_embeddings": 256,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    {"rope_type": "proportional", "partial_rotary_factor": 0.25},
]


@pytest.fixture
def saved(tmp_path):
    """A folder with a saved model."""
    GenericTransformerModel(GenericTransformerConfig(**SIZES)).save_pretrained(tmp_path)
    return tmp_path


def edit(folder, **changes):
    """Write fields into the configuration of a saved model."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@OF_EACH
def test_misspelt_fields_are_refused_with_the_right_name(config_class):
    for wrong, right in (("vocab_sizes", "vocab_size"), ("hiden_size", "hidden_size"), ("pad_token", "pad_token_id")):
        message = f"`{wrong}` was passed, but {config_class.__name__} .* Did you mean `{right}`"
        with pytest.raises(ValueError, match=message):
            config_class(**{wrong: 3})
        with pytest.raises(ValueError, match=message):
            AutoConfig.for_model(config_class.model_type, **{wrong: 3})
    with pytest.raises(ValueError, match="`unheard_of` was passed"):
        config_class(unheard_of=1)
    with pytest.raises(ValueError, match="`temperature` is a setting of generation"):
        config_class(temperature=0.5)
    derived = next(name for name, value in vars(config_class).items() if isinstance(value, property))
    with pytest.raises(ValueError, match=f"`{derived}` follows from other fields"):
        config_class(**{derived: 4})


def test_misspelt_fields_are_refused_while_loading(saved):
    for load in (GenericTransformerConfig, AutoConfig, GenericTransformerModel, AutoModel):
        with pytest.raises(ValueError, match=r"`hiden_dropout` was passed, but .* Did you mean `hidden_dropout`"):
            load.from_pretrained(saved, hiden_dropout=0.5)
    with pytest.raises(ValueError, match="`unheard_of` was passed"):
        GenericTransformerConfig.from_pretrained(saved, unheard_of=1)
    with pytest.raises(TypeError, match="unheard_of"):
        AutoModel.from_pretrained(saved, unheard_of=1)
    with pytest.raises(ValueError, match=r"`rope_theta` was passed, .* entry of `rope_parameters`"):
        GenericTransformerConfig.from_pretrained(saved, rope_theta=5.0)


def test_arguments_of_loaders_and_tokenizers_are_not_taken_for_fields(saved):
    for names in ({"eos_token": "x"}, {"batch_size": 3}, {"padding_side": "left"}):
        AutoConfig.from_pretrained(saved, **names)
    options = {"attn_implementation": "eager", "output_attentions": True, "dtype": "float32", "hidden_dropout": 0.5}
    model = AutoModelForSequenceClassification.from_pretrained(
        saved, num_labels=5, problem_type="regression", **options
    )
    assert model.config.num_labels == 5 and model.config.hidden_dropout == 0.5


@OF_EACH
def test_what_transformers_sets_is_no_unknown_field(config_class):
    config = config_class(
        architectures=["X"], num_labels=3, problem_type="regression", name_or_path="x", tokenizer_class="X",
        torch_dtype="float32", attn_implementation="eager", auto_map={}, output_hidden_states=True, return_dict=True,
        tie_word_embeddings=False, _name_or_path="y",
    )  # fmt: skip
    assert config_class(**config.to_dict()).to_dict() == config.to_dict()


def test_unknown_fields_in_a_file_are_one_warning(saved, caplog):
    edit(saved, field_of_next_year=3, head_dim=4)
    with caplog.at_level(logging.WARNING):
        model = AutoModel.from_pretrained(saved)
    assert model.config.field_of_next_year == 3  # and is saved again
    assert model.config.head_dim == 4
    warnings = [record.getMessage() for record in caplog.records if "field_of_next_year" in record.getMessage()]
    assert len(warnings) == 1 and "`head_dim` follows from other fields" in warnings[0]


@OF_EACH
def test_special_token_ids_outside_the_vocabulary_are_refused(config_class):
    for wrong in (config_class().vocab_size, -1, 10**6):
        with pytest.raises(ValueError, match=f"`pad_token_id` is {wrong}, but ids are 0 to"):
            config_class(pad_token_id=wrong)
        with pytest.raises(ValueError, match=rf"`eos_token_id` is \[1, {wrong}\], but ids are 0 to"):
            config_class(eos_token_id=[1, wrong])
    with pytest.raises(ValueError, match="`eos_token_id` is an empty list"):
        config_class(eos_token_id=[])
    assert config_class(bos_token_id=0, eos_token_id=[1, 2]).eos_token_id == [1, 2]


def test_special_token_ids_are_refused_while_loading_and_warned_of_in_files(saved):
    with pytest.raises(ValueError, match="`pad_token_id` is 31"):
        AutoModel.from_pretrained(saved, pad_token_id=31)
    edit(saved, pad_token_id=31)  # as a Trainer writes it for a tokenizer with one more token
    assert AutoModel.from_pretrained(saved).config.pad_token_id == 31


@OF_EACH_ROTARY
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        *(({"rope_theta": wrong}, "rope_theta") for wrong in (0, -1.0, 0.5, math.nan, math.inf, None, "x")),
        *(({"rope_type": "linear", "factor": wrong}, "factor") for wrong in (0.0, -2.0, math.nan, None)),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "original_max_position_embeddings": 64,
                "low_freq_factor": 4.0,
                "high_freq_factor": 4.0,
            },
            "high_freq_factor",
        ),
        (
            {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0},
            "original_max_position_embeddings",
        ),
        ({"rope_type": "dynamic", "factor": 0.0}, "factor"),
        ({"rope_type": "longrope", "long_factor": [1.0] * 32}, "short_factor"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 32, "long_factor": [0.0] * 32}, "long_factor"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 7, "long_factor": [1.0] * 7}, "short_factor"),
        ({"rope_type": "longrope", **FACTORS, "original_max_position_embeddings": 1}, "original_max_position"),
        ({"rope_type": "longrope", **FACTORS, "factor": -1.0}, "factor"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_type": "proportional", "partial_rotary_factor": 0.01}, "partial_rotary_factor"),
        ({"rope_type": "proportional", "partial_rotary_factor": 1.5}, "partial_rotary_factor"),
    ],
    ids=str,
)
def test_rotary_settings_that_give_no_angles_are_refused(config_class, settings, name):
    with pytest.raises(REFUSED, match=f"`rope_parameters` have the `{name}"):
        config_class(**HEADS_OF_64.get(config_class, {}), rope_parameters={"rope_theta": 10000.0, **settings})


@OF_EACH_ROTARY
@pytest.mark.parametrize("settings", SCALINGS, ids=lambda settings: settings["rope_type"])
def test_every_rotary_scaling_of_transformers_is_taken_in_silence(config_class, settings, caplog):
    with caplog.at_level(logging.WARNING):
        sizes = {"max_position_embeddings": 512, **HEADS_OF_64.get(config_class, {})}
        config = config_class(**sizes, rope_parameters={"rope_theta": 10000.0, **settings})
    assert config_class(**config.to_dict()).rope_parameters == {"rope_theta": 10000.0, **settings}
    assert caplog.messages == []


def test_heads_of_two_channels_have_no_dynamic_scaling():
    with pytest.raises(REFUSED, match='`rope_type` "dynamic", which needs heads of 4 channels or more; heads have 2'):
        ThoughtbubblesConfig(
            hidden_size=24, num_attention_heads=12, rope_parameters={"rope_type": "dynamic", "factor": 2.0}
        )


def test_only_rotated_heads_need_an_even_size():
    assert BytePatchConfig(hidden_size=40).core_head_dim == 64
    assert GenericTransformerConfig(hidden_size=56, position_embedding="learned").head_dim == 7


@pytest.mark.parametrize(
    ("config_class", "changes"),
    [
        (GenericTransformerConfig, {"position_embedding": "none"}),
        (GenericTransformerConfig, {"position_embedding": "relative"}),
        (BytePatchConfig, {"position_embedding": "learned"}),
        (ThoughtbubblesConfig, {"position_embedding": "learned"}),
        (LoopedThinkerConfig, {"skip_self_attention": True}),
    ],
)
def test_rotary_settings_without_rotary_positions_are_refused(config_class, changes):
    settings = {"rope_type": "default", "rope_theta": 500.0}
    with pytest.raises(REFUSED, match="nothing is rotated"):
        config_class(**changes, rope_parameters=settings)
    with pytest.raises(REFUSED, match="nothing is rotated"):
        config_class(**changes, rope_theta=500.0)
    config = config_class(**changes)
    assert config_class(**changes, rope_parameters=config.rope_parameters).to_dict() == config.to_dict()


@OF_EACH
def test_scales_that_are_not_finite_are_refused(config_class):
    for wrong in (math.nan, math.inf, -1.0, 0.0):
        with pytest.raises(REFUSED, match=f"`initializer_range` is {wrong}; it must be positive and finite"):
            config_class(initializer_range=wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 255}, "`vocab_size` is 255; it must be at least 256"),
        ({"decoder": "parallel", "reconstruction_loss_weight": math.nan}, "`reconstruction_loss_weight` is nan"),
        ({"decoder": "parallel", "reconstruction_loss_weight": math.inf}, "`reconstruction_loss_weight` is inf"),
        ({"reconstruction_ignore_id": 259}, "`reconstruction_ignore_id` is 259, which no target is"),
        ({"head_bias": True}, "`head_bias` is True, but the output over bytes has no bias"),
    ],
    ids=str,
)
def test_byte_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(REFUSED, match=message):
        BytePatchConfig(**changes)


@pytest.mark.parametrize(
    "table",
    [
        {"budgets": [1.0, 2.0], "thresholds": [[math.nan], [0.0]]},
        {"budgets": [1.0, 2.0], "thresholds": [["0"], [0.0]]},
        {"budgets": [1.0, math.inf], "thresholds": [[0.0], [0.0]]},
        {"budgets": [1.0, math.nan], "thresholds": [[0.0], [0.0]]},
        {"budgets": [1.0, 2.0], "thresholds": [[0.0, 0.0], [0.0, 0.0]]},
        {"budget": [1.0], "thresholds": [[0.0]]},
    ],
    ids=str,
)
def test_calibrations_that_cannot_be_read_are_refused(table):
    with pytest.raises(REFUSED, match="`fork_calibration` has"):
        ThoughtbubblesConfig(num_hidden_layers=2, fork_layers=[1], fork_rule="threshold", fork_calibration=table)
