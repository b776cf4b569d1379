# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Does every model that answers problems keep the promises of docs/architecture.md? Each promise over all variants.

Promise 1 (parity) is in tests/modeling, 2 (loading without the package) in tests/hub.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    StaticCache,
)

from hf_thoughtbubbles import LoopedThinkerConfig, LoopedThinkerForConditionalGeneration, build_byte_tokenizer
from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME
from hf_thoughtbubbles.modeling.looped_thinker.outputs_looped_thinker import LoopedThinkerEncoderOutput
from tests.families import ANSWERERS, VOCAB_SIZE, draw_ids
from tests.training.train_answers_once import make_answer_trainer


REPOSITORY = Path(__file__).parents[2]
STEPS = (1, 3, 12)  # fewest, as trained, four times as many


def mark(answerers):
    return pytest.mark.parametrize("answerer", answerers, ids=lambda answerer: answerer.name)


BY_NAME = {answerer.name: answerer for answerer in ANSWERERS}
ALL = mark(ANSWERERS)
READING = mark([answerer for answerer in ANSWERERS if not answerer.is_parallel])
PARALLEL = mark([answerer for answerer in ANSWERERS if answerer.is_parallel])
SOME = mark([BY_NAME[name] for name in ("kept-autoregressive", "window-autoregressive", "static-memory-parallel")])


def pad_problems(problem: dict, side: str, length: int = 9, num_padded: int = 4) -> dict:
    """The same problems, the second cut short and padded."""
    padded = {**problem, "input_ids": problem["input_ids"].clone()}
    padded["attention_mask"] = torch.ones_like(padded["input_ids"])
    span = slice(0, num_padded) if side == "left" else slice(length - num_padded, length)
    padded["input_ids"][1, span], padded["attention_mask"][1, span] = 0, 0
    return padded


def take_row(inputs: dict, row: int) -> dict:
    """One problem without its padding."""
    mask = inputs["attention_mask"][row].bool()
    alone = {key: value[row : row + 1] for key, value in inputs.items() if key != "attention_mask"}
    return {**alone, "input_ids": alone["input_ids"][:, mask]}


def make_lesson(answerer, batch_size: int = 4) -> dict:
    """Problems and answers of unequal length, with all terms of the loss that the model has."""
    lesson = {**answerer.ask(batch_size), "labels": draw_ids(batch_size, 7)}
    for row in range(batch_size):
        lesson["labels"][row, 7 - row :] = -100
    if answerer.config.num_probes > 0:
        lesson["probe_targets"] = torch.rand(batch_size, 7, answerer.config.num_probes)
    return lesson if answerer.is_parallel else {**lesson, "loop_decoder": True}


def compute_gradients(model, inputs: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_gradients(gradients, expected, atol=1e-6, rtol=1e-4):
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=atol, rtol=rtol)


