"""Files that are whole or not there: written beside, flushed, renamed; one writer of a folder at a time; journals."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_cnn.errors import BadSpec, CannotWrite, CorruptFile, RunInUse

LOCK = ".lock"  # in a folder that is written to; one that a killed process left holds nobody up
PATIENCE = 60.0  # seconds that one who writes a few files waits for another


def write_beside(path: str | os.PathLike[str], write: Callable[[str], Any]) -> None:
    """Call `write` with the name of a temporary file, then rename that over the target.

    The target is the old file or the new one, whole, whatever happens meanwhile. Its mode follows the umask.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as folder:
        temporary = folder / path.name
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        write(str(temporary))
        os.chmod(temporary, mode)  # safetensors makes a file that only its owner may read
        flush(temporary)
        os.replace(temporary, path)
    flush(path.parent)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary folder next to a target, for what is to be renamed; writers may have temporary files there too."""
    folder = tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path))
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """CannotWrite where a folder cannot be written to, or, where it is not there, cannot be made."""
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):  # rights tell nothing of disks that are read-only
            pass
    except OSError as error:
        why = "it is no folder" if error.errno == errno.ENOTDIR else os.strerror(error.errno or 0)
        raise CannotWrite(f"{folder} cannot be written to ({place}: {why}): name another directory.") from None


def cache_folder() -> Path:
    """Where what can be made again is kept: KERAS_CNN_CACHE, else the user's cache directory."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KERAS_CNN_CACHE") or Path(home) / "keras_cnn" / "features")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file as `write_beside` does, as UTF-8 and with plain line ends on every system."""
    write_beside(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8", newline="\n"))


def clear_beside(path: str | os.PathLike[str]) -> None:
    """Remove what `beside` left of this target where it was killed; nothing may be writing it now."""
    path = Path(path)
    for left in path.parent.glob(glob.escape(_prefix(path)) + "[a-z0-9_]" * 8):  # mkdtemp's names
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on the disk, so that it outlives a loss of power."""
    with contextlib.suppress(PermissionError):  # Windows opens no folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def alone(folder: str | os.PathLike[str], wait: float = 0.0) -> Iterator[None]:
    """Hold a folder until the block, or the process however it ends, is over; within a thread it may be held again.

    wait: seconds to wait for another that holds it. Raises RunInUse.
    """
    busy = f"{folder} is in use by another run: wait for its end, or choose another directory."
    with locked(Path(folder).resolve() / LOCK, busy, wait, again=True):
        yield


@contextlib.contextmanager
def locked(path: Path, busy: str, wait: float = 0.0, *, again: bool = False) -> Iterator[None]:
    """Hold a file of this path as a lock, as `alone` does. busy: what RunInUse says where another holds it.

    again: whether the same thread may hold it again.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, is_singleton=again)  # then one object for a path, which counts how often it is held
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise RunInUse(busy) from None
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            with contextlib.suppress(OSError):
                path.unlink()
        lock.release()


@contextlib.contextmanager
def holding(folder: str | os.PathLike[str], wait: float = 0.0) -> Iterator[None]:
    """`alone` in a folder that is made where it is not there, and removed again where nothing was put into it.

    Raises CannotWrite where it cannot be made or written to.
    """
    folder = Path(folder)
    check_writable(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with alone(folder, wait):
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between the options of two runs, in words; nothing where they agree."""
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return ", ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in changed)


class Journal:
    """The pieces of long work, in one JSON file with a checksum: the same work goes on after a crash.

    path: the file; None keeps nothing. options: all that the pieces depend on. rows: of what is done, JSON values.
    Raises BadSpec where the file is of other work, CorruptFile where it is not as it was written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, options: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.options = json.loads(json.dumps(options))  # as they are read back
        self.rows: list[Any] = []
        if self.path is not None and self.path.exists():
            self.rows = self._read(self.path)

    def add(self, rows: Iterable[Any]) -> None:
        """Keep the rows of a piece that is done."""
        self.rows += json.loads(json.dumps(list(rows)))
        if self.path is not None:
            kept = {"options": self.options, "rows": self.rows}
            write_text(self.path, json.dumps({"sha256": checksum(kept), **kept}, indent=1) + "\n")

    def _read(self, path: Path) -> list[Any]:
        mend = "give another name, or delete it"
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            told, before = kept.pop("sha256"), kept["options"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CorruptFile(f"{path} is no journal that this version could go on with: {mend}.") from None
        if told != checksum(kept):
            raise CorruptFile(f"{path} is damaged: {mend}.")
        if other := differences(before, self.options):
            raise BadSpec(f"{path} is of other work: {other}. Repeat it as it began, or {mend}.")
        return kept["rows"]


def checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _prefix(path: Path) -> str:
    return f".{path.name}."
