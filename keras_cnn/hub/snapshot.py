"""One commit of a repository, in the cache of the huggingface_hub client, every file checked before it is used.

The client itself checks the size of what it downloads and nothing else. So what the hub says of a commit's files is
kept beside the cache, in `HF_HOME/keras_cnn`, and a file is compared with it whenever it is read, offline too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_cnn import __version__, checkpoint
from keras_cnn.errors import CorruptFile, HubError, HubWarning, NotFound, Offline
from keras_cnn.hub import client
from keras_cnn.hub.directory import CONFIG, Folder, differs
from keras_cnn.hub.hashes import Print, fits, safe_name

LOCAL_HUB = "KERAS_CNN_HUB"  # a folder in the layout of the client's cache, looked into first and never written to
COMMIT = re.compile(r"[0-9a-f]{40}")
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
        """As a Folder's; fetched where it is missing, and once more where its content is not what it should be."""
        prints = (*prints, *self._told(name))
        path = self.path / name
        if not path.is_file():
            self._fetch(name)
        if fits(path, prints):
            return path
        if not self.remote:
            raise differs(path, f"the hub has as {name} of {self}")
        client.persist(lambda: self._mend(name, prints), self.repo, self.commit)
        return path

    def _mend(self, name: str, prints: tuple[Print, ...]) -> None:
        from huggingface_hub.utils import WeakFileLock

        path, lock = self.path / name, _record(self.repo, self.commit).with_suffix(".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):  # one process mends, the others find it done
            if fits(path, prints):
                return
            self._fetch(name, force=True)
            if fits(path, prints):
                return
            _remove(path)
        raise CorruptFile(
            f"{self}: {name} came twice with another content than the hub says (its sha256 differs), and was removed: "
            "try later, or tell the repository's owner."
        )

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

    def _fetch(self, name: str, force: bool = False) -> None:
        from huggingface_hub import hf_hub_download

        if not self.remote:
            raise not_cached(f"{name} of {self}", f"hf://{self.repo}@{self.commit}")
        client.persist(
            lambda: hf_hub_download(
                self.repo,
                name,
                revision=self.commit,
                force_download=force,
                library_name="keras_cnn",
                library_version=__version__,
            ),
            self.repo,
            self.commit,
        )


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
        if commit is None:
            raise not_cached(f"{repo} at revision {revision}", f"hf://{repo}@{revision}", error) from error
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
        revision = ref.read_text().strip() if ref.is_file() else ""
    return revision if COMMIT.fullmatch(revision) and (storage / "snapshots" / revision).is_dir() else None


def not_cached(what: str, address: str, why: Exception | None = None) -> Offline:
    return Offline(
        f"{what} is not in the cache, and the hub cannot be asked: run `keras-cnn pull {address}` where there is a "
        f"network, with the same HF_HOME, and without HF_HUB_OFFLINE.{f' ({why})' if why and not _offline() else ''}"
    )


def _ask(repo: str, revision: str) -> Snapshot:
    """What the hub says of a revision; noted for later, when there may be no network."""
    from huggingface_hub import HfApi

    api = HfApi(library_name="keras_cnn", library_version=__version__)
    info = client.persist(
        lambda: api.model_info(repo, revision=revision, files_metadata=True, timeout=10), repo, revision
    )
    commit = info.sha or ""
    if not COMMIT.fullmatch(commit):
        raise HubError(f"{client.endpoint()} names {commit!r} as the commit of {repo}: it is no hub.")
    prints = {safe_name(file.rfilename, repo): _print(file) for file in info.siblings or ()}
    if CONFIG not in prints:
        raise NotFound(f"{repo} has no {CONFIG} at {revision}: it holds no network that keras_cnn reads.")
    with contextlib.suppress(OSError):  # a read-only cache serves what it has
        record = {name: {"hash": one.hash, "size": one.size} for name, one in prints.items()}
        checkpoint.write_beside(_record(repo, commit), lambda path: Path(path).write_text(json.dumps(record)))
        if not COMMIT.fullmatch(revision):  # as the client does it, for itself and for others
            checkpoint.write_beside(_storage(repo) / "refs" / revision, lambda path: Path(path).write_text(commit))
    return _cached(repo, commit, prints, remote=True)


def _print(file: Any) -> Print:
    return Print(f"sha256:{file.lfs.sha256}" if file.lfs else f"git:{file.blob_id}", file.size)


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
        return {name: Print(one["hash"], one["size"]) for name, one in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CorruptFile(f"{path} is damaged: delete it; it is written anew when the hub is asked next.") from None


def _remove(path: Path) -> None:
    """Delete a file of the cache, and what its link leads to."""
    while path.is_symlink():
        link, path = path, path.parent / os.readlink(path)
        link.unlink()
    path.unlink(missing_ok=True)


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE
