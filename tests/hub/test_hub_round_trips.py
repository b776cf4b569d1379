# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Models that are pushed to the Hub come back complete, with the package and without, also after failures.

The client is the real one, in processes of its own; the Hub is hub_server.py on the loopback.
"""

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_thoughtbubbles import build_byte_tokenizer
from tests.families import make_config
from tests.hub.hub_server import USER
from tests.hub.travellers import BY_NAME, FAMILY_TRAVELLERS, LOAD, Traveller, are_equal, read_files


pytestmark = pytest.mark.slow


SHARD_SIZE = "30KB"  # several shards; hub_server.py takes the larger ones in several parts
PUSH = """
import transformers

model = getattr(transformers, auto_class).from_pretrained(source, trust_remote_code=True)
result = model.push_to_hub(repository, max_shard_size=shard_size, **options).oid
"""
TRAVELLER = BY_NAME["generic-AutoModelForCausalLM"]


def push(process, source: Path | str, repository: str, traveller: Traveller = TRAVELLER, **options) -> str:
    """Have a process push what lies in a folder or repository; gives the commit's sha."""
    order = {"auto_class": traveller.auto_class.__name__, "shard_size": SHARD_SIZE, "options": options}
    return process.run(PUSH, source=str(source), repository=repository, **order)


def pull(process, repository: str, traveller: Traveller = TRAVELLER, **options) -> list[torch.Tensor]:
    """Outputs of a model in a process that pulls it, by the package's code or by the code in the repository."""
    package = process.run("import sys\nresult = 'hf_thoughtbubbles' in sys.modules")
    order = traveller.order(package="hf_thoughtbubbles" if package else "transformers_modules", **options)
    return process.run(LOAD, source=repository, **order)


def make_version(folder: Path, seed: int) -> list[torch.Tensor]:
    """Save a model with weights of its own, as a push of it will write them; gives what it computes."""
    config = TRAVELLER.build().config
    torch.manual_seed(seed)
    model = TRAVELLER.auto_class.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # also those that start as ones
            weight.add_(torch.rand_like(weight) / 10)
    model.save_pretrained(folder / "new")
    # A loaded model has its weights in another order than a new one, so shards of others.
    TRAVELLER.auto_class.from_pretrained(folder / "new").save_pretrained(folder, max_shard_size=SHARD_SIZE)
    return TRAVELLER.expect(model)


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Three models that differ in all their weights: folders, and what each computes."""
    folders = [tmp_path_factory.mktemp("versions") / str(seed) for seed in range(3)]
    expected = [make_version(folder, seed) for seed, folder in enumerate(folders)]
    assert not any(torch.equal(outputs[0], expected[0][0]) for outputs in expected[1:])
    return folders, expected


@pytest.mark.parametrize("traveller", FAMILY_TRAVELLERS, ids=lambda traveller: traveller.name)
def test_every_family_comes_back_bit_for_bit(traveller, hub, owner, online_bare_process, tmp_path):
    model, repository = traveller.build(), f"{USER}/{traveller.name}"
    model.save_pretrained(tmp_path / "saved")
    first_request = len(hub.requests)
    push(owner, tmp_path / "saved", repository, traveller)
    files = hub.read(repository)
    shards = [name for name in files if name.endswith(".safetensors")]
    assert len(shards) >= 3 and "model.safetensors.index.json" in files
    assert set(read_files(tmp_path / "saved", ".py")) <= set(files)
    uploads = [path for method, path in hub.requests[first_request:] if method == "PUT"]
    assert len({path.split("/")[2] for path in uploads}) == len(shards)
    assert any(re.search(r"/objects/\w+/2$", path) for path in uploads), "one is uploaded in several parts"
    for process in (owner, online_bare_process):
        assert are_equal(pull(process, repository, traveller), traveller.expect(model))


def test_a_push_without_the_package_carries_its_own_code(hub, owner, online_bare_process, versions):
    folders, expected = versions
    push(owner, folders[0], f"{USER}/first")
    push(online_bare_process, f"{USER}/first", f"{USER}/second")
    first, second = hub.read(f"{USER}/first"), hub.read(f"{USER}/second")
    assert {name for name in first if name.endswith(".py")} == {name for name in second if name.endswith(".py")}
    assert not [target for target in json.loads(second["config.json"])["auto_map"].values() if "--" in target]
    del hub.repositories[f"{USER}/first"]
    for process in (owner, online_bare_process):
        assert are_equal(pull(process, f"{USER}/second"), expected[0])


SAVE_AND_PUSH = """
from transformers import AutoModelForCausalLM, AutoConfig

