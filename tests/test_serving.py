"""The service over real HTTP: answers as the predictor's, strangers' bytes refused, a page that a browser shows."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import http.client
import io
import json
import logging
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from importlib.util import find_spec
from pathlib import Path
from random import Random

import keras
import numpy as np
import pytest
from PIL import Image

import keras_cnn as kc
from keras_cnn.errors import BadSpec

pytest.importorskip("keras_cnn.deploy.serving")
sys.path.insert(0, str(Path(__file__).parent / "attacks"))
import hostile_uploads
from page_picture import BROWSER, DRIVER, browser, served

from keras_cnn.deploy import batching, intake

HOSTILE = "<img src=x onerror=alert(1)>"
RNG = np.random.default_rng(0)


def ask(address, method, path, body=None, headers=()):
    """(status, headers, body) of one request."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        connection.request(method, path, body, dict(headers))
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


def encoded(pixels, kind="PNG") -> bytes:
    Image.fromarray(pixels).save(file := io.BytesIO(), kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def nets():
    keras.utils.set_random_seed(0)
    small = {"depths": (1, 1, 1), "input_shape": (32, 32, 3)}
    preprocess = kc.Preprocess(size=(32, 32), crop=1.0)
    return {
        "pets": kc.build("resnet20", classes=["cat", HOSTILE, "emu"], preprocess=preprocess, **small),
        "ages": kc.build("resnet20", targets=["age"], preprocess=preprocess, **small),
        "streets": kc.build("resnet20_unet", classes=["road", "sky"], preprocess=preprocess, **small),
    }


@pytest.fixture(scope="module")
def address(nets):
    limits = kc.Limits(megabytes=0.5, seconds=1.0)
    with served(nets, limits=limits, batch_size=4) as address:
        yield address


@pytest.fixture(scope="module")
def photo():
    return encoded(RNG.integers(0, 256, (40, 48, 3)).astype("uint8"))


def test_answers_are_those_of_the_predictor(nets, address, photo, tmp_path):
    (tmp_path / "photo.png").write_bytes(photo)
    for name in nets:
        [right] = kc.predictor(nets[name])(tmp_path / "photo.png")
        status, headers, body = ask(address, "POST", f"/predict/{name}", photo)
        wanted = {key: value for key, value in right.facts().items() if key != "image"}
        assert status == 200 and headers["content-type"] == "application/json"
        told = json.loads(body)
        assert told.keys() == wanted.keys()
        flat = lambda facts: [v for one in keras.tree.flatten(facts) for v in [one]]  # noqa: E731
        for one, other in zip(flat(told), flat(wanted), strict=True):
            assert one == (pytest.approx(other, abs=1e-5) if isinstance(other, float) else other)
    told = json.loads(ask(address, "POST", "/predict/pets?top=1", photo)[2])
    assert len(told["top"]) == 1
    models = json.loads(ask(address, "GET", "/models")[2])
    assert [(one["name"], one["task"]) for one in models] == [
        ("pets", "classification"),
        ("ages", "regression"),
        ("streets", "segmentation"),
    ]
    assert models[0]["classes"] == ["cat", HOSTILE, "emu"]


def test_many_at_once_each_get_their_own_answer(nets, address):
    photos = [encoded(np.full((32, 32, 3), 8 * i, "uint8")) for i in range(24)]
    right = kc.predictor(nets["pets"]).scores(np.stack([np.full((32, 32, 3), 8 * i, "uint8") for i in range(24)]))
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        replies = list(pool.map(lambda one: ask(address, "POST", "/predict/pets", one), photos))
    for (status, _, body), row in zip(replies, right, strict=True):
        best = json.loads(body)["top"][0]
        assert status == 200 and best["probability"] == pytest.approx(float(row.max()), abs=1e-5)


def test_what_waits_is_one_batch_and_more_than_that_is_turned_away():
    """The first is alone; those that come while it is computed are answered together."""
    sizes, go = [], threading.Event()

    def predict(photos, top):
        sizes.append(len(photos))
        go.wait(10)
        return photos

    async def asked():
        first = asyncio.create_task(batcher.answer(lambda: "0", 5))
        while not sizes:
            await asyncio.sleep(0.01)
        later = [asyncio.create_task(batcher.answer(str(i).format, 5)) for i in range(1, 6)]
        await asyncio.sleep(0.1)
        with pytest.raises(intake.Busy, match="too many images are waiting"):
            await batcher.answer(lambda: "6", 5)
        go.set()
        return await asyncio.gather(first, *later)

    predict.batch_size = 8
    with concurrent.futures.ThreadPoolExecutor(2) as decoders:
        batcher = batching.Batcher(predict, decoders, waiting=6)
        assert asyncio.run(asked()) == list("012345") and sizes == [1, 5]
        batcher.close()


def bomb(side: int) -> bytes:
    """A PNG that claims side x side pixels."""
    chunk = lambda kind, data: (  # noqa: E731
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    )
    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("path", "make", "status", "sentence"),
    [
        ("/predict/pets", lambda photo: photo[:200], 422, "the image"),
        ("/predict/pets", lambda photo: b"", 422, "the body is empty"),
        ("/predict/pets", lambda photo: b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "not an image in a known"),
        ("/predict/pets", lambda photo: bomb(20000), 422, "too many pixels"),
        ("/predict/pets", lambda photo: bytes(600_000), 413, "more than 0.5 MB"),
        ("/predict/gone", lambda photo: photo, 404, "there is no model 'gone': there is pets, ages, streets"),
        ("/predict/pets?top=0", lambda photo: photo, 400, "top: give 1 to 1000"),
        ("/explain/pets", lambda photo: photo[:200], 422, "the image"),
        ("/explain/gone", lambda photo: photo, 404, "there is no model 'gone'"),
    ],
)
def test_what_strangers_send_is_refused_with_a_sentence(address, photo, path, make, status, sentence):
    found, headers, body = ask(address, "POST", path, make(photo))
    assert (found, headers["content-type"]) == (status, "application/json")
    assert sentence in json.loads(body)["error"]
    assert ask(address, "POST", "/predict/pets", photo)[0] == 200  # the service goes on


