# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Code that is saved with a model: which files, how they are made flat, what they may not overwrite."""

import ast
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import types
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import hf_thoughtbubbles
from hf_thoughtbubbles import ThoughtbubblesConfig, __version__
from hf_thoughtbubbles.hub import remote_code
from hf_thoughtbubbles.hub.remote_code import VERSION_FIELD, collect_auto_classes, flatten_modules
from hf_thoughtbubbles.hub.resaving import add_digest, check_folder
from tests.families import make_config
from tests.hub.python_process import PythonProcess
from tests.hub.travellers import HEADS


USERS_SCRIPT = """
from transformers import AutoModelForSequenceClassification
from hf_thoughtbubbles import ThoughtbubblesConfig, ThoughtbubblesForCausalLM, ThoughtbubblesForSequenceClassification

SECRET = "not for the Hub"
class MyConfig(ThoughtbubblesConfig):
    pass
class MyHead(ThoughtbubblesForSequenceClassification):
    pass
AutoModelForSequenceClassification.register(ThoughtbubblesConfig, MyHead, exist_ok=True)
sizes = dict(vocab_size=7, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, fork_layers=[0])
ThoughtbubblesForCausalLM(MyConfig(**sizes)).save_pretrained("mine")
ThoughtbubblesForCausalLM(ThoughtbubblesConfig(**sizes)).save_pretrained("ours")
"""
# One process is both: started without a file, then running one as `__main__`.
NOTEBOOK = """
import os, runpy, sys
for kind in ("notebook", "script"):
    os.makedirs(kind)
assert not hasattr(sys.modules["__main__"], "__file__")
os.chdir("notebook")
exec(compile(source, "<cell>", "exec"), vars(sys.modules["__main__"]))
os.chdir("../script")
runpy.run_path(script, run_name="__main__")
"""


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


def test_travelling_files_hold_no_more_of_the_hub_than_saving_again_needs():
    for names in hf_thoughtbubbles.FAMILIES.values():
        config_class = getattr(hf_thoughtbubbles, names["AutoConfig"])
        files = flatten_modules([public.__module__ for public in collect_auto_classes(config_class).values()])
        ours = {path.name for path in Path(remote_code.__file__).parent.glob("*.py")}
        assert files.keys() & ours == {"resaving.py"}


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


DOCUMENTED = '''"""File.

More about the file.
"""

from .tiny import c


def double(x):
    """
    Twice `x`. That is
    `2 * x`.

    Args:
        x (`int`): a number.
    """
    return c(x)


def halve(x):
    """
    Half of `x`, a number of any kind for which division by two is defined and gives
    a number.

    Args:
        x (`int`): a number.
    """
    return x / 2


def keep(x):
    """
    Args:
        x (`int`): a number. No sentence says what comes out.
    """
    return x


__all__ = ["double", "halve", "keep"]
'''
SHORT = '''"""File."""

from .tiny import c

def double(x):
    """Twice `x`."""
    return c(x)

def halve(x):
    """Half of `x`, a number of any kind for which division by two is defined and gives a number."""
    return x / 2

def keep(x):
    return x
'''


def test_docstrings_travel_with_their_first_sentence(package):
    package(a__x=DOCUMENTED, a__tiny="c = abs\n")
    assert flatten_modules(["house.a.x"])["x.py"] == SHORT


def test_travelling_files_differ_from_their_sources_in_docstrings_and_imports_alone():
    names = {public.__module__ for public in collect_auto_classes(ThoughtbubblesConfig).values()}
    files = flatten_modules([*names])
    for name in names:
        origin = ast.parse(Path(sys.modules[name].__file__).read_text())
        trees = []
        for tree in (origin, ast.parse(files[f"{name.split('.')[-1]}.py"])):
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module) and ast.get_docstring(node):
                    node.body.pop(0)
            dumps = [ast.dump(node) for node in tree.body if not isinstance(node, ast.ImportFrom)]
            trees.append([dump for dump in dumps if "__all__" not in dump])
        assert trees[0] == trees[1], name


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a__x": "from ..b.x import y\n", "b__x": "y = 1\n"}, "same base name"),
        ({"a__x": "import house.b\n"}, "`import house` cannot be saved with a model"),
        ({"a__x": "from .. import b\n"}, "imports from the package house"),
    ],
)
def test_what_could_not_travel_is_refused(package, sources, message):
    package(**sources)
    with pytest.raises(ValueError, match=message):
        flatten_modules(["house.a.x"])