config = AutoConfig.from_pretrained(source)
config.save_pretrained(folder + "/config", push_to_hub=True, repo_id="user/config")
model = AutoModelForCausalLM.from_pretrained(source)
model.save_pretrained(folder + "/model", push_to_hub=True, repo_id="user/saved-model")
"""


def test_pushing_while_saving_uploads_the_code_too(hub, owner, online_bare_process, versions, tmp_path):
    folders, expected = versions
    owner.run(SAVE_AND_PUSH, source=str(folders[0]), folder=str(tmp_path))
    code = set(read_files(folders[0], ".py"))
    assert len(code) >= 3
    assert code | {"config.json"} <= set(hub.read(f"{USER}/config"))
    assert code <= {path.name for path in (tmp_path / "config").iterdir()}, "the local folder carries it too"
    assert code | {"config.json", "model.safetensors"} <= set(hub.read(f"{USER}/saved-model"))
    assert are_equal(pull(online_bare_process, f"{USER}/saved-model"), expected[0])


EDIT = """
from huggingface_hub import HfApi

order = {"path_in_repo": "README.md", "repo_id": repository, "revision": revision}
HfApi().upload_file(path_or_fileobj=text.encode(), **order)
"""


SAVE_WITH_OWN_CARD = """
from transformers import AutoModelForCausalLM
from hf_thoughtbubbles.hub.model_card import build_model_card

