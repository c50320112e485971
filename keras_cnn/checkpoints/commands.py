"""The command that made a network, as strangers may read it: with names, and without the folders of a machine.

Cards, config.json, run directories and what is published show it; all of them have it from here.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

PROGRAM = "keras-cnn"
# What is told as it is: an address on a hub, a data set of TFDS. Tags, `digits` and plain names hold no separator.
ADDRESS = re.compile(
    r"hf://[\w.-]+/[\w.-]+(?:/[\w.-]+)?(?:@[\w.+/-]+)?|tfds:[\w*-][\w.*-]*(?:/[\w.*-]+)?(?::[\w.*-]+)?"
)
# Regular expressions, whose backslash separates nothing; columns of a table, and what separates names in its cells.
AS_TYPED = ("freeze", "above", "image_column", "labels", "separator", "split_column")
PLACES = ("data", "source", "base_source")  # facts of a provenance that may be paths
# What can be nothing else than a path: from a root, a home, a drive or a server, or from the present folder. And an
# address with credentials or a signature in it.
PATH = re.compile(
    r"(?:[/\\]|~[\w.-]*[/\\]|\.{1,2}[/\\]|[A-Za-z]:[\\/]|file://).*|[\w+.-]+://(?:[^/\s]*@\S*|\S*[?#]\S*)", re.DOTALL
)
SECRET = re.compile(r"token|password|secret|credential", re.IGNORECASE)  # in the name of an option
TOKEN = re.compile(r"\b(?:hf|api_org)_\w{8,}")  # in a value: how the Hub's tokens look
LEFT_OUT = "..."  # in place of an argument that may not be told


def command(context: Any) -> str:
    """The command line of a click context, rebuilt from what was parsed, for a shell to read again.

    Options that were typed, by their long names; every path by its last part. Nothing of a path's folders is in it, and
    no option or value that looks like a credential.
    """
    options, arguments = [], []
    for parameter in context.command.params:
        typed = str(context.get_parameter_source(parameter.name)).endswith("COMMANDLINE")
        if not typed or SECRET.search(parameter.name):
            continue
        value = context.params[parameter.name]
        if parameter.param_type_name == "argument":
            arguments += [_told(parameter.name, one) or LEFT_OUT for one in _each(value)]
        elif isinstance(value, bool):
            options.append(max(parameter.opts if value else parameter.secondary_opts, key=len))
        else:
            option = max(parameter.opts, key=len)
            told = [_told(parameter.name, one) for one in _each(value)]
            options += [word for one in told if one is not None for word in _given(option, one)]
    like_options = any(word.startswith("-") for word in arguments)  # so a parser would take them
    words = [*options, "--", *arguments] if like_options else [*arguments, *options]
    return shlex.join([PROGRAM, context.info_name, *words])


def cleaned(text: str) -> str | None:
    """A command from elsewhere, such as an older config.json, told as `command` would; None where it cannot be read."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""  # a backslash may be a path's
    try:
        words = list(lexer)
    except ValueError:  # a quotation that does not end
        return None
    return shlex.join(_cleaned(words))


def public(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a provenance with its command as strangers may read it, or without one; paths by their last name."""
    told = {key: _place(value) if key in PLACES else value for key, value in facts.items()}
    command = cleaned(str(told.pop("command", "")))
    return {**told, "command": command} if command else told


def _place(value: Any) -> Any:
    """A fact by its last name where it is one path; of a text that only holds a slash, nothing is cut off."""
    if not isinstance(value, str) or ADDRESS.fullmatch(value):
        return value
    return last_name(value) if PATH.fullmatch(value) or (re.search(r"[/\\]", value) and _exists(value)) else value


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # it holds a zero byte
        return False


def last_name(value: str) -> str:
    """A value by its last name where it is a path or an address, of whatever system; as it is where it is none."""
    if ADDRESS.fullmatch(value) and ".." not in value:
        return value
    scheme, address, rest = value.partition("://")
    if address and scheme != "file":  # without what may follow a name there, such as a signature
        place = re.split(r"[?#]", rest)[0]
        if place != rest and place.endswith(("/", "\\")):  # it follows a folder: there is no name
            return LEFT_OUT
        rest = place.rpartition("/")[2]
    parts = [part for part in re.split(r"[\\/]+", rest if address else value) if part]
    last = re.sub(r"^([A-Za-z]:)+", "", parts[-1]) if parts else ""  # a drive, after a folder too
    last = last or ("." if value else "")
    return "~" if last.startswith("~") else last  # it may be somebody's name


def _told(name: str, value: Any) -> str | None:
    """The value of a parameter as text; None where it holds a credential."""
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    text = str(value) if name in AS_TYPED else last_name(str(value))
    return None if TOKEN.search(text) else text


def _given(option: str, value: str) -> list[str]:
    return [f"{option}={value}"] if value.startswith("-") else [option, value]


def _each(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value]


def _cleaned(words: list[str]) -> Iterator[str]:
    """Words of a command line; options may be joined to their values, `--out=DIR` or `-oDIR`."""
    before = ""
    for word in words:
        option, value = re.fullmatch(r"(--[\w-]+=|-\w(?=.*[\\/:~]))?(.*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
        name = (option or before).strip("-=").replace("-", "_")
        before = word if word.startswith("--") and not option else ""
        if SECRET.search(name) or (told := _told(name, value)) is None:
            yield (option or "") + LEFT_OUT
        else:
            yield (option or "") + told
