"""The examples in docstrings and in the README run, and what the README tells people to type exists."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import keras_cnn

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MODULES = [m.name for m in pkgutil.walk_packages(keras_cnn.__path__, "keras_cnn.")]
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert not failed


def test_readme_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    assert EXAMPLES
    for example in EXAMPLES:
        exec(compile(example, "README.md", "exec"), names)


def test_readme_names_existing_commands():
    from typer.main import get_command

    from keras_cnn.cli import app

    commands = set(get_command(app).commands)
    assert set(re.findall(r"^keras-cnn (\w+)", README, re.MULTILINE)) <= commands


KNOWN = {"model", "name", "verbose"}  # as in Keras: they need no words


def undocumented(public: Any) -> list[str]:
    """What the docstring of a function or dataclass leaves out: itself, or options."""
    text = inspect.getdoc(public) or ""
    if not text or text.startswith(f"{public.__name__}("):  # dataclasses make one of their signature
        return [public.__name__]
    return [name for name in inspect.signature(public).parameters if name not in KNOWN and not named(name, text)]


def named(option: str, text: str) -> bool:
    return bool(re.search(rf"\b{option}\b", text))


@pytest.mark.parametrize("name", keras_cnn.__all__)
def test_public_names_and_their_options_have_docstrings(name):
    assert not undocumented(getattr(keras_cnn, name))


def test_docstrings_that_are_missing_are_found():
    @dataclasses.dataclass
    class Bare:
        size: int = 0

    @dataclasses.dataclass
    class Short:
        """A thing of a width."""

        size: int = 0
        width: int = 0

    def silent(model): ...

    assert (undocumented(Bare), undocumented(Short), undocumented(silent)) == (["Bare"], ["size"], ["silent"])
