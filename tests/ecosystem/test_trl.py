# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Trainers of TRL compute the model's own loss, and compare likelihoods by one fork rule, on every causal family."""

import copy
import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from hf_thoughtbubbles import build_byte_tokenizer, calibrate_forks, set_chat_template
from hf_thoughtbubbles.training.thinking_schedule import ThinkingSchedule, find_setting
from tests.families import BYTE_VARIANTS, FAMILIES


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:trl")
SIZES = {"vocab_size": 259, "max_position_embeddings": 64, "pad_token_id": 258, "eos_token_id": 257}
ALL = {family.name: family for family in [*FAMILIES, *BYTE_VARIANTS]}
BYTES = BYTE_VARIANTS[0].name
LINEAR = [
    "thoughtbubbles",
    "threshold",
    "native",
    "copy",
    "gpt-rope",
    "thinker",
    "thinker-exit",
    "generic-gpt2",
    BYTES,
]
TEXTS = ["hello there you", "some longer text is here", "x y z", "forks and bubbles"]
PAIRS = [
    {"prompt": "hello ", "chosen": "there you", "rejected": "x"},
    {"prompt": "some ", "chosen": "longer text", "rejected": "is not here"},
    {"prompt": "x y ", "chosen": "z", "rejected": "forks and bubbles"},
    {"prompt": "forks ", "chosen": "and bubbles", "rejected": "and so on"},
]
RATED = [{"prompt": row["prompt"], "completion": row["chosen"], "label": i % 2 == 0} for i, row in enumerate(PAIRS)]


def build(name: str, **changes):
    """A tiny model over bytes, in training."""
    return ALL[name].build(**SIZES, **changes).train()


