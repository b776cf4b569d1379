# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The models that the tests build: tiny, with distinct sizes, so that a swapped axis cannot pass.

Each entry has what the promises in tests/contract need: how to build its model, and inputs for it.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    DynamicCache,
    EncoderDecoderCache,
    PreTrainedConfig,
    PreTrainedModel,
    StaticCache,
)

from hf_thoughtbubbles import (
    BytePatchConfig,
    BytePatchForCausalLM,
    GenericTransformerConfig,
    GenericTransformerForCausalLM,
    LoopedThinkerConfig,
    LoopedThinkerForCausalLM,
    LoopedThinkerForConditionalGeneration,
    LoopedThinkerTextConfig,
    NextThoughtConfig,
    NextThoughtForConditionalGeneration,
    PatchCache,
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
BUILT: dict[tuple, tuple] = {}
SHARPENING = 3.0  # fork scores start near one half each; scaled up, decisions are real and not ties of rounding


def draw_ids(*shape: int) -> torch.Tensor:
    """Random token ids without padding and end of sequence."""
    return torch.randint(1, VOCAB_SIZE - 1, shape)


@torch.no_grad()
def sharpen_forks(model: ThoughtbubblesForCausalLM) -> ThoughtbubblesForCausalLM:
    """Make random fork scores differ by more than rounding, and adapters of copies act."""
    if model.config.has_fork_scores:
        for fork in model.model.forks.values():
            fork.keep_proj.weight.mul_(SHARPENING)
            if fork.adapter_up is not None:
                fork.adapter_up.weight.normal_(std=model.config.initializer_range)
    return model


@torch.no_grad()
def mix_inputs(model: LoopedThinkerForCausalLM) -> LoopedThinkerForCausalLM:
    """Make each step read both the latent and the input of the loop, as after training, so that latents settle."""
    if model.config.input_injection == "adapter":
        half = torch.eye(model.config.hidden_size) / 2
        weight = model.model.adapter.weight
        weight.copy_(torch.cat((half, half), dim=1) + torch.randn_like(weight) / (5 * model.config.hidden_size**0.5))
    return model


def draw_bytes(*shape: int) -> torch.Tensor:
    """Random letters and spaces."""
    return torch.tensor(list(b"abc de")).index_select(0, torch.randint(0, 6, shape).flatten()).view(shape)


def select_rows(inputs: dict, rows) -> dict:
    """Some rows of a batch."""
    return {key: value[rows] if torch.is_tensor(value) else value for key, value in inputs.items()}


def take_row(inputs: dict, row: int) -> dict:
    """One row of a padded batch without its padding."""
    alone = select_rows(inputs, slice(row, row + 1))
    alone.pop("position_ids", None)
    alone["input_ids"] = alone["input_ids"][alone.pop("attention_mask").bool()][None]
    if "patch_lengths" in alone:
        alone["patch_lengths"] = alone["patch_lengths"][alone["patch_lengths"] > 0][None]
    return alone


def build_once(key: tuple, build: Callable[[], PreTrainedModel], seed: int = 0) -> PreTrainedModel:
    """A copy of the model that is built for a key from a seed, and the random state after that."""
    if key not in BUILT:
        torch.default_generator.manual_seed(
            seed
        )  # `torch.manual_seed` writes a stack trace for each absent accelerator
        BUILT[key] = build(), torch.get_rng_state()
    model, random_state = BUILT[key]
    torch.set_rng_state(random_state)
    return copy.deepcopy(model)


def calibrate(model: ThoughtbubblesForCausalLM, num_rows: int = 8) -> ThoughtbubblesForCausalLM:
    """A model whose thresholds serve budgets of 1 and 4."""
    input_ids = torch.randint(1, model.config.vocab_size - 1, (num_rows, model.config.max_position_embeddings))
    calibrate_forks(model, [{"input_ids": input_ids}], budgets=(1.0, 4.0))
    return model


@dataclass(frozen=True)
class Family:
    """A model that continues text, and which promises its documentation excepts it from."""

    name: str
    config: PreTrainedConfig
    is_causal: bool = True  # the published top-k rule is not: promises 3, 4 and 5 do not hold for it
    has_cache: bool = True
    model_class: type[PreTrainedModel] = ThoughtbubblesForCausalLM
    # The changes that give a smaller model of the same kind, to assist it.
    assistant_changes: dict = field(default_factory=lambda: {"num_hidden_layers": 2, "fork_layers": [1]})
    # The changes that leave no choice to rounding.
    undecided_changes: dict = field(default_factory=lambda: {"fork_budget": 8.0})
    # Fields that no model takes, on construction and set while loading, each with the error.
    bad_changes: tuple[tuple[dict, str], ...] = (
        ({"fork_layers": [9]}, "names layer 9"),
        ({"fork_budget": 0.5}, "`fork_budget` is 0.5"),
    )
    # How the promises call it.
    text_name: ClassVar[str] = "input_ids"  # the ids of which each has a row of logits
    row_lengths: ClassVar[tuple[int, ...]] = (17, 11, 9, 1)
    text_length: ClassVar[int] = 23
    num_new_tokens: ClassVar[int] = 11
    num_distinct: ClassVar[int] = 4  # tokens that generated text has, so that a lost context would show
    takes_vectors: ClassVar[bool] = True
    later_tokens_act_at_once: ClassVar[bool] = True  # a token changes the logits of its own position
    compute: ClassVar[tuple[dict, ...]] = ({},)  # arguments for less, the usual and more compute
    unsupported: ClassVar[tuple[str, ...]] = ()  # ways to generate
    compile_options: ClassVar[dict] = {"use_cache": False}  # arguments beside the lesson of a compiled training step
    # Training in bfloat16, and how far its probabilities may be from those of float32.
    bf16_changes: ClassVar[dict] = {}
    bf16_steps: ClassVar[int] = 12
    bf16_distance: ClassVar[float] = 0.02

    @property
    def is_encoder_decoder(self) -> bool:
        return self.text_name == "decoder_input_ids"

    @property
    def is_forking(self) -> bool:
        """Whether it forks by the published rule, which looks ahead."""
        return self.model_class is ThoughtbubblesForCausalLM and not self.is_causal

    @property
    def generates_uncached(self) -> bool:
        """Whether a cache can be compared with none."""
        return self.has_cache

    def supports(self, way: str) -> bool:
        """Whether it generates in this way: greedy, beam, static and so on."""
        return way not in self.unsupported and (self.has_cache or way != "static")

    @property
    def is_compiled(self) -> bool:
        """Whether its training step is compiled: that of many steps takes long."""
        slow = ("kept-autoregressive", "window-autoregressive", "static-memory-parallel")
        return not isinstance(self, Answerer) or self.name in slow

    @property
    def compile_changes(self) -> dict:
        """The changes that give the smallest model with each kind of layer: compiling takes as long as graphs are."""
        if self.model_class is GenericTransformerForCausalLM:
            return {"num_hidden_layers": 2}
        if self.model_class is LoopedThinkerForCausalLM:
            return {"num_hidden_layers": 1, "num_steps": 3}
        forks = [self.config.fork_layers[0] + i for i, _ in enumerate(self.config.fork_layers[:2])]
        return {"num_hidden_layers": max(forks, default=1) + 1, "fork_layers": forks}

    @property
    def compute_options(self) -> dict:
        """Fields of `GenerationConfig` that change how much the model computes."""
        if self.model_class is LoopedThinkerForCausalLM:
            return {"num_steps": 9}
        return {"fork_budget": 4.0} if self.config.to_dict().get("fork_rule") == "threshold" else {}

    @property
    def averages_once(self) -> bool:
        """Whether all terms of the loss are means over the same targets."""
        return True

    @property
    def auto_class(self) -> type:
        return AutoModelForSeq2SeqLM if self.is_encoder_decoder else AutoModelForCausalLM

    def build(self, seed: int = 0, **changes):
        """A model with reproducible weights whose forks decide by more than rounding, calibrated where it can be."""
        config = type(self.config)(**{**self.config.to_dict(), **changes})
        key = self.model_class, seed, config.to_json_string(use_diff=False)
        return build_once(key, lambda: self.make(config), seed)

    def make(self, config: PreTrainedConfig):
        """A model with weights from the current random state."""
        model = self.model_class(config).eval()
        if self.model_class is LoopedThinkerForCausalLM:
            return mix_inputs(model)
        if self.model_class is not ThoughtbubblesForCausalLM:
            return model
        sharpen_forks(model)
        is_calibrated = model.config.fork_layers and model.config.fork_rule == "threshold"
        return calibrate(model) if is_calibrated else model

    def draw(self, *shape: int) -> torch.Tensor:
        """Random ids."""
        return draw_ids(*shape)

    def change(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids of which each differs from the one given."""
        return ids % (VOCAB_SIZE - 2) + 1

    def ask(self, batch_size: int = 2, length: int | None = None) -> dict:
        """The inputs that generation starts from, without padding."""
        return {"input_ids": self.draw(batch_size, length or self.row_lengths[0])}

    def read(self, batch_size: int = 2, length: int = 7) -> dict:
        """The inputs that a forward pass needs beside them."""
        return {}

    def read_states(self, model: PreTrainedModel, **inputs) -> torch.Tensor:
        """The `last_hidden_state` of the base model of a head; one that mixes streams gives it on request alone."""
        is_mixing = not getattr(model, "has_linear_head", True)
        return model.model(**inputs, **({"output_streams": True} if is_mixing else {})).last_hidden_state

    def draw_rows(self) -> list[torch.Tensor]:
        """Inputs of unequal length, one a row."""
        return [self.draw(length) for length in self.row_lengths]

    def pad(self, rows: list[torch.Tensor], side: str, longest: int | None = None) -> dict:
        """Rows as one batch, from which generation starts."""
        longest = longest or max(map(len, rows))
        input_ids = torch.full((len(rows), longest), self.config.pad_token_id)
        mask = torch.zeros_like(input_ids)
        for i, row in enumerate(rows):
            span = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
            input_ids[i, span], mask[i, span] = row, 1
        return {"input_ids": input_ids, "attention_mask": mask}

    def complete(self, batch: dict) -> dict:
        """The inputs of a forward pass over a batch."""
        return {**batch, **self.read(len(batch["input_ids"]))}

    def draw_prompt(self, batch_size: int = 3) -> dict:
        """A prompt that generation leaves room to continue."""
        prompt = self.ask(batch_size, 9)
        return {**prompt, "attention_mask": torch.ones_like(prompt["input_ids"])}

    def draw_text(self) -> dict:
        """The inputs of a forward pass over a longer text."""
        return {**self.ask(2, self.text_length), **self.read()}

    def draw_readings(self) -> list[dict]:
        """Inputs that are read part after part: without padding, and with padding on the left."""
        return [self.ask(2, 19), self.complete(self.pad(self.draw_rows()[:2], "left"))]

    def draw_lesson(self, batch_size: int = 4, padding: str | None = None) -> dict:
        """Inputs with labels, of unequal length where there is padding."""
        batch = self.pad(self.draw_rows()[:batch_size], padding) if padding else self.ask(batch_size)
        is_real = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        is_scored = is_real & is_real.roll(1, 1) if padding == "left" else is_real  # padding predicts no first token
        return {**batch, "labels": batch["input_ids"].masked_fill(~is_scored, -100)}

    def count_targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels that are scored."""
        return (labels[:, 1:] != -100).sum()

    def mask_text(self, inputs: dict) -> torch.Tensor:
        """Which rows of the logits (B, T, V) are not those of padding."""
        name = self.text_name.replace("input_ids", "attention_mask")
        return inputs.get(name, torch.ones(inputs[self.text_name].shape)).bool()

    def take_part(self, inputs: dict, start: int, end: int) -> dict:
        """The inputs that read some tokens of the text after those before."""
        part = dict(inputs)
        mask_name = self.text_name.replace("input_ids", "attention_mask")
        for name, span in ((self.text_name, slice(start, end)), (mask_name, slice(0, end))):
            if name in part:
                part[name] = part[name][:, span]
        if "position_ids" in part:
            part["position_ids"] = part["position_ids"][:, start:end]
        return part

    def make_caches(self, config: PreTrainedConfig) -> list:
        """Empty caches of each kind; `None` stands for the model's own."""
        return [None, DynamicCache(config=config)]


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


NATIVE_LAYERS = {  # as those of Llama, Qwen2 and Qwen3
    "fork_rule": "threshold",
    "num_key_value_heads": 1,
    "feed_forward": "swiglu",
    "attention_normalization": "rms_norm",
    "mlp_normalization": "rms_norm",
    "final_normalization": "rms_norm",
    "attention_bias": False,
    "mlp_bias": False,
}
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


# Layers as those of native decoders, each unlike the published form.
NATIVE_PARTS = {
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "feed_forward": "mlp",
    "hidden_act": "gelu_new",
    "attention_normalization": "layer_norm",
    "mlp_normalization": "layer_norm",
    "final_normalization": "layer_norm",
    "attention_bias": "qkv",
    "mlp_bias": True,
    "use_qk_norm": True,
}


def make_thinker_config(**changes) -> LoopedThinkerConfig:
    """The configuration of an answering Thinker of tiny, distinct sizes."""
    sizes = {**THINKER_SIZES, "num_latents": 5, "max_latents": 7, "max_answer_length": 13}
    return LoopedThinkerConfig(**{**sizes, **changes})


def make_thinker_text_config(**changes) -> LoopedThinkerTextConfig:
    """The configuration of a text Thinker of tiny, distinct sizes."""
    return LoopedThinkerTextConfig(**{**THINKER_SIZES, **changes})


# A loop over plain layers, between others.
LOOP = {"skip_cross_attention": True, "input_injection": "adapter", "scale_embeddings": False}
LOOP |= {"num_prelude_layers": 1, "num_coda_layers": 1}


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
        "native",
        make_config(
            **NATIVE_LAYERS,
            fork_anchored=True,
            fork_score_channel="beside",
            fork_adapter_rank=5,
            initializer_range=0.2,
        ),
    ),
    Family(
        "native-qk-norm",
        make_config(
            **{**NATIVE_LAYERS, "attention_bias": "qkv", "use_qk_norm": True, "head_dim": 10},
            fork_anchored=True,
            fork_layers=[0, 2],
            fold="probability",
            initializer_range=0.2,
        ),
        assistant_changes={"num_hidden_layers": 1, "fork_layers": [0]},
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
    make_thinker("thinker-parts", **NATIVE_PARTS, position_embedding="learned", scale_embeddings=False),
    make_thinker("thinker-loop", **LOOP, num_key_value_heads=1, head_dim=6, use_qk_norm=True),
    make_thinker(
        "thinker-loop-exit",
        **{**LOOP, "num_prelude_layers": 0, "num_coda_layers": 2},
        **{**NATIVE_PARTS, "use_qk_norm": False, "mlp_bias": False, "feed_forward": "swiglu"},
        position_embedding="learned",
        num_steps=4,
        exit_threshold=0.35,
    ),
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


class EncoderDecoderFamily(Family):
    """A model that is given an input and writes a text of its own."""

    text_name = "decoder_input_ids"
    text_length = 11
    num_distinct = 3

    def read(self, batch_size: int = 2, length: int = 7) -> dict:
        return {"decoder_input_ids": self.draw(batch_size, length)}

    def draw_text(self) -> dict:
        return {**self.ask(), **self.read(2, self.text_length)}

    def count_targets(self, labels: torch.Tensor) -> torch.Tensor:
        return (labels != -100).sum()

    def make_caches(self, config: PreTrainedConfig) -> list:
        return [
            None,
            EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config)),
            EncoderDecoderCache(StaticCache(config=config, max_cache_len=13), DynamicCache()),
        ]


