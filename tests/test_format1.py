"""What format 1 wrote (fixtures/format1) is read for ever, and answers as it did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn.checkpoints import arrays, directory
from keras_cnn.errors import CorruptFile

PLACES = sorted((Path(__file__).parent / "fixtures" / "format1").glob("*/io.npz"))
SHARED = Path(__file__).parents[2] / "shared" / "weights" / "format1_resnet20" / "io.npz"


def test_the_fixtures_are_there():
    assert [place.parent.name for place in PLACES] == ["gray", "resnet"]


@pytest.mark.parametrize("place", [*PLACES, SHARED], ids=lambda place: place.parent.name)
def test_a_directory_answers_as_it_did(place):
    if not place.exists():
        pytest.skip(f"{place} is not there")
    known, model = np.load(place), kc.build(place.parent)
    np.testing.assert_allclose(model.predict(known["x"], verbose=0), known["y"], rtol=1e-4, atol=1e-5)
    assert kc.info(str(place.parent))["input_shape"] == list(known["x"].shape[1:])


def test_its_parts_are_where_they_belong():
    gray, old = (directory.read(place.parent).config for place in PLACES)
    assert (old.class_names, old.provenance["license"]) == (("left", "right", "up"), "mit")
    assert (old.backbone.depths, old.backbone.widths, old.head.classes) == ((1, 1, 1), (4, 8, 8), 3)
    assert (gray.head.hidden, gray.head.dropout, gray.head.activation) == ((6,), 0.2, None)
    assert (gray.backbone.merge, gray.backbone.norm, gray.input_shape) == ("concat", "group:2", (16, 16, 1))


def test_saved_again_it_is_format_2_and_the_same_network(tmp_path):
    model = kc.build(PLACES[1].parent)
    new = kc.save_pretrained(model, tmp_path / "new")
    written = json.loads((new / "config.json").read_text())["keras_cnn"]
    assert written["format"] == 2 and {"input", "backbone", "head", "preprocess"} <= written.keys()
    again = kc.build(new)
    assert kc.config_of(again) == kc.config_of(model)
    for key, value in arrays.arrays(model).items():
        np.testing.assert_array_equal(arrays.arrays(again)[key], value)


def test_a_keras_file_is_read_by_us_and_by_keras():
    path, known = PLACES[1].parent.with_suffix(".keras"), np.load(PLACES[1])
    for model in (kc.build(path), keras.saving.load_model(path)):
        np.testing.assert_allclose(model.predict(known["x"], verbose=0), known["y"], rtol=1e-4, atol=1e-5)
        assert kc.config_of(model).class_names == ("left", "right", "up")


def test_a_later_format_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "net"
    shutil.copytree(PLACES[1].parent, path)
    values = json.loads((path / "config.json").read_text())
    values["keras_cnn"]["format"] = 3
    (path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CorruptFile, match=r"has format 3, this version reads 1 to 2: upgrade keras-cnn\."):
        kc.build(path)
