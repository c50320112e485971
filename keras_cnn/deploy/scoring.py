"""A network, however it is run, measured on labelled images by the figures of its task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_cnn import tasks
from keras_cnn.data import Data, Splits, index, load_data, pairs, seen
from keras_cnn.data.images import five_crops
from keras_cnn.data.labels import Wish
from keras_cnn.deploy.outputs import check_files, outputs_of
from keras_cnn.errors import BadData
from keras_cnn.tasks import Result, labelled
from keras_cnn.tasks.base import Task

Labelled = tuple[str, np.ndarray | None, Any]  # name, image (None where it is left out), label


def found(net: Any, data: Any, split: str | None) -> tuple[Splits, str]:
    """(what is in a folder, zip or table, not decoded yet; the split to measure on: test, else val, else all)."""
    wish = Wish(likely=tasks.of(net).name)
    splits = data if isinstance(data, Splits) else index(data, val_split=0.0, training=False, wish=wish)
    return splits, split or splits.items()[-1][0]


def loaded(net: Any, splits: Splits, split: str, batch_size: int, skip_bad: bool) -> Data:
    """A data set whose images are decoded as they are needed, as the network's weights expect them."""
    told = {"batch_size": batch_size, "skip_bad": skip_bad, "channels": net.input_shape[-1]}
    return load_data(splits, net, decode=(split,), cache_bytes=0, **told)


def images_of(
    net: Any, task: Task, data: Data, split: str, names: tuple[str, ...], outputs: int, views: str | None = None
) -> tuple[Iterator[Labelled], int]:
    """(images, or the five views of each, and their labels as the network numbers classes; how many)."""
    images, place = (_in_five if views == "five" else Data.each)(data, split), task.places(data, names, outputs)
    labelled.warn_of_crop(net, data)
    labelled.check_shape(np.empty((0, *data.preprocess.size, data.channels), "uint8"), net, split)
    return ((name, image, task.renumbered(label, place)) for name, image, label in images), data.sizes[split]


def _in_five(data: Data, split: str) -> Iterator[Labelled]:
    """As `Data.each`, the five views of each image in its place; their files are read anew."""
    if pairs.is_of_arrays(dict(data.splits.items())[split]):
        check_files("five")
    return data.each(split, lambda image, mask, name: (five_crops(image, data.preprocess, name=name), mask))


def measured(
    net: Any,
    images: Iterable[Labelled],
    names: tuple[str, ...],
    batch_size: int,
    *,
    runner: Any = None,
    known: set[str] | None = None,
) -> Result:
    """The result of images. runner: what answers them, by default the network itself; known: hashes of images that are
    counted apart."""
    task = tasks.of(net)
    logits, skipped = task.logits(net)[0], list[str]()
    unseen, old = (task.gather(net.outputs[0].shape[1:], names) for _ in range(2))
    told = (((name, label), image) for name, image, label in images)
    for (name, label), image, row in outputs_of(runner or net, told, batch_size):
        if row is None:
            skipped.append(name)
            continue
        plain = image[-1] if image.ndim == 4 else image  # of five views the last is what is seen without them
        trained_on = bool(known) and seen.of(plain[None])[0] in known
        (old if trained_on else unseen).add(name, image, label, task.finish(row, logits))
    if not len(unseen) and not len(old):
        raise BadData("not one of the images can be read." if skipped else "there are no images to evaluate on.")
    return unseen.result(skipped=tuple(skipped), trained_on=old.result() if known is not None else None)
