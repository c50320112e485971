"""The files of a data set: a folder's, walked without being led astray, or those of a zip, read where they are."""

from __future__ import annotations

import io
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO
from urllib.request import url2pathname

from keras_cnn.data.images import printable, read_bounded
from keras_cnn.errors import BadData

NOISE = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
DEEPEST = 100  # folders around a member of a zip: its name of 64 KiB could claim 32,000
ADDRESS = re.compile("([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
Parts = tuple[str, ...]  # a place below the root


@dataclass(frozen=True)
class Source:
    """One image, not decoded yet. key: place in the data set; name: what messages call it; open: a stream of its bytes.

    A key may hold bytes that are no UTF-8, as names of files do (`os.fsdecode`); a name can always be printed.
    """

    key: str
    name: str
    open: Callable[[], IO[bytes]]

    def read(self) -> bytes:
        """All bytes; BadImage where there are more than an image may have."""
        with self.open() as file:
            return read_bounded(file, self.name)

    def text(self) -> str:
        """All of a list of names that lies beside images; BadData where it is not UTF-8."""
        try:
            return self.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadData(f"{self.name}: not UTF-8 ({error.reason}); save it as UTF-8.") from None


class Spool:
    """Encoded images that come one after the other, laid down in a temporary file rather than held in memory."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  it has to outlive this call
        self.end, self.lock = 0, Lock()  # there is one position for all

    def add(self, content: bytes) -> Callable[[], IO[bytes]]:
        """Lay an image down; returns what opens it again, as of `Source`. The file goes with the last of these."""
        with self.lock:
            self.file.seek(self.end)
            self.file.write(content)
            start, self.end = self.end, self.end + len(content)
        return partial(self._open, start, len(content))

    def _open(self, start: int, size: int) -> IO[bytes]:
        with self.lock:
            self.file.seek(start)
            return io.BytesIO(self.file.read(size))


@dataclass(frozen=True)
class Files:
    """What lies below a root. skipped: links back to a folder above, and what is neither a folder nor a file."""

    folders: set[Parts] = field(default_factory=set)
    files: dict[Parts, Source] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def images(self) -> dict[Parts, Source]:
        """Those that are images by their names."""
        return {
            parts: source for parts, source in self.files.items() if PurePosixPath(parts[-1]).suffix.lower() in SUFFIXES
        }


def local(path: str | os.PathLike[str]) -> Path:
    """The path of a file that may be given as a `file://` address; BadData for one that is on another machine."""
    name = os.fspath(path)
    if (scheme := ADDRESS.match(name)) is None:
        return Path(path)
    host, slash, rest = name[scheme.end() :].partition("/")
    if scheme[1].lower() != "file" or host.lower() not in ("", "localhost"):
        raise BadData(f"{printable(name)} is on another machine: download it, and give the file's path.")
    return Path(url2pathname(slash + rest))


def places(out: Path, sources: Sequence[Source], suffix: str = ".png") -> list[Path]:
    """Where what is made of each image goes: below a folder as the image lies below its own. BadData where two would
    be one file, or an image would be written over."""
    found = [out / Path(source.key).with_suffix(suffix) for source in sources]
    read = {Path(source.name).resolve() for source in sources}
    first: dict[Path, str] = {}
    for place, source in zip(found, sources, strict=True):
        if place.resolve() in read:
            raise BadData(f"--out {out}: {source.name} would be written over: give another folder.")
        if first.setdefault(place, source.name) != source.name:
            raise BadData(f"{first[place]} and {source.name} would both be {place}: write them into two folders.")
    return found


def files_of(root: Path) -> Files:
    """The files of a folder or zip, without hidden ones and those that systems add; BadData for anything else."""
    if root.is_dir():
        return _folder(root)
    if root.is_file():  # a pipe would be waited for, a device read without end
        return _zip(root)
    found = "neither a folder nor a zip" if root.exists() else "no such file or folder"
    raise BadData(f"{printable(root)}: {found}; give a folder, a zip, a table, tfds:NAME or digits.")


def regular(path: Path) -> IO[bytes]:
    """A file opened; a pipe or a device would be read for ever."""
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    return path.open("rb")


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in NOISE


def _folder(root: Path) -> Files:
    """Links are followed, but no folder is entered twice: its images might be in two classes, or in two splits.

    A link back to a folder above is passed over. Two ways to any other folder are refused, since either may be meant.
    """
    found = Files()
    first: dict[tuple[int, int], Parts] = {_identity(above): () for above in root.resolve().parents}
    todo: list[tuple[Path, Parts]] = [(root, ())]
    while todo:
        here, parts = todo.pop()
        try:
            before = first.get(_identity(here))
            if before is None:
                first[_identity(here)] = parts
                with os.scandir(here) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            raise BadData(
                f"{printable(here)}: the folder cannot be read ({error.strerror}); see to its rights."
            ) from None
        if before is None:
            found.folders.add(parts)
        elif parts[: len(before)] == before:
            found.skipped.append(f"{printable(here)} (a link back to a folder above it)")
            continue
        else:
            other = printable(root.joinpath(*before))
            raise BadData(f"{printable(here)} and {other} are the same folder, by a link: keep one of them.")
        for entry in entries:
            path, inside = here / entry.name, (*parts, entry.name)
            if _hidden(entry.name):
                continue
            kind = _kind(entry)
            if kind == "folder":
                todo.append((path, inside))
            elif kind == "file":
                found.files[inside] = Source("", printable(path), partial(open, path, "rb"))
            else:
                found.skipped.append(f"{printable(path)} (not a regular file)")
    found.folders.discard(())
    return found


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _kind(entry: os.DirEntry[str]) -> str:
    """Folder, file or other (a pipe, socket or device); a link that leads nowhere is a file that cannot be read."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() or not os.path.exists(entry.path) else "other"
    except OSError:  # a link to itself
        return "file"


def _zip(path: Path) -> Files:
    """Members are read where they are: nothing is unpacked, so that there is no path to escape from."""
    name = printable(path)
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # of a damaged one, zipfile raises anything
        raise BadData(f"{name}: neither a folder nor a readable zip ({error}).") from error
    found = Files()
    for member in archive.infolist():
        parts = PurePosixPath(member.filename).parts
        if ".." in parts or member.filename.startswith("/"):
            raise BadData(f"{name}: the member {member.filename!r} points outside of the zip; it is not to be trusted.")
        if member.flag_bits & 1:
            raise BadData(f"{name}: the zip is protected by a password; unpack it and give the folder.")
        if not parts or any(map(_hidden, parts)):
            continue
        if len(parts) > DEEPEST:
            raise BadData(f"{name}: a member is {len(parts)} folders deep; it is not to be trusted.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile unpacks others unbounded
            raise BadData(f"{name}: {member.filename!r} is not packed by deflate; unpack the zip and give the folder.")
        depth = len(parts) + member.is_dir()
        found.folders.update(parts[:n] for n in range(1, depth))
        if not member.is_dir():
            found.files[parts] = Source("", f"{name}/{member.filename}", partial(archive.open, member))
    return found
