"""Statistics of batch normalisation at prediction time, computed exactly."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cnn.data import Data
from keras_cnn.data.examples import Batches
from keras_cnn.data.training_set import training_set
from keras_cnn.errors import BadData
from keras_cnn.models.assemble import recursion
from keras_cnn.models.fields import known_options
from keras_cnn.models.naming import stage_of

Moments = tuple[int, np.ndarray, np.ndarray]  # elements of each channel; their mean and variance, (channels,)


@known_options
def recalibrate_batchnorm(
    model: Any, data: Any, *, batch_size: int = 128, stages: Collection[str] | None = None
) -> Any:
    """Set every batch norm's mean and variance to those of a whole data set: for new data, or after averaged weights.

    The moving averages of training lag behind the weights and forget early batches; these are the population's own
    (1502.03167, algorithm 2), in float64, whatever the size of the batches. A layer's statistics hang on those of the
    layers before it, so the data is passed once for each depth: all layers with equally many batch norms before them
    share a pass, which runs the network only up to them.

    data: `Data`, whose training images are taken as at prediction, not augmented; batches (images, labels) or of
    images, that can be iterated again and again; or arrays, images or (images, labels), then cut into batches of
    batch_size.
    Where images differ in size, each counts by its pixels.
    stages: names of those whose statistics are set; all by default.
    Weights, gammas and betas stay. Returns the model. Raises BadData where there is no image.
    """
    depths = {name: depth for name, depth in _depths(model).items() if stages is None or stage_of(name) in stages}
    for depth in sorted(set(depths.values())):
        layers = [layer for layer in model.layers if depths.get(layer.name) == depth]
        with recursion(len(model.layers)):
            below = keras.Model(model.input, [layer.input for layer in layers])
        population: list[Moments] = []
        for images in _images(data, batch_size):
            # Called, not predicted with: one function less to trace for every depth.
            batch = list(map(_moments, keras.tree.flatten(below(images, training=False))))
            population = list(map(_together, population, batch)) if population else batch
        if not population:
            raise BadData("there is no image to take statistics from.")
        for layer, (_, mean, variance) in zip(layers, population, strict=True):
            layer.moving_mean.assign(mean.astype("float32"))
            layer.moving_variance.assign(variance.astype("float32"))
    return model


def _depths(model: Any) -> dict[str, int]:
    """For each batch norm the number of those that it stands on, along the longest path."""
    reached: dict[str, int] = {}
    made_by = {id(tensor): layer.name for layer in model.layers for tensor in keras.tree.flatten(layer.output)}
    found = {}
    for layer in model.layers:  # in topological order
        feeding = [made_by.get(id(tensor), "") for tensor in keras.tree.flatten(layer.input)]
        before = max((reached.get(name, 0) for name in feeding), default=0)
        norm = isinstance(layer, keras.layers.BatchNormalization)
        if norm:
            found[layer.name] = before
        reached[layer.name] = before + norm
    return found


def _moments(inputs: Any) -> Moments:
    """Of each channel of a layer's input for one batch."""
    # Under a policy of mixed precision the input is coarse; what is computed of it need not be.
    values: Any = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    found: Any = ops.moments(values, axes=list(range(len(values.shape) - 1)))
    mean, variance = (np.asarray(ops.convert_to_numpy(moment), "float64") for moment in found)
    return math.prod(values.shape[:-1]), mean, variance


def _together(one: Moments, other: Moments) -> Moments:
    """The moments of two sets as those of one (Chan et al. 1979)."""
    (count, mean, variance), (more, its_mean, its_variance) = one, other
    share, delta = more / (count + more), its_mean - mean
    spread = (1 - share) * variance + share * its_variance + share * (1 - share) * delta**2
    return count + more, mean + share * delta, spread


def _images(data: Any, batch_size: int) -> Iterator[Any]:
    """Batches of images, without their labels."""
    if isinstance(data, Data):
        data = training_set(data).plain()
    if isinstance(data, tuple):
        data = data[0]
    for batch in Batches(data, size=batch_size) if isinstance(data, np.ndarray) else data:
        yield batch[0] if isinstance(batch, tuple) else batch
