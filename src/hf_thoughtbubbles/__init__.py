# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Models that think in latent space, as ordinary Hugging Face models.

Importing the package registers its families with the Auto classes and changes nothing else of transformers:

- Thoughtbubbles (`thoughtbubbles`): a GPT whose tokens fork into parallel residual streams.
- The looped Thinker (`looped_thinker`): one block of layers in a loop, from a problem to an answer.
- The looped text Thinker (`looped_thinker_text`): the same block as a language model.
- Byte patches (`byte_patch`): bytes are pooled to patches, and patches are decoded to bytes.
- Generic transformers (`generic_transformer`): norms, feed-forward layers and positions from a configuration.
- Next thought (`next_thought`): a text is pooled to one vector, from which the next one is predicted.

Functions are imported when they are first used; more of them are in the packages `data`, `training`, `evaluation`,
`generation`, `plots`, `conversion`, `hub` and `tokenization`.
"""

import importlib

from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import AutoConfig

from .exports import export_on_use
from .version import __version__ as __version__


# Modelling files, with the configuration, what each Auto class builds, and the base class. A new family is one entry.
FAMILIES = {
    "byte_patch.modeling_byte_patch": {
        "AutoConfig": "BytePatchConfig",
        "AutoModel": "BytePatchModel",
        "AutoModelForCausalLM": "BytePatchForCausalLM",
        "AutoModelForSequenceClassification": "BytePatchForSequenceClassification",
        "AutoModelForTokenClassification": "BytePatchForTokenClassification",
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
        "AutoModelForSequenceClassification": "LoopedThinkerForSequenceClassification",
        "AutoModelForTokenClassification": "LoopedThinkerForTokenClassification",
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

__getattr__, _, _names_on_use = export_on_use(
    __name__,
    {
        "configuration.fork_rules": ("ForkRule", "register_fork_rule"),
        "conversion.native": ("fork_native", "loop_native", "to_native"),
        "conversion.native_files": ("save_converted",),
        "generation.calibration": ("calibrate_forks",),
        "hub.hub_callback": ("HubCallback",),
        "modeling.byte_patch.cache_patches": ("PatchCache",),
        "modeling.thoughtbubbles.cache_streams": ("StreamCache",),
        "tokenization.bpe_tokenizer": ("train_bpe_tokenizer",),
        "tokenization.byte_tokenizer": ("build_byte_tokenizer", "decode_bytes", "encode_bytes"),
        "tokenization.chat_template": ("set_chat_template",),
        "tokenization.number_tokenizer": ("build_number_tokenizer",),
    },
)


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


def __dir__() -> list[str]:
    return list(__all__)


for _family in FAMILIES.items():
    _register_family(*_family)

__all__ = sorted(["__version__", *_names_on_use, *(name for names in FAMILIES.values() for name in names.values())])
