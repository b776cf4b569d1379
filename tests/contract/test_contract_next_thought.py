# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Do next-thought models keep the promises of docs/architecture.md? Each promise once, over all variants.

Promise 1 (parity) is in tests/modeling, 2 (loading without the package) in tests/hub.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    StaticCache,
)
from transformers.modeling_outputs import BaseModelOutput

from hf_thoughtbubbles import NextThoughtConfig, NextThoughtForConditionalGeneration, build_byte_tokenizer
from hf_thoughtbubbles.modeling.common.cache_names import CACHE_NAME
from hf_thoughtbubbles.modeling.next_thought.pooling_layers import AttentionPooling


REPOSITORY = Path(__file__).parents[2]
VOCAB_SIZE = 61
LONGEST = 37


@dataclass(frozen=True)
class Variant:
    """One configuration of tiny, distinct sizes."""

    name: str
    changes: dict

    def build(self, seed: int = 0, **changes) -> NextThoughtForConditionalGeneration:
        """A model with reproducible weights."""
        torch.manual_seed(seed)
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
            "max_position_embeddings": LONGEST,
            "pad_token_id": 0,
            "eos_token_id": 60,
            "initializer_range": 0.15,
        }
        config = NextThoughtConfig(**{**sizes, **self.changes, **changes})
        return NextThoughtForConditionalGeneration(config).eval()


VARIANTS = [
    Variant("plain", {}),
    Variant(
        "sinusoidal-biased",
        {
            "position_embedding": "sinusoidal",
            "decoder_key_value_heads": 2,
            "encoder_key_value_heads": 1,
            "attention_normalization": "layer_norm",
            "mlp_normalization": "layer_norm",
            "attention_bias": True,
            "mlp_bias": True,
            "feed_forward": "mlp",
        },
    ),
    Variant(
        "blocks-tied",
        {
            "position_embedding": "none",
            "core": "block_linear",
            "core_block_sizes": [4, 10, 2],
            "tie_word_embeddings": True,
            "feed_forward": "mlp",
            "hidden_act": "learned",
            "initializer_range": 0.3,
        },
    ),
    Variant(
        "deep",
        {
            "pooling_sizes": [18, 33, 7],
            "removed_shares": [0, 0.6, 0.25],
            "num_pooling_heads": 3,
            "num_encoder_layers": 2,
            "num_decoder_layers": 3,
            "num_thoughts": 2,
            "mlp_normalization": "none",
            "initializer_range": 0.1,
        },
    ),
]
ALL = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
SIDES = pytest.mark.parametrize("side", ["left", "right"])


def draw_ids(*shape: int) -> torch.Tensor:
    """Random token ids without padding and end of sequence."""
    return torch.randint(1, VOCAB_SIZE - 1, shape)


def pad_thoughts(rows: list[torch.Tensor], side: str, longest: int | None = None) -> dict:
    """Thoughts of unequal length as one batch."""
    longest = longest or max(map(len, rows))
    batch = {"input_ids": torch.zeros(len(rows), longest, dtype=torch.long)}
    batch["attention_mask"] = torch.zeros_like(batch["input_ids"])
    for i, row in enumerate(rows):
        span = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        batch["input_ids"][i, span], batch["attention_mask"][i, span] = row, 1
    return batch


def draw_thoughts() -> list[torch.Tensor]:
    """Of lengths at which padding would change what is kept, were it counted."""
    return [draw_ids(length) for length in (17, 5, 9, 10)]


def make_lesson(batch_size: int = 4, padding: str | None = "right") -> dict:
    """Thoughts and next thoughts of unequal length."""
    thoughts = pad_thoughts(draw_thoughts()[:batch_size], padding) if padding else {"input_ids": draw_ids(4, 13)}
    lesson = {**thoughts, "labels": draw_ids(len(thoughts["input_ids"]), 8)}
    for row in range(len(lesson["labels"])):
        lesson["labels"][row, 8 - row :] = -100
    return lesson


