# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Every way to train in two processes; run by test_processes.py under `accelerate launch`.

Arguments: folder; what each process saw is written to it as `seen-<rank>.json`.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel
from transformers.distributed import DistributedConfig
from transformers.distributed.checkpoint import save_optimizer_distributed
from transformers.trainer_utils import get_last_checkpoint

from benchmarks import parallel_training
from hf_thoughtbubbles import build_byte_tokenizer, build_number_tokenizer
from hf_thoughtbubbles.data.collation import ThinkingCollator
from hf_thoughtbubbles.data.numbers import load_number_dataset, stream_number_dataset
from hf_thoughtbubbles.training.callbacks import ForkLogCallback, ForkPlotCallback
from hf_thoughtbubbles.training.curriculum import Curriculum, CurriculumCallback
from hf_thoughtbubbles.training.thinking_schedule import ThinkingSchedule
from tests.training.lessons import (
    ALL_LESSONS,
    COPIED_LESSONS,
    LESSONS,
    SHARDED_LESSONS,
    Lesson,
    get_losses,
    make_optimizer,
)
from tests.training.processes import leave_together
from tests.training.split_models import CHANGES, CURVE, compare, refuse, run_stages
from tests.training.train_and_die import make_long_trainer


BATCH_SIZE = 4


def read_thresholds(model: PreTrainedModel) -> dict:
    """What the forks track, to the last bit, after the last step; the first process has saved the model."""
    model.state_dict()
    return {name: buffer.tolist() for name, buffer in model.named_buffers() if "threshold" in name or "counts" in name}


def train_copies(folder: Path, seen: dict):
    """Every process holds the whole model, and accumulates two batches."""
    for name in COPIED_LESSONS:
        lesson = LESSONS[name]
        logs = {"report_to": "tensorboard", "callbacks": [ForkLogCallback()]} if name == "threshold" else {}
        trainer = lesson.make_trainer(
            folder / "copies" / name, lesson.build(), BATCH_SIZE // 2, gradient_accumulation_steps=2, **logs
        )
        trainer.train()
        trainer.save_model()
        wrapped = trainer.model_wrapped
        seen["copies"][name] = {
            "losses": get_losses(trainer),
            "thresholds": read_thresholds(trainer.model),
            "streams": [entry.get("streams_per_token_layer_1") for entry in trainer.state.log_history][:-1],
            "engine": str(trainer.accelerator.distributed_type),
            "is_whole": isinstance(wrapped, DistributedDataParallel) and not isinstance(trainer.model, FSDPModule),
        }


def load_shards(folder: Path, lesson: Lesson) -> PreTrainedModel:
    """The lesson's model, of which every process holds a part."""
    if dist.get_rank() == 0:
        lesson.build().save_pretrained(folder / "untrained" / lesson.name)
    dist.barrier()
    model_class = type(lesson.build())
    return model_class.from_pretrained(
        folder / "untrained" / lesson.name, distributed_config=DistributedConfig(fsdp_size=2)
    )


def train_shards(folder: Path, seen: dict):
    """Every process holds its part of each parameter, and accumulates two batches."""
    for name in SHARDED_LESSONS:
        lesson, callbacks = LESSONS[name], []
        model = load_shards(folder, lesson)
        sizes = {key: [p.to_local().numel(), p.numel()] for key, p in model.named_parameters()}
        if name == "thoughtbubbles":
            callbacks = [ForkPlotCallback(build_byte_tokenizer(), "text", folder / "forks")]
        trainer = lesson.make_trainer(
            folder / "shards" / name,
            model,
            BATCH_SIZE // 2,
            gradient_accumulation_steps=2,
            callbacks=callbacks,
            save_strategy="steps",
            save_steps=3,
            save_only_model=True,
        )
        trainer.train()
        seen["shards"][name] = {
            "losses": get_losses(trainer),
            "thresholds": read_thresholds(model),
            "sizes": sizes,
            "units": [key for key, module in model.named_modules() if isinstance(module, FSDPModule)],
        }
    try:
        lesson.make_trainer(folder / "refused", model, BATCH_SIZE, save_strategy="steps")
    except ValueError as error:
        seen["refusals"]["save_optimizer"] = str(error)


def train_a_loop_of_shards(folder: Path):
    """Two steps of AdamW without a Trainer, saved with the optimizer."""
    lesson = LESSONS["threshold"]
    model = load_shards(folder, lesson).train()
    optimizer = make_optimizer(model)
    rows = torch.tensor(lesson.make_dataset()["input_ids"]).view(-1, 2, BATCH_SIZE, 19)
    for parts in rows[:2]:
        part = parts[dist.get_rank()]
        model(input_ids=part, labels=part).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "loop")
    save_optimizer_distributed(model, optimizer, str(folder / "loop" / "optimizer"))


def wrap_as_launched(model: PreTrainedModel) -> PreTrainedModel:
    """Shard a model as accelerate does on GPUs, with what `accelerate launch` read from its configuration file."""
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=FullyShardedDataParallelPlugin()),
        mixed_precision="no",
        is_main_process=dist.get_rank() == 0,
        device=torch.device("cpu"),
        torch_device_mesh=None,
    )
    return fsdp2_prepare_model(accelerator, model)


