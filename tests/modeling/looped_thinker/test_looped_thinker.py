# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Looped Thinkers: the memory of a step, exit, caches over steps, and two model types over one block.

The promises of all families are in tests/contract.
"""

import copy
import inspect
import math

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    StaticCache,
)
from transformers.utils.generic import find_labels

from hf_thoughtbubbles import (
    LoopedThinkerConfig,
    LoopedThinkerForCausalLM,
    LoopedThinkerForConditionalGeneration,
    LoopedThinkerModel,
    LoopedThinkerTextConfig,
    LoopedThinkerTextModel,
)
from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME
from hf_thoughtbubbles.modeling.common.common_layers import embed_sinusoids
from hf_thoughtbubbles.modeling.looped_thinker.cache_steps import MemoryParts, choose_rows
from hf_thoughtbubbles.modeling.looped_thinker.layers_looped_thinker import choose_visible
from hf_thoughtbubbles.modeling.looped_thinker.modeling_looped_thinker_text import measure_change
from tests.families import ANSWERERS, LOOP, draw_ids, make_thinker, make_thinker_config, make_thinker_text_config


THRESHOLD = 0.25
STEPS = (1, 5, 20)  # fewest, as trained, four times as many
EXITING = make_thinker("exit", num_steps=5)
EXITING_KINDS = [
    EXITING,
    make_thinker("exit-skip", num_steps=5, skip_self_attention=True),
    make_thinker("exit-window", num_steps=5, num_memory_steps=2, num_read_steps=1),
    make_thinker("exit-loop", num_steps=5, **LOOP, num_key_value_heads=1, head_dim=6),
    make_thinker("exit-mixed", num_steps=5, num_prelude_layers=2, num_coda_layers=1, num_memory_steps=2),
]
NUM_OWN_ARGUMENTS = 12  # of `forward`, beside those of transformers
HOST_ARGUMENTS = {
    "self", "kwargs", "input_ids", "attention_mask", "position_ids", "past_key_values", "cache", "inputs_embeds",
    "decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds", "encoder_outputs", "labels", "use_cache",
    "output_attentions", "output_hidden_states", "return_dict", "logits_to_keep", "cache_position",
}  # fmt: skip
KINDS = pytest.mark.parametrize("family", EXITING_KINDS, ids=lambda family: family.name)


def pad_left(input_ids, num_padded=(0, 4, 9)):
    """Rows of unequal length, with their mask."""
    mask = torch.ones_like(input_ids)
    for row, number in enumerate(num_padded):
        mask[row, :number] = 0
    return input_ids * mask, mask


def count_rows(model, **inputs) -> tuple[list[int], torch.Tensor]:
    """Rows that entered the first layer at each step, and the steps that each token used."""
    rows, layer = [], model.model.block.layers[0]
    hook = layer.register_forward_hook(lambda module, arguments, output: rows.append(len(arguments[0])))
    outputs = model(**inputs)
    hook.remove()
    return rows, outputs.num_steps_used


@pytest.mark.parametrize(
    ("num_finished", "num_read_steps", "num_memory_steps", "expected"),
    [
        (0, None, None, (True, 0)),
        (5, None, None, (True, 0)),
        (0, 0, 1, (True, 0)),  # the first step always reads the input
        (1, 0, None, (False, 0)),
        (1, 1, None, (True, 0)),
        (2, 1, None, (False, 0)),
        (2, 2, 2, (True, 0)),
        (3, 2, 2, (False, 1)),
        (7, None, 3, (True, 4)),
        (3, None, 9, (True, 0)),
    ],
)
def test_the_memory_of_a_step(num_finished, num_read_steps, num_memory_steps, expected):
    assert choose_visible(num_finished, num_read_steps, num_memory_steps) == expected


def test_sinusoids_by_hand():
    """Channel pairs turn at 1, 10000^(-1/3) and 10000^(-2/3) radians a position; all at 1 in the original."""
    positions, slow, slower = torch.tensor([[0, 3]]), 10000 ** (-2 / 6), 10000 ** (-4 / 6)
    by_hand = [math.sin(3), math.cos(3), math.sin(3 * slow), math.cos(3 * slow), math.sin(3 * slower)]
    expected = torch.tensor([[[0, 1, 0, 1, 0, 1], [*by_hand, math.cos(3 * slower)]]])
    torch.testing.assert_close(embed_sinusoids(positions, 6, "standard"), expected.float())
    same = torch.tensor([[[0, 1, 0, 1, 0, 1], [math.sin(3), math.cos(3)] * 3]])
    torch.testing.assert_close(embed_sinusoids(positions, 6, "single"), same.float())
    assert embed_sinusoids(positions, 5, "standard").shape == (1, 2, 5), "an odd width ends on a sine"


def test_change_by_hand():
    now, before = (
        torch.tensor([[[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]]]),
        torch.tensor([[[3.0, 3.0], [0.0, 2.0], [0, 0]]]),
    )
    torch.testing.assert_close(measure_change(now, before), torch.tensor([[0.2, 0.0, 0.0]]))


def test_all_steps_share_their_weights():
    counts = {
        sum(p.numel() for p in head(make_config(num_steps=num_steps)).parameters())
        for head, make_config in (
            (LoopedThinkerForCausalLM, make_thinker_text_config),
            (LoopedThinkerForConditionalGeneration, make_thinker_config),
        )
        for num_steps in (1, 2, 9)
    }
    assert len(counts) == 2, "one for each head"


def test_the_configuration_and_the_call_change_the_number_of_steps_equally():
    input_ids = draw_ids(2, 9)
    expected = EXITING.build(num_steps=7)(input_ids).logits
    torch.testing.assert_close(EXITING.build()(input_ids, num_steps=7).logits, expected)
    model = EXITING.build()
    model.config.num_steps = 7
    torch.testing.assert_close(model(input_ids).logits, expected)


# Two model types


TYPES = pytest.mark.parametrize(
    ("build", "auto_class", "other"),
    [
        (ANSWERERS[0].build, AutoModelForSeq2SeqLM, AutoModelForCausalLM),
        (EXITING.build, AutoModelForCausalLM, AutoModelForSeq2SeqLM),
    ],
    ids=["answers", "text"],
)


@TYPES
def test_the_auto_class_of_the_other_type_refuses_a_checkpoint_by_name(build, auto_class, other, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    assert type(auto_class.from_pretrained(tmp_path)) is type(model)
    assert type(AutoModel.from_pretrained(tmp_path)) is type(model.model)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    name = type(model.config).__name__
    with pytest.raises(ValueError, match=rf"Unrecognized configuration class .*{name}.*: {other.__name__}"):
        other.from_pretrained(tmp_path)
    other_class = LoopedThinkerModel if other is AutoModelForSeq2SeqLM else LoopedThinkerTextModel
    with pytest.raises(ValueError, match=rf"`config` is a `{name}`, but `{other_class.__name__}` needs"):
        other_class(model.config)


def test_each_configuration_has_the_fields_of_its_own_type():
    own, text = make_thinker_config().to_dict(), make_thinker_text_config().to_dict()
    assert (own["model_type"], text["model_type"]) == ("looped_thinker", "looped_thinker_text")
    assert own["is_encoder_decoder"] and not text["is_encoder_decoder"]
    assert "exit_threshold" in text.keys() - own.keys()
    for name in ("num_latents", "readout", "static_memory_size", "num_probes", "num_kept_outputs"):
        assert name in own.keys() - text.keys()
    for config_class, is_encoder_decoder in ((LoopedThinkerConfig, False), (LoopedThinkerTextConfig, True)):
        with pytest.raises(Exception, match="is_encoder_decoder"):
            config_class(is_encoder_decoder=is_encoder_decoder)


MODEL_CLASSES = pytest.mark.parametrize(
    "model_class",
    [LoopedThinkerModel, LoopedThinkerForConditionalGeneration, LoopedThinkerTextModel, LoopedThinkerForCausalLM],
)


@MODEL_CLASSES
def test_forward_has_few_arguments_of_its_own_and_one_named_labels(model_class):
    arguments = set(inspect.signature(model_class.forward).parameters)
    assert len(arguments - HOST_ARGUMENTS) <= NUM_OWN_ARGUMENTS
    assert find_labels(model_class) == (["labels"] if "For" in model_class.__name__ else [])


@KINDS
def test_the_logits_are_the_head_of_the_last_hidden_state(family):
    model, input_ids = family.build(), draw_ids(2, 7)
    outputs = model(input_ids, exit_threshold=THRESHOLD)
    states = model.model(input_ids, exit_threshold=THRESHOLD).last_hidden_state
    assert model.has_linear_head
    assert states.shape == (2, 7, 24)
    assert torch.equal(model.lm_head(states), outputs.logits)


# Exit


@KINDS
def test_fewer_steps_are_used_as_the_threshold_rises(family):
    model, input_ids = family.build(), draw_ids(4, 13)
    means = []
    for threshold in (0.0, 0.1, 0.25, 1.0, 1e9):
        outputs = model(input_ids, exit_threshold=threshold, output_steps=True)
        used = outputs.num_steps_used
        assert used.shape == (4, 13)
        assert outputs.latents.shape == (4, 5, 13, 24)
        torch.testing.assert_close(outputs.step_logits[:, -1], outputs.logits)  # products of other shapes round apart
        means.append(used.float().mean().item())
    assert means == sorted(means, reverse=True)
    assert means[0] == 5
    assert means[-1] == 2, "a change needs two steps"
    assert means[0] > means[2] > means[-1]


@KINDS
def test_a_threshold_of_zero_is_no_exit(family):
    model, input_ids = family.build(), draw_ids(2, 13)
    outputs, expected = model(input_ids, exit_threshold=0), model(input_ids)
    assert (outputs.num_steps_used == 5).all()
    assert (expected.num_steps_used == 5).all()
    torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-5, rtol=1e-5)


@KINDS
def test_a_token_that_is_done_stays_as_it_is(family):
    """The steps used are those after which the latent changed, and the last change was below the threshold."""
    model, input_ids = family.build(), draw_ids(3, 13)
    outputs = model(input_ids, exit_threshold=THRESHOLD, output_steps=True)
    changes = torch.stack(
        [measure_change(outputs.latents[:, step], outputs.latents[:, step - 1]) for step in range(1, 5)], dim=-1
    )  # (B, T, R - 1)
    used = outputs.num_steps_used
    assert torch.equal((changes > 0).sum(-1) + 1, used)
    last = changes.gather(-1, (used - 2)[..., None])[..., 0]
    assert (last[used < 5] < THRESHOLD).all()
    earlier = torch.arange(2, 6) < used[..., None]
    assert (changes[earlier] >= THRESHOLD).all()


@KINDS
def test_a_decision_depends_on_the_past_alone(family):
    model, input_ids = family.build(), draw_ids(4, 13)
    edited = torch.cat((input_ids[:, :8], draw_ids(4, 5)), dim=1)
    expected, outputs = (model(ids, exit_threshold=THRESHOLD) for ids in (input_ids, edited))
    assert torch.equal(outputs.num_steps_used[:, :8], expected.num_steps_used[:, :8])
    torch.testing.assert_close(outputs.logits[:, :8], expected.logits[:, :8], atol=1e-5, rtol=1e-4)


@KINDS
@pytest.mark.parametrize("is_padded", [False, True])
def test_cached_equals_uncached_with_exit(family, is_padded):
    """In parts and token by token, in batches whose rows exit at different steps."""
    model, (input_ids, mask) = family.build(), pad_left(draw_ids(3, 16), (0, 4, 9) if is_padded else (0, 0, 0))
    for num_steps in STEPS:
        options = {"num_steps": num_steps, "exit_threshold": THRESHOLD}
        expected = model(input_ids, attention_mask=mask, use_cache=False, **options)
        used = expected.num_steps_used[mask.bool()]
        assert num_steps == 1 or len(used.unique()) > 1, "decisions that differ"
        cache, start = DynamicCache(), 0
        for end in (10, 11, 12, 16):
            part = {"attention_mask": mask[:, :end], "past_key_values": cache, **options}
            outputs, real = model(input_ids[:, start:end], **part), mask[:, start:end].bool()
            assert torch.equal(outputs.num_steps_used[real], expected.num_steps_used[:, start:end][real])
            torch.testing.assert_close(outputs.logits[real], expected.logits[:, start:end][real], atol=1e-4, rtol=1e-4)
            start = end


@KINDS
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_exits_as_it_does_alone(family, side):
    model, input_ids = family.build(), draw_ids(3, 13)
    mask = torch.ones_like(input_ids)
    for row, length in enumerate((13, 7, 2)):
        mask[row, slice(0, 13 - length) if side == "left" else slice(length, 13)] = 0
    outputs = model(input_ids, attention_mask=mask, exit_threshold=THRESHOLD)
    for row in range(3):
        alone = model(input_ids[row : row + 1, mask[row].bool()], exit_threshold=THRESHOLD)
        assert torch.equal(outputs.num_steps_used[row, mask[row].bool()], alone.num_steps_used[0])
        torch.testing.assert_close(outputs.logits[row, mask[row].bool()], alone.logits[0], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize(
    "strategy",
    [
        {"do_sample": False},
        {"do_sample": True},
        {"do_sample": False, "num_beams": 3},
        {"do_sample": False, "cache_implementation": "static", "disable_compile": True},
        {"do_sample": False, "prompt_lookup_num_tokens": 3},
    ],
    ids=["greedy", "sampling", "beam", "static", "lookup"],
)
def test_generation_with_exit_is_the_same_with_a_cache(family, strategy):
    is_lookup = "prompt_lookup_num_tokens" in strategy
    model, (prompt, mask) = family.build(), pad_left(draw_ids(3, 9), (0, 3, 6))
    if is_lookup:
        prompt, mask = prompt[:1], mask[:1]
    plain = {key: strategy[key] for key in ("do_sample", "num_beams") if key in strategy}
    for num_steps in STEPS:
        options = {"attention_mask": mask, "max_new_tokens": 9, "exit_threshold": THRESHOLD, "num_steps": num_steps}
        torch.manual_seed(1)
        expected = model.generate(prompt, use_cache=False, **options, **plain)
        torch.manual_seed(1)
        assert torch.equal(model.generate(prompt, **options, **strategy), expected), num_steps


@pytest.mark.thorough
def test_assisted_generation_takes_any_number_of_steps_and_an_exit():
    model, assistant, prompt = EXITING.build(), EXITING.build(seed=1, num_steps=1), draw_ids(1, 9)
    for num_steps in STEPS:
        for threshold in (None, THRESHOLD):
            options = {"max_new_tokens": 11, "do_sample": False, "num_steps": num_steps, "exit_threshold": threshold}
            options["attention_mask"] = torch.ones_like(prompt)
            expected = model.generate(prompt, **options)
            assert torch.equal(model.generate(prompt, assistant_model=assistant, **options), expected)


def test_the_threshold_may_be_set_in_the_generation_configuration(tmp_path):
    model, prompt = EXITING.build(), draw_ids(3, 9)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 9, "do_sample": False}
    expected = model.generate(prompt, exit_threshold=1.0, num_steps=7, **options)
    assert not torch.equal(expected, model.generate(prompt, **options)), "so that a lost threshold would show"
    chosen = GenerationConfig(max_new_tokens=9, do_sample=False, exit_threshold=1.0, num_steps=7, eos_token_id=60)
    assert torch.equal(
        model.generate(prompt, attention_mask=options["attention_mask"], generation_config=chosen), expected
    )
    model.generation_config.exit_threshold, model.generation_config.num_steps = 1.0, 7
    model.save_pretrained(tmp_path)
    assert torch.equal(LoopedThinkerForCausalLM.from_pretrained(tmp_path).generate(prompt, **options), expected)


def test_rows_that_are_done_are_not_computed():
    """Not time but calls are counted: the rows that enter the block, and the steps at which it is applied."""
    model, input_ids = EXITING.build(), draw_ids(16, 1)
    rows, used = count_rows(model, input_ids=input_ids, exit_threshold=THRESHOLD)
    thinking = [(used.amax(1) > step).nonzero()[:, 0] for step in range(len(rows))]
    spans = [int(indices[-1] - indices[0]) + 1 for indices in thinking]
    counts = [len(indices) for indices in thinking]
    picked = [count if 4 * count <= span else span for count, span in zip(counts, spans, strict=True)]
    assert rows == picked
    assert rows[-1] < 16
    assert len(used.unique()) > 1
    assert count_rows(model, input_ids=input_ids, exit_threshold=1e9)[0] == [16, 16]
    assert count_rows(model, input_ids=input_ids)[0] == [16] * 5
    assert count_rows(model, input_ids=input_ids, exit_threshold=1e9, num_steps=1)[0] == [16]


@pytest.mark.parametrize(
    ("thinking", "num_new", "expected"),
    [
        (range(8), 1, None),
        ((0, 3, 7), 1, None),  # eight rows as they are, for three with a copy
        ((2, 5), 1, slice(2, 6)),
        ((2, 3, 4), 90, slice(2, 5)),  # neighbours are never copied
        ((0, 7), 1, [0, 7]),
        ((0, 3, 7), 90, [0, 3, 7]),  # many tokens are worth a copy
        ((5,), 1, slice(5, 6)),
    ],
)
def test_rows_are_copied_only_where_that_is_less_work(thinking, num_new, expected):
    rows = choose_rows(torch.tensor(list(thinking)), batch_size=8, num_new=num_new)
    assert (rows.tolist() if isinstance(rows, torch.Tensor) else rows) == expected


def test_padding_keeps_no_row_thinking():
    model, (input_ids, mask) = EXITING.build(), pad_left(draw_ids(3, 10), (0, 4, 9))
    rows, used = count_rows(model, input_ids=input_ids, attention_mask=mask, exit_threshold=THRESHOLD)
    most = used.masked_fill(mask == 0, 0).amax(1)
    assert rows == [int((most > step).sum()) for step in range(len(rows))]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "is_padded"), [(EXITING, True), (EXITING_KINDS[1], False)], ids=["exit", "skip"])
def test_a_compiled_model_exits_at_the_same_steps(family, is_padded):
    model, (input_ids, mask) = family.build(), pad_left(draw_ids(3, 10), (0, 4, 9) if is_padded else (0, 0, 0))
    inputs = {"exit_threshold": THRESHOLD, "use_cache": False, "num_steps": 4}
    inputs |= {"attention_mask": mask} if is_padded else {}
    with torch.no_grad():
        expected = model(input_ids, **inputs)
        torch._dynamo.reset()
        outputs = torch.compile(model, fullgraph=True, backend="aot_eager")(input_ids, **inputs)
    assert torch.equal(outputs.num_steps_used[mask.bool()], expected.num_steps_used[mask.bool()])
    torch.testing.assert_close(outputs.logits[mask.bool()], expected.logits[mask.bool()], atol=1e-5, rtol=1e-4)


def test_training_takes_all_steps():
    model, input_ids = EXITING.build(exit_threshold=1e9), draw_ids(2, 9)
    assert (model(input_ids).num_steps_used == 2).all()
    model.train()
    assert (model(input_ids).num_steps_used == 5).all(), "the configuration's threshold is for evaluation"
    with torch.no_grad():
        assert (model(input_ids).num_steps_used == 5).all(), "also without gradients"
    with pytest.raises(ValueError, match=r"`exit_threshold=0.1` was passed to a model in training"):
        model(input_ids, exit_threshold=0.1)
    prompt = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "max_new_tokens": 2}
    rollout = model.generate(**prompt, exit_threshold=0.1, output_logits=True, return_dict_in_generate=True)
    assert model.training
    expected = model.eval().generate(**prompt, exit_threshold=0.1, output_logits=True, return_dict_in_generate=True)
    assert torch.equal(rollout.logits[1], expected.logits[1])
    model.train().config.exit_in_training = True
    outputs = model(input_ids, labels=input_ids)
    outputs.loss.backward()
    assert (outputs.num_steps_used == 2).all()


def test_a_threshold_given_in_a_call_overrules_the_configuration():
    model, input_ids = EXITING.build(exit_threshold=1e9), draw_ids(2, 9)
    assert (model(input_ids, exit_threshold=0.0).num_steps_used == 5).all()
    assert model.generate(
        input_ids, attention_mask=torch.ones_like(input_ids), max_new_tokens=2, exit_threshold=0.0
    ).shape


# Caches


@pytest.mark.thorough
@KINDS
@pytest.mark.parametrize("num_steps", STEPS)
def test_any_cache_holds_any_number_of_steps(family, num_steps):
    model, input_ids = family.build(), draw_ids(2, 14)
    config = copy.deepcopy(model.config)
    config.num_steps = max(num_steps, config.num_steps)
    expected = model(input_ids, num_steps=num_steps, use_cache=False).logits
    caches = {
        "none": None,
        "dynamic": DynamicCache(),
        "sized": DynamicCache(config=config),
        "static": StaticCache(config=config, max_cache_len=17),
    }
    for name, cache in caches.items():
        for start, end in ((0, 6), (6, 7), (7, 14)):
            outputs = model(input_ids[:, start:end], num_steps=num_steps, past_key_values=cache, use_cache=True)
            cache = outputs.past_key_values
            torch.testing.assert_close(
                outputs.logits,
                expected[:, start:end],
                atol=1e-4,
                rtol=1e-4,
                msg=lambda text, name=name: f"{name}: {text}",
            )


def test_a_static_cache_takes_a_mask_as_long_as_it_is():
    """Positions follow the entries of the mask for the tokens of the call, not its end."""
    model, (input_ids, mask) = EXITING.build(), pad_left(draw_ids(2, 10), (0, 3))
    expected = model(input_ids, attention_mask=mask, use_cache=False).logits
    cache = StaticCache(config=model.config, max_cache_len=17)
    whole = torch.cat((mask, torch.zeros(2, 7, dtype=torch.long)), dim=1)
    for start, end in ((0, 6), (6, 7), (7, 10)):
        seen = whole.clone()
        seen[:, end:] = 0
        outputs = model(input_ids[:, start:end], attention_mask=seen, past_key_values=cache)
        real = mask[:, start:end].bool()
        torch.testing.assert_close(outputs.logits[real], expected[:, start:end][real], atol=1e-4, rtol=1e-4)


def test_a_cache_of_other_steps_is_refused():
    model, input_ids = EXITING.build(), draw_ids(1, 5)
    cache = model(input_ids, num_steps=3).past_key_values
    for num_steps in (2, 4, None):
        with pytest.raises(ValueError, match=r"holds 12 filled slots, but \d steps fill"):
            model(input_ids, past_key_values=cache, num_steps=num_steps)
    static = StaticCache(config=model.config, max_cache_len=17)
    model(input_ids, num_steps=3, past_key_values=static)
    with pytest.raises(ValueError, match="holds 12 filled slots, but 5 steps fill 20"):
        model(input_ids, past_key_values=static)
    model(input_ids, num_steps=3, past_key_values=static)
    with pytest.raises(ValueError, match="has 20 slots, but 7 steps need 28"):
        model(input_ids, past_key_values=DynamicCache(config=model.config), num_steps=7)
    with pytest.raises(ValueError, match="an `EncoderDecoderCache`, but a text has one cache"):
        model(input_ids, past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()))


@KINDS
def test_generation_continues_from_a_returned_cache(family):
    model, prompt = family.build(), draw_ids(2, 7)
    options = {"do_sample": False, "return_dict_in_generate": True, "eos_token_id": -1, "exit_threshold": THRESHOLD}
    for num_steps in STEPS:
        options["num_steps"] = num_steps
        expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=9, **options)
        first = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, **options)
        text = first.sequences
        second = model.generate(
            text,
            attention_mask=torch.ones_like(text),
            max_new_tokens=5,
            **{CACHE_NAME: first[CACHE_NAME]},
            **options,
        )
        assert torch.equal(second.sequences, expected.sequences)


@KINDS
def test_slots_of_all_steps_share_storage_that_new_tokens_are_written_to(family):
    """Also after a crop; after other rows or another order of them, the first new token copies them once."""
    model, input_ids = family.build(), draw_ids(4, 12)
    order = torch.tensor([2, 0, 1, 1])
    with torch.no_grad():
        cache = model(input_ids[:, :6]).past_key_values
        before = [layer.keys.data_ptr() for layer in cache.layers]
        model(input_ids[:, 6:8], past_key_values=cache)
        cache.crop(-1)
        model(input_ids[:, 7:8], past_key_values=cache)
        assert [layer.keys.data_ptr() for layer in cache.layers] == before
        twin = copy.deepcopy(cache)
        cache.reorder_cache(order)
        rows = torch.cat((input_ids[order, :8], input_ids[:, 8:]), dim=1)
        for end in range(9, 13):
            outputs = model(rows[:, end - 1 : end], past_key_values=cache)
            expected = model(rows[:, :end], use_cache=False)
            torch.testing.assert_close(outputs.logits[:, -1], expected.logits[:, -1], atol=1e-4, rtol=1e-4)
        outputs = model(input_ids[:, 8:9], past_key_values=twin)
        expected = model(input_ids[:, :9], use_cache=False)
        torch.testing.assert_close(outputs.logits[:, -1], expected.logits[:, -1], atol=1e-4, rtol=1e-4)
    assert all(cache.storages[slot].keys.shape[0] == 1 for slot in range(cache.first_slot)), "one step alone"
    for slot in range(cache.stride):
        layers = cache.layers[cache.first_slot + slot :: cache.stride]
        assert len({layer.keys.untyped_storage().data_ptr() for layer in layers}) == 1
        if len(layers) > 1 and slot < model.config.num_hidden_layers:
            stacked = cache.read_steps(1, 3, slot)
            assert stacked[0].data_ptr() == layers[1].keys.data_ptr()
            assert torch.equal(stacked[1], torch.stack([layer.values for layer in layers[1:3]]))


@pytest.mark.parametrize("is_tokenwise", [False, True])
def test_a_plain_cache_gives_the_same_text(is_tokenwise):
    """A `DynamicCache` that was passed keeps slots of its own."""
    model, input_ids, cache = EXITING.build(), draw_ids(2, 9), DynamicCache()
    with torch.no_grad():
        expected = model(input_ids, use_cache=False).logits
        for start, end in [(0, 5), (5, 6), (6, 9)] if not is_tokenwise else [(i, i + 1) for i in range(9)]:
            logits = model(input_ids[:, start:end], past_key_values=cache).logits
            torch.testing.assert_close(logits, expected[:, start:end], atol=1e-4, rtol=1e-4)
    assert type(cache) is DynamicCache


def enable_checkpointing(model):
    """Gradient checkpointing, under the name that the installed transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def test_a_filled_cache_is_refused_under_gradient_checkpointing():
    """A layer that is computed again would append its keys and values twice; without gradients none is."""
    model, prompt = EXITING.build().train(), draw_ids(2, 9)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 5, "do_sample": False}
    expected = model.generate(prompt, **options)
    cache = model(prompt, use_cache=True).past_key_values
    enable_checkpointing(model)
    with pytest.raises(ValueError, match="with 9 tokens was passed to a model that trains with gradient"):
        model(prompt, labels=prompt, past_key_values=cache)
    assert torch.equal(model.generate(prompt, **options), expected)


