"""The right column of docs/coming_from.md runs, line by line."""

from __future__ import annotations

import re
from pathlib import Path

import images
import keras
import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn.errors import HubError

PAGE = (Path(__file__).parents[1] / "docs" / "coming_from.md").read_text()
TABLES = {
    title: [re.findall(r"`([^`]+)`", line.split(" | ")[-1]) for line in part.splitlines() if line.startswith("| ")][1:]
    for title, part in re.findall(r"^## From (\S+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
}


@pytest.mark.large_graphs
@pytest.mark.parametrize("title", TABLES)
def test_every_line_runs(title, tmp_path, monkeypatch, waits):
    monkeypatch.chdir(tmp_path)
    photos = images.folder(tmp_path / "photos", {"dark": 4, "light": 4}, size=(20, 20))
    (tmp_path / "photo.png").write_bytes(next(photos.rglob("*.png")).read_bytes())
    y = np.arange(16) % 2
    x = np.full((16, 16, 16, 3), 50, "uint8") + (150 * y[:, None, None, None]).astype("uint8")
    model = kc.build("resnet20", input_shape=(16, 16, 3), classes=["dark", "light"])
    kc.save_pretrained(model, "net")
    names = {"kc": kc, "keras": keras, "model": model, "x": x, "y": y}
    for codes in TABLES[title]:
        assert codes
        for code in codes:
            if "_in1k" in code:  # known by name, but its weights are on the hub, which no test reaches
                with pytest.raises(HubError):
                    exec(code, names)
            else:
                exec(code, names)


def test_both_tables_are_read():
    assert {title: len(lines) > 20 for title, lines in TABLES.items()} == {"keras.applications": True, "timm": True}