def compare_wrapped(seen: dict):
    """The second step of a model that accelerate's FSDP2 wraps, beside that of the whole one."""
    num_items, policy = 100.0, os.environ["FSDP_AUTO_WRAP_POLICY"]
    for lesson in ALL_LESSONS:
        whole, model = lesson.build().train(), lesson.build().train()
        batch = {name: torch.tensor(rows) for name, rows in lesson.make_dataset()[: 2 * BATCH_SIZE].items()}
        part = {name: rows[BATCH_SIZE * dist.get_rank() :][:BATCH_SIZE] for name, rows in batch.items()}
        if "LoopedThinkerLayer" in model._no_split_modules:  # which project a memory before they are called
            try:
                wrap_as_launched(lesson.build())(**part)
            except ValueError as error:
                seen["refusals"][lesson.name] = str(error)
            os.environ["FSDP_AUTO_WRAP_POLICY"] = "NO_WRAP"
        model = wrap_as_launched(model)
        os.environ["FSDP_AUTO_WRAP_POLICY"] = policy
        optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (whole, model)]
        for _ in range(2):
            for optimizer in optimizers:
                optimizer.step()  # the first one finds no gradients
                optimizer.zero_grad()
            whole(**batch, num_items_in_batch=num_items).loss.backward()
            # FSDP takes the mean of the gradients.
            (dist.get_world_size() * model(**part, num_items_in_batch=num_items).loss).backward()
        pairs = [
            (parameter.grad.full_tensor(), expected.grad)
            for parameter, expected in zip(model.parameters(), whole.parameters(), strict=True)
            if expected.grad is not None
        ]
        seen["wrapped"][lesson.name] = {
            "units": [key for key, module in model.named_modules() if isinstance(module, FSDPModule)],
            "gap": max(float((grad - expected).abs().max()) for grad, expected in pairs),
            "largest": max(float(expected.abs().max()) for _, expected in pairs),
        }


def think_together(folder: Path, seen: dict):
    """Random steps and latents, from a stream that a curriculum steers, and from a dataset read by a worker."""
    lesson, tokenizer = LESSONS["kept-autoregressive"], build_number_tokenizer()
    curriculum = Curriculum(start=1, limit=9, window=2, threshold=0.04)
    sources = {
        "stream": (stream_number_dataset("copy", length=9, curriculum=curriculum), [CurriculumCallback(curriculum)]),
        "dataset": (load_number_dataset("sort", num_examples=64, length=5), []),
    }
    for name, (dataset, callbacks) in sources.items():
        model, drawn = lesson.build(num_probes=0), []

        def record(module, args, kwargs, drawn=drawn):
            draws = [kwargs["num_steps"], kwargs["num_latents"], curriculum.difficulty]
            drawn.append({"draws": draws, "rows": kwargs["input_ids"].tolist()})

        model.register_forward_pre_hook(record, with_kwargs=True)
        trainer = lesson.make_trainer(
            folder / name,
            model,
            BATCH_SIZE,
            ThinkingCollator(tokenizer, num_steps=(1, 4), num_latents=(2, 7)),
            train_dataset=dataset,
            callbacks=callbacks,
            max_steps=8,
            accelerator_config={"dispatch_batches": False},
            dataloader_num_workers=int(name == "dataset"),
        )
        trainer.train()
        seen["draws"][name] = drawn


def follow_a_schedule(folder: Path, seen: dict):
    """A text Thinker whose number of steps is drawn for each optimizer step, of two batches."""
    lesson, drawn = LESSONS["thinker-window"], []
    model = lesson.build()
    model.model.register_forward_pre_hook(lambda module, args: drawn.append(module.config.num_steps))
    trainer = lesson.make_trainer(
        folder / "schedule",
        model,
        BATCH_SIZE // 2,
        callbacks=[ThinkingSchedule([(1, 5)])],
        gradient_accumulation_steps=2,
        max_steps=4,
        learning_rate=1e-3,
    )
    trainer.train()
    seen["scheduled"] = drawn


def go_on_after_death(folder: Path, seen: dict):
    """Resume what train_and_die.py left, and train the same without interruption."""
    died = folder / "died"
    seen["resumed"] = {"left": sorted(path.name for path in died.glob("checkpoint-*"))}
    seen["resumed"]["last"] = Path(get_last_checkpoint(died)).name
    try:
        make_long_trainer(died).train(resume_from_checkpoint=True)
    except FileNotFoundError as error:
        seen["resumed"]["error"] = str(error)
    dist.barrier()
    if dist.get_rank() == 0:
        for checkpoint in died.glob("checkpoint-*"):
            if not (checkpoint / "trainer_state.json").exists():
                shutil.rmtree(checkpoint)
    dist.barrier()
    seen["resumed"]["whole"] = Path(get_last_checkpoint(died)).name
    for name, resume in (("died", True), ("lived", None)):
        trainer = make_long_trainer(folder / name)
        trainer.train(resume_from_checkpoint=resume)
        trainer.save_model(str(folder / name / "final"))
    return trainer


def split_heads(folder: Path, seen: dict):
    """Every process holds its part of the heads, and reads whole batches; then half of the layers."""
    seen["split"] = {name: compare(folder, name) for name in CHANGES}
    seen["stages"] = run_stages(folder)
    seen["refusals"] |= refuse(folder)


def draw_curves(folder: Path, seen: dict):
    """The losses of twenty steps, by every engine."""
    if dist.get_rank() == 0:
        parallel_training.save(folder)
    dist.barrier()
    engines = [engine for engine in parallel_training.ENGINES if engine not in parallel_training.ALONE]
    seen["curves"] = {engine: parallel_training.train(CURVE, engine, 20, folder) for engine in engines}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    found = {name: {} for name in ("copies", "shards", "wrapped", "refusals", "draws")}
    train_copies(target, found)
    think_together(target, found)
    follow_a_schedule(target, found)
    last_trainer = go_on_after_death(target, found)
    train_shards(target, found)
    train_a_loop_of_shards(target)
    compare_wrapped(found)
    split_heads(target / "split", found)
    draw_curves(target / "curves", found)
    (target / f"seen-{dist.get_rank()}.json").write_text(json.dumps(found))
    leave_together(last_trainer)
