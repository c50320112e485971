"""Shared by all tests: quiet TensorFlow, where the real data is, a fixed seed, and no way to the real hub."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The client of the hub reads these when it is imported. No test needs the network, or touches a person's cache.
os.environ |= dict.fromkeys(("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"), "1")
os.environ |= {"HF_HOME": tempfile.mkdtemp(prefix="keras_cnn_tests_"), "HF_ENDPOINT": "http://127.0.0.1:9"}
os.environ["KERAS_CNN_CACHE"] = tempfile.mkdtemp(prefix="keras_cnn_features_")
for _name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "KERAS_CNN_HUB"):
    os.environ.pop(_name, None)

SHARED = Path(__file__).parents[1] / "shared"
if not SHARED.is_dir():
    SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """Real images and checkpoints beside the checkout; tests that need them skip where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder shared/ with real images and checkpoints is not here")
    return SHARED


@cache
def _keras():
    """Keras, once; what importing it made stays, and the garbage collector need not look at it again and again."""
    import keras

    gc.collect()
    gc.freeze()
    return keras


@pytest.fixture(autouse=True)
def _seed(request) -> None:
    if not request.node.get_closest_marker("no_keras"):
        _keras().utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _forget_graphs():
    yield
    _forget()


@pytest.fixture(autouse=True)
def _forget_large_graphs(request):
    """Not after every test: the garbage collection would cost more than most of them."""
    yield
    if request.node.get_closest_marker("large_graphs"):
        _forget()


def _forget() -> None:
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs rights that are not here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def precision():
    """Sets Keras' policy for one test."""
    import keras

    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def two_outputs():
    """A network of 2 classes with an auxiliary classifier, for images (16, 16, 3): Inception v3 needs 299 pixels."""
    from keras import Input, Model, layers

    image = Input((16, 16, 3), name="stem_image")
    x = layers.Conv2D(8, 3, 2, activation="relu", name="stem_conv")(layers.Rescaling(1 / 255, name="stem_scale")(image))
    aux = layers.Dense(2, "softmax", name="aux_logits")(layers.GlobalAveragePooling2D(name="aux_pool")(x))
    x = layers.Conv2D(8, 3, activation="relu", name="stage1_conv")(x)
    head = layers.Dense(2, "softmax", name="head_logits")(layers.GlobalAveragePooling2D(name="head_pool")(x))
    return Model(image, [head, aux], name="two_outputs")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        from keras_cnn import cli

        monkeypatch.setattr(sys, "argv", ["keras-cnn", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stopped:
            code = stopped.code or 0
        return (int(code), *capsys.readouterr())

    return call


# --- the hub; test_hub_server.py has its own ------------------------------------------------------------------------


@pytest.fixture
def hub():
    from hub_server import Hub

    with Hub(tokens={"hf_me": "me", "hf_you": "you"}) as hub:
        yield hub


@pytest.fixture
def home(hub, tmp_path, monkeypatch) -> Path:
    """The folder of the client, which talks to the loopback hub."""
    from huggingface_hub import constants

    home = tmp_path / "home"
    settings = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    return home


@pytest.fixture
def net(hub, home) -> str:
    """The commit of a small network of ours, me/net on the hub."""
    from repositories import ours

    return hub.create("me/net", ours())


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long pauses between attempts would have been."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited
