"""The hub and several processes: killed ones, competing ones, and a cache without room."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attacks import kill_hub
from repositories import LFS, ROOT, cached, ours, write

pytestmark = pytest.mark.no_keras

WEIGHTS = "model.safetensors"
LIGHT = "; assert not {'keras', 'tensorflow', 'torch', 'jax'} & sys.modules.keys()"  # no framework is needed
PULL = "import sys, keras_cnn as kc; print(kc.pull(sys.argv[1]))" + LIGHT
PUBLISH = "import sys, keras_cnn as kc; print(kc.publish(sys.argv[1], 'me/net', tag='v1').commit)" + LIGHT
ROUNDS = 6


@pytest.fixture
def environment(hub, home):
    """Of another process that talks to the loopback hub."""
    names = {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_TOKEN": "hf_me"}
    return {**os.environ, **names}


@pytest.fixture
def start(environment):
    """Starts Python code in another process."""
    started: list[subprocess.Popen] = []

    def start(code: str, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-c", code, *arguments]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip()


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 30
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def test_four_processes_share_one_download(hub, home, start):
    hub.create("me/net", ours())
    hub.faults.push("stall", path=rf"{LFS}.*{WEIGHTS}", seconds=1)  # the others come while it is under way
    processes = [start(PULL, "hf://me/net") for _ in range(4)]
    assert len({finish(process) for process in processes}) == 1
    assert len(hub.seen("GET", rf"{LFS}.*{WEIGHTS}")) == 1
    assert cached(home, WEIGHTS)[0].read_bytes() == hub.files("me/net")[WEIGHTS]


def test_a_pull_after_a_killed_one(hub, home, start):
    """Killed while the body is under way, at whatever byte, and at whatever moment."""
    rng = random.Random(0)
    hub.create("me/net", ours())
    size = len(hub.files("me/net")[WEIGHTS])
    for _ in range(ROUNDS // 2):
        hub.requests.clear()
        hub.faults.push("stall", path=rf"{LFS}.*{WEIGHTS}", after=rng.randrange(1, size), seconds=30)
        process = start(PULL, "hf://me/net")
        wait_for(lambda: hub.seen("GET", rf"{LFS}.*{WEIGHTS}"), process)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.communicate()
        assert not cached(home, WEIGHTS)
    hub.faults.clear()
    for _ in range(ROUNDS // 2):
        hub.requests.clear()
        process = start(PULL, "hf://me/net")
        wait_for(lambda: hub.requests, process)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.communicate()
    assert finish(start(PULL, "hf://me/net"))
    assert cached(home, WEIGHTS)[0].read_bytes() == hub.files("me/net")[WEIGHTS]


@pytest.mark.parametrize("stage", ["/repos/create", "/lfs/", "/commit/", "/tag/", None])
def test_a_publish_after_a_killed_one(hub, start, tmp_path, stage):
    """Killed at each stage, its answer still to come, and at whatever moment: then all is there once."""
    rng = random.Random(stage)
    run = write(ours(), tmp_path / "run")
    if stage:
        hub.faults.push("stall", "PUT|POST", stage, after=0, seconds=30)
    process = start(PUBLISH, str(run))
    wait_for(lambda: hub.seen("PUT|POST", stage or ""), process)
    time.sleep(0.05 if stage else rng.uniform(0, 0.4))
    process.kill()
    process.communicate()
    files = hub.repos["me/net"].at("main").files if "me/net" in hub.repos else {}
    assert set(files) - {".gitattributes"} in (set(), {WEIGHTS, "config.json", "README.md"})  # never a part
    hub.faults.clear()
    commit = finish(start(PUBLISH, str(run)))
    repo = hub.repos["me/net"]
    assert repo.tags == {"v1": commit} and repo.branches["main"] == commit
    assert len(repo.commits) == 2
    assert hub.files("me/net")[WEIGHTS] == (run / WEIGHTS).read_bytes()


# --- the command line, and a cache without room ---------------------------------------------------------------------


def command(environment, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "keras_cnn.cli", *arguments]
    return subprocess.run(line, env={**environment, **more}, capture_output=True, text=True, timeout=60)


def test_commands(hub, home, environment, tmp_path):
    run = write(ours(), tmp_path / "run")
    dry = command(environment, "publish", str(run), "me/net", "--dry-run")
    assert (dry.returncode, hub.requests) == (0, []) and "model.safetensors" in dry.stdout
    done = command(environment, "publish", str(run), "me/net", "--tag", "v1", "--message", "first", "--json")
    told = json.loads(done.stdout)
    assert told["commit"] == hub.repos["me/net"].tags["v1"]
    pulled = command(environment, "pull", "hf://me/net@v1", "--json")
    assert (pulled.returncode, pulled.stderr) == (0, "")
    facts = json.loads(pulled.stdout)
    assert (facts["commit"], facts["files"]) == (told["commit"], told["files"])
    assert Path(facts["path"], WEIGHTS).is_file()
    hub.requests.clear()
    shown = command(environment, "pull", "hf://me/net@v1", HF_HUB_OFFLINE="1")
    assert shown.returncode == 0 and told["commit"] in shown.stdout and hub.requests == []
    missing = command(environment, "pull", "hf://me/net@v2", HF_HUB_OFFLINE="1")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("error: me/net at revision v2 is not in the cache") and hub.requests == []
    assert "hf_me" not in dry.stdout + done.stdout + done.stderr + pulled.stdout


def test_a_download_that_is_stopped_is_kept_and_says_so(hub, home, environment):
    hub.create("me/net", ours())
    hub.faults.push("stall", path=rf"{LFS}.*{WEIGHTS}", after=500_000, seconds=60)
    line = [sys.executable, "-m", "keras_cnn.cli", "pull", "hf://me/net"]
    told: dict = {"env": environment, "text": True, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    heeding = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731, a shell's background job would not
    process = subprocess.Popen(line, preexec_fn=heeding, **told)
    parts = (home / "hub").glob
    wait_for(lambda: any(p.stat().st_size == 500_000 for p in parts("models--*/blobs/.*.part")), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    sentence = f"stopped; what has come of {WEIGHTS} of hf://me/net is kept: the same command goes on."
    assert (process.returncode, err.splitlines()[-1]) == (130, sentence)
    assert command(environment, "pull", "hf://me/net").returncode == 0
    assert [status for _, _, status in hub.seen("GET", rf"{LFS}.*{WEIGHTS}")] == [200, 206]


def test_warnings_are_one_sentence(hub, environment):
    hub.create("me/net", ours(license="cc-by-nc-4.0"))
    done = command(environment, "pull", "hf://me/net")
    assert done.returncode == 0
    assert done.stderr == "note: hf://me/net: its licence, cc-by-nc-4.0, rules out commercial use.\n"


def test_refusals_are_one_sentence(hub, environment, tmp_path):
    run = write(ours(license=None), tmp_path / "run")
    for arguments in (["publish", str(run), "me/net"], ["pull", "hf://me/none"], ["info", "hf://me/none@v1"]):
        done = command(environment, *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert done.stderr.startswith("error: ")


@pytest.fixture
def mounting(tmp_path) -> list[str]:
    """Runs a shell line that may mount: in a namespace of its own, nothing is mounted for anyone else."""
    run = ["unshare", "-Urm", "sh", "-c"]
    probe = [*run, f"mount -t tmpfs -o size=64k tmpfs {tmp_path}"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this system does not let one mount a small file system")
    return run


MOUNT = "mount -t tmpfs -o size={size} tmpfs {folder} && {then} exec {python} -m keras_cnn.cli pull hf://me/net"


@pytest.mark.parametrize(
    "size, then, sentence",
    [
        ("512k", "", "no space is left on the device of the cache"),
        ("4m", "mount -o remount,ro {folder} &&", "cannot be written (Read-only file system): set HF_HOME"),
    ],
    ids=["full", "read-only"],
)
def test_a_cache_without_room(hub, environment, mounting, tmp_path, size, then, sentence):
    hub.create("me/net", ours())
    folder = tmp_path / "small"
    folder.mkdir()
    line = MOUNT.format(size=size, folder=folder, then=then.format(folder=folder), python=sys.executable)
    done = subprocess.run(
        [*mounting, line],
        env={**environment, "HF_HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert sentence in done.stderr.splitlines()[-1]


def test_a_read_only_cache_serves_what_it_has(hub, home, environment, mounting, start):
    hub.create("me/net", ours())
    finish(start(PULL, "hf://me/net"))
    line = f"mount --bind {home} {home} && mount -o remount,bind,ro {home} && "
    line += f"! touch {home}/x && exec {sys.executable} -m keras_cnn.cli pull hf://me/net"
    done = subprocess.run([*mounting, line], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("verb", kill_hub.CODE)
def test_a_hundred_kills_at_whatever_moment_do_no_harm(verb):
    places, harm = kill_hub.attack(verb, 100, 1, jobs=2)
    assert harm == [] and sum(places.values()) == 100 and len(places) == len(kill_hub.HOLDS[verb]) + 1
