"""The examples in docstrings and in the README run, and what the README tells people to type exists."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

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


def test_public_functions_have_docstrings():
    undocumented = [name for name in keras_cnn.__all__ if not (getattr(keras_cnn, name).__doc__ or "").strip()]
    assert not undocumented
