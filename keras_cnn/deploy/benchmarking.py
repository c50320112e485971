"""How fast networks answer here: engines and precisions side by side, measured in turns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from keras_cnn import runtime
from keras_cnn.building import build
from keras_cnn.deploy import engines, rivals
from keras_cnn.deploy.formats import FORMATS, PRECISIONS, Runner
from keras_cnn.deploy.opened import is_exported, opened
from keras_cnn.errors import BadSpec
from keras_cnn.insight.costs import profile
from keras_cnn.models import shapes
from keras_cnn.models.fields import known_options, one_of
from keras_cnn.terminal import progress

PREDICT = "model.predict"  # the network as it is, in Keras' own loop: what the others are measured against
ROUNDS = 3  # turns that the engines take, so that a slow spell of the machine hits them all


class Speed(NamedTuple):
    """How fast a network answers.

    batch: images at once. median, p95: seconds for a batch. rate: images a second. ratio: times as fast as Keras'
    model.predict on the same batch. ready: seconds until the first answer, conversion included, TensorFlow's import
    not. share: of the floating-point operations a second that a product of matrices reached on this machine meanwhile.
    macs: multiply-accumulates of one image, of the network as `profile` counts them. peak_mb: MiB by which the memory
    of this process stood at its highest above what it was before, while the engine was got ready and answered the
    largest of the batches once. What one engine leaves may serve the next, so that only large differences say
    something; None where the system does not tell.
    """

    network: str
    engine: str
    precision: str
    batch: int
    median: float
    p95: float
    rate: float
    ratio: float
    ready: float
    share: float
    macs: int
    peak_mb: float | None


@known_options
def benchmark(
    models: Any,
    *,
    engine: str | Iterable[str] = (),
    batches: Sequence[int] = (1, 32),
    seconds: float = 3.0,
    bfloat16: bool = True,
    vs: str | Iterable[str] = (),
) -> list[Speed]:
    """Measure how fast networks answer on this machine: `kc.benchmark(["resnet50", "runs/photos"])`.

    models: one or several: names, weights directories, or any functional Keras models of one input. Random weights
        are as fast as trained ones. Where a network takes any size, it sees 97 pixels. A file that `export` or
        `quantize` wrote is measured beside the network that it is of, under the file's precision.
    engine: which to measure; by default all that are installed. Keras' model.predict is measured with them.
    batches: numbers of images at once. seconds: of measuring for each, in three turns.
    bfloat16: measure OpenVINO in bfloat16 too, whose answers are not the same to the digit.
    vs: other packages to measure beside, with random weights and by the architecture's name: "keras.applications", by
        its `predict` and under `tf.function`; "timm", by torch; "onnxruntime", by hand on the network as it is. None of
        the first two includes preprocessing, which ours do.
    Raises BadSpec for an engine that there is not, and where a package has no such architecture; MissingPackage for
    what is not installed.
    """
    names = [engine] if isinstance(engine, str) else list(engine)
    for name in names:
        one_of("engine", name, engines.ENGINES)
    others = [vs] if isinstance(vs, str) else list(vs)
    for name in others:
        one_of("vs", name, tuple(rivals.RIVALS))
    if not batches or min(batches) < 1:
        raise BadSpec(f"batches={tuple(batches)!r}: give numbers of images, from 1.")
    several = models if isinstance(models, list | tuple) else [models]
    return [row for model in several for row in _measured(model, names, batches, seconds, bfloat16, others)]


def _measured(
    model: Any, names: list[str], batches: Sequence[int], seconds: float, bfloat16: bool, others: list[str]
) -> list[Speed]:
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else model.name
    file = opened(model) if is_exported(model) else None
    model = file.blank if file else build(model) if isinstance(model, str | os.PathLike) else model
    shape = tuple(side or engines.SIDE for side in model.inputs[0].shape[1:])
    macs = shapes.macs([row for stage in profile(model, shape).values() for row in stage])
    noise = np.random.default_rng(0).integers(0, 256, (max(batches), *shape)).astype("float32")
    runners, ready, memory = {}, {}, {}
    ways: dict[tuple[str, str], Callable[[], Runner]] = {
        one: partial(_runner, model, *one) for one in _ways(names, bfloat16)
    }
    if file:
        ways[file.format, f"{file.kind} file"] = lambda: file.run().predict_on_batch
    for package in others:
        ways |= {(what, "float32"): make for what, make in rivals.ways(package, model, shape)}
    for one, make in progress(ways.items(), f"preparing {name}"):
        (runners[one], ready[one]), memory[one] = runtime.growth(partial(_begun, make, noise, min(batches)))
    times: dict[tuple[str, str, int], list[float]] = {}
    peak = 0.0
    for _ in progress(range(ROUNDS), f"measuring {name}"):
        peak = max(peak, _peak())
        for batch in batches:
            for one, runner in runners.items():
                times.setdefault((*one, batch), []).extend(engines.measure(runner, noise[:batch], seconds / ROUNDS))
    rows = []
    for (engine, precision, batch), taken in times.items():
        median = float(np.median(taken))
        base = float(np.median(times[PREDICT, "float32", batch]))
        share = 2 * macs * batch / median / peak
        p95 = float(np.quantile(taken, 0.95))
        rate, ratio = batch / median, base / median
        one = engine, precision
        facts = {"ready": ready[one], "share": share, "macs": macs, "peak_mb": memory[one]}
        rows.append(Speed(name, *one, batch, median, p95, rate, ratio, **facts))
    return sorted(rows, key=lambda row: (row.batch, row.median))


def _begun(make: Callable[[], Runner], noise: np.ndarray, least: int) -> tuple[Runner, float]:
    """(what runs, and the seconds until its first answer); it has answered all of the noise at once, too."""
    start = time.perf_counter()
    runner = make()
    runner(noise[:least])
    ready = time.perf_counter() - start
    runner(noise)
    return runner, ready


def _ways(names: list[str], bfloat16: bool) -> Iterator[tuple[str, str]]:
    """(engine, precision) of all that is measured."""
    yield PREDICT, "float32"
    for name in names or engines.installed():
        precisions = FORMATS[name].precisions if name in FORMATS else PRECISIONS[:1]
        yield from ((name, precision) for precision in precisions if bfloat16 or precision == PRECISIONS[0])


def _runner(model: Any, engine: str, precision: str) -> Runner:
    if engine == PREDICT:
        return lambda images: model.predict(images, batch_size=len(images), verbose=0)
    return engines.running(model, engine, precision).predict_on_batch


def _peak(side: int = 1024) -> float:
    """Floating-point operations a second of a product of float32 matrices."""
    a = np.random.default_rng(0).normal(size=(side, side)).astype("float32")
    return 2 * side**3 / min(engines.measure(lambda b: b @ b, a, 0.1))
