"""A `.keras` file of a network of ours stands where a network is named; nothing in it is executed."""

from __future__ import annotations

import json
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import pytest
import seeded

import keras_cnn as kc
from keras_cnn.checkpoints import arrays, keras_file
from keras_cnn.errors import CorruptFile, KerasCnnError, UnsafeFile, WeightsMismatch
from keras_cnn.transfer.freeze import pretrained

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype("uint8")


@pytest.fixture(scope="module")
def model():
    model = kc.build("resnet20", input_shape=(16, 16, 3), classes=["cat", "dog"])
    arrays.assign(model, seeded.arrays({k: tuple(v.shape) for k, v in arrays.variables(model).items()}))
    return model


@pytest.fixture
def file(model, tmp_path):
    model.compile("adam", "sparse_categorical_crossentropy")
    model.save(tmp_path / "net.keras")
    return tmp_path / "net.keras"


def test_a_network_comes_back_with_all_it_knows(model, file):
    again = kc.build(file)
    np.testing.assert_array_equal(again.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0))
    assert kc.config_of(again).class_names == ("cat", "dog") and again.input_shape == (None, 16, 16, 3)
    assert pretrained(again) and kc.config_of(again).provenance["source"] == "net.keras"


def test_it_brings_weights_to_a_new_head_or_an_architecture(model, file):
    for again in (kc.build(file, classes=5), kc.build("resnet20", weights=file, classes=5)):
        assert again.output_shape == (None, 5)
        ours, theirs = arrays.arrays(model), arrays.arrays(again)
        assert all(np.array_equal(theirs[key], ours[key]) for key in ours if not key.startswith("head_"))
    with pytest.raises(WeightsMismatch, match=r"net\.keras holds weights of resnet20, not of resnet32"):
        kc.build("resnet32", weights=file)


def test_it_is_described_without_a_graph(file):
    assert kc.info(str(file))["class_names"] == ["cat", "dog"]


def test_networks_of_others_are_not_read(tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(UnsafeFile, match=r"other\.keras was not made by keras_cnn\.build"):
        kc.build(tmp_path / "other.keras")


def test_layers_that_the_file_names_are_not_made(file, tmp_path):
    """A layer of code beside ours: the network is built from the record alone."""
    evil = {"module": "keras.layers", "class_name": "Lambda", "config": {"function": "evil"}, "registered_name": None}
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / "evil.keras", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                values = json.loads(content)
                values["config"]["layers"].append(evil)
                content = json.dumps(values).encode()
            new.writestr(name, content)
    assert not any(isinstance(layer, keras.layers.Lambda) for layer in kc.build(tmp_path / "evil.keras").layers)


@pytest.mark.parametrize("damage", ["empty", "half", "no configuration", "no weights", "text"])
def test_damaged_files_are_told(file, tmp_path, damage):
    bad = tmp_path / "bad.keras"
    whole = file.read_bytes()
    if damage in ("no configuration", "no weights"):
        leave = {"no configuration": "config.json", "no weights": "model.weights.h5"}[damage]
        with zipfile.ZipFile(file) as old, zipfile.ZipFile(bad, "w") as new:
            for name in set(old.namelist()) - {leave}:
                new.writestr(name, old.read(name))
    else:
        bad.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "text": b"hello"}[damage])
    with pytest.raises(CorruptFile, match=r"bad\.keras is not a whole \.keras file"):
        kc.build(bad)


def with_weights(file, path, change):
    """A copy of a file whose weights `change` makes, of their path."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w") as new:
        (path.parent / "w.h5").write_bytes(old.read("model.weights.h5"))
        change(path.parent / "w.h5")
        new.write(path.parent / "w.h5", "model.weights.h5")
        for name in set(old.namelist()) - {"model.weights.h5"}:
            new.writestr(name, old.read(name))
    return path


def linked(path):
    with h5py.File(path, "a") as file:
        file["layers/other"] = h5py.ExternalLink("/etc/other.h5", "/x")


def elsewhere(path):
    with h5py.File(path, "a") as file:
        file.create_dataset("layers/other", (4,), "f4", external=[("/etc/hostname", 0, 16)])


def packed(path):
    with h5py.File(path, "a") as file:
        file.create_dataset("layers/other", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")


def vast(path):
    with h5py.File(path, "a") as file:
        file.create_dataset("layers/other", (1 << 40,), "f4", chunks=(1 << 20,))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (linked, UnsafeFile, "is a link that may lead to other files"),
        (elsewhere, UnsafeFile, "has its numbers in other files"),
        (packed, CorruptFile, "is compressed"),
        (vast, CorruptFile, "claims arrays of 4398"),
    ],
)
def test_weights_that_lead_elsewhere_or_claim_too_much_are_not_read(file, tmp_path, change, error, says):
    bad = with_weights(file, tmp_path / "bad.keras", change)
    with pytest.raises(error, match=rf"bad\.keras, model\.weights\.h5.*{says}"):
        kc.build(bad)


def forged(file, path, change_record=None, change_zip=None):
    """A copy of a file with another record of the network, or with its zip's bytes changed."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json" and change_record:
                values = json.loads(content)
                [layer] = [one for one in values["config"]["layers"] if one["registered_name"] == keras_file.LAYER]
                change_record(layer["config"]["record"])
                content = json.dumps(values).encode()
            new.writestr(name, content)
    if change_zip:
        path.write_bytes(change_zip(bytearray(path.read_bytes())))
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_compressed_members_are_refused_before_they_are_unpacked(file, tmp_path, method, member):
    """So there are no bombs: what is stored is no larger than the file."""
    bad = tmp_path / "bad.keras"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(bad, "w") as new:
        for one in old.namelist():
            bomb = one == member
            new.writestr(one, bytes(30_000_000) if bomb else old.read(one), method if bomb else zipfile.ZIP_STORED)
    before = tracemalloc.start() or tracemalloc.get_traced_memory()[0]
    with pytest.raises(CorruptFile, match=rf"bad\.keras: {member} is compressed"):
        kc.build(bad)
    assert tracemalloc.get_traced_memory()[1] - before < 10_000_000
    tracemalloc.stop()


