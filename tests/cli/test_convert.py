# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""`hf-thoughtbubbles convert`: a complete folder, or an error and nothing."""

import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub.repocard import metadata_load
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

from hf_thoughtbubbles import LoopedThinkerForCausalLM, ThoughtbubblesForCausalLM, train_bpe_tokenizer
from hf_thoughtbubbles.cli import convert, main
from hf_thoughtbubbles.conversion import native_files
from tiny_natives import build_native, draw_ids


TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
CARD = "---\nlicense: other\nlicense_name: tiny-licence\nlicense_link: https://example.com/licence\n---\n\n# Tiny\n"
KILLED = """
import os, sys
from transformers import PreTrainedTokenizerBase
from hf_thoughtbubbles.cli import convert
PreTrainedTokenizerBase.save_pretrained = lambda *arguments, **kwargs: os._exit(7)
convert.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with a Llama, a tokenizer with a chat template, settings of generation and a card."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    native = build_native("llama", dtype=torch.bfloat16)
    native.generation_config = GenerationConfig(temperature=0.7, do_sample=True, eos_token_id=[5, 7])
    native.save_pretrained(folder, max_shard_size="10KB")
    tokenizer = train_bpe_tokenizer(["some text, some more text"], vocab_size=270)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.mark.parametrize(
    ("options", "model_class"),
    [
        (["--fork-layers", "1", "3", "--fork-budget", "1.5"], ThoughtbubblesForCausalLM),
        (["--loop-layers", "1", "2", "--num-steps", "4"], LoopedThinkerForCausalLM),
    ],
    ids=["forks", "loops"],
)
@torch.no_grad()
def test_a_converted_folder_is_complete(options, model_class, source, tmp_path, capsys):
    target = tmp_path / "new" / "thinking"
    convert.main([str(source), str(target), *options])
    assert f"{model_class.__name__} with " in capsys.readouterr().out
    assert os.listdir(target.parent) == ["thinking"]
    model, native = AutoModelForCausalLM.from_pretrained(target), AutoModelForCausalLM.from_pretrained(source)
    assert type(model) is model_class and model.dtype == torch.bfloat16
    if model_class is ThoughtbubblesForCausalLM:
        assert (model.config.fork_layers, model.config.fork_budget) == ([1, 3], 1.5)
    else:
        assert (model.config.num_prelude_layers, model.config.num_hidden_layers, model.config.num_steps) == (1, 2, 4)
    knob = {"fork_budget": 1.0} if model_class is ThoughtbubblesForCausalLM else {"num_steps": 1}
    input_ids = draw_ids(2, 9)
    torch.testing.assert_close(model(input_ids, **knob).logits, native(input_ids).logits, atol=1e-2, rtol=2**-7)
    settings = model.generation_config
    assert (settings.temperature, settings.do_sample, settings.eos_token_id) == (0.7, True, [5, 7])

    tokenizer, expected = AutoTokenizer.from_pretrained(target), AutoTokenizer.from_pretrained(source)
    assert tokenizer.get_vocab() == expected.get_vocab() and tokenizer.chat_template == TEMPLATE
    assert tokenizer("some text").input_ids == expected("some text").input_ids

    text, metadata = (target / "README.md").read_text(), metadata_load(target / "README.md")
    assert metadata["license"] == "other" and metadata["license_name"] == "tiny-licence"
    assert metadata["license_link"] == "https://example.com/licence" and "base_model" not in metadata
    assert "Made from ./tiny, a pretrained model of type `llama`. Its licence is tiny-licence." in text
    assert f'from_pretrained("{target}", trust_remote_code=True)' in text and "\n# thinking\n" in text
    assert "unfinished" not in text and "native_config" not in text


@torch.no_grad()
def test_a_converted_folder_returns_to_the_native_class(source, tmp_path):
    convert.main([str(source), str(tmp_path / "forked"), "--fork-layers", "2", "--fork-budget", "2"])
    convert.main([str(tmp_path / "forked"), str(tmp_path / "back"), "--to-native"])
    native, model = (AutoModelForCausalLM.from_pretrained(folder) for folder in (source, tmp_path / "back"))
    assert type(model) is LlamaForCausalLM and not list((tmp_path / "back").glob("*.py"))
    state = native.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path / "back").chat_template == TEMPLATE
    assert model.generation_config.eos_token_id == [5, 7]
    assert metadata_load(tmp_path / "back" / "README.md")["license_name"] == "tiny-licence"
    assert "fork" not in (tmp_path / "back" / "generation_config.json").read_text()


def test_a_source_without_tokenizer_and_card_is_converted(tmp_path, caplog):
    build_native("gpt2").save_pretrained(tmp_path / "bare")
    convert.main([str(tmp_path / "bare"), str(tmp_path / "new"), "--fork-layers", "1", "--dtype", "bfloat16"])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "new").dtype == torch.bfloat16
    assert not (tmp_path / "new" / "tokenizer.json").exists()
    text = (tmp_path / "new" / "README.md").read_text()
    assert "Its licence is unknown: no card states one." in text and "license: unknown" in text


@pytest.mark.parametrize("content", ["file", "folder with a file"])
def test_a_target_with_files_is_refused_before_anything_is_loaded(content, source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(convert, "fork_native", None)
    target = tmp_path / "there"
    if content == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        convert.main([str(source), str(target), "--fork-layers", "1"])
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert (target if content == "file" else target / "notes.txt").read_text() == "mine"


def test_an_error_while_saving_leaves_nothing(source, tmp_path, capsys, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(native_files, "build_model_card", fail)
    with pytest.raises(SystemExit):
        convert.main([str(source), str(tmp_path / "new"), "--fork-layers", "1"])
    assert "no space left" in capsys.readouterr().err and not os.listdir(tmp_path)


@pytest.mark.slow
def test_a_kill_while_saving_leaves_no_target(source, tmp_path):
    arguments = [str(source), str(tmp_path / "new"), "--fork-layers", "1"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True)
    assert killed.returncode == 7, killed.stderr
    assert not (tmp_path / "new").exists()
    convert.main(arguments)  # what the killed process left is no obstacle
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "new").config.fork_layers == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of the arguments --fork-layers --loop-layers --to-native is required"),
        (["--fork-layers", "1", "--loop-layers", "1", "2"], "not allowed with"),
        (["--fork-layers", "1", "--num-steps", "4"], "--num-steps was passed, but has no effect with --fork-layers"),
        (["--loop-layers", "1", "2", "--fork-budget", "2"], "--fork-budget was passed, but has no effect with"),
        (["--fork-layers", "9"], "fork_layers"),
        (["--fork-layers", "1", "--fork-budget", "0"], "`fork_budget` is 0"),
        (["--loop-layers", "1", "2", "--num-steps", "0"], "`num_steps` is 0"),
        (["--loop-layers", "2", "1"], "0 to 3 in this order"),
        (["--to-native"], "was not made from a native model"),
    ],
)
def test_wrong_arguments_end_with_one_message(options, message, source, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        convert.main([str(source), str(tmp_path / "new"), *options])
    assert ended.value.code == 2 and message in capsys.readouterr().err and not os.listdir(tmp_path)


@pytest.mark.slow
def test_the_command_line_names_convert_and_the_commands_of_transformers():
    command = [sys.executable, "-m", "hf_thoughtbubbles"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "hf-thoughtbubbles convert  adds" in shown and "serve" in shown
    shown = subprocess.run([*command, "convert", "--help"], capture_output=True, text=True, check=True).stdout
    assert "--fork-layers LAYER" in shown
    assert callable(main.main)  # the entry point of setup.cfg
