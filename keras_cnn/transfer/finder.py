"""The learning-rate range test."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_cnn.bars import progress
from keras_cnn.checks import known_options
from keras_cnn.data import Data
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.recipe import OneCycle
from keras_cnn.transfer.examples import Batches


@dataclass(frozen=True)
class Finding:
    """rates, losses (smoothed): one a step. suggestion: the rate at which the loss falls fastest."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def suggestion(self) -> float:
        fall = np.gradient(self.losses, np.log(self.rates))
        return self.rates[int(np.argmin(fall))]


@known_options
def lr_find(
    model: Any, data: Any, *, low: float = 1e-6, high: float = 1.0, steps: int = 100, batch_size: int = 32
) -> Finding:
    """Losses at rates that grow from `low` to `high` by equal factors, a batch a step (Smith 2017, 1506.01186).

    A copy is trained, with its own optimiser: the model, the optimiser and their state are not touched.
    model: compiled, with what is to be frozen frozen; an auxiliary classifier learns the same labels. data: `Data`, a
    pair of arrays, or batches (images, labels), gone through again where they are fewer than the steps.
    The test ends early where the loss is four times its best.
    Raises BadSpec for a model that is not compiled, BadData where there is no batch.
    """
    if not model.compiled:
        raise BadSpec(f"{model.name} is not compiled: its loss and optimiser are what is tested.")
    copy, shares = _copy(model)
    finding_rates, losses, average = [], [], 0.0
    batches = itertools.islice(_again(data, batch_size), steps)
    for step, (images, labels) in enumerate(progress(batches, "learning-rate test", steps)):
        rate = low * (high / low) ** (step / max(steps - 1, 1))
        for optimizer, share in shares:
            optimizer.learning_rate = rate * share
        loss = float(copy.train_on_batch(images, _for_all(copy, labels), return_dict=True)["loss"])
        if not math.isfinite(loss):
            break
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        finding_rates.append(rate)
        losses.append(average / (1 - SMOOTHING ** (step + 1)))  # without the pull of the first zero
        if losses[-1] > 4 * min(losses):
            break
    if len(losses) < 2:
        raise BadData("the learning-rate test needs two batches with a finite loss: give more data, or a lower start.")
    return Finding(tuple(finding_rates), tuple(losses))


SMOOTHING = 0.9


def _copy(model: Any) -> tuple[Any, list[tuple[Any, float]]]:
    """(the same network, weights, flags and compilation; its optimisers, each with its share of the rate).

    Where stages have optimisers of their own, their rates keep their proportions: the highest is the one tested.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer, original in zip(copy.layers, model.layers, strict=True):
        layer.trainable = original.trainable
    settings = model.get_compile_config()
    settings["optimizer"] = _constant(settings["optimizer"])
    copy.compile_from_config(settings)
    optimizer = getattr(copy.optimizer, "inner_optimizer", copy.optimizer)  # mixed_float16 wraps what was compiled
    optimizers = getattr(optimizer, "optimizers", [optimizer])
    rates = [float(optimizer.learning_rate) for optimizer in optimizers]
    return copy, [(optimizer, rate / max(rates)) for optimizer, rate in zip(optimizers, rates, strict=True)]


def _constant(settings: Any) -> Any:
    """An optimiser's configuration, or one of several, with a constant rate in place of each schedule."""
    if not isinstance(settings, dict):
        return settings
    settings = {key: _constant(value) for key, value in settings.items()}
    rate = settings.get("learning_rate")
    if isinstance(rate, dict):
        schedule: Any = keras.saving.deserialize_keras_object(rate)
        settings["learning_rate"] = schedule.peak if isinstance(schedule, OneCycle) else float(schedule(0))
    return settings


def _for_all(model: Any, labels: Any) -> Any:
    """Labels for each output, unless there are as many already."""
    outputs = len(model.outputs)
    return labels if outputs == 1 or isinstance(labels, tuple | list | dict) else (labels,) * outputs


def _again(data: Any, batch_size: int) -> Iterator[tuple[Any, Any]]:
    """Batches, from the start again when they end."""
    batches: Iterable[Any] = data.train if isinstance(data, Data) else data
    if isinstance(data, tuple):
        batches = Batches(*data, size=batch_size)
    while True:
        count = 0
        for count, batch in enumerate(batches, 1):  # noqa: B007
            yield batch
        if not count:
            return