model = AutoModelForCausalLM.from_pretrained(source)
build_model_card(model, "somewhere", training_data="MY DATA").save(folder + "/README.md")
model.save_pretrained(folder, push_to_hub=True, repo_id=repository)
"""


def test_pushes_describe_the_model_and_keep_what_its_author_wrote(hub, owner, online_bare_process, versions, tmp_path):
    folders, _ = versions
    for source in folders[:2]:
        push(owner, source, f"{USER}/card", tags=["mine"])
        card = hub.read(f"{USER}/card")["README.md"].decode()
        assert f'AutoModelForCausalLM.from_pretrained("{USER}/card", trust_remote_code=True)' in card
        assert "\n- mine\n" in card
        assert card.count("of the family `generic_transformer`") == 1
    owner.run(SAVE_WITH_OWN_CARD, source=str(folders[0]), folder=str(tmp_path), repository=f"{USER}/own-card")
    pushed = hub.read(f"{USER}/own-card")["README.md"].decode()
    assert "MY DATA" in pushed and f'from_pretrained("{USER}/own-card", trust' in pushed
    assert (tmp_path / "README.md").read_text() == pushed
    mine = card.replace("| parameters |", "| something else |") + "\n## Mine\n"
    owner.run(EDIT, text=mine, repository=f"{USER}/card", revision=None)
    push(online_bare_process, f"{USER}/card", f"{USER}/card")
    assert hub.read(f"{USER}/card")["README.md"].decode() == mine, "without the package nothing is written anew"
    push(owner, folders[2], f"{USER}/card")
    assert hub.read(f"{USER}/card")["README.md"].decode() == card + "\n## Mine\n"
    push(owner, folders[2], f"{USER}/card", revision="next")
    owner.run(EDIT, text=card + "\n## Next\n", repository=f"{USER}/card", revision="next")
    push(owner, folders[2], f"{USER}/card", revision="next")
    assert hub.read(f"{USER}/card", "next")["README.md"].decode() == card + "\n## Next\n"


SAVE = """
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(source)
model.save_pretrained(folder, push_to_hub=True, repo_id=repository, **options)
"""


def test_saving_and_pushing_again_keeps_what_the_author_wrote_on_the_hub(hub, owner, versions, tmp_path):
    folders, _ = versions
    order = {"source": str(folders[0]), "folder": str(tmp_path), "options": {}}
    owner.run(SAVE, repository=f"{USER}/edited", **order)
    mine = hub.read(f"{USER}/edited")["README.md"].decode() + "\n## Mine\n"
    owner.run(EDIT, text=mine, repository=f"{USER}/edited", revision=None)
    owner.run(SAVE, repository=f"{USER}/edited", **order)
    assert hub.read(f"{USER}/edited")["README.md"].decode().endswith("\n## Mine\n")
    owner.run(SAVE, repository=f"{USER}/other", **order)
    other = hub.read(f"{USER}/other")["README.md"].decode()
    assert f'from_pretrained("{USER}/other"' in other and f'from_pretrained("{USER}/edited"' not in other
    own = (tmp_path / "README.md").read_text() + "\n## Written here\n"
    (tmp_path / "README.md").write_text(own)
    with hub.fault(method="POST", pattern="/commit/main", status=500), pytest.raises(AssertionError, match="500 Int"):
        owner.run(SAVE, repository=f"{USER}/new", **order)
    assert (tmp_path / "README.md").read_text().endswith("\n## Written here\n")
    owner.run(SAVE, repository=f"{USER}/edited", **order)
    assert hub.read(f"{USER}/edited")["README.md"].decode().endswith("\n## Mine\n")
    assert (tmp_path / "README.md").read_text().endswith("\n## Written here\n")
    owner.run(SAVE, repository=f"{USER}/new", **order)
    assert hub.read(f"{USER}/new")["README.md"].decode().endswith("\n## Written here\n"), "where there was none"


WHOLE = "5GB"  # more than any of the models
FORMS = {WHOLE: "model.safetensors", SHARD_SIZE: "model.safetensors.index.json"}


def test_weights_of_one_form_replace_those_of_the_other(hub, owner, online_bare_process, versions, tmp_path):
    folders, expected = versions
    for version, shard_size, branch in (
        (0, WHOLE, "main"),
        (1, SHARD_SIZE, "main"),
        (2, WHOLE, "next"),  # which is made from main
        (0, SHARD_SIZE, "next"),
    ):
        order = {"auto_class": "AutoModelForCausalLM", "shard_size": shard_size, "options": {"revision": branch}}
        sha = owner.run(PUSH, source=str(folders[version]), repository=f"{USER}/forms", **order)
        head = hub.repositories[f"{USER}/forms"].branches[branch]
        assert head.sha == sha, "one commit"
        assert [form for form in FORMS.values() if form in head.files] == [FORMS[shard_size]]
        assert are_equal(pull(online_bare_process, f"{USER}/forms", revision=branch), expected[version])
    for version, shard_size in ((0, WHOLE), (1, SHARD_SIZE), (2, WHOLE)):
        order = {"source": str(folders[version]), "folder": str(tmp_path), "options": {"max_shard_size": shard_size}}
        owner.run(SAVE, repository=f"{USER}/saved-forms", **order)
        for files in (hub.read(f"{USER}/saved-forms"), read_files(tmp_path, "")):
            assert [form for form in FORMS.values() if form in files] == [FORMS[shard_size]]
        for source in (f"{USER}/saved-forms", str(tmp_path)):
            assert are_equal(pull(owner, source), expected[version])


TRAIN = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from hf_thoughtbubbles import HubCallback

model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
rows = [{"input_ids": ids, "labels": ids} for ids in torch.arange(48).view(4, 12)]
arguments = TrainingArguments(
    folder, push_to_hub=True, hub_model_id=repository, max_steps=4, save_steps=2, report_to=[], use_cpu=True
)
callbacks = [HubCallback()] if has_callback else []
trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer, callbacks=callbacks)
trainer.train()
trainer.push_to_hub(dataset="source code")
if has_callback:
    trainer.model.push_to_hub(trainer.hub_model_id)
result = model.eval()(input_ids=torch.arange(1, 14)[None]).logits
"""
TOKENIZE = """
from transformers import AutoTokenizer
result = AutoTokenizer.from_pretrained(repository, trust_remote_code=False)(text).input_ids
"""


