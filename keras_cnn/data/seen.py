"""Which images a run was trained on: their hashes, kept in its directory for whoever scores it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnn.data.files import regular
from keras_cnn.errors import CorruptFile
from keras_cnn.files import checksum, write_text
from keras_cnn.models.config import Preprocess

FILE = "seen.txt"  # how the run saw images, and a hash a line; it stays on this machine
LOOK = ("size", "crop", "interpolation", "mode")  # what the pixels of an image depend on
CHECK = "sha256"  # beside how they are seen: of the hashes; older files have none
HASH = re.compile(rb"[0-9a-f]{64}\r?\n?")
LONGEST = 64 << 10  # bytes of a line


@dataclasses.dataclass(frozen=True)
class Known:
    """hashes: of the images that a run was trained on. preprocess: how it saw them, since hashes are of pixels at the
    run's own size; None in older files, which do not tell."""

    hashes: frozenset[str]
    preprocess: Preprocess | None = None

    def looked(self, preprocess: Preprocess) -> bool:
        """Whether images that are seen like this have the pixels that the run saw."""
        return self.preprocess is None or all(
            getattr(self.preprocess, name) == getattr(preprocess, name) for name in LOOK
        )

    def comparable(self, image: np.ndarray) -> bool:
        """Whether an array has the size at which the run saw images; of sequences the length may be any."""
        return self.preprocess is None or image.ndim < 3 or image.shape[:2] == self.preprocess.size

    def __contains__(self, image: np.ndarray) -> bool:
        return bool(self.hashes) and of(image[None])[0] in self.hashes


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


def write(path: str | os.PathLike[str], hashes: Iterable[str], preprocess: Preprocess | None = None) -> None:
    """Keep hashes in a file; where there are none, what an earlier run kept is removed."""
    lines = sorted(set(hashes))
    if not lines:
        return Path(path).unlink(missing_ok=True)
    look = [json.dumps({**dataclasses.asdict(preprocess), CHECK: checksum(lines)})] if preprocess else []
    write_text(path, "\n".join([*look, *lines]) + "\n")


def read(path: str | os.PathLike[str]) -> Known | None:
    """What a file tells; None where there is none: then it is not known.

    Raises CorruptFile for one that was damaged: its images would pass for new ones.
    """
    try:
        with regular(Path(path)) as file:
            lines = iter(partial(file.readline, LONGEST), b"")
            first = next(lines, b"")
            look = json.loads(first) if first.startswith(b"{") else None
            hashes = [_hash(line) for line in (lines if look else chain([first], lines))]
        if look is None:
            return Known(frozenset(hashes))
        if look.pop(CHECK, None) not in (None, checksum(hashes)) or not look.keys() >= set(LOOK):
            raise ValueError
        return Known(frozenset(hashes), Preprocess(**look))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CorruptFile(
            f"{path} is not as a run wrote it ({type(error).__name__}): delete it; then nothing tells which images the "
            "network was trained on."
        ) from None


def _hash(line: bytes) -> str:
    """A line's hash; ValueError where it has none."""
    if not HASH.fullmatch(line):
        raise ValueError
    return line.decode().rstrip()
