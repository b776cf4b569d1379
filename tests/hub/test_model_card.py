# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Model cards: what they say of a model, and what they keep of the author's words."""

import ast
import re

import pytest
from huggingface_hub.repocard import metadata_load
from transformers import AutoModel, AutoModelForSequenceClassification

from hf_thoughtbubbles import (
    LoopedThinkerConfig,
    LoopedThinkerForConditionalGeneration,
    build_byte_tokenizer,
    build_number_tokenizer,
)
from hf_thoughtbubbles.data import describe_task, make_task
from hf_thoughtbubbles.hub.model_card import BEGIN_MARK, END_MARK, SIZES, build_model_card, update_model_card
from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS, make_config


ONE_OF_EACH = {family.config.model_type: family for family in FAMILIES}
ONE_OF_EACH |= {"answers": ANSWERERS[0], "byte_patch": BYTE_VARIANTS[0], "next_thought": THOUGHT_VARIANTS[0]}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_card_names_family_size_data_results_and_how_to_use_it(name, tmp_path, capsys):
    numbers = name == "answers"
    model = ONE_OF_EACH[name].build(**({} if numbers or name == "byte_patch" else {"vocab_size": 259}))
    model.save_pretrained(tmp_path)
    (build_number_tokenizer() if numbers else build_byte_tokenizer()).save_pretrained(tmp_path)
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
    namespace = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], namespace)  # what the card tells readers to type
    assert capsys.readouterr().out.strip(), "the snippet prints what the model writes"
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
def test_damaged_marks_are_an_error(spoil, tmp_path):
    model, path = FAMILIES[0].build(), tmp_path / "README.md"
    spoilt = spoil(str(build_model_card(model, "me/model")))
    path.write_text(spoilt)
    with pytest.raises(ValueError, match=r"README\.md has the marks .*must have each of the two once, or none"):
        update_model_card(path, model, "me/model")


def test_saving_writes_a_card_and_changes_only_its_part_later(tmp_path):
    model, path = FAMILIES[0].build(), tmp_path / "model" / "README.md"
    model.save_pretrained(path.parent)
    assert path.read_text() == str(build_model_card(model, str(path.parent)))
    mine = path.read_text().replace("Not recorded.", "I wrote this.") + "\n## My own section\n"
    path.write_text(mine.replace(f"`{type(model).__name__}`", "out of date"))
    model.save_pretrained(path.parent)
    assert path.read_text() == mine
    path.write_bytes(b"# Of a project\r\nin \xe9 another encoding")
    model.save_pretrained(path.parent)
    assert path.read_bytes() == b"# Of a project\r\nin \xe9 another encoding"
    path.write_text(f"# Damaged\n{BEGIN_MARK}\n")
    model.save_pretrained(path.parent)
    assert path.read_text() == f"# Damaged\n{BEGIN_MARK}\n"


def test_settings_are_those_that_are_not_the_default():
    model = FAMILIES[0].build()
    model.config.initializer_range = 0.3
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", build_model_card(model, "me/model").text, re.MULTILINE))
    defaults, settings = type(model.config)().to_dict(), model.config.to_dict()
    assert {"vocab_size", "initializer_range", "fork_layers"} <= set(rows)
    assert not [name for name in set(rows) - set(SIZES) if settings[name] == defaults[name]]
    assert not set(rows) & {"id2label", "label2id", "model_type", "output_attentions", "rope_parameters"}
    model.config.num_labels = 3
    assert "| `id2label` | {0: 'LABEL_0', 1: 'LABEL_1', 2: 'LABEL_2'} |" in build_model_card(model, "me/model").text


def test_what_the_author_wrote_is_kept(tmp_path):
    model, path = FAMILIES[0].build(), tmp_path / "README.md"
    build_model_card(model, "me/first", metadata={"license": "mit", "tags": ["mine"]}).save(path)
    mine = path.read_text().replace("Not recorded.", "I wrote \\1 this.") + "\n## My own section\n"
    path.write_text(mine)
    assert update_model_card(path, model, "you/second") == mine.replace("me/first", "you/second")
    path.write_text("---\nlicense: mit\npipeline_tag: fill-mask\n---\n\n# Mine alone\n")
    text = update_model_card(path, model, "me/model", tags="further")
    assert text.startswith("---\nlicense: mit\npipeline_tag: fill-mask\n") and "# Mine alone\n" in text
    assert text.count(BEGIN_MARK) == text.count(END_MARK) == 1 and "- further\n" in text
    path.write_text("---\nlicense: [mit\n---\n\n# Broken\n")
    with pytest.raises(ValueError, match=r"(?s)README\.md cannot be read as a model card: .*license: \[mit"):
        update_model_card(path, model, "me/model")


def test_the_code_in_a_card_is_python():
    card = build_model_card(FAMILIES[0].build(), 'a"b')
    ast.parse(re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1])


def test_cards_say_in_words_how_much_a_model_thinks_and_show_no_long_settings():
    by_name = {family.name: family for family in [*FAMILIES, *ANSWERERS, *BYTE_VARIANTS]}
    texts = {name: build_model_card(by_name[name].build(), "me/model").text for name in by_name}
    assert "a stream stays when its learned score reaches a threshold. On average 1.5 streams" in texts["threshold"]
    assert "A perplexity of whole blocks is not a likelihood" in texts["thoughtbubbles"]
    assert "## Limits" not in texts["threshold"] and "every token gets 3 equal streams" in texts["copy"]
    assert "is applied 5 times to every token" in texts["thinker-exit"]
    assert "Bytes are pooled to patches of words" in texts["space"]
    assert "generate(" not in re.search(r"```python\n(.*?)```", texts["token"], re.DOTALL)[1], "it needs patch lengths"
    for name, text in texts.items():
        assert "fork_calibration" not in text and "`use_cache`" not in text, name
        assert all(len(line) < 300 for line in text.splitlines()), name


def test_the_card_of_a_thinker_asks_a_question_of_its_task():
    task = make_task("sort", length=3)
    model = LoopedThinkerForConditionalGeneration(LoopedThinkerConfig(number_task=describe_task(task)))
    text = build_model_card(model, "me/model").text
    assert "It was trained on the number task `sort`." in text
    question = re.search(r'tokenizer\("(.*?)"', text)[1].split()
    assert len(task.answer(question)) == 3
