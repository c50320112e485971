"""What every task is made of: what it learns and by which loss, how good it is, what it answers.

A task is a file beside this one, with a subclass of `Task` whose instance is its `TASK`; what a network itself must
know of it, without a framework, is its row in `models.meaning.MEANINGS`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

import keras
import numpy as np
from keras import ops

from keras_cnn.errors import BadData, BadSpec
from keras_cnn.insight.graphs import call_of
from keras_cnn.models import fields
from keras_cnn.models.config import record_of
from keras_cnn.models.layers import Standardise
from keras_cnn.models.meaning import MEANINGS
from keras_cnn.tasks.results import Gathering, Result

Loss = Callable[..., keras.losses.Loss]
MEND = "build the network with classes=data.class_names, or give it another head with replace_head."


class Task(abc.ABC):
    """What a network's outputs mean.

    name: a row of MEANINGS. monitor, mode: the logged figure by which the best epoch is chosen, and whether the best is
    its "max" or "min", as Keras' callbacks have them. format: how people read it, as Python's `format` takes it.
    LOSSES: by name, the default first; each is called with from_logits, label_smoothing, weights (of the classes) and
    scale (mean and spread of the targets), and takes what it needs. label_smoothing: that it has by default; None where
    there are no classes.
    """

    name: ClassVar[str]
    monitor: ClassVar[str]
    mode: ClassVar[str] = "max"
    format: ClassVar[str] = ".3f"
    LOSSES: ClassVar[Mapping[str, Loss]]
    label_smoothing: ClassVar[float | None] = None

    @property
    def data(self) -> str | None:
        """The task of the `Data` that it learns from; None where targets are made of the images themselves."""
        return MEANINGS[self.name].labels

    # --- what is learnt ---

    @abc.abstractmethod
    def outputs(self, model: Any) -> int:
        """The width of a network's output; BadSpec where its head cannot learn this task."""

    @abc.abstractmethod
    def check(self, labels: Any, outputs: int | None, what: str) -> None:
        """BadData unless these are labels that so many outputs can learn. what: whose, such as "training"."""

    def check_pairs(self, images: Any, labels: Any, what: str) -> None:  # noqa: B027
        """BadData where good labels do not fit the images that they are of."""

    def check_all(self, labels: Any, held_out: Any) -> None:  # noqa: B027
        """BadData where all labels of a data set, and those of its validation images, teach nothing."""

    def check_data(self, data: Any, model: Any, outputs: int) -> None:
        """BadData where `Data` is for another task, or names other classes than the network's head."""
        self.check_kind(data)
        self.check_classes(data.class_names, model, outputs)

    def check_classes(self, names: Sequence[str], model: Any, outputs: int) -> None:
        """BadData where the classes of some data are others than those of the network's head, or in another order."""
        check_names(model, names, outputs, "classes")

    def check_kind(self, data: Any) -> None:
        """BadData where `Data` is for another task."""
        if data.task != self.data:
            mend = f"classes=data.class_names, task={data.task!r}"
            mend = "head=kc.UNet(classes=data.class_names)" if MEANINGS[data.task].whole else mend
            raise BadData(f"the data is for {data.task}, the network's head for {self.name}: build it with {mend}.")

    def as_labels(self, labels: np.ndarray) -> np.ndarray:
        """Labels of arrays in the plainest form that says the same."""
        return labels

    def targets(self, labels: Any, outputs: int, inputs: Any) -> np.ndarray:
        """What the loss learns, of a batch's labels, the outputs of the head and the images."""
        return np.asarray(labels, "float32")

    def losses(
        self, model: Any, loss: str | None = None, label_smoothing: float = 0.0, weights: Any = None
    ) -> list[keras.losses.Loss]:
        """A loss of targets for each output of a network. loss: a key of LOSSES; None for the first."""
        fields.one_of("loss", loss, (None, *self.LOSSES))
        make = self.LOSSES[loss or next(iter(self.LOSSES))]
        scale = scale_of(model)
        return [
            make(from_logits=logits, label_smoothing=label_smoothing, weights=weights, scale=scale)
            for logits in self.logits(model)
        ]

    def metrics(self, model: Any) -> list[keras.metrics.Metric]:
        """Those of targets that are logged; `monitor` is among them, or given by `judge`."""
        return []

    def losses_of_labels(self, model: Any) -> list[keras.losses.Loss]:
        """The losses of labels as data has them, with which a model is left to its user."""
        return self.losses(model)

    def metrics_of_labels(self, model: Any) -> list[keras.metrics.Metric]:
        """The metrics of labels as data has them."""
        return self.metrics(model)

    def logits(self, model: Any) -> list[bool]:
        """Whether each output of a network is logits, which the task's activation has yet to be put on."""
        return [last_activation(model, i) is keras.activations.linear for i in range(len(model.outputs))]

    def weights(self, wanted: Any, given: Any, outputs: int) -> Any:
        """Of the classes in the loss: of what was wished for, the training set and the number of outputs."""
        raise BadSpec(f"class_weight is for classes, which {self.name} has none of: leave it out.")

    weighs_images: ClassVar[bool] = False  # whether `weights` are for Keras' fit, instead of for the loss
    one_by_one: ClassVar[bool] = True  # whether the loss of an image is the same whatever its batch
    one_class: ClassVar[bool] = False  # whether the answer is a share of each class, in all the whole

    def score(self, network: Any, batches: Any) -> float:
        """The figure that is monitored, of a network on batches of images and labels, as training logs it."""
        metric: Any = next((one for one in self.metrics(network) if one.name == self.judged_by), None)
        if metric is None:
            return self.judge(network, batches)[self.monitor]
        for inputs, labels in batches:
            outputs = scores(network, inputs)
            metric.update_state(self.targets(labels, outputs.shape[-1], inputs), outputs)
        return float(metric.result())

    def judge(self, network: Any, batches: Any) -> dict[str, float]:
        """Figures for the logs of an epoch that need all validation images at once; none for most tasks."""
        return {}

    # --- how good it is ---

    @property
    def judged_by(self) -> str:
        """The name of the monitored figure."""
        return self.monitor.removeprefix("val_")

    @property
    def best(self) -> Callable[[Iterable[float]], float]:
        """What takes the best of some monitored figures: max or min."""
        return max if self.mode == "max" else min

    def better(self, one: float, other: float) -> bool:
        """Whether one monitored figure is better than another."""
        return one > other if self.mode == "max" else one < other

    @abc.abstractmethod
    def gather(self, outputs: tuple[int, ...], class_names: tuple[str, ...]) -> Gathering:
        """What collects images for a result; outputs: the shape of one image's."""

    def finish(self, rows: np.ndarray, logits: bool) -> np.ndarray:
        """What a network's outputs say, where they may be logits."""
        return rows

    def decided(self, rows: np.ndarray) -> np.ndarray | None:
        """What finished outputs decide, such as a class; None where nothing is decided, as by numbers."""
        return None

    def numbers(self, labels: np.ndarray, what: str) -> np.ndarray:
        """A batch's labels as a result has them; BadData for those that nothing can be measured on."""
        return labels

    def places(self, data: Any, names: tuple[str, ...], outputs: int) -> np.ndarray:
        """The network's number for each class or target of `Data`; BadData where they cannot be matched."""
        if data.task != self.data:
            raise BadData(f"the data is for {data.task}, the network is for {self.name}: they do not go together.")
        return align(data.class_names, names, outputs)

    def renumbered(self, label: Any, place: np.ndarray) -> Any:
        """A label of `Data` as the network numbers its classes; place: the network's number of each of the data's."""
        return label

    def figure(self, result: Result) -> float:
        """The monitored figure of a result."""
        return next(iter(result.metrics.values()))

    # --- features ---

    def linear(self, features: np.ndarray, labels: np.ndarray, outputs: int, model: Any) -> Any:
        """(kernel, bias) of the best dense layer on features (images, n); None where the task has no such layer."""
        return None

    def neighbours(self, count: int) -> Any:
        """An estimator of scikit-learn that answers as the nearest images by their features do; None for none."""
        return None

    def in_units(self, rows: np.ndarray, model: Any) -> np.ndarray:
        """What a linear head gives, as the finished output of a network."""
        return self.finish(rows, logits=True)

    def measured(self, labels: np.ndarray, rows: np.ndarray) -> Result:
        """The result of labels and finished outputs, without their images."""
        found = self.gather(rows.shape[1:], ())
        for label, row in zip(labels, rows, strict=True):
            found.add("", rows[:0], label, row)
        return found.result()

    def rows(self, answers: np.ndarray, outputs: int) -> np.ndarray:
        """What the neighbours answered, as outputs of a network."""
        return np.asarray(answers, "float32").reshape(len(answers), -1)

    def width(self, labels: np.ndarray) -> int:
        """Outputs of a head for these labels."""
        return labels.shape[-1]

    # --- answers ---

    def check_answers(self, config: Any) -> None:
        """BadSpec where a network answers nothing."""
        if not config.head.classes:
            raise BadSpec(
                f"{config.architecture} has no classifier: it gives features, not classes. Build it with classes=, or "
                "give it a head with kc.replace_head(model, 5)."
            )

    @abc.abstractmethod
    def answer(self, name: str, row: np.ndarray, config: Any, top: int, size: tuple[int, ...] | None) -> Any:
        """The answer for an image, of a finished output; size: (height, width) of the image's file."""

    @abc.abstractmethod
    def unreadable(self, name: str, error: str) -> Any:
        """The answer for an image that cannot be read."""


