"""Files that other runtimes read: how a network is written to each, and how it is run from there."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from keras_cnn import runtime
from keras_cnn.errors import BadSpec, MissingPackage
from keras_cnn.models.fields import one_of

Runner = Callable[[np.ndarray], np.ndarray]  # images (n, ...) in, the network's first output (n, ...) out, float32
# What runtimes say of an operation that they lack: onnxruntime, LiteRT, OpenVINO.
LACKING = re.compile(r"No Op registered for (\w+)|'tf\.(\w+)' op is neither|rule found for operations: (\w+)")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Running:
    """A network that an engine runs, with as much of a Keras model's interface as prediction needs."""

    name: str
    input_shape: tuple[Any, ...]
    output_shape: tuple[Any, ...]
    predict_on_batch: Runner
    engine: str
    precision: str


@dataclass(frozen=True)
class Format:
    """A kind of file.

    suffix: of its name; none for a folder. keras: what `keras.Model.export` calls it. writing, running: the modules
    that each needs, beside TensorFlow. extra: what brings them, as in `pip install "keras-cnn[onnx]"`.
    run: from a file, the number of threads and a precision to what runs it. precisions: of the arithmetic, the same
    file serves all.
    """

    suffix: str
    keras: str
    writing: tuple[str, ...]
    running: tuple[str, ...]
    extra: str
    run: Callable[[Path, int, str], Runner]
    precisions: tuple[str, ...] = ("float32",)

    def missing(self, writing: bool = False) -> str | None:
        """The first module that is needed and not installed."""
        needed = (*self.running, *(self.writing if writing else ()))
        return next((name for name in needed if importlib.util.find_spec(name) is None), None)


def format_of(name: str, writing: bool = False) -> Format:
    """A row of `FORMATS`. Raises MissingPackage where what runs it, or also what writes it, is not installed."""
    one_of("format", name, tuple(FORMATS))
    if missing := FORMATS[name].missing(writing):
        raise MissingPackage(f'{name} needs {missing}: pip install "keras-cnn[{FORMATS[name].extra}]".')
    return FORMATS[name]


def write(network: Any, path: str | os.PathLike[str], name: str, batch: int | None = None) -> None:
    """Write a functional model of one input and one output, which has no training left in it, to a file or folder.

    batch: images that it is to take at once, by default any number.
    """
    kind = format_of(name, writing=True)
    from keras import InputSpec

    [given] = network.inputs
    network(np.zeros((1, *(side or 32 for side in given.shape[1:])), "float32"))  # Keras exports what was called once
    signature = [InputSpec(shape=(batch, *given.shape[1:]), dtype="float32", name="input")]
    with quiet():
        if name == "openvino":
            untold("openvino")
        network.export(str(path), format=kind.keras, verbose=False, input_signature=signature)


def run(
    path: str | os.PathLike[str],
    name: str,
    precision: str = "float32",
    threads: int | None = None,
    batch: int | None = None,
) -> Runner:
    """What runs a file of `write`. precision: of its arithmetic. threads: by default one for each core. batch: as it
    was written; any number of images is taken then too.

    Safe to call from several threads. Raises MissingPackage; BadSpec for a precision that the runtime has not.
    """
    kind = format_of(name)
    if precision not in kind.precisions:
        raise BadSpec(f"precision={precision!r}: {name} computes in {' or '.join(kind.precisions)}.")
    with quiet():
        runner = kind.run(Path(path), threads or runtime.cores(), precision)
    return runner if batch is None else _in_batches(runner, batch)


def lacking(name: str, network: Any, error: Exception) -> str:
    """Why a runtime cannot run a network: the layer whose operation it lacks, else its own first line."""
    said = str(error).strip() or type(error).__name__
    operation = next((found[found.lastindex or 0] for found in LACKING.finditer(said)), None)
    layer = _layer_of(network, operation) if operation else None
    if layer is None:
        return f"{name} cannot run {network.name}: {said.splitlines()[0][:300]}"
    what = f"its layer {layer.name} ({type(layer).__name__}) needs {operation}, which {name} has not."
    return f"{name} cannot run {network.name}: {what}"


