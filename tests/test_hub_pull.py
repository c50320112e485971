"""Weights from a hub over real HTTP, by the unmodified client: whole and as published, or not at all."""

from __future__ import annotations

import warnings
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hub_server import git_sha1
from huggingface_hub import constants, hf_hub_download
from repositories import (
    INFO,
    LFS,
    NAMES,
    NET,
    PREPROCESS,
    WEIGHTS,
    arrays,
    cached,
    config,
    downloads,
    flip,
    offline,
    ours,
    same,
    theirs,
)
from safetensors.numpy import load, save

import keras_cnn as kc
from keras_cnn.errors import (
    CorruptFile,
    HubError,
    HubWarning,
    LicenceWarning,
    NoAccess,
    NotFound,
    Offline,
    UnknownModel,
    WeightsMismatch,
    WeightsWarning,
)
from keras_cnn.hub import client, resolve
from keras_cnn.hub.pulling import fetch
from keras_cnn.hub.resolve import parse

pytestmark = pytest.mark.no_keras


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address, found",
    [
        ("hf://me/net", ("me/net", None)),
        ("hf://timm/resnet50.a1_in1k@v1.0", ("timm/resnet50.a1_in1k", "v1.0")),
        ("hf://me/net@refs/pr/1", ("me/net", "refs/pr/1")),
    ],
)
def test_addresses(address, found):
    assert parse(address) == found


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://net",
        "hf://me/",
        "hf://me/a/b",
        "hf://../net",
        "hf://me/net@",
        "hf://me/net@../x",
        "hf://me/net@/etc/x",
        "hf://me/net@C:\\x",
        "hf://m e/net",
    ],
)
def test_bad_addresses(address):
    with pytest.raises(UnknownModel, match="hf://owner/name"):
        resolve(address)


def test_a_network_is_what_was_published(hub, net):
    source = resolve(NET)
    assert same(source, arrays(config()))
    assert (source.config.class_names, source.config.preprocess) == (NAMES, PREPROCESS)
    assert source.config.provenance["source"] == f"{NET}@{net}"
    assert source.config.provenance["metrics"] == {"val accuracy": 0.75}


def test_revisions(hub, net):
    hub.tag("me/net", "v1")
    new = hub.commit("me/net", ours(factor=2.0))
    hub.commit("me/net", ours(factor=3.0), branch="try/this")
    for revision, factor in {"": 2, "@v1": 1, f"@{net}": 1, f"@{new}": 2, "@main": 2, "@try/this": 3}.items():
        assert same(resolve(NET + revision), arrays(config(), factor)), revision


def test_weights_for_an_architecture_by_address(hub, net):
    assert same(resolve("resnet20", NET), arrays(config()))
    with pytest.raises(WeightsMismatch, match=r"hf://me/net holds weights of resnet20, not of resnet32"):
        resolve("resnet32", NET)


# --- what is fetched, and when --------------------------------------------------------------------------------------


def test_only_what_is_needed_is_fetched(hub, home):
    files = {**ours(), "pytorch_model.bin": b"x" * 5000, "runs/events": b"y" * 5000, "model.h5": b"z" * 5000}
    commit = hub.create("me/net", files)
    done = fetch(NET)
    assert (done.commit, done.path.name) == (commit, commit)
    assert sorted(done.files) == ["README.md", "config.json", WEIGHTS] == sorted(p.name for p in done.path.iterdir())
    for name, facts in done.files.items():
        assert facts == {"sha256": sha256(files[name]).hexdigest(), "size": len(files[name])}


def test_the_configuration_alone_needs_no_weights(hub, net):
    assert kc.info(NET)["architecture"] == "resnet20"
    assert not downloads(hub)


def test_what_is_cached_is_not_fetched_again(hub, net):
    kc.pull(NET)
    hub.requests.clear()
    resolve(NET).load()
    assert [path for _, path, _ in hub.requests] == ["/api/models/me/net/revision/main"]
    hub.requests.clear()
    resolve(f"{NET}@{net}").load()
    assert hub.requests == []


def test_offline_by_branch_tag_and_commit(hub, net, monkeypatch):
    hub.tag("me/net", "v1")
    kc.pull(NET)
    kc.pull(f"{NET}@v1")
    hub.requests.clear()
    offline(monkeypatch)
    for revision in ("", "@v1", f"@{net}"):
        assert same(resolve(NET + revision), arrays(config()))
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["", "@v1", "@" + "0" * 40])
def test_offline_and_not_cached(hub, net, monkeypatch, revision):
    offline(monkeypatch)
    with pytest.raises(Offline, match=r"keras-cnn pull hf://me/net@.* where there is a network"):
        resolve(NET + revision)
    assert hub.requests == []


