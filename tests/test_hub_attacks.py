"""A hub that is none, or that means harm: a sentence in time, nothing outside the cache; what is cached stands in."""

from __future__ import annotations

import gzip
import io
import os
import re
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from attacks import hub_answers
from hub_server import Hub
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils import close_session
from PIL import Image
from repositories import INFO, LFS, NET, WEIGHTS, arrays, cached, config, offline, ours, same, write

import keras_cnn as kc
from keras_cnn.errors import CacheError, CorruptFile, HubError, HubWarning, KerasCnnError, Offline, UnsafeFile
from keras_cnn.hub import client, http, resolve

pytestmark = pytest.mark.no_keras

TIMEOUT = 1.0
# One of each kind by default; all with -m slow, and as commands of their own with tests/attacks/hub_answers.py.
DAILY = {
    "pull, info: silence",
    "pull, file: a byte now and then",
    "pull, info: Retry-After: 100000",
    "pull, file: no HTTP",
    "pull, info: a redirect to another host",
    "pull, file: a redirect to another host",
    "pull, address: a redirect to itself",
    "pull, file: half, then a byte now and then",
    "pull, info: half, then silence",
    "pull, file: an unknown Content-Encoding",
    "pull, file: gzip that is none",
    "pull, file: Content-Length: 0",
    "pull, file: an early end without a length",
    "pull, file: no end",
    "pull, info: 401 and another's token error",
    "pull, address: an ETag that climbs out",
    "pull, address: an ETag that is a path",
    "pull, address: an X-Linked-Etag that climbs out",
    "pull, address: an X-Linked-Etag that is a path",
    "pull, file: another content",
    "pull, address: a redirect to a local file",
    "pull, info: {}",
    "pull, info: null",
    "pull, info: a login page",
    "pull, info: a JSON text of 20 MB",
    "pull, info: a hash that climbs out",
    "pull, info: a size that no disk has",
    "pull, info: a size that is too small",
    "publish, create: null",
    "publish, create: silence",
    "publish, refs: a byte now and then",
    "publish, info: Retry-After: 100000",
    "publish, preupload: {}",
    "publish, LFS batch: Retry-After: 100000",
    "publish, LFS batch: {}",
    "publish, PUT: silence",
    "publish, card check: a login page",
    "publish, commit: silence",
    "publish, commit: {}",
    "publish, commit: a redirect to another host",
    "publish, tag: a byte now and then",
}


