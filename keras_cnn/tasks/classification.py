"""One class of several for each image: softmax and cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np

from keras_cnn.errors import BadData, BadSpec
from keras_cnn.insight import plots
from keras_cnn.tasks import base, results
from keras_cnn.tasks.base import MEND, Task
from keras_cnn.tasks.linear import centred
from keras_cnn.tasks.results import Gathering

PRESENT = 0.2  # share of a class from which on binary cross-entropy takes it for present, as in timm's files for it
STRENGTH = 10.0  # of the fit of a linear probe against the penalty, on centred features of mean length 1


class Guess(NamedTuple):
    """A class and its probability. description: what the label means, where the weights know it; else the label."""

    label: str
    probability: float
    description: str


class Answer(NamedTuple):
    """What an image shows. name: the image's path, or place in what was given; label, probability: of the best guess.

    top: the most probable classes, the best first. error: why an image could not be read; it then has no guess.
    """

    name: str
    label: str | None
    probability: float | None
    top: tuple[Guess, ...]
    error: str | None = None

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        guesses = [{"class": label, "name": name, "probability": share} for label, share, name in self.top]
        return {"image": self.name, "top": guesses}

    def columns(self) -> dict[str, Any]:
        """As a line of a table has it: its guesses beside each other, the best first."""
        line: dict[str, Any] = {}
        for i, (label, share, name) in enumerate(self.top, 1):
            number = "" if i == 1 else f"_{i}"
            line |= {f"class{number}": label, f"name{number}": name, f"probability{number}": share}
        return line

    def lines(self) -> list[str]:
        """As people read it."""
        return [f"{guess.probability:6.1%}  {guess.description}" for guess in self.top]


@dataclass(frozen=True, repr=False)
class Result(results.Result):
    """Predictions of classes: labels (images,), outputs the probabilities (images, classes)."""

    @property
    def probabilities(self) -> np.ndarray:
        return self.outputs

    @property
    def correct(self) -> int:
        return int((self.predicted == self.labels).sum())

    @property
    def counts(self) -> dict[str, int]:
        return {"correct": self.correct}

    @property
    def metrics(self) -> dict[str, float]:
        """accuracy, top5 (where there are more than five classes), crossentropy in nats, images; the last where none.

        accuracy is the share of the images that are named right.
        """
        if not len(self):
            return {"images": 0}
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
        return {key: results.wilson(round(share * len(self.labels)), len(self.labels)) for key, share in shares.items()}

    def by_class(self) -> list[dict[str, Any]]:
        """For each class: its name; images; recall, the share of them that is found; precision, the share of what is
        taken for the class that is of it. None where a share is of nothing."""
        counts = self.confusion()
        right, images, taken = counts.diagonal(), counts.sum(1), counts.sum(0)
        return [
            {
                "class": self.name_of(label),
                "images": int(n),
                "precision": int(hit) / int(t) if t else None,
                "recall": int(hit) / int(n) if n else None,
            }
            for label, (hit, n, t) in enumerate(zip(right, images, taken, strict=True))
        ]

    def confused(self) -> list[dict[str, Any]]:
        """Pairs of classes: true, predicted, and the images of the first taken for the second; most frequent first."""
        counts = self.confusion()
        np.fill_diagonal(counts, 0)
        pairs = sorted(zip(*np.nonzero(counts), strict=True), key=lambda pair: -counts[pair])
        return [
            {"true": self.name_of(true), "predicted": self.name_of(taken), "images": int(counts[true, taken])}
            for true, taken in pairs
        ]

    def mistakes(self) -> np.ndarray:
        """Positions of the images that are taken for another class, the surest first."""
        sure = self.probabilities.max(1, initial=0)
        return np.array(sorted(np.flatnonzero(self.predicted != self.labels), key=lambda i: -sure[i]), int)

    def worst(self, most: int = 10) -> list[dict[str, Any]]:
        """At most so many mistakes, the surest first: image, its true and predicted class, the latter's probability."""
        taken: list[int] = self.predicted.tolist()
        return [
            {
                "image": self.image(i),
                "true": self.name_of(int(self.labels[i])),
                "predicted": self.name_of(taken[i]),
                "probability": float(self.probabilities[i, taken[i]]),
            }
            for i in self.mistakes()[:most].tolist()
        ]

    def confusion(self) -> np.ndarray:
        """(classes, classes) counts: row is the true class, column the predicted one."""
        classes = self.probabilities.shape[1]
        return np.bincount(self.labels * classes + self.predicted, minlength=classes**2).reshape(classes, classes)

    def details(self) -> dict[str, Any]:
        """By class, the confusion matrix, the pairs that are confused most, and the worst mistakes."""
        return {
            "classes": [row for row in self.by_class() if row["images"] or row["precision"] is not None],
            "confusion": self.confusion().tolist(),
            "confused": self.confused(),
            "worst": self.worst(),
        }

    def pictures(self, folder: str | Path) -> dict[str, str]:
        """The confusion matrix of the classes that occur."""
        occur: list[int] = np.unique(np.concatenate([self.labels, self.predicted])).tolist()
        counts, names = self.confusion()[np.ix_(occur, occur)], [self.name_of(i) for i in occur]
        plots.confusion_matrix(counts, names, Path(folder) / "confusion.png")
        return {"confusion.png": "the confusion matrix"}