def test_a_slow_sender_is_not_waited_for(address, photo):
    with socket.create_connection(address, 10) as slow:
        slow.sendall(f"POST /predict/pets HTTP/1.1\r\nHost: x\r\nContent-Length: {len(photo)}\r\n\r\n".encode())
        slow.sendall(photo[:10])
        assert ask(address, "POST", "/predict/pets", photo)[0] == 200  # others are answered meanwhile
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_the_answer_reaches_who_is_still_sending(address):
    """A client that closes its connection reads nothing before all is sent, unless it waits for 100 Continue."""
    told = {"Connection": "close"}
    status, _, body = ask(address, "POST", "/predict/pets", bytes(8_000_000), told)
    assert status == 413 and "more than 0.5 MB" in json.loads(body)["error"]
    with socket.create_connection(address, 10) as polite:
        head = "POST /predict/pets HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\nExpect: 100-continue\r\n\r\n"
        polite.sendall(head.encode())
        assert polite.recv(1000).startswith(b"HTTP/1.1 413")


def test_half_a_request_behind_an_answer_is_not_waited_for(address):
    with socket.create_connection(address, 10) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert slow.recv(10_000).startswith(b"HTTP/1.1 200")
        slow.sendall(b"GET /heal")
        answer = b"".join(iter(lambda: slow.recv(1000), b""))  # until the service closes
    assert b"HTTP/1.1 408" in answer and b"no whole request came within 1 s." in answer


