# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""`transformers serve` and `transformers chat` with our models, as the processes that a user starts."""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from tests.ecosystem.byte_models import BYTES, CAUSAL, NO_LETTERS, build, build_chat_tokenizer
from tests.families import Answerer, make_generic, make_thinker_config
from tests.training.processes import find_port


pytestmark = pytest.mark.slow


START_SECONDS = 120  # a server imports everything first, perhaps on a busy machine
QUESTION = [{"role": "user", "content": "hi"}]
LIMITS = {"max_tokens": 7, "temperature": 0}
HIDE_PACKAGE = "import sys; sys.modules['hf_thoughtbubbles'] = None\n"
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "ecosystem.md"


@contextmanager
def serving(log: Path, *command: str):
    """A server started with `python` and the command; gives its address once it is healthy."""
    port = find_port()
    arguments = [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        server = subprocess.Popen(arguments, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_healthy(port):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                server.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=60)


def is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            return answer.status == 200
    except urllib.error.URLError:
        return False


def connect(address: str) -> openai.OpenAI:
    """The client of OpenAI's own package, which closes its connection when it is left."""
    return openai.OpenAI(base_url=address, api_key="none", max_retries=0)


def generate(model, text: str) -> str:
    """What the model goes on to write, in this process."""
    tokenizer = build_chat_tokenizer()
    inputs = tokenizer(text, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=LIMITS["max_tokens"], do_sample=False)
    return tokenizer.decode(out[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints with tokenizers, by name."""
    root = tmp_path_factory.mktemp("served")
    answerer = Answerer("answerer", make_thinker_config(**BYTES))
    learned = make_generic("learned", position_embedding="learned", **BYTES)
    for family in [*CAUSAL, learned, answerer]:
        build(family).save_pretrained(root / family.name)
        build_chat_tokenizer().save_pretrained(root / family.name)
    return {family.name: root / family.name for family in [*CAUSAL, learned, answerer]}


@pytest.fixture(scope="module")
def address(folders, tmp_path_factory):
    """One server for all families, started as the documentation says."""
    log = tmp_path_factory.mktemp("log") / "server.txt"
    with serving(log, "-m", "hf_thoughtbubbles", "serve") as address:
        yield address


@pytest.fixture
def client(address):
    with connect(address) as client:
        yield client


@pytest.mark.parametrize("family", CAUSAL, ids=lambda family: family.name)
def test_a_served_model_writes_what_generate_writes(family, folders, client):
    """At once and streamed; as a conversation and as a continuation."""
    asked, model = {"model": str(folders[family.name]), **LIMITS}, build(family)
    prompt = build_chat_tokenizer().apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)

    expected = generate(model, prompt)
    answer = client.chat.completions.create(messages=QUESTION, **asked)
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), LIMITS["max_tokens"])
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(messages=QUESTION, stream=True, **asked)]
    written = [chunk.delta.content for chunk in chunks if chunk.delta.content]
    assert "".join(written) == expected
    assert len(written) > 1
    assert chunks[-1].finish_reason == "length"

    expected = generate(model, "to be, or")
    assert client.completions.create(prompt="to be, or", **asked).choices[0].text == expected
    streamed = client.completions.create(prompt="to be, or", stream=True, **asked)
    assert "".join(chunk.choices[0].text for chunk in streamed) == expected


def test_chat_shows_what_the_served_model_writes(folders, address):
    """`transformers chat` with a question on standard input; it knows no models, and so needs no package of ours."""
    folder = folders["generic"]
    prompt = build_chat_tokenizer().apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    letters_only = f"suppress_tokens={NO_LETTERS}".replace(" ", "")
    flags = [f"max_new_tokens={LIMITS['max_tokens']}", "do_sample=False", letters_only]
    environment = {**os.environ, "HF_HUB_DISABLE_UPDATE_CHECK": "1", "TERM": "dumb", "COLUMNS": "300"}
    environment.pop("HF_HUB_OFFLINE")  # it asks through the Hub's client, which then asks nobody, nor this server
    result = subprocess.run(
        [Path(sys.executable).with_name("transformers"), "chat", folder, address, *flags],
        input="hi\nn\n!exit\n",  # the question; not to go on after the last token; and good-bye
        env=environment,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert result.returncode == 0, result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert generate(build(CAUSAL[3]), prompt) in lines
    assert "Generation stopped after reaching the token limit." in lines


def test_more_tokens_than_the_model_has_positions_are_refused_with_the_reason(folders, address):
    """Without `max_tokens` the server asks for 1024, more than the model's table of positions has."""
    asked = {"model": str(folders["learned"]), "prompt": "to be, or"}
    with connect(address) as client, pytest.raises(openai.InternalServerError):  # the reason is in the server's log
        client.completions.create(**asked)
    with connect(address) as client, pytest.raises(openai.APIError) as refusal:
        list(client.completions.create(stream=True, **asked))
    assert "`max_position_embeddings` is 151. Ask for fewer new tokens" in refusal.value.body


def test_the_server_cuts_off_the_start_of_an_answer_that_does_not_continue_the_prompt(folders, client):
    """It takes the prompt's length off whatever comes, so models of `AutoModelForSeq2SeqLM` cannot be served."""
    answer = client.completions.create(model=str(folders["answerer"]), prompt="x" * 20, **LIMITS)
    assert (answer.choices[0].text, answer.usage.completion_tokens) == ("", 0)


def test_continuous_batching_serves_many_clients_at_once_and_refuses_models_that_fork(folders, tmp_path):
    """The pool is too small for all requests; one for which the model has no positions fails alone."""
    pool = ("--continuous-batching", "--cb-block-size", "4", "--cb-num-blocks", "20", "--cb-max-batch-tokens", "32")
    asked, prompts = {"model": str(folders["generic"]), **LIMITS}, ["to be, or", "a", "x" * 40, "or not to be"]
    model, log = build(CAUSAL[3]), tmp_path / "server.txt"
    with serving(log, "-m", "hf_thoughtbubbles", "serve", *pool) as address:
        with connect(address) as client, pytest.raises(openai.InternalServerError):  # the server then closes its end
            client.completions.create(**{**asked, "model": str(folders["learned"])}, prompt="x" * 150)
        with connect(address) as client, ThreadPoolExecutor(len(prompts)) as clients:
            answers = clients.map(lambda prompt: client.completions.create(prompt=prompt, **asked), prompts)
            assert [answer.choices[0].text for answer in answers] == [generate(model, prompt) for prompt in prompts]
            streamed = client.chat.completions.create(messages=QUESTION, stream=True, **asked)
            prompt = build_chat_tokenizer().apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == generate(model, prompt)
        for name in ("threshold", "thinker", "byte-patch"):
            with connect(address) as client, pytest.raises(openai.InternalServerError):
                client.completions.create(**{**asked, "model": str(folders[name])}, prompt="to be")
    assert "may read 156 tokens" in log.read_text()
    assert log.read_text().count("or `transformers serve` without `--continuous-batching`") >= 3


def test_a_checkpoint_is_served_by_its_own_code_where_the_package_is_not_installed(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    log, folder = tmp_path / "server.txt", str(folders["threshold"])
    (documented,) = re.findall(
        r'python -c "\n(.*?)" FOLDER serve --trust-remote-code', DOCUMENTATION.read_text(), re.S
    )
    command = ("-c", HIDE_PACKAGE + documented, folder, "serve", "--trust-remote-code")
    with serving(log, *command) as address, connect(address) as client:
        answer = client.completions.create(model=folder, prompt="to be, or", **LIMITS)
        assert answer.choices[0].text == generate(build(CAUSAL[1]), "to be, or")
        # A class that was not put into transformers' namespace is not found, trusted or not.
        with pytest.raises(openai.InternalServerError):
            client.completions.create(model=str(folders["generic"]), prompt="to be, or", **LIMITS)
    assert "AttributeError: module transformers has no attribute GenericTransformerForCausalLM" in log.read_text()