def compute_gradients(model, inputs: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_gradients(gradients, expected):
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        difference, largest = (gradient - expected[name]).abs().max(), expected[name].abs().max()
        assert difference <= 5e-5 * largest + 1e-7, (name, difference, largest)


@ALL
def test_promise_2_saving_and_loading_keeps_every_bit(variant, tmp_path):
    model, inputs = variant.build(), {"input_ids": draw_ids(2, 11), "decoder_input_ids": draw_ids(2, 7)}
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(reloaded) is NextThoughtForConditionalGeneration
    assert {**reloaded.config.to_dict(), "_name_or_path": ""} == model.config.to_dict()
    assert torch.equal(reloaded(**inputs).logits, model(**inputs).logits)
    base = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(base(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state)
    more = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, num_thoughts=5)
    assert torch.equal(more(**inputs).logits, model(**inputs, num_thoughts=5).logits)


@ALL
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_promise_3_later_tokens_change_no_earlier_logit(variant, attention):
    model, thought, text = variant.build(), {"input_ids": draw_ids(2, 11)}, draw_ids(2, 11)
    model.set_attn_implementation(attention)
    edited = torch.cat((text[:, :5], text[:, 5:] % 59 + 1), dim=1)
    expected, logits = (model(**thought, decoder_input_ids=ids, use_cache=False).logits for ids in (text, edited))
    torch.testing.assert_close(logits[:, :5], expected[:, :5], atol=1e-5, rtol=0)
    assert (logits[:, 5:] - expected[:, 5:]).abs().amax(-1).min() > 1e-4, "and later ones see them"
    other = model(input_ids=draw_ids(2, 11), decoder_input_ids=text).logits
    assert (other - expected).abs().amax(-1).min() > 1e-4, "and all see the thought"


@ALL
@pytest.mark.parametrize(
    "strategy",
    [
        {"do_sample": False},
        {"do_sample": True, "temperature": 0.8},
        {"num_beams": 3, "do_sample": False},
        {"do_sample": False, "cache_implementation": "static", "disable_compile": True},
        {"num_beams": 2, "do_sample": False, "cache_implementation": "static", "disable_compile": True},
        {"do_sample": False, "prompt_lookup_num_tokens": 3},
    ],
    ids=["greedy", "sampling", "beam", "static", "static-beam", "lookup"],
)
def test_promise_4_cached_generation_equals_uncached(variant, strategy):
    """With thoughts of unequal length, padded on the left."""
    is_lookup = "prompt_lookup_num_tokens" in strategy
    model, batch = variant.build(), pad_thoughts(draw_thoughts()[: 1 if is_lookup else 4], "left")
    plain = {key: strategy[key] for key in ("do_sample", "temperature", "num_beams") if key in strategy}
    for num_thoughts in (1, 3):
        options = {"max_new_tokens": 23, "num_thoughts": num_thoughts, **batch}
        options |= {"eos_token_id": -1} if is_lookup else {}
        torch.manual_seed(1)
        expected = model.generate(use_cache=False, **options, **plain)
        assert is_lookup or len(expected.unique()) > 2, "texts that vary, so that a lost context would show"
        torch.manual_seed(1)
        assert torch.equal(model.generate(**options, **strategy), expected), num_thoughts


@ALL
def test_promise_4_assisted_generation_equals_greedy(variant):
    model, assistant = variant.build(), variant.build(seed=1, num_decoder_layers=1)
    options = {"max_new_tokens": 23, "do_sample": False, "num_thoughts": 3, "input_ids": draw_ids(1, 9)}
    assert torch.equal(model.generate(assistant_model=assistant, **options), model.generate(**options))


@ALL
def test_promise_4_step_by_step_decoding_equals_the_full_pass(variant):
    """A returned cache is continued with the thought, or with what was thought about it; any part may be padding."""
    model, thought, text = variant.build(), pad_thoughts(draw_thoughts()[:2], "left"), draw_ids(2, 12)
    mask = torch.ones_like(text)
    mask[1, :3] = 0
    for reading in ({}, {"decoder_attention_mask": mask}):
        expected = model(**thought, decoder_input_ids=text, use_cache=False, **reading).logits
        thoughts = model.get_encoder()(**thought)
        for source in (thought, {"encoder_outputs": thoughts}):
            for cache in (
                None,
                EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config)),
                EncoderDecoderCache(StaticCache(config=model.config, max_cache_len=15), DynamicCache()),
            ):
                for start, end in ((0, 3), (3, 4), (4, 12)):
                    part = {name: value[:, :end] for name, value in reading.items()}
                    outputs = model(
                        **source, decoder_input_ids=text[:, start:end], past_key_values=cache, use_cache=True, **part
                    )
                    cache = outputs.past_key_values
                    seen, wanted = outputs.logits, expected[:, start:end]
                    if reading and start < 3:  # what padding says is not looked at
                        seen, wanted = seen[0], wanted[0]
                    torch.testing.assert_close(seen, wanted, atol=1e-4, rtol=0)
                assert type(cache) is EncoderDecoderCache
                assert int(cache.get_seq_length()) == 12
                assert cache.cross_attention_cache.get_seq_length() == 5


