# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What does the package offer, and how does transformers come to know it?

Importing the package registers its models with the Auto classes, and what their pushes need with the Trainer. This
file is the only place that does.
"""

import importlib

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.auto import modeling_auto

from .configuration.configuration_byte_patch import BytePatchConfig
from .configuration.configuration_generic_transformer import GenericTransformerConfig
from .configuration.configuration_looped_thinker import LoopedThinkerConfig
from .configuration.configuration_looped_thinker_text import LoopedThinkerTextConfig
from .configuration.configuration_next_thought import NextThoughtConfig
from .configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from .configuration.fork_rules import ForkRule, register_fork_rule
from .generation.calibration import calibrate_forks
from .hub.trainer_push import extend_trainer
from .modeling.byte_patch.cache_patches import PatchCache
from .modeling.byte_patch.modeling_byte_patch import BytePatchForCausalLM, BytePatchModel, BytePatchPreTrainedModel
from .modeling.generic_transformer.modeling_generic_transformer import (
    GenericTransformerForCausalLM,
    GenericTransformerForQuestionAnswering,
    GenericTransformerForSequenceClassification,
    GenericTransformerForTokenClassification,
    GenericTransformerModel,
    GenericTransformerPreTrainedModel,
)
from .modeling.looped_thinker.modeling_looped_thinker import (
    LoopedThinkerForConditionalGeneration,
    LoopedThinkerModel,
    LoopedThinkerPreTrainedModel,
)
from .modeling.looped_thinker.modeling_looped_thinker_text import (
    LoopedThinkerForCausalLM,
    LoopedThinkerTextModel,
    LoopedThinkerTextPreTrainedModel,
)
from .modeling.next_thought.modeling_next_thought import (
    NextThoughtForConditionalGeneration,
    NextThoughtModel,
    NextThoughtPreTrainedModel,
)
from .modeling.thoughtbubbles.cache_streams import StreamCache
from .modeling.thoughtbubbles.modeling_thoughtbubbles import (
    ThoughtbubblesForCausalLM,
    ThoughtbubblesForQuestionAnswering,
    ThoughtbubblesForSequenceClassification,
    ThoughtbubblesForTokenClassification,
    ThoughtbubblesModel,
    ThoughtbubblesPreTrainedModel,
)
from .tokenization.bpe_tokenizer import train_bpe_tokenizer
from .tokenization.byte_tokenizer import build_byte_tokenizer, decode_bytes, encode_bytes
from .tokenization.number_tokenizer import build_number_tokenizer
from .version import __version__


_NAME_TABLES = {
    AutoModel: modeling_auto.MODEL_MAPPING_NAMES,
    AutoModelForCausalLM: modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    AutoModelForQuestionAnswering: modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    AutoModelForSeq2SeqLM: modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    AutoModelForSequenceClassification: modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    AutoModelForTokenClassification: modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}

_FAMILIES = {
    BytePatchConfig: {
        AutoModel: BytePatchModel,
        AutoModelForCausalLM: BytePatchForCausalLM,
    },
    GenericTransformerConfig: {
        AutoModel: GenericTransformerModel,
        AutoModelForCausalLM: GenericTransformerForCausalLM,
        AutoModelForQuestionAnswering: GenericTransformerForQuestionAnswering,
        AutoModelForSequenceClassification: GenericTransformerForSequenceClassification,
        AutoModelForTokenClassification: GenericTransformerForTokenClassification,
    },
    LoopedThinkerConfig: {
        AutoModel: LoopedThinkerModel,
        AutoModelForSeq2SeqLM: LoopedThinkerForConditionalGeneration,
    },
    LoopedThinkerTextConfig: {
        AutoModel: LoopedThinkerTextModel,
        AutoModelForCausalLM: LoopedThinkerForCausalLM,
    },
    NextThoughtConfig: {
        AutoModel: NextThoughtModel,
        AutoModelForSeq2SeqLM: NextThoughtForConditionalGeneration,
    },
    ThoughtbubblesConfig: {
        AutoModel: ThoughtbubblesModel,
        AutoModelForCausalLM: ThoughtbubblesForCausalLM,
        AutoModelForQuestionAnswering: ThoughtbubblesForQuestionAnswering,
        AutoModelForSequenceClassification: ThoughtbubblesForSequenceClassification,
        AutoModelForTokenClassification: ThoughtbubblesForTokenClassification,
    },
}


def _register_families():
    """
    Make every family known to the Auto classes, to their name tables and to the `transformers` namespace.

    `register` alone leaves the name tables empty, where the Trainer looks to decide whether label smoothing shifts the
    labels; `transformers serve` looks classes up in the namespace by the name in `config.architectures`.
    """
    # Asked for only now: transformers puts a new module in place of itself while its parts are first imported.
    namespace = importlib.import_module("transformers")
    for config_class, heads in _FAMILIES.items():
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        for auto_class, model_class in heads.items():
            auto_class.register(config_class, model_class, exist_ok=True)
            _NAME_TABLES[auto_class][config_class.model_type] = model_class.__name__
            setattr(namespace, model_class.__name__, model_class)


_register_families()
extend_trainer()

__all__ = [
    "BytePatchConfig",
    "BytePatchForCausalLM",
    "BytePatchModel",
    "BytePatchPreTrainedModel",
    "ForkRule",
    "GenericTransformerConfig",
    "GenericTransformerForCausalLM",
    "GenericTransformerForQuestionAnswering",
    "GenericTransformerForSequenceClassification",
    "GenericTransformerForTokenClassification",
    "GenericTransformerModel",
    "GenericTransformerPreTrainedModel",
    "LoopedThinkerConfig",
    "LoopedThinkerForCausalLM",
    "LoopedThinkerForConditionalGeneration",
    "LoopedThinkerModel",
    "LoopedThinkerPreTrainedModel",
    "LoopedThinkerTextConfig",
    "LoopedThinkerTextModel",
    "LoopedThinkerTextPreTrainedModel",
    "NextThoughtConfig",
    "NextThoughtForConditionalGeneration",
    "NextThoughtModel",
    "NextThoughtPreTrainedModel",
    "PatchCache",
    "StreamCache",
    "ThoughtbubblesConfig",
    "ThoughtbubblesForCausalLM",
    "ThoughtbubblesForQuestionAnswering",
    "ThoughtbubblesForSequenceClassification",
    "ThoughtbubblesForTokenClassification",
    "ThoughtbubblesModel",
    "ThoughtbubblesPreTrainedModel",
    "__version__",
    "build_byte_tokenizer",
    "build_number_tokenizer",
    "calibrate_forks",
    "decode_bytes",
    "encode_bytes",
    "register_fork_rule",
    "train_bpe_tokenizer",
]
