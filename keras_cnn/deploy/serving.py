"""Networks behind HTTP: a page for people, JSON for programs, and several requests answered as one batch."""

from __future__ import annotations

import asyncio
import io
import os
import queue
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from keras_cnn.data.files import Source
from keras_cnn.deploy.explaining import explanations
from keras_cnn.deploy.opened import File
from keras_cnn.deploy.predictor import Predictor, built, predictor
from keras_cnn.errors import BadImage, BadSpec, KerasCnnError, MissingPackage
from keras_cnn.models.fields import known_options, within

try:
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, Response
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
except ImportError as error:
    raise MissingPackage(f'serving needs {error.name}: pip install "keras-cnn[serve]".') from None

MEGABYTE = 2**20
WAIT = 0.004  # seconds that the first of a batch waits for others
HEADERS = {  # the page loads nothing from elsewhere, and a browser guesses no types
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}


class Busy(KerasCnnError):
    """More is waiting than a service holds."""


class TooLarge(KerasCnnError):
    """An image has more bytes than are taken."""


class TooSlow(KerasCnnError):
    """An image was not here in time."""


class NoSuchModel(KerasCnnError):
    """A service has no network of the name."""


STATUS = {BadImage: 422, Busy: 503, TooLarge: 413, TooSlow: 408, NoSuchModel: 404}  # all else is 400


@known_options
@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a service takes from strangers.

    megabytes: of one image; its pixels are bounded as everywhere in the package. seconds: in which an image has to be
    here. waiting: images of a network that wait for their answer, beyond which others are turned away. rate: requests
    of one address a second, over ten seconds; 0 for any number.
    """

    megabytes: float = 10.0
    seconds: float = 20.0
    waiting: int = 256
    rate: float = 0.0

    def __post_init__(self) -> None:
        within("megabytes", self.megabytes, 0.01, 1024.0)
        within("seconds", self.seconds, 0.1, 3600.0)
        within("waiting", self.waiting, 1, 10**6)
        within("rate", self.rate, 0.0, 1e6)


@dataclass
class Batcher:
    """Answers images that come one by one in batches: what waits while one batch is computed is the next one."""

    predict: Predictor
    waiting: int
    tasks: queue.Queue[tuple[Source, int, Future[Any]] | None] = field(init=False)

    def __post_init__(self) -> None:
        self.tasks = queue.Queue(self.waiting)
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def submit(self, source: Source, top: int) -> Future[Any]:
        """The answer to come. Raises Busy."""
        made: Future[Any] = Future()
        try:
            self.tasks.put_nowait((source, top, made))
        except queue.Full:
            raise Busy("too many images are waiting: ask again in a second.") from None
        return made

    def close(self) -> None:
        """Answer what waits, then end."""
        self.tasks.put(None)
        self.thread.join()

    def _work(self) -> None:
        last = False
        while not last:
            batch = [self.tasks.get()]
            until = time.monotonic() + WAIT
            while batch[-1] is not None and len(batch) < self.predict.batch_size:
                try:
                    batch.append(self.tasks.get(timeout=max(0.0, until - time.monotonic())))
                except queue.Empty:
                    break
            last = batch[-1] is None
            if asked := [one for one in batch if one is not None and one[2].set_running_or_notify_cancel()]:
                self._answer(asked)

    def _answer(self, asked: list[tuple[Source, int, Future[Any]]]) -> None:
        try:
            answers = self.predict([source for source, *_ in asked], top=max(top for _, top, _ in asked), skip_bad=True)
        except Exception as error:  # for each who asked: the service goes on
            for *_, made in asked:
                made.set_exception(error)
            return
        for answer, (_, _, made) in zip(answers, asked, strict=True):
            made.set_result(answer)


@known_options
def service(
    models: Any,
    *,
    batch_size: int = 32,
    engine: str = "keras",
    precision: str = "float32",
    limits: Limits | None = None,
) -> Any:
    """An ASGI application that answers images: `keras-cnn serve runs/photos` runs one.

    GET / is a page for people, which sends a photo and shows the answer and what speaks for it; nothing leaves the
    machine. POST /predict/NAME with the bytes of an image as the body gives the answer as JSON (`?top=N` of classes);
    POST /explain/NAME a PNG of what speaks for it. GET /models says what there is, GET /health that it lives, GET
    /metrics counts and seconds for Prometheus, GET /openapi.json the interface for programs.

    models: names, weights directories, exported files, or networks of ours; one, several, or a mapping by the name
        that they get.
    batch_size, engine, precision: as of `predictor`. limits: what is taken from strangers.
    Raises MissingPackage without FastAPI and prometheus-client: pip install "keras-cnn[serve]".
    """
    limits = limits or Limits()
    nets = {name: built(model) for name, model in _named(models).items()}
    for name, net in nets.items():
        if len(net.input_shape) != 4:
            raise BadSpec(f"{name} reads sequences, and the service answers images.")
    told = {"batch_size": batch_size, "engine": engine, "precision": precision}
    batchers = {name: Batcher(predictor(net, **told), limits.waiting) for name, net in nets.items()}
    drawing = threading.Lock()  # explanations take seconds and memory: one at a time
    registry = CollectorRegistry()
    count = Counter("requests", "Requests by path and status.", ["path", "status"], registry=registry)
    seconds = Histogram("seconds", "Seconds from the request to its answer.", ["path"], registry=registry)
    recent: dict[str, deque[float]] = {}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for batcher in batchers.values():  # those who wait are answered before the end
            await asyncio.to_thread(batcher.close)

    app = FastAPI(title="keras_cnn", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def watched(request: Request, go_on: Any) -> Response:
        start, path = time.perf_counter(), "/" + request.url.path.split("/")[1]
        if limits.rate and path in ("/predict", "/explain") and _too_often(recent, request, limits.rate):
            response: Response = JSONResponse({"error": "too many requests: slow down."}, 429)
        else:
            response = await go_on(request)
        known = path if path in (*PAGE, "/predict", "/explain", "/models", "/health", "/metrics") else "other"
        count.labels(known, response.status_code).inc()
        seconds.labels(known).observe(time.perf_counter() - start)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(KerasCnnError)
    async def refused(request: Request, error: KerasCnnError) -> Response:
        status = STATUS.get(type(error), 400)
        return JSONResponse({"error": str(error)}, status, headers={"Retry-After": "1"} if status == 503 else None)

    def page(file: str, kind: str) -> Any:
        text = resources("keras_cnn.deploy").joinpath("page", file).read_text(encoding="utf-8")
        return lambda: Response(text, media_type=kind)

    for path, (file, kind) in PAGE.items():
        app.add_api_route(path, page(file, kind), include_in_schema=False)

    app.add_api_route("/favicon.ico", lambda: Response(status_code=204), include_in_schema=False)  # browsers ask

    @app.get("/health")
    def health() -> dict[str, str]:
        """That the service lives."""
        return {"status": "ok"}

    @app.get("/models")
    def list_models() -> list[dict[str, Any]]:
        """The networks that answer, and what of."""
        return [
            {"name": name, "task": batchers[name].predict.config.head.task, "classes": list(_classes(net))}
            for name, net in nets.items()
        ]

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    body = {
        "requestBody": {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}, "required": True}
    }

    @app.post("/predict/{name}", openapi_extra=body)
    async def predict(name: str, request: Request, top: int = 5) -> dict[str, Any]:
        """The answer for the image in the body, as `keras-cnn predict --json` gives it."""
        batcher = batchers.get(name)
        if batcher is None:
            raise NoSuchModel(f"there is no model {name!r}: there is {', '.join(batchers)}.")
        if not 1 <= top <= 1000:
            raise BadSpec(f"top={top}: give 1 to 1000.")
        source = await _body(request, limits)
        answer = await asyncio.wrap_future(batcher.submit(source, top))
        if answer.error:
            raise BadImage(answer.error)
        facts = answer.facts()
        return {key: value[:top] if key == "top" else value for key, value in facts.items() if key != "image"}

    @app.post("/explain/{name}", openapi_extra=body, response_class=Response)
    async def explain(name: str, request: Request) -> Response:
        """A picture, PNG, of what speaks for the answer."""
        if name not in nets:
            raise NoSuchModel(f"there is no model {name!r}: there is {', '.join(nets)}.")
        if isinstance(nets[name], File):
            raise BadSpec(f"{name} is an exported file, which does not tell why: serve the network that it is of.")
        source = await _body(request, limits)
        picture = await asyncio.to_thread(_drawn, nets[name], source, drawing)
        return Response(picture, media_type="image/png")

    return app


def run(app: Any, host: str, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM; then those who wait are answered. BadSpec where the address cannot be had."""
    import uvicorn

    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host, port))
        held.listen(128)  # who reads the line below may ask at once
    except OSError as error:
        raise BadSpec(f"{host}:{port} cannot be listened at ({error.strerror}): give another --port.") from None
    with held:
        place = f"[{host}]" if ":" in host else host
        print(f"http://{place}:{held.getsockname()[1]} answers; Ctrl-C ends it.", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=10)).run([held])


