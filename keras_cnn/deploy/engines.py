"""What runs a network at prediction: Keras, TensorFlow's graph, or another runtime; and which of them is fastest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnn import files, runtime
from keras_cnn.deploy import formats
from keras_cnn.deploy.fold import SIDE, fold
from keras_cnn.deploy.formats import FORMATS, Runner, Running
from keras_cnn.deploy.opened import File
from keras_cnn.errors import BadSpec, KerasCnnError
from keras_cnn.models.assemble import recursion
from keras_cnn.models.fields import one_of
from keras_cnn.terminal import progress

SECONDS = 1.0  # of measuring, for each engine
CHOICES = "engines.json"
PACKAGES = ("openvino", "onnxruntime")


def for_prediction(model: Any) -> Any:
    """A copy of a functional model for prediction: its first output alone, batch norms folded into convolutions."""
    import keras

    with recursion(len(model.layers)):
        main = keras.Model(model.input, model.outputs[0], name=model.name) if model.outputs[1:] else model
    return fold(main)


def running(
    model: Any, engine: str = "keras", precision: str = "float32", threads: int | None = None, batch: int = 32
) -> Running:
    """A functional model as an engine runs it: its first output, folded, computed apart from the model itself.

    An exported file is run by its own runtime.
    engine: one of `ENGINES`, or "auto": the `fastest`, in batches of `batch`. precision: of the arithmetic, which
    OpenVINO alone can lower. threads: of those engines that are not TensorFlow; by default one for each core.
    Raises MissingPackage where the engine is not installed, BadSpec where it lacks what a layer needs.
    """
    one_of("engine", engine, ("auto", *ENGINES))
    one_of("precision", precision, formats.PRECISIONS)
    if isinstance(model, File):
        return model.run(engine, precision, threads)
    network = for_prediction(model)
    if engine == "auto":
        engine = "openvino" if precision != "float32" else fastest(network, batch)
    shapes = network.inputs[0].shape, network.outputs[0].shape
    return Running(model.name, *shapes, runner(engine, network, precision, threads), engine, precision)


def as_it_is(model: Any) -> Any:
    """What answers as a functional model itself does, its batch norms not folded: the model, or, where oneDNN is
    switched on for AVX2, its graph of constants; see `_by_constants`."""
    if not _by_constants():
        return model
    shapes = model.inputs[0].shape, model.outputs[0].shape
    return Running(model.name, *shapes, _graph(model), "keras", "float32")


def runner(name: str, network: Any, precision: str = "float32", threads: int | None = None) -> Runner:
    """What answers batches of images with a network of `for_prediction`, float32 out."""
    if name in IN_PROCESS:
        if precision != "float32":
            raise BadSpec(f"precision={precision!r}: {name} computes in float32; openvino in bfloat16 too.")
        return IN_PROCESS[name](network)
    with tempfile.TemporaryDirectory() as folder:  # what was read may go
        path = Path(folder) / f"network{FORMATS[name].suffix}"
        try:
            formats.write(network, path, name)
            return formats.run(path, name, precision, threads)
        except KerasCnnError:
            raise
        except Exception as error:  # each tool has its own
            raise BadSpec(f"{formats.lacking(name, network, error)} Try another engine.") from error


def fastest(network: Any, batch: int) -> str:
    """The engine that answers most images a second here, in float32 and in batches of this size.

    All that are installed are got ready and measured for a second, and the choice is kept in `files.cache_folder()`, by
    the network's layers and shapes, the batch, the processor and the engines' releases: only the first time takes long.
    """
    place, key = files.cache_folder() / CHOICES, _key(network, batch)
    try:
        known = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or damaged: it is measured anew
        known = {}
    if isinstance(known, dict) and known.get(key) in installed():
        return known[key]
    shape = tuple(side or SIDE for side in network.inputs[0].shape[1:])
    noise = np.random.default_rng(0).integers(0, 256, (batch, *shape)).astype("float32")
    times = {}
    for name in progress(installed(), f"looking for the fastest engine for {network.name}"):
        try:
            times[name] = float(np.median(measure(runner(name, network), noise)))
        except Exception:  # what a runtime lacks is for who asks for it by name
            if name == "keras":
                raise
    choice = min(times, key=times.__getitem__)
    kept = {**known, key: choice} if isinstance(known, dict) else {key: choice}
    with contextlib.suppress(OSError):  # a folder that cannot be written costs the measuring, each time
        files.write_text(place, json.dumps(kept, indent=1) + "\n")
    return choice


def _key(network: Any, batch: int) -> str:
    """What a choice depends on, as a hash."""
    layers = [(type(layer).__name__, str(layer.output.shape)) for layer in network.layers]
    releases = [version(package) for package in ("tensorflow", "keras", *PACKAGES) if find_spec(package)]
    facts = [layers, batch, processor(), runtime.cores(), installed(), releases]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def installed() -> list[str]:
    """Engines that can be used here."""
    import keras

    there = keras.backend.backend() == "tensorflow"
    return [
        name
        for name in ENGINES
        if name == "keras" or (there and (name in IN_PROCESS or not FORMATS[name].missing(writing=True)))
    ]


def measure(runner: Runner, images: np.ndarray, seconds: float | None = None) -> list[float]:
    """The seconds that each of some calls took, after a first one that is not counted; three at least."""
    seconds = SECONDS if seconds is None else seconds
    runner(images)
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        runner(images)
        times.append(time.perf_counter() - before)
    return times


def processor() -> str:
    """The processor's own name, as the system has it."""
    try:
        with open(runtime.CPUINFO) as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _keras(network: Any) -> Runner:
    """As Keras has it; or by the graph of constants, to the same answers."""
    if _by_constants():
        return _graph(network)
    return lambda images: np.asarray(network.predict_on_batch(images), "float32")


def _by_constants() -> bool:
    """Whether kernels had better be constants: where oneDNN is switched on for AVX2, it lays out those that are
    variables anew for every batch, which takes longer than it saves where a batch is small."""
    import keras

    return keras.backend.backend() == "tensorflow" and runtime.forced_onednn()


def _graph(network: Any) -> Runner:
    """The network as one graph, which TensorFlow may simplify as a whole; its own variables as constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (  # pyright: ignore[reportMissingImports]
        convert_variables_to_constants_v2 as frozen,
    )

    signature = tf.TensorSpec(network.inputs[0].shape, "float32")
    called: Any = tf.function(partial(network, training=False), reduce_retracing=True)
    constant = frozen(called.get_concrete_function(signature))
    return lambda images: constant(tf.constant(images, "float32"))[0].numpy()


IN_PROCESS: Mapping[str, Callable[[Any], Runner]] = {"keras": _keras, "tensorflow": _graph}
ENGINES = (*IN_PROCESS, "openvino", "onnx", "litert")
