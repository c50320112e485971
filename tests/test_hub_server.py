"""The loopback hub, driven by the unmodified client."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from hashlib import sha256
from pathlib import Path

import pytest
from hub_server import Hub
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

pytestmark = pytest.mark.no_keras

WEIGHTS = bytes(range(256)) * 64
CONFIG = b'{"network": "tiny"}'
FILES = {"model.safetensors": WEIGHTS, "config.json": CONFIG}
RESOLVED, LFS = r"/resolve/", r"^/lfs/"


@pytest.fixture(autouse=True)
def _client(monkeypatch):
    """The settings of the client that it reads at import, whoever imported it first."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long the client waited between its attempts, if it had waited."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


@pytest.fixture
def hub():
    with Hub(tokens={"hf_me": "me", "hf_you": "you"}) as hub:
        yield hub


def api(hub: Hub, token: str | bool = "hf_me") -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=token)


def fetch(hub: Hub, cache: Path, name: str = "model.safetensors", token: str | bool = False, **how) -> bytes:
    path = hf_hub_download("me/net", name, endpoint=hub.endpoint, cache_dir=cache, token=token, **how)
    return Path(path).read_bytes()


def adds(files: dict[str, bytes]) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(path, data) for path, data in files.items()]


def push(hub: Hub, files: dict[str, bytes], token: str | bool = "hf_me", **how) -> str:
    return api(hub, token).create_commit("me/net", adds(files), commit_message="push", **how).oid


def statuses(hub: Hub, method: str, path: str) -> list[int]:
    return [status for _, _, status in hub.seen(method, path)]


# Uploading


def test_round_trip(hub, tmp_path):
    assert api(hub).whoami()["name"] == "me"
    assert api(hub).create_repo("me/net").repo_id == "me/net"
    sha = push(hub, {**FILES, "README.md": b"---\nlicense: mit\n---\n"})
    assert fetch(hub, tmp_path) == WEIGHTS
    assert fetch(hub, tmp_path, "config.json", revision=sha) == CONFIG
    assert set(hub.files("me/net")) == {*FILES, "README.md", ".gitattributes"}
    assert statuses(hub, "PUT", LFS) == [200]
    assert hub.seen("POST", "/validate-yaml")


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("license: mine", "must be one of"),
        ("license: other", '"license_name" must be there'),
        ("tags: [1]", "1 is no text"),
        ("license: [", "is no YAML"),
        ("model-index: [{name: a, results: [{task: {type: b}, metrics: [{type: c, value: 1}]}]}]", "lacks a name"),
    ],
)
def test_a_card_that_the_hub_would_refuse_is_refused(hub, header, why):
    api(hub).create_repo("me/net")
    with pytest.raises(ValueError, match=re.escape(why)):
        push(hub, {**FILES, "README.md": f"---\n{header}\n---\n".encode()})


def test_an_upload_from_a_file_on_disk(hub, tmp_path):
    hub.create("me/net")
    (tmp_path / "weights").write_bytes(WEIGHTS)
    api(hub).upload_file(path_or_fileobj=tmp_path / "weights", path_in_repo="a/model.safetensors", repo_id="me/net")
    assert hub.files("me/net") == {"a/model.safetensors": WEIGHTS}


def test_an_existing_repository(hub):
    hub.create("me/net")
    with pytest.raises(HfHubHTTPError, match="409"):
        api(hub).create_repo("me/net")
    assert api(hub).create_repo("me/net", exist_ok=True).repo_id == "me/net"


def test_a_repository_is_deleted_by_its_owner(hub):
    hub.create("me/net", FILES)
    for token, status in {"hf_you": 403, "hf_bad": 401}.items():
        with pytest.raises(HfHubHTTPError, match=str(status)):
            api(hub, token).delete_repo("me/net")
    assert hub.files("me/net") == FILES
    api(hub).delete_repo("me/net")
    assert not hub.repos
    with pytest.raises(RepositoryNotFoundError):
        api(hub).delete_repo("me/net")
    api(hub).delete_repo("me/net", missing_ok=True)


