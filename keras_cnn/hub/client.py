"""Calls to a hub: repeated where that may help, given up where nothing moves, and what went wrong as a sentence.

Why not a library's: tenacity and huggingface_hub's `http_backoff` count attempts and pauses. Here one time without
progress is over the whole call, the waits for a connection, an answer and its bytes included, and a server's
`Retry-After` cannot prolong it.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, TypeVar

from keras_cnn.errors import CacheError, HubError, KerasCnnError, NoAccess, NotFound, Offline
from keras_cnn.hub import http
from keras_cnn.hub.http import Broken, Refused, Watch

T = TypeVar("T")

TIMEOUT = 60.0  # seconds without progress
VARIABLE = "KERAS_CNN_TIMEOUT"
ATTEMPTS = 5
FIRST_WAIT = 0.5  # seconds; doubled after each attempt, unless the hub asks for a longer one
PASSING = (408, 429, 500, 502, 503, 504)  # statuses that a later attempt may not meet
NOBODY = ("ConnectError", "ConnectTimeout", "UnsupportedProtocol", "LocalProtocolError", "ProxyError")
QUIET = 2.0  # seconds without progress before a terminal is told what is waited for

_timeout: contextvars.ContextVar[float | None] = contextvars.ContextVar("timeout", default=None)

# What a refusal means: by its code, which a hub names, else by its status.
CODES: dict[str, tuple[type[KerasCnnError], str]] = {
    "GatedRepo": (
        NoAccess,
        "{repo} is gated: accept its terms at {endpoint}/{repo}, then set HF_TOKEN to a token of yours.",
    ),
    "RepoNotFound": (
        NotFound,
        "{endpoint} has no model repository {repo}: check the name; if it is private, set HF_TOKEN to a token that "
        "may read it.",
    ),
    "RevisionNotFound": (NotFound, "{repo} has no branch, tag or commit {revision!r}: see {endpoint}/{repo}."),
}
STATUSES: dict[int, tuple[type[KerasCnnError], str]] = {
    401: (NoAccess, "{where} refused the token for {repo} (401): set HF_TOKEN to a valid one, or unset it."),
    403: (NoAccess, "{where} does not let you do this to {repo} (403): HF_TOKEN needs the right for it.{message}"),
    404: (NotFound, "{where} is not there (404): look at {endpoint}/{repo}.{message}"),
    429: (Offline, "{where} asks for fewer requests (429): wait some minutes, or set HF_TOKEN."),
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


def headers(token: str | None = None) -> dict[str, str]:
    """What a request to the hub carries: who asks, and the token."""
    from huggingface_hub.utils import build_hf_headers

    return build_hf_headers(token=token, library_name="keras_cnn", library_version=version("keras-cnn"))


@contextlib.contextmanager
def patience(timeout: float | None) -> Iterator[None]:
    """The block's calls are given up after so many seconds without progress; None leaves it as it is."""
    if timeout is not None:
        _checked(timeout, "timeout")
    before = _timeout.set(timeout if timeout is not None else _timeout.get())
    try:
        yield
    finally:
        _timeout.reset(before)


def seconds() -> float:
    """How long calls may be without progress: as `patience` says, else KERAS_CNN_TIMEOUT, else a minute."""
    given = _timeout.get()
    return given if given is not None else _checked(os.environ.get(VARIABLE) or TIMEOUT, VARIABLE)