@dataclass(frozen=True)
class Answerer(EncoderDecoderFamily):
    """A looped Thinker that answers problems."""

    model_class: type[PreTrainedModel] = LoopedThinkerForConditionalGeneration
    assistant_changes: dict = field(default_factory=lambda: {"num_steps": 1})
    undecided_changes: dict = field(default_factory=dict)
    bad_changes: tuple[tuple[dict, str], ...] = (({"num_steps": 0}, "`num_steps` is 0"),)
    row_lengths = (9, 5, 1, 7)
    compute = ({"num_steps": 1}, {"num_steps": 3}, {"num_steps": 12})
    compute_options = {"num_steps": 9, "num_latents": 7}
    unsupported = ("chunked",)
    compile_changes = {"num_steps": 2, "num_hidden_layers": 1}
    compile_options = {}
    bf16_steps = 10
    bf16_distance = 0.05

    @property
    def is_parallel(self) -> bool:
        return self.config.readout == "parallel"

    def ask(self, batch_size: int = 2, length: int | None = None) -> dict:
        return {**super().ask(batch_size, length), **self.draw_memories(batch_size)}

    def pad(self, rows: list[torch.Tensor], side: str, longest: int | None = None) -> dict:
        return {**super().pad(rows, side, longest), **self.draw_memories(len(rows))}

    def draw_memories(self, batch_size: int) -> dict:
        """Static memories where the model has them."""
        size = self.config.static_memory_size
        return {"memory_ids": torch.randint(0, size, (batch_size, 2))} if size > 0 else {}

    def read(self, batch_size: int = 2, length: int = 7) -> dict:
        return {"answer_length": length} if self.is_parallel else super().read(batch_size, length)

    def mask_text(self, inputs: dict) -> torch.Tensor:
        length = inputs["labels"].shape[1] if "labels" in inputs else inputs.get("answer_length")
        is_known = length is not None
        return torch.ones(len(inputs["input_ids"]), length).bool() if is_known else super().mask_text(inputs)

    def draw_prompt(self, batch_size: int = 3) -> dict:
        return self.ask(batch_size)

    def draw_readings(self) -> list[dict]:
        return [{**problem, **self.read(2, 12)} for problem in (self.ask(), self.pad(self.draw_rows()[:2], "left"))]

    def draw_lesson(self, batch_size: int = 4, padding: str | None = None) -> dict:
        """Problems and answers of unequal length, with all terms of the loss that the model has."""
        problem = self.pad(self.draw_rows()[:batch_size], padding) if padding else self.ask(batch_size)
        lesson = {**problem, "labels": self.draw(batch_size, 7)}
        for row in range(batch_size):
            lesson["labels"][row, 7 - row :] = -100
        if self.config.num_probes > 0:
            lesson["probe_targets"] = torch.rand(batch_size, 7, self.config.num_probes)
        return lesson if self.is_parallel else {**lesson, "loop_decoder": True}


