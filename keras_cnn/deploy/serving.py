"""Networks behind HTTP: a page for people, JSON for programs, and several requests answered as one batch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from keras_cnn import runtime
from keras_cnn.data.files import Source
from keras_cnn.deploy.explaining import explanations
from keras_cnn.deploy.opened import File
from keras_cnn.deploy.predictor import built, predictor
from keras_cnn.errors import BadImage, BadSpec, KerasCnnError, MissingPackage
from keras_cnn.models.fields import known_options

try:
    import uvicorn  # noqa: F401
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise MissingPackage(f'serving needs {error.name}: pip install "keras-cnn[serve]".') from None

from keras_cnn.deploy.batching import Batcher
from keras_cnn.deploy.intake import (
    Busy,
    HungUp,
    Intake,
    Limits,
    Rates,
    TooLarge,
    TooSlow,
    photo,
)

TEXT_HEADERS = {  # the page loads nothing from elsewhere, and a browser guesses no types
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
HEADERS = [(name.lower().encode(), value.encode()) for name, value in TEXT_HEADERS.items()]
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}


ASKING = ("/predict", "/explain")
KNOWN = (*PAGE, *ASKING, "/models", "/health", "/metrics")


class NoSuchModel(KerasCnnError):
    """A service has no network of the name."""


# Of what is refused, else 400; 499 is what nginx counts a sender as who went away.
STATUS = {BadImage: 422, Busy: 503, TooLarge: 413, TooSlow: 408, NoSuchModel: 404, HungUp: 499}
NOWHERE = {
    404: "there is nothing at this address: /openapi.json says what there is.",
    405: "this address takes {allowed}.",
}
DRAWINGS = 16  # that may wait, each a second or two
LONGEST = 60  # letters of a name that is told back


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
    decoders = ThreadPoolExecutor(runtime.cores(), "decoder")
    drawer = ThreadPoolExecutor(1, "drawer")  # explanations take seconds and memory: one at a time
    batchers = {name: Batcher(predictor(net, **told), decoders, limits.waiting) for name, net in nets.items()}
    intake, registry, drawing = Intake(limits), CollectorRegistry(), 0

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for batcher in batchers.values():  # those who wait are answered before the end
            await asyncio.to_thread(batcher.close)

    app = FastAPI(title="keras_cnn", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Watched, limits=limits, registry=registry)

    def known(name: str) -> str:
        if name not in nets:
            raise NoSuchModel(f"there is no model {_short(name)!r}: there is {', '.join(nets)}.")
        return name

    async def off_loop(pool: ThreadPoolExecutor, work: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, work, *given)

    @app.exception_handler(KerasCnnError)
    async def refused(request: Request, error: KerasCnnError) -> Response:
        status = STATUS.get(type(error), 400)
        return JSONResponse({"error": str(error)}, status, headers={"Retry-After": "1"} if status == 503 else None)

    @app.exception_handler(HTTPException)
    async def nowhere(request: Request, error: HTTPException) -> Response:
        allowed = (error.headers or {}).get("Allow", "")
        sentence = NOWHERE.get(error.status_code, "{detail}.").format(allowed=allowed, detail=error.detail)
        return JSONResponse({"error": sentence}, error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def misspelt(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}."}, 400)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "the service failed at this; its log says how."}, 500)

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
        batcher = batchers[known(name)]
        if not 1 <= top <= 1000:
            raise BadSpec("top: give 1 to 1000.")
        async with intake.body(request) as source:
            read = partial(photo, source, batcher.predict.config.preprocess, limits)
            answer = await batcher.answer(read, top)
        facts = answer.facts()
        return {key: value[:top] if key == "top" else value for key, value in facts.items() if key != "image"}

    @app.post("/explain/{name}", openapi_extra=body, response_class=Response)
    async def explain(name: str, request: Request) -> Response:
        """A picture, PNG, of what speaks for the answer."""
        nonlocal drawing
        if isinstance(nets[known(name)], File):
            raise BadSpec(f"{name} is an exported file, which does not tell why: serve the network that it is of.")
        async with intake.body(request) as source:
            await off_loop(decoders, photo, source, batchers[name].predict.config.preprocess, limits)
            if drawing >= DRAWINGS:
                raise Busy("too many pictures are waiting: ask again in a few seconds.")
            drawing += 1
            try:
                picture = await off_loop(drawer, _drawn, nets[name], source)
            finally:
                drawing -= 1
        return Response(picture, media_type="image/png")

    return app


class Watched:
    """Counts and times requests, slows those who ask too often, and lets an answer reach those who are still sending.

    Who is refused within a body gets the answer behind it: many clients read none before, and a connection that is
    closed on unread bytes is reset. Those who wait for "100 Continue" are told at once.
    """

    def __init__(self, app: Any, limits: Limits, registry: CollectorRegistry) -> None:
        self.app, self.limits, self.rates = app, limits, Rates(limits.rate)
        self.count = Counter("requests", "Requests by path and status.", ["path", "status"], registry=registry)
        words = "Seconds from the request to its answer."
        self.seconds = Histogram("seconds", words, ["path"], registry=registry)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, path = time.perf_counter(), "/" + scope["path"].lstrip("/").partition("/")[0]
        status, more = 500, True

        async def received() -> Any:
            nonlocal more
            message = await receive()
            more = message.get("more_body", False)
            return message

        async def rest() -> None:
            while more:
                await received()

        async def sent(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                left = self.limits.seconds - (time.perf_counter() - start)
                if more and left > 0 and not any(name == b"expect" for name, _ in scope["headers"]):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(rest(), left)
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        app = self.app
        if path in ASKING and self.rates.too_often(scope["client"][0] if scope["client"] else ""):
            app = JSONResponse({"error": "too many requests: slow down."}, 429)
        try:
            await app(scope, received, sent)
        finally:
            named = path if path in KNOWN else "other"
            self.count.labels(named, status).inc()
            self.seconds.labels(named).observe(time.perf_counter() - start)


def _named(models: Any) -> dict[str, Any]:
    """Networks by the names under which they are asked; BadSpec for those that no address can have."""
    if isinstance(models, Mapping):
        for name in models:
            if not isinstance(name, str) or not re.fullmatch(r"[\w -]+(\.[\w -]+)*", name):
                raise BadSpec(
                    f"a model is called {_short(repr(name))}: give a name of letters, digits, spaces, - . and _."
                )
        return dict(models)
    several = models if isinstance(models, list | tuple) else [models]
    names = [Path(os.path.abspath(one)).name if isinstance(one, str | os.PathLike) else one.name for one in several]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadSpec(f"two models are called {twice[0]!r}: give a mapping of names to them, or other directories.")
    if not several:
        raise BadSpec("there is no model to serve: give one or several.")
    return dict(zip(names, several, strict=True))


def _classes(net: Any) -> tuple[str, ...]:
    from keras_cnn.insight.explained import names_of

    return names_of(net)


def _drawn(net: Any, source: Source) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        [why] = explanations(net, source, folder)
        assert why.picture is not None
        picture = why.picture.read_bytes()
    runtime.give_back()
    return picture


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
