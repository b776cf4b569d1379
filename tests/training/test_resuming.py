# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Resumed trainings end as uninterrupted ones do, to the last bit, wherever the checkpoint falls."""

import json

import pytest
import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from hf_thoughtbubbles import LoopedThinkerConfig, LoopedThinkerForConditionalGeneration
from hf_thoughtbubbles.data.collation import ThinkingCollator
from hf_thoughtbubbles.data.curriculum import Curriculum
from hf_thoughtbubbles.data.numbers import stream_number_dataset
from hf_thoughtbubbles.tokenization.number_tokenizer import build_number_tokenizer
from hf_thoughtbubbles.training.curriculum import CurriculumCallback
from tests.training.lessons import make_lesson


def make_args(folder, **changes) -> TrainingArguments:
    options = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "accelerator_config": {"dispatch_batches": False},
    }
    return TrainingArguments(**{**options, **changes})


def checkpoint_after_pass(trainer: Trainer, number: int):
    """Let transformers write the checkpoint of a preempted job after that forward pass."""
    callbacks, passes = trainer.callback_handler.callbacks, []
    manager = next(each for each in callbacks if isinstance(each, JITCheckpointCallback)).jit_manager

    def request(*args):
        passes.append(1)
        manager.is_checkpoint_requested |= len(passes) == number

    trainer.model.register_forward_hook(request)


def check_equal(ours: PreTrainedModel, theirs: PreTrainedModel):
    expected, found = theirs.state_dict(), ours.state_dict()
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []


def test_a_job_preempted_between_the_passes_of_a_step_and_the_step(tmp_path):
    """Within a warmup from 0, so that the step before changed no weight."""
    lesson, models = make_lesson("threshold"), {}
    options = {"enable_jit_checkpoint": True, "gradient_accumulation_steps": 2, "warmup_steps": 2}
    for name in ("whole", "preempted", "resumed"):
        torch.manual_seed(0)
        checkpoint = str(tmp_path / "preempted" / "checkpoint-1") if name == "resumed" else None
        changes = {"max_steps": 4, "save_strategy": "no", **options}
        trainer = lesson.make_trainer(tmp_path / name, lesson.build(), 2, **changes)
        if name == "preempted":
            checkpoint_after_pass(trainer, 3)
        trainer.train(resume_from_checkpoint=checkpoint)
        models[name] = trainer.model
    check_equal(models["resumed"], models["whole"])


class RisingCurriculum(Curriculum):
    """Rises after every window, because a model does not learn in 8 steps."""

    def observe(self, mean_accuracy: float, num_batches: int | None = None) -> bool:
        return super().observe(1.0, num_batches)


class NumberRun:
    """A training on a stream whose difficulty rises, with drawn steps; `seen` has what the model read."""

    def __init__(self, folder, **changes):
        torch.manual_seed(1)
        shape = {"hidden_size": 8, "num_attention_heads": 2, "num_steps": 2, "num_latents": 2}
        config = LoopedThinkerConfig(vocab_size=31, pad_token_id=20, eos_token_id=20, **shape)
        model, self.seen = LoopedThinkerForConditionalGeneration(config), []
        model.register_forward_pre_hook(self.listen, with_kwargs=True)
        self.curriculum = RisingCurriculum(1, 12, increment=2, window=3)
        self.trainer = Trainer(
            model=model,
            args=make_args(folder, max_steps=8, **changes),
            train_dataset=stream_number_dataset("copy", length=(1, 12), curriculum=self.curriculum),
            data_collator=ThinkingCollator(build_number_tokenizer(), num_steps=(1, 3)),
            callbacks=[CurriculumCallback(self.curriculum)],
        )

    def listen(self, module, args, kwargs):
        self.seen.append((kwargs["input_ids"].tolist(), kwargs["num_steps"]))

    def train(self, checkpoint=None) -> "NumberRun":
        self.trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        return self


def check_continued(resumed: NumberRun, whole: NumberRun):
    assert resumed.seen == whole.seen[-len(resumed.seen) :]
    assert resumed.curriculum.state_dict() == whole.curriculum.state_dict()
    assert len(whole.curriculum.state_dict()["rises"]) >= 2
    check_equal(resumed.trainer.model, whole.trainer.model)


