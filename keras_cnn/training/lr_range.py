"""The learning-rate range test."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_cnn import tasks
from keras_cnn.data import Data
from keras_cnn.data.examples import Batches
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.models.assemble import recursion
from keras_cnn.models.fields import known_options
from keras_cnn.tasks import compiled, labelled
from keras_cnn.terminal import progress
from keras_cnn.training.schedules import OneCycle


@dataclass(frozen=True)
class Finding:
    """rates, losses: one a step; losses are smoothed over their neighbours, so that the curve lags neither way."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def index(self) -> int:
        """The step whose rate is suggested: the middle of the fall of the loss to its minimum.

        In the spirit of fastai's `valley`: a rate at which the loss is least is about to be too high, and what lies
        behind it says nothing. The fall is what lies between its first and its last tenth, since a curve may be flat
        for long on either side.
        """
        down = np.array(self.losses[: int(np.argmin(self.losses)) + 1])
        tenth = 0.1 * (down.max() - down[-1])
        begin = int(np.flatnonzero(down >= down.max() - tenth)[-1])
        finish = begin + int(np.flatnonzero(down[begin:] <= down[-1] + tenth)[0])
        return (begin + finish) // 2

    @property
    def suggestion(self) -> float:
        """A rate that trains: a good deal lower than that at which the loss is least."""
        return self.rates[self.index]


@known_options
def lr_find(
    model: Any, data: Any, *, low: float = 1e-6, high: float = 1.0, steps: int = 100, batch_size: int = 32
) -> Finding:
    """Losses at rates that grow from `low` to `high` by equal factors, a batch a step (Smith 2017, 1506.01186).

    A copy is trained, with its own optimiser: the model, the optimiser and their state are not touched.
    model: compiled, with what is to be frozen frozen; an auxiliary classifier learns the same labels. data: `Data`, a
    pair of arrays, or batches (images, labels), gone through again where they are fewer than the steps; batch_size is
    for arrays.
    The test ends early where the loss is four times its best.
    Raises BadSpec for a model that is not compiled, BadData where there is no batch; and both as `fine_tune` does,
    where the loss is the task's, or learns the same labels.
    """
    if not model.compiled:
        raise BadSpec(f"{model.name} is not compiled: its loss and optimiser are what is tested.")
    if labelled.is_array(data):
        raise BadData("images came without labels: give a pair (images, labels).")
    outputs = tasks.of(model).outputs(model) if compiled.learns_labels(model) else None
    copy, shares = _copy(model)
    rates, losses, average, best = [], [], 0.0, math.inf
    batches = itertools.islice(_again(data, batch_size), steps)
    for step, (images, labels) in enumerate(progress(batches, "learning-rate test", steps)):
        if outputs:
            labelled.check_batch(model, (images, labels), outputs, "training", first=step == 0)
        rate = low * (high / low) ** (step / max(steps - 1, 1))
        for optimizer, share in shares:
            optimizer.learning_rate = rate * share
        learnt = _for_all(copy, compiled.as_compiled(model, labels, images))
        loss = float(copy.train_on_batch(images, learnt, return_dict=True)["loss"])
        if not math.isfinite(loss):
            break
        rates.append(rate)
        losses.append(loss)
        average = 0.8 * average + 0.2 * loss
        unbiased = average / (1 - 0.8 ** (step + 1))  # without the pull of the first zero
        best = min(best, unbiased)
        if unbiased > 4 * best:
            break
    if len(losses) < 2:
        raise BadData("the learning-rate test needs two batches with a finite loss: give more data, or a lower start.")
    return Finding(tuple(rates), smoothed(losses))


def smoothed(losses: Sequence[float], width: float = 3.0) -> tuple[float, ...]:
    """Means over neighbouring steps, weighted by a Gaussian of so many steps: a mean over the past alone would show the
    minimum several steps, a factor of the rate, behind its place."""
    values, steps = np.asarray(losses), np.arange(len(losses))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / width) ** 2)
    return tuple((weights @ values / weights.sum(1)).tolist())


def _copy(model: Any) -> tuple[Any, list[tuple[Any, float]]]:
    """(the same network, weights, flags and compilation; its optimisers, each with its share of the rate).

    Where stages have optimisers of their own, their rates keep their proportions: the highest is the one tested.
    """
    with recursion(len(model.layers)):
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
