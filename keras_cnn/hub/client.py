"""Calls of the huggingface_hub client: repeated where that may help, its exceptions turned into sentences."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any, TypeVar

from keras_cnn.errors import CacheError, HubError, KerasCnnError, NoAccess, NotFound, Offline

T = TypeVar("T")

ATTEMPTS = 5
FIRST_WAIT = 0.5  # seconds; doubled after each attempt, unless the hub asks for a longer one
LONGEST_WAIT = 60.0
PASSING = (408, 429, 500, 502, 503, 504)  # statuses that a later attempt may not meet

# Classes of exceptions by name, since the client is imported where it is used, and since its HTTP library is httpx or
# httpx2, by its version. The first that fits is taken.
SENTENCES: tuple[tuple[str, type[KerasCnnError], str], ...] = (
    (
        "GatedRepoError",
        NoAccess,
        "{repo} is gated: accept its terms at {endpoint}/{repo}, then set HF_TOKEN to a token of yours.",
    ),
    (
        "RepositoryNotFoundError",
        NotFound,
        "{endpoint} has no model repository {repo}: check the name; if it is private, set HF_TOKEN to a token that "
        "may read it.",
    ),
    ("RevisionNotFoundError", NotFound, "{repo} has no branch, tag or commit {revision!r}: see {endpoint}/{repo}."),
    ("EntryNotFoundError", Offline, "{repo}: a file of revision {revision} is neither cached nor to be had: {error}"),
    ("OfflineModeIsEnabled", Offline, "{repo} is needed from the hub, and HF_HUB_OFFLINE is set."),
    ("TransportError", Offline, "{endpoint} cannot be reached for {repo} ({kind}): check the network, then try again."),
)
STATUSES: dict[int, tuple[type[KerasCnnError], str]] = {
    401: (NoAccess, "{endpoint} refused the token for {repo} (401): set HF_TOKEN to a valid one, or unset it."),
    403: (NoAccess, "{endpoint} does not let you do this to {repo} (403): HF_TOKEN needs the right for it."),
    429: (HubError, "{endpoint} asks for fewer requests (429): wait some minutes, or set HF_TOKEN."),
}
CACHE = {
    errno.ENOSPC: "no space is left on the device of the cache {cache}: free some, or set HF_HOME to another disk.",
    errno.EDQUOT: "your disk quota is used up at the cache {cache}: free some, or set HF_HOME to another disk.",
}
CACHE |= dict.fromkeys(
    (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST),
    "the cache {cache} cannot be written ({kind}): set HF_HOME to a folder of yours.",
)


def endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def persist(call: Callable[[], T], repo: str, revision: str | None = None) -> T:
    """The call's result; again after a pause where the connection broke or the hub was busy.

    Raises HubError's subclasses and CacheError, each with one sentence.
    """
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except KerasCnnError:
            raise
        except Exception as caught:
            error = _cause(caught)
            spent = type(caught) is RuntimeError  # an upload that the client itself has tried often enough
            if attempt + 1 == ATTEMPTS or spent or not passing(error):
                raise explained(error, repo, revision) from error
            time.sleep(max(FIRST_WAIT * 2**attempt, _asked(error)))
    raise AssertionError("unreachable")


def passing(error: BaseException) -> bool:
    """Whether a later attempt may succeed. A hub that nobody answers at is told at once: the cache may do."""
    kinds = _kinds(error)
    broken = "TransportError" in kinds and not kinds & {"ConnectError", "ConnectTimeout"}
    return broken or _status(error) in PASSING


def explained(error: BaseException, repo: str, revision: str | None = None) -> BaseException:
    """Our exception for one of the client's; an unknown one is returned as it is."""
    from huggingface_hub import constants

    names, status, code = _kinds(error), _status(error), getattr(error, "errno", None)
    facts = {
        "repo": repo,
        "revision": revision or "main",
        "endpoint": constants.ENDPOINT,
        "cache": constants.HF_HOME,
        "kind": getattr(error, "strerror", None) or type(error).__name__,
        "error": error,
    }
    for name, ours, sentence in SENTENCES:
        if name in names:
            return ours(sentence.format(**facts))
    if status in STATUSES:
        ours, sentence = STATUSES[status]
        return ours(sentence.format(**facts))
    if status:
        return HubError(f"{repo}: the hub answered {status}, which no new attempt mended: try later. ({error})")
    if code in CACHE:
        return CacheError(CACHE[code].format(**facts))
    return error


def _kinds(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}


def _cause(error: BaseException) -> BaseException:
    """The client wraps why it could not force a download in a bare ValueError, and an upload in a RuntimeError."""
    return error.__cause__ if type(error) in (ValueError, RuntimeError) and error.__cause__ else error


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _asked(error: BaseException) -> float:
    """Seconds that the hub asked to wait."""
    response: Any = getattr(error, "response", None)
    text = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(text), LONGEST_WAIT) if text.isdigit() else 0.0
