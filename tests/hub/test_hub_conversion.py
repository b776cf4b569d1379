# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Native models on the Hub are converted by name, and conversions are pushed with source and licence."""

import pytest
import torch
from huggingface_hub.repocard import metadata_load
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_thoughtbubbles import train_bpe_tokenizer
from tests.hub.hub_server import USER
from tiny_natives import build_native, draw_ids


pytestmark = pytest.mark.slow

PUSH = """
from huggingface_hub import HfApi

api = HfApi()
api.create_repo(repository)
api.create_branch(repository, branch="trained")
result = api.upload_folder(repo_id=repository, folder_path=folder, revision="trained").oid
"""
CONVERT = """
from hf_thoughtbubbles.cli import convert

convert.main([repository, target, "--revision", "trained", *options])
"""
PUSH_CONVERSION = """
from transformers import AutoModelForCausalLM

result = AutoModelForCausalLM.from_pretrained(folder).push_to_hub(repository).oid
"""


@pytest.mark.parametrize(
    ("name", "options"),
    [("qwen3-tied", ["--fork-layers", "1", "3"]), ("gpt2", ["--loop-layers", "1", "2"])],
    ids=["forks", "loops"],
)
@torch.no_grad()
def test_a_model_on_the_hub_is_converted_and_pushed(name, options, hub, owner, tmp_path):
    repository, native = f"{USER}/native-{name}", build_native(name)
    native.save_pretrained(tmp_path / "native", max_shard_size="10KB")
    train_bpe_tokenizer(["some text"], vocab_size=260).save_pretrained(tmp_path / "native")
    (tmp_path / "native" / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Native\n")
    owner.run(PUSH, repository=repository, folder=str(tmp_path / "native"))
    owner.run(CONVERT, repository=repository, target=str(tmp_path / "new"), options=options)

    model, input_ids = AutoModelForCausalLM.from_pretrained(tmp_path / "new"), draw_ids(2, 11)
    torch.testing.assert_close(model(input_ids).logits, native(input_ids).logits, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "new")("some text").input_ids
    metadata = metadata_load(tmp_path / "new" / "README.md")
    assert (metadata["base_model"], metadata["license"]) == (repository, "apache-2.0")

    owner.run(PUSH_CONVERSION, repository=f"{USER}/new-{name}", folder=str(tmp_path / "new"))
    card = hub.read(f"{USER}/new-{name}")["README.md"].decode()
    assert f"base_model: {repository}" in card and "license: apache-2.0" in card
