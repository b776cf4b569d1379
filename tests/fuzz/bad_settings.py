# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Bad settings of configurations, a part of the table of bad inputs."""

import functools

from tests.fuzz.bad_rows import INF, NAN, TABLE, WRITERS, BadInput, make_config


MISSPELT = {
    "threshold": {"fork_budgets": 2.0, "fork_layer": [0], "num_layers": 2},
    "generic": {"num_kv_heads": 1, "normalization": "rms_norm", "fork_layers": [1]},
    "thinker_text": {"num_step": 3, "exit_thresholds": 0.1, "num_latents": 4},
    "thinker": {"num_latent": 3, "read_out": "parallel", "exit_threshold": 0.1},
    "byte_patch": {"core_hidden": 8, "patch_sizes": 4, "num_steps": 2},
    "next_thought": {"num_thought": 2, "pooling_size": [6], "patch_size": 3},
}
FEWER_THAN_ONE = {
    "threshold": ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    "generic": ("vocab_size", "num_key_value_heads", "max_position_embeddings", "max_relative_position"),
    "thinker_text": ("hidden_size", "num_hidden_layers", "num_steps", "num_memory_steps", "low_rank"),
    "thinker": ("num_latents", "max_latents", "num_output_steps", "num_kept_outputs", "max_answer_length"),
    "byte_patch": ("core_hidden_size", "core_num_hidden_layers", "patch_size"),
    "next_thought": (
        "num_pooling_heads",
        "num_encoder_layers",
        "num_decoder_layers",
        "num_latent_tokens",
        "num_thoughts",
    ),
}
ROPES = {
    "zero": {"rope_type": "default", "rope_theta": 0.0},
    "negative": {"rope_type": "default", "rope_theta": -1.0},
    "NaN": {"rope_type": "default", "rope_theta": NAN},
}
CHOICES = {
    "threshold": {"fork_rule": "best", "fold": "mean", "position_embedding": "relative", "hidden_act": "swish2"},
    "generic": {"position_embedding": "alibi", "feed_forward": "moe", "attention_normalization": "batch"},
    "thinker": {"readout": "beam", "position_frequencies": "double", "hidden_act": "swish2"},
    "thinker_text": {"input_injection": "gate", "feed_forward": "moe", "position_embedding": "relative"},
    "byte_patch": {"patching": "word", "decoder": "linear", "byte_layers": "dense", "is_causal": False},
    "next_thought": {"core": "attention", "position_embedding": "rope", "hidden_act": "swish"},
}
IMPOSSIBLE = [  # family, the field that is named, kind, settings
    ("threshold", "fork_layers", "too large", {"fork_layers": [5]}),
    ("threshold", "fork_layers", "negative", {"fork_layers": [-1]}),
    ("threshold", "fork_layers", "repeated", {"fork_layers": [1, 1]}),
    ("threshold", "fork_layers", "fraction", {"fork_layers": [0.5]}),
    ("threshold", "fork_budget", "half", {"fork_budget": 0.5}),
    ("threshold", "fork_budget", "NaN", {"fork_budget": NAN}),
    ("threshold", "fork_budget", "infinite", {"fork_budget": INF}),
    ("threshold", "fork_score_init", "three numbers", {"fork_score_init": (0.0, 1.0, 2.0)}),
    ("threshold", "fork_score_init", "NaN", {"fork_score_init": (NAN, 1.0)}),
    ("threshold", "fork_calibration", "NaN", {"fork_calibration": {**TABLE, "thresholds": [[NAN], [0.0]]}}),
    ("threshold", "fork_calibration", "NaN budget", {"fork_calibration": {**TABLE, "budgets": [1.0, NAN]}}),
    ("threshold", "fork_calibration", "falling budgets", {"fork_calibration": {**TABLE, "budgets": [2.0, 1.0]}}),
    ("threshold", "fork_calibration", "missing row", {"fork_calibration": {**TABLE, "thresholds": [[0.0]]}}),
    ("threshold", "fork_calibration", "two layers", {"fork_calibration": {**TABLE, "thresholds": [[0.0, 0.0]] * 2}}),
    ("copy", "fork_budget", "fraction", {"fork_budget": 2.5}),
    ("copy", "fork_layers", "two", {"fork_layers": [0, 1]}),
    ("copy", "fork_calibration", "without effect", {"fork_calibration": TABLE}),
    ("threshold", "num_attention_heads", "not a divisor", {"num_attention_heads": 3}),
    ("generic", "num_key_value_heads", "not a divisor", {"num_attention_heads": 4, "num_key_value_heads": 3}),
    ("thinker", "max_latents", "fewer than used", {"num_latents": 4}),
    ("thinker", "static_memory_size", "negative", {"static_memory_size": -1}),
    ("thinker", "num_probes", "negative", {"num_probes": -1}),
    ("thinker_text", "exit_threshold", "NaN", {"exit_threshold": NAN}),
    ("thinker_text", "exit_threshold", "negative", {"exit_threshold": -0.1}),
    ("thinker_text", "rms_norm_eps", "NaN", {"rms_norm_eps": NAN}),
    ("thinker_text", "num_read_steps", "negative", {"num_read_steps": -1}),
    ("thinker_text", "num_coda_layers", "negative", {"num_coda_layers": -1}),
    ("thinker_text", "num_key_value_heads", "not a divisor", {"num_attention_heads": 4, "num_key_value_heads": 3}),
    ("thinker_text", "num_memory_steps", "no memory", {"skip_cross_attention": True, "num_memory_steps": 1}),
    ("byte_patch", "vocab_size", "fewer than bytes", {"vocab_size": 100, "pad_token_id": None}),
    ("byte_patch", "max_patch_bytes", "shorter than a character", {"max_patch_bytes": 3}),
    ("byte_patch", "patch_size", "longer than a patch", {"patching": "fixed", "patch_size": 6}),
    (
        "byte_patch",
        "encoder_num_hidden_layers",
        "too few",
        {"byte_layers": "published", "encoder_num_hidden_layers": 1},
    ),
    ("byte_patch", "reconstruction_loss_weight", "other decoder", {"reconstruction_loss_weight": 0.5}),
    ("block_patch", "reconstruction_loss_weight", "negative", {"reconstruction_loss_weight": -0.5}),
    ("block_patch", "reconstruction_loss_weight", "NaN", {"reconstruction_loss_weight": NAN}),
    ("byte_patch", "num_draft_bytes", "negative", {"num_draft_bytes": -1}),
    ("byte_patch", "draft_loss_weight", "NaN", {"draft_loss_weight": NAN}),
    ("byte_patch", "num_key_value_heads", "without effect", {"num_key_value_heads": 1}),
    ("next_thought", "removed_shares", "one", {"removed_shares": [1.0]}),
    ("next_thought", "removed_shares", "NaN", {"removed_shares": [NAN]}),
    ("next_thought", "removed_shares", "too many", {"removed_shares": [0.1, 0.1]}),
    ("next_thought", "removed_shares", "nothing is left", {"removed_shares": [0.99]}),
    ("next_thought", "pooling_sizes", "none", {"pooling_sizes": [], "removed_shares": []}),
    ("next_thought", "core_block_sizes", "not a divisor", {"core": "block_linear", "core_block_sizes": [4]}),
    ("next_thought", "dropout", "one", {"dropout": 1.0}),
    ("next_thought", "dropout", "NaN", {"dropout": NAN}),
    ("generic", "hidden_dropout", "negative", {"hidden_dropout": -0.1}),
    ("generic", "initializer_range", "NaN", {"initializer_range": NAN}),
    (
        "generic",
        "rope_parameters",
        "linear factor 0",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 0.0}},
    ),
    (
        "generic",
        "rope_parameters",
        "linear factor NaN",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": NAN}},
    ),
]


