"""A class for each pixel, or for each step of a sequence; those that are labelled 255 do not count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
from PIL import Image as Picture

from keras_cnn.data.masks import IGNORED
from keras_cnn.errors import BadData
from keras_cnn.insight import plots
from keras_cnn.tasks import base, results
from keras_cnn.tasks.base import MEND, Task
from keras_cnn.tasks.classification import balanced, by_number
from keras_cnn.tasks.results import Gathering

ops: Any = keras.ops  # whose types say less than is true

SHOWN = 3  # images in the picture: some drawn at random, and as many of the worst


class Mask(NamedTuple):
    """What an image shows where. mask: the number of the class of each pixel, uint8 (height, width), of the size of the
    image's file, or of the array. shares: of the pixels, by class. error: why an image could not be read."""

    name: str
    mask: Any
    shares: dict[str, float]
    error: str | None = None

    def facts(self) -> dict[str, Any]:
        return {"image": self.name, "shares": self.shares}

    def picture(self) -> Any:
        """Pillow's image of the numbers of classes, with colours to be seen by; `load_data` reads it as a mask."""
        picture = Picture.fromarray(self.mask)
        picture.putpalette(plots.class_colours(len(self.shares)).astype("uint8").tobytes())
        return picture

    def columns(self) -> dict[str, Any]:
        return self.shares

    def lines(self) -> list[str]:
        ranked = sorted(self.shares.items(), key=lambda item: -item[1])
        return [f"{share:6.1%}  {label}" for label, share in ranked if share]


class Sample(NamedTuple):
    """An image with its true and its predicted classes, for pictures."""

    name: str
    iou: float
    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True, repr=False)
