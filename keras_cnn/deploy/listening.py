"""An ASGI application behind a port, by uvicorn: with bounds on those who send slowly, or no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from keras_cnn.errors import BadSpec

CONNECTIONS = 512  # at a time; a process may usually have 1,024 files open
LINGER = 2.0  # seconds in which a sender may read why it was refused


class Bounded(H11Protocol):
    """A connection that ends when no whole request came in time: uvicorn itself waits for headers for ever.

    What follows behind an answer counts too, and of senders that are refused what they still send is dropped for a
    moment: a connection that is closed on unread bytes is reset, and its answer lost.
    """

    seconds = 20.0
    late: asyncio.TimerHandle | None = None
    refused = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.late = self.loop.call_later(self.seconds, self._too_late)
        if len(self.connections) > CONNECTIONS:
            self._refuse(503, "too many connections: ask again in a second.")

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        super().data_received(data)
        if self._busy():
            self._wait_for_nothing()
        elif self.late is None and not self.refused:
            self.late = self.loop.call_later(self.seconds, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_for_nothing()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no request of HTTP/1.1, or its headers are too long.")

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_nothing(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None

    def _too_late(self) -> None:
        self.late = None
        if not self._busy() and not self.transport.is_closing():
            self._refuse(408, f"no whole request came within {self.seconds:g} s.")

    def _refuse(self, status: int, sentence: str) -> None:
        """Say why, where nothing is being said already, and close."""
        self._wait_for_nothing()
        self._unset_keepalive_if_required()
        self.refused = True
        if self._busy():  # the application waits for a body that will not come
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = json.dumps({"error": sentence}).encode()
        told = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        said = h11.Response(status_code=status, headers=told, reason=STATUS_PHRASES[status])
        for event in (said, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError):  # the other side is gone, and the socket knows it before the transport
                self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)


def server(app: Any, seconds: float) -> uvicorn.Server:
    """What answers for the application. seconds: in which a request's headers have to be here."""
    protocol = type("Bounded", (Bounded,), {"seconds": seconds})
    told: dict[str, Any] = {"http": protocol, "ws": "none", "timeout_graceful_shutdown": 10}
    return uvicorn.Server(uvicorn.Config(app, log_level="error", **told))


def bound(host: str, port: int) -> socket.socket:
    """The address, held for `run`. BadSpec where it cannot be had."""
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host, port))
    except OSError as error:
        held.close()
        raise BadSpec(f"{host}:{port} cannot be listened at ({error.strerror}): give another --port.") from None
    return held


def run(app: Any, held: socket.socket, seconds: float) -> None:
    """Serve until Ctrl-C or SIGTERM; then those who wait are answered."""
    try:
        held.listen(128)  # who reads the line below may ask at once
    except OSError as error:  # of two that were bound at the same time, one listens
        raise BadSpec(f"the address cannot be listened at ({error.strerror}): give another --port.") from None
    host, port = held.getsockname()[:2]
    place = f"[{host}]" if ":" in host else host
    print(f"http://{place}:{port} answers; Ctrl-C ends it.", flush=True)
    server(app, seconds).run([held])
