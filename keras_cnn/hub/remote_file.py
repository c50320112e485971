"""A file at an `https://` address of the catalogue, whose hash is known."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from keras_cnn.errors import CorruptFile, Offline
from keras_cnn.hub import client
from keras_cnn.hub.hashes import Print, fits


@dataclass(frozen=True)
class RemoteFile:
    """hash: as the catalogue has it, "md5:..." or "sha256:..."."""

    url: str
    hash: str

    def __str__(self) -> str:
        return self.url

    @property
    def path(self) -> Path:
        """Where the file lies once it has been fetched; addresses with the same file name stay apart by their hash."""
        from huggingface_hub import constants

        folder = Path(constants.HF_HOME) / "keras_cnn" / "files" / self.hash.partition(":")[2]
        return folder / os.path.basename(urlsplit(self.url).path)

    def file(self) -> Path:
        """The path of the file, fetched where it is not cached; a file with another hash is fetched once more.

        Raises Offline, CacheError, CorruptFile: then none is left in the cache.
        """
        path = self.path
        if not (path.is_file() and fits(path, (Print(self.hash),))):
            client.persist(self._obtain, self.url)
        return path

    def _obtain(self) -> None:
        from huggingface_hub.utils import WeakFileLock

        path, prints = self.path, (Print(self.hash),)
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path.with_name(f"{path.name}.lock")):  # one process fetches, the others wait for it
            for _ in range(2):
                if path.is_file() and fits(path, prints):
                    return
                client.persist(self._fetch, self.url)
            if fits(path, prints):
                return
            path.unlink()
        raise CorruptFile(f"{self.url} has another content than the catalogue says ({self.hash}): it was not used.")

    def _fetch(self) -> None:
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session, tqdm

        if constants.HF_HUB_OFFLINE:
            raise Offline(
                f"{self.url} is not in the cache, and HF_HUB_OFFLINE is set: unset it where there is a network."
            )
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".")
        try:
            with (
                os.fdopen(handle, "wb") as file,
                get_session().stream("GET", self.url, follow_redirects=True) as response,
            ):
                response.raise_for_status()
                size = int(response.headers.get("Content-Length", 0))
                with tqdm(total=size or None, unit="B", unit_scale=True, desc=self.path.name) as bar:
                    for chunk in response.iter_bytes(1 << 20):
                        file.write(chunk)
                        bar.update(len(chunk))
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.path)
        finally:
            Path(temporary).unlink(missing_ok=True)
