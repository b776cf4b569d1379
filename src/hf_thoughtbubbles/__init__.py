# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Public names of the package, and registration of its models with the Auto classes.

Importing the package registers the models and changes nothing else of transformers. Public names that need no
registration are imported when they are first used.
"""

import importlib

from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import AutoConfig

from .version import __version__ as __version__


# Modelling files, with the configuration, what each Auto class builds, and the base class. A new family is one entry.
FAMILIES = {
    "byte_patch.modeling_byte_patch": {
        "AutoConfig": "BytePatchConfig",
        "AutoModel": "BytePatchModel",
        "AutoModelForCausalLM": "BytePatchForCausalLM",
        "PreTrainedModel": "BytePatchPreTrainedModel",
    },
    "generic_transformer.modeling_generic_transformer": {
        "AutoConfig": "GenericTransformerConfig",
        "AutoModel": "GenericTransformerModel",
        "AutoModelForCausalLM": "GenericTransformerForCausalLM",
        "AutoModelForQuestionAnswering": "GenericTransformerForQuestionAnswering",
        "AutoModelForSequenceClassification": "GenericTransformerForSequenceClassification",
        "AutoModelForTokenClassification": "GenericTransformerForTokenClassification",
        "PreTrainedModel": "GenericTransformerPreTrainedModel",
    },
    "looped_thinker.modeling_looped_thinker": {
        "AutoConfig": "LoopedThinkerConfig",
        "AutoModel": "LoopedThinkerModel",
        "AutoModelForSeq2SeqLM": "LoopedThinkerForConditionalGeneration",
        "PreTrainedModel": "LoopedThinkerPreTrainedModel",
    },
    "looped_thinker.modeling_looped_thinker_text": {
        "AutoConfig": "LoopedThinkerTextConfig",
        "AutoModel": "LoopedThinkerTextModel",
        "AutoModelForCausalLM": "LoopedThinkerForCausalLM",
        "PreTrainedModel": "LoopedThinkerTextPreTrainedModel",
    },
    "next_thought.modeling_next_thought": {
        "AutoConfig": "NextThoughtConfig",
        "AutoModel": "NextThoughtModel",
        "AutoModelForSeq2SeqLM": "NextThoughtForConditionalGeneration",
        "PreTrainedModel": "NextThoughtPreTrainedModel",
    },
    "thoughtbubbles.modeling_thoughtbubbles": {
        "AutoConfig": "ThoughtbubblesConfig",
        "AutoModel": "ThoughtbubblesModel",
        "AutoModelForCausalLM": "ThoughtbubblesForCausalLM",
        "AutoModelForQuestionAnswering": "ThoughtbubblesForQuestionAnswering",
        "AutoModelForSequenceClassification": "ThoughtbubblesForSequenceClassification",
        "AutoModelForTokenClassification": "ThoughtbubblesForTokenClassification",
        "PreTrainedModel": "ThoughtbubblesPreTrainedModel",
    },
}

_NAME_TABLES = {
    "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForQuestionAnswering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "AutoModelForSeq2SeqLM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}

_IMPORTED_ON_USE = {
    "ForkRule": "configuration.fork_rules",
    "HubCallback": "hub.hub_callback",
    "PatchCache": "modeling.byte_patch.cache_patches",
    "StreamCache": "modeling.thoughtbubbles.cache_streams",
    "build_byte_tokenizer": "tokenization.byte_tokenizer",
    "build_number_tokenizer": "tokenization.number_tokenizer",
    "calibrate_forks": "generation.calibration",
    "decode_bytes": "tokenization.byte_tokenizer",
    "encode_bytes": "tokenization.byte_tokenizer",
    "fork_native": "conversion.native",
    "loop_native": "conversion.native",
    "register_fork_rule": "configuration.fork_rules",
    "save_converted": "conversion.native_files",
    "to_native": "conversion.native",
    "train_bpe_tokenizer": "tokenization.bpe_tokenizer",
}


def _register_family(module_name: str, class_names: dict[str, str]):
    """
    Register one family with the Auto classes and in their tables of names, and make its classes public.

    `register` alone leaves the tables empty, from which the Trainer decides whether label smoothing shifts the labels.
    """
    module = importlib.import_module(f".modeling.{module_name}", __name__)
    globals().update({name: getattr(module, name) for name in class_names.values()})
    config_class = getattr(module, class_names["AutoConfig"])
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for auto_name in class_names.keys() & _NAME_TABLES.keys():
        model_class = getattr(module, class_names[auto_name])
        getattr(modeling_auto, auto_name).register(config_class, model_class, exist_ok=True)
        _NAME_TABLES[auto_name][config_class.model_type] = model_class.__name__


def __getattr__(name: str):
    """Import a public name when it is first used."""
    if name not in _IMPORTED_ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(f".{_IMPORTED_ON_USE[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


for _family in FAMILIES.items():
    _register_family(*_family)

__all__ = sorted(["__version__", *_IMPORTED_ON_USE, *(name for names in FAMILIES.values() for name in names.values())])