def scores(model: Any, images: Any) -> np.ndarray:
    """The head's output for one batch, float32 (batch, ...); an auxiliary classifier's is left aside."""
    outputs = model.predict_on_batch(images)
    return np.asarray(outputs[0] if isinstance(outputs, list | tuple) else outputs, "float32")


def last_activation(model: Any, output: int = 0) -> Any:
    """The activation of the layer that makes an output, as Keras' function; None where it has none."""
    last = call_of(model.outputs[output]).operation
    return keras.activations.softmax if isinstance(last, keras.layers.Softmax) else getattr(last, "activation", None)


def unit_of(model: Any) -> Any:
    """The layer that gives a network's output in the unit of the data; None where there is none."""
    return next((x for x in model.layers if isinstance(x, Standardise) and x.inverse), None)


def scale_of(model: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """(mean, spread) of the training targets, as a network that gives answers in their unit knows them."""
    layer = unit_of(model)
    if layer is None:
        return None
    return tuple(np.asarray(ops.convert_to_numpy(v.value)) for v in (layer.mean, layer.std))  # pyright: ignore


def check_names(model: Any, names: Sequence[str], outputs: int, of: str) -> None:
    """BadData where the network's classes, or targets, are others than the data's, or in another order."""
    if len(names) != outputs:
        raise BadData(f"the data has {len(names)} {of}, the network's head {outputs}: {MEND}")
    heads = class_names(model)
    if heads and heads != tuple(names):
        other = next(i for i in range(outputs) if heads[i] != names[i])
        raise BadData(
            f"class {other} is {names[other]!r} in the data and {heads[other]!r} in the network's head: {MEND}"
        )


def class_names(model: Any) -> tuple[str, ...]:
    """The names of a network's classes or targets, where it is one of ours and knows them."""
    try:
        return tuple(record_of(model)["class_names"])
    except BadSpec:
        return ()


def align(data: Sequence[str], model: Sequence[str], outputs: int) -> np.ndarray:
    """The model's number for each class of the data, by name; by order where the model has no names.

    Raises BadData when the data has a class that the model does not know, or another number of classes.
    """
    if not model:
        if len(data) != outputs:
            raise BadData(
                f"the data has {len(data)} classes, the model {outputs} without names: they cannot be matched."
            )
        return np.arange(len(data))
    place = {name: i for i, name in enumerate(model)}
    if unknown := [name for name in data if name not in place]:
        some = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise BadData(
            f"the model does not know {len(unknown)} of the data's {len(data)} classes ({some}); "
            f"it knows {', '.join(model[:3])}{', ...' if len(model) > 3 else ''}. Fine-tune it on this data first."
        )
    return np.array([place[name] for name in data])


def numbers_only(labels: Any, of: str, like: str) -> np.ndarray:
    """Labels as an array of numbers; BadData for texts. like: how to give them."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biuf":
        some = f", such as {str(labels.flat[0])!r}" if labels.size else ""
        raise BadData(f"the {of} are {'texts' if labels.dtype.kind in 'OSUT' else labels.dtype}{some}: give {like}.")
    return labels


def probabilities_of(config: Any, row: np.ndarray, top: int) -> list[tuple[str, float]]:
    """The most probable classes of one row of probabilities, the best first."""
    labels = config.class_names or tuple(f"class {i}" for i in range(len(row)))
    return [(labels[i], float(row[i])) for i in (-row).argsort(kind="stable")[:top]]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def dense_output(model: Any, rank: int, task: str, activations: tuple[Any, ...], mend: str) -> int:
    """The width of a head's output that has this rank and ends in one of the activations; else BadSpec."""
    output = model.outputs[0]
    if len(output.shape) != rank or last_activation(model) not in activations:
        raise BadSpec(f"{model.name} does not end in what {task} needs: {mend}.")
    return cast(int, output.shape[-1])
