# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Model cards. Between two marks they describe the model; saves and pushes write this anew and keep all around it."""

import json
import random
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from ..version import __version__
from .remote_code import VERSION_FIELD, collect_auto_classes


BEGIN_MARK = "<!-- hf-thoughtbubbles: this part is written anew by every save and push -->"
END_MARK = "<!-- hf-thoughtbubbles: end -->"
CARD_NAME = "README.md"
TRAINER_TEMPLATE = "## Model description\n\nMore information needed\n"  # the empty part of a Trainer's card
PACKAGE_TAG = "hf-thoughtbubbles"
PIPELINE_TAGS = {
    "AutoModel": "feature-extraction",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
}
CALLS = {
    "AutoModelForCausalLM": "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))",
    "AutoModelForSeq2SeqLM": "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))",
    "AutoModelForSequenceClassification": "print(model.config.id2label[model(**inputs).logits.argmax(-1).item()])",
    "AutoModelForTokenClassification": "print(model(**inputs).logits.argmax(-1))",
}
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
MARKS = re.compile(f"{BEGIN_MARK}|{END_MARK}")
HIDDEN_SETTINGS = {
    "architectures",
    "auto_map",
    "dtype",
    "fork_calibration",
    "native_config",
    "number_task",
    "transformers_version",
    "use_cache",
    VERSION_FIELD,
}
PACKAGE_PAGE = "https://pypi.org/project/hf-thoughtbubbles"


