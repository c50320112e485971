"""The command that looks at the machine."""

from __future__ import annotations

from typing import Annotated

from keras_cnn.cli import console
from keras_cnn.cli.options import JSON


def doctor(as_json: Annotated[bool, JSON] = False) -> None:
    """Look this machine over, and say what to mend.

    Versions, devices, settings, hub, caches and speed; a few seconds.
    """
    found = console.framework().doctor(verbose=not as_json)
    if as_json:
        console.print_json([{**finding._asdict(), "figures": dict(finding.figures)} for finding in found])