class Result(results.Result):
    """Classes of pixels. labels: pixels that count of each image; outputs: counts (classes, classes) of pixels, a row
    for each true class and a column for each predicted one. ious: of each image, the mean over the classes that it
    shows or is thought to. samples: some images with their masks."""

    ious: np.ndarray = field(default_factory=lambda: np.empty(0))
    samples: tuple[Sample, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """miou, the mean over classes of intersection over union, of all images together; dice, likewise; accuracy, the
        share of the pixels that are right; images; this alone where there are none. Classes that no pixel has, nor is
        thought to have, are left out of the means."""
        if not len(self):
            return {"images": 0}
        rows = [row for row in self.by_class() if row["iou"] is not None]
        return {
            "miou": float(np.mean([row["iou"] for row in rows])),
            "dice": float(np.mean([row["dice"] for row in rows])),
            "accuracy": float(np.trace(self.outputs) / max(self.outputs.sum(), 1)),
            "images": len(self),
        }

    def by_class(self) -> list[dict[str, Any]]:
        """For each class: its name, its share of the pixels, IoU, Dice; None where it neither is nor is predicted."""
        hit, true, taken = self.outputs.diagonal(), self.outputs.sum(1), self.outputs.sum(0)
        return [
            {
                "class": self.name_of(c),
                "share": float(true[c] / max(true.sum(), 1)),
                "iou": float(hit[c] / (true[c] + taken[c] - hit[c])) if true[c] + taken[c] else None,
                "dice": float(2 * hit[c] / (true[c] + taken[c])) if true[c] + taken[c] else None,
            }
            for c in range(len(hit))
        ]

    def worst(self, most: int = 10) -> list[dict[str, Any]]:
        """At most so many images, those of the lowest IoU first."""
        return [{"image": self.image(i), "iou": float(self.ious[i])} for i in self.ious.argsort(kind="stable")[:most]]

    def details(self) -> dict[str, Any]:
        return {"classes": self.by_class(), "worst": self.worst()}

    def pictures(self, folder: str | Path) -> dict[str, str]:
        """Photos beside their masks; none for sequences."""
        shown = [sample for sample in self.samples if sample.image.ndim == 3]
        if not shown:
            return {}
        names = [self.name_of(c) for c in range(len(self.outputs))]
        plots.masks(shown, names, Path(folder) / "masks.png")
        return {"masks.png": "masks beside the true ones"}


class _Counting(Gathering):
    """Counts pixels image by image, in the memory of a few."""

    def __init__(self, classes: int, class_names: tuple[str, ...]) -> None:
        super().__init__(Result, (classes, classes), class_names)
        self.counts = np.zeros((classes, classes), np.int64)
        self.ious: list[float] = []
        self.some = results.Some(SHOWN)
        self.worst: list[Sample] = []

    def add(self, name: str, image: np.ndarray, label: Any, row: np.ndarray) -> None:
        classes = len(self.counts)
        taken = row.argmax(-1)
        truth = np.asarray(label).reshape(taken.shape)
        known = truth != IGNORED
        pairs = truth[known].astype(np.int64) * classes + taken[known]
        counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        hit, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
        iou = float((hit[union > 0] / union[union > 0]).mean()) if union.any() else 1.0
        self.counts += counts
        self.names.append(name)
        self.labels.append(int(known.sum()))
        self.ious.append(iou)
        sample = Sample(name, iou, image, truth, taken.astype(np.uint8))
        self.worst = sorted([*self.worst, sample], key=lambda one: one.iou)[: 2 * SHOWN]
        self.some.offer(sample)

    def result(self, **facts: Any) -> Result:
        worst = [sample for sample in self.worst if not any(sample is one for one in self.some.kept)][:SHOWN]
        ious, samples = np.array(self.ious), (*self.some.kept, *worst)
        labels = np.array(self.labels, int)
        return Result(labels, self.counts, tuple(self.names), self.class_names, ious=ious, samples=samples, **facts)


@keras.saving.register_keras_serializable("keras_cnn")
class SegmentationLoss(keras.losses.Loss):
    """A loss over pixels that have a class; labels (batch, ...) of class numbers, outputs (batch, ..., classes).

    kind: "crossentropy"; "focal" (1708.02002, with gamma 2); "dice", 1 less the mean over classes of the soft Dice
    coefficient of the whole batch (1606.04797, eq. 1); or "crossentropy+dice", their sum.
    weights: of the classes. from_logits, label_smoothing: as Keras has them; the second is for logarithms alone.
    """

    def __init__(
        self,
        kind: str = "crossentropy",
        weights: Any = None,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        name: str = "segmentation_loss",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.kind, self.from_logits, self.label_smoothing = kind, from_logits, label_smoothing
        self.weights = None if weights is None else [float(weight) for weight in weights]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        given: Any = ops.cast(y_pred, "float32")
        classes = given.shape[-1]
        truth: Any = ops.cast(y_true, "int32")
        if len(truth.shape) == len(given.shape):
            truth = ops.squeeze(truth, -1)
        known: Any = ops.cast(ops.not_equal(truth, IGNORED), "float32")
        hot: Any = ops.one_hot(ops.where(truth == IGNORED, 0, truth), classes, dtype="float32")
        logs: Any = ops.log_softmax(given) if self.from_logits else ops.log(ops.clip(given, 1e-7, 1.0))
        loss: Any = ops.zeros(ops.shape(truth)[:1])  # one number an image, as Keras has losses
        if self.kind != "dice":
            smooth = hot * (1 - self.label_smoothing) + self.label_smoothing / classes
            if self.kind == "focal":
                smooth = smooth * (1 - ops.exp(logs)) ** 2
            if self.weights is not None:
                smooth = smooth * ops.convert_to_tensor(self.weights, "float32")
            each = -ops.sum(smooth * logs, -1) * known
            axes = tuple(range(1, len(truth.shape)))
            loss = loss + ops.sum(each, axes) / ops.maximum(ops.mean(ops.sum(known, axes)), 1.0)
        if "dice" in self.kind:
            share, inside = ops.exp(logs) * known[..., None], hot * known[..., None]
            axes = tuple(range(len(truth.shape)))
            there = ops.sum(inside, axes)
            dice = (2 * ops.sum(share * inside, axes) + 1) / (ops.sum(share, axes) + there + 1)
            present = ops.cast(there > 0, "float32")
            if self.weights is not None:
                present = present * ops.convert_to_tensor(self.weights, "float32")
            loss = loss + 1 - ops.sum(dice * present) / ops.maximum(ops.sum(present), 1e-7)
        return loss

    def get_config(self) -> dict[str, Any]:
        own = ("kind", "weights", "from_logits", "label_smoothing")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


class _Pixels(keras.metrics.Metric):
    """A figure of the counts of pixels, true against predicted classes."""

    def __init__(self, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = classes
        self.counts = self.add_weight(shape=(classes, classes), initializer="zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        truth: Any = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        taken: Any = ops.reshape(ops.argmax(y_pred, -1), (-1,))
        known: Any = ops.cast(ops.not_equal(truth, IGNORED), "float32")[:, None]
        true, predicted = (ops.one_hot(one, self.classes, dtype="float32") for one in (truth % self.classes, taken))
        # A product of matrices: counting into bins is slow where many threads add to a few of them.
        self.counts.assign_add(ops.matmul(ops.transpose(true * known), predicted))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "classes": self.classes}


@keras.saving.register_keras_serializable("keras_cnn")
class MeanIoU(_Pixels):
    """The mean over the classes that occur of intersection over union."""

    def result(self) -> Any:
        hit: Any = ops.diagonal(self.counts)
        union: Any = ops.sum(self.counts, 0) + ops.sum(self.counts, 1) - hit
        there = ops.cast(union > 0, "float32")
        return ops.sum(hit / ops.maximum(union, 1.0)) / ops.maximum(ops.sum(there), 1.0)


@keras.saving.register_keras_serializable("keras_cnn")
class PixelAccuracy(_Pixels):
    """The share of the pixels that are right."""

    def result(self) -> Any:
        return ops.sum(ops.diagonal(self.counts)) / ops.maximum(ops.sum(self.counts), 1.0)


def _loss(kind: str) -> base.Loss:
    return lambda from_logits, label_smoothing, weights, **_: SegmentationLoss(
        kind, weights=weights, from_logits=from_logits, label_smoothing=label_smoothing
    )


class Segmentation(Task):
    """A class for each pixel, or step; labels are class numbers (n, height, width), or (n, steps), 255 for none."""

    name = "segmentation"
    monitor = "val_miou"
    label_smoothing = 0.0
    LOSSES: ClassVar[Mapping[str, base.Loss]] = {
        kind: _loss(kind) for kind in ("crossentropy", "crossentropy+dice", "dice", "focal")
    }

    def outputs(self, model: Any) -> int:
        activations = (keras.activations.softmax, keras.activations.linear)
        rank = max(len(model.outputs[0].shape), 3)  # images have 4, sequences 3
        return base.dense_output(
            model, rank, "a class for each pixel", activations, "build it with head=kc.UNet(classes=data.class_names)"
        )

    def check(self, labels: Any, outputs: int | None, what: str) -> None:
        of = f"masks of the {what} images"
        labels = base.numbers_only(labels, of, "the number of a class for each pixel")
        if labels.dtype.kind not in "biu":
            raise BadData(f"the {of} are {labels.dtype}: give whole numbers, as masks.astype('uint8') makes them.")
        if labels.ndim < 2:
            raise BadData(f"the {of} have the shape {labels.shape}: give a class for each pixel, (n, height, width).")
        strange = labels[((labels < 0) | (labels >= outputs)) & (labels != IGNORED)] if outputs else labels[:0]
        if strange.size:
            raise BadData(
                f"a pixel of the {of} is {strange.flat[0]}, the head has {outputs} classes: {MEND} Pixels of "
                f"{IGNORED} do not count."
            )

    def check_pairs(self, images: Any, labels: Any, what: str) -> None:
        given, wanted = np.shape(labels)[1:], np.shape(images)[1:-1]
        if given not in (wanted, (*wanted, 1)):
            raise BadData(f"the masks of the {what} images are {given}, the images {wanted}: give masks of their size.")

    def targets(self, labels: Any, outputs: int, inputs: Any) -> np.ndarray:
        return np.asarray(labels, "int32")

    def metrics(self, model: Any) -> list[keras.metrics.Metric]:
        classes = model.outputs[0].shape[-1]
        return [MeanIoU(classes, name="miou"), PixelAccuracy(classes, name="accuracy")]

    def weights(self, wanted: Any, given: Any, outputs: int) -> dict[int, float]:
        """ "balanced": the median of the classes' shares of the pixels over each one's (1411.4734, section 6.3.2)."""
        if isinstance(wanted, Mapping):
            return by_number(wanted, outputs)
        counts = np.bincount(balanced(wanted, given).reshape(-1), minlength=IGNORED + 1)[:outputs]
        median = float(np.median(counts[counts > 0]))
        return {c: median / int(n) if n else 1.0 for c, n in enumerate(counts)}

    def gather(self, outputs: tuple[int, ...], class_names: tuple[str, ...]) -> Gathering:
        return _Counting(outputs[-1], class_names)

    def decided(self, rows: np.ndarray) -> np.ndarray:
        return rows.argmax(-1)

    def renumbered(self, label: Any, place: np.ndarray) -> np.ndarray:
        numbers = np.full(IGNORED + 1, IGNORED, np.uint8)
        numbers[: len(place)] = place
        return numbers[label]

    def answer(self, name: str, row: np.ndarray, config: Any, top: int, size: tuple[int, ...] | None) -> Mask:
        mask = row.argmax(-1).astype(np.uint8)
        if size is not None and mask.shape != size:
            mask = stretched(mask, size)
        shares = np.bincount(mask.reshape(-1), minlength=row.shape[-1]) / mask.size
        names = config.class_names or [f"class {i}" for i in range(row.shape[-1])]
        return Mask(name, mask, dict(zip(names, shares.tolist(), strict=True)))

    def unreadable(self, name: str, error: str) -> Mask:
        return Mask(name, None, {}, error)


def stretched(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A mask at another size, the class of the nearest pixel."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(mask.shape, size, strict=True)
    )
    return mask[rows][:, columns]


TASK = Segmentation()