def test_who_is_gone_before_it_is_refused_leaves_no_trace(nets, monkeypatch):
    """It sent no HTTP behind a request, read the answer to that, and closed; so the refusal meets a reset."""
    said = []
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "error", lambda *told, **more: said.append(told))
    monkeypatch.setattr(asyncio.selector_events._SelectorSocketTransport, "write_eof", not_connected)
    with served({"pets": nets["pets"]}) as address:
        with socket.create_connection(address, 10) as rude:
            rude.sendall(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n\x00 this is none\r\n\r\n")
            answer = b"".join(iter(lambda: rude.recv(1000), b""))
        assert b" 404 " in answer and b" 400 " in answer
        assert ask(address, "GET", "/health")[0] == 200
    assert not said


def not_connected(transport):
    """What the system says to `write_eof` once the other side has reset."""
    raise OSError(errno.ENOTCONN, "not connected")


def test_pixels_are_bounded(nets, photo):
    with served({"pets": nets["pets"]}, limits=kc.Limits(megapixels=0.0015)) as address:
        status, _, body = ask(address, "POST", "/predict/pets", photo)
    assert status == 422 and "48x40 pixels, and 0.0015 million are taken" in json.loads(body)["error"]


def test_hostile_uploads_get_one_sentence_each(nets, monkeypatch):
    """Each kind of tests/attacks/hostile_uploads.py twice, honest photos between them; nothing is logged."""
    said = []
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "error", lambda *told, **more: said.append(told))
    with served({"net": nets["pets"]}, limits=kc.Limits(seconds=1.0)) as address:
        first = hostile_uploads.honest(address, hostile_uploads.photo(Random("honest")))
        told = {"seed": 3, "jobs": 12, "right": lambda _, answer: answer == first}
        found = hostile_uploads.attack(address, range(2 * len(hostile_uploads.KINDS)), **told)
    assert found.harm == [] and said == [] and first[0] == 200
    wanted = {"silence": "408", "huge headers": "400", "12 MB": "413", "a form": "422", "other verbs": "405"}
    assert all(found.outcomes[name, status] == 2 for name, status in wanted.items())


def dockerfile(path: Path) -> tuple[str, dict[str, str]]:
    """Its text, and the last line of each instruction."""
    text = path.read_text()
    return text, dict(line.split(" ", 1) for line in text.replace("\\\n", " ").splitlines() if line and line[0] != "#")


def test_the_container_for_gpus_is_what_the_package_has(tmp_path):
    """Its TensorFlow is the one that tests have, its command is ours, and what its first lines say is understood."""
    import tomllib

    from typer.main import get_command

    from keras_cnn import cli

    root = Path(__file__).parents[1]
    text, lines = dockerfile(root / "Dockerfile.gpu")
    tensorflow = re.search(r"^tensorflow==([\d.]+)$", (root / "constraints.txt").read_text(), re.M)
    assert lines["FROM"] == f"tensorflow/tensorflow:{tensorflow[1]}-gpu" and lines["USER"] != "root"
    assert json.loads(lines["ENTRYPOINT"]) == list(
        tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    )
    run = next(shlex.split(line[2:]) for line in text.splitlines() if line.startswith("# docker run"))
    verb, *given = run[run.index("keras_cnn:gpu") + 1 :]
    told = get_command(cli.app).commands[verb].make_context(verb, given).params
    assert (told["data"], told["out"]) == ("/runs/photos", "/runs/out")