@ALL
def test_promise_4_thinking_and_latent_tokens_happen_once(variant):
    model, batch, calls = variant.build(), pad_thoughts(draw_thoughts(), "left"), []
    for part in (model.model.encoder, model.model.core, model.model.decoder.latent_decoder):
        part.register_forward_hook(lambda module, inputs, output: calls.append(type(module).__name__))
    model.generate(**batch, max_new_tokens=9, num_beams=2, do_sample=False, num_thoughts=3, eos_token_id=-1)
    assert len(calls) == 1 + 3 + 1


@ALL
def test_promise_4_rejected_tokens_leave_no_trace(variant):
    model, thought, text = variant.build(), {"input_ids": draw_ids(2, 9)}, draw_ids(2, 9)
    expected = model(**thought, decoder_input_ids=text).logits
    cache = model(**thought, decoder_input_ids=text[:, :4]).past_key_values
    model(**thought, decoder_input_ids=draw_ids(2, 6), past_key_values=cache)
    cache.crop(-6)
    seen = model(**thought, decoder_input_ids=text[:, 4:], past_key_values=cache).logits
    torch.testing.assert_close(seen, expected[:, 4:], atol=1e-4, rtol=0)


@ALL
def test_promise_4_generation_goes_on_from_its_own_cache(variant):
    model, thought = variant.build(), {"input_ids": draw_ids(2, 9)}
    options = {"do_sample": False, "return_dict_in_generate": True, "eos_token_id": -1, **thought}
    expected = model.generate(max_new_tokens=10, **options).sequences
    first = model.generate(max_new_tokens=4, **options)
    options["decoder_input_ids"] = first.sequences
    continued = model.generate(max_new_tokens=6, **{CACHE_NAME: first[CACHE_NAME]}, **options)
    assert torch.equal(continued.sequences, expected)


@ALL
def test_promise_4_generation_starts_from_thoughts_alone(variant):
    """Those of the encoder, or a vector of one's own."""
    model, thought = variant.build(), {"input_ids": draw_ids(3, 9)}
    options = {"do_sample": False, "max_new_tokens": 9}
    thoughts = model.get_encoder()(**thought, num_thoughts=2)
    expected = model.generate(**thought, **options, num_thoughts=2)
    assert torch.equal(model.generate(encoder_outputs=thoughts, **options), expected)
    vector = BaseModelOutput(last_hidden_state=thoughts.last_hidden_state)
    assert torch.equal(model.generate(encoder_outputs=vector, num_thoughts=2, **options), expected)


@ALL
@SIDES
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_promise_5_a_padded_thought_equals_the_thought_alone(variant, side, attention):
    """It keeps the tokens that it keeps alone: as many, the same, in the same order."""
    model, rows, text = variant.build(), draw_thoughts(), draw_ids(4, 7)
    model.set_attn_implementation(attention)
    batch = pad_thoughts(rows, side, longest=23)
    outputs = model(**batch, decoder_input_ids=text, output_pooling=True)
    for i, row in enumerate(rows):
        alone = model(row[None], decoder_input_ids=text[i : i + 1], output_pooling=True)
        torch.testing.assert_close(outputs.logits[i], alone.logits[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(outputs.thought[i], alone.thought[0], atol=1e-5, rtol=1e-4)
        shift, counts = 23 - len(row) if side == "left" else 0, model.config.count_kept_tokens(len(row))
        for kept, own, count in zip(outputs.pooling.token_index, alone.pooling.token_index, counts, strict=True):
            assert own.shape == (1, count)
            assert torch.equal(kept[i, :count], own[0] + shift)
            assert (kept[i, count:] == -1).all()


@ALL
@SIDES
def test_promise_5_padding_changes_no_generated_text(variant, side):
    model, rows = variant.build(), draw_thoughts()
    batch = pad_thoughts(rows, side)
    for strategy in ({}, {"num_beams": 2}):
        options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": -1, **strategy}
        together = model.generate(**batch, **options)
        for i, row in enumerate(rows):
            assert torch.equal(together[i : i + 1], model.generate(row[None], **options))


@ALL
@SIDES
def test_promise_5_padding_of_the_next_thought_changes_no_other_logit(variant, side):
    model, thought, rows = variant.build(), {"input_ids": draw_ids(3, 9)}, [draw_ids(n) for n in (7, 4, 1)]
    batch = pad_thoughts(rows, side)
    logits = model(
        **thought, decoder_input_ids=batch["input_ids"], decoder_attention_mask=batch["attention_mask"]
    ).logits
    for i, row in enumerate(rows):
        alone = model(thought["input_ids"][i : i + 1], decoder_input_ids=row[None]).logits[0]
        torch.testing.assert_close(logits[i][batch["attention_mask"][i].bool()], alone, atol=1e-5, rtol=1e-4)


@ALL
def test_vectors_in_place_of_tokens_give_the_same(variant):
    model, batch, text = variant.build(), pad_thoughts(draw_thoughts(), "left"), draw_ids(4, 7)
    embed = model.get_input_embeddings()
    embedded = {"inputs_embeds": embed(batch["input_ids"]), "attention_mask": batch["attention_mask"]}
    expected = model(**batch, decoder_input_ids=text).logits
    torch.testing.assert_close(model(**embedded, decoder_inputs_embeds=embed(text)).logits, expected)
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**embedded, **options), model.generate(**batch, **options))