def _checked(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf or isinstance(value, bool):
        raise KerasCnnError(f"{name}={value!r}: give the seconds to wait without progress, such as {TIMEOUT:g}.")
    return number


def persist(call: Callable[[], T], repo: str, revision: str | None = None) -> T:
    """The call's result; again after a pause where the connection broke or the hub was busy.

    It ends after `seconds()` without progress, pauses included. Raises HubError's subclasses and CacheError, each with
    one sentence.
    """
    http.hooked()  # what takes long to import is imported before the time runs
    watch, notice = Watch(seconds()), _Notice()
    with notice:
        for attempt in range(ATTEMPTS):
            since, windows = watch.since, watch.windows
            try:
                return http.watched(call, watch, lambda: notice.idle(watch))
            except KerasCnnError:
                raise
            except Exception as caught:
                error = _cause(caught)
                if isinstance(error, KerasCnnError):
                    raise error from caught
                watch.last = http.words(str(error))
                if watch.windows == windows:
                    watch.since = since  # an attempt that fails for nothing is no progress
                if isinstance(error, Broken) and "Timeout" in error.kind and watch.left < 0.1 * watch.seconds:
                    raise watch.stalled() from error
                if attempt + 1 == ATTEMPTS or not passing(error):
                    raise explained(error, repo, revision, watch) from error
                wait = max(FIRST_WAIT * 2**attempt, getattr(error, "wait", 0.0))
                if wait > watch.left:
                    raise _too_long(error, wait, watch) from error
                notice.show(f"{http.words(str(error))}: the next attempt is in {wait:g} s")
                time.sleep(wait)
    raise AssertionError("unreachable")


def passing(error: BaseException) -> bool:
    """Whether a later attempt may succeed. A hub that nobody answers at is told at once: the cache may do."""
    if isinstance(error, Refused):
        return error.status in PASSING or "conflicting operation is in progress" in error.message
    return isinstance(error, Broken) and error.kind not in NOBODY


def explained(
    error: BaseException, repo: str, revision: str | None = None, watch: Watch | None = None
) -> BaseException:
    """Our exception for what a call raised; one of the file system that is not the cache's is returned as it is."""
    from huggingface_hub import constants

    facts = {
        "repo": repo,
        "revision": revision or "main",
        "endpoint": constants.ENDPOINT,
        "cache": constants.HF_HOME,
        "kind": getattr(error, "strerror", None) or getattr(error, "kind", None) or type(error).__name__,
        "doing": watch.doing if watch and watch.doing else constants.ENDPOINT,
        "text": http.words(str(error)),
    }
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, Refused):
        return _refusal(error, facts)
    if "OfflineModeIsEnabled" in names:
        return Offline("{repo} is needed from the hub, and HF_HUB_OFFLINE is set.".format(**facts))
    if isinstance(error, Broken) or "TransportError" in names:
        text = "{endpoint} cannot be reached for {repo} ({kind} at {doing}): check the network, then try again."
        return Offline(text.format(**facts))
    if "TooManyRedirects" in names:
        return Offline("{doing} redirects without end: check the network, and HF_ENDPOINT.".format(**facts))
    if isinstance(error, OSError):
        return CacheError(CACHE[error.errno].format(**facts)) if error.errno in CACHE else error
    # The client reads answers without checking what they are; so this is whatever Python says of a wrong one.
    text = "{doing} was not answered as a hub does ({kind}: {text}): check the network, HF_ENDPOINT and the proxy."
    return Offline(text.format(**facts))


def _refusal(error: Refused, facts: dict[str, Any]) -> KerasCnnError:
    facts |= {"where": error.where, "message": f" ({error.message})" if error.message else ""}
    # Without a token, a hub does not tell a private repository from none; a wrong token it names.
    code = "RepoNotFound" if error.status == 401 and not error.code and "token" in error.message.lower() else error.code
    ours, sentence = CODES.get(code) or STATUSES.get(error.status) or (None, "")
    if ours:
        return ours(sentence.format(**facts))
    if error.status in PASSING:
        text = "{where} answered {status}, which no new attempt mended: try later.{message}"
        return Offline(text.format(status=error.status, **facts))
    return HubError(
        "{where} refused what was asked for {repo} ({status}).{message}".format(status=error.status, **facts)
    )


def _too_long(error: BaseException, wait: float, watch: Watch) -> KerasCnnError:
    if getattr(error, "wait", 0.0) < wait:
        return watch.stalled()
    return Offline(
        f"{http.words(str(error))}, and asks to wait {wait:.0f} s before the next attempt, longer than the "
        f"{watch.seconds:g} s that are waited without progress: try then, or give timeout= (--timeout) or {VARIABLE}."
    )


@contextlib.contextmanager
def explaining(repo: str) -> Iterator[None]:
    """Exceptions of the block as sentences."""
    try:
        yield
    except KerasCnnError:
        raise
    except OSError as error:
        raise explained(error, repo) from error


@contextlib.contextmanager
def going_on(what: str) -> Iterator[None]:
    """On Ctrl-C, note that a download is gone on with."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(f"what has come of {what} is kept: the same command goes on")
        raise


def _cause(error: BaseException) -> BaseException:
    """The client wraps why an upload failed in a bare RuntimeError."""
    return error.__cause__ if type(error) in (ValueError, RuntimeError) and error.__cause__ else error


class _Notice:
    """Tells a person at a terminal that it is waited, and for what."""

    def __init__(self) -> None:
        self.status: Any = None

    def __enter__(self) -> _Notice:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def idle(self, watch: Watch) -> None:
        quiet = watch.seconds - watch.left
        if quiet < QUIET:
            return self.clear()
        self.show(f"waiting for {watch.doing}: {quiet:.0f} of {watch.seconds:g} s without progress")

    def show(self, text: str) -> None:
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.text import Text

        if self.status is None:
            self.status = Console(stderr=True).status("")
            self.status.start()
        self.status.update(Text(text))

    def clear(self) -> None:
        if self.status is not None:
            self.status.stop()
            self.status = None
