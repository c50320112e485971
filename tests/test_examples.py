"""The examples run as their first lines say, on small data, reach the figure that each states, and write where told."""

from __future__ import annotations

import ast
import csv
import re
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


def scenes(out: Path, train: int, val: int) -> Path:
    """Drawn street scenes with masks: sky, a road from a horizon of some height, a car on every other, a tree on every
    third.

    Colours say what is what, and noise lies over all: any network learns it quickly.
    """
    rng = np.random.default_rng(0)
    for i in range(train + val):
        mask = np.zeros((48, 64), np.uint8)
        mask[(horizon := rng.integers(12, 37)) :] = 1
        if i % 2:
            x = rng.integers(4, 36)
            mask[horizon - 6 : horizon + 6, x : x + 24] = 2
        if i % 3 == 0:
            mask[horizon - 10 : horizon, 44:60] = 3
        photo = np.array([(90, 150, 220), (90, 90, 90), (200, 40, 30), (40, 120, 30)])[mask] + rng.normal(
            0, 12, (48, 64, 3)
        )
        place = out / ("train" if i < train else "val")
        for kind, pixels in (("images", photo.clip(0, 255).astype(np.uint8)), ("masks", mask)):
            (place / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / kind / f"{i:03}.png")
    (out / "classes.txt").write_text("sky\nroad\ncar\ntree\n")
    return out


SMALL = ("--size", 48, 64)


def stated(name: str, sentence: str) -> float:
    """The figure that the first lines of an example state, by the sentence that it stands in."""
    told = " ".join((ast.get_docstring(ast.parse((EXAMPLES / name).read_text(encoding="utf-8"))) or "").split())
    (found,) = re.findall(sentence, told)
    return 0.5 if found == "half" else float(found)


def figure(name: str, printed: str) -> float:
    """A figure of the last line."""
    return float(printed.splitlines()[-1].partition(name)[2].split(",")[0])


def test_segmentation(tmp_path, run):
    data, out = scenes(tmp_path / "scenes", 24, 8), tmp_path / "out"
    printed = run("segment_streets.py", data, out, *SMALL, "--epochs", 4)
    assert figure("mean IoU", printed) > stated("segment_streets.py", r"From 24 drawn scenes .* above (\d\.\d)")
    assert "no weights" not in printed and (out / "masks.png").stat().st_size > 20_000
    assert kc.config_of(kc.build(out)).class_names == ("sky", "road", "car", "tree")


def test_regression(tmp_path, run):
    data, out = scenes(tmp_path / "scenes", 40, 10), tmp_path / "out"
    printed = run("measure_photos.py", data, out, *SMALL, "--epochs", 4)
    assert figure("R2", printed) > stated("measure_photos.py", r"From 40 drawn scenes .* (half) of the variance")
    with (out / "shares.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 50 and min(float(row["share of road"]) for row in rows) > 0.1
    assert [row["split"] for row in rows[:10]] == ["train"] * 8 + ["val"] * 2
    assert (out / "predicted.png").stat().st_size > 10_000


def test_several_labels(tmp_path, run):
    data, out = scenes(tmp_path / "scenes", 40, 10), tmp_path / "out"
    printed = run("label_photos.py", data, out, *SMALL, "--epochs", 3)
    assert figure("mean average precision", printed) > stated("label_photos.py", r"40 drawn .* above (\d\.\d)")
    assert (out / "labels.csv").read_text().startswith("image,split,car,tree\n")  # all show sky and road
    assert (out / "precision_recall.png").stat().st_size > 10_000


@pytest.mark.slow
def test_autoencoder(tmp_path, run):
    data, out = scenes(tmp_path / "scenes", 40, 10), tmp_path / "out"
    printed = run("autoencoder.py", data, out, *SMALL, "--epochs", 4)
    assert figure("R2", printed) > stated("autoencoder.py", r"On 40 drawn scenes .* (half) of the variance")
    assert "the code is 2x2x512, of images of 48x64x3" in printed
    assert (out / "reconstructions.png").stat().st_size > 10_000


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "autoencoder.py",
        "fine_tune_photos.py",
        "label_photos.py",
        "measure_photos.py",
        "segment_streets.py",
        "sequences.py",
        "what_to_expect.py",
    }
    assert all(len(path.read_text().splitlines()) < 150 for path in EXAMPLES.glob("*.py"))


def test_sequences(tmp_path, run):
    """Slow waves and fast ones, and a series of a season of eight steps whose height drifts."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    phase, time = rng.uniform(0, 6, (120, 1)), np.arange(24)
    x = np.sin((0.5 + 0.5 * y[:, None]) * time + phase)[..., None] + 0.1 * rng.normal(size=(120, 24, 1))
    np.savez(tmp_path / "waves.npz", x_train=x[:80], y_train=y[:80], x_test=x[80:], y_test=y[80:])
    steps = np.arange(400)
    series = 20 + 3 * np.sin(steps / 30) + np.sin(steps * np.pi / 4)
    rows = "\n".join(f"{step},{value}" for step, value in zip(steps, series, strict=True))
    (tmp_path / "series.csv").write_text(f"time,celsius\n{rows}\n")
    printed = run(
        *("sequences.py", tmp_path / "waves.npz", tmp_path / "series.csv", tmp_path / "out", "--season", 8),
        *("--window", 24, "--horizon", 4, "--width", 16, "--epochs", 40, "--seeds", 1),
    )
    lines = re.findall(r"(accuracy|mean absolute error) +(.+?) +(\d.\d+) \+-", printed)
    figures = {(what, name): float(value) for what, name, value in lines}
    assert figures["accuracy", "TCN"] > stated("sequences.py", r"Of 40 waves, .* (\d+) % right") / 100
    assert figures["mean absolute error", "TCN"] < figures["mean absolute error", "seasonal naive"]
    with Image.open(tmp_path / "out" / "sequences.png") as picture:
        assert picture.size == (1320, 480)


def test_fine_tuning_step_by_step(tmp_path, run):
    small = digits(tmp_path / "digits", 20, 10)
    assert named_right(run("fine_tune_photos.py", small, tmp_path / "out")) > stated(
        "fine_tune_photos.py", r"80 handwritten digits .* more than (\d+) %"
    )
    assert kc.config_of(kc.build(tmp_path / "out")).provenance["data"] == small.name


@pytest.mark.slow
def test_fine_tuning_on_flowers_step_by_step(shared, tmp_path, run):
    photos = flowers(shared / "data" / "flowers.zip", tmp_path / "photos", train=32, val=20)
    assert named_right(run("fine_tune_photos.py", photos)) > stated(
        "fine_tune_photos.py", r"160 photos of five flowers .* more than (\d+) % of others"
    )


def named_right(printed: str) -> float:
    """The share in percent that the example tells."""
    (line,) = [line for line in printed.splitlines() if "are named right" in line]
    return float(line.partition("%")[0])


@pytest.mark.slow
def test_what_to_expect(tmp_path, run):
    small = digits(tmp_path / "digits", 20, 10)
    run(
        *("what_to_expect.py", small, tmp_path / "study", "--sizes", 20, "--seeds", 1, "--epochs", 4),
        *("--methods", "scratch", "default"),
    )
    with (tmp_path / "study" / "summary.csv").open() as file:
        best = {row["method"]: float(row["best"]) for row in csv.DictReader(file)}
    points = stated("what_to_expect.py", r"With 20 images .* more than (\d+) points better")
    assert best["default"] > best["scratch"] + points / 100
