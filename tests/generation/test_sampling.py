# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The sampling loop: parity with xlstm-jax, agreement with `generate`, seeds, dtypes, sharding and errors."""

import json
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hf_thoughtbubbles import BytePatchConfig, BytePatchForCausalLM
from hf_thoughtbubbles.generation.sampling import (
    generate_tokens,
    greedy_sampling,
    make_rank_generator,
    temperature_sampling,
)
from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME
from tests.families import FAMILIES, draw_ids
from tests.training.processes import start_forked


FOLDER = Path(os.environ.get("SAMPLING_PARITY_FOLDER", Path(__file__).parents[1] / "parity" / "sampling"))
CASES = sorted(FOLDER.glob("*.npz"))
FACTS = json.loads((FOLDER / "facts.json").read_text())["facts"]


class Toy(torch.nn.Module):
    """The original's toy: logits of the last token, or of a state that every token changes."""

    def __init__(self, table: torch.Tensor, config: dict):
        super().__init__()
        self.table, self.is_stateful = table, config["kind"] == "cache"
        self.mult, self.modulus = config.get("mult"), config.get("M")
        self.num_calls = 0

    def forward(self, input_ids, past_key_values=None, use_cache=True):
        self.num_calls += 1
        if not self.is_stateful:
            return SimpleNamespace(logits=self.table[input_ids], past_key_values=past_key_values)
        state = torch.zeros(len(input_ids), dtype=torch.long) if past_key_values is None else past_key_values
        logits = []
        for token in input_ids.T:
            state = (self.mult * state + token + 1) % self.modulus
            logits.append(self.table[state])
        return SimpleNamespace(logits=torch.stack(logits, dim=1), past_key_values=state)


@pytest.mark.parametrize("sample", [greedy_sampling, partial(temperature_sampling, temperature=0.0)])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_array_of_the_original_is_reproduced(path, sample):
    arrays, config = np.load(path), json.loads(path.with_suffix(".json").read_text())["config"]
    given = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    toy = Toy(given["table"], config)
    tokens, is_valid = generate_tokens(
        toy,
        given["prefix_tokens"].long(),
        given.get("prefix_mask"),
        cache=given.get("init_cache"),
        max_length=config["max_length"],
        eod_token_id=config["eod"],
        token_sample_fn=sample,
    )
    assert torch.equal(tokens, given["tokens"].long())
    assert torch.equal(is_valid, given["is_valid"].bool())


def test_cases_exist():
    assert len(CASES) >= 9


def test_facts_of_the_original_hold():
    tied = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    assert greedy_sampling(tied).item() == FACTS["greedy tie -> first index"]
    for temperature, name in (
        (0.0, "temperature 0 -> greedy"),
        (-0.0, "temperature -0.0 -> greedy"),
        (0, "temperature int 0"),
    ):
        assert temperature_sampling(tied, temperature=temperature).item() == FACTS[name]
    generator = torch.Generator().manual_seed(0)
    for temperature in (0.5, 1.0, 2.0):
        fact = FACTS[f"temperature {temperature}"]
        logits = torch.tensor(fact["logits"]).expand(20000, -1)
        drawn = temperature_sampling(logits, generator, temperature)
        shares = torch.bincount(drawn, minlength=4) / 20000
        np.testing.assert_allclose(shares, fact["softmax(logits/T)"], atol=0.012)
    toy = Toy(torch.eye(3), {"kind": "table"})
    tokens, is_valid = generate_tokens(toy, torch.tensor([[2]]), max_length=1)
    assert [tokens.tolist(), is_valid.tolist()] == FACTS["max_length 1"]


def make_native(name: str):
    torch.manual_seed(0)
    if name == "gpt2":
        sizes = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 37, "initializer_range": 0.3}
        return GPT2LMHeadModel(GPT2Config(vocab_size=61, bos_token_id=None, eos_token_id=None, **sizes)).eval()
    sizes = {"hidden_size": 24, "intermediate_size": 47, "num_hidden_layers": 2, "num_attention_heads": 3}
    return LlamaForCausalLM(LlamaConfig(vocab_size=61, initializer_range=0.3, **sizes)).eval()


def make_byte_patch():
    torch.manual_seed(0)
    sizes = {"core_hidden_size": 24, "core_num_hidden_layers": 2, "core_num_attention_heads": 3, "hidden_size": 16}
    return BytePatchForCausalLM(BytePatchConfig(initializer_range=0.3, **sizes)).eval()