def _layer_of(network: Any, operation: str) -> Any:
    """The layer that an operation of TensorFlow belongs to, None where it cannot be told."""
    import tensorflow as tf

    called: Any = tf.function(network)
    graph = called.get_concrete_function(tf.TensorSpec(network.inputs[0].shape, "float32")).graph
    names = "\n".join(one.name for one in graph.get_operations() if one.type == operation)
    within = (layer for layer in network.layers if re.search(rf"/{re.escape(layer.name)}(_\d+)?/", names))
    return next(within, None)


def _in_batches(run: Runner, batch: int) -> Runner:
    """What takes any number of images, of what takes so many at once; the last ones are filled up with zeros."""

    def runner(images: np.ndarray) -> np.ndarray:
        filled = np.zeros((-(-len(images) // batch) * batch, *images.shape[1:]), "float32")
        filled[: len(images)] = images
        return np.concatenate([run(some) for some in np.split(filled, len(filled) // batch)])[: len(images)]

    return runner


def hashed(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files, by their paths below a folder."""
    hashes = {}
    for name in names:
        with (folder / name).open("rb") as content:
            hashes[name] = hashlib.file_digest(content, "sha256").hexdigest()
    return hashes


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say of their own ways."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# --- runtimes ---------------------------------------------------------------------------------------------------------


def _savedmodel(path: Path, threads: int, precision: str) -> Runner:
    """threads: TensorFlow has one pool for the whole process, which `runtime` sets before it starts."""
    import tensorflow as tf

    loaded: Any = tf.saved_model.load(str(path))  # whose variables live as long as it does
    return lambda images: loaded.serve(tf.constant(_floats(images))).numpy()


def _onnx(path: Path, threads: int, precision: str) -> Runner:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    return lambda images: np.asarray(session.run(None, {given.name: _floats(images)})[0])


def _openvino(path: Path, threads: int, precision: str) -> Runner:
    openvino = untold("openvino")
    told = {
        "PERFORMANCE_HINT": "LATENCY",  # all cores work at one batch
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", told)
    mine = threading.local()  # a request serves one thread at a time

    def runner(images: np.ndarray) -> np.ndarray:
        if not hasattr(mine, "request"):
            mine.request = compiled.create_infer_request()
        return np.array(mine.request.infer([_floats(images)])[0], "float32")  # the request writes there again

    return runner


def untold(module: str) -> Any:
    """OpenVINO, or NNCF, without the package by which it would report imports and conversions to its makers."""
    name = "openvino_telemetry"
    missing = object()
    before = sys.modules.get(name, missing)
    sys.modules[name] = cast(Any, None)  # whoever imports it finds that it is not there, which both allow for
    try:
        return importlib.import_module(module)
    finally:
        del sys.modules[name]
        if before is not missing:
            sys.modules[name] = cast(Any, before)


def _litert(path: Path, threads: int, precision: str) -> Runner:
    import tensorflow as tf

    lite: Any = tf.lite
    interpreter = lite.Interpreter(str(path), num_threads=threads)
    [given], [made] = interpreter.get_input_details(), interpreter.get_output_details()
    held, shape = threading.Lock(), None

    def runner(images: np.ndarray) -> np.ndarray:
        nonlocal shape
        with held:
            if images.shape != shape:
                interpreter.resize_tensor_input(given["index"], images.shape)
                interpreter.allocate_tensors()
                shape = images.shape
            interpreter.set_tensor(given["index"], _floats(images))
            interpreter.invoke()
            return interpreter.get_tensor(made["index"])

    return runner


def _floats(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images, "float32")


FORMATS: Mapping[str, Format] = {
    "savedmodel": Format("", "tf_saved_model", (), (), "", _savedmodel),
    "onnx": Format(".onnx", "onnx", ("tf2onnx", "onnx"), ("onnxruntime",), "onnx", _onnx),
    "openvino": Format(".xml", "openvino", ("openvino",), ("openvino",), "openvino", _openvino, PRECISIONS),
    "litert": Format(".tflite", "litert", (), (), "", _litert),
}