@pytest.mark.parametrize("num_batches", [1, 2])
def test_a_stream_is_read_again_at_the_difficulties_that_it_had(num_batches, tmp_path):
    options = {"gradient_accumulation_steps": num_batches, "save_strategy": "steps", "save_steps": 3}
    whole = NumberRun(tmp_path / "whole", **options).train()
    resumed = NumberRun(tmp_path / "resumed", **options).train(tmp_path / "whole" / "checkpoint-3")
    assert len(resumed.seen) == 5 * num_batches
    check_continued(resumed, whole)


def test_a_curriculum_preempted_within_a_step_counts_its_batches_once(tmp_path):
    """The window ends with the third batch, within the second step, before its checkpoint."""
    options = {"gradient_accumulation_steps": 2, "enable_jit_checkpoint": True}
    whole = NumberRun(tmp_path / "whole", **options).train()
    preempted = NumberRun(tmp_path / "preempted", **options)
    checkpoint_after_pass(preempted.trainer, 4)
    preempted.train()
    saved = json.loads((tmp_path / "preempted" / "checkpoint-1" / "trainer_state.json").read_text())
    assert saved["stateful_callbacks"]["CurriculumCallback"]["attributes"]["total_batches"] == 2
    resumed = NumberRun(tmp_path / "resumed", **options).train(tmp_path / "preempted" / "checkpoint-1")
    check_continued(resumed, whole)


@pytest.mark.slow
def test_workers_read_a_stream_again_at_the_difficulties_that_it_had(tmp_path):
    """Workers draw batches in advance, at any time: what they draw must not depend on it."""
    options = {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 1, "save_strategy": "steps", "save_steps": 5}
    whole = NumberRun(tmp_path / "whole", **options).train()
    resumed = NumberRun(tmp_path / "resumed", **options).train(tmp_path / "whole" / "checkpoint-5")
    check_continued(resumed, whole)


def test_rows_of_a_stream_have_the_difficulty_of_their_batch():
    """Batches of 3 rows, one batch ahead; the difficulty rises after 1 and after 3 batches."""
    curriculum = Curriculum(1, 5, increment=1, threshold=0.5)
    curriculum.set_reading(rows_per_read=3, reads_per_batch=1, first_batch=0, lag=1)
    curriculum.observe(1.0, 1)
    curriculum.observe(1.0, 3)
    difficulties = [curriculum.get_stream_difficulty(row, num_shards=1) for row in range(0, 18, 3)]
    assert difficulties == [1, 1, 2, 2, 3, 3]
    assert curriculum.difficulty == 3
    stream = stream_number_dataset("copy", length=(1, 5), curriculum=curriculum)
    rows = [row["input_ids"] for row, _ in zip(stream, range(300), strict=False)]
    curriculum.observe(1.0, 9)
    again = [row["input_ids"] for row, _ in zip(stream, range(24), strict=False)]
    assert again == rows[:24], "what was read before is the same, whatever was observed since"
    other = Curriculum(1, 5, increment=1, threshold=0.5)
    other.load_state_dict(json.loads(json.dumps(curriculum.state_dict())))
    other.set_reading(rows_per_read=3, reads_per_batch=1, first_batch=0, lag=1)
    assert [other.get_stream_difficulty(row, num_shards=1) for row in range(0, 33, 3)] == [
        curriculum.get_stream_difficulty(row, num_shards=1) for row in range(0, 33, 3)
    ]


def test_a_restored_curriculum_may_have_another_increment():
    curriculum = Curriculum(1, 9, increment=1, threshold=0.5)
    for num_batches in range(1, 5):
        curriculum.observe(1.0, num_batches)
    coarse = Curriculum(1, 9, increment=4, threshold=0.5)
    coarse.load_state_dict(curriculum.state_dict())
    assert coarse.difficulty == 5
    assert coarse.observe(1.0, 9)
    assert coarse.difficulty == 9
