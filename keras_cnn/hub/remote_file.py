"""A file at an `https://` address of the catalogue, whose hash is known."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from keras_cnn.checkpoints.hashes import Print, fits
from keras_cnn.errors import Offline
from keras_cnn.hub import client
from keras_cnn.hub.download import download, sweep


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
        from huggingface_hub import constants

        path, want = self.path, Print(self.hash)
        if path.is_file() and fits(path, (want,)):
            return path
        if constants.HF_HUB_OFFLINE:
            raise Offline(
                f"{self.url} is not in the cache, and HF_HUB_OFFLINE is set: unset it where there is a network."
            )
        files = Path(constants.HF_HOME) / "keras_cnn" / "files"
        sweep(files.glob("*"))
        with client.going_on(self.url):
            download(self.url, path, want, repo=self.url, lock=path.with_name(f"{path.name}.lock"), headers={})
        return path
