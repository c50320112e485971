"""Labelled images in the forms in which people give them, held to what a network can learn from them.

All is told before anything is trained or written; a data set's later batches, which nobody has seen yet, are looked at
as they come (`watched`).
"""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import keras
import numpy as np

from keras_cnn import tasks
from keras_cnn.data import Data
from keras_cnn.errors import BadData, BadImage, BadSpec, DataWarning, PixelWarning
from keras_cnn.models.config import Preprocess
from keras_cnn.tasks.base import Task

BEYOND = 64  # of 0..255, what a cubic resize may add at edges
STANDARDISED = 16  # pixels up to that, with negative ones, are standard deviations


def accepted(model: Any, train: Any, val: Any = None, validation_data: Any = None, *, head: bool = True) -> Any:
    """(training, validation) data of a call, as pairs of arrays, data sets or `Data`, once they are seen to be good.

    train, val: two of these; or images and their labels, as Keras has them. head: whether the network's own learns.
    Raises BadSpec for a head that no loss is made for, BadData for images or labels that it cannot learn from.
    """
    task = tasks.of(model)
    if task.data is None:
        train, val, validation_data = _of_themselves(train, val, validation_data)
    train, val = _sorted(train, val, validation_data)
    outputs = task.outputs(model) if head else None
    if isinstance(train, Data):
        if train.splits.train is None:
            raise BadData("the data has no training images: load a folder that has some.")
        check_shape(np.empty((0, *train.preprocess.size, train.channels), "uint8"), model, "training")
        warn_of_crop(model, train)
        if "train" in train.held:  # drawings of 0 and 1 are images, too
            _warn_of_pixels(model, train.held["train"].images)
        if outputs is not None:
            task.check_data(train, model, outputs)
        if val is None:  # its own was checked when it was loaded
            return train, train.val
    for what, data in (("training", train), ("validation", val)):
        batch, names = _first(data, what), names_of(data)
        if names and outputs is not None and not isinstance(data, Data):
            task.check_classes(names, model, outputs)
        if batch is not None:
            check(task, *batch, outputs, what)
            check_shape(batch[0], model, what)
            if data is train:
                _warn_of_pixels(model, batch[0])
    train, val = (
        watched(_plain(data, task), task, outputs, what) for what, data in (("training", train), ("validation", val))
    )
    task.check_all(*(data[1] if isinstance(data, tuple) else None for data in (train, val)))
    return train, val


def names_of(data: Any) -> tuple[str, ...]:
    """The names of the classes, in the order of their numbers, where data brings them: `Data`, and what Keras reads
    from folders, behind operations of tf.data that leave labels alone, too."""
    if numbers := getattr(data, "class_indices", None):
        return tuple(sorted(numbers, key=numbers.__getitem__))
    while not hasattr(data, "class_names") and type(data).__name__.strip("_").removesuffix("Dataset") in _LEAVE_LABELS:
        [data] = data._inputs()
    names = tuple(getattr(data, "class_names", None) or ())
    numbers = [int(name) for name in names if name.isdecimal()]
    in_order = len(numbers) == len(names) and numbers == sorted(numbers)
    return () if in_order else names  # so Keras has the labels themselves, where they were given to it


# Of tf.data, which has no public way from a data set to the one that it is made of.
_LEAVE_LABELS = ("AssertCardinality", "Cache", "Options", "Prefetch", "Repeat", "Shard", "Shuffle", "Skip", "Take")


def check(task: Task, images: Any, labels: Any, outputs: int | None, what: str) -> None:
    """Raise BadData where there is not one good label for each image; outputs: of the head, None for any number."""
    if not np.ndim(labels):
        task.check(labels, outputs, what)  # no batch: tells so
    if not len(images):
        raise BadData(f"there are no {what} images: give some.")
    if len(images) != len(labels):
        raise BadData(f"there are {len(images)} {what} images and {len(labels)} labels: give one label for each image.")
    task.check(labels, outputs, what)
    task.check_pairs(images, labels, what)