def add_setting(rows: list, family: str, field: str, kind: str, settings: dict, is_warning_enough: bool = False):
    run = functools.partial(make_config, family, **settings)
    rows.append(BadInput(family, "config", field, kind, run, is_warning_enough=is_warning_enough))


def list_settings() -> list[BadInput]:
    rows: list[BadInput] = []
    for family, fields in MISSPELT.items():
        for field, value in fields.items():  # transformers adds fields of its own, so a warning is enough
            add_setting(rows, family, field, "unknown", {field: value}, is_warning_enough=True)
    for family, names in FEWER_THAN_ONE.items():
        for field in names:
            add_setting(rows, family, field, "zero", {field: 0})
    for family, choices in CHOICES.items():
        for field, value in choices.items():
            add_setting(rows, family, field, "not one of the choices", {field: value})
    for family in ("threshold", "generic", "thinker_text", "thinker", "byte_patch"):
        for kind, settings in ROPES.items():
            add_setting(rows, family, "rope_theta", kind, {"rope_parameters": settings})
        other = {"rope_type": "axial", "rope_theta": 1e4}
        add_setting(rows, family, "rope_type", "not one of the choices", {"rope_parameters": other})
        other = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 99, "long_factor": [1.0] * 99}
        add_setting(rows, family, "short_factor", "too long", {"rope_parameters": other})
        other = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
        add_setting(rows, family, "partial_rotary_factor", "without effect", {"rope_parameters": other})
    scaled = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    for family, position in (
        ("learned", "learned"),
        ("generic", "none"),
        ("generic", "relative"),
        ("byte_patch", "learned"),
    ):
        settings = {"position_embedding": position, "rope_parameters": scaled}
        add_setting(rows, family, "rope_parameters", f"{position} positions", settings)
    for family in ("threshold", "generic", "thinker_text", "thinker", "byte_patch", "next_thought"):
        for field in ("pad_token_id", "bos_token_id", "eos_token_id"):
            add_setting(rows, family, field, "outside the vocabulary", {field: 10**6})
        add_setting(rows, family, "pad_token_id", "negative", {"pad_token_id": -1})
        add_setting(rows, family, "eos_token_id", "one outside the vocabulary", {"eos_token_id": [1, 10**6]})
    for family in WRITERS:
        add_setting(
            rows, family, "decoder_start_token_id", "outside the vocabulary", {"decoder_start_token_id": 10**6}
        )
    for family, field, kind, settings in IMPOSSIBLE:
        add_setting(rows, family, field, kind, settings)
    return rows