@ALL
def test_promise_2_saving_and_loading_keeps_every_bit(answerer, tmp_path):
    model, inputs = answerer.build(), {**answerer.ask(), **answerer.read()}
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(reloaded) is LoopedThinkerForConditionalGeneration
    assert {**reloaded.config.to_dict(), "_name_or_path": ""} == model.config.to_dict()
    assert torch.equal(reloaded(**inputs).logits, model(**inputs).logits)
    base = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(base(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state)


@READING
def test_promise_3_later_answer_tokens_change_no_earlier_logit(answerer):
    model, problem, answer = answerer.build(), answerer.ask(), draw_ids(2, 11)
    edited = torch.cat((answer[:, :5], answer[:, 5:] % 59 + 1), dim=1)
    expected, logits = (
        model(**problem, decoder_input_ids=tokens, use_cache=False).logits for tokens in (answer, edited)
    )
    torch.testing.assert_close(logits[:, :5], expected[:, :5], atol=1e-5, rtol=0)
    assert (logits[:, 5:] - expected[:, 5:]).abs().amax(-1).min() > 1e-4, "and later ones see them"


@READING
def test_promise_3_nor_does_what_comes_later_in_the_stream_that_thinks_along(answerer):
    model, problem, answer = answerer.build(), answerer.ask(), draw_ids(2, 11)
    edited = torch.cat((answer[:, :5], draw_ids(2, 6)), dim=1)
    expected, outputs = (
        model(**problem, decoder_input_ids=tokens, loop_decoder=True).loop_logits for tokens in (answer, edited)
    )
    torch.testing.assert_close(outputs[:, :, :5], expected[:, :, :5], atol=1e-5, rtol=0)


@READING
@pytest.mark.parametrize(
    "strategy",
    [
        {"do_sample": False},
        {"do_sample": True, "temperature": 0.8},
        {"num_beams": 3, "do_sample": False},
        {"do_sample": False, "cache_implementation": "static", "disable_compile": True},
        {"do_sample": False, "prompt_lookup_num_tokens": 3},
    ],
    ids=["greedy", "sampling", "beam", "static", "lookup"],
)
def test_promise_4_cached_generation_equals_uncached(answerer, strategy):
    is_lookup = "prompt_lookup_num_tokens" in strategy
    model, problem = answerer.build(), answerer.ask(1 if is_lookup else 3)
    plain = {key: strategy[key] for key in ("do_sample", "temperature", "num_beams") if key in strategy}
    for num_steps in STEPS:
        options = {"max_new_tokens": 11, "num_steps": num_steps, **problem}
        torch.manual_seed(1)
        expected = model.generate(use_cache=False, **options, **plain)
        assert is_lookup or len(expected.unique()) > 2, "answers that vary, so that a lost context would show"
        torch.manual_seed(1)
        assert torch.equal(model.generate(**options, **strategy), expected), num_steps


@READING
def test_promise_4_assisted_generation_equals_greedy(answerer):
    model, assistant, problem = answerer.build(), answerer.build(seed=1, num_steps=1), answerer.ask(1)
    for num_steps in STEPS:
        options = {"max_new_tokens": 11, "do_sample": False, "num_steps": num_steps, **problem}
        expected = model.generate(**options)
        assert torch.equal(model.generate(assistant_model=assistant, **options), expected), num_steps


@READING
def test_promise_4_step_by_step_decoding_equals_the_full_pass(answerer):
    """A returned cache is continued with the problem, or with the thoughts about it."""
    model, problem, answer = answerer.build(), pad_problems(answerer.ask(), "left"), draw_ids(2, 12)
    parts = ((0, 3), (3, 4), (4, 12))
    for num_steps in STEPS:
        expected = model(**problem, decoder_input_ids=answer, num_steps=num_steps, use_cache=False).logits
        thoughts = model.get_encoder()(**problem, num_steps=num_steps)
        for way in ("problem", "thoughts"):
            source = {**problem, "num_steps": num_steps} if way == "problem" else {"encoder_outputs": thoughts}
            cache = None
            for start, end in parts:
                outputs = model(**source, decoder_input_ids=answer[:, start:end], past_key_values=cache)
                cache = outputs.past_key_values
                torch.testing.assert_close(outputs.logits, expected[:, start:end], atol=1e-4, rtol=0)
            assert type(cache) is EncoderDecoderCache
            assert cache.get_seq_length() == 12


@READING
def test_promise_4_a_cache_sized_by_the_configuration_serves_too(answerer):
    """All kept steps are still read out and scored while it is filled."""
    model, problem, answer = answerer.build(), answerer.ask(), draw_ids(2, 8)
    expected = model(**problem, labels=answer, use_cache=False)
    for cache in (
        EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config)),
        EncoderDecoderCache(DynamicCache(), DynamicCache()),
        EncoderDecoderCache(StaticCache(config=model.config, max_cache_len=13), DynamicCache()),
    ):
        outputs = model(**problem, labels=answer, past_key_values=cache)
        torch.testing.assert_close(outputs.loss, expected.loss)
        torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-5, rtol=1e-4)
        assert cache.is_updated[0]


@READING
def test_promise_4_generation_goes_on_from_its_own_cache(answerer):
    model, problem = answerer.build(), answerer.ask()
    options = {"do_sample": False, "return_dict_in_generate": True, "eos_token_id": -1, **problem}
    expected = model.generate(max_new_tokens=10, **options).sequences
    first = model.generate(max_new_tokens=4, **options)
    options["decoder_input_ids"] = first.sequences
    continued = model.generate(max_new_tokens=6, **{CACHE_NAME: first[CACHE_NAME]}, **options)
    assert torch.equal(continued.sequences, expected)


