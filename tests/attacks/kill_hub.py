"""`pull` and `publish`, killed with SIGKILL at random moments: what is there then, and whether the next call mends it.

    python tests/attacks/kill_hub.py [--count 100] [--seed 0] [--jobs 4]

Each round starts a process against the loopback hub, kills it at whatever moment, or while an answer or a body is under
way, looks at the cache or the repository, and calls again. Prints a table; exit code 1 if a round did harm.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from hub_server import Hub  # noqa: E402

CODE = {
    "pull": "import keras_cnn as kc; kc.pull('hf://me/net', timeout=20)",
    "publish": "import sys, keras_cnn as kc; kc.publish(sys.argv[1], 'me/net', tag='v1', timeout=20)",
}
WEIGHTS = "model.safetensors"
PARTS = {WEIGHTS, "config.json", "README.md"}
# Where a process is held so that it can be killed there; the rest of the rounds kill at whatever moment.
HOLDS = {
    "pull": [("GET", r"/revision/"), ("GET", r"^/lfs/.*config"), ("GET", rf"^/lfs/.*{WEIGHTS}")],
    "publish": [
        ("POST", "/repos/create"),
        ("POST", "/preupload/"),
        ("POST", "/objects/batch"),
        ("PUT", "^/lfs/"),
        ("POST", "/commit/"),
        ("POST", "/tag/"),
    ],
}


class Round:
    """One life of a cache, or of a repository: a killed call, a look, and the call that mends it."""

    def __init__(self, verb: str, hub: Hub, folder: Path, rng: random.Random):
        from repositories import ours, write

        self.verb, self.hub, self.folder, self.rng = verb, hub, folder, rng
        self.files, self.run, self.home = ours(), write(ours(), folder / "run"), folder / "home"
        (folder / "tmp").mkdir()
        if verb == "pull":
            hub.create("me/net", self.files)

    def start(self) -> subprocess.Popen:
        environment = {
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_HOME": str(self.home),
            "HF_TOKEN": "hf_me",
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-c", CODE[self.verb], str(self.run)]
        return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)

    def kill(self) -> str:
        """Start a process and kill it; where it was."""
        hold = self.rng.choice([*HOLDS[self.verb], None])
        if hold:
            self.hub.faults.push("stall", *hold, after=self.rng.choice([0, None, 1, 300_000]), seconds=30)
        process = self.start()
        _wait(lambda: self.hub.seen(*hold) if hold else self.hub.requests, process)
        time.sleep(self.rng.uniform(0, 0.05 if hold else 0.3))
        process.kill()
        process.communicate()
        self.hub.faults.clear()
        return f"at {hold[0]} {hold[1].strip('^')}" if hold else "at whatever moment"

    def harm(self, after: str) -> Iterator[str]:
        """What is not as it should be, after the kill or after the next call."""
        if left := list((self.folder / "tmp").iterdir()):
            yield f"{after}: temporary files {[path.name for path in left]}"
        for path in (self.home / "hub").glob("models--*/snapshots/*/*"):
            if path.read_bytes() != self.files[path.name]:
                yield f"{after}: {path.name} in the cache is not what the hub has"
        if self.verb == "publish" and "me/net" in self.hub.repos:
            for branch in self.hub.repos["me/net"].branches:
                there = set(self.hub.files("me/net", branch)) - {".gitattributes"}
                if there not in (set(), PARTS):
                    yield f"{after}: a part was published: {sorted(there)}"

    def mend(self) -> Iterator[str]:
        process = self.start()
        error = process.communicate(timeout=300)[1]
        if process.returncode:
            yield f"the next call failed: {error.strip().splitlines()[-1]}"
            return
        yield from self.harm("after the next call")
        repo = self.hub.repos["me/net"]
        if self.verb == "publish" and (len(repo.commits) != 2 or repo.tags != {"v1": repo.branches["main"]}):
            yield f"published {len(repo.commits) - 1} times, tags {repo.tags}"
        if self.verb == "pull" and (left := list((self.home / "hub").glob("models--*/blobs/*.*"))):
            yield f"leftovers: {[path.name for path in left]}"


def attack(verb: str, count: int, seed: int, jobs: int = 1) -> tuple[collections.Counter[str], list[str]]:
    """So many rounds: how often a process was killed where, and the harm that was done."""

    def one(number: int) -> tuple[str, list[str]]:
        with Hub({"hf_me": "me"}) as hub, tempfile.TemporaryDirectory() as folder:
            life = Round(verb, hub, Path(folder), random.Random(f"{seed} {verb} {number}"))
            return life.kill(), [*life.harm("after the kill"), *life.mend()]

    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(one, range(count)))
    return collections.Counter(place for place, _ in found), [text for _, harm in found for text in harm]


def _wait(condition: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="rounds of each verb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=4, help="rounds at a time")
    wish, bad = parser.parse_args(), 0
    print("| verb | killed | rounds |\n|---|---|---|")
    for verb in CODE:
        places, harm = attack(verb, wish.count, wish.seed, wish.jobs)
        bad += len(harm)
        for place, times in sorted(places.items()):
            print(f"| {verb} | {place} | {times} |", flush=True)
        print(f"| {verb} | all: {'; '.join(harm) or 'no harm'} | {wish.count} |", flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
