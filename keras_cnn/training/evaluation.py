"""How good a network is on labelled images: figures, how sure they are, and what is taken for what."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cnn.building import build
from keras_cnn.data import Data, Splits, index, labelled, load_data, seen
from keras_cnn.deploy.predictor import classify, softmax
from keras_cnn.errors import BadData, BadImage, BadSpec
from keras_cnn.models.fields import known_options
from keras_cnn.terminal import progress

Labelled = tuple[str, np.ndarray | None, int]  # name, image (None where it is left out), label


@dataclass(frozen=True, repr=False)
class Result:
    """Predictions on images: labels (images,), probabilities (images, classes), in one order.

    names: of the images, their paths where they are files. class_names: of the network's classes, where it knows them.
    skipped: names of unreadable images that were left out. trained_on: the same for images that the network was
    trained on, which are not counted here; None where nothing is known of them.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    trained_on: Result | None = None

    def __repr__(self) -> str:
        figures = ", ".join(f"{key} {value:.4g}" for key, value in self.metrics.items() if key != "images")
        sure = "".join(f" ({low:.1%} to {high:.1%})" for low, high in [*self.intervals.values()][:1])
        return f"<Result: {len(self.labels):,} images{', ' + figures if figures else ''}{sure}>"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> int:
        return int((self.predicted == self.labels).sum())

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
        return {key: wilson(round(share * len(self.labels)), len(self.labels)) for key, share in shares.items()}

    def name_of(self, label: int) -> str:
        """A class by its name, or its number where it has none."""
        return self.class_names[label] if self.class_names else str(label)

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
                "image": self.names[i] if self.names else f"images[{i}]",
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


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share, hits of `of`: Wilson's (1927), right near 0 and 1 and for few. z: 1.96 for 95 %.

    >>> low, high = wilson(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    middle = (hits + z**2 / 2) / (of + z**2)
    half = z / (of + z**2) * math.sqrt(hits * (of - hits) / of + z**2 / 4)
    return max(middle - half, 0.0), min(middle + half, 1.0)


@known_options
def evaluate(
    model: Any,
    data: Any,
    *,
    split: str | None = None,
    run: str | os.PathLike[str] | None = None,
    batch_size: int = 128,
    skip_bad: bool = False,
) -> Result:
    """Measure a network on labelled images.

    model: a network; or what `build` takes, such as the directory of a run.
    data: a folder or zip, as `load_data` takes it, whose images are seen as the network's weights expect; classes are
        matched by name, so that it need not have all of them; `Data`, matched likewise; one of its splits or any data
        set of batches (images, labels); or a pair of arrays. Labels are the network's numbers of classes, or one-hot.
    split: of a folder or `Data`: "train", "val" or "test". By default test, else val; a folder without splits is taken
        whole, training images of `Data` only when asked for.
    run: the directory of a run. Images that it was trained on, as it knows them, are left out and counted apart in
        `Result.trained_on`. By default that of `model`, where this is a directory.
    batch_size: images that the network sees at once. Files are decoded as they are needed.
    skip_bad: leave unreadable files out, log them and name them in `Result.skipped`, instead of raising BadImage. (Of
        `Data`, what it was loaded with.)
    Returns a `Result`. Raises BadSpec for a network without a classifier, BadData for labels or images that it cannot
    be measured on.

    >>> import keras_cnn as kc, numpy as np
    >>> model = kc.build("resnet20", classes=["cat", "dog"])
    >>> result = kc.evaluate(model, (np.zeros((6, 32, 32, 3), "uint8"), np.arange(6) % 2))
    >>> result.metrics["accuracy"], [row["class"] for row in result.by_class()]
    (0.5, ['cat', 'dog'])
    """
    if batch_size < 1:
        raise BadSpec(f"batch_size={batch_size!r}: give 1 or more.")
    if run is not None and not Path(run).is_dir():
        raise BadData(f"run={str(run)!r}: there is no such directory.")
    named = isinstance(model, str | os.PathLike)
    run = model if named and run is None and Path(model).is_dir() else run
    net = build(model) if named else model
    classes, names = labelled.classes_of(net), labelled.class_names(net)
    if isinstance(data, str | os.PathLike | Splits):
        data, split = _loaded(net, data, split, batch_size, skip_bad)
    if isinstance(data, Data):
        images, count, names = _of_data(net, data, _chosen(data, split), names, classes)
    elif split is not None:
        raise BadSpec(f"split={split!r} is for Data and folders: leave it out, or give data.{split} itself.")
    else:
        images, count = _of_batches(net, data, classes), None
    known = seen.read(run) if run is not None else None
    with BadImage.surfacing():
        return _measured(net, progress(images, "evaluating", count), classes, names, known, batch_size)


def _measured(
    net: Any, images: Iterable[Labelled], classes: int, names: tuple[str, ...], known: set[str] | None, batch_size: int
) -> Result:
    """The result of images, apart from those whose hashes are known."""
    logits = labelled.last_activation(net) is keras.activations.linear
    skipped: list[str] = []
    found: dict[bool, list[tuple[str, int, np.ndarray]]] = {False: [], True: []}
    rows = classify(net, (((name, label), image) for name, image, label in images), batch_size)
    for (name, label), image, row in rows:
        if row is None:
            skipped.append(name)
        else:
            old = bool(known) and seen.of(image[None])[0] in known
            found[old].append((name, label, row))
    if not any(found.values()):
        raise BadData("not one of the images can be read." if skipped else "there are no images to evaluate on.")

    def result(some: list[tuple[str, int, np.ndarray]]) -> Result:
        scores = np.stack([row for *_, row in some]) if some else np.empty((0, classes), "float32")
        labels = np.array([label for _, label, _ in some], int)
        return Result(labels, softmax(scores) if logits else scores, tuple(name for name, *_ in some), names)

    trained_on = result(found[True]) if known is not None else None
    return dataclasses.replace(result(found[False]), skipped=tuple(skipped), trained_on=trained_on)


def _loaded(net: Any, data: Any, split: str | None, batch_size: int, skip_bad: bool) -> tuple[Data, str]:
    """(data of a folder, none of it decoded yet; the split to evaluate on)."""
    splits = data if isinstance(data, Splits) else index(data, val_split=0.0, training=False)
    split = split or splits.items()[-1][0]
    channels = net.input_shape[-1]
    told = {"batch_size": batch_size, "skip_bad": skip_bad, "channels": channels}
    return load_data(splits, net, decode=(split,), cache_bytes=0, **told), split


def _chosen(data: Data, split: str | None) -> str:
    """The split that was asked for; else test, else val."""
    held_out = [name for name in data.sizes if name != "train"]
    if split is None and not held_out:
        raise BadData("the data has training images only: give split='train' to evaluate on them.")
    return split or held_out[-1]


def _of_data(
    net: Any, data: Data, split: str, names: tuple[str, ...], classes: int
) -> tuple[Iterator[Labelled], int, tuple[str, ...]]:
    """(images and their labels as the network numbers classes, how many, the names of these)."""
    images = data.each(split)
    labelled.check_shape(np.empty((0, *data.preprocess.size, data.channels), "uint8"), net, split)
    number = align(data.class_names, names, classes).tolist()
    count = data.sizes[split]
    return ((name, image, number[label]) for name, image, label in images), count, names or data.class_names


def _of_batches(net: Any, data: Any, classes: int) -> Iterator[Labelled]:
    """Images and labels of a pair of arrays or of batches, each batch once it is seen to be good."""
    what = "evaluation"
    if labelled.is_array(data):
        raise BadData("images came without labels: give a pair (images, labels).")
    number = itertools.count()
    for i, batch in enumerate([data] if isinstance(data, tuple) else data):
        images, labels = labelled.check_batch(net, batch, classes, what, first=i == 0)
        for image, label in zip(images, labelled.numbers(labels, what).tolist(), strict=True):
            yield f"images[{next(number)}]", image, label


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
