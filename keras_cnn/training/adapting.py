"""What a network keeps of the data that it learns: names, the window of its images, statistics of its values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

from keras_cnn import tasks
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.data import Data
from keras_cnn.data.training_set import TrainingSet
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.models.config import keep_window, record_of
from keras_cnn.models.layers import Standardise

Statistics = tuple[np.ndarray, np.ndarray]  # mean and spread of each channel


def adapt(model: Any, given: TrainingSet) -> None:
    """Let a network remember how images of more than 8 bits were seen, and the names of classes where it has none; and
    give the layers that standardise what they need to know of the training data.

    Those that know it already, as of pretrained weights, keep it: what stands on them was learnt with it.
    """
    if isinstance(given.train, Data):
        keep_window(model, given.train.preprocess.window)
    _keep_names(model, given.class_names)
    layers = [layer for layer in model.layers if isinstance(layer, Standardise) and _fresh(layer)]
    if not layers:
        return
    task, width = tasks.of(model), model.outputs[0].shape[-1]
    labels = None if task.data is None else given.labels()
    for layer in layers:
        if not layer.inverse:
            found = statistics(inputs for inputs, _ in given.plain())
        elif labels is not None:
            found = statistics([task.targets(labels, width, None)])
        else:
            found = statistics(task.targets(truth, width, inputs) for inputs, truth in given.plain())
        if not all(np.isfinite(part).all() for part in found):
            raise BadData("the training data has values that are not finite numbers: leave them out, or mend them.")
        mean, std = found
        layer.mean.assign(mean.astype("float32"))
        layer.std.assign(np.where(std > 0, std, 1).astype("float32"))  # a channel that never changes stays as it is


def _keep_names(model: Any, names: tuple[str, ...]) -> None:
    with contextlib.suppress(BadSpec):  # of another make
        config = config_of(model)
        if not config.class_names and len(names) == config.head.names:
            record_of(model)["class_names"] = list(names)


def statistics(batches: Iterable[Any]) -> Statistics:
    """Mean and spread of the last axis over all others of all batches, in float64 (Chan et al. 1983)."""
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for batch in batches:
        values = np.asarray(batch, "float64")
        values = values.reshape(-1, values.shape[-1])
        more, its_mean = len(values), values.mean(0)
        apart, both = its_mean - mean, count + more
        squares = squares + ((values - its_mean) ** 2).sum(0) + apart**2 * count * more / both
        mean, count = mean + apart * more / both, both
    return mean, np.sqrt(squares / max(count, 1))


def _fresh(layer: Any) -> bool:
    mean, std = (np.asarray(ops.convert_to_numpy(v.value)) for v in (layer.mean, layer.std))
    return not mean.any() and (std == 1).all()
