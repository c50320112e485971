"""A hub on the loopback interface: what the huggingface_hub client needs to upload and download models, over real HTTP.

with Hub(tokens={"hf_me": "me"}) as hub:
    sha = hub.create("me/net", {"model.safetensors": b"..."})
    hub.faults.push("truncate", path="/lfs/", after=100)  # the next GET there ends after 100 bytes
    hf_hub_download("me/net", "model.safetensors", revision=sha, endpoint=hub.endpoint, cache_dir=folder)
    assert len(hub.seen("GET", "/lfs/")) == 2

Its own process, for tests that kill it: `python tests/hub_server.py --token hf_me=me` prints the endpoint.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import socket
import struct
import sys
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

from keras_cnn.checkpoints.licences import LICENCES

BAD_TOKEN = "Invalid credentials in Authorization header"
STALE_PARENT = "A commit has happened since. Please refresh and try again."
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass
class Ask:
    method: str
    path: str  # still percent-encoded: a revision may contain a slash
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    user: str = ""  # empty: anonymous

    def json(self) -> Any:
        return json.loads(self.body)

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("true", "1")


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hubs: bool = True  # rather than a fault's


class Refused(Exception):
    """An error as an answer. The client chooses its exception by the code."""

    def __init__(self, status: int, message: str = "", code: str = "", headers: Mapping[str, str] | None = None):
        message = message or HTTPStatus(status).phrase
        super().__init__(message)
        named = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self.answer = Answer(status, json.dumps({"error": message}).encode(), named)


HEADS = ("headers", "raw")
STRIKES = ("truncate", "corrupt", "reset", "stall", "drip", "flood", *HEADS)
INSTEAD = ("answer", *range(300, 600))
KINDS = (*STRIKES, *INSTEAD)


@dataclass
class Fault:
    """Trouble for the next `times` requests (None: for all) whose method and path match the regular expressions.

    A status is sent instead of an answer. A body fault strikes `after` so many bytes of a body (None: half of it), and
    passes by redirects and errors. `reset`, `stall` and `drip` after 0 bytes strike before the headers, so even a HEAD.
    `answer` sends `status`, `headers` and `body` instead of the hub's own; `raw` sends `body` and no HTTP; `headers`
    changes the hub's own headers, as every other kind does too where they are given (None: left out).
    """

    kind: int | str  # a status, or one of KINDS
    method: str = "GET"
    path: str = ""
    times: int | None = 1
    after: int | None = None
    seconds: float = 1  # how long `stall` lasts, between two bytes of `drip`, and the Retry-After of a 429
    code: str | None = None  # X-Error-Code, unless the usual one
    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes = b""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no such fault: {self.kind}")

    def refusal(self) -> Refused:
        usual = {401: (BAD_TOKEN, ""), 403: ("", "GatedRepo"), 404: ("", "EntryNotFound"), 412: (STALE_PARENT, "")}
        message, code = usual.get(int(self.kind), ("", ""))
        headers = {"Retry-After": str(round(self.seconds))} if self.kind == 429 else {}
        headers |= {name: text for name, text in self.headers.items() if text is not None}
        return Refused(int(self.kind), message, code if self.code is None else self.code, headers)


class Faults(list[Fault]):
    """Faults to come; a request meets the first one that matches it."""

    def push(self, kind: int | str, method: str = "GET", path: str = "", **how: Any) -> Fault:
        self.append(Fault(kind, method, path, **how))
        return self[-1]

    def take(self, ask: Ask, kinds: Collection[int | str]) -> Fault | None:
        for fault in self:
            fits = fault.kind in kinds and re.fullmatch(fault.method, ask.method)
            if fits and fault.times != 0 and re.search(fault.path, ask.path):
                fault.times = fault.times and fault.times - 1
                return fault
        return None


@dataclass
class Commit:
    sha: str
    parent: str | None
    title: str
    author: str
    date: str
    files: dict[str, bytes]


@dataclass
class Repo:
    name: str
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)  # who may read a private or gated one, besides its owner
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    def at(self, revision: str) -> Commit:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]


class Hub:
    """Repositories in memory, and the server in front of them."""

    def __init__(self, tokens: Mapping[str, str] | None = None, *, lfs_threshold: int = 1024, port: int = 0):
        self.tokens, self.lfs_threshold = dict(tokens or {}), lfs_threshold
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}  # by sha256, for all repositories
        self.requests: list[tuple[str, str, int]] = []
        self.authorized: list[tuple[str, str]] = []  # path and Authorization of the requests that had one
        self.faults = Faults()
        self.lock, self.closed = threading.RLock(), threading.Event()
        self._server = Server(("127.0.0.1", port), Connection)
        self._server.hub = self

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed.set()  # ends stalls
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def create(
        self, repo: str, files: Mapping[str, bytes] | None = None, *, private: bool = False, gated: bool = False
    ) -> str:
        """A new repository; the sha of its first commit."""
        with self.lock:
            self.repos[repo] = Repo(repo, private, gated)
            return self.commit(repo, files or {}, message="initial commit")

    def commit(
        self, repo: str, files: Mapping[str, bytes | None], branch: str = "main", message: str = "edit", user: str = ""
    ) -> str:
        """Change files, or delete them where the content is None. A new branch starts from main."""
        with self.lock:
            home = self.repos[repo]
            parent = home.branches.get(branch) or home.branches.get("main")
            merged = {**(home.commits[parent].files if parent else {}), **files}
            kept = {path: data for path, data in sorted(merged.items()) if data is not None}
            self.lfs |= {sha256(data): data for path, data in kept.items() if self.is_lfs(path, len(data))}
            hashes = [(path, sha256(data)) for path, data in kept.items()]
            sha = hashlib.sha1(json.dumps([repo, len(home.commits), parent, message, hashes]).encode()).hexdigest()
            date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            home.commits[sha] = Commit(sha, parent, message, user or home.owner, date, kept)
            home.branches[branch] = sha
            return sha

    def tag(self, repo: str, name: str, sha: str = "main") -> None:
        self.repos[repo].tags[name] = self.repos[repo].at(sha).sha

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        return dict(self.repos[repo].at(revision).files)

    def seen(self, method: str = ".*", path: str = "") -> list[tuple[str, str, int]]:
        """The requests so far whose method and path match the regular expressions."""
        return [ask for ask in list(self.requests) if re.fullmatch(method, ask[0]) and re.search(path, ask[1])]

    def is_lfs(self, path: str, size: int) -> bool:
        always = path.endswith(".safetensors") and size > 0  # the client sends empty files as regular ones
        return always or size >= self.lfs_threshold

    def entry(self, path: str, data: bytes) -> dict[str, Any]:
        """A file as the tree tells it; git has only a pointer to one in LFS."""
        if not self.is_lfs(path, len(data)):
            return {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
        oid = sha256(data)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n".encode()
        lfs = {"oid": oid, "size": len(data), "pointerSize": len(pointer)}
        return {"type": "file", "path": path, "size": len(data), "oid": git_sha1(pointer), "lfs": lfs}

    def answer(self, ask: Ask) -> tuple[Answer, Fault | None]:
        """The answer, and what shall go wrong while it is sent."""
        with self.lock:
            if "Authorization" in ask.headers:
                self.authorized.append((ask.path, ask.headers["Authorization"]))
            try:
                answer = self.handle(ask)
            except Refused as refusal:
                answer = refusal.answer
            self.requests.append((ask.method, ask.path, answer.status))
            return answer, self.faults.take(ask, STRIKES if answer.status < 300 else HEADS) if answer.hubs else None

    def handle(self, ask: Ask) -> Answer:
        if fault := self.faults.take(ask, INSTEAD):
            if fault.kind == "answer":
                headers = {name: text for name, text in fault.headers.items() if text is not None}
                return Answer(fault.status, fault.body, headers, hubs=False)
            raise fault.refusal()
        token = ask.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            raise Refused(401, BAD_TOKEN)
        ask.user = self.tokens[token] if token else ""
        for method, pattern, need, handler in ROUTES:
            match = re.fullmatch(pattern, ask.path)
            if not match or not re.fullmatch(method, ask.method):
                continue
            if need == "user" and not ask.user:
                raise Refused(401, "Invalid username or password.")
            given: dict[str, Any] = {name: unquote(text or "") for name, text in match.groupdict().items()}
            if "repo" in given:
                given["repo"] = self.admit(given["repo"], ask.user, need)
            if "rev" in given:
                given["rev"] = given["repo"].at(given["rev"] or "main")
            value = handler(self, ask, **given)
            return value if isinstance(value, Answer) else Answer(200, json.dumps(value).encode())
        raise Refused(404, "The test hub has no such route")

    def admit(self, name: str, user: str, need: str) -> Repo:
        """The repository, if `user` may do there what the route needs. A private one does not exist for others."""
        repo = self.repos.get(name)
        inside = repo is not None and user in {repo.owner, *repo.readers}
        if repo is None or (repo.private and not inside):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if need == "file" and repo.gated and not inside:
            raise Refused(403 if user else 401, f"Access to model {name} is restricted", "GatedRepo")
        if need == "write" and user != repo.owner:
            raise Refused(403 if user else 401, f"You have no write access to {name}")
        return repo


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def whoami(hub: Hub, ask: Ask) -> dict:
    token = {"displayName": "test", "role": "write"}
    return {"type": "user", "name": ask.user, "fullname": ask.user, "orgs": [], "auth": {"accessToken": token}}


def validate_yaml(hub: Hub, ask: Ask) -> dict | Answer:
    """What the Hub says of the header of a card, by its documentation of model cards."""
    header = re.match(r"---\n(.*?)^---$", ask.json()["content"], re.DOTALL | re.MULTILINE)
    try:
        told, wrong = yaml.safe_load(header[1]) if header else {}, []  # a card may have none
    except yaml.YAMLError as error:
        told, wrong = {}, [f"the header is no YAML: {error}"]
    texts = [told.get(key) for key in ("library_name", "pipeline_tag", "license_name") if key in told]
    texts += [tag for key in ("tags", "datasets", "language") for tag in told.get(key) or []]
    wrong += [f"{text!r} is no text" for text in texts if not isinstance(text, str)]
    if told.get("license", "mit") not in LICENCES:
        wrong.append(f'"license" must be one of {len(LICENCES)} names')
    if told.get("license") == "other" and not re.fullmatch(r"[a-z0-9-.]+", str(told.get("license_name", ""))):
        wrong.append('"license_name" must be there, in small letters, digits, dots and hyphens')
    for model in told.get("model-index") or []:
        for result in model.get("results") or [{}]:
            named = [model.get("name"), result.get("task", {}).get("type")]
            named += [result.get("dataset", {}).get(key) for key in ("type", "name")]
            metrics = result.get("metrics") or [{}]
            if not all(isinstance(text, str) and text for text in [*named, *(one.get("type") for one in metrics)]):
                wrong.append(f"model-index: a result of {model.get('name')!r} lacks a name or a type")
            if any(one.get("value") is None for one in metrics):
                wrong.append("model-index: a metric without a value")
    found = {"errors": [{"message": text} for text in wrong], "warnings": []}
    return Answer(400, json.dumps(found).encode()) if wrong else found


def create_repo(hub: Hub, ask: Ask) -> dict | Answer:
    wish = ask.json()
    owner = wish.get("organization") or ask.user
    name = f"{owner}/{wish['name']}"
    if owner != ask.user:
        raise Refused(403, f"You have no right to create {name}")
    url = {"url": f"{hub.endpoint}/{name}"}
    if name in hub.repos:  # with exist_ok, the client reads the url from the error too
        return Answer(409, json.dumps({**url, "error": "This repository exists already"}).encode())
    hub.create(name, {".gitattributes": ATTRIBUTES}, private=wish.get("visibility") == "private")
    return url


def delete_repo(hub: Hub, ask: Ask) -> dict:
    wish = ask.json()
    repo = hub.admit(f"{wish.get('organization') or ask.user}/{wish['name']}", ask.user, "write")
    del hub.repos[repo.name]
    return {}


def info(hub: Hub, ask: Ask, repo: Repo, rev: Commit) -> dict:
    siblings = []
    for path, data in rev.files.items():
        entry = hub.entry(path, data)
        known = {"size": entry["size"], "blobId": entry["oid"]}
        if lfs := entry.get("lfs"):
            known["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        siblings.append({"rfilename": path, **(known if ask.flag("blobs") else {})})
    gated, created = "auto" if repo.gated else False, next(iter(repo.commits.values())).date
    about = {"id": repo.name, "author": repo.owner, "sha": rev.sha, "private": repo.private, "gated": gated}
    return {**about, "createdAt": created, "lastModified": rev.date, "tags": [], "siblings": siblings}


def entries(hub: Hub, commit: Commit) -> dict[str, dict[str, Any]]:
    """Files and the folders above them."""
    found: dict[str, dict[str, Any]] = {}
    for path, data in commit.files.items():
        for folder in map(str, list(PurePosixPath(path).parents)[:-1]):
            found[folder] = {"type": "directory", "path": folder, "size": 0, "oid": git_sha1(folder.encode())}
        found[path] = hub.entry(path, data)
    return found


def tree(hub: Hub, ask: Ask, repo: Repo, rev: Commit, path: str) -> list:
    prefix = f"{path}/" if path else ""
    inside = {name: entry for name, entry in entries(hub, rev).items() if name.startswith(prefix)}
    if path and not inside:
        raise Refused(404, f"{path} does not exist", "EntryNotFound")
    deep = ask.flag("recursive")
    return [entry for name, entry in inside.items() if deep or "/" not in name.removeprefix(prefix)]


def paths_info(hub: Hub, ask: Ask, repo: Repo, rev: Commit) -> list:
    found = entries(hub, rev)
    return [found[path] for path in parse_qs(ask.body.decode()).get("paths", ()) if path in found]


def refs(hub: Hub, ask: Ask, repo: Repo) -> dict:
    def told(kind: str, names: dict[str, str]) -> list:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]

    return {"branches": told("heads", repo.branches), "tags": told("tags", repo.tags), "converts": []}


def commits(hub: Hub, ask: Ask, repo: Repo, rev: Commit) -> list:
    line = [rev]
    while parent := line[-1].parent:
        line.append(repo.commits[parent])
    return [
        {"id": c.sha, "title": c.title, "message": "", "date": c.date, "authors": [{"user": c.author}]} for c in line
    ]


def add(names: dict[str, str], name: str, commit: Commit) -> dict:
    if name in names:
        raise Refused(409, f"Reference {name} exists already")
    names[name] = commit.sha
    return {}


def add_branch(hub: Hub, ask: Ask, repo: Repo, name: str) -> dict:
    return add(repo.branches, name, repo.at(ask.json().get("startingPoint", "main")))


def add_tag(hub: Hub, ask: Ask, repo: Repo, rev: Commit) -> dict:
    return add(repo.tags, ask.json()["tag"], rev)


def drop(hub: Hub, ask: Ask, repo: Repo, kind: str, name: str) -> dict:
    names = repo.branches if kind == "branch" else repo.tags
    if name not in names:
        raise Refused(404, f"Reference {name} does not exist", "RevisionNotFound")
    return {"deleted": names.pop(name)}


def preupload(hub: Hub, ask: Ask, repo: Repo, rev: Commit) -> dict:
    """How to send each file, and the hash of what is there already: the client leaves out what did not change."""

    def told(path: str, size: int) -> dict:
        old: dict[str, Any] = hub.entry(path, rev.files[path]) if path in rev.files else {"oid": None}
        mode = "lfs" if hub.is_lfs(path, size) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": old.get("lfs", old)["oid"]}

    return {"files": [told(file["path"], file["size"]) for file in ask.json()["files"]]}


def lfs_batch(hub: Hub, ask: Ask, repo: Repo) -> dict:
    objects = [{"oid": wish["oid"], "size": wish["size"]} for wish in ask.json()["objects"]]
    for one in objects:
        if one["oid"] not in hub.lfs:  # no actions for what is stored
            one["actions"] = {"upload": {"href": f"{hub.endpoint}/lfs/{repo.name}/{one['oid']}", "header": {}}}
    return {"transfer": "basic", "objects": objects}


def lfs_put(hub: Hub, ask: Ask, oid: str) -> dict:
    if sha256(ask.body) != oid:
        raise Refused(400, "The content has another sha256")
    hub.lfs[oid] = ask.body
    return {}


def lfs_get(hub: Hub, ask: Ask, oid: str) -> Answer:
    if oid not in hub.lfs:
        raise Refused(404, "No such object")
    return content(ask, hub.lfs[oid], {"ETag": f'"{oid}"'})


def commit(hub: Hub, ask: Ask, repo: Repo, branch: str) -> dict:
    """A commit as lines of JSON: a header, then a line a change."""
    if branch not in repo.branches:
        raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    head, title, changes = repo.at(branch), "", {}
    for line in map(json.loads, ask.body.splitlines()):
        key, value = line["key"], line["value"]
        path = value.get("path", "")
        if key == "header":
            title = value["summary"]
            if value.get("parentCommit", head.sha) != head.sha:
                raise Refused(412, STALE_PARENT)
        elif key == "file":
            changes[path] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            if value["oid"] not in hub.lfs:
                raise Refused(400, f"The content of {path} was not uploaded")
            changes[path] = hub.lfs[value["oid"]]
        else:  # deletedFile, deletedFolder
            gone = [name for name in head.files if name == path or name.startswith(path.rstrip("/") + "/")]
            if not gone:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            changes |= dict.fromkeys(gone)
    sha = hub.commit(repo.name, changes, branch, title, ask.user)
    return {"commitUrl": f"{hub.endpoint}/{repo.name}/commit/{sha}", "commitOid": sha}


def resolve(hub: Hub, ask: Ask, repo: Repo, rev: Commit, path: str) -> Answer:
    headers = {"X-Repo-Commit": rev.sha}
    if path not in rev.files:
        raise Refused(404, "Entry not found", "EntryNotFound", headers)
    data = rev.files[path]
    entry = hub.entry(path, data)
    headers["ETag"] = f'"{entry["oid"]}"'
    if "lfs" not in entry:
        return content(ask, data, headers)
    oid = entry["lfs"]["oid"]
    headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
    if ask.method == "HEAD":  # no redirect: the client would follow it within one origin, and miss these headers there
        return Answer(200, data, headers)
    return Answer(302, b"", {**headers, "Location": f"{hub.endpoint}/lfs/{repo.name}/{oid}/{quote(path)}"})


def content(ask: Ask, data: bytes, headers: dict[str, str]) -> Answer:
    """The bytes of a file, or the range that was asked for: N-M, N- or the last -N."""
    asked = re.fullmatch(r"bytes=(?=.*\d)(\d*)-(\d*)", ask.headers.get("Range", ""))
    if not asked:
        return Answer(200, data, headers)
    first, last = asked.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= stop:
        raise Refused(416, headers={"Content-Range": f"bytes */{len(data)}"})
    return Answer(206, data[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})


# Method, path, what the user needs there, handler. `repo` and `rev` reach a handler as Repo and Commit.
ID, REV, NAME = r"(?P<repo>[^/]+/[^/]+)", r"(?P<rev>[^/]+)", r"(?P<name>[^/]+)"
MODEL, LFS = rf"/api/models/{ID}", r"/lfs/[^/]+/[^/]+/(?P<oid>[0-9a-f]{64})"
ROUTES: list[tuple[str, str, str, Any]] = [
    ("GET", r"/api/whoami-v2", "user", whoami),
    ("POST", r"/api/validate-yaml", "", validate_yaml),
    ("POST", r"/api/repos/create", "user", create_repo),
    ("DELETE", r"/api/repos/delete", "user", delete_repo),
    ("GET", rf"{MODEL}(/revision/{REV})?", "read", info),
    ("GET", rf"{MODEL}/tree/{REV}(/(?P<path>.+))?", "read", tree),
    ("POST", rf"{MODEL}/paths-info/{REV}", "read", paths_info),
    ("GET", rf"{MODEL}/refs", "read", refs),
    ("GET", rf"{MODEL}/commits/{REV}", "read", commits),
    ("POST", rf"{MODEL}/branch/{NAME}", "write", add_branch),
    ("POST", rf"{MODEL}/tag/{REV}", "write", add_tag),
    ("DELETE", rf"{MODEL}/(?P<kind>branch|tag)/{NAME}", "write", drop),
    ("POST", rf"{MODEL}/preupload/{REV}", "write", preupload),
    ("POST", rf"/{ID}\.git/info/lfs/objects/batch", "write", lfs_batch),
    ("POST", rf"{MODEL}/commit/(?P<branch>[^/]+)", "write", commit),
    ("HEAD|GET", rf"/{ID}/resolve/{REV}/(?P<path>.+)", "file", resolve),
    ("PUT", LFS, "", lfs_put),  # what is under /lfs/ stands for signed addresses, which ask for no token
    ("HEAD|GET", rf"{LFS}/.+", "", lfs_get),
]


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # parallel downloads beyond a short queue would wait a second for their next SYN
    hub: Hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # that a client was killed is no error of ours
            super().handle_error(request, client_address)


class Connection(BaseHTTPRequestHandler):
    """One request a connection, so that a closed hub is silent at once."""

    server: Server

    def serve(self) -> None:
        url = urlsplit(self.path)
        size = int(self.headers.get("Content-Length") or 0)
        ask = Ask(self.command, url.path, parse_qs(url.query), self.headers, self.rfile.read(size))
        if len(ask.body) < size:
            return  # the client died while it sent: half a commit is none
        self.send(*self.server.hub.answer(ask))

    do_HEAD = do_GET = do_POST = do_PUT = do_DELETE = serve

    def send(self, answer: Answer, fault: Fault | None) -> None:
        body = b"" if self.command == "HEAD" else answer.body
        headers = {"Content-Length": len(answer.body), "Connection": "close", **answer.headers}
        headers |= fault.headers if fault else {}
        reason = HTTPStatus(answer.status).phrase
        lines = [f"{name}: {text}" for name, text in headers.items() if text is not None]
        head = "\r\n".join([f"HTTP/1.1 {answer.status} {reason}", *lines, "", ""]).encode("latin-1")
        if fault is None or fault.kind == "headers":
            return self.wfile.writelines((head, body))
        if fault.kind == "raw":
            return self.wfile.writelines((fault.body,))
        at = len(body) // 2 if fault.after is None else min(fault.after, max(len(body) - 1, 0))
        first = b"" if at == 0 and fault.kind in ("reset", "stall", "drip") else head + body[:at]
        rest = (head + body)[len(first) :]
        self.wfile.write(first)
        if fault.kind == "corrupt":
            self.wfile.write(bytes(byte ^ 255 for byte in rest[:1]) + rest[1:])
        elif fault.kind == "stall":
            self.server.hub.closed.wait(fault.seconds)
            self.wfile.write(rest)
        elif fault.kind == "drip":
            for byte in rest:
                if self.server.hub.closed.wait(fault.seconds):
                    break
                self.wfile.write(bytes([byte]))
        elif fault.kind == "flood":
            while not self.server.hub.closed.is_set():
                self.wfile.write(bytes(1 << 16))
        elif fault.kind == "reset":  # lingering for 0 seconds sends RST; `rfile` would keep the socket open
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description="A hub for tests; prints its endpoint.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", action="append", default=[], metavar="TOKEN=USER")
    wish = parser.parse_args()
    with Hub(dict(pair.split("=", 1) for pair in wish.token), port=wish.port) as hub, suppress(KeyboardInterrupt):
        print(hub.endpoint, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
