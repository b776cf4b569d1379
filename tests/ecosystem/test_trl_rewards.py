# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""TRL's RewardTrainer on every family with a sequence head: its loss follows from the model's own scores."""

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from trl import RewardConfig, RewardTrainer

from hf_thoughtbubbles import build_byte_tokenizer
from tests.ecosystem.byte_models import BYTES, make_byte_patch
from tests.families import make_config, make_generic, make_thinker


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:trl")
SETTINGS = {**BYTES, "num_labels": 1}
CONFIGS = {
    "threshold": make_config(fork_rule="threshold", **SETTINGS),
    "generic": make_generic("generic", **SETTINGS).config,
    "thinker": make_thinker("thinker", exit_threshold=0.2, exit_in_training=True, **SETTINGS).config,
    "byte-patch": make_byte_patch(**SETTINGS).config,
}
PAIRS = [("to be", "or not to be"), ("that is", "the question"), ("yes", "no, not now"), ("a b c", "d e")]
ALL = pytest.mark.parametrize("family", CONFIGS)


def build(family: str) -> PreTrainedModel:
    """A tiny model with one score."""
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(CONFIGS[family])


def make_trainer(model, pairs, folder, **options) -> RewardTrainer:
    """A trainer over (chosen, rejected) texts, which stay in order."""
    shared = {"use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    shared |= {"activation_checkpointing": False, "per_device_train_batch_size": 4, "logging_steps": 1}
    peft_config = options.pop("peft_config", None)
    tokenizer = build_byte_tokenizer(model_max_length=64)
    tokenizer.split_special_tokens = False  # TRL writes the end of sequence as text
    return RewardTrainer(
        model=model,
        args=RewardConfig(output_dir=str(folder), **{**shared, "max_steps": 1, **options}),
        train_dataset=Dataset.from_list([{"chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]),
        processing_class=tokenizer,
        peft_config=peft_config,
    )


@torch.no_grad()
def score(model: PreTrainedModel, text: str) -> torch.Tensor:
    """The score that a model in evaluation gives a text alone, with the end of sequence that TRL adds."""
    ids = [*text.encode(), BYTES["eos_token_id"]]
    return model.eval()(torch.tensor([ids]), use_cache=False).logits[0, 0]


def measure_accuracy(model: PreTrainedModel, pairs: list[tuple[str, str]]) -> float:
    """Share of pairs in which the chosen text has the larger score."""
    return sum(bool(score(model, chosen) > score(model, rejected)) for chosen, rejected in pairs) / len(pairs)


@ALL
def test_the_reward_loss_is_that_of_the_models_own_scores(family, tmp_path):
    """In evaluation, of each text alone; in training, of the padded batch."""
    model = build(family)
    trainer = make_trainer(model, PAIRS, tmp_path, learning_rate=0.0)
    batch = next(iter(trainer.get_train_dataloader()))
    alone = [F.logsigmoid(score(model, chosen) - score(model, rejected)) for chosen, rejected in PAIRS]
    found = trainer.compute_loss(model.eval(), dict(batch))
    torch.testing.assert_close(found, -torch.stack(alone).mean(), atol=1e-5, rtol=1e-5)
    scores = model.train()(**batch, use_cache=False).logits[:, 0]
    trainer.train()
    expected = -F.logsigmoid(scores[: len(PAIRS)] - scores[len(PAIRS) :]).mean().item()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
@ALL
def test_reward_training_turns_all_preferences_round(family, tmp_path):
    model = build(family)
    pairs = [pair if score(model, pair[0]) < score(model, pair[1]) else pair[::-1] for pair in PAIRS]
    assert measure_accuracy(model, pairs) == 0
    make_trainer(model, pairs, tmp_path, max_steps=12, learning_rate=1e-2, warmup_steps=0).train()
    assert measure_accuracy(model, pairs) == 1


@pytest.mark.slow
def test_reward_training_of_an_adapter_trains_the_score(tmp_path):
    adapter = LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", r=2)
    trainer = make_trainer(build("byte-patch"), PAIRS, tmp_path, learning_rate=1e-2, max_steps=2, peft_config=adapter)
    before = {name: value.clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    trainer.train()
    changed = {
        name for name, value in trainer.model.named_parameters() if name in before and (value != before[name]).any()
    }
    assert any(".score." in name for name in changed) and any("lora_B" in name for name in changed)