@PARALLEL
def test_promise_4_a_parallel_answer_is_one_forward_pass(answerer):
    model, problem = answerer.build(), pad_problems(answerer.ask(), "left")
    for num_steps in STEPS:
        options = {"max_new_tokens": 8, "num_steps": num_steps, "eos_token_id": -1, **problem}
        logits = model(**problem, answer_length=8, num_steps=num_steps).logits
        generated = model.generate(do_sample=False, **options)
        assert torch.equal(generated[:, 1:], logits.argmax(-1))
        assert len(generated.unique()) > 2
        # Positions are independent given the problem, so the likeliest answer is the likeliest of each.
        assert torch.equal(model.generate(num_beams=3, do_sample=False, **options), generated)
        torch.manual_seed(2)
        sampled = model.generate(do_sample=True, top_k=0, num_return_sequences=2, **options)
        torch.manual_seed(2)
        drawn = [torch.multinomial(row.repeat_interleave(2, 0).softmax(-1), 1) for row in logits.unbind(1)]
        assert torch.equal(sampled[:, 1:], torch.cat(drawn, dim=1))


@ALL
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_promise_5_a_padded_problem_equals_the_problem_alone(answerer, side, attention):
    model, reading = answerer.build(), answerer.read(3)
    problem = {**answerer.ask(3), "attention_mask": torch.ones(3, 9, dtype=torch.long)}
    for row, length in enumerate((9, 5, 1)):
        span = slice(0, 9 - length) if side == "left" else slice(length, 9)
        problem["input_ids"][row, span], problem["attention_mask"][row, span] = 0, 0
    model.set_attn_implementation(attention)
    logits = model(**problem, **reading).logits
    for row in range(3):
        own = {key: value[row : row + 1] if torch.is_tensor(value) else value for key, value in reading.items()}
        torch.testing.assert_close(logits[row], model(**take_row(problem, row), **own).logits[0], atol=1e-5, rtol=1e-4)


@READING
@pytest.mark.parametrize("side", ["left", "right"])
def test_promise_5_the_stream_that_thinks_along_does_not_see_padding(answerer, side):
    model, problem, answer = answerer.build(), pad_problems(answerer.ask(), side), draw_ids(2, 6)
    outputs = model(**problem, decoder_input_ids=answer, loop_decoder=True).loop_logits
    alone = model(**take_row(problem, 1), decoder_input_ids=answer[1:], loop_decoder=True).loop_logits
    torch.testing.assert_close(outputs[1:], alone, atol=1e-5, rtol=1e-4)


@ALL
@pytest.mark.parametrize("side", ["left", "right"])
def test_promise_5_padding_changes_no_generated_answer(answerer, side):
    model, problem = answerer.build(), pad_problems(answerer.ask(), side)
    for strategy in ({}, {"num_beams": 2}):
        options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": -1, **strategy}
        together = model.generate(**problem, **options)
        for row in range(2):
            assert torch.equal(together[row : row + 1], model.generate(**take_row(problem, row), **options))


@ALL
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_promise_5_a_row_of_padding_alone_harms_nothing(answerer, attention):
    model, lesson = answerer.build(), make_lesson(answerer, 3)
    model.set_attn_implementation(attention)
    lesson["attention_mask"] = torch.ones_like(lesson["input_ids"])
    lesson["attention_mask"][1], lesson["labels"][1] = 0, -100
    outputs = model(**lesson, use_cache=False)
    assert outputs.logits.isfinite().all()
    outputs.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    rest = {key: value[[0, 2]] if torch.is_tensor(value) else value for key, value in lesson.items()}
    others = model(**rest, use_cache=False)
    torch.testing.assert_close(outputs.logits[[0, 2]], others.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs.loss, others.loss)


@READING
def test_promise_5_padding_of_answers_changes_no_other_logit(answerer):
    """It stands behind. Positions of a parallel answer all see each other, so its length is part of the question."""
    model, lesson = answerer.build(), make_lesson(answerer)
    logits = model(**lesson).logits
    shorter = {key: value[3:] if torch.is_tensor(value) else value for key, value in lesson.items()}
    shorter.pop("probe_targets", None)
    shorter["labels"] = shorter["labels"][:, :4]
    torch.testing.assert_close(logits[3:, :4], model(**shorter).logits, atol=1e-5, rtol=1e-4)


