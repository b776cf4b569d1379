# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The promises of the generic transformer."""

from hf_thoughtbubbles import GenericTransformerForCausalLM
from tests.contract.contract import ModelContract
from tests.families import FAMILIES


class TestGenericTransformer(ModelContract):
    families = [family for family in FAMILIES if family.model_class is GenericTransformerForCausalLM]
