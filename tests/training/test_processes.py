# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Training in several processes, whole or sharded, killed or not, equals training in one.

All of it in a few pairs: two are killed one after the other (train_and_die.py), then one trains in
every way and goes on with what they left (train_together.py). The last pair are two nodes that run an example.
"""

import functools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.distributed.checkpoint import load_optimizer_distributed

from benchmarks import parallel_training
from hf_thoughtbubbles.training.thinking_schedule import ThinkingSchedule
from tests.families import VOCAB_SIZE
from tests.training.boards import read_board
from tests.training.lessons import ALL_LESSONS, COPIED_LESSONS, LESSONS, SHARDED_LESSONS, get_losses, make_optimizer
from tests.training.split_models import CHANGES, CURVE, build, read_lessons, read_thresholds


pytestmark = pytest.mark.slow


REPOSITORY = Path(__file__).parents[2]
CONFIGURATIONS = REPOSITORY / "examples" / "accelerate"
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file"]
JOB_SECONDS = 300  # a job that hangs fails
ODD_LESSON = "threshold-odd"
RIGHT_LESSONS = [name for name in SHARDED_LESSONS if name != ODD_LESSON]
LAYERS = {
    "ThoughtbubblesDecoderLayer",
    "GenericDecoderLayer",
    "LoopedThinkerPlainLayer",
    "ByteLayer",
    "AttentionPooling",
}
# Rules of every plan; those of a low rank are on one of its two factors.
INS, OUTS = r"(q|k|v|up)_proj(\.up_proj)?", r"(o|down)_proj(\.down_proj)?"
SPLIT_PARTS = rf"(layers|prelude|coda)\.\d+\.(self_attn|mlp)\.({INS}|{OUTS})\.weight$"
LOOPED_LESSONS = ["thinker-window", "kept-autoregressive"]


def start(*command: str) -> subprocess.Popen:
    """A job, with the environment of a person who has one thread for each process."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, cwd=REPOSITORY, **pipes)


def finish(*jobs: subprocess.Popen) -> list[str]:
    """What the jobs printed; all are ended, come what may."""
    try:
        return [job.communicate(timeout=JOB_SECONDS)[0] for job in jobs]
    finally:
        for job in jobs:
            job.terminate()  # a launcher that is asked to ends its processes too
        for job in jobs:
            job.communicate()


@dataclass
class Runs:
    """What the two pairs of processes left: files, prints, and what each process of the second pair saw."""

    folder: Path
    deaths: dict[str, tuple[int, str]]
    seen: list[dict]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    folder, deaths = tmp_path_factory.mktemp("processes"), {}
    scripts = REPOSITORY / "tests" / "training"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for moment in ("step", "checkpoint"):
        job = start(*torchrun, str(scripts / "train_and_die.py"), str(folder / "died"), moment)
        (output,) = finish(job)
        deaths[moment] = (job.returncode, output)
    launcher = [*ACCELERATE, str(CONFIGURATIONS / "fsdp2.yaml"), "--main_process_port", "0"]
    job = start(*launcher, str(scripts / "train_together.py"), str(folder))
    (output,) = finish(job)
    assert job.returncode == 0, output[-5000:]
    seen = [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in range(2)]
    return Runs(folder, deaths, seen)


