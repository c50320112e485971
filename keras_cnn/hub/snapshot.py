"""One commit of a repository, in the cache of the huggingface_hub client, every file checked before it is used.

The client itself checks the size of what it downloads and nothing else, and believes the names that a server gives. So
what the hub says of a commit's files is kept beside the cache, in `HF_HOME/keras_cnn`, and a file is compared with it
whenever it is read, offline too; files are downloaded here, and laid out as the client lays them out.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_cnn import files
from keras_cnn.checkpoints.directory import CONFIG, Folder, differs
from keras_cnn.checkpoints.hashes import Print, fits
from keras_cnn.errors import CorruptFile, HubWarning, NotFound, Offline
from keras_cnn.hub import api, client
from keras_cnn.hub.api import COMMIT
from keras_cnn.hub.download import download, sweep

LOCAL_HUB = "KERAS_CNN_HUB"  # a folder in the layout of the client's cache, looked into first and never written to
DIGITS = {64: "sha256", 40: "git"}  # a link in the cache leads to a file that is named by its hash: which one


@dataclass(frozen=True)
class Snapshot(Folder):
    """The files of a commit; they are fetched when they are asked for.

    prints: what the hub says of each file; None where it has not been asked: the cache is another program's.
    remote: whether the hub may be asked for what is missing or damaged.
    """

    repo: str
    commit: str
    prints: Mapping[str, Print] | None = field(default=None, repr=False)
    remote: bool = False

    def __str__(self) -> str:
        return f"hf://{self.repo}@{self.commit}"

    @property
    def names(self) -> list[str]:
        return super().names if self.prints is None else sorted(self.prints)

    def file(self, name: str, *prints: Print) -> Path:
        """As a Folder's; fetched where it is missing, or where its content is not what it should be."""
        prints = (*prints, *self._told(name))
        path = self.path / name
        there = path.is_file()
        if there and fits(path, prints):
            return path
        if self.remote:
            self._fetch(name)
            if fits(path, prints):
                return path
        elif not there:
            raise not_cached(f"{name} of {self}", f"hf://{self.repo}@{self.commit}")
        raise differs(path, f"the hub has as {name} of {self}" if not self.remote else f"{self.path / CONFIG} names")

    def origin(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {**facts, "source": str(self)}

    def _told(self, name: str) -> list[Print]:
        if self.prints is not None and name not in self.prints:
            raise NotFound(f"{self} has no {name}.")
        if self.prints is not None:
            return [self.prints[name]]
        path = self.path / name
        target = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
        return [Print(f"{DIGITS[len(target)]}:{target}")] if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", target) else []

    def _fetch(self, name: str) -> None:
        """As the client lays files out: the content under its hash, which the hub's record has, and a link to it."""
        from huggingface_hub import constants, hf_hub_url

        assert self.prints is not None
        want, cache = self.prints[name], Path(constants.HF_HUB_CACHE)
        digits = want.hash.partition(":")[2]
        blob = _storage(self.repo) / "blobs" / digits
        sweep(cache.glob("models--*/blobs"))
        lock = cache / ".locks" / folder_name(self.repo) / f"{digits}.lock"
        url = hf_hub_url(self.repo, name, revision=self.commit)
        with client.going_on(f"{name} of hf://{self.repo}"):
            download(url, blob, want, repo=self.repo, lock=lock, headers=client.headers())
        with client.explaining(self.repo):
            _link(self.path / name, blob)


def repository(repo: str, revision: str | None = None) -> Snapshot:
    """A repository's commit. A branch or tag is looked up on the hub; offline, in the cache.

    Raises NotFound, NoAccess, Offline, HubError.
    """
    revision = revision or "main"
    if root := os.environ.get(LOCAL_HUB):
        with contextlib.suppress(NotFound):
            return local_repository(Path(root) / folder_name(repo), revision)
    prints = _read_record(repo, revision) if COMMIT.fullmatch(revision) else None
    if prints is not None:
        return _cached(repo, revision, prints, remote=not _offline())
    try:
        return _ask(repo, revision)
    except Offline as error:
        commit = commit_of(_storage(repo), revision)
        if commit is None and _offline():
            raise not_cached(f"{repo} at revision {revision}", f"hf://{repo}@{revision}") from error
        if commit is None:
            raise Offline(f"{error} No commit of {revision} is in the cache.") from error
        if not _offline():
            warnings.warn(f"{error} Using the cached commit {commit} of {revision}.", HubWarning, stacklevel=2)
        return _cached(repo, commit, _read_record(repo, commit), remote=False)


def local_repository(path: Path, revision: str = "main") -> Snapshot:
    """A commit of a repository in a folder `models--owner--name` of a local hub; NotFound."""
    commit = commit_of(path, revision)
    if commit is None:
        raise NotFound(f"{path} has no revision {revision!r}.")
    return Snapshot(path / "snapshots" / commit, path.name.removeprefix("models--").replace("--", "/"), commit)


def folder_name(repo: str) -> str:
    """Where a repository lies in a cache."""
    return "--".join(("models", *repo.split("/")))


def commit_of(storage: Path, revision: str) -> str | None:
    """The commit that a cache has under a revision."""
    if not COMMIT.fullmatch(revision):
        ref = storage / "refs" / revision
        revision = ref.read_text(encoding="utf-8").strip() if ref.is_file() else ""
    return revision if COMMIT.fullmatch(revision) and (storage / "snapshots" / revision).is_dir() else None


def not_cached(what: str, address: str) -> Offline:
    return Offline(
        f"{what} is not in the cache, and the hub cannot be asked: run `keras-cnn pull {address}` where there is a "
        "network, with the same HF_HOME, and without HF_HUB_OFFLINE."
    )


def _ask(repo: str, revision: str) -> Snapshot:
    """What the hub says of a revision; noted for later, when there may be no network."""
    if _offline():
        raise Offline(f"{repo} is needed from the hub, and HF_HUB_OFFLINE is set.")
    told = api.about(repo, revision)
    if CONFIG not in told.files:
        raise NotFound(f"{repo} has no {CONFIG} at {revision}: it holds no network that keras_cnn reads.")
    with contextlib.suppress(OSError):  # a read-only cache serves what it has
        record = {name: {"hash": one.hash, "size": one.size} for name, one in told.files.items()}
        files.write_text(_record(repo, told.commit), json.dumps(record))
        if not COMMIT.fullmatch(revision):  # as the client does it, for itself and for others
            files.write_text(_storage(repo) / "refs" / revision, told.commit)
    return _cached(repo, told.commit, told.files, remote=True)


def _cached(repo: str, commit: str, prints: Mapping[str, Print] | None, remote: bool) -> Snapshot:
    return Snapshot(_storage(repo) / "snapshots" / commit, repo, commit, prints, remote)


def _storage(repo: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / folder_name(repo)


def _record(repo: str, commit: str) -> Path:
    """Our note of what the hub said of a commit's files."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "keras_cnn" / folder_name(repo) / f"{commit}.json"


def _read_record(repo: str, commit: str) -> dict[str, Print] | None:
    path = _record(repo, commit)
    try:
        return {
            name: _noted(one["hash"], one["size"]) for name, one in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CorruptFile(f"{path} is damaged: delete it; it is written anew when the hub is asked next.") from None


def _noted(digits: str, size: int) -> Print:
    if not re.fullmatch(r"git:[0-9a-f]{40}|sha256:[0-9a-f]{64}", digits) or type(size) is not int:
        raise ValueError(digits)
    return Print(digits, size)


def _link(path: Path, blob: Path) -> None:
    """Put a link to a blob at a path; the file itself where there are no links, as the client does it."""
    if path.is_file() and path.resolve() == blob.resolve():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        aside.symlink_to(os.path.relpath(blob, path.parent))
    except (OSError, NotImplementedError):
        if os.name == "posix":
            raise
        shutil.copyfile(blob, aside)
    os.replace(aside, path)


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE
