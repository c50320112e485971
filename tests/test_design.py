"""docs/design.md is true: its examples run, and `build` goes the way that it shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import keras_cnn as kc
from keras_cnn import tasks
from keras_cnn.models import meaning, registry

DESIGN = (Path(__file__).parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"### ([^\n]+)\n(?:(?!### ).)*?```python\n(.*?)```", DESIGN, re.DOTALL)


def test_each_new_thing_has_an_example():
    assert [title for title, _ in EXAMPLES] == ["A family", "A head", "A task", "A source of data"]


@pytest.mark.parametrize(("title", "example"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_examples_run_and_are_short(title, example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables = (registry.BACKBONES, registry.HEADS, meaning.MEANINGS, tasks.TASKS)
    before = [set(table) for table in tables]
    try:
        exec(compile(example, f"design.md, {title}", "exec", dont_inherit=True), {"__name__": "design"})
    finally:  # what an example adds goes again
        for table, names in zip(tables, before, strict=True):
            for name in set(table) - names:
                del table[name]
    assert len(example.splitlines()) < 40


def rooms(run) -> list[str]:
    """The areas whose functions `building` calls, in order; each stay once. naming is the vocabulary of all."""
    found: list[str] = []

    def look(frame, event, _):
        caller = frame.f_back
        if event != "call" or caller is None or caller.f_globals.get("__name__") != "keras_cnn.building":
            return
        package, _, module = frame.f_globals.get("__name__", "").partition(".")
        area = module.partition(".")[0]
        closure = frame.f_code.co_name == "<lambda>"  # by which what `resolve` found is loaded
        if package == "keras_cnn" and module not in ("building", "models.naming", "models.fields") and not closure:
            found.extend([area] if found[-1:] != [area] else [])

    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def test_build_visits_each_room_once():
    told = re.findall(r"^\d\. `(\w+)`", DESIGN.split("## `build`")[1].split("\n## ")[0], re.MULTILINE)
    assert rooms(lambda: kc.build("resnet18.tiny_in200", classes=5, freeze="stage3")) == told
