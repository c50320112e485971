"""Labels become what a loss learns at the door, in every form of data, so that Keras' own `fit` serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import keras
import numpy as np

from keras_cnn import tasks
from keras_cnn.errors import BadSpec
from keras_cnn.tasks.base import Task


def targets(model: Any, data: Any, task: Task) -> Any:
    """Images and labels, as arrays, tf.data or batches, as images and targets: one for each output of the network."""
    size, outputs = model.outputs[0].shape[-1], len(model.outputs)
    of_each = lambda one: one if outputs == 1 else (one,) * outputs  # noqa: E731
    if data is None:
        return None
    if isinstance(data, tuple):
        return data[0], of_each(task.targets(data[1], size, data[0]))
    if not hasattr(data, "element_spec"):
        return Targets(data, lambda images, labels: of_each(task.targets(labels, size, images)))
    import tensorflow as tf

    shape, kind = _like(task, size, *data.element_spec)

    def mapped(images: Any, labels: Any) -> tuple[Any, Any]:
        seen = [images] if task.data is None else []  # a batch of images is copied for nothing where labels are enough
        made = tf.numpy_function(lambda one, *seen: task.targets(one, size, *(seen or (None,))), [labels, *seen], kind)
        return images, of_each(tf.ensure_shape(made, shape))

    return data.map(mapped, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


def _like(task: Task, size: int, images: Any, labels: Any) -> tuple[tuple[int | None, ...], Any]:
    """(shape, dtype) of the targets of a data set of tf.data, which a graph has to know."""
    import tensorflow as tf

    empty = lambda spec: np.zeros((0, *(side or 1 for side in spec.shape[1:])), spec.dtype.as_numpy_dtype)  # noqa: E731
    made = task.targets(empty(labels), size, empty(images))
    open_ended = None in (labels.shape[1:] if made.ndim > 2 else ()) or None in (
        images.shape[1:] if made.ndim > 3 else ()
    )
    sides = (None,) * (made.ndim - 1) if open_ended else made.shape[1:]
    return (None, *sides), tf.as_dtype(made.dtype)


class Targets(keras.utils.PyDataset):
    """A PyDataset, or batches with a length that come in order, with targets in place of labels."""

    def __init__(self, data: Any, make: Callable[[Any, Any], Any]) -> None:
        how = ("workers", "use_multiprocessing", "max_queue_size") if isinstance(data, keras.utils.PyDataset) else ()
        super().__init__(**{name: getattr(data, name) for name in how})
        self.data, self.make = data, make

    def __len__(self) -> int:
        return len(cast(Any, self.data))

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if isinstance(self.data, keras.utils.PyDataset):
            images, labels = self.data[index]
        else:
            self.batches = iter(self.data) if index == 0 else self.batches
            images, labels = next(self.batches)
        return images, self.make(images, labels)

    def on_epoch_begin(self) -> None:
        getattr(self.data, "on_epoch_begin", lambda: None)()

    def on_epoch_end(self) -> None:
        getattr(self.data, "on_epoch_end", lambda: None)()


def class_weights(wanted: Any, given: Any, model: Any) -> dict[int, float] | None:
    """The weight of each class in the loss; None where none was wished for."""
    if not wanted:
        return None
    if len(model.outputs) > 1:
        raise BadSpec("class_weight is for networks with one output: build it with aux=False.")
    return tasks.of(model).weights(wanted, given, model.outputs[0].shape[-1])