@ALL
def test_vectors_in_place_of_tokens_give_the_same(answerer):
    model, problem, reading = answerer.build(), pad_problems(answerer.ask(), "left"), answerer.read()
    embedded = {**problem, "inputs_embeds": model.get_input_embeddings()(problem["input_ids"])}
    del embedded["input_ids"]
    expected = model(**problem, **reading).logits
    torch.testing.assert_close(model(**embedded, **reading).logits, expected)
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**embedded, **options), model.generate(**problem, **options))
    if not answerer.is_parallel:
        queries = model.get_input_embeddings()(reading["decoder_input_ids"])
        torch.testing.assert_close(model(**problem, decoder_inputs_embeds=queries).logits, expected)


@ALL
def test_promise_6_parts_of_a_batch_add_up_to_the_whole(answerer):
    model, lesson = answerer.build().train(), make_lesson(answerer)
    num_items = (lesson["labels"] != -100).sum()
    loss, expected = compute_gradients(model, lesson)
    model.zero_grad()
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        part = {key: value[rows] if torch.is_tensor(value) else value for key, value in lesson.items()}
        parts.append(model(**part, num_items_in_batch=num_items).loss)
        parts[-1].backward()
    torch.testing.assert_close(sum(parts).detach(), loss)
    check_gradients({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, expected)


@ALL
def test_the_loss_is_the_mean_over_kept_steps_of_what_the_logits_say(answerer):
    model, lesson = answerer.build(), make_lesson(answerer)
    outputs, labels = model(**lesson, output_steps=True), lesson["labels"]
    kept = min(answerer.config.num_kept_outputs, answerer.config.num_steps)
    assert outputs.step_logits.shape == (4, kept, 7, VOCAB_SIZE)
    is_scored = labels != -100

    def score(logits):  # (B, S, A, V)
        chosen = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[:, None, :, None].expand(*logits.shape[:3], 1))
        return -chosen[..., 0].mean(1)[is_scored].mean()

    expected = score(outputs.step_logits)
    if "loop_decoder" in lesson:
        assert outputs.loop_logits.shape == (4, 3, 7, VOCAB_SIZE)
        expected = expected + score(outputs.loop_logits)
    if "probe_targets" in lesson:
        errors = (outputs.step_probes - lesson["probe_targets"][:, None]).square().mean((1, 3))
        expected = expected + errors[is_scored].mean()
    torch.testing.assert_close(outputs.loss, expected)
    assert torch.equal(outputs.logits, outputs.step_logits[:, -1])


@mark([BY_NAME["kept-autoregressive"], BY_NAME["static-memory-autoregressive"], BY_NAME["kept-parallel"]])
def test_promise_6_accumulated_steps_equal_one_big_batch(answerer, tmp_path):
    models = []
    for name, (batch, accumulation) in {"big": (8, 1), "accumulated": (2, 4)}.items():
        trainer = make_answer_trainer(tmp_path / name, answerer, batch, gradient_accumulation_steps=accumulation)
        trainer.train()
        models.append(trainer.model.state_dict())
    before = answerer.build().state_dict()
    assert any((models[0][name] - before[name]).abs().max() > 1e-3 for name in before)
    for name, parameter in models[0].items():
        torch.testing.assert_close(models[1][name], parameter, atol=1e-6, rtol=1e-4)


def test_promise_6_two_processes_equal_one_with_twice_the_batch(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    script = REPOSITORY / "tests" / "training" / "train_answers_once.py"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launcher, str(script), str(tmp_path / "two"), "4", "kept-autoregressive"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    trainer = make_answer_trainer(tmp_path / "one", BY_NAME["kept-autoregressive"], 8)
    trainer.train()
    trainer.save_model()
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=1e-4)


