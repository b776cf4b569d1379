# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""`hf-thoughtbubbles demo`: an interrupted demo goes on, and ends with a model, a picture and a text."""

import os
import signal
import subprocess
import sys

import pytest

from hf_thoughtbubbles.training import get_last_complete_checkpoint


pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "hf_thoughtbubbles", "demo", "--max-steps", "20", "--output-dir"]


def test_an_interrupted_demo_goes_on_to_its_end(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*COMMAND, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment) as first:
        for line in first.stdout:
            if "s left" in line:
                assert "bytes/s" in line and "nats per byte" in line
                first.send_signal(signal.SIGINT)
                break
        assert "The same command goes on" in first.stdout.read()
        assert first.wait(timeout=300) == 130
    assert get_last_complete_checkpoint(tmp_path / "training") is not None

    second = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=600)
    assert second.returncode == 0, second.stderr[-3000:]
    assert "step    2/20" not in second.stdout and "step   20/20" in second.stdout
    assert "bits per byte of text that it was not trained on" in second.stdout and "def get_" in second.stdout
    assert (tmp_path / "forks.png").stat().st_size > 10_000
    assert (tmp_path / "thoughtbubbles" / "model.safetensors").exists() and not (tmp_path / "training").exists()
