# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Names that the Trainer and PEFT give a meaning to, and adapters of every task over every head."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers.utils.generic import find_labels

import hf_thoughtbubbles
from hf_thoughtbubbles import FAMILIES as CLASSES
from tests.families import ANSWERERS, BYTE_VARIANTS, FAMILIES, THOUGHT_VARIANTS, draw_ids, make_config, sharpen_forks


MODEL_CLASSES = [
    getattr(hf_thoughtbubbles, name)
    for names in CLASSES.values()
    for auto_name, name in names.items()
    if auto_name.startswith("AutoModel")
]
LABEL_SHAPES = {  # of a batch, for each head and its task; answers to questions have positions
    "ForSequenceClassification": ("SEQ_CLS", (4,)),
    "ForTokenClassification": ("TOKEN_CLS", (4, 11)),
    "ForQuestionAnswering": ("QUESTION_ANS", None),
}
TASKS = {
    "AutoModel": "FEATURE_EXTRACTION",
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM",
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
}
VARIANTS = {model.name: model for model in [*FAMILIES, *BYTE_VARIANTS, *ANSWERERS, *THOUGHT_VARIANTS]}
SMALL = {
    "byte_patch": "space",
    "generic_transformer": "generic",
    "looped_thinker": "plain-autoregressive",
    "looped_thinker_text": "thinker",
    "next_thought": "plain",
    "thoughtbubbles": "threshold",
}


def build(model_class):
    """A tiny model of a class."""
    torch.manual_seed(0)
    return model_class(copy.deepcopy(VARIANTS[SMALL[model_class.config_class.model_type]].config))


@pytest.mark.parametrize("model_class", MODEL_CLASSES, ids=lambda model_class: model_class.__name__)
def test_the_trainer_takes_only_targets_for_labels(model_class):
    expected = ["labels"] if "For" in model_class.__name__ else []
    if "ForQuestionAnswering" in model_class.__name__:
        expected = ["start_positions", "end_positions"]
    assert find_labels(model_class) == expected


@pytest.mark.parametrize("model_class", MODEL_CLASSES, ids=lambda model_class: model_class.__name__)
def test_only_a_classification_head_has_score_or_classifier_in_its_name(model_class):
    named = [name for name, _ in build(model_class).named_modules() if "score" in name or "classifier" in name]
    assert named == (["score"] if "Classification" in model_class.__name__ else [])


@pytest.mark.parametrize(
    ("auto_name", "model_class"),
    [
        (auto_name, getattr(hf_thoughtbubbles, name))
        for names in CLASSES.values()
        for auto_name, name in names.items()
        if auto_name in TASKS
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_peft_trains_and_saves_the_head_and_nothing_else_of_ours(auto_name, model_class):
    targets = ["q_proj", "v_proj"]
    adapted = get_peft_model(build(model_class), LoraConfig(r=2, target_modules=targets, task_type=TASKS[auto_name]))
    trained = {name.split(".")[2] for name, p in adapted.named_parameters() if p.requires_grad and "lora_" not in name}
    head = {"SEQ_CLS": {"score"}, "TOKEN_CLS": {"score"}, "QUESTION_ANS": {"qa_outputs"}}.get(TASKS[auto_name], set())
    assert trained == head


@pytest.mark.parametrize("fork_rule", ["topk", "threshold"])
@pytest.mark.parametrize("head", LABEL_SHAPES)
def test_a_reloaded_adapter_of_a_head_gives_the_trained_model_bit_for_bit(head, fork_rule, tmp_path):
    task, shape = LABEL_SHAPES[head]
    torch.manual_seed(0)
    model_class = getattr(hf_thoughtbubbles, f"Thoughtbubbles{head}")
    base = sharpen_forks(model_class(make_config(fork_rule=fork_rule, num_labels=2)))
    ids = draw_ids(4, 11)
    targets = {"start_positions": torch.arange(4), "end_positions": torch.arange(4) + 3}
    if shape is not None:
        targets = {"labels": torch.randint(0, 2, shape)}

    def train(model):
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(5):
            model(input_ids=ids, **targets).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    train(base)  # its forks have thresholds
    pristine = copy.deepcopy(base)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type=task))
    train(adapted)
    adapted.eval().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(pristine), tmp_path).eval()
    name = "start_logits" if shape is None else "logits"
    with torch.no_grad():
        expected = adapted(input_ids=ids)[name]
        assert (expected - pristine.eval()(input_ids=ids)[name]).abs().max() > 1e-3
        assert torch.equal(loaded(input_ids=ids)[name], expected)
        merged, expected = loaded.merge_and_unload(), adapted.merge_and_unload()
        assert torch.equal(merged(input_ids=ids)[name], expected(input_ids=ids)[name])
    thresholds = {name: value for name, value in pristine.named_buffers() if name.endswith(".threshold")}
    assert thresholds and all(torch.equal(merged.get_buffer(name), value) for name, value in thresholds.items())


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # PEFT, of every generation with a prompt
@pytest.mark.parametrize(
    ("name", "config_class"),
    [
        *((family.name, PromptTuningConfig) for family in FAMILIES if family.is_causal),
        *((name, PromptTuningConfig) for name in ("plain-autoregressive", "plain-parallel", "plain")),
        ("threshold", PromptEncoderConfig),
    ],
)
def test_trained_prompts_act_as_their_vectors_before_the_text(name, config_class):
    family = VARIANTS[name]
    task = "SEQ_2_SEQ_LM" if family.is_encoder_decoder else "CAUSAL_LM"
    model = family.build()
    adapted = get_peft_model(copy.deepcopy(model), config_class(task_type=task, num_virtual_tokens=3)).eval()
    assert adapted.get_prompt(1).shape[-1] == model.get_input_embeddings().embedding_dim
    inputs = family.ask(2, 7)
    text = {} if not family.is_encoder_decoder else {"labels": draw_ids(2, 5)}
    with torch.no_grad():
        mask = torch.ones_like(inputs["input_ids"])  # PEFT makes it a float mask
        found = adapted(**inputs, **text, attention_mask=mask, use_cache=False).logits
        prompt = adapted.get_prompt(2)[:, :3]  # models that answer have a second prompt, which PEFT leaves unused
        vectors = torch.cat((prompt, model.get_input_embeddings()(inputs["input_ids"])), dim=1)
        others = {key: value for key, value in inputs.items() if key != "input_ids"}
        expected = model(inputs_embeds=vectors, **others, **text, use_cache=False).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    asked = {"max_new_tokens": 6, "do_sample": False, "use_cache": family.has_cache}
    written = adapted.generate(**inputs, attention_mask=mask, **asked)
    expected = model.generate(inputs_embeds=vectors, **others, **asked)
    assert written[:, -expected.shape[1] :].tolist() == expected.tolist()


@pytest.mark.parametrize("config_class", [PromptTuningConfig, PromptEncoderConfig])
def test_trained_prompts_over_bytes_are_refused_by_name(config_class):
    model = VARIANTS["space"].build()
    adapted = get_peft_model(model, config_class(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ValueError, match="`inputs_embeds` was passed, but patches follow from the bytes"):
        adapted(input_ids=VARIANTS["space"].draw(2, 7))
