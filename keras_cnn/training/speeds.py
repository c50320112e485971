"""How fast training goes here: the pipeline alone, the steps alone, and both together."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import keras

from keras_cnn import tasks
from keras_cnn.building import build
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.data import Data
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.models.fields import known_options
from keras_cnn.terminal import progress
from keras_cnn.training import loop, targets
from keras_cnn.training.precision import building_in

ROUNDS = 3  # turns that the three take, so that a slow spell of the machine hits them all
WARM = 3  # batches before the first turn: graphs are traced, threads begin


class Throughput(NamedTuple):
    """Images a second. pipeline: read, decoded and augmented, nobody learning; step: learnt, of a batch that is there;
    both: learnt as they come. bottleneck: "pipeline" or "step", whichever is slower alone; batch_size: images a step.
    """

    pipeline: float
    step: float
    both: float
    bottleneck: str
    batch_size: int


@known_options
def throughput(model: Any, data: Data, *, seconds: float = 9.0) -> Throughput:
    """Measure what training waits for: `kc.throughput(model, kc.load_data("packed/", model, augment="crop"))`.

    model: a network of this package, with what is to be frozen frozen; a copy learns, by SGD, so that neither its
    weights nor its compilation change. data: `load_data`'s, whose batches and augmentation count; none of its passes
    is used up. seconds: of measuring in all, in three turns of each.
    Where the pipeline is the bottleneck, pack the data at a smaller size (`pack`), or augment less; where the step is,
    no data will help. On a processor both share its cores, so that together they are slower than either.
    Raises BadData without training images; BadSpec for a time that is no time.
    """
    if not seconds > 0:
        raise BadSpec(f"seconds={seconds!r}: give a time to measure for, above 0.")
    if data.splits.train is None:
        raise BadData("there are no training images to measure with.")
    with building_in(model.dtype_policy.name):
        copy, task = build(config_of(model)), tasks.of(model)
    for layer, original in zip(copy.layers, model.layers, strict=True):
        layer.trainable = original.trainable
    loop.compile_(copy, keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True))
    # A copy, with a count of passes of its own: what is read ahead in the background outlives this call.
    stream = iter(targets.targets(copy, replace(data).train.repeat(), task))
    batch = next(stream)
    ways: dict[str, Callable[[], int]] = {
        "pipeline": lambda: len(next(stream)[0]),
        "step": lambda: _learn(copy, batch),
        "both": lambda: _learn(copy, next(stream)),
    }
    for way in ways.values():
        for _ in range(WARM):
            way()
    rates: dict[str, list[float]] = {name: [] for name in ways}
    turns = list(itertools.product(range(ROUNDS), ways))
    for _, name in progress(turns, "measuring"):
        rates[name].append(_rate(ways[name], seconds / len(turns)))
    pipeline, step, both = (statistics.median(some) for some in rates.values())
    return Throughput(pipeline, step, both, "pipeline" if pipeline < step else "step", data.batch_size)


def _learn(model: Any, batch: tuple[Any, Any]) -> int:
    model.train_on_batch(*batch)
    return len(batch[0])


def _rate(way: Callable[[], int], seconds: float) -> float:
    """Images a second, over so long a time at least."""
    begun, images = time.perf_counter(), 0
    while (taken := time.perf_counter() - begun) < seconds or not images:
        images += way()
    return images / taken
