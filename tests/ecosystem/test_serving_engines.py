# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Models built and called as the transformers backends of vLLM and SGLang do, without these packages.

Both build the base model without memory for its weights, replace its linear layers and embeddings by their own, load
weights by name, and call it for one flat row of new tokens of all requests. Their attention function finds its state
in the argument `attention_instances`, by the number of the layer, and stores keys and values itself.
"""

import contextlib
import re

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import AttentionInterface, AutoConfig, AutoModel

from tests.attention_functions import attend
from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS, draw_ids


SERVED = ("gpt-rope", "gpt-learned", "generic", "generic-gpt2", "generic-shared")
SERVED = [family for family in FAMILIES if family.name in SERVED]
REFUSED = ("thoughtbubbles", "copy", "thinker", "thinker-loop", "generic-relative", "plain-parallel", "space", "plain")
REFUSED = [family for family in (*FAMILIES, *ANSWERERS, *BYTE_VARIANTS, *THOUGHT_VARIANTS) if family.name in REFUSED]
# Linear layers that engines split over devices where a configuration has no plan of its own.
PLAN = {".*[qkv]_proj": "colwise", ".*(up|gate)_proj": "colwise", ".*(o|down)_proj": "rowwise"}


def by(families):
    return pytest.mark.parametrize("family", families, ids=lambda family: family.name)


@contextlib.contextmanager
def build_without_memory():
    """Parameters of modules built here have no memory; their buffers do."""
    register = nn.Module.register_parameter

    def register_on_meta(module, name, parameter):
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "register_parameter", register_on_meta)
        yield


class EngineLinear(nn.Module):
    """A linear layer of an engine, which returns a tuple and knows how it is split; no subclass of `nn.Linear`."""

    def __init__(self, linear: nn.Linear, style: str):
        super().__init__()
        self.style = style
        self.weight = nn.Parameter(torch.empty(linear.out_features, linear.in_features))
        self.bias = nn.Parameter(torch.empty(linear.out_features)) if linear.bias is not None else None

    def forward(self, states):
        return F.linear(states, self.weight, self.bias)


class EngineEmbedding(nn.Module):
    """An embedding of an engine, with rows up to a multiple of 64."""

    def __init__(self, vocab_size: int, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(-(-vocab_size // 64) * 64, hidden_size))

    def forward(self, input_ids):
        return F.embedding(input_ids, self.weight)


class EngineAttention:
    """Keys and values of all requests in a layer; `lengths` are the new tokens of each request in the flat row."""

    def __init__(self, config):
        self.heads = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.scale, self.stored, self.requests, self.lengths = config.head_dim**-0.5, {}, [], []

    def forward(self, query, key, value):
        """States `(T, N * H)` of the flat row to attention output `(T, N * H)`."""
        parts = [states.unflatten(-1, (-1, self.heads[2])).split(self.lengths) for states in (query, key, value)]
        assert [part[0].shape[1] for part in parts] == [self.heads[0], self.heads[1], self.heads[1]]
        outputs = []
        for request, one, *new in zip(self.requests, *parts, strict=True):
            old = self.stored.get(request, [states[:0] for states in new])
            self.stored[request] = [torch.cat(pair) for pair in zip(old, new, strict=True)]
            heads = [states.transpose(0, 1)[None] for states in (one, *self.stored[request])]
            mask = torch.ones(len(one), heads[1].shape[2], dtype=torch.bool).tril(heads[1].shape[2] - len(one))
            outputs.append(attend(*heads, mask, self.scale)[0].flatten(1))
        return torch.cat(outputs)


def attend_for_engine(module, query, key, value, attention_mask, scaling=None, attention_instances=None, **kwargs):
    """The attention function of an engine: flat states without a batch, and a flat result."""
    assert attention_mask is None
    instance = attention_instances[module.layer_idx]
    instance.scale = scaling
    query, key, value = (states.transpose(1, 2).reshape(states.shape[2], -1) for states in (query, key, value))
    return instance.forward(query, key, value), None


# By a linear layer of the engine whose outputs, or inputs, are whole on each device or not; others are not split.
ENGINE_STYLES = {"colwise", "rowwise", "colwise_gather_output", "rowwise_split_input"}
AttentionInterface.register("engine", attend_for_engine)


class Engine(nn.Module):
    """A causal model over the base model of a checkpoint."""

    def __init__(self, folder):
        super().__init__()
        config = AutoConfig.from_pretrained(folder)
        self.config = config.get_text_config()
        self.config._attn_implementation = "engine"
        with torch.device("meta"):
            model_class = type(AutoModel.from_config(config))
        assert model_class.is_backend_compatible()
        with build_without_memory():
            self.model = AutoModel.from_config(config, dtype=torch.float32)
        self.plan = {f"model.{pattern}": style for pattern, style in (self.model.tp_plan or PLAN).items()}
        self.replace(self.model, "model")
        self.instances = {i: EngineAttention(self.config) for i in range(self.config.num_hidden_layers)}
        self.model.set_input_embeddings(EngineEmbedding(self.config.vocab_size, self.config.hidden_size))
        self.lm_head = EngineEmbedding(self.config.vocab_size, self.config.hidden_size)
        if config.tie_word_embeddings:
            self.lm_head = self.model.get_input_embeddings()
        self.lm_head_bias = None
        self.give_memory(self.model)

    def replace(self, module: nn.Module, prefix: str):
        """Replace all linear layers; the plan says by regular expressions of names how each is split."""
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                pattern = next((pattern for pattern in self.plan if re.match(pattern, f"{prefix}.{name}")), None)
                setattr(module, name, EngineLinear(child, self.plan.get(pattern, "replicate")))
            else:
                self.replace(child, f"{prefix}.{name}")

    def give_memory(self, module: nn.Module):
        """Memory that holds no numbers yet, for the weights that are not the engine's own."""
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.device.type == "meta":
                setattr(module, name, nn.Parameter(torch.full(parameter.shape, torch.nan)))
        for child in module.children():
            self.give_memory(child)

    @torch.no_grad()
    def load(self, weights: dict[str, torch.Tensor]):
        """Load weights by name; every name of the checkpoint and every weight of the model is met."""
        own = dict(self.named_parameters(remove_duplicate=False))
        for name, weight in weights.items():
            if name == "lm_head.bias":
                self.lm_head_bias = weight
                continue
            own.pop(name)[: len(weight)] = weight
        left = {name for name in own if not (name == "lm_head.weight" and self.config.tie_word_embeddings)}
        assert not left

    @torch.no_grad()
    def forward(self, requests: dict[str, tuple[list[int], int]]) -> dict[str, torch.Tensor]:
        """Logits of the new tokens of each request, given with the number of those before."""
        lengths = [len(ids) for ids, _ in requests.values()]
        for instance in self.instances.values():
            instance.requests, instance.lengths = list(requests), lengths
        input_ids = torch.tensor([[token for ids, _ in requests.values() for token in ids]])
        positions = torch.cat([torch.arange(num_past, num_past + len(ids)) for ids, num_past in requests.values()])
        outputs = self.model(
            input_ids=input_ids,
            position_ids=positions[None],
            use_cache=False,
            attention_instances=self.instances,
            return_dict=False,
        )
        states = outputs[0][0]
        logits = F.linear(states, self.lm_head.weight[: self.config.vocab_size], self.lm_head_bias)
        return dict(zip(requests, logits.split(lengths), strict=True))


