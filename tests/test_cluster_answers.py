"""The same answers from workers elsewhere: tables that fit together, and the examples for Ray and Spark."""

from __future__ import annotations

import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from images import folder

import keras_cnn as kc
from keras_cnn.errors import BadSpec

EXAMPLES = Path(__file__).parents[1] / "examples" / "cluster"
SMALL = {"depths": (1, 1, 1), "input_shape": (16, 16, 3)}
# What each needs beside keras_cnn, and arguments that are its own.
RUNS = {"predict_ray.py": (("ray", "pandas"), ("--workers", 2)), "predict_spark.py": (("pyspark", "pandas"), ())}


@pytest.fixture
def photos(tmp_path):
    """A dozen, of which one is none, with names that systems treat in their own ways."""
    place = folder(tmp_path / "some photos", {".": 8, "below": 4})
    (place / "003.png").write_bytes(b"no image")
    (place / "004.png").rename(place / "_4 %20é.png")
    return place


@pytest.mark.parametrize(
    "head", [{"classes": ["cat", "dog"]}, {"targets": ["age"]}, {"head": kc.UNet(classes=["a", "b"], decoder=(8, 4))}]
)
def test_tables_have_the_columns_of_files(head, photos, run, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    model = kc.build("resnet20", **SMALL | head)
    kc.save_pretrained(model, tmp_path / "net")
    predict = kc.predictor(tmp_path / "net", batch_size=4)
    assert run("predict", photos, "-m", tmp_path / "net", "--skip-bad", "--out", tmp_path / "a.parquet")[0] == 0
    kept, made = parquet.read_table(tmp_path / "a.parquet"), predict.table(photos)
    assert made.schema == kept.schema == predict.table([]).schema == predict.table(photos / "003.png").schema
    for one, other in zip(made.to_pylist(), kept.to_pylist(), strict=True):
        assert {**one, **other} == pytest.approx(one, abs=1e-6)


def test_a_predictor_says_how_others_get_one():
    with pytest.raises(BadSpec, match=r"does not pickle.*give others the directory"):
        pickle.dumps(kc.predictor(kc.build("resnet20", **SMALL)))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_local_cluster_answers_the_same(name, photos, tmp_path):
    modules, own = RUNS[name]
    if missing := next((module for module in modules if importlib.util.find_spec(module) is None), None):
        pytest.skip(f"{missing} is not installed")
    if "pyspark" in modules and not shutil.which("java"):
        pytest.skip("Spark needs java, which is not here")
    from pyarrow import dataset

    kc.save_pretrained(kc.build("resnet20", classes=["cat", "dog"], **SMALL), tmp_path / "net")
    out = tmp_path / "answers.parquet"
    told = (sys.executable, EXAMPLES / name, tmp_path / "net", photos, out, *own)
    system = {**os.environ, "PYSPARK_SUBMIT_ARGS": "--master local[2] pyspark-shell", "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run([*map(str, told)], env=system, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert "holds the answers for 11 images; 1 could not be read" in done.stdout, done.stderr[-3000:]
    rows = dataset.dataset(out, format="parquet").to_table().sort_by("image")
    wanted = kc.predictor(tmp_path / "net").table(photos).sort_by("image")
    assert rows.schema.equals(wanted.schema) and rows["image"] == wanted["image"]
    assert rows["name"] == wanted["name"] and rows["error"] == wanted["error"]
    shares = (np.array(table["probability"].drop_null()) for table in (rows, wanted))
    np.testing.assert_allclose(*shares, atol=1e-6)
    again = subprocess.run([*map(str, told)], env=system, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert again.returncode == 2 and "answers.parquet is already there" in again.stderr