@pytest.mark.parametrize("is_answering", [False, True])
def test_an_empty_cache_stays_empty_under_gradient_checkpointing(is_answering):
    torch.manual_seed(0)
    model, ids = ANSWERERS[0].build() if is_answering else EXITING.build(), draw_ids(2, 9)
    losses = []
    for is_cached in (False, True):
        model.train().zero_grad()
        if is_cached:
            enable_checkpointing(model)
        outputs = model(ids, labels=ids, use_cache=is_cached)
        outputs.loss.backward()
        losses.append([outputs.loss, *(p.grad.clone() for p in model.parameters())])
    assert outputs.past_key_values.get_seq_length() == 0
    for loss, expected in zip(losses[1], losses[0], strict=True):
        torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-4)


# Packed documents


@KINDS
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_documents_are_read_and_exit_as_each_alone(family, attention):
    model, first, second = family.build(), draw_ids(1, 5), draw_ids(1, 8)
    model.set_attn_implementation(attention)
    packed, position_ids = torch.cat((first, second), 1), torch.cat((torch.arange(5), torch.arange(8)))[None]
    outputs = model(packed, position_ids=position_ids, exit_threshold=THRESHOLD)
    for span, document in ((slice(0, 5), first), (slice(5, 13), second)):
        alone = model(document, exit_threshold=THRESHOLD)
        assert torch.equal(outputs.num_steps_used[:, span], alone.num_steps_used)
        torch.testing.assert_close(outputs.logits[:, span], alone.logits, atol=1e-5, rtol=1e-4)
    assert outputs.past_key_values is None
    with pytest.raises(ValueError, match="pack several documents"):
        model(packed, position_ids=position_ids, use_cache=True)


