"""The notes on fields, dilation, transposed convolutions and residuals end in a picture and in what was seen."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NOTES = Path(__file__).parents[1] / "examples" / "notes"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a note, whose last argument is the picture; returns its last line."""

    def run(name: str, *arguments: object) -> str:
        note, picture = NOTES / name, tmp_path / "new" / "picture.png"
        assert len(note.read_text().splitlines()) < 120
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments), str(picture)])
        runpy.run_path(str(note), run_name="__main__")
        with Image.open(picture) as image:
            assert np.ptp(np.asarray(image)) > 200 and min(image.size) >= 500
        said = capsys.readouterr().out.splitlines()[-1]
        assert said.startswith("Seen: ")
        return said

    return run


def test_a_transposed_convolution_is_even_where_the_stride_divides_its_kernel(run):
    assert "kernel 2 0%, 3 48%, 4 0%, 5 29%" in run("transposed.py")


def test_dilation_sees_far_and_keeps_the_features(run):
    said = run("dilation.py", "--side", 64)
    assert "plain 49 of 49; dilated by 2, 2, 2: a grid 49 of 169; dilated by 1, 2, 4 225 of 225" in said
    assert "16 times the features" in said and float(re.search(r"difference (\S+) of", said)[1]) < 1e-5


def test_the_effective_field_is_the_smaller(run):
    said = run("effective_field.py", "--side", 64)
    random_first, random_last, *learnt = [tuple(map(int, pair)) for pair in re.findall(r"(\d+) of (\d+)", said)]
    assert random_first[0] <= random_first[1]  # a single block of random weights fills its box but for the corners
    assert len(learnt) == 2 and all(effective < theory for effective, theory in (random_last, *learnt))


@pytest.fixture
def cifar(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("day", "night"):
        (folder := tmp_path / "cifar" / "train" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), "uint8")).save(folder / f"{i}.png")
    return tmp_path / "cifar"


@pytest.mark.slow
def test_plain_and_residual_networks_are_compared(run, cifar):
    small = ("residual_vs_plain.py", "--steps", 2, "--width", 2, "--depths", 8, 14, cifar)
    said = run(*small)
    assert all(f"{kind}-{depth}" in said for kind in ("plain", "residual") for depth in (8, 14))
    assert run(*small) == said  # from what was kept


@pytest.mark.slow
def test_a_concatenation_costs_as_much_as_the_sum(run, cifar):
    said = run("sum_or_concatenation.py", "--steps", 2, "--seeds", 1, cifar)
    assert float(re.search(r"differs by (\S+)%", said)[1]) < 3
