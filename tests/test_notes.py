"""The notes run as their first lines say, check what they state, and end in a picture and a line of what was seen."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTES = ROOT / "examples" / "notes"
PAGE = (ROOT / "docs" / "notes.md").read_text(encoding="utf-8")

slow = pytest.mark.slow
SMALL = {  # options with which a note is quick; those on learning take minutes as they are
    "batch_statistics": ("--steps", 5),
    "gamma_and_beta": ("--steps", 30),
    "inception_module": (),
    "linear_after_linear": ("--epochs", 3),
    "prediction_time": ("--rounds", 1),
    "tcn": (),
    "three_directions": (),
    "saliency": ("--photos", 1),
    "unet_skips": ("--images", 16, "--epochs", 1),
    "vanishing_gradient": ("--depth", 8),
    "feature_maps": ("--images", 10),
    "fine_tuning_rate": ("--steps", 2, "--images", 5, "--rates", 1e-3, 1e-1),
    "freezing": ("--steps", 3, "--upto", "none", "stage3"),
    "when_transfer": ("--sizes", 2, 8, "--steps", 5),
}
LEARNING = {name for name in SMALL if {"--steps", "--images", "--photos"} & set(SMALL[name])} - {"gamma_and_beta"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=slow) if n in LEARNING else n for n in SMALL])
def test_a_note_ends_in_a_picture_and_what_was_seen(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [f"{name}.py", str(tmp_path / "new" / "picture.png"), *map(str, SMALL[name])])
    runpy.run_path(str(NOTES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("Seen: ") and said.endswith(".") and len(re.findall(r"\d", said)) > 3
    with Image.open(tmp_path / "new" / "picture.png") as picture:
        assert picture.format == "PNG" and min(picture.size) >= 400
        assert len(picture.convert("RGB").getcolors(picture.width * picture.height) or ()) > 20
    assert len(list(tmp_path.rglob("*"))) == 2


@pytest.mark.parametrize("note", sorted(NOTES.glob("*.py")), ids=lambda path: path.stem)
def test_a_note_is_short_and_says_how_it_is_run_and_the_page_has_it(note):
    text = note.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    assert re.search(rf"^    python examples/notes/{note.name} (\S+ )*{note.stem}\.png$", text, re.MULTILINE)
    assert f"examples/notes/{note.name}" in PAGE


def test_every_call_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) > 10
    for example in examples:
        exec(compile(example, "notes.md", "exec"), names)


def test_pictures_of_the_page_exist_and_are_small():
    shown = [ROOT / "docs" / path for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)]
    assert shown and all(path.is_file() for path in shown)
    assert sorted(shown) == sorted((ROOT / "docs" / "notes").glob("*.png"))
    assert sum(path.stat().st_size for path in shown) < 1.5 * 2**20


def test_the_readme_names_a_note_for_each_idea():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| idea |")[2].partition("\n\n")[0]
    assert table.count("\n") > 15
    named = set(re.findall(r"`(\w+\.py)`", table))
    assert named >= {f"{name}.py" for name in SMALL}
