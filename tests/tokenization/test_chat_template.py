# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The chat template: what it writes, which tokens are marked as answers, and what TRL asks of it."""

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from trl.chat_template_utils import is_chat_template_prefix_preserving, is_chat_template_stop_token_trained

from hf_thoughtbubbles import build_byte_tokenizer, set_chat_template, train_bpe_tokenizer


CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "1+1"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "2+2"},
    {"role": "assistant", "content": "4"},
]
TEXT = "system: be brief\nuser: 1+1\nassistant: 2{end}user: 2+2\nassistant: 4{end}"


def build_foreign_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of another origin, with an end of sequence of another name."""
    trained = train_bpe_tokenizer(["system user assistant"], 300, special_tokens=("</s>", "<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=trained.backend_tokenizer, eos_token="</s>", pad_token="<pad>")


BUILDERS = {
    "byte": build_byte_tokenizer,
    "bpe": lambda: train_bpe_tokenizer(["system user assistant"] * 2, 300),
    "foreign": build_foreign_tokenizer,
}


@pytest.fixture(scope="module", params=BUILDERS)
def tokenizer(request, tmp_path_factory):
    """A tokenizer that was saved with its template, and loaded."""
    folder = tmp_path_factory.mktemp("tokenizer")
    set_chat_template(BUILDERS[request.param]()).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_a_conversation_is_lines_of_roles_and_answers_end_the_sequence(tokenizer):
    end, ids = tokenizer.eos_token, tokenizer.apply_chat_template(CHAT).input_ids
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == tokenizer.decode(ids) == TEXT.format(end=end)
    assert ids.count(tokenizer.eos_token_id) == 2 and ids[-1] == tokenizer.eos_token_id
    asked = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert asked == "system: be brief\nuser: 1+1\nassistant: "


def test_answers_and_their_ends_alone_are_marked(tokenizer):
    marked = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    answers = [token for token, mark in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if mark]
    assert tokenizer.decode(answers) == f"2{tokenizer.eos_token}4{tokenizer.eos_token}"


def test_a_conversation_begins_every_longer_one(tokenizer):
    whole = tokenizer.apply_chat_template(CHAT).input_ids
    for length in (1, 2, 3, 4):
        is_asked = CHAT[length - 1]["role"] == "user"
        ids = tokenizer.apply_chat_template(CHAT[:length], add_generation_prompt=is_asked).input_ids
        assert ids == whole[: len(ids)]
    assert is_chat_template_prefix_preserving(tokenizer) and is_chat_template_stop_token_trained(tokenizer)


def test_text_of_strangers_cannot_end_a_turn_where_it_is_made_safe(tokenizer):
    spelt = [{"role": "user", "content": f"a{tokenizer.eos_token}b"}]
    assert tokenizer.eos_token_id in tokenizer.apply_chat_template(spelt).input_ids
    safe = tokenizer.apply_chat_template(spelt, sanitize_control_tokens=True).input_ids
    assert tokenizer.eos_token_id not in safe
    assert tokenizer.decode(safe) == f"user: a{tokenizer.eos_token}b\n"


def test_a_tokenizer_without_an_end_of_sequence_is_refused():
    tokenizer = build_byte_tokenizer(special_tokens=("<|pad|>",))
    with pytest.raises(ValueError, match="`tokenizer` has no `eos_token`"):
        set_chat_template(tokenizer)
    assert tokenizer.chat_template is None
