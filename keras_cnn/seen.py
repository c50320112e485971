"""What a run was trained on: a hash of each image, so that no figure for them is taken for one of new images.

The list stays with the run, and is not published.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

FILE = "seen.txt"


def of(images: Iterable[np.ndarray]) -> list[str]:
    """sha256 of each image, as the network sees it: uint8 (height, width, channels)."""
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def write(out: str | os.PathLike[str], hashes: Iterable[str]) -> None:
    """Keep hashes in a directory, one a line."""
    Path(out, FILE).write_text("".join(f"{one}\n" for one in hashes), encoding="utf-8")


def read(directory: str | os.PathLike[str]) -> set[str]:
    """The hashes in a directory; none where it holds no list."""
    path = Path(directory, FILE)
    return set(path.read_text(encoding="utf-8").split()) if path.is_file() else set()