@mark([BY_NAME["plain-autoregressive"], BY_NAME["plain-parallel"]])
def test_the_trainer_evaluates_by_generation(answerer, tmp_path):
    seen = {}

    def measure(prediction):
        seen["predictions"], seen["labels"] = prediction.predictions, prediction.label_ids
        return {"exact": float((prediction.predictions[:, 1:8] == prediction.label_ids[:, :7]).all(-1).mean())}

    trainer = make_answer_trainer(
        tmp_path,
        answerer,
        8,
        max_steps=1,
        predict_with_generate=True,
        generation_max_length=5,
        compute_metrics=measure,
    )
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] > 0
    assert metrics["eval_exact"] >= 0
    assert (seen["predictions"][:, 5:] == 0).all(), "`generation_max_length` counts; the rest is the Trainer's padding"
    assert (trainer.predict(trainer.train_dataset, max_length=4).predictions[:, 4:] == 0).all()


@READING
def test_transformers_own_collator_shifts_the_answers(answerer):
    model = answerer.build(vocab_size=259)
    collator = DataCollatorForSeq2Seq(build_byte_tokenizer(), model=model)
    rows = [{"input_ids": [5, 6], "labels": [7, 8, 9]}, {"input_ids": [5], "labels": [7]}]
    batch = collator(rows)
    assert batch["decoder_input_ids"].tolist() == [[0, 7, 8], [0, 7, 0]]
    expected = model(**{key: value for key, value in batch.items() if key != "decoder_input_ids"}).loss
    assert torch.equal(model(**batch).loss, expected)


@ALL
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_promise_7_attention_implementations_agree(answerer, padding):
    model, lesson = answerer.build(), make_lesson(answerer, 2)
    inputs = lesson if padding == "none" else pad_problems(lesson, padding)
    model.set_attn_implementation("eager")
    expected = model(**inputs)
    model.set_attn_implementation("sdpa")
    outputs = model(**inputs)
    torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs.loss, expected.loss)


@ALL
def test_promise_7_bf16_trains_and_is_near_float32(answerer):
    model, lesson = answerer.build(), make_lesson(answerer)
    expected = model(**lesson).logits.softmax(-1)
    model = copy.deepcopy(model).to(torch.bfloat16)
    assert (model(**lesson).logits.float().softmax(-1) - expected).abs().max() < 0.05
    optimizer, losses = torch.optim.AdamW(model.train().parameters(), lr=1e-2), []
    for _ in range(10):
        loss = model(**lesson).loss
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@SOME
def test_promise_7_a_compiled_training_step_has_no_graph_break(answerer):
    model, lesson = answerer.build(num_steps=2, num_hidden_layers=1).train(), make_lesson(answerer, 2)
    is_padded = answerer.name in ("kept-autoregressive", "static-memory-parallel")
    inputs = pad_problems(lesson, "left") if is_padded else lesson
    loss, expected = compute_gradients(model, inputs)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    model.zero_grad()
    compiled_loss = compiled(**inputs).loss
    compiled_loss.backward()
    torch.testing.assert_close(compiled_loss.detach(), loss)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and name in expected}
    check_gradients(gradients, expected, atol=1e-5, rtol=1e-3)


@ALL
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_promise_7_gradient_checkpointing_gives_the_same_gradients(answerer, use_reentrant):
    for padding in (False, True):
        model, lesson = answerer.build().train(), make_lesson(answerer, 2)
        inputs = pad_problems(lesson, "right") if padding else lesson
        _, expected = compute_gradients(model, inputs)
        # Renamed within the versions of transformers that we support; the old name warns in the new ones.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": use_reentrant})
        _, gradients = compute_gradients(model, inputs)
        check_gradients(gradients, expected)


@ALL
def test_promise_8_compute_is_adjustable_per_call(answerer):
    """More and fewer steps and latents than trained; the output shows what was done."""
    model, problem, reading = answerer.build(), answerer.ask(), answerer.read()
    seen = []
    for num_steps, num_latents in ((1, 1), (3, 5), (12, 7)):
        outputs = model(**problem, **reading, num_steps=num_steps, num_latents=num_latents, output_steps=True)
        assert outputs.latents.shape == (2, num_steps, num_latents, 24)
        assert outputs.logits.isfinite().all()
        seen.append(outputs.logits)
    assert (seen[0] - seen[1]).abs().max() > 1e-3
    assert (seen[1] - seen[2]).abs().max() > 1e-3
    torch.testing.assert_close(model(**problem, **reading).logits, seen[1])


