# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""A stand-in for the Hub, so that pushing and pulling can be tested on the loopback.

It is as small as the client allows: models of one user, in memory, large files by the LFS protocol
in one part or several. A commit is made whole or not at all. Tests switch faults on, and have commits meet.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


USER = "user"
TOKEN = "hf_of_the_user"
LARGE_FILES = (".safetensors", ".bin")  # stored by LFS, as the Hub's .gitattributes says
PART_SIZE = 20_000  # bytes; what is larger is uploaded in several parts
DATE = "2026-01-01T00:00:00.000Z"


def hash_object(kind: str, content: bytes) -> str:
    """The name of an object, as git gives it."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """The whole content of a repository at one time: path to the sha256 under which the bytes are stored."""

    files: dict[str, str]
    title: str
    parent: "Commit | None" = None

    @property
    def sha(self) -> str:
        parent = self.parent.sha if self.parent else None
        return hash_object("commit", json.dumps([self.files, self.title, parent], sort_keys=True).encode())

    def list_history(self) -> list["Commit"]:
        """This commit, the one before it, and so on."""
        return [self, *(self.parent.list_history() if self.parent else [])]


@dataclass
class Repository:
    """Branches and tags, each naming a commit."""

    branches: dict[str, Commit] = field(default_factory=lambda: {"main": Commit({}, "initial commit")})
    tags: dict[str, Commit] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, of a tag, or of this sha."""
        heads = {**self.branches, **self.tags}
        known = {commit.sha: commit for head in heads.values() for commit in head.list_history()}
        return heads.get(revision) or known.get(revision)


@dataclass
class Fault:
    """What happens to the next requests of one method, and of a path that a pattern finds."""

    method: str
    pattern: str
    times: int | None = 1  # None: until the test takes the fault away
    after_bytes: int | None = None  # cut the connection when so much of the file has passed
    status: int | None = None  # answer with this status instead


class RequestError(Exception):
    """An answer other than success: status, the Hub's name of the error, message."""