def make_answerers(name: str, **changes) -> list[Answerer]:
    """A variant with either read-out."""
    return [
        Answerer(f"{name}-{readout}", make_thinker_config(readout=readout, **changes), is_read, is_read)
        for readout, is_read in (("autoregressive", True), ("parallel", False))
    ]


ANSWERERS = [
    *make_answerers("plain"),
    *make_answerers("low-rank", low_rank=5, self_attention_mlp=True, num_hidden_layers=1),
    *make_answerers("skip", skip_self_attention=True),
    *make_answerers("window", num_memory_steps=2, num_read_steps=1),
    *make_answerers("static-memory", static_memory_size=3),
    *make_answerers("output-steps", num_output_steps=2, tie_word_embeddings=False),
    *make_answerers("parts", **NATIVE_PARTS),
    *make_answerers("kept", num_kept_outputs=3, num_probes=2, position_frequencies="single"),
]


TEXTS = (
    "To be, or not to be: that is the question.",
    "naïve café, Приве́т мир, 漢字かな交じり文, नमस्ते, שלום",
    "👩‍👩‍👧 family\r\nand\tNUL \0 here",
    "x" * 41,
)


@dataclass(frozen=True)
class BytePatchFamily(Family):
    """A byte-patch model; where its patches are tokens, their lengths are passed with the bytes."""

    model_class: type[PreTrainedModel] = BytePatchForCausalLM
    assistant_changes: dict = field(default_factory=lambda: {"core_num_hidden_layers": 1})
    undecided_changes: dict = field(default_factory=dict)
    bad_changes: tuple[tuple[dict, str], ...] = ()
    num_new_tokens = 29
    takes_vectors = False
    unsupported = ("static", "static-beam")
    compile_changes = {"num_hidden_layers": 2, "core_num_hidden_layers": 1}
    compile_options = {}
    bf16_changes = {"initializer_range": 0.02}
    bf16_steps = 20

    @property
    def generates_uncached(self) -> bool:
        return self.config.patching != "token"

    @property
    def averages_once(self) -> bool:
        return self.config.reconstruction_loss_weight == 0  # which also scores the first byte

    @property
    def later_tokens_act_at_once(self) -> bool:
        return self.config.decoder != "parallel"

    def draw(self, *shape: int) -> torch.Tensor:
        return draw_bytes(*shape)

    def change(self, ids: torch.Tensor) -> torch.Tensor:
        num_ids = (
            256 if self.config.patching == "token" else 259
        )  # special tokens end a patch, so they would move ends
        return (ids + torch.randint(1, num_ids, ids.shape)) % num_ids

    def measure(self, rows: list[list[int]]) -> dict:
        """Patch lengths of the rows, for a model that needs them: three bytes, then one, and so on."""
        if self.config.patching != "token":
            return {}
        measured = []
        for row in rows:
            full, rest = divmod(len(row), 4)
            measured.append([3, 1] * full + [part for part in (min(rest, 3),) if part])
        longest = max(map(len, measured))
        return {"patch_lengths": torch.tensor([patches + [0] * (longest - len(patches)) for patches in measured])}

    def ask(self, batch_size: int = 2, length: int | None = None) -> dict:
        asked = super().ask(batch_size, length or 23)
        return {**asked, **self.measure(asked["input_ids"].tolist())}

    def draw_rows(self) -> list[torch.Tensor]:
        return [torch.tensor(list(text.encode())) for text in TEXTS]

    def pad(self, rows: list[torch.Tensor], side: str, longest: int | None = None) -> dict:
        return {**super().pad(rows, side, longest), **self.measure(rows)}

    def draw_text(self) -> dict:
        return {"input_ids": self.draw_rows()[1][None], **self.measure(self.draw_rows()[1:2])}

    def take_part(self, inputs: dict, start: int, end: int) -> dict:
        part = super().take_part(inputs, start, end)
        if part.pop("patch_lengths", None) is not None and start == 0:
            part |= self.measure(part["input_ids"].tolist())
        return part

    def make_caches(self, config: PreTrainedConfig) -> list:
        return [None, PatchCache(config)]

    def draw_prompt(self, batch_size: int = 3) -> dict:
        """Rows that end at different bytes of their patches, of different lengths."""
        if batch_size == 1:
            return self.pad([self.draw(19)], "left")
        return self.pad([torch.tensor(list(text.encode())) for text in ("to be, or", "a b c de", "é漢")], "left")


