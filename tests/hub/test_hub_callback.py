# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What `HubCallback` writes into the folder that a Trainer pushes. Whole pushes are in test_hub_round_trips.py."""

import pytest
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_thoughtbubbles import HubCallback
from hf_thoughtbubbles.hub.model_card import BEGIN_MARK
from tests.families import FAMILIES


pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


def send(event: str, model, folder, is_main: bool = True, **options):
    """Let a callback handle an event of a Trainer."""
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to="none", **options)
    state = TrainerState(is_world_process_zero=is_main)
    getattr(HubCallback(), event)(arguments, state, TrainerControl(), model=model)


def test_a_push_gets_code_and_card_of_our_models_only(tmp_path):
    ours = FAMILIES[0].build()
    sizes = {"vocab_size": 7, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}
    theirs = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1))
    for name, model, is_main in (("ours", ours, True), ("other-process", ours, False), ("theirs", theirs, True)):
        (tmp_path / name).mkdir()
        send("on_push_begin", model, tmp_path / name, is_main, hub_model_id="me/bubbles")
    files = {path.name for path in (tmp_path / "ours").iterdir()}
    assert {"README.md", "config.json", "modeling_thoughtbubbles.py"} <= files
    assert 'from_pretrained("me/bubbles"' in (tmp_path / "ours" / "README.md").read_text()
    assert not list((tmp_path / "theirs").iterdir()) and not list((tmp_path / "other-process").iterdir())


def test_an_adapter_is_pushed_as_it_is(tmp_path):
    model = FAMILIES[0].build()
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    send("on_push_begin", model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_an_error_before_training_that_pushes(tmp_path):
    model = FAMILIES[0].build()
    for name, text, error in (
        ("streams.py", "my_own = 1\n", FileExistsError),
        ("README.md", f"{BEGIN_MARK}\n", ValueError),
    ):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).write_text(text)
        send("on_train_begin", model, folder)
        with pytest.raises(error, match=name):
            send("on_train_begin", model, folder, push_to_hub=True)
        assert (folder / name).read_text() == text


def test_the_card_of_a_trainer_gets_our_tags_and_then_our_part(tmp_path):
    model = FAMILIES[0].build()
    send("on_push_begin", model, tmp_path)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    Trainer(model, arguments).create_model_card(tags=model.model_tags, dataset="the standard library")
    text = (tmp_path / "README.md").read_text()
    assert "- hf-thoughtbubbles\n" in text and "- thoughtbubbles\n" in text and BEGIN_MARK not in text
    send("on_push_begin", model, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.count(BEGIN_MARK) == 1 and "on the the standard library dataset" in text
    assert "## Model description\n\nMore information needed" not in text
