# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What `import hf_thoughtbubbles` changes: it registers the models, patches nothing and loads little."""

import importlib
import json
import subprocess
import sys

import pytest
from transformers import AutoConfig, PreTrainedModel

import hf_thoughtbubbles
from benchmarks.import_time import FORBIDDEN_MODULES


pytestmark = pytest.mark.slow


FIRST_IMPORT = "from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, GenerationMixin\n"
MODULES = f"""
import json, sys
{FIRST_IMPORT}
earlier = set(sys.modules)
import hf_thoughtbubbles
print(json.dumps(sorted(set(sys.modules) - earlier)))
"""
# Attributes by identity, kept alive so that no other object can get the same one.
ATTRIBUTES = """
import sys
from transformers import PreTrainedModel, Trainer, trainer
from transformers.utils import PushToHubMixin

def look():
    transformers = sys.modules["transformers"]  # which replaces itself while its parts are first imported
    owners = {"Trainer": Trainer, "PushToHubMixin": PushToHubMixin, "PreTrainedModel": PreTrainedModel}
    attributes = {(name, key): value for name, owner in owners.items() for key, value in vars(owner).items()}
    namespace = {("transformers", key): value for key, value in vars(transformers).items()}
    callbacks = {("callback", index): value for index, value in enumerate(trainer.DEFAULT_CALLBACKS)}
    return {**attributes, **namespace, **callbacks}

earlier = look()
import hf_thoughtbubbles
later = look()
changed = [name for name in {**earlier, **later} if earlier.get(name) is not later.get(name)]
# transformers itself adds modules of its own to its namespace when they are first imported.
modules = [name for name in changed if getattr(later[name], "__name__", "").startswith("transformers.")]
print(sorted(set(changed) - set(modules)))
"""


def run(source: str) -> str:
    """What a new process prints."""
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_patches_nothing():
    assert run(ATTRIBUTES).strip() == "[]"


def test_importing_the_package_loads_no_other_library():
    added = json.loads(run(MODULES))
    assert not {name.split(".")[0] for name in added} & FORBIDDEN_MODULES
    assert len(added) < 100


@pytest.mark.parametrize("name", hf_thoughtbubbles.__all__)
def test_every_public_name_is_there(name):
    assert getattr(hf_thoughtbubbles, name) is not None and name in dir(hf_thoughtbubbles)


def test_other_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = hf_thoughtbubbles.nothing


def test_every_family_is_registered_by_its_entry():
    for names in hf_thoughtbubbles.FAMILIES.values():
        config_class = getattr(hf_thoughtbubbles, names["AutoConfig"])
        assert type(AutoConfig.for_model(config_class.model_type)) is config_class
        assert issubclass(getattr(hf_thoughtbubbles, names["PreTrainedModel"]), PreTrainedModel)


PACKAGES = ("data", "training", "evaluation", "generation", "plots", "conversion", "hub", "tokenization")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_exports_what_it_lists_and_lists_nothing_else(name):
    package = importlib.import_module(f"hf_thoughtbubbles.{name}")
    assert dir(package) == package.__all__ and package.__all__ == sorted(package.__all__)
    for public in package.__all__:
        assert getattr(package, public).__module__.startswith(f"hf_thoughtbubbles.{name}.")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_the_package_lists_its_own_names_alone():
    assert dir(hf_thoughtbubbles) == hf_thoughtbubbles.__all__
    for family in ("thoughtbubbles", "looped_thinker", "looped_thinker_text", "byte_patch", "next_thought"):
        assert f"(`{family}`)" in hf_thoughtbubbles.__doc__