@functools.cache
def train_alone(name: str, num_steps: int = 3) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of one process that has the batches of both."""
    trainer = LESSONS[name].make_trainer(Path(tempfile.gettempdir()), LESSONS[name].build(), 8, max_steps=num_steps)
    trainer.train()
    return get_losses(trainer), trainer.model.state_dict()


def check_weights(seen: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]):
    """Saved weights, where tied ones are written once, equal those of a model."""
    assert seen.keys() <= expected.keys()
    for name, weight in seen.items():
        torch.testing.assert_close(
            weight, expected[name], atol=1e-6, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("name", COPIED_LESSONS)
def test_promise_6_two_processes_equal_one_with_twice_the_batch(name, runs):
    losses, weights = train_alone(name)
    before = LESSONS[name].build().state_dict()
    assert any((weights[key] - before[key]).abs().max() > 1e-3 for key in weights)
    assert runs.seen[0]["copies"][name]["losses"] == pytest.approx(losses, rel=1e-5)
    check_weights(load_file(runs.folder / "copies" / name / "model.safetensors"), weights)


@pytest.mark.parametrize("name", COPIED_LESSONS)
def test_accelerates_fsdp_on_cpu_keeps_whole_copies(name, runs):
    """Both processes were launched with fsdp2.yaml; without a GPU accelerate says nothing and uses DDP."""
    for seen in runs.seen:
        assert seen["copies"][name]["is_whole"] and seen["copies"][name]["engine"] == "DistributedType.MULTI_CPU"


@pytest.mark.parametrize("engine", ["copies", "shards"])
def test_thresholds_are_equal_on_all_processes(engine, runs):
    first, second = (seen[engine]["threshold"]["thresholds"] for seen in runs.seen)
    assert first == second
    _, weights = train_alone("threshold")
    before = LESSONS["threshold"].build().state_dict()
    tracked = [key for key in weights if key.endswith(".threshold")]
    assert len(tracked) == 2
    for key in tracked:
        assert abs(weights[key] - before[key]) > 1e-3, "it moved"
        assert first[key] == pytest.approx(float(weights[key]), rel=1e-5)


def test_streams_of_both_processes_reach_the_tracker_of_the_first(runs):
    first, second = (seen["copies"]["threshold"]["streams"] for seen in runs.seen)
    assert first == second and len(first) == 3
    assert len(list((runs.folder / "copies" / "threshold").rglob("events.out.tfevents.*"))) == 1
    board = read_board(runs.folder / "copies" / "threshold")
    assert list(board["train/streams_per_token_layer_1"].values()) == pytest.approx(first)


@pytest.mark.parametrize("name", SHARDED_LESSONS)
def test_each_process_holds_its_part_of_every_parameter(name, runs):
    first, second = (seen["shards"][name]["sizes"] for seen in runs.seen)
    sizes = {key: parameter.numel() for key, parameter in LESSONS[name].build().named_parameters()}
    assert first.keys() == sizes.keys()
    for key, size in sizes.items():
        assert first[key][1] == size and first[key][0] + second[key][0] == size
    assert all(0.45 < sum(part for part, _ in seen.values()) / sum(sizes.values()) < 0.55 for seen in (first, second))


@pytest.mark.parametrize("name", SHARDED_LESSONS)
def test_layers_are_gathered_one_by_one_except_those_that_every_step_needs(name, runs):
    modules = LESSONS[name].build().named_modules()
    layers = {key for key, module in modules if type(module).__name__ in LAYERS and not key.startswith("model.block.")}
    units = set(runs.seen[0]["shards"][name]["units"])
    assert layers <= units and "" in units
    if name in LOOPED_LESSONS:
        assert units <= {"", "model.embed_tokens"}
    else:
        assert layers


@pytest.mark.parametrize("name", RIGHT_LESSONS)
def test_shards_train_as_one_process_with_twice_the_batch(name, runs):
    losses, weights = train_alone(name)
    for seen in runs.seen:
        assert seen["shards"][name]["losses"] == pytest.approx(losses, rel=1e-5)
    check_weights(load_file(runs.folder / "shards" / name / "checkpoint-3" / "model.safetensors"), weights)


def test_tied_embeddings_are_trained_apart_where_processes_do_not_divide_the_vocabulary(runs):
    """
    A fault of transformers 5.23 (its own Llama has it), which docs/training.md warns of: two copies of the tied weight
    are made where rows are padded. When this fails the warning can go.
    """
    assert VOCAB_SIZE % 2 == 1
    losses, _ = train_alone(ODD_LESSON)
    seen = runs.seen[0]["shards"][ODD_LESSON]["losses"]
    assert seen[0] == pytest.approx(losses[0], rel=1e-5)
    assert seen[1] != pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("name", RIGHT_LESSONS)
def test_shards_leave_one_ordinary_checkpoint_that_one_process_trains_on(name, runs, tmp_path):
    checkpoint = runs.folder / "shards" / name / "checkpoint-3"
    assert [path.name for path in checkpoint.glob("*.safetensors*")] == ["model.safetensors"]
    assert "distributed" not in (checkpoint / "config.json").read_text()
    trainer = LESSONS[name].make_trainer(
        tmp_path, type(LESSONS[name].build()).from_pretrained(checkpoint), 8, max_steps=6
    )
    trainer.train(resume_from_checkpoint=str(checkpoint))
    losses, weights = train_alone(name, 6)
    assert get_losses(trainer) == pytest.approx(losses, rel=1e-4)
    check_weights(trainer.model.state_dict(), weights)


# Without processes around it, torch says that it takes itself for the only one, which it is.
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_loop_over_shards_saves_an_optimizer_that_one_process_goes_on_with(runs):
    lesson = LESSONS["threshold"]
    rows = torch.tensor(lesson.make_dataset()["input_ids"]).view(-1, 8, 19)
    whole = lesson.build().train()
    resumed = AutoModelForCausalLM.from_pretrained(runs.folder / "loop").train()
    optimizers = {model: make_optimizer(model) for model in (whole, resumed)}
    load_optimizer_distributed(resumed, optimizers[resumed], str(runs.folder / "loop" / "optimizer"))
    losses = {whole: [], resumed: []}
    for step, batch in enumerate(rows):
        for model in (whole, resumed) if step >= 2 else (whole,):
            loss = model(input_ids=batch, labels=batch).loss
            loss.backward()
            optimizers[model].step()
            optimizers[model].zero_grad()
            losses[model].append(loss.item())
    assert len(losses[resumed]) == 1
    assert losses[resumed] == pytest.approx(losses[whole][2:], rel=1e-5)
    check_weights(resumed.state_dict(), whole.state_dict())


def test_the_trainer_refuses_to_save_an_optimizer_of_shards(runs):
    for seen in runs.seen:
        assert "Resuming is not supported for models sharded at load time" in seen["refusals"]["save_optimizer"]


def test_a_sharded_model_is_drawn_while_it_trains(runs):
    assert [path.name for path in (runs.folder / "forks").iterdir()] == ["forks-step-000003.png"]


@pytest.mark.parametrize("lesson", ALL_LESSONS, ids=lambda lesson: lesson.name)
def test_what_accelerate_wraps_on_gpus_has_the_gradients_of_the_whole(lesson, runs):
    """fsdp2.yaml names no layers: accelerate finds those that the model names."""
    seen = runs.seen[0]["wrapped"][lesson.name]
    assert seen["largest"] > 0.01 and seen["gap"] < 2e-5 * seen["largest"]
    layers = {key for key, module in lesson.build().named_modules() if type(module).__name__ in LAYERS}
    assert layers <= set(seen["units"])
    if lesson.name in LOOPED_LESSONS:
        refusal = "FSDP wraps every `LoopedThinkerLayer` of this model, but .* --fsdp_auto_wrap_policy NO_WRAP"
        assert re.search(refusal, runs.seen[0]["refusals"][lesson.name])


def test_all_processes_follow_a_schedule_that_draws_steps(runs):
    expected = [ThinkingSchedule([(1, 5)]).choose(step, 4) for step in range(4) for _ in range(2)]
    assert [seen["scheduled"] for seen in runs.seen] == [expected] * 2
    assert len(set(expected)) > 1


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_whose_heads_two_processes_share_computes_as_the_whole_one(name, runs):
    """Logits and every gradient, to 1e-5; text that is generated with a cache; files."""
    for seen in (seen["split"][name] for seen in runs.seen):
        assert seen["logits"] < 1e-5 and seen["missing"] == []
        assert len(seen["gradients"]) > 10 and {key: gap for key, gap in seen["gradients"].items() if gap > 1e-5} == {}
        assert seen["is_same_text"] and seen["is_same_file"]


@pytest.mark.parametrize("name", CHANGES)
def test_each_process_holds_half_of_the_heads_channels_and_embeddings(name, runs):
    first, second = (seen["split"][name]["sizes"] for seen in runs.seen)
    _, whole = build(name)
    assert "model.embed_tokens.weight" in first
    assert first.keys() >= {key for key, _ in whole.named_parameters() if re.search(SPLIT_PARTS, key)}
    for key, (size, total) in first.items():
        assert size + second[key][0] == total or (key.endswith("bias") and size == total), key


def test_thresholds_of_a_model_with_split_heads_are_those_of_one_process(runs):
    family, whole = build("native")
    before = read_thresholds(whole)
    read_lessons(family, whole)
    after = read_thresholds(whole)
    assert all(abs(after[key] - before[key]) > 1e-3 for key in before) and len(before) == 1, "they moved"
    for seen in runs.seen:
        assert seen["split"]["native"]["thresholds"] == pytest.approx(after, rel=1e-5)


def test_a_plain_gpt_whose_layers_two_processes_share_computes_the_same_bits(runs):
    for seen in runs.seen:
        assert seen["stages"] == {"is_same_logits": True, "is_same_text": True}


def test_what_processes_cannot_share_is_refused_by_name(runs):
    for seen in (seen["refusals"] for seen in runs.seen):
        assert "`tp_size=2` was passed, but `num_attention_heads` is 3: " in seen["heads"]
        assert "`pp_size=2` was passed, but this `thoughtbubbles` model is no chain of layers" in seen["stages"]


def test_the_trainer_takes_no_split_heads_on_a_cpu(runs):
    """A limit of accelerate 1.15, which docs/training.md names. When this fails the Trainer can be tried there."""
    for seen in runs.seen:
        assert "ParallelismConfig is only compatible" in seen["refusals"]["trainer"]


def test_twenty_steps_have_the_losses_of_one_process(runs, tmp_path):
    parallel_training.save(tmp_path)
    alone = parallel_training.train(CURVE, "one", 20, tmp_path)
    assert alone[-1] < 0.7 * alone[0]
    for seen in runs.seen:
        for engine, losses in seen["curves"].items():
            assert losses == pytest.approx(alone, rel=1e-5), engine
        assert len(seen["curves"]) == 3


def test_steps_latents_and_difficulty_are_equal_on_all_processes_and_rows_are_not(runs):
    for name in ("stream", "dataset"):
        first, second = (seen["draws"][name] for seen in runs.seen)
        assert len(first) == len(second) == 8
        assert [batch["draws"] for batch in first] == [batch["draws"] for batch in second]
        assert all(mine["rows"] != yours["rows"] for mine, yours in zip(first, second, strict=True))
        for values in list(zip(*(batch["draws"] for batch in first), strict=True))[:2]:
            assert len(set(values)) > 2, "drawn anew"
    difficulties = [batch["draws"][2] for batch in runs.seen[0]["draws"]["stream"]]
    assert difficulties == sorted(difficulties) and 1 < len(set(difficulties)) < 4, "it rose, but not at every window"


@pytest.mark.parametrize(("moment", "rank", "start"), [("step", 1, "nothing"), ("checkpoint", 0, "checkpoint-3")])
def test_a_killed_process_ends_the_job_with_an_error(moment, rank, start, runs):
    code, output = runs.deaths[moment]
    assert code != 0
    assert re.search(rf"rank +: {rank} .*\n +exitcode +: -9 ", output), output[-3000:]
    assert "Signal 9 (SIGKILL) received" in output
    assert [(runs.folder / f"start-{moment}-{i}.txt").read_text() for i in range(2)] == [start] * 2


def test_a_half_written_checkpoint_is_picked_and_refused_and_the_one_before_it_is_kept(runs):
    for seen in (seen["resumed"] for seen in runs.seen):
        assert seen["left"] == ["checkpoint-3", "checkpoint-6"], "a limit of one deletes only when the next is saved"
        assert seen["last"] == "checkpoint-6"
        assert "No such file" in seen["error"] and "checkpoint-6/trainer_state.json" in seen["error"]
        assert seen["whole"] == "checkpoint-3", "once the broken one is removed"


def test_a_resumed_job_ends_with_the_weights_of_an_uninterrupted_one(runs):
    died, lived = (load_file(runs.folder / name / "final" / "model.safetensors") for name in ("died", "lived"))
    assert died.keys() == lived.keys()
    for name, weight in lived.items():
        assert torch.equal(died[name], weight), name


def test_an_example_runs_on_two_nodes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (tmp_path / "text.md").write_text((REPOSITORY / "CONTRIBUTING.md").read_text() * 3)
    sizes = ["--hidden_size", "24", "--num_hidden_layers", "3", "--num_attention_heads", "2", "--block_size", "32"]
    steps = ["--max_steps", "2", "--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "no"]
    scores = ["--scored_blocks", "2", "--prefix_blocks", "1", "--per_device_train_batch_size", "4"]
    script = ["examples/train_thoughtbubbles_text.py", "--use_cpu", "--source", str(tmp_path / "text.md")]
    where = ["--main_process_ip", "127.0.0.1", "--main_process_port", port, "--num_machines", "2"]
    nodes = [
        start(
            *ACCELERATE,
            str(CONFIGURATIONS / "ddp.yaml"),
            *where,
            "--machine_rank",
            str(rank),
            *script,
            *sizes,
            *steps,
            *scores,
            "--output_dir",
            str(tmp_path / "run"),
        )
        for rank in range(2)
    ]
    outputs = finish(*nodes)
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(output[-3000:] for output in outputs)
    assert "logits identical" in outputs[0] and "logits identical" not in outputs[1], "the first process alone reports"
    states = sorted(path.name for path in (tmp_path / "run/thoughtbubbles/checkpoint-2").glob("rng_state*"))
    assert states == ["rng_state_0.pth", "rng_state_1.pth"], "one job, on both nodes"
