"""Labelled images in the forms in which people give them, held to what a network can learn from them.

All is told before anything is trained or written; a data set's later batches, which nobody has seen yet, are looked at
as they come (`watched`).
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import keras
import numpy as np

from keras_cnn.data import Data
from keras_cnn.errors import BadData, BadImage, BadSpec, PixelWarning
from keras_cnn.models.config import record_of

MEND = "build the network with classes=data.class_names, or give it another head with replace_head."


def accepted(model: Any, train: Any, val: Any = None, validation_data: Any = None, *, head: bool = True) -> Any:
    """(training, validation) data of a call, as pairs of arrays, data sets or `Data`, once they are seen to be good.

    train, val: two of these; or images and their labels, as Keras has them. head: whether the network's own learns.
    Raises BadSpec for a head that no loss is made for, BadData for images or labels that it cannot learn from.
    """
    train, val = _sorted(train, val, validation_data)
    classes = classes_of(model) if head else None
    if isinstance(train, Data):
        if train.splits.train is None:
            raise BadData("the data has no training images: load a folder that has some.")
        check_shape(np.empty((0, *train.preprocess.size, train.channels), "uint8"), model, "training")
        if classes is not None:
            _check_names(model, train.class_names, classes)
        if val is None:  # its own was checked when it was loaded
            return train, train.val
    for what, data in (("training", train), ("validation", val)):
        batch = _first(data, what)
        if batch is not None:
            check(*batch, classes, what)
            check_shape(batch[0], model, what)
            if data is train:
                warn_of_pixels(model, batch[0])
    train, val = (watched(_integers(data), classes, what) for what, data in (("training", train), ("validation", val)))
    _check_seen(train, val)
    return train, val


def check(images: Any, labels: Any, classes: int | None, what: str) -> None:
    """Raise BadData where there is not one good label for each image; classes: of the head, None for any number."""
    if not np.ndim(labels):
        check_labels(labels, classes, what)  # no batch: tells so
    if not len(images):
        raise BadData(f"there are no {what} images: give some.")
    if len(images) != len(labels):
        raise BadData(f"there are {len(images)} {what} images and {len(labels)} labels: give one label for each image.")
    check_labels(labels, classes, what)


def check_batch(model: Any, batch: Any, classes: int | None, what: str, *, first: bool) -> tuple[Any, Any]:
    """(images, labels) of a batch that is learnt from or scored, as arrays; BadData where they are not good.

    first: look at the images, too. Of labels for several outputs, those of the head are taken.
    """
    images, labels = _parts(batch, what)
    of_each = len(model.outputs) > 1 and isinstance(labels, tuple | list)
    images, labels = np.asarray(images), np.asarray(labels[0] if of_each else labels)
    check(images, labels, classes, what)
    if first:
        check_shape(images, model, what)
        warn_of_pixels(model, images)
    return images, labels


def check_labels(labels: Any, classes: int | None, what: str) -> None:
    """Raise BadData unless labels are integers from 0 up to `classes`, (n,) or (n, 1), or shares (n, classes)."""
    labels = np.asarray(labels)
    of = f"labels of the {what} images"
    if labels.dtype.kind in "OSUT":
        raise BadData(
            f"the {of} are texts, such as {str(labels.flat[0])!r}: give numbers from 0, such as those of "
            "names, labels = numpy.unique(texts, return_inverse=True)."
        )
    if labels.ndim == 2 and labels.shape[1] > 1:
        return _check_shares(labels, classes, of)
    if labels.ndim not in (1, 2):
        raise BadData(f"the {of} have the shape {labels.shape}: give one whole number for each image.")
    if labels.dtype.kind not in "biu":
        raise BadData(
            f"the {of} are {labels.dtype}: give whole numbers, as labels.astype('int32') makes them; other values to "
            "be predicted cannot be learnt here."
        )
    if classes is None:
        classes = np.iinfo("int32").max
    strange = labels[(labels < 0) | (labels >= classes)]
    if strange.size:
        shift = " Labels count from 0: subtract 1 where yours begin at 1." if strange.flat[0] == classes else ""
        raise BadData(
            f"a label of the {what} images is {strange.flat[0]}, the head has {classes} classes: {MEND}{shift}"
        )


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
            "with softmax; give one class for each image."
        )


def watched(data: Any, classes: int | None, what: str) -> Any:
    """The same; of a data set (tf.data or PyDataset), a batch with bad labels raises BadData when it comes."""
    if isinstance(data, keras.utils.PyDataset):
        return Watched(data, classes, what)
    if not hasattr(data, "element_spec"):
        return data
    import tensorflow as tf

    def look(labels: Any) -> np.bool_:
        check_labels(labels, classes, what)
        return np.True_

    def checked(images: Any, labels: Any) -> tuple[Any, Any]:
        with tf.control_dependencies([tf.numpy_function(look, [labels], tf.bool)]):
            return images, tf.identity(labels)

    return data.map(checked)


class Watched(keras.utils.PyDataset):
    """A PyDataset whose labels are checked batch by batch."""

    def __init__(self, data: Any, classes: int | None, what: str) -> None:
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self.data, self.classes, self.what = data, classes, what

    @property
    def num_batches(self) -> int | None:
        return self.data.num_batches

    def __getitem__(self, index: int) -> Any:
        images, labels = self.data[index]
        check_labels(labels, self.classes, self.what)
        return images, labels

    def __len__(self) -> int:
        return len(self.data)

    def on_epoch_begin(self) -> None:
        self.data.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.data.on_epoch_end()


# --- the head --------------------------------------------------------------------------------------------------------


def classes_of(model: Any) -> int:
    """The classes of a network's head; BadSpec where it has none that softmax can tell apart."""
    activations, output, activation = keras.activations, model.outputs[0], last_activation(model)
    if len(output.shape) != 2 or activation is None:
        raise BadSpec(
            f"{model.name} ends in features, not in a classifier (classes=0): build it with classes=data.class_names, "
            "or give it a head with kc.replace_head(model, 5)."
        )
    if output.shape[-1] == 1:
        raise BadSpec(
            f"{model.name} has one output (classes=1), and softmax over one class is always 1: build it with classes=2 "
            "for labels 0 and 1."
        )
    if activation not in (activations.softmax, activations.linear):
        raise BadSpec(
            f"classifier_activation={activation.__name__!r} does not make one class of several the answer: build "
            f"{model.name} with classifier_activation='softmax', or use model.compile and model.fit with a loss for it."
        )
    return output.shape[-1]


