# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Hypothesis strategies that draw a configuration of any family, and the model and the inputs that follow from it.

A drawn subject is a family, a class, the settings of its configuration and a seed: everything else follows from them,
so that a failing example can be built again from its printed form.
"""

import random
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache

import hf_thoughtbubbles as package


CONFIGS = {
    "thoughtbubbles": package.ThoughtbubblesConfig,
    "generic": package.GenericTransformerConfig,
    "thinker_text": package.LoopedThinkerTextConfig,
    "thinker": package.LoopedThinkerConfig,
    "byte_patch": package.BytePatchConfig,
    "next_thought": package.NextThoughtConfig,
}
LANGUAGE_MODELS = {
    "thoughtbubbles": "ThoughtbubblesForCausalLM",
    "generic": "GenericTransformerForCausalLM",
    "thinker_text": "LoopedThinkerForCausalLM",
    "thinker": "LoopedThinkerForConditionalGeneration",
    "byte_patch": "BytePatchForCausalLM",
    "next_thought": "NextThoughtForConditionalGeneration",
}
HEADS = {
    "thoughtbubbles": (
        "ThoughtbubblesForSequenceClassification",
        "ThoughtbubblesForTokenClassification",
        "ThoughtbubblesForQuestionAnswering",
    ),
    "generic": (
        "GenericTransformerForSequenceClassification",
        "GenericTransformerForTokenClassification",
        "GenericTransformerForQuestionAnswering",
    ),
    "thinker_text": ("LoopedThinkerForSequenceClassification", "LoopedThinkerForTokenClassification"),
    "byte_patch": ("BytePatchForSequenceClassification", "BytePatchForTokenClassification"),
}
FAMILIES = tuple(CONFIGS)
TEXT_FAMILIES = ("thoughtbubbles", "generic", "thinker_text", "byte_patch")
MAX_POSITIONS = 43
POSITIONS = st.sampled_from([5, MAX_POSITIONS])  # where they are computed, texts may be longer
DROPOUTS = ("embedding_dropout", "attention_dropout", "hidden_dropout", "dropout")
OWN_RULE = "fuzzed"


@package.register_fork_rule(OWN_RULE)
class FuzzedRule(package.ForkRule):
    """A causal rule of a user: a copy stays when its score is near enough to that of certainty."""

    def choose(self, candidates, *, fork_budget, capacity, **kwargs):
        """Keep more copies with a larger budget."""
        return candidates.keep(candidates.log_scores.detach() > -fork_budget, capacity)


@dataclass
class Subject:
    """A configuration with a class and a seed, which give one model."""

    family: str
    class_name: str
    settings: dict
    seed: int
    is_head: bool = field(default=False, repr=False)

    def build(self, **changes) -> nn.Module:
        """The model in float64 and evaluation mode, with reproducible weights of which none is 0 or 1."""
        torch.manual_seed(self.seed)
        config = CONFIGS[self.family](**{**self.settings, **changes})
        model = getattr(package, self.class_name)(config).double().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
                if ".forks." in name and parameter.ndim == 2:  # so that forks decide by more than rounding
                    parameter.mul_(4)
        return model

    def build_smooth(self, **changes) -> nn.Module:
        """The model without dropout, for checks in training mode."""
        return self.build(**{name: 0.0 for name in DROPOUTS if name in self.settings}, **changes)

    @property
    def is_text(self) -> bool:
        """Whether the logits belong to `input_ids`, not to `decoder_input_ids`."""
        return self.family in TEXT_FAMILIES

    @property
    def looks_ahead(self) -> bool:
        """Whether later tokens act on earlier logits."""
        is_published = self.settings.get("fork_rule") == "topk" and len(self.settings["fork_layers"]) > 0
        return is_published or not self.settings.get("is_causal", True) or self.is_parallel

    @property
    def is_published_rule(self) -> bool:
        """Whether all tokens of a row compete for streams."""
        return self.settings.get("fork_rule") == "topk" and len(self.settings["fork_layers"]) > 0

    @property
    def is_parallel(self) -> bool:
        """Whether an answer is read out in one pass."""
        return self.settings.get("readout") == "parallel"

    @property
    def is_token_patched(self) -> bool:
        """Whether patches are given with the bytes."""
        return self.settings.get("patching") == "token"

    @property
    def vocab_size(self) -> int:
        return self.settings.get("vocab_size", 259)


# Settings


def divisors(number: int) -> list[int]:
    return [part for part in range(1, number + 1) if number % part == 0]


@st.composite
def rope_settings(draw) -> dict | None:
    kind = draw(st.sampled_from(["none", "default", "linear", "yarn", "llama3", "proportional"]))
    if kind == "none":
        return None
    settings = {"rope_type": kind, "rope_theta": draw(st.sampled_from([10000.0, 50.0]))}
    if kind != "default":
        settings["factor"] = 2.0
    if kind == "proportional":
        settings["partial_rotary_factor"] = 1.0
    if kind == "llama3":
        settings |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 20}
    return settings


def common_settings(draw, vocab_size: int) -> dict:
    return {
        "vocab_size": vocab_size,
        "max_position_embeddings": MAX_POSITIONS,
        "pad_token_id": 0,
        "eos_token_id": draw(st.sampled_from([None, vocab_size - 1])),
        "tie_word_embeddings": draw(st.booleans()),
    }


def draw_dropouts(draw, names) -> dict:
    return {name: draw(st.sampled_from([0.0, 0.3])) for name in names}


@st.composite
def calibrations(draw, num_forks: int) -> dict | None:
    """A table with thresholds that fall from budget to budget, as those of real texts do."""
    if not draw(st.booleans()):
        return None
    budgets = draw(st.sampled_from([[1.0, 2.0, 4.0], [1.0, 3.0], [1.5, 2.0, 2.5]]))
    highest = [draw(st.sampled_from([-0.05, -0.3, -0.8])) for _ in range(num_forks)]
    return {"budgets": budgets, "thresholds": [[high * (1 + i) for high in highest] for i in range(len(budgets))]}


DECODER_NORMS = st.sampled_from(["rms_norm", "layer_norm"])


@st.composite
def thoughtbubbles_settings(draw, needs: str = "") -> dict:
    num_heads, head_dim = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([4, 6]))
    num_layers = draw(st.integers(1, 4))
    kinds = ["plain", "threshold", "copy", OWN_RULE] + ([] if needs == "causal" else ["topk"])
    kind = draw(st.sampled_from(kinds))
    layers = list(range(num_layers))
    settings = {
        **common_settings(draw, 29),
        "hidden_size": num_heads * head_dim,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "intermediate_size": draw(st.sampled_from([None, 13])),
        "hidden_act": draw(st.sampled_from(["gelu_pytorch_tanh", "silu", "relu"])),
        "fork_layers": [],
        "fork_rule": "topk",
        "fork_score_channel": draw(st.sampled_from(["last", "beside", "none"])),
        "fold": draw(st.sampled_from(["residual", "probability"])),
        "attention_bias": draw(st.sampled_from([True, False, "qkv"])),
        "mlp_bias": draw(st.booleans()),
        "num_key_value_heads": draw(st.sampled_from([None, 1])),
        "head_dim": draw(st.sampled_from([None, 4, 6])),
        "feed_forward": draw(st.sampled_from(["mlp", "swiglu"])),
        "attention_normalization": draw(DECODER_NORMS),
        "mlp_normalization": draw(DECODER_NORMS),
        "final_normalization": draw(DECODER_NORMS),
        "use_qk_norm": draw(st.booleans()),
        "position_embedding": draw(st.sampled_from(["rope", "learned"])),
        "layer_norm_eps": draw(st.sampled_from([1e-5, 1e-3])),
        "initializer_range": draw(st.sampled_from([0.1, 0.3])),
        **draw_dropouts(draw, DROPOUTS[:3]),
    }
    if settings["position_embedding"] == "rope":
        settings |= {"rope_parameters": draw(rope_settings()), "max_position_embeddings": draw(POSITIONS)}
    if kind == "plain":
        return settings
    settings["fork_rule"] = kind
    if kind == "copy":
        return settings | {"fork_layers": [draw(st.sampled_from(layers))], "fork_budget": draw(st.integers(2, 3))}
    forks = draw(st.lists(st.sampled_from(layers), unique=True, min_size=1, max_size=3))
    settings |= {"fork_layers": forks, "fork_budget": draw(st.sampled_from([1.0, 1.5, 2.0, 2.4, 4.0]))}
    settings["fork_anchored"] = kind != "topk" and draw(st.booleans())
    settings["fork_adapter_rank"] = draw(st.sampled_from([None, 3]))
    inits = [None, (-1.0,), (0.5,)] if settings["fork_anchored"] else [None, (-1.0, 2.0), (0.5, 0.5)]
    settings["fork_score_init"] = draw(st.sampled_from(inits))
    if kind == "threshold":
        settings["fork_calibration"] = draw(calibrations(len(forks)))
        if settings["fork_calibration"] is not None:
            settings["fork_budget"] = draw(st.sampled_from([1.5, 2.0, 2.4]))
    return settings


NORMS = st.sampled_from(["rms_norm", "layer_norm", "none"])
ACTS = st.sampled_from(["gelu", "relu", "leaky_relu", "tanh", "sigmoid", "silu", "learned", "none"])


def draw_generic_layers(draw) -> dict:
    feed_forward = draw(st.sampled_from(["mlp", "swiglu"]))
    return {
        "feed_forward": feed_forward,
        **({"hidden_act": draw(ACTS)} if feed_forward == "mlp" else {}),
        "attention_normalization": draw(NORMS),
        "mlp_normalization": draw(NORMS),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
    }


def draw_core(draw) -> dict:
    """The settings that generic transformers and the core of byte patches share."""
    settings = {
        **draw_generic_layers(draw),
        "share_feed_forward": draw(st.booleans()),
        "final_normalization": draw(NORMS),
        "position_embedding": draw(st.sampled_from(["learned", "sinusoidal", "rope", "relative", "none"])),
        "initializer_range": draw(st.sampled_from([0.1, 0.3])),
        **draw_dropouts(draw, DROPOUTS[:3]),
    }
    if "none" in (settings["attention_normalization"], settings["mlp_normalization"]):
        settings["initializer_range"] = 0.1  # without norms states grow until rounding decides all
    if settings["position_embedding"] == "rope":
        settings["rope_parameters"] = draw(rope_settings())
    if settings["position_embedding"] != "learned":
        settings["max_position_embeddings"] = draw(POSITIONS)
    if settings["position_embedding"] == "relative":
        settings["max_relative_position"] = draw(st.integers(1, 9))
    return settings


@st.composite
def generic_settings(draw, needs: str = "") -> dict:
    num_heads = draw(st.sampled_from([1, 2, 4, 6]))
    return {
        **common_settings(draw, 31),
        "hidden_size": num_heads * draw(st.sampled_from([2, 4])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": num_heads,
        "num_key_value_heads": draw(st.sampled_from(divisors(num_heads))),
        "intermediate_size": draw(st.sampled_from([None, 13])),
        **draw_core(draw),
        "head_bias": draw(st.booleans()),
        "is_causal": True if needs == "causal" else draw(st.sampled_from([True, True, False])),
    }


def draw_loop(draw) -> dict:
    num_heads = draw(st.sampled_from([1, 2, 3]))
    return {
        **common_settings(draw, 23),
        "max_position_embeddings": draw(POSITIONS),
        "hidden_size": num_heads * draw(st.sampled_from([2, 4, 6])),
        "num_hidden_layers": draw(st.integers(1, 2)),
        "num_attention_heads": num_heads,
        "intermediate_size": draw(st.sampled_from([None, 13])),
        "num_steps": draw(st.integers(1, 4)),
        "num_memory_steps": draw(st.sampled_from([None, 1, 2])),
        "num_read_steps": draw(st.sampled_from([None, 0, 1, 2])),
        "low_rank": draw(st.sampled_from([None, 1, 3])),
        "num_key_value_heads": draw(st.sampled_from([None, 1])),
        "head_dim": draw(st.sampled_from([None, 4])),
        "feed_forward": draw(st.sampled_from(["swiglu", "mlp"])),
        "attention_normalization": draw(st.sampled_from(["rms_norm", "layer_norm"])),
        "attention_bias": draw(st.sampled_from([False, True, "qkv"])),
        "mlp_bias": draw(st.booleans()),
        "use_qk_norm": draw(st.booleans()),
        "skip_self_attention": draw(st.booleans()),
        "self_attention_mlp": draw(st.booleans()),
        "rope_parameters": draw(rope_settings()),
        "initializer_range": draw(st.sampled_from([None, 0.2])),
    }


@st.composite
def thinker_text_settings(draw, needs: str = "") -> dict:
    loop = {**draw_loop(draw), "exit_threshold": draw(st.sampled_from([None, None, 0.3, 0.8]))}
    if draw(st.booleans()):
        loop |= {"skip_cross_attention": True, "num_memory_steps": None, "num_read_steps": None}
        loop |= {"skip_self_attention": False, "self_attention_mlp": False}
    if draw(st.sampled_from([False, False, True])):
        table = {"position_embedding": "learned", "max_position_embeddings": MAX_POSITIONS}
        loop |= {**table, "rope_parameters": None}
    return {
        **loop,
        "input_injection": draw(st.sampled_from(["add", "adapter"])),
        "num_prelude_layers": draw(st.integers(0, 2)),
        "num_coda_layers": draw(st.integers(0, 2)),
        "scale_embeddings": draw(st.booleans()),
    }


@st.composite
def thinker_settings(draw, needs: str = "") -> dict:
    num_latents, loop = draw(st.integers(1, 4)), draw_loop(draw)
    if loop["skip_self_attention"]:
        loop["rope_parameters"] = None  # nothing is rotated
    return {
        **loop,
        "num_latents": num_latents,
        "max_latents": num_latents + draw(st.integers(0, 3)),
        "num_output_steps": draw(st.integers(1, 2)),
        "num_kept_outputs": draw(st.integers(1, 3)),
        "max_answer_length": 15,
        "num_probes": draw(st.sampled_from([0, 2])),
        "static_memory_size": draw(st.sampled_from([0, 3])),
        "readout": "autoregressive" if needs == "causal" else draw(st.sampled_from(["autoregressive", "parallel"])),
        "position_frequencies": draw(st.sampled_from(["standard", "single"])),
    }


@st.composite
def byte_patch_settings(draw, needs: str = "") -> dict:
    num_heads, num_core_heads = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2, 4]))
    longest, decoder = draw(st.integers(4, 9)), draw(st.sampled_from(["autoregressive", "parallel"]))
    layers = draw(st.sampled_from(["residual", "published"]))
    settings = {
        "max_position_embeddings": MAX_POSITIONS,
        "pad_token_id": 258,
        "eos_token_id": draw(st.sampled_from([None, 257])),
        "tie_word_embeddings": draw(st.booleans()),
        "hidden_size": 8 * num_heads,
        "num_attention_heads": num_heads,
        "num_hidden_layers": draw(st.integers(1, 2)),
        "intermediate_size": draw(st.sampled_from([None, 13])),
        "encoder_num_hidden_layers": draw(st.integers(2 if layers == "published" else 0, 2)),
        "core_hidden_size": num_core_heads * draw(st.sampled_from([2, 6])),
        "core_num_hidden_layers": draw(st.integers(1, 2)),
        "core_num_attention_heads": num_core_heads,
        "core_num_key_value_heads": draw(st.sampled_from(divisors(num_core_heads))),
        "core_intermediate_size": draw(st.sampled_from([None, 11])),
        "patching": draw(st.sampled_from(["space", "fixed", "token"])),
        "patch_size": draw(st.integers(1, longest)),
        "max_patch_bytes": longest,
        "decoder": decoder,
        "byte_layers": layers,
        "num_draft_bytes": draw(st.sampled_from([0, 3])) if decoder == "autoregressive" else 0,
        **draw_core(draw),
    }
    if decoder == "parallel":
        settings["reconstruction_loss_weight"] = draw(st.sampled_from([0.0, 0.7]))
    return settings


@st.composite
def next_thought_settings(draw, needs: str = "") -> dict:
    num_pools, num_pooling_heads = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2]))
    sizes = [num_pooling_heads * draw(st.integers(3, 6)) for _ in range(num_pools)]
    encoder_heads, decoder_heads = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 4]))
    core = draw(st.sampled_from(["mlp", "block_linear"]))
    blocks = draw(st.lists(st.sampled_from(divisors(sizes[-1])), min_size=1, max_size=3))
    return {
        **common_settings(draw, 31),
        "hidden_size": draw(st.sampled_from([8, 16])),
        "pooling_sizes": sizes,
        "removed_shares": [draw(st.sampled_from([0, 0.3, 0.5])) for _ in sizes],
        "num_pooling_heads": num_pooling_heads,
        "num_encoder_layers": draw(st.integers(1, 2)),
        "num_decoder_layers": draw(st.integers(1, 2)),
        "encoder_attention_heads": encoder_heads,
        "encoder_key_value_heads": draw(st.sampled_from(divisors(encoder_heads))),
        "decoder_attention_heads": decoder_heads,
        "decoder_key_value_heads": draw(st.sampled_from(divisors(decoder_heads))),
        **draw_generic_layers(draw),
        "core": core,
        **({"core_block_sizes": blocks} if core == "block_linear" else {}),
        "num_latent_tokens": draw(st.integers(1, 4)),
        "num_thoughts": draw(st.integers(1, 2)),
        "position_embedding": draw(st.sampled_from(["learned", "sinusoidal", "none"])),
        "initializer_range": draw(st.sampled_from([0.1, 0.2])),
        **draw_dropouts(draw, DROPOUTS[3:]),
    }


SETTINGS = {
    "thoughtbubbles": thoughtbubbles_settings,
    "generic": generic_settings,
    "thinker_text": thinker_text_settings,
    "thinker": thinker_settings,
    "byte_patch": byte_patch_settings,
    "next_thought": next_thought_settings,
}


@st.composite
def subjects(draw, family: str, needs: str = "", is_head: bool = False) -> Subject:
    """A subject of a family; `needs="causal"` leaves out what looks ahead, and so has no cache."""
    settings = draw(SETTINGS[family](needs))
    class_name = LANGUAGE_MODELS[family]
    if is_head:
        class_name = draw(st.sampled_from(HEADS[family]))
        settings["num_labels"] = draw(st.sampled_from([1, 3]))
        if family == "byte_patch":  # the parallel decoder is refused
            settings |= {"decoder": "autoregressive", "reconstruction_loss_weight": 0.0}
    return Subject(family, class_name, settings, draw(st.integers(0, 2**16)), is_head)


# Inputs


class Inputs:
    """Rows of ids and what belongs to them, reproducible from a seed."""

    def __init__(self, subject: Subject, seed: int):
        self.subject, self.random = subject, random.Random(seed)

    def draw_row(self, length: int) -> list[int]:
        """Ids without padding; different ones where equal tokens would be ties that rounding decides."""
        subject, choose = self.subject, self.random
        if subject.family == "byte_patch":
            alphabet = [*b"abcXYZ019", *b"    ,.\n\0", *"é漢🙂".encode(), choose.randrange(256)]
            specials = [] if subject.is_token_patched else [256, 257]
            return [choose.choice(alphabet + specials) for _ in range(length)]
        ids = range(1, subject.vocab_size)
        if subject.family in ("thoughtbubbles", "next_thought"):
            return choose.sample(ids, length)
        return [choose.choice(ids) for _ in range(length)]

    def draw_ids(self, num_rows: int, length: int) -> torch.Tensor:
        return torch.tensor([self.draw_row(length) for _ in range(num_rows)])

    def cut_row(self, length: int) -> list[int]:
        """Lengths of patches that cover a row."""
        parts = []
        while length > 0:
            parts.append(self.random.randint(1, min(length, self.subject.settings["max_patch_bytes"])))
            length -= parts[-1]
        return parts

    def measure(self, lengths: list[int]) -> dict:
        """The patch lengths of rows where the model needs them."""
        return stack_patches([self.cut_row(length) for length in lengths]) if self.subject.is_token_patched else {}

    def draw_context(self, num_rows: int, side: str | None = None, shortest: int = 8) -> dict:
        """What an answer or a next thought is written from; rows of unequal length with a `side` for padding."""
        subject = self.subject
        if subject.is_text:
            return {}
        lengths = [self.random.randint(shortest, 14) for _ in range(num_rows)] if side else [10] * num_rows
        context = pad([self.draw_row(length) for length in lengths], 0, side or "right")
        if side is None:
            context.pop("attention_mask")
        if subject.settings.get("static_memory_size", 0) > 0:
            size = subject.settings["static_memory_size"]
            context["memory_ids"] = torch.tensor([[self.random.randrange(size)] for _ in range(num_rows)])
        return context


def stack_patches(parts: list[list[int]]) -> dict:
    longest = max(map(len, parts))
    return {"patch_lengths": torch.tensor([row + [0] * (longest - len(row)) for row in parts])}


def pad(rows: list[list[int]], pad_id: int, side: str) -> dict:
    """One batch of rows of unequal length, with its mask."""
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        filler = [pad_id] * (longest - len(row))
        ids.append(filler + row if side == "left" else row + filler)
        mask.append([0] * len(filler) + [1] * len(row) if side == "left" else [1] * len(row) + [0] * len(filler))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def take_row(inputs: dict, row: int) -> dict:
    """A row of every tensor."""
    return {name: value[row : row + 1] for name, value in inputs.items()}


def read(model, subject: Subject, ids: torch.Tensor, mask=None, context: dict | None = None, **arguments):
    """A forward pass over a text, or over what an answer begins with."""
    if subject.is_text:
        return model(input_ids=ids, attention_mask=mask, **(context or {}), **arguments)
    if subject.is_parallel:
        arguments.pop("use_cache", None)
        return model(**(context or {}), answer_length=ids.shape[1], **arguments)
    if mask is not None:
        arguments["decoder_attention_mask"] = mask
    return model(**(context or {}), decoder_input_ids=ids, **arguments)


def make_cache(kind: str, subject: Subject, model, length: int):
    """An empty cache of a kind; `None` for the model's own."""
    if kind == "own":
        return None
    if subject.family == "byte_patch":
        return package.PatchCache(model.config)
    if kind == "static":
        cache = StaticCache(config=model.config, max_cache_len=length)
    else:
        cache = DynamicCache(config=model.config)
    return cache if subject.is_text else EncoderDecoderCache(cache, DynamicCache())