def test_the_container_is_what_the_package_has():
    """Docker is not needed to see that its lines name what there is."""
    import tomllib

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from typer.main import get_command

    from keras_cnn import cli

    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    text, lines = dockerfile(root / "Dockerfile")
    version = re.fullmatch(r"python:([\d.]+)-slim", lines["FROM"])
    assert version and SpecifierSet(project["requires-python"]).contains(version[1])
    pip = shlex.split(lines["RUN"].split("&&")[0])
    wanted = Requirement(f"{project['name']}{pip[-1].removeprefix('/src')}")
    assert wanted.extras <= project["optional-dependencies"].keys() and "serve" in wanted.extras
    assert (root / pip[pip.index("-c") + 1].removeprefix("/src/")).is_file()
    assert json.loads(lines["ENTRYPOINT"])[0] in project["scripts"] and lines["USER"] != "root"
    run = next(shlex.split(line[2:]) for line in text.splitlines() if line.startswith("# docker run"))
    verb, *given = run[run.index("keras_cnn") + 1 :]
    serve = get_command(cli.app).commands[verb].make_context(verb, given).params
    assert serve["host"] == "0.0.0.0" and serve["models"] == ["/runs/photos"]
    assert lines["EXPOSE"] == str(serve["port"]) and f"127.0.0.1:{serve['port']}/health" in lines["HEALTHCHECK"]


def test_an_address_that_asks_too_often_is_slowed(nets, photo):
    with served(nets["pets"], limits=kc.Limits(rate=0.3)) as address:
        assert [ask(address, "POST", "/predict/resnet20", photo)[0] for _ in range(5)] == [200] * 3 + [429] * 2
        assert ask(address, "GET", "/health")[0] == 200


def test_what_speaks_for_it_is_a_picture_and_all_is_counted(address, photo):
    status, headers, body = ask(address, "POST", "/explain/pets", photo)
    assert (status, headers["content-type"]) == (200, "image/png") and min(Image.open(io.BytesIO(body)).size) > 200
    status, headers, page = ask(address, "GET", "/")
    assert status == 200 and b"page.js" in page and HOSTILE.encode() not in page
    assert "default-src 'none'" in headers["content-security-policy"]
    for path in ("/page.js", "/page.css", "/health"):
        assert ask(address, "GET", path)[0] == 200
    counted = ask(address, "GET", "/metrics")[2].decode()
    assert 'requests_total{path="/explain",status="200"}' in counted and "seconds_bucket" in counted
    interface = json.loads(ask(address, "GET", "/openapi.json")[2])
    assert {"/predict/{name}", "/explain/{name}", "/models", "/health"} == interface["paths"].keys()


def test_the_mask_is_drawn_over_the_photo(nets, address):
    """A gray photo, so that whatever has a colour in the picture is the mask's."""
    gray = np.repeat(RNG.integers(90, 160, (40, 48, 1)), 3, axis=2).astype("uint8")
    told = json.loads(ask(address, "POST", "/predict/streets", encoded(gray))[2])
    assert sum(told["shares"].values()) == pytest.approx(1)
    status, headers, body = ask(address, "POST", "/explain/streets", encoded(gray))
    assert (status, headers["content-type"]) == (200, "image/png")
    pixels = np.asarray(Image.open(io.BytesIO(body)).convert("RGB")).astype(int)
    coloured = np.ptp(pixels, axis=2) > 20
    assert coloured.mean() > 0.05


def test_what_cannot_be_served_is_said_at_once(nets):
    with pytest.raises(BadSpec, match="two models are called 'resnet20'"):
        kc.service([nets["pets"], nets["ages"]])
    with pytest.raises(BadSpec, match="reads sequences"):
        kc.service(kc.build("tcn", input_shape=(8, 1), classes=2))
    with pytest.raises(BadSpec, match="megabytes=0"):
        kc.Limits(megabytes=0)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "%2e", "a\nb", "x?y", 3, None])
def test_names_that_no_address_can_have_are_refused(nets, name):
    """Nobody could ask them."""
    with pytest.raises(BadSpec, match="a model is called"):
        kc.service({name: nets["pets"]})


