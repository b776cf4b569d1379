# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""lm-evaluation-harness scores every causal family as `model(...)` does, without the package installed."""

import importlib.util
import json
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from hf_thoughtbubbles import build_byte_tokenizer
from hf_thoughtbubbles.data.text import load_text
from hf_thoughtbubbles.evaluation.scoring import score_continuations, score_dataset
from tests.families import ANSWERERS as THINKERS
from tests.families import BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS


pytestmark = pytest.mark.slow


FOLDER = Path(__file__).parents[2] / "examples" / "lm_eval"
README = (FOLDER / "README.md").read_text()
TOKENIZER = build_byte_tokenizer()
BOS, EOS, PAD = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id
LONGEST = 128
BATCH_SIZE = 4
NUM_NAMES, NUM_LINES, NUM_FILES, NUM_WRITTEN = 5, 3, 3, 12
FAMILY_NAMES = ("thoughtbubbles", "gpt-learned", "threshold", "native", "copy", "thinker", "thinker-exit")
FAMILY_NAMES += ("generic", "generic-relative", "generic-gpt2")
SIZES = {"max_position_embeddings": LONGEST, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
SIZES["vocab_size"] = len(TOKENIZER)
MODELS = {
    family.name: lambda family=family: family.build(**SIZES) for family in FAMILIES if family.name in FAMILY_NAMES
}
MODELS |= {
    f"bytes-{variant.name}": lambda variant=variant: variant.build(**SIZES)
    for variant in BYTE_VARIANTS
    if variant.name in ("space", "space-parallel", "fixed", "fixed-parallel", "token")
}
ANSWERERS = {
    "answering-thinker": lambda: THINKERS[0].build(max_answer_length=LONGEST, **SIZES),
    "parallel-thinker": lambda: THINKERS[1].build(max_answer_length=LONGEST, **SIZES),
    "next-thought": lambda: THOUGHT_VARIANTS[0].build(**SIZES),
}
CAUSAL = [name for name in MODELS if name not in ("thoughtbubbles", "bytes-token")]
COMPUTE = {"threshold": {"fork_budget": 3.0}, "native": {"fork_budget": 1.0}, "thinker": {"num_steps": 5}}

STRANGER = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_thoughtbubbles":
            raise ImportError("hf_thoughtbubbles is not installed")

sys.meta_path.insert(0, Blocker())
import functools
import lm_eval.evaluator
import lm_eval.tasks
from lm_eval.__main__ import cli_evaluate

errors = {}
with open(sys.argv[1]) as file:
    runs = json.load(file)
for name, arguments in runs.items():
    sys.argv = ["lm_eval", *arguments]
    try:
        cli_evaluate()
    except Exception as error:  # whatever it is: the tests say which command must end with which error, and which not
        errors[name] = f"{type(error).__name__}: {error}"
    if name == "readme":
        # The first run was the harness's alone. Reading its 14,000 task files and listing what is installed takes most
        # of the time of a run, and the other runs are about the models.
        lm_eval.tasks.TaskManager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
        lm_eval.evaluator.add_env_info = lambda results: None
print(json.dumps(errors))
"""


@dataclass
class Run:
    """What one command found: every request with its answer, and the numbers of the table."""

    samples: dict[str, list[dict]]
    results: dict[str, dict]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        samples = {}
        for path in folder.rglob("samples_*.jsonl"):
            task = re.match(r"samples_(.+)_\d{4}-", path.name)[1]
            samples[task] = [json.loads(line) for line in path.read_text().split("\n") if line]
        (path,) = folder.rglob("*results_*.json")
        return cls(samples, json.loads(path.read_text())["results"])

    def list_scored(self, task: str = "stdlib_names") -> list[tuple[str, str, float, bool]]:
        """Context, continuation, log-likelihood, whether it is what greedy decoding writes."""
        scored = []
        for sample in self.samples[task]:
            for request, ((log_likelihood, is_greedy),) in zip(
                sample["arguments"].values(), sample["resps"], strict=True
            ):
                scored.append((request["arg_0"], request["arg_1"], float(log_likelihood), is_greedy == "True"))
        return scored

    def list_rolled(self) -> list[tuple[str, float]]:
        """Files, and the log-likelihood of each."""
        samples = self.samples["stdlib_bits_per_byte"]
        return [(sample["arguments"]["gen_args_0"]["arg_0"], float(sample["resps"][0][0])) for sample in samples]

    def list_written(self) -> list[tuple[str, str]]:
        """Prompts, and the text generated after each."""
        samples = self.samples["stdlib_lines"]
        return [(sample["arguments"]["gen_args_0"]["arg_0"], sample["resps"][0][0]) for sample in samples]


@pytest.fixture(scope="module")
def held_out():
    """The module that asks the questions, and the files that it should ask about."""
    spec = importlib.util.spec_from_file_location("held_out_text", FOLDER / "held_out_text.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, load_text("stdlib")["validation"]["text"]


@pytest.fixture(scope="module")
def evaluated(held_out, tmp_path_factory):
    """Every model evaluated by the command of the README in one process without the package."""
    folder = tmp_path_factory.mktemp("lm_eval")
    models = {name: build() for name, build in (MODELS | ANSWERERS).items()}
    for name, model in models.items():
        model.save_pretrained(folder / name)
        TOKENIZER.save_pretrained(folder / name)
    files = held_out[1]
    shortest = sorted(range(len(files)), key=lambda i: len(files[i]))[:NUM_FILES]
    chosen = {
        "stdlib_names": [*range(NUM_NAMES)],
        "stdlib_lines": [*range(NUM_LINES)],
        "stdlib_bits_per_byte": shortest,
    }
    write_own_task(folder / "my_tasks")

    def command(name: str, batch_size: int = BATCH_SIZE, options: str = "", output: str | None = None) -> list[str]:
        words = shlex.split(re.search(r"```bash\n(.*?)\n```", README)[1])
        assert words[:2] == ["HF_HUB_OFFLINE=1", ".venv/bin/lm_eval"]
        words = [*words[2:], "--samples", json.dumps(chosen), "--gen_kwargs", f"max_gen_toks={NUM_WRITTEN}"]
        changes = {
            "runs/demo/thoughtbubbles": str(folder / name),
            "runs/lm_eval": str(folder / f"{output or name}_out"),
        }
        for old, new in changes.items():
            assert sum(old in word for word in words) == 1
            words = [word.replace(old, new) for word in words]
        words[words.index("--model_args") + 1] += options
        words[words.index("--batch_size") + 1] = str(batch_size)
        return words

    own = command("thoughtbubbles", batch_size=1, output="own")
    del own[own.index("--samples") :]  # all of its questions
    own[own.index("--include_path") + 1] = str(folder / "my_tasks")
    own[own.index("--tasks") + 1] = "sums"
    runs = {
        "readme": command("thoughtbubbles", batch_size=1),
        "padded": command("thoughtbubbles", output="padded"),
        "own": own,
        "untrusted": [word for word in command("threshold", output="untrusted") if word != "--trust_remote_code"],
        "bytes-token": command("bytes-token"),
        "next-thought-as-causal": command("next-thought", output="as-causal"),
        **{name: command(name) for name in CAUSAL},
    }
    for name in ANSWERERS:
        batch_size = 1 if name == "parallel-thinker" else BATCH_SIZE  # its answer grows to the longest of a batch
        runs[name] = command(name, batch_size, options=",backend=seq2seq")
        runs[name][runs[name].index("--tasks") + 1] = "stdlib_names,stdlib_lines"
    for name, compute in COMPUTE.items():
        # Windows of one token less leave room for the first, so that `score_dataset` can read them whole.
        options = ",".join(f"{key}={value}" for key, value in {"max_length": LONGEST - 1, **compute}.items())
        runs[f"{name}-compute"] = command(name, options=f",{options}", output=f"{name}-compute")
    (folder / "runs.json").write_text(json.dumps(runs))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    result = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder / "runs.json")],
        env=environment,
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    errors = json.loads(result.stdout.splitlines()[-1])
    assert set(errors) == {"untrusted", "bytes-token", "next-thought-as-causal"}, errors
    found = {name.removesuffix("_out"): folder / name for name in os.listdir(folder) if name.endswith("_out")}
    return models, {name: Run.read(path) for name, path in found.items()}, errors


def write_own_task(folder: Path):
    """The files that the README shows."""
    folder.mkdir()
    for kind, name in (("json", "sums.jsonl"), ("yaml", "sums.yaml")):
        text = re.search(rf"```{kind}\n(.*?)```", README, re.DOTALL)[1]
        (folder / name).write_text(text.replace("my_tasks/", f"{folder}/"))


@torch.no_grad()
def score_alone(model, ids: list[int], start: int, num_read: int = 0, **compute) -> tuple[float, bool]:
    """Of `ids` from `start` on, in one call on this row; zeros fill it up to `num_read`. The last is not read."""
    read = ids[:-1] + [0] * (num_read - len(ids) + 1)
    logits = model(torch.tensor([read]), use_cache=False, **compute).logits[0, start - 1 : len(ids) - 1]
    scores, targets = logits.log_softmax(-1), torch.tensor(ids[start:])
    total = scores.double().gather(1, targets[:, None]).sum().item()
    return total, bool((scores.argmax(-1) == targets).all())


def cut_windows(text: str, longest: int) -> list[tuple[list[int], int]]:
    """Ids read at once, and where those begin that no window before has predicted."""
    ids, windows = [EOS, *text.encode()], []
    for begin in range(0, len(ids) - 1, longest):
        stop = min(begin + longest, len(ids) - 1)
        window = ids[max(0, stop - longest) : stop + 1]
        windows.append((window, len(window) - (stop - begin)))
    return windows


def check_scores(model, run: Run, **compute):
    """Every continuation and every file costs what the model says of it alone."""
    scored = run.list_scored()
    assert len(scored) == 2 * NUM_NAMES and len({len(context + name) for context, name, *_ in scored}) > NUM_NAMES // 2
    for context, continuation, log_likelihood, is_greedy in scored:
        ids, start = list((context + continuation).encode()), len(context.encode())
        expected = score_alone(model, ids, start, **compute)
        assert (log_likelihood, is_greedy) == (pytest.approx(expected[0], abs=1e-4), expected[1])


def check_files(model, run: Run, longest: int = LONGEST, **compute):
    rolled, total, num_bytes, num_windows = run.list_rolled(), 0.0, 0, []
    assert len(rolled) == NUM_FILES
    for text, log_likelihood in rolled:
        windows = cut_windows(text, longest)
        expected = math.fsum(score_alone(model, *window, **compute)[0] for window in windows)
        assert log_likelihood == pytest.approx(expected, rel=1e-5)
        total, num_bytes = total + expected, num_bytes + len(text.encode())
        num_windows.append(len(windows))
    assert max(num_windows) > 1
    bits = run.results["stdlib_bits_per_byte"]["bits_per_byte,none"]
    assert bits == pytest.approx(-total / num_bytes / math.log(2), rel=1e-5)


@torch.no_grad()
def check_written(model, run: Run, **compute):
    written = run.list_written()
    assert len(written) == NUM_LINES
    for prompt, text in written:
        ids = torch.tensor([list(prompt.encode())])
        generated = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_WRITTEN, do_sample=False, **compute
        )
        assert text == TOKENIZER.decode(generated[0, ids.shape[1] :], skip_special_tokens=True).split("\n")[0]


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_family_is_scored_and_writes_in_ragged_batches_as_each_text_alone(evaluated, name):
    models, runs, _ = evaluated
    check_scores(models[name], runs[name])
    check_files(models[name], runs[name])
    check_written(models[name], runs[name])


@pytest.mark.parametrize("name", ["thoughtbubbles", *CAUSAL])
def test_scores_are_those_of_score_continuations(evaluated, name):
    models, runs, _ = evaluated
    scored = runs[name].list_scored()
    ours = score_continuations(models[name], [(context, text) for context, text, *_ in scored], TOKENIZER)
    assert [score.log_likelihood for score in ours] == pytest.approx([score for _, _, score, _ in scored], abs=1e-4)
    assert [score.is_greedy for score in ours] == [is_greedy for *_, is_greedy in scored]


@pytest.mark.parametrize("name", COMPUTE)
def test_how_much_to_compute_is_a_model_argument(evaluated, name):
    models, runs, _ = evaluated
    check_scores(models[name], runs[f"{name}-compute"], **COMPUTE[name])
    check_files(models[name], runs[f"{name}-compute"], longest=LONGEST - 1, **COMPUTE[name])
    check_written(models[name], runs[f"{name}-compute"], **COMPUTE[name])
    assert runs[f"{name}-compute"].list_scored() != runs[name].list_scored()


@torch.no_grad()
@pytest.mark.parametrize("name", ANSWERERS)
def test_a_model_that_answers_is_scored_and_writes_as_it_does_alone(evaluated, name):
    models, runs, _ = evaluated
    model, run = models[name], runs[name]
    for problem, answer, log_likelihood, is_greedy in run.list_scored():
        asked, targets = (torch.tensor([list(text.encode())]) for text in (problem, answer))
        scores = model(input_ids=asked, labels=targets).logits.log_softmax(-1)
        expected = scores.double().gather(2, targets[..., None]).sum().item()
        assert log_likelihood == pytest.approx(expected, abs=1e-4)
        assert is_greedy == bool((scores.argmax(-1) == targets).all())
    problems = [list(problem.encode()) for problem, _ in run.list_written()]
    assert len(problems) < BATCH_SIZE and len({*map(len, problems)}) > 1
    longest = max(map(len, problems))
    for problem, (_, text) in zip(problems, run.list_written(), strict=True):
        asked = torch.tensor([problem])
        # The harness adds the length of the problem to that of the text here too.
        length = (len(problem) if name == "parallel-thinker" else longest) + NUM_WRITTEN
        generated = model.generate(asked, attention_mask=torch.ones_like(asked), max_length=length, do_sample=False)
        assert text == TOKENIZER.decode(generated[0], skip_special_tokens=True).split("\n")[0]


@pytest.mark.parametrize("name", COMPUTE)
def test_bits_per_byte_are_those_of_score_dataset_on_the_same_windows(evaluated, name):
    models, runs, _ = evaluated
    run = runs[f"{name}-compute"]
    windows = [window for text, _ in run.list_rolled() for window in cut_windows(text, LONGEST - 1)]
    rows = [{"input_ids": ids, "labels": [-100] * start + ids[start:]} for ids, start in windows]
    bits = score_dataset(models[name], rows, TOKENIZER, **COMPUTE[name])["bits_per_byte"]
    assert run.results["stdlib_bits_per_byte"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-5)


def test_top_k_forks_are_read_blockwise_at_batch_size_1_which_is_no_likelihood(evaluated):
    models, runs, _ = evaluated
    model, run = models["thoughtbubbles"], runs["thoughtbubbles"]
    check_scores(model, run)
    check_files(model, run)
    check_written(model, run)
    pairs = [(context, text) for context, text, *_ in run.list_scored()]
    honest = [score.log_likelihood for score in score_continuations(model, pairs, TOKENIZER, reading="prefix")]
    assert [score for _, _, score, _ in run.list_scored()] != pytest.approx(honest, abs=1e-2)


def test_padding_takes_part_in_top_k_forks_of_larger_batches(evaluated):
    models, runs, _ = evaluated
    scored = runs["padded"].list_scored()
    longest_first = sorted(
        ((list(context.encode()), list(text.encode()), score) for context, text, score, _ in scored),
        key=lambda request: (-len(request[0] + request[1]), request[0] + request[1]),
    )
    padding_effects = []
    for begin in range(0, len(longest_first), BATCH_SIZE):
        batch = longest_first[begin : begin + BATCH_SIZE]
        num_read = len(batch[0][0] + batch[0][1]) - 1
        for context, text, score in batch:
            ids, start = context + text, len(context)
            assert score == pytest.approx(score_alone(models["thoughtbubbles"], ids, start, num_read)[0], abs=1e-4)
            if len(ids) - 1 < num_read:
                padding_effects.append(abs(score - score_alone(models["thoughtbubbles"], ids, start)[0]))
    assert max(padding_effects) > 1e-3


def test_a_task_of_ones_own_asks_for_single_tokens_which_top_k_forks_answer_honestly(evaluated):
    models, runs, _ = evaluated
    scored = runs["own"].list_scored("sums")
    assert [(question, text) for question, text, *_ in scored] == [
        ("2+2=", "3"),
        ("2+2=", "4"),
        ("1+2+5=", "8"),
        ("1+2+5=", "7"),
    ]
    pairs = [(question, text) for question, text, *_ in scored]
    honest = score_continuations(models["thoughtbubbles"], pairs, TOKENIZER, reading="prefix")
    assert [score for *_, score, _ in scored] == pytest.approx([ours.log_likelihood for ours in honest], abs=1e-4)


def test_what_the_harness_cannot_evaluate_is_one_clear_error(evaluated):
    errors = evaluated[2]
    assert errors["bytes-token"].startswith('ValueError: `patch_lengths` is missing, but `patching="token"` needs it')
    assert "trust_remote_code=True" in errors["untrusted"]
    assert errors["next-thought-as-causal"].startswith("ValueError: Unrecognized configuration class")


def test_the_text_is_what_load_text_sets_aside(held_out):
    module, files = held_out
    assert module.load_files(pretrained="any")["validation"]["text"] == files


def test_questions_are_as_the_text_has_them_and_the_same_in_every_process(held_out, evaluated):
    module, run = held_out[0], evaluated[1]["threshold"]
    texts = module.read_files()
    names, lines = (load(pretrained="any")["validation"].to_list() for load in (module.load_names, module.load_lines))
    assert min(len(names), len(lines)) > 10 * NUM_NAMES
    assert all(len(row["context"]) <= module.MOST_CONTEXT for row in names + lines)
    for row in names:
        assert row["context"] + row["name"] in texts[row["path"]]
        different = [
            i for i, letters in enumerate(zip(row["name"], row["misspelt"], strict=True)) if len({*letters}) > 1
        ]
        i, j = different
        assert j == i + 1 and row["misspelt"][i] + row["misspelt"][j] == row["name"][j] + row["name"][i]
    for row in lines:
        assert f"{row['context']}{row['ending']}\n" in texts[row["path"]]
    assert [sample["doc"] for sample in run.samples["stdlib_names"]] == names[:NUM_NAMES]
    assert [sample["doc"] for sample in run.samples["stdlib_lines"]] == lines[:NUM_LINES]