@ALL
def test_promise_8_generation_thinks_as_long_as_it_is_told(answerer, tmp_path):
    model, problem = answerer.build(), answerer.ask(4)
    options = {"max_new_tokens": 9, "do_sample": False}
    expected = model.generate(**problem, **options, num_steps=9, num_latents=7)
    assert not torch.equal(expected, model.generate(**problem, **options)), "so that a lost knob would show"
    chosen = GenerationConfig(**options, num_steps=9, num_latents=7)
    assert torch.equal(model.generate(**problem, generation_config=chosen), expected)
    model.generation_config.num_steps, model.generation_config.num_latents = 9, 7
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert torch.equal(reloaded.generate(**problem, **options), expected)
    assert torch.equal(
        reloaded.generate(**problem, **options, num_steps=3, num_latents=5),
        answerer.build().generate(**problem, **options),
    ), "an argument overrules the configuration"


@ALL
def test_an_answer_is_as_long_as_it_may_be_and_as_long_as_it_is_asked(answerer):
    model, problem = answerer.build(), answerer.ask()
    assert model.generate(**problem, eos_token_id=-1).shape == (2, 14), "by default up to `max_answer_length`"
    assert model.generate(**problem, eos_token_id=-1, max_new_tokens=4).shape == (2, 5)
    assert model.generate(**problem, eos_token_id=-1, max_length=4).shape == (2, 4)
    assert model.generate(**problem, generation_config=GenerationConfig(eos_token_id=-1, max_length=4)).shape == (2, 4)
    assert model.generate(**problem, eos_token_id=-1, max_new_tokens=13).shape == (2, 14)


