"""Weights by tag, from a local hub, from the web, from a directory: as known, or not at all."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from repositories import (
    LFS,
    NAMES,
    NET,
    PREPROCESS,
    WEIGHTS,
    arrays,
    config,
    offline,
    ours,
    same,
    theirs,
    write,
)

import keras_cnn as kc
from keras_cnn.errors import CorruptFile, NotFound, Offline, UnknownModel, WeightsMismatch
from keras_cnn.hub import resolve
from keras_cnn.hub.tags import Known, known

pytestmark = pytest.mark.no_keras


@pytest.fixture
def tag(monkeypatch):
    """Adds a public tag to the catalogue."""

    def add(source: str, digest: str = "") -> str:
        conf = config().with_(class_names=(), provenance={"license": "mit", "source": source})
        line = Known(source=source, hash=digest, top1=None, top1_size=None, config=conf)
        monkeypatch.setitem(resolve.__globals__, "known", lambda: {**known(), "resnet20.test": line})
        return "resnet20.test"

    return add


def test_a_tag_needs_no_network_before_its_arrays_are_read(hub, net, tag):
    name = tag(NET)
    source = resolve(name)
    assert source.config.preprocess == PREPROCESS and hub.requests == []
    conf, values = source.load()
    assert conf.provenance["source"] == f"{NET}@{net}"
    assert conf.class_names == NAMES
    assert values.keys() == arrays(config()).keys()


def test_a_tag_of_a_repository_of_timm(hub, home, tag):
    hub.create("timm/resnet20.test", theirs("resnet20", classes=3))
    conf, values = resolve(tag("hf://timm/resnet20.test")).load()
    assert conf.preprocess == PREPROCESS  # the catalogue's, not the repository's
    np.testing.assert_array_equal(values["stem_conv/kernel"], arrays(config())["stem_conv/kernel"])


def test_a_tag_whose_repository_holds_another_network(hub, home, tag):
    hub.create("timm/resnet20.test", theirs("resnet32", classes=3))
    with pytest.raises(WeightsMismatch, match="holds weights of resnet32, not of resnet20"):
        resolve(tag("hf://timm/resnet20.test")).load()


@pytest.fixture
def file(hub):
    """The address of a checkpoint of timm's on the web, and its bytes."""
    data = theirs("resnet20", classes=3)[WEIGHTS]
    digest = sha256(data).hexdigest()
    hub.create("me/files", {WEIGHTS: data})
    return f"{hub.endpoint}/lfs/me/files/{digest}/checkpoint.safetensors", digest


@pytest.mark.parametrize("kind", ["reset", "corrupt", "truncate", 503])
@pytest.mark.parametrize("whole", [True, False])
def test_a_file_on_the_web(hub, home, tag, file, waits, kind, whole):
    url, digest = file
    name = tag(url, f"sha256:{digest if whole else digest[:8]}")
    hub.faults.push(kind, path=LFS)
    for address in (name, url):
        assert resolve(address).load()[1].keys() == arrays(config()).keys()
    assert len(hub.seen("GET", LFS)) == 2
    assert kc.pull(name).name == "checkpoint.safetensors"


def test_a_file_on_the_web_with_another_hash(hub, home, tag, file):
    with pytest.raises(CorruptFile, match="came twice with another content than it should have"):
        resolve(tag(file[0], "md5:" + "0" * 32)).load()
    assert not list(home.rglob("checkpoint.safetensors"))


def test_a_file_on_the_web_offline(hub, home, tag, file, monkeypatch):
    url, digest = file
    name = tag(url, f"sha256:{digest}")
    offline(monkeypatch)
    with pytest.raises(Offline, match="is not in the cache, and HF_HUB_OFFLINE is set"):
        resolve(name).load()
    assert hub.requests == []


def test_other_addresses_on_the_web_are_refused():
    with pytest.raises(UnknownModel, match="only addresses whose hash the catalogue has"):
        resolve("https://example.com/model.safetensors")


def local_hub(root: Path, files: dict[str, bytes], commit: str = "a" * 40) -> Path:
    """A folder in the layout of the client's cache, without links."""
    folder = root / "models--me--net"
    write(files, folder / "snapshots" / commit)
    write({"main": commit.encode(), "v1": commit.encode()}, folder / "refs")
    return folder


def test_a_local_hub(hub, home, tmp_path, monkeypatch):
    folder = local_hub(tmp_path / "local", ours())
    monkeypatch.setenv("KERAS_CNN_HUB", str(tmp_path / "local"))
    for name in (NET, f"{NET}@v1", f"{NET}@{'a' * 40}", str(folder), f"{folder}@v1"):
        assert same(resolve(name), arrays(config())), name
    assert hub.requests == []
    with pytest.raises(NotFound, match="has no revision 'v2'"):
        resolve(f"{folder}@v2")
    (folder / "snapshots" / ("a" * 40) / WEIGHTS).write_bytes(b"tampered")
    with pytest.raises(CorruptFile, match="its sha256 differs"):
        resolve(NET).load()


def test_what_a_local_hub_lacks_comes_from_the_hub(hub, net, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CNN_HUB", str(tmp_path / "local"))
    assert same(resolve(NET), arrays(config()))


def test_a_directory_is_pulled_by_checking_it(tmp_path):
    path = write(ours(), tmp_path / "net")
    assert kc.pull(path) == path
    (path / WEIGHTS).write_bytes(b"tampered")
    with pytest.raises(CorruptFile):
        kc.pull(path)
