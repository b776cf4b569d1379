# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""transformers' tests of models, run on ours."""

import unittest

import pytest
import torch
from transformers import PreTrainedConfig

from .upstream import import_common_tests
from .variants import VARIANTS, Variant, public_classes


pytestmark = pytest.mark.slow


modeling = import_common_tests("test_modeling_common")
training = import_common_tests("test_training_mixin")
fsdp = import_common_tests("test_fsdp_mixin")

fsdp.FSDP_DISTRIBUTED_TEST_MODEL_TYPES = None  # by default only a few of transformers' own models
fsdp._get_available_fsdp_workers = lambda: 4  # processes on CPU may share a core


# Tests that ask for attention weights, which sdpa does not compute.
NEED_WEIGHTS = ("test_capture_outputs_decorator", "test_model_outputs_equivalence")


class TinyModel:
    """What the common tests ask about a model: its sizes, a configuration and a batch, padded on the right."""

    is_training = True
    batch_size = 3
    seq_length = 7
    attn_implementation = None

    def __init__(self, variant: Variant, test: str):
        self.variant, self.changes = variant, variant.changes.get(test, {})
        self.causal_lm_class = next((model for model in variant.model_classes if model.can_generate()), None)
        config = self.get_config()
        self.hidden_size = config.hidden_size
        self.num_hidden_layers = config.num_hidden_layers
        self.is_encoder_decoder = config.is_encoder_decoder
        self.num_attention_heads = config.num_attention_heads
        self.pad_token_id = config.pad_token_id

    def get_config(self) -> PreTrainedConfig:
        settings = {**self.variant.config_kwargs, **self.changes, "attn_implementation": self.attn_implementation}
        return self.variant.config_class(**settings)

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        input_ids = modeling.ids_tensor([self.batch_size, self.seq_length], config.vocab_size - 1) + 1
        num_padded = torch.arange(self.batch_size, device=input_ids.device)[:, None]
        is_token = torch.arange(self.seq_length, device=input_ids.device) < self.seq_length - num_padded
        input_ids = input_ids.masked_fill(~is_token, config.pad_token_id)
        inputs = {"input_ids": input_ids, "attention_mask": is_token.long()}
        if config.is_encoder_decoder:
            inputs["decoder_input_ids"], inputs["decoder_attention_mask"] = input_ids.clone(), is_token.long()
        return config, inputs


class CommonTests(modeling.ModelTesterMixin, training.TrainingTesterMixin, fsdp.FSDPTesterMixin):
    """All that the source distribution ships and that speaks of language models."""

    model_tester = None  # a property of the mixins, which `setUp` fills
    variant: Variant

    def setUp(self):
        self.model_tester = TinyModel(self.variant, self._testMethodName)
        if self._testMethodName in NEED_WEIGHTS:
            self.model_tester.attn_implementation = "eager"


def make_test_case(name: str, variant: Variant) -> type[unittest.TestCase]:
    """A test case that runs all common tests on a variant and skips, with the reason, those that cannot hold."""
    unknown = [test for test in (*variant.cannot_hold, *variant.changes) if not hasattr(CommonTests, test)]
    assert not unknown, f"{name} names tests that do not exist: {unknown}"
    skipped = {
        test: unittest.skip(f"{name}: {reason}")(lambda self: None) for test, reason in variant.cannot_hold.items()
    }
    body = {"variant": variant, "all_model_classes": variant.model_classes, "__module__": __name__, **skipped}
    return type(f"{name}Test", (CommonTests, unittest.TestCase), body)


for variant_name, listed_variant in VARIANTS.items():
    globals()[f"{variant_name}Test"] = make_test_case(variant_name, listed_variant)


def test_every_family_is_listed():
    assert {variant.config_class for variant in VARIANTS.values()} == set(public_classes(PreTrainedConfig))
