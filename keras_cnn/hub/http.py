"""One way to hubs and to the web: every request is bounded in time, in bytes, and in where it may lead.

The session is the huggingface_hub client's own, so that proxies, certificates and offline mode are as a user set them.
Two hooks on it bound requests that are made under a `Watch`, ours and the client's alike, and leave all others alone.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from keras_cnn.errors import CorruptFile, Offline

T = TypeVar("T")

ANSWER = 16 << 20  # bytes of an answer that is no file: the record of 60,000 files
WORDS = 1 << 16  # bytes of an error's or a redirect's body
STEP = 1 << 20  # bytes that a compressed answer is unpacked to at a time
RATE = 1024  # bytes a second; what is slower over a whole `timeout` is no progress
TICK = 0.2  # seconds between two looks at the watch
WATCH: contextvars.ContextVar[Watch] = contextvars.ContextVar("watch")
HUBS = ("huggingface.co", "hf.co")  # two names of one
BREAKS = ("connect_tcp", "start_tls", "receive_response_headers", "receive_response_body")


class Watch:
    """Time without progress. Progress is a call that succeeds, or bytes that come or leave at RATE over the time.

    seconds: how long nothing may move. doing, last: the request under way and what went wrong before, for messages.
    """

    def __init__(self, seconds: float):
        self.seconds, self.doing, self.last = seconds, "", ""
        self.since, self.bytes, self.windows = time.monotonic(), 0, 0

    @property
    def left(self) -> float:
        return self.since + self.seconds - time.monotonic()

    def moved(self, size: int) -> None:
        self.check()
        self.bytes += size
        if self.bytes >= RATE * self.seconds:
            self.since, self.bytes, self.windows = time.monotonic(), 0, self.windows + 1

    def answered(self) -> None:
        self.check()
        self.since, self.bytes = time.monotonic(), 0

    def check(self) -> None:
        if self.left <= 0:
            raise self.stalled()

    def end(self) -> None:
        """Whoever still works under this watch stops at its next step."""
        self.since = float("-inf")

    def stalled(self) -> Offline:
        last = f" ({self.last})" if self.last else ""
        return Offline(
            f"{self.doing or 'the network'} made no progress for {self.seconds:g} s{last}: try later, or wait longer "
            "by --timeout, timeout= of pull and publish, or KERAS_CNN_TIMEOUT for everything."
        )


class Refused(Exception):
    """An answer with a status of 400 or more. wait: seconds that the server asks for before another attempt."""

    def __init__(self, status: int, where: str, code: str = "", message: str = "", wait: float = 0.0):
        super().__init__(f"{where} answered {status}{f': {message}' if message else ''}")
        self.status, self.where, self.code, self.message, self.wait = status, where, code, message, wait


class Broken(Exception):
    """A connection that could not be made, or that ended before its answer did. kind: the HTTP library's name for it"""

    def __init__(self, kind: str, text: str = ""):
        super().__init__(text or kind)
        self.kind = kind


def watched(call: Callable[[], T], watch: Watch, tell: Callable[[], None]) -> T:
    """The call's result, from a thread of its own: whatever it waits for, it is left alone when the watch runs out.

    tell: called now and then while it lasts.
    """
    result: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        WATCH.set(watch)
        try:
            result.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True).start()
    try:
        while not done.wait(min(TICK, max(watch.left, 0.001))):
            watch.check()
            tell()
    except BaseException:
        watch.end()
        raise
    if errors:
        raise errors[0]
    return result[0]


@contextlib.contextmanager
def get(url: str, headers: dict[str, str], *, limit: int = ANSWER, anywhere: bool = False) -> Iterator[Any]:
    """The answer to a GET, its body still to come: at most `limit` bytes, unpacked where it comes packed.

    anywhere: whether it may be redirected to another host, which gets no token.
    """
    session = hooked()
    request = session.build_request(
        "GET", url, headers=headers, extensions={"limit": limit, "anywhere": anywhere, "timeout": {}}
    )
    response = session.send(request, stream=True, follow_redirects=True)
    try:
        yield response
    finally:
        response.close()


def get_json(url: str, headers: dict[str, str]) -> dict[str, Any]:
    """The JSON object at an address; Offline where it answers with anything else."""
    with get(url, headers) as response:
        data = response.read()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise no_hub(url, described(response, data))
    return value


def no_hub(url: str, answer: str) -> Offline:
    return Offline(
        f"{plain(url)} answered with {answer}, which no hub does: look whether the network wants a login, and at "
        "HF_ENDPOINT and the proxy."
    )


def described(response: Any, data: bytes) -> str:
    """An answer in a few words."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
    text = words(data.decode("utf-8", "replace"), 60)
    return f"{len(data)} bytes{f' of {words(kind, 40)}' if kind else ''}{f' ({text!r})' if text else ''}"


def words(text: str, most: int = 200) -> str:
    """Foreign text on one line, without control characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * most]).split())
    return line if len(line) <= most else line[: most - 3] + "..."


def plain(url: Any) -> str:
    """An address without what may be secret in it: user, password and query, which signs the addresses of storage."""
    scheme, _, rest = str(url).partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return words(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}", 300)


