# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What is the smallest honest configuration of each family? Sizes are distinct, so a swapped axis cannot pass."""

from dataclasses import dataclass

import torch

from hf_thoughtbubbles import ThoughtbubblesConfig, ThoughtbubblesForCausalLM, calibrate_forks


VOCAB_SIZE = 61
SHARPENING = 3.0  # fork scores start near one half each; scaled up, decisions are real and not ties of rounding


def draw_ids(*shape: int) -> torch.Tensor:
    """Random token ids without padding and end of sequence."""
    return torch.randint(1, VOCAB_SIZE - 1, shape)


@torch.no_grad()
def sharpen_forks(model: ThoughtbubblesForCausalLM) -> ThoughtbubblesForCausalLM:
    """Make random fork scores differ by more than rounding."""
    for fork in model.model.forks.values():
        fork.score.weight.mul_(SHARPENING)
    return model


@dataclass(frozen=True)
class Family:
    """One entry of the contract: how to build it, and which promises its documentation excepts it from."""

    name: str
    config: ThoughtbubblesConfig
    is_causal: bool  # the published top-k rule is not: promises 3, 4 and 5 do not hold for it
    has_cache: bool

    def build(self, seed: int = 0, **changes):
        """A model with reproducible weights whose forks decide by more than rounding, calibrated where it can be."""
        torch.manual_seed(seed)
        config = ThoughtbubblesConfig(**{**self.config.to_dict(), **changes})
        model = sharpen_forks(ThoughtbubblesForCausalLM(config)).eval()
        if config.fork_layers and config.fork_policy == "threshold":
            input_ids = torch.randint(1, config.vocab_size - 1, (8, config.max_position_embeddings))
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


FAMILIES = [
    Family("thoughtbubbles", make_config(tie_word_embeddings=False), is_causal=False, has_cache=False),
    Family("thoughtbubbles-probability", make_config(fold="probability"), is_causal=False, has_cache=False),
    Family("gpt-rope", make_config(fork_layers=[], tie_word_embeddings=False), is_causal=True, has_cache=True),
    Family(
        "gpt-learned",
        make_config(fork_layers=[], position_embedding="learned", tie_word_embeddings=False),
        is_causal=True,
        has_cache=True,
    ),
    Family("threshold", make_config(fork_policy="threshold"), is_causal=True, has_cache=True),
    Family(
        "threshold-probability",
        make_config(fork_policy="threshold", fold="probability", fork_layers=[0, 2, 3], fork_score_init=(-1, 2)),
        is_causal=True,
        has_cache=True,
    ),
    Family(
        "threshold-learned",
        make_config(fork_policy="threshold", position_embedding="learned", fork_layers=[2], fork_score_channel=False),
        is_causal=True,
        has_cache=True,
    ),
]
