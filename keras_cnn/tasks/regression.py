"""Numbers for each image, in the unit of the data: the mean and spread of the training targets sit in the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

ops: Any = keras.ops  # whose types say less than is true

UNSCALED = (np.zeros(1), np.ones(1))  # mean and spread of targets, where a network knows none


class Values(NamedTuple):
    """What was measured on an image: by target, in the unit of the training data; of a forecast, a list of steps.

    error: why an image could not be read; it then has none.
    """

    name: str
    values: dict[str, Any]
    error: str | None = None

    def facts(self) -> dict[str, Any]:
        return {"image": self.name, "values": self.values}

    def columns(self) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for target, value in self.values.items():
            steps = {f"{target}_{i}": step for i, step in enumerate(value, 1)} if isinstance(value, list) else None
            flat |= steps or {target: value}
        return flat

    def lines(self) -> list[str]:
        return [f"{value:>10.6g}  {target}" for target, value in self.columns().items()]


@dataclass(frozen=True, repr=False)
class Result(results.Result):
    """Numbers beside the true ones: labels and outputs (images, ..., targets), in the unit of the data."""

    @property
    def metrics(self) -> dict[str, float]:
        """r2, the share of the variance that is explained, the mean over targets; mae, rmse, the mean absolute and the
        root of the mean squared error, over all targets; images; this alone where there are none."""
        if not len(self):
            return {"images": 0}
        error = self.outputs.astype("float64") - self.labels
        known = [row["r2"] for row in self.by_target() if row["r2"] is not None]
        return {
            "r2": float(np.mean(known)) if known else float("nan"),
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt((error**2).mean())),
            "images": len(self),
        }

    def by_target(self) -> list[dict[str, Any]]:
        """For each target: its name, mae, rmse, r2; the last is None for a target that is always the same."""
        truth = self.labels.reshape(-1, self.labels.shape[-1]).astype("float64")
        error = self.outputs.reshape(truth.shape) - truth
        spread = ((truth - truth.mean(0)) ** 2).sum(0)
        return [
            {
                "target": self.name_of(t),
                "mae": float(np.abs(error[:, t]).mean()),
                "rmse": float(np.sqrt((error[:, t] ** 2).mean())),
                "r2": float(1 - (error[:, t] ** 2).sum() / spread[t]) if spread[t] else None,
            }
            for t in range(truth.shape[1])
        ]

    def worst(self, most: int = 10) -> list[dict[str, Any]]:
        """At most so many images, those that are furthest off for the spread of the target first."""
        if self.labels.ndim != 2 or not len(self):
            return []
        off = np.abs(self.outputs - self.labels) / np.maximum(self.labels.std(0), 1e-12)
        rows = []
        for i in (-off.max(1)).argsort(kind="stable")[:most].tolist():
            t = int(off[i].argmax())
            told = {"true": float(self.labels[i, t]), "predicted": float(self.outputs[i, t])}
            rows.append({"image": self.image(i), "target": self.name_of(t), **told})
        return rows

    def details(self) -> dict[str, Any]:
        return {"targets": self.by_target(), "worst": self.worst()}

    def pictures(self, folder: str | Path) -> dict[str, str]:
        names = [self.name_of(t) for t in range(self.labels.shape[-1])]
        flat = (-1, len(names))
        plots.predicted(self.labels.reshape(flat), self.outputs.reshape(flat), names, Path(folder) / "predicted.png")
        return {"predicted.png": "what was predicted against what is true"}


@keras.saving.register_keras_serializable("keras_cnn")
class ScaledLoss(keras.losses.Loss):
    """A loss of numbers in units of the spread of the training targets; labels and outputs (batch, ..., targets).

    So that metres and millimetres learn alike, and several targets count alike. std: the spread of each target.
    kind: "huber", squared up to one spread and linear beyond (Huber 1964); "squared"; "absolute".
    """

    def __init__(self, std: Any, kind: str = "huber", name: str = "scaled_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.std, self.kind = [float(one) for one in std], kind

    def call(self, y_true: Any, y_pred: Any) -> Any:
        std = ops.convert_to_tensor(self.std, "float32")
        off: Any = ops.abs(ops.cast(y_pred, "float32") - ops.cast(y_true, "float32")) / std
        if self.kind == "squared":
            off = ops.square(off)
        elif self.kind == "huber":
            off = ops.where(off < 1, 0.5 * ops.square(off), off - 0.5)
        return ops.mean(off, axis=tuple(range(1, len(off.shape))))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "std": self.std, "kind": self.kind}


@keras.saving.register_keras_serializable("keras_cnn")
class R2(keras.metrics.Metric):
    """The share of the variance of each target that is explained, their mean; of any rank, (batch, ..., targets).

    mean, std: of the training targets, by which sums are shifted and scaled, so that float32 holds them.
    """

    def __init__(self, mean: Any, std: Any, name: str = "r2", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.mean, self.std = [float(one) for one in mean], [float(one) for one in std]
        shape = (len(self.std),)
        self.count = self.add_weight(shape=(), initializer="zeros", name="count")
        self.total, self.squares, self.left = (
            self.add_weight(shape=shape, initializer="zeros", name=part) for part in ("total", "squares", "left")
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        mean, std = (ops.convert_to_tensor(part, "float32") for part in (self.mean, self.std))
        truth: Any = (ops.cast(y_true, "float32") - mean) / std
        given: Any = (ops.cast(y_pred, "float32") - mean) / std
        axes = tuple(range(len(given.shape) - 1))
        self.count.assign_add(ops.cast(ops.size(truth) / len(self.std), "float32"))
        self.total.assign_add(ops.sum(truth, axis=axes))
        self.squares.assign_add(ops.sum(ops.square(truth), axis=axes))
        self.left.assign_add(ops.sum(ops.square(given - truth), axis=axes))

    def result(self) -> Any:
        spread: Any = self.squares - ops.square(self.total) / ops.maximum(self.count, 1.0)
        return ops.mean(1 - self.left / ops.maximum(spread, 1e-7))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mean": self.mean, "std": self.std}


def _loss(kind: str) -> base.Loss:
    return lambda scale, **_: ScaledLoss(scale[1], kind)


class Regression(Task):
    """Numbers for each image; labels are (n,), (n, targets), or (n, steps, targets) of a forecast."""

    name = "regression"
    monitor = "val_r2"
    LOSSES: ClassVar[Mapping[str, base.Loss]] = {kind: _loss(kind) for kind in ("huber", "squared", "absolute")}

    def outputs(self, model: Any) -> int:
        if base.unit_of(model) is None or len(model.outputs[0].shape) < 2:
            raise BadSpec(
                f"{model.name} does not end in numbers in the unit of the data: build it with "
                "targets=data.class_names, or task='regression'."
            )
        return model.outputs[0].shape[-1]

    def check(self, labels: Any, outputs: int | None, what: str) -> None:
        of = f"labels of the {what} images"
        labels = base.numbers_only(labels, of, "numbers, one for each image and target")
        labels = self.as_labels(labels)
        if labels.ndim < 2 or outputs not in (None, labels.shape[-1]):
            raise BadData(f"the {of} have the shape {labels.shape}, the head {outputs} targets: {MEND}")
        if not np.isfinite(labels).all():
            row = int(np.flatnonzero(~np.isfinite(labels).reshape(len(labels), -1).all(1))[0])
            raise BadData(f"row {row} of the {of} is not a finite number: leave the image out, or mend its label.")

    def check_all(self, labels: Any, held_out: Any) -> None:
        if labels is not None:
            flat = labels.reshape(-1, labels.shape[-1])
            if (same := np.flatnonzero(flat.max(0) == flat.min(0))).size:
                raise BadData(f"target {same[0]} is {flat[0, same[0]]:g} for all training images: leave it out.")

    def as_labels(self, labels: np.ndarray) -> np.ndarray:
        return labels[:, None] if labels.ndim == 1 else labels

    def targets(self, labels: Any, outputs: int, inputs: Any) -> np.ndarray:
        return self.as_labels(np.asarray(labels)).astype("float32")

    def metrics(self, model: Any) -> list[keras.metrics.Metric]:
        mean, std = base.scale_of(model) or UNSCALED
        return [R2(mean, std), keras.metrics.MeanAbsoluteError(name="mae")]

    def gather(self, outputs: tuple[int, ...], class_names: tuple[str, ...]) -> Gathering:
        return Gathering(Result, outputs, class_names)

    def numbers(self, labels: np.ndarray, what: str) -> np.ndarray:
        return self.as_labels(labels)

    def renumbered(self, label: Any, place: np.ndarray) -> np.ndarray:
        row = np.empty_like(label)
        row[..., place] = label
        return row

    def linear(self, features: np.ndarray, labels: np.ndarray, outputs: int, model: Any) -> Any:
        """Ridge regression, its strength chosen by leaving images out."""
        from sklearn.linear_model import RidgeCV

        mean, std = base.scale_of(model) or UNSCALED
        scaled = ((labels - mean) / std).reshape(len(labels), -1)  # of a forecast, the targets of all its steps
        rows, offsets, _ = centred(features, scaled, lambda: RidgeCV(np.logspace(-4, 2, 13)))
        return rows.T.astype("float32"), offsets.astype("float32")

    def in_units(self, rows: np.ndarray, model: Any) -> np.ndarray:
        mean, std = base.scale_of(model) or UNSCALED
        return (rows.reshape(len(rows), -1, len(std)) * std + mean).reshape(rows.shape)

    def measured(self, labels: np.ndarray, rows: np.ndarray) -> results.Result:
        return super().measured(labels, rows.reshape(labels.shape))

    def neighbours(self, count: int) -> Any:
        from sklearn.neighbors import KNeighborsRegressor

        return KNeighborsRegressor(count, metric="cosine", weights="distance")

    def answer(self, name: str, row: np.ndarray, config: Any, top: int, size: tuple[int, ...] | None) -> Values:
        names = config.class_names or [f"target {i}" for i in range(row.shape[-1])]
        return Values(name, {target: row[..., i].tolist() for i, target in enumerate(names)})

    def unreadable(self, name: str, error: str) -> Values:
        return Values(name, {}, error)


TASK = Regression()
