# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Does a model card say what a model is and how to load it, and keep what its author wrote?"""

import ast
import re

import pytest
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load
from peft import LoraConfig
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from hf_thoughtbubbles.hub.model_card import (
    BEGIN_MARK,
    END_MARK,
    PUSH_TEMPLATE,
    SIZES,
    _list_settings,
    build_model_card,
    restore_own_card,
    update_model_card,
)
from tests.families import ANSWERERS, FAMILIES, make_config
from tests.test_contract_bytes import VARIANTS as BYTE_VARIANTS
from tests.test_contract_next_thought import VARIANTS as THOUGHT_VARIANTS


ONE_OF_EACH = {family.config.model_type: family for family in FAMILIES}
ONE_OF_EACH |= {"answers": ANSWERERS[0], "byte_patch": BYTE_VARIANTS[0], "next_thought": THOUGHT_VARIANTS[0]}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_card_names_family_size_data_results_and_how_to_load(name, tmp_path):
    model = ONE_OF_EACH[name].build()
    model.save_pretrained(tmp_path)
    card = build_model_card(
        model,
        str(tmp_path),
        "Text of the standard library.",
        {"bits per | byte": 2.6125, "steps": 123456},
        {"license": "apache-2.0"},
    )
    card.save(tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    assert f"`{type(model).__name__}`, of the family `{model.config.model_type}`" in text
    assert f"| parameters | {sum(p.numel() for p in model.parameters()):,} |" in text
    assert f"| `vocab_size` | {model.config.vocab_size} |" in text
    assert "## Training data\n\nText of the standard library.\n" in text
    assert "| bits per \\| byte | 2.6125 |\n| steps | 123456 |" in text
    metadata = metadata_load(tmp_path / "README.md")
    assert metadata["library_name"] == "transformers" and metadata["license"] == "apache-2.0"
    assert set(metadata["tags"]) == {"hf-thoughtbubbles", model.config.model_type}
    seq2seq = name in {"answers", "next_thought"}
    assert metadata["pipeline_tag"] == ("text2text-generation" if seq2seq else "text-generation")
    lines = [
        line for line in re.search(r"```python\n(.*?)```", text, re.DOTALL)[1].splitlines() if "Tokenizer." not in line
    ]
    namespace = {}
    exec("\n".join(lines), namespace)  # what the card tells readers to type
    assert type(namespace["model"]) is type(model)


def test_heads_are_loaded_by_their_own_auto_class(tmp_path):
    for auto_class, task in (
        (AutoModel, "feature-extraction"),
        (AutoModelForSequenceClassification, "text-classification"),
    ):
        model = auto_class.from_config(make_config())
        model.save_pretrained(tmp_path)
        card = build_model_card(model, "me/model")
        assert f'{auto_class.__name__}.from_pretrained("me/model"' in card.text
        assert card.data.pipeline_tag == task
        assert "## Training data\n\nNot recorded." in card.text and "## Results\n\nNot recorded." in card.text


def test_a_class_that_sharding_puts_before_is_not_named(tmp_path):
    model = FAMILIES[0].build()
    model.save_pretrained(tmp_path)
    plain = build_model_card(model, "me/model")
    model.__class__ = type(f"FSDP{type(model).__name__}", (type(model),), {})  # as `fully_shard` does
    assert str(build_model_card(model, "me/model")) == str(plain)


def test_a_model_that_was_never_saved_is_described_as_a_saved_one(tmp_path):
    model = FAMILIES[0].build()
    before = str(build_model_card(model, "runs/here/"))
    model.save_pretrained(tmp_path)
    assert before == str(build_model_card(model, "runs/here/")) and "\n# here\n" in before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(END_MARK, ""),
        lambda text: text.replace(BEGIN_MARK, ""),
        lambda text: text.replace(END_MARK, "mine") + text.split("---\n")[-1],
        lambda text: text + text.split("---\n")[-1],
        lambda text: text.replace(BEGIN_MARK, "?").replace(END_MARK, BEGIN_MARK).replace("?", END_MARK),
    ],
)
def test_damaged_marks_are_an_error_and_nothing_is_lost(spoil, tmp_path):
    model, path = FAMILIES[0].build(), tmp_path / "README.md"
    spoilt = spoil(str(build_model_card(model, "me/model")))
    path.write_text(spoilt)
    with pytest.raises(ValueError, match=r"README\.md has \d of the marks .*there must be one of each, or none"):
        update_model_card(path, model, "me/model")
    assert path.read_text() == spoilt


def test_only_an_untouched_card_of_transformers_is_replaced(tmp_path):
    model, path = FAMILIES[0].build(), tmp_path / "README.md"
    stock = ModelCard.from_template(ModelCardData(library_name="transformers"), model_description=PUSH_TEMPLATE)
    stock.save(path)
    update_model_card(path, model, "me/model")
    assert path.read_text() == str(build_model_card(model, "me/model"))
    stock.text = stock.text.replace("[More Information Needed]", "I wrote this.", 1)
    stock.save(path)
    update_model_card(path, model, "me/model")
    text = path.read_text()
    assert "I wrote this." in text and "Model Card for Model ID" in text and text.count(BEGIN_MARK) == 1


