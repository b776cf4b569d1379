# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What is the smallest honest configuration of each family? Sizes are distinct, so a swapped axis cannot pass."""

from dataclasses import dataclass, field

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_thoughtbubbles import (
    GenericTransformerConfig,
    GenericTransformerForCausalLM,
    LoopedThinkerConfig,
    LoopedThinkerForCausalLM,
    LoopedThinkerForConditionalGeneration,
    LoopedThinkerTextConfig,
    ThoughtbubblesConfig,
    ThoughtbubblesForCausalLM,
    calibrate_forks,
)


VOCAB_SIZE = 61
BYTE_PATCH_SIZES = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "core_hidden_size": 24,
    "core_num_hidden_layers": 2,
    "core_num_attention_heads": 3,
    "core_intermediate_size": 47,
    "max_patch_bytes": 7,
    "patch_size": 5,
}
SHARPENING = 3.0  # fork scores start near one half each; scaled up, decisions are real and not ties of rounding


def draw_ids(*shape: int) -> torch.Tensor:
    """Random token ids without padding and end of sequence."""
    return torch.randint(1, VOCAB_SIZE - 1, shape)


@torch.no_grad()
def sharpen_forks(model: ThoughtbubblesForCausalLM) -> ThoughtbubblesForCausalLM:
    """Make random fork scores differ by more than rounding."""
    if model.config.has_fork_scores:
        for fork in model.model.forks.values():
            fork.score_proj.weight.mul_(SHARPENING)
    return model


@dataclass(frozen=True)
class Family:
    """One entry of the contract: how to build it, and which promises its documentation excepts it from."""

    name: str
    config: PreTrainedConfig
    is_causal: bool = True  # the published top-k rule is not: promises 3, 4 and 5 do not hold for it
    has_cache: bool = True
    model_class: type[PreTrainedModel] = ThoughtbubblesForCausalLM
    # What makes a smaller model of the same kind, to assist it.
    assistant_changes: dict = field(default_factory=lambda: {"num_hidden_layers": 2, "fork_layers": [1]})
    # What leaves no choice that rounding could turn.
    undecided_changes: dict = field(default_factory=lambda: {"fork_budget": 8.0})
    # Fields that no model takes, set while loading, each with the error.
    bad_changes: tuple[tuple[dict, str], ...] = (
        ({"fork_layers": [9]}, "names layer 9"),
        ({"fork_budget": 0.5}, "`fork_budget` is 0.5"),
    )

    @property
    def is_forking(self) -> bool:
        """Whether it forks by the published rule, which looks ahead."""
        return self.model_class is ThoughtbubblesForCausalLM and not self.is_causal

    @property
    def needs_positions(self) -> bool:
        """Whether a padded batch needs the positions that `generate` passes: learned ones do not follow the mask."""
        return self.config.to_dict().get("position_embedding") == "learned"

    def build(self, seed: int = 0, **changes):
        """A model with reproducible weights whose forks decide by more than rounding, calibrated where it can be."""
        torch.manual_seed(seed)
        model = self.model_class(type(self.config)(**{**self.config.to_dict(), **changes})).eval()
        if self.model_class is not ThoughtbubblesForCausalLM:
            return model
        sharpen_forks(model)
        if model.config.fork_layers and model.config.fork_rule == "threshold":
            input_ids = torch.randint(1, model.config.vocab_size - 1, (8, model.config.max_position_embeddings))
            calibrate_forks(model, [{"input_ids": input_ids}], budgets=(1.0, 4.0))
        return model


def make_config(**changes) -> ThoughtbubblesConfig:
    """A Thoughtbubbles configuration of tiny, distinct sizes."""
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 24,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "intermediate_size": 47,
        "max_position_embeddings": 37,
        "fork_layers": [1, 3],
        "fork_budget": 1.5,
        "pad_token_id": 0,
        "eos_token_id": 60,
        "initializer_range": 0.3,  # so that predictions depend on the context and generated text varies
    }
    return ThoughtbubblesConfig(**{**sizes, **changes})


THINKER_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 47,
    "max_position_embeddings": 37,
    "num_steps": 3,
    "pad_token_id": 0,
    "eos_token_id": 60,
    "initializer_range": 0.2,
}


def make_thinker_config(**changes) -> LoopedThinkerConfig:
    """The configuration of an answering Thinker of tiny, distinct sizes."""
    sizes = {**THINKER_SIZES, "num_latents": 5, "max_latents": 7, "max_answer_length": 13}
    return LoopedThinkerConfig(**{**sizes, **changes})


def make_thinker_text_config(**changes) -> LoopedThinkerTextConfig:
    """The configuration of a text Thinker of tiny, distinct sizes."""
    return LoopedThinkerTextConfig(**{**THINKER_SIZES, **changes})


def make_thinker(name: str, **changes) -> Family:
    """A looped Thinker that continues text."""
    return Family(
        name,
        make_thinker_text_config(tie_word_embeddings=False, **changes),
        model_class=LoopedThinkerForCausalLM,
        assistant_changes={"num_steps": 1},
        undecided_changes={"exit_threshold": None},
        bad_changes=(({"num_steps": 0}, "`num_steps` is 0"), ({"low_rank": -1}, "`low_rank` is -1")),
    )


