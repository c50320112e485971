"""What strangers send to the service: 1,000 hostile uploads, and honest ones between them.

    python tests/attacks/hostile_uploads.py [--count 1000] [--seed 0] [--jobs 8]

The service is `keras-cnn serve` in a process of its own, which gives a request two seconds to arrive. Prints a table:
for each kind of upload, how often which status came. Exit code 1 where one of them did harm: an answer that is no 4xx,
or that is not one sentence; an honest photo answered otherwise than before; a traceback in what the service says; its
process ended, or larger in its second half than in its first, each the mean of two quarters, by more than `GROWTH`.
What it holds is no steady figure: it also depends on how many images the network was last asked for at once.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import itertools
import json
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image

SECONDS = 2.0  # that the service gives an image to arrive
GROWTH = 32 << 20  # bytes by which the halves may differ: what one of eight senders holds and frees
EVERY = 10  # uploads between two honest photos
WARM, AT_ONCE = 1000, 64  # honest photos before all, which fill the network's batches, as those who hang up do later
HUNG_UP = "hung up"
NET = "net"
Address = tuple[str, int]


@dataclass(frozen=True)
class Upload:
    """Pieces that are sent, `pause` seconds apart. waits: whether the sender wants an answer, or hangs up behind them.
    torn: hangs up by a reset instead."""

    pieces: Sequence[bytes]
    pause: float = 0.0
    waits: bool = True
    torn: bool = False


# --- what is sent: a function a kind ---------------------------------------------------------------------------------


def photo(draws: Random, kind: str = "JPEG", side: int = 160) -> bytes:
    """An honest image, of noise over a slope of colours."""
    noise = Image.frombytes("RGB", (side // 4, side // 4), draws.randbytes(3 * (side // 4) ** 2)).resize((side, side))
    slope = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    Image.blend(slope, noise, 0.5).save(file := io.BytesIO(), kind)
    return file.getvalue()


def post(
    body: bytes, kind: str = "application/octet-stream", path: str = f"/predict/{NET}", length: int | None = None
) -> bytes:
    """A request, whole. length: what it claims to have."""
    length = len(body) if length is None else length
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode() + body
    )


def claims(side: int) -> bytes:
    """A PNG that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def archive(draws: Random) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as packed:
        packed.writestr("photo.jpg", photo(draws))
    return file.getvalue()


def form(draws: Random, *, field: str = "file", closed: bool = True, said: str | None = None) -> bytes:
    """A photo as browsers send forms. closed: whether the last boundary comes; said: the boundary in the header."""
    mark = f"{draws.getrandbits(64):x}"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="{field}"; filename="a.jpg"\r\n\r\n'.encode()
    body = head + photo(draws) + (f"\r\n--{mark}--\r\n".encode() if closed else b"")
    return post(body, f"multipart/form-data; boundary={mark if said is None else said}")