def test_lines_end_as_they_did(tmp_path):
    model, path = FAMILIES[0].build(), tmp_path / "README.md"
    path.write_bytes(b"---\r\nlicense: mit\r\n---\r\n# Mine\r\nsecond line\r\n")
    update_model_card(path, model, "me/model", is_push=True)
    written = path.read_bytes()
    assert b"# Mine\r\nsecond line" in written and written.count(b"\r\n") == written.count(b"\n") > 9
    update_model_card(path, model, "me/model", is_push=True)
    assert path.read_bytes() == written


def test_a_folders_card_wins_unless_a_push_left_it_there(tmp_path):
    model, path = FAMILIES[0].build(), tmp_path / "README.md"
    stock = ModelCard.from_template(ModelCardData(library_name="transformers"), model_description=PUSH_TEMPLATE)
    update = {"model": model, "repo_id": "me/model"}
    path.write_text("# Mine\n")
    update_model_card(path, **update)
    described = path.read_bytes()
    update_model_card(path, **update, is_push=True)
    pushed = path.read_bytes()
    for own, hub_card, wins in (
        (described, b"# On the Hub\n", True),
        (pushed, b"# On the Hub\n", False),
        (pushed, str(stock).encode(), True),
        (pushed.replace(b"# Mine", b"# Mine, changed"), b"# On the Hub\n", True),
        (str(stock).encode(), b"# On the Hub\n", False),
    ):
        path.write_bytes(hub_card)
        restore_own_card(path, own)
        assert path.read_bytes() == (own if wins else hub_card)


def test_settings_are_those_that_are_not_as_by_default():
    config = make_config(vocab_size=61, initializer_range=0.3)
    names = {re.search("`(.*?)`", row)[1] for row in _list_settings(config)}
    defaults = type(config)().to_dict()
    assert {"vocab_size", "initializer_range", "fork_layers"} <= names
    assert not [name for name in names - set(SIZES) if config.to_dict()[name] == defaults[name]]
    assert not names & {"id2label", "label2id", "model_type", "output_attentions", "rope_parameters"}
    config.num_labels = 3
    assert "| `id2label` | {0: 'LABEL_0', 1: 'LABEL_1', 2: 'LABEL_2'} |" in _list_settings(config)


def test_what_the_author_wrote_is_kept(tmp_path):
    model, path = FAMILIES[0].build(), tmp_path / "README.md"
    model.save_pretrained(tmp_path)
    build_model_card(model, "me/first", metadata={"license": "mit", "tags": ["mine"]}).save(path)
    mine = path.read_text().replace("Not recorded.", "I wrote \\1 this.") + "\n## My own section\n"
    path.write_text(mine)
    update_model_card(path, model, "you/second")
    assert path.read_text() == mine.replace("me/first", "you/second").replace("\n# first\n", "\n# second\n")
    path.write_text(mine.replace("\n# first\n", "\n# My title\n"))
    update_model_card(path, model, "you/second")
    assert "\n# My title\n" in path.read_text()
    path.write_text("---\nlicense: mit\npipeline_tag: fill-mask\n---\n\n# Mine alone\n")
    update_model_card(path, model, "me/model")
    text = path.read_text()
    assert text.startswith("---\nlicense: mit\npipeline_tag: fill-mask\n") and "# Mine alone\n" in text
    assert text.count(BEGIN_MARK) == text.count(END_MARK) == 1
    path.write_text("---\nlicense: [mit\n---\n\n# Broken\n")
    with pytest.raises(ValueError, match=r"(?s)README\.md cannot be read as a model card: .*license: \[mit"):
        update_model_card(path, model, "me/model")
    assert path.read_text() == "---\nlicense: [mit\n---\n\n# Broken\n"


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_the_trainers_card_describes_our_models_and_leaves_others_alone(tmp_path):
    ours = FAMILIES[0].build()
    ours.save_pretrained(tmp_path / "source")
    sizes = {
        "vocab_size": 7,
        "hidden_size": 4,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    for name, model in (("ours", ours), ("theirs", LlamaForCausalLM(LlamaConfig(**sizes)))):
        arguments = TrainingArguments(str(tmp_path / name), use_cpu=True, report_to="none")
        (tmp_path / name).mkdir()
        Trainer(model, arguments).create_model_card(license="mit", dataset="the standard library")
        text = (tmp_path / name / "README.md").read_text()
        assert "on the the standard library dataset" in text
        assert (BEGIN_MARK in text) is (name == "ours")
        assert ("## Model description\n\nMore information needed" in text) is (name == "theirs")
    card = ModelCard.load(tmp_path / "ours" / "README.md")
    assert card.data.license == "mit" and {"hf-thoughtbubbles", "generated_from_trainer"} <= set(card.data.tags)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_the_trainers_card_for_an_adapter_does_not_describe_the_model(tmp_path):
    model = FAMILIES[0].build()
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")).create_model_card()
    assert BEGIN_MARK not in (tmp_path / "README.md").read_text()


def test_the_code_in_a_card_is_python():
    card = build_model_card(FAMILIES[0].build(), 'a"b')
    ast.parse(re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1])
