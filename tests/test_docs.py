"""The examples in docstrings and in the README run, and what the README tells people to type exists."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import keras_cnn

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
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


def commands_in(text: str) -> list[list[str]]:
    """Words of every command of ours in a text: in blocks of shell, wherever in a line, and in inline code."""
    fence = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
    shell = [block for language, block in fence.findall(text) if language in ("", "bash", "sh", "console")]
    lines = [line for block in shell for line in block.replace("\\\n", " ").splitlines()]
    lines += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", fence.sub("", text))]
    parts = [part for line in lines for part in re.split(r"&&|\|\||[;|]", line)]
    found = [re.search(r"(?:^|[\s/(])(?:keras-cnn|-m keras_cnn\.cli)((?:\s+\S+)+)", part) for part in parts]
    return [shlex.split(match[1], comments=True) for match in found if match]


def unknown_in(words: list[str]) -> list[str]:
    """The command, and options, that do not exist."""
    from typer.main import get_command

    from keras_cnn.cli import app

    group: Any = get_command(app)
    if words[0].startswith("-"):
        known = {option for parameter in group.params for option in parameter.opts} | {"-h", "--help"}
        return [word for word in words if word.startswith("-") and word not in known]
    verb = group.commands.get(words[0])
    if verb is None:
        return [words[0]]
    known = {option for parameter in verb.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = [word.split("=")[0] for word in words[1:] if re.match(r"--?[A-Za-z]", word)]
    return [option for option in used if option not in known | {"-h", "--help"}]


def test_readme_names_existing_commands():
    found = commands_in(README)
    assert len(found) > 10
    assert {words[0] for words in found} >= {"demo", "predict", "evaluate", "list", "info"}
    assert not [(words, unknown) for words in found if (unknown := unknown_in(words))]


@pytest.mark.parametrize(
    "text",
    [
        "```bash\nkeras-cnn frobnicate x\n```",
        "```bash\n    keras-cnn predict x --modell y\n```",
        "```bash\npip install . && .venv/bin/keras-cnn demmo\n```",
        "```bash\nKERAS_BACKEND=jax python -m keras_cnn.cli demmo\n```",
        "```bash\nls $(keras-cnn pulll x)\n```",
        "see `keras-cnn list --colour` for all",
        "see `keras-cnn finetune DATA --model M\n--outt DIR` for all",
        "`keras-cnn --versions`",
    ],
)
def test_a_command_that_does_not_exist_is_found(text):
    (words,) = commands_in(text)
    assert unknown_in(words)


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