def check_batch(model: Any, batch: Any, outputs: int | None, what: str, *, first: bool) -> tuple[Any, Any]:
    """(images, labels) of a batch that is learnt from or scored, as arrays; BadData where they are not good.

    first: look at the images, too. Of labels for several outputs, those of the head are taken.
    """
    images, labels = _parts(batch, what)
    of_each = len(model.outputs) > 1 and isinstance(labels, tuple | list)
    images, labels = np.asarray(images), np.asarray(labels[0] if of_each else labels)
    check(tasks.of(model), images, labels, outputs, what)
    if first:
        check_shape(images, model, what)
        _warn_of_pixels(model, images)
    return images, labels


def watched(data: Any, task: Task, outputs: int | None, what: str) -> Any:
    """The same; of a data set (tf.data or PyDataset), a batch with bad labels raises BadData when it comes."""
    if isinstance(data, keras.utils.PyDataset):
        return Watched(data, task, outputs, what)
    if not hasattr(data, "element_spec"):
        return data
    names = names_of(data)
    import tensorflow as tf

    def look(labels: Any) -> np.bool_:
        task.check(labels, outputs, what)
        return np.True_

    def checked(images: Any, labels: Any) -> tuple[Any, Any]:
        with tf.control_dependencies([tf.numpy_function(look, [labels], tf.bool)]):
            return images, tf.identity(labels)

    data = data.map(checked)
    data.class_names = names
    return data


class Watched(keras.utils.PyDataset):
    """A PyDataset whose labels are checked batch by batch."""

    def __init__(self, data: Any, task: Task, outputs: int | None, what: str) -> None:
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self.data, self.task, self.outputs, self.what = data, task, outputs, what
        self.class_names = names_of(data)

    @property
    def num_batches(self) -> int | None:
        return self.data.num_batches

    def __getitem__(self, index: int) -> Any:
        images, labels = self.data[index]
        self.task.check(labels, self.outputs, self.what)
        return images, labels

    def __len__(self) -> int:
        return len(self.data)

    def on_epoch_begin(self) -> None:
        self.data.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.data.on_epoch_end()


# --- images and labels -----------------------------------------------------------------------------------------------


def _sorted(train: Any, val: Any, validation_data: Any) -> tuple[Any, Any]:
    """(training, validation) data, whichever way they were given."""
    if is_array(train):
        if val is None or isinstance(val, tuple | Data):
            raise BadData("images came without labels: give both, as in fine_tune(model, images, labels).")
        train, val = (train, val), None
    elif is_array(val):
        raise BadData("val is one array: give a pair (images, labels), as validation_data=(images, labels) too.")
    if validation_data is not None:
        if val is not None:
            raise BadSpec("val and validation_data are both given: they mean the same, leave one out.")
        val = validation_data
    if isinstance(val, Data):
        raise BadData("the validation images are Data: give data.val, one of its splits.")
    return _pair(train, "training"), _pair(val, "validation")


def _of_themselves(train: Any, val: Any, validation_data: Any) -> tuple[Any, Any, Any]:
    """The same, where arrays of images came without labels and need none: each stands for its own."""
    alone = is_array(train) and not is_array(val)
    train = (train, train) if alone else train
    return train, val, (validation_data, validation_data) if is_array(validation_data) else validation_data


def is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and not isinstance(value, Data)


def _pair(data: Any, what: str) -> Any:
    """A pair as two arrays of numpy; other forms as they are."""
    if isinstance(data, list):
        raise BadData(f"the {what} data is a list: give a pair (images, labels) of arrays, a data set, or Data.")
    if not isinstance(data, tuple):
        return data
    if len(data) != 2:
        raise BadData(f"the {what} data has {len(data)} parts: give a pair (images, labels).")
    return np.asarray(data[0]), np.asarray(data[1])


def _first(data: Any, what: str) -> tuple[Any, Any] | None:
    """(images, labels): a whole pair, or the first batch of a data set; None of `Data`, checked when it was loaded."""
    if data is None or isinstance(data, Data) or (not hasattr(data, "__len__") and not hasattr(data, "element_spec")):
        return None
    if isinstance(data, tuple):
        batch = data
    else:
        with BadImage.surfacing():
            batch = next(iter(data.take(1)) if hasattr(data, "element_spec") else iter(data), None)
        if batch is None:
            raise BadData(f"the {what} data has no batch: give some images.")
    images, labels = _parts(batch, what)
    return np.asarray(images), np.asarray(labels)


