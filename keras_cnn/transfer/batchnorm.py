"""Statistics of batch normalisation at prediction time, computed exactly."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cnn.errors import BadData
from keras_cnn.selection import stage_of
from keras_cnn.transfer.examples import Batches


def recalibrate_batchnorm(
    model: Any, data: Any, *, batch_size: int = 128, stages: Collection[str] | None = None
) -> Any:
    """Set every batch norm's mean and variance to those of a whole data set: for new data, or after averaged weights.

    The moving averages of training lag behind the weights and forget early batches; these are the population's own
    (1502.03167, algorithm 2), in float64, whatever the size of the batches. A layer's statistics hang on those of the
    layers before it, so the data is passed once for each depth: all layers with equally many batch norms before them
    share a pass, which runs the network only up to them.

    data: batches (images, labels) or of images, that can be iterated again and again and have one order of pixels; or
    arrays, images or (images, labels), then cut into batches. Use images as at prediction: not augmented.
    stages: names of those whose statistics are set; all by default.
    Weights, gammas and betas stay. Returns the model. Raises BadData where there is no image.
    """
    depths = {name: depth for name, depth in _depths(model).items() if stages is None or stage_of(name) in stages}
    for depth in sorted(set(depths.values())):
        layers = [layer for layer in model.layers if depths.get(layer.name) == depth]
        moments = [moment for layer in layers for moment in _moments(layer)]
        probe = keras.Model(model.input, moments)  # mean, variance, mean, variance, ...
        # Called, not predicted with: one function less to trace for every depth.
        means, variances = _population(
            (len(images), probe(images, training=False)) for images in _images(data, batch_size)
        )
        for layer, mean, variance in zip(layers, means, variances, strict=True):
            layer.moving_mean.assign(mean.astype("float32"))
            layer.moving_variance.assign(variance.astype("float32"))
    return model


def _depths(model: Any) -> dict[str, int]:
    """For each batch norm the number of those that it stands on, along the longest path."""
    reached: dict[str, int] = {}
    found = {}
    for layer in model.layers:  # in topological order
        feeding = [tensor._keras_history.operation.name for tensor in keras.tree.flatten(layer.input)]
        before = max((reached.get(name, 0) for name in feeding), default=0)
        norm = isinstance(layer, keras.layers.BatchNormalization)
        if norm:
            found[layer.name] = before
        reached[layer.name] = before + norm
    return found


def _moments(layer: Any) -> Any:
    """Mean and variance of each channel of a layer's input."""
    return ops.moments(layer.input, axes=list(range(len(layer.input.shape) - 1)))


def _population(batches: Iterable[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Mean and variance of each layer over all batches, from those of each batch (Chan et al. 1979)."""
    count, means, variances = 0, [], []
    for size, moments in batches:
        new_means, new_variances = (
            [np.asarray(ops.convert_to_numpy(m), "float64") for m in moments[i::2]] for i in (0, 1)
        )
        if not count:
            count, means, variances = size, new_means, new_variances
            continue
        share = size / (count + size)
        for i, (mean, variance) in enumerate(zip(new_means, new_variances, strict=True)):
            delta = mean - means[i]
            variances[i] = (1 - share) * variances[i] + share * variance + share * (1 - share) * delta**2
            means[i] = means[i] + share * delta
        count += size
    if not count:
        raise BadData("there is no image to take statistics from.")
    return means, variances


def _images(data: Any, batch_size: int) -> Iterator[Any]:
    """Batches of images, without their labels."""
    if isinstance(data, tuple):
        data = data[0]
    for batch in Batches(data, size=batch_size) if isinstance(data, np.ndarray) else data:
        yield batch[0] if isinstance(batch, tuple) else batch