def test_what_is_there_is_not_sent_again(hub):
    sha = hub.create("me/net", FILES)
    assert push(hub, FILES) == sha
    assert not hub.seen("POST", "/commit/")
    push(hub, {"copy.safetensors": WEIGHTS})
    assert hub.files("me/net")["copy.safetensors"] == WEIGHTS
    assert not hub.seen("PUT")


def test_deletions_and_copies(hub):
    hub.create("me/net", {**FILES, "runs/1": b"1", "runs/a/2": b"2", "old": b"o"})
    operations = [
        CommitOperationDelete("runs/"),
        CommitOperationDelete("old"),
        CommitOperationCopy("model.safetensors", "again.safetensors"),
        CommitOperationCopy("config.json", "again.json"),
    ]
    api(hub).create_commit("me/net", operations, commit_message="tidy")
    assert hub.files("me/net") == {**FILES, "again.safetensors": WEIGHTS, "again.json": CONFIG}
    with pytest.raises(EntryNotFoundError):
        api(hub).delete_file("old", "me/net")


def test_a_stale_parent(hub):
    first = hub.create("me/net", FILES)
    second = hub.commit("me/net", {"config.json": b"theirs"})
    with pytest.raises(HfHubHTTPError, match="412"):
        push(hub, {"config.json": b"mine"}, parent_commit=first)
    assert hub.files("me/net")["config.json"] == b"theirs"
    push(hub, {"config.json": b"mine"}, parent_commit=second)
    assert hub.files("me/net")["config.json"] == b"mine"


def test_content_that_did_not_arrive(hub):
    """The store refuses other bytes than the announced ones, and the hub a commit of what is not stored."""
    hub.create("me/net")
    oid = sha256(WEIGHTS).hexdigest()
    line = {"key": "lfsFile", "value": {"path": "model.safetensors", "oid": oid}}
    for method, path, body in [
        ("PUT", f"lfs/me/net/{oid}", WEIGHTS[:-1]),
        ("POST", "api/models/me/net/commit/main", json.dumps(line).encode()),
    ]:
        headers = {"Authorization": "Bearer hf_me"}
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(urllib.request.Request(f"{hub.endpoint}/{path}", body, headers, method=method))
    assert hub.files("me/net") == {} == hub.lfs


def test_half_a_request_is_none(hub):
    hub.create("me/net")
    with socket.create_connection(hub.endpoint.removeprefix("http://").split(":")) as client:
        client.sendall(b"POST /api/models/me/net/commit/main HTTP/1.1\r\nContent-Length: 99\r\n\r\n{")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert not hub.requests


def test_a_commit_whose_answer_is_lost(hub):
    hub.create("me/net")
    hub.faults.push("reset", "POST", "/commit/", after=0)
    with pytest.raises(Exception, match="reset by peer"):
        push(hub, FILES)
    assert hub.files("me/net") == FILES
    assert push(hub, FILES) == hub.repos["me/net"].at("main").sha
    assert len(hub.seen("POST", "/commit/")) == 1


# Reading


def test_the_listings(hub):
    sha = hub.create("me/net", {**FILES, "logs/a/b.txt": b"b"})
    client = api(hub, False)
    told = client.repo_info("me/net", files_metadata=True)
    weights = {file.rfilename: file for file in told.siblings}["model.safetensors"]
    assert (told.sha, told.private, told.gated) == (sha, False, False)
    assert (weights.size, weights.lfs.sha256) == (len(WEIGHTS), sha256(WEIGHTS).hexdigest())
    assert client.repo_info("me/net").siblings[0].size is None
    assert client.list_repo_files("me/net") == ["config.json", "logs/a/b.txt", "model.safetensors"]
    assert [entry.path for entry in client.list_repo_tree("me/net")] == ["config.json", "logs", "model.safetensors"]
    assert [entry.path for entry in client.list_repo_tree("me/net", "logs")] == ["logs/a"]
    known = client.get_paths_info("me/net", ["logs", "model.safetensors", "nothing"])
    assert [entry.path for entry in known] == ["logs", "model.safetensors"]
    assert known[1].lfs == weights.lfs and known[1].blob_id == weights.blob_id
    with pytest.raises(EntryNotFoundError):
        list(client.list_repo_tree("me/net", "nothing"))


