"""The examples run as their first lines say, on small data, reach the figure that each states, and write where told."""

from __future__ import annotations

import csv
import runpy
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import keras_cnn as kc

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example in an empty folder, where nothing but its output may appear; returns what it printed."""

    def run(name: str, *arguments: object) -> str:
        (here := tmp_path / "here").mkdir()
        monkeypatch.chdir(here)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        assert not list(here.iterdir())
        return capsys.readouterr().out

    return run


def flowers(archive: Path, out: Path, **counts: int) -> Path:
    """The first photos of each of five flowers, so many of each split."""
    with zipfile.ZipFile(archive) as file:
        for split, count in counts.items():
            for name in ("daisy", "dandelion", "rose", "sunflower", "tulip"):
                (out / split / name).mkdir(parents=True)
                for photo in sorted(n for n in file.namelist() if f"/{split}/{name}/" in n)[:count]:
                    (out / split / name / Path(photo).name).write_bytes(file.read(photo))
    return out


def digits(out: Path, train: int, val: int) -> Path:
    """Handwritten zeros, ones, twos and threes as PNG files."""
    from sklearn.datasets import load_digits

    found = load_digits()
    for digit in range(4):
        pictures = (found.images[found.target == digit] * 255 / 16).astype(np.uint8)
        for i, picture in enumerate(pictures[: train + val]):
            file = out / ("train" if i < train else "val") / str(digit) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file)
    return out


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"fine_tune_photos.py", "what_to_expect.py"}


def test_fine_tuning_step_by_step(shared, tmp_path, run):
    photos = flowers(shared / "data" / "flowers.zip", tmp_path / "photos", train=32, val=20)
    printed = run("fine_tune_photos.py", photos, tmp_path / "out")
    (line,) = [line for line in printed.splitlines() if "are named right" in line]
    assert float(line.partition("%")[0]) > 55
    assert kc.config_of(kc.build(tmp_path / "out")).provenance["data"] == str(photos)


def test_what_to_expect(tmp_path, run):
    small = digits(tmp_path / "digits", 20, 10)
    run(
        *("what_to_expect.py", small, tmp_path / "study", "--sizes", 20, "--seeds", 1, "--epochs", 4),
        *("--methods", "scratch", "default"),
    )
    with (tmp_path / "study" / "summary.csv").open() as file:
        best = {row["method"]: float(row["best"]) for row in csv.DictReader(file)}
    assert best["default"] > best["scratch"] + 0.2