def build(family, folder, **changes) -> tuple[nn.Module, Engine]:
    """A model and the engine over its checkpoint."""
    model = family.build(**changes)
    model.save_pretrained(folder)
    engine = Engine(folder).eval()
    engine.load(load_file(folder / "model.safetensors"))
    return model, engine


@by(SERVED)
def test_a_flat_row_of_requests_gives_the_logits_of_each_alone(family, tmp_path):
    """Three prompts, then one new token of two, a part of the third, and another prompt."""
    model, engine = build(family, tmp_path)
    texts = {name: draw_ids(length).tolist() for name, length in {"a": 19, "b": 5, "c": 29, "d": 7}.items()}
    spans = [{"a": (0, 18), "b": (0, 4), "c": (0, 20)}, {"a": (18, 19), "b": (4, 5), "c": (20, 29), "d": (0, 7)}]
    assert sum(end - start for start, end in spans[0].values()) > model.config.max_position_embeddings
    for step in spans:
        logits = engine({name: (texts[name][start:end], start) for name, (start, end) in step.items()})
        for name, (start, end) in step.items():
            alone = model(torch.tensor([texts[name][:end]])).logits[0, start:]
            torch.testing.assert_close(logits[name], alone, atol=1e-5, rtol=1e-4)
    styles = {module.style for module in engine.modules() if isinstance(module, EngineLinear)}
    assert {"colwise", "rowwise"} <= styles <= ENGINE_STYLES, "every linear layer is in the plan"


@pytest.mark.slow
@by([family for family in SERVED if family.name in ("gpt-rope", "generic")])
def test_the_base_model_is_one_graph_for_any_number_of_tokens(family, tmp_path):
    """Engines compile it, with their attention as one operation of the graph."""
    model, engine = build(family, tmp_path, num_hidden_layers=1)
    head_dim = model.config.head_dim

    class CausalAttention:
        def forward(self, query, key, value):
            heads = [states.unflatten(-1, (-1, head_dim)).transpose(0, 1)[None] for states in (query, key, value)]
            output = F.scaled_dot_product_attention(*heads, is_causal=True, scale=self.scale, enable_gqa=True)
            return output[0].transpose(0, 1).flatten(1)

    engine.instances = {i: CausalAttention() for i in engine.instances}
    torch._dynamo.reset()
    engine.model = torch.compile(engine.model, fullgraph=True, dynamic=True, backend="eager")
    for length in (9, 14):
        input_ids = draw_ids(1, length)
        logits = engine({"a": (input_ids[0].tolist(), 0)})["a"]
        torch.testing.assert_close(logits, model(input_ids).logits[0], atol=1e-5, rtol=1e-4)


@by(REFUSED)
def test_a_model_that_an_engine_cannot_run_says_so_before_it_is_built(family):
    config = type(family.config)(**family.config.to_dict())
    config._attn_implementation = "engine"
    base_class = type(family.build().base_model)
    if base_class.is_backend_compatible():  # the class serves other configurations
        with pytest.raises(ValueError, match='`attn_implementation="engine"` was passed, but it reads no masks'):
            AutoModel.from_config(config)
    assert not family.build()._supports_attention_backend