# Hidden states and attention weights


def test_hidden_states_and_weights_of_every_application_of_a_layer():
    model, input_ids = EXITING.build(), draw_ids(2, 7)
    model.set_attn_implementation("eager")
    for num_steps in STEPS:
        outputs = model(input_ids, num_steps=num_steps, output_hidden_states=True, output_attentions=True)
        assert len(outputs.hidden_states) == 2 * num_steps + 1
        assert len(outputs.attentions) == len(outputs.cross_attentions) == 2 * num_steps
        assert all(states.shape == (2, 7, 24) for states in outputs.hidden_states)
        assert all(weights.shape == (2, 3, 7, 7) for weights in outputs.attentions)
        assert [weights.shape[-1] for weights in outputs.cross_attentions] == [
            7 * (step + 1) for step in range(num_steps) for _ in range(2)
        ]
        torch.testing.assert_close(model.lm_head(outputs.hidden_states[-1]), outputs.logits)


@pytest.mark.parametrize("answerer", [a for a in ANSWERERS if a.name.startswith("kept")], ids=lambda a: a.name)
def test_an_answers_hidden_states_follow_those_of_thinking(answerer):
    model, inputs = answerer.build(), {**answerer.ask(), **answerer.read()}
    model.set_attn_implementation("eager")
    for num_steps in (1, 3, 12):
        outputs = model(**inputs, num_steps=num_steps, output_hidden_states=True, output_attentions=True)
        num_applied = 2 * (num_steps + min(3, num_steps))  # thinking, then reading each kept step out
        assert len(outputs.decoder_hidden_states) == num_applied + 1
        assert len(outputs.decoder_attentions) == len(outputs.cross_attentions) == num_applied
        assert outputs.decoder_hidden_states[0].shape == (2, 5, 24)
        assert outputs.decoder_hidden_states[-1].shape == (2, 7, 24)
        assert outputs.cross_attentions[0].shape == (2, 3, 5, 9)
        assert outputs.cross_attentions[-1].shape == (2, 3, 7, 9 + 5 * num_steps)
        assert outputs.encoder_last_hidden_state.shape == (2, 9 + 5 * num_steps, 24)