def test_a_snapshot(hub, tmp_path):
    sha = hub.create("me/net", {**FILES, "logs/a/b.txt": b"b"})
    folder = Path(snapshot_download("me/net", endpoint=hub.endpoint, cache_dir=tmp_path, token=False))
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == hub.files("me/net", sha)


def test_branches_tags_and_commits(hub, tmp_path):
    first = hub.create("me/net", {"config.json": b"1"})
    client = api(hub)
    client.create_tag("me/net", tag="v1.0")
    client.create_branch("me/net", branch="try/this")
    second = push(hub, {"config.json": b"2"}, revision="try/this")
    client.create_tag("me/net", tag="v2/b", revision="try/this")
    hub.tag("me/net", "v3", second)
    for revision, content in {
        "main": b"1",
        "v1.0": b"1",
        "try/this": b"2",
        "v2/b": b"2",
        "v3": b"2",
        second: b"2",
    }.items():
        assert fetch(hub, tmp_path, "config.json", revision=revision) == content
        assert hub.files("me/net", revision) == {"config.json": content}
    assert [commit.commit_id for commit in client.list_repo_commits("me/net", revision="try/this")] == [second, first]
    refs = client.list_repo_refs("me/net")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first, "try/this": second}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1.0": first, "v2/b": second, "v3": second}
    for again in (lambda: client.create_tag("me/net", tag="v3"), lambda: client.create_branch("me/net", branch="main")):
        with pytest.raises(HfHubHTTPError, match="409"):
            again()
    client.delete_tag("me/net", tag="v3")
    client.delete_branch("me/net", branch="try/this")
    assert client.repo_info("me/net", revision="v2/b").sha == second
    for gone in ("v3", "try/this"):
        with pytest.raises(RevisionNotFoundError):
            client.repo_info("me/net", revision=gone)


def test_the_cache_asks_no_more_than_it_must(hub, tmp_path):
    sha = hub.create("me/net", FILES)
    fetch(hub, tmp_path, revision=sha)
    before = list(hub.requests)
    assert fetch(hub, tmp_path, revision=sha) == WEIGHTS
    assert hub.requests == before
    assert fetch(hub, tmp_path) == WEIGHTS
    assert [method for method, _, _ in hub.requests[len(before) :]] == ["HEAD"]
    assert statuses(hub, "GET", LFS) == [200]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "asked, part", [("bytes=3-6", slice(3, 7)), ("bytes=5-", slice(5, None)), ("bytes=-4", slice(-4, None))]
)
def test_ranges(hub, name, asked, part):
    hub.create("me/net", FILES)
    request = urllib.request.Request(f"{hub.endpoint}/me/net/resolve/main/{name}", headers={"Range": asked})
    with urllib.request.urlopen(request) as response:
        assert response.status == 206
        assert response.read() == FILES[name][part]


def test_a_range_behind_the_end(hub):
    hub.create("me/net", FILES)
    request = urllib.request.Request(
        f"{hub.endpoint}/me/net/resolve/main/config.json", headers={"Range": f"bytes={len(CONFIG)}-"}
    )
    with pytest.raises(urllib.error.HTTPError, match="416"):
        urllib.request.urlopen(request)


# Who may do what