MODELS = {
    **{family.name: family.build for family in FAMILIES},
    **{name: partial(make_native, name) for name in ("gpt2", "llama")},
    "byte-patch": make_byte_patch,
}


@pytest.mark.parametrize("name", MODELS)
def test_rows_of_any_length_go_on_as_generate_continues_each_alone(name):
    model, lengths = MODELS[name]().train(), (9, 4, 6)
    prefix = draw_ids(3, 9)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    tokens, is_valid = generate_tokens(model, prefix, mask, max_length=17, token_sample_fn=greedy_sampling)
    assert model.training and bool(is_valid.all())
    model.eval()
    for row, length in enumerate(lengths):
        prompt = prefix[row : row + 1, :length]
        expected = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_length=17, do_sample=False, eos_token_id=-1
        )
        assert torch.equal(tokens[row], expected[0])


def test_a_row_ends_with_its_end_of_document_and_the_loop_when_all_have():
    model, prefix = MODELS["threshold"](), draw_ids(2, 5)
    whole, _ = generate_tokens(model, prefix, max_length=20, token_sample_fn=greedy_sampling)
    end = int(whole[0, 8])
    tokens, is_valid = generate_tokens(model, prefix, max_length=20, eod_token_id=end, token_sample_fn=greedy_sampling)
    for row in range(2):
        written = whole[row, 5:].tolist()
        stop = 5 + written.index(end) if end in written else 19
        assert torch.equal(tokens[row, : stop + 1], whole[row, : stop + 1])
        assert is_valid[row].tolist() == [index <= stop for index in range(20)]
        assert not tokens[row, stop + 1 :].any()
    toy = Toy(torch.eye(4)[[1, 1, 1, 1]], {"kind": "table"})
    generate_tokens(toy, torch.tensor([[2, 3]]), max_length=50, eod_token_id=1, token_sample_fn=greedy_sampling)
    assert toy.num_calls == 1


def test_the_prompt_is_read_in_one_pass_and_a_cache_is_read_on_from():
    model, ids = MODELS["gpt2"](), draw_ids(2, 11)
    lengths = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    whole, _ = generate_tokens(model, ids, max_length=15, token_sample_fn=greedy_sampling)
    assert lengths == [11, 1, 1, 1]
    cache = DynamicCache()
    model(input_ids=ids[:, :6], **{CACHE_NAME: cache})
    rest, _ = generate_tokens(model, ids[:, 6:], cache=cache, max_length=9, token_sample_fn=greedy_sampling)
    assert torch.equal(rest, whole[:, 6:])


@pytest.mark.parametrize("name", ["thoughtbubbles", "generic-bidirectional"])
def test_a_cache_with_tokens_is_refused_by_models_that_cannot_cache(name):
    model, ids, cache = MODELS[name](), draw_ids(2, 3), DynamicCache()
    whole, _ = generate_tokens(model, ids, max_length=5, token_sample_fn=greedy_sampling)
    same, _ = generate_tokens(model, ids, cache=cache, max_length=5, token_sample_fn=greedy_sampling)
    assert torch.equal(same, whole)
    cache.update(*torch.ones(2, 2, 3, 7, 8), 0)  # keys and values of 7 tokens
    with pytest.raises(ValueError, match="`cache` holds 7 tokens, but this model cannot cache"):
        generate_tokens(model, ids, cache=cache, max_length=5)


def test_every_module_keeps_its_mode():
    model, was_training = MODELS["llama"]().train(), []
    frozen = model.model.layers[0].eval()
    model.register_forward_pre_hook(lambda module, args: was_training.append(module.training))
    modes = {name: module.training for name, module in model.named_modules()}
    generate_tokens(model, draw_ids(2, 3), max_length=5)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.training and not frozen.training and set(was_training) == {False}


def test_one_seed_reproduces_and_ranks_differ():
    model, prefix = MODELS["gpt2"](), draw_ids(2, 3)

    def draw(seed: int, rank: int) -> torch.Tensor:
        return generate_tokens(model, prefix, max_length=30, generator=make_rank_generator(seed, rank=rank))[0]

    assert torch.equal(draw(0, 0), draw(0, 0))
    assert not torch.equal(draw(0, 0), draw(0, 1))
    assert not torch.equal(draw(0, 0), draw(1, 0))
    torch.manual_seed(5)
    first, second = (generate_tokens(model, prefix, max_length=30)[0] for _ in range(2))
    torch.manual_seed(5)
    assert torch.equal(generate_tokens(model, prefix, max_length=30)[0], first)
    assert not torch.equal(first, second)


