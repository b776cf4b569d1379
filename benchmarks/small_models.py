# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""One small model of each family, beside GPT-2, in any size, for benchmarks that compare all families."""

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GPT2Config, PreTrainedConfig, PreTrainedModel

from hf_thoughtbubbles import (
    BytePatchConfig,
    GenericTransformerConfig,
    LoopedThinkerConfig,
    LoopedThinkerTextConfig,
    NextThoughtConfig,
    ThoughtbubblesConfig,
    calibrate_forks,
)


NAMES = (
    "gpt2",
    "thoughtbubbles-topk",
    "thoughtbubbles-threshold",
    "thoughtbubbles-copy",
    "thoughtbubbles-plain",
    "generic_transformer",
    "looped_thinker",
    "looped_thinker_text",
    "looped_thinker_text-exit",
    "byte_patch-autoregressive",
    "byte_patch-parallel",
    "next_thought",
)
BUDGET = 2.0
SHARPENING = 3.0  # of random fork scores, so that no decision depends on rounding


def build_config(name: str, width: int, depth: int, vocab_size: int, positions: int, **changes) -> PreTrainedConfig:
    """
    The configuration of a model of one width and `depth` layers, or `depth` steps of one layer.

    Args:
        name (`str`): one of `NAMES`: a family and, after a hyphen, its variant.
        changes: fields of the configuration that differ.
    """
    family, _, variant = name.partition("-")
    heads = max(4, width // 64)
    sizes = {"vocab_size": vocab_size, "hidden_size": width, "max_position_embeddings": positions}
    sizes |= {"num_attention_heads": heads, "pad_token_id": 0, "initializer_range": 0.1}
    layers = {"num_hidden_layers": depth}
    if family == "gpt2":
        dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        usual, config_class = {**layers, **dropouts, "bos_token_id": None, "eos_token_id": None}, GPT2Config
    elif family == "thoughtbubbles":
        forks = {"plain": [], "copy": [depth // 3]}.get(variant, [depth // 3, 2 * depth // 3])
        rule = {"fork_rule": variant, "fork_budget": BUDGET} if forks else {}
        usual, config_class = {**layers, "fork_layers": forks, **rule}, ThoughtbubblesConfig
    elif family == "generic_transformer":
        usual, config_class = layers, GenericTransformerConfig
    elif family == "looped_thinker":
        usual, config_class = {"num_steps": depth, "num_latents": 8, "initializer_range": 0.2}, LoopedThinkerConfig
    elif family == "looped_thinker_text":
        usual, config_class = {"num_steps": depth, "initializer_range": 0.2}, LoopedThinkerTextConfig
        usual |= {"exit_threshold": 0.75} if variant == "exit" else {}
    elif family == "byte_patch":
        core = {"core_hidden_size": width, "core_num_hidden_layers": depth, "core_num_attention_heads": heads}
        byte_level = {"hidden_size": width // 2, "num_hidden_layers": 2, "encoder_num_hidden_layers": 1}
        usual, config_class = {**core, **byte_level, "decoder": variant, "vocab_size": 259}, BytePatchConfig
    else:
        heads = {"encoder_attention_heads": heads, "decoder_attention_heads": heads, "num_pooling_heads": 4}
        del sizes["num_attention_heads"]
        usual = {**heads, "num_decoder_layers": depth, "pooling_sizes": [width * 3 // 2, width * 2]}
        config_class = NextThoughtConfig
    return config_class(**{**sizes, **usual, **changes})


def build_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A language model for evaluation with random weights; thresholds of forks are calibrated to the budget."""
    torch.manual_seed(seed)
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto_class.from_config(config).eval()
    if config.model_type == "gpt2":
        model.loss_type = "ForCausalLM"  # which transformers derives from the names of other classes
    if getattr(config, "fork_rule", None) == "threshold":
        with torch.no_grad():
            for fork in model.model.forks.values():
                fork.keep_proj.weight.mul_(SHARPENING)
        length = min(config.max_position_embeddings, 256)
        calibrate_forks(model, [{"input_ids": draw_ids(config, 4, length)}], budgets=[config.fork_budget])
    return model


def draw_ids(config: PreTrainedConfig, *shape: int) -> torch.Tensor:
    """Random token ids; for models of bytes, letters and spaces."""
    if config.model_type == "byte_patch":
        return torch.tensor(list(b"abcde "))[torch.randint(0, 6, shape)]
    return torch.randint(1, config.vocab_size - 1, shape)


def draw_lesson(config: PreTrainedConfig, batch_size: int, length: int) -> dict[str, torch.Tensor]:
    """Inputs and labels of a training step."""
    input_ids = draw_ids(config, batch_size, length)
    labels = draw_ids(config, batch_size, length // 2) if config.is_encoder_decoder else input_ids
    return {"input_ids": input_ids, "labels": labels}