def make_generic(name: str, is_causal: bool = True, **changes) -> Family:
    """A generic transformer of tiny, distinct sizes."""
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "intermediate_size": 47,
        "max_position_embeddings": 37,
        "pad_token_id": 0,
        "eos_token_id": 60,
        "initializer_range": 0.3,
    }
    return Family(
        name,
        GenericTransformerConfig(**{**sizes, **changes}, is_causal=is_causal),
        is_causal=is_causal,
        has_cache=is_causal,
        model_class=GenericTransformerForCausalLM,
        assistant_changes={"num_hidden_layers": 1},
        undecided_changes={},
        bad_changes=(
            ({"num_key_value_heads": 4}, "is not a multiple of `num_key_value_heads` 4"),
            ({"hidden_act": "swish"}, '`hidden_act` is "swish"'),
        ),
    )


FAMILIES = [
    Family("thoughtbubbles", make_config(tie_word_embeddings=False), is_causal=False, has_cache=False),
    Family("thoughtbubbles-probability", make_config(fold="probability"), is_causal=False, has_cache=False),
    Family(
        "gpt-rope", make_config(fork_layers=[], tie_word_embeddings=False), assistant_changes={"num_hidden_layers": 2}
    ),
    Family(
        "gpt-learned",
        make_config(fork_layers=[], position_embedding="learned", tie_word_embeddings=False),
        assistant_changes={"num_hidden_layers": 2},
    ),
    Family("threshold", make_config(fork_rule="threshold")),
    Family(
        "threshold-probability",
        make_config(fork_rule="threshold", fold="probability", fork_layers=[0, 2, 3], fork_score_init=(-1, 2)),
        assistant_changes={"num_hidden_layers": 2, "fork_layers": [0]},
    ),
    Family(
        "threshold-learned",
        make_config(fork_rule="threshold", position_embedding="learned", fork_layers=[2], fork_score_channel=False),
        assistant_changes={"num_hidden_layers": 2, "fork_layers": []},
    ),
    Family(
        "copy",
        make_config(fork_rule="copy", fork_layers=[1], fork_budget=3),
        assistant_changes={"num_hidden_layers": 2},
        undecided_changes={},
        bad_changes=(
            ({"fork_budget": 2.5}, "as a whole number says"),
            ({"fork_layers": [0, 1]}, "copies are made before one layer"),
        ),
    ),
    make_thinker("thinker"),
    make_thinker("thinker-window", num_hidden_layers=1, num_steps=4, num_memory_steps=2, num_read_steps=1, low_rank=5),
    make_thinker("thinker-skip", skip_self_attention=True),
    make_thinker("thinker-exit", num_steps=5, exit_threshold=0.25, self_attention_mlp=True),
    make_generic("generic", num_key_value_heads=2, hidden_act="learned", tie_word_embeddings=False),
    make_generic("generic-relative", position_embedding="relative", max_relative_position=5, feed_forward="swiglu"),
    make_generic(
        "generic-gpt2",
        position_embedding="learned",
        attention_normalization="layer_norm",
        mlp_normalization="layer_norm",
        final_normalization="layer_norm",
        attention_bias=True,
        mlp_bias=True,
        head_bias=True,
    ),
    make_generic(
        "generic-shared",
        share_feed_forward=True,
        feed_forward="swiglu",
        position_embedding="sinusoidal",
        num_key_value_heads=1,
        tie_word_embeddings=False,
    ),
    make_generic("generic-bidirectional", is_causal=False, position_embedding="relative", hidden_act="silu"),
]


@dataclass(frozen=True)
class Answerer:
    """A looped Thinker that answers problems: how to build it, and what to ask it."""

    name: str
    config: LoopedThinkerConfig

    @property
    def is_parallel(self) -> bool:
        return self.config.readout == "parallel"

    def build(self, seed: int = 0, **changes) -> LoopedThinkerForConditionalGeneration:
        """A model with reproducible weights."""
        torch.manual_seed(seed)
        config = LoopedThinkerConfig(**{**self.config.to_dict(), **changes})
        return LoopedThinkerForConditionalGeneration(config).eval()

    def ask(self, batch_size: int = 2, length: int = 9) -> dict:
        """Problems, with static memories where the model has them."""
        problem = {"input_ids": draw_ids(batch_size, length)}
        if self.config.static_memory_size > 0:
            problem["memory_ids"] = torch.randint(0, self.config.static_memory_size, (batch_size, 2))
        return problem

    def read(self, batch_size: int = 2, length: int = 7) -> dict:
        """What makes a forward pass read out so many positions."""
        return {"answer_length": length} if self.is_parallel else {"decoder_input_ids": draw_ids(batch_size, length)}


def make_answerers(name: str, **changes) -> list[Answerer]:
    """A variant with either read-out."""
    return [
        Answerer(f"{name}-{readout}", make_thinker_config(readout=readout, **changes))
        for readout in ("autoregressive", "parallel")
    ]


ANSWERERS = [
    *make_answerers("plain"),
    *make_answerers("low-rank", low_rank=5, self_attention_mlp=True, num_hidden_layers=1),
    *make_answerers("skip", skip_self_attention=True),
    *make_answerers("window", num_memory_steps=2, num_read_steps=1),
    *make_answerers("static-memory", static_memory_size=3),
    *make_answerers("output-steps", num_output_steps=2, tie_word_embeddings=False),
    *make_answerers("kept", num_kept_outputs=3, num_probes=2, position_frequencies="single"),
]
