"""Progress bars."""

from __future__ import annotations

import sys
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
