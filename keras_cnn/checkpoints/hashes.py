"""What a file must be: its size and the hashes that others published of it."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from keras_cnn.errors import UnsafeFile

SHORTEST = 8  # digits of a shortened hash, as in the names of torchvision's files


@dataclass(frozen=True)
class Print:
    """The fingerprint of a file.

    hash: algorithm and digits, such as "sha256:9f86d081..." (whole, or its first eight digits or more), "md5:...", or
    "git:...", which is how a hub names a small file. size: in bytes, None where it is not known.
    """

    hash: str
    size: int | None = None

    @property
    def algorithm(self) -> str:
        return self.hash.partition(":")[0]

    def fits(self, digest: str, size: int) -> bool:
        digits = self.hash.partition(":")[2]
        return self.size in (None, size) and len(digits) >= SHORTEST and digest.startswith(digits)


def begin(want: Print) -> Any:
    """A hash of hashlib's, to be fed with the content of a file that should have this fingerprint."""
    if want.algorithm == "git":
        return hashlib.sha1(b"blob %d\0" % (want.size or 0), usedforsecurity=False)
    return hashlib.new(want.algorithm, usedforsecurity=False)


def fits(path: Path, prints: tuple[Print, ...]) -> bool:
    """Whether a file has all of these fingerprints; each algorithm reads it once."""
    size = path.stat().st_size
    digests = {algorithm: digest(path, algorithm) for algorithm in {one.algorithm for one in prints}}
    return all(one.fits(digests[one.algorithm], size) for one in prints)


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal hash of a file's content."""
    with path.open("rb") as file:
        start = begin(Print(algorithm, os.fstat(file.fileno()).st_size))
        return hashlib.file_digest(file, lambda: start).hexdigest()


def record(path: Path) -> dict[str, str | int]:
    """A file's size and sha256, as config.json and the command line give them."""
    return {"sha256": digest(path), "size": path.stat().st_size}


def safe_name(name: str, where: str) -> str:
    """The name itself, if it stays within its folder on every system; UnsafeFile otherwise."""
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    rooted = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if not name or rooted or ".." in parts or re.search(r"[\0:]", name):
        raise UnsafeFile(f"{where} names a file {name!r}, which would lie outside its folder: nothing of it was read.")
    return name
