"""Any number of classes for each image: a sigmoid a class, and binary cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np

from keras_cnn.errors import BadData
from keras_cnn.insight import plots
from keras_cnn.tasks import base, results
from keras_cnn.tasks.base import MEND, Task
from keras_cnn.tasks.classification import balanced, by_number
from keras_cnn.tasks.linear import centred
from keras_cnn.tasks.results import Gathering

ops: Any = keras.ops  # whose types say less than is true

LIKELY = 0.5  # probability from which on an image is thought to have a class


class Labels(NamedTuple):
    """What an image shows. labels: the classes that it is thought to have, the most probable first.

    probabilities: of every class, by name. error: why an image could not be read; it then has none.
    """

    name: str
    labels: tuple[str, ...]
    probabilities: dict[str, float]
    error: str | None = None

    def facts(self) -> dict[str, Any]:
        return {"image": self.name, "labels": list(self.labels), "probabilities": self.probabilities}

    def columns(self) -> dict[str, Any]:
        return {"labels": ";".join(self.labels), **self.probabilities}

    def lines(self) -> list[str]:
        shown = self.labels or tuple(sorted(self.probabilities, key=self.probabilities.__getitem__)[-1:])
        return [f"{self.probabilities[label]:6.1%}  {label}" for label in shown]


@dataclass(frozen=True, repr=False)
class Result(results.Result):
    """Predictions of classes: labels and outputs (images, classes), 0 or 1 and probabilities.

    A class without a positive, or without a negative, image has no average precision and is left out of the mean.
    """

    @property
    def metrics(self) -> dict[str, float]:
        """map, the mean over classes of the average precision; f1, the mean of the classes at 0.5; exact, the share of
        images of which every class is right; images; this alone where there are none."""
        if not len(self):
            return {"images": 0}
        rows = self.by_class()
        known = [row["average precision"] for row in rows if row["average precision"] is not None]
        exact = ((self.outputs >= 0.5) == (self.labels > 0)).all(1).mean()
        return {
            "map": float(np.mean(known)) if known else float("nan"),
            "f1": float(np.mean([row["f1"] for row in rows])),
            "exact": float(exact),
            "images": len(self),
        }

    @cached_property
    def _curves(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray] | None]:
        from sklearn.metrics import precision_recall_curve

        truth = np.asarray(self.labels > 0)
        both = np.asarray(truth.any(0) & ~truth.all(0))
        return [precision_recall_curve(truth[:, c], self.outputs[:, c]) if both[c] else None for c in range(len(both))]

    def by_class(self) -> list[dict[str, Any]]:
        """For each class: its name, the images that have it, average precision, F1 at 0.5, and the threshold at which
        F1 is best, with that F1. None where there is no curve."""
        from sklearn.metrics import average_precision_score

        rows = []
        for c, curve in enumerate(self._curves):
            truth, taken = self.labels[:, c] > 0, self.outputs[:, c] >= 0.5
            row: dict[str, Any] = {"class": self.name_of(c), "images": int(truth.sum())}
            row["average precision"] = (
                None if curve is None else float(average_precision_score(truth, self.outputs[:, c]))
            )
            row["f1"] = float(2 * (truth & taken).sum() / max(truth.sum() + taken.sum(), 1))
            row["threshold"], row["best f1"] = (None, None) if curve is None else _best(*curve)
            rows.append(row)
        return rows

    def worst(self, most: int = 10) -> list[dict[str, Any]]:
        """At most so many images, those of the largest cross-entropy first: what they show, and what was thought."""
        wrong = np.where(self.labels > 0, 1 - self.outputs, self.outputs)
        order = (-wrong.max(1)).argsort(kind="stable")[:most].tolist() if len(self) else []
        of = lambda row: ", ".join(self.name_of(c) for c in np.flatnonzero(row).tolist()) or "-"  # noqa: E731
        return [
            {"image": self.image(i), "true": of(self.labels[i] > 0), "predicted": of(self.outputs[i] >= 0.5)}
            for i in order
        ]

    def details(self) -> dict[str, Any]:
        return {"classes": self.by_class(), "worst": self.worst()}

    def pictures(self, folder: str | Path) -> dict[str, str]:
        curves = {self.name_of(c): curve[:2] for c, curve in enumerate(self._curves) if curve is not None}
        if not curves:
            return {}
        scores = {row["class"]: row["average precision"] for row in self.by_class()}
        plots.precision_recall(curves, scores, Path(folder) / "precision_recall.png")
        return {"precision_recall.png": "precision and recall by class"}


def _best(precision: np.ndarray, recall: np.ndarray, thresholds: np.ndarray) -> tuple[float, float]:
    """(the threshold of the best F1, that F1) of a precision-recall curve."""
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    i = int(f1[:-1].argmax())
    return float(thresholds[i]), float(f1[i])


@keras.saving.register_keras_serializable("keras_cnn")
class BinaryLoss(keras.losses.Loss):
    """Binary cross-entropy, its mean over the classes; labels and outputs (batch, classes).

    weights: of the positives of each class; None for 1. gamma: of the focal loss (1708.02002, eq. 4), which is
    cross-entropy at 0. from_logits, label_smoothing: as Keras has them.
    """

    def __init__(
        self,
        weights: Any = None,
        gamma: float = 0.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        name: str = "binary_crossentropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.weights = None if weights is None else [float(weight) for weight in weights]
        self.gamma, self.from_logits, self.label_smoothing = gamma, from_logits, label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        truth: Any = ops.cast(y_true, "float32")
        truth = truth * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        given: Any = ops.cast(y_pred, "float32")
        if not self.from_logits:
            given = ops.clip(given, 1e-7, 1 - 1e-7)
            given = ops.log(given) - ops.log1p(-given)
        yes, no = truth * -ops.softplus(-given), (1 - truth) * -ops.softplus(given)  # logarithms of the shares
        if self.gamma:
            share = ops.sigmoid(given)
            yes, no = yes * (1 - share) ** self.gamma, no * share**self.gamma
        if self.weights is not None:
            yes = yes * ops.convert_to_tensor(self.weights, "float32")
        return -ops.mean(yes + no, axis=-1)

    def get_config(self) -> dict[str, Any]:
        own = ("weights", "gamma", "from_logits", "label_smoothing")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


@keras.saving.register_keras_serializable("keras_cnn")
class MeanAveragePrecision(keras.metrics.AUC):
    """Keras' area under the precision-recall curve, its mean over those classes that some images have and others lack:
    the 200 thresholds come close to the average precision. num_labels: classes; from_logits, name: as Keras has them.
    """

    def __init__(self, num_labels: int, from_logits: bool = False, name: str = "map", **kwargs: Any) -> None:
        kwargs |= {"curve": "PR", "multi_label": True}
        super().__init__(num_labels=num_labels, from_logits=from_logits, name=name, **kwargs)

    def result(self) -> Any:
        of: Any = self
        positive, negative = of.true_positives + of.false_negatives, of.true_negatives + of.false_positives
        of.label_weights = ops.cast((positive[0] > 0) & (negative[0] > 0), "float32")
        try:
            return super().result()
        finally:
            of.label_weights = None  # it is of these images, and no setting


def _loss(gamma: float) -> base.Loss:
    return lambda from_logits, label_smoothing, weights, **_: BinaryLoss(
        weights=weights, gamma=gamma, from_logits=from_logits, label_smoothing=label_smoothing
    )


class Multilabel(Task):
    """Any number of classes for each image; labels are (n, classes) of 0 and 1."""

    name = "multilabel"
    monitor = "val_map"
    label_smoothing = 0.0
    LOSSES: ClassVar[Mapping[str, base.Loss]] = {"crossentropy": _loss(0.0), "focal": _loss(2.0)}

    def outputs(self, model: Any) -> int:
        activations = (keras.activations.sigmoid, keras.activations.linear)
        return base.dense_output(
            model,
            2,
            "several classes an image",
            activations,
            "build it with task='multilabel', classes=data.class_names",
        )

    def check(self, labels: Any, outputs: int | None, what: str) -> None:
        of = f"labels of the {what} images"
        labels = base.numbers_only(labels, of, "0 or 1 for each image and class")
        if labels.ndim != 2:
            raise BadData(f"the {of} have the shape {labels.shape}: give (images, classes), 0 or 1 for each.")
        if outputs not in (None, labels.shape[1]):
            raise BadData(f"the {of} have {labels.shape[1]} columns, the head has {outputs} classes: {MEND}")
        if strange := labels[(labels != 0) & (labels != 1)].tolist():
            raise BadData(f"one of the {of} is {strange[0]}: give 0 or 1 for each image and class.")

    def check_all(self, labels: Any, held_out: Any) -> None:
        if labels is not None and (empty := np.flatnonzero(~(labels > 0).any(0))).size:
            raise BadData(f"no training image has class {empty[0]}: add some, or leave the class out.")

    def metrics(self, model: Any) -> list[keras.metrics.Metric]:
        return [MeanAveragePrecision(model.outputs[0].shape[-1], self.logits(model)[0])]

    def weights(self, wanted: Any, given: Any, outputs: int) -> dict[int, float]:
        """Of the positives of each class; "balanced": negatives for each positive."""
        if isinstance(wanted, Mapping):
            return by_number(wanted, outputs)
        positive = (balanced(wanted, given) > 0).mean(0)
        return {c: float((1 - share) / share) if share else 1.0 for c, share in enumerate(positive)}

    def gather(self, outputs: tuple[int, ...], class_names: tuple[str, ...]) -> Gathering:
        return Gathering(Result, outputs, class_names)

    def finish(self, rows: np.ndarray, logits: bool) -> np.ndarray:
        return base.sigmoid(rows) if logits else rows

    def decided(self, rows: np.ndarray) -> np.ndarray:
        return rows >= LIKELY

    def renumbered(self, label: Any, place: np.ndarray) -> np.ndarray:
        row = np.zeros_like(label)
        row[place] = label
        return row

    def linear(self, features: np.ndarray, labels: np.ndarray, outputs: int, model: Any) -> Any:
        """One class against the rest, each by logistic regression."""
        from sklearn.linear_model import LogisticRegression

        fits = []
        for c in range(outputs):
            truth = labels[:, c] > 0
            if truth.all() or not truth.any():
                fits.append((np.zeros((1, features.shape[1])), np.full(1, 8.0 if truth.any() else -8.0)))
            else:
                fits.append(centred(features, truth, lambda: LogisticRegression(C=10.0, max_iter=500))[:2])
        rows, offsets = (np.concatenate(part).astype("float32") for part in zip(*fits, strict=True))
        return rows.T, offsets

    def neighbours(self, count: int) -> Any:
        from sklearn.neighbors import KNeighborsRegressor

        return KNeighborsRegressor(count, metric="cosine", weights="distance")  # shares of the neighbours

    def answer(self, name: str, row: np.ndarray, config: Any, top: int, size: tuple[int, ...] | None) -> Labels:
        ranked = base.probabilities_of(config, row, len(row))
        return Labels(name, tuple(label for label, share in ranked if share >= LIKELY), dict(ranked))

    def unreadable(self, name: str, error: str) -> Labels:
        return Labels(name, (), {}, error)


TASK = Multilabel()
