# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Running scripts in tests without paying for their imports every time.

Each run is a process of its own, forked from one that has imported the libraries and done nothing else.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path


TIMEOUT_SECONDS = 600


def _become(script: str, arguments: list[str], folder: str):
    """In the forked process: print to files, and run the script as if it had been started by itself."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv, sys.path[0:0] = [script, *arguments], [str(Path(script).parent)]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def run_script(script: Path, *arguments) -> subprocess.CompletedProcess:
    """
    Run a Python script and wait for its end.

    Args:
        script (`Path`): the script.
        arguments: of the command line, turned to text.

    Returns:
        `subprocess.CompletedProcess`: exit status, and what it printed.
    """
    arguments = [str(argument) for argument in arguments]
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_become, args=(str(script), arguments, folder))
        process.start()
        process.join(TIMEOUT_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        printed = [(Path(folder) / name).read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess([str(script), *arguments], process.exitcode, *printed)