def make_byte_patch(name: str, bad_changes=(), **changes) -> BytePatchFamily:
    """A byte-patch model of tiny, distinct sizes."""
    sizes = {
        **BYTE_PATCH_SIZES,
        "num_hidden_layers": 3,
        "max_position_embeddings": 151,
        "pad_token_id": 258,
        "initializer_range": 0.3,
    }
    return BytePatchFamily(name, BytePatchConfig(**{**sizes, **changes}), bad_changes=bad_changes)


BYTE_VARIANTS = [
    make_byte_patch(
        "space",
        bad_changes=(
            ({"max_patch_bytes": 3}, "`max_patch_bytes` is 3"),
            ({"patching": "fixed", "patch_size": 17}, "`patch_size` 17 is larger"),
            ({"hidden_size": 12, "num_attention_heads": 5}, "`hidden_size` 12 is not a multiple"),
            ({"reconstruction_loss_weight": 1.0}, "`reconstruction_loss_weight` is 1.0"),
            ({"decoder": "parallel", "num_draft_bytes": 2}, "`num_draft_bytes` is 2"),
            ({"is_causal": False}, "`is_causal` is False"),
            ({"hidden_act": "swish"}, '`hidden_act` is "swish"'),
            ({"num_key_value_heads": 1}, "or set `core_num_key_value_heads`"),
            ({"core_num_key_value_heads": 2}, "is not a multiple of `core_num_key_value_heads`"),
            ({"core_num_attention_heads": 8, "core_num_key_value_heads": 8}, "is odd; rotary positions"),
            ({"byte_layers": "published", "encoder_num_hidden_layers": 1}, "`encoder_num_hidden_layers` is 1"),
        ),
    ),
    make_byte_patch("space-parallel", decoder="parallel", reconstruction_loss_weight=0.5),
    make_byte_patch(
        "fixed", patching="fixed", position_embedding="relative", core_num_key_value_heads=1, num_draft_bytes=3
    ),
    make_byte_patch("fixed-parallel", patching="fixed", decoder="parallel", position_embedding="learned"),
    make_byte_patch(
        "token", patching="token", feed_forward="swiglu", position_embedding="sinusoidal", num_draft_bytes=5
    ),
    make_byte_patch("token-parallel", patching="token", decoder="parallel", share_feed_forward=True),
    make_byte_patch("published", decoder="parallel", byte_layers="published", hidden_act="learned"),
    make_byte_patch(
        "layer-norm", attention_normalization="layer_norm", attention_bias=True, mlp_bias=True, num_draft_bytes=3
    ),
]


