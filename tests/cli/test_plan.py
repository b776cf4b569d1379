# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""`hf-thoughtbubbles plan` and `plan_training`: numbers that a person can compute, and errors by name."""

import pytest
from transformers import LlamaConfig

from hf_thoughtbubbles import ThoughtbubblesConfig
from hf_thoughtbubbles.cli import plan
from hf_thoughtbubbles.evaluation import Device, estimate_flops, plan_training


LLAMA = LlamaConfig(vocab_size=10, hidden_size=4, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)


def test_a_plan_by_hand():
    # 252 parameters; a token of a row of 2 costs 3 x 432 operations.
    device = Device(flops_per_second=1296.0, memory_bytes=4100.0)
    whole = plan_training(LLAMA, num_tokens=7200, block_size=2, device=device, num_devices=2, utilisation=0.5)
    assert whole.num_parameters == 252 and whole.flops == 7200 * 1296
    assert whole.hours == pytest.approx(2.0)
    assert whole.state_bytes == 252 * (2 + 2 + 12) == whole.state_bytes_per_device
    assert whole.fits and whole.cost is None
    divided = plan_training(LLAMA, 7200, 2, device, 2, 0.5, is_sharded=True, price_per_hour=3.0)
    assert divided.state_bytes_per_device == whole.state_bytes / 2 and divided.cost == pytest.approx(12.0)
    assert not plan_training(LLAMA, 2, 2, Device(1.0, 4000.0)).fits


def test_a_plan_counts_what_the_model_counts():
    sizes = {"vocab_size": 61, "hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 3}
    config = ThoughtbubblesConfig(**sizes, fork_layers=[1])
    assert plan_training(config, num_tokens=26, block_size=13).flops == 2 * estimate_flops(config, 13).training


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"device": "abacus"}, r"`device` is 'abacus'; it must be one of \['a100-40'"),
        ({"num_devices": 0}, "`num_devices` is 0; it must be at least 1"),
        ({"num_tokens": 0.5}, r"`num_tokens` is 0\.5; it must be at least 1"),
        ({"utilisation": 1.5}, r"`utilisation` is 1\.5; it must be above 0 and at most 1"),
        ({"num_steps": 4}, "`num_steps` was passed, but the costs of this"),
    ],
)
def test_numbers_out_of_range_are_named(changes, error):
    with pytest.raises(ValueError, match=error):
        plan_training(LLAMA, **{"num_tokens": 10, "block_size": 2, **changes})


def test_the_command_prices_a_saved_configuration(tmp_path, capsys):
    LLAMA.save_pretrained(tmp_path)
    plan.main([str(tmp_path), "--num-tokens", "1e6", "--block-size", "2", "--device", "l4", "--price-per-hour", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert "1.3e+09 FLOPs for 1e+06 tokens in rows of 2" in lines[1]
    assert "KV cache" in lines[4] and lines[-1].startswith("cost")
    with pytest.raises(SystemExit, match="2"):
        plan.main([str(tmp_path), "--num-devices", "0"])
    assert "`num_devices` is 0" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "millions"), [("thoughtbubbles-150m", "152.0"), ("thoughtbubbles-772m", "772.7")])
def test_the_runs_of_the_paper_have_about_its_numbers_of_parameters(name, millions, capsys):
    plan.main([name])
    assert capsys.readouterr().out.splitlines()[0].split() == ["parameters", millions, "million"]