def _parts(batch: Any, what: str) -> tuple[Any, Any]:
    """Images and labels of a batch; BadData where it has other parts."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        parts = f"{len(batch)} parts" if isinstance(batch, tuple | list) else "one part"
        raise BadData(f"a batch of the {what} data has {parts}: give pairs (images, labels).")
    return batch[0], batch[1]


_KINDS = {  # of what a network reads, by its axes
    2: ("sequences", "time, channels", "those of one channel"),
    3: ("images", "height, width, channels", "gray ones"),
}


def check_shape(images: np.ndarray, model: Any, what: str) -> None:
    """Raise BadData unless images, or sequences, have the network's rank, size and channels."""
    wanted = model.input_shape[1:]
    kind, axes, single = _KINDS[len(wanted)]
    if images.dtype.kind in "OSUT" or images.ndim != len(wanted) + 1:
        raise BadData(
            f"the {what} {kind} are {images.dtype} of shape {images.shape}: give numbers ({kind}, {axes}) of one size; "
            f"{single} too have a last axis, of 1."
        )
    if any(side not in (None, given) for side, given in zip(wanted, images.shape[1:], strict=True)):
        shape, needed = ("x".join(map(str, sides)) for sides in (images.shape[1:], wanted))
        raise BadData(
            f"the {what} {kind} are {shape}, the network takes {needed}: build it with "
            f"input_shape={images.shape[1:]}, or {'resize' if kind == 'images' else 'cut'} the {kind}."
        )


def _warn_of_pixels(model: Any, images: np.ndarray) -> None:
    if _ours(model):
        warn_of_pixels(model.name, images)


def warn_of_pixels(name: str, images: np.ndarray) -> None:
    """Warn where pixels are not of 0..255, which a network of ours takes, and scales itself; BadData for no numbers.

    Looked at is the first part of many, unless all of it is black.
    """
    if images.ndim != 4 or not images.size:
        return
    parts = (images[start : start + 256] for start in range(0, len(images), 256))
    ranges = ((float(part.min()), float(part.max())) for part in parts)
    low, high = first = next(ranges)
    if math.isnan(low) or math.isinf(low) or math.isinf(high):
        raise BadData("a pixel is no number: mend the images, or leave out those that have such pixels.")
    if all(high <= 1 for _, high in (first, *ranges)):
        told, mend = "no pixel exceeds 1", "leave images as they are, or multiply them by 255."
    elif low < -BEYOND or high > 255 + BEYOND or (low < 0 and high < STANDARDISED):
        told = f"pixels go from {low:.4g} to {high:.4g}"
        mend = "leave out preprocess_input, and divide those of more than 8 bits."
    else:
        return
    takes = f"{told}, and {name} takes raw values of 0..255, which it scales itself: {mend}"
    warnings.warn(takes, PixelWarning, stacklevel=_of_caller())


def warn_of_crop(model: Any, data: Data) -> None:
    """Warn where images of files are cut out otherwise than the network will see those that it is to answer."""
    if data.splits.content or not _ours(model):  # arrays are taken as they are
        return
    seen, wanted = ((one.mode, one.crop) for one in (data.preprocess, Preprocess.of(model)))
    if seen != wanted:
        ways = ["mode={!r}, crop={:g}".format(*one) for one in (seen, wanted)]
        warnings.warn(
            f"the images of the data are seen with {ways[0]}, those that {model.name} answers with {ways[1]}: load "
            "them with load_data(DATA, network), or build the network with preprocess=data.preprocess.",
            DataWarning,
            stacklevel=_of_caller(),
        )


def _ours(model: Any) -> bool:
    return any(hasattr(layer, "record") for layer in model.layers)


def _of_caller() -> int:
    """How many frames above the caller's the package is left, as `warn` counts them."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals["__name__"].startswith("keras_cnn."):
        frame, level = frame.f_back, level + 1
    return level


def _plain(data: Any, task: Task) -> Any:
    """A pair with labels in their plainest form; other data as it is."""
    return (data[0], task.as_labels(data[1])) if isinstance(data, tuple) else data