def test_a_bomb_among_the_assets_is_never_unpacked(file, tmp_path):
    bad = forged(file, tmp_path / "bad.keras")
    with zipfile.ZipFile(bad, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/layers/x.txt", bytes(50_000_000))
    before = tracemalloc.start() or tracemalloc.get_traced_memory()[0]
    assert kc.build(bad)
    assert tracemalloc.get_traced_memory()[1] - before < 25_000_000
    tracemalloc.stop()


def test_a_configuration_has_a_bound(file, tmp_path, monkeypatch):
    monkeypatch.setattr(keras_file, "MOST", 1000)
    with pytest.raises(CorruptFile, match=r"its configuration has more than 1000 bytes"):
        kc.build(file)


@pytest.mark.parametrize(
    "change",
    [
        {"depths": [4000, 400, 400]},  # minutes, were it made
        {"widths": [1 << 15] * 3},  # 100 GB
    ],
    ids=["deep", "wide"],
)
def test_a_record_of_a_network_that_the_weights_cannot_fill_makes_none(file, tmp_path, change):
    bad = forged(file, tmp_path / "bad.keras", lambda record: record["backbone"].update(change))
    with pytest.raises(CorruptFile, match=r"bad\.keras: its weights are [\d,]+ floats, and resnet20 has [\d,]+"):
        kc.build(bad)


def whole_numbers(path):
    with h5py.File(path, "a") as file:
        [*_, variables] = [one["vars"] for one in file["layers"].values() if "0" in one.get("vars", ())]
        shape = variables["0"].shape
        del variables["0"]
        variables["0"] = np.ones(shape, "int32")


def test_whole_numbers_are_no_weights(model, tmp_path):
    fresh = keras.models.clone_model(model)
    fresh.save(tmp_path / "net.keras")
    with pytest.raises(CorruptFile, match=r"its weights are [\d,]+ floats"):
        kc.build(with_weights(tmp_path / "net.keras", tmp_path / "bad.keras", whole_numbers))


def entry(whole: bytearray, name: bytes) -> int:
    """Where the zip's directory tells of a member."""
    return whole.rindex(name) - 46


def encrypted(whole):
    whole[entry(whole, b"config.json") + 8] |= 1
    return whole


def sized(packed: int, size: int, name: bytes = b"model.weights.h5"):
    """A directory that lies about a member's size, packed and as such."""

    def change(whole):
        at = entry(whole, name)
        whole[at + 20 : at + 28] = packed.to_bytes(4, "little") + size.to_bytes(4, "little")
        return whole

    return change


@pytest.mark.parametrize(
    "change",
    [
        encrypted,
        sized(0xFFFFFFF0, 0xFFFFFFF0),
        sized(100, 0xFFFFFFF0),
        sized(0xFFFFFFF0, 100),
        sized(100, 100),
        sized(0, 0),
        sized(0xFFFFFFF0, 0xFFFFFFF0, b"config.json"),
        sized(100, 100, b"config.json"),
    ],
)
def test_zips_that_lie_about_members(file, tmp_path, change):
    bad = forged(file, tmp_path / "bad.keras", change_zip=change)
    before = tracemalloc.start() or tracemalloc.get_traced_memory()[0]
    with pytest.raises(CorruptFile, match=r"bad\.keras is not a whole \.keras file"):
        kc.build(bad)
    assert tracemalloc.get_traced_memory()[1] - before < keras_file.MOST + (4 << 20)
    tracemalloc.stop()


def test_quantised_networks_are_told(model, tmp_path):
    copy = keras.models.clone_model(model)
    copy.quantize("int8")
    copy.save(tmp_path / "small.keras")
    with pytest.raises(KerasCnnError, match=r"small\.keras"):
        kc.build(tmp_path / "small.keras")
