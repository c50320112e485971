"""`pull`: bring weights here, and check them, before they are needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from keras_cnn.checkpoints import hashes
from keras_cnn.checkpoints.directory import CARD, CONFIG, Folder, weights_name
from keras_cnn.hub import client
from keras_cnn.hub.remote_file import RemoteFile
from keras_cnn.hub.resolve import place, source_at
from keras_cnn.hub.snapshot import Snapshot
from keras_cnn.models.fields import known_options


@dataclass(frozen=True)
class Pulled:
    """path: the directory or file; commit: of a hub; files: size in bytes and sha256 by name."""

    path: Path
    source: str
    commit: str | None
    files: dict[str, dict[str, str | int]]


@known_options
def pull(name: str | os.PathLike[str], *, timeout: float | None = None) -> Path:
    """Fetch weights and check them, so that `build(name)` needs no network; their directory or file.

    name: as of `build`: a tag, `hf://owner/name[@revision]`, or a directory, which is only checked.
    timeout: seconds without progress after which it is given up; by default KERAS_CNN_TIMEOUT, or a minute. What has
    come by then is kept, and the next call goes on from there.
    Raises HubError where the hub refuses or cannot be reached, CorruptFile for a file with another hash than
    published, CacheError where there is no room for it.

    >>> import keras_cnn as kc
    >>> kc.pull("resnet18_half.tiny_in200").name
    'resnet18_half.tiny_in200'
    """
    return fetch(name, timeout=timeout).path


def fetch(name: str | os.PathLike[str], *, timeout: float | None = None) -> Pulled:
    """As `pull`, with what was fetched."""
    with client.patience(timeout):
        return _fetch(os.fspath(name))


def _fetch(name: str) -> Pulled:
    found = place(name)
    if isinstance(found, Folder):
        source = source_at(found, name)
        assert source.load
        source.load()  # nothing is left to fail later: hashes, keys, shapes and values are checked
        names = [CONFIG, weights_name(found), *([CARD] if CARD in found.names else [])]
        path, files = found.path, {name: found.file(name) for name in names}
    else:
        path = found.file() if isinstance(found, RemoteFile) else found
        files = {path.name: path}
    return Pulled(
        path=path,
        source=str(found),
        commit=found.commit if isinstance(found, Snapshot) else None,
        files={key: hashes.record(file) for key, file in files.items()},
    )
