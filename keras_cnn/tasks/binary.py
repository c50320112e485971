"""Two classes by one output, the probability of the second of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_cnn.errors import BadData
from keras_cnn.tasks import base, multilabel
from keras_cnn.tasks.classification import Classification, Result
from keras_cnn.tasks.results import Gathering


class Binary(Classification):
    """Two classes by one output; labels are 0 and 1, (n,) or (n, 1), whole numbers or floats."""

    name = "binary"
    label_smoothing = 0.0
    weighs_images, one_class = True, False
    LOSSES = multilabel.Multilabel.LOSSES

    def outputs(self, model: Any) -> int:
        activations = (keras.activations.sigmoid, keras.activations.linear)
        width = base.dense_output(model, 2, "two classes by one output", activations, "build it with task='binary'")
        if width != 1:
            raise BadData(f"{model.name} has {width} outputs: build it with task='binary' and two class names.")
        return width

    def check(self, labels: Any, outputs: int | None, what: str) -> None:
        labels = np.asarray(labels)
        as_keras_has_them = labels.dtype.kind == "f" and np.isin(labels, (0, 1)).all()  # by label_mode="binary"
        super().check(labels.astype("int32") if as_keras_has_them else labels, 2, what)

    def as_labels(self, labels: np.ndarray) -> np.ndarray:
        return super().as_labels(labels).astype("int32")

    def numbers(self, labels: np.ndarray, what: str) -> np.ndarray:
        return super().numbers(labels, what).astype("int32")

    def check_classes(self, names: Sequence[str], model: Any, outputs: int) -> None:
        super().check_classes(names, model, 2)

    def targets(self, labels: Any, outputs: int, inputs: Any) -> np.ndarray:
        return np.asarray(labels, "float32").reshape(-1, 1)

    def losses(self, model: Any, loss: str | None = None, label_smoothing: float = 0.0, weights: Any = None) -> list:
        return super().losses(model, loss, label_smoothing, None)  # Keras' fit weighs the images

    def metrics(self, model: Any) -> list[keras.metrics.Metric]:
        threshold = 0.0 if self.logits(model)[0] else 0.5
        return [keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold)]

    def losses_of_labels(self, model: Any) -> list[keras.losses.Loss]:
        return [keras.losses.BinaryCrossentropy(from_logits=one) for one in self.logits(model)]

    def metrics_of_labels(self, model: Any) -> list[keras.metrics.Metric]:
        return self.metrics(model)

    def weights(self, wanted: Any, given: Any, outputs: int) -> dict[int, float]:
        return super().weights(wanted, given, 2)

    def places(self, data: Any, names: tuple[str, ...], outputs: int) -> np.ndarray:
        return super().places(data, names, 2)

    def gather(self, outputs: tuple[int, ...], class_names: tuple[str, ...]) -> Gathering:
        return Gathering(Result, (2,), class_names)

    def finish(self, rows: np.ndarray, logits: bool) -> np.ndarray:
        """The shares of both classes."""
        second = base.sigmoid(rows) if logits else rows
        return np.concatenate([1 - second, second], -1)

    def linear(self, features: np.ndarray, labels: np.ndarray, outputs: int, model: Any) -> Any:
        kernel, bias = super().linear(features, labels, 2, model)
        return kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]

    def width(self, labels: np.ndarray) -> int:
        return 1

    def rows(self, answers: np.ndarray, outputs: int) -> np.ndarray:
        return np.eye(2, dtype="float32")[np.asarray(answers, int)]


TASK = Binary()
