"""What a hub must not be able to do to those who pull from it."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import h5py
import pytest
from repositories import (
    NET,
    WEIGHTS,
    ours,
    theirs,
)

from keras_cnn.errors import BadSpec, CorruptFile, HubError, MissingPackage, NotFound, UnsafeFile, WeightsMismatch
from keras_cnn.hub import resolve

pytestmark = pytest.mark.no_keras


class Bomb:
    def __reduce__(self):
        return print, ("executed",)


def test_a_pickle_is_never_executed(hub, home, capsys):
    files = {"config.json": theirs("resnet20")["config.json"], "pytorch_model.bin": pickle.dumps({"x": Bomb()})}
    hub.create("me/net", files)
    with pytest.raises((UnsafeFile, MissingPackage, CorruptFile)):
        resolve(NET).load()
    assert "executed" not in capsys.readouterr().out


def test_a_keras_archive_is_not_opened(hub, home):
    """It may hold a Lambda layer; what is built comes from config.json alone."""
    hub.create("me/net", {"config.json": ours()["config.json"], "model.keras": b"PK" * 1000})
    with pytest.raises(NotFound, match=r"has no model\.safetensors"):
        resolve(NET).load()
    assert not hub.seen("HEAD|GET", "model.keras")


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/outside", "a/../../b", "..\\outside", "C:\\outside"])
def test_names_that_leave_their_folder(hub, net, name):
    hub.commit("me/net", {name: b"x" * 2000})
    with pytest.raises(UnsafeFile, match="outside its folder"):
        resolve(NET)


def test_names_in_the_configuration_that_leave_their_folder(hub, home):
    files = ours()
    values = json.loads(files["config.json"])
    values["keras_cnn"]["files"]["../../x"] = {"sha256": "0" * 64, "size": 1}
    hub.create("me/net", {**files, "config.json": json.dumps(values).encode()})
    with pytest.raises(UnsafeFile, match="outside its folder"):
        resolve(NET).load()


def test_a_commit_that_is_a_path(hub, net, monkeypatch):
    commits = hub.repos["me/net"].commits
    commits["main"] = replace(commits[net], sha="../../outside")
    hub.repos["me/net"].branches.clear()
    with pytest.raises(HubError, match=r"answered with sha='../../outside', which no hub does"):
        resolve(NET)


def test_shapes_are_checked_before_a_graph_is_made(hub, home):
    files = ours()
    values = json.loads(files["config.json"])
    values["keras_cnn"]["head"]["classes"] = 10**9
    values["keras_cnn"]["class_names"] = []
    hub.create("me/net", {**files, "config.json": json.dumps(values).encode()})
    with pytest.raises(WeightsMismatch, match=r"- head_logits/kernel \(64, 1000000000\)"):
        resolve(NET).load()


def test_a_network_without_end_is_not_counted(hub, home):
    files = ours()
    values = json.loads(files["config.json"])
    values["keras_cnn"]["backbone"]["depths"] = [10**8] * 3
    hub.create("me/net", {**files, "config.json": json.dumps(values).encode()})
    with pytest.raises(BadSpec, match=r"config\.json: depths=\(100000000, .*\): give numbers from 1 to 5000\."):
        resolve(NET)


def test_an_h5_file_that_leads_elsewhere(hub, home, tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv1_conv"]
        file["conv1_conv"] = h5py.ExternalLink("/etc/passwd", "/")
    hub.create("me/net", {"config.json": theirs("resnet20")["config.json"], "weights.h5": path.read_bytes()})
    with pytest.raises(UnsafeFile, match=r"weights\.h5: 'conv1_conv' in / is a link that may lead to other files"):
        resolve(NET).load()


def test_a_header_that_claims_more_than_the_file_has(hub, home):
    files = theirs("resnet20")
    header = json.dumps({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    for data in (len(header).to_bytes(8, "little") + header + b"1234", (2**62).to_bytes(8, "little") + b"{}"):
        hub.create("me/net", {**files, WEIGHTS: data})
        with pytest.raises(CorruptFile, match="truncated or not a safetensors file"):
            resolve(NET).load()


def test_the_token_is_neither_written_nor_logged(hub, home, net, monkeypatch, caplog, capfd):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    resolve(NET).load()
    assert hub.requests
    assert not [path for path in home.rglob("*") if path.is_file() and b"hf_me" in path.read_bytes()]
    assert "hf_me" not in caplog.text + "".join(capfd.readouterr())