def make_options(folder, **options) -> dict:
    """Options of one small step on the CPU."""
    shared = {"use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    sizes = {"max_steps": 1, "per_device_train_batch_size": 4, "logging_steps": 1}
    shared |= {"activation_checkpointing": False, "learning_rate": 0.0, "output_dir": str(folder)}
    return {**shared, **sizes, **options}


def make_trainer(trainer_class, config_class, model, rows, folder, options, **arguments):
    """A trainer that reads bytes; rows stay in order."""
    return trainer_class(
        model=model,
        args=config_class(**make_options(folder, **options)),
        train_dataset=Dataset.from_list(rows),
        processing_class=build_byte_tokenizer(model_max_length=64),
        **arguments,
    )


def make_sft(model, folder, **options) -> SFTTrainer:
    return make_trainer(SFTTrainer, SFTConfig, model, [{"text": text} for text in TEXTS], folder, options)


def make_dpo(model, folder, **options) -> DPOTrainer:
    return make_trainer(DPOTrainer, DPOConfig, model, PAIRS, folder, {"beta": 1.0, **options})


def make_kto(model, folder, **options) -> KTOTrainer:
    return make_trainer(KTOTrainer, KTOConfig, model, RATED, folder, {"beta": 1.0, **options})


def reward_length(completions, **kwargs) -> list[float]:
    return [float(len(text)) for text in completions]


def make_grpo(model, folder, trainer_class=GRPOTrainer, config_class=GRPOConfig, **options):
    rollouts = {"num_generations": 2, "max_completion_length": 7, "beta": 0.1, **options}
    rows = [{"prompt": row["prompt"]} for row in PAIRS]
    return make_trainer(trainer_class, config_class, model, rows, folder, rollouts, reward_funcs=reward_length)


def load(name: str, folder, **changes):
    """A saved model that was loaded again, so that a reference can be."""
    build(name, **changes).save_pretrained(folder / "model")
    return ALL[name].model_class.from_pretrained(folder / "model")


def read_own_loss(model, batch: dict) -> torch.Tensor:
    """The loss of the model's own `forward`, which TRL replaces."""
    return type(model).forward(model, **batch, use_cache=False).loss


def read_own_log_probs(model, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Log-probabilities `(B, T - 1)` of the next tokens by the model's own `forward`; 0 for padding."""
    logits = type(model).forward(model, input_ids, attention_mask, use_cache=False).logits[:, :-1]
    log_probs = logits.float().log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    return log_probs.masked_fill(attention_mask[:, 1:] == 0, 0.0)


def check_log_probs(model, batch: dict):
    """TRL's log-probabilities, with gradients and without, are the model's own."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    expected = read_own_log_probs(model, ids, mask)
    torch.testing.assert_close(model(**inputs, fused_lm_head=True).log_probs, expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs, fused_lm_head=True).log_probs, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", LINEAR)
def test_sft_computes_the_models_own_loss(name, tmp_path):
    model = build(name)
    trainer = make_sft(model, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    expected = read_own_loss(model, batch)
    torch.testing.assert_close(trainer.compute_loss(model, dict(batch)), expected, atol=1e-5, rtol=0)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), abs=1e-3)


@pytest.mark.parametrize("name", LINEAR)
def test_the_first_step_of_dpo_starts_at_ln_2(name, tmp_path):
    trainer = make_dpo(load(name, tmp_path), tmp_path)
    assert not trainer.ref_model.training
    batch = next(iter(trainer.get_train_dataloader()))
    check_log_probs(trainer.model.train(), batch)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    loss.backward()
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("name", ["threshold", "thinker", BYTES])
def test_a_new_adapter_of_dpo_starts_at_ln_2(name, tmp_path):
    adapter = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=2)
    model = build(name)
    trainer = make_trainer(DPOTrainer, DPOConfig, model, PAIRS, tmp_path, {"beta": 1.0}, peft_config=adapter)
    loss = trainer.compute_loss(trainer.model.train(), dict(next(iter(trainer.get_train_dataloader()))))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("name", ["threshold", "thinker-exit", BYTES])
def test_the_first_step_of_kto_starts_at_one_half(name, tmp_path):
    trainer = make_kto(load(name, tmp_path), tmp_path)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.5, abs=1e-4)


class RecordedGRPOTrainer(GRPOTrainer):
    """Records how far TRL's log-probabilities of a rollout, taken before and in a step, lie from the model's own."""

    def _compute_loss(self, model, inputs):
        ids = torch.cat((inputs["prompt_ids"], inputs["completion_ids"]), dim=1)
        mask, kept = torch.cat((inputs["prompt_mask"], inputs["completion_mask"]), dim=1), inputs["completion_mask"]
        log_probs, _, _ = self._get_per_token_logps_and_entropies(model, ids, mask, kept.shape[1])
        before = inputs["old_per_token_logps"]
        self.ratios = ((log_probs.detach() - before).exp() - 1) * kept
        with torch.no_grad():
            generated = read_own_log_probs(copy.deepcopy(model).eval(), ids, mask)[:, -kept.shape[1] :]
        self.distances = (before - generated) * kept
        return super()._compute_loss(model, inputs)


@pytest.mark.parametrize("name", LINEAR)
def test_the_first_ratio_of_grpo_is_1_and_rollouts_are_on_policy(name, tmp_path):
    trainer = make_grpo(load(name, tmp_path), tmp_path, RecordedGRPOTrainer, num_iterations=2)
    trainer.train()
    assert trainer.ratios.abs().max() < 1e-5
    assert trainer.distances.abs().max() < 1e-4
    assert trainer.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-6)


def test_rloo_starts_at_ratio_1(tmp_path):
    model = load("threshold", tmp_path)
    trainer = make_grpo(model, tmp_path, RLOOTrainer, RLOOConfig, steps_per_generation=2)
    trainer.train()
    assert not model.config.fork_tracking
    assert trainer.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert trainer.state.log_history[0]["clip_ratio/region_mean"] == 0


# Padding-free rows


@pytest.mark.parametrize("name", [*LINEAR[1:], "threshold-learned", "gpt-learned", "fixed"])
def test_padding_free_training_reads_documents_apart(name, tmp_path):
    # With tracking a row has one room for streams; TRL leaves the draft loss out.
    kind = "threshold" if name == "native" else name.split("-")[0]
    changes = {"threshold": {"fork_tracking": False}, "fixed": {"draft_loss_weight": 0.0}}.get(kind, {})
    model = build(name, **changes)
    trainer = make_sft(model, tmp_path, padding_free=True, max_length=None)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[0] == 1 and "attention_mask" not in batch
    rows = [torch.tensor([ids]) for ids in trainer.train_dataset["input_ids"]]
    losses = [read_own_loss(model, {"input_ids": row, "labels": row}) * (row.shape[1] - 1) for row in rows]
    expected = sum(losses) / sum(row.shape[1] - 1 for row in rows)
    torch.testing.assert_close(trainer.compute_loss(model, dict(batch)), expected, atol=1e-5, rtol=0)


# Budgets and steps that are drawn

DRAWN = {"thinker": (1, 5), "threshold": (1.0, 2.0)}
ADAPTER = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "r": 2}


class RecordPasses(TrainerCallback):
    """Records with which number each pass of a trainer's models was made, by optimizer step."""

    def __init__(self, trainer):
        self.steps = []
        for name in ("model", "ref_model"):
            model = getattr(trainer, name, None)
            if model is not None:
                base = trainer.accelerator.unwrap_model(model).base_model
                base.register_forward_pre_hook(lambda module, args, name=name: self.record(name, module.config))

    def record(self, name: str, config):
        if self.steps:
            self.steps[-1].add((name, getattr(config, find_setting(config))))

    def on_step_begin(self, args, state, control, **kwargs):
        self.steps.append(set())


def train_drawn(trainer, name: str) -> tuple[list[float], set[str]]:
    """Train with a drawn number; return that of each step, which all its passes have had, and the models that read."""
    recorder = RecordPasses(trainer)
    trainer.add_callback(ThinkingSchedule([DRAWN[name]], reference=getattr(trainer, "ref_model", None)))
    trainer.add_callback(recorder)
    trainer.train()
    numbers = [{number for _, number in step} for step in recorder.steps]
    assert [len(found) for found in numbers] == [1] * 4
    return [found.pop() for found in numbers], {model for step in recorder.steps for model, _ in step}


def load_drawn(name: str, folder):
    """A saved model that can be read with every number of `DRAWN`, loaded again."""
    model = build(name, **({"fork_tracking": False} if name == "threshold" else {}))
    if name == "threshold":
        calibrate_forks(model, [{"input_ids": torch.tensor([list("".join(TEXTS).encode())[:64]])}], (1.0, 1.5, 2.0))
    model.save_pretrained(folder / "model")
    return ALL[name].model_class.from_pretrained(folder / "model")


@pytest.mark.parametrize("name", DRAWN)
def test_sft_draws_a_number_for_each_step(name, tmp_path):
    options = {"max_steps": 4, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    trainer = make_sft(load_drawn(name, tmp_path), tmp_path, **options)
    numbers, _ = train_drawn(trainer, name)
    assert numbers == [ThinkingSchedule([DRAWN[name]]).choose(step, 4) for step in range(4)]
    assert len(set(numbers)) > 1


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("adapter", [None, ADAPTER], ids=["whole", "adapter"])
def test_dpo_reads_policy_and_reference_with_the_number_of_the_step(name, adapter, tmp_path):
    options = {"max_steps": 4, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "beta": 1.0}
    arguments = {} if adapter is None else {"peft_config": LoraConfig(**adapter)}
    model = load_drawn(name, tmp_path)
    trainer = make_trainer(DPOTrainer, DPOConfig, model, PAIRS, tmp_path, options, **arguments)
    numbers, models = train_drawn(trainer, name)
    assert len(set(numbers)) > 1
    assert models == ({"model", "ref_model"} if adapter is None else {"model"})
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == pytest.approx([math.log(2)] * 4, abs=1e-4)


@pytest.mark.parametrize("name", DRAWN)
def test_grpo_reads_and_generates_with_one_number_for_each_generated_batch(name, tmp_path):
    options = {"max_steps": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_iterations": 2}
    trainer = make_grpo(load_drawn(name, tmp_path), tmp_path, RecordedGRPOTrainer, **options)
    (first, second, third, fourth), models = train_drawn(trainer, name)
    assert first == second != third == fourth
    assert models == {"model", "ref_model"}
    assert trainer.ratios.abs().max() < 1e-5
    assert trainer.distances.abs().max() < 1e-4
    assert [entry["kl"] for entry in trainer.state.log_history if "kl" in entry] == pytest.approx([0] * 4, abs=1e-6)


# Conversations

CHATS = [
    {"prompt": [{"role": "user", "content": row["prompt"]}], "completion": [{"role": "assistant", "content": "a b"}]}
    for row in PAIRS
]


@pytest.mark.parametrize("packing", [None, "bfd", "wrapped"])
@pytest.mark.parametrize(
    ("name", "kind"), [("threshold", "assistant"), ("thinker", "completion"), (BYTES, "assistant")]
)
def test_sft_trains_on_answers_and_their_ends_alone(name, kind, packing, tmp_path):
    model = build(name, **({"fork_tracking": False} if name == "threshold" else {}))
    rows = CHATS if kind == "completion" else [{"messages": row["prompt"] + row["completion"]} for row in CHATS]
    packed = {} if packing is None else {"packing": True, "packing_strategy": packing}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**make_options(tmp_path, max_length=60, **{f"{kind}_only_loss": True}, **packed)),
        train_dataset=Dataset.from_list(rows),
        processing_class=set_chat_template(build_byte_tokenizer(model_max_length=64)),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["labels"][batch["labels"] != -100].tolist() == [*b"a b", 257] * 4
    loss = trainer.compute_loss(model, dict(batch))
    torch.testing.assert_close(loss, read_own_loss(model, batch), atol=1e-5, rtol=0)


# What TRL cannot train


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((make, "thoughtbubbles-probability") for make in (make_sft, make_dpo, make_kto, make_grpo)),
        (make_sft, "threshold-probability"),
    ],
)
def test_heads_that_mix_streams_are_refused_before_the_first_step(make, name, tmp_path):
    model = load(name, tmp_path)
    before, trainer = copy.deepcopy(model.state_dict()), make(model, tmp_path, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"`lm_head\(last_hidden_state\)` is another distribution"):
        trainer.train()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_loss_with_a_term_of_its_own_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"without .* `reconstruction_loss_weight=0\.5` adds"):
        make_sft(build("space-parallel"), tmp_path)
    make_sft(build("space-parallel", reconstruction_loss_weight=0.0), tmp_path)


@pytest.mark.parametrize("tag", ["sft", "dpo", "grpo"])
def test_trainers_that_compare_likelihoods_stop_tracking(tag):
    tracked, plain, exiting = build("threshold"), build("thoughtbubbles"), build("thinker-exit")
    for model in (tracked, plain, exiting):
        model.add_model_tags(["trl", tag])
        assert model.model_tags == ["trl", tag]
    assert tracked.config.fork_tracking == (tag == "sft")
    assert exiting.config.exit_in_training == (tag != "sft")
    assert plain.config.fork_tracking, "one rule in training and evaluation"