@ALL
def test_promise_6_parts_of_a_batch_add_up_to_the_whole(variant):
    model, lesson = variant.build().train(), make_lesson()
    num_items = (lesson["labels"] != -100).sum()
    loss, expected = compute_gradients(model, lesson)
    model.zero_grad()
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        part = {key: value[rows] for key, value in lesson.items()}
        parts.append(model(**part, num_items_in_batch=num_items).loss)
        parts[-1].backward()
    torch.testing.assert_close(sum(parts).detach(), loss)
    check_gradients({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, expected)


@ALL
def test_the_loss_is_what_the_logits_say_about_the_labels(variant):
    """Position t is given label t - 1 and scored on label t; the first is given the start."""
    model, lesson = variant.build(), make_lesson()
    labels = lesson.pop("labels")
    given = torch.cat((torch.zeros(4, 1).long(), labels[:, :-1].clamp(min=0)), dim=1)
    expected = model(**lesson, decoder_input_ids=given)
    outputs = model(**lesson, labels=labels)
    assert torch.equal(outputs.logits, expected.logits)
    chosen = expected.logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(outputs.loss, -chosen[labels != -100].mean())
    strided = torch.stack((labels, labels), dim=-1)[..., 0]
    assert torch.equal(model(**lesson, labels=strided).loss, outputs.loss) and not strided.is_contiguous()
    assert torch.equal(model(**lesson, decoder_input_ids=given, logits_to_keep=2).logits, outputs.logits[:, -2:])


def make_trainer(folder, batch: int, model=None, **changes) -> Seq2SeqTrainer:
    """Three steps on texts of unequal length, collated by transformers' own collator."""
    model = model or VARIANTS[0].build(vocab_size=259, pad_token_id=258, eos_token_id=257)
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "input_ids": torch.randint(97, 123, (5 + i % 7,), generator=generator).tolist(),
            "labels": torch.randint(97, 123, (1 + i % 5,), generator=generator).tolist(),
        }
        for i in range(24)
    ]
    arguments = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": batch,
        "learning_rate": 1e-1,
        "optim": "sgd",
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(**{**arguments, **changes}),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:8]),
        data_collator=DataCollatorForSeq2Seq(build_byte_tokenizer(), model=model),
    )


def test_promise_6_accumulated_steps_equal_one_big_batch(tmp_path):
    models = []
    for name, (batch, accumulation) in {"big": (8, 1), "accumulated": (2, 4)}.items():
        trainer = make_trainer(tmp_path / name, batch, gradient_accumulation_steps=accumulation)
        trainer.train()
        models.append(trainer.model.state_dict())
    before = VARIANTS[0].build(vocab_size=259, pad_token_id=258, eos_token_id=257).state_dict()
    assert any((models[0][name] - before[name]).abs().max() > 1e-3 for name in before)
    for name, parameter in models[0].items():
        torch.testing.assert_close(models[1][name], parameter, atol=1e-5, rtol=1e-3)


