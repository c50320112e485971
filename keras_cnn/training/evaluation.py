"""How good a network is on a data set, with the class names sorted out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cnn.data.stream import in_batches
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

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image."""
        return self.probabilities.argmax(1)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of the metrics that are shares of the images: where the true share lies, with 95 % confidence."""
        shares = {key: value for key, value in self.metrics.items() if key in ("accuracy", "top5")}
        return {key: wilson(round(share * len(self.labels)), len(self.labels)) for key, share in shares.items()}

    def by_class(self) -> list[dict[str, Any]]:
        """For each class: images; recall, the share of them that is found; precision, the share of what is taken for
        the class that is of it. None where a share is of nothing."""
        counts = self.confusion()
        right, images, taken = counts.diagonal(), counts.sum(1), counts.sum(0)
        return [
            {
                "images": int(n),
                "precision": int(hit) / int(t) if t else None,
                "recall": int(hit) / int(n) if n else None,
            }
            for hit, n, t in zip(right, images, taken, strict=True)
        ]

    def confused(self) -> list[tuple[int, int, int]]:
        """(true class, predicted class, images) of all mistakes, the most frequent first."""
        counts = self.confusion()
        np.fill_diagonal(counts, 0)
        pairs = sorted(zip(*np.nonzero(counts), strict=True), key=lambda pair: -counts[pair])
        return [(int(true), int(predicted), int(counts[true, predicted])) for true, predicted in pairs]

    def mistakes(self) -> np.ndarray:
        """Positions of the images that are taken for another class, the surest first."""
        sure = self.probabilities.max(1)
        return np.array(sorted(np.flatnonzero(self.predicted != self.labels), key=lambda i: -sure[i]), int)

    def confusion(self) -> np.ndarray:
        """(classes, classes) counts: row is the true class, column the predicted one."""
        from sklearn.metrics import confusion_matrix

        return confusion_matrix(self.labels, self.predicted, labels=range(self.probabilities.shape[1]))


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share, hits of `of`: Wilson's (1927), right near 0 and 1 and for few. z: 1.96 for 95 %.

    >>> low, high = wilson(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    middle = (hits + z**2 / 2) / (of + z**2)
    half = z / (of + z**2) * math.sqrt(hits * (of - hits) / of + z**2 / 4)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def evaluate(model: Any, batches: Iterable[Any], labels: np.ndarray | None = None) -> Result:
    """Predict every batch of (images, labels). labels: for each class of the data, its number in the model."""
    seen, predicted = [], []
    with BadImage.surfacing():
        for images, truth in batches:
            predicted.append(probabilities(model, images))
            seen.append(np.asarray(truth))
    truth = np.concatenate(seen)
    return Result(truth if labels is None else labels[truth], np.concatenate(predicted))


def classify(
    model: Any, images: Iterable[tuple[Any, np.ndarray | BadImage]], batch_size: int
) -> Iterator[tuple[Any, np.ndarray | BadImage, np.ndarray | None]]:
    """(source, image, probabilities (classes,)) of all that `data.stream.decoded` gives; None for an unreadable one."""
    for batch in in_batches(images, batch_size):
        readable = [image for _, image in batch if not isinstance(image, BadImage)]
        rows = iter(probabilities(model, np.stack(readable)) if readable else ())
        for source, image in batch:
            yield source, image, None if isinstance(image, BadImage) else next(rows)


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