@pytest.mark.slow
def test_a_users_own_classes_save_and_never_take_their_script_along(tmp_path):
    """A script is `__main__` with a file, a notebook without one."""
    (tmp_path / "script.py").write_text(USERS_SCRIPT)
    with contextlib.closing(PythonProcess(tmp_path / "user")) as process:
        process.run(NOTEBOOK, source=USERS_SCRIPT, script=str(tmp_path / "script.py"))
    for kind in ("notebook", "script"):
        for folder in (tmp_path / "user" / kind / name for name in ("mine", "ours")):
            assert (folder / "model.safetensors").is_file()
            assert not [path for path in folder.glob("*.py") if "SECRET" in path.read_text()]
        auto_map = json.loads((tmp_path / "user" / kind / "ours" / "config.json").read_text())["auto_map"]
        assert auto_map["AutoModelForCausalLM"] == "modeling_thoughtbubbles.ThoughtbubblesForCausalLM"
        ours = "modeling_thoughtbubbles.ThoughtbubblesForSequenceClassification"
        assert auto_map["AutoModelForSequenceClassification"] == ours, "not the user's head"


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


def test_code_is_not_written_over_files_of_other_origin(tmp_path):
    config = make_config()
    config.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)  # over its own
    (tmp_path / "config.json").unlink()
    (tmp_path / "streams.py").write_text("my_own = 1\n")
    with pytest.raises(
        FileExistsError, match=r"would be written over .*streams\.py', which was not saved with a model"
    ):
        config.save_pretrained(tmp_path)
    assert (tmp_path / "streams.py").read_text() == "my_own = 1\n" and not (tmp_path / "config.json").exists()


def test_what_another_process_is_writing_is_no_file_of_other_origin(tmp_path, monkeypatch):
    """It begins empty, and only the process that saves checks: one that stopped would leave the others waiting."""
    model = AutoModelForCausalLM.from_config(make_config())
    (tmp_path / "resaving.py").touch()
    model.config.save_pretrained(tmp_path)
    assert (tmp_path / "resaving.py").read_text().startswith("# Copyright")
    (tmp_path / "resaving.py").write_text("my_own = 1\n")
    model.save_pretrained(tmp_path, is_main_process=False)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group=None: 1)
    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", lambda *args, **kwargs: None)
        model.save_pretrained(tmp_path)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group=None: 0)
    with pytest.raises(FileExistsError, match=r"resaving\.py', which was not saved with a model"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "resaving.py").read_text() == "my_own = 1\n"