@dataclass(frozen=True)
class NextThoughtFamily(EncoderDecoderFamily):
    """A next-thought model."""

    model_class: type[PreTrainedModel] = NextThoughtForConditionalGeneration
    assistant_changes: dict = field(default_factory=lambda: {"num_decoder_layers": 1})
    undecided_changes: dict = field(default_factory=dict)
    bad_changes: tuple[tuple[dict, str], ...] = ()
    # Lengths at which padding would change what is kept, were it counted.
    row_lengths = (17, 5, 9, 10)
    num_new_tokens = 23
    compute = ({"num_thoughts": 1}, {"num_thoughts": 3})
    compute_options = {"num_thoughts": 4}
    unsupported = ("chunked",)
    compile_changes = {}
    bf16_changes = {"initializer_range": 0.1}
    bf16_steps = 20
    bf16_distance = 0.1

    @property
    def compile_options(self) -> dict:
        return {"num_thoughts": self.config.num_thoughts}

    def build(self, seed: int = 0, **changes):
        if "pad_token_id" in changes:
            changes = {"decoder_start_token_id": None, **changes}  # it follows the padding
        return super().build(seed, **changes)

    def draw_prompt(self, batch_size: int = 4) -> dict:
        return self.pad(self.draw_rows()[:batch_size], "left")

    def draw_readings(self) -> list[dict]:
        """Inputs that are read part after part; any part may be padding."""
        thought, text = self.pad(self.draw_rows()[:2], "left"), self.read(2, 12)
        mask = torch.ones(2, 12, dtype=torch.long)
        mask[1, :3] = 0
        return [{**thought, **text}, {**thought, **text, "decoder_attention_mask": mask}, {**self.ask(2, 9), **text}]

    def draw_lesson(self, batch_size: int = 4, padding: str | None = "right") -> dict:
        """Thoughts and next thoughts of unequal length."""
        thought = self.pad(self.draw_rows()[:batch_size], padding) if padding else self.ask(batch_size, 13)
        lesson = {**thought, "labels": self.draw(batch_size, 8)}
        for row in range(batch_size):
            lesson["labels"][row, 8 - row :] = -100
        return lesson

    def mask_text(self, inputs: dict) -> torch.Tensor:
        is_lesson = "labels" in inputs
        return torch.ones(inputs["labels"].shape).bool() if is_lesson else super().mask_text(inputs)


