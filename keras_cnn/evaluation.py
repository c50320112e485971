"""How good a network is on a data set, with the class names sorted out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cnn.errors import BadData, BadImage


@dataclass(frozen=True)
class Result:
    """Predictions on a whole data set: labels (images,), probabilities (images, classes), in one order."""

    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def correct(self) -> int:
        return int((self.probabilities.argmax(1) == self.labels).sum())

    @property
    def metrics(self) -> dict[str, float]:
        """accuracy, top5 (where there are more than five classes), crossentropy in nats, images."""
        chosen = self.probabilities[np.arange(len(self.labels)), self.labels]
        metrics = {"accuracy": self.correct / len(self.labels)}
        if self.probabilities.shape[1] > 5:
            top5 = np.argpartition(-self.probabilities, 5, axis=1)[:, :5]
            metrics["top5"] = float((top5 == self.labels[:, None]).any(1).mean())
        return metrics | {"crossentropy": float(-np.log(np.clip(chosen, 1e-7, 1)).mean()), "images": len(self.labels)}

    def confusion(self) -> np.ndarray:
        """(classes, classes) counts: row is the true class, column the predicted one."""
        from sklearn.metrics import confusion_matrix

        return confusion_matrix(self.labels, self.probabilities.argmax(1), labels=range(self.probabilities.shape[1]))


def evaluate(model: Any, batches: Iterable[Any], labels: np.ndarray | None = None) -> Result:
    """Predict every batch of (images, labels). labels: for each class of the data, its number in the model."""
    seen, predicted = [], []
    with BadImage.surfacing():
        for images, truth in batches:
            predicted.append(probabilities(model, images))
            seen.append(np.asarray(truth))
    truth = np.concatenate(seen)
    return Result(truth if labels is None else labels[truth], np.concatenate(predicted))


def probabilities(model: Any, images: Any) -> np.ndarray:
    """The head's output (batch, classes) for one batch; an auxiliary classifier's is left aside."""
    outputs = model.predict_on_batch(images)
    return np.asarray(outputs[0] if isinstance(outputs, list | tuple) else outputs, "float32")


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