# Input validation


def test_arguments_of_the_other_type_are_refused():
    model, input_ids = EXITING.build(), draw_ids(2, 7)
    for options in (
        {"num_latents": 3},
        {"num_read_steps": 1},
        {"memory_ids": torch.zeros(2, 1).long()},
        {"decoder_input_ids": input_ids},
        {"decoder_inputs_embeds": torch.rand(2, 7, 24)},
        {"decoder_attention_mask": torch.ones(2, 7)},
        {"answer_length": 3},
        {"loop_decoder": True},
    ):
        name = next(iter(options))
        for callee in (model, model.model):
            with pytest.raises(ValueError, match=f"`{name}` was passed, but .* does not read it. Remove it"):
                callee(input_ids, **options)
    problem = LoopedThinkerModel(make_thinker_config())
    with pytest.raises(ValueError, match="`exit_threshold` was passed, but LoopedThinkerModel does not read it"):
        problem(input_ids, decoder_input_ids=input_ids, exit_threshold=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "`num_steps` is 0; it must be a whole number of at least 1"),
        ({"num_steps": -1}, "`num_steps` is -1"),
        ({"num_steps": 2.0}, "`num_steps` is 2.0"),
        ({"num_steps": True}, "`num_steps` is True"),
        ({"num_steps": "3"}, "`num_steps` is '3'"),
        ({"exit_threshold": -0.1}, "`exit_threshold` is -0.1; it must be a finite number of at least 0"),
        ({"exit_threshold": math.inf}, "`exit_threshold` is inf"),
        ({"exit_threshold": math.nan}, "`exit_threshold` is nan"),
        ({"exit_threshold": True}, "`exit_threshold` is True"),
        ({"exit_threshold": "0.1"}, "`exit_threshold` is '0.1'"),
    ],
    ids=str,
)
def test_bad_ways_to_think_are_one_clear_error(options, message):
    model, input_ids = EXITING.build(), draw_ids(2, 7)
    with pytest.raises(ValueError, match=message):
        model(input_ids, **options)
    with pytest.raises(ValueError, match=message):
        model.generate(input_ids, attention_mask=torch.ones_like(input_ids), max_new_tokens=2, **options)


