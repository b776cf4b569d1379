# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The models on which transformers' common tests run.

One entry of `VARIANTS` is one configuration, tested with the classes that the package exports for it.
"""

import itertools
from dataclasses import dataclass, field

from transformers import PreTrainedConfig, PreTrainedModel

import hf_thoughtbubbles
from hf_thoughtbubbles import (
    BytePatchConfig,
    GenericTransformerConfig,
    LoopedThinkerConfig,
    LoopedThinkerTextConfig,
    NextThoughtConfig,
    ThoughtbubblesConfig,
)
from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME
from tests.families import NATIVE_LAYERS


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

NOTHING_ROTATED = (
    "sets rotary scalings for a model whose positions are not rotary, which our configurations refuse; the other "
    "variants of the class run it"
)

ROPE_TESTS = (
    "test_model_rope_scaling_from_config_0_linear",
    "test_model_rope_scaling_from_config_1_dynamic",
    "test_model_rope_scaling_from_config_2_yarn",
    "test_model_rope_scaling_frequencies",
)

OLD_NAME = (
    "wants a warning where a cache comes by its old name, which our models take in every version alike; "
    "tests/modeling/test_cache_names.py covers both names"
)

NO_WEIGHTS_OF_SDPA = (
    "asks sdpa for attention weights, which it does not compute and our models refuse; "
    '`attn_implementation="eager"` gives them'
)

CANNOT_HOLD = {
    "test_eager_matches_sdpa_inference_24_fp32_pad_left_output_attentions": NO_WEIGHTS_OF_SDPA,
    **({"test_bc_cache_name_forward": OLD_NAME} if CACHE_NAME == "cache" else {}),  # since transformers 5.24
    "test_generation_tester_mixin_inheritance": NOT_SHIPPED,
}


@dataclass(frozen=True)
class Variant:
    """
    One model under test.

    Args:
        config_class (`type`): its configuration class.
        config_kwargs (`dict`): what the configuration is made of.
        cannot_hold (`dict[str, str]`): tests that cannot hold for it by design, each with the reason.
        changes (`dict[str, dict]`): tests that need another configuration, each with the changes.
    """

    config_class: type[PreTrainedConfig]
    config_kwargs: dict
    cannot_hold: dict[str, str] = field(default_factory=dict)
    changes: dict[str, dict] = field(default_factory=dict)

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


SDPA_TESTS = [
    f"test_eager_matches_sdpa_inference_{number:02}_{dtype}_pad_{side}{mask}{kernels}"
    for number, (dtype, side, mask, kernels) in enumerate(
        itertools.product(("fp16", "fp32", "bf16"), ("left", "right"), ("", "_no_attn_mask"), ("_sdpa_kernels", ""))
    )
]

# These tests bound differences of fp16 by an absolute number, for states of size 0.1 to 1. Thinkers start with larger
# weights than other models, and their states of size 4 round by as much as the bound.
SMALL_STATES = {test: {"initializer_range": 0.02} for test in SDPA_TESTS}

THINKING = {**SMALL, "num_steps": 2}

ONE_PER_LAYER = (
    "expects one entry for each layer, but shared layers have one for each step (of a problem, then of its answer); "
    "tests/modeling/looped_thinker/test_looped_thinker.py covers these entries"
)

ONE_CALL_PER_LAYER = (
    "replays the last call of a layer for all its calls, but shared layers are called at every step; our contract "
    "tests compare the gradients"
)

CANNOT_HOLD_THINKING = {
    **CANNOT_HOLD,
    "test_attention_outputs": ONE_PER_LAYER,
    "test_can_capture_specific_layers_hidden_states": ONE_PER_LAYER,
    "test_hidden_states_output": ONE_PER_LAYER,
    "test_training_gradient_checkpointing": ONE_CALL_PER_LAYER,
    "test_training_gradient_checkpointing_use_reentrant_false": ONE_CALL_PER_LAYER,
    "test_training_gradient_checkpointing_use_reentrant_true": ONE_CALL_PER_LAYER,
}

NO_CAUSAL_LM = (
    "trains through `AutoModelForCausalLM`, which has no model that reads one text and writes another; the other "
    "processes would wait for the one that is refused"
)

SHARDING_TESTS = (
    "test_fsdp2_bf16_training",
    "test_fsdp2_plan_vs_ddp_0_untied",
    "test_fsdp2_plan_vs_ddp_1_tied",
    "test_fsdp2_save_load",
    "test_fsdp2_save_load_dcp",
    "test_fsdp2_sharding_structure_0_untied",
    "test_fsdp2_sharding_structure_1_tied",
    "test_hsdp_grad_accumulation_vs_single_device_0_replicate_and_shard",
    "test_hsdp_grad_accumulation_vs_single_device_1_replicate_only",
    "test_hsdp_save_load",
    "test_hsdp_save_load_dcp",
)

CANNOT_HOLD_ANSWERING = {
    **CANNOT_HOLD_THINKING,
    **dict.fromkeys(SHARDING_TESTS, NO_CAUSAL_LM),
    "test_encoder_decoder_loss_no_double_shift": (
        "differentiates the loss by the returned logits, but it is made of the logits of all kept steps, of which "
        "these are the last; our contract tests recompute the loss"
    ),
    "test_retain_grad_hidden_states_attentions": ONE_PER_LAYER,
    "test_training_overfit": (
        "asks, once the loss has fallen, to generate the training text from its first token, which here is another "
        "problem; our contract tests cover training"
    ),
}

ONE_PER_PATCH = (
    "expects one entry for each token, but the core has one for each patch; our contract tests cover what is there"
)

DECODER_IS_A_NAME = (
    "takes a configuration's `decoder` for a nested configuration, but here it names the byte decoder; our contract "
    "tests compare eager with sdpa, and padded rows with rows alone"
)

TOO_FEW_IDS = "makes vocabularies of fewer ids than there are bytes, which are refused"

CANNOT_HOLD_BYTES = {
    **CANNOT_HOLD,
    "test_attention_outputs": ONE_PER_PATCH,
    "test_batching_equivalence": DECODER_IS_A_NAME,
    **dict.fromkeys(SDPA_TESTS, DECODER_IS_A_NAME),
    "test_eager_matches_sdpa_inference_24_fp32_pad_left_output_attentions": DECODER_IS_A_NAME,
    "test_load_with_mismatched_shapes": TOO_FEW_IDS,
    "test_resize_tokens_embeddings": TOO_FEW_IDS,
    "test_model_outputs_equivalence": "subtracts outputs, of which `patches.is_end` is true or false",
}

NO_LAYERS_OF_ENCODER = (
    "expects an entry for each layer of an encoder that is as deep as the decoder, but a thought is pooled on the way "
    "to one vector; our contract tests cover the decoder's, and `output_pooling`"
)

CANNOT_HOLD_NEXT_THOUGHT = {
    **CANNOT_HOLD,
    **dict.fromkeys(SHARDING_TESTS, NO_CAUSAL_LM),
    "test_attention_outputs": NO_LAYERS_OF_ENCODER,
    "test_hidden_states_output": NO_LAYERS_OF_ENCODER,
    "test_retain_grad_hidden_states_attentions": NO_LAYERS_OF_ENCODER,
    "test_training_overfit": (
        "asks, once the loss has fallen, to generate the training text from its first token, but of a thought of one "
        "token none would be kept; our contract tests cover training"
    ),
}

NEXT_THOUGHT = {
    "vocab_size": 97,
    "hidden_size": 32,
    "pooling_sizes": [48, 20],
    "removed_shares": [0.2, 0.3],
    "num_pooling_heads": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_latent_tokens": 3,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}

NATIVE = {**NATIVE_LAYERS, "fork_anchored": True, "fork_score_channel": "beside", "fork_adapter_rank": 5}

VARIANTS = {
    "BytePatch": Variant(
        config_class=BytePatchConfig,
        config_kwargs={
            **SMALL,
            "vocab_size": 259,
            "core_hidden_size": 64,
            "core_num_hidden_layers": 2,
            "core_num_attention_heads": 2,
        },
        cannot_hold=CANNOT_HOLD_BYTES,
        # Rotary positions are those of patches; here there are as many as bytes.
        changes={test: {"patching": "fixed", "patch_size": 1} for test in ROPE_TESTS},
    ),
    "GenericTransformer": Variant(
        config_class=GenericTransformerConfig,
        config_kwargs={**SMALL, "hidden_act": "learned"},
        cannot_hold=CANNOT_HOLD,
    ),
    "GenericTransformerShared": Variant(
        config_class=GenericTransformerConfig,
        config_kwargs={
            **SMALL,
            "share_feed_forward": True,
            "position_embedding": "relative",
            "num_key_value_heads": 1,
            "attention_normalization": "layer_norm",
            "attention_bias": True,
        },
        cannot_hold={**CANNOT_HOLD, **dict.fromkeys(ROPE_TESTS, NOTHING_ROTATED)},
    ),
    "LoopedThinkerText": Variant(
        config_class=LoopedThinkerTextConfig,
        config_kwargs=THINKING,
        cannot_hold=CANNOT_HOLD_THINKING,
        changes=SMALL_STATES,
    ),
    "LoopedThinkerLoop": Variant(
        config_class=LoopedThinkerTextConfig,
        config_kwargs={
            **THINKING,
            "skip_cross_attention": True,
            "input_injection": "adapter",
            "num_prelude_layers": 1,
            "num_coda_layers": 1,
            "num_key_value_heads": 1,
            "use_qk_norm": True,
        },
        cannot_hold=CANNOT_HOLD_THINKING,
        changes=SMALL_STATES,
    ),
    "LoopedThinkerAnswers": Variant(
        config_class=LoopedThinkerConfig,
        config_kwargs={**THINKING, "num_latents": 5, "max_latents": 7, "max_answer_length": 128},
        cannot_hold=CANNOT_HOLD_ANSWERING,
        # Answers are as long as the problem there, half as long again as `max_position_embeddings`.
        changes={**SMALL_STATES, **{test: {"max_answer_length": 192} for test in ROPE_TESTS}},
    ),
    "NextThought": Variant(
        config_class=NextThoughtConfig,
        config_kwargs=NEXT_THOUGHT,
        cannot_hold=CANNOT_HOLD_NEXT_THOUGHT,
    ),
    "ThoughtbubblesForking": Variant(
        config_class=ThoughtbubblesConfig,
        config_kwargs={**SMALL, "fork_layers": [1], "fork_budget": 1.5, "fork_rule": "topk"},
        cannot_hold=CANNOT_HOLD,
    ),
    "ThoughtbubblesCausalForking": Variant(
        config_class=ThoughtbubblesConfig,
        config_kwargs={**SMALL, "fork_layers": [1], "fork_budget": 1.5, "fork_rule": "threshold"},
        cannot_hold=CANNOT_HOLD,
    ),
    "ThoughtbubblesNative": Variant(
        config_class=ThoughtbubblesConfig,
        config_kwargs={**SMALL, **NATIVE, "fork_layers": [1], "fork_budget": 1.5},
        cannot_hold=CANNOT_HOLD,
    ),
    "ThoughtbubblesUnforked": Variant(
        config_class=ThoughtbubblesConfig,
        config_kwargs={**SMALL, **NATIVE, "fork_layers": [1], "fork_budget": 1.0},
        cannot_hold=CANNOT_HOLD,
    ),
    "ThoughtbubblesPlain": Variant(
        config_class=ThoughtbubblesConfig,
        config_kwargs={**SMALL, "fork_layers": []},
        cannot_hold=CANNOT_HOLD,
    ),
}