def get_refusals(answerer) -> list[tuple[dict, str]]:
    """What no model takes, with what it says."""
    problem, reading = answerer.ask(), answerer.read()
    input_ids, whole = problem["input_ids"], {**problem, **reading}
    static = answerer.config.static_memory_size > 0
    refusals = [
        ({**whole, "num_latents": 8}, "`num_latents` is 8, but `max_latents` is 7"),
        ({**whole, "num_latents": 0}, "`num_latents` is 0; it must be a whole number of at least 1"),
        ({**whole, "num_steps": 0}, "`num_steps` is 0; it must be a whole number of at least 1"),
        ({**whole, "num_steps": -2}, "`num_steps` is -2"),
        ({**whole, "num_steps": 2.5}, "`num_steps` is 2.5"),
        ({**whole, "num_steps": True}, "`num_steps` is True"),
        ({**whole, "num_read_steps": -1}, "`num_read_steps` is -1; it must be a whole number of at least 0"),
        ({**whole, "exit_threshold": 0.1}, "`exit_threshold` was passed, but only `LoopedThinkerTextModel` has"),
        ({**whole, "input_ids": draw_ids(2, 38)}, "38 tokens long, but `max_position_embeddings` is 37"),
        ({**whole, "input_ids": input_ids + VOCAB_SIZE}, "`input_ids` holds .* ids are 0 to 60"),
        ({**whole, "input_ids": input_ids - VOCAB_SIZE}, "`input_ids` holds -.* ids are 0 to 60"),
        ({**whole, "attention_mask": torch.ones(2, 6)}, r"`attention_mask` has shape \(2, 6\)"),
        ({**whole, "attention_mask": torch.ones(2, 9, 9)}, "`attention_mask` has 3 dimensions"),
        ({**whole, "attention_mask": torch.ones(2, 1, 9, 9)}, "`attention_mask` has 4 dimensions"),
        ({**whole, "position_ids": torch.arange(6)[None]}, r"`position_ids` has shape \(1, 6\)"),
        (reading, "exactly one of `input_ids` and `inputs_embeds`; neither"),
        ({**problem, "labels": draw_ids(2, 14)}, "answer is 14 tokens long, but `max_answer_length` is 13"),
        ({**problem, "labels": draw_ids(2, 5) + VOCAB_SIZE}, "`labels` holds .* ids are 0 to 60"),
        ({**problem, "labels": torch.full((2, 5), -7)}, "`labels` holds -7"),
        ({**problem, "labels": draw_ids(3, 5)}, r"`labels` has shape \(3, 5\).* \(2, "),
        ({**problem, "labels": draw_ids(2, 5), "answer_length": 6}, r"`labels` has shape \(2, 5\).* \(2, 6\)"),
        ({**problem, "labels": draw_ids(5)}, r"`labels` has shape \(5,\)"),
        (
            {**problem, "decoder_inputs_embeds": torch.rand(2, 6, 24), "labels": draw_ids(2, 5)},
            r"`labels` has shape \(2, 5\).* \(2, 6\)",
        ),
        ({**problem, "decoder_inputs_embeds": torch.rand(2, 6, 5)}, r"shape \(2, 6, 5\); it must be \(B, A, hidden"),
        ({**problem, "decoder_input_ids": draw_ids(3, 6)}, r"`decoder_input_ids` has shape \(3, 6\).* B = 2"),
        ({**problem, "decoder_input_ids": draw_ids(2, 14)}, "answer is 14 tokens long, but `max_answer_length` is 13"),
        ({**problem, "decoder_input_ids": draw_ids(2, 5) + VOCAB_SIZE}, "`decoder_input_ids` holds"),
        (
            {**problem, "decoder_input_ids": draw_ids(2, 5), "answer_length": 4},
            "`answer_length` is 4, but `decoder_input_ids` has 5 positions",
        ),
        (
            {**problem, "decoder_input_ids": draw_ids(2, 5), "decoder_inputs_embeds": torch.rand(2, 5, 24)},
            "at most one of `decoder_input_ids` and `decoder_inputs_embeds`",
        ),
        ({**whole, "decoder_attention_mask": torch.ones(2, 5)}, r"`decoder_attention_mask` has shape \(2, 5\)"),
        ({**whole, "past_key_values": DynamicCache()}, "`past_key_values`"),
        ({**whole, "probe_targets": torch.rand(2, 7, 2)}, "`probe_targets` was passed"),
    ]
    if static:
        refusals += [
            ({**whole, "memory_ids": torch.tensor([[3], [0]])}, "`memory_ids` holds 3, but ids are 0 to 2"),
            ({**whole, "memory_ids": torch.tensor([[-1], [0]])}, "`memory_ids` holds -1"),
            ({**whole, "memory_ids": torch.zeros(3, 1).long()}, r"`memory_ids` has shape \(3, 1\), .* 2 rows"),
            ({**whole, "memory_ids": torch.zeros(2).long()}, r"`memory_ids` has shape \(2,\)"),
        ]
    else:
        refusals.append(({**whole, "memory_ids": torch.zeros(2, 1).long()}, "the model has no static memory"))
    if answerer.config.num_probes > 0:
        wrong = {**problem, "labels": draw_ids(2, 7), "probe_targets": torch.rand(2, 7, 1)}
        refusals.append((wrong, r"`probe_targets` has shape \(2, 7, 1\).* \(2, 7, 2\)"))
    if answerer.is_parallel:
        refusals += [
            (
                {**problem, "labels": draw_ids(2, 5), "decoder_input_ids": draw_ids(2, 5)},
                "`decoder_input_ids` was passed",
            ),
            ({**whole, "loop_decoder": True}, "`loop_decoder=True` needs"),
            ({**problem, "answer_length": 14}, "answer is 14 tokens long, but `max_answer_length` is 13"),
            ({**problem, "answer_length": 0}, "`answer_length` is 0"),
            ({**problem, "answer_length": 2.5}, "`answer_length` is 2.5"),
        ]
    else:
        refusals += [
            (problem, "needs `labels`, `decoder_input_ids` or `decoder_inputs_embeds`; none was passed"),
            ({**problem, "answer_length": 5}, "needs `labels`, `decoder_input_ids`"),
            (
                {**problem, "labels": draw_ids(2, 5), "decoder_input_ids": draw_ids(2, 6)},
                r"`labels` has shape \(2, 5\).* \(2, 6\)",
            ),
            (
                {**problem, "decoder_inputs_embeds": torch.rand(2, 5, 24), "loop_decoder": True},
                "`loop_decoder=True` needs",
            ),
        ]
    return refusals


