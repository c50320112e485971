"""The same architectures as other packages have them, for `benchmark` to measure beside ours."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnn.checkpoints.directory import config_of
from keras_cnn.deploy import formats
from keras_cnn.deploy.formats import Runner
from keras_cnn.errors import BadSpec, MissingPackage

Makers = Iterator[tuple[str, Callable[[], Runner]]]  # what to call it, and what gets it ready


def ways(package: str, model: Any, shape: tuple[int, ...]) -> Makers:
    """How another package runs a network of the same architecture, with random weights.

    package: of `RIVALS`. shape: of an image. Raises MissingPackage; BadSpec where it has no such architecture.
    """
    needed, makers = RIVALS[package]
    if missing := next((module for module in needed if importlib.util.find_spec(module) is None), None):
        raise MissingPackage(f"{package} cannot be measured, since {missing} is not installed: pip install {missing}.")
    return makers(model, shape)


def _architecture(model: Any) -> str:
    try:
        return config_of(model).name
    except BadSpec:
        return model.name


def _applications(model: Any, shape: tuple[int, ...]) -> Makers:
    """keras.applications, as its pages say, and under `tf.function`; both without preprocessing."""
    import keras

    make = partial(_application, in_applications(_architecture(model)), shape)
    yield "keras.applications, predict", partial(_predict, make)
    if keras.backend.backend() == "tensorflow":
        yield "keras.applications, tf.function", partial(_function, make)


def in_applications(name: str) -> str:
    """What keras.applications calls an architecture; BadSpec where it has none of that name."""
    import keras

    theirs = {kind.lower(): kind for kind in dir(keras.applications) if kind[0].isupper()}
    plain = re.sub("^(keras|tf)_", "", name.lower())
    plain = re.sub("[_-]", "", re.sub(r"^resnetv2_(\d+)$", r"resnet\1v2", plain))
    if plain not in theirs:
        raise BadSpec(f"keras.applications has no {name}: leave it out.")
    return theirs[plain]


def _application(name: str, shape: tuple[int, ...]) -> Any:
    import keras

    try:
        return getattr(keras.applications, name)(weights=None, input_shape=shape)
    except ValueError as error:  # of a size that it does not take
        raise BadSpec(f"keras.applications.{name}: {error}") from error


def _predict(make: Callable[[], Any]) -> Runner:
    network = make()
    return lambda images: network.predict(images, batch_size=len(images), verbose=0)


def _function(make: Callable[[], Any]) -> Runner:
    import tensorflow as tf

    called: Any = tf.function(partial(make(), training=False), reduce_retracing=True)
    return lambda images: called(tf.constant(images)).numpy()


def _timm(model: Any, shape: tuple[int, ...]) -> Makers:
    """timm, in torch's eager mode, without preprocessing."""
    import timm  # pyright: ignore[reportMissingImports]

    name = _architecture(model)
    if not timm.is_model(name):
        raise BadSpec(f"timm has no {name}: leave it out.")
    yield "timm", partial(_eager, timm, name)


def _eager(timm: Any, name: str) -> Runner:
    import torch  # pyright: ignore[reportMissingImports]

    network = timm.create_model(name).eval()

    def runner(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))).numpy()

    return runner


def _onnxruntime(model: Any, shape: tuple[int, ...]) -> Makers:
    """The network itself, not folded, in a session with onnxruntime's own settings."""
    formats.format_of("onnx", writing=True)
    yield "onnxruntime by hand", partial(_session, model)


def _session(model: Any) -> Runner:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        formats.write(model, path, "onnx")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    return lambda images: np.asarray(session.run(None, {given.name: images})[0])


# The modules that each needs beside Keras, and what gets it ready.
RIVALS: Mapping[str, tuple[tuple[str, ...], Callable[[Any, tuple[int, ...]], Makers]]] = {
    "keras.applications": ((), _applications),
    "timm": (("timm", "torch"), _timm),
    "onnxruntime": ((), _onnxruntime),
}
