"""Images that a network was trained on are told apart however it is found; where nothing tells, that is said."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from images import folder

import keras_cnn as kc
from keras_cnn.data import seen
from keras_cnn.errors import CorruptFile, DataWarning
from keras_cnn.models.config import Preprocess

LEARNT, HELD_OUT = 6, 4
NOTHING = "nothing tells whether"


@pytest.fixture(scope="module")
def pets(tmp_path_factory) -> Path:
    """Training and validation images; evaluated whole, since nobody says which is which."""
    return folder(tmp_path_factory.mktemp("data") / "pets", {"cat": 5, "dog": 5}, (20, 24))


@pytest.fixture(scope="module")
def trained(pets, tmp_path_factory) -> Path:
    keras.utils.set_random_seed(0)
    net = kc.build("resnet20", classes=["cat", "dog"], input_shape=(16, 16, 3))
    data = kc.load_data(pets, net, batch_size=4, val_split=0.4)
    assert data.sizes == {"train": LEARNT, "val": HELD_OUT}
    out = tmp_path_factory.mktemp("runs") / "pets"
    kc.train(net, data, epochs=1, out=out, verbose=0)
    net.save(out / "last.keras")
    return out


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    """photos.onnx, or a format whose tools are installed."""
    name = "photos.onnx" if importlib.util.find_spec("onnx") else "photos.tflite"
    return kc.export(trained, tmp_path_factory.mktemp("exported") / name).path


def counts(answer: tuple[int, str, str]) -> tuple[int, int | None]:
    """(new images, those that it was trained on)."""
    code, out, err = answer
    assert code == 0, err
    facts = json.loads(out)
    assert (NOTHING in err) is (facts["trained_on"] is None)
    return facts["images"], facts["trained_on"] and facts["trained_on"]["images"]


def told(result) -> tuple[int, int]:
    return len(result), len(result.trained_on)


@pytest.mark.parametrize("more", [(), ("--size", 32), ("--size", 32, "--views", "five")])
def test_at_another_size_and_in_other_views(run, pets, trained, more):
    assert counts(run("evaluate", pets, "-m", trained, "--json", *more)) == (HELD_OUT, LEARNT)


def test_seen_otherwise(pets, trained):
    """Other cuts and another filter give other pixels, whatever the size."""
    look = kc.Preprocess(size=(16, 16), crop=0.5, interpolation="bilinear")
    net = kc.build(trained, preprocess=look)
    result = kc.evaluate(net, kc.load_data(pets, net, val_split=0.4), split="train", run=trained)
    assert told(result) == (0, LEARNT)
    assert kc.evaluate(net, pets).trained_on is None


def test_a_run_of_before_the_file_told_how_images_were_seen(pets, trained, tmp_path):
    old = shutil.copytree(trained, tmp_path / "old")
    first, *hashes = (old / seen.FILE).read_text().splitlines()
    assert json.loads(first)["size"] == [16, 16] and len(hashes) == LEARNT
    (old / seen.FILE).write_text("\n".join(hashes))
    result = kc.evaluate(kc.build(old, input_shape=(24, 24, 3)), pets, run=old)
    assert told(result) == (HELD_OUT, LEARNT)
    (old / seen.FILE).write_text('{"size": "large"}\n')
    with pytest.raises(CorruptFile, match=r"seen\.txt is not as a run wrote it .*: delete it"):
        kc.evaluate(old, pets)


def test_weights_out_of_a_run(run, pets, trained, tmp_path):
    named = ("-m", "resnet20", "--size", 16, "--weights", trained / "model.safetensors")
    assert counts(run("evaluate", pets, *named, "--json")) == (HELD_OUT, LEARNT)
    assert counts(run("evaluate", pets, "-m", trained / "last.keras", "--json")) == (HELD_OUT, LEARNT)
    shutil.copy(trained / "last.keras", tmp_path)
    assert counts(run("evaluate", pets, "-m", tmp_path / "last.keras", "--json")) == (LEARNT + HELD_OUT, None)


def test_exported_files(run, pets, trained, exported, tmp_path):
    assert counts(run("evaluate", pets, "-m", exported, "--json")) == (HELD_OUT, LEARNT)
    beside = exported.with_name(f"{exported.name}.{seen.FILE}")
    assert beside.read_text() == (trained / seen.FILE).read_text()
    away = shutil.copytree(exported.parent, tmp_path / "away")
    (away / beside.name).unlink()
    assert counts(run("evaluate", pets, "-m", away / exported.name, "--json")) == (LEARNT + HELD_OUT, None)
    (away / beside.name).write_text("0" * 64)  # another network's
    assert counts(run("evaluate", pets, "-m", away / exported.name, "--json")) == (LEARNT + HELD_OUT, None)
    kc.export(kc.build(trained), away / exported.name, overwrite=True)  # in memory, it has no directory
    assert not (away / beside.name).exists()


def test_arrays_of_another_size_are_not_taken_for_new_ones(trained):
    net = kc.build(trained, input_shape=(24, 24, 3))
    with pytest.warns(DataWarning, match="2 of the images are arrays of another size than the 16x16 pixels"):
        kc.evaluate(net, (np.zeros((2, 24, 24, 3), "uint8"), np.arange(2)), run=trained)


def test_arrays_are_told_apart_at_their_own_size(tmp_path):
    net = kc.build("resnet20", depths=(1, 1, 1), classes=2, input_shape=(None, None, 3))
    images = np.random.default_rng(0).integers(0, 256, (8, 20, 24, 3)).astype("uint8")
    kc.train(net, (images[:6], np.arange(6) % 2), epochs=1, out=tmp_path / "run", verbose=0)
    result = kc.evaluate(tmp_path / "run", (images, np.arange(8) % 2))
    assert told(result) == (2, 6)


LOOK = json.dumps(dataclasses.asdict(Preprocess()))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text[:-65],  # one image fewer
        lambda text: text.replace("b" * 64, "b" * 63 + "c"),
        lambda text: text.replace("b" * 64, "b" * 63),
        lambda text: text.replace("{", "<", 1),
        lambda text: "{}\n" + text.partition("\n")[2],
        lambda text: "\0" * 1000,
        lambda text: "<html>log in</html>\n",
    ],
)
def test_damaged_hashes_are_refused(damage, tmp_path):
    """Training images would pass for new ones."""
    path = tmp_path / seen.FILE
    seen.write(path, ["a" * 64, "b" * 64], Preprocess())
    path.write_text(damage(path.read_text()))
    with pytest.raises(CorruptFile, match=r"seen\.txt is not as a run wrote it"):
        seen.read(path)


def test_hashes_that_are_no_regular_file_are_refused(tmp_path):
    """A pipe would be waited for."""
    for name, make in {"folder": Path.mkdir, "pipe": os.mkfifo, "loop": lambda path: path.symlink_to(path)}.items():
        make(tmp_path / name)
        with pytest.raises(CorruptFile, match=f"{name} is not as a run wrote it"):
            seen.read(tmp_path / name)
    (tmp_path / "leads nowhere").symlink_to("gone")
    assert seen.read(tmp_path / "leads nowhere") is None


def test_hashes_from_before_they_were_checked_are_read(tmp_path):
    (tmp_path / "old").write_text("\n".join([LOOK, "a" * 64]) + "\n")
    assert seen.read(tmp_path / "old") == seen.Known(frozenset({"a" * 64}), Preprocess())
