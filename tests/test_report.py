"""The page that a run leaves."""

import re

import keras
import numpy as np
import pytest
from images import folder
from PIL import Image

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.insight import report

HOSTILE = "<script>alert(1)</script>\u202e\x1b[31m\"'&"


def test_all_text_is_shown_as_text_and_nothing_is_fetched(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "curves.png")
    page = report.write(
        tmp_path,
        title=HOSTILE,
        scores={HOSTILE: HOSTILE, "accuracy": 0.51234, "images": 3, "none": None, "odd": float("nan")},
        pictures=["curves.png"],
        mistakes=[(HOSTILE, np.zeros((300, 200, 3), "uint8")), ("gray", np.zeros((8, 8, 1), "uint8")), ("gone", None)],
        facts={"command": HOSTILE},
    )
    assert page.name == "report.html"
    text = page.read_text()
    assert "<script" not in text and text.count("&lt;script&gt;") == 6
    assert "\x1b" not in text and "\u202e" not in text  # nor does it turn or hide what stands around it
    assert "0.5123" in text and "not a number" in text and ">none<" not in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(sources) == 3 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "default-src 'none'" in text
    assert "keras_cnn 0" in text and "keras 3" in text


def test_a_run_from_python_leaves_what_one_from_the_command_line_does(tmp_path):
    """Its figures are those of the weights that are kept, which are rounded, and of any later evaluation."""
    counts = {f"{split}/{name}": 4 for split in ("train", "val", "test") for name in ("cat", "dog")}
    pets, out = folder(tmp_path / "pets", counts, (16, 16)), tmp_path / "run"
    keras.utils.set_random_seed(0)
    model = kc.build("resnet20", depths=(1, 1, 1), classes=["cat", "dog"], input_shape=(16, 16, 3))
    data = kc.load_data(pets, model, batch_size=4)
    with pytest.raises(BadSpec, match="holds no complete run of train or fine_tune"):
        kc.report(out, data)
    kc.train(model, data, epochs=2, out=out, half=True, verbose=0)
    with pytest.raises(BadData, match="give what load_data or load_sequences made"):
        kc.report(out, (np.zeros((2, 16, 16, 3)), [0, 1]))
    weights = arrays.load(out / "model.safetensors")
    found = kc.report(out, data)
    again = arrays.load(out / "model.safetensors")
    assert all((again[key] == value).all() for key, value in weights.items())
    for split in ("val", "test"):
        expected = kc.evaluate(out, data, split=split).metrics
        assert {key: found.metrics[f"{split} {key}"] for key in expected} == expected
    assert kc.config_of(kc.build(out)).provenance["metrics"] == found.metrics
    assert found.page.read_text().count("data:image/png;base64,") >= len(found.pictures) == 2
    assert all((out / name).stat().st_size > 5_000 for name in found.pictures)
    assert len(found.history["loss"]) == 2