def make_next_thought(name: str, bad_changes=(), **changes) -> NextThoughtFamily:
    """A next-thought model of tiny, distinct sizes."""
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 24,
        "pooling_sizes": [36, 20],
        "removed_shares": [0.3, 0.4],
        "num_decoder_layers": 2,
        "encoder_attention_heads": 3,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 47,
        "decoder_ffn_dim": 31,
        "num_latent_tokens": 5,
        "max_position_embeddings": 37,
        "pad_token_id": 0,
        "eos_token_id": 60,
        "initializer_range": 0.15,
    }
    return NextThoughtFamily(name, NextThoughtConfig(**{**sizes, **changes}), bad_changes=bad_changes)


THOUGHT_VARIANTS = [
    make_next_thought(
        "plain",
        bad_changes=(
            ({"encoder_attention_heads": 5}, "`hidden_size` 24 is not a multiple of `encoder_attention_heads`"),
            (
                {"decoder_key_value_heads": 3},
                "`decoder_attention_heads` 4 is not a multiple of `decoder_key_value_heads`",
            ),
            ({"pooling_sizes": []}, "need one entry for each pooling layer"),
            ({"pooling_sizes": [36]}, "need one entry for each pooling layer"),
            ({"pooling_sizes": [35, 20]}, "`num_pooling_heads` 12 does not divide 35"),
            ({"removed_shares": [0.5, 1.0]}, "`removed_shares` holds 1.0"),
            ({"removed_shares": [-0.1, 0.5]}, "`removed_shares` holds -0.1"),
            ({"removed_shares": [0.9, 0.9]}, "leave no token of a thought"),
            ({"core": "block_linear"}, "`core_block_sizes` holds 30, which does not divide the `latent_size` 20"),
            ({"core": "block_linear", "core_block_sizes": []}, r"`core_block_sizes` is \[\]"),
            ({"hidden_act": "swish"}, '`hidden_act` is "swish"'),
            ({"num_thoughts": 0}, "`num_thoughts` is 0"),
            ({"num_latent_tokens": 0}, "`num_latent_tokens` is 0"),
            ({"dropout": 1.0}, "`dropout` is 1.0"),
            ({"hidden_size": 0}, "`hidden_size` is 0"),
            ({"initializer_range": 0}, "`initializer_range` is 0"),
        ),
    ),
    make_next_thought(
        "sinusoidal-biased",
        position_embedding="sinusoidal",
        decoder_key_value_heads=2,
        encoder_key_value_heads=1,
        attention_normalization="layer_norm",
        mlp_normalization="layer_norm",
        attention_bias=True,
        mlp_bias=True,
        feed_forward="mlp",
    ),
    make_next_thought(
        "blocks-tied",
        position_embedding="none",
        core="block_linear",
        core_block_sizes=[4, 10, 2],
        tie_word_embeddings=True,
        feed_forward="mlp",
        hidden_act="learned",
        initializer_range=0.3,
    ),
    make_next_thought(
        "deep",
        pooling_sizes=[18, 33, 7],
        removed_shares=[0, 0.6, 0.25],
        num_pooling_heads=3,
        num_encoder_layers=2,
        num_decoder_layers=3,
        num_thoughts=2,
        mlp_normalization="none",
        initializer_range=0.1,
    ),
]