def test_offline_with_the_configuration_alone(hub, net, monkeypatch):
    resolve(NET)
    offline(monkeypatch)
    with pytest.raises(Offline, match=rf"model\.safetensors of hf://me/net@{net} is not in the cache"):
        resolve(NET).load()


def test_an_unreachable_hub(hub, net, home):
    kc.pull(NET)
    hub.close()
    with pytest.warns(HubWarning, match=rf"cannot be reached .* Using the cached commit {net} of main"):
        assert same(resolve(NET), arrays(config()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(resolve(f"{NET}@{net}"), arrays(config()))
    with pytest.raises(Offline, match="ConnectError"):
        resolve("hf://me/other")


# --- faults ---------------------------------------------------------------------------------------------------------

ONCE = {
    "truncated": dict(kind="truncate", path=LFS),
    "corrupted": dict(kind="corrupt", path=LFS),
    "reset in mid-body": dict(kind="reset", path=LFS),
    "reset twice": dict(kind="reset", path=LFS, times=2),
    "503 for the body": dict(kind=503, path=LFS, times=2),
    "503 for the revision": dict(kind=503, path=INFO, times=2),
    "429 for the revision": dict(kind=429, path=INFO, seconds=7),
    "429 for the body": dict(kind=429, path=LFS, seconds=7),
    "reset before the revision": dict(kind="reset", path=INFO, after=0),
    "503 for the address": dict(kind=503, path="/resolve/"),
}


@pytest.mark.parametrize("fault", ONCE.values(), ids=ONCE)
def test_faults_that_pass(hub, net, waits, fault):
    met = hub.faults.push(**fault)
    assert same(resolve(NET), arrays(config()))
    assert met.times == 0
    assert cached(Path(constants.HF_HOME), WEIGHTS)[0].read_bytes() == hub.files("me/net")[WEIGHTS]
    if fault["kind"] == 429:
        assert max(waits) >= 7


LASTING = {
    "corrupted": (dict(kind="corrupt", path=WEIGHTS), CorruptFile, "came twice with another content"),
    "503 for the body": (dict(kind=503, path=LFS), Offline, r"/lfs/\S+ answered 503, which no new attempt mended"),
    "429 for the revision": (dict(kind=429, path=INFO), Offline, r"asks for fewer requests \(429\)"),
    "reset in mid-body": (dict(kind="reset", path=LFS), Offline, "cannot be reached for me/net"),
    "token refused": (dict(kind=401, path=INFO), NoAccess, "refused the token"),
    "403 for the revision": (dict(kind=403, path=INFO, code=""), NoAccess, r"does not let you do this .*\(403\)"),
    "gated": (dict(kind=403, path="/resolve/"), NoAccess, "accept its terms at http.*/me/net, then"),
    "404 for a file": (dict(kind=404, path="/resolve/"), NotFound, r"/resolve/\S+ is not there \(404\)"),
}


@pytest.mark.parametrize("fault, error, sentence", LASTING.values(), ids=LASTING)
def test_faults_that_last(hub, net, home, waits, fault, error, sentence):
    hub.faults.push(**fault, times=None)
    with pytest.raises(error, match=sentence):
        resolve(NET).load()
    assert not cached(home, WEIGHTS)
    assert not [path for path in (home / "hub").rglob("blobs/*") if path.stat().st_size > 5000]
    hub.faults.clear()
    assert same(resolve(NET), arrays(config()))


def test_a_tampered_cache_is_mended(hub, net, home):
    kc.pull(NET)
    path = cached(home, WEIGHTS)[0]
    flip(path)
    assert same(resolve(f"{NET}@{net}"), arrays(config()))
    assert downloads(hub) == 2


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_tampered_cache_is_told_offline(hub, net, home, monkeypatch, name):
    kc.pull(NET)
    path = cached(home, name)[0]
    flip(path)
    offline(monkeypatch)
    for revision in ("", f"@{net}"):
        with pytest.raises(CorruptFile, match=rf"{name} is not the file that the hub has"):
            resolve(NET + revision).load()


@pytest.mark.parametrize("tampered", [False, True])
def test_a_cache_that_another_program_filled(hub, home, monkeypatch, tampered):
    """It has no note of ours, but its links are named by the hashes."""
    hub.create("me/net", theirs("resnet20"))
    for name in ("config.json", WEIGHTS):
        path = Path(hf_hub_download("me/net", name))
    if tampered:
        flip(path)
    offline(monkeypatch)
    if not tampered:
        assert resolve(NET).load()[1].keys() == arrays(config()).keys()
        return
    with pytest.raises(CorruptFile, match="its sha256 differs"):
        resolve(NET).load()


def test_a_damaged_note_is_told(hub, net, home):
    kc.pull(NET)
    note = home / "keras_cnn" / "models--me--net" / f"{net}.json"
    note.write_text("{")
    with pytest.raises(CorruptFile, match="is damaged: delete it"):
        resolve(f"{NET}@{net}")


# --- bad input ------------------------------------------------------------------------------------------------------


def test_unknown_private_gated_and_missing(hub, net, monkeypatch):
    hub.create("you/secret", ours(), private=True)
    hub.create("you/gated", ours(), gated=True)
    hub.create("me/empty", {"README.md": b"nothing here"})
    for address, error, sentence in [
        ("hf://me/none", NotFound, r"has no model repository me/none: check the name; if it is private, set HF_TOKEN"),
        ("hf://you/secret", NotFound, r"if it is private, set HF_TOKEN"),
        ("hf://you/gated", NoAccess, rf"you/gated is gated: accept its terms at {hub.endpoint}/you/gated"),
        ("hf://me/net@v9", NotFound, r"me/net has no branch, tag or commit 'v9'"),
        ("hf://me/empty", NotFound, r"me/empty has no config\.json at main"),
    ]:
        with pytest.raises(error, match=sentence):
            resolve(address)
    monkeypatch.setenv("HF_TOKEN", "hf_you")
    assert same(resolve("hf://you/secret"), arrays(config()))
    assert same(resolve("hf://you/gated"), arrays(config()))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(NoAccess, match="refused the token") as caught:
        resolve(NET)
    assert "hf_wrong" not in str(caught.value)


def test_a_repository_without_weights(hub, home):
    hub.create("me/net", {k: v for k, v in theirs("resnet20").items() if k != WEIGHTS})
    with pytest.raises(CorruptFile, match=r"hf://me/net@\w+ has no model\.safetensors or pytorch_model\.bin"):
        resolve(NET).load()


def test_a_configuration_of_others(hub, home):
    hub.create("me/net", {**ours(), "config.json": b'{"model_type": "vit"}'})
    with pytest.raises(CorruptFile, match="neither ours"):
        resolve(NET)


@pytest.mark.parametrize("files", [ours, lambda: theirs("resnet20")], ids=["ours", "timm's"])
def test_an_empty_file_of_weights(hub, home, files):
    hub.create("me/net", {**files(), WEIGHTS: b""})
    with pytest.raises(CorruptFile, match=r"is empty|its sha256 differs"):
        resolve(NET).load()


def test_weights_that_are_not_those_of_the_configuration(hub, home):
    """Both are as the hub has them; yet the configuration names another hash."""
    hub.create("me/net", {**ours(factor=2.0), "config.json": ours()["config.json"]})
    with pytest.raises(CorruptFile, match="its sha256 differs"):
        resolve(NET).load()


def test_nan_is_warned_of(hub, home):
    values = arrays(config())
    values["stage1_block1_conv1/kernel"][0, 0, 0, 0] = np.nan
    hub.create("me/net", ours(values=values))
    with pytest.warns(
        WeightsWarning, match=r"1 arrays hold NaN or infinite values, such as stage1_block1_conv1/kernel"
    ):
        resolve(NET).load()


def test_a_licence_that_is_not_commercial_is_told_once(hub, home):
    hub.create("me/net", ours(license="cc-by-nc-4.0"))
    with pytest.warns(LicenceWarning, match="cc-by-nc-4.0, rules out commercial use"):
        resolve(NET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve(NET)


# --- what the client leaves behind is plain -------------------------------------------------------------------------


def test_safetensors_alone_reads_the_weights(hub, net):
    path = kc.pull(NET) / WEIGHTS
    found = load(path.read_bytes())
    assert found.keys() == arrays(config()).keys()
    assert save(found, {"format": "keras"}) == path.read_bytes()


def test_small_files_are_checked_by_the_name_that_git_has_for_them(hub, net):
    hub.faults.push("corrupt", path="/resolve/.*/README.md|/lfs/.*/README.md")
    done = fetch(NET)
    assert (done.path / "README.md").read_bytes() == hub.files("me/net")["README.md"]
    assert git_sha1(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_waiting_grows(hub, net, waits):
    hub.faults.push(503, path=INFO, times=None)
    with pytest.raises(HubError):
        resolve(NET)
    assert waits == [0.5, 1.0, 2.0, 4.0] and client.ATTEMPTS == 5