@ALL
def test_promise_9_bad_input_is_one_clear_error(answerer):
    model = answerer.build()
    for inputs, message in get_refusals(answerer):
        with pytest.raises(ValueError, match=message):
            model(**inputs)


@ALL
def test_promise_9_bad_wishes_for_generation_are_one_clear_error(answerer):
    model, problem = answerer.build(), answerer.ask()
    for options, message in (
        ({"max_new_tokens": 14}, "answer may become 14 tokens long, but `max_answer_length` is 13"),
        ({"num_steps": 0}, "`num_steps` is 0"),
        ({"num_steps": 1.5}, "`num_steps` is 1.5"),
        ({"num_latents": 8}, "`num_latents` is 8, but `max_latents` is 7"),
        ({"exit_threshold": 0.1}, "exit_threshold"),
        ({"input_ids": draw_ids(2, 38)}, "38 tokens long, but `max_position_embeddings` is 37"),
        ({"generation_config": GenerationConfig(num_latents=9)}, "`num_latents` is 9, but `max_latents` is 7"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(**{**problem, **options})


@PARALLEL
def test_promise_9_what_one_pass_cannot_do_is_refused(answerer):
    model, problem = answerer.build(), answerer.ask(1)
    for options, message in (
        ({"assistant_model": answerer.build(seed=1)}, "Assisted or prompt-lookup generation was requested"),
        ({"prompt_lookup_num_tokens": 2}, "Assisted or prompt-lookup generation was requested"),
        ({"cache_implementation": "static"}, "`cache_implementation` was passed"),
        ({CACHE_NAME: EncoderDecoderCache(DynamicCache(), DynamicCache())}, f"`{CACHE_NAME}` was passed"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(**problem, max_new_tokens=3, **options)
    with pytest.raises(ValueError, match="Remove `model` from the arguments of the collator"):
        model.prepare_decoder_input_ids_from_labels(draw_ids(1, 3))


@READING
def test_promise_9_an_answer_does_not_outgrow_its_cache(answerer):
    model, problem = answerer.build(), answerer.ask()
    cache = model(**problem, decoder_input_ids=draw_ids(2, 12)).past_key_values
    with pytest.raises(ValueError, match="answer is 14 tokens long, but `max_answer_length` is 13"):
        model(**problem, decoder_input_ids=draw_ids(2, 2), past_key_values=cache)


@READING
def test_promise_9_thoughts_are_read_with_the_mask_that_came_with_them(answerer):
    """Thoughts whose mask was lost would be read with their padding."""
    model, problem, answer = answerer.build(), pad_problems(answerer.ask(), "left"), draw_ids(2, 4)
    thoughts = model.get_encoder()(**problem)
    expected = model(**problem, decoder_input_ids=answer).logits
    torch.testing.assert_close(
        model(encoder_outputs=thoughts, decoder_input_ids=answer).logits, expected, atol=1e-5, rtol=1e-4
    )
    is_input_read = thoughts.memory_mask is not None
    assert is_input_read == (answerer.config.num_read_steps is None)
    bare = LoopedThinkerEncoderOutput(last_hidden_state=thoughts.last_hidden_state)
    if is_input_read:
        logits = model(encoder_outputs=bare, decoder_input_ids=answer).logits
        torch.testing.assert_close(logits[0], expected[0], atol=1e-5, rtol=1e-4)


def test_an_answer_needs_something_to_start_from():
    model = LoopedThinkerForConditionalGeneration(
        LoopedThinkerConfig(hidden_size=8, num_attention_heads=2, num_steps=1)
    )
    with pytest.raises(ValueError, match="no `decoder_start_token_id`"):
        model(torch.tensor([[1]]), labels=torch.tensor([[2]]))


def test_masks_are_true_or_false_whatever_their_numbers():
    answerer = BY_NAME["plain-autoregressive"]
    model, problem, reading = answerer.build(), pad_problems(answerer.ask(), "right"), answerer.read()
    mask = problem.pop("attention_mask")
    expected = model(**problem, **reading, attention_mask=mask).logits
    for same in (2 * mask, mask.bool(), mask.float()):
        assert torch.equal(model(**problem, **reading, attention_mask=same).logits, expected)
