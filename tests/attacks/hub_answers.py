"""Answers that no good hub gives, at every step of `pull` and `publish`: what comes of each.

    python tests/attacks/hub_answers.py [--timeout 2] [--only WORDS] [--jobs 4]

Prints a table: outcome, exit code, seconds, memory, what was said. Each runs as a command of its own, with a token, a
second server that must never see it, and a folder in which nothing but the cache may change. Exit code 1 if one of them
did harm: a traceback, more than a sentence, more time than the timeout and what it takes to start, more than 1 GiB, a
file outside the cache, a leftover in it, a token elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from hub_server import Hub  # noqa: E402

FOREVER = 600.0
STALLED = "made no progress for"
START = 60.0  # seconds that a command may take beside what it waits for, on a busy machine
MEMORY = 1 << 30
OUTSIDE = "OUTSIDE"  # in a fault: the folder that is watched, as an absolute path
CLIMB = "../" * 24 + OUTSIDE + "/"  # the same from anywhere in the cache
PORTAL = b"<html><title>Hotel Wi-Fi: please log in</title></html>"
HTML = {"Content-Type": "text/html; charset=utf-8"}

PULL = {
    "info": ("GET", r"^/api/models/me/net/revision/"),
    "address": ("HEAD|GET", r"/resolve/"),  # HEAD: where other clients learn a file's name
    "file": ("HEAD|GET", r"^/lfs/"),
}
PUBLISH = {
    "create": ("POST", r"/repos/create$"),
    "refs": ("GET", r"/refs$"),
    "info": ("GET", r"/revision/main$"),
    "preupload": ("POST", r"/preupload/"),
    "LFS batch": ("POST", r"/objects/batch$"),
    "PUT": ("PUT", r"^/lfs/"),
    "card check": ("POST", r"/validate-yaml$"),
    "commit": ("POST", r"/commit/"),
    "tag": ("POST", r"/tag/"),
}


@dataclass(frozen=True)
class Attack:
    """A fault, or an answer that `change` makes of the true one, at a step of a verb. says: what must be told of it."""

    verb: str
    step: str
    name: str
    says: str
    fault: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[dict], Any] | None = None

    def __str__(self) -> str:
        return f"{self.verb}, {self.step}: {self.name}"

    def patience(self, timeout: float) -> float:
        """The timeout where it is what ends the attack; enough for a busy machine where something else must."""
        return timeout if STALLED in self.says else 30.0

    def strike(self, hub: Hub, elsewhere: str, folder: Path) -> None:
        """elsewhere: a server that must see nothing. folder: what must not change, the cache in it aside."""
        method, path = (PULL if self.verb == "pull" else PUBLISH)[self.step]
        how: dict[str, Any] = {"kind": "answer", "times": None, "method": method, "path": path, **self.fault}
        how["headers"] = {
            name: text and text.replace("ELSEWHERE", elsewhere).replace(OUTSIDE, str(folder))
            for name, text in how.get("headers", {}).items()
        }
        if how.get("body") == "BOMB":
            how["body"] = bomb()
        if self.change:
            how["body"] = json.dumps(self.change(_info(hub))).replace(OUTSIDE, str(folder)).encode()
        hub.faults.push(**how)


NO_HUB = "which no hub does|not answered as a hub does"
ANYWHERE: dict[str, tuple[str, dict[str, Any]]] = {
    "silence": (STALLED, dict(kind="stall", after=0, seconds=FOREVER)),
    "a byte now and then": (STALLED, dict(kind="drip", after=0, seconds=0.1)),
    "503 for ever": (f"503|{STALLED}", dict(kind=503)),
    "Retry-After: 100000": (r"asks to wait 100000 s", dict(kind=503, headers={"Retry-After": "100000"})),
    "no HTTP": (STALLED + "|cannot be reached", dict(kind="raw", body=b"SSH-2.0-OpenSSH_9.6\r\n")),
    "closed without a word": (STALLED + "|cannot be reached", dict(kind="raw", body=b"")),
    "404 in HTML": (r"\(404\)", dict(status=404, body=PORTAL, headers=HTML)),
    "a redirect to another host": (
        "redirect to http|with another content|which no hub does|is not there",
        dict(status=302, headers={"Location": "ELSEWHERE/login"}),
    ),
    "a redirect to itself": (f"redirects without end|{NO_HUB}", dict(status=307, headers={"Location": ""})),
}
JSON: dict[str, tuple[str, dict[str, Any]]] = {
    "{}": (NO_HUB, dict(body=b"{}")),
    "null": (NO_HUB, dict(body=b"null")),
    "[1]": (NO_HUB, dict(body=b"[1]")),
    "a login page": (NO_HUB, dict(body=PORTAL, headers=HTML)),
    "nothing": (NO_HUB, dict(body=b"")),
    "a JSON text of 20 MB": ("sends more than", dict(body=b'{"a": "' + b"x" * 20_000_000 + b'"}')),
}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "half, then silence": (STALLED, dict(kind="stall", seconds=FOREVER)),
    "half, then a byte now and then": (STALLED, dict(kind="drip", seconds=0.1)),
    "an unknown Content-Encoding": (NO_HUB, dict(kind="headers", headers={"Content-Encoding": "x-snappy"})),
    "gzip that is none": (NO_HUB, dict(kind="headers", headers={"Content-Encoding": "gzip"})),
    "gzip thrice": (NO_HUB, dict(kind="headers", headers={"Content-Encoding": "gzip, gzip, gzip"})),
    "Content-Length: 0": (NO_HUB + "|would send 0 bytes", dict(kind="headers", headers={"Content-Length": "0"})),
    "a Content-Length that is no number": (
        STALLED + "|cannot be reached|no number",
        dict(kind="headers", headers={"Content-Length": "many"}),
    ),
    "an early end without a length": (
        STALLED + "|cannot be reached|" + NO_HUB,
        dict(kind="truncate", headers={"Content-Length": None}),
    ),
    "no end": ("sends more than", dict(kind="flood", headers={"Content-Length": None})),
    "a bomb of 2 GB": ("sends more than", dict(body="BOMB", headers={"Content-Encoding": "gzip"})),
    "401 and another's token error": (
        "refused the token",
        dict(kind=401, code="", headers={"X-Error-Message": "\x1b[31mInvalid credentials\x07"}),
    ),
    "403": (r"\(403\)", dict(kind=403, code="")),
}
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"an {header} that {does}": ("", dict(kind="headers", headers={"X-Linked-Etag": None, header: f'"{where}new"'}))
        for header in ("ETag", "X-Linked-Etag")
        for does, where in {"climbs out": CLIMB, "is a path": f"{OUTSIDE}/"}.items()
    },
    "an X-Repo-Commit that climbs out": ("", dict(kind="headers", headers={"X-Repo-Commit": CLIMB})),
    "a name in Content-Disposition": (
        "",
        dict(kind="headers", headers={"Content-Disposition": f'attachment; filename="{CLIMB}x"'}),
    ),
    "another content": ("came twice with another content", dict(kind="corrupt")),
    "a login page": (NO_HUB, dict(body=PORTAL, headers=HTML)),
    "a redirect to a local file": ("cannot be|no hub", dict(status=302, headers={"Location": "file:///etc/passwd"})),
    "a redirect that is no address": ("redirect|cannot|no hub", dict(status=302, headers={"Location": "http://[::1"})),
    "a part that was not asked for": (
        "not asked for",
        dict(status=206, body=b"x", headers={"Content-Range": "bytes 7-8/9"}),
    ),
}


def _first(**changes: Any) -> Callable[[dict], dict]:
    """The record of a revision with another first file; `lfs` changes what is said of its content."""

    def change(info: dict) -> dict:
        for one in info["siblings"]:
            if one["rfilename"] == "config.json":
                one |= changes
        return info

    return change


def _lfs(**changes: Any) -> Callable[[dict], dict]:
    def change(info: dict) -> dict:
        return {**info, "siblings": [{**one, "lfs": {**one.get("lfs", {}), **changes}} for one in info["siblings"]]}

    return change


RECORDS: dict[str, tuple[str, Callable[[dict], Any]]] = {
    "a commit that climbs out": (NO_HUB, lambda info: {**info, "sha": CLIMB}),
    "a commit that is a number": (NO_HUB, lambda info: {**info, "sha": 7}),
    "a hash that climbs out": (NO_HUB, _lfs(sha256=f"{CLIMB}new")),
    "a hash of another file": ("came twice with another content", _lfs(sha256="0" * 64)),
    "a size that is too small": ("would send", _lfs(size=10)),
    "a size that is too large": ("would send", _lfs(size=10**7)),
    "a size that no disk has": ("no space is left|would send", _lfs(size=10**18)),
    "a size below nothing": (NO_HUB, _lfs(size=-1)),
    "a size in words": (NO_HUB, _lfs(size="1e3")),
    "no hash": (NO_HUB, _first(lfs=None, blobId=None)),
    "a name that climbs out": ("outside its folder", lambda info: {**info, "siblings": [{"rfilename": f"{CLIMB}x"}]}),
    "a name that is a number": (NO_HUB, lambda info: {**info, "siblings": [{"rfilename": 7}]}),
    "files in words": (NO_HUB, lambda info: {**info, "siblings": "many"}),
    "no files": ("has no config.json", lambda info: {**info, "siblings": []}),
}


@cache
def attacks() -> tuple[Attack, ...]:
    return tuple(_attacks())


def _attacks() -> Iterator[Attack]:
    for step in PULL:
        for name, (says, fault) in ANYWHERE.items():
            yield Attack("pull", step, name, says, fault)
    for step in ("info", "file"):
        for name, (says, fault) in BODIES.items():
            yield Attack("pull", step, name, says, fault)
    for step in ("address", "file"):
        for name, (says, fault) in FILES.items():
            if step == "file" or fault.get("kind") != "corrupt":  # an address has no content of its own
                yield Attack("pull", step, name, says, fault)
    for name, (says, fault) in JSON.items():
        yield Attack("pull", "info", name, says, fault)
    for name, (says, change) in RECORDS.items():
        yield Attack("pull", "info", name, says, change=change)
    for step in PUBLISH:
        for name, (says, fault) in (ANYWHERE | JSON).items():
            says += "|was not uploaded" if step == "PUT" else "|yet the tag is not there" if step == "tag" else ""
            yield Attack("publish", step, name, says, fault)


@dataclass
class Outcome:
    code: int
    seconds: float
    memory: int
    said: str
    harm: list[str]

    @property
    def what(self) -> str:
        return "worked" if self.code == 0 else "told" if self.code == 2 else "crashed"


def run(attack: Attack, folder: Path, timeout: float) -> Outcome:
    """Strike one command with one attack, in a folder of its own."""
    from repositories import ours, write

    timeout = attack.patience(timeout)
    home, run_folder = folder / "home", write(ours(), folder / "run")
    with Hub({"hf_me": "me"}) as hub, Hub({"hf_me": "me"}) as evil:
        if attack.verb == "pull":
            hub.create("me/net", ours())
        elsewhere = evil.endpoint.replace("127.0.0.1", "localhost")
        attack.strike(hub, elsewhere, folder)
        given = (
            ["pull", "hf://me/net"] if attack.verb == "pull" else ["publish", str(run_folder), "me/net", "--tag", "v1"]
        )
        command = [sys.executable, "-m", "keras_cnn.cli", *given, "--timeout", str(timeout)]
        environment = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_me",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": str(ROOT),
        }
        (folder / "tmp").mkdir(exist_ok=True)
        (folder / "said").touch()
        before = outside(home, folder)
        started = time.monotonic()
        with (folder / "said").open("w+") as said:
            process = subprocess.Popen(
                command, env={**os.environ, **environment}, cwd=folder, stdout=subprocess.DEVNULL, stderr=said
            )
            limit = started + timeout + START
            while not (done := os.wait4(process.pid, os.WNOHANG))[0] and time.monotonic() < limit + 5:
                time.sleep(0.02)
            if not done[0]:
                process.kill()
                done = os.wait4(process.pid, 0)
            said.seek(0)
            text = said.read().strip()
        seconds = time.monotonic() - started
        code, memory = os.waitstatus_to_exitcode(done[1]), done[2].ru_maxrss * 1024
        process.returncode = code
        harm = list(_harm(attack, code, seconds, memory, text, timeout, changes(before, outside(home, folder)), home))
        harm += ["the token was sent elsewhere"] * bool(evil.authorized)
    return Outcome(code, seconds, memory, text, harm)


def _harm(attack, code, seconds, memory, text, timeout, changed, home) -> Iterator[str]:
    import re

    if code not in (0, 2):
        yield f"exit code {code}"
    if code == 2 and (len(text.splitlines()) > 1 or not text.startswith("error: ")):
        yield "more than a sentence"
    if any(not char.isprintable() for char in text.replace("\n", "")):
        yield "control characters"
    if code == 2 and not (attack.says and re.search(attack.says, text)):
        yield "another sentence than expected"
    if seconds > timeout + START:
        yield f"{seconds:.0f} s"
    if memory > MEMORY:
        yield f"{memory >> 20} MiB"
    if strays := [path for path in changed if path.name != "said"]:
        yield f"files outside the cache: {strays}"
    if left := [path for path in home.rglob("*") if path.name.endswith((".incomplete", ".tmp"))]:
        yield f"leftovers: {left}"


def outside(home: Path, folder: Path) -> dict[Path, bytes]:
    """What stands in a folder, but for the cache: folders, and files with their content."""
    paths = (path for path in folder.rglob("*") if home not in (path, *path.parents))
    return {path: path.read_bytes() if path.is_file() else b"" for path in paths}


def changes(before: Mapping[Path, bytes], after: Mapping[Path, bytes]) -> list[Path]:
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def _info(hub: Hub) -> dict:
    """What the hub truly says of the repository."""
    import urllib.request

    with urllib.request.urlopen(f"{hub.endpoint}/api/models/me/net/revision/main?blobs=True") as answer:
        return json.load(answer)


@cache
def bomb(size: int = 2 << 30) -> bytes:
    """So many zeros, packed."""
    step, pack = 1 << 24, zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    return b"".join([*(pack.compress(bytes(step)) for _ in range(size // step)), pack.flush()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timeout", type=float, default=2.0)
    parser.add_argument("--only", default="", help="attacks with these words in their name")
    parser.add_argument("--jobs", type=int, default=4, help="attacks at a time")
    wish = parser.parse_args()
    chosen = [attack for attack in attacks() if wish.only in str(attack)]
    bomb()  # once, for all threads

    def one(attack: Attack) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            return run(attack, Path(folder), wish.timeout)

    harmful = 0
    print("| attack | outcome | exit code | seconds | MiB | said |\n|---|---|---|---|---|---|")
    with ThreadPoolExecutor(wish.jobs) as pool:
        for attack, found in zip(chosen, pool.map(one, chosen), strict=True):
            harmful += bool(found.harm)
            said = found.said.removeprefix("error: ").replace("|", "\\|").replace("\n", " ")
            outcome = f"**{'; '.join(found.harm)}**" if found.harm else found.what
            facts = f"{found.code} | {found.seconds:.1f} | {found.memory >> 20}"
            print(f"| {attack} | {outcome} | {facts} | {said} |", flush=True)
    print(f"\n{len(chosen)} attacks, {harmful} of them did harm.")
    sys.exit(harmful > 0)


if __name__ == "__main__":
    main()
