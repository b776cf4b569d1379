# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Does a saved model load, and save again, where the package is not installed?

In one process a registered class wins even with `trust_remote_code=True`, so every load happens in a fresh process
that refuses to import the package.
"""

import ast
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import transformers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import hf_thoughtbubbles
from hf_thoughtbubbles import ThoughtbubblesConfig
from hf_thoughtbubbles.hub.remote_code import collect_auto_classes, flatten_modules
from tests.families import make_config


HEADS = [
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
]

STRANGER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_thoughtbubbles":
            raise ImportError("hf_thoughtbubbles is not installed")

sys.meta_path.insert(0, Blocker())
import torch
import transformers

auto_class, source, target, logits = sys.argv[1:]
model = getattr(transformers, auto_class).from_pretrained(source, trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules."), type(model)
outputs = model(torch.arange(1, 14)[None])
torch.save([part for part in outputs.to_tuple() if isinstance(part, torch.Tensor)], logits)
if auto_class == "AutoModelForCausalLM":
    model.generate(torch.arange(1, 9)[None], max_new_tokens=3, do_sample=False, attention_mask=torch.ones(1, 8).long())
model.save_pretrained(target)
"""


def load_as_a_stranger(auto_class: type, source: Path, target: Path, cache: Path) -> list[torch.Tensor]:
    """Load `source` in a process without the package, save it to `target`; gives the outputs it computed."""
    logits, environment = target.with_suffix(".pt"), {**os.environ, "HF_MODULES_CACHE": str(cache)}
    command = [sys.executable, "-c", STRANGER, auto_class.__name__, str(source), str(target), str(logits)]
    # Away from the repository, whose folder would otherwise be importable.
    result = subprocess.run(command, env=environment, cwd=target.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(logits, weights_only=True)


@pytest.mark.parametrize("auto_class", HEADS, ids=lambda auto_class: auto_class.__name__)
def test_every_head_loads_and_saves_again_without_the_package(auto_class, tmp_path):
    model = auto_class.from_config(make_config()).eval()
    model.save_pretrained(tmp_path / "saved")
    expected = [part for part in model(torch.arange(1, 14)[None]).to_tuple() if isinstance(part, torch.Tensor)]
    first = load_as_a_stranger(auto_class, tmp_path / "saved", tmp_path / "again", tmp_path / "cache1")
    second = load_as_a_stranger(auto_class, tmp_path / "again", tmp_path / "third", tmp_path / "cache2")
    for outputs in (first, second):
        assert len(outputs) == len(expected) >= 1
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(expected, outputs, strict=True))
    auto_maps = [json.loads((tmp_path / name / "config.json").read_text())["auto_map"] for name in ("saved", "third")]
    assert auto_maps[0] == auto_maps[1]
    assert set(auto_maps[0]) == {"AutoConfig", *(head.__name__ for head in HEADS)}


def test_every_save_writes_the_same_bytes(tmp_path):
    config = make_config()
    for name in ("first", "second"):
        config.save_pretrained(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "second").iterdir())
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_what_is_registered_travels():
    classes = collect_auto_classes(ThoughtbubblesConfig)
    assert classes.pop("AutoConfig") is ThoughtbubblesConfig
    assert classes == {name: getattr(hf_thoughtbubbles, model.__name__) for name, model in classes.items()}
    assert set(classes) == {head.__name__ for head in HEADS}


def test_travelling_files_import_only_their_siblings():
    files = flatten_modules([model.__module__ for model in collect_auto_classes(ThoughtbubblesConfig).values()])
    for name, source in files.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("hf_thoughtbubbles"), f"{name}, line {node.lineno}"
                if node.level:
                    assert node.level == 1, f"{name}, line {node.lineno}"
                    assert f"{node.module}.py" in files, f"{name}, line {node.lineno}"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A throw-away package; call it with module name to source, and it can be flattened."""

    def make(**sources: str):
        for name, source in {"": "", **sources}.items():
            path = tmp_path / "house" / name.replace("__", "/")
            path = path.with_suffix(".py") if name else path / "__init__.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
            module_name = ".".join(["house", *name.split("__")]) if name else "house"
            module = types.ModuleType(module_name)
            module.__file__ = str(path)
            if not name:
                module.__path__ = [str(path.parent)]
            monkeypatch.setitem(sys.modules, module_name, module)

    return make


def test_imports_of_every_form_become_flat(package):
    package(
        models__big="from ..parts.small import (\n    a,\n    b,\n)\nfrom house.parts.tiny import c\nimport os\n",
        parts__small="from .tiny import c\na = b = c\n",
        parts__tiny="from os import path as c\n",
    )
    files = flatten_modules(["house.models.big"])
    assert list(files) == ["big.py", "small.py", "tiny.py"]
    assert files["big.py"] == "from .small import (\n    a,\n    b,\n)\nfrom .tiny import c\nimport os\n"
    assert files["small.py"] == "from .tiny import c\na = b = c\n"


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a__x": "from ..b.x import y\n", "b__x": "y = 1\n"}, "same base name"),
        ({"a__x": "import house.b\n"}, "write `from module import name`"),
        ({"a__x": "from .. import b\n"}, "imports from the package house"),
    ],
)
def test_what_could_not_travel_is_refused(package, sources, message):
    package(**sources)
    with pytest.raises(ValueError, match=message):
        flatten_modules(["house.a.x"])


USERS_SCRIPT = """
import sys
from transformers import AutoModelForSequenceClassification
from hf_thoughtbubbles import ThoughtbubblesConfig, ThoughtbubblesForCausalLM, ThoughtbubblesForSequenceClassification

