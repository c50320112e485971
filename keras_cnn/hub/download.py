"""A file from the web: into a file beside its place, bounded, checked, and only then in its place.

Why not a library's: `hf_hub_download` names files by a header of the answer, compares no hash, and writes what comes;
pooch compares a known hash, but begins anew after a break, and bounds neither bytes nor time without progress.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_cnn.checkpoints.hashes import Print, begin, fits
from keras_cnn.errors import CorruptFile, HubError
from keras_cnn.hub import client, http

LARGEST = 2 << 30  # bytes of a file whose size nobody states: the largest of the catalogue, efficientnet_l2, has 1.9e9
PART = ".part"  # what has come so far; an interrupted download goes on from it
KEPT = 24 * 3600  # seconds
BLOCK = 1 << 20


def download(url: str, path: Path, want: Print, *, repo: str, lock: Path, headers: Mapping[str, str]) -> None:
    """Put the file with the fingerprint `want` at `path`, unless it is there.

    lock: one process downloads, the others wait for it. Raises CorruptFile where the content is another one, twice;
    HubError, CacheError.
    """
    part = path.with_name(f".{path.name}{PART}")
    with client.explaining(repo):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with _alone(lock, part):
            if path.is_file() and fits(path, (want,)):
                return
            for _ in range(2):
                try:
                    whole = client.persist(lambda: _receive(url, part, want, headers), repo)
                except CorruptFile:
                    part.unlink(missing_ok=True)
                    raise
                if whole:
                    os.replace(part, path)
                    return
                part.unlink()
    raise CorruptFile(
        f"{http.plain(url)} came twice with another content than it should have ({want.hash}): it was not used. Try "
        "later, or tell its owner."
    )


def sweep(folders: Iterator[Path]) -> None:
    """Delete what is left of downloads that were given up a day ago."""
    for folder in folders:
        for part in folder.glob(f".*{PART}"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > KEPT:
                    part.unlink()


def _receive(url: str, part: Path, want: Print, headers: Mapping[str, str]) -> bool:
    """Fetch what is missing of a file, hashing it on the way; whether the whole has the fingerprint."""
    most = LARGEST if want.size is None else want.size
    with part.open("a+b") as file:
        size, digest = _so_far(file, want)
        if size > most:
            size, digest = _empty(file, want)
        if size != want.size:
            ranged = {"Range": f"bytes={size}-"} if size else {}
            try:
                with http.get(url, {**headers, **ranged}, limit=most, anywhere=True) as response:
                    if response.status_code != 206:
                        size, digest = _empty(file, want)
                    _check(response, url, part, size, want)
                    size = _write(response, file, digest, size, most)
            except http.Refused as error:
                if error.status != 416:
                    raise
                _empty(file, want)  # what is here is not the beginning of it
                raise http.Broken("RangeRefused", str(error)) from error
        if want.size is not None and size < want.size:
            raise http.Broken("RemoteProtocolError", f"the body ended after {size} of {want.size} bytes")
    return want.fits(digest.hexdigest(), size)


def _so_far(file: Any, want: Print) -> tuple[int, Any]:
    digest = begin(want)
    file.seek(0)
    while block := file.read(BLOCK):
        digest.update(block)
    return file.tell(), digest


def _empty(file: Any, want: Print) -> tuple[int, Any]:
    file.truncate(0)
    return 0, begin(want)


def _check(response: Any, url: str, part: Path, size: int, want: Print) -> None:
    """Refuse what cannot be the rest of the file before any of it is written."""
    where, kind = http.plain(url), response.headers.get("Content-Type", "")
    if "html" in kind and not url.endswith(".html"):
        raise http.no_hub(where, f"a page of {http.words(kind, 40)}")
    if response.status_code == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {size}-"):
        raise http.no_hub(where, "a part of the file that was not asked for")
    if response.status_code not in (200, 206):
        raise http.no_hub(where, f"the status {response.status_code}")
    length = response.headers.get("Content-Length", "")
    rest = None if want.size is None else want.size - size
    if rest is not None and length.isdigit() and not response.extensions["packed"] and int(length) != rest:
        raise CorruptFile(f"{where} would send {length} bytes, where the hub's record says {rest}: none was taken.")
    if shutil.disk_usage(part.parent).free < (rest or 0):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part))


def _write(response: Any, file: Any, digest: Any, size: int, most: int) -> int:
    """Append the body; how long the file is then."""
    from huggingface_hub.utils import tqdm

    name = http.words(str(response.url.path).rpartition("/")[2], 40)
    with tqdm(
        total=None if most == LARGEST else most, initial=size, unit="B", unit_scale=True, desc=name, disable=None
    ) as bar:
        for chunk in response.iter_raw():
            size += len(chunk)
            if size > most:
                raise CorruptFile(f"{http.plain(response.url)} sends more than the {most:,} bytes that it should have.")
            file.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
    return size


@contextlib.contextmanager
def _alone(lock: Path, part: Path) -> Iterator[None]:
    """One process at a time; it is waited for while its file grows."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    def grown() -> int:
        return part.stat().st_size if part.is_file() else -1

    with contextlib.ExitStack() as stack:
        before = grown()
        while True:
            try:
                stack.enter_context(WeakFileLock(lock, timeout=client.seconds()))
                break
            except Timeout:
                if grown() == before:
                    raise HubError(
                        f"another process holds {lock} and made no progress for {client.seconds():g} s: end it, then "
                        "try again."
                    ) from None
                before = grown()
        yield
