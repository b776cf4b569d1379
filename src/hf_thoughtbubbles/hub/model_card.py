# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What does the README.md of a published model say by itself?

A part between two marks describes the model: family, size, settings, how to load it. It is written anew on every push;
all around it belongs to the author and is kept.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from ..version import __version__
from .remote_code import collect_auto_classes


BEGIN_MARK = "<!-- hf-thoughtbubbles: this part is written anew on every push -->"
END_MARK = "<!-- hf-thoughtbubbles: end -->"
CARD_NAME = "README.md"

# What transformers writes where it knows nothing: a whole card on push, an empty part in the Trainer's.
PUSH_TEMPLATE = (
    "This is the model card of a 🤗 transformers model that has been pushed on the Hub. "
    "This model card has been automatically generated."
)
TRAINER_TEMPLATE = "## Model description\n\nMore information needed\n"

PIPELINE_TAGS = {
    "AutoModel": "feature-extraction",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
}
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
UNSAID_SETTINGS = {"architectures", "auto_map", "dtype", "hf_thoughtbubbles_version", "transformers_version"}


def build_model_card(
    model,
    repo_id: str,
    training_data: str | None = None,
    results: dict[str, float] | None = None,
    metadata: dict[str, Any] | None = None,
) -> ModelCard:
    """
    Write a whole model card: what the model is, how to load it, what it was trained on, how well it does.

    Args:
        model (`PreTrainedModel`): a model of this package.
        repo_id (`str`): repository or folder that the card tells readers to load from.
        training_data (`str`, *optional*): what it was trained on, in Markdown.
        results (`dict[str, float]`, *optional*): name of a measure, with its unit, to its value.
        metadata (`dict`, *optional*): further fields of `huggingface_hub.ModelCardData`: `license`, `language`,
            `datasets`, `base_model`, ...

    Returns:
        `huggingface_hub.ModelCard`: to be saved as `README.md` or pushed. A later push of the model writes the part
        that describes the model anew and keeps the rest.
    """
    rows = [f"| {_fit_cell(name)} | {value:.6g} |" for name, value in (results or {}).items()]
    table = "\n".join(["| measure | value |", "|---|---|", *rows]) if rows else "Not recorded."
    data = ModelCardData(**{"library_name": "transformers", **(metadata or {})})
    body = (
        f"# {repo_id.rstrip('/').split('/')[-1]}\n\n{_describe(model, repo_id)}\n\n"
        f"## Training data\n\n{training_data or 'Not recorded.'}\n\n## Results\n\n{table}\n"
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")
    _add_tags(card, model)
    return card


def update_model_card(path: str | Path, model, repo_id: str):
    """
    Describe a model in a card that exists: its part is replaced or added, everything else is kept.

    Args:
        path (`str` or `Path`): the `README.md`; written anew.
        model (`PreTrainedModel`): a model of this package.
        repo_id (`str`): repository or folder that the card tells readers to load from.

    Raises:
        `ValueError`: when the card cannot be read, or the marks around the part are damaged; nothing is written.
    """
    path = Path(path)
    try:
        card = ModelCard.load(path)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a model card: {error}. Mend it and push again.") from error
    if _is_untouched(card):
        card = build_model_card(model, repo_id)
    part, marks = _describe(model, repo_id), re.findall(f"{BEGIN_MARK}|{END_MARK}", card.text)
    if marks == [BEGIN_MARK, END_MARK]:
        card.text = re.sub(f"{BEGIN_MARK}.*?{END_MARK}", lambda match: part, card.text, flags=re.DOTALL)
    elif marks:
        raise ValueError(
            f"{path} has {marks.count(BEGIN_MARK)} of the marks {BEGIN_MARK!r} and {marks.count(END_MARK)} of "
            f"{END_MARK!r}, which stand around the part that is written anew; there must be one of each, or none. "
            "Delete what is left of the part with its marks and push again."
        )
    elif TRAINER_TEMPLATE in card.text:
        card.text = card.text.replace(TRAINER_TEMPLATE, f"{part}\n", 1)
    else:
        card.text = f"{card.text.rstrip()}\n\n{part}\n"
    _add_tags(card, model)
    card.save(path)


def _is_untouched(card: ModelCard) -> bool:
    """Whether a card is the one that transformers makes of nothing, to the last word."""
    stock = ModelCard.from_template(ModelCardData(), model_description=PUSH_TEMPLATE)
    return card.text.split() == stock.text.split()


def _list_settings(config) -> list[str]:
    """Rows of the table: sizes, then whatever is not as by default."""
    defaults = {}
    for field in dataclasses.fields(config):
        defaults[field.name] = field.default
        if field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
    settings = config.to_dict()
    names = [name for name in SIZES if name in settings]
    names += [name for name, value in settings.items() if value != defaults.get(name) and name not in SIZES]
    names = [name for name in names if name not in UNSAID_SETTINGS and not name.startswith("_")]
    return [f"| `{name}` | {_fit_cell(settings[name])} |" for name in names]


def _fit_cell(value) -> str:
    """A value as it can stand in a table."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def _describe(model, repo_id: str) -> str:
    """The part between the marks."""
    config, quoted = model.config, json.dumps(repo_id)
    class_name, auto_class = _find_classes(model)
    return "\n".join(
        [
            BEGIN_MARK,
            "## Model description",
            "",
            f"`{class_name}`, of the family `{config.model_type}`: {config.family_summary}.",
            "",
            "| | |",
            "|---|---|",
            f"| parameters | {model.num_parameters():,} |",
            f"| precision | {str(model.dtype).removeprefix('torch.')} |",
            *_list_settings(config),
            "",
            "## How to load it",
            "",
            "```python",
            f"from transformers import {auto_class}, AutoTokenizer",
            "",
            f"model = {auto_class}.from_pretrained({quoted}, trust_remote_code=True)",
            f"tokenizer = AutoTokenizer.from_pretrained({quoted}, trust_remote_code=False)",
            "```",
            "",
            "The code of the model lies beside its weights and needs transformers 5.17 or newer. Where",
            f"hf-thoughtbubbles is imported, its code is used instead; {__version__} saved this model.",
            END_MARK,
        ]
    )


def _find_classes(model) -> tuple[str, str]:
    """Names of the model's class and of the Auto class that loads it; FSDP puts a class of its own before."""
    registered = {public.__name__: name for name, public in collect_auto_classes(type(model.config)).items()}
    saved = {target.split(".")[-1]: name for name, target in (getattr(model.config, "auto_map", None) or {}).items()}
    targets = {**registered, **saved}
    for model_class in type(model).__mro__:
        if model_class.__name__ in targets:
            return model_class.__name__, targets[model_class.__name__]
    return type(model).__name__, "AutoModel"


def _add_tags(card: ModelCard, model):
    """Name the family and the task in the metadata, where the author has not."""
    tags = card.data.tags or []
    card.data.tags = [*tags, *(tag for tag in ("hf-thoughtbubbles", model.config.model_type) if tag not in tags)]
    if card.data.pipeline_tag is None:
        card.data.pipeline_tag = PIPELINE_TAGS.get(_find_classes(model)[1])


__all__ = ["build_model_card", "update_model_card"]