def _named(models: Any) -> dict[str, Any]:
    """Networks by the names under which they are asked."""
    if isinstance(models, Mapping):
        return dict(models)
    several = models if isinstance(models, list | tuple) else [models]
    names = [Path(os.fspath(one)).name if isinstance(one, str | os.PathLike) else one.name for one in several]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadSpec(f"two models are called {twice[0]!r}: give a mapping of names to them, or other directories.")
    if not several:
        raise BadSpec("there is no model to serve: give one or several.")
    return dict(zip(names, several, strict=True))


def _classes(net: Any) -> tuple[str, ...]:
    from keras_cnn.insight.explained import names_of

    return names_of(net)


async def _body(request: Any, limits: Limits) -> Source:
    """The image that is sent, whole and within bounds."""
    content = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                content += part
                if len(content) > limits.megabytes * MEGABYTE:
                    raise TooLarge(f"the image has more than {limits.megabytes:g} MB.")
    except TimeoutError:
        raise TooSlow(f"the image was not here within {limits.seconds:g} s.") from None
    if not content:
        raise BadImage("the body is empty: send the bytes of an image.")
    whole = bytes(content)
    return Source("image", "the image", lambda: io.BytesIO(whole))


def _drawn(net: Any, source: Source, one_at_a_time: threading.Lock) -> bytes:
    with one_at_a_time, tempfile.TemporaryDirectory() as folder:
        [why] = explanations(net, source, folder)
        assert why.picture is not None
        return why.picture.read_bytes()


def _too_often(recent: dict[str, deque[float]], request: Any, rate: float, span: float = 10.0) -> bool:
    """Whether an address asked more often than it may, over the last seconds; quiet addresses are forgotten."""
    now, address = time.monotonic(), request.client.host if request.client else ""
    for other in [one for one, times in recent.items() if times and now - times[-1] > span]:
        del recent[other]
    times = recent.setdefault(address, deque())
    while times and now - times[0] > span:
        times.popleft()
    if len(times) >= rate * span:
        return True
    times.append(now)
    return False
