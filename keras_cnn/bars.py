"""Progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from operator import length_hint
from typing import Any


def progress(steps: Iterable[Any], what: str, total: int | None = None) -> Iterable[Any]:
    """The same steps, with a bar on a terminal; one without an end where nothing tells how many they are."""
    if not sys.stderr.isatty():
        return steps
    from rich.console import Console
    from rich.progress import track

    return track(steps, what, total or length_hint(steps) or None, console=Console(stderr=True), transient=True)