def test_a_private_repository(hub, tmp_path):
    api(hub).create_repo("me/net", private=True)
    push(hub, FILES)
    assert fetch(hub, tmp_path / "me", token="hf_me") == WEIGHTS
    for token, status in {False: 401, "hf_you": 404}.items():
        with pytest.raises(RepositoryNotFoundError, match=str(status)):
            fetch(hub, tmp_path, token=token)
        with pytest.raises(RepositoryNotFoundError, match=str(status)):
            api(hub, token).repo_info("me/net")
    hub.repos["me/net"].readers.add("you")
    assert fetch(hub, tmp_path, token="hf_you") == WEIGHTS


def test_a_gated_repository(hub, tmp_path):
    hub.create("me/net", FILES, gated=True)
    for token, status in {False: 401, "hf_you": 403}.items():
        assert api(hub, token).repo_info("me/net").gated == "auto"
        with pytest.raises(GatedRepoError, match=str(status)):
            fetch(hub, tmp_path, token=token)
    hub.repos["me/net"].readers.add("you")
    assert fetch(hub, tmp_path, token="hf_you") == WEIGHTS


@pytest.mark.parametrize("token, status", [(False, 401), ("hf_you", 403), ("hf_bad", 401)])
def test_only_the_owner_writes(hub, token, status):
    hub.create("me/net", FILES)
    with pytest.raises(HfHubHTTPError, match=str(status)):
        push(hub, {"config.json": b"other"}, token=token)
    with pytest.raises(HfHubHTTPError, match=str(status)):
        api(hub, token).create_repo("me/other")
    with pytest.raises(HfHubHTTPError, match=str(status)):
        api(hub, token).create_tag("me/net", tag="v1")
    assert hub.files("me/net") == FILES


def test_a_bad_token(hub, tmp_path):
    hub.create("me/net", FILES)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api(hub, "hf_bad").whoami()
    with pytest.raises(HfHubHTTPError, match="401") as error:
        fetch(hub, tmp_path, token="hf_bad")
    assert not isinstance(error.value, RepositoryNotFoundError)


def test_what_is_missing(hub, tmp_path):
    with pytest.raises(RepositoryNotFoundError):
        fetch(hub, tmp_path)
    hub.create("me/net", FILES)
    with pytest.raises(RevisionNotFoundError):
        fetch(hub, tmp_path, revision="v9")
    with pytest.raises(EntryNotFoundError):
        fetch(hub, tmp_path, "nothing")
    assert not api(hub).file_exists("me/net", "nothing") and api(hub).file_exists("me/net", "config.json")


# Faults


