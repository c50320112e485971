"""What a network's output means, a row a task: loss, metrics, how the best epoch is chosen, how labels become targets.

Nothing else in this package asks what the task is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import keras
import numpy as np

from keras_cnn.checkpoints.directory import config_of
from keras_cnn.data.training_set import TrainingSet
from keras_cnn.errors import BadSpec
from keras_cnn.models import fields
from keras_cnn.training import evaluation


@dataclass(frozen=True)
class Task:
    """One row of `TASKS`.

    activation: of the head's output; a loss is told where an output gives logits, without any, instead.
    loss: a Keras loss of targets, made with `from_logits` and `label_smoothing`. metrics: makes those that are logged.
    loss_of_labels, metrics_of_labels: the same of labels as data has them, with which a model is left to its user.
    monitor, mode: the figure by which the best epoch is chosen, and whether the best is its "max" or "min", as Keras'
    callbacks have them.
    targets: what the loss learns, of the labels of a batch and the number of outputs.
    class_weights: the weight of each class, of what was wished for, the data and the number of outputs.
    """

    name: str
    activation: str
    loss: Callable[..., keras.losses.Loss]
    metrics: Callable[[], list[keras.metrics.Metric]]
    loss_of_labels: Callable[..., keras.losses.Loss]
    metrics_of_labels: Callable[[], list[keras.metrics.Metric]]
    monitor: str
    mode: str
    targets: Callable[[Any, int], np.ndarray]
    class_weights: Callable[[Any, TrainingSet, int], dict[int, float]]

    def losses(self, model: Any, label_smoothing: float) -> list[keras.losses.Loss]:
        """A loss of targets for each output of a network."""
        return [self.loss(from_logits=one, label_smoothing=label_smoothing) for one in self._logits(model)]

    def losses_of_labels(self, model: Any) -> list[keras.losses.Loss]:
        """A loss of labels for each output of a network."""
        return [self.loss_of_labels(from_logits=one) for one in self._logits(model)]

    def _logits(self, model: Any) -> list[bool]:
        linear = keras.activations.linear
        return [self.activation != "linear" and _activation(output) is linear for output in model.outputs]

    def better(self, one: float, other: float) -> bool:
        """Whether one monitored figure is better than another."""
        return one > other if self.mode == "max" else one < other

    def score(self, network: Any, batches: Any) -> float:
        """The figure that is monitored, of a network on batches of images and labels."""
        result = evaluation.evaluate(network, batches)
        metric = next(one for one in self.metrics() if one.name == self.monitor.removeprefix("val_"))
        metric.update_state(self.targets(result.labels, result.probabilities.shape[1]), result.probabilities)
        return float(cast(Any, metric.result()))


def of(model: Any) -> Task:
    """The task that a network's head names; a network of another make classifies. BadSpec for one that is not there."""
    try:
        name = config_of(model).head.task
    except BadSpec:
        name = "classification"
    fields.one_of("task", name, tuple(TASKS))
    return TASKS[name]


def _activation(output: Any) -> Any:
    """Of the layer that makes an output."""
    return getattr(output._keras_history.operation, "activation", None)


# --- labels become targets -------------------------------------------------------------------------------------------


def targets(model: Any, data: Any, task: Task) -> Any:
    """Images and labels, as arrays, tf.data or batches, as images and targets: one for each output of the network."""
    size, outputs = model.outputs[0].shape[-1], len(model.outputs)
    of_each = lambda one: one if outputs == 1 else (one,) * outputs  # noqa: E731
    if data is None:
        return None
    if isinstance(data, tuple):
        return data[0], of_each(task.targets(data[1], size))
    if not hasattr(data, "element_spec"):
        return Targets(data, lambda labels: of_each(task.targets(labels, size)))
    import tensorflow as tf

    def mapped(images: Any, labels: Any) -> tuple[Any, Any]:
        made = tf.numpy_function(lambda one: task.targets(one, size), [labels], tf.float32)
        return images, of_each(tf.ensure_shape(made, (None, size)))

    return data.map(mapped, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


class Targets(keras.utils.PyDataset):
    """A PyDataset, or batches with a length that come in order, with targets in place of labels."""

    def __init__(self, data: Any, make: Callable[[Any], Any]) -> None:
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
        return images, self.make(labels)

    def on_epoch_begin(self) -> None:
        getattr(self.data, "on_epoch_begin", lambda: None)()

    def on_epoch_end(self) -> None:
        getattr(self.data, "on_epoch_end", lambda: None)()


def as_compiled(model: Any, labels: Any) -> Any:
    """The labels of a batch as the loss of a compiled model takes them, which may be one of Keras' on integers."""
    loss = next(iter(model.loss), None) if isinstance(model.loss, list | tuple) else model.loss
    name = loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "")
    if not name.startswith("categorical"):
        return labels
    if isinstance(labels, tuple | list):
        return type(labels)(as_compiled(model, one) for one in labels)
    return of(model).targets(labels, model.outputs[0].shape[-1])


# --- classification --------------------------------------------------------------------------------------------------


def _shares(labels: Any, classes: int) -> np.ndarray:
    """(batch, classes) shares of labels: integers, (batch,) or (batch, 1), become one-hot, shares stay."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == classes > 1:
        return labels.astype("float32")
    shares = np.zeros((len(labels), classes), "float32")
    shares[np.arange(len(labels)), labels.reshape(-1).astype("int64")] = 1
    return shares


def _class_weights(wanted: str | Mapping[int, float], given: TrainingSet, classes: int) -> dict[int, float]:
    """A weight for each class; those that are not named, or have no images, weigh 1."""
    if isinstance(wanted, Mapping):
        numbered = {int(key) if str(key).isdigit() else key: value for key, value in wanted.items()}  # texts in a file
        if strange := [label for label in numbered if label not in range(classes)]:
            raise BadSpec(f"class_weight has the class {strange[0]!r}: the head's go from 0 to {classes - 1}.")
        return {label: float(numbered.get(label, 1.0)) for label in range(classes)}
    labels = given.labels()
    if wanted != "balanced" or labels is None:
        raise BadSpec(f"class_weight={wanted!r}: give a weight for each class, or, with Data or arrays, 'balanced'.")
    counts = np.bincount(labels, minlength=classes)
    fair = len(labels) / np.count_nonzero(counts)
    return {label: float(fair / counts[label]) if counts[label] else 1.0 for label in range(classes)}


TASKS: dict[str, Task] = {
    "classification": Task(
        name="classification",
        activation="softmax",
        loss=keras.losses.CategoricalCrossentropy,
        metrics=lambda: [keras.metrics.CategoricalAccuracy(name="accuracy")],
        loss_of_labels=keras.losses.SparseCategoricalCrossentropy,
        metrics_of_labels=lambda: [keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        monitor="val_accuracy",
        mode="max",
        targets=_shares,
        class_weights=_class_weights,
    )
}


def class_weights(wanted: str | Mapping[int, float] | None, given: TrainingSet, model: Any) -> dict[int, float] | None:
    """The weight of each class in the loss; None where none was wished for."""
    if not wanted:
        return None
    if len(model.outputs) > 1:
        raise BadSpec("class_weight is for networks with one output: build it with aux=False.")
    return cast(Any, of(model).class_weights(wanted, given, model.outputs[0].shape[-1]))
