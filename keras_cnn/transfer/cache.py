"""Features on disk: what a frozen network says of an image, kept from run to run.

A file of SQLite for each network, a row for each image: rows are written whole or not at all, by many processes at
once, and a run that is killed has lost nothing but the batch at hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_cnn
from keras_cnn import checkpoint
from keras_cnn.errors import CacheWarning

FORMAT = 1  # of the files and of how features are computed: raise it where either changes
OURS = "[0-9a-f]" * 32 + ".sqlite"  # what files are named; a folder that a person chose may hold others
LIMIT = 10 << 30  # bytes on disk, of all networks together
BATCH = 32  # images that a network is shown at once


def folder() -> Path:
    """Where features are kept: KERAS_CNN_CACHE, else the user's cache directory."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KERAS_CNN_CACHE") or Path(home) / "keras_cnn" / "features")


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
    whole.update(checkpoint.digest(checkpoint.arrays(network)).encode())
    return whole.hexdigest()


def _releases() -> str:
    """What may compute the same network otherwise once it is another one."""
    backend = keras.backend.backend()
    library = import_module(backend).__version__
    return f"{FORMAT} keras_cnn {keras_cnn.__version__} keras {keras.__version__} {backend} {library}"


class Store:
    """The rows of one network: features by the hash of the pixels that it saw, so that nothing can be out of date.

    Without room, rights or a sound disk, rows are not kept: CacheWarning says so once, and work goes on.
    limit: bytes of the whole folder; the files of the networks that were used longest ago make room, whichever process
    uses them: one whose file is gone makes it again.
    """

    def __init__(self, network: Any, place: str | os.PathLike[str] | None = None, limit: int = LIMIT) -> None:
        self.path = Path(place or folder()) / f"{digest(network)[:32]}.sqlite"
        self.shape = tuple(network.output_shape[1:])
        self.limit, self.usable = limit, True
        with self._or_without(), self._rows():
            pass  # what is amiss is told before the work

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Those features that are there and sound."""
        found: dict[bytes, np.ndarray] = {}
        if not self.usable:
            return found
        with self._or_without(), self._rows() as rows:
            for key in keys:
                row = rows.execute("SELECT value FROM features WHERE image = ?", (key,)).fetchone()
                value = _unpack(row[0], self.shape) if row else None
                if value is not None:
                    found[key] = value
        return found

    def put(self, values: Mapping[bytes, np.ndarray]) -> None:
        """Keep features; all of them or, after a fault, none."""
        if not self.usable:
            return
        with self._or_without():
            self._make_room(sum(value.nbytes for value in values.values()))
            with self._rows() as rows:
                packed = [(key, _pack(value)) for key, value in values.items()]
                rows.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", packed)

    @contextlib.contextmanager
    def _rows(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction; another process that writes is waited for."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()  # the time of last use
        rows = sqlite3.connect(self.path, timeout=60)
        try:
            with rows:
                rows.execute("CREATE TABLE IF NOT EXISTS features (image BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
                yield rows
        finally:
            rows.close()

    @contextlib.contextmanager
    def _or_without(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_DBMOVED:
                return  # it made room amid the transaction: these rows are not kept, the next ones are
            self.usable = False
            mend = "free space there, or name another folder in KERAS_CNN_CACHE."
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                mend = f"{self.path.name} was damaged; the next run starts it anew."
                with contextlib.suppress(OSError):
                    self.path.unlink()
            text = f"{self.path.parent}: features are computed, but not kept from now on ({error}): "
            warnings.warn(text + mend, CacheWarning, 2)

    def _make_room(self, size: int) -> None:
        files = {}
        for file in self.path.parent.glob(OURS):
            with contextlib.suppress(FileNotFoundError):  # another process makes room as well
                files[file] = file.stat()
        used = sum(facts.st_size for facts in files.values())
        for file in sorted(files, key=lambda file: files[file].st_mtime):
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


def _pack(value: np.ndarray) -> bytes:
    content = value.astype("<f4").tobytes()
    return zlib.crc32(content).to_bytes(4, "little") + content


def _unpack(row: bytes, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array, or None where the row is damaged."""
    content = row[4:]
    if zlib.crc32(content).to_bytes(4, "little") != row[:4] or len(content) != 4 * int(np.prod(shape)):
        return None
    return np.frombuffer(content, "<f4").reshape(shape)