def test_the_command_serves_until_it_is_told_to_end(nets, photo, tmp_path, run):
    """Who is still sending then is answered before the end."""
    kc.save_pretrained(nets["pets"], tmp_path / "pets")
    command = [sys.executable, "-m", "keras_cnn.cli", "serve", str(tmp_path / "pets"), "--port", "0"]
    head, half = f"POST /predict/pets HTTP/1.1\r\nHost: x\r\nContent-Length: {len(photo)}\r\n\r\n", len(photo) // 2
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            place = line.split()[0].removeprefix("http://").split(":")
            address = place[0], int(place[1])
            code, _, err = run("serve", tmp_path / "pets", "--port", address[1])
            assert (code, "give another --port" in err) == (2, True)
            with socket.create_connection(address, 60) as slow:
                slow.sendall(head.encode() + photo[:half])
                assert ask(address, "POST", "/predict/pets", photo)[0] == 200  # so that the half is there, too
                process.send_signal(signal.SIGTERM)
                with pytest.raises(OSError, match="refused"):
                    while process.poll() is None:  # until it takes no one else
                        socket.create_connection(address, 1).close()
                        time.sleep(0.05)
                slow.sendall(photo[half:])
                reply = b"".join(iter(lambda: slow.recv(10_000), b""))
            assert reply.startswith(b"HTTP/1.1 200") and b'"top"' in reply
            assert process.wait(30) in (0, -signal.SIGTERM, 143)
        finally:
            process.kill()


# A file from elsewhere, let go over the page.
DROP = """
const held = new DataTransfer();
held.items.add(new File([new Uint8Array(arguments[0])], "photo.png", {type: "image/png"}));
const told = {dataTransfer: held, bubbles: true, cancelable: true};
for (const kind of ["dragover", "drop"]) document.getElementById("hint").dispatchEvent(new DragEvent(kind, told));
"""


@pytest.mark.skipif(not (BROWSER and DRIVER and find_spec("selenium")), reason="no Chromium, driver or selenium here")
def test_the_page_in_a_browser(address, photo, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    (tmp_path / "photo.png").write_bytes(photo)
    with browser() as chromium:
        wait = WebDriverWait(chromium, 180)  # heat maps compile first, on a busy machine for a minute
        found = lambda id: chromium.find_element(By.ID, id)  # noqa: E731
        chromium.get("http://{}:{}/".format(*address))
        found("file").send_keys(str(tmp_path / "photo.png"))
        wait.until(lambda _: len(chromium.find_elements(By.CSS_SELECTOR, "#answer li")) == 3)
        shown = [one.text for one in chromium.find_elements(By.CSS_SELECTOR, "#answer .name")]
        assert sorted(shown) == sorted(["cat", HOSTILE, "emu"])  # a class' name is text, whatever it is made of
        wait.until(lambda _: found("why").is_enabled())
        found("why").click()
        wait.until(lambda _: chromium.execute_script("return document.getElementById('picture').naturalWidth > 0"))
        (tmp_path / "bad.png").write_bytes(b"nonsense")
        found("file").send_keys(str(tmp_path / "bad.png"))
        wait.until(lambda _: "not an image" in found("status").text)
        assert not chromium.find_elements(By.CSS_SELECTOR, "#answer li")

        # A phone in the dark, on which a photo is dropped; and the mask over it.
        screen = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        paper = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        light = chromium.execute_script(paper)
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        assert max(chromium.execute_script(paper)) < 64 < 192 < min(light)
        fits = "return [innerWidth, document.documentElement.scrollWidth]"
        Select(found("model")).select_by_value("streets")
        chromium.execute_script(DROP, list(photo))
        wait.until(lambda _: found("answer").text.splitlines()[::2] in (["road", "sky"], ["sky", "road"]))
        assert chromium.execute_script(fits) == [390, 390]
        wait.until(lambda _: found("why").is_enabled())
        chromium.execute_script("arguments[0].click()", found("why"))
        wait.until(lambda _: found("reasons").is_displayed() and found("why").is_enabled())
        assert chromium.execute_script(fits) == [390, 390]
        assert [one["message"] for one in chromium.get_log("browser") if "422" not in one["message"]] == []