def train(process, folder: Path, repository: str, has_callback: bool):
    """Have a process train a new model and push it; gives the last logits."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(make_config(vocab_size=259)).save_pretrained(folder / "start")
    build_byte_tokenizer().save_pretrained(folder / "start")
    order = {"repository": repository, "has_callback": has_callback}
    return process.run(TRAIN, source=str(folder / "start"), folder=str(folder / "run"), **order)


def test_the_last_push_of_a_trainer_loads_without_the_callback(hub, owner, online_bare_process, tmp_path):
    logits = train(owner, tmp_path, f"{USER}/uncalled", has_callback=False)
    order = Traveller("uncalled", AutoModelForCausalLM, build=lambda: None).order()
    assert are_equal(online_bare_process.run(LOAD, source=f"{USER}/uncalled", **order)[:1], [logits])


def test_what_a_trainer_pushed_is_complete(hub, owner, online_bare_process, tmp_path):
    """Weights, code and tokenizer; both checkpoints and the end are commits, and the last weights win."""
    logits = train(owner, tmp_path, f"{USER}/trained", has_callback=True)
    wanted = {"model.safetensors", "tokenizer.json", "tokenizer_config.json", "training_args.bin", "README.md"}
    code = set(read_files(tmp_path / "start", ".py"))
    assert wanted | code <= set(hub.read(f"{USER}/trained"))
    commits = hub.repositories[f"{USER}/trained"].find("main").list_history()
    complete = [commit.sha for commit in commits if "model.safetensors" in commit.files]
    with_weights = [hub.read(f"{USER}/trained", sha) for sha in complete]
    assert len(with_weights) >= 3 and all(code <= set(files) for files in with_weights), (
        "at every time it can be loaded"
    )
    cards = [files["README.md"].decode() for files in with_weights]  # the newest first
    assert ["of the family `thoughtbubbles`" in card for card in cards] == [True, False, *[True] * len(cards[2:])]
    assert all("- hf-thoughtbubbles" in card for card in cards)
    card = hub.read(f"{USER}/trained")["README.md"].decode()
    assert "of the family `thoughtbubbles`" in card and f'from_pretrained("{USER}/trained", trust' in card
    assert "on the source code dataset" in card and "### Training hyperparameters" in card
    order = Traveller("trained", AutoModelForCausalLM, build=lambda: None).order()
    assert are_equal(online_bare_process.run(LOAD, source=f"{USER}/trained", **order)[:1], [logits])
    ids = online_bare_process.run(TOKENIZE, repository=f"{USER}/trained", text="naïve 漢字")
    assert bytes(ids) == "naïve 漢字".encode()


def test_a_tokenizer_comes_back_without_code(hub, owner, online_bare_process, tmp_path):
    build_byte_tokenizer().save_pretrained(tmp_path)
    script = "from transformers import AutoTokenizer\nAutoTokenizer.from_pretrained(source).push_to_hub('user/bytes')"
    owner.run(script, source=str(tmp_path))
    assert not [name for name in hub.read(f"{USER}/bytes") if name.endswith(".py")]
    assert online_bare_process.run(TOKENIZE, repository=f"{USER}/bytes", text="a\0é") == list("a\0é".encode())


LIST = """
from huggingface_hub import HfApi

api, name = HfApi(), "user/revisions"
references = api.list_repo_refs(name)
result = {
    "user": api.whoami()["name"],
    "files": sorted(api.list_repo_files(name, revision="v1")),
    "branches": sorted(branch.name for branch in references.branches),
    "tags": {tag.name: tag.target_commit for tag in references.tags},
    "commits": [commit.commit_id for commit in api.list_repo_commits(name)],
    "paths": [file.path for file in api.get_paths_info(name, ["config.json", "nothing"])],
}
"""


def test_older_weights_come_back_by_tag_commit_and_branch(hub, owner, online_bare_process, versions):
    folders, expected = versions
    first = push(owner, folders[0], f"{USER}/revisions")
    owner.run("from huggingface_hub import HfApi\nHfApi().create_tag('user/revisions', tag='v1')")
    second = push(owner, folders[1], f"{USER}/revisions")
    for folder in (folders[0], folders[2]):  # the branch is made by the first, and is there for the second
        push(owner, folder, f"{USER}/revisions", revision="next")
    for process in (owner, online_bare_process):
        for revision, version in (("v1", 0), (first, 0), (second, 1), (None, 1), ("next", 2)):
            seen = pull(process, f"{USER}/revisions", revision=revision)
            assert are_equal(seen, expected[version]), revision
    listed = owner.run(LIST)
    assert listed["user"] == USER
    assert listed["files"] == sorted(hub.read(f"{USER}/revisions", first))
    assert (listed["branches"], listed["tags"]) == (["main", "next"], {"v1": first})
    assert listed["commits"][:2] == [second, first] and len(listed["commits"]) == 3
    assert listed["paths"] == ["config.json"]


def test_a_commit_on_a_parent_that_is_no_longer_the_head_is_refused(hub, owner, versions):
    first = push(owner, versions[0][0], f"{USER}/parents")
    second = push(owner, versions[0][1], f"{USER}/parents")
    change = """
