# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The Python of the guides runs."""

import re
from pathlib import Path

import pytest

from hf_thoughtbubbles import build_byte_tokenizer
from tests.families import make_thinker


GUIDES = Path(__file__).parents[2] / "docs" / "guides"
QUICKLY = 'Config("OUTPUT", max_steps=1, logging_steps=1, use_cpu=True, bf16=False, activation_checkpointing=False'


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:trl")
def test_the_python_of_post_training_runs(tmp_path, monkeypatch):
    text = (GUIDES / "post_training.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)).replace('Config("OUTPUT"', QUICKLY)
    assert code.count(QUICKLY) == 3
    monkeypatch.chdir(tmp_path)
    sizes = {"vocab_size": 259, "eos_token_id": 257, "pad_token_id": 258, "max_position_embeddings": 96}
    make_thinker("thinker", **sizes).build().save_pretrained("FOLDER")
    build_byte_tokenizer().save_pretrained("FOLDER")
    names: dict = {}
    exec(code, names)
    assert names["trainer"].state.global_step == 1
    assert names["trainer"].state.log_history[0]["num_steps"] in range(2, 7)