def test_parts_of_a_memory_are_the_same_with_and_without_gradients():
    def make_part(size):
        return [tuple(torch.randn(2, 3, size, 4) for _ in range(2)) for _ in range(2)]  # two layers' keys and values

    given, parts = [make_part(size) for size in (5, 1, 2)], MemoryParts(8)
    with torch.no_grad():
        neighbours = MemoryParts(8)
    for part in given:
        parts.append(part)
        neighbours.append(part)
    for indices in ([0], [0, 1], [1, 2], [0, 2], [0, 1, 2]):
        for layer in range(2):
            for kind in range(2):
                expected = torch.cat([given[i][layer][kind] for i in indices], dim=2)
                assert torch.equal(parts.read(indices)[layer][kind], expected)
                assert torch.equal(neighbours.read(indices)[layer][kind], expected)
    buffer, read = neighbours.buffers[0][0], neighbours.read([1, 2])[0][0]
    assert read.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr(), "neighbours are not copied"


@pytest.mark.parametrize("window", [None, 1, 2])
@pytest.mark.parametrize("num_read_steps", [None, 0, 2])
def test_thoughts_are_the_same_with_and_without_gradients(window, num_read_steps):
    sizes = {"num_steps": 4, "num_memory_steps": window, "num_read_steps": num_read_steps}
    answering = LoopedThinkerForConditionalGeneration(make_thinker_config(**sizes, static_memory_size=5)).eval()
    reading = LoopedThinkerForCausalLM(make_thinker_text_config(**sizes)).eval()
    input_ids, mask, labels = draw_ids(3, 9), torch.ones(3, 9, dtype=torch.long), draw_ids(3, 4)
    mask[0, :4] = 0
    problem = {"labels": labels, "memory_ids": torch.tensor([[0, 4], [1, 1], [2, 3]]), "attention_mask": mask}
    expected = answering(input_ids, **problem), reading(input_ids, attention_mask=mask)
    with torch.no_grad():
        seen = answering(input_ids, **problem), reading(input_ids, attention_mask=mask)
    for ours, theirs in zip(seen, expected, strict=True):
        torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen[0].encoder_last_hidden_state, expected[0].encoder_last_hidden_state)