@pytest.mark.parametrize("chunk, status", [(256, 206), (10 << 20, 200)])
def test_a_truncated_download_is_resumed(hub, tmp_path, waits, monkeypatch, chunk, status):
    """From the last whole chunk; the client's own are of 10 MiB, so that it gets a smaller file from the start."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", chunk)
    hub.create("me/net", FILES)
    hub.faults.push("truncate", path=LFS, after=1000)
    assert fetch(hub, tmp_path) == WEIGHTS
    assert statuses(hub, "GET", "") == [302, 200, 302, status]


def test_a_fault_may_stay(hub, tmp_path, waits):
    hub.create("me/net", FILES)
    fault = hub.faults.push("truncate", path=LFS, after=0, times=None)
    with pytest.raises(Exception, match="closed connection"):
        fetch(hub, tmp_path)
    assert fault.times is None and len(hub.seen("GET", LFS)) == 6
    hub.faults.clear()
    assert fetch(hub, tmp_path) == WEIGHTS


def test_the_client_takes_corrupt_bytes(hub, tmp_path):
    hub.create("me/net", FILES)
    hub.faults.push("corrupt", path=LFS, after=7)
    taken = fetch(hub, tmp_path)
    assert [n for n in range(len(WEIGHTS)) if taken[n] != WEIGHTS[n]] == [7] and len(taken) == len(WEIGHTS)
    assert fetch(hub, tmp_path) == taken
    assert fetch(hub, tmp_path, force_download=True) == WEIGHTS


def test_the_client_does_not_survive_a_reset(hub, tmp_path):
    hub.create("me/net", FILES)
    hub.faults.push("reset", path=LFS, after=5000)
    with pytest.raises(Exception, match="reset by peer"):
        fetch(hub, tmp_path)
    assert not list(tmp_path.rglob("*.incomplete"))
    assert fetch(hub, tmp_path) == WEIGHTS


def test_a_stalled_download_is_tried_again(hub, tmp_path, waits, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.create("me/net", FILES)
    hub.faults.push("stall", path=LFS, seconds=30)
    assert fetch(hub, tmp_path) == WEIGHTS
    assert statuses(hub, "GET", LFS) == [200, 200]


def test_a_stall_before_the_headers(hub, tmp_path, waits):
    hub.create("me/net", FILES)
    hub.faults.push("stall", "HEAD", RESOLVED, after=0, seconds=30)
    assert fetch(hub, tmp_path, etag_timeout=0.2) == WEIGHTS
    assert statuses(hub, "HEAD", RESOLVED) == [200, 200]


@pytest.mark.parametrize(
    "status, error", [(401, HfHubHTTPError), (403, GatedRepoError), (404, EntryNotFoundError), (412, HfHubHTTPError)]
)
@pytest.mark.parametrize("path", [RESOLVED, LFS])
def test_statuses(hub, tmp_path, status, error, path):
    hub.create("me/net", FILES)
    fault = hub.faults.push(status, path=path)
    with pytest.raises(error, match=str(status)):
        fetch(hub, tmp_path)
    assert fault.times == 0
    assert fetch(hub, tmp_path) == WEIGHTS


def test_the_code_of_a_status(hub, tmp_path):
    hub.create("me/net", FILES)
    hub.faults.push(404, "HEAD", code="RevisionNotFound")
    with pytest.raises(RevisionNotFoundError):
        fetch(hub, tmp_path)


def test_too_many_requests(hub, tmp_path, waits):
    hub.create("me/net", FILES)
    hub.faults.push(429, path=LFS, times=2, seconds=7)
    assert fetch(hub, tmp_path) == WEIGHTS
    assert waits == [8, 8]


def test_an_unavailable_service(hub, tmp_path, waits):
    """Asked for the metadata, the client tries again; asked for the data, it does not."""
    hub.create("me/net", FILES)
    hub.faults.push(503, "HEAD", times=2)
    assert fetch(hub, tmp_path / "1") == WEIGHTS
    hub.faults.push(503, path=LFS)
    with pytest.raises(HfHubHTTPError, match="503"):
        fetch(hub, tmp_path / "2")
    hub.faults.push(503, "HEAD", times=None)
    with pytest.raises(LocalEntryNotFoundError):
        fetch(hub, tmp_path / "2")


def test_an_unknown_fault(hub):
    with pytest.raises(ValueError, match="explode"):
        hub.faults.push("explode")


def test_a_closed_hub_is_gone(tmp_path, waits):
    with Hub() as hub:
        hub.create("me/net", FILES)
        fetch(hub, tmp_path)
        hub.close()
        assert fetch(hub, tmp_path) == WEIGHTS
        with pytest.raises(LocalEntryNotFoundError):
            fetch(hub, tmp_path, "config.json")
        assert sum(waits) == 23


def test_its_own_process(tmp_path, waits):
    command = [sys.executable, Path(__file__).with_name("hub_server.py"), "--token", "hf_me=me"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            client = HfApi(endpoint=process.stdout.readline().strip(), token="hf_me")
            client.create_repo("me/net")
            client.create_commit("me/net", adds(FILES), commit_message="push")
            assert Path(client.hf_hub_download("me/net", "config.json", cache_dir=tmp_path)).read_bytes() == CONFIG
        finally:
            process.kill()
    with pytest.raises(LocalEntryNotFoundError):
        client.hf_hub_download("me/net", "model.safetensors", cache_dir=tmp_path)
