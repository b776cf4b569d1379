# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Saved models of every family, with every head, load and save again where the package is not installed.

In one process a registered class wins even with `trust_remote_code=True`, so every load happens in a process that
refuses to import the package: what one such process saves, another one loads. Both forget all code between two loads
(python_process.py), as if they were new.
"""

import contextlib
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_thoughtbubbles import BytePatchConfig, LoopedThinkerConfig, LoopedThinkerTextConfig, NextThoughtConfig
from hf_thoughtbubbles.hub.remote_code import collect_auto_classes
from tests.families import make_config
from tests.hub.python_process import PythonProcess
from tests.hub.travellers import BY_NAME, LOAD, TRAVELLERS, WITHOUT_ANSWERS, are_equal, read_files


pytestmark = pytest.mark.slow


SAVE = LOAD + "\nmodel.save_pretrained(target)"


def check_two_generations(traveller, first, second, folder):
    """Save a model, have one process load and save it, have another load and save that; all are the same."""
    model = traveller.build()
    model.save_pretrained(folder / "saved")
    expected, order = traveller.expect(model), traveller.order()
    for process, source, target in ((first, "saved", "again"), (second, "again", "third")):
        seen = process.run(SAVE, source=str(folder / source), target=str(folder / target), **order)
        assert are_equal(seen, expected), source
    saved, again, third = (read_files(folder / name, ".py", ".safetensors") for name in ("saved", "again", "third"))
    assert "model.safetensors" in saved and len(saved) > 3
    # Compared one by one, because a difference of all bytes would be shown byte by byte.
    for files in (again, third):
        assert sorted(files) == sorted(saved)
        assert [name for name in saved if files[name] != saved[name]] == []
    auto_maps = [json.loads((folder / name / "config.json").read_text())["auto_map"] for name in ("saved", "third")]
    assert auto_maps[0] == auto_maps[1]
    assert set(auto_maps[0]) == set(collect_auto_classes(type(model.config)))


@pytest.mark.parametrize("traveller", TRAVELLERS, ids=lambda traveller: traveller.name)
def test_every_head_of_every_family_loads_and_saves_again(traveller, bare_process, second_bare_process, tmp_path):
    check_two_generations(traveller, bare_process, second_bare_process, tmp_path)


def test_nothing_that_a_process_loaded_before_is_needed(tmp_path):
    """The same in processes that have never seen another model."""
    processes = [PythonProcess(tmp_path / name, hides_package=True) for name in ("one", "two")]
    with contextlib.closing(processes[0]), contextlib.closing(processes[1]):
        check_two_generations(BY_NAME["thoughtbubbles-AutoModelForCausalLM"], *processes, tmp_path)


def test_code_that_came_with_one_model_serves_no_other(bare_process, tmp_path):
    """Even if the folders have one name and the configuration's code is the same, so that its class would be, too."""
    traveller = BY_NAME["bytes-space-AutoModelForCausalLM"]
    traveller.build().save_pretrained(tmp_path / "whole" / "saved")
    shutil.copytree(tmp_path / "whole" / "saved", tmp_path / "part" / "saved")
    (tmp_path / "part" / "saved" / "patch_ends.py").unlink()
    bare_process.run(LOAD, source=str(tmp_path / "whole" / "saved"), **traveller.order())
    with pytest.raises(AssertionError, match=r"FileNotFoundError: .*part/saved/patch_ends\.py"):
        bare_process.run(LOAD, source=str(tmp_path / "part" / "saved"), **traveller.order())


CONFIG_ONLY = """
from transformers import AutoConfig

config = AutoConfig.from_pretrained(source, trust_remote_code=True)
config.auto_map = {name: f"user/repo--{target}" for name, target in config.auto_map.items()}  # as from the Hub
config.save_pretrained(again)
type(config)(vocab_size=7, fork_layers=[]).save_pretrained(fresh)
"""


