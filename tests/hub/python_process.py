# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A process that runs source of several tests, so that its imports are paid for once."""

import io
import os
import select
import subprocess
import sys
from pathlib import Path

import torch


# Requests and replies go through pipes of their own, so that whatever a library prints, or asks on standard input,
# cannot get between them. One message is its length in eight bytes, then what torch.save wrote.
# The Auto classes register what they load with `trust_remote_code`, for the class of its configuration, and take that
# for every later model of this class without a look at the code beside it. A process without the package forgets it
# with each request.
DRIVER = """
import io, os, shutil, sys, traceback

requests, replies, hides_package = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb"), sys.argv[3]

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_thoughtbubbles":
            raise ImportError("hf_thoughtbubbles is not installed")

hides_package = hides_package == "True"
if hides_package:
    sys.meta_path.insert(0, Refusal())

import torch
from transformers.models.auto import auto_factory, modeling_auto

def forget_code():
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        del sys.modules[name]
    for auto_class in vars(modeling_auto).values():
        mapping = getattr(auto_class, "_model_mapping", None)
        if isinstance(mapping, auto_factory._LazyAutoMapping):
            mapping._extra_content.clear()
    shutil.rmtree(os.path.join(os.environ["HF_MODULES_CACHE"], "transformers_modules"), ignore_errors=True)

while size := requests.read(8):
    request = torch.load(io.BytesIO(requests.read(int.from_bytes(size, "big"))), weights_only=True)
    namespace, reply = {"__name__": "step", **request["arguments"]}, io.BytesIO()
    torch.manual_seed(0)
    if hides_package:
        forget_code()
    try:
        exec(compile(request["source"], "<step>", "exec"), namespace)
        torch.save({"result": namespace.get("result")}, reply)
    except BaseException:
        reply = io.BytesIO()
        torch.save({"error": traceback.format_exc()}, reply)
    sys.stdout.flush(), sys.stderr.flush()
    replies.write(len(reply.getvalue()).to_bytes(8, "big") + reply.getvalue())
    replies.flush()
os._exit(0)
"""


class PythonProcess:
    """
    A Python process that runs source a test hands to it, one piece after the other.

    Args:
        folder (`Path`): where it runs, away from the repository; made when missing. Its caches and its log lie here.
        hides_package (`bool`): whether it refuses to import the package, as if that were not installed.
        executable (`str` or `Path`): the Python to run.
        environment (`str`): variables that differ from this process'.
    """

    def __init__(self, folder: Path, hides_package: bool = False, executable=sys.executable, **environment: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "process.log"
        there_reads, self.requests = os.pipe()
        self.replies, there_writes = os.pipe()
        own_caches = {"HF_HOME": str(folder / "home"), "HF_MODULES_CACHE": str(folder / "modules")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [executable, "-c", DRIVER, str(there_reads), str(there_writes), str(hides_package)],
                cwd=folder,
                env={**os.environ, **own_caches, **environment},
                pass_fds=(there_reads, there_writes),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        os.close(there_reads)
        os.close(there_writes)

    def run(self, source: str, /, timeout_seconds: float = 180, **arguments):
        """
        Run source in a fresh namespace over there.

        Args:
            source (`str`): statements; what they assign to `result` comes back.
            timeout_seconds (`float`): how long it may take.
            arguments: names that the source finds assigned. As the result: tensors, numbers, text, and containers.

        Raises:
            `AssertionError`: with the traceback when the source raised, with the log when it ran out of time.
        """
        message = io.BytesIO()
        torch.save({"source": source, "arguments": arguments}, message)
        self._send(len(message.getvalue()).to_bytes(8, "big") + message.getvalue())
        size = int.from_bytes(self._receive(8, timeout_seconds), "big")
        reply = torch.load(io.BytesIO(self._receive(size, timeout_seconds)), weights_only=True)
        if "error" in reply:
            raise AssertionError(reply["error"])
        return reply["result"]

    def close(self):
        """End the process, and see it end."""
        os.close(self.requests)
        os.close(self.replies)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _send(self, message: bytes):
        while message:
            try:
                message = message[os.write(self.requests, message) :]
            except BrokenPipeError:
                raise AssertionError(f"The process has ended:\n{self._read_log()}") from None

    def _receive(self, size: int, timeout_seconds: float) -> bytes:
        received = b""
        while len(received) < size:
            if not select.select([self.replies], [], [], timeout_seconds)[0]:
                self.process.kill()
                raise AssertionError(f"No answer within {timeout_seconds} s:\n{self._read_log()}")
            part = os.read(self.replies, size - len(received))
            if not part:
                raise AssertionError(f"The process has ended:\n{self._read_log()}")
            received += part
        return received

    def _read_log(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]