# --- the hooks -------------------------------------------------------------------------------------------------------


def hooked() -> Any:
    """The client's session, with our hooks on it."""
    from huggingface_hub.utils import build_hf_headers, get_session  # noqa: F401

    session = get_session()
    for kind, hook in (("request", _before), ("response", _after)):
        if hook not in session.event_hooks[kind]:
            session.event_hooks[kind].append(hook)
    return session


def _before(request: Any) -> None:
    from huggingface_hub import constants

    watch = WATCH.get(None)
    if watch is None:
        return
    watch.check()
    watch.doing = f"{request.method} {plain(request.url)}"
    times = dict.fromkeys(("connect", "read", "write", "pool"), watch.left)
    request.extensions = {**request.extensions, "timeout": times, "trace": _traced}
    request.headers["Accept-Encoding"] = "identity"
    if _host(request.url) not in (_host(constants.ENDPOINT), *HUBS):
        request.headers.pop("Authorization", None)  # the client would send it wherever an answer of the hub says
    request.stream = _stream(request, lambda inner: _shown(_counted(inner, watch), request))


def _after(response: Any) -> None:
    watch = WATCH.get(None)
    if watch is None:
        return
    request, status, where = response.request, response.status_code, plain(response.request.url)
    packing = response.headers.pop("Content-Encoding", "")
    response.extensions["packed"] = packing.lower() not in ("", "identity")
    moved = response.has_redirect_location
    limit = WORDS if moved or status >= 400 else request.extensions.get("limit", ANSWER)
    response.stream = _stream(
        response, lambda inner: _bounded(_unpacked(_counted(inner, watch), packing, where), limit, where)
    )
    if status >= 400:
        raise _refused(response, where)
    if moved and not request.extensions.get("anywhere"):
        target = response.headers["Location"]
        if _host(target) not in ("", _host(request.url), *HUBS):
            raise no_hub(where, f"a redirect to {plain(target)}")


def _traced(event: str, info: dict[str, Any]) -> None:
    """Raise what broke as ours: the client would try again by itself, for longer than the watch allows."""
    layer, _, state = event.rpartition(".")
    error = info.get("exception")
    if state == "failed" and layer.rpartition(".")[2] in BREAKS and isinstance(error, Exception):
        if type(error).__module__.startswith("keras_cnn"):
            return
        raise Broken(type(error).__name__, str(error)) from error


def _stream(message: Any, change: Callable[[Iterable[bytes]], Iterator[bytes]]) -> Any:
    """The stream of a request or response with `change` between; the HTTP library is httpx or httpx2, by version."""
    inner = message.stream
    library = sys.modules[type(message).__module__.partition(".")[0]]

    class Stream(library.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            return change(inner)

        def close(self) -> None:
            if hasattr(inner, "close"):
                inner.close()

    return Stream()


def _counted(chunks: Iterable[bytes], watch: Watch) -> Iterator[bytes]:
    for chunk in chunks:
        watch.moved(len(chunk))
        yield chunk


def _shown(chunks: Iterable[bytes], request: Any) -> Iterator[bytes]:
    """The chunks of a request, with a bar on a terminal where they are many."""
    from huggingface_hub.utils import tqdm

    size = request.headers.get("Content-Length", "")
    long = size.isdigit() and int(size) > STEP
    with tqdm(
        total=int(size) if long else None, unit="B", unit_scale=True, desc="upload", disable=None if long else True
    ) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))


def _unpacked(chunks: Iterable[bytes], packing: str, where: str) -> Iterator[bytes]:
    """The content of a body: gzip and deflate in small steps, though neither was asked for; nothing else."""
    if packing.lower() in ("", "identity"):
        yield from chunks
        return
    if packing.lower() not in ("gzip", "x-gzip", "deflate"):
        raise no_hub(where, f"the content encoding {words(packing, 60)!r}")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        for chunk in chunks:
            while chunk and not unpack.eof:
                yield unpack.decompress(chunk, STEP)
                chunk = unpack.unconsumed_tail
    except zlib.error:
        raise no_hub(where, f"a body that is not {packing} as it says") from None
    if not unpack.eof:
        raise Broken("RemoteProtocolError", "the packed body ended early")


def _bounded(chunks: Iterable[bytes], limit: int, where: str) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise CorruptFile(f"{where} sends more than {limit:,} bytes, the most that was expected: it was stopped.")
        yield chunk


def _refused(response: Any, where: str) -> Refused:
    headers = response.headers
    message = headers.get("X-Error-Message", "")
    if not message:
        with contextlib.suppress(Exception):  # whatever else the body is, the status says enough
            value = json.loads(b"".join(response.stream))
            message = value["error"] if isinstance(value["error"], str) else ""
    return Refused(
        response.status_code, where, headers.get("X-Error-Code", ""), words(message), _wait(headers.get("Retry-After"))
    )


def _wait(text: str | None) -> float:
    """Seconds that a Retry-After asks for: a number, or a date."""
    text = (text or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0


def _host(url: Any) -> str:
    """The host of an address; empty for one that names none, which stays where it is."""
    from urllib.parse import urlsplit

    try:
        return urlsplit(str(url)).hostname or ""
    except ValueError:
        return "?"