from huggingface_hub import CommitOperationAdd, HfApi
result = HfApi().create_commit(
    "user/parents", [CommitOperationAdd("note.txt", b"hello")], commit_message="Note", parent_commit=parent
).oid
"""
    with pytest.raises(AssertionError, match="412 Precondition Failed"):
        owner.run(change, parent=first)
    assert hub.repositories[f"{USER}/parents"].branches["main"].sha == second
    assert hub.repositories[f"{USER}/parents"].branches["main"].sha != owner.run(change, parent=second)
    assert hub.read(f"{USER}/parents")["note.txt"] == b"hello"


FROM_PRETRAINED = "from transformers import AutoModelForCausalLM\nAutoModelForCausalLM.from_pretrained({})"
DOWNLOAD = "from huggingface_hub import hf_hub_download\nhf_hub_download({})"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (FROM_PRETRAINED.format("'user/missing'"), r"OSError: user/missing is not a local folder and is not a valid"),
        (DOWNLOAD.format("'user/missing', 'config.json'"), r"errors\.RepositoryNotFoundError: 404"),
        (DOWNLOAD.format("'user/bare', 'config.json', token=False"), r"errors\.RemoteEntryNotFoundError: 404"),
        (DOWNLOAD.format("'user/missing', 'config.json', token=False"), r"errors\.RepositoryNotFoundError: 401"),
        (DOWNLOAD.format("'user/bare', 'nothing.txt'"), r"errors\.RemoteEntryNotFoundError: 404"),
        (DOWNLOAD.format("'user/bare', 'note.txt', revision='v9'"), r"errors\.RevisionNotFoundError: 404"),
        (
            FROM_PRETRAINED.format("'user/weightless'"),
            r"OSError: user/weightless does not appear to have",
        ),
        (FROM_PRETRAINED.format("'user/weightless', revision='v9'"), r"OSError: v9 is not a valid git identifier"),
    ],
    ids=["model", "repository", "public", "anonymous", "file", "revision", "weights", "model-revision"],
)
def test_what_is_missing_is_an_error_that_names_it(script, error, hub, owner, versions):
    owner.run(
        """
from huggingface_hub import HfApi
from transformers import AutoConfig
for name in ("user/bare", "user/weightless"):
    HfApi().create_repo(name, exist_ok=True)