def test_a_travelled_configuration_saved_alone_names_only_code_that_is_there(bare_process, tmp_path):
    make_config().save_pretrained(tmp_path / "saved")
    for name in ("modeling_thoughtbubbles.py", "streams.py"):
        (tmp_path / "saved" / name).unlink()
    folders = {"source": "saved", "again": "again", "fresh": "fresh"}
    bare_process.run(CONFIG_ONLY, **{name: str(tmp_path / folder) for name, folder in folders.items()})
    auto_map = json.loads((tmp_path / "again" / "config.json").read_text())["auto_map"]
    assert auto_map["AutoConfig"] == "configuration_thoughtbubbles.ThoughtbubblesConfig"
    assert auto_map["AutoModel"] == "user/repo--modeling_thoughtbubbles.ThoughtbubblesModel"
    assert (tmp_path / "again" / "configuration_thoughtbubbles.py").is_file()
    assert (tmp_path / "fresh" / "config.json").is_file()


REFUSED = """
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=True)
for part, folder in ((model, with_streams), (model.config, with_settings)):
    try:
        part.save_pretrained(folder)
        raise AssertionError("nothing was refused")
    except FileExistsError as error:
        assert ".py', which was not saved with a model" in str(error)
for _ in range(2):
    model.save_pretrained(again)
"""


OWN_FILES = {"with_streams": "streams.py", "with_settings": "size_settings.py"}


def test_code_that_travelled_is_not_written_over_files_of_other_origin(bare_process, tmp_path):
    BY_NAME["thoughtbubbles-AutoModelForCausalLM"].build().save_pretrained(tmp_path / "saved")
    for name, file_name in OWN_FILES.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file_name).write_text("my_own = 1\n")
    folders = {name: str(tmp_path / name) for name in (*OWN_FILES, "again")}
    bare_process.run(REFUSED, source=str(tmp_path / "saved"), **folders)
    for name, file_name in OWN_FILES.items():
        assert read_files(tmp_path / name, "") == {file_name: b"my_own = 1\n"}


BY_CLASS = """
from transformers.dynamic_module_utils import get_class_from_dynamic_module

model_class = get_class_from_dynamic_module(reference, source)
model_class.from_pretrained(source).save_pretrained(target)
"""


def test_a_class_used_without_the_auto_classes_saves_its_code_too(bare_process, second_bare_process, tmp_path):
    """transformers copies no code for such a class; its configuration does."""
    traveller = BY_NAME["generic-AutoModelForCausalLM"]
    model = traveller.build()
    model.save_pretrained(tmp_path / "saved")
    reference = f"modeling_generic_transformer.{type(model).__name__}"
    bare_process.run(BY_CLASS, reference=reference, source=str(tmp_path / "saved"), target=str(tmp_path / "again"))
    assert read_files(tmp_path / "again", ".py").keys() == read_files(tmp_path / "saved", ".py").keys()
    seen = second_bare_process.run(LOAD, source=str(tmp_path / "again"), **traveller.order())
    assert are_equal(seen, traveller.expect(model))


def test_what_was_saved_without_the_package_loads_with_it(bare_process, tmp_path):
    traveller = BY_NAME["thinker-AutoModelForCausalLM"]
    model = traveller.build()
    model.save_pretrained(tmp_path / "saved")
    order = {"source": str(tmp_path / "saved"), "target": str(tmp_path / "again"), **traveller.order()}
    assert len(bare_process.run(SAVE, **order)) >= 3, "logits, the steps used, what was generated"
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    assert type(reloaded) is type(model)
    assert torch.equal(reloaded(**traveller.inputs).logits, model(**traveller.inputs).logits)


def test_every_class_travels():
    assert set(collect_auto_classes(LoopedThinkerConfig)) == {"AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM"}
    heads = {head.__name__ for head in WITHOUT_ANSWERS}
    for config_class in (LoopedThinkerTextConfig, BytePatchConfig):
        assert set(collect_auto_classes(config_class)) == {"AutoConfig", *heads}
    assert set(collect_auto_classes(NextThoughtConfig)) == {"AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM"}