def last_activation(model: Any) -> Any:
    """The activation that a network's head ends in, as Keras' function; None where it ends in another layer."""
    last = model.outputs[0]._keras_history.operation
    return keras.activations.softmax if isinstance(last, keras.layers.Softmax) else getattr(last, "activation", None)


def _check_names(model: Any, names: tuple[str, ...], classes: int) -> None:
    """Raise BadData where the network's classes are others than the data's, or in another order."""
    if len(names) != classes:
        raise BadData(f"the data has {len(names)} classes, the network's head {classes}: {MEND}")
    heads = class_names(model)
    if heads and heads != names:
        other = next(i for i in range(classes) if heads[i] != names[i])
        raise BadData(
            f"class {other} is {names[other]!r} in the data and {heads[other]!r} in the network's head: {MEND}"
        )


def class_names(model: Any) -> tuple[str, ...]:
    """The names of a network's classes, where it is one of ours and knows them."""
    try:
        return tuple(record_of(model)["class_names"])
    except BadSpec:
        return ()


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


def check_shape(images: np.ndarray, model: Any, what: str) -> None:
    """Raise BadData unless images have the network's rank, size and channels."""
    wanted = model.input_shape[1:]
    if images.dtype.kind in "OSUT" or images.ndim != len(wanted) + 1:
        raise BadData(
            f"the {what} images are {images.dtype} of shape {images.shape}: give numbers (images, height, width, "
            "channels) of one size; gray ones too have a last axis, of 1."
        )
    if any(side not in (None, given) for side, given in zip(wanted, images.shape[1:], strict=True)):
        shape, needed = ("x".join(map(str, sides)) for sides in (images.shape[1:], wanted))
        raise BadData(
            f"the {what} images are {shape}, the network takes {needed}: build it with "
            f"input_shape={images.shape[1:]}, or resize the images."
        )


def warn_of_pixels(model: Any, images: np.ndarray) -> None:
    """Warn where no pixel exceeds 1: a network of ours takes 0..255, and sees such images as black."""
    if not any(hasattr(layer, "record") for layer in model.layers):
        return
    parts = (images[start : start + 256] for start in range(0, len(images), 256))
    if all(part.max(initial=0) <= 1 for part in parts):  # the first part of good images ends it
        warnings.warn(
            f"no pixel exceeds 1, and {model.name} takes raw values of 0..255, which it scales itself: leave images as "
            "they are, or multiply them by 255.",
            PixelWarning,
            stacklevel=_of_caller(),
        )


def _of_caller() -> int:
    """How many frames above the caller's the package is left, as `warn` counts them."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals["__name__"].startswith("keras_cnn."):
        frame, level = frame.f_back, level + 1
    return level


def _integers(data: Any) -> Any:
    """A pair with integer labels (n,), where labels are one-hot or a column."""
    if not isinstance(data, tuple):
        return data
    images, labels = data
    if labels.ndim == 2 and labels.shape[1] > 1:
        return (images, labels.argmax(1)) if np.isin(labels, (0, 1)).all() else data
    return images, labels.reshape(-1)


def numbers(labels: np.ndarray, what: str) -> np.ndarray:
    """One class for each image, (n,), of labels that are numbers, a column of them, or one-hot; BadData for shares."""
    if labels.ndim == 1 or labels.shape[1] == 1:
        return labels.reshape(-1)
    if not np.isin(labels, (0, 1)).all():
        raise BadData(f"the labels of the {what} images are shares of classes: give one class for each image.")
    return labels.argmax(1)


def _check_seen(train: Any, val: Any) -> None:
    """Raise BadData where arrays have one class, or one that cannot be learnt; `Data` was checked when loaded."""
    seen, held_out = (
        np.unique(data[1]).tolist() if isinstance(data, tuple) and data[1].ndim == 1 else [] for data in (train, val)
    )
    if len(seen) == 1:
        raise BadData(f"all training images are of class {seen[0]}: there is nothing to tell apart; add others.")
    if seen and (unknown := sorted(set(held_out) - set(seen))):
        raise BadData(f"class {unknown[0]} has validation images, but no training images; add some.")
