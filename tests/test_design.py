"""docs/design.md is true: its examples run, and `build` goes the way that it shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from test_imports import LEVELS

import keras_cnn as kc
from keras_cnn import tasks
from keras_cnn.models import meaning, registry

DESIGN = (Path(__file__).parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"### ([^\n]+)\n(?:(?!### ).)*?```python\n(.*?)```", DESIGN, re.DOTALL)


def test_the_order_is_that_of_the_imports():
    block = re.search(r"\n\n((?:    \S.*\n)+)", DESIGN.split("## The order")[1])
    assert block
    lines = [re.split(r"  +", line.strip())[0] for line in block[1].splitlines()]
    assert [set(level.split(", ")) for line in lines for level in line.split("; ")] == [set(level) for level in LEVELS]


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


def test_fine_tuning_goes_through_the_rooms_that_are_told(tmp_path):
    """Each module that the page names is called; the network is cut before features are kept, and written last."""
    steps = re.findall(r"^\d\. (.*?)(?=^\d\. |\Z)", DESIGN.split("## `fine_tune`")[1].split("\n## ")[0], re.M | re.S)
    told = [re.findall(r"`(data|\w+/\w+\.py)`", step) for step in steps]
    modules = [[name.removesuffix(".py").replace("/", ".") for name in names] for names in told if names]
    entered: dict[str, int] = {}

    def look(frame, event, _):
        if event == "call":
            package, _, module = frame.f_globals.get("__name__", "").partition(".")
            if package == "keras_cnn":
                for name in (module, module.partition(".")[0], f"{module}.{frame.f_code.co_name}"):
                    entered.setdefault(name, len(entered))

    labels = np.arange(16) % 2
    images = (np.zeros((16, 16, 16, 3)) + 200 * labels[:, None, None, None]).astype("uint8")
    model = kc.build("resnet20", depths=(1, 1, 1), classes=2, input_shape=(16, 16, 3))
    options = {"head_epochs": 1, "epochs": 1, "batch_size": 8, "probe": False, "verbose": 0}
    data = kc.load_data((images, labels), model, augment=None, batch_size=8)
    sys.setprofile(look)
    try:
        kc.fine_tune(model, data, out=tmp_path / "run", **options)
    finally:
        sys.setprofile(None)
    assert len(modules) == 5 and {name for names in modules for name in names} <= entered.keys()
    assert entered["transfer.split"] < entered["transfer.cache"] < entered["checkpoints.directory.save_pretrained"]