def cut(draws: Random, blob: bytes) -> bytes:
    return blob[: draws.randrange(len(blob) // 20, len(blob) * 9 // 10)]


PATHS = (
    "/predict/gone",
    "/predict/..%2f..%2fetc%2fpasswd",
    f"/explain/{'a' * 5000}",
    "/x",
    "/predict/%00",
    "/predict/",
)


def paths(draws: Random, body: bytes) -> bytes:
    """To where nothing is."""
    return post(body, path=draws.choice([*PATHS, "/predict/%00", "/predict/net/net", "/%ff%fe"]))


def options(draws: Random, body: bytes) -> bytes:
    told = draws.choice(["-1", "0", "1001", "9" * 400, "nan", "1e3", "%00", "five", "", "[1]"])
    return post(body, path=f"/predict/{NET}?top={told}")


def verbs(draws: Random, body: bytes) -> bytes:
    verb = draws.choice([b"GET", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"BREW", b"CONNECT"])
    return post(body).replace(b"POST", verb, 1)


def no_http(draws: Random) -> bytes:
    return draws.choice([
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"\x16\x03\x01\x02\x00" + draws.randbytes(500), b"\r\n" * 50_000,
        draws.randbytes(2000),
        b"POST /predict/net HTTP/9.9\r\n\r\n", b"POST /predict/net HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
        post(b"").replace(b"Content-Length: 0", b"Content-Length: -5"), post(b"").replace(b": 0", b": many"),
        post(b"").replace(b"Length: 0", b"Length: 3\r\nContent-Length: 4"),
        post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"nonsense\r\n",
        post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: gzip, gzip"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ])  # fmt: skip


def headers(draws: Random) -> bytes:
    """Too many of them, or too long."""
    more = draws.choice([f"X: {'a' * 200_000}\r\n", "".join(f"X-{i}: {i}\r\n" for i in range(20_000))])
    return post(b"").replace(b"Host", more.encode() + b"Host", 1)


def endless(draws: Random) -> Iterator[bytes]:
    """A body without a length that goes on beyond what is taken."""
    yield post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    for _ in range(200):
        yield b"20000\r\n" + draws.randbytes(1000) * 131 + bytes(72) + b"\r\n"


def nonsense(draws: Random) -> bytes:
    return draws.choice(
        [b"{" * 50_000, b'{"image": "data:image/png;base64,iVBORw0KGgo="}', b"[1, 2", b"null", b'{"a": NaN}']
    )


def anywhere(draws: Random, body: bytes) -> bytes:
    """To the answers, or now and then to the pictures of what speaks for them."""
    return post(body, path=f"/{draws.choice(['predict', 'predict', 'predict', 'explain'])}/{NET}")


def hung_up(draws: Random, piece: bytes) -> Upload:
    return Upload([piece], waits=False, torn=draws.random() < 0.5)


def one_by_one(blob: bytes, from_byte: int) -> list[bytes]:
    return [blob[:from_byte], *(blob[i : i + 1] for i in range(from_byte, len(blob)))]


SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>alert(1)</script></svg>"
HTML = b"<!doctype html><html><script>alert(1)</script></html>"
TYPES = ("image/png", "image/jpeg", "a" * 99)
Maker = Callable[[Random], Upload]
KINDS: dict[str, Maker] = {
    "JPEG, cut": lambda d: Upload([anywhere(d, cut(d, photo(d)))]),
    "PNG, cut": lambda d: Upload([anywhere(d, cut(d, photo(d, "PNG")))]),
    "WebP, cut": lambda d: Upload([anywhere(d, cut(d, photo(d, "WEBP")))]),
    "PNG that claims 20,000 x 20,000": lambda d: Upload([anywhere(d, claims(20_000))]),
    "PNG that claims 7,000 x 7,000": lambda d: Upload([anywhere(d, claims(7_000))]),
    "SVG": lambda d: Upload([anywhere(d, SVG)]),
    "HTML": lambda d: Upload([anywhere(d, HTML)]),
    "zip": lambda d: Upload([anywhere(d, archive(d))]),
    "random bytes": lambda d: Upload([anywhere(d, d.randbytes(d.randrange(1, 200_000)))]),
    "empty": lambda d: Upload([anywhere(d, b"")]),
    "a type that lies": lambda d: Upload([post(d.choice([SVG, HTML, archive(d)]), d.choice(TYPES))]),
    "a form": lambda d: Upload([form(d)]),
    "a form, another field": lambda d: Upload([form(d, field="x" * d.randrange(5000))]),
    "a form, another boundary": lambda d: Upload([form(d, said=d.choice(["", "other", '"', "a" * 5000]))]),
    "a form without an end": lambda d: Upload([form(d, closed=False)]),
    "JSON": lambda d: Upload([post(nonsense(d), "application/json")]),
    "12 MB": lambda d: Upload([post(d.randbytes(1000) * 12_600)]),
    "no end": lambda d: Upload(list(endless(d))),
    "other paths": lambda d: Upload([paths(d, photo(d))]),
    "other options": lambda d: Upload([options(d, photo(d))]),
    "other verbs": lambda d: Upload([verbs(d, photo(d))]),
    "no HTTP": lambda d: Upload([no_http(d)]),
    "huge headers": lambda d: Upload([headers(d)]),
    "silence": lambda d: Upload([b""]),
    "headers, byte by byte": lambda d: Upload(one_by_one(post(photo(d)), d.randrange(1, 60)), pause=0.2),
    "body, byte by byte": lambda d: Upload(one_by_one(post(photo(d)), 120), pause=0.2),
    "less than it claims": lambda d: Upload([post(cut(d, photo(d)), length=50_000)]),
    "hangs up within headers": lambda d: hung_up(d, post(photo(d))[: d.randrange(1, 60)]),
    "hangs up within the body": lambda d: hung_up(d, cut(d, post(photo(d)))),
    "hangs up before the answer": lambda d: hung_up(d, anywhere(d, photo(d))),
}  # fmt: skip


# --- sending, and what came of it ------------------------------------------------------------------------------------


def send(address: Address, upload: Upload) -> tuple[str, list[str]]:
    """(the status, or that the sender hung up; what harm was done)."""
    with socket.create_connection(address, 60) as connection:
        try:
            for piece in upload.pieces:
                connection.sendall(piece)
                if upload.pause and _answered(connection, upload.pause):
                    break
        except OSError:  # the service has answered and closed meanwhile
            pass
        if not upload.waits:
            if upload.torn:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return HUNG_UP, []
        reply = http.client.HTTPResponse(connection)
        try:
            reply.begin()
            body = reply.read()
        except (OSError, http.client.HTTPException) as error:
            return "no answer", [f"no answer ({type(error).__name__})"]
    return str(reply.status), harm(reply.status, body)


def _answered(connection: socket.socket, seconds: float) -> bool:
    """Whether there is something to read within so many seconds."""
    connection.settimeout(seconds)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    finally:
        connection.settimeout(60)
    return True


def harm(status: int, body: bytes) -> list[str]:
    """What is wrong with an answer to a hostile upload."""
    try:
        told = json.loads(body)
        said = told["error"] if isinstance(told, dict) and told.keys() == {"error"} else None
    except (ValueError, UnicodeDecodeError):
        said = None
    found = [] if 400 <= status < 500 else [f"status {status}"]
    if not isinstance(said, str):
        return [*found, f"no sentence: {body[:60]!r}"]
    if not said.endswith(".") or len(said) > 400 or not said.isprintable() or "Traceback" in said:
        found.append(f"no plain sentence: {said[:60]!r}")
    return found


def honest(address: Address, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", f"/predict/{NET}", body)
        reply = connection.getresponse()
        return reply.status, reply.read()


@dataclass
class Found:
    """Outcomes by (kind, status); harm that was done, by kind; seconds that honest photos waited."""

    outcomes: Counter[tuple[str, str]]
    harm: list[tuple[str, str]]
    waited: list[float]


def attack(
    address: Address, numbers: Sequence[int], seed: int, jobs: int, right: Callable[[bytes, tuple], bool]
) -> Found:
    """The uploads of these numbers, so many at a time, an honest photo for every tenth.

    right: whether the (status, body) that a photo got is what it should have.
    """
    found, names = Found(Counter(), [], []), tuple(KINDS)
    body = photo(Random("honest"))

    def one(number: int) -> None:
        name = names[number % len(names)]
        outcome, done = send(address, KINDS[name](Random(f"{seed} {number}")))
        found.outcomes[name, outcome] += 1
        found.harm += [(name, what) for what in done]
        if number % EVERY == 0:
            start = time.perf_counter()
            if not right(body, honest(address, body)):
                found.harm.append((name, "an honest photo was answered otherwise"))
            found.waited.append(time.perf_counter() - start)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, numbers))
    return found


def table(outcomes: Counter[tuple[str, str]]) -> str:
    statuses = sorted({status for _, status in outcomes})
    rows = [["what", *statuses], ["---"] * (len(statuses) + 1)]
    rows += [[name, *(str(outcomes[name, status] or "") for status in statuses)] for name in KINDS]
    rows.append(["all", *(str(sum(n for (_, s), n in outcomes.items() if s == status)) for status in statuses)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# --- the service as a process ----------------------------------------------------------------------------------------


@contextmanager
def served(folder: Path, *told: str) -> Iterator[tuple[Address, subprocess.Popen, list[str]]]:
    """(address, process, lines that it says) of a small network in a process of its own."""
    import keras_cnn as kc

    preprocess = kc.Preprocess(size=(64, 64), crop=1.0)
    net = kc.build("resnet20", depths=(1, 1, 1), classes=5, input_shape=(64, 64, 3), preprocess=preprocess)
    kc.save_pretrained(net, folder / NET)
    command = [sys.executable, "-m", "keras_cnn.cli", "serve", str(folder / NET), "--port", "0", *told]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        said: list[str] = []
        listener = threading.Thread(target=said.extend, args=[process.stderr])
        listener.start()
        host, port = process.stdout.readline().split()[0].removeprefix("http://").split(":")
        try:
            yield (host, int(port)), process, said
        finally:
            process.send_signal(signal.SIGTERM)
            listener.join()


def memory(process: int) -> int:
    """Bytes that a process has resident."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=8, help="uploads at a time")
    wish = parser.parse_args()
    body, quarters, sizes = photo(Random("honest")), [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder), "--seconds", str(SECONDS)) as (address, process, said),
    ):
        first = honest(address, body)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            assert set(pool.map(lambda _: honest(address, body), range(WARM))) == {first}
        start = time.perf_counter()
        cuts = [wish.count * quarter // 4 for quarter in range(5)]
        for numbers in map(range, cuts, cuts[1:]):
            quarters.append(attack(address, numbers, wish.seed, wish.jobs, lambda _, answer: answer == first))
            time.sleep(2 * SECONDS)  # those who hung up are noticed
            sizes.append(memory(process.pid))
        seconds, ended = time.perf_counter() - start, process.poll()
    print(table(sum((quarter.outcomes for quarter in quarters), Counter())))
    waited = sorted(itertools.chain.from_iterable(quarter.waited for quarter in quarters))
    print(f"\n{wish.count} uploads in {seconds:.0f} s; the service said {len(said)} lines.")
    median, longest = statistics.median(waited), waited[-1]
    print(f"{len(waited)} honest photos between them: median {median:.3f} s, longest {longest:.2f} s.")
    print(f"Resident after each quarter: {', '.join(f'{size / 2**20:.0f} MiB' for size in sizes)}.")
    done = Counter(one for quarter in quarters for one in quarter.harm)
    done += Counter({("the process", f"ended with {ended}"): 1} if ended is not None else {})
    done += Counter({("the process", "a traceback"): sum("Traceback" in line for line in said)})
    done += Counter({("the process", "grew"): int(sum(sizes[2:]) / 2 > sum(sizes[:2]) / 2 + GROWTH)})
    for (name, what), times in sorted((+done).items()):
        print(f"HARM {name}: {what} ({times})")
    if "Traceback" in (words := "".join(said)):
        print(words[words.index("Traceback") :][:5000])
    sys.exit(bool(+done))


if __name__ == "__main__":
    main()