@keras.saving.register_keras_serializable("keras_cnn")
class OneAgainstAll(keras.losses.BinaryCrossentropy):
    """Binary cross-entropy of each class by itself, its mean over the classes (2110.00476).

    Targets are shares (batch, classes), outputs logits. A class whose share is above PRESENT counts as there, however
    images were mixed. label_smoothing: spread over all classes, as categorical cross-entropy has it.
    """

    def __init__(self, label_smoothing: float = 0.0, name: str = "one_against_all", **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "from_logits": True, "name": name})
        self.smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        there: Any = keras.ops.cast(y_true > PRESENT, y_pred.dtype)
        return super().call(there * (1 - self.smoothing) + self.smoothing / y_pred.shape[-1], y_pred)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "label_smoothing": self.smoothing}


def _one_against_all(from_logits: bool, label_smoothing: float, **_: Any) -> keras.losses.Loss:
    if not from_logits:
        raise BadSpec("loss='bce' is of logits, not of softmax: build the network with classifier_activation=None.")
    return OneAgainstAll(label_smoothing)


class Classification(Task):
    """One class of several for each image; labels are whole numbers from 0, or shares of the classes."""

    name = "classification"
    monitor = "val_accuracy"
    format = ".1%"
    label_smoothing = 0.1
    weighs_images = one_class = True
    LOSSES: ClassVar[Mapping[str, base.Loss]] = {
        "crossentropy": lambda from_logits, label_smoothing, **_: keras.losses.CategoricalCrossentropy(
            from_logits=from_logits, label_smoothing=label_smoothing
        ),
        "focal": lambda from_logits, label_smoothing, **_: keras.losses.CategoricalFocalCrossentropy(
            alpha=1.0, from_logits=from_logits, label_smoothing=label_smoothing
        ),
        "bce": _one_against_all,
    }

    def outputs(self, model: Any) -> int:
        activations, output = keras.activations, model.outputs[0]
        activation = base.last_activation(model)
        if len(output.shape) != 2 or activation is None:
            raise BadSpec(
                f"{model.name} ends in features, not in a classifier (classes=0): build it with "
                "classes=data.class_names, or give it a head with kc.replace_head(model, 5)."
            )
        if output.shape[-1] == 1:
            raise BadSpec(
                f"{model.name} has one output (classes=1), and softmax over one class is always 1: build it with "
                "classes=2 for labels 0 and 1, or with task='binary'."
            )
        if activation not in (activations.softmax, activations.linear):
            raise BadSpec(
                f"classifier_activation={activation.__name__!r} does not make one class of several the answer: build "
                f"{model.name} with classifier_activation='softmax', with task='multilabel' where an image may have "
                "several classes, or use model.compile and model.fit with a loss for it."
            )
        return output.shape[-1]

    def check(self, labels: Any, outputs: int | None, what: str) -> None:
        of = f"labels of the {what} images"
        labels = np.asarray(labels)
        if labels.dtype.kind in "OSUT":
            raise BadData(
                f"the {of} are texts, such as {str(labels.flat[0])!r}: give numbers from 0, such as those of "
                "names, labels = numpy.unique(texts, return_inverse=True)."
            )
        if labels.ndim == 2 and labels.shape[1] > 1:
            return _check_shares(labels, outputs, of)
        if labels.ndim not in (1, 2):
            masks = "; masks are learnt with head=kc.UNet(classes=...)" if labels.ndim > 2 else ""
            raise BadData(f"the {of} have the shape {labels.shape}: give one whole number for each image{masks}.")
        if labels.dtype.kind not in "biu":
            raise BadData(
                f"the {of} are {labels.dtype}: give whole numbers, as labels.astype('int32') makes them, and Keras' "
                "readers with label_mode='int'; numbers to be predicted are learnt with task='regression'."
            )
        classes = np.iinfo("int32").max if outputs is None else outputs
        strange = labels[(labels < 0) | (labels >= classes)]
        if strange.size:
            shift = " Labels count from 0: subtract 1 where yours begin at 1." if strange.flat[0] == classes else ""
            raise BadData(
                f"a label of the {what} images is {strange.flat[0]}, the head has {classes} classes: {MEND}{shift}"
            )

    def check_all(self, labels: Any, held_out: Any) -> None:
        seen, others = (np.unique(x).tolist() if x is not None and x.ndim == 1 else [] for x in (labels, held_out))
        if len(seen) == 1:
            raise BadData(f"all training images are of class {seen[0]}: there is nothing to tell apart; add others.")
        if seen and (unknown := sorted(set(others) - set(seen))):
            raise BadData(f"class {unknown[0]} has validation images, but no training images; add some.")

    def as_labels(self, labels: np.ndarray) -> np.ndarray:
        """Whole numbers (n,), where labels are one-hot or a column."""
        if labels.ndim == 2 and labels.shape[1] > 1:
            return labels.argmax(1) if np.isin(labels, (0, 1)).all() else labels
        return labels.reshape(-1)

    def targets(self, labels: Any, outputs: int, inputs: Any) -> np.ndarray:
        """(batch, classes) shares: whole numbers, (batch,) or (batch, 1), become one-hot, shares stay."""
        labels = np.asarray(labels)
        if labels.ndim == 2 and labels.shape[1] == outputs > 1:
            return labels.astype("float32")
        shares = np.zeros((len(labels), outputs), "float32")
        shares[np.arange(len(labels)), labels.reshape(-1).astype("int64")] = 1
        return shares

    def metrics(self, model: Any) -> list[keras.metrics.Metric]:
        return [keras.metrics.CategoricalAccuracy(name="accuracy")]

    def losses_of_labels(self, model: Any) -> list[keras.losses.Loss]:
        return [keras.losses.SparseCategoricalCrossentropy(from_logits=one) for one in self.logits(model)]

    def metrics_of_labels(self, model: Any) -> list[keras.metrics.Metric]:
        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]

    def weights(self, wanted: Any, given: Any, outputs: int) -> dict[int, float]:
        """A weight for each class; those that are not named, or have no images, weigh 1."""
        if isinstance(wanted, Mapping):
            return by_number(wanted, outputs)
        counts = np.bincount(balanced(wanted, given), minlength=outputs)
        fair = counts.sum() / np.count_nonzero(counts)
        return {label: float(fair / counts[label]) if counts[label] else 1.0 for label in range(outputs)}

    def gather(self, outputs: tuple[int, ...], class_names: tuple[str, ...]) -> Gathering:
        return Gathering(Result, outputs, class_names)

    def finish(self, rows: np.ndarray, logits: bool) -> np.ndarray:
        return base.softmax(rows) if logits else rows

    def decided(self, rows: np.ndarray) -> np.ndarray | None:
        return rows.argmax(-1)

    def numbers(self, labels: np.ndarray, what: str) -> np.ndarray:
        """(n,) class numbers, of labels that are numbers, a column of them, or one-hot."""
        if labels.ndim == 1 or labels.shape[1] == 1:
            return labels.reshape(-1)
        if not np.isin(labels, (0, 1)).all():
            raise BadData(f"the labels of the {what} images are shares of classes: give one class for each image.")
        return labels.argmax(1)

    def renumbered(self, label: Any, place: np.ndarray) -> int:
        return int(place[label])

    def linear(self, features: np.ndarray, labels: np.ndarray, outputs: int, model: Any) -> Any:
        return logistic(features, labels, outputs)

    def neighbours(self, count: int) -> Any:
        from sklearn.neighbors import KNeighborsClassifier

        return KNeighborsClassifier(count, metric="cosine", weights="distance")

    def width(self, labels: np.ndarray) -> int:
        return int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1]

    def rows(self, answers: np.ndarray, outputs: int) -> np.ndarray:
        return self.targets(answers, outputs, None)

    def answer(self, name: str, row: np.ndarray, config: Any, top: int, size: tuple[int, ...] | None) -> Answer:
        described = config.provenance.get("class_descriptions", {})
        best = base.probabilities_of(config, row, top)
        return Answer(name, *best[0], tuple(Guess(label, share, described.get(label, label)) for label, share in best))

    def unreadable(self, name: str, error: str) -> Answer:
        return Answer(name, None, None, (), error)


