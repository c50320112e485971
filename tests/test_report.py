"""The page that a run leaves."""

import re

import numpy as np
from PIL import Image

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
