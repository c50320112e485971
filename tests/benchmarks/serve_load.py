"""How fast the service answers under load, beside what one would write around `model.predict`.

    python tests/benchmarks/serve_load.py [--models resnet18.tiny_in200 ...] [--clients 1 8 64] [--rounds 3]

The plain application is FastAPI with Pillow and keras' `model.predict`, an image at a time, as tutorials have it. Both
get the same JPEGs over loopback, each in a process of its own, from clients in a third, which keep their connections.
They take turns, round by round; tables have the medians of the rounds, and ratios above 1 where ours is better. Both
must tell the same probabilities. --engine, --precision: of our service.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
ROUTES = {"ours": "/predict/{}", "plain": "/predict"}


def plain(name: str, port: int) -> None:
    """What one writes who has a Keras model and has read FastAPI's first page."""
    import numpy as np
    import uvicorn
    from fastapi import FastAPI, Request

    import keras_cnn as kc

    model = kc.build(name)
    config, app = kc.config_of(model), FastAPI()

    async def predict(request: Any) -> Any:
        image = kc.load_image(await request.body(), config.preprocess)
        [row] = model.predict(image[None], verbose=0)
        best = np.argsort(-row)[:5]
        return {"top": [{"name": config.class_names[i], "probability": float(row[i])} for i in best]}

    predict.__annotations__["request"] = Request  # under its name FastAPI would look in this module
    app.post("/predict")(predict)
    print("ready", flush=True)
    uvicorn.run(app, port=port, log_level="error")


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen]:
    """A server, from the line that says that it is ready."""
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            server.stdout.readline()
            yield server
        finally:
            server.send_signal(signal.SIGTERM)


def photos(count: int = 32) -> list[bytes]:
    """JPEGs of 640 x 480, some 50 kB each, as phones send them when asked for small ones."""
    draws, made = random.Random(0), []
    for _ in range(count):
        coarse = Image.frombytes("RGB", (80, 60), draws.randbytes(80 * 60 * 3)).resize((640, 480))
        coarse.save(file := io.BytesIO(), "JPEG", quality=85)
        made.append(file.getvalue())
    return made


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, route: str, body: bytes) -> bytes:
    """The body of an answer, over a connection that is kept."""
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert answer.startswith(b"http/1.1 200"), answer
    length = answer.split(b"content-length:")[1].split(b"\r\n")[0]
    return await reader.readexactly(int(length))


async def load(port: int, route: str, clients: int, seconds: float) -> tuple[float, list[float]]:
    """(seconds until the last answer, those of each request), of clients who ask one request after another."""
    bodies, times, begin = photos(), [], time.perf_counter()
    until = begin + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for i in range(number, 10**9):
            start = time.perf_counter()
            await ask(reader, writer, route, bodies[i % len(bodies)])
            times.append(time.perf_counter() - start)
            if time.perf_counter() > until:
                break
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return time.perf_counter() - begin, times


def loaded(port: int, route: str, clients: int, seconds: float) -> tuple[float, float, float]:
    """(requests a second, median and 99th percentile of their seconds), of clients in a process of their own."""
    told = ["--load", str(port), route, str(clients), str(seconds)]
    took, times = json.loads(subprocess.check_output([sys.executable, __file__, *told]))
    return len(times) / took, statistics.median(times), sorted(times)[int(0.99 * (len(times) - 1))]


def answered(port: int, route: str, body: bytes) -> list[float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{route}", body, 120) as reply:
        return [round(guess["probability"], 3) for guess in json.load(reply)["top"]]


def compare(name: str, wish: argparse.Namespace) -> None:
    port = {"ours": wish.port, "plain": wish.port + 1}
    route = {side: text.format(Path(name).name) for side, text in ROUTES.items()}
    told = ["--port", str(port["ours"]), "--engine", wish.engine, "--precision", wish.precision]
    with ExitStack() as servers:
        servers.enter_context(process("-m", "keras_cnn.cli", "serve", name, *told))
        servers.enter_context(process(__file__, "--plain", name, str(port["plain"])))
        time.sleep(1)
        first, *_ = photos(1)
        both = [answered(port[side], route[side], first) for side in ROUTES]
        assert both[0] == both[1] or wish.precision != "float32", both
        for clients in wish.clients:  # a round that is not counted, in which graphs are made for batches
            for side in ROUTES:
                loaded(port[side], route[side], clients, 1.0)
        for clients in wish.clients:
            rows: dict[str, list] = {side: [] for side in ROUTES}
            for turn in range(wish.rounds):
                for side in sorted(ROUTES, reverse=bool(turn % 2)):
                    rows[side].append(loaded(port[side], route[side], clients, wish.seconds))
            ours, theirs = ([statistics.median(one) for one in zip(*rows[side], strict=True)] for side in ROUTES)
            ratios = ours[0] / theirs[0], theirs[1] / ours[1], theirs[2] / ours[2]
            cells = [name, clients, *(f"{a:.0f}, {1e3 * b:.0f}, {1e3 * c:.0f}" for a, b, c in (ours, theirs))]
            print(f"| {' | '.join(map(str, cells))} | {', '.join(f'{ratio:.1f}' for ratio in ratios)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18.tiny_in200"], help="with a classifier")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--engine", default="keras")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--port", type=int, default=8765, help="and the next one")
    parser.add_argument("--plain", nargs=2, help=argparse.SUPPRESS)  # this file is the other processes as well
    parser.add_argument("--load", nargs=4, help=argparse.SUPPRESS)
    wish = parser.parse_args()
    if wish.plain:
        plain(wish.plain[0], int(wish.plain[1]))
    elif wish.load:
        port, route, clients, seconds = wish.load
        print(json.dumps(asyncio.run(load(int(port), route, int(clients), float(seconds)))))
    else:
        from keras_cnn import runtime
        from keras_cnn.deploy import engines

        words = set(Path(runtime.CPUINFO).read_text().split())
        has = " ".join(flag for flag in FLAGS if flag in words)
        print(f"{engines.processor()}, {os.cpu_count()} processors, {has}; load {os.getloadavg()[0]:.1f}")
        print(f"engine {wish.engine}, {wish.precision}\n")
        print("| network | clients | ours: requests/s, median ms, p99 ms | plain | times as good |")
        print("|---|---|---|---|---|")
        for name in wish.models:
            compare(name, wish)


if __name__ == "__main__":
    main()