SECRET = "not for the Hub"
class MyConfig(ThoughtbubblesConfig):
    pass
class MyHead(ThoughtbubblesForSequenceClassification):
    pass
AutoModelForSequenceClassification.register(ThoughtbubblesConfig, MyHead, exist_ok=True)
sizes = dict(vocab_size=7, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, fork_layers=[0])
ThoughtbubblesForCausalLM(MyConfig(**sizes)).save_pretrained(sys.argv[1])
ThoughtbubblesForCausalLM(ThoughtbubblesConfig(**sizes)).save_pretrained(sys.argv[2])
"""


@pytest.mark.parametrize("is_file", [True, False], ids=["script", "notebook"])
def test_a_users_own_classes_save_and_never_take_their_script_along(is_file, tmp_path):
    """A script is `__main__` with a file, a notebook without one."""
    (tmp_path / "script.py").write_text(USERS_SCRIPT)
    start = [tmp_path / "script.py"] if is_file else ["-c", USERS_SCRIPT]
    subprocess.run([sys.executable, *start, tmp_path / "mine", tmp_path / "ours"], check=True)
    for folder in (tmp_path / "mine", tmp_path / "ours"):
        assert (folder / "model.safetensors").is_file()
        assert not [path for path in folder.glob("*.py") if "SECRET" in path.read_text()]
    auto_map = json.loads((tmp_path / "ours" / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForCausalLM"] == "modeling_thoughtbubbles.ThoughtbubblesForCausalLM"
    assert "AutoModelForSequenceClassification" not in auto_map


CONFIG_ONLY = """
import json, shutil, sys
from pathlib import Path

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_thoughtbubbles":
            raise ImportError("hf_thoughtbubbles is not installed")

sys.meta_path.insert(0, Blocker())
from transformers import AutoConfig

config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
config.auto_map = {name: f"user/repo--{target}" for name, target in config.auto_map.items()}  # as from the Hub
config.save_pretrained(sys.argv[2])
type(config)(vocab_size=7, fork_layers=[]).save_pretrained(sys.argv[3])
"""


def test_a_travelled_configuration_saved_alone_names_only_code_that_is_there(tmp_path):
    make_config().save_pretrained(tmp_path / "saved")
    for name in ("modeling_thoughtbubbles.py", "streams.py"):
        (tmp_path / "saved" / name).unlink()
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", CONFIG_ONLY, *(str(tmp_path / name) for name in ("saved", "again", "fresh"))]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    auto_map = json.loads((tmp_path / "again" / "config.json").read_text())["auto_map"]
    assert auto_map["AutoConfig"] == "configuration_thoughtbubbles.ThoughtbubblesConfig"
    assert auto_map["AutoModel"] == "user/repo--modeling_thoughtbubbles.ThoughtbubblesModel"
    assert (tmp_path / "again" / "configuration_thoughtbubbles.py").is_file()
    assert (tmp_path / "fresh" / "config.json").is_file()


def test_pushing_a_configuration_or_a_model_uploads_its_code(tmp_path, monkeypatch):
    """The client's two calls stand in for the Hub; what they would have sent is what counts."""
    uploads = []

    class Repository:
        repo_id = "user/model"

    class Client:
        def create_repo(self, *args, **kwargs):
            return Repository

        def create_branch(self, *args, **kwargs):
            pass

        def create_commit(self, repo_id, operations, **kwargs):
            uploads.append({operation.path_in_repo for operation in operations})

    for module in (transformers.utils.hub, transformers.configuration_utils, transformers.modeling_utils):
        monkeypatch.setattr(module, "hf_api", Client, raising=False)
    code = {"configuration_thoughtbubbles.py", "modeling_thoughtbubbles.py", "streams.py", "remote_code.py"}
    make_config().save_pretrained(tmp_path / "config", push_to_hub=True, repo_id="user/model")
    assert code | {"config.json"} <= uploads[-1]
    assert code <= {path.name for path in (tmp_path / "config").iterdir()}, "the local folder carries it too"
    model = AutoModelForCausalLM.from_config(make_config())
    model.save_pretrained(tmp_path / "model", push_to_hub=True, repo_id="user/model")
    assert code | {"config.json", "model.safetensors"} <= uploads[-1]
    model.push_to_hub("user/model")
    assert code | {"config.json", "model.safetensors"} <= uploads[-1]


def test_corrupt_checkpoints_are_refused(tmp_path):
    AutoModelForCausalLM.from_config(make_config()).save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\x00" * 100):
        weights.write_bytes(damaged)
        with pytest.raises(Exception, match=r"safetensors|header|[Cc]orrupt|incomplete|deserializ"):
            AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    weights.write_bytes(whole)
    (tmp_path / "model" / "config.json").write_text('{"model_type": "thoughtbubbles", "hidden_size": ')
    with pytest.raises(OSError, match="not a valid JSON"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model")