def build_model_card(
    model, repo_id: str, training_data: str | None = None, results: dict | None = None, metadata: dict | None = None
) -> ModelCard:
    """
    Write a whole card for a model of this package.

    Args:
        repo_id (`str`): repository or folder that the card tells readers to load from.
        training_data (`str`, *optional*): what the model was trained on, in Markdown.
        results (`dict[str, float]`, *optional*): name of a measure, with its unit, to its value.
        metadata (`dict`, *optional*): further fields of `huggingface_hub.ModelCardData`: `license`, `datasets`, ...
    """
    rows = "".join(f"| {_fit_cell(name)} | {value:.6g} |\n" for name, value in (results or {}).items())
    table = f"| measure | value |\n|---|---|\n{rows}" if rows else "Not recorded.\n"
    data = ModelCardData(**{"library_name": "transformers", **(metadata or {})})
    title, part = repo_id.rstrip("/").split("/")[-1], _describe(model, repo_id)
    text = f"# {title}\n\n{part}\n\n## Training data\n\n{training_data or 'Not recorded.'}\n\n## Results\n\n{table}"
    return _add_tags(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"), model)


def update_model_card(path: Path, model, repo_id: str, tags: str | list[str] | None = None) -> str:
    """Return the text of a card with our part replaced or added. Damaged marks or metadata are a `ValueError`."""
    try:
        card = ModelCard(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a model card: {error}. Correct it and try again.") from error
    part, marks = _describe(model, repo_id), MARKS.findall(card.text)
    if marks == [BEGIN_MARK, END_MARK]:
        card.text = f"{card.text.split(BEGIN_MARK)[0]}{part}{card.text.split(END_MARK)[1]}"
    elif marks:
        raise ValueError(f"{path} has the marks {marks}, but must have each of the two once, or none. Remove them.")
    elif TRAINER_TEMPLATE in card.text:
        card.text = card.text.replace(TRAINER_TEMPLATE, f"{part}\n", 1)
    else:
        card.text = f"{card.text.rstrip()}\n\n{part}\n"
    return str(_add_tags(card, model, [tags] if isinstance(tags, str) else tags or []))


def write_model_card(path: Path, model, repo_id: str):
    """Write a card, or the part between the marks of one that exists; a file without them is left as it is."""
    if not path.exists():
        build_model_card(model, repo_id).save(path)
    elif MARKS.findall(path.read_text(encoding="utf-8", errors="replace")) == [BEGIN_MARK, END_MARK]:
        path.write_text(update_model_card(path, model, repo_id), encoding="utf-8")


def _describe(model, repo_id: str) -> str:
    """The part between the marks: sizes, every setting that is not the default, how to load the model."""
    config, quoted, auto_class = model.config, json.dumps(repo_id), _find_auto_class(model)
    settings, defaults = config.to_dict(), type(config)().to_dict()
    shown = [name for name in settings if name[0] != "_" and (name in SIZES or settings[name] != defaults.get(name))]
    rows = "\n".join(f"| `{name}` | {_fit_cell(settings[name])} |" for name in shown if name not in HIDDEN_SETTINGS)
    return f"""{BEGIN_MARK}
## Model description

`{type(model).__name__.removeprefix("FSDP")}`, of the family `{config.model_type}`: {config.family_summary}.
{_describe_thinking(config)}
| | |
|---|---|
| parameters | {model.num_parameters():,} |
| precision | {str(model.dtype).removeprefix("torch.")} |
{rows}
{_describe_source(_read_source(model))}
## How to use it

```python
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained({quoted}, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained({quoted}, trust_remote_code=False)
{_write_call(config, auto_class)}```

The code of the model lies beside its weights and needs transformers 5.17 or newer. Where
[hf-thoughtbubbles]({PACKAGE_PAGE}) is imported, its code is used instead; {__version__} saved this model.
{_describe_limits(config)}{END_MARK}"""


def _describe_thinking(config) -> str:
    """How the model thinks, as a paragraph; empty for plain models."""
    return f"\n{config.thinking_summary}\n" if config.thinking_summary else ""


def _describe_limits(config) -> str:
    """The section about what must be known of the model; empty for nothing."""
    points = "".join(f"- {limit}\n" for limit in config.known_limits)
    return f"\n## Limits\n\n{points}" if points else ""


def _write_call(config, auto_class: str) -> str:
    """The lines of the snippet that use the model; empty where a text alone is no input."""
    if auto_class not in CALLS or getattr(config, "patching", None) == "token":
        return ""
    prompt, call = '"for line in", return_tensors="pt", return_token_type_ids=False', CALLS[auto_class]
    if config.model_type == "looped_thinker":
        question = "16 @ 11 7 + 8 12 1 :addmul @= 16"
        if config.number_task is not None:
            from ..data.number_tasks import make_task  # which loads tokenizers: not with the package itself

            question = " ".join(make_task(**config.number_task).ask(random.Random(0)))
        prompt, call = f'"{question}", return_tensors="pt"', call.replace(", max_new_tokens=20", "")
    return f"inputs = tokenizer({prompt})\n{call}\n"


def _read_source(model) -> dict[str, str]:
    """The native configuration of a model that was made from another one, with the licence; empty for other models."""
    return model.config.to_dict().get("native_config") or {}


def _describe_source(source: dict[str, str]) -> str:
    """The section about the model that a model was made from."""
    if not source:
        return ""
    name = _find_hub_name(source)
    linked = f"[{name}](https://huggingface.co/{name})" if name else source.get("_name_or_path", "a model in memory")
    license_name = source.get("license_name") or source.get("license")
    licence = f"Its licence is {license_name}." if license_name else "Its licence is unknown: no card states one."
    return f"""
## Source

Made from {linked}, a pretrained model of type `{source["model_type"]}`. {licence}
"""


def _find_hub_name(source: dict[str, str]) -> str | None:
    """The repository of a source; none for a folder, whose name begins with a dot, or a model in memory."""
    name = source.get("_name_or_path", ".")
    return None if name.startswith(".") else name


def _fit_cell(value) -> str:
    """A value that fits into one cell of a table."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def _find_auto_class(model) -> str:
    """Name of the Auto class that loads a model; FSDP and users add subclasses to ours."""
    names = {public: name for name, public in collect_auto_classes(type(model.config)).items()}
    return next((names[public] for public in type(model).__mro__ if public in names), "AutoModel")


def _add_tags(card: ModelCard, model, further=()) -> ModelCard:
    """Name the family, the task, and the source with its licence in the metadata, where the author has not."""
    source = _read_source(model)
    data: Any = card.data  # its class declares `to_dict` alone; fields are attributes
    if source and data.license is None:
        data.license = source.get("license", "unknown")
        data.license_name = source.get("license_name")
        data.license_link = source.get("license_link")
    if data.base_model is None:
        data.base_model = _find_hub_name(source)
    tags = [*(data.tags or []), PACKAGE_TAG, model.config.model_type, *(model.model_tags or []), *further]
    data.tags = list(dict.fromkeys(tags))
    data.pipeline_tag = data.pipeline_tag or PIPELINE_TAGS.get(_find_auto_class(model))
    return card


__all__ = ["build_model_card", "update_model_card"]