AutoConfig.from_pretrained(source).push_to_hub("user/weightless")
""",
        source=str(versions[0][0]),
    )
    with pytest.raises(AssertionError, match=error):
        owner.run(script)


@pytest.mark.parametrize(
    ("repository", "token", "error", "is_asked"),
    [
        ("user/refused", "hf_wrong", r"HfHubHTTPError: Client error '401 Unauthorized'", True),
        ("user/refused", False, r"HfHubHTTPError: Client error '401 Unauthorized'", True),
        ("another/refused", None, r"403 Forbidden: You don't have the rights to create a model under", True),
        ("a/b/c", None, r"HFValidationError: Repo id must be in the form", False),
        ("bad name!", None, r"HFValidationError: Repo id must use alphanumeric chars", False),
        ("--", None, r"HFValidationError: ", False),
    ],
    ids=["wrong", "anonymous", "another", "deep", "letters", "dashes"],
)
def test_who_may_not_push_is_told_and_nothing_is_created(repository, token, error, is_asked, hub, owner, versions):
    known, first_request = set(hub.repositories), len(hub.requests)
    with pytest.raises(AssertionError, match=error):
        push(owner, versions[0][0], repository, token=token)
    assert set(hub.repositories) == known
    assert bool(hub.requests[first_request:]) == is_asked, "an impossible name is not even sent"


def name_object(folder: Path, shard: int) -> str:
    """The sha256 under which a shard is uploaded."""
    path = sorted(folder.glob("*.safetensors"))[shard]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_upload_that_breaks_off_leaves_the_old_model(hub, owner, online_bare_process, versions, tmp_path):
    """The client tries six times and gives up. Pushing again uploads what is missing, and only that."""
    folders, expected = versions
    wanted = make_version(tmp_path, seed=3)
    first = push(owner, folders[0], f"{USER}/broken-upload")
    lost = name_object(tmp_path, shard=1)
    with (
        hub.fault(method="PUT", pattern=f"/objects/{lost}", after_bytes=5000, times=None),
        pytest.raises(
            AssertionError, match=r"RuntimeError: Error while uploading 'model-00002-of-0000\d\.safetensors'"
        ),
    ):
        push(owner, tmp_path, f"{USER}/broken-upload")
    assert sum(lost in path for method, path in hub.requests if method == "PUT") == 6
    assert hub.repositories[f"{USER}/broken-upload"].branches["main"].sha == first
    assert are_equal(pull(online_bare_process, f"{USER}/broken-upload"), expected[0])
    first_request = len(hub.requests)
    push(owner, tmp_path, f"{USER}/broken-upload")
    assert {path.split("/")[2] for method, path in hub.requests[first_request:] if method == "PUT"} == {lost}
    assert are_equal(pull(online_bare_process, f"{USER}/broken-upload"), wanted)


def test_an_upload_survives_one_failure(hub, owner, online_bare_process, tmp_path):
    expected = make_version(tmp_path, seed=4)
    lost, busy = name_object(tmp_path, shard=0), name_object(tmp_path, shard=1)
    with (
        hub.fault(method="PUT", pattern=f"/objects/{lost}", after_bytes=5000) as cut,
        hub.fault(method="PUT", pattern=f"/objects/{busy}", status=503) as refusal,
    ):
        push(owner, tmp_path, f"{USER}/shaky-upload")
    assert cut.times == refusal.times == 0
    assert are_equal(pull(online_bare_process, f"{USER}/shaky-upload"), expected)


def test_a_refused_commit_leaves_the_old_model(hub, owner, online_bare_process, versions):
    folders, expected = versions
    push(owner, folders[0], f"{USER}/refused-commit")
    with (
        hub.fault(method="POST", pattern="/commit/main", status=500),
        pytest.raises(AssertionError, match="500 Internal Server Error"),
    ):
        push(owner, folders[1], f"{USER}/refused-commit")
    assert are_equal(pull(online_bare_process, f"{USER}/refused-commit"), expected[0])


def test_a_download_that_breaks_off_is_never_loaded(hub, owner, online_bare_process, versions):
    """The client asks for the rest until nothing more comes. Then it raises; later the weights are right."""
    folders, expected = versions
    push(owner, folders[0], f"{USER}/broken-download")
    shard, first_request = "model-00002-of", len(hub.requests)
    with (
        hub.fault(method="GET", pattern=f"broken-download/resolve/.*{shard}", after_bytes=5000, times=None),
        pytest.raises(AssertionError, match=r"RemoteProtocolError: peer closed connection"),
    ):
        pull(online_bare_process, f"{USER}/broken-download")
    tries = [path for method, path in hub.requests[first_request:] if method == "GET" and shard in path]
    assert len(tries) > 2
    cache = Path(online_bare_process.log.parent / "home" / "hub" / f"models--{USER}--broken-download")
    assert cache.is_dir()
    assert not [path for path in cache.rglob("*") if shard in path.name or path.name.endswith(".incomplete")]
    assert are_equal(pull(online_bare_process, f"{USER}/broken-download"), expected[0])


def test_a_download_is_taken_up_where_it_broke_off(hub, owner, online_bare_process, versions):
    folders, expected = versions
    push(owner, folders[1], f"{USER}/shaky-download")
    with hub.fault(method="GET", pattern="shaky-download/resolve/.*model-00001-of", after_bytes=5000) as fault:
        assert are_equal(pull(online_bare_process, f"{USER}/shaky-download"), expected[1])
    assert fault.times == 0 and hub.ranges[-1] == "bytes=5000-"


def test_two_pushes_at_once_leave_one_model_whole(hub, owner, online_bare_process, versions):
    """Both are built on the same commit; both land, and what is seen then is the later one, with all its files."""
    folders, expected = versions
    base = push(owner, folders[0], f"{USER}/raced")
    with hub.meet(2), ThreadPoolExecutor(2) as pool:
        pushes = [
            pool.submit(push, process, folder, f"{USER}/raced")
            for process, folder in ((owner, folders[1]), (online_bare_process, folders[2]))
        ]
        landed = [future.result() for future in pushes]
    history = [commit.sha for commit in hub.repositories[f"{USER}/raced"].branches["main"].list_history()]
    assert sorted(history[:2]) == sorted(landed) and history[2] == base
    for sha, version in zip(landed, (1, 2), strict=True):
        assert read_files(folders[version], ".safetensors").items() <= hub.read(f"{USER}/raced", sha).items()
        assert are_equal(pull(online_bare_process, f"{USER}/raced", revision=sha), expected[version])
    assert are_equal(pull(owner, f"{USER}/raced"), expected[1 + landed.index(history[0])])
