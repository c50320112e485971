"""What people are shown: progress, and text of strangers (names of files and classes, answers of servers) made safe."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from operator import length_hint
from typing import Any

shown = True  # the command line's --quiet sets it


def progress(steps: Iterable[Any], what: str, total: int | None = None) -> Iterable[Any]:
    """The same steps, with a bar and "n of N" on a terminal; without an end where nothing tells how many they are.

    total: their number, where they have no length. Elsewhere than on a terminal nothing is shown.
    """
    if not (shown and sys.stderr.isatty()):
        return steps
    return _shown(steps, what, total or length_hint(steps) or None)


def _shown(steps: Iterable[Any], what: str, total: int | None) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    # Results that are printed meanwhile stay on stdout: rich would move them to where the bar is.
    to: Any = {"console": Console(stderr=True), "transient": True, "redirect_stdout": False}
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(" of "))
    with Progress(*columns, TimeRemainingColumn(), **to) as bar:
        yield from bar.track(steps, total, description=what)


# --- text of strangers ------------------------------------------------------------------------------------------------

# Characters that a terminal obeys or that none shows: control, format (marks of direction among them), lone
# surrogates (bytes of a file name that are no UTF-8), separators of lines. Emoji and some scripts need the joiners.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
JOINERS = frozenset("\u200c\u200d")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def plain(text: object) -> str:
    r"""The text with everything that a terminal would obey, or hide, written out.

    >>> plain("fox [red] \x1b[2J\u202e\udcff")
    'fox [red] \\x1b[2J\\u202e\\udcff'
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written_out(c) if unicodedata.category(c) in HIDDEN and c not in JOINERS else c for c in text)


def cell(value: object) -> object:
    """A cell of a CSV file that no spreadsheet runs: text that begins as a formula gets an apostrophe before it.

    >>> cell("=1+1"), cell("rose"), cell(-0.5)
    ("'=1+1", 'rose', -0.5)
    """
    if not isinstance(value, str):
        return value
    return "'" + plain(value) if value.startswith(FORMULA) else plain(value)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