def test_only_stale_weights_are_removed_and_only_by_the_process_that_writes(tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_config(make_config())
    single, index = tmp_path / "model.safetensors", tmp_path / "model.safetensors.index.json"
    model.save_pretrained(tmp_path)
    with monkeypatch.context() as patch:  # what the main process does meanwhile
        patch.setattr(PreTrainedModel, "save_pretrained", lambda *args, **kwargs: index.write_text("{}"))
        model.save_pretrained(tmp_path, False)
    assert single.is_file() and index.is_file()
    with monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        patch.setattr(torch.distributed, "get_rank", lambda group=None: 1)
        patch.setattr(PreTrainedModel, "save_pretrained", lambda *args, **kwargs: None)
        model.save_pretrained(tmp_path)
    assert single.is_file() and index.is_file()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    model.save_pretrained(tmp_path)
    torch.distributed.destroy_process_group()
    assert single.is_file() and not index.exists()
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert index.is_file() and not single.exists()
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")  # another one's, and no hindrance
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    assert index.is_file() and not single.exists() and (tmp_path / "adapter_model.safetensors").is_file()


SUBCLASS = """
import sys
sys.path.insert(0, folder)
from my_lm import MyLM
from hf_thoughtbubbles import ThoughtbubblesConfig

MyLM.register_for_auto_class("AutoModelForCausalLM")
sizes = dict(vocab_size=7, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, fork_layers=[0])
model = MyLM(ThoughtbubblesConfig(**sizes))
model.save_pretrained(target)
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(target, trust_remote_code=False).save_pretrained(target + "-plain")
"""
MY_LM = """
from hf_thoughtbubbles import ThoughtbubblesForCausalLM

class MyLM(ThoughtbubblesForCausalLM):
    pass
"""


@pytest.mark.slow
def test_a_class_that_its_user_told_to_copy_is_the_one_that_loads(owner, tmp_path):
    (tmp_path / "my_lm.py").write_text(MY_LM)
    owner.run(SUBCLASS, folder=str(tmp_path), target=str(tmp_path / "mine"))
    auto_map = json.loads((tmp_path / "mine" / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForCausalLM"] == "my_lm.MyLM" and (tmp_path / "mine" / "my_lm.py").is_file()
    assert auto_map["AutoModel"] == "modeling_thoughtbubbles.ThoughtbubblesModel"
    plain = json.loads((tmp_path / "mine-plain" / "config.json").read_text())["auto_map"]
    assert plain["AutoModelForCausalLM"] == "modeling_thoughtbubbles.ThoughtbubblesForCausalLM"


READ = """
import logging
import os
import shutil
import signal
from transformers import AutoConfig

result = []
handler = logging.Handler()
handler.emit = lambda record: result.append(record.getMessage())
logging.getLogger().addHandler(handler)
AutoConfig.from_pretrained(source, trust_remote_code=True).save_pretrained(target)
logging.getLogger().removeHandler(handler)
"""


def test_models_name_the_version_that_saved_them_and_another_one_warns_once(bare_process, tmp_path, caplog):
    logging.getLogger(remote_code.__name__).warning_once.cache_clear()
    make_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    assert fields[VERSION_FIELD] == __version__
    with caplog.at_level(logging.WARNING):
        for version in (__version__, f"{__version__}.post1", "99.0.0", "99.0.0"):
            path.write_text(json.dumps({**fields, VERSION_FIELD: version}))
            config = AutoConfig.from_pretrained(tmp_path)
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("hf-thoughtbubbles 99.0.0 saved this model. ")
    assert bare_process.run(READ, source=str(tmp_path), target=str(tmp_path / "again")) == [], "its own code reads it"
    assert json.loads((tmp_path / "again" / "config.json").read_text())[VERSION_FIELD] == "99.0.0"
    config.save_pretrained(tmp_path)
    assert json.loads(path.read_text())[VERSION_FIELD] == __version__


def test_an_edited_file_is_overwritten_by_nothing_else(tmp_path):
    model = AutoModelForCausalLM.from_config(make_config())
    model.save_pretrained(tmp_path)
    path = tmp_path / "modeling_thoughtbubbles.py"
    path.write_text(path.read_text() + "\n# Corrected.\n")
    edited, config = path.read_text(), (tmp_path / "config.json").read_text()
    for save in (model.save_pretrained, model.config.save_pretrained):
        with pytest.raises(
            FileExistsError, match=r"modeling_thoughtbubbles\.py', which was edited since it was saved"
        ):
            save(tmp_path)
    assert path.read_text() == edited and (tmp_path / "config.json").read_text() == config
    check_folder(tmp_path, {path.name: path.read_bytes()})  # as a model saves that was loaded with this code


def test_unedited_files_of_other_versions_and_other_line_ends_are_replaced(tmp_path, caplog):
    config = make_config()
    config.save_pretrained(tmp_path)
    path = tmp_path / "modeling_thoughtbubbles.py"
    saved = path.read_bytes()
    first, _, rest = saved.split(b"\n", 2)
    undigested = first + b"\n" + rest.replace(b"import", b"import ")
    for there in (saved.replace(b"\n", b"\r\n"), add_digest(first + b"\n# An older version.\n")):
        path.write_bytes(there)
        config.save_pretrained(tmp_path)
        assert path.read_bytes() == saved and not caplog.messages
    path.write_bytes(undigested)
    config.save_pretrained(tmp_path)
    kept = tmp_path / "modeling_thoughtbubbles.py.before"
    assert path.read_bytes() == saved and kept.read_bytes() == undigested
    assert len(caplog.messages) == 1 and f"kept as {kept}" in caplog.messages[0]


OPERATIONS = {"os.rename", "os.remove"}


def save_until(model, folder: Path, count: int, **options) -> bool:
    """Save in a process that is killed before a renaming or removal, and say whether it was."""
    process = os.fork()
    if process == 0:
        left = [count]

        def stop(event, arguments):
            if event in OPERATIONS and str(arguments[0]).startswith(str(folder)):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1

        sys.addaudithook(stop)
        model.save_pretrained(folder, **options)
        os._exit(0)
    return os.waitpid(process, 0)[1] == signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new"), [("9KB", "9KB"), ("9KB", "5GB"), ("5GB", "9KB"), ("5GB", "5GB")])
def test_a_killed_save_leaves_the_old_model_or_the_new_one_or_none(old, new, tmp_path):
    models = [AutoModelForCausalLM.from_config(make_config(fork_budget=budget)) for budget in (1.5, 2.0)]
    for number, model in enumerate(models):
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, number)
    folder, found = tmp_path / "now", []
    models[0].save_pretrained(tmp_path / "old", max_shard_size=old)
    (tmp_path / "old" / "notes.txt").write_text("of the user")
    for count in range(1, 200, 5):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "old", folder)
        was_killed = save_until(models[1], folder, count, max_shard_size=new)
        try:
            loaded = AutoModelForCausalLM.from_pretrained(folder)
        except ValueError as error:
            assert "config.json" in str(error) and was_killed
        else:
            values = {
                value
                for tensor in dict(loaded.named_parameters()).values()
                for value in tensor.detach().unique().tolist()
            }
            assert (values, loaded.config.fork_budget) in (({0.0}, 1.5), ({1.0}, 2.0)), count
            found.append(values)
        if not was_killed:
            break
    assert found[0] == {0.0} and found[-1] == {1.0}
    assert (folder / "notes.txt").is_file() and not (folder / "_unfinished_save").exists()
    stale = len(list(folder.glob("*.index.json"))) + len(list(folder.glob("model.safetensors")))
    assert stale == 1
