# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Is it said when another version saved a model, and only when that matters?"""

import json
import logging

import pytest
from transformers import AutoConfig

from hf_thoughtbubbles import __version__
from hf_thoughtbubbles.hub import saved_version
from hf_thoughtbubbles.hub.saved_version import VERSION_FIELD, describe_version_gap
from tests.families import make_config


@pytest.mark.parametrize(
    ("saved", "reading"),
    [
        ("0.1.0", "0.1.0"),
        ("0.1.9", "0.1.0"),
        ("0.1.0", "0.1.9"),
        ("1.2.0", "1.2.7"),
        ("1.2.0", "1.5.0"),
        ("0.1", "0.1.0"),
    ],
)
def test_what_computes_the_same_is_not_mentioned(saved, reading):
    assert describe_version_gap(saved, reading) is None


@pytest.mark.parametrize(
    ("saved", "reading", "message"),
    [
        ("0.2.0", "0.1.0", "settings it does not know are ignored"),
        ("1.3.0", "1.2.9", "settings it does not know are ignored"),
        ("2.0.0", "1.9.0", "settings it does not know are ignored"),
        ("0.1.0", "0.2.0", "what it computes may have changed"),
        ("0.9.0", "1.0.0", "what it computes may have changed"),
        ("1.9.0", "2.0.0", "what it computes may have changed"),
        ("new", "0.1.0", "is 'new', which is no version"),
        (3, "0.1.0", "is 3, which is no version"),
    ],
)
def test_what_may_differ_is_said_with_what_to_do(saved, reading, message):
    text = describe_version_gap(saved, reading)
    assert message in text and str(saved) in text and reading in text
    assert f"install hf-thoughtbubbles {saved}" in text or "Save the model again" in text


def test_saved_models_name_the_version_and_loading_says_once_what_matters(tmp_path, caplog):
    saved_version.logger.warning_once.cache_clear()
    make_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    assert fields[VERSION_FIELD] == __version__
    with caplog.at_level(logging.WARNING):
        AutoConfig.from_pretrained(tmp_path)
        assert not caplog.messages
        path.write_text(json.dumps({**fields, VERSION_FIELD: "99.0.0"}))
        configs = [AutoConfig.from_pretrained(tmp_path) for _ in range(2)]
    assert len(caplog.messages) == 1
    assert f"saved by hf-thoughtbubbles 99.0.0 is read by {__version__}" in caplog.messages[0]
    configs[0].save_pretrained(tmp_path)
    assert json.loads(path.read_text())[VERSION_FIELD] == __version__, "who saves it last is who it is from"


READ = """
import logging
from transformers import AutoConfig

result = []
handler = logging.Handler()
handler.emit = lambda record: result.append(record.getMessage())
logging.getLogger().addHandler(handler)
AutoConfig.from_pretrained(source, trust_remote_code=True)
logging.getLogger().removeHandler(handler)
"""


def test_code_that_came_along_reads_its_own_version_silently_and_another_one_not(stranger, tmp_path):
    make_config().save_pretrained(tmp_path)
    assert stranger.run(READ, source=str(tmp_path)) == []
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, VERSION_FIELD: "99.0.0"}))
    messages = stranger.run(READ, source=str(tmp_path))
    assert len(messages) == 1 and f"saved by hf-thoughtbubbles 99.0.0 is read by {__version__}" in messages[0]
