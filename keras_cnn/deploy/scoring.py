"""A network, however it is run, measured on labelled images by the figures of its task."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from keras_cnn import tasks
from keras_cnn.data import Data, Splits, index, load_data, pairs
from keras_cnn.data.decoding import as_seen
from keras_cnn.data.images import five_crops, resize_and_crop
from keras_cnn.data.labels import Wish
from keras_cnn.data.seen import Known
from keras_cnn.deploy.outputs import CUT, check_files, outputs_of
from keras_cnn.errors import BadData, DataWarning
from keras_cnn.tasks import Result, labelled
from keras_cnn.tasks.base import Task


class Labelled(NamedTuple):
    """image: None where it is left out. before: it as the run saw it that the network comes from, where that is
    another size or cut."""

    name: str
    image: np.ndarray | None
    label: Any
    before: np.ndarray | None = None


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
    net: Any,
    task: Task,
    data: Data,
    split: str,
    names: tuple[str, ...],
    outputs: int,
    views: str | None = None,
    known: Known | None = None,
) -> tuple[Iterator[Labelled], int]:
    """(images, or the five views of each, and their labels as the network numbers classes; how many)."""
    images, place = _read(data, split, views, known), task.places(data, names, outputs)
    labelled.warn_of_crop(net, data)
    labelled.check_shape(np.empty((0, *data.preprocess.size, data.channels), "uint8"), net, split)
    return (row._replace(label=task.renumbered(row.label, place)) for row in images), data.sizes[split]


def _read(data: Data, split: str, views: str | None, known: Known | None) -> Iterator[Labelled]:
    """As `Data.each`; five views of each image in its place, and it as a run saw it, take reading files anew."""
    plain = (Labelled(*row) for row in data.each(split))
    arrays, look = pairs.is_of_arrays(dict(data.splits.items())[split]), data.preprocess
    if arrays:
        check_files(views)
    before = known.preprocess if known and not arrays and not known.looked(look) else None
    if views not in CUT and not before:
        return plain

    def see(image: np.ndarray, mask: np.ndarray | None, name: str) -> tuple[Any, Any]:
        shown = (five_crops(image, look, name=name), mask) if views in CUT else as_seen(image, mask, name, look)
        return (shown[0], before and resize_and_crop(image, before, name=name)), shown[1]

    every: Iterator[Any] = data.each(split, see)
    return (Labelled(name, both and both[0], label, both and both[1]) for name, both, label in every)


def measured(
    net: Any,
    images: Iterable[Labelled],
    names: tuple[str, ...],
    batch_size: int,
    *,
    runner: Any = None,
    known: Known | None = None,
) -> Result:
    """The result of images. runner: what answers them, by default the network itself; known: what the network was
    trained on, which is counted apart."""
    task = tasks.of(net)
    logits, skipped = task.logits(net)[0], list[str]()
    unseen, old = (task.gather(net.outputs[0].shape[1:], names) for _ in range(2))
    told, strange = ((one, one.image) for one in images), 0
    for (name, _, label, before), image, row in outputs_of(runner or net, told, batch_size):
        if row is None:
            skipped.append(name)
            continue
        plain = image[-1] if image.ndim == 4 else image  # of five views the last is what is seen without them
        plain = plain if before is None else before
        strange += known is not None and not known.comparable(plain)
        (old if known and plain in known else unseen).add(name, image, label, task.finish(row, logits))
    if strange and known and known.preprocess:
        size = "x".join(map(str, reversed(known.preprocess.size)))
        warnings.warn(
            f"{strange:,} of the images are arrays of another size than the {size} pixels at which the run saw its "
            "own: nothing tells whether it was trained on them. Give files, or arrays of that size.",
            DataWarning,
            stacklevel=3,
        )
    if not len(unseen) and not len(old):
        raise BadData("not one of the images can be read." if skipped else "there are no images to evaluate on.")
    return unseen.result(skipped=tuple(skipped), trained_on=old.result() if known is not None else None)
