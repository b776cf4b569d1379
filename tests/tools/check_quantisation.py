# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Models with weights of 8 and 4 bits by torchao and bitsandbytes: what is replaced, output, files, and QLoRA."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    default_data_collator,
)
from transformers import TorchAoConfig as TorchaoConfig

from tests.families import BYTE_VARIANTS, FAMILIES, Family
from tests.training.test_trainer import get_losses, make_dataset


def quantise(config_class: type, *args, **fields) -> Callable:
    """A quantiser's configuration, to which names of layers that stay can be added."""
    return functools.partial(config_class, *args, **fields)


QUANTISERS = {
    "torchao int8": quantise(TorchaoConfig, Int8WeightOnlyConfig()),
    "torchao dynamic int8": quantise(TorchaoConfig, Int8DynamicActivationInt8WeightConfig()),
    "bitsandbytes int8": quantise(BitsAndBytesConfig, load_in_8bit=True),
    "bitsandbytes nf4": quantise(BitsAndBytesConfig, load_in_4bit=True, bnb_4bit_quant_type="nf4"),
}
SKIPPED = {"torchao": "modules_to_not_convert", "bitsandbytes": "llm_int8_skip_modules"}  # names of the argument
# Largest error of a probability. Weights are drawn, so 16 levels a block lose much: `docs/results/quantisation.md`.
MOST = {"int8": 0.06, "nf4": 0.5}

# Every family. Of Thoughtbubbles: both scored rules, copies, no forks. Of Thinkers: with cross-attention, and a loop
# with an adapter. Of generic transformers: shared layers. Of byte patches: both decoders, and published byte layers.
NAMES = ("thoughtbubbles", "threshold", "gpt-rope", "copy", "thinker", "thinker-loop", "generic", "generic-shared")
PATCHINGS = ("space", "fixed-parallel", "published")
MODELS = [family for family in [*FAMILIES, *BYTE_VARIANTS] if family.name in NAMES + PATCHINGS]
assert len(MODELS) == len(NAMES) + len(PATCHINGS)

ALL = pytest.mark.parametrize("family", MODELS, ids=lambda family: family.name)
pytestmark = [
    pytest.mark.filterwarnings("ignore:MatMul8bitLt. inputs will be cast"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),  # peft calls it
]


def build(family: Family) -> PreTrainedModel:
    """A model with weights that are not so large that rounding turns its decisions."""
    return family.build(**(family.undecided_changes if family in FAMILIES else {}), initializer_range=0.1)


def is_quantised(layer: nn.Module) -> bool:
    """Whether the weight of a linear layer is kept in fewer bits, by either package."""
    return type(layer) is not nn.Linear or type(layer.weight) is not nn.Parameter


def list_unquantised(model: PreTrainedModel) -> set[str]:
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    return {name for name, layer in layers.items() if not is_quantised(layer)}


def list_scores(model: PreTrainedModel) -> set[str]:
    return {name for name, _ in model.named_modules() if name.endswith("keep_proj")}


@pytest.fixture(scope="module", params=MODELS, ids=lambda family: family.name)
def saved(request, tmp_path_factory):
    """A model, its folder, its inputs and its probabilities."""
    torch.manual_seed(0)
    family, folder = request.param, tmp_path_factory.mktemp("full")
    model = build(family)
    model.save_pretrained(folder)
    inputs = family.ask(2, 13)
    with torch.no_grad():
        return model, folder, inputs, model(**inputs).logits.softmax(-1)


@pytest.mark.parametrize("name", QUANTISERS)
@torch.no_grad()
def test_a_quantised_model_computes_generates_and_is_saved_and_loaded_with_equal_logits(name, saved, tmp_path):
    model, folder, inputs, expected = saved
    quantised = AutoModelForCausalLM.from_pretrained(folder, quantization_config=QUANTISERS[name]())
    kept = {"lm_head"} | list_scores(model)
    assert list_unquantised(quantised) == kept
    num_linear = sum(isinstance(layer, nn.Linear) for layer in model.modules())
    assert sum(isinstance(layer, nn.Linear) for layer in quantised.modules()) == num_linear > len(kept)

    logits = quantised(**inputs).logits
    error = (logits.softmax(-1) - expected).abs().max()
    assert 0 < error < MOST[name.split()[-1]]
    assert quantised.generate(**inputs, max_new_tokens=3, do_sample=False).shape == (2, 16)

    quantised.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert list_unquantised(loaded) == kept
    assert torch.equal(loaded(**inputs).logits, logits)
    assert measure_files(tmp_path) < measure_files(folder)


def measure_files(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["torchao int8", "bitsandbytes nf4"])
def test_names_that_are_passed_replace_the_head_but_not_the_fork_scores(name, tmp_path):
    family = next(family for family in MODELS if family.name == "threshold")
    model = family.build(tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    skipped = {SKIPPED[name.split()[0]]: [r".*\.down_proj"]}
    quantised = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=QUANTISERS[name](**skipped))
    kept = {name for name, _ in model.named_modules() if name.endswith(".down_proj")}
    assert kept and list_unquantised(quantised) == kept | list_scores(model)


@ALL
def test_qlora_trains_saves_its_adapter_and_loads_it_onto_four_bits(family, tmp_path):
    torch.manual_seed(0)
    build(family).save_pretrained(tmp_path / "base")

    def load_base() -> PreTrainedModel:
        config = QUANTISERS["bitsandbytes nf4"]()
        return AutoModelForCausalLM.from_pretrained(tmp_path / "base", quantization_config=config)

    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    base = prepare_model_for_kbit_training(load_base(), gradient_checkpointing_kwargs={"use_reentrant": False})
    adapted = get_peft_model(base, adapter)
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert trained and all("lora" in name for name in trained)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=40,
        lr_scheduler_type="constant",
        learning_rate=2e-2,
        per_device_train_batch_size=8,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    rows = make_dataset().select(range(8))
    trainer = Trainer(adapted, arguments, train_dataset=rows, data_collator=default_data_collator)
    trainer.train()
    losses = get_losses(trainer)
    assert losses[-1] < 0.9 * losses[0], "it learns eight rows by heart"

    adapted.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(load_base(), tmp_path / "adapter").eval()
    inputs = family.ask(2, 13)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, adapted.eval()(**inputs).logits, atol=1e-5, rtol=1e-5)