class HubServer:
    """
    The stand-in for the Hub.

    Attributes:
        url (`str`): where it is.
        requests (`list[tuple[str, str]]`): method and path of every request so far.
        ranges (`list[str]`): what parts of files were asked for.
        repositories (`dict[str, Repository]`): by name.
    """

    def __init__(self):
        self.repositories, self.blobs, self.parts = {}, {}, {}
        self.requests, self.ranges, self.faults = [], [], []
        self.meeting: threading.Barrier | None = None
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process use this Hub, as its user; read when the client is imported."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def close(self):
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()

    def read(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository."""
        return {path: self.blobs[oid] for path, oid in self.repositories[name].find(revision).files.items()}

    @contextlib.contextmanager
    def fault(self, **settings):
        """Have a [`Fault`] within a `with` block."""
        fault = Fault(**settings)
        self.faults.append(fault)
        yield fault
        self.faults.remove(fault)

    @contextlib.contextmanager
    def meet(self, count: int):
        """Within a `with` block hold every commit until so many have come."""
        self.meeting = threading.Barrier(count, timeout=60)
        yield
        self.meeting = None

    def find_fault(self, method: str, path: str) -> Fault | None:
        """The fault of a request, counted."""
        with self.lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.method == method and re.search(fault.pattern, path) and fault.times != 0:
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def store(self, content: bytes) -> str:
        """Keep bytes under their sha256."""
        oid = hashlib.sha256(content).hexdigest()
        self.blobs[oid] = content
        return oid

    def describe(self, path: str, oid: str) -> dict:
        """A file as the Hub's listings show it: small ones are named as by git, large ones by sha256."""
        content, entry = self.blobs[oid], {"type": "file", "path": path, "size": len(self.blobs[oid])}
        if path.endswith(LARGE_FILES):
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()
            lfs = {"oid": oid, "size": len(content), "pointerSize": len(pointer)}
            return {**entry, "oid": hash_object("blob", pointer), "lfs": lfs}
        return {**entry, "oid": hash_object("blob", content)}


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection. Each method of `ROUTES` gets the groups of its pattern, then the JSON of the request."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        """Nothing: the hub keeps the requests."""

    def do_GET(self):
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self):
        """Find who answers, and send what they say."""
        path = unquote(urlsplit(self.path).path)
        fault = self.hub.find_fault(self.command, path) or Fault("", "")
        size = int(self.headers.get("Content-Length") or 0)
        if self.command == "PUT" and fault.after_bytes is not None:
            self.rfile.read(min(fault.after_bytes, size))
            return self.cut()
        self.body = self.read_chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(size)
        self.cut_at = fault.after_bytes
        try:
            if fault.status is not None:
                raise RequestError(fault.status, None, "The Hub is not well.")
            is_json = "json" in self.headers.get("Content-Type", "") and "ndjson" not in self.headers["Content-Type"]
            self.json = json.loads(self.body) if is_json else {}
            self.find_user()
            for methods, pattern, name in ROUTES:
                found = re.fullmatch(pattern, path)
                if self.command in methods.split() and found:
                    return getattr(self, name)(**found.groupdict())
            raise RequestError(404, None, f"Nothing is at {self.command} {path}.")
        except RequestError as error:
            status, code, message = error.args
            headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
            self.send(json.dumps({"error": message}).encode(), status, headers)

    def read_chunks(self) -> bytes:
        """A body that is sent in chunks, each after its size."""
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def cut(self):
        """Break the connection off, as a network does."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, content: bytes, status: int = 200, headers: dict | None = None):
        """Answer with bytes."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, value, status: int = 200):
        """Answer with JSON."""
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def find_user(self):
        """Who asks. Without a token anyone may read; a wrong one is refused at once."""
        token = self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            raise RequestError(401, None, "Invalid credentials in Authorization header")
        self.is_user = token is not None

    def find_repository(self, name: str, is_change: bool = False) -> Repository:
        """The repository of a name, if who asks may read or change it."""
        if is_change and not self.is_user:
            raise RequestError(401, None, "Invalid username or password.")
        if name not in self.hub.repositories:  # without a token, missing and private look the same
            raise RequestError(404 if self.is_user else 401, "RepoNotFound", "Repository not found")
        if is_change and name.split("/")[0] != USER:
            raise RequestError(403, None, f"You don't have the rights to change {name}")
        return self.hub.repositories[name]

    def find_commit(self, name: str, revision: str) -> Commit:
        """The commit of a revision."""
        commit = self.find_repository(name).find(revision)
        if commit is None:
            raise RequestError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def name_user(self):
        if not self.is_user:
            raise RequestError(401, None, "Invalid username or password.")
        self.send_json({"type": "user", "name": USER, "orgs": []})

    def create_repository(self):
        if not self.is_user:
            raise RequestError(401, None, "Invalid username or password.")
        owner = self.json.get("organization") or USER
        if owner != USER:
            raise RequestError(403, None, f"You don't have the rights to create a model under the namespace {owner}")
        name = f"{owner}/{self.json['name']}"
        url = {"url": f"{self.hub.url}/{name}"}
        if name in self.hub.repositories:
            return self.send_json({**url, "error": "You already created this model repo"}, 409)
        self.hub.repositories[name] = Repository()
        self.send_json(url)

    def check_card(self):
        self.send_json({"errors": [], "warnings": []})

    def choose_upload(self, name: str, revision: str):
        self.find_repository(name, is_change=True)
        commit, answers = self.find_commit(name, revision), []
        for file in self.json["files"]:
            path, oid = file["path"], commit.files.get(file["path"])
            known = self.hub.describe(path, oid) if oid else {"oid": None}
            answers.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if path.endswith(LARGE_FILES) else "regular",
                    "shouldIgnore": False,
                    "oid": known.get("lfs", known)["oid"],
                }
            )
        self.send_json({"files": answers})

    def prepare_upload(self, name: str):
        self.find_repository(name, is_change=True)
        objects = []
        for wanted in self.json["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            objects.append({"oid": oid, "size": size})
            if oid in self.hub.blobs:
                continue
            place = f"{self.hub.url}/objects/{oid}"
            upload = {"href": place}
            if size > PART_SIZE:
                count = -(-size // PART_SIZE)
                parts = {str(number): f"{place}/{number}" for number in range(1, count + 1)}
                upload = {"href": f"{place}/complete", "header": {"chunk_size": str(PART_SIZE), **parts}}
            objects[-1]["actions"] = {"upload": upload, "verify": {"href": f"{place}/verify"}}
        self.send_json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str, number: str | None):
        if number is None:
            self.keep(oid, self.body)
        else:
            self.hub.parts[oid, int(number)] = self.body
        self.send(b"", headers={"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def complete_upload(self, oid: str):
        numbers = [part["partNumber"] for part in self.json["parts"]]
        self.keep(oid, b"".join(self.hub.parts[oid, number] for number in numbers))
        self.send_json({})

    def keep(self, oid: str, content: bytes):
        """Store an upload whose digest is the announced one."""
        if hashlib.sha256(content).hexdigest() != oid:
            raise RequestError(400, None, f"The digest of the upload must be {oid}")
        self.hub.store(content)

    def verify_upload(self, oid: str):
        if len(self.hub.blobs.get(oid, b"")) != self.json["size"]:
            raise RequestError(404, None, f"{oid} was not uploaded")
        self.send_json({})

    def commit(self, name: str, revision: str):
        repository = self.find_repository(name, is_change=True)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header, changes, deleted = lines[0]["value"], {}, set()
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                deleted.add(value["path"])
                continue
            changes[value["path"]] = (
                value["oid"] if line["key"] == "lfsFile" else self.hub.store(base64.b64decode(value["content"]))
            )
        missing = [path for path, oid in changes.items() if oid not in self.hub.blobs]
        if missing:
            raise RequestError(400, None, f"Never uploaded: {', '.join(missing)}")
        if self.hub.meeting is not None:
            self.hub.meeting.wait()
        with self.hub.lock:
            head = repository.branches.get(revision)
            if head is None:
                raise RequestError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            if header.get("parentCommit", head.sha) != head.sha:
                raise RequestError(412, None, "A commit has happened since. Please refresh and try again.")
            kept = {path: oid for path, oid in head.files.items() if path not in deleted}
            head = repository.branches[revision] = Commit({**kept, **changes}, header["summary"], head)
        self.send_json(
            {"success": True, "commitOid": head.sha, "commitUrl": f"{self.hub.url}/{name}/commit/{head.sha}"}
        )

    def describe_model(self, name: str, revision: str = "main"):
        commit = self.find_commit(name, revision)
        files = [{"rfilename": path} for path in sorted(commit.files)]
        self.send_json({"id": name, "sha": commit.sha, "private": False, "tags": [], "siblings": files})

    def list_files(self, name: str, revision: str, folder: str | None = None):
        commit, is_deep = self.find_commit(name, revision), parse_qs(urlsplit(self.path).query).get("recursive")
        prefix = f"{folder}/" if folder else ""
        paths = [path for path in sorted(commit.files) if path.startswith(prefix)]
        if folder and not paths:
            raise RequestError(404, "EntryNotFound", f"{folder} does not exist")
        if is_deep not in (["true"], ["True"]):
            paths = [path for path in paths if "/" not in path.removeprefix(prefix)]
        self.send_json([self.hub.describe(path, commit.files[path]) for path in paths])

    def list_references(self, name: str):
        repository = self.find_repository(name)
        kinds = {"branches": ("heads", repository.branches), "tags": ("tags", repository.tags)}
        answer = {"converts": []}
        for kind, (folder, commits) in kinds.items():
            answer[kind] = [
                {"name": reference, "ref": f"refs/{folder}/{reference}", "targetCommit": commit.sha}
                for reference, commit in commits.items()
            ]
        self.send_json(answer)

    def list_commits(self, name: str, revision: str):
        history = self.find_commit(name, revision).list_history()
        self.send_json(
            [
                {"id": commit.sha, "title": commit.title, "message": "", "authors": [{"user": USER}], "date": DATE}
                for commit in history
            ]
        )

    def describe_paths(self, name: str, revision: str):
        commit, asked = self.find_commit(name, revision), parse_qs(self.body.decode())["paths"]
        self.send_json([self.hub.describe(path, commit.files[path]) for path in asked if path in commit.files])

    def create_branch(self, name: str, branch: str):
        repository = self.find_repository(name, is_change=True)
        if branch in repository.branches:
            raise RequestError(409, None, f"Reference already exists: {branch}")
        repository.branches[branch] = self.find_commit(name, self.json.get("startingPoint", "main"))
        self.send_json({})

    def create_tag(self, name: str, revision: str):
        repository = self.find_repository(name, is_change=True)
        repository.tags[self.json["tag"]] = self.find_commit(name, revision)
        self.send_json({})

    def give_file(self, name: str, revision: str, path: str):
        commit = self.find_commit(name, revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            message = "Entry not found"
            return self.send(b"", 404, {**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": message})
        entry, content = self.hub.describe(path, commit.files[path]), self.hub.blobs[commit.files[path]]
        headers |= {"ETag": f'"{entry["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": f'"{entry["lfs"]["oid"]}"', "X-Linked-Size": str(len(content))}
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found.group(1)) if found else 0
        if found:
            self.hub.ranges.append(found.group(0))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.cut_at is None or self.command == "HEAD":
            return self.send(content[start:], 206 if found else 200, headers)
        # All is announced, and not all is sent.
        headers["Content-Length"] = str(len(content) - start)
        self.send(content[start : max(start, self.cut_at)], 206 if found else 200, headers)
        self.cut()


MODEL = r"/api/models/(?P<name>[^/]+/[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", "name_user"),
    ("POST", r"/api/repos/create", "create_repository"),
    ("POST", r"/api/validate-yaml", "check_card"),
    ("POST", rf"{MODEL}/preupload/(?P<revision>.+)", "choose_upload"),
    ("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "prepare_upload"),
    ("PUT", r"/objects/(?P<oid>\w+)(/(?P<number>\d+))?", "upload"),
    ("POST", r"/objects/(?P<oid>\w+)/complete", "complete_upload"),
    ("POST", r"/objects/(?P<oid>\w+)/verify", "verify_upload"),
    ("POST", rf"{MODEL}/commit/(?P<revision>.+)", "commit"),
    ("POST", rf"{MODEL}/branch/(?P<branch>.+)", "create_branch"),
    ("POST", rf"{MODEL}/tag/(?P<revision>.+)", "create_tag"),
    ("POST", rf"{MODEL}/paths-info/(?P<revision>.+)", "describe_paths"),
    ("GET", MODEL, "describe_model"),
    ("GET", rf"{MODEL}/revision/(?P<revision>.+)", "describe_model"),
    ("GET", rf"{MODEL}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", "list_files"),
    ("GET", rf"{MODEL}/refs", "list_references"),
    ("GET", rf"{MODEL}/commits/(?P<revision>.+)", "list_commits"),
    ("GET HEAD", r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "give_file"),
]
