"""The study of what transfer learning brings: every run once, resumable, and figures that follow from its rows."""

from __future__ import annotations

import csv
import gc

import images
import keras
import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn.errors import BadSpec, CorruptFile
from keras_cnn.training import study
from keras_cnn.training.study import Row, summarise


@pytest.fixture(autouse=True)
def _old_objects_left_alone():
    """A study forgets its graphs after every run; in a process with many tests behind it, each time takes seconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def data(tmp_path):
    counts = {f"{split}/{name}": count for split, count in (("train", 6), ("val", 4)) for name in "ab"}
    return kc.load_data(images.folder(tmp_path / "pets", counts, (16, 16)), build(True), batch_size=4, augment="light")


def build(pretrained):
    keras.utils.set_random_seed(int(pretrained))
    return kc.build("resnet20", depths=(1, 1, 1), input_shape=(16, 16, 3), classes=["a", "b"])


def test_every_method_is_run_at_every_size_and_seed_and_a_study_goes_on(data, tmp_path, monkeypatch):
    out, told = (
        tmp_path / "study",
        {"epochs": 1, "scratch_epochs": 2, "methods": ["scratch", "linear probe", "frozen head"]},
    )
    rows = kc.study(build, data, out, sizes=[2], seeds=[0, 1], **told)
    curves = {(row.method, row.seed): row.images for row in rows}
    assert curves == {(method, seed): 4 for method in told["methods"] for seed in (0, 1)}
    assert [row.epoch for row in rows if (row.method, row.seed) == ("scratch", 1)] == [1, 2]
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")

    ran = []
    tune = study.fine_tune
    monkeypatch.setattr(study, "fine_tune", lambda *args, **kwargs: ran.append(kwargs) or tune(*args, **kwargs))
    monkeypatch.setattr(study.scratch, "train", None)  # nothing is to be trained from scratch again
    more = kc.study(
        build, data, out, sizes=[2, 0], seeds=[0, 1], **{**told, "methods": ["linear probe", "frozen head"]}
    )
    assert more[: len(rows)] == rows and len(ran) == 2
    assert {row.images for row in more[len(rows) :]} == {12}
    with (out / "study.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["score"]) for line in lines] == [row.score for row in more]
    with pytest.raises(BadSpec, match="of other work: epochs was 1 and is 3"):
        kc.study(build, data, out, **{**told, "epochs": 3})
    text = (out / "study.json").read_text()
    (out / "study.json").write_text(text.replace("scratch", "scritch", 1))
    with pytest.raises(CorruptFile, match=r"study\.json is damaged"):
        kc.study(build, data, out, sizes=[2], seeds=[0, 1], **told)
    with pytest.raises(BadSpec, match="no method 'luck'"):
        kc.study(build, data, out, methods=["luck"])


def test_gains_are_what_transfer_has_over_random_weights():
    rows = [
        *(Row(10, 50, 0, "scratch", i, value) for i, value in enumerate([0.2, 0.3, 0.6], 1)),
        *(Row(10, 50, 0, "default", i, value) for i, value in enumerate([0.5, 0.5, 0.7], 1)),
        Row(0, 900, 0, "default", 1, 0.9),
    ]
    assert study.gains(summarise(rows)) == [study.Gain(10, 50, 0.3, -0.1, 0.1)]


def test_where_less_is_better_the_best_epoch_is_the_smallest_and_a_fall_a_gain():
    curves = {"scratch": [8.0, 6.0, 7.0], "default": [5.0, 2.0, 3.0]}
    rows = [Row(10, 50, 0, method, i, value) for method, curve in curves.items() for i, value in enumerate(curve, 1)]
    lines = summarise(rows, min)
    assert [line.best for line in lines] == [6, 2]
    assert study.gains(lines, min) == [study.Gain(10, 50, 3.0, 1.0, 4.0)]


def test_summaries_are_means_over_the_seeds():
    curves = {0: [0.2, 0.3, 0.6, 0.5], 1: [0.4, 0.5, 0.6, 0.9]}
    rows = [Row(10, 50, seed, "x", i, value) for seed, curve in curves.items() for i, value in enumerate(curve, 1)]
    (line,) = summarise([*rows])
    assert (line.size, line.images, line.method, line.runs) == (10, 50, "x", 2)
    assert line.first == pytest.approx(0.3) and line.best == pytest.approx(0.75)
    assert line.slope == pytest.approx((0.4 / 2 + 0.2 / 2) / 2)
    assert line.spread == pytest.approx(np.std([0.6, 0.9], ddof=1), abs=1e-4)