def test_the_trainer_smooths_labels_and_evaluates_by_generation(tmp_path):
    trainer = make_trainer(
        tmp_path, 8, label_smoothing_factor=0.25, predict_with_generate=True, generation_max_length=5
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    labels = inputs["labels"]
    smoothed = trainer.compute_loss(trainer.model, dict(inputs)).detach()
    logits = trainer.model(**inputs).logits.log_softmax(-1)
    own = -logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    expected = (0.75 * own + 0.25 * -logits.mean(-1))[labels != -100].mean()
    torch.testing.assert_close(smoothed, expected.detach())
    assert trainer.evaluate()["eval_loss"] > 0
    predictions = trainer.predict(trainer.eval_dataset).predictions
    assert (predictions[:, 5:] == 258).all(), "`generation_max_length` counts; the rest is the Trainer's padding"


def test_transformers_own_collator_shifts_the_next_thoughts():
    model = VARIANTS[0].build(vocab_size=259, decoder_start_token_id=256)
    collator = DataCollatorForSeq2Seq(build_byte_tokenizer(), model=model)
    batch = collator([{"input_ids": [5, 6, 7, 8], "labels": [7, 8, 9]}, {"input_ids": [5] * 5, "labels": [7]}])
    assert batch["decoder_input_ids"].tolist() == [[256, 7, 8], [256, 7, 0]]
    expected = model(**{key: value for key, value in batch.items() if key != "decoder_input_ids"}).loss
    assert torch.equal(model(**batch).loss, expected)


@ALL
@pytest.mark.parametrize("padding", [None, "left", "right"])
def test_promise_7_attention_implementations_agree(variant, padding):
    model, lesson = variant.build(), make_lesson(padding=padding)
    model.set_attn_implementation("eager")
    (loss, expected), logits = compute_gradients(model, lesson), model(**lesson).logits
    model.set_attn_implementation("sdpa")
    fused, gradients = compute_gradients(model, lesson)
    torch.testing.assert_close(model(**lesson).logits, logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fused, loss)
    check_gradients(gradients, expected)


@ALL
def test_promise_7_every_parameter_learns(variant):
    _, gradients = compute_gradients(variant.build(), make_lesson())
    model = variant.build()
    # A bias of keys adds the same to all scores of a query, which changes nothing.
    learned = {name for name, _ in model.named_parameters() if not name.endswith("k_proj.bias")}
    assert {name for name, gradient in gradients.items() if gradient.abs().max() > 1e-9} >= learned


@ALL
def test_promise_7_bf16_trains_and_is_near_float32(variant):
    model, lesson = variant.build(initializer_range=0.1), make_lesson()
    expected = model(**lesson).logits.softmax(-1)
    model = copy.deepcopy(model).to(torch.bfloat16)
    assert (model(**lesson).logits.float().softmax(-1) - expected).abs().max() < 0.1
    optimizer, losses = torch.optim.AdamW(model.train().parameters(), lr=1e-2), []
    for _ in range(20):
        loss = model(**lesson).loss
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3


@ALL
def test_what_follows_a_thought_is_learned_and_depends_on_it(variant):
    """A model that learned pairs by heart writes them again, each after its own thought."""
    model, lesson = variant.build(initializer_range=None).train(), pad_thoughts(draw_thoughts(), "left")
    labels = torch.cat((draw_ids(4, 6), torch.full((4, 1), 60)), dim=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        model(**lesson, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(model.eval().generate(**lesson, max_new_tokens=7, do_sample=False)[:, 1:], labels)


@ALL
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_promise_7_gradient_checkpointing_gives_the_same_gradients(variant, use_reentrant):
    model, lesson = variant.build().train(), make_lesson()
    _, expected = compute_gradients(model, lesson)
    # Renamed within the versions of transformers that we support; the old name warns in the new ones.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})
    _, gradients = compute_gradients(model, lesson)
    check_gradients(gradients, expected)
    cache = model.eval()(**lesson).past_key_values
    assert model.train()(**lesson, use_cache=True).past_key_values.get_seq_length() == 0
    with pytest.raises(ValueError, match=r"`past_key_values` with 8 tokens was passed .* gradient checkpointing"):
        model(**lesson, past_key_values=cache)


@ALL
@pytest.mark.parametrize("padding", [None, "left"])
def test_promise_7_a_compiled_training_step_has_no_graph_break(variant, padding):
    model, lesson = variant.build().train(), make_lesson(padding=padding)
    loss, expected = compute_gradients(model, lesson)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    model.zero_grad()
    seen = compiled(**lesson, num_thoughts=model.config.num_thoughts).loss
    seen.backward()
    torch.testing.assert_close(seen.detach(), loss, atol=1e-5, rtol=1e-5)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    check_gradients(gradients, expected)


@ALL
def test_promise_8_compute_is_adjustable_per_call(variant):
    """Each thought is the core's of the one before, and the last is written out."""
    model, inputs = variant.build(), {"input_ids": draw_ids(2, 9), "decoder_input_ids": draw_ids(2, 5)}
    seen = []
    for num_thoughts in (1, 3, 7):
        outputs = model(**inputs, num_thoughts=num_thoughts)
        assert outputs.thoughts.shape == (2, num_thoughts, model.config.latent_size)
        thought = outputs.encoder_last_hidden_state
        for i in range(num_thoughts):
            thought = model.model.core(thought)
            torch.testing.assert_close(outputs.thoughts[:, i], thought)
        assert torch.equal(outputs.thought, outputs.thoughts[:, -1])
        written = BaseModelOutput(last_hidden_state=outputs.encoder_last_hidden_state)
        written.thoughts = outputs.thought[:, None]
        torch.testing.assert_close(
            model(encoder_outputs=written, decoder_input_ids=inputs["decoder_input_ids"]).logits, outputs.logits
        )
        seen.append(outputs.thoughts)
    assert torch.equal(seen[2][:, :3], seen[1])
    assert model(**inputs).thoughts.shape[1] == model.config.num_thoughts


@ALL
def test_promise_8_generation_thinks_as_far_as_it_is_told(variant, tmp_path):
    model, thought = variant.build(), {"input_ids": draw_ids(6, 9)}
    options = {"max_new_tokens": 9, "do_sample": False}
    expected = model.generate(**thought, **options, num_thoughts=4)
    torch.manual_seed(3)
    bare = model.generate(**thought, **options)
    with torch.no_grad():  # so that a lost knob would show, whatever the weights make of it
        for parameter in model.model.core.parameters():
            parameter.mul_(1.5)
    expected, bare = (model.generate(**thought, **options, **knob) for knob in ({"num_thoughts": 4}, {}))
    assert not torch.equal(expected, bare)
    chosen = GenerationConfig(**options, num_thoughts=4)
    assert torch.equal(model.generate(**thought, generation_config=chosen), expected)
    model.generation_config.num_thoughts = 4
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert torch.equal(reloaded.generate(**thought, **options), expected)
    asked = {"num_thoughts": model.config.num_thoughts}
    assert torch.equal(reloaded.generate(**thought, **options, **asked), bare), "an argument overrules it"


@ALL
def test_promise_8_what_was_kept_is_visible(variant):
    """Scores of a layer sum to 1 over a row, and what is kept are the highest, in descending order."""
    model = variant.build()
    batch, text = pad_thoughts(draw_thoughts(), "left"), draw_ids(4, 3)
    assert model(**batch, decoder_input_ids=text).pooling is None
    pooling = model(**batch, decoder_input_ids=text, output_pooling=True).pooling
    for i, mask in enumerate(batch["attention_mask"].bool()):
        counts = model.config.count_kept_tokens(int(mask.sum()))
        for index, scores, count in zip(pooling.index, pooling.scores, counts, strict=True):
            torch.testing.assert_close(scores[i].sum(), torch.tensor(1.0))
            best = scores[i].sort(descending=True).values[:count]
            assert torch.equal(scores[i][index[i, :count]], best)
    assert not pooling.scores[0][~batch["attention_mask"].bool()].any()


@ALL
def test_states_and_weights_of_the_decoder_are_recorded(variant):
    model, inputs = variant.build(), {"input_ids": draw_ids(2, 9), "decoder_input_ids": draw_ids(2, 7)}
    model.set_attn_implementation("eager")
    outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
    depth = model.config.num_decoder_layers
    assert [states.shape for states in outputs.decoder_hidden_states] == [(2, 12, 24)] * (depth + 1)
    assert [weights.shape for weights in outputs.decoder_attentions] == [(2, 4, 12, 12)] * depth
    seen = model.lm_head(outputs.decoder_hidden_states[-1][:, 5:])
    torch.testing.assert_close(seen, outputs.logits)


def test_dropout_acts_in_training_alone():
    plain, model, lesson = VARIANTS[0].build(), VARIANTS[0].build(dropout=0.5), make_lesson()
    expected = plain(**lesson).loss
    assert torch.equal(model(**lesson).loss, expected)
    model.train()
    assert not torch.equal(model(**lesson).loss, model(**lesson).loss)
    assert torch.equal(plain.train()(**lesson).loss, expected), "by default there is none"
    layer, tokens = AttentionPooling(24, 36, num_heads=3, removed_share=0.3, dropout=0.5), torch.rand(2, 7, 24)
    assert not torch.equal(layer(tokens)[0], layer(tokens)[0])
    assert torch.equal(layer.eval()(tokens)[0], layer(tokens)[0])


def test_a_training_model_gives_a_cache_only_when_asked():
    model, lesson = VARIANTS[0].build().train(), make_lesson()
    assert model(**lesson).past_key_values is None
    assert model(**lesson, use_cache=True).past_key_values.get_seq_length() == 8


def test_masks_are_true_or_false_whatever_their_numbers():
    model, lesson = VARIANTS[0].build(), make_lesson()
    mask = lesson.pop("attention_mask")
    expected = model(**lesson, attention_mask=mask).logits
    for same in (2 * mask, mask.bool(), mask.float()):
        assert torch.equal(model(**lesson, attention_mask=same).logits, expected)


@ALL
def test_a_compiled_step_with_a_static_cache_has_no_graph_break(variant):
    model, thought, text = variant.build(), {"input_ids": draw_ids(2, 9)}, draw_ids(2, 6)
    expected = model(**thought, decoder_input_ids=text).logits
    cache = EncoderDecoderCache(StaticCache(config=model.config, max_cache_len=9), DynamicCache())
    with torch.no_grad():
        thoughts = model.get_encoder()(**thought)
        model(encoder_outputs=thoughts, decoder_input_ids=text[:, :2], past_key_values=cache)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        for place in range(2, 6):
            seen = compiled(
                encoder_outputs=thoughts, decoder_input_ids=text[:, place : place + 1], past_key_values=cache
            ).logits
            torch.testing.assert_close(seen[:, 0], expected[:, place], atol=1e-4, rtol=0)


@ALL
def test_promise_9_bad_input_is_one_clear_error(variant):
    model, ids, text = variant.build(), draw_ids(2, 9), draw_ids(2, 5)
    whole = {"input_ids": ids, "decoder_input_ids": text}
    short, least = pad_thoughts([draw_ids(9), draw_ids(1)], "left"), model.config.min_tokens
    latent = torch.zeros(2, model.config.latent_size)
    for inputs, message in (
        ({"decoder_input_ids": text}, "exactly one of `input_ids` and `inputs_embeds`; neither"),
        ({**whole, "input_ids": draw_ids(2, LONGEST + 1)}, "38 tokens long, but `max_position_embeddings` is 37"),
        ({**whole, "input_ids": ids + VOCAB_SIZE}, "`input_ids` holds .* ids are 0 to 60"),
        ({**whole, "input_ids": ids[:, :1]}, rf"has 1 tokens\. .* Pass at least {least} tokens"),
        ({**whole, **short}, rf"Row 1 of the input.* has 1 tokens\. .* Pass at least {least} tokens"),
        ({**whole, "attention_mask": torch.ones(2, 6)}, r"`attention_mask` has shape \(2, 6\)"),
        ({**whole, "attention_mask": torch.ones(2, 1, 9, 9)}, "`attention_mask` has 4 dimensions"),
        ({"input_ids": ids}, "pass exactly one of `labels` or `decoder_input_ids`.*; neither was passed"),
        ({**whole, "decoder_inputs_embeds": torch.rand(2, 5, 24)}, "; both were passed"),
        ({**whole, "decoder_input_ids": draw_ids(3, 5)}, r"`decoder_input_ids` has shape \(3, 5\).* B = 2"),
        ({**whole, "decoder_input_ids": text + VOCAB_SIZE}, "`decoder_input_ids` holds"),
        ({**whole, "decoder_input_ids": draw_ids(2, 38)}, "next thought is 38 tokens long, but `max_position_embed"),
        ({**whole, "decoder_input_ids": text[:, :0]}, "no size 0"),
        ({"input_ids": ids, "decoder_inputs_embeds": torch.rand(2, 5, 7)}, r"must be \(B, T, 24\) with B = 2"),
        ({**whole, "decoder_attention_mask": torch.ones(2, 4)}, r"`decoder_attention_mask` has shape \(2, 4\)"),
        ({**whole, "past_key_values": DynamicCache()}, "`past_key_values` is a `DynamicCache`"),
        ({**whole, "position_ids": torch.arange(9)[None]}, "`position_ids` was passed"),
        ({**whole, "decoder_position_ids": torch.arange(5)[None]}, "`decoder_position_ids` was passed"),
        ({**whole, "num_thoughts": 0}, "`num_thoughts` is 0; it must be a whole number"),
        ({**whole, "num_thoughts": 1.5}, "`num_thoughts` is 1.5"),
        ({**whole, "num_thoughts": True}, "`num_thoughts` is True"),
        ({"input_ids": ids, "labels": draw_ids(3, 5)}, r"`labels` has shape \(3, 5\).* \(2, 5\)"),
        ({"input_ids": ids, "labels": draw_ids(5)}, r"`labels` has shape \(5,\)"),
        ({"input_ids": ids, "labels": torch.full((2, 5), -7)}, "`labels` holds -7"),
        ({**whole, "labels": draw_ids(2, 4)}, r"`labels` has shape \(2, 4\).* \(2, 5\)"),
        ({"input_ids": ids, "labels": text, "logits_to_keep": 1}, "`logits_to_keep` was passed with `labels`"),
        ({"encoder_outputs": (latent,), "decoder_input_ids": text}, "`encoder_outputs` is a `tuple`"),
        (
            {"encoder_outputs": BaseModelOutput(last_hidden_state=latent[:, 1:]), "decoder_input_ids": text},
            "`last_hidden_state` has shape",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            model(**inputs)
    lonely = EncoderDecoderCache(DynamicCache(), DynamicCache())
    lonely.self_attention_cache.update(torch.zeros(2, 2, 3, 6), torch.zeros(2, 2, 3, 6), 0)
    with pytest.raises(ValueError, match="holds 3 tokens but no latent tokens"):
        model(**whole, past_key_values=lonely)


def test_promise_9_bad_wishes_for_generation_are_one_clear_error():
    model, thought = VARIANTS[0].build(), {"input_ids": draw_ids(2, 9)}
    for options, message in (
        ({"max_new_tokens": LONGEST + 1}, "may read 38 tokens .* `max_position_embeddings` is 37"),
        ({"num_thoughts": 0}, "`num_thoughts` is 0"),
        ({"generation_config": GenerationConfig(num_thoughts=-1)}, "`num_thoughts` is -1"),
        ({"input_ids": draw_ids(2, 38)}, "38 tokens long, but `max_position_embeddings` is 37"),
        ({"input_ids": draw_ids(2, 1)}, "has 1 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(**{**thought, **options})
    assert model.generate(**thought, max_new_tokens=LONGEST, eos_token_id=-1).shape == (2, LONGEST + 1)


def test_a_next_thought_needs_something_to_start_from():
    model = VARIANTS[0].build(pad_token_id=None)
    with pytest.raises(ValueError, match="no `decoder_start_token_id`"):
        model(draw_ids(1, 9), labels=draw_ids(1, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_attention_heads": 5}, "`hidden_size` 24 is not a multiple of `encoder_attention_heads`"),
        ({"decoder_key_value_heads": 3}, "`decoder_attention_heads` 4 is not a multiple of `decoder_key_value_heads`"),
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
    ],
)
def test_promise_9_numbers_that_contradict_each_other_are_refused(changes, message, tmp_path):
    with pytest.raises(Exception, match=message):
        VARIANTS[0].build(**changes)
    VARIANTS[0].build().save_pretrained(tmp_path)
    with pytest.raises(Exception, match=message):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path, **changes)


def test_counts_are_products_in_double_precision_cut_to_integers():
    """10 * (1 - 0.9) is 0.999..., so of ten tokens none is kept: as in the original."""
    config = NextThoughtConfig(pooling_sizes=[12], removed_shares=[0.9])
    assert config.count_kept_tokens(10) == [0] and config.min_tokens == 11
    model = VARIANTS[0].build(pooling_sizes=[12], removed_shares=[0.9])
    rows = [draw_ids(n) for n in (30, 31, 11)]
    pooling = model(**pad_thoughts(rows, "left"), decoder_input_ids=draw_ids(3, 2), output_pooling=True).pooling
    assert (pooling.index[0] >= 0).sum(1).tolist() == [2, 3, 1]
