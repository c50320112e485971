"""Which images a run was trained on: their hashes, kept in its directory for whoever scores it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnn.files import write_text

FILE = "seen.txt"  # a hash a line; it stays on this machine


def of(images: Any) -> list[str]:
    """The sha256 of each of (images, height, width, channels), as uint8 where they are whole numbers of 0..255.

    So an array of floats and the file that it was read from are the same image.
    """
    images = np.asarray(images)
    with np.errstate(invalid="ignore"):
        whole = images.astype("uint8", copy=False)
    return [
        hashlib.sha256((w if np.array_equal(w, image) else image).tobytes()).hexdigest()
        for w, image in zip(whole, images, strict=True)
    ]


def write(out: str | Path, hashes: Iterable[str]) -> None:
    """Keep the hashes in a run's directory; where there are none, what an earlier run kept is removed."""
    lines = sorted(set(hashes))
    if lines:
        write_text(Path(out) / FILE, "\n".join(lines) + "\n")
    else:
        (Path(out) / FILE).unlink(missing_ok=True)


def read(directory: str | os.PathLike[str]) -> set[str]:
    """The hashes that a directory has; none where its images are not known."""
    try:
        return set((Path(directory) / FILE).read_text(encoding="utf-8").split())
    except (FileNotFoundError, NotADirectoryError):
        return set()
