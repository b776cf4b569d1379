# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What a converted model says of its source."""

import pytest
from huggingface_hub.repocard import metadata_load
from transformers import AutoModelForCausalLM

from hf_thoughtbubbles import fork_native, loop_native
from hf_thoughtbubbles.conversion.native_source import read_source
from hf_thoughtbubbles.hub.model_card import build_model_card
from tiny_natives import build_native


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# Text", {"license": "apache-2.0"}),
        ("# No metadata", {}),
        ("---\nlicense: [unclosed\n---\n# Text", {}),
        (
            "---\nlicense: other\nlicense_name: n\nlicense_link: LICENSE\n---\n",
            {"license": "other", "license_name": "n", "license_link": "LICENSE"},
        ),
    ],
)
def test_the_licence_is_that_of_the_sources_card(card, licence, tmp_path):
    (tmp_path / "README.md").write_text(card)
    assert read_source(str(tmp_path)) == {"_name_or_path": f"./{tmp_path.name}", **licence}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("", {}),
        ("/gone/models/tiny", {"_name_or_path": "./tiny"}),
        ("someone/tiny", {"_name_or_path": "someone/tiny"}),
    ],
)
def test_a_source_without_files_has_a_name_and_no_licence(name, source):
    assert read_source(name, local_files_only=True) == source


@pytest.mark.parametrize(
    "convert", [lambda native: fork_native(native, [1]), lambda native: loop_native(native, (1, 2))]
)
def test_every_card_of_a_conversion_names_source_and_licence(convert, tmp_path):
    native = build_native("llama")
    native.config.name_or_path = "someone/tiny"
    model = convert(native)
    model.config.native_config["license"] = "mit"
    model.save_pretrained(tmp_path)
    metadata = metadata_load(tmp_path / "README.md")
    assert (metadata["base_model"], metadata["license"]) == ("someone/tiny", "mit")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    card = build_model_card(loaded, "me/forked", metadata={"license": "apache-2.0"})
    assert card.data.license == "apache-2.0" and card.data.base_model == "someone/tiny"  # the author's word stays
    link = "[someone/tiny](https://huggingface.co/someone/tiny)"
    assert f"Made from {link}, a pretrained model of type `llama`. Its licence is mit." in card.text


def test_a_model_without_a_name_is_called_a_model_in_memory():
    card = build_model_card(fork_native(build_native("gpt2"), [1]), "me/forked")
    assert "Made from a model in memory, a pretrained model of type `gpt2`. Its licence is unknown" in card.text
    assert card.data.license == "unknown" and card.data.base_model is None
