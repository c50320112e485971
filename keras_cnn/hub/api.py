"""What a hub says of a repository; nothing of it is believed before it has been looked at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from keras_cnn.checkpoints.hashes import Print, safe_name
from keras_cnn.hub import client, http

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class About:
    """A revision: its commit, and the fingerprints of its files."""

    commit: str
    private: bool
    files: Mapping[str, Print]


@dataclass(frozen=True)
class Refs:
    """Commits by the name of their branch or tag."""

    branches: Mapping[str, str]
    tags: Mapping[str, str]


def about(repo: str, revision: str | None = None, token: str | None = None) -> About:
    """What a revision holds. Raises NotFound, NoAccess, Offline; UnsafeFile for a name that leaves its folder."""
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    url = f"{client.endpoint()}/api/models/{repo}{at}?blobs=True"

    def ask() -> About:
        value = http.get_json(url, client.headers(token))
        commit: Any = value.get("sha")
        private, files = value.get("private"), _list(value, "siblings", url)
        _check(isinstance(commit, str) and COMMIT.fullmatch(commit), url, "sha", commit)
        _check(isinstance(private, bool | None), url, "private", private)
        return About(commit, bool(private), dict(_file(one, repo, url) for one in files))

    return client.persist(ask, repo, revision)


def refs(repo: str, token: str | None = None) -> Refs:
    """The branches and tags of a repository."""
    url = f"{client.endpoint()}/api/models/{repo}/refs"

    def ask() -> Refs:
        value = http.get_json(url, client.headers(token))
        return Refs(*(_commits(value, kind, url) for kind in ("branches", "tags")))

    return client.persist(ask, repo)


def _file(one: Any, repo: str, url: str) -> tuple[str, Print]:
    _check(isinstance(one, dict) and isinstance(one.get("rfilename"), str), url, "siblings", one)
    name, lfs = safe_name(one["rfilename"], repo), one.get("lfs")
    if lfs is None:
        digits, size = one.get("blobId"), one.get("size")
        _check(isinstance(digits, str) and COMMIT.fullmatch(digits), url, "blobId", digits)
    else:
        _check(isinstance(lfs, dict), url, "lfs", lfs)
        digits, size = lfs.get("sha256"), lfs.get("size")
        _check(isinstance(digits, str) and SHA256.fullmatch(digits), url, "sha256", digits)
    _check(type(size) is int and size >= 0, url, "size", size)
    return name, Print(f"{'git' if lfs is None else 'sha256'}:{digits}", size)


def _commits(value: Mapping[str, Any], kind: str, url: str) -> dict[str, str]:
    lines = _list(value, kind, url)
    for line in lines:
        whole = isinstance(line, dict) and isinstance(line.get("name"), str)
        _check(whole and COMMIT.fullmatch(str(line.get("targetCommit"))), url, kind, line)
    return {line["name"]: line["targetCommit"] for line in lines}


def _list(value: Mapping[str, Any], key: str, url: str) -> list[Any]:
    found = value.get(key)
    _check(isinstance(found, list), url, key, found)
    return found or []


def _check(good: Any, url: str, key: str, value: Any) -> None:
    if not good:
        raise http.no_hub(url, f"{key}={http.words(repr(value), 60)}")
