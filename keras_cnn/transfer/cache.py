"""Features on disk: what a frozen network says of an image, kept from run to run.

A file of SQLite for each network, a row for each image: rows are written whole or not at all, by many processes at
once, and a run that is killed has lost nothing but the batch at hand. Each row has a checksum over the image's key and
the features, so that a damaged file can give no other image's: it is put aside and made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cnn.checkpoints import arrays
from keras_cnn.errors import CacheWarning
from keras_cnn.files import cache_folder

FORMAT = 2  # of the files and of how features are computed: raise it where either changes
OURS = "[0-9a-f]" * 32 + ".sqlite"  # what files are named; a folder that a person chose may hold others
ASIDE = ".damaged"  # behind the name of a file that was put aside; it makes room before others do
TABLE = "CREATE TABLE features (image BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID"
# What SQLite says where the file is not what it wrote; all else is about rights, room, or another process.
DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_IOERR_SHORT_READ,
}
LIMIT = 10 << 30  # bytes on disk, of all networks together
BATCH = 32  # images that a network is shown at once


def digest(network: Any) -> str:
    """A hash of all that a network's outputs hang on: graph, layers, arrays, precision, and the releases at work."""
    whole = hashlib.sha256(_releases().encode())
    for layer in network.get_config()["layers"]:
        # How weights began and what the network remembers of its past change nothing that it computes.
        config = {k: v for k, v in layer["config"].items() if not k.endswith("initializer")}
        for forgotten in ("record", "trainable"):
            config.pop(forgotten, None)
        parts = [layer["class_name"], config, layer["inbound_nodes"]]
        whole.update(json.dumps(parts, sort_keys=True, default=str).encode())
    whole.update(arrays.digest(arrays.arrays(network)).encode())
    return whole.hexdigest()


def _releases() -> str:
    """What may compute the same network otherwise once it is another one."""
    backend = keras.backend.backend()
    library = import_module(backend).__version__
    return f"{FORMAT} keras_cnn {version('keras-cnn')} keras {keras.__version__} {backend} {library}"


class Store:
    """The rows of one network: features by the hash of the pixels that it saw, so that nothing can be out of date.

    Without room, rights or a sound disk, rows are not kept: CacheWarning says so once, and work goes on. A file that is
    damaged is put aside, and rows are kept in a new one: CacheWarning says that too.
    limit: bytes of the whole folder; the files of the networks that were used longest ago make room, whichever process
    uses them: one whose file is gone makes it again.
    """

    def __init__(self, network: Any, place: str | os.PathLike[str] | None = None, limit: int = LIMIT) -> None:
        self.path = Path(place or cache_folder()) / f"{digest(network)[:32]}.sqlite"
        self.shape = tuple(network.output_shape[1:])
        self.limit, self.usable, self.mended = limit, True, False
        with self._or_without(), self._rows() as rows:  # what is amiss is told before the work
            # Pages whose layout is damaged can be read, and lose rows when more are put into them. The check reads the
            # whole file, a second for 1 GB.
            told = rows.execute("PRAGMA quick_check(1)").fetchone()[0].decode().splitlines()[-1]  # below a heading
            if told != "ok":
                raise _Damaged(told)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Those features that are there."""
        found: dict[bytes, np.ndarray] = {}
        if not self.usable:
            return found
        with self._or_without(), self._rows() as rows:
            for key in keys:
                row = rows.execute("SELECT value FROM features WHERE image = ?", (key,)).fetchone()
                if row:
                    found[key] = _unpack(key, row[0], self.shape)
            return found
        return {}  # of a file with one damaged row, nothing is believed

    def put(self, values: Mapping[bytes, np.ndarray]) -> None:
        """Keep features; all of them or, after a fault, none."""
        if not self.usable:
            return
        mended = None
        while mended != self.mended:  # again, into a new file, where the old one turns out to be damaged
            mended = self.mended
            with self._or_without():
                self._make_room(sum(value.nbytes for value in values.values()))
                with self._rows() as rows:
                    packed = [(key, _pack(key, value)) for key, value in values.items()]
                    rows.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", packed)

    @contextlib.contextmanager
    def _rows(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction; another process that writes is waited for."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()  # the time of last use
        self.inode = self.path.stat().st_ino
        rows = sqlite3.connect(self.path, timeout=60)
        rows.text_factory = bytes  # a damaged row may claim to be text
        try:
            with rows:
                if not (tables := rows.execute("SELECT sql FROM sqlite_master").fetchall()):
                    rows.execute(TABLE.replace("TABLE", "TABLE IF NOT EXISTS"))
                elif tables != [(TABLE.encode(),)]:
                    raise _Damaged("it has other tables")
                yield rows
        finally:
            rows.close()

    @contextlib.contextmanager
    def _or_without(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, _Damaged) as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_READONLY_DBMOVED:
                return  # it made room amid the transaction: these rows are not kept, the next ones are
            damaged = isinstance(error, _Damaged) or code in DAMAGE or (code or 0) & 0xFF in DAMAGE
            # A header that claims a later format makes a file read-only that is none.
            damaged = damaged or (code == sqlite3.SQLITE_READONLY and os.access(self.path, os.W_OK))
            if damaged and not self.mended and self._put_aside():
                self.mended = True
                text = f"{self.path} was damaged ({error}): it was put aside, and its features are computed anew."
            else:
                self.usable = False
                mend = "free space there, or name another folder in KERAS_CNN_CACHE."
                text = f"{self.path.parent}: features are computed, but not kept from now on ({error}): {mend}"
            warnings.warn(text, CacheWarning, 2)

    def _put_aside(self) -> bool:
        """Rename the file, unless another process has done so since; False where that is not allowed."""
        try:
            if self.path.stat().st_ino == self.inode:
                Path(f"{self.path}-journal").unlink(missing_ok=True)  # or it would be played into the new file
                os.replace(self.path, f"{self.path}{ASIDE}")
        except OSError as error:
            return isinstance(error, FileNotFoundError)
        return True

    def _make_room(self, size: int) -> None:
        files = {}
        for file in (*self.path.parent.glob(OURS), *self.path.parent.glob(OURS + ASIDE)):
            with contextlib.suppress(FileNotFoundError):  # another process makes room as well
                files[file] = file.stat()
        used = sum(facts.st_size for facts in files.values())
        for file in sorted(files, key=lambda file: (file.suffix != ASIDE, files[file].st_mtime)):
            if used + size <= self.limit or file == self.path:
                continue
            file.unlink(missing_ok=True)
            used -= files[file].st_size
        if used + size > self.limit:
            raise OSError(f"the limit of {self.limit / 2**30:.3g} GiB is reached")


def features(network: Any, images: Iterable[Any], store: Store | None = None) -> np.ndarray:
    """A network's output for batches of images, in their order: read where it is kept, else computed and kept."""
    outputs = []
    for batch in images:
        batch = np.asarray(batch)
        keys = [_key(image) for image in batch]
        found = store.get(keys) if store else {}
        missing = [i for i, key in enumerate(keys) if key not in found]
        for start in range(0, len(missing), BATCH):
            some = missing[start : start + BATCH]
            # Always of one size, since another one would have to be traced, which costs seconds.
            padded = np.zeros((BATCH, *batch.shape[1:]), batch.dtype)
            padded[: len(some)] = batch[some]
            computed = np.asarray(network.predict_on_batch(padded), "float32")
            new = {keys[i]: value for i, value in zip(some, computed, strict=False)}
            if store:
                store.put(new)
            found |= new
        outputs.append(np.stack([found[key] for key in keys]))
    return np.concatenate(outputs)


def _key(image: np.ndarray) -> bytes:
    head = f"{image.dtype} {image.shape} ".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


class _Damaged(Exception):
    """A file is not as it was written, although SQLite takes no offence."""


def _pack(key: bytes, value: np.ndarray) -> bytes:
    content = value.astype("<f4").tobytes()
    return _checksum(key, content) + content


def _unpack(key: bytes, row: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The array of a row, known to be that of its key."""
    size = 4 * int(np.prod(shape))
    if not isinstance(row, bytes) or len(row) != CHECKSUM + size or row[:CHECKSUM] != _checksum(key, row[CHECKSUM:]):
        raise _Damaged("the checksum of a row differs")
    return np.frombuffer(row, "<f4", offset=CHECKSUM).reshape(shape)


CHECKSUM = 8  # bytes


def _checksum(key: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(key + content, digest_size=CHECKSUM).digest()
