# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What does the README.md of a published model say by itself?

A part between two marks describes the model: family, size, settings, how to load it. It is written anew on every push;
all around it belongs to the author and is kept.
"""

import hashlib
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
PUSH_MARK = "<!-- hf-thoughtbubbles: {} is the digest of the rest, as pushed -->"
PART = re.compile(f"{BEGIN_MARK}.*?{END_MARK}", re.DOTALL)
METADATA = re.compile(r"\A\s*---\n.*?\n---\n", re.DOTALL)
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
        f"# {_name(repo_id)}\n\n{_describe(model, repo_id)}\n\n"
        f"## Training data\n\n{training_data or 'Not recorded.'}\n\n## Results\n\n{table}\n"
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")
    _add_tags(card, model)
    return card


def update_model_card(path: str | Path, model, repo_id: str, is_push: bool = False):
    """
    Describe a model in a card that exists: its part is replaced or added, everything else is kept. A title that was
    the name of the repository becomes that of the new one.

    Args:
        path (`str` or `Path`): the `README.md`; written anew.
        model (`PreTrainedModel`): a model of this package.
        repo_id (`str`): repository or folder that the card tells readers to load from.
        is_push (`bool`): whether the card is pushed from there, so that [`restore_own_card`] can tell later whether
            somebody has changed it since.

    Raises:
        `ValueError`: when the card cannot be read, or the marks around the part are damaged; nothing is written.
    """
    path = Path(path)
    text, line_ending = _decode(path.read_bytes())
    try:
        card = ModelCard(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a model card: {error}. Mend it and push again.") from error
    if _is_stock(card.text):
        card = build_model_card(model, repo_id)
    part, marks = _describe(model, repo_id), re.findall(f"{BEGIN_MARK}|{END_MARK}", card.text)
    if marks == [BEGIN_MARK, END_MARK]:
        card.text = _retitle(card.text, repo_id)
        card.text = PART.sub(lambda match: part, card.text)
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
    text = str(card)
    if is_push:
        text = text.replace(END_MARK, f"{PUSH_MARK.format(_digest_rest(text))}\n{END_MARK}")
    path.write_text(text, encoding="utf-8", newline=line_ending)


def restore_own_card(path: Path, own: bytes):
    """
    Put a folder's own card over the one that came from the Hub, unless it is only what a push has left in the folder:
    then the author may have written on the Hub since.

    Args:
        path (`Path`): the `README.md`, as the Hub has it, or as transformers makes it where the Hub has none.
        own (`bytes`): what was there before.
    """
    (own_text, _), (hub_text, _) = _decode(own), _decode(path.read_bytes())
    is_left = _is_stock(own_text) or PUSH_MARK.format(_digest_rest(own_text)) in own_text
    if not is_left or _is_stock(hub_text):
        path.write_bytes(own)


def _decode(content: bytes) -> tuple[str, str]:
    """The text of a card, and how its lines end; mixed ends become the usual one."""
    text = content.decode("utf-8-sig")
    is_windows = 0 < text.count("\r\n") == text.count("\n")
    return text.replace("\r\n", "\n"), "\r\n" if is_windows else "\n"


def _digest_rest(text: str) -> str:
    """What stands around the part, in a few digits."""
    return hashlib.sha256(PART.sub("", text).encode()).hexdigest()[:16]


def _is_stock(text: str) -> bool:
    """Whether a card, its metadata aside, is the one that transformers makes of nothing, to the last word."""
    stock = ModelCard.from_template(ModelCardData(), model_description=PUSH_TEMPLATE)
    return METADATA.sub("", text).split() == stock.text.split()


def _retitle(text: str, repo_id: str) -> str:
    """A card whose title is the name of what its part loads gets the name of what it will load."""
    title, part = re.match(r"\s*# (.+)\n", text), PART.search(text)[0]
    if title is None or not re.search(rf'from_pretrained\("(.*/)?{re.escape(title[1])}/?"', part):
        return text
    return f"{text[: title.start(1)]}{_name(repo_id)}{text[title.end(1) :]}"


def _name(repo_id: str) -> str:
    """The name of a repository or folder."""
    return repo_id.rstrip("/").split("/")[-1]


def _list_settings(config) -> list[str]:
    """Rows of the table: sizes, then whatever is not as by default."""
    settings, defaults = config.to_dict(), type(config)().to_dict()
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


__all__ = ["build_model_card", "restore_own_card", "update_model_card"]