def test_parameters_are_cast_once_and_come_back_unchanged():
    model, prefix = MODELS["gpt2"](), draw_ids(2, 3)
    before, seen = {name: p.clone() for name, p in model.named_parameters()}, []
    model.register_forward_pre_hook(lambda module, args: seen.append(next(module.parameters()).dtype))
    tokens, _ = generate_tokens(
        model, prefix, max_length=9, param_dtype=torch.bfloat16, token_sample_fn=greedy_sampling
    )
    assert set(seen) == {torch.bfloat16} and tokens.shape == (2, 9)
    assert model.lm_head.weight is model.transformer.wte.weight
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def run_sharded(rank: int, folder: str):
    """One of two processes: the sharded model writes the same tokens, gathered once or at every layer."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        model = MODELS["generic"]()
        torch.manual_seed(3)
        prefix = draw_ids(3, 5)
        expected = generate_tokens(model, prefix, max_length=12, token_sample_fn=greedy_sampling)[0]
        mesh = init_device_mesh("cpu", (2,))
        for layer in model.model.core.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        layer, was_gathered = model.model.core.layers[0], []
        original = layer.unshard
        layer.unshard = lambda *args, **kwargs: was_gathered.append(True) or original(*args, **kwargs)
        for once in (False, True):
            tokens, _ = generate_tokens(
                model, prefix, max_length=12, token_sample_fn=greedy_sampling, gather_params_once=once
            )
            assert torch.equal(tokens, expected)
            assert all(isinstance(p, DTensor) for p in layer.parameters()), "sharded again"
        assert len(was_gathered) == 1
        torch.manual_seed(0)
        drawn = generate_tokens(model, prefix, max_length=12)[0]
        both = [torch.empty_like(drawn) for _ in range(2)]
        dist.all_gather(both, drawn)
        assert not torch.equal(*both), "ranks draw different numbers from one seed"
        with pytest.raises(ValueError, match="a model that FSDP2 shards"):
            generate_tokens(model, prefix, max_length=12, param_dtype=torch.bfloat16)
        model.train()(prefix, labels=prefix).loss.backward()  # training goes on
        assert all(p.grad is not None for p in model.parameters())
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_a_sharded_model_writes_the_same_tokens(tmp_path):
    start_forked(run_sharded, str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prefix_tokens": torch.ones(2, 3, 4).long()}, "`prefix_tokens` has shape"),
        ({"prefix_tokens": torch.ones(2, 0).long()}, "`prefix_tokens` has shape"),
        ({"prefix_tokens": torch.ones(2).long(), "prefix_mask": torch.ones(2).bool()}, "both must be"),
        ({"prefix_tokens": torch.ones(2, 3).long(), "prefix_mask": torch.ones(2, 2).bool()}, "both must be"),
        ({"prefix_tokens": torch.ones(2, 4).long(), "max_length": 3}, "The prefix is 4 tokens long"),
        ({"prefix_tokens": torch.ones(2, 4).long(), "max_length": 39}, "`max_position_embeddings` is 37"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate_tokens(MODELS["gpt2"](), **{"max_length": 9, **arguments})


def test_texts_go_on_where_positions_are_computed():
    tokens, is_valid = generate_tokens(MODELS["threshold"](), draw_ids(2, 5), max_length=60)
    assert tokens.shape == (2, 60) and is_valid.all()


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_invalid_temperatures_are_refused(temperature):
    with pytest.raises(ValueError, match="`temperature` is"):
        temperature_sampling(torch.zeros(1, 3), temperature=temperature)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (5, 2, 3)])
@pytest.mark.parametrize("temperature", [0.0, 1e-3])
def test_one_token_is_drawn_for_each_row_of_any_number_of_axes(shape, temperature):
    logits = torch.rand(shape)
    assert torch.equal(temperature_sampling(logits, temperature=temperature), logits.argmax(dim=-1))


@pytest.mark.parametrize("temperature", [1e-38, 1e-46, 5e-324])
def test_the_lowest_temperatures_are_greedy(temperature):
    logits = torch.tensor([[1.0, 3.0, 12.0], [12.0, -3e38, float("-inf")]])
    assert temperature_sampling(logits, temperature=temperature).tolist() == [2, 0]


def test_the_highest_temperature_makes_all_tokens_but_impossible_ones_equally_likely():
    logits = torch.tensor([[1.0, float("-inf"), 12.0]]).expand(2000, -1)
    drawn = temperature_sampling(logits, torch.Generator().manual_seed(0), temperature=1e300)
    assert set(drawn.tolist()) == {0, 2} and abs(drawn.float().mean() - 1) < 0.1