def test_the_daily_attacks_exist():
    names = {str(attack) for attack in hub_answers.attacks()}
    assert names >= DAILY and len(names) == len(hub_answers.attacks()) >= 100


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(one, id=str(one), marks=() if str(one) in DAILY else pytest.mark.slow)
        for one in hub_answers.attacks()
    ],
)
def test_an_answer(attack, hub, home, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    run = write(ours(), tmp_path / "run")
    if attack.verb == "pull":
        hub.create("me/net", ours())
    with Hub() as evil:
        attack.strike(hub, evil.endpoint.replace("127.0.0.1", "localhost"), tmp_path)
        before = hub_answers.outside(home, tmp_path)
        try:
            if attack.verb == "pull":
                kc.pull(NET, timeout=attack.patience(TIMEOUT))
            else:
                kc.publish(run, "me/net", tag="v1", timeout=attack.patience(TIMEOUT))
        except (HubError, CorruptFile, CacheError, UnsafeFile) as error:
            assert attack.says and re.search(attack.says, str(error)), error
            assert str(error).isprintable() and "hf_me" not in str(error)
        else:
            hub.faults.clear()
            if attack.verb == "pull":
                assert same(resolve(NET), arrays(config()))
            else:
                assert hub.files("me/net")[WEIGHTS] == (run / WEIGHTS).read_bytes()
                assert hub.repos["me/net"].tags == {"v1": hub.repos["me/net"].branches["main"]}
        assert not evil.authorized
    assert not hub_answers.changes(before, hub_answers.outside(home, tmp_path))
    assert not [path for path in cached(home, WEIGHTS) if path.read_bytes() != hub.files("me/net")[WEIGHTS]]


# --- time ------------------------------------------------------------------------------------------------------------


def test_the_time_is_an_option_or_a_variable(hub, net, monkeypatch):
    hub.faults.push("stall", path=INFO, after=0, seconds=60, times=None)
    monkeypatch.setenv("KERAS_CNN_TIMEOUT", "1.5")
    with pytest.raises(Offline, match=r"GET http://\S+/main made no progress for 1\.5 s: .*KERAS_CNN_TIMEOUT"):
        kc.info(NET)
    with pytest.raises(Offline, match=r"made no progress for 0\.5 s.*timeout= of pull and publish"):
        kc.pull(NET, timeout=0.5)
    for wrong in ("soon", "-1", "0", "nan", "inf"):
        monkeypatch.setenv("KERAS_CNN_TIMEOUT", wrong)
        with pytest.raises(KerasCnnError, match=f"KERAS_CNN_TIMEOUT='{wrong}': give the seconds"):
            kc.pull(NET)
    with pytest.raises(KerasCnnError, match="timeout=0: give the seconds"):
        kc.pull(NET, timeout=0)


def test_every_command_that_reaches_the_hub_has_the_time_as_an_option(hub, net, run, tmp_path):
    hub.faults.push("stall", path=INFO, after=0, seconds=60, times=None)
    image = tmp_path / "x.png"
    Image.new("RGB", (8, 8)).save(image)
    for line in (
        ("info", NET),
        ("pull", NET),
        ("predict", image, "-m", NET),
        ("evaluate", "digits", "-m", NET),
        ("fine-tune", "digits", "-m", NET, "--out", tmp_path / "run"),
    ):
        code, _, err = run(*line, "--timeout", 0.3)
        assert code == 2 and "made no progress for 0.3 s" in err and "--timeout" in err, line
    assert client.seconds() == 60  # what one command is told is not the next one's
    code, _, err = run("info", NET, "--timeout", 0)
    assert code == 2 and "timeout=0.0: give the seconds" in err and err.count("\n") == 1


def test_what_moves_is_not_ended(hub, net):
    """Longer than the timeout in all, with something new within each."""
    hub.faults.push("stall", path=INFO, after=0, seconds=1.2)
    for name in ("config.json", WEIGHTS):
        hub.faults.push("stall", path=f"{LFS}.*{name}", seconds=1.2)
    start = time.monotonic()
    kc.pull(NET, timeout=3)
    assert time.monotonic() - start > 3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_told_what_is_waited_for(hub, net, monkeypatch):
    monkeypatch.setattr(client, "QUIET", 0.1)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    hub.faults.push(503, path=INFO)
    hub.faults.push("stall", path=INFO, after=0, seconds=3)
    kc.info(NET)
    shown = " ".join(terminal.getvalue().split())
    assert "answered 503: Service Unavailable: the next attempt is in 0.5 s" in shown
    assert re.search(r"waiting for GET http\S+/api/models/me/net/revision/main: \d+ of 60 s without progress", shown)


def test_a_process_that_holds_the_lock_and_does_nothing(hub, net, home):
    from filelock import FileLock

    digits = sha256(hub.files("me/net")["config.json"]).hexdigest()
    lock = home / "hub" / ".locks" / "models--me--net" / f"{digits}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock), pytest.raises(HubError, match=rf"another process holds {lock} and made no progress for 0.5 s"):
        kc.pull(NET, timeout=0.5)
    kc.pull(NET)


# --- what is cached stands in, but not for a refusal -----------------------------------------------------------------

STANDS_IN = {
    "silence": dict(kind="stall", after=0, seconds=60),
    "a login page": dict(kind="answer", body=hub_answers.PORTAL),
    "503": dict(kind=503),
    "null": dict(kind="answer", body=b"null"),
}


@pytest.mark.parametrize("fault", STANDS_IN.values(), ids=STANDS_IN)
def test_what_is_cached_stands_in(hub, net, fault):
    kc.pull(NET)
    hub.faults.push(**fault, path=INFO, times=None)
    with pytest.warns(HubWarning, match=rf"Using the cached commit {net} of main"):
        kc.pull(NET, timeout=0.5)


@pytest.mark.parametrize("status, says", [(403, r"\(403\)"), (404, r"\(404\)")])
def test_a_refusal_is_told_as_what_it_is(hub, net, status, says):
    kc.pull(NET)
    hub.faults.push(status, path=INFO, code="", times=None)
    with pytest.raises(HubError, match=says):
        kc.pull(NET)


# --- the cache -------------------------------------------------------------------------------------------------------


def test_an_interrupted_download_goes_on(hub, net, home):
    hub.faults.push("stall", path=rf"{LFS}.*{WEIGHTS}", after=700_000, seconds=60)
    with pytest.raises(Offline, match="made no progress"):
        kc.pull(NET, timeout=2)
    (part,) = (home / "hub").glob("models--*/blobs/.*.part")
    assert part.stat().st_size == 700_000
    kc.pull(NET)
    assert [status for _, _, status in hub.seen("GET", rf"{LFS}.*{WEIGHTS}")] == [200, 206]
    assert cached(home, WEIGHTS)[0].read_bytes() == hub.files("me/net")[WEIGHTS] and not part.exists()


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX'")
@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_the_modes_of_files_follow_the_umask(hub, net, home, mask, mode):
    before = os.umask(mask)
    try:
        path = kc.pull(NET)
    finally:
        os.umask(before)
    assert {(path / name).stat().st_mode & 0o777 for name in ("config.json", WEIGHTS)} == {mode}


def test_a_packed_answer_is_unpacked_piece_by_piece():
    """64 MiB of zeros are 64 KB: at once, they would be in memory before anything could bound them."""
    parts = list(http._unpacked([gzip.compress(bytes(64 << 20))], "gzip", "x"))
    assert max(map(len, parts)) <= http.STEP and sum(map(len, parts)) == 64 << 20


@pytest.mark.parametrize("data", [b"other" * 1000, b"x" * 2_000_000], ids=["another beginning", "too long"])
def test_what_is_left_of_another_download_is_not_gone_on_with(hub, net, home, data):
    hub.faults.push("stall", path=rf"{LFS}.*{WEIGHTS}", seconds=60)
    with pytest.raises(Offline):
        kc.pull(NET, timeout=2)
    (part,) = (home / "hub").glob("models--*/blobs/.*.part")
    part.write_bytes(data)
    kc.pull(NET)
    assert cached(home, WEIGHTS)[0].read_bytes() == hub.files("me/net")[WEIGHTS]


def test_what_was_given_up_is_deleted_a_day_later(hub, net, home):
    old, new = (home / "hub" / f"models--me--{name}" / "blobs" / ".x.part" for name in ("old", "new"))
    for path in (old, new):
        write({path.name: b"x"}, path.parent)
    os.utime(old, (time.time() - 90_000,) * 2)
    kc.pull(NET)
    assert not old.exists() and new.exists()


def test_the_client_reads_what_we_fetched(hub, net, home, monkeypatch):
    path = kc.pull(NET)
    assert sorted(one.name for one in (home / "hub" / "models--me--net" / "blobs").iterdir()) == sorted(
        os.path.basename(os.readlink(one)) for one in path.iterdir()
    )
    offline(monkeypatch)
    for name in ("config.json", WEIGHTS):
        assert Path(hf_hub_download("me/net", name, local_files_only=True)) == path / name
        assert Path(hf_hub_download("me/net", name, revision=net, local_files_only=True)) == path / name


def test_what_the_client_fetched_is_not_fetched_again(hub, net, home):
    for name in ours():
        hf_hub_download("me/net", name)
    hub.requests.clear()
    kc.pull(NET)
    assert [path for _, path, _ in hub.requests] == ["/api/models/me/net/revision/main"]


def test_a_note_of_ours_that_was_made_to_climb_out(hub, net, home, tmp_path):
    kc.pull(NET)
    note = home / "keras_cnn" / "models--me--net" / f"{net}.json"
    note.write_text(note.read_text().replace("sha256:", f"sha256:{'../' * 9}{tmp_path}/"))
    with pytest.raises(CorruptFile, match="is damaged: delete it"):
        kc.pull(f"{NET}@{net}")


def test_a_proxy_is_used(hub, net, home, monkeypatch):
    """The loopback hub answers as a proxy does: the path of a request may be a whole address."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://hub.invalid/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setenv("http_proxy", hub.endpoint)
    close_session()
    try:
        assert kc.pull(NET).name == net
    finally:
        close_session()


def test_the_upload_goes_where_it_can_be_watched(hub, home, tmp_path, monkeypatch):
    """Not by Xet, of which nothing can be seen from here, though its package is there."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    run = write({**ours(), "curves.png": b"\x89PNG" + bytes(5000)}, tmp_path / "run")
    kc.publish(run, "me/net")
    assert len(hub.seen("PUT", LFS)) == 4 and not hub.seen(".*", "xet")
