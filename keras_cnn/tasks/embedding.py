"""A direction for each image, near to those of images of the same class: for search, and for classes yet unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np

from keras_cnn.errors import BadData, BadSpec
from keras_cnn.tasks import base, results
from keras_cnn.tasks.classification import Classification
from keras_cnn.tasks.results import Gathering

ops: Any = keras.ops  # whose types say less than is true

MARGIN = 0.2  # of squared distance, between an image of the same class and one of another (1503.03832, section 3.1)
TEMPERATURE = 0.1  # of the contrastive loss (2004.11362, section 4.4)
NEAREST = 10  # images of which a class is voted


class Embedding(NamedTuple):
    """Where an image lies. vector: float32 (n,), of length 1. error: why an image could not be read."""

    name: str
    vector: Any
    error: str | None = None

    def facts(self) -> dict[str, Any]:
        return {"image": self.name, "vector": [] if self.vector is None else self.vector.tolist()}

    def columns(self) -> dict[str, Any]:
        return {str(i): value for i, value in enumerate(self.vector.tolist())}

    def lines(self) -> list[str]:
        some = ", ".join(f"{value:.3f}" for value in self.vector[:4])
        return [f"({some}, ...), {len(self.vector)} numbers; --out FILE.csv has all"]


@dataclass(frozen=True, repr=False)
class Result(results.Result):
    """Directions: labels (images,), outputs (images, n). Each image is looked for among all others."""

    @cached_property
    def _nearest(self) -> np.ndarray:
        """The labels of the nearest other images, (images, NEAREST), in blocks so that memory is bounded."""
        found, most = [], min(NEAREST, len(self) - 1)
        for start in range(0, len(self), 1024):
            near = self.outputs[start : start + 1024] @ self.outputs.T
            near[np.arange(len(near)), start + np.arange(len(near))] = -np.inf  # itself
            found.append(self.labels[(-near).argsort(1, kind="stable")[:, :most]])
        return np.concatenate(found)

    @property
    def metrics(self) -> dict[str, float]:
        """recall1, the share of the images whose nearest other one is of the same class; knn, the share whose class the
        nearest ten vote for; images; this alone where there are fewer than two."""
        if len(self) < 2:
            return {"images": len(self)}
        votes = np.array([np.bincount(row).argmax() for row in self._nearest])
        return {
            "recall1": float((self._nearest[:, 0] == self.labels).mean()),
            "knn": float((votes == self.labels).mean()),
            "images": len(self),
        }

    def details(self) -> dict[str, Any]:
        right = self._nearest[:, 0] == self.labels if len(self) > 1 else np.empty(0, bool)
        rows = [
            {
                "class": self.name_of(c),
                "images": int((self.labels == c).sum()),
                "recall1": float(right[self.labels == c].mean()),
            }
            for c in np.unique(self.labels).tolist()
        ]
        return {"classes": rows} if len(right) else {}


@keras.saving.register_keras_serializable("keras_cnn")
class MetricLoss(keras.losses.Loss):
    """A loss of directions (batch, n) by the classes of a batch's images, (batch,).

    kind: "contrastive", images of the same class against all others of the batch (2004.11362, eq. 2); "triplet", each
    pair of one class against the nearest image of another that lies further off than the pair, by a margin, which
    avoids that all directions become one (1503.03832, section 3.2).
    """

    def __init__(self, kind: str = "contrastive", name: str = "metric_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.kind = kind

    def call(self, y_true: Any, y_pred: Any) -> Any:
        labels: Any = ops.reshape(y_true, (-1,))
        given: Any = ops.cast(y_pred, "float32")
        near: Any = given @ ops.transpose(given)
        own: Any = ops.eye(ops.shape(given)[0], dtype="float32")
        same: Any = ops.cast(labels[:, None] == labels[None], "float32") - own
        if self.kind == "contrastive":
            logits = near / TEMPERATURE - 1e9 * own
            each = -ops.sum(same * ops.log_softmax(logits, -1), 1)
            return each / ops.maximum(ops.sum(same, 1), 1.0)
        apart: Any = 2 - 2 * near  # squared distance
        other: Any = (1 - same) * (1 - own)
        # (anchor, positive, negative): the nearest negative beyond the positive; else the furthest one of all.
        beyond = ops.logical_and(other[:, None, :] > 0, apart[:, None, :] > apart[:, :, None])
        semi = ops.min(ops.where(beyond, apart[:, None, :], 1e9), -1)
        furthest = ops.max(ops.where(other > 0, apart, -1e9), -1)[:, None]
        negative = ops.where(semi < 1e9, semi, furthest)
        each = ops.relu(apart - negative + MARGIN) * same * ops.cast(furthest > -1e9, "float32")
        return ops.sum(each, 1) / ops.maximum(ops.sum(same, 1), 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind}


class MetricLearning(Classification):
    """A direction for each image; labels are class numbers, whose classes the network need not have a head for."""

    name = "embedding"
    monitor = "val_recall1"
    format = ".3f"
    label_smoothing = None
    weighs_images = one_class = one_by_one = False
    LOSSES: ClassVar[Mapping[str, base.Loss]] = {
        "contrastive": lambda **_: MetricLoss("contrastive"),
        "triplet": lambda **_: MetricLoss("triplet"),
    }

    def outputs(self, model: Any) -> int:
        last = model.layers[-1]
        if not isinstance(last, keras.layers.UnitNormalization) or len(model.outputs[0].shape) != 2:
            raise BadSpec(f"{model.name} does not end in a direction: build it with task='embedding'.")
        return model.outputs[0].shape[-1]

    def check(self, labels: Any, outputs: int | None, what: str) -> None:
        if np.ndim(labels) == 2 and np.shape(labels)[1] > 1:
            raise BadData(f"the labels of the {what} images are shares of classes: give one class for each image.")
        super().check(labels, None, what)

    def check_classes(self, names: Sequence[str], model: Any, outputs: int) -> None:
        pass  # they need not be the network's

    def check_all(self, labels: Any, held_out: Any) -> None:
        super().check_all(labels, None)  # validation images may be of other classes: that is what directions are for

    def targets(self, labels: Any, outputs: int, inputs: Any) -> np.ndarray:
        return np.asarray(labels, "int32").reshape(-1)

    def losses_of_labels(self, model: Any) -> list[keras.losses.Loss]:
        return self.losses(model)

    def metrics(self, model: Any) -> list[keras.metrics.Metric]:
        return []

    def metrics_of_labels(self, model: Any) -> list[keras.metrics.Metric]:
        return []

    def weights(self, wanted: Any, given: Any, outputs: int) -> Any:
        return base.Task.weights(self, wanted, given, outputs)

    def judge(self, network: Any, batches: Any) -> dict[str, float]:
        """Recall at 1, which needs all validation images."""
        rows, labels = [], []
        for inputs, truth in batches:
            rows.append(base.scores(network, inputs))
            labels.append(self.numbers(np.asarray(truth), "validation"))
        found = self.measured(np.concatenate(labels), np.concatenate(rows))
        return {"val_recall1": self.figure(found)}

    def gather(self, outputs: tuple[int, ...], class_names: tuple[str, ...]) -> Gathering:
        return Gathering(Result, outputs, class_names)

    def finish(self, rows: np.ndarray, logits: bool) -> np.ndarray:
        return rows

    def decided(self, rows: np.ndarray) -> np.ndarray | None:
        return None

    def places(self, data: Any, names: tuple[str, ...], outputs: int) -> np.ndarray:
        return np.arange(len(data.class_names))

    def renumbered(self, label: Any, place: np.ndarray) -> int:
        return int(label)

    def linear(self, features: np.ndarray, labels: np.ndarray, outputs: int, model: Any) -> Any:
        return None

    def neighbours(self, count: int) -> Any:
        return None

    def check_answers(self, config: Any) -> None:
        pass

    def answer(self, name: str, row: np.ndarray, config: Any, top: int, size: tuple[int, ...] | None) -> Any:
        return Embedding(name, row)

    def unreadable(self, name: str, error: str) -> Any:
        return Embedding(name, None, error)


TASK = MetricLearning()
