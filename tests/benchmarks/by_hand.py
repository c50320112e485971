"""Whether engines are as fast here as their runtimes are by hand, on the same file.

    python tests/benchmarks/by_hand.py [--networks resnet50 ...] [--batches 1 32] [--calls 12 5]

By hand is what each runtime's first page of documentation says, with as many threads as there are cores. Both sides
take turns, call by call; figures are the ratios of their medians, and of their fastest calls, which tell more where
other programs run; above 1 the engine is faster. All in float32.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import keras_cnn as kc
from keras_cnn import runtime
from keras_cnn.deploy import engines, formats

NETWORKS = ("resnet50", "efficientnet_b0", "inception_v3")


def openvino(path: Path):
    ov = formats.untold("openvino")
    compiled = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: compiled(images)[0]


def onnx(path: Path):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def litert(path: Path):
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path), num_threads=runtime.cores())
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(images):
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(given, images.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given, images)
        interpreter.invoke()
        return interpreter.get_tensor(made)

    return run


def seconds(run, images: np.ndarray) -> float:
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--networks", nargs="+", default=NETWORKS)
    arguments.add_argument("--batches", nargs="+", type=int, default=(1, 32))
    arguments.add_argument("--calls", nargs="+", type=int, default=(12, 5), help="of each side, for each batch")
    told = arguments.parse_args()
    start = time.perf_counter()
    print(f"{engines.processor()}, {runtime.cores()} threads")
    for name in told.networks:
        network = engines.for_prediction(kc.build(name))
        noise = np.random.default_rng(0).integers(0, 256, (max(told.batches), *network.input_shape[1:]))
        for engine, by_hand in {"openvino": openvino, "onnx": onnx, "litert": litert}.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"network{formats.FORMATS[engine].suffix}"
                formats.write(network, path, engine)
                sides = formats.run(path, engine), by_hand(path)
                for batch, calls in zip(told.batches, told.calls, strict=True):
                    images = noise[:batch].astype("float32")
                    np.testing.assert_allclose(sides[0](images), sides[1](images), rtol=1e-3, atol=1e-5)
                    rows = [[seconds(side, images) for side in sides] for _ in range(calls)]
                    (ours, theirs), (best, best_by_hand) = np.median(rows, axis=0), np.min(rows, axis=0)
                    what = f"{name:16} {engine:9} {batch:3} at once: {1e3 * ours:8.1f} ms, by hand {1e3 * theirs:8.1f}"
                    print(f"{what}: {theirs / ours:.2f}; by the fastest calls {best_by_hand / best:.2f}", flush=True)
    print(f"{told.calls} calls of each side; {time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