def _check_shares(labels: np.ndarray, classes: int | None, of: str) -> None:
    """Shares of classes, one-hot or mixed; several whole classes for an image are another task."""
    if classes not in (None, labels.shape[1]):
        raise BadData(f"the {of} have {labels.shape[1]} columns, the head has {classes} classes: {MEND}")
    sums = labels.sum(1, dtype="float64")
    wrong = np.flatnonzero((labels < 0).any(1) | (abs(sums - 1) > 1e-3))
    if wrong.size:
        row = wrong[0]
        raise BadData(
            f"row {row} of the {of} adds up to {sums[row]:g}, not to 1: several classes for one image cannot be learnt "
            "with softmax; give one class for each image, or build the network with task='multilabel'."
        )


def by_number(wanted: Mapping[Any, float], outputs: int) -> dict[int, float]:
    """A weight for each class, of what a mapping names; numbers may be texts, as a file has them."""
    numbered = {int(key) if str(key).isdigit() else key: value for key, value in wanted.items()}
    if strange := [label for label in numbered if label not in range(outputs)]:
        raise BadSpec(f"class_weight has the class {strange[0]!r}: the head's go from 0 to {outputs - 1}.")
    return {label: float(numbered.get(label, 1.0)) for label in range(outputs)}


def balanced(wanted: Any, given: Any) -> np.ndarray:
    """The labels by which classes are balanced, where that was wished for and they are known."""
    labels = given.labels()
    if wanted != "balanced" or labels is None:
        raise BadSpec(f"class_weight={wanted!r}: give a weight for each class, or, with Data or arrays, 'balanced'.")
    return labels


def logistic(features: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression on features (images, n) as a dense layer; classes that no image has are left improbable."""
    from sklearn.linear_model import LogisticRegression

    model = partial(LogisticRegression, C=STRENGTH, max_iter=500)
    rows, offsets, found = centred(features, labels, model)
    if len(found.classes_) == 2:  # scikit-learn has one row for two classes; each takes a half
        rows, offsets = np.stack([-rows[0], rows[0]]) / 2, np.array([-offsets[0], offsets[0]]) / 2
    kernel, bias = np.zeros((features.shape[1], classes), "float32"), np.full(classes, -30.0, "float32")
    kernel[:, found.classes_] = rows.T
    bias[found.classes_] = offsets
    return kernel, bias


TASK = Classification()
